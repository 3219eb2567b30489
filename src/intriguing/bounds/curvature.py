"""A certificate of second order, for nets of smooth activations: curvature of all units together, not of each alone.

Around an image c, with z_i the inputs of an activation f, d = x - c and Dz_i = z_i(x) - z_i(c), there is a q_i in
the range of 2 (f(z) - f(z_i(c)) - f'(z_i(c)) Dz) / Dz^2 over the interval of z_i with

    m(x) = m(c) + g d + 1/2 sum_i b_i q_i (Dz_i)^2                                                            (1)

exactly: g is the gradient of the form m at c, and b_i its derivative in the output of unit i; the sum is over the
units of all layers. Where relaxations by lines take every unit at its own worst point, (1) is a quadratic form of d,
whose least value a ball of radius r bounds by its smallest eigenvalue: no direction is the worst of all units. In
first layers Dz = J d; behind them Dz = J d + e, with e the remainder of (1) for the form z_i itself, and for any
theta in (0, 1)

    (J d + e)^2 <= (1 + theta) (J d)^2 + (1 + 1/theta) e^2,   >= (1 - theta) (J d)^2 - (1/theta - 1) e^2       (2)

What is left is the least value over ball and box of g d + 1/2 d^T K d. With k = min(0, smallest eigenvalue of K) and
N = K - k I, convexity gives for every point p

    g d + 1/2 d^T K d >= k r^2 / 2 - 1/2 p^T N p + (g + N p) d                                                (3)

and steps of Frank and Wolfe (1956) find a good p. Every choice of theta and p is sound.

Bounds of the curvature as certificates in L2 are due to Singla and Feizi 2020 (arXiv:2006.00731), who bound it over
all inputs; here the ranges of q are those over the ball, (2) serves any depth, and (3) knows the box.
Rounding is bounded from the first layer to the last: an error enters a layer and leaves it multiplied by |W|.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from intriguing.bounds.crown import Bounds, bounds_over
from intriguing.bounds.graph import Graph
from intriguing.bounds.operations import Affine, Sum
from intriguing.bounds.region import Region, ball
from intriguing.bounds.relaxation import Activation, Logistic
from intriguing.errors import ModelError

UNITS = 1024  # units of one layer behind an activation; each costs two eigenvalue problems
_THETA = 0.5  # theta is e / |J d|, by their largest values, over this; from 0.25 to 1 radii change by about 1%
_STEPS = 8  # of Frank and Wolfe
_OWN = 1e-9  # of all magnitudes summed, far more than float64 loses here
_REUSED = 1.08  # radii up to this factor below the one at which remainders were bounded take those bounds
_ENTRIES = 2**18  # numbers of the matrices whose eigenvalues are found at once, so that they stay in a cache


@dataclass(frozen=True)
class _Form:
    """A linear form of a value, or many, carried back by the tangents at the images.

    Attributes:
        base: (B or 1, R, d) its gradient in the base's value.
        pixels: (B or 1, R, n) its gradient in the pixels.
        outputs: by activation, (B or 1, R, n_k) its derivative in the activation's output.
    """

    base: Tensor
    pixels: Tensor
    outputs: dict[int, Tensor]


@dataclass
class _Layer:
    """What is known of the units of one activation over the balls: (B, n_k) each, `form` of the units' inputs.

    Attributes:
        q: ends of the range of the second difference.
        linear: the largest |J d|.
        rest: the largest |e|.
    """

    form: _Form
    q: tuple[Tensor, Tensor]
    linear: Tensor
    rest: Tensor


class Curvature:
    """Bounds logit differences of some images over balls of any radius, by (1) to (3).

    Args:
        graph: see `tracing.trace`.
        x: (B, ...) float64 images.
        forms: (B, S, K) logit differences, see `certificates.differences`.
        box: smallest and largest pixel.

    Raises:
        ModelError: an activation that is not smooth, with its path, or a layer of more than `UNITS` units.
    """

    def __init__(self, graph: Graph, x: Tensor, forms: Tensor, box: tuple[float, float]) -> None:
        self.graph, self.x, self.forms, self.box = graph, x, forms, box
        check_smooth(graph)
        self.activations = [at for at, node in enumerate(graph.nodes) if isinstance(node.operation, Activation)]
        self.values = graph.values(x)
        self.base = self._gateway()
        entries = self._entries(self.base)
        self.basis = self._carried(self.base, entries, 0)[0][0].flatten(2)  # (1, d, n)
        # With F^T = U R and orthonormal columns in U, K = F^T Q F has the eigenvalues of R Q R^T, and zeros.
        self.R = torch.linalg.qr(self.basis[0].T, mode="r").R if self.base else None
        self.stretch = float(torch.linalg.matrix_norm(self.basis[0], 2)) ** 2 if self.base else 1.0
        self.units = {at: self._form(graph.nodes[at].inputs[0]) for at in self.activations}
        self.difference = self._form(len(graph.nodes) - 1, forms)
        self.margins = (forms @ self.values[-1][..., None]).squeeze(2)
        self._known: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def margin(self, eps: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the least bound of the differences over the balls of images `rows`, and what rounding took, (R,)."""
        region = ball(self.x[rows], eps, 2.0, self.box)
        bounds = bounds_over(self.graph, region)
        layers: dict[int, _Layer] = {}
        for at in self.activations:
            layers[at] = self._layer(at, region, bounds, layers, rows)
        form = _of(self.difference, rows)
        Q, const = self._quadratic(form.outputs, layers)
        smallest, largest = self._smallest(Q)
        Q = torch.diag_embed(Q) if Q.dim() == 3 else Q
        found, size = self._least(form, Q, smallest, region)
        rounding = (self.forms[rows].abs() @ self._errors(bounds)[..., None]).squeeze(2)
        spread = torch.maximum(smallest.abs(), largest.abs()) * eps[:, None].square()
        margins = self.margins[rows]
        lost = rounding + _OWN * (size + spread + const.abs() + self._size(rows))
        worst, which = (margins + const + found - lost).min(1)
        return worst, lost.gather(1, which[:, None]).squeeze(1)

    # -- forms ----------------------------------------------------------------------------------------------

    def _gateway(self) -> int:
        """Return the smallest value before the first activation that all else is made of; 0, the pixels, if none."""
        first = self.graph.nodes[self.activations[0]].inputs[0] if self.activations else 0
        if torch.Size(self.graph.nodes[first].shape).numel() >= torch.Size(self.graph.nodes[0].shape).numel():
            return 0
        last = len(self.graph.nodes) - 1
        unit = self.forms.new_zeros(1, 1, *self.graph.nodes[last].shape)
        left, _ = self._carried(last, unit.expand(len(self.x), 1, *unit.shape[2:]), first)
        return first if set(left) <= {first} else 0

    def _form(self, place: int, A: Tensor | None = None) -> _Form:
        """Return forms A (B, S, *shape) of the value at `place`, or its entries one by one."""
        A = self._entries(place) if A is None else A
        if place == self.base:
            return _Form(A.flatten(2), A.flatten(2) @ self.basis, {})
        left, outputs = self._carried(place, A, self.base)
        shape = torch.Size(self.graph.nodes[self.base].shape)
        base = left[self.base].flatten(2) if self.base in left else A.new_zeros(*A.shape[:2], shape.numel())
        return _Form(base, base @ self.basis if self.base else base, outputs)

    def _entries(self, place: int) -> Tensor:
        """Return the forms that are a value's entries, (1, n_k, *shape)."""
        shape = torch.Size(self.graph.nodes[place].shape)
        return torch.eye(shape.numel(), dtype=torch.float64, device=self.x.device).reshape(1, -1, *shape)

    def _carried(self, place: int, A: Tensor, stop: int) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Carry forms back along the tangents down to `stop`: coefficients left, and those of activations' outputs."""
        left, outputs = {place: A}, {}
        for at in range(place, stop, -1):
            if at not in left:
                continue
            node, A = self.graph.nodes[at], left.pop(at)
            operation = node.operation
            parts: list[tuple[int, Tensor]]
            if isinstance(operation, Affine):
                back = operation.transpose(A.flatten(0, 1))
                parts = [(node.inputs[0], back.reshape(*A.shape[:2], *back.shape[1:]))]
            elif isinstance(operation, Sum):
                parts = [(source, weight * A) for weight, source in zip(operation.weights, node.inputs, strict=True)]
            else:
                assert isinstance(operation, Logistic)
                outputs[at] = A.flatten(2)
                parts = [(node.inputs[0], A * operation.derivative(self.values[node.inputs[0]])[:, None])]
            for source, part in parts:
                left[source] = left[source] + part if source in left else part
        return left, outputs

    # -- curvature ------------------------------------------------------------------------------------------

    def _layer(self, at: int, region: Region, bounds: Bounds, before: dict[int, _Layer], rows: Tensor) -> _Layer:
        """Return the ranges of an activation's units, narrower than by lines where curvature says so."""
        node = self.graph.nodes[at]
        operation, source = node.operation, node.inputs[0]
        assert isinstance(operation, Logistic)
        form = _of(self.units[at], rows)
        centre = self.values[source][rows].flatten(1)
        low, high = bounds.low[source].flatten(1), bounds.high[source].flatten(1)
        if form.outputs:
            reach = [-_linear(region, sign * form.pixels) for sign in (1.0, -1.0)]
            rest = self._remainders(at, form, region, before, rows)
            slack = _OWN * (centre.abs() + reach[0] + reach[1] + rest[0] + rest[1]) + bounds.error[source].flatten(1)
            low = torch.maximum(low, centre - reach[0] - rest[0] - slack)
            high = torch.minimum(high, centre + reach[1] + rest[1] + slack)
            linear, remainder = torch.maximum(*reach), torch.maximum(*rest) + slack
        else:
            linear, remainder = torch.maximum(high - centre, centre - low), torch.zeros_like(centre)
        return _Layer(form, operation.second_difference(centre, low, high), linear, remainder)

    def _remainders(
        self, at: int, form: _Form, region: Region, before: dict[int, _Layer], rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return how far the remainders of units fall below 0 and rise above it over the balls, (R, n_k) each.

        A bound k |d|^2 / 2 + const over a ball is one over every smaller ball, so that it is kept for those.
        """
        if at not in self._known:
            n = form.base.shape[1]
            zero = self.x.new_zeros(len(self.x))
            self._known[at] = (zero, self.x.new_zeros(len(self.x), 2, n), self.x.new_zeros(len(self.x), 2, n))
        radius, smallest, const = self._known[at]
        stale = ((region.eps > radius[rows]) | (region.eps * _REUSED < radius[rows])).nonzero().squeeze(1)
        if len(stale):
            part = {k: _at(layer, stale) for k, layer in before.items()}
            for side, sign in enumerate((1.0, -1.0)):
                outputs = {k: sign * (b if len(b) == 1 else b[stale]) for k, b in form.outputs.items()}
                smallest[rows[stale], side], const[rows[stale], side] = self._ends(outputs, part)
            radius[rows[stale]] = region.eps[stale]
        ends = -(smallest[rows] / 2 * region.eps[:, None, None].square() + const[rows])
        return ends[:, 0], ends[:, 1]

    def _ends(self, outputs: dict[int, Tensor], layers: dict[int, _Layer]) -> tuple[Tensor, Tensor]:
        """Return smallest eigenvalues and constants of many forms, a few at a time."""
        count, d = next(iter(outputs.values())).shape[1], self.basis.shape[1]
        B = len(next(iter(layers.values())).linear)
        found = []
        for chunk in torch.split(torch.arange(count, device=self.x.device), max(1, _ENTRIES // (B * d * d))):
            Q, const = self._quadratic({k: b[:, chunk] for k, b in outputs.items()}, layers)
            found.append((self._smallest(Q)[0], const))
        return torch.cat([k for k, _ in found], 1), torch.cat([c for _, c in found], 1)

    def _quadratic(self, outputs: dict[int, Tensor], layers: dict[int, _Layer]) -> tuple[Tensor, Tensor]:
        """Return Q and a constant (B, R): the sum of (1) is at least d^T F^T Q F d / 2 + constant.

        Q is (B, R, d, d), or its diagonal (B, R, d) where no other entry is.
        """
        Q: Tensor | None = None
        const: Tensor = self.x.new_zeros(1, 1)
        for at, b in outputs.items():
            layer = layers[at]
            low, high = (end[:, None] for end in layer.q)
            s = torch.where(b > 0, b * low, b * high)
            M = layer.form.base
            if layer.form.outputs:
                theta = (layer.rest / (_THETA * layer.linear).clamp_min(1e-300)).clamp(1e-6, 0.999)[:, None]
                up, down = 1 + 1 / theta, 1 / theta - 1
                lost = torch.where(s < 0, -s * up, s * down) * layer.rest[:, None].square()
                const = const - lost.sum(2) / 2
                s = torch.where(s < 0, s * (1 + theta), s * (1 - theta))
            if self.graph.nodes[at].inputs[0] == self.base:
                own = s if len(outputs) == 1 else torch.diag_embed(s)
            else:
                own = (s[..., None] * M[:, None]).transpose(2, 3) @ M[:, None]
            Q = own if Q is None else Q + own
        assert Q is not None
        return Q, const.expand(Q.shape[:2])

    def _smallest(self, Q: Tensor) -> tuple[Tensor, Tensor]:
        """Return min(0, the smallest eigenvalue of F^T Q F), less what may be its error, and the largest; (B, R)."""
        error = 1e-12 * Q.shape[-1] * self.stretch * Q.abs().flatten(2).amax(2)
        if self.R is None:
            whole = torch.diag_embed(Q) if Q.dim() == 3 else Q
        else:
            whole = (self.R * Q[:, :, None] if Q.dim() == 3 else self.R @ Q) @ self.R.T
        values = torch.linalg.eigvalsh(whole)
        return (values[..., 0] - error).clamp_max(0), values[..., -1]

    def _least(self, form: _Form, Q: Tensor, smallest: Tensor, region: Region) -> tuple[Tensor, Tensor]:
        """Return the best of (3) for a few points p, and the magnitudes that were summed, (B, S)."""
        k, eps = smallest[..., None], region.eps[:, None]
        g = form.pixels

        def times(d: Tensor) -> Tensor:
            """Return N d."""
            inner = d @ self.basis[0].T if self.base else d
            inner = (inner[..., None, :] @ Q).squeeze(2)
            return (inner @ self.basis[0] if self.base else inner) - k * d

        p = torch.zeros_like(region.centre)[:, None].expand(-1, g.shape[1], -1)
        Np = torch.zeros_like(p)
        best = torch.full_like(smallest, -torch.inf)
        size = torch.zeros_like(smallest)
        for _ in range(_STEPS):
            slope = g + Np
            bound = smallest * eps.square() / 2 - torch.linalg.vecdot(p, Np) / 2 + _linear(region, slope)
            best = torch.maximum(best, bound)
            size = torch.maximum(size, torch.linalg.vecdot(p, Np) + torch.linalg.vector_norm(slope, dim=2) * eps)
            step = region.minimiser(slope) - p
            Ns = times(step)
            fall = -torch.linalg.vecdot(slope, step)
            share = (fall / torch.linalg.vecdot(step, Ns).clamp_min(1e-300)).clamp(0, 1)[..., None]
            p, Np = p + share * step, Np + share * Ns
        return best, size

    # -- rounding -------------------------------------------------------------------------------------------

    def _errors(self, bounds: Bounds) -> Tensor:
        """Return how far the net's own logits may be from those of real arithmetic over the balls, (R, K)."""
        errors = [bounds.error[0]]
        for node, own in zip(self.graph.nodes[1:], bounds.error[1:], strict=True):
            inputs = [errors[place] for place in node.inputs]
            operation = node.operation
            if isinstance(operation, Affine):
                passed = operation.absolute(inputs[0])
            elif isinstance(operation, Sum):
                passed = torch.stack(inputs).sum(0)  # weights are 1 and -1
            else:
                assert isinstance(operation, Logistic)
                source = node.inputs[0]
                passed = operation.steepest(bounds.low[source], bounds.high[source]) * inputs[0]
            errors.append(passed + own)
        return errors[-1].flatten(1)

    def _size(self, rows: Tensor) -> Tensor:
        """Return the magnitudes that the logit differences at the images are made of, (R, S)."""
        sizes = [self.x[rows].abs()]
        for node in self.graph.nodes[1:]:
            inputs = [sizes[place] for place in node.inputs]
            operation = node.operation
            if isinstance(operation, Affine):
                sizes.append(operation.absolute(inputs[0]) + operation.offset)
            elif isinstance(operation, Sum):
                sizes.append(torch.stack(inputs).sum(0))
            else:
                assert isinstance(operation, Logistic)
                sizes.append(torch.full_like(inputs[0], operation.height + abs(operation.offset)))
        size: Tensor = (self.forms[rows].abs() @ sizes[-1][..., None]).squeeze(2)
        return size


def check_smooth(graph: Graph) -> None:
    """Raise ModelError, with the path, where a net has what second order does not serve."""
    for node in graph.nodes:
        if isinstance(node.operation, Activation) and not isinstance(node.operation, Logistic):
            raise ModelError(
                f'{node.path}: a ReLU, or a max-pooling, has a kink and no curvature; method="curvature" is for nets '
                'of sigmoid and tanh. Use method="crown" or "crown-optimised".'
            )
    seen = False
    for node in graph.nodes:
        if not isinstance(node.operation, Logistic):
            continue
        size = torch.Size(graph.nodes[node.inputs[0]].shape).numel()
        if seen and size > UNITS:
            raise ModelError(
                f'{node.path}: {size} units, and method="curvature" solves two eigenvalue problems for each unit '
                f'behind the first activation; it takes up to {UNITS}. Use method="crown" or "crown-optimised".'
            )
        seen = True


def _linear(region: Region, A: Tensor) -> Tensor:
    """Return at most the least value of A d over the region, (B, R), at most 0."""
    centre = (A @ region.centre[..., None]).squeeze(2)
    return region.minimum(A, -centre)[0].clamp_max(0)


def _of(form: _Form, rows: Tensor) -> _Form:
    """Return forms of some images."""

    def take(value: Tensor) -> Tensor:
        return value if len(value) == 1 else value[rows]

    return _Form(take(form.base), take(form.pixels), {at: take(b) for at, b in form.outputs.items()})


def _at(layer: _Layer, rows: Tensor) -> _Layer:
    """Return what is known of some images."""
    low, high = layer.q
    return _Layer(_of(layer.form, rows), (low[rows], high[rows]), layer.linear[rows], layer.rest[rows])

"""`certify`: a radius around each image inside which no input of the box changes the answer.

Every method is sound: `radius` is at most the distance of the nearest adversarial example, for the net as it computes
in its own dtype (see `crown` for what rounding is covered).

================  ===================================================================================================
product           the margin over the product of the layers' norms; Szegedy et al. 2014, section 4.3. L2 only.
interval          interval arithmetic; Gowal et al. 2018. An L2 ball is taken as the cube around it.
crown             linear relaxation backwards; Zhang et al. 2018. Two choices of lines for S-shaped activations.
crown-optimised   the same with the lines' slopes learned for each image; Xu et al. 2021. Never below `crown`.
curvature         second order, for nets of sigmoid and tanh; after Singla and Feizi 2020. L2 only. Never below `crown`.
================  ===================================================================================================
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from intriguing.bounds import network
from intriguing.bounds.crown import ENTRIES, bounds_over, lower_bound
from intriguing.bounds.curvature import Curvature, check_smooth
from intriguing.bounds.graph import Graph
from intriguing.bounds.optimised import Learner
from intriguing.bounds.region import ball, checked_norm, farthest
from intriguing.bounds.relaxation import Activation, Logistic
from intriguing.bounds.tracing import trace
from intriguing.errors import DataError, InputError, ModelError, UnknownNameError
from intriguing.nets.load import Model, as_model

METHODS = ("product", "interval", "crown", "crown-optimised", "curvature")
_COMPARED = 16  # images on which the graph must agree with the net before anything is said
_SHARE = 1e-12  # of a radius, more than the rounding of a distance in float64
_TOUCHED = 1.03  # how much farther tangents through the ends reach, where they do, to begin with
_BENT = 1.35  # how much farther a bound of second order usually reaches than one by lines, to begin with
_FEW = 16  # inputs up to which proofs are looked for beyond the radius where the search has ended
_STEP, _STEPS = 1.02, 70  # the radii tried then: each so many times the one before, to four times the first
_REGIONS = 1024  # balls that are bounded at once then
_PIECES = 4  # pieces of `ENTRIES` coefficients that the rows of all images searched together fill
_EVALUATIONS = 60  # of the root search, a guard; 6 to 10 are usual


@dataclass(frozen=True)
class Certificate:
    """What `certify` proved, one entry per image, on the images' device.

    Attributes:
        radius: (B,) float64: every input of the box at a distance of at most this is given the label by the net as
            it computes; 0 where the image itself is not, inf where all of the box is.
        method: a key of `METHODS`.
        norm: of the radius, 2.0 or inf.
        seconds: of the whole call.
        rounding: (B,) logits: how much of the margin at that radius the net's own rounding takes; part of `radius`
            already.
        evaluations: (B,) int64, regions that were bounded for the image.
    """

    radius: Tensor
    method: str
    norm: float
    seconds: float
    rounding: Tensor
    evaluations: Tensor

    def accuracy(self, radii: Tensor) -> Tensor:
        """Return the share of images certified at each of some radii, of shape (R,): a lower bound of the accuracy.

        Example:
            >>> two = torch.tensor([1.0, 0.0], dtype=torch.float64)
            >>> Certificate(two, "crown", 2.0, 0.1, two, two.long()).accuracy(torch.tensor([0.5, 2.0])).tolist()
            [0.5, 0.0]
        """
        # At radius 0 an image counts only if it is given its label at all.
        reached = (self.radius[:, None] >= radii.to(self.radius)) & (self.radius[:, None] > 0)
        return reached.double().mean(0)


def certify(
    model: Model | nn.Module,
    x: Tensor,
    y: Tensor,
    norm: float | str = 2,
    *,
    method: str = "crown",
    tolerance: float = 2e-3,
    batch: int | None = None,
    steps: int = 60,
    box: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Certificate:
    """Certify images: a sound lower bound of the distance to the nearest adversarial example.

    The largest radius with a positive bound of every logit difference is searched, for many images together. A bound
    need not fall evenly as the radius grows: the search ends at a radius beyond which there is no proof, and once in a
    while there is one again farther out. Where that is common, on images of at most 16 pixels, it is looked for.

    Args:
        model: a module, or a `Model` with its box and preprocessing. It is copied, never changed; all is computed on
            the device it is on.
        x: (B, C, H, W) or (B, n) images in the box.
        y: (B,) int64 labels.
        norm: 2 or inf.
        method: see `METHODS` and the module's table.
        tolerance: relative width at which the search for a radius stops.
        batch: how many images are bounded at once, which bounds the memory; by default as many as keep the
            coefficients of a form for every unit of the widest layer of activations within 32 MiB (at most 256;
            8 MiB where slopes are learnt).
        steps: of the slopes' optimisation; for ``"crown-optimised"``.
        box: intersect balls with the box. Without it the radius also holds for inputs outside, and is smaller.
        progress: called with (images done, images) after each batch.

    Returns:
        A `Certificate`. What an image gets does not depend on the others, within the tolerance.

    Raises:
        ModelError: an operation without a rule, with its path, see `tracing.trace`; a net that does not compute
            what its operations say, as with a hook that changes values; a ReLU with ``"curvature"``.
        InputError: a norm, method, batch, tolerance or labels that cannot be used.
        DataError: images outside the box.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)).double()
        >>> _ = net[1].weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        >>> x = torch.tensor([[0.75, 0.25]], dtype=torch.float64)
        >>> round(certify(net, x, torch.tensor([0])).radius.item(), 3)  # 0.5 / |(1, -1)|
        0.353
    """
    began = time.perf_counter()
    model = as_model(model)
    length = checked_norm(norm)
    if method not in METHODS:
        raise UnknownNameError("method", method, METHODS)
    if not 0 < tolerance < 1:
        raise InputError(f"tolerance: expected between 0 and 1, got {tolerance}")
    if batch is not None and batch < 1:
        raise InputError(f"batch: expected at least 1, got {batch}")
    if steps < 1:
        raise InputError(f"steps: expected at least 1, got {steps}")
    model.check_inputs(x)
    device = model.device
    graph = trace(model, x.shape[1:], device)
    if method == "curvature":
        if length != 2:
            raise InputError('norm: curvature bounds the L2 norm alone; use method="crown" for inf')
        check_smooth(graph)
    _check_labels(y, len(x), graph.nodes[-1].shape[0])
    _check_graph(graph, model, x[:_COMPARED])
    lipschitz = network.product(network.layer_bounds(model, x.shape[1:])) if method == "product" else None
    limits = model.box if box else (-math.inf, math.inf)
    size = batch or _batch_size(graph, method)
    parts = []
    for start in range(0, len(x), size):
        images = x[start : start + size].detach().to(device=device, dtype=torch.float64)
        search = _Search(graph, images, y[start : start + size].to(device), length, limits, tolerance)
        if lipschitz is not None:
            parts.append(search.by_constant(lipschitz))
        else:
            search.run(refine=method != "interval")
            if method == "crown-optimised":
                search.learn(steps)
            elif method == "curvature":
                search.bend()
            parts.append((search.radius, search.lost, search.evaluations))
        if progress is not None:
            progress(min(start + size, len(x)), len(x))
    radius, rounding, evaluations = (torch.cat(column).to(x.device) for column in zip(*parts, strict=True))
    radius = radius * (1 - _SHARE)
    return Certificate(radius, method, length, time.perf_counter() - began, rounding, evaluations)


class _Search:
    """The search for the largest certified radius of some images, each on its own."""

    def __init__(
        self, graph: Graph, x: Tensor, y: Tensor, norm: float, box: tuple[float, float], tolerance: float
    ) -> None:
        self.graph, self.x, self.y, self.norm, self.box, self.tolerance = graph, x, y, norm, box, tolerance
        self.forms = differences(y, graph.nodes[-1].shape[0])
        self.evaluations = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self.lost = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        self.cap = farthest(x, norm, box)

    def margin(self, eps: Tensor, rows: Tensor, refine: bool, *, touching: bool = False, alone: bool = False) -> Tensor:
        """Return the least bound of z_y - z_j over the balls of images `rows`, (R,)."""
        region = ball(self.x[rows], eps, self.norm, self.box)
        bounds = bounds_over(self.graph, region, refine=refine, touching=touching, alone=alone)
        last = len(self.graph.nodes) - 1
        worst, which = lower_bound(self.graph, last, self.forms[rows], region, bounds, touching=touching).min(1)
        assert bounds.lost is not None
        self.evaluations[rows] += 1
        proved = worst > 0
        self.lost[rows[proved]] = bounds.lost.gather(1, which[:, None])[proved, 0]
        # An overflow is no proof.
        return torch.nan_to_num(worst, nan=-math.inf)

    def run(self, *, refine: bool) -> None:
        """Find the radii by intervals or lines."""
        every = torch.arange(len(self.x), device=self.x.device)
        zero = torch.zeros(len(self.x), dtype=torch.float64, device=self.x.device)
        self.start = self.margin(zero, every, False)  # intervals are exact at a point, but for rounding
        guess = torch.minimum(self._linear_radius() / 2, self.cap)
        self.radius = largest_radius(
            lambda eps, rows: self.margin(eps, rows, refine), self.start, guess, self.cap, tolerance=self.tolerance
        )
        if refine and any(isinstance(node.operation, Logistic) for node in self.graph.nodes):
            self._touch()
        if refine and self.x[0].numel() <= _FEW:
            self._reach()

    def _touch(self) -> None:
        """Enlarge the radii where the other usual lines of S-shaped activations prove more; one try tells where."""
        live = self._unsettled()
        if not len(live):
            return
        farther = torch.minimum(self.radius[live] * (1 + 3 * self.tolerance), self.cap[live])
        live = live[self.margin(farther, live, True, touching=True) > 0]
        if len(live):
            guess = torch.minimum(self.radius[live] * _TOUCHED, self.cap[live])
            found = largest_radius(
                lambda eps, rows: self.margin(eps, live[rows], True, touching=True),
                self.start[live],
                guess,
                self.cap[live],
                tolerance=self.tolerance,
            )
            self.radius[live] = torch.maximum(self.radius[live], found)

    def _reach(self) -> None:
        """Enlarge the radii where a bound that has fallen below 0 rises again farther out.

        Lines change with the interval they stand on: with few inputs, a proof that fails at one radius may succeed at
        one up to several times as large.
        """
        live = self._unsettled()
        if not len(live):
            return
        cap = self.cap[live]
        factor = _STEP ** torch.arange(1, _STEPS + 1, dtype=torch.float64, device=cap.device)
        eps = torch.minimum(factor[:, None] * self.radius[live], cap)
        rows, evaluations = live.repeat(_STEPS), self.evaluations[live]
        for touching, alone in itertools.product((False, True), repeat=2):
            lost = self.lost[live]
            parts = [
                self.margin(some, at, True, touching=touching, alone=alone)
                for some, at in zip(torch.split(eps.flatten(), _REGIONS), torch.split(rows, _REGIONS), strict=True)
            ]
            proved = torch.where(torch.cat(parts).view_as(eps) > 0, eps, 0.0).amax(0)
            farther = proved > self.radius[live]
            self.lost[live] = torch.where(farther, self.lost[live], lost)
            reached = torch.where(proved >= cap, math.inf, proved)
            self.radius[live] = torch.where(farther, reached, self.radius[live])
        self.evaluations[live] = evaluations + 4 * _STEPS  # rows that come up more than once were counted once

    def _unsettled(self) -> Tensor:
        return ((self.radius > 0) & torch.isfinite(self.radius)).nonzero().squeeze(1)

    def learn(self, steps: int) -> None:
        """Enlarge the radii by learning the slopes of lines."""
        live = self._unsettled()
        if len(live):
            learner = Learner(self.graph, self.x[live], self.forms[live], self.norm, self.box)
            learned, lost = learner.run(self.radius[live], steps)
            cap = self.cap[live]
            self.radius[live] = torch.where(learned >= cap, math.inf, learned)  # the ball holds all of the box
            self.lost[live] = torch.where(lost >= 0, lost, self.lost[live])
            self.evaluations[live] += steps

    def bend(self) -> None:
        """Enlarge the radii by bounds of second order."""
        live = self._unsettled()
        if not len(live) or not any(isinstance(node.operation, Activation) for node in self.graph.nodes):
            return
        curvature = Curvature(self.graph, self.x[live], self.forms[live], self.box)

        def margin(eps: Tensor, rows: Tensor) -> Tensor:
            worst, lost = curvature.margin(eps, rows)
            at, proved = live[rows], worst > 0
            self.evaluations[at] += 1
            better = proved & (eps > self.radius[at])
            self.lost[at[better]] = lost[better]
            return torch.nan_to_num(worst, nan=-math.inf)

        cap = self.cap[live]
        guess = torch.minimum(_BENT * self.radius[live], cap)
        bent = largest_radius(margin, self.start[live], guess, cap, tolerance=self.tolerance)
        self.radius[live] = torch.maximum(self.radius[live], bent)

    def by_constant(self, lipschitz: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return the radius min_j (z_y - z_j) / (2^(1/2) L); of the difference of two logits L is 2^(1/2) times."""
        if self.norm != 2:
            raise InputError('norm: the product bounds the L2 norm alone; use method="crown" for inf')
        here = self.graph(self.x)
        margins = (self.forms @ here[..., None]).squeeze(2)
        stretch = math.sqrt(2) * lipschitz
        # Rounding is bounded where the answer can lie: no farther than without rounding.
        reach = torch.minimum(margins.amin(1).clamp_min(0) / stretch, farthest(self.x, 2, self.box))
        region = ball(self.x, reach, 2, self.box)
        bounds = bounds_over(self.graph, region, refine=False)
        lower_bound(self.graph, len(self.graph.nodes) - 1, self.forms, region, bounds)
        assert bounds.lost is not None
        spare, which = (margins - bounds.lost).min(1)
        self.evaluations += 1
        radius = torch.nan_to_num(spare / stretch, nan=0.0, posinf=math.inf).clamp_min(0)
        return radius, bounds.lost.gather(1, which[:, None])[:, 0], self.evaluations

    def _linear_radius(self) -> Tensor:
        """Return min_j (z_y - z_j) / |grad| at the images: where a linear net would be left."""
        with torch.enable_grad():
            x = self.x.clone().requires_grad_()
            margins = (self.forms @ self.graph(x)[..., None]).squeeze(2)
            dual = 2.0 if self.norm == 2 else 1.0
            distances = []
            for j in range(margins.shape[1]):
                (slope,) = torch.autograd.grad(margins[:, j].sum(), x, retain_graph=True)
                distances.append(
                    margins[:, j].detach() / torch.linalg.vector_norm(slope.flatten(1), ord=dual, dim=1).clamp_min(1e-9)
                )
        return torch.stack(distances, 1).amin(1).clamp_min(1e-6)


def differences(y: Tensor, classes: int) -> Tensor:
    """Return the forms z_y - z_j for every j other than y, (B, K - 1, K) float64.

    Example:
        >>> differences(torch.tensor([1]), 3).tolist()
        [[[-1.0, 1.0, 0.0], [0.0, 1.0, -1.0]]]
    """
    unit = torch.eye(classes, dtype=torch.float64, device=y.device)
    every = torch.arange(classes, device=y.device).expand(len(y), classes)
    others = every[every != y[:, None]].view(len(y), classes - 1)
    return unit[y][:, None] - unit[others]


@torch.no_grad()
def largest_radius(
    margin: Callable[[Tensor, Tensor], Tensor], start: Tensor, guess: Tensor, cap: Tensor, *, tolerance: float
) -> Tensor:
    """Return for each row the largest radius found whose margin is positive, within a relative tolerance.

    Between the largest radius with a positive margin and the smallest without, the root of the parabola through both
    and the margin at radius 0, and the middle where two steps have moved the same end. A margin need not fall evenly:
    what is returned has been shown positive itself.

    Args:
        margin: (radii (R,), rows (R,)) -> (R,); -inf where nothing could be computed.
        start: (B,) margins at radius 0; rows that are not positive get radius 0.
        guess: (B,) a first radius to try, positive.
        cap: (B,) the radius of everything, which is tried in the end if all below are positive: the answer is inf.
        tolerance: relative width.
    """
    low, high = torch.zeros_like(start), torch.full_like(start, math.inf)
    f_low, f_high = start.clone(), torch.full_like(start, -math.inf)
    side = torch.zeros_like(start)  # steps in a row that moved the low end, negative for the high end
    trial = torch.minimum(guess, cap)
    done = start <= 0
    for _ in range(_EVALUATIONS):
        rows = (~done).nonzero().squeeze(1)
        if not len(rows):
            break
        eps = trial[rows]
        f = margin(eps, rows)
        good = f > 0
        up, down = rows[good], rows[~good]
        low[up], f_low[up], side[up] = eps[good], f[good], side[up].clamp_min(0) + 1
        high[down], f_high[down], side[down] = eps[~good], f[~good], side[down].clamp_max(0) - 1
        everything = up[eps[good] >= cap[up]]
        low[everything], done[everything] = math.inf, True
        done |= high - low <= tolerance * low
        trial = _next(low, high, f_low, f_high, start, side, cap, tolerance)
    return low


def _next(
    low: Tensor,
    high: Tensor,
    f_low: Tensor,
    f_high: Tensor,
    first: Tensor,
    side: Tensor,
    cap: Tensor,
    tolerance: float,
) -> Tensor:
    """Return the next radius to try."""
    # f = first + e (p + q e) through both ends; its root without cancellation.
    rise_low, rise_high = (f_low - first) / low, (f_high - first) / high
    q = (rise_high - rise_low) / (high - low)
    p = rise_low - q * low
    root = 2 * first / (-p + (p * p - 4 * q * first).clamp_min(0).sqrt())
    straight = low + (high - low) * f_low / (f_low - f_high)
    root = torch.where((low > 0) & (root > low) & (root < high), root, straight)
    usable = torch.isfinite(f_high) & torch.isfinite(root) & (side.abs() <= 2)
    root = torch.where(usable, root, (low + high) / 2)
    root = torch.minimum(torch.maximum(root, low + 0.02 * (high - low)), high - 0.02 * (high - low))
    # Aimed a little below the root, as the answer must be positive; once there, at the step that ends the search.
    ending = low * (1 + 0.9 * tolerance)
    aimed = root * (1 - 0.4 * tolerance)
    inside = torch.where((low > 0) & (aimed <= low * (1 + 0.1 * tolerance)) & (ending < high), ending, root)
    inside = torch.where(aimed > low * (1 + 0.1 * tolerance), torch.where(low > 0, aimed, root), inside)
    # No failure yet: where the line through the first two margins meets 0, which overshoots if margins are concave.
    beyond = torch.where(f_low < first, low * first / (first - f_low), 4 * low) * (1 - 0.3 * tolerance)
    grown = torch.minimum(torch.minimum(torch.maximum(beyond, ending), 4 * low), cap)
    return torch.where(torch.isfinite(high), inside, grown)


def _check_graph(graph: Graph, model: Model, x: Tensor) -> None:
    """Compare the net's answers with what they may be by its graph: another answer means that it was misread.

    So do hooks that change values, operations in place that change a value used elsewhere, and devices that compute in
    less than the net's precision.
    """
    if not len(x):
        return
    x = x.to(device=model.device, dtype=model.dtype)
    point = ball(x.to(torch.float64), torch.zeros(len(x)), math.inf, model.box)
    bounds = bounds_over(graph, point, refine=False)
    z = model.logits(x).to(torch.float64)
    if not bool(((z >= bounds.low[-1]) & (z <= bounds.high[-1])).all()):
        off = float((z - graph(x.to(torch.float64))).abs().max())
        raise ModelError(
            f"{model.name} does not compute what its operations say: logits differ by up to {off:.3g}, more than "
            "rounding. Remove forward hooks that change values, operations in place on values that are used again, and "
            "reduced precision (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)."
        )


def _check_labels(y: Tensor, count: int, classes: int) -> None:
    if y.dim() != 1 or len(y) != count or y.dtype != torch.int64:
        raise InputError(f"y: expected int64 labels of shape ({count},), got {y.dtype} {tuple(y.shape)}")
    if len(y) and not bool(((y >= 0) & (y < classes)).all()):
        raise DataError(f"y: expected labels 0 to {classes - 1}, got {int(y.min())} to {int(y.max())}")


def _batch_size(graph: Graph, method: str) -> int:
    """Return how many images to search together.

    Forms are carried back in pieces of at most `ENTRIES` coefficients. Of images fewer at a time than the rows of one
    would fill, most of the time goes into starting operations; of more than a few times that, pieces become short.
    """
    sizes = [torch.Size(node.shape).numel() for node in graph.nodes]
    enter = [sizes[at] for node in graph.nodes if isinstance(node.operation, Activation) for at in node.inputs]
    rows = 1 if method in ("interval", "product") else max([graph.nodes[-1].shape[0], *(2 * size for size in enter)])
    # What learns slopes keeps all rows at once, for their derivatives.
    pieces = 1 if method == "crown-optimised" else _PIECES
    count = pieces * ENTRIES // (min(rows, 1024) * max(sizes))
    if method == "curvature":  # its own arrays: matrices for each difference, and each unit's gradient
        units = max(sizes[place] for node in graph.nodes for place in node.inputs if node.operation is not None)
        count = min(count, ENTRIES // (graph.nodes[-1].shape[0] * min(units, sizes[0]) ** 2))
    return max(1, min(256, count))

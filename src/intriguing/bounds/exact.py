"""`exact_distance`: the distance to the nearest adversarial example of a small ReLU net, by branch and bound.

Wang et al. 2021 (beta-CROWN), for the minimal distance instead of one radius. A branch fixes the signs of some units'
inputs z. On it, for the ball of a little less than the best witness's distance,

    min f >= max over multipliers m >= 0 of min (f - m s z),   s the signs, s z >= 0 there,

is bounded by linear relaxation; a positive bound closes the branch. Where all signs are fixed the net is affine and
the nearest point a quadratic program (L2) or a linear one (Linf), whose dual closes the branch and whose primal is a
better witness. Nothing here sees an attack: the first witness comes from linearising the net again and again.

The statement is about the net in real arithmetic, computed in float64; `certify` is about the net as it rounds.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from intriguing.bounds.ascent import Ascent
from intriguing.bounds.certificates import certify, differences
from intriguing.bounds.crown import Bounds, bounds_over, lower_bound, slope_ranges
from intriguing.bounds.graph import Graph
from intriguing.bounds.pieces import Piece, linear_piece, nearest_in_piece, signs_at
from intriguing.bounds.region import ball, checked_norm, farthest
from intriguing.bounds.relaxation import ReLU, Share
from intriguing.bounds.tracing import trace
from intriguing.errors import InputError, ModelError
from intriguing.nets.load import Model, as_model

_GAP = 5e-4  # what a finished lower bound leaves of the witness's distance, at most; 0.999 is asked for
_BATCH = 32  # branches bounded at once
_STEPS = 12  # of the optimisation of slopes and multipliers on a branch
_RATE = 0.25  # of its steps
_ROUNDS = 15  # of linearising for the first witness


@dataclass(frozen=True)
class Exact:
    """What `exact_distance` found, one entry per image.

    Attributes:
        lower: (B,) float64: no adversarial example of the box is nearer; 0 for images that are wrong already.
        upper: (B,) the distance of `witness`, inf where none was found.
        witness: (B, ...) float64, points of the box that the net does not give the label strictly.
        finished: (B,) bool: whether the search came to its end, so that lower >= 0.999 upper.
        branches: (B,) int64, branches bounded.
        seconds: (B,) taken by each image.
        norm: 2.0 or inf.
    """

    lower: Tensor
    upper: Tensor
    witness: Tensor
    finished: Tensor
    branches: Tensor
    seconds: Tensor
    norm: float


def exact_distance(
    model: Model | nn.Module, x: Tensor, y: Tensor, norm: float | str = 2, *, seconds: float = 60.0
) -> Exact:
    """Return the distance of each image to its nearest adversarial example, between two bounds that meet.

    For nets with some dozens of ReLU units that are undecided near the image; the time grows exponentially with them.

    Args:
        model: a ReLU net (max-pooling, residual additions included), or a `Model` with its box.
        x: (B, ...) images in the box.
        y: (B,) int64 labels.
        norm: 2 or inf.
        seconds: for each image, after which the bounds so far are returned.

    Raises:
        ModelError: an activation other than ReLU, or an operation without a rule.
        InputError, DataError: as for `certify`.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).double()
        >>> found = exact_distance(net, torch.rand(1, 2, dtype=torch.float64), torch.tensor([0]))
        >>> bool(found.lower <= found.upper)
        True
    """
    model = as_model(model)
    length = checked_norm(norm)
    if not seconds > 0:
        raise InputError(f"seconds: expected a positive number, got {seconds}")
    start = certify(model, x, y, length)
    graph = trace(model, x.shape[1:], torch.device("cpu"))
    for node in graph.nodes:
        if node.operation is not None and hasattr(node.operation, "roundings") and not isinstance(node.operation, ReLU):
            raise ModelError(f"{node.path}: only nets of ReLU units are made of affine pieces; use certify")
    # Real arithmetic: the only rounding left to cover is our own.
    graph = replace(graph, dtype=torch.float64)
    rows = []
    for image, label, radius in zip(x.double().cpu(), y.cpu(), start.radius.cpu(), strict=True):
        rows.append(_Image(graph, image[None], label[None], length, model.box).solve(float(radius), seconds))
    columns = list(zip(*rows, strict=True))
    lower, upper, finished, branches, taken = (torch.tensor(column) for column in columns[:5])
    return Exact(
        lower.double().to(x.device),
        upper.double().to(x.device),
        torch.cat(columns[5]).to(x.device),
        finished.to(x.device),
        branches.to(x.device),
        taken.double().to(x.device),
        length,
    )


class _Image:
    """The search for one image."""

    def __init__(self, graph: Graph, x: Tensor, y: Tensor, norm: float, box: tuple[float, float]) -> None:
        self.graph, self.x, self.norm, self.box = graph, x, norm, box
        self.forms = differences(y, graph.nodes[-1].shape[0])
        self.last = len(graph.nodes) - 1
        self.enter = sorted(
            {source for node in graph.nodes if isinstance(node.operation, ReLU) for source in node.inputs}
        )
        self.live = torch.arange(self.forms.shape[1])  # differences that are not shown positive on every branch
        self.upper, self.witness = math.inf, x

    def solve(self, radius: float, seconds: float) -> tuple[float, float, bool, int, float, Tensor]:
        """Return lower, upper, finished, branches, seconds and witness."""
        began = time.perf_counter()
        if float(self.margins(self.x).min()) <= 0:
            return 0.0, 0.0, True, 0, time.perf_counter() - began, self.x
        cap = float(farthest(self.x, self.norm, self.box))
        self.first_witness()
        lower, branches = math.inf, 0
        root = {place: torch.zeros(1, *self.graph.nodes[place].shape) for place in self.enter}
        todo: list[tuple[float, dict[int, Tensor]]] = [(-math.inf, root)]
        while todo:
            if time.perf_counter() - began > seconds:
                break
            todo.sort(key=lambda branch: -branch[0])  # the least promising bound is last, and next
            batch, todo = todo[-_BATCH:], todo[:-_BATCH]
            eps = min(self.upper * (1 - _GAP), cap)
            signs = {place: torch.cat([branch[1][place] for branch in batch]) for place in self.enter}
            bound, choice, signs = self.bound(eps, signs)
            branches += len(batch)
            for row in range(len(batch)):
                if float(bound[row]) > 0:
                    lower = min(lower, eps)
                    continue
                own = {place: sign[row : row + 1] for place, sign in signs.items()}
                if choice[row] is None:
                    # Signs known from intervals hold in the ball alone, so that no more than eps is shown.
                    lower = min(lower, eps, self.leaf(own))
                    continue
                todo += [(float(bound[row]), child) for child in self.children(own, choice[row])]
        finished = not todo
        if not finished:
            lower = radius  # of the branches left, no more is known
        lower = max(min(lower, self.upper), min(radius, self.upper))
        return lower, self.upper, finished, branches, time.perf_counter() - began, self.witness

    def margins(self, points: Tensor) -> Tensor:
        """Return z_y - z_j, (P, K - 1)."""
        return (self.forms @ self.graph(points)[..., None]).squeeze(2)

    def size(self, points: Tensor) -> Tensor:
        """Return the distance (P,) of points from the image."""
        length: Tensor = torch.linalg.vector_norm((points - self.x).flatten(1), ord=self.norm, dim=1)
        return length

    def offer(self, points: Tensor) -> None:
        """Keep the nearest of some points (P, ...) at which the label is lost, drawn to the boundary."""
        lost = (self.margins(points).amin(1) <= 0).nonzero().squeeze(1)
        if not len(lost):
            return
        points = points[lost]
        near, far = torch.zeros(len(lost), dtype=torch.float64), torch.ones(len(lost), dtype=torch.float64)
        wide = (-1, *([1] * (self.x.ndim - 1)))
        for _ in range(45):
            middle = (near + far) / 2
            over = self.margins(self.x + middle.view(wide) * (points - self.x)).amin(1) <= 0
            near, far = torch.where(over, near, middle), torch.where(over, middle, far)
        points = self.x + far.view(wide) * (points - self.x)
        size = torch.where(self.margins(points).amin(1) <= 0, self.size(points), math.inf)
        best = int(size.argmin())
        if float(size[best]) < self.upper:
            self.upper, self.witness = float(size[best]), points[best : best + 1].clone()

    def first_witness(self) -> None:
        """Project the image onto the linearised boundary of every class, again from each point; then by pieces."""
        count = self.forms.shape[1]
        points = self.x.expand(count, *self.x.shape[1:]).clone()
        every = torch.arange(count)
        for _ in range(_ROUNDS):
            moved = points.clone().requires_grad_()
            with torch.enable_grad():
                own = self.margins(moved)[every, every]
                (slope,) = torch.autograd.grad(own.sum(), moved)
            g = -slope.flatten(1)
            need = own.detach() + (g * (points - self.x).flatten(1)).sum(1)
            points = self.x + _to_plane(g, need * 1.0001, self.x.flatten(1), self.norm, self.box).view(points.shape)
            self.offer(points)
        before = math.inf
        while self.upper < before * (1 - 1e-6):
            before = self.upper
            self.leaf(signs_at(self.graph, self.enter, self.witness))

    def leaf(self, signs: dict[int, Tensor]) -> float:
        """Return a lower bound of the distance within one affine piece, and offer its nearest point."""
        piece = linear_piece(self.graph, self.enter, signs, self.forms[0])
        least = math.inf
        for row in self.live.tolist():
            r, bound = nearest_in_piece(_with_form(piece, row), self.x.flatten(), self.norm, self.box, self.upper)
            least = min(least, bound)
            if r is not None:
                r = r.view(self.x.shape)
                steps = torch.tensor([1.0, 1 + 1e-9, 1 + 1e-7, 1 + 1e-5]).double()
                points = self.x + steps.view(-1, *([1] * (self.x.ndim - 1))) * r
                self.offer(points.clamp(*self.box))
        return least

    def bound(
        self, eps: float, signs: dict[int, Tensor]
    ) -> tuple[Tensor, list[tuple[int, int] | None], dict[int, Tensor]]:
        """Return the best bound (R,) of the worst difference on each branch, and the unit to branch on next.

        Returns:
            The bounds, the units (node, unit) or None where all are decided, and the signs with those added that
            intervals show.
        """
        R = len(next(iter(signs.values()))) if signs else 1
        x = self.x.expand(R, *self.x.shape[1:])
        region = ball(x, torch.full((R,), eps, dtype=torch.float64), self.norm, self.box)
        bounds = bounds_over(self.graph, region, signs=signs)
        forms = self.forms[:, self.live].expand(R, -1, -1)
        shares, free = {}, {}
        for place, node in enumerate(self.graph.nodes):
            if isinstance(node.operation, ReLU):
                source = node.inputs[0]
                start = slope_ranges(node.operation, bounds.low[source], bounds.high[source])
                wide = (R, forms.shape[1], *node.shape)
                parts = [part.expand(wide).clone() for part in (start.lower, start.upper)]
                shares[self.last, place] = Share(parts[0].requires_grad_(), parts[1])
        for place in self.enter:
            free[place] = torch.zeros(R, forms.shape[1], *self.graph.nodes[place].shape, dtype=torch.float64)
            free[place].requires_grad_()
        best = torch.full((R, forms.shape[1]), -math.inf, dtype=torch.float64)
        learned = [*free.values(), *(share.lower for share in shares.values())]
        ascent = Ascent(learned, 0.0)
        for _ in range(_STEPS if learned else 1):
            with torch.enable_grad():
                multipliers = {place: signs[place][:, None] * free[place] for place in self.enter}
                found = lower_bound(
                    self.graph, self.last, forms, region, bounds, shares=shares, multipliers=multipliers
                )
            best = torch.maximum(best, found.detach())
            if not learned or bool((best.amin(1) > 0).all()):
                break
            ascent.step(found.sum(), _RATE)
            with torch.no_grad():
                for share in shares.values():
                    share.lower.clamp_(max=1)
        worst = best.amin(1)
        if bounds.empty is not None:
            worst = torch.where(bounds.empty, math.inf, worst)
        if all(not bool(sign.any()) for sign in signs.values()):
            # Without branching: what holds for a difference here holds on every branch and in every smaller ball.
            self.live = self.live[(best <= 0).any(0)[: len(self.live)]]
        choice = self.choose(bounds, signs, forms, best)
        known = {}
        for place, sign in signs.items():
            on, off = (bounds.low[place] >= 0).to(sign), (bounds.high[place] <= 0).to(sign)
            known[place] = torch.where(sign == 0, torch.where(on > 0, on, -off), sign)
        return worst, choice, known

    def choose(
        self, bounds: Bounds, signs: dict[int, Tensor], forms: Tensor, best: Tensor
    ) -> list[tuple[int, int] | None]:
        """Return, for each branch, the undecided unit whose relaxation costs most: (node, unit), None if there is none.

        The cost is the height of its triangle times the size of the worst difference's slope behind it, at the middle
        of the intervals.
        """
        values = [((low + high) / 2).detach() for low, high in zip(bounds.low, bounds.high, strict=True)]
        scores = []
        with torch.enable_grad():
            after: dict[int, Tensor] = {}
            made = [values[0]]
            for node in self.graph.nodes[1:]:
                assert node.operation is not None
                value = node.operation(*(made[source] for source in node.inputs))
                if isinstance(node.operation, ReLU):
                    value = value if value.requires_grad else value.detach().requires_grad_()
                    after[node.inputs[0]] = value
                made.append(value)
            worst = best.argmin(1)
            goal = (forms[torch.arange(len(forms)), worst] * made[-1]).sum()
            slopes = torch.autograd.grad(goal, list(after.values()), allow_unused=True) if after else ()
        for source, slope in zip(after, slopes, strict=True):
            low, high = bounds.low[source], bounds.high[source]
            undecided = (low < 0) & (high > 0) & (signs[source] == 0)
            height = torch.where(undecided, -low * high / (high - low).clamp_min(1e-12), 0.0)
            steep = torch.zeros_like(height) if slope is None else slope.abs()
            scores.append(torch.where(undecided, height * (steep + 1e-3) + 1e-12, 0.0).flatten(1))
        choice: list[tuple[int, int] | None] = []
        places = list(after)
        for row in range(len(forms)):
            tops = [float(score[row].max()) if score.shape[1] else 0.0 for score in scores]
            if not tops or max(tops) <= 0:
                choice.append(None)
                continue
            which = tops.index(max(tops))
            choice.append((places[which], int(scores[which][row].argmax())))
        return choice

    def children(self, signs: dict[int, Tensor], choice: tuple[int, int] | None) -> list[dict[int, Tensor]]:
        """Return the two branches of a unit."""
        assert choice is not None
        place, unit = choice
        pair = []
        for sign in (1.0, -1.0):
            own = dict(signs)
            own[place] = signs[place].clone()
            own[place].view(-1)[unit] = sign
            pair.append(own)
        return pair


def _with_form(piece: Piece, row: int) -> Piece:
    """Return the piece cut to where one difference is not positive."""
    A = torch.cat((piece.rows, -piece.forms[row : row + 1]))
    c = torch.cat((piece.offsets, -piece.form_offsets[row : row + 1]))
    return Piece(A, c, piece.forms, piece.form_offsets)


def _to_plane(g: Tensor, need: Tensor, x: Tensor, norm: float, box: tuple[float, float]) -> Tensor:
    """Return the shortest r (P, n) with g r = need in the box, by bisection of its multiplier; the ends where none."""
    low, high = box[0] - x, box[1] - x
    way = g if norm == 2 else g.sign()
    near, far = torch.zeros(len(g), dtype=torch.float64), torch.full((len(g),), 1e9, dtype=torch.float64)
    for _ in range(100):
        middle = (near * far).sqrt().clamp_min(1e-12) if norm == 2 else (near + far) / 2
        r = torch.clamp(middle[:, None] * way, low, high)
        over = (g * r).sum(1) >= need
        near, far = torch.where(over, near.clamp_min(1e-12), middle), torch.where(over, middle, far)
    return torch.clamp(far[:, None] * way, low, high)

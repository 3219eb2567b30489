"""Sound lower bounds of linear forms of a net's values over a region: intervals, and linear relaxation backwards.

Zhang et al. 2018 (CROWN): a form A h of a value h is carried back through the net. An affine map turns A into A W and
adds A b. At an activation, coefficients A >= 0 take a line below and A < 0 a line above it, valid on the interval of
its input. At the pixels the least value over ball and box is taken. The intervals come from the same procedure, from
the first layer on, and are never wider than those of interval arithmetic.

Rounding. The bounds hold for the net as it computes in its own dtype, not only for real arithmetic: a computed value
is the exact function of the computed values before it plus an error of at most d, so that |A| d is subtracted
wherever A passes. For an affine map d = gamma_terms (|W| H + |b|), with H the largest absolute inputs over the region;
for an activation, a few units of its largest value. The rounding of the bounds' own float64 arithmetic is of the same
form, A (W + dW) with |dW| <= gamma |W|, and adds a d of its own. Not covered: arithmetic of lower precision than the
dtype (TensorFloat-32) and convolutions by transforms (Winograd, FFT), which a device may choose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from intriguing.bounds import windows
from intriguing.bounds.graph import Graph, Node
from intriguing.bounds.operations import Affine, Sum, gamma
from intriguing.bounds.region import UNIT, Region
from intriguing.bounds.relaxation import Activation, Share, Shares, lines

ENTRIES = 2**20  # numbers in one array of coefficients: 8 MiB stay in a cache; many such are fit for a CUDA device
_OWN = 4  # roundings of our arithmetic per one of the net's, at most


@dataclass
class Bounds:
    """Intervals of every value over a region, and the rounding error of each value given those before it.

    Attributes:
        low, high: (B, *shape) by node.
        error: (B, *shape) by node, d of the module's text.
        lost: (B, S) what rounding took from the last form that was bounded.
        empty: (B,) whether no point of the region has the signs asked for, as far as intervals tell.
    """

    low: list[Tensor] = field(default_factory=list)
    high: list[Tensor] = field(default_factory=list)
    error: list[Tensor] = field(default_factory=list)
    lost: Tensor | None = None
    empty: Tensor | None = None


def bounds_over(
    graph: Graph,
    region: Region,
    *,
    refine: bool = True,
    shares: Shares | None = None,
    signs: Mapping[int, Tensor] | None = None,
    touching: bool = False,
    alone: bool = False,
) -> Bounds:
    """Return intervals of every value of the net over the region.

    Args:
        graph: see `tracing.trace`.
        region: (B) balls.
        refine: carry forms back for the inputs of activations; otherwise interval arithmetic alone.
        shares: see `Shares`.
        signs: by node that enters a ReLU, (B, *shape) of 1, -1 or 0: the region is cut to where entries have this
            sign. Intervals may then be empty; they are returned with low = high.
        touching: see `Activation.slopes`.
        alone: keep what the forms say also where interval arithmetic knows more: lines are chosen by intervals, and
            narrower ones now and then choose worse.
    """
    unit = torch.finfo(graph.dtype).eps / 2
    tiny = torch.finfo(graph.dtype).tiny
    bounds = Bounds()
    enter = {place for node in graph.nodes if isinstance(node.operation, Activation) for place in node.inputs}
    shape = (-1, *region.shape)
    with torch.set_grad_enabled(shares is not None):
        for place, node in enumerate(graph.nodes):
            if node.operation is None:
                low, high = region.low.reshape(shape), region.high.reshape(shape)
                # Pixels may still be rounded to the net's dtype.
                error = (unit + UNIT) * torch.maximum(low.abs(), high.abs())
                low, high = low - error, high + error
            else:
                low, high, error = _interval(node, bounds, unit, tiny)
            bounds.low.append(low)
            bounds.high.append(high)
            bounds.error.append(error)
            if place in enter and refine:
                _refine(graph, place, region, bounds, shares or {}, touching, alone)
            if signs is not None and place in signs:
                _cut(bounds, place, signs[place])
    return bounds


def lower_bound(
    graph: Graph,
    place: int,
    A: Tensor,
    region: Region,
    bounds: Bounds,
    *,
    shares: Shares | None = None,
    multipliers: Mapping[int, Tensor] | None = None,
    touching: bool = False,
) -> Tensor:
    """Return lower bounds (B, S) of the forms A h over the region, h the value at `place`.

    Args:
        graph: see `tracing.trace`.
        place: of a node.
        A: (B or 1, S, *shape of the node).
        region: (B) balls.
        bounds: intervals of the values before.
        shares: see `Shares`.
        multipliers: by node that enters an activation, (B, S, *shape) numbers m: the bound is that of A h - m z,
            z that node's value; with m of the sign that z is known to have, it bounds A h itself there.
        touching: see `Activation.slopes`.
    """
    coefficients, const = {place: A}, A.new_zeros(1, 1)
    lost = const
    for at in range(place, 0, -1):
        if multipliers is not None and at in multipliers and at in coefficients:
            coefficients[at] = coefficients[at] - multipliers[at]
        if at not in coefficients:
            continue
        node, A = graph.nodes[at], coefficients.pop(at)
        rounding = _against(A.abs(), bounds.error[at])
        const, lost = const - rounding, lost + rounding
        operation = node.operation
        if isinstance(operation, Affine):
            const = const + _against(A, operation.bias.expand(node.shape)[None])
            _add(coefficients, node.inputs[0], _transposed(operation, A))
        elif isinstance(operation, Sum):
            for weight, source in zip(operation.weights, node.inputs, strict=True):
                _add(coefficients, source, weight * A)
        else:
            assert isinstance(operation, Activation)
            share = None if shares is None else shares.get((place, at))
            A, offset = _relaxed(operation, A, bounds, node.inputs[0], share, touching)
            const = const + offset
            _add(coefficients, node.inputs[0], A)
    least, rounding = region.minimum(coefficients[0].flatten(2), const, torch.finfo(graph.dtype).eps / 2)
    bounds.lost = lost.detach() + rounding
    return least


def slope_ranges(activation: Activation, low: Tensor, high: Tensor) -> Share:
    """Return the shares at which the default lines lie, (B, 1, *shape)."""
    found = activation.slopes(low, high)
    parts = []
    for least, largest, default in (found.lower, found.upper):
        width = largest - least
        usable = width.abs() > 1e-12
        parts.append(
            torch.where(usable, (default - least) / torch.where(usable, width, torch.ones_like(width)), 0.5)[:, None]
        )
    return Share(*parts)


def _interval(node: Node, bounds: Bounds, unit: float, tiny: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return what interval arithmetic knows about a node, and its rounding error."""
    operation = node.operation
    inputs = [(bounds.low[place], bounds.high[place]) for place in node.inputs]
    if isinstance(operation, Activation):
        low, high = (operation(side) for side in inputs[0])
        size = torch.maximum(inputs[0][0].abs(), inputs[0][1].abs())
        largest = torch.maximum(low.abs(), high.abs())
        error = operation.roundings * (unit * largest + (tiny if operation.roundings else 0))
        # A line's slope is at most 1 here, and its offset at most the value and the input together.
        error = error + _own(node, 0) * (largest + size)
    elif isinstance(operation, Affine):
        centre, reach = (inputs[0][0] + inputs[0][1]) / 2, (inputs[0][1] - inputs[0][0]) / 2
        middle, spread = operation(centre), operation.absolute(reach)
        size = operation.absolute(torch.maximum(inputs[0][0].abs(), inputs[0][1].abs())) + operation.offset
        error = _error(size, operation.terms, unit, tiny) + _own(node, operation.terms + operation.reach) * size
        low, high = middle - spread, middle + spread
    else:
        assert isinstance(operation, Sum)
        ends = [(w * l, w * h) for w, (l, h) in zip(operation.weights, inputs, strict=True)]  # noqa: E741
        low = torch.stack([torch.minimum(*pair) for pair in ends]).sum(0)
        high = torch.stack([torch.maximum(*pair) for pair in ends]).sum(0)
        size = torch.stack([torch.maximum(pair[0].abs(), pair[1].abs()) for pair in ends]).sum(0)
        error = _error(size, operation.terms, unit, tiny) + _own(node, len(inputs)) * size
    return low - error, high + error, error


def _error(size: Tensor, terms: int, unit: float, tiny: float) -> Tensor:
    """Return the net's d for a value that sums `terms` products whose absolute values sum to `size`."""
    return gamma(terms, unit) * size + terms * tiny


def _own(node: Node, terms: int) -> float:
    """Return our own relative error at a node: sums of `terms`, and A b over all of its entries."""
    return gamma(_OWN * (terms + torch.Size(node.shape).numel() + 4), UNIT)


def _refine(
    graph: Graph,
    place: int,
    region: Region,
    bounds: Bounds,
    shares: Shares,
    touching: bool,
    alone: bool,
) -> None:
    """Narrow the interval of a value that enters an activation, entry by entry."""
    low, high = bounds.low[place].flatten(1), bounds.high[place].flatten(1)
    B, n = low.shape
    rows = _undecided(graph, place, low.detach(), high.detach())
    own = any(key[0] == place and share.lower.shape[1] > 1 for key, share in shares.items())
    if own:  # slopes of its own for each row: all rows, in order
        rows = torch.arange(n, device=low.device).expand(1, n)
    if not rows.shape[1]:
        return
    seen = None if own else windows.plan(graph, place)
    if seen is not None:
        _refine_windows(graph, place, seen, region, bounds, shares, touching, alone)
        return
    largest = _largest(graph, place)
    chunk = rows.shape[1] if own else max(1, ENTRIES // (2 * B * largest))
    found = []
    for part in torch.split(rows, chunk, dim=1):
        unit = torch.zeros(*part.shape, n, dtype=low.dtype, device=low.device).scatter_(2, part[..., None], 1.0)
        A = torch.cat((unit, -unit), dim=1).reshape(len(part), -1, *graph.nodes[place].shape)
        least = lower_bound(graph, place, A, region, bounds, shares=shares, touching=touching)
        found.append(least.reshape(B, 2, -1))
    below, above = torch.cat(found, dim=2).unbind(1)
    _narrow(bounds, place, rows.expand(B, -1), below, -above, alone)


def _refine_windows(
    graph: Graph,
    place: int,
    seen: windows.Plan,
    region: Region,
    bounds: Bounds,
    shares: Shares,
    touching: bool,
    alone: bool,
) -> None:
    """Narrow the interval of a value of convolutions: all channels of every place where one is undecided.

    Of an image more than half of whose entries are undecided, everywhere, as of values without windows.
    """
    low, high = bounds.low[place].detach(), bounds.high[place].detach()
    B, D, sides = len(low), low.shape[1], low.shape[2] * low.shape[3]
    unsure = ((low < 0) & (high > 0)).flatten(2)
    wanted = unsure.any(1) | (unsure.double().mean((1, 2)) > 0.5)[:, None]  # (B, places)
    if _smooth(graph, place):
        wanted = torch.ones_like(wanted)
    places = wanted.any(0).nonzero().squeeze(1)
    chunk = max(1, ENTRIES // (B * windows.coefficients(graph, place, seen)))
    for part in torch.split(places, chunk):
        ends = windows.ends(graph, place, part, seen, region, bounds, shares=shares, touching=touching)
        index = (torch.arange(D, device=low.device)[:, None] * sides + part).flatten().expand(B, -1)
        # What an image gets does not depend on what others ask for.
        mine = wanted[:, part].repeat(1, D)
        least, largest = (
            torch.where(mine, end.flatten(1), known.flatten(1).gather(1, index))
            for end, known in zip(ends, (bounds.low[place], bounds.high[place]), strict=True)
        )
        _narrow(bounds, place, index, least, largest, alone)


def _narrow(bounds: Bounds, place: int, index: Tensor, below: Tensor, above: Tensor, alone: bool) -> None:
    """Take the better of what is known and of new ends (B, R) for the entries `index` (B, R) of a value."""
    low, high = bounds.low[place].flatten(1), bounds.high[place].flatten(1)
    if not alone:
        below, above = torch.maximum(low.gather(1, index), below), torch.minimum(high.gather(1, index), above)
    shape = bounds.low[place].shape
    # Both ends are bounds of one value; where rounding makes them cross, their order does not matter.
    bounds.low[place] = low.scatter(1, index, torch.minimum(below, above)).reshape(shape)
    bounds.high[place] = high.scatter(1, index, torch.maximum(below, above)).reshape(shape)


def _undecided(graph: Graph, place: int, low: Tensor, high: Tensor) -> Tensor:
    """Return the entries (B or 1, R) worth a form of their own: all but those that keep a ReLU on or off.

    Rows of the images that have fewer are filled with other entries, which is no harm.
    """
    if _smooth(graph, place):
        return torch.arange(low.shape[1], device=low.device)[None]
    unsure = (low < 0) & (high > 0)
    most = int(unsure.sum(1).max())
    if most * 2 > low.shape[1]:
        return torch.arange(low.shape[1], device=low.device)[None]
    return unsure.byte().topk(most, dim=1).indices


def _smooth(graph: Graph, place: int) -> bool:
    """Return whether a value enters an activation that is nowhere straight."""
    users = [node.operation for node in graph.nodes if place in node.inputs and isinstance(node.operation, Activation)]
    return any(user.roundings for user in users)


def _largest(graph: Graph, place: int) -> int:
    return max(torch.Size(node.shape).numel() for node in graph.nodes[: place + 1])


def _cut(bounds: Bounds, place: int, signs: Tensor) -> None:
    """Cut intervals to the entries' known signs."""
    bounds.low[place] = torch.where(signs > 0, bounds.low[place].clamp_min(0), bounds.low[place])
    bounds.high[place] = torch.where(signs < 0, bounds.high[place].clamp_max(0), bounds.high[place])
    # No point of the region has these signs: any bound is true there.
    empty = (bounds.low[place] > bounds.high[place]).flatten(1).any(1)
    bounds.empty = empty if bounds.empty is None else bounds.empty | empty
    bounds.high[place] = torch.maximum(bounds.low[place], bounds.high[place])


def _relaxed(
    activation: Activation, A: Tensor, bounds: Bounds, source: int, share: Share | None, touching: bool
) -> tuple[Tensor, Tensor]:
    """Return the coefficients of an activation's input, and what its lines' offsets add to the form."""
    low, high = bounds.low[source][:, None], bounds.high[source][:, None]
    lower, upper, below, above = lines(activation, low, high, share, touching)
    positive, negative = A.clamp_min(0), A.clamp_max(0)
    offset = _against(positive, below, own=True) + _against(negative, above, own=True)
    return positive * lower + negative * upper, offset


def _transposed(operation: Affine, A: Tensor) -> Tensor:
    back = operation.transpose(A.flatten(0, 1))
    return back.reshape(*A.shape[:2], *back.shape[1:])


def _add(coefficients: dict[int, Tensor], place: int, A: Tensor) -> None:
    coefficients[place] = coefficients[place] + A if place in coefficients else A


def _against(A: Tensor, v: Tensor, *, own: bool = False) -> Tensor:
    """Return sum_i A[b, s, i] v[b, i] as (B, S); with `own`, v is (B, 1 or S, *shape), a vector for each row."""
    if own and v.shape[1] > 1:
        product: Tensor = torch.linalg.vecdot(A.flatten(2), v.flatten(2))
        return product
    v = v.flatten(2).transpose(1, 2) if own else v.flatten(1)[..., None]
    return torch.matmul(A.flatten(2), v).squeeze(2)

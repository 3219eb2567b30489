"""Intervals of convolutions: forms of one place each, whose coefficients fill a small window of every layer before.

The coefficients of a unit of a convolutional layer are 0 outside of the pixels that it can see, and windows of all
places are of one size. They are carried back as arrays of that size, for all channels of a place at once: a hundred
times less than images full of zeros for the second layer of a net on MNIST. It is the procedure of `crown`, with
the same numbers but for rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own abbreviation)

from intriguing.bounds.graph import Graph
from intriguing.bounds.operations import Affine, Local, Sum, Window
from intriguing.bounds.region import Region
from intriguing.bounds.relaxation import Activation, Shares, lines

if TYPE_CHECKING:
    from intriguing.bounds.crown import Bounds

_WORTH = 0.5  # share of the coefficients of whole images below which windows are taken

Plan = Mapping[int, Window]
"""Node -> the window of it that a place of the node in question sees."""


def plan(graph: Graph, place: int) -> Plan | None:
    """Return the windows of every value before `place`; None where one may be all of a value, or too large."""
    if len(graph.nodes[place].shape) != 3:
        return None
    found = {place: Window((1, 1), (0, 0), (1, 1))}
    for at in range(place, 0, -1):
        if at not in found:
            continue
        operation = graph.nodes[at].operation
        window: Window | None = found[at]
        if isinstance(operation, Affine):
            window = operation.seen(found[at]) if isinstance(operation, Local) else None
        for source in graph.nodes[at].inputs:
            if window is None or len(graph.nodes[source].shape) != 3:
                return None
            union = window if source not in found else found[source].union(window)
            if union is None:
                return None
            found[source] = union
    entries = sum(graph.nodes[at].shape[0] * window.size[0] * window.size[1] for at, window in found.items())
    whole = sum(torch.Size(graph.nodes[at].shape).numel() for at in found)
    return found if entries <= _WORTH * whole else None


def coefficients(graph: Graph, place: int, windows: Plan) -> int:
    """Return how many coefficients one place of a value needs at most, of both signs for every channel."""
    largest = max(graph.nodes[at].shape[0] * window.size[0] * window.size[1] for at, window in windows.items())
    return 2 * graph.nodes[place].shape[0] * largest


def ends(
    graph: Graph,
    place: int,
    places: Tensor,
    windows: Plan,
    region: Region,
    bounds: Bounds,
    *,
    shares: Shares,
    touching: bool,
) -> tuple[Tensor, Tensor]:
    """Return the least and largest values (B, D, P) of all channels of a value (D, H, W) at some places.

    Args:
        graph: see `tracing.trace`.
        place: of the node.
        places: (P,) int64 indices into its H * W places.
        windows: its `plan`.
        region: (B) balls.
        bounds: intervals of the values before.
        shares: see `relaxation.Shares`; the same for every row.
        touching: see `Activation.slopes`.
    """
    D, _, W = graph.nodes[place].shape
    at_row, at_column = places // W, places % W
    unit = torch.eye(D, dtype=region.centre.dtype, device=region.centre.device)
    # (1 or B, 1 or P, 2 D, entries of the window)
    carried = {place: torch.cat((unit, -unit))[None, None]}
    const = unit.new_zeros(1, 1, 1)
    for at in range(place, 0, -1):
        if at not in carried:
            continue
        node, A, view = graph.nodes[at], carried.pop(at), _View(windows[at], graph.nodes[at].shape, at_row, at_column)
        const = const - _against(A.abs(), view(bounds.error[at]))
        operation = node.operation
        if isinstance(operation, Activation):
            source = node.inputs[0]
            low, high = bounds.low[source], bounds.high[source]
            share = shares.get((place, at))
            # Of the whole image once, then seen through the windows, where they are 0 outside of the image.
            lower, upper, below, above = (
                view(part) for part in lines(operation, low, high, None if share is None else share.only(), touching)
            )
            positive, negative = A.clamp_min(0), A.clamp_max(0)
            const = const + _against(positive, below) + _against(negative, above)
            _add(
                carried,
                source,
                positive * lower[:, :, None] + negative * upper[:, :, None],
                windows,
                windows[at],
                graph,
            )
            continue
        A = view.inside(A)
        if isinstance(operation, Local):
            const = const + _against(A, view(operation.bias.expand(node.shape)[None]))
            seen = operation.seen(windows[at])
            assert seen is not None
            back = operation.transpose_window(A.reshape(-1, node.shape[0], *windows[at].size))
            _add(carried, node.inputs[0], back.reshape(*A.shape[:3], -1), windows, seen, graph)
        else:
            assert isinstance(operation, Sum)
            for weight, source in zip(operation.weights, node.inputs, strict=True):
                _add(carried, source, weight * A, windows, windows[at], graph)
    view = _View(windows[0], graph.nodes[0].shape, at_row, at_column)
    B, P, rows = len(region.centre), len(places), 2 * D
    A = carried[0].expand(B, P, -1, -1).flatten(1, 2)
    pixels = (
        view(part.reshape(-1, *region.shape))[:, :, None].expand(-1, -1, rows, -1).flatten(1, 2)
        for part in (region.centre, region.low, region.high)
    )
    least, _ = region.minimum(
        A, const.expand(B, P, rows).flatten(1), torch.finfo(graph.dtype).eps / 2, pixels=tuple(pixels)
    )
    below, above = least.reshape(B, P, 2, D).permute(2, 0, 3, 1)
    return below, -above


class _View:
    """A value (B, C, H, W) through the windows of some places."""

    def __init__(self, window: Window, shape: tuple[int, ...], rows: Tensor, columns: Tensor) -> None:
        down, across = (
            step * at[:, None] + start + torch.arange(size, device=at.device)
            for step, start, size, at in zip(window.step, window.start, window.size, (rows, columns), strict=True)
        )
        inside = ((down >= 0) & (down < shape[1]))[:, :, None] & ((across >= 0) & (across < shape[2]))[:, None]
        # What is outside of the image is taken from a 0 behind its last entry.
        self.index = torch.where(inside, down[:, :, None] * shape[2] + across[:, None], shape[1] * shape[2])
        self.mask = None if bool(inside.all()) else inside.flatten(1)
        self.channels = shape[0]

    def __call__(self, v: Tensor) -> Tensor:
        """Return (B, P, entries of the window); 0 outside of the image."""
        found = F.pad(v.flatten(2), (0, 1))[:, :, self.index]
        return found.transpose(1, 2).flatten(2)

    def inside(self, A: Tensor) -> Tensor:
        """Return coefficients (1 or B, 1 or P, R, entries) with those outside of the image set to 0."""
        if self.mask is None:
            return A
        mask = self.mask.to(A)[:, None].expand(-1, self.channels, -1).flatten(1)
        return A * mask[None, :, None]


def _against(A: Tensor, v: Tensor) -> Tensor:
    """Return the products (B, P, R) of coefficients (1 or B, 1 or P, R, n) with vectors (1 or B, P, n)."""
    if A.shape[:2] == (1, 1):
        return v @ A[0, 0].T
    return torch.matmul(A, v[..., None]).squeeze(3)


def _add(carried: dict[int, Tensor], place: int, A: Tensor, windows: Plan, window: Window, graph: Graph) -> None:
    """Add coefficients on `window` to those of the node, which lie on a window that holds it."""
    whole = windows[place]
    if whole != window:
        top, left = (a - b for a, b in zip(window.start, whole.start, strict=True))
        bottom, right = (a - b for a, b in zip(whole.end, window.end, strict=True))
        shaped = A.reshape(*A.shape[:3], graph.nodes[place].shape[0], *window.size)
        A = F.pad(shaped, (left, right, top, bottom)).flatten(3)
    carried[place] = carried[place] + A if place in carried else A

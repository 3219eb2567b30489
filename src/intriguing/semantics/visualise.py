"""The patch that drives a unit: where it looks, what it sees there, and whether covering it up silences the unit.

Zeiler and Fergus 2013 (arXiv:1311.2901) show for each unit the images that drive it most, an occlusion map (section
4.2) and a back-projection into the image (section 2.1). Here the three are held against each other: a patch that is
said to drive a unit must, when covered, lower the unit more than any patch of the same size elsewhere.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own abbreviation)

from intriguing.errors import InputError
from intriguing.nets.load import Model
from intriguing.semantics.activations import activations, find, outputs, positions, watched


@dataclass(frozen=True)
class Patch:
    """A rectangle of pixels: rows top to top + height, columns left to left + width."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, image: Tensor) -> Tensor:
        """Return the patch of an image (..., H, W)."""
        return image[..., self.top : self.top + self.height, self.left : self.left + self.width]

    def shared(self, other: Patch) -> int:
        """Return how many pixels two patches share."""
        rows = min(self.top + self.height, other.top + other.height) - max(self.top, other.top)
        columns = min(self.left + self.width, other.left + other.width) - max(self.left, other.left)
        return max(0, rows) * max(0, columns)


@dataclass(frozen=True)
class Occlusion:
    """What covering a patch does to a unit, at every place where the patch fits.

    Attributes:
        drops: (P, Q) float32, the unit's activation less the one with the patch covered, by place.
        tops: (P,) the top row of each place.
        lefts: (Q,) the left column of each place.
        shown: the drop at the patch that was asked about.
    """

    drops: Tensor
    tops: tuple[int, ...]
    lefts: tuple[int, ...]
    shown: float


def receptive_fields(model: Model, layer: str, image: Tensor) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return which rows and columns of the image each position of a layer depends on, found by trying.

    A row of the image is set to NaN, and NaN spreads to all that is computed from it, zero or not: exact for any
    architecture, padding and dilation included. The trial runs in float64, whose convolutions sum each
    position on its own; faster methods mix neighbours.

    Args:
        model: the net, left as found: a copy is tried.
        layer: path of the layer.
        image: (C, H, W), any image in the box.

    Returns:
        Per row of positions the first and the last image row it sees (-1, -1 for none), and likewise per column.

    Raises:
        UnknownNameError: no such layer.
        ModelError: see `activations.activations`.
    """
    net = copy.deepcopy(model.net)
    assert isinstance(net, nn.Module)
    trial = Model(net.double().cpu(), model.box, model.mean, model.std)
    fields = []
    for axis in (1, 2):
        side = image.shape[axis]
        poisoned = image.double().cpu().expand(side, *image.shape).clone()
        for place in range(side):
            poisoned[place].select(axis, place).fill_(torch.nan)
        seen = []
        for maps, (rows, columns) in outputs(trial, poisoned, layer, batch=32):
            reached = maps.isnan().any(1).view(-1, rows, columns)
            seen.append(reached.any(3 - axis))
        fields.append([_ends(column) for column in torch.cat(seen).T])
    return fields[0], fields[1]


def field_patch(fields: tuple[list[tuple[int, int]], list[tuple[int, int]]], place: int) -> Patch:
    """Return the patch of the image that a position of a layer sees.

    Args:
        fields: of `receptive_fields`.
        place: the position, counted row by row, as in `Activations.places`.
    """
    rows, columns = fields
    (top, bottom), (left, right) = rows[place // len(columns)], columns[place % len(columns)]
    return Patch(top, left, bottom - top + 1, right - left + 1)


def back_projection(model: Model, images: Tensor, layer: str, units: Sequence[int]) -> Tensor:
    """Return what each image has to do with a unit of it: the gradient, rectified on its way down.

    At every rectifier only positive signals go on down, whatever the rectifier passed on the way up: the
    deconvolutional net of Zeiler and Fergus, section 2.1, written as a gradient. Max-pooling sends the signal to
    the place of the maximum. Through other non-linearities, sigmoids for example, the plain gradient runs.
    Rectifiers that are called as functions and are no modules cannot be seen, and count among the latter.

    Args:
        model: the net, left as found.
        images: (B, C, H, W) in the box.
        layer: path of the layer.
        units: per image the unit, or the channel, whose largest position is projected.

    Returns:
        (B, C, H, W), on the CPU.

    Raises:
        UnknownNameError: no such layer.
        InputError: not one unit per image, or a unit that the layer does not have.
        ModelError: see `activations.activations`.
    """
    find(model, layer)
    if len(units) != len(images):
        raise InputError(f"units must name one unit per image, got {len(units)} for {len(images)} images")
    with torch.enable_grad(), model.frozen(), _rectified(model), watched(model, layer) as seen:
        x = images.to(device=model.device, dtype=model.dtype).detach().clone().requires_grad_()
        model(x)
        maps, _ = positions(seen, layer)
        if units and not 0 <= min(units) <= max(units) < maps.shape[1]:
            raise InputError(f"units must lie in 0..{maps.shape[1] - 1}, the units of {layer!r}, got {list(units)}")
        # Rows do not mix in evaluation mode, so one sum carries every image's own unit.
        chosen = maps.amax(2)[torch.arange(len(images)), torch.tensor(list(units), dtype=torch.int64)]
        (gradient,) = torch.autograd.grad(chosen.sum(), x)
    return gradient.cpu()


def relevance(projection: Tensor, image: Tensor, fill: Tensor) -> Tensor:
    """Return (H, W): by how much the unit would fall if a pixel were covered, to first order.

    That is the back-projection times what covering takes away, summed over the colours.

    Args:
        projection: (C, H, W), of `back_projection`.
        image: (C, H, W).
        fill: (C,), the colour that covers.
    """
    return (projection * (image - fill[:, None, None])).sum(0)


def busiest_patch(weight: Tensor, height: int, width: int) -> Patch:
    """Return the patch of a given size with the largest total of `weight` (H, W).

    Example:
        >>> busiest_patch(torch.eye(4), 2, 2)
        Patch(top=0, left=0, height=2, width=2)
    """
    sums = F.avg_pool2d(weight[None, None].double(), (height, width), stride=1)[0, 0]
    place = int(sums.argmax())
    return Patch(place // sums.shape[1], place % sums.shape[1], height, width)


def centred_patch(seen: Patch, height: int, width: int, sides: tuple[int, int]) -> Patch:
    """Return the patch of a given size around the middle of another one, shifted to lie in the image.

    What a position sees last, at the rim of its field, hardly moves it: the middle counts most.

    Args:
        seen: for example a receptive field.
        height: of the patch wanted.
        width: of the patch wanted.
        sides: (H, W) of the image.
    """
    top = seen.top + (seen.height - height) // 2
    left = seen.left + (seen.width - width) // 2
    return Patch(min(max(0, top), sides[0] - height), min(max(0, left), sides[1] - width), height, width)


def occlusion(
    model: Model,
    image: Tensor,
    layer: str,
    unit: int,
    patch: Patch,
    *,
    fill: Tensor,
    stride: int = 1,
    batch: int = 250,
) -> Occlusion:
    """Cover a patch of this size everywhere in turn, and return how far each time the unit falls.

    Args:
        model: the net.
        image: (C, H, W) in the box.
        layer: path of the layer.
        unit: its unit, or channel.
        patch: the patch that was shown; its size is used everywhere.
        fill: (C,), the colour that covers.
        stride: step between places; the patch's own place is always tried.
        batch: how many covered images the net sees at once.

    Raises:
        UnknownNameError: no such layer.
        ModelError: see `activations.activations`.
    """
    height, width = image.shape[1:]
    tops = tuple(range(0, height - patch.height + 1, stride))
    lefts = tuple(range(0, width - patch.width + 1, stride))
    corners = [(patch.top, patch.left), *((top, left) for top in tops for left in lefts)]
    found = [activations(model, image[None], layer).values[0, unit][None]]
    for start in range(0, len(corners), batch):
        places = [Patch(top, left, patch.height, patch.width) for top, left in corners[start : start + batch]]
        covered = torch.stack([_covered(image, place, fill) for place in places])
        found.append(activations(model, covered, layer, batch=batch).values[:, unit])
    values = torch.cat(found)
    drops = values[0] - values[1:]
    return Occlusion(drops[1:].view(len(tops), len(lefts)), tops, lefts, float(drops[0]))


def drives(patch: Patch, outcome: Occlusion, *, overlap: float = 0.0) -> bool:
    """Return whether covering the patch lowers the unit, and more than covering any patch of its size elsewhere.

    A patch so large that there is no elsewhere shows nothing, and does not count as driving the unit.

    Args:
        patch: the patch that was shown.
        outcome: of `occlusion` for that patch.
        overlap: a patch is elsewhere if it shares at most this part of its area with the one shown: 0 for
            patches apart from it, 0.5 for those that cover at most half of it.
    """
    area = patch.height * patch.width
    apart = torch.tensor(
        [
            [patch.shared(Patch(top, left, patch.height, patch.width)) <= overlap * area for left in outcome.lefts]
            for top in outcome.tops
        ]
    )
    elsewhere = outcome.drops[apart]
    return len(elsewhere) > 0 and outcome.shown > 0 and bool((elsewhere < outcome.shown).all())


@contextmanager
def _rectified(model: Model) -> Iterator[None]:
    """Let only positive gradients pass down through rectifiers; their in-place flags and hooks are put back."""
    rectifiers = [module for module in model.layers().values() if isinstance(module, nn.ReLU)]
    flags = [module.inplace for module in rectifiers]
    handles = []

    def positive(_: nn.Module, __: Any, above: tuple[Tensor, ...]) -> tuple[Tensor]:
        return (above[0].clamp_min(0),)

    try:
        for module in rectifiers:
            module.inplace = False  # a hook on the way down cannot see through a change in place
            handles.append(module.register_full_backward_hook(positive))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, flag in zip(rectifiers, flags, strict=True):
            module.inplace = flag


def _covered(image: Tensor, patch: Patch, fill: Tensor) -> Tensor:
    covered = image.clone()
    patch.cut(covered)[:] = fill[:, None, None]
    return covered


def _ends(seen: Tensor) -> tuple[int, int]:
    """Return the first and the last place that is set, (-1, -1) if none is."""
    places = seen.nonzero().flatten()
    return (int(places[0]), int(places[-1])) if len(places) else (-1, -1)

"""Where walks from the other side start: averages of images of other classes, and such images themselves.

An image of another class lies in a direction that has much to do with that image and little with its class. The
average of those images of its class that are nearest to the one under attack has the class alone in it: walks from
there end nearer, and the first two or three classes are enough. Starts come in tiers, each from near to far, so that a
search with more budget sees ever more of the other classes:

1. for each class, the average of the sixteenth of its images that is nearest,
2. the average of each class,
3. the nearest image of each class, then the second nearest, and so on.

The classes that the net finds likeliest go through all tiers before the others.

Where images are pictures, coarse noise follows the first few of these, black and white squares of a seventh to a
quarter of the side, the same for every image under attack. On nets trained by projected gradient descent in Linf a
search between such noise and the nearest example comes nearer than one between averages and it, at an equal cost.

Without images there is nothing but noise; for inputs that are no pictures it is plain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from intriguing import rng
from intriguing.attacks.base import Trial
from intriguing.errors import InputError

AT_FIRST = 3  # starts that a search has from the beginning
_SHARE, _LEAST = 16, 3  # an average is of this part of a class, and of no fewer images
_CLASSES = 16  # nearest classes whose averages are taken
_LIKELIEST = 4  # classes that come first
_SINGLE = 6  # images of a class that are starts themselves
_PICTURES, _WITH_IMAGES = 32, 16  # pictures of noise, where there are no images and where there are
_SIDES = (7, 6, 5, 4)  # the squares along their sides in turn


@dataclass(frozen=True)
class Pool:
    """Images to start from.

    Attributes:
        points: (P, n).
        labels: (P,) int64, -1 where the class is not known.
    """

    points: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Starts:
    """What M images under attack start from, K starts each; the j-th start of all is row j of `points`, then of `more`.

    Attributes:
        first: how many of each image's starts a search has from the beginning.
        points: (P, n) images of the pool.
        more: (Q, n) averages, then noise.
        labels: (P + Q,) int64, -1 where the class is not known.
        order: (M, K) int64 which start comes first, second and so on; -1 where there are no more.
        lengths: (M, K) how far each is from the image; inf where there are no more.
    """

    first: int
    points: Tensor
    more: Tensor
    labels: Tensor
    order: Tensor
    lengths: Tensor

    def at(self, which: Tensor) -> Tensor:
        """Return the starts (k, n) of numbers `which` (k,)."""
        P = len(self.points)
        x = self.points.index_select(0, which.clamp(max=P - 1))
        averages = (which >= P).nonzero().squeeze(1)
        if len(averages):
            x[averages] = self.more.index_select(0, which[averages] - P)
        return x


def check(starts: tuple[Tensor, Tensor] | None) -> None:
    """Check what a caller gives to start from, but for its fit to the images attacked.

    Raises:
        InputError: no images, or labels of another number or dtype.
    """
    if starts is None:
        return
    images, labels = starts
    if not len(images) or labels.shape != (len(images),) or labels.dtype != torch.int64:
        raise InputError(
            "starts: expected images (M, ...) and int64 labels (M,), M at least 1, got "
            f"{tuple(images.shape)} and {labels.dtype} {tuple(labels.shape)}"
        )


def pool(starts: tuple[Tensor, Tensor] | None, trial: Trial) -> Pool:
    """Return the pool that a caller gave, or one of noise.

    Raises:
        InputError: images of another shape than those attacked.
        DataError: images that cannot be attacked; see `Model.check_inputs`.
    """
    clean = trial.clean
    if starts is None:
        noise = _pictures(trial, _PICTURES)
        if not len(noise):
            draw = rng.generator("starts", 0)
            noise = _in_box(trial, torch.rand(AT_FIRST, clean.shape[1], generator=draw, dtype=torch.float64))
        return Pool(noise, _unknown(noise))
    images, labels = starts
    if images.shape[1:] != trial.shape:
        raise InputError(
            f"starts: expected images of the shape of those attacked, {tuple(trial.shape)}, "
            f"got {tuple(images.shape[1:])}"
        )
    trial.model.check_inputs(images)
    return Pool(images.detach().to(clean).flatten(1), labels.to(clean.device))


def _pictures(trial: Trial, count: int) -> Tensor:
    """Return coarse noise (count, n) for images of shape (C, H, W), of seven pixels a side and more; else (0, n)."""
    shape = trial.shape
    if len(shape) != 3 or min(shape[1:]) < max(_SIDES):
        return trial.clean[:0]
    draw, pictures = rng.generator("starts", 0), []
    for i in range(count):
        side = _SIDES[i % len(_SIDES)]
        squares = torch.randint(0, 2, (1, shape[0], side, side), generator=draw).double()
        pictures.append(interpolate(squares, size=shape[1:], mode="bilinear", align_corners=False).flatten())
    return _in_box(trial, torch.stack(pictures))


def _in_box(trial: Trial, x: Tensor) -> Tensor:
    """Return points (k, n) of [0, 1] in the model's box, like the trial's images."""
    low, high = trial.model.box
    return (low + (high - low) * x).to(trial.clean)


def _unknown(points: Tensor) -> Tensor:
    """Return the labels (k,) of points (k, n) whose class is not known."""
    return torch.full((len(points),), -1, device=points.device)


def choose(trial: Trial, images: Tensor, given: Pool) -> Starts:
    """Return the starts of `images` (M,), of classes that may be reached alone."""
    points, labels = given.points, given.labels
    clean = trial.clean[images]
    M, P = len(images), len(points)
    if bool((labels < 0).all()):
        which = torch.arange(P, device=points.device).expand(M, -1)
        return Starts(AT_FIRST, points, points[:0], labels, which, _lengths(clean, points))
    first = min(AT_FIRST, trial.classes - 1)
    # A matrix product is many times as fast as exact distances, and off by rounding: it only chooses.
    distance = torch.cdist(clean, points, compute_mode="use_mm_for_euclid_dist")
    label, wanted = trial.labels[images], trial.wanted[images]
    classes = torch.unique(labels[(labels >= 0) & (labels < trial.classes)])
    if not len(classes):
        return choose(trial, images, pool(None, trial))
    allowed = torch.where(wanted[:, None] < 0, classes != label[:, None], classes == wanted[:, None])
    members = [(labels == c).nonzero().squeeze(1) for c in classes]
    nearest = torch.stack([distance[:, of].amin(1) for of in members], dim=1).masked_fill(~allowed, math.inf)
    near = nearest.argsort(1).argsort(1) < _CLASSES
    # By tier, image and class: how far the start is, and its number.
    lengths = clean.new_full((2 + _SINGLE, *nearest.shape), math.inf)
    numbers = torch.full(lengths.shape, -1, device=points.device)
    averages, of_class = [points[:0]], [labels]
    for place, of in enumerate(members):
        within = points.index_select(0, of)
        at = distance[:, of].topk(min(_SINGLE, len(of)), dim=1, largest=False).indices
        exact, by = _distances(clean, within[at]).masked_fill(~allowed[:, place, None], math.inf).sort(1)
        lengths[2 : 2 + at.shape[1], :, place], numbers[2 : 2 + at.shape[1], :, place] = exact.T, of[at.gather(1, by)].T
        rows = (allowed[:, place] & near[:, place]).nonzero().squeeze(1)
        for tier, (x, own) in enumerate(_averages(distance[rows][:, of], within) if len(rows) else ()):
            lengths[tier, rows, place] = torch.linalg.vector_norm(x[own] - clean[rows], dim=1)
            numbers[tier, rows, place] = sum(map(len, of_class)) + own
            averages.append(x)
            of_class.append(classes[place].expand(len(x)))
    # From near to far in each tier, the likeliest classes of all tiers before the others, and what is no start last.
    lengths, by = lengths.sort(2)
    numbers = numbers.gather(2, by)
    z = trial.z[images].scatter(1, label[:, None], -math.inf)
    likely = (z.argsort(1, descending=True).argsort(1)[:, classes] < _LIKELIEST).expand_as(by).gather(2, by)
    late = lengths.isinf() * 2 + ~likely
    lengths, numbers, late = (each.transpose(0, 1).flatten(1) for each in (lengths, numbers, late))
    by = late.argsort(dim=1, stable=True)
    lengths, order = lengths.gather(1, by), numbers.gather(1, by)
    order = order.masked_fill(lengths.isinf(), -1)
    noise = _pictures(trial, _WITH_IMAGES)
    which = sum(map(len, of_class)) + torch.arange(len(noise), device=points.device).expand(M, -1)
    order = torch.cat([order[:, :first], which, order[:, first:]], dim=1)
    lengths = torch.cat([lengths[:, :first], _lengths(clean, noise), lengths[:, first:]], dim=1)
    more, labels = torch.cat([*averages, noise]), torch.cat([*of_class, _unknown(noise)])
    return Starts(first, points, more, labels, order, lengths)


def _averages(distance: Tensor, within: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return averages of one class with the one that each of m images has, (m,): of its nearest part, and of all.

    Args:
        distance: (m, c) from each image to those of the class.
        within: (c, n) these.
    """
    m, size = distance.shape
    if size == 1:  # an average of one is that one
        return []
    # In double: a product of another size rounds differently, and no image may change where another starts.
    wide = within.double()
    own = torch.arange(m, device=within.device)
    everything = wide.mean(0, keepdim=True).to(within), torch.zeros_like(own)
    count = max(_LEAST, size // _SHARE)
    if count >= size:
        return [everything]
    nearest = distance.topk(count, dim=1, largest=False).indices
    weights = torch.zeros_like(distance, dtype=torch.float64).scatter_(1, nearest, 1 / count)
    return [((weights @ wide).to(within), own), everything]


def _lengths(clean: Tensor, points: Tensor) -> Tensor:
    """Return the distances (M, P) of points (P, n), the same for all, from images (M, n)."""
    length: Tensor = torch.cdist(clean, points, compute_mode="donot_use_mm_for_euclid_dist")
    return length


def _distances(clean: Tensor, points: Tensor) -> Tensor:
    """Return the distances (M, k) of points (M, k, n) from images (M, n)."""
    length: Tensor = torch.linalg.vector_norm(points - clean[:, None], dim=2)
    return length

"""Images read shard by shard: as many as wanted in the memory of one shard.

`sources.load` decodes a set whole and keeps it; a `Stream` decodes the images of a range when they are asked for and
keeps nothing. Labels are all there from the start, since they are small.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from intriguing.data import sources
from intriguing.data.images import stack
from intriguing.data.rows import Rows
from intriguing.data.sets import ImageSet
from intriguing.data.split import sample
from intriguing.errors import DataError, InputError
from intriguing.rng import generator


@dataclass(frozen=True)
class Stream:
    """Labelled images that are decoded when they are asked for.

    Attributes:
        name: what the user called the set.
        split: of the set.
        labels: (N,) int64.
        classes: the name of each class, by label. Untrusted text.
        positions: (N,) int64, where in the set each image stands.
        shape: (C, H, W) of one image.
        read: ids (n,) int64, from 0 to N - 1 -> images (n, C, H, W) float32 in [0, 1].
        notes: how the set was made, in sentences by topic.
        size: the side they are brought to; None where they are as they were.
    """

    name: str
    split: str
    labels: Tensor
    classes: tuple[str, ...]
    positions: Tensor
    shape: tuple[int, ...]
    read: Callable[[Tensor], Tensor] = field(repr=False)
    notes: Mapping[str, str] = field(default_factory=dict)
    size: int | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def piece(self, start: int, stop: int) -> Tensor:
        """Return the images `start` to `stop` - 1, (stop - start, C, H, W) float32 in [0, 1]."""
        return self.read(torch.arange(start, stop))


def stream(
    name: str,
    split: str,
    *,
    images: int | None = None,
    seed: int = 0,
    size: int | None = None,
    otherwise: int | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> Stream:
    """Open one split of a set of images for reading in pieces.

    Args:
        name: as in `data.load`.
        split: likewise.
        images: how many, drawn in proportion to the classes; None: all.
        seed: draws them.
        size: side in pixels, as in `data.load`; images of several sizes need it, or the next.
        otherwise: the side for images that differ in size where `size` is None; to know, images are decoded until
            two differ.
        data_dir: folder of sets; None means the environment's `INTRIGUING_DATA`, if set.

    Raises:
        UnknownNameError, InputError, DataError: as `data.load`; images that cannot be read, or differ in size or
            in channels, are met when their piece is read.

    Example:
        >>> stream("digits", "test", images=100).piece(0, 10).shape
        torch.Size([10, 1, 8, 8])
    """
    rows = sources.opened(name, split, data_dir=data_dir, size=size)
    chosen = _chosen(rows.labels, images, seed, name)
    if size is None and otherwise is not None and _differ(rows, chosen):
        size = otherwise

    def pixels(ids: Tensor) -> Tensor:
        with sources.reading():
            return sources.tensor(stack(rows.pictures(chosen[ids]), size).pixels)

    shape = pixels(torch.tensor([0])).shape[1:]

    def read(ids: Tensor) -> Tensor:
        found = pixels(ids)
        if shape[0] == 3 and found.shape[1] == 1:  # grey among colour, as in a set that is loaded whole
            found = found.expand(-1, 3, -1, -1).contiguous()
        if found.shape[1:] != shape:
            raise DataError(
                f"{name}: images {int(ids.min())} to {int(ids.max())} are {tuple(found.shape[1:])} (channels, height, "
                f"width), the first is {tuple(shape)}; pass --size for images of several sizes, and convert grey "
                "images among colour ones to RGB"
            )
        return found

    return Stream(name, split, rows.labels[chosen], rows.classes, chosen, tuple(shape), read, dict(rows.notes), size)


def of(images: ImageSet, *, count: int | None = None, seed: int = 0) -> Stream:
    """Return a set in memory as a stream.

    Args:
        images: the set.
        count: how many images, drawn in proportion to the classes; None: all.
        seed: draws them.
    """
    chosen = _chosen(images.labels, count, seed, images.name)
    return Stream(
        images.name,
        images.split,
        images.labels[chosen],
        images.classes,
        chosen,
        tuple(images.images.shape[1:]),
        lambda ids: images.images[chosen[ids]],
        images.notes,
    )


def _differ(rows: Rows, chosen: Tensor) -> bool:
    """Tell whether images differ in height or width; one at a time, and no further than the first that does."""
    with sources.reading():
        shapes = (picture.pixels.shape[:2] for picture in rows.pictures(chosen))
        first = next(shapes)
        return any(shape != first for shape in shapes)


def _chosen(labels: Tensor, images: int | None, seed: int, name: str) -> Tensor:
    total = len(labels)
    if images is None or images == total:
        return torch.arange(total)
    if not 1 <= images <= total:
        raise InputError(
            f"images: expected 1 to {total}, the size of {name!r}, got {images}; leave --images out for all of them"
        )
    return sample(labels, images, generator("audit/images", seed))

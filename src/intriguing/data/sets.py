"""A labelled set of images in memory, checked once and known by the hash of its content."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from intriguing.errors import DataError, InputError

_SHOWN = 5  # how many offending rows a message names before it counts the rest


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images.

    Attributes:
        name: what the user called the set.
        split: ``"train"``, ``"test"``, or another split of its source.
        images: (N, C, H, W) float32 in [0, 1], on the CPU.
        labels: (N,) int64, from 0 to the number of classes - 1.
        classes: the name of each class, by label. Untrusted text.
        hash: 32 hex digits of the SHA-256 of pixels, labels, class names and how the images were resized.
            Name and split are not part of it: the same images under two names are the same images.
        notes: how the set was made, in sentences by topic (``"source"``, ``"resized"``, ...).
    """

    name: str
    split: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    hash: str
    notes: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.images.shape[0]


def from_tensors(
    images: Tensor,
    labels: Tensor,
    classes: Sequence[str] | None = None,
    *,
    name: str = "tensors",
    split: str = "test",
) -> ImageSet:
    """Make a set of a user's tensors, after checking them.

    Args:
        images: (N, C, H, W), N, C, H and W at least 1; a floating dtype with values in [0, 1], or uint8 with
            255 for white. Copied.
        labels: (N,) of an integer dtype, at least 0. Copied.
        classes: the name of each class, by label; ``None`` names them ``"0"``, ``"1"``, ... up to the largest
            label. Names must differ.
        name: what to call the set.
        split: what to call the split.

    Returns:
        The set, on the CPU, with float32 pixels.

    Raises:
        InputError: a tensor has the wrong shape or dtype, or class names repeat.
        DataError: a pixel is NaN, infinite or outside [0, 1], or a label is out of range; rows are named.

    Example:
        >>> from_tensors(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1])).classes
        ('0', '1')
    """
    _check_shapes(images, labels)
    if images.dtype == torch.uint8:
        pixels = images.detach().cpu().to(torch.float32).div_(255)
    else:
        # Checked before the cast: 1 + 1e-9 in float64 is outside the box, though it rounds to 1.
        check_pixels(images.detach().cpu(), "images")
        # Adding zero turns -0 into 0, so that equal pixels have equal bytes and one hash.
        pixels = images.detach().cpu().to(torch.float32, copy=True).add_(0.0)
    numbers = labels.detach().cpu().to(torch.int64, copy=True)
    if classes is None:
        classes = [str(label) for label in range(max(0, int(numbers.max())) + 1)]
    try:
        named = class_names(classes, "classes")
    except DataError as error:
        raise InputError(str(error)) from None
    check_labels(numbers, named, "labels")
    return assemble(name, split, pixels, numbers, named, recipe="", notes={"source": "tensors in memory"})


def assemble(
    name: str,
    split: str,
    images: Tensor,
    labels: Tensor,
    classes: tuple[str, ...],
    *,
    recipe: str,
    notes: Mapping[str, str],
) -> ImageSet:
    """Return the set of checked parts, with its hash; `recipe` says how images were resized, if they were."""
    images = images.contiguous()
    return ImageSet(name, split, images, labels, classes, content_hash(images, labels, classes, recipe), dict(notes))


def content_hash(images: Tensor, labels: Tensor, classes: Sequence[str], recipe: str = "") -> str:
    """Return 32 hex digits that change with any pixel, label, class name, shape or resize recipe.

    Args:
        images: (N, C, H, W) float32, on the CPU.
        labels: (N,) int64, on the CPU.
        classes: class names.
        recipe: how the images were resized; empty if they were not.

    Example:
        >>> len(content_hash(torch.zeros(1, 1, 1, 1), torch.zeros(1, dtype=torch.int64), ["a"]))
        32
    """
    head = json.dumps({"shape": list(images.shape), "classes": list(classes), "recipe": recipe}, sort_keys=True)
    digest = hashlib.sha256(head.encode() + b"\x00")
    # "<f4" and "<i8": the same bytes on a machine of the other byte order.
    digest.update(images.contiguous().numpy().astype("<f4", copy=False).data)
    digest.update(labels.contiguous().numpy().astype("<i8", copy=False).data)
    return digest.hexdigest()[:32]


def class_names(names: object, where: str) -> tuple[str, ...]:
    """Return class names as distinct texts that can be written as UTF-8.

    Undecodable characters (a folder name of stray bytes, a lone surrogate) become ``?``.

    Raises:
        DataError: not a list of texts, empty, or with a repetition; `where` says whose names they are.
    """
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{where}: class names must be a list of at least one text, got {shorten(names)}")
    clean = tuple(name.encode("utf-8", "replace").decode("utf-8") for name in names)
    twice = sorted({name for name in clean if clean.count(name) > 1})
    if twice:
        raise DataError(f"{where}: class name {shorten(twice[0])} appears more than once; names must differ")
    return clean


def check_labels(labels: Tensor, classes: tuple[str, ...], where: str) -> None:
    """Raise DataError if a label does not name a class."""
    wrong = ((labels < 0) | (labels >= len(classes))).nonzero().flatten().tolist()
    if wrong:
        raise DataError(
            f"{where}: labels must lie between 0 and {len(classes) - 1} ({len(classes)} classes), "
            f"got {int(labels[wrong[0]])} in {rows(wrong)}"
        )


def check_pixels(images: Tensor, where: str) -> None:
    """Raise DataError if a pixel of (N, ...) floats is NaN, infinite or outside [0, 1]."""
    flat = images.reshape(images.shape[0], -1)
    wild = (~flat.isfinite()).any(dim=1).nonzero().flatten().tolist()
    if wild:
        raise DataError(f"{where}: pixels must be finite, got NaN or infinity in {rows(wild)}; mend or drop them")
    low, high = flat.amin(dim=1), flat.amax(dim=1)
    outside = ((low < 0) | (high > 1)).nonzero().flatten().tolist()
    if outside:
        raise DataError(
            f"{where}: pixels must lie in [0, 1], got values from {float(low.min()):g} to "
            f"{float(high.max()):g} in {rows(outside)}; scale them first (divide 8-bit values by 255)"
        )


def rows(ids: Sequence[int]) -> str:
    """Return ``"rows 1, 4, 7"``, the rest counted when there are many."""
    shown = ", ".join(str(i) for i in ids[:_SHOWN])
    rest = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return f"row{'s' if len(ids) > 1 else ''} {shown}{rest}"


def shorten(value: object) -> str:
    """Return untrusted text safe for a message: quoted, control characters escaped, at most 80 long."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def quoted(path: str | bytes | os.PathLike[Any]) -> str:
    """Return a path safe for a message: whole, quoted, control and undecodable characters escaped."""
    return repr(os.fsdecode(path))


def folder_name(name: str) -> str:
    """Return a set's name, perhaps a path or an address, as one that a folder can have.

    Example:
        >>> folder_name("hub:owner/name")
        'hub-owner-name'
    """
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name).strip("-.") or "data"


def _check_shapes(images: Tensor, labels: Tensor) -> None:
    for argument, value in (("images", images), ("labels", labels)):
        if not isinstance(value, Tensor):
            raise InputError(f"{argument} must be a torch tensor, got {type(value).__name__}")
    if images.ndim != 4 or 0 in images.shape:
        hint = "; add the channel axis with images.unsqueeze(1)" if images.ndim == 3 else ""
        raise InputError(f"images must be (N, C, H, W) with no empty axis, got {tuple(images.shape)}{hint}")
    if not images.is_floating_point() and images.dtype != torch.uint8:
        raise InputError(f"images must be floats in [0, 1] or uint8, got {images.dtype}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputError(f"labels must be integers, got {labels.dtype}")
    if labels.shape != images.shape[:1]:
        raise InputError(f"labels must be ({images.shape[0]},), one per image, got {tuple(labels.shape)}")

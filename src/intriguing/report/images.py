"""Images inside the page: PNG data URIs under a byte budget, small ones kept pixel by pixel."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

# An image this small is shown with hard pixels, so that every change to it can be seen.
_PIXELATED = 96
# A picture is never shrunk below this side; smaller would show nothing.
_SMALLEST = 48


@dataclass(frozen=True)
class Picture:
    """An image ready for an ``<img>``.

    Attributes:
        uri: ``data:image/png;base64,...``.
        width: pixels stored, not pixels shown.
        height: likewise.
        pixels: whether to show hard pixel edges.
        reduced: the factor by which it was shrunk to keep the page small; 1 if it was not.
    """

    uri: str
    width: int
    height: int
    pixels: bool
    reduced: int


def pick(tensors: Mapping[str, torch.Tensor], reference: object) -> torch.Tensor | None:
    """Return the image a gallery refers to, (C, H, W), or None if there is no such image.

    Args:
        tensors: a record's tensors, each (N, C, H, W) in [0, 1].
        reference: ``{"tensor": name, "index": i}``.
    """
    if not isinstance(reference, Mapping):
        return None
    stack, index = tensors.get(str(reference.get("tensor"))), reference.get("index", 0)
    if stack is None or not isinstance(index, int) or stack.ndim != 4 or not 0 <= index < len(stack):
        return None
    return stack[index] if stack.shape[1] in (1, 3) and stack[index].numel() else None


def encode(image: torch.Tensor, *, budget: int) -> Picture:
    """Return an image as a PNG data URI of at most `budget` bytes, if halving its sides can reach that.

    Args:
        image: (C, H, W) with C 1 or 3, in [0, 1]; values outside are clamped, NaN is black.
        budget: bytes of the URI. The image is halved until it fits or is about 48 pixels wide.

    Example:
        >>> encode(torch.zeros(1, 8, 8), budget=10_000).pixels
        True
    """
    array = np.nan_to_num(image.detach().to("cpu", torch.float64).numpy()).clip(0, 1)
    eight = np.rint(array * 255).astype(np.uint8)
    picture = Image.fromarray(eight[0] if len(eight) == 1 else np.ascontiguousarray(eight.transpose(1, 2, 0)))
    factor, uri = 1, _uri(picture)
    while len(uri) > budget and min(picture.size) // (2 * factor) >= _SMALLEST:
        factor *= 2
        uri = _uri(picture.reduce(factor))
    small = picture if factor == 1 else picture.reduce(factor)
    return Picture(uri, small.width, small.height, max(picture.size) <= _PIXELATED, factor)


class Album:
    """Encodes the images of one page, so that together they stay under a budget.

    Each image may take an equal share of what is left; one that even at its smallest would break the budget
    is left out.
    """

    def __init__(self, budget: int, expected: int) -> None:
        """Take the budget in bytes and how many images are to come."""
        self._left, self._expected = budget, expected

    def add(self, image: torch.Tensor | None) -> Picture | None:
        """Return the image encoded, or None if there is no image or no room for it."""
        share = self._left // max(1, self._expected)
        self._expected -= 1
        if image is None:
            return None
        picture = encode(image, budget=share)
        if len(picture.uri) > self._left:
            return None
        self._left -= len(picture.uri)
        return picture


def _uri(picture: Image.Image) -> str:
    """Return a picture as a PNG data URI."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def total(figures: list[Mapping[str, Any]]) -> int:
    """Return how many images the galleries among `figures` ask for."""
    galleries = [f for f in figures if f.get("kind") == "gallery"]
    rows = [r for f in galleries for g in f.get("groups") or () for r in g.get("rows") or ()]
    return sum(len(r.get("images") or ()) for r in rows)

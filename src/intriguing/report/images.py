"""Images inside the page: data URIs under a byte budget, digits pixel by pixel, photographs smooth.

Digits, and every row that sets an image beside a changed one, are stored without loss: a codec that is allowed to
lose what the eye does not see would lose the adversarial change itself. Other photographs are stored as WebP.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

# An image this small is shown with hard pixels, so that every change to it can be seen; one in colour only if it
# is so small that smoothing would leave a blur.
_PIXELATED, _PIXELATED_COLOUR = 96, 40
# A picture is never shrunk below this side; smaller would show nothing.
_SMALLEST = 48
# Steps of WebP's quality, the first where nothing has to be saved.
_QUALITIES = (88, 74)
# Two images of a row that lie this near, in rms pixel change, are an original and its changed version.
_NEAR = 0.08


@dataclass(frozen=True)
class Picture:
    """An image ready for an ``<img>``.

    Attributes:
        uri: ``data:image/png;base64,...`` or ``data:image/webp;base64,...``.
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


def row(tensors: Mapping[str, torch.Tensor], references: object) -> list[torch.Tensor | None]:
    """Return the images of one row or card, None where there is none."""
    return [pick(tensors, r) for r in references] if isinstance(references, Sequence) else []


def rows(figures: Iterable[Mapping[str, Any]], tensors: Mapping[str, torch.Tensor]) -> list[list[torch.Tensor | None]]:
    """Return all rows of images that the galleries and cards among a record's `figures` ask for."""
    found = []
    for figure in figures:
        if figure.get("kind") == "gallery":
            found += [r.get("images") for g in figure.get("groups") or () for r in g.get("rows") or ()]
        if figure.get("kind") == "cards":
            found += [card.get("images") for card in figure.get("cards") or ()]
    return [row(tensors, references) for references in found]


def compares(images: Sequence[torch.Tensor | None]) -> bool:
    """Whether a row sets an image beside a slightly changed one, as adversarial examples are shown."""
    known = [i.detach().to("cpu", torch.float32) for i in images if i is not None]
    pairs = [(a, b) for k, a in enumerate(known) for b in known[k + 1 :] if a.shape == b.shape]
    return any(0 < float((a - b).square().mean().sqrt()) <= _NEAR for a, b in pairs)


def encode(image: torch.Tensor, *, budget: int, lossless: bool = False) -> Picture:
    """Return an image as a data URI of at most `budget` bytes, if saving can reach that.

    Args:
        image: (C, H, W) with C 1 or 3, in [0, 1]; values outside are clamped, NaN is black.
        budget: bytes of the URI. The image is halved until it fits or is about 48 pixels wide; a photograph first
            loses quality.
        lossless: whether a photograph must keep every pixel.

    Example:
        >>> encode(torch.zeros(1, 8, 8), budget=10_000).pixels
        True
    """
    return _encode(_eight(image), budget, lossless)


def _eight(image: torch.Tensor) -> NDArray[np.uint8]:
    """Return an image in 8 bits, (C, H, W)."""
    array = np.nan_to_num(image.detach().to("cpu", torch.float64).numpy()).clip(0, 1)
    eight: NDArray[np.uint8] = np.rint(array * 255).astype(np.uint8)
    return eight


def _encode(eight: NDArray[np.uint8], budget: int, lossless: bool) -> Picture:
    picture = Image.fromarray(eight[0] if len(eight) == 1 else np.ascontiguousarray(eight.transpose(1, 2, 0)))
    pixels = max(picture.size) <= (_PIXELATED if len(eight) == 1 else _PIXELATED_COLOUR)
    factor, small = 1, picture
    while True:
        for quality in (None,) if pixels or lossless else _QUALITIES:
            uri = _uri(small, quality)
            if len(uri) <= budget:
                break
        if len(uri) <= budget or min(picture.size) // (2 * factor) < _SMALLEST:
            return Picture(uri, small.width, small.height, pixels, factor)
        factor *= 2
        small = picture.reduce(factor)


class Album:
    """Encodes the images of one page, so that together they stay under a budget.

    What all of them would like to take is known beforehand. Where that is too much, each may take its share of what
    is left; one that even at its smallest would break the budget is left out.
    """

    def __init__(self, budget: int, expected: Iterable[Sequence[torch.Tensor | None]]) -> None:
        """Take the budget in bytes and all rows of images that are to come."""
        self._left, self._budget = budget, budget
        self._known: dict[tuple[bytes, bool], Picture] = {}
        self._wanted = sum(len(p.uri) for images in expected for p in self._wishes(images) if p)

    def add(self, images: Sequence[torch.Tensor | None]) -> list[Picture | None]:
        """Return a row of images encoded, None where there is no image or no room for it."""
        lossless = compares(images)
        wishes = self._wishes(images)
        return [
            None if i is None or w is None else self._fit(i, w, lossless) for i, w in zip(images, wishes, strict=True)
        ]

    def _wishes(self, images: Sequence[torch.Tensor | None]) -> list[Picture | None]:
        """Return a row encoded as if there were room for everything; the same image is encoded once."""
        lossless = compares(images)
        found: list[Picture | None] = []
        for image in images:
            if image is None:
                found.append(None)
                continue
            eight = _eight(image)
            key = (hashlib.sha256(repr(eight.shape).encode() + eight.tobytes()).digest(), lossless)
            if key not in self._known:
                self._known[key] = _encode(eight, self._budget, lossless)
            found.append(self._known[key])
        return found

    def _fit(self, image: torch.Tensor, wish: Picture, lossless: bool) -> Picture | None:
        """Return an image at its wish, or smaller if the page cannot grant everybody's."""
        share = self._left * len(wish.uri) // max(1, self._wanted)
        self._wanted -= len(wish.uri)
        picture = wish if len(wish.uri) <= share else encode(image, budget=share, lossless=lossless)
        if len(picture.uri) > self._left:
            return None
        self._left -= len(picture.uri)
        return picture


def _uri(picture: Image.Image, quality: int | None) -> str:
    """Return a picture as a data URI: PNG, or WebP at a quality."""
    buffer = io.BytesIO()
    if quality is None:
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "WEBP", quality=quality, method=4)
    kind = "png" if quality is None else "webp"
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")

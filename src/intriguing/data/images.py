"""From the bytes of an image file to an array of pixels, and from many arrays to one block of equal size.

What becomes of the kinds of image there are:

- grey (8 bit, or black and white) stays one channel; RGB stays three;
- 16-bit grey becomes floats, value / 65535; a float TIFF must already lie in [0, 1];
- 16-bit colour is read by Pillow with 8 bits, the high ones;
- palette images, CMYK and other colour spaces become RGB;
- transparency is composited over white, as a page shows it;
- a set that mixes grey and colour becomes RGB throughout;
- the orientation a camera recorded is applied; of an animation the first frame is taken.

The notes of a set count what was converted.
"""

from __future__ import annotations

import io
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from intriguing.data.sets import shorten
from intriguing.errors import DataError

Pixels = NDArray[Any]  # uint8 in 0..255 or float32 in [0, 1]

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"))
# Only formats that Pillow decodes by itself: EPS, for one, would start another program on an untrusted file.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_PNG = b"\x89PNG\r\n\x1a\n"
_ALPHA = ("LA", "PA", "RGBA", "La", "RGBa")
_GREY = ("1", "L", "LA", "La")


class Picture(NamedTuple):
    """One decoded image: (H, W) or (H, W, 3) pixels, where they came from, what was converted."""

    pixels: Pixels
    where: str
    converted: str = ""


@dataclass(frozen=True)
class Block:
    """Images of one size.

    Attributes:
        pixels: (N, H, W) or (N, H, W, C), uint8 or float32 as in `Picture`.
        recipe: how they were resized; empty if none was.
        notes: the same and what was converted, in sentences.
    """

    pixels: Pixels
    recipe: str
    notes: dict[str, str]


def decode(data: bytes, where: str) -> Picture:
    """Decode the bytes of one image file.

    Args:
        data: the whole file.
        where: what a message calls it.

    Raises:
        DataError: empty, not an image of a known format, truncated or damaged, or float pixels out of range.
            A PNG is held to its checksums. A JPEG has none: damage that still decodes goes unnoticed.
    """
    if not data:
        raise DataError(f"{where} is empty; restore it or take it away")
    if data.startswith(_PNG) and not _checksums_hold(data):
        raise DataError(f"{where} is damaged (a PNG checksum fails); restore it or take it away")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
            opened.load()
            turned = opened.format != "PNG" or "exif" in opened.info  # asking every PNG would cost a third
            pixels, converted = _pixels(ImageOps.exif_transpose(opened) if turned else opened)
    except Exception as error:
        # Pillow's readers raise whatever their parsing meets: OSError, SyntaxError, struct.error, KeyError.
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "unknown format" if unknown else shorten(str(error))
        raise DataError(f"{where} cannot be read as an image ({reason}); restore it or take it away") from error
    return Picture(pixels, where, converted)


def stack(pictures: Iterable[Picture], size: int | None, otherwise: int | None = None) -> Block:
    """Bring images to one size and kind.

    Args:
        pictures: at least one.
        size: side of the square wanted: the shorter side is resized to it (bilinear, antialiased when it
            shrinks), then the middle cropped. None keeps images as they are; they must agree.
        otherwise: the size to bring them to if they do not agree and `size` is None.

    Raises:
        DataError: no images, or sizes differ and neither size is given; the sizes seen are listed.
    """
    arrays: list[Pixels] = []
    converted: Counter[str] = Counter()
    sizes: Counter[tuple[int, int]] = Counter()
    resized = 0
    for pixels, _, what in pictures:
        shape = pixels.shape[:2]
        sizes[shape] += 1
        if what:
            converted[what] += 1
        if size is not None and shape != (size, size):
            resized += 1
            pixels = _fit(pixels, size)
        arrays.append(pixels)
    if not arrays:
        raise DataError("there are no images")
    if size is None and len(sizes) > 1 and otherwise is not None:
        size, resized = otherwise, sum(array.shape[:2] != (otherwise, otherwise) for array in arrays)
        arrays = [a if a.shape[:2] == (otherwise, otherwise) else _fit(a, otherwise) for a in arrays]
    elif size is None and len(sizes) > 1:
        raise DataError(
            f"images differ in size ({_listed(sizes)}; width x height); pass --size (size=... in Python) "
            f"to resize the shorter side and crop the middle, for example --size {_suggested(sizes)}"
        )
    arrays, greys = _alike(arrays)
    if greys:
        converted["grey to RGB, as others are in colour"] += greys
    notes = {}
    recipe = ""
    if resized:
        recipe = f"shorter side to {size}, bilinear, antialiased; centre crop {size} x {size}"
        notes["resized"] = f"{resized} of {len(arrays)} images: {recipe}; sizes before: {_listed(sizes)}"
    if converted:
        notes["converted"] = "; ".join(
            f"{count} of {len(arrays)} images: {what}" for what, count in sorted(converted.items())
        )
    return Block(np.stack(arrays), recipe, notes)


def _checksums_hold(data: bytes) -> bool:
    """Walk the chunks of a PNG (length, type, data, CRC); Pillow does not check the CRC of image data."""
    at = len(_PNG)
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return False
        if data[at + 4 : at + 8] == b"IEND":
            return True
        at = end + 4
    return False


def _pixels(image: Image.Image) -> tuple[Pixels, str]:
    """Return pixels and, if the image was not plain 8-bit grey or RGB, what was done."""
    mode = image.mode
    if mode in _ALPHA or ("transparency" in image.info and mode in ("1", "L", "P", "RGB")):
        flat = image.convert("LA") if mode == "La" else image
        flat = flat.convert("RGBA")
        white = Image.new("RGBA", flat.size, (255, 255, 255, 255))
        merged = Image.alpha_composite(white, flat).convert("L" if mode in _GREY else "RGB")
        return np.asarray(merged), "transparency composited over white"
    if mode in ("L", "RGB"):
        return np.asarray(image), ""
    if mode == "1":
        return np.asarray(image.convert("L")), ""
    if mode == "I" or mode.startswith("I;16"):
        return _scaled(np.asarray(image), 65535), "16-bit grey, value / 65535"
    if mode == "F":
        return _scaled(np.asarray(image), 1), "float pixels"
    return np.asarray(image.convert("RGB")), f"{'palette' if mode == 'P' else mode} to RGB"


def _scaled(values: Pixels, white: int) -> Pixels:
    scaled = (values.astype(np.float64) / white).astype(np.float32)
    if not (np.isfinite(scaled).all() and scaled.min() >= 0 and scaled.max() <= 1):
        raise ValueError(f"pixel values must be finite and lie in 0..{white}")
    return scaled


def _fit(pixels: Pixels, size: int) -> Pixels:
    """Resize the shorter side to `size` and crop the middle."""
    height, width = pixels.shape[:2]
    short = min(height, width)
    new = (max(size, round(width * size / short)), max(size, round(height * size / short)))
    left, top = (new[0] - size) // 2, (new[1] - size) // 2
    crop = (left, top, left + size, top + size)

    def resize(plane: Pixels) -> Pixels:
        small = Image.fromarray(plane).resize(new, Image.Resampling.BILINEAR).crop(crop)
        return np.asarray(small)

    if pixels.dtype == np.uint8:
        return resize(pixels)
    # Pillow resizes floats one channel at a time. Bilinear weights are positive: the clip trims rounding.
    planes = [pixels] if pixels.ndim == 2 else [pixels[:, :, c] for c in range(pixels.shape[2])]
    fitted = [resize(np.ascontiguousarray(plane, np.float32)).clip(0, 1) for plane in planes]
    return fitted[0] if pixels.ndim == 2 else np.stack(fitted, axis=2)


def _alike(arrays: list[Pixels]) -> tuple[list[Pixels], int]:
    """Return arrays of one dtype and one number of channels, and how many greys were made RGB."""
    if len({array.dtype for array in arrays}) > 1:
        arrays = [a if a.dtype == np.float32 else a.astype(np.float32) / np.float32(255) for a in arrays]
    grey = [array.ndim == 2 for array in arrays]
    if all(grey) or not any(grey):
        return arrays, 0
    return [np.repeat(a[:, :, None], 3, axis=2) if g else a for a, g in zip(arrays, grey, strict=True)], sum(grey)


def _listed(sizes: Counter[tuple[int, int]]) -> str:
    shown = ", ".join(f"{width}x{height} ({count})" for (height, width), count in sizes.most_common(6))
    return shown + (f" and {len(sizes) - 6} more sizes" if len(sizes) > 6 else "")


def _suggested(sizes: Counter[tuple[int, int]]) -> int:
    """Return a size no image has to be enlarged for, a small net's 64 at most."""
    return min(64, *(min(shape) for shape in sizes))

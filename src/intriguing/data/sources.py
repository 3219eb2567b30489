"""From the name of a set to its images: the user's folder first, then the cache, then the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from intriguing.data import cache, digits, hub, local
from intriguing.data.images import Pixels, stack
from intriguing.data.rows import Place, Rows
from intriguing.data.sets import ImageSet, assemble, content_hash, quoted, shorten
from intriguing.data.split import sample
from intriguing.errors import DataError, InputError, UnknownNameError
from intriguing.rng import generator

FOLDER = "INTRIGUING_DATA"  # the environment variable that names the user's folder of sets

_LARGEST = 4096  # a side beyond this is a slip of the keyboard, and its memory nobody has
_COMPLETE = {"cifar10": {"train": 50_000, "test": 10_000}}

_DESCRIBED = {
    "digits": "1,797 scans of handwritten digits, 8x8 grey, embedded (scikit-learn)",
    "mnist": "70,000 handwritten digits, 28x28 grey (from the hub: ylecun/mnist)",
    "cifar10": "60,000 small photographs, 32x32 RGB, 10 classes (from the hub: uoft-cs/cifar10)",
}


def load(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    size: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    otherwise: int | None = None,
) -> ImageSet:
    """Load one split of a set of images.

    Args:
        name: ``"digits"`` (embedded); the name of a folder in `data_dir` that holds ``SPLIT.parquet`` or
            ``SPLIT/CLASS/IMAGE``, or without splits ``CLASS/IMAGE``; ``"mnist"`` or ``"cifar10"`` (complete, from the
            hub if no folder has them); ``"hub:owner/name"``; or the path of a folder of that form, with a slash in it.
        split: ``"train"``, ``"test"``, or another split the source has.
        data_dir: folder of sets; None means the environment's `INTRIGUING_DATA`, if set.
        size: side in pixels of the square images wanted, 1 to 4096: shorter side resized (bilinear,
            antialiased), middle cropped. None keeps the images as they are; they must then agree in size.
        cache_dir: where decoded images are kept; None means ``$XDG_CACHE_HOME/intriguing`` or
            ``~/.cache/intriguing``.
        limit: at most this many images, drawn in proportion to the classes, always the same ones. None: all.
        otherwise: the side for images that differ in size where `size` is None, for example the one a model wants.

    Returns:
        The set: images (N, C, H, W) float32 in [0, 1], C 1 for grey and 3 for colour.

    Raises:
        UnknownNameError: no set, or no split of the digits, of that name; the nearest one is suggested.
        InputError: an argument out of range.
        DataError: files that are missing, empty, damaged, ambiguous or out of range; images of several sizes
            without `size` or `otherwise`; or a set found in none of the three places.

    Example:
        >>> load("digits", "test").images.shape
        torch.Size([500, 1, 8, 8])
    """
    _check(name, split, size, limit)
    entries = cache.folder(cache_dir)
    with reading():
        place = _find(name, split, data_dir)
        # The name is part of the key because what a name promises is checked when its images are decoded.
        facts = {"size": size, "limit": limit} | ({} if otherwise is None else {"otherwise": otherwise})
        key = cache.key(place=place.fingerprint(), name=name, tools=_tools(), **facts)
        found = _cached(entries, key, name, split)
        return found or _decoded(entries, key, name, split, place.open(), size, limit, otherwise)


def names(data_dir: str | os.PathLike[str] | None = None) -> dict[str, str]:
    """Return the sets that can be loaded by name, each with one line on it.

    Args:
        data_dir: folder of sets; None means the environment's `INTRIGUING_DATA`, if set.

    Returns:
        Name -> description; a set in the folder stands in for one of the hub of the same name. Names of
        folders are untrusted text.

    Raises:
        DataError: `data_dir` is no folder or cannot be listed.

    Example:
        >>> "digits" in names()
        True
    """
    known = dict(_DESCRIBED)
    with reading():
        for root in _listed(_folder(data_dir)):
            line = local.describe(root)
            if line is not None and root.name != "digits":
                known[root.name] = f"{line} (from {os.fsdecode(root)})"
    return known


def opened(name: str, split: str, *, data_dir: str | os.PathLike[str] | None = None, size: int | None = None) -> Rows:
    """Return the labels of a split and a way to decode its images piece by piece; nothing is cached.

    Args:
        name: as in `load`.
        split: likewise.
        data_dir: likewise.
        size: what the caller will ask for; only checked.

    Raises:
        UnknownNameError, InputError, DataError: as `load`.
    """
    _check(name, split, size, None)
    with reading():
        place = _find(name, split, data_dir)
        rows = place.in_pieces() if isinstance(place, local.ParquetFile) else place.open()
    _check_complete(name, split, len(rows.labels))
    return rows


@contextmanager
def reading() -> Iterator[None]:
    """Turn the system's refusals into our error, the file named."""
    try:
        yield
    except OSError as error:
        named = f" {quoted(error.filename)}" if error.filename else ""
        raise DataError(f"cannot read{named}: {error.strerror or error}") from error


def _check(name: str, split: str, size: int | None, limit: int | None) -> None:
    if not isinstance(name, str) or not name or "\0" in name:
        raise InputError(f"the name of a data set must be a text, got {shorten(name)}")
    if not re.fullmatch(r"\w[\w.-]*", split, re.ASCII):
        raise InputError(f"split must be a plain name like 'train', got {shorten(split)}")
    if size is not None and not (type(size) is int and 1 <= size <= _LARGEST):
        raise InputError(f"size must be a whole number of pixels from 1 to {_LARGEST}, got {shorten(size)}")
    if limit is not None and not (type(limit) is int and limit >= 1):
        raise InputError(f"limit must be a whole number of images, at least 1, got {shorten(limit)}")


def _find(name: str, split: str, data_dir: str | os.PathLike[str] | None) -> Place:
    """Return where to read the split; nothing but folder names has been looked at."""
    if name == "digits":
        if split not in digits.SPLITS:
            raise UnknownNameError("split of digits", split, digits.SPLITS)
        return digits.Digits(split)
    address = hub.address(name)
    if address is None and _is_path(name):
        return local.find(_existing(name), split)
    folder = _folder(data_dir)
    if folder is not None and not name.startswith(hub.PREFIX) and (folder / name).is_dir():
        return local.find(folder / name, split)
    searched = _searched(folder, name)
    if address is not None:
        return hub.Hub(address, split, f"the folder of sets: {searched}; ")
    raise _unknown(name, searched, data_dir)


def _is_path(name: str) -> bool:
    return name.startswith((".", "~")) or os.sep in name or bool(os.altsep and os.altsep in name)


def _existing(name: str) -> Path:
    path = Path(os.path.expanduser(name))
    if not path.is_dir():
        raise DataError(
            f"there is no folder {quoted(name)}; name a folder of images, or a set of the hub as hub:owner/name"
        )
    return path


def _folder(data_dir: str | os.PathLike[str] | None) -> Path | None:
    """Return the user's folder of sets, None if none was named."""
    given, origin = (data_dir, "--data-dir") if data_dir is not None else (os.environ.get(FOLDER), FOLDER)
    if given is None or given == "":
        return None
    folder = Path(given).expanduser()
    if not folder.is_dir():
        raise DataError(f"{quoted(folder)}, given by {origin}, is not a folder; mend or drop it")
    return folder


def _listed(folder: Path | None) -> list[Path]:
    if folder is None:
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _searched(folder: Path | None, name: str) -> str:
    if folder is None:
        return f"none given by --data-dir or {FOLDER}"
    return f"no folder {shorten(name)} in {quoted(folder)}"


def _unknown(name: str, searched: str, data_dir: str | os.PathLike[str] | None) -> UnknownNameError:
    error = UnknownNameError("data set", name, names(data_dir))
    # The class knows the names; only we know that a folder of sets could add to them.
    error.args = (f"{error} Folder of sets: {searched}. A set of the hub is named hub:owner/name.",)
    return error


def _tools() -> dict[str, str]:
    """Return what decides on pixels besides the files: decoders differ by a grey level now and then."""
    import PIL

    return {"Pillow": PIL.__version__, "torch": torch.__version__}


def _cached(entries: Path | None, key: str, name: str, split: str) -> ImageSet | None:
    """Return the set as it was decoded before, if its content still has the hash it had then."""
    entry = cache.read(entries, key)
    if entry is None:
        return None
    facts: dict[str, Any] = dict(entry.facts)
    images, labels = tensor(entry.pixels), torch.from_numpy(entry.labels)
    classes = tuple(facts["classes"])
    if content_hash(images, labels, classes, facts["recipe"]) != facts["hash"]:
        cache.damaged(entries, key, "its content does not match its hash")
        return None
    return ImageSet(name, split, images, labels, classes, facts["hash"], facts["notes"])


def _decoded(
    entries: Path | None,
    key: str,
    name: str,
    split: str,
    rows: Rows,
    size: int | None,
    limit: int | None,
    otherwise: int | None,
) -> ImageSet:
    """Decode the images wanted, and keep them."""
    total = len(rows.labels)
    _check_complete(name, split, total)
    chosen, notes = torch.arange(total), dict(rows.notes)
    if limit is not None and limit < total:
        chosen = sample(rows.labels, limit, generator("data/limit", 0))
        notes["limited"] = f"{limit} of {total} images, drawn in proportion to the classes"
    block = stack(rows.pictures(chosen), size, otherwise)
    notes |= block.notes
    found = assemble(
        name,
        split,
        tensor(block.pixels),
        rows.labels[chosen],
        rows.classes,
        recipe=block.recipe,
        notes=notes,
    )
    facts = {"classes": found.classes, "recipe": block.recipe, "notes": notes, "hash": found.hash}
    cache.write(entries, key, cache.Entry(block.pixels, found.labels.numpy(), facts))
    return found


def _check_complete(name: str, split: str, total: int) -> None:
    """Hold a well-known name to the complete set: a part under the same name would pass for the whole."""
    expected = _COMPLETE.get(name, {}).get(split, total)
    if total != expected:
        raise DataError(
            f"{name!r} means the complete set, {expected:,} {split} images, got {total:,}; give a part of it "
            "a folder of another name"
        )


def tensor(pixels: Pixels) -> Tensor:
    """Return (N, H, W) or (N, H, W, C) pixels, uint8 or float32, as (N, C, H, W) float32 in [0, 1]."""
    images = torch.from_numpy(pixels)
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
    scaled = images.to(torch.float32, memory_format=torch.contiguous_format)
    return scaled.div_(255) if pixels.dtype == np.uint8 else scaled.contiguous()

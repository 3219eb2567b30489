"""Sets in a folder of the user: `SPLIT.parquet`, or an image folder `SPLIT/CLASS/IMAGE`.

A folder `CLASS/IMAGE` with no splits in it is a set of one split, whichever of the usual ones is asked for.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from intriguing.data import columns
from intriguing.data.images import SUFFIXES, Picture, decode
from intriguing.data.rows import Place, Rows
from intriguing.data.sets import class_names, quoted, shorten
from intriguing.errors import DataError

_USUAL_SPLITS = ("train", "test", "validation", "val")


def find(root: Path, split: str) -> Place:
    """Return where a split of the set in folder `root` is.

    Raises:
        DataError: `root` is no folder, has no such split, or has it in both forms.
    """
    where = quoted(root)
    if not root.is_dir():
        raise DataError(f"{where} is not a folder of images; name one that holds {split}.parquet or {split}/")
    table, images = root / f"{split}.parquet", root / split
    if table.is_file() and images.is_dir():
        raise DataError(f"{where} holds {split}.parquet and a folder {split}/; keep one of them")
    if table.is_file():
        return ParquetFile(table)
    if images.is_dir():
        return ImageFolder(root, split)
    if split in _USUAL_SPLITS and _is_plain(root):
        return ImageFolder(root, split, whole=True)
    there = ", ".join(shorten(name) for name in splits(root)) or "none"
    stray = f"; {_stray(root)}" if there == "none" and _images(root) else ""
    raise DataError(
        f"{where} has no split {split!r} (splits there: {there}); expected {split}.parquet or {split}/CLASS/IMAGE in "
        f"it{stray}"
    )


def splits(root: Path) -> list[str]:
    """Return the names of the splits in a set's folder; for an image folder, of the usual splits only."""
    tables = {path.stem for path in root.glob("*.parquet") if path.is_file()}
    found = tables | {name for name in _USUAL_SPLITS if (root / name).is_dir()}
    return [name for name in _USUAL_SPLITS if name in found] + sorted(found - set(_USUAL_SPLITS))


def describe(root: Path) -> str | None:
    """Return one line on the set in folder `root`, from file footers and folder names; None if it is none."""
    with suppress(OSError):  # a list shows what it can read
        if _is_plain(root):
            return "images in a folder per class, without splits"
    parts = []
    for split in splits(root):
        table = root / f"{split}.parquet"
        if not table.is_file():
            parts.append(f"{split} images in a folder per class")
            continue
        try:
            with pq.ParquetFile(table) as file:
                parts.append(f"{file.metadata.num_rows:,} {split} images")
        except (pa.ArrowException, OSError):
            parts.append(f"{split}.parquet is damaged")
    return ", ".join(parts) or None


@dataclass(frozen=True)
class ParquetFile:
    """One split in one Parquet file; `columns` says what is read of it."""

    path: Path

    def fingerprint(self) -> dict[str, Any]:
        """Return the file's place, size and time of change."""
        found = self.path.stat()
        return {"parquet": _text(self.path.resolve()), "size": found.st_size, "time": found.st_mtime_ns}

    def open(self) -> Rows:
        """Read the two columns into memory, checksums of pages verified where the file has them."""
        where = quoted(self.path)
        with self._damage_named(), pq.ParquetFile(self.path, page_checksum_verification=True) as file:
            schema = file.schema_arrow
            chosen = columns.choose(schema, columns.declared_features(schema, where), where)
            table = file.read(columns=[chosen.image, chosen.label])
        rows = columns.read(table, chosen, where)
        return Rows(rows.labels, rows.classes, rows.pictures, {"source": "a Parquet file", **rows.notes})

    def in_pieces(self) -> Rows:
        """Read the labels into memory, and of the images one row group at a time, when they are asked for."""
        where = quoted(self.path)
        with self._damage_named(), pq.ParquetFile(self.path, page_checksum_verification=True) as file:
            schema = file.schema_arrow
            chosen = columns.choose(schema, columns.declared_features(schema, where), where)
            table = file.read(columns=[chosen.label])
            groups = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
        labels = columns.labels(table, chosen, where)
        starts = torch.tensor([0, *groups]).cumsum(0)

        def pictures(wanted: Tensor) -> Iterator[Picture]:
            group = torch.searchsorted(starts, wanted, right=True) - 1
            runs, lengths = torch.unique_consecutive(group, return_counts=True)
            for g, ids in zip(runs.tolist(), torch.split(wanted, lengths.tolist()), strict=True):
                yield from self._group(g, chosen, f"row group {g} of {where}").pictures(ids - starts[g])

        return Rows(labels, chosen.classes, pictures, {"source": "a Parquet file", **chosen.notes})

    def _group(self, group: int, chosen: columns.Columns, where: str) -> Rows:
        with self._damage_named(), pq.ParquetFile(self.path, page_checksum_verification=True) as file:
            table = file.read_row_group(group, columns=[chosen.image, chosen.label])
        return columns.read(table, chosen, where)

    @contextmanager
    def _damage_named(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = shorten(str(error))
            raise DataError(f"{quoted(self.path)} is damaged or not a Parquet file ({reason}); restore it") from error


class _File(NamedTuple):
    """An image file as its folder lists it; all that can be known without reading it."""

    label: int
    path: str
    size: int
    time: int


@dataclass(frozen=True)
class ImageFolder:
    """One split as a folder per class.

    Attributes:
        root: the set's folder.
        split: the folder in it that holds those of the classes.
        whole: the set has no splits, and `root` holds those of the classes itself.

    The classes are the folders that hold an image in any split, in the order of their names, so that labels
    mean the same in all splits. Files without the suffix of an image and hidden ones are passed over.
    """

    root: Path
    split: str
    whole: bool = False

    def fingerprint(self) -> dict[str, Any]:
        """Return every file's place, size and time of change."""
        files = [(file.label, os.fsencode(file.path).hex(), file.size, file.time) for file in self._files]
        return {"folder": _text(self.root.resolve()), "classes": self._folders, "files": files}

    def open(self) -> Rows:
        """List the files; their folder is their label."""
        where = quoted(self._place)
        if not self._files:
            if _images(self._place):
                raise DataError(f"{where} holds no class folders; {_stray(self._place)}")
            raise DataError(f"{where} holds no images; expected CLASS/IMAGE in it, suffixes {_suffixes()}")
        files = self._files

        def pictures(wanted: Tensor) -> Iterator[Picture]:
            return (_decoded(files[i].path) for i in wanted.tolist())

        labels = torch.tensor([file.label for file in files], dtype=torch.int64)
        names = class_names([_text(Path(name)) for name in self._folders], where)
        source = f"an image folder, a folder per class{', without splits: all of it' if self.whole else ''}"
        return Rows(labels, names, pictures, {"source": source})

    @property
    def _place(self) -> Path:
        return self.root if self.whole else self.root / self.split

    @cached_property
    def _folders(self) -> list[str]:
        if self.whole:
            return _classes(self.root)
        places = (self.root / split for split in {*_USUAL_SPLITS, self.split})
        return sorted({name for place in places if place.is_dir() for name in _classes(place)})

    @cached_property
    def _files(self) -> list[_File]:
        files = []
        for label, name in enumerate(self._folders):
            folder = self._place / name
            for path in _images(folder) if folder.is_dir() else []:
                found = os.stat(path)
                if not stat.S_ISREG(found.st_mode):
                    raise DataError(f"{quoted(path)} is not a regular file; take it away")
                files.append(_File(label, path, found.st_size, found.st_mtime_ns))
        return files


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)


def _is_plain(root: Path) -> bool:
    """Tell whether a set's folder has no splits, but classes."""
    return not splits(root) and bool(_classes(root))


def _classes(place: Path) -> list[str]:
    """Return the names of the folders right in a folder that hold images, in order."""
    return [entry.name for entry in _entries(place) if entry.is_dir() and _images(entry.path)]


def _stray(place: Path) -> str:
    """Say what to do about images right in a folder that should hold those of the classes."""
    first = os.path.basename(_images(place)[0])
    return f"images stand outside of any class folder, such as {shorten(first)}; put each into the folder of its class"


def _images(folder: Path | str) -> list[str]:
    """Return the paths of the images right in a folder, in the order of their names."""
    entries = (e for e in _entries(folder) if os.path.splitext(e.name)[1].lower() in SUFFIXES)
    return [entry.path for entry in entries if not entry.is_dir()]


def _decoded(path: str) -> Picture:
    return decode(Path(path).read_bytes(), f"image {quoted(path)}")


def _text(path: Path) -> str:
    """Return a path as text that can be encoded, whatever bytes its name is made of."""
    return os.fsencode(path).decode("utf-8", "replace")


def _suffixes() -> str:
    return ", ".join(sorted(SUFFIXES))

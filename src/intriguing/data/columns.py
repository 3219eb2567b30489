"""Images and labels in the columns of an Arrow table, found by what the columns are, not by their names.

The image column is, in this order: one of the feature type `Image`; a struct with a binary field `bytes`; a
binary column; nested lists of numbers, (H, W), (C, H, W) or (H, W, C) with C 1 or 3, integers from 0 to 255
or floats in [0, 1]. The label column is one of the feature type `ClassLabel`, or an integer column whose
class names stand in the schema's metadata as a JSON list under `class_names`. Where several columns qualify,
the one with a usual name (`image`, `img`; `label`, `labels`) is taken and the choice noted; else it is an
error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from intriguing.data.images import Picture, Pixels, decode
from intriguing.data.rows import Rows
from intriguing.data.sets import check_labels, check_pixels, class_names, quoted, rows, shorten
from intriguing.errors import DataError

_USUAL = {"image": ("image", "img"), "label": ("label", "labels")}
_WITHHELD = -1  # how Hugging Face `datasets` writes a label that is not given, in the test split of ImageNet say
_BATCH = 1024  # images whose bytes are copied out of Arrow at a time

Features = Mapping[str, Mapping[str, Any]]


def declared_features(schema: pa.Schema, where: str) -> Features:
    """Return the feature types that Hugging Face `datasets` wrote into a schema's metadata; empty if none.

    Raises:
        DataError: the metadata is there but cannot be read.
    """
    metadata = _metadata(schema, "huggingface", where)
    if metadata is None:
        return {}
    features = metadata
    for key in ("info", "features"):
        features = features.get(key) if isinstance(features, dict) else None
    if features is None:
        return {}
    if not isinstance(features, dict) or not all(isinstance(value, dict) for value in features.values()):
        raise DataError(f"{where}: the schema's 'huggingface' metadata does not hold features by column")
    return features


class Columns(NamedTuple):
    """The columns to read: their names, the class names, and notes on any choice that was made."""

    image: str
    label: str
    classes: tuple[str, ...]
    notes: dict[str, str]


def choose(schema: pa.Schema, features: Features, where: str) -> Columns:
    """Find the image and the label column.

    Args:
        schema: of the whole table.
        features: column -> feature type, as `declared_features` gives it.
        where: what a message calls the table.

    Raises:
        DataError: no column, or several without a usual name, qualify; class names are missing or contradict.
    """
    notes: dict[str, str] = {}
    image = _one("image", _image_columns(schema, features), schema, where, notes)
    label = _one("label", _label_columns(schema, features), schema, where, notes)
    names = features.get(label, {}).get("names")
    listed = _metadata(schema, "class_names", where)
    if names is None and listed is None:
        raise DataError(
            f"{where}: no class names for the label column {shorten(label)}; give it the feature type "
            "ClassLabel, or put a JSON list of names into the schema's metadata under 'class_names'"
        )
    if names is not None and listed is not None and names != listed:
        raise DataError(f"{where}: the class names of the feature type and of 'class_names' differ; keep one")
    return Columns(image, label, class_names(listed if names is None else names, where), notes)


def read(table: pa.Table, columns: Columns, where: str, *, follow_paths: bool = False) -> Rows:
    """Open a table.

    Args:
        table: N rows, N at least 1, with at least the two columns.
        columns: what `choose` found.
        where: what a message calls the table.
        follow_paths: whether an image given by path alone may be read from there. Only for tables whose paths
            were written on this machine; a file from elsewhere must not choose what is opened here.

    Raises:
        DataError: no rows; missing or out-of-range labels; pixels that are no numbers in range.
    """
    numbers = labels(table, columns, where)
    column = table.column(columns.image)
    if not _is_nested(column.type):

        def encoded(wanted: Tensor) -> Iterator[Picture]:
            return _encoded(column, wanted, where, follow_paths)

        return Rows(numbers, columns.classes, encoded, columns.notes)
    dense = _dense(column, where)

    def plain(wanted: Tensor) -> Iterator[Picture]:
        return (Picture(dense[i], f"row {i} of {where}") for i in wanted.tolist())

    return Rows(numbers, columns.classes, plain, columns.notes)


def labels(table: pa.Table, columns: Columns, where: str) -> Tensor:
    """Return the labels (N,) int64 of a table that has at least the label column, N at least 1.

    Raises:
        DataError: no rows; missing, withheld or out-of-range labels.
    """
    if not table.num_rows:
        raise DataError(f"{where} holds no rows")
    found = _labels(table.column(columns.label), where)
    if bool((found == _WITHHELD).all()):
        raise DataError(
            f"{where}: every label is {_WITHHELD}, as where the right answers are kept back; use another split, for "
            "example --split validation (split='validation' in Python)"
        )
    check_labels(found, columns.classes, where)
    return found


def _metadata(schema: pa.Schema, key: str, where: str) -> Any:
    raw = (schema.metadata or {}).get(key.encode())
    if raw is None:
        return None
    try:
        return json.loads(raw)
    except ValueError as error:
        raise DataError(f"{where}: the schema's metadata {key!r} is not JSON ({shorten(str(error))})") from None


def _image_columns(schema: pa.Schema, features: Features) -> list[str]:
    """Return the candidates of the first kind that has any."""
    kinds: tuple[Callable[[pa.Field], bool], ...] = (
        lambda f: features.get(f.name, {}).get("_type") == "Image",
        lambda f: pa.types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0,
        lambda f: pa.types.is_binary(f.type) or pa.types.is_large_binary(f.type),
        lambda f: _is_nested(f.type) and _depth(f.type) in (2, 3),
    )
    for kind in kinds:
        found = [field.name for field in schema if kind(field)]
        if found:
            return found
    return []


def _label_columns(schema: pa.Schema, features: Features) -> list[str]:
    found = [f.name for f in schema if features.get(f.name, {}).get("_type") == "ClassLabel"]
    return found or [f.name for f in schema if pa.types.is_integer(f.type)]


def _one(what: str, found: list[str], schema: pa.Schema, where: str, notes: dict[str, str]) -> str:
    if not found:
        columns = ", ".join(f"{shorten(f.name)} ({f.type})" for f in schema)
        kinds = {
            "image": "of feature type Image, binary, or nested lists of numbers",
            "label": "of feature type ClassLabel, or of integers",
        }
        raise DataError(f"{where} has no {what} column ({kinds[what]}); it has: {shorten(columns)}")
    if len(found) == 1:
        return found[0]
    usual = [name for name in found if name in _USUAL[what]]
    names = ", ".join(shorten(name) for name in found)
    if len(usual) != 1:
        raise DataError(
            f"{where}: which is the {what} column is not clear, {names} all qualify; keep one of them, name "
            f"it {_USUAL[what][0]!r}, or load the set yourself and pass tensors to data.from_tensors"
        )
    notes[f"{what} column"] = f"{usual[0]!r}, chosen by its name among {names}"
    return usual[0]


def _labels(column: pa.ChunkedArray, where: str) -> Tensor:
    if not pa.types.is_integer(column.type):
        raise DataError(f"{where}: labels must be integers, got {column.type}")
    if column.null_count:
        missing = np.flatnonzero(column.is_null().to_numpy()).tolist()
        raise DataError(f"{where}: labels are missing in {rows(missing)}; fill in or drop them")
    try:
        return torch.from_numpy(column.cast(pa.int64()).to_numpy().copy())
    except pa.ArrowInvalid as error:
        raise DataError(f"{where}: labels are out of range ({shorten(str(error))})") from None


def _encoded(column: pa.ChunkedArray, wanted: Tensor, where: str, follow_paths: bool) -> Iterator[Picture]:
    for start in range(0, len(wanted), _BATCH):
        batch = wanted[start : start + _BATCH]
        for i, cell in zip(batch.tolist(), column.take(pa.array(batch.numpy())).to_pylist(), strict=True):
            origin = f"row {i} of {where}"
            data = cell.get("bytes") if isinstance(cell, dict) else cell
            path = cell.get("path") if isinstance(cell, dict) else None
            if data is None and follow_paths and isinstance(path, str):
                origin, data = f"image {quoted(path)}", Path(path).read_bytes()
            if not isinstance(data, bytes):
                raise DataError(f"{origin} holds no image bytes; store the images in the table")
            yield decode(data, origin)


def _is_nested(kind: pa.DataType) -> bool:
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _depth(kind: pa.DataType) -> int:
    """Return how many lists enclose the numbers, 0 if there are no numbers inside."""
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    levels = 0
    while _is_nested(kind):
        kind, levels = kind.value_type, levels + 1
    return levels if pa.types.is_integer(kind) or pa.types.is_floating(kind) else 0


def _dense(column: pa.ChunkedArray, where: str) -> Pixels:
    """Return nested lists of numbers as (N, H, W) or (N, H, W, C), uint8 or float32, checked."""
    array = column.combine_chunks()
    if isinstance(array.type, pa.BaseExtensionType):
        array = array.storage
    shape = [len(array)]
    while _is_nested(array.type):
        lengths = set(array.value_lengths().to_pylist())
        if len(lengths) != 1 or lengths & {None, 0}:
            raise DataError(f"{where}: images in lists of numbers must all have one size and none missing")
        shape.append(lengths.pop())
        array = array.flatten()
    if array.null_count:
        per_image = array.is_null().to_numpy(zero_copy_only=False).reshape(shape[0], -1).any(axis=1)
        raise DataError(f"{where}: pixels are missing in {rows(np.flatnonzero(per_image).tolist())}")
    values: Pixels = array.to_numpy(zero_copy_only=False).reshape(shape)
    return _channels_last(_in_range(values, where), where)


def _in_range(values: Pixels, where: str) -> Pixels:
    if np.issubdtype(values.dtype, np.floating):
        check_pixels(torch.from_numpy(np.array(values)), where)  # a copy, as torch wants memory it may write
        scaled: Pixels = values.astype(np.float32) + np.float32(0)  # -0 becomes 0: one hash for equal pixels
        return scaled
    flat = values.reshape(values.shape[0], -1)
    outside = np.flatnonzero((flat.min(axis=1) < 0) | (flat.max(axis=1) > 255)).tolist()
    if outside:
        raise DataError(f"{where}: integer pixels must lie between 0 and 255, they do not in {rows(outside)}")
    return values.astype(np.uint8)


def _channels_last(values: Pixels, where: str) -> Pixels:
    if values.ndim == 3:
        return values
    first, last = values.shape[1] in (1, 3), values.shape[3] in (1, 3)
    if first == last:
        raise DataError(
            f"{where}: which axis of the {values.shape[1:]} images counts channels is not clear; exactly "
            "one of the first and the last must be 1 or 3"
        )
    values = np.moveaxis(values, 1, 3) if first else values
    return values[:, :, :, 0] if values.shape[3] == 1 else values

"""A record as files and back: values as JSON, tensors as safetensors, rows as Parquet."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.torch
import torch

from intriguing.errors import InputError
from intriguing.records import Record

_VALUES, _TENSORS, _ROWS = "values.json", "tensors.safetensors", "rows.parquet"
# Strict JSON has no NaN, so floats it cannot hold become {"$float": name}. A user's own mapping that looks
# like one of these two marks is wrapped as {"$dict": mapping}, so that it comes back as it was.
_FLOAT, _DICT = "$float", "$dict"


def encode(record: Record) -> dict[str, bytes]:
    """Return the files that hold `record`: file name -> content.

    NumPy scalars in the values become Python's numbers, and tuples lists; tensors come from any device;
    columns may be lists, arrays or one-dimensional tensors.

    Raises:
        InputError: naming the first value, tensor or column that cannot be stored.

    Example:
        >>> sorted(encode(Record({"error": float("nan")})))
        ['values.json']
    """
    values = json.dumps(_encode(record.values, "values"), indent=1, allow_nan=False)
    files = {_VALUES: values.encode()}
    if record.tensors:
        files[_TENSORS] = _encode_tensors(record.tensors)
    if record.rows:
        files[_ROWS] = _encode_rows(record.rows)
    return files


def decode(files: Mapping[str, bytes]) -> Record:
    """Return the record that `encode` made into `files`; tensors are on the CPU, columns are lists.

    Example:
        >>> decode(encode(Record({"found": [1, float("inf")]}))).values
        {'found': [1, inf]}
    """
    return Record(
        values=_decode(json.loads(files[_VALUES])),
        tensors=safetensors.torch.load(files[_TENSORS]) if _TENSORS in files else {},
        rows=_decode_rows(files[_ROWS]) if _ROWS in files else {},
    )


def _encode(value: Any, where: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {_FLOAT: str(float(value))}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise InputError(f"{where} has the key {key!r}; keys of a record's values must be text")
        encoded = {key: _encode(item, f"{where}[{key!r}]") for key, item in value.items()}
        return {_DICT: encoded} if set(value) in ({_FLOAT}, {_DICT}) else encoded
    if isinstance(value, list | tuple):
        return [_encode(item, f"{where}[{place}]") for place, item in enumerate(value)]
    raise InputError(
        f"{where} is a {type(value).__name__}; a record's values hold what JSON can "
        "(numbers, text, lists, mappings): put tensors into its tensors, columns into its rows"
    )


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if isinstance(value, dict):
        if set(value) == {_FLOAT}:
            return float(value[_FLOAT])
        inner = value[_DICT] if set(value) == {_DICT} else value
        return {key: _decode(item) for key, item in inner.items()}
    return value


def _encode_tensors(tensors: Mapping[str, torch.Tensor]) -> bytes:
    dense, storages = {}, set()
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise InputError(f"tensors[{name!r}] is a {type(tensor).__name__}; expected a tensor")
        tensor = tensor.detach().cpu().contiguous()
        # safetensors refuses tensors that share memory (tied weights): each is stored as its own.
        pointer = tensor.untyped_storage().data_ptr()
        dense[name] = tensor.clone() if pointer in storages else tensor
        storages.add(pointer)
    return safetensors.torch.save(dense)


def _encode_rows(rows: Mapping[str, Sequence[Any]]) -> bytes:
    import pyarrow  # a third of a second to import, and most records have no rows
    import pyarrow.parquet

    columns = {name: _column(name, column) for name, column in rows.items()}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"the columns of rows have unequal lengths: {lengths}")
    arrays = {}
    for name, column in columns.items():
        try:
            arrays[name] = pyarrow.array(column)
        except (pyarrow.ArrowException, OverflowError) as error:
            raise InputError(f"rows[{name!r}] cannot be a column of one type: {error}") from error
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table(arrays), sink)
    return bytes(sink.getvalue())


def _column(name: str, column: Any) -> list[Any]:
    if isinstance(column, torch.Tensor | np.ndarray):
        if column.ndim != 1:
            raise InputError(f"rows[{name!r}] has {column.ndim} dimensions; expected one value per row")
        return list(column.tolist())
    return [item.item() if isinstance(item, np.generic) else item for item in column]


def _decode_rows(content: bytes) -> dict[str, list[Any]]:
    import pyarrow  # see _encode_rows
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(pyarrow.BufferReader(content))
    return {name: table.column(name).to_pylist() for name in table.column_names}

"""A record comes back from its files as it went in."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intriguing.errors import InputError
from intriguing.records import Record
from intriguing.store.codec import decode, encode

# Names that look like the codec's own marks must survive as well.
names = st.text(max_size=8) | st.sampled_from(["$float", "$dict", "sha256"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["nan"])
values = st.dictionaries(
    names,
    st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
        max_leaves=12,
    ),
    max_size=4,
)
dtypes = st.sampled_from(
    [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64]
)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    shape = draw(st.lists(st.integers(0, 3), max_size=4))  # () and zero lengths included
    numbers = draw(st.lists(st.floats(width=16), min_size=math.prod(shape), max_size=math.prod(shape)))
    dtype = draw(dtypes)
    plain = torch.tensor(numbers, dtype=torch.float32).reshape(shape)
    return plain.to(dtype) if dtype.is_floating_point else plain.nan_to_num().clamp(0, 9).to(dtype)


def column(length: int) -> st.SearchStrategy[list[Any]]:
    kinds = (
        st.floats(),
        st.integers(-(2**63), 2**63 - 1),
        st.text(),
        st.booleans(),
        st.lists(st.floats(), max_size=3),
    )
    return st.one_of([st.lists(st.none() | kind, min_size=length, max_size=length) for kind in kinds])


columns = st.integers(0, 4).flatmap(lambda length: st.dictionaries(st.text(max_size=6), column(length), max_size=3))


def same(left: Any, right: Any) -> bool:
    """Equal in type and value, NaN equal to NaN, -0.0 different from 0.0."""
    if isinstance(left, float) and isinstance(right, float):
        if math.isnan(left) or math.isnan(right):
            return math.isnan(left) and math.isnan(right)
        return left == right and math.copysign(1, left) == math.copysign(1, right)
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and bool(left == right)


@settings(deadline=None)  # the first example imports the Parquet library
@given(values=values, tensors=st.dictionaries(st.text(max_size=6), tensors(), max_size=3), rows=columns)
def test_a_record_survives_the_round_trip(
    values: dict[str, Any], tensors: dict[str, torch.Tensor], rows: dict[str, list[Any]]
) -> None:
    back = decode(encode(Record(values, tensors, rows)))
    assert same(back.values, values)
    assert back.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        got = back.tensors[name]
        assert (got.dtype, got.shape) == (tensor.dtype, tensor.shape)
        assert got.reshape(-1).view(torch.uint8).equal(tensor.reshape(-1).view(torch.uint8))
    assert same(back.rows, rows)


def test_values_are_strict_json() -> None:
    content = encode(Record({"a": [float("nan"), float("-inf")]}))["values.json"]

    def refuse(name: str) -> None:
        raise AssertionError(name)

    assert json.loads(content, parse_constant=refuse) == {"a": [{"$float": "nan"}, {"$float": "-inf"}]}


def test_numpy_scalars_tuples_and_arrays_become_plain() -> None:
    record = Record(
        {"n": np.int64(3), "x": (np.float32(0.5), np.bool_(True))},
        rows={"a": np.arange(2), "b": torch.tensor([0.5, 1.5]), "c": [np.float64(1.0), np.float64(2.0)]},
    )
    back = decode(encode(record))
    assert same(back.values, {"n": 3, "x": [0.5, True]})
    assert same(back.rows, {"a": [0, 1], "b": [0.5, 1.5], "c": [1.0, 2.0]})


def test_tensors_that_share_memory_or_require_grad_or_are_not_contiguous() -> None:
    base = torch.arange(6.0).reshape(2, 3)
    parameter = torch.nn.Parameter(base.clone())
    record = Record(tensors={"a": base, "b": base, "part": base[1], "t": base.T, "p": parameter})
    back = decode(encode(record)).tensors
    for name, tensor in record.tensors.items():
        assert back[name].equal(tensor.detach())


def test_a_loaded_tensor_may_be_changed() -> None:
    loaded = decode(encode(Record(tensors={"a": torch.zeros(3)}))).tensors["a"]
    loaded += 1
    assert loaded.sum() == 3


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (Record({"a": [{"b": torch.zeros(1)}]}), r"values\['a'\]\[0\]\['b'\] is a Tensor"),
        (Record({"a": {1: 2}}), r"values\['a'\] has the key 1"),
        (Record({"a": {1.0, 2.0}}), "is a set"),
        (Record(tensors={"a": [1.0]}), r"tensors\['a'\] is a list"),  # type: ignore[dict-item]
        (Record(rows={"a": [1, 2], "b": [1]}), r"unequal lengths: \{'a': 2, 'b': 1\}"),
        (Record(rows={"a": [1, "x"]}), r"rows\['a'\] cannot be a column"),
        (Record(rows={"a": [2**80]}), r"rows\['a'\] cannot be a column"),
        (Record(rows={"a": np.zeros((2, 2))}), r"rows\['a'\] has 2 dimensions"),  # type: ignore[dict-item]
    ],
)
def test_what_cannot_be_stored_is_named(record: Record, message: str) -> None:
    with pytest.raises(InputError, match=message):
        encode(record)

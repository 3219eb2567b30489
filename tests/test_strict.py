"""Numbers that JSON lacks come back from `results.json`, whichever way they were kept."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intriguing import strict
from intriguing.run import results

_FLOATS = st.floats(allow_nan=True, allow_infinity=True)


def _same(left: float | None, right: float) -> bool:
    return left is not None and (left == right or (math.isnan(left) and math.isnan(right)))


@given(_FLOATS, st.lists(_FLOATS, max_size=5))
def test_what_results_json_writes_is_read_back(one, many):
    kept, _ = results._strict({"value": one, "ends": many})
    read = json.loads(json.dumps(kept, allow_nan=False))
    assert _same(strict.number(read, "value"), one)
    assert all(map(_same, strict.numbers(read, "ends"), many))
    assert len(strict.numbers(read, "ends")) == len(many)


@pytest.mark.parametrize(("name", "value"), [("inf", math.inf), ("-inf", -math.inf), ("nan", math.nan)])
def test_names_in_the_numbers_place_are_read_too(name, value):
    assert _same(strict.number({"value": name}, "value"), value)
    assert _same(strict.numbers({"value": [1.0, name]}, "value")[1], value)


@pytest.mark.parametrize("entry", [{}, {"value": None}, {"value": "cat"}, {"value": True}, {"value": [1.0]}])
def test_what_is_no_number_is_none(entry):
    assert strict.number(entry, "value") is None

"""An audit's document comes back from disk with the numbers JSON lacks, and with the doubts it holds."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intriguing import documents
from intriguing.errors import StoreError

_FLOATS = st.floats(allow_nan=True, allow_infinity=True)


def _same(left: float | None, right: float) -> bool:
    return left is not None and (left == right or (math.isnan(left) and math.isnan(right)))


@given(_FLOATS, st.lists(_FLOATS, max_size=5))
def test_what_results_json_writes_is_read_back(one, many):
    kept = documents.strict({"value": one, "ends": many})
    read = json.loads(json.dumps(kept, allow_nan=False))
    assert _same(documents.number(read, "value"), one)
    assert all(map(_same, documents.numbers(read, "ends"), many))
    assert len(documents.numbers(read, "ends")) == len(many)


@pytest.mark.parametrize(("name", "value"), [("inf", math.inf), ("-inf", -math.inf), ("nan", math.nan)])
def test_names_in_the_numbers_place_are_read_too(name, value):
    assert _same(documents.number({"value": name}, "value"), value)
    assert _same(documents.numbers({"value": [1.0, name]}, "value")[1], value)


@pytest.mark.parametrize("entry", [{}, {"value": None}, {"value": "cat"}, {"value": True}, {"value": [1.0]}])
def test_what_is_no_number_is_none(entry):
    assert documents.number(entry, "value") is None


def _kept(folder, text):
    (folder / "results.json").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", ["damaged", "intriguing audit"]),
        ("[]", ["expected the document of an audit", "no document"]),
        ('{"schema": 1, "cells": []}', ["expected the document of an audit", "a reproduction"]),
        ('{"schema": 2, "kind": "audit"}', ["expected schema 1, got 2"]),
    ],
)
def test_what_is_no_audit_is_named_with_the_way_out(tmp_path, text, words):
    with pytest.raises(StoreError) as caught:
        documents.load_audit(_kept(tmp_path, text))
    for word in words:
        assert word in str(caught.value)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"nowhere.*cannot be read"):
        documents.load_audit(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"verdict": {"state": "trustworthy", "reasons": []}, "trust": []}, []),
        ({"verdict": {"state": "untrustworthy", "reasons": ["a"]}}, ["a"]),
        ({"verdict": {"state": "trustworthy"}, "trust": [{"name": "n", "state": "red", "sentence": "s"}]}, ["n: s"]),
        ({}, ["The audit states no verdict on whether its numbers can be trusted."]),
        ({"verdict": {"state": "Trustworthy"}}, ["The audit states no verdict on whether its numbers can be trusted."]),
    ],
)
def test_only_a_stated_verdict_without_a_red_check_leaves_no_doubt(document, expected):
    assert documents.doubts(document) == expected

"""Cells and their keys, and the rule that says whether we agree with the paper."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intriguing.errors import InputError
from intriguing.studies import spec
from intriguing.studies.spec import Cell, Exhibit, Printed, Settings, Study, verdict

HASHES = {"train": "a" * 64, "test": "b" * 64}
law = settings(max_examples=60, deadline=None, derandomize=True)

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
trees = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8
)
chosen = st.dictionaries(st.text(max_size=5), trees, max_size=4)


def cell(**changes: Any) -> Cell:
    base = Cell("m:f", {"net": "FC10(1)", "seed": 0}, needs={"a": Cell("m:g")}, data=("train",), label="f")
    return replace(base, **changes)


def reversed_order(value: Any) -> Any:
    """Return the same tree with the entries of every dictionary in reverse."""
    if isinstance(value, dict):
        return {name: reversed_order(value[name]) for name in reversed(list(value))}
    return [reversed_order(item) for item in value] if isinstance(value, list) else value


def test_a_key_is_32_hex_digits() -> None:
    key = cell().key(HASHES)
    assert len(key) == 32
    assert set(key) <= set("0123456789abcdef")


@law
@given(settings=chosen)
def test_equal_settings_have_equal_keys_in_any_order(settings: dict[str, Any]) -> None:
    assert Cell("m:f", settings).key({}) == Cell("m:f", reversed_order(settings)).key({})


@law
@given(first=chosen, second=chosen)
def test_different_settings_have_different_keys(first: dict[str, Any], second: dict[str, Any]) -> None:
    def plain(value: Any) -> Any:
        # 1, 1.0 and True are equal in Python and different settings in JSON.
        if isinstance(value, dict):
            return {name: plain(item) for name, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list) else repr(value)

    same = plain(reversed_order(first)) == plain(reversed_order(second))
    assert (Cell("m:f", first).key({}) == Cell("m:f", second).key({})) == same


@pytest.mark.parametrize(
    "changes",
    [
        {"function": "m:h"},
        {"settings": {"net": "FC10(1)", "seed": 1}},
        {"settings": {"net": "FC10(1)"}},
        {"needs": {}},
        {"needs": {"b": Cell("m:g")}},
        {"needs": {"a": Cell("m:g", {"deep": 1})}},
        {"data": ("test",)},
        {"data": ("train", "test")},
    ],
    ids=repr,
)
def test_whatever_a_result_depends_on_is_in_its_key(changes: dict[str, Any]) -> None:
    assert cell(**changes).key(HASHES) != cell().key(HASHES)


def test_the_label_is_not_in_the_key() -> None:
    assert cell(label="another").key(HASHES) == cell().key(HASHES)


def test_a_key_depends_on_the_images_it_reads_and_on_no_others() -> None:
    assert cell().key({**HASHES, "train": "c" * 64}) != cell().key(HASHES)
    assert cell().key({**HASHES, "test": "c" * 64}) == cell().key(HASHES)
    above = Cell("m:h", needs={"below": cell()})
    assert above.key({**HASHES, "train": "c" * 64}) != above.key(HASHES)


def test_shared_needs_do_not_change_a_key() -> None:
    shared = cell()
    once = Cell("m:h", needs={"a": shared, "b": shared})
    twice = Cell("m:h", needs={"a": cell(), "b": cell()})
    assert once.key(HASHES) == twice.key(HASHES)


def test_a_key_is_the_same_in_another_process() -> None:
    code = "from intriguing.studies.spec import Cell; print(Cell('m:f', {'b': [1, 2.5], 'a': None}).key({}))"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert there == Cell("m:f", {"a": None, "b": [1, 2.5]}).key({})


def test_settings_that_json_cannot_hold_are_refused() -> None:
    for bad in (math.nan, math.inf, {1, 2}, object()):
        with pytest.raises((TypeError, ValueError)):
            Cell("m:f", {"bad": bad}).key({})


PRINT = Printed(0.062, "s", 0.001)  # anything from 0.0615 to 0.0625


@pytest.mark.parametrize(
    ("measured", "low", "high", "expected"),
    [
        (0.062, 0.061, 0.063, "agrees"),
        # The interval meets the rounded print at either end, and just does not.
        (0.075, 0.0625, 0.09, "agrees"),
        (0.075, 0.06251, 0.09, "differs"),
        (0.05, 0.04, 0.0615, "agrees"),
        (0.05, 0.04, 0.06149, "differs"),
        # Outside the interval, but within 10% and half a digit of the measured value.
        (0.0560, 0.0559, 0.0561, "agrees"),
        (0.0558, 0.0557, 0.0559, "differs"),
        (0.0683, 0.0682, 0.0684, "agrees"),
        (0.0695, 0.0694, 0.0696, "differs"),
    ],
)
def test_the_rule_at_its_borders(measured: float, low: float, high: float, expected: str) -> None:
    assert verdict(measured, low, high, PRINT, ordered=False) == expected
    # An ordering that holds softens "differs", and nothing else.
    assert verdict(measured, low, high, PRINT, ordered=True) == (
        "same direction" if expected == "differs" else expected
    )


def test_a_printed_zero_is_anything_that_rounds_to_it() -> None:
    zero = Printed(0.0, "s", 0.01)
    assert verdict(0.0, 0.0, 0.0, zero, ordered=False) == "agrees"
    assert verdict(0.004, 0.0039, 0.0041, zero, ordered=False) == "agrees"
    assert verdict(0.0057, 0.0056, 0.0058, zero, ordered=False) == "differs"


def test_nothing_printed_is_no_verdict() -> None:
    assert verdict(0.5, 0.4, 0.6, None, ordered=True) == "not printed"


def test_a_value_that_was_not_measured_never_agrees() -> None:
    assert verdict(math.nan, math.nan, math.nan, PRINT, ordered=False) == "differs"


@law
@given(measured=st.floats(0.001, 1), half=st.floats(0, 0.2), printed=st.floats(0.001, 1), wider=st.floats(0, 0.2))
def test_a_wider_interval_never_turns_agreement_away(
    measured: float, half: float, printed: float, wider: float
) -> None:
    target = Printed(printed, "s", 0.001)
    narrow = verdict(measured, measured - half, measured + half, target, ordered=False)
    wide = verdict(measured, measured - half - wider, measured + half + wider, target, ordered=False)
    assert not (narrow == "agrees" and wide != "agrees")
    if abs(measured - printed) <= half:
        assert narrow == "agrees"


def test_an_exhibit_is_found_by_name_or_refused() -> None:
    exhibit = Exhibit("table-1", "", "", "", "", lambda settings: cell())
    study = Study("s", "", "", "", (exhibit,))
    assert study.exhibit("table-1") is exhibit
    with pytest.raises(InputError, match="table-9"):
        study.exhibit("table-9")


def test_the_default_settings_are_the_papers() -> None:
    assert (Settings().images, Settings().nets) == (256, 5)


def test_the_hash_of_a_function_follows_what_it_can_reach_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed, source = spec.code_hash.__wrapped__, spec._source
    attack, trainer = "intriguing.experiments.distortion:attack", "intriguing.training.recipes:train"
    before = hashed(attack), hashed(trainer)
    changed = tmp_path / "step.py"
    changed.write_text("# another solver\n")
    monkeypatch.setattr(spec, "_source", lambda name: changed if name == "intriguing.optim.step" else source(name))
    assert hashed(attack) != before[0], "the attack imports the solver, through two modules"
    assert hashed(trainer) == before[1], "no net is trained by it"

"""Keys say what a result depends on; a plan computes each key once, after its needs."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intriguing.errors import InputError
from intriguing.run.plan import plan, width
from intriguing.studies.spec import Cell

HASHES = {"train": "a" * 64, "test": "b" * 64}

names = st.text(min_size=1, max_size=6)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
settings = st.dictionaries(names, json_values, max_size=4)
cells = st.recursive(
    st.builds(Cell, st.sampled_from(["m:f", "m:g"]), settings, data=st.sampled_from([(), ("train",)])),
    lambda inner: st.builds(
        Cell,
        st.sampled_from(["m:f", "m:g"]),
        settings,
        st.dictionaries(names, inner, max_size=3),
        st.sampled_from([(), ("train", "test")]),
        names,
    ),
    max_leaves=5,
)


def shuffled(value: Any, rng: random.Random) -> Any:
    """The same value with every mapping in another order."""
    if isinstance(value, dict):
        items = [(key, shuffled(item, rng)) for key, item in value.items()]
        rng.shuffle(items)
        return dict(items)
    if isinstance(value, list):
        return [shuffled(item, rng) for item in value]
    if isinstance(value, Cell):
        return dataclasses.replace(value, settings=shuffled(value.settings, rng), needs=shuffled(value.needs, rng))
    return value


@given(cells, st.randoms(use_true_random=False))
def test_the_order_of_mappings_and_the_label_keep_the_key(cell: Cell, rng: random.Random) -> None:
    other = dataclasses.replace(shuffled(cell, rng), label="another")
    hashes = shuffled({**HASHES, "unused": "c"}, rng)
    assert other.key(hashes) == cell.key(HASHES)
    assert len(cell.key(HASHES)) == 32


@given(cells, names, json_values, cells)
def test_any_change_changes_the_key(cell: Cell, name: str, value: Any, need: Cell) -> None:
    key = cell.key(HASHES)
    changes: list[Cell] = [
        dataclasses.replace(cell, function=cell.function + "x"),
        dataclasses.replace(cell, settings={**cell.settings, name: [value, "changed"]}),
        dataclasses.replace(cell, data=("test",)),
        dataclasses.replace(cell, needs={**cell.needs, name: Cell("m:h", needs={"a": need})}),
        Cell("m:f", needs={"a": cell}),
    ]
    for name in cell.settings:
        rest = {other: item for other, item in cell.settings.items() if other != name}
        changes.append(dataclasses.replace(cell, settings=rest))
    for name, inner in cell.needs.items():
        deeper = dataclasses.replace(inner, function=inner.function + "x")
        changes.append(dataclasses.replace(cell, needs={**cell.needs, name: deeper}))
    keys = {key, *(change.key(HASHES) for change in changes)}
    # A list, and not what happened to be there: all of them differ from the cell, if not from each other.
    assert all(change.key(HASHES) != key for change in changes)
    assert len(keys) > 4


@given(cells)
def test_other_images_change_the_keys_of_the_cells_that_read_them(cell: Cell) -> None:
    def reads(cell: Cell) -> bool:
        return "train" in cell.data or any(reads(need) for need in cell.needs.values())

    changed = cell.key({**HASHES, "train": "c" * 64}) != cell.key(HASHES)
    assert changed == reads(cell)


@given(st.lists(cells, max_size=4))
def test_a_plan_has_each_key_once_and_after_its_needs(cells: list[Cell]) -> None:
    seen: set[str] = set()
    tasks = plan(cells, HASHES)
    for key, task in tasks.items():
        assert task.key == key
        assert key not in seen
        assert seen.issuperset(task.needs.values())
        seen.add(key)
    assert {cell.key(HASHES) for cell in cells} <= seen
    assert width(tasks) <= len(tasks)


def test_width_counts_cells_at_one_depth() -> None:
    base = Cell("m:f")
    sides = [Cell("m:g", {"side": side}, needs={"a": base}) for side in range(3)]
    tasks = plan([*sides, Cell("m:h", needs={"a": sides[0]})], {})
    assert width(tasks) == 3
    del tasks[base.key({})]
    assert width(tasks) == 3
    assert width({}) == 0


def test_a_split_without_a_hash_is_named() -> None:
    with pytest.raises(InputError, match=r"cell 'm:f' reads the split 'val'; data_hashes has \['test', 'train'\]"):
        plan([Cell("m:f", data=("val",))], HASHES)


def test_other_code_gives_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Cell("m:f").key({})
    monkeypatch.setattr("intriguing.studies.spec.code_hash", lambda function: f"other code of {function}")
    assert Cell("m:f").key({}) != before

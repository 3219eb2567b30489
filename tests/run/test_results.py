"""``results.json`` holds every measured cell with what was printed, and is strict JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from intriguing.errors import InputError, StoreError
from intriguing.records import Record
from intriguing.run import results
from intriguing.studies.spec import Cell, Exhibit, Printed, Settings, Study


def exhibit(
    printed: dict[tuple[str, str], Printed] | None = None,
    orderings: tuple[tuple[tuple[str, str], ...], ...] = (),
) -> Exhibit:
    return Exhibit(
        name="table-1",
        title="Nets",
        claim="",
        reading="",
        source="Table 1",
        cell=lambda settings: Cell("m:f"),
        printed=printed or {},
        orderings=orderings,
    )


def cell(row: str, measured: float, **more: Any) -> dict[str, Any]:
    return {
        "row": row,
        "column": "error",
        "kind": "sampled",
        "measured": measured,
        "n": 100,
        "low": measured - 0.01,
        "high": measured + 0.01,
        "code": "m:f",
        "control": {"label": "chance", "measured": 0.9},
        **more,
    }


def test_a_sampled_number_without_a_control_is_no_claim() -> None:
    alone = cell("a", 0.2)
    del alone["control"]
    with pytest.raises(InputError, match="a sampled cell of table-1 has no control"):
        compose(exhibit(), alone)
    assert compose(exhibit(), {**alone, "kind": "exact", "n": 1})["cells"]


def compose(table: Exhibit, *cells: dict[str, Any], **meta: Any) -> dict[str, Any]:
    study = Study("szegedy2014", "Intriguing properties", "", "", (table,))
    record = Record({"cells": list(cells), "figures": []})
    document = results.compose(study, [table], Settings(images=16), {"table-1": record}, meta)
    json.dumps(document, allow_nan=False)
    return document


def test_a_cell_carries_measured_printed_and_verdict() -> None:
    control = {"label": "noise", "measured": 0.1, "low": 0.0, "high": 0.2, "n": 100}
    document = compose(
        exhibit({("a", "error"): Printed(0.2, "v", 0.01)}),
        cell("a", 0.205, control=control, p=0.01, title="A net", scratch="not of the schema"),
        seeds={"run": 0},
    )
    assert document["schema"] == 1
    assert document["run"]["settings"]["images"] == 16
    assert document["run"]["seeds"] == {"run": 0}
    assert document["unmeasured"] == []
    assert document["cells"] == [
        {
            "study": "szegedy2014",
            "table": "table-1",
            "row": "a",
            "column": "error",
            "kind": "sampled",
            "measured": 0.205,
            "n": 100,
            "low": pytest.approx(0.195),
            "high": pytest.approx(0.215),
            "printed": 0.2,
            "mark": "v",
            "verdict": "agrees",
            "code": "m:f",
            "control": control,
            "p": 0.01,
            "title": "A net",
        }
    ]


@pytest.mark.parametrize(
    ("values", "verdicts"),
    [
        ((0.5, 0.6, 0.7), ["same direction"] * 3),
        ((0.5, 0.7, 0.6), ["same direction", "differs", "differs"]),
        ((0.5, 0.6, 0.6), ["same direction", "differs", "differs"]),  # must rise strictly
        ((0.7, 0.6, 0.8), ["differs", "differs", "same direction"]),
        ((0.5, math.nan, 0.7), ["differs", "differs", "differs"]),
    ],
)
def test_every_ordering_a_cell_takes_part_in_must_hold(values: tuple[float, ...], verdicts: list[str]) -> None:
    places = [(row, "error") for row in "abc"]
    table = exhibit(
        {place: Printed(0.1, "v", 0.01) for place in places},
        orderings=(tuple(places[:2]), tuple(places[1:])),
    )
    document = compose(table, *(cell(row, value) for row, value in zip("abc", values, strict=True)))
    assert [entry["verdict"] for entry in document["cells"]] == verdicts


def test_an_ordering_with_a_value_that_was_not_measured_does_not_hold() -> None:
    places = (("a", "error"), ("b", "error"))
    table = exhibit({place: Printed(0.1, "m", 0.01) for place in places}, orderings=(places,))
    document = compose(table, cell("a", 0.5))
    assert document["cells"][0]["verdict"] == "differs"
    assert document["unmeasured"] == [
        {
            "study": "szegedy2014",
            "table": "table-1",
            "row": "b",
            "column": "error",
            "printed": 0.1,
            "mark": "m",
        }
    ]


def test_a_cell_the_paper_does_not_print() -> None:
    entry = compose(exhibit(), cell("a", 0.5))["cells"][0]
    assert (entry["printed"], entry["mark"], entry["verdict"]) == (None, None, "not printed")


def test_what_json_cannot_hold_is_null_with_a_note() -> None:
    document = compose(
        exhibit(),
        cell("a", math.nan, high=math.inf, control={"measured": -math.inf}),
        hashes={"list": [1.0, [math.inf]]},
    )
    entry = document["cells"][0]
    assert entry["measured"] is None
    assert entry["high"] is None
    assert entry["non_finite"] == {"measured": "nan", "low": "nan", "high": "inf"}
    assert entry["control"] == {"measured": None, "non_finite": {"measured": "-inf"}}
    assert document["run"]["hashes"] == {"list": [1.0, [None]], "non_finite": {"list[1][0]": "inf"}}


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([{"row": "a", "column": "error"}], "a cell of table-1 lacks kind, measured, n, low, high, code"),
        ([cell("a", 0.5, kind="guessed")], "of kind 'guessed'"),
        ([cell("a", 0.5), cell("a", 0.6)], "two cells for row 'a', column 'error'"),
    ],
)
def test_a_wrong_cell_is_named(cells: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compose(exhibit(), *cells)


def test_write_replaces_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "results.json"
    document = compose(exhibit(), cell("ä\udcff", 0.5))  # a label from a file name that is no text
    results.write(file, document)
    assert json.loads(file.read_text()) == document

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("intriguing.store.files.write_synced", full)
    with pytest.raises(StoreError, match=r"results\.json could not be written: no space left on device"):
        results.write(file, {})
    assert json.loads(file.read_text()) == document

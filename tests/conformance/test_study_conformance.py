"""The whole study on the embedded digits: what every number and every section of it must have."""

from __future__ import annotations

import importlib
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from intriguing import workflow
from intriguing.studies import STUDIES
from intriguing.studies.spec import Settings

pytestmark = pytest.mark.slow

STUDY = STUDIES["szegedy2014"]
ERRATA = [f"erratum-E{number}" for number in range(1, 16)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, monkeypatch_module: pytest.MonkeyPatch) -> Path:
    """The default study, small: no set of images but the embedded one, as in a stranger's clone."""
    monkeypatch_module.delenv("INTRIGUING_DATA", raising=False)
    folder = tmp_path_factory.mktemp("whole") / "run"
    workflow.reproduce((), Settings(images=32, nets=1), out=folder)
    return folder


@pytest.fixture(scope="module")
def monkeypatch_module() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def cells(run: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((run / "results.json").read_text())["cells"]
    return found


def place(cell: dict[str, Any]) -> tuple[str, str, str]:
    return cell["table"], cell["row"], cell["column"]


def test_every_exhibit_measures_something(cells: list[dict[str, Any]]) -> None:
    assert {cell["table"] for cell in cells} == {exhibit.name for exhibit in STUDY.exhibits}


def test_every_sampled_number_has_n_an_interval_and_a_control(cells: list[dict[str, Any]]) -> None:
    sampled = [cell for cell in cells if cell["kind"] == "sampled"]
    assert sampled
    for cell in sampled:
        assert cell["n"] >= 1, place(cell)
        assert None not in (cell["low"], cell["high"]), place(cell)
        assert cell["low"] <= cell["measured"] <= cell["high"], place(cell)
        assert cell["control"]["label"].strip(), place(cell)
        assert cell["control"]["measured"] is not None, place(cell)
        if cell["n"] > 1 and 0 < cell["measured"] < 1 and "E" not in cell["table"]:
            assert cell["low"] < cell["high"], place(cell)


def test_every_exact_number_is_one(cells: list[dict[str, Any]]) -> None:
    for cell in cells:
        if cell["kind"] == "exact":
            assert cell["n"] == 1, place(cell)
            if cell["measured"] is not None and math.isfinite(cell["measured"]):
                assert cell["low"] <= cell["measured"] <= cell["high"], place(cell)


def test_every_number_names_the_function_that_computed_it(cells: list[dict[str, Any]]) -> None:
    for code in {cell["code"] for cell in cells}:
        module, _, name = code.partition(":")
        assert module.startswith("intriguing.")
        assert callable(getattr(importlib.import_module(module), name))


def test_everything_the_paper_prints_is_measured_or_named_as_not(run: Path) -> None:
    document = json.loads((run / "results.json").read_text())
    assert document["unmeasured"] == []


def test_every_exhibit_and_every_erratum_is_a_section_of_the_page(run: Path) -> None:
    page = (run / "report.html").read_text()
    assert {exhibit.name for exhibit in STUDY.exhibits} >= set(ERRATA)
    for exhibit in STUDY.exhibits:
        assert len(re.findall(rf'<section[^>]* id="{re.escape(exhibit.name)}"', page)) == 1, exhibit.name


def test_the_page_is_small_and_asks_the_network_for_nothing(run: Path) -> None:
    page = (run / "report.html").read_bytes()
    assert len(page) < 10_000_000
    assert not re.search(rb"""(?:src|href)=["']https?://(?!arxiv|doi)""", page.split(b"</head>")[0])

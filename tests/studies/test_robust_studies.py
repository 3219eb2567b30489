"""The studies of training on adversarial examples: their cells against the functions they name, and what they print."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import pytest

from intriguing.records import Inputs, Record
from intriguing.studies import STUDIES
from intriguing.studies.spec import Cell, Exhibit, Settings
from intriguing.training import recipes
from robust_nets import digits, trained

STUDY = {name: STUDIES[name] for name in ("goodfellow2015", "madry2018")}
EXHIBITS = [pytest.param(exhibit, id=f"{name}/{exhibit.name}") for name in STUDY for exhibit in STUDY[name].exhibits]
SMALL, LARGE = Settings(images=16, examples=1_300), Settings(images=16, examples=60_000)

# In the papers' units; of Madry et al. 2018 from memory.
PRINTED = {
    "goodfellow2015/linear": [0.999],
    "goodfellow2015/training": [0.0094, 0.894, 0.0084, 0.179],
    "madry2018/table-1": [0.893, 0.988],
    "madry2018/fgsm-overfits": [],
    "madry2018/capacity": [],
    "madry2018/hidden-weakness": [],
}


def cells(cell: Cell) -> Iterator[Cell]:
    yield cell
    for need in cell.needs.values():
        yield from cells(need)


def function(cell: Cell) -> Any:
    module, _, name = cell.function.partition(":")
    return getattr(importlib.import_module(module), name)


def test_what_is_printed_is_what_the_papers_print() -> None:
    found = {
        f"{name}/{exhibit.name}": [printed.value for printed in exhibit.printed.values()]
        for name in STUDY
        for exhibit in STUDY[name].exhibits
    }
    assert found == PRINTED


@pytest.mark.parametrize("settings", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("exhibit", EXHIBITS)
def test_every_cell_calls_a_function_that_takes_its_settings(exhibit: Exhibit, settings: Settings) -> None:
    for cell in cells(exhibit.cell(settings)):
        inspect.signature(function(cell)).bind(None, **cell.settings)
        assert cell.label
        assert set(cell.data) <= {"train", "test"}


@pytest.mark.parametrize("exhibit", EXHIBITS)
def test_seed_and_images_reach_every_cell_that_depends_on_them(exhibit: Exhibit) -> None:
    top = exhibit.cell(Settings(images=33, seed=7, examples=60_000))
    assert top.settings["images"] == 33
    drawn = [cell for cell in cells(top) if cell is top or "net" not in cell.settings]  # the softmax layer is convex
    assert {cell.settings["seed"] for cell in drawn} == {7}


def net(cell: Cell) -> Record:
    """Return a small net trained in a moment in the way a cell trains a large one."""
    if cell.settings.get("net"):
        return recipes.train(Inputs(data=digits().__getitem__), net=cell.settings["net"], seed=0)
    return trained(cell.settings["defence"], eps=cell.settings["eps"])


@pytest.mark.parametrize("exhibit", EXHIBITS)
def test_every_printed_number_and_ordering_names_a_measured_one(exhibit: Exhibit) -> None:
    top = exhibit.cell(LARGE)
    inputs = Inputs(data=digits().__getitem__, needs={name: net(cell) for name, cell in top.needs.items()})
    shorter = {"steps": 4} if "steps" not in top.settings and exhibit.name in ("capacity", "hidden-weakness") else {}
    record = function(top)(inputs, **{**top.settings, **shorter})
    measured = {(cell["row"], cell["column"]) for cell in record.values["cells"]}
    assert set(exhibit.printed) <= measured
    assert {place for ordering in exhibit.orderings for place in ordering} <= measured
    assert record.values["findings"]


def test_a_small_set_gets_changes_that_a_net_can_learn_under() -> None:
    table = STUDY["madry2018"].exhibit("table-1")
    eps = [{cell.settings["eps"] for cell in table.cell(settings).needs.values()} for settings in (SMALL, LARGE)]
    assert eps == [{0.15}, {0.3}]

"""The compact proofs' exhibit, on nets small enough to train in a moment, and the study that asks for it."""

from __future__ import annotations

import dataclasses
import importlib
import math
from functools import cache

import pytest
from questions import check, find

from intriguing import workflow
from intriguing.bounds.compact import PROOFS
from intriguing.errors import InputError
from intriguing.experiments import compact_proofs
from intriguing.records import Images, Inputs, Record
from intriguing.studies import STUDIES
from intriguing.studies.spec import Settings
from intriguing.training.max_of_k import train


def nothing(split: str) -> Images:
    raise AssertionError(f"{split} was read; no images are needed")


def inputs(needs: dict[str, Record] | None = None) -> Inputs:
    return Inputs(data=nothing, needs=needs or {})


@cache
def proved(seed: int, steps: int) -> Record:
    net = train(inputs(), vocabulary=8, length=3, seed=seed, width=16, steps=steps, batch=64)
    return compact_proofs.proofs(inputs({"net": net}))


@cache
def record() -> Record:
    needs = {f"{s}/{name}": proved(s, steps) for s in (0, 1) for name, steps in (("trained", 300), ("untrained", 0))}
    return compact_proofs.compact_proofs(inputs(needs), vocabulary=8, length=3, seeds=[0, 1], seed=0)


def test_the_exhibit_keeps_its_promises() -> None:
    check(record())


def test_every_bound_is_below_the_truth_and_what_is_left_adds_up() -> None:
    truth = find(record(), "brute force", compact_proofs.CERTIFIED)["measured"]
    assert truth > 0.95
    for name in PROOFS:
        bound = find(record(), name, compact_proofs.CERTIFIED)
        assert bound["measured"] <= truth
        assert bound["control"]["measured"] < 0.5
        if name != "brute force":
            left = find(record(), name, compact_proofs.UNPROVED)["measured"]
            assert left == pytest.approx(truth - bound["measured"], abs=1e-12)
    assert find(record(), "cubic", compact_proofs.CERTIFIED)["measured"] > 0.7


def test_the_curve_holds_every_proof_of_both_kinds_of_nets() -> None:
    (figure,) = record().values["figures"]
    assert figure["log_x"]
    for series in figure["series"]:
        assert [point["label"] for point in series["points"]] == list(PROOFS)
        assert all(point["x"] > 0 and math.isfinite(point["y"]) for point in series["points"])


def test_a_proof_that_claims_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    net = train(inputs(), vocabulary=4, length=2, seed=0, steps=0)
    monkeypatch.setitem(PROOFS, "cubic", lambda net: 4**2)
    with pytest.raises(InputError, match="unsound"):
        compact_proofs.proofs(inputs({"net": net}))


def test_the_same_seed_trains_the_same_net_and_another_does_not() -> None:
    one, two = (train(inputs(), vocabulary=4, length=2, seed=0, steps=3) for _ in range(2))
    other = train(inputs(), vocabulary=4, length=2, seed=1, steps=3)
    assert all((one.tensors[name] == two.tensors[name]).all() for name in one.tensors)
    assert any((one.tensors[name] != other.tensors[name]).any() for name in one.tensors)
    with pytest.raises(InputError, match="steps"):
        train(inputs(), vocabulary=4, length=2, seed=0, steps=-1)


def test_the_study_is_registered_and_asks_for_what_its_functions_take() -> None:
    study = STUDIES["gross2024"]
    assert workflow.choose(["gross2024/compact-proofs"])[0] is study
    assert workflow.choose([])[0].name == "szegedy2014"
    (exhibit,) = study.exhibits
    for settings, tokens, nets in ((Settings(), 32, 3), (Settings(full=True), 64, 5)):
        cell = exhibit.cell(settings)
        assert not cell.data
        assert (cell.settings["vocabulary"], len(cell.settings["seeds"])) == (tokens, nets)
        assert set(cell.needs) == {f"{s}/{name}" for s in range(nets) for name in ("trained", "untrained")}
        for part in (cell, *cell.needs.values(), *(need.needs["net"] for need in cell.needs.values())):
            module, _, name = part.function.partition(":")
            assert callable(getattr(importlib.import_module(module), name))
            assert part.label
    keys = {exhibit.cell(dataclasses.replace(Settings(), seed=seed)).key({}) for seed in (0, 1)}
    assert len(keys) == 2
    assert {place[0] for place in exhibit.printed} <= set(PROOFS)

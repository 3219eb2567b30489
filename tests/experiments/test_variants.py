"""The L1 variant beside L-BFGS: numbers worked out by hand, and a small net attacked by both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
import torch
from test_features import digits, find, inputs

from intriguing.experiments import distortion, variants
from intriguing.experiments.variants import L1, L2, SUCCESS, l1_adam, l1_adam_exhibit, weight_row
from intriguing.nets.load import Model
from intriguing.records import Inputs, Record
from intriguing.training.recipes import restore, train

NET = "FC100-100-10"


def by_hand(found: tuple[int, ...], move: float, attacked: tuple[int, ...] = (0, 1, 2, 3)) -> Record:
    """Return an attack on five images of 4 pixels that adds `move` to one pixel; L-BFGS adds 0.1 to all."""
    x = torch.full((5, 1, 2, 2), 0.5)
    moved = x.clone()
    for i in found:
        moved[i, 0, 0, 0] += move
    rows = {
        "image": list(range(5)),
        "label": [0] * 5,
        "target": [1, 1, 2, 2, -1],
        "attacked": [i in attacked for i in range(5)],
        "found": [i in found for i in range(5)],
    }
    return Record({"steps": 3000}, {"original": x, "adversarial": moved, "lbfgs": x + 0.1}, rows)


def exhibit(needs: Mapping[str, Record], weights: tuple[float, ...]) -> Record:
    return l1_adam_exhibit(Inputs(data=digits().__getitem__, needs=needs), weights=weights, seed=0)


def test_sizes_are_compared_where_both_succeed() -> None:
    record = exhibit(
        {"1": by_hand((1, 2), 0.3), "10": by_hand((0, 1, 2, 3), 0.4), "0.1": by_hand((), 0.0)}, (0.1, 1.0, 10.0)
    )
    json.dumps(record.values, allow_nan=False)
    expected = {
        (weight_row(0.1), SUCCESS): (0.0, 4, 1.0),
        (weight_row(1.0), SUCCESS): (0.5, 4, 1.0),
        (weight_row(1.0), L1): (0.3, 2, 0.4),
        (weight_row(1.0), L2): (0.15, 2, 0.1),
        (weight_row(10.0), SUCCESS): (1.0, 4, 1.0),
        (weight_row(10.0), L1): (0.4, 4, 0.4),
        (weight_row(10.0), L2): (0.2, 4, 0.1),
    }
    assert {(c["row"], c["column"]) for c in record.values["cells"]} == set(expected)
    for place, (value, n, control) in expected.items():
        cell = find(record, *place)
        assert (cell["measured"], cell["n"]) == (pytest.approx(value), n), place
        assert cell["control"]["measured"] == pytest.approx(control), place
        assert cell["low"] - 1e-9 <= cell["measured"] <= cell["high"] + 1e-9
    table = {row[0]: row[1:] for row in record.values["tables"][0]["rows"]}
    assert table == {
        "1": ["0 of 2", "1 of 2 (0.3; 0.150)", "2 of 2 (0.4; 0.200)"],
        "2": ["0 of 2", "1 of 2 (0.3; 0.150)", "2 of 2 (0.4; 0.200)"],
    }
    assert "50% of 4 images" in record.values["findings"][0]
    assert "2.00 times the distortion" in record.values["findings"][1]
    lines, gallery = record.values["figures"]
    assert [point["x"] for point in lines["series"][0]["points"]] == [1.0, 10.0]
    assert [point["y"] for point in lines["series"][1]["points"]] == [pytest.approx(0.1)] * 2
    assert gallery["groups"][0]["title"] == "Weight 10"


def test_without_success_there_are_no_sizes_and_no_pictures() -> None:
    record = exhibit({"1": by_hand((), 0.0)}, (1.0,))
    assert [cell["column"] for cell in record.values["cells"]] == [SUCCESS]
    assert len(record.values["figures"]) == 1
    assert record.tensors == {}
    nothing = exhibit({"1": by_hand((), 0.0, attacked=())}, (1.0,))
    assert nothing.values["findings"] == []


@cache
def records() -> dict[str, Record]:
    needs = {"net": train(inputs(), net=NET, seed=0, epochs=30, steps=60)}
    needs["random"] = distortion.attack(inputs(needs), net=NET, images=24, seed=0)
    return needs


def attack(weight: float, **more: Any) -> Record:
    settings = {"net": NET, "images": 24, "first": 16, "weight": weight, "steps": 1000, "seed": 0}
    return l1_adam(inputs(records()), **{**settings, **more})


def test_the_same_images_are_sent_to_the_same_targets() -> None:
    record, other = attack(10.0), records()["random"]
    data = digits()["train"]
    assert record.rows["image"] == other.rows["image"][:16]
    assert record.rows["attacked"] == [status == "found" for status in other.rows["status"][:16]]
    found = torch.tensor(record.rows["found"])
    assert found.sum() >= 12
    model = Model(restore(records()["net"], NET, (1, 8, 8), 10))
    target = torch.tensor(other.rows["target"][:16])
    assert torch.equal(model.predict(record.tensors["adversarial"])[found], target[found])
    assert torch.equal(record.tensors["lbfgs"], other.tensors["adversarial"][:16])
    ids = torch.tensor(record.rows["image"])
    assert torch.equal(record.tensors["original"], data.images[ids])
    assert torch.equal(record.tensors["adversarial"][~found], data.images[ids][~found])
    assert attack(10.0).rows == record.rows


def test_small_exhibit() -> None:
    weights = (0.1, 10.0)
    record = exhibit({f"{weight:g}": attack(weight) for weight in weights}, weights)
    json.dumps(record.values, allow_nan=False)
    assert find(record, weight_row(0.1), SUCCESS)["measured"] < find(record, weight_row(10.0), SUCCESS)["measured"]
    # The paper's attack looks for the smallest Euclidean norm.
    size = find(record, weight_row(10.0), L2)
    assert size["measured"] > size["control"]["measured"]
    assert exhibit({f"{weight:g}": attack(weight) for weight in weights}, weights).values == record.values


def test_more_images_than_the_other_attack_had_are_not_asked_for() -> None:
    assert len(attack(10.0, first=100, steps=1).rows["image"]) == 24
    assert variants.weight_row(1.0).endswith("weight 1")

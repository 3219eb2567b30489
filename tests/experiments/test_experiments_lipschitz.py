"""The Lipschitz penalty compared: products, paired changes and the control, recomputed from the nets."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from intriguing.experiments import lipschitz
from intriguing.experiments.distortion import RANDOM, attack
from intriguing.experiments.lipschitz import CHANGE, ERROR, PLAIN, PRODUCT, RISE, SMALLER, decay_row, penalty_row
from intriguing.records import Inputs, Record
from intriguing.training.lipschitz import train_penalised
from intriguing.training.recipes import restore

NET = "FC100-100-10"
STRENGTHS, DECAYS = (0.0, 3e-3, 1e-2), (1e-3, 1e-2)


@dataclass(frozen=True)
class Set:
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...] = tuple("0123456789")
    hash: str = "0" * 64


@cache
def digits() -> dict[str, Set]:
    data = load_digits()
    images = torch.from_numpy(data.images).float()[:, None] / 16
    labels = torch.from_numpy(data.target).long()
    return {"train": Set(images[:600], labels[:600]), "test": Set(images[600:900], labels[600:900])}


@cache
def needs() -> dict[str, Record]:
    inputs = Inputs(data=digits().__getitem__)
    quick: dict[str, Any] = {"epochs": 1, "steps": 300}
    found: dict[str, Record] = {}
    for s in (0, 1):
        for strength in STRENGTHS:
            found[f"{penalty_row(strength)}/{s}/net"] = train_penalised(inputs, seed=s, strength=strength, **quick)
        for decay in DECAYS:
            net = train_penalised(inputs, seed=s, strength=0.0, decay=[decay] * 3, **quick)
            found[f"{decay_row(decay)}/{s}/net"] = net
    for key, net in list(found.items()):
        given = Inputs(data=digits().__getitem__, needs={"net": net})
        found[key.removesuffix("net") + "random"] = attack(given, net=NET, images=20, seed=0)
    return found


def run(seeds: tuple[int, ...]) -> Record:
    inputs = Inputs(data=digits().__getitem__, needs=needs())
    return lipschitz.lipschitz_penalty(inputs, net=NET, strengths=STRENGTHS, decays=DECAYS, seeds=seeds, seed=0)


def find(record: Record, row: str, column: str) -> Mapping[str, Any]:
    (cell,) = [c for c in record.values["cells"] if (c["row"], c["column"]) == (row, column)]
    return cell


def product(key: str) -> float:
    """The product of the singular values, two layers of sigmoid units counted, from the stored weights."""
    tensors = needs()[key].tensors
    names = ("hidden1", "hidden2", "output")
    return math.prod(float(torch.linalg.svdvals(tensors[f"{name}.weight"].double())[0]) for name in names) / 16


def test_products_and_their_ratio() -> None:
    record = run((0,))
    for strength in STRENGTHS:
        row = penalty_row(strength)
        entry = find(record, row, PRODUCT)
        assert entry["kind"] == "exact"
        assert entry["measured"] == pytest.approx(product(f"{row}/0/net"), rel=1e-6)
    ratio = find(record, penalty_row(1e-2), SMALLER)["measured"]
    assert ratio == pytest.approx(product(f"{PLAIN}/0/net") / product("penalty 0.01/0/net"), rel=1e-6)
    assert ratio > 2


def test_several_nets_have_a_geometric_mean() -> None:
    entry = find(run((0, 1)), PLAIN, PRODUCT)
    assert entry["measured"] == pytest.approx(math.sqrt(product(f"{PLAIN}/0/net") * product(f"{PLAIN}/1/net")))
    assert "2 nets" in entry["note"]


def test_changes_are_paired() -> None:
    record, test = run((0, 1)), digits()["test"]
    changes = []
    for s in (0, 1):
        before, after = (
            restore(needs()[f"{row}/{s}/net"], NET, (1, 8, 8), 10)(test.images).argmax(1) != test.labels
            for row in (PLAIN, "penalty 0.003")
        )
        changes.append(float((after.double() - before.double()).mean()))
    assert find(record, "penalty 0.003", CHANGE)["measured"] == pytest.approx(sum(changes) / 2)
    assert find(record, "penalty 0.003", RISE)["n"] > 0


def test_the_control_is_the_decay_with_the_nearest_product() -> None:
    record = run((0,))
    for strength in STRENGTHS[1:]:
        here = math.log(find(record, penalty_row(strength), PRODUCT)["measured"])
        nearest = min(DECAYS, key=lambda d: abs(math.log(product(f"{decay_row(d)}/0/net")) - here))
        for column in (PRODUCT, ERROR, RANDOM, CHANGE, RISE, SMALLER):
            control = find(record, penalty_row(strength), column)["control"]
            assert control["label"] == decay_row(nearest)
            if column in (PRODUCT, ERROR, RANDOM):
                assert control["measured"] == find(record, decay_row(nearest), column)["measured"]


def test_the_record_is_complete() -> None:
    for seeds in ((0,), (0, 1)):
        record = run(seeds)
        json.dumps(record.values, allow_nan=False)
        places = [(cell["row"], cell["column"]) for cell in record.values["cells"]]
        assert len(set(places)) == len(places)
        for cell in record.values["cells"]:
            assert cell["n"] > 0
            assert cell["low"] - 1e-12 <= cell["measured"] <= cell["high"] + 1e-12
            if cell["kind"] == "sampled":
                assert cell["control"]["label"]
        for figure in record.values["figures"]:
            assert {series["role"] for series in figure["series"]} == {"ours", "control"}
            for series in figure["series"]:
                places = [point["x"] for point in series["points"]]
                assert places == sorted(places)
        assert all(finding.endswith(".") for finding in record.values["findings"])
        assert len(record.values["findings"]) == 3

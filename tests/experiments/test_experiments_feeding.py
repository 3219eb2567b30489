"""The comparison of ways to feed adversarial examples back: differences recomputed, controls, and equal nets."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from intriguing.experiments import feeding
from intriguing.experiments.distortion import RANDOM, attack
from intriguing.records import Inputs, Record
from intriguing.training.feeding import ARMS, train_fed
from intriguing.training.recipes import restore

NET = "FC100-100-10"
SEEDS = (0, 1)


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
    found: dict[str, Record] = {}
    for arm in ("none", "all", "noise"):
        for s in SEEDS:
            net = train_fed(Inputs(data=digits().__getitem__), seed=s, arm=arm, epochs=80, steps=1)
            found[f"{arm}/{s}/net"] = net
            inputs = Inputs(data=digits().__getitem__, needs={"net": net})
            found[f"{arm}/{s}/random"] = attack(inputs, net=NET, images=30, seed=0)
    return found


def run(arms: tuple[str, ...], records: Mapping[str, Record] | None = None, seeds: tuple[int, ...] = SEEDS) -> Record:
    inputs = Inputs(data=digits().__getitem__, needs=records or needs())
    return feeding.feeding(inputs, net=NET, arms=arms, seeds=seeds, seed=0)


def find(record: Record, row: str, column: str) -> Mapping[str, Any]:
    (cell,) = [c for c in record.values["cells"] if (c["row"], c["column"]) == (row, column)]
    return cell


def wrong(record: Record) -> Tensor:
    test = digits()["test"]
    return (restore(record, NET, (1, 8, 8), 10)(test.images).argmax(1) != test.labels).double()


def test_every_arm_has_a_row() -> None:
    assert feeding.ROWS.keys() == ARMS.keys()
    assert len(set(feeding.ROWS.values())) == len(ARMS)


def test_errors_and_differences_are_those_of_the_nets() -> None:
    record = run(("none", "all", "noise"))
    by_hand = {arm: torch.stack([wrong(needs()[f"{arm}/{s}/net"]) for s in SEEDS]) for arm in ("none", "all", "noise")}
    for arm, values in by_hand.items():
        entry = find(record, feeding.ROWS[arm], feeding.ERROR)
        assert entry["measured"] == pytest.approx(float(values.mean()))
        assert entry["n"] == 600
        assert entry["low"] <= entry["measured"] <= entry["high"]
    entry = find(record, "pools of all layers", feeding.DIFFERENCE)
    assert entry["measured"] == pytest.approx(float((by_hand["all"] - by_hand["none"]).mean()))
    assert 0 < entry["p"] <= 1
    assert entry["control"]["label"] == "pools of noise"
    assert entry["control"]["measured"] == pytest.approx(float((by_hand["noise"] - by_hand["none"]).mean()))
    assert find(record, "pools of all layers", feeding.ERROR)["control"]["label"] == "no pool"


def test_distances_are_paired_by_image() -> None:
    record = run(("none", "all"))
    gains = []
    for s in SEEDS:
        before, after = (needs()[f"{arm}/{s}/random"] for arm in ("none", "all"))
        both = [
            (b - a) / 8
            for a, b, one, two in zip(
                before.rows["distance_search"],
                after.rows["distance_search"],
                before.rows["status"],
                after.rows["status"],
                strict=True,
            )
            if one == two == "found"
        ]
        gains.append(np.mean(both))
    entry = find(record, "pools of all layers", feeding.RISE)
    assert entry["measured"] == pytest.approx(float(np.mean(gains)))
    assert find(record, "pools of all layers", RANDOM)["control"]["label"] == "no pool"


def test_without_an_arm_of_noise_the_control_is_chance() -> None:
    entry = find(run(("none", "all")), "pools of all layers", feeding.DIFFERENCE)
    assert entry["control"]["label"] == "no pool, other initial weights"
    by_hand = float((wrong(needs()["none/1/net"]) - wrong(needs()["none/0/net"])).mean())
    assert entry["control"]["measured"] == pytest.approx(by_hand)


def test_equal_nets_do_not_differ() -> None:
    records = dict(needs())
    for s in SEEDS:
        for kind in ("net", "random"):
            records[f"all/{s}/{kind}"] = records[f"none/{s}/{kind}"]
    record = run(("none", "all"), records)
    entry = find(record, "pools of all layers", feeding.DIFFERENCE)
    assert (entry["measured"], entry["low"], entry["high"], entry["p"]) == (0.0, 0.0, 0.0, 1.0)
    assert find(record, "pools of all layers", feeding.RISE)["measured"] == 0.0


def test_the_record_is_complete() -> None:
    for arms, seeds in ((("none", "all", "noise"), SEEDS), (("none", "all"), (0,))):
        record = run(arms, seeds=seeds)
        json.dumps(record.values, allow_nan=False)
        places = [(cell["row"], cell["column"]) for cell in record.values["cells"]]
        assert len(set(places)) == len(places)
        for cell in record.values["cells"]:
            assert cell["n"] > 0
            assert math.isfinite(cell["low"])
            assert cell["control"]["label"]
        for table in record.values["tables"]:
            assert all(len(row) == len(table["columns"]) for row in table["rows"])
        for figure in record.values["figures"]:
            assert {"kind", "id", "title", "caption"} <= figure.keys()
        for finding in record.values["findings"]:
            assert finding.endswith(".")
            assert "nan" not in finding

"""Hard-negative mining measured: from made-up series whose falls are known, and from a small run."""

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

from intriguing.experiments import mining
from intriguing.experiments.distortion import RANDOM, attack
from intriguing.records import Inputs, Record
from intriguing.training.mining import train_mined
from intriguing.training.recipes import train

NET = "FC100-100-10"


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


def find(record: Record, row: str, column: str) -> Mapping[str, Any]:
    (cell,) = [c for c in record.values["cells"] if (c["row"], c["column"]) == (row, column)]
    return cell


def measured(mined: list[list[float]], wrong: list[list[float]]) -> Record:
    """Return a record with these rounds, one list of values per round; unseen losses are the mined ones, doubled."""
    part = ["mined"] * len(mined[0]) + ["unseen"] * len(mined[0]) + ["test"] * len(wrong[0])
    columns = {
        f"round_{r}": [*losses, *(2 * loss for loss in losses), *errors]
        for r, (losses, errors) in enumerate(zip(mined, wrong, strict=True))
    }
    return Record(rows={"part": part, **columns})


def attacked(distances: list[float]) -> Record:
    rows = {"distance_search": distances, "status": ["found"] * len(distances)}
    return Record(tensors={"original": torch.zeros(len(distances), 1, 8, 8)}, rows=rows)


def made_up() -> Record:
    start, hard, random = [1.0, 2.0, 3.0], [0.5, 1.0, 1.5], [1.0, 2.0, 2.7]
    quiet = [0.0] * 200
    needs = {
        "hard/0/net": measured([start, [1.1, 2.2, 3.3], hard], [quiet, quiet, [1.0, *quiet[1:]]]),
        "random/0/net": measured([start, random, random], [quiet, quiet, quiet]),
        "before/0/random": attacked([0.8, 0.8]),
        "hard/0/random": attacked([1.6, 1.6]),
        "random/0/random": attacked([0.8, 0.9]),
    }
    return mining.hard_negatives(Inputs(data=digits().__getitem__, needs=needs), seeds=(0,), seed=0)


def test_means_by_hand() -> None:
    record = made_up()
    assert find(record, "before", mining.MINED)["measured"] == pytest.approx(2.0)
    assert find(record, "before", mining.MINED)["control"]["measured"] == pytest.approx(math.log(10))
    hard = find(record, "hard examples", mining.MINED)
    assert hard["measured"] == pytest.approx(1.0)
    assert hard["control"]["label"] == "random examples"
    assert hard["control"]["measured"] == pytest.approx(1.9)
    assert hard["p"] == pytest.approx(1 / 8)  # all three fall: one of the eight ways to set their signs
    assert find(record, "hard examples", mining.UNSEEN)["measured"] == pytest.approx(2.0)
    assert find(record, "hard examples", mining.CHANGE)["measured"] == pytest.approx(1 / 200)
    assert find(record, "random examples", mining.CHANGE)["measured"] == 0.0
    # Up in the first round, down in the second; and down once, then not at all.
    assert find(record, "hard examples", mining.FELL)["measured"] == 0.5
    assert find(record, "random examples", mining.FELL)["measured"] == 0.5
    assert find(record, "hard examples", RANDOM)["measured"] == pytest.approx(0.2)
    lines = next(figure for figure in record.values["figures"] if figure["id"] == "loss-mined")
    assert [point["y"] for point in lines["series"][0]["points"]] == pytest.approx([2.0, 2.2, 1.0])


@cache
def small_run() -> Record:
    inputs = Inputs(data=digits().__getitem__)
    needs: dict[str, Record] = {}
    for s in (0, 1):
        start = train(inputs, net=NET, seed=s)
        nets = {"before": start}
        for pool in ("hard", "random"):
            given = Inputs(data=digits().__getitem__, needs={"net": start})
            nets[pool] = train_mined(given, seed=s, pool=pool, unseen=60, rounds=3)
            needs[f"{pool}/{s}/net"] = nets[pool]
        for name, net in nets.items():
            given = Inputs(data=digits().__getitem__, needs={"net": net})
            needs[f"{name}/{s}/random"] = attack(given, net=NET, images=20, seed=0)
    return mining.hard_negatives(Inputs(data=digits().__getitem__, needs=needs), seeds=(0, 1), seed=0)


def test_a_small_run_is_complete() -> None:
    record = small_run()
    json.dumps(record.values, allow_nan=False)
    places = [(cell["row"], cell["column"]) for cell in record.values["cells"]]
    assert len(set(places)) == len(places)
    for cell in record.values["cells"]:
        assert cell["kind"] == "sampled"
        assert cell["n"] > 0
        assert cell["low"] - 1e-12 <= cell["measured"] <= cell["high"] + 1e-12
        assert cell["control"]["label"]
    for figure in record.values["figures"]:
        assert [series["role"] for series in figure["series"]] == ["ours", "control"]
        assert all(len(series["points"]) == 4 for series in figure["series"])
    assert all(finding.endswith(".") and "nan" not in finding for finding in record.values["findings"])


def test_hard_examples_do_more_than_random_ones() -> None:
    entry = find(small_run(), "hard examples", mining.UNSEEN)
    assert entry["measured"] < 0.8 * entry["control"]["measured"]
    assert entry["p"] < 0.01

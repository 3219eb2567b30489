"""What the tests of the open questions share: a few digits, small trained nets, and the promises of a cell."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from intriguing.records import Inputs, Record
from intriguing.training.recipes import train

LINEAR, SIGMOID = "FC10(1e-2)", "FC100-100-10"


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
    return {"train": Set(images[:500], labels[:500]), "test": Set(images[500:800], labels[500:800])}


def inputs(needs: Mapping[str, Record] | None = None, data: Mapping[str, Set] | None = None) -> Inputs:
    return Inputs(data=(data or digits()).__getitem__, needs=needs or {})


@cache
def trained(net: str) -> Record:
    cheap = {"max_evaluations": 60} if net.startswith("FC10(") else {"epochs": 30, "steps": 60}
    return train(inputs(), net=net, seed=0, **cheap)


def find(record: Record, row: str, column: str) -> Mapping[str, Any]:
    (cell,) = [c for c in record.values["cells"] if (c["row"], c["column"]) == (row, column)]
    return cell


def check(record: Record) -> None:
    """Hold an exhibit against what every exhibit promises."""
    values = record.values
    json.dumps(values, allow_nan=False)
    places = [(cell["row"], cell["column"]) for cell in values["cells"]]
    assert len(set(places)) == len(places)
    for cell in values["cells"]:
        assert cell["n"] > 0
        assert cell["low"] - 1e-9 <= cell["measured"] <= cell["high"] + 1e-9, cell
        assert cell["control"]["label"]
        assert math.isfinite(cell["control"]["measured"])
        module, _, name = cell["code"].partition(":")
        assert callable(getattr(importlib.import_module(module), name))
    assert all(finding.endswith(".") and "nan" not in finding for finding in values["findings"])
    assert 1 <= len(values["findings"]) <= 3
    for table in values["tables"]:
        assert all(len(row) == len(table["columns"]) for row in table["rows"])
    for figure in values["figures"]:
        assert {"kind", "id", "title", "caption"} <= set(figure)
        for group in figure.get("groups", ()):
            for row in group["rows"]:
                assert len(row["images"]) == len(group["columns"])
                for tile in row["images"]:
                    image = record.tensors[tile["tensor"]][tile["index"]]
                    assert image.ndim == 3
                    assert ((image >= 0) & (image <= 1)).all()
        for series in figure.get("series", ()):
            assert series["role"] in ("ours", "control", "paper")
            for point in series["points"]:
                assert point["low"] - 1e-9 <= point["y"] <= point["high"] + 1e-9

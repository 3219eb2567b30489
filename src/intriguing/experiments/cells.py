"""What every experiment shares: which images are looked at, trained nets from their records, numbers as cells."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from intriguing.errors import InputError
from intriguing.experiments.statistics import Estimate
from intriguing.nets.load import Model
from intriguing.records import Images, Inputs, Record
from intriguing.rng import generator
from intriguing.training.recipes import restore

_STARTS = 500  # training images that a search may start from


def attacked_images(data: Images, count: int, seed: int) -> Tensor:
    """Return which images are attacked: (count,) sorted ids, the same for every net of a run.

    Raises:
        InputError: more images than the set has.
    """
    total = len(data.labels)
    if not 1 <= count <= total:
        raise InputError(f"images: expected 1 to {total}, the size of the set, got {count}")
    return torch.randperm(total, generator=generator("attacked images", seed))[:count].sort().values


def spread(count: int, size: int) -> Tensor:
    """Return the ids of at most `size` of `count` images, spread evenly over all: a set may come class by class.

    Example:
        >>> spread(50, 4).tolist()
        [0, 12, 25, 37]
    """
    n = min(size, count)
    return torch.arange(n) * count // max(n, 1)


def far_starts(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Return training images (P, C, H, W) and their labels (P,), from which to search for the nearest example too."""
    train = inputs.data("train")
    ids = spread(len(train.labels), _STARTS)
    return train.images[ids], train.labels[ids]


def model_of(record: Record, net: str, data: Images, device: torch.device) -> Model:
    """Return a trained net as a `Model` on `device`."""
    shape = tuple(data.images.shape[1:])
    module = restore(record, net, shape, len(data.classes))
    return Model(module.to(device), name=net)


def measured(estimate: Estimate) -> dict[str, Any]:
    """Return an estimate as the fields of a results cell."""
    return {"measured": estimate.measured, "n": estimate.n, "low": estimate.low, "high": estimate.high}


def cell(
    row: str, column: str, estimate: Estimate, function: Any, control: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return one sampled cell of a table, naming the function that computed it."""
    entry = {"row": row, "column": column, "kind": "sampled", **measured(estimate)}
    entry["code"] = f"{function.__module__}:{function.__qualname__}"
    if control is not None:
        entry["control"] = dict(control)
    return entry


def exact(
    row: str,
    column: str,
    value: float,
    function: Any,
    *,
    residual: float = 0.0,
    control: Mapping[str, Any] | None = None,
    note: str | None = None,
) -> dict[str, Any]:
    """Return one cell whose value is computed, not sampled: known to within `residual` on either side.

    Args:
        row: of the table.
        column: of the table.
        value: the number.
        function: that computed it.
        residual: at least 0; an infinite `value` needs none.
        control: ``{"label", "measured"}``, the number beside it that keeps it honest.
        note: a sentence for the reader.
    """
    spread = residual if math.isfinite(value) else 0.0
    entry: dict[str, Any] = {"row": row, "column": column, "kind": "exact", "measured": value, "n": 1}
    entry |= {"low": value - spread, "high": value + spread}
    entry["code"] = f"{function.__module__}:{function.__qualname__}"
    if control is not None:
        entry["control"] = dict(control)
    if note is not None:
        entry["note"] = note
    return entry

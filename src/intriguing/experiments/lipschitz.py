"""Does a penalty on every layer's bound help? The question that Szegedy et al. 2014 leave open in section 4.3.

Nets are trained with a penalty on each layer's largest singular value (`training.lipschitz`), and with plain weight
decay as the control: it shrinks all singular values, so it lowers the bound as well, for another price.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from intriguing.experiments import statistics
from intriguing.experiments.cells import cell, exact, measured, model_of
from intriguing.experiments.distortion import RANDOM
from intriguing.experiments.statistics import Estimate
from intriguing.records import Inputs, Record
from intriguing.rng import generator

PRODUCT = "product of layer bounds"
SMALLER = "times smaller"
ERROR = "test error"
CHANGE = "change of the test error"
RISE = "rise of distortion"

PLAIN = "no penalty"


def penalty_row(strength: float) -> str:
    """Return the name of the row of a penalty of this strength."""
    return f"penalty {strength:g}" if strength else PLAIN


def decay_row(decay: float) -> str:
    """Return the name of the row of plain weight decay."""
    return f"weight decay {decay:g}"


@dataclass(frozen=True)
class _Row:
    """What was measured on the nets of a row."""

    name: str
    products: list[float]
    wrong: Tensor
    sizes: Tensor
    fooled: list[list[float]]

    @property
    def product(self) -> float:
        """The geometric mean of the nets' products."""
        return math.exp(sum(math.log(value) for value in self.products) / len(self.products))


def lipschitz_penalty(
    inputs: Inputs, *, net: str, strengths: Sequence[float], decays: Sequence[float], seeds: Sequence[int], seed: int
) -> Record:
    """Compare nets trained with the penalty, with weight decay, and with neither.

    Args:
        inputs: needs ``"<row>/<seed>/net"`` (`training.lipschitz.train_penalised`) and ``"<row>/<seed>/random"``
            (`distortion.attack`) for every `penalty_row` and `decay_row` and seed; data ``"test"``.
        net: name of the architecture.
        strengths: of the penalty, 0 among them.
        decays: of the control.
        seeds: of the trainings; rows are paired by them.
        seed: draws the bootstrap resamples.
    """
    test = inputs.data("test")
    rows: dict[str, _Row] = {}
    for name in (*map(penalty_row, strengths), *map(decay_row, decays)):
        records = [inputs.needs[f"{name}/{s}/net"] for s in seeds]
        models = [model_of(record, net, test, inputs.device) for record in records]
        attacks = [inputs.needs[f"{name}/{s}/random"] for s in seeds]
        rows[name] = _Row(
            name,
            [float(record.values["product"]) for record in records],
            torch.stack([(model.predict(test.images) != test.labels).double() for model in models]),
            torch.tensor([_found(record, "distance_search", _side(record)) for record in attacks], dtype=torch.float64),
            [_found(record, "fooled_by_noise", 1.0) for record in attacks],
        )
    plain = rows[PLAIN]
    guess = 1 - float(torch.bincount(test.labels).max()) / len(test.labels)
    draw = generator("bootstrap/lipschitz/noise", seed)
    first = {
        ERROR: {"label": "always the most frequent class", "measured": guess},
        RANDOM: {"label": "error under noise of the same norm", **measured(statistics.mean(plain.fooled, draw))},
    }
    estimates = {name: _estimates(row, plain, seed) for name, row in rows.items()}
    cells: list[dict[str, Any]] = []
    for name, row in rows.items():
        rival = plain
        if name in map(penalty_row, filter(None, strengths)):
            rival = _rival(row, rows, decays) or plain
        control = {"label": rival.name, "measured": rival.product} if rival is not row else None
        note = None if len(row.products) == 1 else f"geometric mean of {len(row.products)} nets"
        cells.append(exact(name, PRODUCT, row.product, lipschitz_penalty, control=control, note=note))
        for column, estimate in estimates[name].items():
            beside = (
                first[column] if rival is row else {"label": rival.name, **measured(_same(estimates, rival, column))}
            )
            cells.append(cell(name, column, estimate, lipschitz_penalty, beside))
        if row is not plain:
            ratio = plain.product / row.product
            against = {"label": rival.name, "measured": plain.product / rival.product}
            cells.append(exact(name, SMALLER, ratio, lipschitz_penalty, control=against))
    figures = [
        _lines(rows, estimates, strengths, decays, ERROR, "What does a smaller bound cost?", "error"),
        _lines(rows, estimates, strengths, decays, RANDOM, "Does a smaller bound keep the examples away?", "distance"),
    ]
    table = _layers(inputs, rows, seeds)
    return Record(
        values={
            "cells": cells,
            "figures": figures,
            "tables": [table],
            "findings": _findings(rows, estimates, strengths, decays),
        }
    )


def _side(record: Record) -> float:
    return math.sqrt(record.tensors["original"][0].numel())


def _found(record: Record, column: str, unit: float) -> list[float]:
    """Return the column's values, image by image, over `unit`; NaN where no example was found."""
    pairs = zip(record.rows[column], record.rows["status"], strict=True)
    return [float(value) / unit if status == "found" else math.nan for value, status in pairs]


def _estimates(row: _Row, plain: _Row, seed: int) -> dict[str, Estimate]:
    """Return what was sampled: the test error, the distortion, and their paired changes."""
    draw = generator(f"bootstrap/lipschitz/{row.name}", seed)
    found = {ERROR: statistics.mean(row.wrong.tolist(), draw), RANDOM: statistics.mean(row.sizes.tolist(), draw)}
    if row is not plain:
        found[CHANGE] = statistics.mean((row.wrong - plain.wrong).tolist(), draw)
        found[RISE] = statistics.mean((row.sizes - plain.sizes).tolist(), draw)
    return found


def _rival(row: _Row, rows: Mapping[str, _Row], decays: Sequence[float]) -> _Row | None:
    """Return the nets with plain weight decay whose product is nearest, or None where there are none."""
    candidates = [rows[decay_row(decay)] for decay in decays]
    return min(candidates, key=lambda r: abs(math.log(r.product / row.product)), default=None)


def _same(estimates: Mapping[str, Mapping[str, Estimate]], rival: _Row, column: str) -> Estimate:
    """Return the rival's value; the net without a penalty has no change to itself."""
    return estimates[rival.name].get(column, Estimate(0.0, len(rival.products), 0.0, 0.0))


def _lines(
    rows: Mapping[str, _Row],
    estimates: Mapping[str, Mapping[str, Estimate]],
    strengths: Sequence[float],
    decays: Sequence[float],
    column: str,
    title: str,
    name: str,
) -> dict[str, Any]:
    captions = {
        ERROR: "Each point is one way of training: to the left a smaller bound, upwards more errors. At equal bound, "
        "the lower line pays less for it.",
        RANDOM: "Each point is one way of training: to the left a smaller bound, upwards a larger distance to the "
        "nearest example of a random wrong class. A smaller bound promises distance only if the margin stays.",
    }
    series = []
    for label, role, names in (
        ("penalty on the top singular value", "ours", [penalty_row(strength) for strength in strengths]),
        ("plain weight decay", "control", [PLAIN, *(decay_row(decay) for decay in decays)]),
    ):
        points = [
            {
                "x": rows[row].product,
                "y": estimates[row][column].measured,
                "low": estimates[row][column].low,
                "high": estimates[row][column].high,
            }
            for row in sorted(names, key=lambda row: rows[row].product)
        ]
        series.append({"label": label, "role": role, "points": points})
    return {
        "kind": "lines",
        "id": name,
        "title": title,
        "caption": captions[column],
        "x": PRODUCT,
        "y": column,
        "log_x": True,
        "series": series,
    }


def _layers(inputs: Inputs, rows: Mapping[str, _Row], seeds: Sequence[int]) -> dict[str, Any]:
    lines = []
    for name in rows:
        bounds = [inputs.needs[f"{name}/{s}/net"].values["layers"] for s in seeds]
        means = [sum(net[k] for net in bounds) / len(bounds) for k in range(len(bounds[0]))]
        train = sum(inputs.needs[f"{name}/{s}/net"].values["train_error"] for s in seeds) / len(seeds)
        lines.append([name, *(f"{value:.2f}" for value in means), f"{100 * train:.2f}%"])
    count = len(lines[0]) - 2
    return {
        "id": "layers",
        "title": "The bound of every layer",
        "caption": "The largest singular value of each weight matrix, times 1/4 where sigmoid units follow: the "
        "steepest they can be. Means over the seeds.",
        "columns": ["way of training", *(f"layer {k + 1}" for k in range(count)), "train error"],
        "rows": lines,
    }


def _findings(
    rows: Mapping[str, _Row],
    estimates: Mapping[str, Mapping[str, Estimate]],
    strengths: Sequence[float],
    decays: Sequence[float],
) -> list[str]:
    plain = rows[PLAIN]
    penalised = [rows[penalty_row(strength)] for strength in strengths if strength]
    if not penalised:
        return []
    # The weakest penalty with a tenth of the bound, or the strongest there is.
    enough = [row for row in penalised if plain.product / row.product >= 10]
    row = max(enough, key=lambda r: r.product) if enough else min(penalised, key=lambda r: r.product)
    change, rise = estimates[row.name][CHANGE], estimates[row.name][RISE]
    found = [
        f"A penalty of {row.name.removeprefix('penalty ')} makes the bound {plain.product / row.product:.1f} times "
        f"smaller ({plain.product:.1f} to {row.product:.1f}), at {100 * change.measured:+.2f} points of test error "
        f"(95% interval {100 * change.low:+.2f} to {100 * change.high:+.2f})."
    ]
    if rise.n:
        before, after = estimates[PLAIN][RANDOM], estimates[row.name][RANDOM]
        found.append(
            f"The mean distortion of the nearest examples of a random wrong class goes from {before.measured:.4f} to "
            f"{after.measured:.4f} (95% interval of the change {rise.low:+.4f} to {rise.high:+.4f})."
        )
    rival = _rival(row, rows, decays)
    if rival is not None:
        found.append(
            f"Plain weight decay that comes nearest to this bound ({rival.product:.1f}) costs "
            f"{100 * estimates[rival.name][CHANGE].measured:+.2f} points."
        )
    return found

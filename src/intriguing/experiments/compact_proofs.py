"""What does a proof of accuracy cost, and how much of the truth does it reach? Gross et al. 2024, arXiv:2406.11779.

Every proof of `bounds.compact` is run on trained Max-of-K transformers and on untrained ones, the control. All inputs
are enumerated as well, so that the truth is known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from intriguing.bounds.compact import PROOFS, prove
from intriguing.errors import InputError
from intriguing.experiments import statistics
from intriguing.experiments.cells import cell, exact, measured
from intriguing.experiments.statistics import Estimate
from intriguing.records import Inputs, Record
from intriguing.rng import generator
from intriguing.training.max_of_k import restore

CERTIFIED = "certified accuracy"
UNPROVED = "accuracy left unproved"
OPERATIONS = "operations"

TRUTH = "brute force"
TIGHT, BLIND = "cubic", "cubic without copying"


def proofs(inputs: Inputs) -> Record:
    """Run every proof on one net; a cell function.

    Args:
        inputs: needs ``"net"`` (`training.max_of_k.train`); no data is read.

    Returns:
        One row per proof: its name, how many sequences it certifies of how many, operations and seconds.

    Raises:
        InputError: a proof that claims more than is true; no bound of it may be used.
    """
    net = restore(inputs.needs["net"])
    rows: dict[str, list[Any]] = {name: [] for name in ("proof", "certified", "sequences", "operations", "seconds")}
    for turn, name in enumerate(PROOFS):
        found = prove(name, net)
        for column, value in zip(
            rows, (name, found.certified, found.sequences, found.operations, found.seconds), strict=True
        ):
            rows[column].append(value)
        inputs.progress(turn + 1, len(PROOFS))
    truth = rows["certified"][rows["proof"].index(TRUTH)]
    for name, count in zip(rows["proof"], rows["certified"], strict=True):
        if count > truth:
            raise InputError(f"{name} certifies {count} sequences, only {truth} are right: the proof is unsound")
    return Record(rows=rows)


def compact_proofs(inputs: Inputs, *, vocabulary: int, length: int, seeds: Sequence[int], seed: int) -> Record:
    """Put the proofs of several nets side by side: cost, bound, and what the bound leaves of the truth.

    Args:
        inputs: needs ``"<seed>/trained"`` and ``"<seed>/untrained"`` (`proofs`) for every one of `seeds`.
        vocabulary: of the nets.
        length: of their sequences.
        seeds: of the nets.
        seed: draws the bootstrap resamples.
    """
    trained = {s: _columns(inputs.needs[f"{s}/trained"]) for s in seeds}
    untrained = {s: _columns(inputs.needs[f"{s}/untrained"]) for s in seeds}
    draw = generator("bootstrap/compact proofs", seed)
    cells: list[dict[str, Any]] = []
    bounds: dict[str, tuple[Estimate, Estimate]] = {}
    for name in PROOFS:
        of, without = (
            statistics.mean([[nets[s][name]["accuracy"]] for s in seeds], draw) for nets in (trained, untrained)
        )
        bounds[name] = of, without
        cells.append(cell(name, CERTIFIED, of, compact_proofs, _control(without)))
        if name != TRUTH:
            left, right = (
                statistics.mean([[nets[s][TRUTH]["accuracy"] - nets[s][name]["accuracy"]] for s in seeds], draw)
                for nets in (trained, untrained)
            )
            cells.append(cell(name, UNPROVED, left, compact_proofs, _control(right)))
        cost = [trained[s][name]["operations"] for s in seeds]
        whole = {"label": TRUTH, "measured": _mean([trained[s][TRUTH]["operations"] for s in seeds])}
        cells.append(exact(name, OPERATIONS, _mean(cost), compact_proofs, residual=_spread(cost), control=whole))
    return Record(
        values={
            "cells": cells,
            "figures": [_curve(cells, bounds, vocabulary, length)],
            "tables": [_table(trained)],
            "findings": _findings(cells, trained),
        }
    )


def _columns(record: Record) -> dict[str, dict[str, float]]:
    """Return proof -> its accuracy, operations and seconds."""
    r = record.rows
    lines = zip(r["proof"], r["certified"], r["sequences"], r["operations"], r["seconds"], strict=True)
    return {
        name: {"accuracy": count / total, "operations": float(cost), "seconds": taken}
        for name, count, total, cost, taken in lines
    }


def _control(estimate: Estimate) -> dict[str, Any]:
    return {"label": "the same nets untrained", **measured(estimate)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _spread(values: Sequence[float]) -> float:
    """Return the largest distance from the mean: a search takes a few steps more or less from net to net."""
    return max(abs(value - _mean(values)) for value in values)


def _value(cells: Sequence[Mapping[str, Any]], row: str, column: str) -> float:
    return next(float(c["measured"]) for c in cells if (c["row"], c["column"]) == (row, column))


def _curve(
    cells: Sequence[Mapping[str, Any]], bounds: Mapping[str, tuple[Estimate, Estimate]], vocabulary: int, length: int
) -> dict[str, Any]:
    series = []
    for place, (label, role) in enumerate((("trained", "ours"), ("untrained", "control"))):
        points = []
        for name in PROOFS:
            bound = bounds[name][place]
            points.append(
                {
                    "x": _value(cells, name, OPERATIONS),
                    "y": bound.measured,
                    "low": bound.low,
                    "high": bound.high,
                    "label": name,
                }
            )
        series.append({"label": label, "role": role, "points": points})
    return {
        "kind": "lines",
        "id": "cost",
        "title": "Cost against tightness",
        "caption": f"Each point is a way to prove how often nets are right on all {vocabulary**length:,} sequences of "
        f"{length} tokens out of {vocabulary}; from left to right: {', '.join(reversed(PROOFS))}. The last one runs "
        "every sequence: its height is the truth, which no other point may exceed.",
        "x": "arithmetic operations",
        "y": CERTIFIED,
        "log_x": True,
        "series": series,
    }


def _table(trained: Mapping[int, Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    lines = []
    for name in PROOFS:
        mine = [net[name] for net in trained.values()]
        lines.append(
            [
                name,
                *(f"{100 * net['accuracy']:.4f}" for net in mine),
                f"{_mean([net['operations'] for net in mine]):.2e}",
                f"{_mean([net['seconds'] for net in mine]):.2f}",
            ]
        )
    return {
        "id": "nets",
        "title": "Net by net",
        "caption": "Certified accuracy of every trained net in per cent. Seconds are those of this machine, with "
        "whatever else it did; the operations are the same everywhere.",
        "columns": ["proof", *(f"seed {s}" for s in trained), "operations, mean", "seconds, mean"],
        "rows": lines,
    }


def _findings(
    cells: Sequence[Mapping[str, Any]], trained: Mapping[int, Mapping[str, Mapping[str, float]]]
) -> list[str]:
    def share(name: str, places: int = 2) -> str:
        return f"{100 * _value(cells, name, CERTIFIED):.{places}f}%"

    def cost(name: str) -> float:
        return _value(cells, name, OPERATIONS)

    decades = math.log10(cost(TRUTH) / cost(TIGHT))
    return [
        f"A proof with {cost(TRUTH) / cost(TIGHT):,.0f} times fewer operations than running every sequence "
        f"({decades:.1f} decades) certifies {share(TIGHT, 4)} of the answers, where {share(TRUTH, 4)} are right "
        f"(means of {len(trained)} nets).",
        f"To know that the head copies the tokens it attends to is worth {share(TIGHT)} against {share(BLIND)}, for "
        f"{cost(TIGHT) / cost(BLIND):.1f} times the operations.",
        f"Without a loop over three tokens {share('quadratic')} are certified, from the structure of the attention "
        f"scores alone {share('low rank')}.",
    ]

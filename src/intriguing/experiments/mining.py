"""Does a net improve on what it found hard? Szegedy et al. 2014, section 4: the likeness to hard-negative mining.

A trained net is trained on for some rounds, with a pool of hard examples or, as the control, with a pool of images
drawn at random (`training.mining`). Both are measured on the same hard examples, made for the net at its start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from intriguing.experiments import statistics
from intriguing.experiments.cells import cell, measured
from intriguing.experiments.distortion import RANDOM
from intriguing.experiments.statistics import Estimate
from intriguing.records import Inputs, Record
from intriguing.rng import generator

MINED = "loss on the first pool"
UNSEEN = "loss on unseen hard examples"
FELL = "rounds in which the loss on the first pool fell"
ERROR = "test error"
CHANGE = "change of the test error"

BEFORE = "before"
ROWS = {"hard": "hard examples", "random": "random examples"}
"""The row of each pool of `training.mining.POOLS`."""

_COLUMNS = {"mined": MINED, "unseen": UNSEEN, "test": ERROR}

Series = NDArray[np.float64]


def hard_negatives(inputs: Inputs, *, seeds: Sequence[int], seed: int) -> Record:
    """Follow the loss on hard examples over the rounds of mining, and what they do to clean images.

    Args:
        inputs: needs ``"hard/<seed>/net"``, ``"random/<seed>/net"`` (`training.mining.train_mined`), and attacks
            (`distortion.attack`) on these and on the net they started from: ``"hard/<seed>/random"``,
            ``"random/<seed>/random"``, ``"before/<seed>/random"``; data ``"test"`` (labels alone).
        seeds: of the trainings.
        seed: draws the bootstrap resamples.
    """
    labels = inputs.data("test").labels
    guess = 1 - float(torch.bincount(labels).max()) / len(labels)
    chance = {MINED: ("answering at random", math.log(len(inputs.data("test").classes)))}
    chance |= {UNSEEN: chance[MINED], ERROR: ("always the most frequent class", guess)}
    series = {
        (pool, part): [_series(inputs.needs[f"{pool}/{s}/net"], part) for s in seeds]
        for pool in ROWS
        for part in _COLUMNS
    }
    cells: list[dict[str, Any]] = []
    last: dict[tuple[str, str], Estimate] = {}
    for part, column in _COLUMNS.items():
        draw = generator(f"bootstrap/mining/{part}", seed)
        start = _mean([rounds[0] for rounds in series["hard", part]], draw)
        label, value = chance[column]
        cells.append(cell(BEFORE, column, start, hard_negatives, {"label": label, "measured": value}))
        last[BEFORE, part] = start
        for pool in ROWS:
            last[pool, part] = _mean([rounds[-1] for rounds in series[pool, part]], draw)
        for pool, row in ROWS.items():
            other = (ROWS["random"], last["random", part]) if pool == "hard" else (BEFORE, start)
            control = {"label": other[0], **measured(other[1])}
            entry = cell(row, column, last[pool, part], hard_negatives, control)
            if part != "test":
                falls = _mean_over_nets([rounds[0] - rounds[-1] for rounds in series[pool, part]])
                entry["p"] = statistics.paired_p(falls, generator(f"permutation/mining/{pool}/{part}", seed))
            cells.append(entry)
    cells += _changes(series, seed)
    cells += _falls(series)
    cells += _distortions(inputs, seeds, seed)
    figures = [_lines(series, part, seed) for part in ("mined", "unseen")]
    return Record(values={"cells": cells, "figures": figures, "findings": _findings(last, cells)})


def _series(record: Record, part: str) -> Series:
    """Return the measurements of a part, (rounds + 1, images)."""
    kept = [place for place, name in enumerate(record.rows["part"]) if name == part]
    rounds = sum(name.startswith("round_") for name in record.rows)
    return np.array([[record.rows[f"round_{r}"][place] for place in kept] for r in range(rounds)], dtype=np.float64)


def _mean(groups: Sequence[Series], draw: torch.Generator) -> Estimate:
    """Return the mean of the nets' means; where the nets are measured on different images, of all images together."""
    if len({len(group) for group in groups}) > 1:
        return statistics.mean([np.concatenate(groups).tolist()], draw)
    return statistics.mean([group.tolist() for group in groups], draw)


def _mean_over_nets(groups: Sequence[Series]) -> list[float]:
    """Return one value per image, or all of them where the nets are measured on different images."""
    if len({len(group) for group in groups}) > 1:
        return [float(value) for group in groups for value in group]
    return [float(value) for value in np.mean(groups, axis=0)]


def _changes(series: Mapping[tuple[str, str], Sequence[Series]], seed: int) -> list[dict[str, Any]]:
    """Return the paired changes of the test error; random examples are the control of hard ones."""
    changes = {}
    for pool in ROWS:
        draw = generator(f"bootstrap/mining/change/{pool}", seed)
        changes[pool] = _mean([rounds[-1] - rounds[0] for rounds in series[pool, "test"]], draw)
    random = {"label": ROWS["random"], **measured(changes["random"])}
    still = {"label": "no training", "measured": 0.0}
    return [
        cell(ROWS[pool], CHANGE, changes[pool], hard_negatives, random if pool == "hard" else still) for pool in ROWS
    ]


def _falls(series: Mapping[tuple[str, str], Sequence[Series]]) -> list[dict[str, Any]]:
    """Return the share of rounds after which the loss on the first pool was lower than before them."""
    shares = {}
    for pool in ROWS:
        steps = [np.diff(rounds.mean(1)) for rounds in series[pool, "mined"]]
        shares[pool] = statistics.proportion(
            sum(int((step < 0).sum()) for step in steps), sum(len(step) for step in steps)
        )
    controls = {
        "hard": {"label": ROWS["random"], **measured(shares["random"])},
        "random": {"label": "a coin", "measured": 0.5},
    }
    return [cell(ROWS[pool], FELL, shares[pool], hard_negatives, controls[pool]) for pool in ROWS]


def _distortions(inputs: Inputs, seeds: Sequence[int], seed: int) -> list[dict[str, Any]]:
    """Return how far the nearest adversarial example is, before and after."""
    sizes: dict[str, Estimate] = {}
    for pool in (BEFORE, *ROWS):
        draw = generator(f"bootstrap/mining/distortion/{pool}", seed)
        sizes[pool] = statistics.mean([_found(inputs.needs[f"{pool}/{s}/random"]) for s in seeds], draw)
    before = {"label": BEFORE, **measured(sizes[BEFORE])}
    controls = {
        BEFORE: {"label": "no change", "measured": 0.0},
        "hard": {"label": ROWS["random"], **measured(sizes["random"])},
        "random": before,
    }
    return [cell(ROWS.get(pool, pool), RANDOM, sizes[pool], hard_negatives, controls[pool]) for pool in sizes]


def _found(record: Record) -> list[float]:
    side = math.sqrt(record.tensors["original"][0].numel())
    pairs = zip(record.rows["distance_search"], record.rows["status"], strict=True)
    return [float(distance) / side if status == "found" else math.nan for distance, status in pairs]


def _lines(series: Mapping[tuple[str, str], Sequence[Series]], part: str, seed: int) -> dict[str, Any]:
    words = {
        "mined": ("the hard examples that were mined first", "These were trained on."),
        "unseen": (
            "hard examples of test images",
            "These were never trained on: what falls here was learnt, not kept.",
        ),
    }[part]
    lines = []
    for pool, row in ROWS.items():
        points = []
        groups = series[pool, part]
        draw = generator(f"bootstrap/mining/lines/{pool}/{part}", seed)
        for round_ in range(len(groups[0])):
            value = _mean([rounds[round_] for rounds in groups], draw)
            points.append({"x": round_, "y": value.measured, "low": value.low, "high": value.high})
        lines.append({"label": row, "points": points, "role": "ours" if pool == "hard" else "control"})
    return {
        "kind": "lines",
        "id": f"loss-{part}",
        "title": f"The loss on {words[0]}",
        "caption": f"The line of hard examples falls from round to round, that of random ones hardly moves. {words[1]} "
        "Both nets make the same number of steps, and are measured on the same examples, made for the net at round 0.",
        "x": "round",
        "y": "mean cross-entropy",
        "series": lines,
    }


def _findings(last: Mapping[tuple[str, str], Estimate], cells: Sequence[Mapping[str, Any]]) -> list[str]:
    change = next(entry for entry in cells if (entry["row"], entry["column"]) == (ROWS["hard"], CHANGE))
    before, hard, random = (last[pool, "unseen"].measured for pool in (BEFORE, "hard", "random"))
    return [
        f"Training on mined hard examples takes the loss on hard examples it never saw from {before:.2f} to "
        f"{hard:.2f}; as much training on random images takes it to {random:.2f}.",
        f"The error on ordinary test images changes by {100 * change['measured']:+.2f} points "
        f"(95% interval {100 * change['low']:+.2f} to {100 * change['high']:+.2f}).",
    ]

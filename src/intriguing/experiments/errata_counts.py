"""Erratum E12: how many images stand behind a cell of the paper's tables? Arithmetic on the printed values alone.

A percentage with one decimal that is a share of N images is k / N for a whole k, rounded. For every N one can count
how many printed values have such a k, and how often chance would do as well. Nothing of ours is measured here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from intriguing.errors import InputError
from intriguing.experiments.cells import cell, exact
from intriguing.experiments.statistics import proportion
from intriguing.records import Inputs, Record
from intriguing.rng import generator, numpy_generator

CHOSEN = "values used to choose it"
OTHERS = "values marked from memory, not used"
EVERY = "with the noise rows of Table 4"
LIKELIEST = "number of images"
FITTING = "share of values that fit"
CHANCE = "chance of as many fits, share of draws"
_LAST = 1000  # tenths of a per cent


def erratum_e12(
    inputs: Inputs,
    *,
    printed: Sequence[Mapping[str, Any]],
    smallest: int,
    largest: int,
    draws: int,
    seed: int,
) -> Record:
    """Find the number of images whose rounded shares fit the printed percentages best.

    Args:
        inputs: needs and reads nothing.
        printed: ``{"text": "87.1", "mark": "s", "table": "table 2", "noise": False}`` per printed cell; those without
            exactly one decimal are left out.
        smallest: number of images that is tried first.
        largest: last.
        draws: of as many random percentages, for the chance that any number fits so well.
        seed: of the draws.
    """
    if not 2 <= smallest <= largest:
        raise InputError(f"smallest, largest: expected 2 <= smallest <= largest, got {smallest} and {largest}")
    rounded = [entry for entry in printed if len(str(entry["text"]).partition(".")[2]) == 1]
    quiet = [entry for entry in rounded if not (entry["noise"] and entry["table"] == "table 4")]
    groups = {
        CHOSEN: _tenths(entry for entry in quiet if entry["mark"] == "s"),
        EVERY: _tenths(entry for entry in rounded if entry["mark"] == "s"),
        OTHERS: _tenths(entry for entry in quiet if entry["mark"] == "m"),
    }
    sizes = np.arange(smallest, largest + 1)
    fits = np.stack([shares(int(size)) for size in sizes])
    inputs.progress(1, 2)
    chances = {name: _chances(fits, values) for name, values in groups.items()}
    best = int(np.argmin(chances[CHOSEN]))
    size = int(sizes[best])
    lowest = chances[CHOSEN][best]
    # The same search on random percentages: how often does any size look as good?
    random = numpy_generator(generator("erratum-E12", seed))
    made = random.integers(_LAST + 1, size=(draws, len(groups[CHOSEN])))
    as_good = sum(int(_chances(fits, values).min() <= lowest) for values in made)
    luck = proportion(as_good, draws)
    cells: list[dict[str, Any]] = [
        exact(
            CHOSEN,
            LIKELIEST,
            size,
            erratum_e12,
            control={"label": f"sizes tried, {smallest} to {largest}", "measured": len(sizes)},
        )
    ]
    for name, values in groups.items():
        hits = int(fits[best, values].sum())
        control = {"label": "share of all one-decimal percentages that would fit", "measured": float(fits[best].mean())}
        estimate = proportion(hits, len(values))
        cells.append({**cell(name, FITTING, estimate, erratum_e12, control), "p": float(chances[name][best])})
    expected = {"label": "share expected for this size alone", "measured": float(lowest)}
    cells.append({**cell(CHOSEN, CHANCE, luck, erratum_e12, expected), "p": luck.measured})
    order = np.argsort(chances[CHOSEN], kind="stable")[:5]
    rows = [
        [str(sizes[i]), str(int(fits[i, groups[CHOSEN]].sum())), f"{chances[CHOSEN][i]:.2g}"] for i in order.tolist()
    ]
    misses = [_text(value) for value in groups[EVERY].tolist() if not fits[best, value]]
    total = len(groups[CHOSEN])
    hits = int(fits[best, groups[CHOSEN]].sum())
    return Record(
        values={
            "cells": cells,
            "figures": [_figure(sizes, chances[CHOSEN])],
            "tables": [
                {
                    "id": "best-sizes",
                    "title": "The five sizes that fit best",
                    "caption": f"How many of {total} printed values are rounded shares of that many images, and the "
                    "binomial chance of at least as many.",
                    "columns": ["images", "values that fit", "chance"],
                    "rows": rows,
                }
            ],
            "findings": [
                f"Of all sizes from {smallest} to {largest}, {size} fits the printed percentages best: {hits} of "
                f"{total} are rounded shares of {size} images, where chance would give "
                f"{fits[best].mean() * total:.1f}.",
                f"The same search over random percentages found a size that fits as well in {as_good} of {draws:,} "
                "draws.",
            ],
            "notes": [
                "Values that do not fit by rounding: " + (", ".join(misses) or "none") + ".",
            ],
        }
    )


def shares(size: int) -> NDArray[np.bool_]:
    """Return which percentages with one decimal, in tenths 0 to 1000, are rounded shares of `size` images.

    Example:
        >>> shares(256)[871], shares(256)[872]
        (True, False)
    """
    reached = np.zeros(_LAST + 1, dtype=bool)
    # In whole numbers, so that no half is rounded by accident: floor(1000 k / N + 1/2).
    reached[(2 * _LAST * np.arange(size + 1) + size) // (2 * size)] = True
    return reached


def _tenths(entries: Any) -> NDArray[np.int64]:
    return np.array([int(Decimal(str(entry["text"])) * 10) for entry in entries], dtype=np.int64)


def _chances(fits: NDArray[np.bool_], values: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return for every size the binomial chance that as many of as many random percentages fit."""
    hits = fits[:, values].sum(1)
    found: NDArray[np.float64] = scipy.stats.binom.sf(hits - 1, len(values), fits.mean(1))
    return found


def _text(tenths: int) -> str:
    return f"{tenths / 10:.1f}"


def _figure(sizes: NDArray[np.int64], chances: NDArray[np.float64]) -> dict[str, Any]:
    points = [{"x": int(n), "y": -math.log10(max(p, 1e-300))} for n, p in zip(sizes, chances, strict=True)]
    return {
        "kind": "lines",
        "id": "sizes",
        "title": "Which number of images fits the print?",
        "caption": "One size stands out: the height is how unlikely its fit is by chance (6 means one in a million). "
        "Every printed percentage that is a rounded share of so many images counts.",
        "x": "number of images",
        "y": "-log10 of the chance",
        "series": [{"label": "printed values", "points": points, "role": "paper"}],
    }

"""Two audits of the same images, row by row: is the difference larger than what the choice of images explains?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from intriguing.errors import InputError
from intriguing.experiments import audit_figures, resampling
from intriguing.experiments.audit_figures import WORST, Rows
from intriguing.experiments.resampling import Array, Statistic

CERTIFIED = "certified"
"""The median certified radius over the images that a net gets right, where both runs have certificates."""

_SHOWN = 3  # hashes a message names


@dataclass(frozen=True)
class Difference:
    """A figure of two runs over the same images.

    Attributes:
        value_a: of the first run.
        value_b: of the second.
        difference: value_b - value_a; 0 where both are infinite.
        low: lower end of its 95% interval, by paired bootstrap over images.
        high: upper end. The difference is significant where 0 lies outside [low, high].
        n: images.
    """

    value_a: float
    value_b: float
    difference: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Comparison:
    """Every figure that is a statistic of rows, by name, and the number of images that both runs have."""

    figures: Mapping[str, Difference]
    n: int


def worst(rows: Rows, *, model: str | None = None) -> dict[str, list[Any]]:
    """Return the rows of the nearest example of all attacks, for one model.

    Args:
        rows: the columns of an audit's ``rows.parquet``.
        model: whose; None: that of the first row.

    Raises:
        InputError: no such rows.
    """
    attacks, models = list(rows["attack"]), list(rows["model"])
    wanted = model if model is not None else (models[0] if models else None)
    kept = [at for at, attack in enumerate(attacks) if attack == WORST and models[at] == wanted]
    if not kept:
        raise InputError(f"rows: expected rows of the attack {WORST!r} for the model {wanted!r}, got none")
    return {name: [values[at] for at in kept] for name, values in rows.items()}


def compare(rows_a: Rows, rows_b: Rows, generator: torch.Generator) -> Comparison:
    """Compare two runs figure by figure, paired by image.

    Args:
        rows_a: columns of the first run's "worst of" rows for one model, see `worst`.
        rows_b: of the second run's, in any order.
        generator: draws the resamples.

    Raises:
        InputError: the runs are not of the same images, or columns are missing.

    Example:
        >>> found = compare(worst(before), worst(after), rng.generator("compare", 0))
        >>> found.figures["median_l2"].high < 0  # significantly nearer than before
        False
    """
    at = _pairs(rows_a, rows_b)
    a = audit_figures.columns(rows_a)
    b = audit_figures.columns({name: np.asarray(values)[at] for name, values in rows_b.items()})
    pairs = {name: (figure.of(a), figure.of(b)) for name, figure in audit_figures.figures().items()}
    radii = [_radii(rows) for rows in (rows_a, rows_b)]
    if radii[0] is not None and radii[1] is not None:
        pairs[CERTIFIED] = Statistic(radii[0], a.right, 0.5), Statistic(radii[1][at], b.right, 0.5)
    figures = {
        name: Difference(pairs[name][0].value, pairs[name][1].value, found.measured, found.low, found.high, found.n)
        for name, found in resampling.differences(pairs, generator).items()
    }
    return Comparison(figures, len(at))


def _radii(rows: Rows) -> Array | None:
    """Return the certified radii of rows, or None where not all have one."""
    values = list(rows.get(CERTIFIED, [None]))
    return None if any(value is None for value in values) else np.asarray(values, dtype=np.float64)


def _pairs(rows_a: Rows, rows_b: Rows) -> list[int]:
    """Return for each row of the first run the place of its image in the second.

    A set may hold an image twice: the k-th of one run is then paired with the k-th of the other.
    """
    for argument, rows in (("rows_a", rows_a), ("rows_b", rows_b)):
        if "image_hash" not in rows:
            raise InputError(f"{argument}: expected the column image_hash; give the rows of an audit")
    hashes_a, hashes_b = list(rows_a["image_hash"]), list(rows_b["image_hash"])
    places: dict[str, list[int]] = defaultdict(list)
    for place, digest in enumerate(hashes_b):
        places[digest].append(place)
    only_a = []
    at = []
    for digest in hashes_a:
        if places[digest]:
            at.append(places[digest].pop(0))
        else:
            only_a.append(digest)
    only_b = [digest for digest, left in places.items() for _ in left]
    if only_a or only_b or not at:
        raise InputError(
            f"rows: the two runs are not of the same images: {len(only_a)} of {len(hashes_a)} in the first alone"
            f"{_some(only_a)}, {len(only_b)} of {len(hashes_b)} in the second alone{_some(only_b)}; "
            "audit both with the same data, split, images, seed and size"
        )
    return at


def _some(hashes: Sequence[str]) -> str:
    return f" ({', '.join(hashes[:_SHOWN])}{', ...' if len(hashes) > _SHOWN else ''})" if hashes else ""

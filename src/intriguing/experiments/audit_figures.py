"""The figures of an audit as statistics of its rows: one home for what each means, for one run and for two."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from intriguing.errors import InputError
from intriguing.experiments import audit
from intriguing.experiments.resampling import Array, Statistic

WORST = audit.WORST
Rows = Mapping[str, Sequence[Any] | Array]

RADII = {
    2.0: (0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0),
    math.inf: (1 / 255, 2 / 255, 4 / 255, 8 / 255, 0.1, 0.2, 0.3),
}
"""Radii, as shares of the width of the box, at which robust accuracy is a figure of its own."""

_NEEDED = (
    "status", "distance", "distance_l1", "distance_linf", "distance_8bit", "survives_8bit", "forwards", "backwards",
)  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """The rows of one model and one attack as arrays, (N,) each.

    Attributes:
        right: the net is right on the clean image.
        found: an adversarial example was found.
        l2: distance; inf where nothing was found, 0 where already wrong.
        l1: likewise.
        linf: likewise.
        l2_8bit: distance once rounded to 8 bits; inf where the example dies of it.
        survives: the rounded example is still one.
        passes: forwards plus backwards.
    """

    right: Array
    found: Array
    l2: Array
    l1: Array
    linf: Array
    l2_8bit: Array
    survives: Array
    passes: Array


@dataclass(frozen=True)
class Figure:
    """A figure: what it means, and how it is taken of rows.

    Attributes:
        unit: for a reader.
        better: ``"higher"`` or ``"lower"``, for a net that is to withstand.
        meaning: one sentence.
        of: columns -> the statistic. Its values are shares (0 or 1) where `is_share` is set.
        is_share: the statistic is a share of images, so that Wilson's interval holds for it.
    """

    unit: str
    better: str
    meaning: str
    of: Callable[[Columns], Statistic]
    is_share: bool = False


def columns(rows: Rows) -> Columns:
    """Return rows as arrays.

    Args:
        rows: column name -> values, of one model and one attack.

    Raises:
        InputError: a column that is missing.
    """
    missing = [name for name in _NEEDED if name not in rows]
    if missing:
        raise InputError(f"rows: expected the columns of an audit, {', '.join(missing)} missing; give its rows.parquet")
    status = np.asarray(rows["status"])

    def numbers(name: str) -> Array:
        return np.asarray(rows[name], dtype=np.float64)

    return Columns(
        right=status != "already_wrong",
        found=status == "found",
        l2=numbers("distance"),
        l1=numbers("distance_l1"),
        linf=numbers("distance_linf"),
        l2_8bit=numbers("distance_8bit"),
        survives=np.asarray(rows["survives_8bit"], dtype=bool),
        passes=numbers("forwards") + numbers("backwards"),
    )


def robust(radius: float, norm: float) -> Figure:
    """Return the figure of robust accuracy at a radius, in the norm 2 or inf."""

    def of(c: Columns) -> Statistic:
        size = c.l2 if norm == 2 else c.linf
        return _share(c.right & (size > radius), np.ones_like(c.right))

    name = "L2" if norm == 2 else "Linf"
    meaning = (
        f"The share of all images that the net gets right and for which no attack found an example within {name} "
        f"{_number(radius)}: an upper bound of what is true."
    )
    return Figure("share", "higher", meaning, of, is_share=True)


def robust_name(radius: float, norm: float) -> str:
    """Return the name of that figure, ``"robust_accuracy_l2@0.5"`` or ``"robust_accuracy_linf@8/255"``."""
    return f"robust_accuracy_{'l2' if norm == 2 else 'linf'}@{_number(radius)}"


def figures(extra: tuple[float, float] | None = None, *, width: float = 1.0) -> dict[str, Figure]:
    """Return the figures that are statistics of rows, by name.

    Args:
        extra: (radius, norm) at which robust accuracy is wanted besides those of `RADII`; norm 2 or inf.
        width: of the box; the radii of `RADII` are shares of it.
    """
    wanted = [(radius * width, norm) for norm, radii in RADII.items() for radius in radii]
    if extra is not None and extra not in wanted:
        wanted.append(extra)
    return {**_FIGURES, **{robust_name(*pair): robust(*pair) for pair in wanted}}


def _number(radius: float) -> str:
    levels = radius * 255
    whole = round(levels)
    return f"{whole}/255" if 0 < whole <= 64 and abs(levels - whole) < 1e-9 and radius < 0.09 else f"{radius:g}"


def _share(hits: Array, counted: Array) -> Statistic:
    return Statistic(hits.astype(np.float64), counted.astype(bool))


def _quantile(name: str, share: float) -> Callable[[Columns], Statistic]:
    return lambda c: Statistic(getattr(c, name), c.right, share)


_COUNTED = "over the images the net gets right, those without an example counted as infinitely far"
_FIGURES = {
    "clean_accuracy": Figure(
        "share", "higher", "The share of images the net gets right as they are.",
        lambda c: _share(c.right, np.ones_like(c.right)), is_share=True,
    ),
    "median_l2": Figure(
        "pixel units, L2", "higher", f"The median L2 distance of the nearest example found, {_COUNTED}.",
        _quantile("l2", 0.5),
    ),
    "p05_l2": Figure(
        "pixel units, L2", "higher", f"The L2 distance below which the most fragile 5% lie, {_COUNTED}.",
        _quantile("l2", 0.05),
    ),
    "mean_l2": Figure(
        "pixel units, L2", "higher", "The mean L2 distance of the examples found.",
        lambda c: Statistic(c.l2, c.found),
    ),
    "median_linf": Figure(
        "pixel units, largest change", "higher", f"The median largest change of a pixel, {_COUNTED}.",
        _quantile("linf", 0.5),
    ),
    "median_l1": Figure(
        "pixel units, L1", "higher", f"The median sum of the changes of all pixels, {_COUNTED}.",
        _quantile("l1", 0.5),
    ),
    "found": Figure(
        "share", "lower", "The share of the images the net gets right for which an example was found.",
        lambda c: _share(c.found, c.right), is_share=True,
    ),
    "median_l2_8bit": Figure(
        "pixel units, L2", "higher",
        "The median L2 distance of the examples once rounded to 8 bits, those that die of it infinitely far.",
        _quantile("l2_8bit", 0.5),
    ),
    "survives_8bit": Figure(
        "share", "lower", "The share of the examples found that still mislead once rounded to 8 bits.",
        lambda c: _share(c.survives, c.found), is_share=True,
    ),
    "queries_mean": Figure(
        "passes per image", "lower", "The mean number of forward and backward passes spent on an image.",
        lambda c: Statistic(c.passes, c.right),
    ),
}  # fmt: skip

"""Means and quantiles over images with bootstrap intervals, alone or as the difference of two nets on the same images.

Symbols: N images, R resamples; w (R, N) how often each image is in each resample. Infinite values (images without an
example) are counted: a median is infinite where half of them are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from intriguing import rng
from intriguing.errors import InputError
from intriguing.experiments.statistics import Estimate, proportion

Array = NDArray[Any]

_RESAMPLES = 2000
_AT_ONCE = 2**21  # entries of w drawn at a time: 16 MB, whatever the number of images


@dataclass(frozen=True)
class Statistic:
    """A mean or a quantile over those of the images that count.

    Attributes:
        values: (N,) float64, not NaN where counted.
        counted: (N,) bool.
        share: which quantile, from 0 to 1; None: the mean.

    Example:
        >>> Statistic(np.array([1.0, 2.0, np.inf]), np.ones(3, bool), 0.5).value
        2.0
    """

    values: Array
    counted: Array
    share: float | None = None

    @property
    def n(self) -> int:
        """How many images count."""
        return int(self.counted.sum())

    @property
    def value(self) -> float:
        """The statistic of the images themselves; NaN where none counts."""
        return float(self.of(np.ones((1, len(self.values))))[0])

    def of(self, w: Array) -> Array:
        """Return the statistic of each resample w (R, N): (R,), NaN where none of its images counts.

        A quantile is the smallest value that at least its share of the resample does not exceed, the upper one of
        two: of an even number, half of it infinite, the median is infinite.
        """
        if self.share is None:
            return self._mean(w)
        places = self.counted.nonzero()[0]
        if not len(places):
            return np.full(len(w), np.nan)
        order = places[np.argsort(self.values[places], kind="stable")]
        reached = w[:, order].cumsum(1)
        total = reached[:, -1]
        rank = np.ceil((total - 1) * self.share) + 1
        place = (reached >= rank[:, None]).argmax(1)
        return np.where(total > 0, self.values[order][place], np.nan)

    def _mean(self, w: Array) -> Array:
        infinite = self.counted & np.isinf(self.values)
        total = w @ self.counted.astype(np.float64)
        sums = w @ np.where(self.counted & ~infinite, self.values, 0.0)
        sums[w @ infinite.astype(np.float64) > 0] = np.inf
        means: Array = np.divide(sums, total, out=np.full(len(w), np.nan), where=total > 0)
        return means


def estimates(statistics: Mapping[str, Statistic], generator: torch.Generator) -> dict[str, Estimate]:
    """Return statistics of the same images with their 95% bootstrap intervals over images.

    Args:
        statistics: by name, each of N images.
        generator: draws the resamples, the same for all.

    Example:
        >>> median = Statistic(np.ones(9), np.ones(9, bool), 0.5)
        >>> estimates({"median": median}, rng.generator("bootstrap", 0))["median"].high
        1.0
    """
    resampled = _resampled(list(statistics.values()), generator)
    return {
        name: _estimate(statistic.value, statistic.n, found)
        for (name, statistic), found in zip(statistics.items(), resampled, strict=True)
    }


def share(hits: Array, counted: Array) -> Estimate:
    """Return the share of hits among the images that count, with its Wilson interval.

    Args:
        hits: (N,) bool.
        counted: (N,) bool.
    """
    return proportion(int((hits & counted).sum()), int(counted.sum()))


def differences(pairs: Mapping[str, tuple[Statistic, Statistic]], generator: torch.Generator) -> dict[str, Estimate]:
    """Return second minus first with 95% intervals by paired bootstrap: both of the same resampled images.

    Where both are infinite they are equal.

    Args:
        pairs: by name, (first, second), all of the same N images in the same order.
        generator: draws the resamples, the same for all.
    """
    resampled = _resampled([statistic for pair in pairs.values() for statistic in pair], generator)
    found = {}
    for place, (name, (first, second)) in enumerate(pairs.items()):
        value = float(_minus(np.array([second.value]), np.array([first.value]))[0])
        found[name] = _estimate(value, len(first.values), _minus(resampled[2 * place + 1], resampled[2 * place]))
    return found


def _minus(after: Array, before: Array) -> Array:
    same = after == before
    with np.errstate(invalid="ignore"):
        return np.where(same, 0.0, after - before)


def _resampled(statistics: Sequence[Statistic], generator: torch.Generator) -> list[Array]:
    """Return what each statistic is of the same resamples, (R,) each."""
    sizes = {len(statistic.values) for statistic in statistics}
    if len(sizes) > 1:
        raise InputError(f"statistics: expected all of the same images, got {sorted(sizes)} of them")
    draw = rng.numpy_generator(generator)
    N = max(sizes, default=0)
    if not N:
        return [np.full(_RESAMPLES, np.nan) for _ in statistics]
    rows = max(1, min(_RESAMPLES, _AT_ONCE // N))
    pieces: list[list[Array]] = [[] for _ in statistics]
    for start in range(0, _RESAMPLES, rows):
        R = min(rows, _RESAMPLES - start)
        w = rng.resamples(draw, N, R)
        for found, statistic in zip(pieces, statistics, strict=True):
            found.append(statistic.of(w))
    return [np.concatenate(found) for found in pieces]


def _estimate(value: float, n: int, resampled: Array) -> Estimate:
    low, high = _ends(resampled)
    return Estimate(value, n, min(low, value), max(high, value))


def _ends(resampled: Array) -> tuple[float, float]:
    """Return the 2.5% and 97.5% quantiles; the neighbours outwards, since infinite values cannot be interpolated."""
    known = np.sort(resampled[~np.isnan(resampled)])
    if not len(known):
        return math.nan, math.nan
    last = len(known) - 1
    return float(known[math.floor(0.025 * last)]), float(known[math.ceil(0.975 * last)])

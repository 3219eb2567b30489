"""Intervals and tests: what turns a measured number into a claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
import torch

from intriguing import rng
from intriguing.errors import InputError

_RESAMPLES = 2000
_PERMUTATIONS = 20_000
_AT_ONCE = 2**21  # signs drawn at a time
_ROUNDING = 1e-12  # sums of the same numbers in another order are equal to this share of them


@dataclass(frozen=True)
class Estimate:
    """A measured value, the number of images behind it, and its 95% interval [low, high]."""

    measured: float
    n: int
    low: float
    high: float


def proportion(count: int, n: int) -> Estimate:
    """Return a share with its Wilson interval.

    Example:
        >>> proportion(0, 100).high < 0.04
        True
    """
    if n == 0:
        return Estimate(float("nan"), 0, float("nan"), float("nan"))
    interval = scipy.stats.binomtest(count, n).proportion_ci(method="wilson")
    share = count / n
    return Estimate(share, n, min(float(interval.low), share), max(float(interval.high), share))


def mean(groups: Sequence[Sequence[float]], generator: torch.Generator) -> Estimate:
    """Return the mean of the nets' means with a two-level bootstrap interval: nets, then images.

    All nets see the same images, and an image that is hard for one is hard for the others. So the images of a
    resample are drawn once and used for every net of it; drawn net by net, they would average out what does not.

    Args:
        groups: per trained net one value per image, in the same order of images; NaN where there is none.
        generator: draws the resamples.
    """
    if len({len(group) for group in groups}) > 1:
        raise InputError(f"groups: expected as many values for every net, got {[len(group) for group in groups]}")
    values = np.asarray(groups, dtype=np.float64)
    if values.size:
        values = values[~np.isnan(values).all(1)]
    if not values.size:
        return Estimate(float("nan"), 0, float("nan"), float("nan"))
    draw = rng.numpy_generator(generator)
    nets, images = values.shape
    known, filled = ~np.isnan(values), np.nan_to_num(values)
    # How often each image and each net is in a resample: sums of resamples are then matrix products.
    times = rng.resamples(draw, images, _RESAMPLES)
    weight = rng.resamples(draw, nets, _RESAMPLES)
    counted = times @ known.T
    means = np.divide(times @ filled.T, counted, out=np.zeros((_RESAMPLES, nets)), where=counted > 0)
    weight = weight * (counted > 0)
    total = weight.sum(1)
    resampled = ((means * weight).sum(1) / np.maximum(total, 1))[total > 0]
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Estimate(float(np.mean(np.nanmean(values, axis=1))), int(known.sum()), float(low), float(high))


def mean_share(counts: Sequence[tuple[int, int]], generator: torch.Generator) -> Estimate:
    """Return the mean of several nets' error rates: Wilson for one net, else a two-level bootstrap.

    The nets are tested on the same images. Which of them each gets wrong is not known here, so the images of a
    resample count once for all nets together: exact if all err on the same images, too wide otherwise.

    Args:
        counts: (wrong, n) per trained net.
        generator: draws the resamples.
    """
    if len(counts) == 1:
        return proportion(*counts[0])
    total, every = sum(wrong for wrong, _ in counts), sum(n for _, n in counts)
    if total in (0, every):
        return proportion(total, every)  # resampling nets without an error would call them certain never to err
    shares = np.array([wrong / n for wrong, n in counts])
    images = min(n for _, n in counts)
    draw = rng.numpy_generator(generator)
    chosen = draw.integers(len(counts), size=(_RESAMPLES, len(counts)))
    # Resampling n independent images of which a share p is wrong is a binomial draw.
    means = draw.binomial(images, shares[chosen].mean(1)) / images
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(shares.mean()), every, float(low), float(high))


def paired_p(differences: Sequence[float], generator: torch.Generator) -> float:
    """Return the one-sided p-value that paired differences are not above zero, by flipping their signs.

    Exact where all flips are few enough to be tried, else of 20,000 drawn ones and at least 1 in 20,001.

    Args:
        differences: one per image, treatment minus control.
        generator: draws the flips.

    Raises:
        InputError: a difference that is not a number.
    """
    values = np.asarray(differences, dtype=np.float64)
    if np.isnan(values).any():
        raise InputError("differences: expected numbers, got NaN; leave out images that have none")
    values = values[values != 0]  # their signs change nothing
    n = len(values)
    if not n:
        return 1.0
    least = values.sum() - _ROUNDING * np.abs(values).sum()
    if 2**n <= _PERMUTATIONS:
        flipped = np.arange(2**n)[:, None] >> np.arange(n) & 1
        return float(np.mean(values.sum() - 2 * flipped @ values >= least))
    draw = rng.numpy_generator(generator)
    reached, rows = 0, max(1, _AT_ONCE // n)
    for start in range(0, _PERMUTATIONS, rows):
        flipped = draw.integers(2, size=(min(rows, _PERMUTATIONS - start), n), dtype=np.int8)
        reached += int((values.sum() - 2 * flipped.astype(np.float64) @ values >= least).sum())
    return (1 + reached) / (1 + _PERMUTATIONS)

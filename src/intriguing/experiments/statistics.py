"""Intervals and tests: what turns a measured number into a claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats

_RESAMPLES = 2000
_PERMUTATIONS = 20_000


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
    interval = stats.binomtest(count, n).proportion_ci(method="wilson")
    share = count / n
    return Estimate(share, n, min(float(interval.low), share), max(float(interval.high), share))


def mean(groups: Sequence[Sequence[float]], generator: torch.Generator) -> Estimate:
    """Return the mean of the groups' means with a two-level bootstrap interval: groups, then members.

    With one group it is the ordinary percentile bootstrap of a mean.

    Args:
        groups: one sequence of per-image values per trained net; empty groups are left out.
        generator: draws the resamples.
    """
    arrays = [np.asarray(group, dtype=np.float64) for group in groups if len(group)]
    if not arrays:
        return Estimate(float("nan"), 0, float("nan"), float("nan"))
    # A bootstrap sample's mean of each group, resampled once per (resample, drawn group).
    draw = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
    chosen = draw.integers(len(arrays), size=(_RESAMPLES, len(arrays)))
    means = np.empty(chosen.shape)
    for index, values in enumerate(arrays):
        rows, columns = np.nonzero(chosen == index)
        for start in range(0, len(rows), 4096):
            part = slice(start, start + 4096)
            picked = draw.integers(len(values), size=(len(rows[part]), len(values)))
            means[rows[part], columns[part]] = values[picked].mean(1)
    low, high = np.quantile(means.mean(1), [0.025, 0.975])
    n = sum(len(values) for values in arrays)
    return Estimate(float(np.mean([values.mean() for values in arrays])), n, float(low), float(high))


def mean_share(counts: Sequence[tuple[int, int]], generator: torch.Generator) -> Estimate:
    """Return the mean of several nets' error rates: Wilson for one net, else a two-level bootstrap.

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
    sizes = np.array([n for _, n in counts])
    draw = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
    chosen = draw.integers(len(counts), size=(_RESAMPLES, len(counts)))
    # Resampling n independent images of a net with share p is a binomial draw.
    means = draw.binomial(sizes[chosen], shares[chosen]) / sizes[chosen]
    low, high = np.quantile(means.mean(1), [0.025, 0.975])
    return Estimate(float(shares.mean()), int(sizes.sum()), float(low), float(high))


def paired_p(differences: Sequence[float], generator: torch.Generator) -> float:
    """Return the one-sided p-value that paired differences are not above zero, by flipping their signs.

    Args:
        differences: one per image, treatment minus control.
        generator: draws the flips.
    """
    values = np.asarray(differences, dtype=np.float64)
    if not len(values) or not np.any(values):
        return 1.0
    if len(values) == 1:
        return 0.5 if values[0] > 0 else 1.0  # two ways to set one sign
    draw = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
    result = stats.permutation_test(
        (values,),
        lambda sample, axis: np.mean(sample, axis=axis),
        permutation_type="samples",
        alternative="greater",
        n_resamples=_PERMUTATIONS,
        vectorized=True,
        batch=1000,
        rng=draw,
    )
    return float(result.pvalue)

"""Means over several nets that see the same images: repeats of a net, pairs of source and receiver.

Which net sees an image changes little about how hard it is, so resamples draw images once for all nets together.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from intriguing.experiments import statistics
from intriguing.experiments.statistics import Estimate
from intriguing.rng import generator, numpy_generator, resamples

_RESAMPLES = 2000


def pooled_share(answers: NDArray[np.float64], name: str, seed: int) -> Estimate:
    """Return a mean over repeats and pairs of the means over images: Wilson where it can be, else a bootstrap.

    Repeats and images are resampled, the images once for all nets that see them; the pairs are as they are.

    Args:
        answers: (repeats, pairs, N), NaN where there is none.
        name: of what is estimated, for the draw.
        seed: of the draw.

    Example:
        >>> pooled_share(np.array([[[1.0, 0.0, 1.0, np.nan]]]), "example", 0).n
        3
    """
    known = answers[~np.isnan(answers)]
    alone = answers.shape[0] * answers.shape[1] == 1 and bool(np.isin(known, (0.0, 1.0)).all())
    images = int((~np.isnan(answers)).any(1).sum())
    # Resampling answers that are all alike would call them certain.
    if not len(known) or alone or bool((known == 0).all()) or bool((known == 1).all()):
        share = float(known.mean()) if len(known) else 0.0
        return statistics.proportion(round(share * images), images)
    draws = _resampled(answers, name, seed)
    low, high = np.quantile(draws[1:], [0.025, 0.975])
    return Estimate(float(draws[0]), images, float(low), float(high))


def pooled_ratio(numerator: NDArray[np.float64], denominator: NDArray[np.float64], name: str, seed: int) -> Estimate:
    """Return the ratio of two such means over the same images; infinite where the second is not above zero.

    Args:
        numerator: (repeats, pairs, N), NaN where there is none.
        denominator: the same for the other mean.
        name: of what is estimated, for the draw.
        seed: of the draw.
    """
    images = int((~np.isnan(numerator)).any(1).sum())
    if not images:
        return Estimate(math.nan, 0, math.nan, math.nan)
    top, bottom = (_resampled(answers, name, seed) for answers in (numerator, denominator))
    ratios = np.divide(top, bottom, out=np.full(top.shape, np.inf), where=bottom > 0)
    # Some may be infinite, between which no quantile can be interpolated.
    value, low = float(ratios[0]), float(np.quantile(ratios[1:], 0.025, method="lower"))
    high = float(np.quantile(ratios[1:], 0.975, method="higher"))
    return Estimate(value, images, min(low, value), max(high, value))


def _resampled(answers: NDArray[np.float64], name: str, seed: int) -> NDArray[np.float64]:
    """Return the mean, and after it those of resamples: repeats and images are drawn, the pairs are as they are.

    The same name and seed draw the same resamples, so that ratios are of the same images.
    """
    repeats, pairs, images = answers.shape
    stream = generator(f"bootstrap/pooled/{name}", seed)
    draw = numpy_generator(stream)
    times = np.vstack((np.ones(images), resamples(draw, images, _RESAMPLES)))
    weight = np.vstack((np.ones(repeats), resamples(draw, repeats, _RESAMPLES)))
    flat = answers.reshape(repeats * pairs, images)
    known = ~np.isnan(flat)
    counted = times @ known.T
    sums = times @ np.nan_to_num(flat).T
    means = np.divide(sums, counted, out=np.zeros(counted.shape), where=counted > 0)
    weights = np.repeat(weight, pairs, axis=1) * (counted > 0)
    total = weights.sum(1)
    drawn: NDArray[np.float64] = (means * weights).sum(1)[total > 0] / total[total > 0]
    return drawn


def mean_inside(groups: Sequence[Sequence[float]], draw: torch.Generator) -> Estimate:
    """Return `statistics.mean`, inside its own interval where all values are alike and only rounding differs."""
    found = statistics.mean(groups, draw)
    low, high = min(found.low, found.measured), max(found.high, found.measured)
    return dataclasses.replace(found, low=low, high=high)

"""How much the images of a set have in common: the number that section 3 of Szegedy et al. 2014 left to the eye.

Two measures of a set of k images: the share of its most frequent class, which needs labels, and the mean cosine
between its images in an embedding that no net had a part in, which needs none. Both are compared with sets of
images drawn at random, and bases of directions with each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own abbreviation)

from intriguing import rng
from intriguing.errors import InputError

_RESAMPLES = 2000
_SIDE = 32  # pixels to which larger images are reduced before they are embedded

Measure = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Difference:
    """The mean of one group minus that of another, with its 95% interval [low, high]; n counts both groups."""

    measured: float
    n: int
    low: float
    high: float


def modal_share(labels: Tensor, sets: Tensor) -> Tensor:
    """Return the share of the most frequent class of each set.

    Args:
        labels: (N,) int64, at least 0.
        sets: (..., k) int64, images of each set.

    Returns:
        (...), from 1 / k to 1.

    Example:
        >>> modal_share(torch.tensor([0, 0, 1, 2]), torch.tensor([[0, 1, 2], [1, 2, 3]]))
        tensor([0.6667, 0.3333])
    """
    chosen = labels[sets]
    # Every image counts those of its own class; the largest count is that of the most frequent class.
    counts = (chosen[..., :, None] == chosen[..., None, :]).sum(-1, dtype=torch.uint8)
    return counts.amax(-1).float() / sets.shape[-1]


def mean_cosine(embedding: Tensor, sets: Tensor) -> Tensor:
    """Return the mean cosine over all pairs of different images of each set.

    With unit rows u the sum over pairs is (|sum of u|^2 - k) / 2, over k (k - 1) / 2 pairs.

    Args:
        embedding: (N, d), of unit rows.
        sets: (..., k) int64, k at least 2.

    Returns:
        (...), from -1 / (k - 1) to 1.

    Raises:
        InputError: sets of a single image.

    Example:
        >>> mean_cosine(torch.eye(2), torch.tensor([[0, 0], [0, 1]]))
        tensor([1., 0.])
    """
    k = sets.shape[-1]
    if k < 2:
        raise InputError("sets must hold at least 2 images to have pairs, got 1")
    # Image by image, since all sets times all images times all coordinates would fill the memory.
    total = embedding[sets[..., 0]]
    for place in range(1, k):
        total = total + embedding[sets[..., place]]
    return (total.square().sum(-1) - k) / (k * (k - 1))


def pixel_embedding(images: Tensor, dimensions: int = 50) -> Tensor:
    """Return an embedding of images that is independent of every net: principal components of their pixels.

    The mean image is taken away, so that two images are alike when they differ from the average in the same way;
    otherwise all cosines would be near 1. Neither labels nor weights enter, so whatever a net's layer adds to
    pixel likeness cannot leak in. Images of more than 32 pixels a side are averaged down to that first.

    Args:
        images: (N, C, H, W).
        dimensions: components kept, at most.

    Returns:
        (N, d) float32, of unit rows.
    """
    rows, columns = images.shape[2:]
    small = F.adaptive_avg_pool2d(images, (min(_SIDE, rows), min(_SIDE, columns)))
    pixels = small.flatten(1).double()
    centred = pixels - pixels.mean(0)
    if len(centred) < centred.shape[1]:  # the smaller of the two matrices with the same eigenvalues
        values, vectors = torch.linalg.eigh(centred @ centred.T)
        components = vectors * values.clamp_min(0).sqrt()
    else:
        _, vectors = torch.linalg.eigh(centred.T @ centred)
        components = centred @ vectors
    return F.normalize(components.flip(1)[:, :dimensions].float(), dim=1)


def permutation_p(
    measure: Measure, what: Tensor, sets: Tensor, *, generator: torch.Generator, permutations: int = 1000
) -> float:
    """Return the one-sided p-value that the sets are no purer than random image sets, on average.

    Which image is which is permuted, for all sets at once: sets that share images go on sharing them, so that
    directions with the same top images are not counted as independent evidence.

    Args:
        measure: `modal_share` or `mean_cosine`.
        what: (N, ...) labels or embedding, the measure's first argument.
        sets: (D, k) int64.
        generator: draws the permutations.
        permutations: how many; the p-value is at least 1 / (permutations + 1).

    Example:
        >>> labels = torch.arange(100) // 10
        >>> permutation_p(modal_share, labels, torch.arange(8)[None], generator=torch.Generator()) < 0.01
        True
    """
    found = float(measure(what, sets).double().mean())
    used, places = torch.unique(sets, return_inverse=True)
    at_least = 0
    for _ in range(permutations):
        images = torch.randperm(len(what), generator=generator)[: len(used)]
        # Rounding must not turn an equal mean into a smaller one.
        at_least += float(measure(what, images[places]).double().mean()) >= found - 1e-9
    return (1 + at_least) / (1 + permutations)


def above_random(values: Tensor, controls: Tensor, level: float = 0.05) -> Tensor:
    """Return which sets are purer than all but a share `level` of random sets: (D,) bool.

    Each set's own one-sided p-value is the share of random sets at least as pure, itself counted in.

    Args:
        values: (D,) purity of each set.
        controls: (R,) purity of random sets.
        level: of the test.
    """
    ordered = controls.double().sort().values
    below = torch.searchsorted(ordered, values.double() - 1e-9)
    return (1 + len(ordered) - below) / (1 + len(ordered)) <= level


def difference(one: Tensor, other: Tensor, *, generator: torch.Generator) -> Difference:
    """Return the mean of `one` minus the mean of `other`, with a 95% bootstrap interval over directions.

    Directions are resampled with replacement, in each group on its own; net and images stay. How often each is
    in a resample is drawn at once, so that all resamples are two matrix products.

    Args:
        one: (D,) a number per direction.
        other: (E,) likewise.
        generator: draws the resamples.

    Raises:
        InputError: an empty group.
    """
    if not len(one) or not len(other):
        raise InputError(f"both groups need at least one direction, got {len(one)} and {len(other)}")
    draw = rng.numpy_generator(generator)
    means = [_resampled(group.double().numpy(), draw) for group in (one, other)]
    low, high = np.quantile(means[0] - means[1], [0.025, 0.975])
    measured = float(one.double().mean() - other.double().mean())
    return Difference(measured, len(one) + len(other), float(low), float(high))


def _resampled(values: NDArray[np.float64], draw: np.random.Generator) -> NDArray[np.float64]:
    """Return the means of resamples of the values."""
    n = len(values)
    means: NDArray[np.float64] = rng.resamples(draw, n, _RESAMPLES) @ values / n
    return means

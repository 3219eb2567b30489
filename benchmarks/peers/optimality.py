"""How near an attack comes to the best that any attack of the run found: AttackBench's optimality, and an interval.

    optimality = 1 - (A_attack - A_best) / (a D - A_best)

a is the clean accuracy, D the largest best distance, and A the area under robust accuracy against distance from 0 to D
(Cinà et al. 2024, section 3). 1: as near as the best on every image; 0: nothing found within D.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from intriguing import rng


def area(distances: Tensor, largest: float) -> float:
    """Return the area under robust accuracy against distance from 0 to `largest`.

    Robust accuracy at d is the share of images whose adversarial example is farther than d: a step function, for which
    the trapezoid rule, each step entered on its left and left on its right, is the mean of min(distance, largest).

    Args:
        distances: (N,) float64; 0 for images already wrong, inf where nothing was found.
        largest: the end of the axis.
    """
    return float(distances.clamp(max=largest).mean())


def best_of(pool: Sequence[Tensor]) -> tuple[Tensor, float]:
    """Return the nearest distance of each image (N,) in a pool of attacks, and D, the largest of them that is finite.

    Raises:
        ValueError: the pool found nothing.
    """
    best = torch.stack(list(pool)).amin(0)
    reached = best[best.isfinite()]
    if not len(reached) or not bool(reached.max() > 0):
        raise ValueError("pool: no attack found an example of an image that the net gets right")
    return best, float(reached.max())


def optimality(attack: Tensor, pool: Sequence[Tensor]) -> float:
    """Return the optimality of an attack among a pool.

    Args:
        attack: (N,) float64, its distances.
        pool: (N,) distances of every attack of the run, this one included.

    Raises:
        ValueError: an attack that is no part of its pool, or a pool that found nothing.
    """
    best, largest = best_of(pool)
    if bool((attack < best).any()):
        raise ValueError("pool: the attack is nearer than the pool's best; the pool must hold the attack itself")
    nearest = area(best, largest)
    clean = float((best > 0).double().mean())
    if clean * largest == nearest:  # every image has the same best distance
        return float(bool((attack == best).all()))
    return 1 - (area(attack, largest) - nearest) / (clean * largest - nearest)


def interval(first: Tensor, second: Tensor, largest: float, *, draws: int = 2000, seed: int = 0) -> tuple[float, ...]:
    """Return the mean difference first - second over images, and the ends of its paired 95% bootstrap interval.

    Distances count up to `largest`, as in the optimality, so that an image without an example counts with it.

    Args:
        first: (N,) distances.
        second: (N,) of the same images.
        largest: D of the pool.
        draws: resamples of the images.
        seed: of the resampling.
    """
    difference = first.clamp(max=largest) - second.clamp(max=largest)
    drawn = torch.randint(len(difference), (draws, len(difference)), generator=rng.generator("peers/interval", seed))
    low, high = difference[drawn].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return float(difference.mean()), low, high

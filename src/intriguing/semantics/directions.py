"""Directions of a layer's space, and the images that lie farthest along them.

Szegedy et al. 2014, section 3: x' = argmax over x in I of <phi(x), v>, v a coordinate vector (the natural basis)
or a random direction. D16: v uniform on the unit sphere, the top 8 images, random sets of 8 as control.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own abbreviation)

from intriguing.errors import InputError

_NEGLIGIBLE = 1e-4  # of the largest variance: what is below is rounding, or units that hardly ever move


def natural(units: int) -> Tensor:
    """Return the coordinate vectors e_i, (U, U)."""
    return torch.eye(units)


def random(count: int, units: int, *, generator: torch.Generator) -> Tensor:
    """Return directions uniform on the unit sphere (D16).

    A vector of independent normals has a density that depends on its length alone, so its direction is uniform.

    Args:
        count: how many directions D.
        units: the layer's units U.
        generator: draws them, on the CPU.

    Returns:
        (D, U), of unit norm.

    Example:
        >>> random(3, 5, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([3, 5])
    """
    return F.normalize(torch.randn(count, units, generator=generator), dim=1)


def positive(count: int, units: int, *, generator: torch.Generator) -> Tensor:
    """Return |v| for random v, (D, U): a unit of a rectified layer sees only a non-negative coordinate, and v does not.

    Each coordinate of v is replaced by its absolute value, so the directions are uniform on the part of the
    sphere where all coordinates are positive.
    """
    return random(count, units, generator=generator).abs()


def principal(values: Tensor, count: int | None = None) -> Tensor:
    """Return the principal axes of activations, the largest variance first.

    Args:
        values: (N, U) activations.
        count: how many axes at most; by default all that carry variance.

    Returns:
        (D, U), orthonormal, D at most U. An axis has no sign of its own: the one with the positive sum is taken.
    """
    _, axes = _spectrum(values)
    signs = torch.where(axes[:count].sum(1, keepdim=True) < 0, -1.0, 1.0)
    return signs * axes[:count]


def whitening(values: Tensor) -> Tensor:
    """Return the rows of C^(-1/2), the units of the layer once its activations are decorrelated, (U, U), unit norm.

    C is the covariance of the activations. Along C^(-1/2) v the images spread as widely for every v: no
    direction wins because the layer happens to vary much along it. Axes of negligible variance are left out.

    Args:
        values: (N, U) activations.
    """
    return F.normalize(_inverse_root(values), dim=1)


def random_whitened(values: Tensor, count: int, *, generator: torch.Generator) -> Tensor:
    """Return directions that are uniform on the sphere of the whitened activations, (D, U), of unit norm.

    Args:
        values: (N, U) activations.
        count: how many directions D.
        generator: draws them, on the CPU.
    """
    return F.normalize(random(count, values.shape[1], generator=generator) @ _inverse_root(values), dim=1)


def rotation(units: int, *, generator: torch.Generator) -> Tensor:
    """Return an orthogonal matrix, uniform over all of them, (U, U) float64.

    The orthogonal factor of a normal matrix is uniform once the signs of the triangular factor's diagonal are
    made positive (Mezzadri, math-ph/0609050, section 5).
    """
    q, r = torch.linalg.qr(torch.randn(units, units, generator=generator, dtype=torch.float64))
    matrix: Tensor = q * torch.where(r.diagonal() < 0, -1.0, 1.0)
    return matrix


def top(scores: Tensor, k: int, *, generator: torch.Generator) -> Tensor:
    """Return the k images with the largest scores along each direction, the largest first.

    Images that score the same, as those do on which a unit saturates, are taken in random order: in the order
    of the set they would be of one class wherever the set is sorted by class.

    Args:
        scores: (N, D).
        k: how many images, from 1 to N.
        generator: shuffles the images.

    Returns:
        (D, k) int64.

    Raises:
        InputError: k outside 1 to N.

    Example:
        >>> top(torch.tensor([[0.1], [0.7], [0.2]]), 2, generator=torch.Generator()).tolist()
        [[1, 2]]
    """
    total = scores.shape[0]
    if not 1 <= k <= total:
        raise InputError(f"k must lie between 1 and the {total} images there are, got {k}")
    shuffled = torch.randperm(total, generator=generator)
    return shuffled[scores[shuffled].T.contiguous().topk(k, dim=1).indices]


def random_sets(count: int, k: int, total: int, *, generator: torch.Generator) -> Tensor:
    """Return sets of k different images out of `total`, drawn at random: (count, k) int64, each set in random order.

    Raises:
        InputError: k outside 1 to `total`.
    """
    if not 1 <= k <= total:
        raise InputError(f"k must lie between 1 and the {total} images there are, got {k}")
    if k * k > total:  # so few images that sets with a repetition are the rule
        return torch.rand(count, total, generator=generator).argsort(dim=1)[:, :k].contiguous()
    sets = torch.randint(total, (count, k), generator=generator)
    while bool((repeated := _repeats(sets)).any()):
        sets[repeated] = torch.randint(total, (int(repeated.sum()), k), generator=generator)
    return sets


def alive(values: Tensor) -> Tensor:
    """Return which units tell any two images apart: (U,) bool. A rectified unit may be zero on all of them."""
    return values.amax(0) > values.amin(0)


def _repeats(sets: Tensor) -> Tensor:
    ordered = sets.sort(dim=1).values
    return (ordered[:, 1:] == ordered[:, :-1]).any(1)


def _spectrum(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the variances of the principal axes, largest first, and the axes (D, U), negligible ones left out."""
    centred = values.double() - values.double().mean(0)
    variances, axes = torch.linalg.eigh(centred.T @ centred / max(1, len(values) - 1))
    kept = variances > _NEGLIGIBLE * variances[-1]
    return variances[kept].flip(0).float(), axes[:, kept].T.flip(0).float()


def _inverse_root(values: Tensor) -> Tensor:
    """Return C^(-1/2) on the axes that carry variance, (U, U)."""
    variances, axes = _spectrum(values)
    return (axes.T / variances.sqrt()) @ axes

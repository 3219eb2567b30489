"""Gaussian noise, the control of every claim about adversarial examples: same size, no aim."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from intriguing.errors import InputError

_HALVINGS = 40  # of the scale; doubles have 53 bits, and the norm needs fewer than 40 of them


def gaussian(
    images: Tensor, std: float, *, generator: torch.Generator, box: tuple[float, float] | None = (0.0, 1.0)
) -> Tensor:
    """Add independent Gaussian noise to every pixel.

    Args:
        images: (N, ...) floating point.
        std: standard deviation in pixel units, at least 0.
        generator: draws the noise, on the CPU.
        box: the result is clipped to it, which takes away some of the noise; None leaves it as it is.

    Example:
        >>> noisy = gaussian(images, 0.1, generator=rng.generator("noise", 0))
    """
    if std < 0:
        raise InputError(f"std: expected at least 0, got {std}")
    noise = torch.randn(images.shape, generator=generator, dtype=images.dtype).to(images.device)
    noisy = images + std * noise
    return noisy if box is None else noisy.clamp(*box)


def gaussian_of_norm(
    images: Tensor, distance: Tensor, *, generator: torch.Generator, box: tuple[float, float] = (0.0, 1.0)
) -> Tensor:
    """Add Gaussian noise of a given L2 norm per image, measured after clipping to the box.

    The direction is drawn once and scaled until what is left of it inside the box has the norm asked for.
    Where the box has no room for so long a step in that direction, the longest step it has is returned.

    Args:
        images: (N, ...) in the box.
        distance: (N,) L2 norms in pixel units, finite, at least 0.
        generator: draws the directions, on the CPU.
        box: lowest and highest pixel.
    """
    if distance.shape != images.shape[:1] or not bool((distance >= 0).all() & torch.isfinite(distance).all()):
        raise InputError(
            f"distance: expected finite norms of at least 0, of shape ({len(images)},), got shape "
            f"{tuple(distance.shape)} and values {distance.flatten()[:5].tolist()}"
        )
    clean = images.flatten(1).double()
    noise = torch.randn(images.shape, generator=generator).to(images.device).flatten(1).double()
    return _scaled(clean, noise, distance.to(images.device).double(), box).to(images.dtype).view_as(images)


def rescaled(images: Tensor, moved: Tensor, distortion: float, *, box: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Stretch or shrink perturbations to a common distortion, measured after clipping to the box.

    Args:
        images: (N, ...) clean images in the box.
        moved: (N, ...) perturbed ones.
        distortion: root mean square pixel change wanted.
        box: lowest and highest pixel.
    """
    clean = images.flatten(1).double()
    wanted = torch.full((len(images),), distortion * math.sqrt(clean.shape[1]), dtype=torch.float64)
    r = moved.flatten(1).double() - clean
    return _scaled(clean, r, wanted.to(images.device), box).to(images.dtype).view_as(images)


def _scaled(clean: Tensor, direction: Tensor, wanted: Tensor, box: tuple[float, float]) -> Tensor:
    """Return P(clean + t direction) with |. - clean| = wanted, for the t >= 0 that bisection finds."""

    def at(t: Tensor) -> Tensor:
        return (clean + t[:, None] * direction).clamp(*box)

    length = torch.linalg.vector_norm(direction, dim=1)
    low = torch.zeros_like(wanted)
    # Clipping only shortens, so the unclipped scale is too small or just right; 1,000 times it is the limit.
    high = torch.where(length > 0, 1000 * wanted / length, 0.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        short = torch.linalg.vector_norm(at(middle) - clean, dim=1) < wanted
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return at(high)

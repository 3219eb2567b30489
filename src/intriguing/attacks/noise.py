"""Noise, the control of every claim about adversarial examples: same size, no aim.

As functions of images, and as attacks that try several draws, so that what an attack finds can be set against what
chance finds with as many looks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from intriguing.attacks.ball import Ball
from intriguing.attacks.base import COUNT, POSITIVE, Attack, Range, Trial, required
from intriguing.attacks.climb import look
from intriguing.attacks.result import AttackResult
from intriguing.errors import InputError
from intriguing.nets.load import Model
from intriguing.rng import Streams

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


@dataclass(frozen=True)
class GaussianNoise(Attack):
    """Gaussian noise of size eps, several draws; call it as ``GaussianNoise(eps=1.0)(model, images, labels, ...)``.

    Args:
        eps: size of the noise after clipping to the box, in pixel units; smaller only where the box has no room.
        norm: 2, inf or 1: what eps measures.
        target: None (any wrong class), ``"random"``, ``"top-1"``, or (N,) int64.
        budget: the largest number of forward passes on one image, the clean pass and the final judgement included.
        draws: how often an image that holds is drawn for.
        slots: images drawn for at once.
    """

    description: ClassVar[str] = "Gaussian noise of a given size, several draws: the control without an aim"
    ranges: ClassVar[Mapping[str, Range]] = {"eps": POSITIVE, "draws": COUNT, "slots": COUNT}
    needs_gradients: ClassVar[bool] = False
    needs_generator: ClassVar[str] = "its noise"

    eps: float
    norm: float = 2
    target: str | Tensor | None = None
    budget: int | None = None
    draws: int = 100
    slots: int = 1024

    def _search(self, trial: Trial, generator: torch.Generator | None) -> None:
        ball = Ball.around(trial, self.eps, self.norm)

        def noisy(streams: Streams, image: Tensor, draw: int) -> Tensor:
            direction = streams.normal(image, trial.clean.shape[1], draw)
            wanted = torch.full_like(direction[:, 0], self.eps)
            return ball.project(_scaled(ball.centre[image], direction, wanted, ball.box, self.norm), image)

        _try(self, trial, generator, noisy)


@dataclass(frozen=True)
class UniformNoise(Attack):
    """Noise uniform in a ball, several draws; call it as ``UniformNoise(eps=0.3)(model, images, labels, ...)``.

    Args:
        eps: radius of the ball, in pixel units; what leaves the box is moved back, and the noise is smaller for it.
        norm: inf, 2 or 1.
        target, budget, draws, slots: as for `GaussianNoise`.
    """

    description: ClassVar[str] = "noise uniform in a ball, several draws: the control without an aim"
    ranges: ClassVar[Mapping[str, Range]] = GaussianNoise.ranges
    needs_gradients: ClassVar[bool] = False
    needs_generator: ClassVar[str] = "its noise"

    eps: float
    norm: float = math.inf
    target: str | Tensor | None = None
    budget: int | None = None
    draws: int = 100
    slots: int = 1024

    def _search(self, trial: Trial, generator: torch.Generator | None) -> None:
        _try(self, trial, generator, Ball.around(trial, self.eps, self.norm).random)


def _try(
    attack: GaussianNoise | UniformNoise,
    trial: Trial,
    generator: torch.Generator | None,
    noisy: Callable[[Streams, Tensor, int], Tensor],
) -> None:
    """Look at one noisy image after another, until one is a mistake of the net."""
    trial.aim(attack.target, generator)
    streams = Streams(required(generator, attack.needs_generator), trial.clean)
    holds = trial.attacked.clone()
    for draw in range(attack.draws):
        for image in torch.split(holds.nonzero().squeeze(1), attack.slots):
            payable = image[trial.affords(image, 1)]
            holds[look(trial, payable, noisy(streams, payable, draw))] = False
        trial.tell(draw + 1, attack.draws)


def gaussian_noise(
    model: Model | torch.nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    eps: float,
    generator: torch.Generator,
    norm: float = 2,
    draws: int = 100,
) -> AttackResult:
    """Try Gaussian noise of size eps, several draws; see `GaussianNoise`.

    Example:
        >>> gaussian_noise(model, images, labels, eps=2.0, generator=rng.generator("noise", 0)).found.sum()
    """
    return GaussianNoise(eps=eps, norm=norm, draws=draws)(model, images, labels, generator=generator)


def uniform_noise(
    model: Model | torch.nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    eps: float,
    generator: torch.Generator,
    norm: float = math.inf,
    draws: int = 100,
) -> AttackResult:
    """Try noise uniform in a ball, several draws; see `UniformNoise`.

    Example:
        >>> uniform_noise(model, images, labels, eps=0.3, generator=rng.generator("noise", 0)).found.sum()
    """
    return UniformNoise(eps=eps, norm=norm, draws=draws)(model, images, labels, generator=generator)


def _scaled(clean: Tensor, direction: Tensor, wanted: Tensor, box: tuple[float, float], norm: float = 2) -> Tensor:
    """Return P(clean + t direction) with |. - clean| = wanted, for the t >= 0 that bisection finds."""

    def at(t: Tensor) -> Tensor:
        return (clean + t[:, None] * direction).clamp(*box)

    length = torch.linalg.vector_norm(direction, ord=norm, dim=1)
    low = torch.zeros_like(wanted)
    # Clipping only shortens, so the unclipped scale is too small or just right; 1,000 times it is the limit.
    high = torch.where(length > 0, 1000 * wanted / length, 0.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        short = torch.linalg.vector_norm(at(middle) - clean, ord=norm, dim=1) < wanted
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return at(high)

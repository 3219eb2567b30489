"""The fast gradient sign method: one step as long as the ball allows.

Goodfellow, Shlens and Szegedy, ICLR 2015, section 4:

    x + eps sign(grad_x loss(x, y))                                                                     (1)

and its random start: x0 uniform in the ball, one step of 1.25 eps, projected back (Wong, Rice and Kolter, ICLR 2020,
algorithm 3). In L2 the sign is replaced by the gradient of unit length, in L1 by the
gradient over its largest entry, and what leaves the ball is projected back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from intriguing.attacks.ball import Ball
from intriguing.attacks.base import POSITIVE, Attack, Range, Trial, required
from intriguing.attacks.climb import climb, goal
from intriguing.attacks.losses import LOSSES
from intriguing.attacks.result import AttackResult
from intriguing.errors import UnknownNameError
from intriguing.nets.load import Model
from intriguing.rng import Streams


@dataclass(frozen=True)
class FGSM(Attack):
    """Parameters of the attack; call it as ``FGSM(eps=0.1)(model, images, labels)``.

    Args:
        eps: largest size of the change, in pixel units.
        norm: inf (the paper's), 2 or 1.
        target: None (any wrong class), ``"random"``, ``"top-1"``, or (N,) int64.
        budget: the largest number of forwards plus backwards on one image; it takes 5. None: no limit.
        random_start: start at a random point of the ball; needs a generator.
        step: length of the step; None: eps from the image, 1.25 eps from a random point.
        loss: a key of `losses.LOSSES`; the paper's is cross-entropy.
        slots: images moved at once.
    """

    description: ClassVar[str] = "one gradient step of the size allowed, from the image or from a random point"
    ranges: ClassVar[Mapping[str, Range]] = {"eps": POSITIVE, "step": POSITIVE, "slots": Range(1, whole=True)}

    eps: float
    norm: float = math.inf
    target: str | Tensor | None = None
    budget: int | None = None
    random_start: bool = False
    step: float | None = None
    loss: str = "cross-entropy"
    slots: int = 1024

    def _check(self) -> None:
        if self.loss not in LOSSES:
            raise UnknownNameError("loss", self.loss, LOSSES)

    def _search(self, trial: Trial, generator: torch.Generator | None) -> None:
        trial.aim(self.target, generator)
        ball = Ball.around(trial, self.eps, self.norm)
        streams = Streams(required(generator, "its random start"), trial.clean) if self.random_start else None
        step = self.step or (1.25 * self.eps if self.random_start else self.eps)
        for image in torch.split(trial.attacked.nonzero().squeeze(1), self.slots):
            x = trial.clean[image] if streams is None else ball.random(streams, image, draw=0)
            for _ in climb(trial, ball, image, x, goal(trial, self.loss), [step]):
                pass  # the trial has kept what was broken; nothing is started again


def fgsm(
    model: Model | torch.nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    eps: float,
    norm: float = math.inf,
    random_start: bool = False,
    target: str | Tensor | None = None,
    generator: torch.Generator | None = None,
) -> AttackResult:
    """Take one gradient step of size eps (Goodfellow et al. 2015); see `FGSM`.

    Args:
        model: a `Model`, or a plain net whose inputs lie in [0, 1].
        images: (N, ...) in the model's box; images the model gets wrong are not attacked.
        labels: (N,) int64 true classes; None: those the model gives.
        eps: largest size of the change, in pixel units.
        norm: 1, 2 or inf.
        random_start: start at a random point of the ball.
        target: the class to reach; None: any wrong one.
        generator: draws the start.

    Raises:
        InputError, DataError, ModelError: arguments that cannot be used; the message says what to do.

    Example:
        >>> fgsm(model, images, labels, eps=0.25).found.double().mean()
    """
    attack = FGSM(eps=eps, norm=norm, random_start=random_start, target=target)
    return attack(model, images, labels, generator=generator)

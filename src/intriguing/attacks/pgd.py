"""Projected gradient steps inside a ball, with restarts from random points.

Madry, Makelov, Schmidt, Tsipras and Vladu, ICLR 2018, section 2.1:

    x_{k+1} = P(x_k + a d(grad_x loss(x_k, y)))                                                         (1)

P projects onto the ball and the box, exactly; d is the sign for Linf, the gradient of unit length for L2, and over its
largest entry for L1; a is the length of a step. An image is done once it is broken, and is not started again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from intriguing.attacks.ball import Ball
from intriguing.attacks.base import COUNT, POSITIVE, Attack, Progress, Range, Trial, required
from intriguing.attacks.climb import SCHEDULES, climb, goal, lengths
from intriguing.attacks.losses import LOSSES
from intriguing.attacks.result import AttackResult
from intriguing.errors import UnknownNameError
from intriguing.nets.load import Model
from intriguing.rng import Streams


@dataclass(frozen=True)
class PGD(Attack):
    """Parameters of the attack; call it as ``PGD(eps=0.3)(model, images, labels, generator=g)``.

    Args:
        eps: largest size of the change, in pixel units.
        norm: inf, 2 or 1.
        target: None (any wrong class), ``"random"``, ``"top-1"``, or (N,) int64.
        budget: the largest number of forwards plus backwards on one image, over all restarts, the clean pass and the
            final judgement included; never exceeded. None: no limit.
        steps: of each restart. Madry et al. take 40 and 100 on MNIST.
        restarts: how many times an image that holds is started again, at least 1.
        step: length a of a step, in pixel units; None: 2.5 eps / steps, which crosses the ball with room to spare.
        schedule: a key of `climb.SCHEDULES`; the paper's is constant.
        loss: a key of `losses.LOSSES`; the paper's is cross-entropy.
        random_start: start at random points of the ball, the paper's way; without it the first start is the image.
        slots: images moved at once.
    """

    description: ClassVar[str] = "projected gradient steps in a ball of size eps, restarted from random points"
    ranges: ClassVar[Mapping[str, Range]] = {
        "eps": POSITIVE, "steps": COUNT, "restarts": COUNT, "step": POSITIVE, "slots": COUNT,
    }  # fmt: skip
    needs_generator: ClassVar[str] = "its random starts"

    eps: float
    norm: float = math.inf
    target: str | Tensor | None = None
    budget: int | None = None
    steps: int = 100
    restarts: int = 1
    step: float | None = None
    schedule: str = "constant"
    loss: str = "cross-entropy"
    random_start: bool = True
    slots: int = 1024

    def _check(self) -> None:
        if self.loss not in LOSSES:
            raise UnknownNameError("loss", self.loss, LOSSES)
        if self.schedule not in SCHEDULES:
            raise UnknownNameError("schedule", self.schedule, SCHEDULES)

    def _search(self, trial: Trial, generator: torch.Generator | None) -> None:
        trial.aim(self.target, generator)
        ball = Ball.around(trial, self.eps, self.norm)
        streams = Streams(required(generator, self.needs_generator), trial.clean)
        steps = lengths(self.step or 2.5 * self.eps / self.steps, self.steps, self.schedule)
        holds = trial.attacked.clone()
        for restart in range(self.restarts):
            for image in torch.split(holds.nonzero().squeeze(1), self.slots):
                clean = restart == 0 and not self.random_start
                x = trial.clean[image] if clean else ball.random(streams, image, draw=restart)
                for broken in climb(trial, ball, image, x, goal(trial, self.loss), steps):
                    holds[broken] = False
            trial.tell(restart + 1, self.restarts)


def pgd(
    model: Model | torch.nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    eps: float,
    generator: torch.Generator,
    norm: float = math.inf,
    steps: int = 100,
    restarts: int = 1,
    loss: str = "cross-entropy",
    target: str | Tensor | None = None,
    budget: int | None = None,
    progress: Progress | None = None,
) -> AttackResult:
    """Look for adversarial examples of size eps by projected gradient steps (Madry et al. 2018); see `PGD`.

    Args:
        model: a `Model`, or a plain net whose inputs lie in [0, 1].
        images: (N, ...) in the model's box; images the model gets wrong are not attacked.
        labels: (N,) int64 true classes; None: those the model gives.
        eps: largest size of the change, in pixel units.
        generator: draws the starts.
        norm: 1, 2 or inf.
        steps: of each restart.
        restarts: starts of an image that holds.
        loss: ``"cross-entropy"``, ``"margin"`` or ``"dlr"``.
        target: the class to reach; None: any wrong one.
        budget: the largest number of forwards plus backwards on one image; None for no limit.
        progress: called with (restarts done, all restarts).

    Raises:
        InputError, DataError, ModelError: arguments that cannot be used; the message says what to do.

    Example:
        >>> result = pgd(model, images, labels, eps=0.3, restarts=10, generator=rng.generator("pgd", 0))
        >>> result.at(0.3).robust_accuracy
    """
    attack = PGD(eps=eps, norm=norm, steps=steps, restarts=restarts, loss=loss, target=target, budget=budget)
    return attack(model, images, labels, generator=generator, progress=progress)

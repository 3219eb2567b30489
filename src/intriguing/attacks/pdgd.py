"""PDGD: descent on the change and ascent on the weight of the wrong answer, at once; minimal L2.

Matyasko and Chau 2021, PDPGD: Primal-Dual Proximal Gradient Descent Adversarial Attack (2106.01538), the variant by
plain gradients, algorithm 1. Symbols: r the change, m the margin, lambda_1 and lambda_2 the weights of distance and
loss, a point of the simplex.

    minimise over r, maximise over lambda     lambda_1 |r|_2 + lambda_2 softplus(max(m(x + r), 0))      (9)

- The loss is the margin's, flat where the answer is wrong; lambda_2 grows where the answer is right, else lambda_1.
- r moves by Adam, its rate falling exponentially to a hundredth; lambda by steps of fixed size in logarithms, falling
  linearly to a tenth, and by a moving average.
- Lengths are in shares of the box's width, so that boxes other than [0, 1] are attacked alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from intriguing.attacks import descent
from intriguing.attacks.base import COUNT, POSITIVE, Attack, Progress, Range, Trial
from intriguing.attacks.result import AttackResult
from intriguing.nets.load import Model

_STEPS = 500  # the authors'
_LAST_RATE, _LAST_DUAL_RATE = 0.01, 0.1  # shares left at the end
_EXTREME = 1e6  # the largest ratio of the two weights
_AVERAGE = 0.9  # of the weights
_DECAYS = (0.9, 0.999)  # of Adam's two averages, and its epsilon: Kingma and Ba 2015, algorithm 1
_EPSILON = 1e-8


@dataclass(frozen=True)
class PDGD(Attack):
    """Parameters of the attack; call it as ``PDGD(...)(model, images, labels)``.

    Args:
        target: None (any wrong class), ``"random"``, ``"top-1"``, or (N,) int64.
        steps: of one forward and one backward each; None: what the budget pays, else 500.
        budget: the largest number of forwards plus backwards on one image, the clean pass and the final judgement
            included; never exceeded. None: no limit.
        rate: of Adam at the first step, in shares of the box's width.
        dual_rate: of the weights' logarithms at the first step.
        ratio: the first lambda_1 / lambda_2.
        slots: images moved at once.
    """

    description: ClassVar[str] = "descent on the change, ascent on the weight of the wrong answer, at once; minimal L2"
    ranges: ClassVar[Mapping[str, Range]] = {
        "steps": COUNT, "rate": POSITIVE, "dual_rate": POSITIVE, "ratio": POSITIVE, "slots": COUNT,
    }  # fmt: skip

    target: str | Tensor | None = None
    steps: int | None = None
    budget: int | None = None
    rate: float = 0.1
    dual_rate: float = 0.1
    ratio: float = 0.01
    slots: int = 1024

    def _search(self, trial: Trial, generator: torch.Generator | None) -> None:
        trial.aim(self.target, generator)
        steps = descent.planned(trial, self.steps, _STEPS)
        for image in descent.parts(trial, self.slots):
            self._descend(trial, image, steps)

    def _descend(self, trial: Trial, image: Tensor, steps: int) -> None:
        low, high = trial.model.box
        width = high - low
        x = trial.clean[image]
        mean, square = torch.zeros_like(x), torch.zeros_like(x)
        # log(lambda_2 / lambda_1), and the averaged weight of the loss; the distance's is 1 minus it.
        odds = torch.full_like(x[:, 0], -math.log(self.ratio))
        weight = torch.sigmoid(odds)
        for k in range(steps):
            live = trial.affords(image)
            if not bool(live.all()):
                image, x, mean, square, odds, weight = (state[live] for state in (image, x, mean, square, odds, weight))
            if not len(image):
                return
            z, m, g = trial.gradient(x, image, descent.margin_loss(trial, image))
            trial.keep(x, image, z)
            r = (x - trial.clean[image]) / width
            # d softplus(max(m, 0)) / dm, and the gradient of (9).
            slope = torch.where(m > 0, torch.sigmoid(m), 0.0)
            gradient = (weight * slope)[:, None] * g * width
            gradient = gradient + (1 - weight)[:, None] * r / r.norm(dim=1, keepdim=True).clamp_min(1e-12)
            mean.lerp_(gradient, 1 - _DECAYS[0])
            square.lerp_(gradient.square(), 1 - _DECAYS[1])
            rate = self.rate * _LAST_RATE ** (k / steps) * width / (1 - _DECAYS[0] ** (k + 1))
            deviation = (square / (1 - _DECAYS[1] ** (k + 1))).sqrt_().add_(_EPSILON)
            x = torch.addcdiv(x, mean, deviation, value=-rate).clamp(low, high)
            left = (steps - 1 - k) / max(1, steps - 1)
            dual = self.dual_rate * (left * (1 - _LAST_DUAL_RATE) + _LAST_DUAL_RATE)
            odds = (odds + dual * m.sign()).clamp(-math.log(_EXTREME), math.log(_EXTREME))
            weight = _AVERAGE * weight + (1 - _AVERAGE) * torch.sigmoid(odds)
            descent.tell(trial, k, steps)
        descent.look(trial, x, image)
        trial.affords(image)  # notes the images that could not have gone on


def pdgd(
    model: Model | torch.nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    target: str | Tensor | None = None,
    steps: int | None = None,
    budget: int | None = None,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> AttackResult:
    """Look for the nearest adversarial examples in L2 by primal-dual gradient descent (Matyasko and Chau 2021).

    Args:
        model: a `Model`, or a plain net whose inputs lie in [0, 1].
        images: (N, ...) in the model's box; images the model gets wrong are not attacked.
        labels: (N,) int64 true classes; None: those the model gives.
        target: see `PDGD`.
        steps: see `PDGD`.
        budget: the largest number of forwards plus backwards on one image; None for no limit.
        generator: draws random targets.
        progress: called with (steps done, all steps) now and then.

    Returns:
        An `AttackResult`. Not finding anything is a status, not an exception.

    Raises:
        InputError, DataError, ModelError: arguments that cannot be used; the message says what to do.

    Example:
        >>> pdgd(model, images, labels, budget=1000).distance[:2]
        tensor([0.8036, 1.0894], dtype=torch.float64)
    """
    attack = PDGD(target=target, steps=steps, budget=budget)
    return attack(model, images, labels, generator=generator, progress=progress)

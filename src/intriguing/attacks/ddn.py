"""DDN: gradient steps on a sphere whose radius falls while the point is adversarial, and grows otherwise.

Rony, Hafemann, Oliveira, Ben Ayed, Sabourin and Granger 2019, Decoupling Direction and Norm (1811.09600), algorithm 1.
Symbols: delta the change, g its gradient, alpha the step, eps the radius, gamma its relative change.

- DEVIATION: the paper rounds every point to 256 levels. Here it is an option, `levels`: rounding costs distance, and
  `AttackResult.quantized` judges rounded examples of any attack.
- As in the authors' code the radius never exceeds the farthest corner of the box, beyond which nothing lies.
- Lengths are in shares of the box's width, so that boxes other than [0, 1] are attacked alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from intriguing.attacks import descent
from intriguing.attacks.base import COUNT, POSITIVE, Attack, Progress, Range, Trial
from intriguing.attacks.result import AttackResult
from intriguing.nets.load import Model

_STEPS = 1000  # the largest number the paper reports
_LAST_RATE = 0.01  # where the cosine of the step ends


@dataclass(frozen=True)
class DDN(Attack):
    """Parameters of the attack; call it as ``DDN(...)(model, images, labels)``.

    Args:
        target: None (any wrong class), ``"random"``, ``"top-1"``, or (N,) int64.
        steps: of one forward and one backward each; None: what the budget pays, else 1000.
        budget: the largest number of forwards plus backwards on one image, the clean pass and the final judgement
            included; never exceeded. None: no limit.
        gamma: relative change of the radius per step, the paper's.
        radius: the first, in shares of the box's width.
        rate: the first step, likewise; it falls by a cosine to 0.01.
        levels: of equally spaced pixel values that every point is rounded to (256 for 8 bits); None: no rounding.
        slots: images moved at once.
    """

    description: ClassVar[str] = "gradient steps on a sphere that shrinks while the point is adversarial; minimal L2"
    ranges: ClassVar[Mapping[str, Range]] = {
        "steps": COUNT, "gamma": Range(0, 0.99, above=True), "radius": POSITIVE, "rate": POSITIVE,
        "levels": Range(2, whole=True), "slots": COUNT,
    }  # fmt: skip

    target: str | Tensor | None = None
    steps: int | None = None
    budget: int | None = None
    gamma: float = 0.05
    radius: float = 1.0
    rate: float = 1.0
    levels: int | None = None
    slots: int = 1024

    def _search(self, trial: Trial, generator: torch.Generator | None) -> None:
        trial.aim(self.target, generator)
        steps = descent.planned(trial, self.steps, _STEPS)
        for image in descent.parts(trial, self.slots):
            self._descend(trial, image, steps, generator)

    def _descend(self, trial: Trial, image: Tensor, steps: int, generator: torch.Generator | None) -> None:
        low, high = trial.model.box
        x = trial.clean[image]
        eps = torch.full((len(image), 1), self.radius * (high - low), dtype=x.dtype, device=x.device)
        for k in range(steps):
            live = trial.affords(image)
            if not bool(live.all()):
                image, x, eps = image[live], x[live], eps[live]
            if not len(image):
                return
            clean = trial.clean[image]
            z, _, g = trial.gradient(x, image, descent.entropy_loss(trial, image))
            success = trial.keep(x, image, z)
            # Line 6: a step of length alpha, from the last point.
            alpha = descent.cosine(self.rate, _LAST_RATE * self.rate, k, steps) * (high - low)
            delta = x - clean - alpha * descent.unit(g, k, generator)
            # Lines 7 to 11: the radius, and the point put on its sphere.
            farthest = torch.maximum(clean - low, high - clean).norm(dim=1, keepdim=True)
            eps = (eps * torch.where(success, 1 - self.gamma, 1 + self.gamma)[:, None]).minimum(farthest)
            length = delta.norm(dim=1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
            x = (clean + delta * (eps / length)).clamp(low, high)
            if self.levels is not None:
                x = low + ((x - low) / (high - low) * (self.levels - 1)).round() / (self.levels - 1) * (high - low)
                x = x.clamp(low, high)
            descent.tell(trial, k, steps)
        descent.look(trial, x, image)
        trial.affords(image)  # notes the images that could not have gone on


def ddn(
    model: Model | torch.nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    target: str | Tensor | None = None,
    steps: int | None = None,
    budget: int | None = None,
    levels: int | None = None,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> AttackResult:
    """Look for the nearest adversarial examples in L2 by decoupled direction and norm (Rony et al. 2019).

    Args:
        model: a `Model`, or a plain net whose inputs lie in [0, 1].
        images: (N, ...) in the model's box; images the model gets wrong are not attacked.
        labels: (N,) int64 true classes; None: those the model gives.
        target: see `DDN`.
        steps: see `DDN`.
        budget: the largest number of forwards plus backwards on one image; None for no limit.
        levels: pixel values to round to; None for no rounding.
        generator: draws random targets, and seeds the direction taken where the gradient is 0.
        progress: called with (steps done, all steps) now and then.

    Returns:
        An `AttackResult`. Not finding anything is a status, not an exception.

    Raises:
        InputError, DataError, ModelError: arguments that cannot be used; the message says what to do.

    Example:
        >>> ddn(model, images, labels, budget=2000).distance[:3]
        tensor([0.8214, 1.0932, 1.4410], dtype=torch.float64)
    """
    attack = DDN(target=target, steps=steps, budget=budget, levels=levels)
    return attack(model, images, labels, generator=generator, progress=progress)

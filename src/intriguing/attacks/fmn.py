"""FMN: gradient steps on the margin, kept within a ball whose radius follows the boundary, in L1, L2 or Linf.

Pintor, Roli, Brendel and Biggio 2021, Fast Minimum-norm Attacks (2102.12827), algorithm 1. Symbols: delta the change,
L the margin (`descent.excess`), g its gradient, q the dual norm, eps the radius, gamma its relative change, alpha the
step.

- Until a first success the radius is where the linearised margin ends: |delta|_p + |L| / |g|_q (line 6).
- After it, eps falls by gamma at a success, never above the smallest success, and grows by gamma otherwise (lines 7
  to 10).
- DEVIATION: before the first success the radius also grows by gamma at least. The box cuts steps short, and the
  estimate, made anew at each point, then creeps up to the boundary without crossing it.
- Lengths are in shares of the box's width, so that boxes other than [0, 1] are attacked alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from intriguing import norms
from intriguing.attacks import descent
from intriguing.attacks.base import COUNT, POSITIVE, Attack, Progress, Range, Trial
from intriguing.attacks.result import AttackResult
from intriguing.nets.load import Model

_STEPS = 1000
_LAST_RATE = 0.01  # where the cosine of the step ends, as a share of the first
_DUAL = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}
_PROJECT = {1.0: norms.project_l1_ball, 2.0: norms.project_l2_ball, math.inf: norms.project_linf_ball}


@dataclass(frozen=True)
class FMN(Attack):
    """Parameters of the attack; call it as ``FMN(...)(model, images, labels)``.

    Args:
        norm: 1, 2 or inf, what is kept small.
        target: None (any wrong class), ``"random"``, ``"top-1"``, or (N,) int64.
        steps: of one forward and one backward each; None: what the budget pays, else 1000.
        budget: the largest number of forwards plus backwards on one image, the clean pass and the final judgement
            included; never exceeded. None: no limit.
        gamma: relative change of the radius at the first step; it falls by a cosine to `last_gamma`.
        last_gamma: where it ends.
        rate: the first step, in shares of the box's width and in L2; it falls by a cosine to a hundredth.
        slots: images moved at once.
    """

    description: ClassVar[str] = (
        "gradient steps on the margin in a ball that follows the boundary; minimal L1, L2, Linf"
    )
    ranges: ClassVar[Mapping[str, Range]] = {
        "steps": COUNT, "gamma": Range(0, 0.99, above=True), "last_gamma": Range(0, 0.99, above=True),
        "rate": POSITIVE, "slots": COUNT,
    }  # fmt: skip

    norm: float = 2.0
    target: str | Tensor | None = None
    steps: int | None = None
    budget: int | None = None
    gamma: float = 0.05
    last_gamma: float = 0.001
    rate: float = 1.0
    slots: int = 1024

    def _search(self, trial: Trial, generator: torch.Generator | None) -> None:
        trial.aim(self.target, generator)
        steps = descent.planned(trial, self.steps, _STEPS)
        for image in descent.parts(trial, self.slots):
            self._descend(trial, image, steps, generator)

    def _descend(self, trial: Trial, image: Tensor, steps: int, generator: torch.Generator | None) -> None:
        low, high = trial.model.box
        p, q = float(self.norm), _DUAL[float(self.norm)]
        x = trial.clean[image]
        eps = torch.full((len(image),), torch.inf, dtype=torch.float64, device=x.device)
        for k in range(steps):
            live = trial.affords(image)
            if not bool(live.all()):
                image, x, eps = image[live], x[live], eps[live]
            if not len(image):
                return
            clean = trial.clean[image]
            z, excess, g = trial.gradient(x, image, descent.margin_loss(trial, image))
            success = trial.keep(x, image, z)
            gamma = descent.cosine(self.gamma, self.last_gamma, k, steps)
            # Line 6, and lines 7 to 10.
            steepness = torch.linalg.vector_norm(g, ord=q, dim=1).double().clamp_min(1e-12)
            ahead = trial.size(x, image) + excess.abs().double() / steepness
            best, grown = trial.best[image], torch.where(eps.isfinite(), eps * (1 + gamma), 0.0)
            eps = torch.where(
                success,
                torch.minimum(eps * (1 - gamma), best),
                torch.where(torch.isfinite(best), eps * (1 + gamma), torch.maximum(ahead, grown)),
            )
            # No point of the box lies farther than its farthest corner.
            farthest = torch.linalg.vector_norm(torch.maximum(clean - low, high - clean), ord=p, dim=1)
            eps = torch.where(eps.isfinite(), eps, torch.inf).minimum(farthest.double())
            # Lines 11 to 13: the step, the ball, the box.
            alpha = descent.cosine(self.rate, _LAST_RATE * self.rate, k, steps) * (high - low)
            delta = _PROJECT[p](x - clean - alpha * descent.unit(g, k, generator), eps)
            x = (clean + delta).clamp(low, high)
            descent.tell(trial, k, steps)
        descent.look(trial, x, image)
        trial.affords(image)  # notes the images that could not have gone on


def fmn(
    model: Model | torch.nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    norm: float = 2.0,
    target: str | Tensor | None = None,
    steps: int | None = None,
    budget: int | None = None,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> AttackResult:
    """Look for the nearest adversarial examples in L1, L2 or Linf by fast minimum norm (Pintor et al. 2021).

    Args:
        model: a `Model`, or a plain net whose inputs lie in [0, 1].
        images: (N, ...) in the model's box; images the model gets wrong are not attacked.
        labels: (N,) int64 true classes; None: those the model gives.
        norm: 1, 2 or inf.
        target: see `FMN`.
        steps: see `FMN`.
        budget: the largest number of forwards plus backwards on one image; None for no limit.
        generator: draws random targets, and seeds the direction taken where the gradient is 0.
        progress: called with (steps done, all steps) now and then.

    Returns:
        An `AttackResult`. Not finding anything is a status, not an exception.

    Raises:
        InputError, DataError, ModelError: arguments that cannot be used; the message says what to do.

    Example:
        >>> fmn(model, images, labels, norm=math.inf, budget=200).size[:2]
        tensor([0.0412, 0.0538], dtype=torch.float64)
    """
    attack = FMN(norm=norm, target=target, steps=steps, budget=budget)
    return attack(model, images, labels, generator=generator, progress=progress)

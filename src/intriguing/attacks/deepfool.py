"""DeepFool: to the nearest boundary of the linearised net, again and again, until the answer changes.

Moosavi-Dezfooli, Fawzi and Frossard 2016 (1511.04599), algorithm 2, and section 3.3 for Linf. Symbols: k0 the label,
f_k = z_k - z_k0 and w_k its gradient, q the dual norm.

- The step leads to the class with the least |f_k| / |w_k|_q, and its size is that quotient.
- The change so far times 1 + overshoot is judged. DEVIATION: at every step, and not after the last alone, since the
  steps of a nearly linear net end on the boundary, where the answer has not changed yet.
- DEVIATION: points are clipped to the box. The paper knows no box.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from intriguing.attacks import descent
from intriguing.attacks.base import COUNT, Attack, Progress, Range, Trial
from intriguing.attacks.result import AttackResult
from intriguing.errors import InputError
from intriguing.nets.load import Model

_DUAL = {2.0: 2.0, math.inf: 1.0}


@dataclass(frozen=True)
class DeepFool(Attack):
    """Parameters of the attack; call it as ``DeepFool(...)(model, images, labels)``.

    Args:
        norm: 2 or inf.
        target: None (any wrong class), ``"random"``, ``"top-1"``, or (N,) int64; with a target the steps lead there.
        steps: the most of them, each of one forward and one backward per class, and one forward to look.
        budget: the largest number of forwards plus backwards on one image, the clean pass and the final judgement
            included; never exceeded. None: no limit.
        classes: how many of the likeliest wrong classes the steps may lead to; the authors' code takes 9.
        overshoot: share by which the change is made longer than the steps that lead to the boundary.
        slots: images moved at once.
    """

    description: ClassVar[str] = "steps to the nearest boundary of the linearised net; small L2 or Linf, few passes"
    ranges: ClassVar[Mapping[str, Range]] = {
        "steps": COUNT, "classes": COUNT, "overshoot": Range(0, above=True), "slots": COUNT,
    }  # fmt: skip

    norm: float = 2.0
    target: str | Tensor | None = None
    steps: int = 50
    budget: int | None = None
    classes: int = 9
    overshoot: float = 0.02
    slots: int = 1024

    def _check(self) -> None:
        if self.norm not in _DUAL:
            raise InputError(f"norm: expected 2 or inf (math.inf), got {self.norm!r}; FAB and FMN know L1")

    def _search(self, trial: Trial, generator: torch.Generator | None) -> None:
        trial.aim(self.target, generator)
        for image in descent.parts(trial, self.slots):
            rivals = rival_classes(trial, image, self.classes)
            fool(trial, trial.clean[image], image, rivals, self.steps, self.overshoot, float(self.norm))


def rival_classes(trial: Trial, image: Tensor, most: int) -> Tensor:
    """Return the classes (k, c) the steps on these images may lead to: the targets, or the likeliest wrong ones."""
    wanted = trial.wanted[image]
    if bool((wanted >= 0).any()):
        return wanted[:, None]
    others = trial.z[image].scatter(1, trial.labels[image][:, None], -torch.inf)
    return others.topk(min(most, trial.classes - 1), dim=1).indices


def fool(
    trial: Trial, x: Tensor, image: Tensor, rivals: Tensor, steps: int, overshoot: float, norm: float = 2.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Move points until the answer changes; return (points (k, n), bool (k,) whether it did, int64 (k,) last class).

    Args:
        trial: keeps every success.
        x: (k, n) starts.
        image: (k,).
        rivals: (k, c) classes to lead to.
        steps: the most of them.
        overshoot: see `DeepFool`.
        norm: 2 or inf.
    """
    low, high = trial.model.box
    ends, changed, towards = x.clone(), torch.zeros_like(image, dtype=torch.bool), rivals[:, 0].clone()
    row = torch.arange(len(image), device=image.device)
    for k in range(steps):
        live = trial.affords(image[row], rivals.shape[1] + 2)
        row, x = row[live], x[live]
        if not len(row):
            break
        z, w = trial.jacobian(x, image[row], rivals[row], trial.labels[image[row]])
        f = z.gather(1, rivals[row]) - z.gather(1, trial.labels[image[row]][:, None])
        r, chosen = nearest_boundary(f, w, norm)
        towards[row] = rivals[row].gather(1, chosen[:, None]).squeeze(1)
        x = (x + r).clamp(low, high)
        beyond = torch.lerp(trial.clean[image[row]], x, 1 + overshoot).clamp_(low, high)
        ends[row] = beyond
        success = trial.keep(beyond, image[row], trial.logits(beyond, image[row]))
        changed[row[success]] = True
        row, x = row[~success], x[~success]
        descent.tell(trial, k, steps)
    return ends, changed, towards


def nearest_boundary(f: Tensor, w: Tensor, norm: float) -> tuple[Tensor, Tensor]:
    """Return the least step (k, n) to a boundary f + <w, r> = 0 of the linearised net, and whose it is (k,).

    Moosavi-Dezfooli et al. 2016, algorithm 2, lines 8 and 9; equations (11) and (12) for other norms.

    Args:
        f: (k, c) logits minus the label's.
        w: (k, c, n) their gradients.
        norm: 2 or inf.
    """
    steepness = torch.linalg.vector_norm(w, ord=_DUAL[norm], dim=2).clamp_min(1e-12)
    away: Tensor = f.abs() / steepness
    chosen = away.nan_to_num(torch.inf).argmin(1)
    row = torch.arange(len(f), device=f.device)
    normal, steep = w[row, chosen], steepness[row, chosen][:, None]
    # Where the answer has changed already f is positive, and the step leads back to the boundary.
    size = (-f[row, chosen])[:, None] / steep
    direction = normal / steep if norm == 2 else normal.sign()
    return (size * direction).nan_to_num(0, 0, 0), chosen


def deepfool(
    model: Model | torch.nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    norm: float = 2.0,
    target: str | Tensor | None = None,
    steps: int = 50,
    budget: int | None = None,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> AttackResult:
    """Look for near adversarial examples in L2 or Linf by DeepFool (Moosavi-Dezfooli et al. 2016).

    Args:
        model: a `Model`, or a plain net whose inputs lie in [0, 1].
        images: (N, ...) in the model's box; images the model gets wrong are not attacked.
        labels: (N,) int64 true classes; None: those the model gives.
        norm: 2 or inf.
        target: see `DeepFool`.
        steps: the most of them.
        budget: the largest number of forwards plus backwards on one image; None for no limit.
        generator: draws random targets.
        progress: called with (steps done, all steps) now and then.

    Returns:
        An `AttackResult`. Not finding anything is a status, not an exception.

    Raises:
        InputError, DataError, ModelError: arguments that cannot be used; the message says what to do.

    Example:
        >>> deepfool(model, images, labels).forwards.max()
        tensor(9)
    """
    attack = DeepFool(norm=norm, target=target, steps=steps, budget=budget)
    return attack(model, images, labels, generator=generator, progress=progress)

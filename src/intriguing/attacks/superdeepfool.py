"""SuperDeepFool: DeepFool to the boundary, then back along its normal there, until that point is adversarial itself.

Abdollahpour, Moosavi-Dezfooli and others 2024, Revisiting DeepFool (2303.12481), algorithm 2, SDF(inf, 1). Symbols:
x0 the image, x~ the point DeepFool reaches, w the gradient there of the new class's logit minus the label's.

    x <- x0 + <x~ - x0, w> / |w|^2 w                                                                  (6)

- The nearest point of a boundary is x0 plus a multiple of the normal; DeepFool's is not, and (6) turns it that way.
- The segment from the image to the nearest point found is bisected at the end, as in the paper.
- DEVIATION: (6) is the projection of x0 onto the plane through x~ across w; here the nearest point of that plane within
  the box is taken instead, and DeepFool's points are clipped to the box. The paper knows no box.
- DEVIATION: besides at an adversarial x, a search ends when `patience` rounds in a row have come no nearer. At the
  kinks of nets with ReLU the planes of two facets alternate for ever, and x stays short of both. (The authors' code
  adds (6) to the last x instead, which soon goes beyond the boundary, and ends farther away.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from intriguing.attacks import descent
from intriguing.attacks.base import COUNT, Attack, Progress, Range, Trial
from intriguing.attacks.deepfool import fool, rival_classes
from intriguing.attacks.result import AttackResult
from intriguing.nets.load import Model
from intriguing.norms import project_box_hyperplane

_NEARER = 0.999  # a round that comes less near than by this factor has gained nothing


@dataclass(frozen=True)
class SuperDeepFool(Attack):
    """Parameters of the attack; call it as ``SuperDeepFool(...)(model, images, labels)``.

    Args:
        target: None (any wrong class), ``"random"``, ``"top-1"``, or (N,) int64; with a target the steps lead there.
        steps: the most rounds of DeepFool and projection.
        budget: the largest number of forwards plus backwards on one image, the clean pass, the last bisection and the
            final judgement included; never exceeded. None: no limit.
        inner: the most steps of DeepFool in a round.
        classes: how many of the likeliest wrong classes DeepFool's steps may lead to.
        toward: None, or how many of the likeliest wrong classes get a search of their own, whose steps cost one
            backward instead of one per class.
        patience: rounds in a row that come no nearer before a search ends.
        overshoot: of DeepFool.
        halvings: of the last segment.
        slots: images moved at once.
    """

    description: ClassVar[str] = "DeepFool, turned towards the boundary's normal in rounds; minimal L2, few passes"
    ranges: ClassVar[Mapping[str, Range]] = {
        "steps": COUNT, "inner": COUNT, "classes": COUNT, "toward": COUNT, "patience": COUNT,
        "overshoot": Range(0, above=True), "halvings": Range(0, 50, whole=True), "slots": COUNT,
    }  # fmt: skip

    target: str | Tensor | None = None
    steps: int = 100
    budget: int | None = None
    inner: int = 100
    classes: int = 9
    toward: int | None = None
    patience: int = 3
    overshoot: float = 0.02
    halvings: int = 10
    slots: int = 1024

    def _search(self, trial: Trial, generator: torch.Generator | None) -> None:
        trial.aim(self.target, generator)
        trial.reserved = 1 + self.halvings
        for image in descent.parts(trial, self.slots):
            rivals = rival_classes(trial, image, self.toward or self.classes)
            for lead in (rivals,) if self.toward is None else torch.split(rivals, 1, dim=1):
                self._turn(trial, image, lead)
            descent.close_in(trial, image, self.halvings)

    def _turn(self, trial: Trial, image: Tensor, rivals: Tensor) -> None:
        """Alternate DeepFool and the projection (6) until the projected points are adversarial, or come no nearer."""
        low, high = trial.model.box
        x = trial.clean[image]
        nearest = torch.full_like(image, torch.inf, dtype=torch.float64)
        idle = torch.zeros_like(image)
        for k in range(self.steps):
            reached, changed, towards = fool(trial, x, image, rivals, self.inner, self.overshoot)
            size = trial.size(reached, image)
            idle = torch.where(size < _NEARER * nearest, 0, idle + 1)
            nearest = torch.minimum(nearest, size)
            live = changed & (idle < self.patience)
            live[live.clone()] = trial.affords(image[live], 3)
            image, rivals, reached, towards = image[live], rivals[live], reached[live], towards[live]
            nearest, idle = nearest[live], idle[live]
            if not len(image):
                return
            clean, label = trial.clean[image], trial.labels[image]
            # The new answer's normal; DeepFool's last class where rounding has undone the change.
            z, w = self._normal(trial, reached, image, label, towards)
            x = project_box_hyperplane(clean, w, torch.linalg.vecdot(w.double(), reached.double()), low, high)
            trial.keep(reached, image, z)
            go = ~trial.keep(x, image, trial.logits(x, image))
            image, rivals, x, nearest, idle = image[go], rivals[go], x[go], nearest[go], idle[go]
            descent.tell(trial, k, self.steps)

    def _normal(self, trial: Trial, x: Tensor, image: Tensor, label: Tensor, towards: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (k, K) at x and the gradient (k, n) of the answer's logit minus the label's: two passes."""

        def lead(z: Tensor) -> Tensor:
            answer = z.detach().argmax(1)
            answer = torch.where(answer == label, towards, answer)
            answer = torch.where(trial.wanted[image] < 0, answer, towards)
            return z.gather(1, answer[:, None]).squeeze(1) - z.gather(1, label[:, None]).squeeze(1)

        z, _, w = trial.gradient(x, image, lead)
        return z, w


def superdeepfool(
    model: Model | torch.nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    target: str | Tensor | None = None,
    budget: int | None = None,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> AttackResult:
    """Look for the nearest adversarial examples in L2 by SuperDeepFool (Abdollahpour et al. 2024).

    Args:
        model: a `Model`, or a plain net whose inputs lie in [0, 1].
        images: (N, ...) in the model's box; images the model gets wrong are not attacked.
        labels: (N,) int64 true classes; None: those the model gives.
        target: see `SuperDeepFool`.
        budget: the largest number of forwards plus backwards on one image; None for no limit.
        generator: draws random targets.
        progress: called with (rounds done, the most rounds) now and then.

    Returns:
        An `AttackResult`. Not finding anything is a status, not an exception.

    Raises:
        InputError, DataError, ModelError: arguments that cannot be used; the message says what to do.

    Example:
        >>> superdeepfool(model, images, labels).distance.median()
        tensor(1.2034, dtype=torch.float64)
    """
    attack = SuperDeepFool(target=target, budget=budget)
    return attack(model, images, labels, generator=generator, progress=progress)

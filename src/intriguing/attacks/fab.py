"""FAB: projections onto the linearised boundary within the box, drawn towards the image, in L1, L2 or Linf.

Croce and Hein 2020, Minimally distorted Adversarial Examples with a Fast Adaptive Boundary Attack (1907.02044),
algorithm 1. Symbols: x_orig the image, x the point, pi the hyperplane of the nearest boundary of the net linearised
at x, d and d_orig the steps from x and x_orig to their projections onto box and pi, eta, alpha_max, beta numbers.

- Equation (9): x <- clip((1 - alpha)(x + eta d) + alpha (x_orig + eta d_orig)), with alpha = |d| / (|d| + |d_orig|), at
  most alpha_max: the nearer x is to the boundary already, the less the image pulls.
- A success is moved towards the image, x <- (1 - beta) x_orig + beta x, and the search goes on (equation (10)).
- At the end the segment from the image to the nearest success is cut a few times where the margin, taken as linear
  along it, is 0 (section 2.5).
- ``toward=k`` is the targeted variant (FAB-T of Croce and Hein 2020b): one run towards each of the k likeliest wrong
  classes, whose steps cost 3 passes whatever the number of classes; any wrong answer is a success.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from intriguing import rng
from intriguing.attacks import descent
from intriguing.attacks.base import COUNT, Attack, Progress, Range, Trial
from intriguing.attacks.deepfool import rival_classes
from intriguing.attacks.result import AttackResult, Phase
from intriguing.nets.load import Model
from intriguing.norms import project_box_hyperplane

_STEPS = 100  # the paper's
_DUAL = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}
_BEYOND = 1.01  # times the share of a segment where the margin is 0: at the root itself rounding decides
_REACH = {1.0: 5.0, 2.0: 1.0, math.inf: 0.3}  # of random starts, in shares of the box's width: the authors' code


@dataclass(frozen=True)
class FAB(Attack):
    """Parameters of the attack; call it as ``FAB(...)(model, images, labels)``.

    Args:
        norm: 1, 2 or inf, what is kept small.
        target: None (any wrong class), ``"random"``, ``"top-1"``, or (N,) int64; with a target the steps lead there.
        steps: of one run, each of two forwards and one backward per class it may lead to; None: what the budget pays,
            else 100.
        budget: the largest number of forwards plus backwards on one image, the clean pass, the last cuts and the final
            judgement included; never exceeded. None: no limit.
        restarts: runs in all; the first starts at the image, the others at random points.
        toward: None, or how many of the likeliest wrong classes get runs of their own (the targeted variant).
        classes: how many of the likeliest wrong classes a step may lead to, without `toward`; None: all.
        alpha_max: the largest pull of the image.
        eta: extrapolation of the projections.
        beta: how far a success stays from the image.
        cuts: of the last segment.
        slots: images moved at once.
    """

    description: ClassVar[str] = "projections onto the linearised boundary within the box; minimal L1, L2 or Linf"
    ranges: ClassVar[Mapping[str, Range]] = {
        "steps": COUNT, "restarts": COUNT, "toward": COUNT, "classes": COUNT, "alpha_max": Range(0, 1),
        "eta": Range(1, 2), "beta": Range(0, 1, above=True), "cuts": Range(0, 50, whole=True), "slots": COUNT,
    }  # fmt: skip

    norm: float = 2.0
    target: str | Tensor | None = None
    steps: int | None = None
    budget: int | None = None
    restarts: int = 1
    toward: int | None = None
    classes: int | None = None
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    cuts: int = 3
    slots: int = 1024

    def _search(self, trial: Trial, generator: torch.Generator | None) -> None:
        trial.aim(self.target, generator)
        trial.reserved = 1 + self.cuts
        aimed = bool((trial.wanted >= 0).any())
        toward = 1 if aimed or self.toward is None else min(self.toward, trial.classes - 1)
        most = self.toward or self.classes or trial.classes
        each = 1 if aimed or self.toward is not None else min(most, trial.classes - 1)
        steps = descent.planned(trial, self.steps, _STEPS, passes=2 + each, runs=toward * self.restarts)
        for image in descent.parts(trial, self.slots):
            rivals = rival_classes(trial, image, most)
            for restart in range(self.restarts):
                for column in range(toward):
                    lead = rivals if self.toward is None else rivals[:, column : column + 1]
                    self._run(trial, self._start(trial, image, restart, generator), image, lead, steps)
            self._cut(trial, image)

    def _start(self, trial: Trial, image: Tensor, restart: int, generator: torch.Generator | None) -> Tensor:
        """Return the image, or a random point half as far away as the nearest success (section 2.4)."""
        clean = trial.clean[image]
        if restart == 0:
            return clean
        low, high = trial.model.box
        # One direction for all images of this restart: an image's start depends on no other image.
        seed = 0 if generator is None else generator.initial_seed()
        own = rng.generator(f"attacks/fab/{seed}", restart)
        draw = torch.rand if math.isinf(self.norm) else torch.randn
        t = draw(clean.shape[1], generator=own).to(clean)
        t = 2 * t - 1 if math.isinf(self.norm) else t
        reach = trial.best[image].clamp_max(_REACH[float(self.norm)] * (high - low)).to(clean)
        return (clean + 0.5 * reach[:, None] * t / torch.linalg.vector_norm(t, ord=self.norm)).clamp(low, high)

    def _run(self, trial: Trial, x: Tensor, image: Tensor, rivals: Tensor, steps: int) -> None:
        low, high = trial.model.box
        p = float(self.norm)
        for k in range(steps):
            live = trial.affords(image, rivals.shape[1] + 2)
            if not bool(live.all()):
                image, x, rivals = image[live], x[live], rivals[live]
            if not len(image):
                return
            clean, label = trial.clean[image], trial.labels[image]
            z, w = trial.jacobian(x, image, rivals, label)
            f = z.gather(1, rivals) - z.gather(1, label[:, None])
            a, b = _nearest_plane(f, w, x, p)
            pair = project_box_hyperplane(
                torch.cat((x, clean)), torch.cat((a, a)), torch.cat((b, b)), low, high, norm=p
            )
            d, d_orig = pair[: len(x)] - x, pair[len(x) :] - clean
            size, size_orig = (torch.linalg.vector_norm(step, ord=p, dim=1, keepdim=True) for step in (d, d_orig))
            # Equations (7) and (9).
            alpha = (size / (size + size_orig).clamp_min(1e-12)).clamp_max(self.alpha_max)
            x = ((1 - alpha) * (x + self.eta * d) + alpha * (clean + self.eta * d_orig)).clamp(low, high)
            success = trial.keep(x, image, trial.logits(x, image))
            x = torch.where(success[:, None], torch.lerp(clean, x, self.beta), x)  # equation (10)
            descent.tell(trial, k, steps)
        trial.affords(image, rivals.shape[1] + 2)  # notes the images that could not have gone on

    def _cut(self, trial: Trial, image: Tensor) -> None:
        """Cut the segments from the images to their nearest successes where the margin, taken as linear, is 0."""
        image = image[torch.isfinite(trial.best[image])]
        if not len(image) or not self.cuts:
            return
        loss = descent.margin_loss(trial, image)
        clean, far = trial.clean[image], trial.best_x[image].clone()
        near_at, far_at = far.new_zeros(len(image)), far.new_ones(len(image))
        # Margins at both ends: the image's own, and that of the success, whose logits were not kept, after one look.
        near_m, far_m = loss(trial.z[image]), torch.full_like(near_at, torch.nan)
        for cut in range(self.cuts):
            share = (_BEYOND * near_m / (near_m - far_m)).clamp(0.05, 0.95).nan_to_num(0.5)
            at = far_at if cut == 0 else near_at + share * (far_at - near_at)
            x = torch.lerp(clean, far, at[:, None])
            z = trial.logits(x, image)
            success, m = trial.keep(x, image, z, Phase.BISECT), loss(z)
            near_at, near_m = torch.where(success, near_at, at), torch.where(success, near_m, m)
            far_at, far_m = torch.where(success, at, far_at), torch.where(success, m, far_m)


def _nearest_plane(f: Tensor, w: Tensor, x: Tensor, norm: float) -> tuple[Tensor, Tensor]:
    """Return normal (k, n) and offset (k,) float64 of the linearised boundary that is nearest to x: equation (6).

    Args:
        f: (k, c) logits minus the label's.
        w: (k, c, n) their gradients.
        x: (k, n).
        norm: 1, 2 or inf.
    """
    steepness = torch.linalg.vector_norm(w, ord=_DUAL[norm], dim=2).clamp_min(1e-12)
    chosen = (f.abs() / steepness).nan_to_num(torch.inf).argmin(1)
    row = torch.arange(len(f), device=f.device)
    a = w[row, chosen].nan_to_num(0, 0, 0)
    offset: Tensor = torch.linalg.vecdot(a.double(), x.double()) - f[row, chosen].double().nan_to_num(0, 0, 0)
    return a, offset


def fab(
    model: Model | torch.nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    norm: float = 2.0,
    target: str | Tensor | None = None,
    steps: int | None = None,
    budget: int | None = None,
    restarts: int = 1,
    toward: int | None = None,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> AttackResult:
    """Look for the nearest adversarial examples in L1, L2 or Linf by FAB (Croce and Hein 2020).

    Args:
        model: a `Model`, or a plain net whose inputs lie in [0, 1].
        images: (N, ...) in the model's box; images the model gets wrong are not attacked.
        labels: (N,) int64 true classes; None: those the model gives.
        norm: 1, 2 or inf.
        target: see `FAB`.
        steps: see `FAB`.
        budget: the largest number of forwards plus backwards on one image; None for no limit.
        restarts: runs in all.
        toward: None, or the number of likeliest wrong classes that get runs of their own.
        generator: draws random targets, and seeds the random starts.
        progress: called with (steps done, all steps) now and then.

    Returns:
        An `AttackResult`. Not finding anything is a status, not an exception.

    Raises:
        InputError, DataError, ModelError: arguments that cannot be used; the message says what to do.

    Example:
        >>> fab(model, images, labels, norm=1, budget=1000).distance_l1[:2]
        tensor([4.1027, 6.9380], dtype=torch.float64)
    """
    attack = FAB(norm=norm, target=target, steps=steps, budget=budget, restarts=restarts, toward=toward)
    return attack(model, images, labels, generator=generator, progress=progress)

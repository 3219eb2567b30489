"""ALMA: the distance under the constraint of a wrong answer, by an augmented Lagrangian, in L2 or L1.

Rony, Granger, Pedersoli and Ben Ayed 2021, Augmented Lagrangian Adversarial Attacks (2011.11857), algorithm 1. Symbols:
D the distance, y the constraint (negative where adversarial), P the penalty function, mu its multiplier, rho its
parameter, M steps between two looks at it, tau, gamma, alpha numbers, eta the step.

    minimise D(x', x) subject to y(x') < 0,  by descent on  D(x', x) + P(y(x'), rho, mu)               (3)

- y is the difference of logits ratio (6): the margin over z_(1) - z_(3), the first and third largest logits.
  DEVIATION: for two classes, where there is no third, it is the margin over that of the image.
  DEVIATION: towards a target the denominator is held fixed in the gradient. A target that is not among the first three
  is otherwise "approached" by driving these apart, which need never lead to it.
- P is P2 of the paper's table 1.
- mu is a moving average of dP/dy; rho grows by gamma where, until a first success, y has not fallen by 1 - tau.
- The step is RMSProp's with momentum, its first size such that the first step is `first` long, and falls
  exponentially from the first success on.
- Lengths are in shares of the box's width, so that boxes other than [0, 1] are attacked alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from intriguing.attacks import descent
from intriguing.attacks.base import COUNT, POSITIVE, Attack, Progress, Range, Trial
from intriguing.attacks.result import AttackResult
from intriguing.errors import InputError
from intriguing.nets.load import Model

_STEPS = 1000  # the largest number the paper reports
_FIRST = {1.0: 0.5, 2.0: 0.1}  # lengths of the first step
_FEW = 500  # fewer steps than this take the averages' short memory
_TOLERANCE = 1e-4  # added to the difference of logits: a tie is no success
_LEAST_MU, _LARGEST_MU = 1e-6, 1e12
_GUARD = 1e-8  # of RMSProp
_DOUBLINGS, _HALVINGS = 40, 20  # of the search for the first step's size, which costs no pass


@dataclass(frozen=True)
class ALMA(Attack):
    """Parameters of the attack; call it as ``ALMA(...)(model, images, labels)``.

    Args:
        norm: 1 or 2.
        target: None (any wrong class), ``"random"``, ``"top-1"``, or (N,) int64.
        steps: of one forward and one backward each; None: what the budget pays, else 1000.
        budget: the largest number of forwards plus backwards on one image, the clean pass and the final judgement
            included; never exceeded. None: no limit.
        first: length of the first step, in shares of the box's width; None: the paper's, 0.1 in L2 and 0.5 in L1.
        memory: alpha, of the averages; None: the paper's, 0.9, and 0.5 for fewer than 500 steps.
        last_rate: what is left of the step at the end, as a share.
        tau: the share of y that is progress enough.
        growth: gamma, of rho.
        look: M, steps between two looks at y.
        slots: images moved at once.
    """

    description: ClassVar[str] = "the distance under the constraint of a wrong answer, augmented Lagrangian; L2 or L1"
    ranges: ClassVar[Mapping[str, Range]] = {
        "steps": COUNT, "first": POSITIVE, "memory": Range(0, 0.999), "last_rate": Range(0, 1, above=True),
        "tau": Range(0, 1), "growth": Range(1), "look": COUNT, "slots": COUNT,
    }  # fmt: skip

    norm: float = 2.0
    target: str | Tensor | None = None
    steps: int | None = None
    budget: int | None = None
    first: float | None = None
    memory: float | None = None
    last_rate: float = 0.01
    tau: float = 0.95
    growth: float = 1.2
    look: int = 10
    slots: int = 1024

    def _check(self) -> None:
        if self.norm not in _FIRST:
            raise InputError(f"norm: expected 1 or 2, got {self.norm!r}; FAB and FMN know Linf")

    def _search(self, trial: Trial, generator: torch.Generator | None) -> None:
        trial.aim(self.target, generator)
        steps = descent.planned(trial, self.steps, _STEPS)
        for image in descent.parts(trial, self.slots):
            self._descend(trial, image, steps, generator)

    def _descend(self, trial: Trial, image: Tensor, steps: int, generator: torch.Generator | None) -> None:
        low, high = trial.model.box
        width, p = high - low, float(self.norm)
        alpha = self.memory if self.memory is not None else (0.9 if steps >= _FEW else 0.5)
        first = _FIRST[p] if self.first is None else self.first
        rows = _Rows.start(trial.clean[image], image, steps)
        for k in range(steps):
            rows = rows.only(trial.affords(rows.image))
            if not len(rows.image):
                return
            clean = trial.clean[rows.image]
            z, y, dy = trial.gradient(rows.x, rows.image, ratio_loss(trial, rows.image))
            success = trial.keep(rows.x, rows.image, z)
            rows.found_at = torch.where(success, rows.found_at.clamp_max(k), rows.found_at)
            if k == 0:
                rows.y = y
            else:
                self._weigh(rows, y, k, alpha)
            gradient = penalty_slope(y, rows.rho, rows.mu)[:, None] * dy * width
            if k:  # at the image itself the distance has no direction
                gradient = gradient + _distance_slope((rows.x - clean) / width, p)
            gradient = gradient.nan_to_num(0, 0, 0)
            if k == 0:
                flat = torch.linalg.vector_norm(gradient, dim=1, keepdim=True) <= _GUARD
                gradient = torch.where(flat, descent.unit(torch.zeros_like(gradient), k, generator), gradient)
                step = gradient / ((alpha + (1 - alpha) * gradient.square()).sqrt() + _GUARD)
                rows.eta = _first_rate(clean, step, (low, high), p, first)
            fall = ((k - rows.found_at).clamp_min(0) / (steps - rows.found_at).clamp_min(1)).to(gradient)
            eta = rows.eta * self.last_rate**fall
            # RMSProp with momentum; the squares' average starts at 1, so that the first steps are not long.
            rows.square = alpha * rows.square + (1 - alpha) * gradient.square()
            rows.momentum = alpha * rows.momentum + gradient / (rows.square.sqrt() + _GUARD)
            rows.x = (rows.x - eta[:, None] * rows.momentum * width).clamp(low, high)
            descent.tell(trial, k, steps)
        descent.look(trial, rows.x, rows.image)
        trial.affords(rows.image)  # notes the images that could not have gone on

    def _weigh(self, rows: _Rows, y: Tensor, k: int, alpha: float) -> None:
        """Move rho and mu: algorithm 1, lines 6 to 12."""
        if (k + 1) % self.look == 0:
            still = (rows.found_at > k) & (y >= self.tau * rows.y)
            rows.rho = torch.where(still, self.growth * rows.rho, rows.rho)
            rows.y = y
        slope = penalty_slope(y, rows.rho, rows.mu).nan_to_num(1.0)
        rows.mu = (alpha * rows.mu + (1 - alpha) * slope).clamp(_LEAST_MU, _LARGEST_MU)


def ratio_loss(trial: Trial, image: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the difference of logits ratio of these images' points (k,): the paper's equation (6)."""
    label, wanted = trial.labels[image], trial.wanted[image]
    gap = descent.excess(trial.z[image], label, wanted).clamp_min(1e-12)

    def ratio(z: Tensor) -> Tensor:
        margin = descent.excess(z, label, wanted) + _TOLERANCE
        if z.shape[1] < 3:
            return margin / gap
        largest = z.topk(3, dim=1).values
        spread = (largest[:, 0] - largest[:, 2]).clamp_min(1e-12)
        return margin / torch.where(wanted < 0, spread, spread.detach())

    return ratio


def penalty_slope(y: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
    """Return dP2/dy (k,): P2 = mu y + mu rho y^2 + rho^2 y^3 / 6 where y >= 0, and mu y / (1 - rho y) elsewhere."""
    outside = mu + 2 * mu * rho * y + rho.square() * y.square() / 2
    inside = mu / (1 - rho * y.clamp_max(0)).square()
    return torch.where(y >= 0, outside, inside)


def _distance_slope(delta: Tensor, p: float) -> Tensor:
    """Return the gradient (k, n) of |delta|_p, 0 at 0."""
    if p == 1:
        return delta.sign()
    return delta / delta.norm(dim=1, keepdim=True).clamp_min(1e-12)


def _first_rate(clean: Tensor, step: Tensor, box: tuple[float, float], p: float, length: float) -> Tensor:
    """Return the rate (k,) at which `step` (k, n) moves each image by `length`, within the box."""
    low, high = box
    width = high - low

    def moved(rate: Tensor) -> Tensor:
        x = (clean - rate[:, None] * step * width).clamp(low, high)
        size: Tensor = torch.linalg.vector_norm((x - clean) / width, ord=p, dim=1)
        return size

    short, far = torch.zeros_like(clean[:, 0]), torch.ones_like(clean[:, 0])
    for _ in range(_DOUBLINGS):
        near = moved(far) <= length
        short, far = torch.where(near, far, short), torch.where(near, 2 * far, far)
    for _ in range(_HALVINGS):
        middle = (short + far) / 2
        near = moved(middle) <= length
        short, far = torch.where(near, middle, short), torch.where(near, far, middle)
    return (short + far) / 2


@dataclass
class _Rows:
    """The images still moved (k): their points, the state of RMSProp, and that of the Lagrangian.

    Attributes:
        image: (k,).
        x: (k, n).
        square: (k, n), average of squared gradients.
        momentum: (k, n).
        mu: (k,).
        rho: (k,).
        y: (k,), the constraint at the last look.
        eta: (k,), the first step.
        found_at: (k,), the step of the first success; all steps before it.
    """

    image: Tensor
    x: Tensor
    square: Tensor
    momentum: Tensor
    mu: Tensor
    rho: Tensor
    y: Tensor
    eta: Tensor
    found_at: Tensor

    @staticmethod
    def start(clean: Tensor, image: Tensor, steps: int) -> _Rows:
        """Return the rows at their clean images; mu and rho are 1, the paper's."""
        one = torch.ones_like(clean[:, 0])
        found_at = torch.full_like(image, steps)
        return _Rows(
            image, clean, torch.ones_like(clean), torch.zeros_like(clean), one, one.clone(), one.clone(), one.clone(),
            found_at,
        )  # fmt: skip

    def only(self, kept: Tensor) -> _Rows:
        """Return the rows chosen by a mask (k,)."""
        if bool(kept.all()):
            return self
        return _Rows(*(getattr(self, field.name)[kept] for field in fields(self)))


def alma(
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
    """Look for the nearest adversarial examples in L2 or L1 by an augmented Lagrangian (Rony et al. 2021).

    Args:
        model: a `Model`, or a plain net whose inputs lie in [0, 1].
        images: (N, ...) in the model's box; images the model gets wrong are not attacked.
        labels: (N,) int64 true classes; None: those the model gives.
        norm: 1 or 2.
        target: see `ALMA`.
        steps: see `ALMA`.
        budget: the largest number of forwards plus backwards on one image; None for no limit.
        generator: draws random targets, and seeds the direction taken where the first gradient is 0.
        progress: called with (steps done, all steps) now and then.

    Returns:
        An `AttackResult`. Not finding anything is a status, not an exception.

    Raises:
        InputError, DataError, ModelError: arguments that cannot be used; the message says what to do.

    Example:
        >>> alma(model, images, labels, budget=2000).distance[:2]
        tensor([0.7950, 1.0711], dtype=torch.float64)
    """
    attack = ALMA(norm=norm, target=target, steps=steps, budget=budget)
    return attack(model, images, labels, generator=generator, progress=progress)

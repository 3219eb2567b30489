"""Auto-PGD: projected gradient steps with momentum whose length adapts itself, without a step size to choose.

Croce and Hein, ICML 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks", section 3 and algorithm 1. Symbols: f the loss that is climbed, eta the step length of an image, alpha the
weight of the new step against the last one, w_j the checkpoints, rho the share of steps that must gain.

    z = P(x_k + eta d(grad f(x_k)));   x_{k+1} = P(x_k + alpha (z - x_k) + (1 - alpha) (x_k - x_{k-1}))   (1)

At a checkpoint eta is halved, and the best point so far is gone back to, if fewer than rho of the steps since the
last one gained, or if neither eta nor the best value has changed since (section 3.1, conditions 1 and 2).

- `APGD` climbs the cross-entropy, `TargetedAPGD` the targeted difference of logits ratio, one likely class after the
  other: the first two attacks of AutoAttack.
- DEVIATION: P is the exact projection onto ball and box. Theirs clips to the box last, which leaves part of an L2 ball
  unused; for L1 they have another method (Croce and Hein, ICML 2021), here the same steps serve.
- DEVIATION: an image is done once it is broken; theirs goes on to the last step to report the loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from intriguing.attacks.ball import Ball
from intriguing.attacks.base import COUNT, POSITIVE, SHARE, Attack, Progress, Range, Trial, required
from intriguing.attacks.climb import LossOf, goal, look
from intriguing.attacks.losses import LOSSES, Loss, targeted_dlr
from intriguing.attacks.result import AttackResult
from intriguing.errors import UnknownNameError
from intriguing.nets.load import Model
from intriguing.rng import Streams

_ALPHA = 0.75  # section 3.1
_FIRST, _SHORTER, _LEAST = 0.22, 0.03, 0.06  # checkpoints, as shares of the steps: section 3.1


@dataclass(frozen=True)
class APGD(Attack):
    """Parameters of the attack; call it as ``APGD(eps=0.3)(model, images, labels, generator=g)``.

    Args:
        eps: largest size of the change, in pixel units.
        norm: inf, 2 or 1.
        target: None (any wrong class), ``"random"``, ``"top-1"``, or (N,) int64.
        budget: the largest number of forwards plus backwards on one image, over all restarts, the clean pass and the
            final judgement included; never exceeded. None: no limit.
        steps: of each restart.
        restarts: how many times an image that holds is started again, at least 1.
        loss: a key of `losses.LOSSES`.
        share: rho, of the steps between two checkpoints that must gain.
        slots: images moved at once.
    """

    description: ClassVar[str] = "projected gradient steps with momentum and step lengths that adapt themselves"
    ranges: ClassVar[Mapping[str, Range]] = {
        "eps": POSITIVE, "steps": COUNT, "restarts": COUNT, "share": SHARE, "slots": COUNT,
    }  # fmt: skip
    needs_generator: ClassVar[str] = "its random starts"

    eps: float
    norm: float = math.inf
    target: str | Tensor | None = None
    budget: int | None = None
    steps: int = 100
    restarts: int = 1
    loss: str = "cross-entropy"
    share: float = 0.75
    slots: int = 1024

    def _check(self) -> None:
        if self.loss not in LOSSES:
            raise UnknownNameError("loss", self.loss, LOSSES)

    def _search(self, trial: Trial, generator: torch.Generator | None) -> None:
        trial.aim(self.target, generator)
        ball = Ball.around(trial, self.eps, self.norm)
        streams = Streams(required(generator, self.needs_generator), trial.clean)
        holds = trial.attacked.clone()
        for restart in range(self.restarts):
            for image in torch.split(holds.nonzero().squeeze(1), self.slots):
                x = ball.random(streams, image, draw=restart)
                for broken in _climb(trial, ball, image, x, goal(trial, self.loss), self.steps, self.share):
                    holds[broken] = False
            trial.tell(restart + 1, self.restarts)


@dataclass(frozen=True)
class TargetedAPGD(Attack):
    """Parameters of the attack; call it as ``TargetedAPGD(eps=0.3)(model, images, labels, generator=g)``.

    Any wrong class is a success, whichever class the steps were led to.

    Args:
        eps: largest size of the change, in pixel units.
        norm: inf, 2 or 1.
        target: None: the likeliest wrong classes of each image in turn; ``"random"``, ``"top-1"``, or (N,) int64: that
            class alone, and only reaching it is a success.
        budget: as for `APGD`, over all classes.
        steps: for each class and restart.
        classes: how many classes are tried; nets with fewer wrong classes have all of theirs tried.
        restarts: rounds over the classes, at least 1.
        share: rho, of the steps between two checkpoints that must gain.
        slots: images moved at once.
    """

    description: ClassVar[str] = "Auto-PGD led to the likeliest wrong classes one by one, by the targeted logits ratio"
    ranges: ClassVar[Mapping[str, Range]] = {
        "eps": POSITIVE, "steps": COUNT, "classes": COUNT, "restarts": COUNT, "share": SHARE, "slots": COUNT,
    }  # fmt: skip
    needs_generator: ClassVar[str] = "its random starts"

    eps: float
    norm: float = math.inf
    target: str | Tensor | None = None
    budget: int | None = None
    steps: int = 100
    classes: int = 9
    restarts: int = 1
    share: float = 0.75
    slots: int = 1024

    def _search(self, trial: Trial, generator: torch.Generator | None) -> None:
        trial.aim(self.target, generator)
        ball = Ball.around(trial, self.eps, self.norm)
        streams = Streams(required(generator, self.needs_generator), trial.clean)
        targets = self._targets(trial)
        runs = self.restarts * targets.shape[1]
        holds = trial.attacked.clone()
        for run in range(runs):
            target = targets[:, run % targets.shape[1]]
            for image in torch.split(holds.nonzero().squeeze(1), self.slots):
                x = ball.random(streams, image, draw=run)
                losses = _towards(trial, target)
                for broken in _climb(trial, ball, image, x, losses, self.steps, self.share):
                    holds[broken] = False
            trial.tell(run + 1, runs)

    def _targets(self, trial: Trial) -> Tensor:
        """Return the classes each image is led to in turn, (N, T)."""
        if self.target is not None:
            # Images that are not attacked have no class wanted, and are led nowhere.
            return trial.wanted.clamp_min(0)[:, None]
        others = trial.z.scatter(1, trial.labels[:, None], -torch.inf)
        return others.topk(min(self.classes, trial.classes - 1), dim=1).indices


def apgd(
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
    """Look for adversarial examples of size eps by Auto-PGD (Croce and Hein 2020); see `APGD`.

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
        >>> apgd(model, images, labels, eps=0.3, generator=rng.generator("apgd", 0)).at(0.3).robust_accuracy
    """
    attack = APGD(eps=eps, norm=norm, steps=steps, restarts=restarts, loss=loss, target=target, budget=budget)
    return attack(model, images, labels, generator=generator, progress=progress)


def apgd_t(
    model: Model | torch.nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    eps: float,
    generator: torch.Generator,
    norm: float = math.inf,
    steps: int = 100,
    classes: int = 9,
    target: str | Tensor | None = None,
    budget: int | None = None,
    progress: Progress | None = None,
) -> AttackResult:
    """Look for adversarial examples of size eps by Auto-PGD, class by class; see `TargetedAPGD` and `apgd`.

    Args:
        classes: likeliest wrong classes tried in turn.
        model, images, labels, eps, generator, norm, steps, target, budget, progress: as for `apgd`.

    Example:
        >>> apgd_t(model, images, labels, eps=0.3, generator=rng.generator("apgd-t", 0))
    """
    attack = TargetedAPGD(eps=eps, norm=norm, steps=steps, classes=classes, target=target, budget=budget)
    return attack(model, images, labels, generator=generator, progress=progress)


def checkpoints(steps: int) -> list[int]:
    """Return w_1 < w_2 < ... below `steps`: w_j = ceil(p_j steps), p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06).

    Example:
        >>> checkpoints(100)
        [22, 41, 57, 70, 80, 87, 93, 99]
    """
    found: list[int] = []
    share, gap = _FIRST, _FIRST
    while (w := math.ceil(round(share * steps, 9))) < steps:
        if not found or w > found[-1]:
            found.append(w)
        gap = max(gap - _SHORTER, _LEAST)
        share += gap
    return found


def _towards(trial: Trial, target: Tensor) -> LossOf:
    """Return the targeted loss of rows of given images, for classes (N,)."""

    def losses(image: Tensor) -> Loss:
        return targeted_dlr(trial.labels[image], target[image])

    return losses


@dataclass
class _Rows:
    """The state of the rows of one run, one entry each: k points of n pixels."""

    image: Tensor  # (k,)
    x: Tensor  # (k, n)
    before: Tensor  # (k, n) x_{k-1}
    value: Tensor  # (k,) f(x_{k-1})
    best: Tensor  # (k,) the largest f so far
    best_x: Tensor  # (k, n)
    best_gradient: Tensor  # (k, n)
    eta: Tensor  # (k,)
    gains: Tensor  # (k,) steps since the last checkpoint that gained
    best_then: Tensor  # (k,) at the last checkpoint
    halved: Tensor  # (k,) bool, eta was halved there

    def only(self, rows: Tensor) -> _Rows:
        """Return the rows of a mask (k,)."""
        return _Rows(**{name: value[rows] for name, value in vars(self).items()})


def _begun(image: Tensor, x: Tensor, eps: float) -> _Rows:
    lowest = torch.full((len(image),), -torch.inf, dtype=torch.float64, device=x.device)
    none = torch.zeros_like(image)
    zero = torch.zeros_like(x)
    eta = torch.full_like(lowest, 2 * eps)  # algorithm 1: the first step crosses the ball
    return _Rows(image, x, x, lowest, lowest, x, zero, eta, none, lowest, none.bool())


def _climb(
    trial: Trial, ball: Ball, image: Tensor, x: Tensor, losses: LossOf, steps: int, share: float
) -> Iterator[Tensor]:
    """Run algorithm 1 from points x (k, n); yield images that were broken, each once."""
    rows = _begun(image, x, ball.eps)
    checks = checkpoints(steps)
    last = 0
    for step in range(steps):
        payable = trial.affords(rows.image, 3)  # a step, and a look at where it ends
        if not bool(payable.all()):
            yield look(trial, rows.image[~payable], rows.x[~payable])
            rows = rows.only(payable)
        if not len(rows.image):
            return
        z, value, gradient = trial.gradient(rows.x, rows.image, losses(rows.image))
        broken = trial.keep(rows.x, rows.image, z)
        yield rows.image[broken]
        rows, value, gradient = rows.only(~broken), value[~broken].double(), gradient[~broken]
        _note(rows, value, gradient, first=step == 0)
        if step in checks:
            gradient = _checked(rows, gradient, share * (step - last))
            last = step
        _step(rows, gradient, ball, first=step == 0)
    yield look(trial, rows.image, rows.x)


def _note(rows: _Rows, value: Tensor, gradient: Tensor, *, first: bool) -> None:
    """Count gains and keep the best point: algorithm 1, lines 7 to 9."""
    if not first:
        rows.gains = rows.gains + (value > rows.value)
    better = value > rows.best
    rows.best = torch.where(better, value, rows.best)
    rows.best_x = torch.where(better[:, None], rows.x, rows.best_x)
    rows.best_gradient = torch.where(better[:, None], gradient, rows.best_gradient)
    rows.value = value
    if first:
        rows.best_then = rows.best


def _checked(rows: _Rows, gradient: Tensor, needed: float) -> Tensor:
    """Halve step lengths where a condition holds, go back to the best points, and return the gradients there."""
    stale = ~rows.halved & (rows.best_then >= rows.best)  # condition 2
    halve = (rows.gains < needed) | stale  # condition 1
    rows.eta = torch.where(halve, rows.eta / 2, rows.eta)
    rows.x = torch.where(halve[:, None], rows.best_x, rows.x)
    rows.value = torch.where(halve, rows.best, rows.value)
    rows.halved, rows.best_then, rows.gains = halve, rows.best, torch.zeros_like(rows.gains)
    return torch.where(halve[:, None], rows.best_gradient, gradient)


def _step(rows: _Rows, gradient: Tensor, ball: Ball, *, first: bool) -> None:
    """Move the rows by (1); the first step has no momentum."""
    z = ball.project(rows.x + rows.eta[:, None].to(rows.x.dtype) * ball.ascent(gradient), rows.image)
    if not first:
        z = ball.project(rows.x + _ALPHA * (z - rows.x) + (1 - _ALPHA) * (rows.x - rows.before), rows.image)
    rows.before, rows.x = rows.x, z

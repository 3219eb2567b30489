"""C&W: squared distance plus c times the margin, by Adam in a variable that cannot leave the box; c by bisection.

Carlini and Wagner 2017, Towards Evaluating the Robustness of Neural Networks (1608.04644), sections V and VI, with
their best loss f6. Symbols: delta the change, w the free variable, c the weight of the loss.

    minimise over w     |delta|^2 + c max(f(x + delta), -kappa),     x + delta = (tanh(w) + 1) / 2

- Here c is on the loss, so the smallest c that succeeds is sought: the opposite of Szegedy et al. 2014.
- Every image is at its own c and its own step of Adam; all are evaluated together. A solve of an image whose loss has
  not fallen by 0.01% over a tenth of its steps ends early, as in the authors' code, there for the batch as a whole.
- DEVIATION: with a budget and no `steps` the bisection goes on until the budget is spent, so that what solves ended
  early leave over is used.
- DEVIATION: 1000 steps per c without a budget, where the authors' code takes 10000; `steps` says otherwise.
- tanh has no derivative at the box's sides: a pixel there starts at (1 - 1e-6) of the way to its side and moves slowly.
- Lengths are in shares of the box's width, so that boxes other than [0, 1] are attacked alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from intriguing.attacks import descent
from intriguing.attacks.base import COUNT, POSITIVE, Attack, Progress, Range, Trial
from intriguing.attacks.result import AttackResult
from intriguing.nets.load import Model

_STEPS = 1000  # of Adam, per c
_INSIDE = 1 - 1e-6
_STUCK = 0.9999  # a loss above this share of the one a tenth of the steps ago has stopped falling
_CHECKS = 10
_GROWTH = 10.0  # of c, until a first success
_DECAYS = (0.9, 0.999)  # of Adam's two averages, and its epsilon: Kingma and Ba 2015, algorithm 1
_EPSILON = 1e-8


@dataclass(frozen=True)
class CarliniWagner(Attack):
    """Parameters of the attack; call it as ``CarliniWagner(...)(model, images, labels)``.

    Args:
        target: None (any wrong class), ``"random"``, ``"top-1"``, or (N,) int64.
        steps: of Adam per c, of one forward and one backward each; None: what the budget pays, else 1000.
        budget: the largest number of forwards plus backwards on one image, over all c, the clean pass and the final
            judgement included; never exceeded. None: no limit.
        searches: values of c.
        first: the first c, the authors'.
        rate: of Adam.
        confidence: kappa, the logit margin asked for.
        slots: images moved at once.
    """

    description: ClassVar[str] = "squared distance plus c times the margin, Adam in tanh space, c by bisection; L2"
    ranges: ClassVar[Mapping[str, Range]] = {
        "steps": COUNT, "searches": COUNT, "first": POSITIVE, "rate": POSITIVE, "confidence": Range(0),
        "slots": COUNT,
    }  # fmt: skip

    target: str | Tensor | None = None
    steps: int | None = None
    budget: int | None = None
    searches: int = 9
    first: float = 1e-3
    rate: float = 0.01
    confidence: float = 0.0
    slots: int = 1024

    def _search(self, trial: Trial, generator: torch.Generator | None) -> None:
        trial.aim(self.target, generator)
        steps = descent.planned(trial, self.steps, _STEPS, runs=self.searches)
        for image in descent.parts(trial, self.slots):
            self._descend(trial, image, max(1, steps))

    def _descend(self, trial: Trial, image: Tensor, steps: int) -> None:
        low, high = trial.model.box
        width, tick = high - low, 0
        endless = self.steps is None and self.budget is not None
        rows = _Rows.start((trial.clean[image] - low) / width, image, self.first)
        while len(rows.image):
            if not bool((live := trial.affords(rows.image)).all()):
                rows = rows.only(live)
                continue
            tanh = torch.tanh(rows.centre + rows.w)
            x = (low + width * (tanh + 1) / 2).clamp(low, high)
            z, excess, g = trial.gradient(x, rows.image, descent.margin_loss(trial, rows.image))
            rows.found |= trial.keep(x, rows.image, z)
            delta = (x - trial.clean[rows.image]) / width
            hinge = excess + self.confidence
            loss = delta.square().sum(1) + rows.c * hinge.clamp_min(0)
            slope = 2 * delta + (rows.c * (hinge > 0))[:, None] * g * width
            rows.move(slope * (1 - tanh.square()) / 2, self.rate)
            over = rows.ended(loss, steps)
            rows.restart(over)
            if not endless:
                rows = rows.only(rows.solves < self.searches)
            tick += 1
            descent.tell(trial, tick, steps * self.searches)


@dataclass
class _Rows:
    """The images still moved (k), each with its own c, its own bracket of it and its own Adam.

    Attributes:
        image: (k,).
        centre: (k, n), w of the clean image.
        w: (k, n), what is added to it.
        mean: (k, n), Adam's first average.
        square: (k, n), its second.
        step: (k,) of this solve.
        c: (k,), with the largest failure `low` and the smallest success `high`.
        low: (k,).
        high: (k,).
        found: (k,) bool, a success in this solve.
        before: (k,), the loss a tenth of the steps ago.
        solves: (k,) ended.
    """

    image: Tensor
    centre: Tensor
    w: Tensor
    mean: Tensor
    square: Tensor
    step: Tensor
    c: Tensor
    low: Tensor
    high: Tensor
    found: Tensor
    before: Tensor
    solves: Tensor

    @staticmethod
    def start(share: Tensor, image: Tensor, c: float) -> _Rows:
        """Return the rows of images at `share` (k, n) of the box's width."""
        centre = torch.atanh((2 * share - 1) * _INSIDE)
        zero, count = torch.zeros_like(share), torch.zeros_like(image)
        number = share.new_full((len(image),), c)
        return _Rows(
            image=image, centre=centre, w=zero, mean=zero.clone(), square=zero.clone(), step=count, c=number,
            low=torch.zeros_like(number), high=torch.full_like(number, torch.inf),
            found=torch.zeros_like(image, dtype=torch.bool), before=torch.full_like(number, torch.inf),
            solves=count.clone(),
        )  # fmt: skip

    def only(self, kept: Tensor) -> _Rows:
        """Return the rows chosen by a mask (k,)."""
        if bool(kept.all()):
            return self
        return _Rows(*(getattr(self, field.name)[kept] for field in fields(self)))

    def move(self, gradient: Tensor, rate: float) -> None:
        """Take one step of Adam (Kingma and Ba 2015, algorithm 1)."""
        self.step += 1
        step = self.step[:, None].to(gradient)
        self.mean.lerp_(gradient, 1 - _DECAYS[0])
        self.square.lerp_(gradient.square(), 1 - _DECAYS[1])
        mean, square = self.mean / (1 - _DECAYS[0] ** step), self.square / (1 - _DECAYS[1] ** step)
        self.w = self.w - rate * mean / (square.sqrt() + _EPSILON)

    def ended(self, loss: Tensor, steps: int) -> Tensor:
        """Return which solves are over (k,): out of steps, or the loss has stopped falling."""
        check = (self.step - 1) % max(1, steps // _CHECKS) == 0
        stuck = check & (loss > _STUCK * self.before)
        self.before = torch.where(check, loss, self.before)
        return stuck | (self.step >= steps)

    def restart(self, over: Tensor) -> None:
        """Move the brackets of solves that are over, and start them anew at the next c (section V.B)."""
        if not bool(over.any()):
            return
        self.high = torch.where(over & self.found, torch.minimum(self.high, self.c), self.high)
        self.low = torch.where(over & ~self.found, torch.maximum(self.low, self.c), self.low)
        middle = torch.where(self.high.isfinite(), (self.low + self.high) / 2, self.c * _GROWTH)
        self.c = torch.where(over, middle, self.c)
        for state in (self.w, self.mean, self.square, self.step, self.found):
            state[over] = 0
        self.before[over] = torch.inf
        self.solves[over] += 1


def carlini_wagner(
    model: Model | torch.nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    target: str | Tensor | None = None,
    steps: int | None = None,
    budget: int | None = None,
    confidence: float = 0.0,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> AttackResult:
    """Look for the nearest adversarial examples in L2 by the attack of Carlini and Wagner 2017.

    Args:
        model: a `Model`, or a plain net whose inputs lie in [0, 1].
        images: (N, ...) in the model's box; images the model gets wrong are not attacked.
        labels: (N,) int64 true classes; None: those the model gives.
        target: see `CarliniWagner`.
        steps: see `CarliniWagner`.
        budget: the largest number of forwards plus backwards on one image; None for no limit.
        confidence: the logit margin asked for.
        generator: draws random targets.
        progress: called with (steps done, all steps) now and then.

    Returns:
        An `AttackResult`. Not finding anything is a status, not an exception.

    Raises:
        InputError, DataError, ModelError: arguments that cannot be used; the message says what to do.

    Example:
        >>> carlini_wagner(model, images, labels, steps=200).distance[:2]
        tensor([1.0310, 0.8847], dtype=torch.float64)
    """
    attack = CarliniWagner(target=target, steps=steps, budget=budget, confidence=confidence)
    return attack(model, images, labels, generator=generator, progress=progress)

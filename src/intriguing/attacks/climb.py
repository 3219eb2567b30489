"""The loop shared by first-order attacks of fixed size: a step along the gradient, a projection, a look."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

from torch import Tensor

from intriguing.attacks.ball import Ball
from intriguing.attacks.base import Trial
from intriguing.attacks.losses import Loss, loss_of
from intriguing.attacks.result import Phase

LossOf = Callable[[Tensor], Loss]  # images (k,) -> the loss of their rows

SCHEDULES = {"constant": "steps of one length", "cosine": "steps that shrink to 0 as half a cosine"}


def goal(trial: Trial, loss: str) -> LossOf:
    """Return what the rows of given images climb: a loss of `LOSSES`, towards the class each is wanted in."""
    return lambda image: loss_of(loss, trial.labels[image], trial.wanted[image])


def climb(
    trial: Trial, ball: Ball, image: Tensor, x: Tensor, losses: LossOf, lengths: Iterable[float]
) -> Iterator[Tensor]:
    """Take projected gradient steps x <- P(x + length d) from points x (k, n); a broken image takes no more.

    The point each row ends at is looked at, by a forward pass; so are rows whose budget ends.

    Args:
        trial: counts the passes and keeps what is found.
        ball: projects, and turns gradients into directions d.
        image: (k,) image of each row.
        x: (k, n) where they start, in their balls.
        losses: the loss of the rows of given images, see `goal`.
        lengths: of the steps, in units of the ball's norm.

    Yields:
        Images that were broken, each once.
    """
    for length in lengths:
        payable = trial.affords(image, 3)  # a step, and a look at where it ends
        if not bool(payable.all()):
            yield look(trial, image[~payable], x[~payable])
            image, x = image[payable], x[payable]
        if not len(image):
            return
        z, _, gradient = trial.gradient(x, image, losses(image))
        broken = trial.keep(x, image, z)
        yield image[broken]
        image = image[~broken]
        x = ball.project(x[~broken] + length * ball.ascent(gradient[~broken]), image)
    yield look(trial, image, x)


def look(trial: Trial, image: Tensor, x: Tensor, phase: Phase = Phase.DESCENT) -> Tensor:
    """Evaluate points x (k, n) whose images can pay for it, keep what succeeds, and return the images broken."""
    payable = trial.affords(image, 1)
    image, x = image[payable], x[payable]
    if not len(image):
        return image
    return image[trial.keep(x, image, trial.logits(x, image), phase)]


def lengths(first: float, steps: int, schedule: str) -> list[float]:
    """Return the lengths of `steps` steps by a rule of `SCHEDULES`."""
    if schedule == "constant":
        return [first] * steps
    return [first * (1 + math.cos(math.pi * step / steps)) / 2 for step in range(steps)]

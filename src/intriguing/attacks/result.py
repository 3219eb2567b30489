"""What an attack returns: one entry per image, distances recomputed from the returned images."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor


class AttackStatus(IntEnum):
    """How the attack on an image ended. `sentence` says it in words."""

    ALREADY_WRONG = 0
    FOUND = 1
    NOT_FOUND = 2
    BUDGET_SPENT = 3
    NUMERIC_FAILURE = 4

    @property
    def sentence(self) -> str:
        """The outcome as a complete sentence."""
        return _SENTENCES[self]


_SENTENCES = {
    AttackStatus.ALREADY_WRONG: "The net misclassifies the clean image, so there was nothing to attack.",
    AttackStatus.FOUND: "An adversarial example was found and judged again.",
    AttackStatus.NOT_FOUND: "The search ended without an adversarial example.",
    AttackStatus.BUDGET_SPENT: "The budget ended before an adversarial example was found; raise it.",
    AttackStatus.NUMERIC_FAILURE: "The net returned NaN or infinite values during the search.",
}


class Phase(IntEnum):
    """Which part of the attack produced the example that is returned."""

    NONE = 0
    BRACKET = 1
    REFINE = 2
    SHARPEN = 3
    BISECT = 4


@dataclass(frozen=True)
class AttackResult:
    """One record per image; N images, K classes.

    Attributes:
        adversarial: (N, ...) the closest adversarial image found, in the shape and dtype of the images (half
            precision becomes float32); the clean image where there is none.
        target: (N,) int64, the class it is given; -1 where there is none.
        status: (N,) int64 codes of `AttackStatus`.
        distance: (N,) float64, L2 distance in pixel units; +inf where nothing was found, 0 where the clean
            image was already wrong.
        distortion: (N,) float64, distance over the root of the number of pixels.
        forwards: (N,) int64, forward passes spent on the image, over all targets.
        backwards: (N,) int64, likewise.
        phase: (N,) int64 codes of `Phase`.
        distance_search: (N,) float64, the distance before the last bisection of the segment from the clean
            image: the one to compare with the paper, which mentions no such step.
        by_target: (N, K) float64, the smallest distance found for each target (before that bisection); +inf
            where not tried or not found, 0 for already wrong images at the class the net gives them.
    """

    adversarial: Tensor
    target: Tensor
    status: Tensor
    distance: Tensor
    distortion: Tensor
    forwards: Tensor
    backwards: Tensor
    phase: Tensor
    distance_search: Tensor
    by_target: Tensor

    @property
    def found(self) -> Tensor:
        """(N,) bool: an adversarial example was found by the attack."""
        return self.status == int(AttackStatus.FOUND)

    @property
    def attacked(self) -> Tensor:
        """(N,) bool: the net was right on the clean image, so the image was attacked."""
        return self.status != int(AttackStatus.ALREADY_WRONG)

    @property
    def median(self) -> float:
        """Median distance over the images the net gets right, those without an example counted as infinite."""
        attacked = self.distance[self.attacked]
        return float(torch.quantile(attacked, 0.5, interpolation="higher")) if len(attacked) else float("nan")

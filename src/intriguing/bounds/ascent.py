"""Gradient ascent by Adam, Kingma and Ba 2015, algorithm 1, within a box; each entry on its own.

Written out here because `torch.optim` imports a compiler on first use, which takes longer than most certificates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_FIRST, _SECOND, _TINY = 0.9, 0.999, 1e-12


class Ascent:
    """Moves tensors uphill, in place.

    Args:
        values: what is moved; they require gradients.
        low: smallest entry allowed.
        high: largest.

    Example:
        >>> v = torch.zeros(1, requires_grad=True)
        >>> ascent = Ascent([v])
        >>> ascent.step((2 * v).sum(), 0.5)
        >>> round(v.item(), 6)
        0.5
    """

    def __init__(self, values: Sequence[Tensor], low: float = -math.inf, high: float = math.inf) -> None:
        self.values, self.low, self.high = list(values), low, high
        self.means = [torch.zeros_like(value) for value in self.values]
        self.squares = [torch.zeros_like(value) for value in self.values]
        self.steps = 0

    def step(self, goal: Tensor, rate: float) -> None:
        """Take one step that raises `goal`, a number made of the values.

        Args:
            goal: of no dimensions, with its graph.
            rate: the largest change of an entry, roughly.
        """
        self.steps += 1
        slopes: tuple[Tensor | None, ...] = torch.autograd.grad(goal, self.values, allow_unused=True)
        with torch.no_grad():
            for value, mean, square, slope in zip(self.values, self.means, self.squares, slopes, strict=True):
                if slope is None:
                    continue
                slope = torch.nan_to_num(slope)  # an overflow far from any proof is no direction
                mean.lerp_(slope, 1 - _FIRST)
                square.mul_(_SECOND).addcmul_(slope, slope, value=1 - _SECOND)
                size = (square / (1 - _SECOND**self.steps)).sqrt_().add_(_TINY)
                value.addcdiv_(mean, size, value=rate / (1 - _FIRST**self.steps))
                value.clamp_(self.low, self.high)

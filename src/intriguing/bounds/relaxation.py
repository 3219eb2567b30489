"""Straight lines below and above an activation on an interval.

For ANY slope s the best offset of a line below f on [l, u] is min f(x) - s x, and of a line above it the maximum;
both are taken at l, at u, or where f'(x) = s, which has a closed form for the activations here. So every slope is
sound, and slopes may be chosen, learned or guessed freely: Xu et al. 2021 (alpha-CROWN) for ReLU, Zhang et al. 2018
(CROWN) for the tangents and chords of S-shaped activations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

_FAR = 40.0  # beyond this the logistic function is 0 or 1 to the last bit of float64
_PIECES = 32  # of an interval on which a second difference is sampled
_SERIES = 1e-2  # distance from its centre below which it is taken from its series, whose next term is 1e-8
_FOURTH = 0.14  # more than the fourth derivative of the logistic function has anywhere
_TABLE = 4096  # points of the table of tangents; a coarse table costs tightness, never soundness


@dataclass(frozen=True)
class Slopes:
    """The useful slopes on intervals [l, u], all of one shape.

    Attributes:
        lower: (least, largest, default) for lines below.
        upper: likewise for lines above.
    """

    lower: tuple[Tensor, Tensor, Tensor]
    upper: tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Share:
    """Where between the least and the largest useful slope lines lie, in [0, 1]; (B, S or 1, *shape)."""

    lower: Tensor
    upper: Tensor

    def only(self) -> Share:
        """Return the lines (B, *shape) of all rows, which share them."""
        return Share(self.lower.squeeze(1), self.upper.squeeze(1))


Shares = Mapping[tuple[int, int], Share]
"""(node whose bounds are sought, activation on the way) -> its lines; where absent, the default ones."""


class Activation(ABC):
    """A non-decreasing function, entry by entry.

    Attributes:
        roundings: relative error of the function as torch computes it, in units of roundoff.
    """

    roundings: float

    @abstractmethod
    def __call__(self, z: Tensor) -> Tensor:
        """Return f(z)."""

    @abstractmethod
    def turning_points(self, slope: Tensor) -> tuple[Tensor, ...]:
        """Return every x with f'(x) = slope, or any other finite or infinite x where there is none."""

    @abstractmethod
    def slopes(self, low: Tensor, high: Tensor, *, touching: bool = False) -> Slopes:
        """Return which slopes are worth choosing from on [low, high].

        With `touching` the default is the other usual one: for S-shaped activations the tangent through the interval's
        far end wherever there is one, as in Zhang et al. 2018, and not at its middle; for a ReLU a line below that is
        parallel to the chord above, as in Weng et al. 2018 (Fast-Lin).
        """

    def below(self, slope: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Return the largest t with slope * x + t <= f(x) on [low, high]."""
        return self._extreme(slope, low, high, torch.minimum)

    def above(self, slope: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Return the smallest t with slope * x + t >= f(x) on [low, high]."""
        return self._extreme(slope, low, high, torch.maximum)

    def _extreme(self, slope: Tensor, low: Tensor, high: Tensor, better: object) -> Tensor:
        assert callable(better)
        found: Tensor = better(self(low) - slope * low, self(high) - slope * high)
        for point in self.turning_points(slope.detach()):
            # A point outside the interval becomes one of its ends, which is no harm. The point is held fixed: by
            # the envelope theorem its motion does not change the extreme value.
            x = torch.minimum(torch.maximum(point, low.detach()), high.detach())
            found = better(found, self(x) - slope * x)
        return found


class ReLU(Activation):
    """max(z, 0), computed exactly."""

    roundings = 0.0

    def __call__(self, z: Tensor) -> Tensor:
        """See `Activation`."""
        return z.clamp_min(0)

    def turning_points(self, slope: Tensor) -> tuple[Tensor, ...]:
        """See `Activation`; the kink is where every slope from 0 to 1 turns."""
        return (torch.zeros_like(slope),)

    def slopes(self, low: Tensor, high: Tensor, *, touching: bool = False) -> Slopes:
        """See `Activation`; of lines above, the chord is nowhere worse than any other."""
        on, off = low >= 0, high <= 0
        unsure = ~(on | off)
        chord = torch.where(unsure, high / torch.where(unsure, high - low, torch.ones_like(low)), on.to(low))
        least, largest = on.to(low), (~off).to(low)
        # The smaller of the two triangles: Zhang et al. 2018, section 3.2 (adaptive).
        default = torch.where(unsure, chord if touching else (high > -low).to(low), on.to(low))
        return Slopes((least, largest, default), (chord, chord, chord))


class Logistic(Activation):
    """height * sigmoid(rate * z) + offset: the sigmoid itself, or tanh = 2 sigmoid(2 z) - 1."""

    roundings = 8.0  # torch's vectorised exp and tanh stay within 2 or 3 units; a test samples them

    def __init__(self, height: float = 1.0, rate: float = 1.0, offset: float = 0.0) -> None:
        self.height, self.rate, self.offset = height, rate, offset

    def __call__(self, z: Tensor) -> Tensor:
        """See `Activation`; tanh directly, as the difference would lose digits near 0."""
        return torch.tanh(z) if self.offset else self.height * torch.sigmoid(self.rate * z)

    def derivative(self, z: Tensor) -> Tensor:
        """Return f'(z)."""
        p = torch.sigmoid(self.rate * z)
        return self.height * self.rate * p * (1 - p)

    def steepest(self, low: Tensor, high: Tensor) -> Tensor:
        """Return the largest slope on [low, high]: at its point nearest to 0."""
        return self.derivative(torch.minimum(torch.maximum(low, torch.zeros_like(low)), high))

    @torch.no_grad()
    def second_difference(self, centre: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Return bounds of 2 (f(z) - f(c) - f'(c) (z - c)) / (z - c)^2 over z in [low, high].

        It is the mean of f'' between c and z with weight 2 (1 - t), so that its own second derivative is at most a
        sixth of that of f'': between samples h apart it exceeds them by at most h^2 / 8 of that.

        Args:
            centre: c, which is taken into the interval.
            low: of the shape of c.
            high: likewise.
        """
        c, low, high = (
            self.rate * value for value in (centre, torch.minimum(low, centre), torch.maximum(high, centre))
        )
        share = torch.linspace(0, 1, _PIECES + 1, dtype=c.dtype, device=c.device)
        z = low[..., None] + (high - low)[..., None] * share
        p = torch.sigmoid(c)[..., None]
        d = z - c[..., None]
        slope = p * (1 - p)
        second, third = slope * (1 - 2 * p), slope * (1 - 6 * slope)
        series = second + d * third / 3 + d * d * second * (1 - 12 * slope) / 12
        far = d.abs() > _SERIES
        safe = torch.where(far, d, torch.ones_like(d))
        q = torch.where(far, 2 * (torch.sigmoid(z) - p - slope * d) / safe.square(), series)
        between = ((high - low) / _PIECES).square() * (_FOURTH / 48) + 1e-7
        scale = self.height * self.rate**2
        return scale * (q.amin(-1) - between), scale * (q.amax(-1) + between)

    def turning_points(self, slope: Tensor) -> tuple[Tensor, ...]:
        """See `Activation`: p (1 - p) = t gives z = +-(2 log(1 + q) - log(4 t)) with q = (1 - 4 t)^(1/2)."""
        t = (slope / (self.height * self.rate)).clamp(0, 0.25)
        q = (1 - 4 * t).clamp_min(0).sqrt()
        x = (2 * torch.log1p(q) - torch.log(4 * t)) / self.rate
        return x, -x

    @torch.no_grad()
    def slopes(self, low: Tensor, high: Tensor, *, touching: bool = False) -> Slopes:
        """See `Activation`. f - offset - height / 2 is odd, so lines below are lines above of [-high, -low]."""
        width = high - low
        middle = self.derivative((low + high) / 2)
        chord = torch.where(
            width > 1e-6, (self(high) - self(low)) / torch.where(width > 1e-6, width, torch.ones_like(width)), middle
        )
        return Slopes(self._upper(-high, -low, chord, touching), self._upper(low, high, chord, touching))

    def _upper(self, low: Tensor, high: Tensor, chord: Tensor, touching: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return slopes of lines above: tangents where f is concave, beyond the one that passes through low."""
        touch = self._tangent_from(low)
        # Nothing but the chord where that tangent would touch behind the interval, as on convex parts.
        straight = touch >= high
        least = torch.where(straight, chord, self.derivative(high))
        largest = torch.where(straight, chord, self.derivative(touch))
        # At the middle, which leaves the least area, or where the tangent through low touches if that is farther.
        middle = torch.maximum(touch, (low + high) / 2)
        default = self.derivative(torch.where(low < 0, touch, middle) if touching else middle)
        return least, largest, torch.where(straight, chord, default)

    def _tangent_from(self, low: Tensor) -> Tensor:
        """Return where on the concave side the tangent through (low, f(low)) touches; low itself if it is there."""
        starts, touches = _tangents(low.device)
        scaled = (self.rate * low).clamp(-_FAR, 0).contiguous()
        place = torch.searchsorted(starts, scaled, right=True).clamp(1, len(starts) - 1)
        share = (scaled - starts[place - 1]) / (starts[place] - starts[place - 1])
        touch = touches[place - 1] + share * (touches[place] - touches[place - 1])
        # Farther off the point is at height 0, and 1 = (1 - p) (d - l), that is d = log(d - l - 1).
        l = (self.rate * low).clamp_max(-_FAR)  # noqa: E741 (as in the paper)
        beyond = torch.log(-l)
        for _ in range(4):
            beyond = torch.log(beyond - l - 1)
        touch = torch.where(self.rate * low < -_FAR, beyond, touch)
        return torch.where(low >= 0, low, touch / self.rate)


def lines(
    activation: Activation, low: Tensor, high: Tensor, share: Share | None, touching: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return slopes of lines below and above an activation on [low, high], and their offsets, all of one shape."""
    found = activation.slopes(low, high, touching=touching)
    if share is None:
        lower, upper = found.lower[2], found.upper[2]
    else:
        lower = found.lower[0] + share.lower * (found.lower[1] - found.lower[0])
        upper = found.upper[0] + share.upper * (found.upper[1] - found.upper[0])
    return lower, upper, activation.below(lower, low, high), activation.above(upper, low, high)


@cache
def _tangents(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return starts l from -40 to 0 and the d >= 0 at which the tangent of the sigmoid through l touches it."""
    l = -_FAR * torch.linspace(1, 0, _TABLE, dtype=torch.float64, device=device) ** 2  # noqa: E741 (as in the paper)
    near, far = torch.zeros_like(l), torch.full_like(l, _FAR)
    for _ in range(60):
        d = (near + far) / 2
        p = torch.sigmoid(d)
        # The tangent at d is above the point (l, f(l)) from the wanted d on.
        passed = p + p * (1 - p) * (l - d) >= torch.sigmoid(l)
        near, far = torch.where(passed, near, d), torch.where(passed, d, far)
    return l, far

"""CROWN for fully connected nets, in NumPy alone: a second opinion on the library's certified radii.

Written from the paper, without the library's code: H. Zhang, T.-W. Weng, P.-Y. Chen, C.-J. Hsieh, L. Daniel, "Efficient
Neural Network Robustness Certification with General Activation Functions", NeurIPS 2018, arXiv 1811.00866. Everything
is float64; the rounding of these sums, about 1e-15 of their terms, is not accounted for.

Letters: h_0 = x the input, z_k = W_k h_(k-1) + b_k, h_k = f(z_k), l <= z <= u a layer's bounds, and z_K the logits.
A bound is carried back as a function A h + c of the layer reached, and is at last minimised over the region of inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Bounds = tuple[Array, Array]  # l and u of one layer, each (units,)

SHORT = 1e-7  # intervals on which a chord's slope would be a quotient of rounding errors
TINY, HUGE = 1e-12, 1e12  # radii beyond which the search says 0 or inf


@dataclass(frozen=True)
class Net:
    """A fully connected net: `weights[k]` (units, inputs), `biases[k]` (units,), one activation after all but the last.

    `activation` is a key of `ACTIVATIONS`. With `middle`, the tangents of S-shaped units that cross 0 are moved to the
    middle of [l, u] where they may be: as sound as the paper's choice, and mostly tighter.
    """

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    activation: str
    middle: bool = False

    def logits(self, x: Array) -> Array:
        """Return the logits (B, classes) of inputs (B, n)."""
        h = x
        for k, (W, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = h @ W.T + b
            if k < len(self.weights) - 1:
                h = ACTIVATIONS[self.activation](h)
        return h

    def lines(self, l: Array, u: Array) -> Lines:  # noqa: E741 -- the paper's letter
        """Return the relaxation of the activation on [l, u]."""
        return _relu_lines(l, u) if self.activation == "relu" else _s_shaped_lines(self.activation, l, u, self.middle)

    def differences(self, y: int) -> tuple[Array, Array]:
        """Return the last layer that gives z_y - z_j for all j but y, as a matrix (classes - 1, units) and a vector."""
        W, b = self.weights[-1], self.biases[-1]
        return np.delete(W[y] - W, y, axis=0), np.delete(b[y] - b, y)


# ------------------------------------------------------------------------------------------------ region of inputs


@dataclass(frozen=True)
class Region:
    """The ball of `radius` around `centre` (n,) in the norm 2 or inf, cut with the pixels' box [0, 1] if `box`."""

    centre: Array
    radius: float
    norm: float
    box: bool

    def interval(self) -> Bounds:
        """Return the smallest and largest value of each pixel."""
        low, high = self.centre - self.radius, self.centre + self.radius
        return (np.maximum(low, 0.0), np.minimum(high, 1.0)) if self.box else (low, high)

    def minimum(self, A: Array) -> Array:
        """Return the minimum of each row's A x' over the region, (rows,)."""
        if self.norm == math.inf:
            low, high = self.interval()
            return np.asarray(np.maximum(A, 0.0) @ low + np.minimum(A, 0.0) @ high)
        if not self.box:
            return np.asarray(A @ self.centre - self.radius * np.linalg.norm(A, axis=1))
        return np.asarray(
            A @ self.centre - _gain(np.abs(A), np.where(A > 0, self.centre, 1 - self.centre), self.radius)
        )


def _gain(a: Array, r: Array, radius: float) -> Array:
    """Return the maximum of sum a_i s_i over 0 <= s_i <= r_i, |s| <= radius, for each row of a >= 0 and r, (rows, n).

    The maximiser is s = min(t a, r) with the t at which |s| is the radius. From t = radius / |a| on, the entries at
    their r are taken as fixed and t is set to what the others allow: it can only grow, and ends after at most n rounds.
    The value returned is the dual's at mu = 1 / t, an upper bound whatever t is.
    """
    full = np.zeros_like(a, dtype=bool)
    t = np.zeros(len(a))
    while True:
        spent, slope = np.where(full, r * r, 0.0).sum(1), np.where(full, 0.0, a * a).sum(1)
        left = slope > 0
        t = np.where(left, np.sqrt(np.maximum(radius**2 - spent, 0.0) / np.where(left, slope, 1.0)), t)
        more = full | (t[:, None] * a >= r)
        if (more == full).all():
            break
        full = more
    s = np.where(full, r, t[:, None] * a)
    # Lagrange: sum a s + mu / 2 (radius^2 - |s|^2); mu = 0 where all of the box is within reach.
    slack = np.where(left & (t > 0), (radius**2 - (s * s).sum(1)) / np.where(t > 0, 2 * t, 1.0), 0.0)
    return np.asarray((a * s).sum(1) + slack)


# ------------------------------------------------------------------------------------------------ activations


class Lines(NamedTuple):
    """Straight lines below and above an activation on [l, u], one of each for every unit."""

    lower_slope: Array
    lower_offset: Array
    upper_slope: Array
    upper_offset: Array


def relu(z: Array) -> Array:
    """Return max(z, 0)."""
    return np.maximum(z, 0.0)


def sigmoid(z: Array) -> Array:
    """Return 1 / (1 + exp(-z))."""
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * z))


def tanh(z: Array) -> Array:
    """Return tanh(z)."""
    return np.asarray(np.tanh(z))


def _relu_lines(l: Array, u: Array) -> Lines:  # noqa: E741 -- the paper's letter
    """Relax max(z, 0): Table 1 of the paper, with the adaptive slope (CROWN-Ada) below."""
    on, off = l >= 0, u <= 0
    mixed = ~on & ~off
    chord = u / np.where(mixed, u - l, 1.0)
    upper = np.where(on, 1.0, np.where(off, 0.0, chord))
    lower = np.where(on | (mixed & (u > -l)), 1.0, 0.0)
    return Lines(lower, np.zeros_like(l), upper, np.where(mixed, -upper * l, 0.0))


def _line_above(name: str, l: Array, u: Array, middle: bool) -> Bounds:  # noqa: E741
    """Return slope and offset of a line above an S-shaped f, convex below 0 and concave above, on [l, u].

    The chord where f is convex, or where its slope at u is at least the chord's; the tangent at the middle where f is
    concave; else the tangent through (l, f(l)), which touches at some d in (0, u). Those farther right are sound too.
    """
    f, slope_of = ACTIVATIONS[name], SLOPES[name]
    long = u - l > SHORT
    chord = np.where(long, (f(u) - f(l)) / np.where(long, u - l, 1.0), slope_of((l + u) / 2))
    straight = (u <= 0) | ((l < 0) & (chord <= slope_of(u)))
    low, high = np.zeros_like(u), np.maximum(u, 0.0)
    for _ in range(35):
        d = (low + high) / 2
        # The tangent at d passes above (l, f(l)): d is not too small. `high` keeps this true, so the line is sound.
        above = f(d) - f(l) >= slope_of(d) * (d - l)
        low, high = np.where(above, low, d), np.where(above, d, high)
    centre = (l + u) / 2
    d = np.where(l >= 0, centre, np.maximum(high, centre) if middle else high)
    slope = np.where(straight, chord, slope_of(d))
    return slope, np.where(straight, f(l) - slope * l, f(d) - slope * d)


def _s_shaped_lines(name: str, l: Array, u: Array, middle: bool) -> Lines:  # noqa: E741
    """Relax an S-shaped f with f(z) + f(-z) = 2 f(0): Table 2 of the paper."""
    upper_slope, upper_offset = _line_above(name, l, u, middle)
    # f(z) = 2 f(0) - f(-z), so a line above f on [-u, -l] is one below it on [l, u].
    lower_slope, mirrored = _line_above(name, -u, -l, middle)
    return Lines(lower_slope, 2 * ACTIVATIONS[name](np.zeros(1)) - mirrored, upper_slope, upper_offset)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"relu": relu, "sigmoid": sigmoid, "tanh": tanh}
SLOPES: dict[str, Callable[[Array], Array]] = {
    "sigmoid": lambda z: sigmoid(z) * sigmoid(-z),
    "tanh": lambda z: np.asarray(1.0 - np.tanh(z) ** 2),
}


# ------------------------------------------------------------------------------------------------ the bounds


def lower_bounds(net: Net, region: Region, lines: list[Lines], A: Array, c: Array) -> Array:
    """Return lower bounds of the rows of A h_k + c, k = len(lines), over the region: Theorem 3.2 of the paper."""
    for k in reversed(range(len(lines))):
        positive, negative = np.maximum(A, 0.0), np.minimum(A, 0.0)
        c = c + positive @ lines[k].lower_offset + negative @ lines[k].upper_offset
        A = positive * lines[k].lower_slope + negative * lines[k].upper_slope
        c, A = c + A @ net.biases[k], A @ net.weights[k]
    return np.asarray(region.minimum(A) + c)


def layer_bounds(net: Net, region: Region) -> list[Bounds]:
    """Return l and u of z_1 to z_(K-1), each bounded back to the input."""
    bounds: list[Bounds] = []
    lines: list[Lines] = []
    for W, b in zip(net.weights[:-1], net.biases[:-1], strict=True):
        both = lower_bounds(net, region, lines, np.concatenate((W, -W)), np.concatenate((b, -b)))
        l, u = both[: len(b)], -both[len(b) :]  # noqa: E741
        u = np.maximum(l, u)  # of one value, by rounding, they may have crossed
        bounds.append((l, u))
        lines.append(net.lines(l, u))
    return bounds


def margins(net: Net, region: Region, y: int, bounds: list[Bounds] | None = None) -> Array:
    """Return lower bounds of z_y - z_j over the region for all j but y, (classes - 1,).

    `bounds` of the layers are by default those of `layer_bounds`.
    """
    bounds = layer_bounds(net, region) if bounds is None else bounds
    lines = [net.lines(l, u) for l, u in bounds]  # noqa: E741
    return lower_bounds(net, region, lines, *net.differences(y))


# ------------------------------------------------------------------------------------------------ the radius


def largest(certified: Callable[[float], bool], ceiling: float, tolerance: float) -> float:
    """Return a certified radius, by bisection, beside one that is not and that exceeds it by `tolerance` of itself.

    A radius of `ceiling` holds all there is, so that inf is returned if that is certified. CROWN's bounds need not be
    monotone in the radius; what is returned was certified in any case.
    """
    low, high = 0.0, min(0.01, ceiling)
    while certified(high):
        if high >= min(ceiling, HUGE):
            return math.inf
        low, high = high, min(2 * high, ceiling)
    while high - low > tolerance * high:
        if high < TINY:
            return 0.0
        middle = (low + high) / 2 if low else high / 8
        low, high = (middle, high) if certified(middle) else (low, middle)
    return low


def ceiling_of(x: Array, norm: float, box: bool) -> float:
    """Return the distance of the box's farthest corner from x; inf without a box."""
    return float(np.linalg.norm(np.maximum(x, 1 - x), norm)) if box else math.inf


def radius(net: Net, x: Array, y: int, norm: float, *, box: bool = True, tolerance: float = 1e-3) -> float:
    """Return the largest radius around x (n,) within which CROWN proves the label y, and 0 where x itself is not y.

    Example:
        >>> net = Net((np.eye(2),), (np.zeros(2),), "relu")
        >>> round(radius(net, np.array([0.75, 0.25]), 0, 2.0), 2)  # 0.5 / |(1, -1)|
        0.35
    """
    return largest(
        lambda eps: bool(margins(net, Region(x, eps, norm, box), y).min() > 0), ceiling_of(x, norm, box), tolerance
    )

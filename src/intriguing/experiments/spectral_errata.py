"""Errata E7 to E11: what section 4.3 of Szegedy et al. 2014 prints of operator norms, set against explicit matrices.

Symbols: N the side of a circular image grid, Delta the stride, w_{d,c}[u] a kernel from input c to output d, xi a
frequency. As printed, with N the support of the kernel,

    ||W|| = sup over xi in [0, N / Delta)^2 of ||A(xi)||
    A(xi)[d, (c, l)] = Delta^-2 w^_{c,d}(xi + l N / Delta),   l in {0 .. Delta - 1}^2                  (1)
    w^_{c,d}(xi) = sum_u w_{d,c}[u] exp(-2 pi i <u, xi> / N^2)

Every number here is computed twice: by a formula, and from a matrix or an input that can be written down.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

from intriguing.bounds.network import layer_bounds
from intriguing.bounds.nonlinear import contrast_bound
from intriguing.experiments.cells import exact
from intriguing.records import Inputs, Record
from intriguing.rng import generator

PRINTED = "as printed"
CORRECTED = "as corrected"
EXPLICIT = "explicit matrix"
PADDED = "explicit matrix, zero padding"
EVERY_FREQUENCY = "all real frequencies"
BOUND_PRINTED = "bound as printed"
BOUND_CORRECTED = "bound as corrected"
REACHED = "gain reached"

_ROUNDING = 1e-12  # of a singular value in float64, relative


def stride_row(stride: int) -> str:
    """Return the name of a stride's row."""
    return f"stride {stride}"


def grid_row(side: int) -> str:
    """Return the name of a grid's row."""
    return f"grid of {side} x {side}"


def pooling_row(window: int, stride: int) -> str:
    """Return the name of a pooling's row."""
    return f"{window} x {window} windows, stride {stride}"


def gamma_row(gamma: float) -> str:
    """Return the name of an exponent's row."""
    return f"gamma {gamma:g}"


CHANNELS = "across channels, as in AlexNet"


def erratum_7(inputs: Inputs, *, seed: int, side: int = 8, strides: tuple[int, ...] = (1, 2, 4)) -> Record:
    """E7: the factor before the transformed kernel is 1 / Delta, not 1 / Delta^2.

    Args:
        inputs: nothing is read.
        seed: draws the kernels, 3 x 3 from 2 to 3 channels.
        side: of the circular grid, a multiple of every stride.
        strides: Delta.
    """
    kernel = _kernel(seed)
    cells = []
    for stride in strides:
        truth = _norm(_circular_matrix(kernel, side, stride))
        values = {
            PRINTED: _transform(kernel, side, stride, factor=stride**-2.0),
            CORRECTED: _transform(kernel, side, stride, factor=1 / stride),
        }
        cells += _against(stride_row(stride), values, truth, erratum_7)
    worst = max(strides)
    short = _ratio(cells, stride_row(worst))
    return Record(
        values={
            "cells": cells,
            "findings": [
                f"At stride {worst} the printed factor gives {short:.2f} of the norm of the explicit matrix; with the "
                f"factor 1 / {worst} the two agree to {_digits(cells)}."
            ],
            "tables": [_form("E7", "the factor", "1 / stride^2", "1 / stride", "same norm at stride 1 alone")],
        }
    )


def erratum_8(inputs: Inputs, *, seed: int, side: int = 8, strides: tuple[int, ...] = (1, 2, 4)) -> Record:
    """E8: the exponent is -2 pi i <u, xi> / N, not over N^2. See `erratum_7`; the factor is the corrected one."""
    kernel = _kernel(seed)
    cells = []
    for stride in strides:
        truth = _norm(_circular_matrix(kernel, side, stride))
        values = {
            PRINTED: _transform(kernel, side, stride, factor=1 / stride, period=side * side),
            CORRECTED: _transform(kernel, side, stride, factor=1 / stride),
        }
        cells += _against(stride_row(stride), values, truth, erratum_8)
    off = [_ratio(cells, stride_row(stride)) for stride in strides]
    return Record(
        values={
            "cells": cells,
            "findings": [
                f"With N^2 in the exponent only frequencies below 1 / {side} of a full turn are looked at, and the "
                f"norm comes out as {min(off):.2f} to {max(off):.2f} of the explicit matrix's; with N it agrees to "
                f"{_digits(cells)}."
            ],
            "tables": [_form("E8", "the exponent", "<u, xi> / N^2", "<u, xi> / N", "a discrete Fourier transform")],
        }
    )


def erratum_9(inputs: Inputs, *, seed: int, sides: tuple[int, ...] = (8, 9, 16)) -> Record:
    """E9: N is the side of the image grid, not the support of the kernel; and zero padding lowers the norm.

    Args:
        inputs: nothing is read.
        seed: draws the kernels, 3 x 3 from 2 to 3 channels.
        sides: N, odd and even; stride 1.
    """
    kernel = _kernel(seed)
    support = kernel.shape[-1]
    everywhere = _transform(kernel, 256, 1, factor=1.0)
    cells = []
    for side in sides:
        row = grid_row(side)
        truth = _norm(_circular_matrix(kernel, side, 1))
        values = {
            PRINTED: _transform(kernel, support, 1, factor=1.0),
            CORRECTED: _transform(kernel, side, 1, factor=1.0),
        }
        cells += _against(row, values, truth, erratum_9)
        # Zero padding by 1 keeps the side; a circle of side + 1 then holds the layer, see bounds.operators.
        circle = {"label": f"circle of {side + 1} x {side + 1}", "measured": _transform(kernel, side + 1, 1, factor=1)}
        padded = _norm(_padded_matrix(kernel, side))
        cells.append(exact(row, PADDED, padded, erratum_9, residual=padded * _ROUNDING, control=circle))
        limit = {"label": EXPLICIT, "measured": truth}
        cells.append(exact(row, EVERY_FREQUENCY, everywhere, erratum_9, residual=everywhere * 1e-3, control=limit))
    off = [_ratio(cells, grid_row(side)) for side in sides]
    return Record(
        values={
            "cells": cells,
            "findings": [
                f"Taking N as the kernel's support of {support} gives {min(off):.2f} to {max(off):.2f} of the norm of "
                "the explicit matrix: too small to be a bound. With the side of the grid it agrees to "
                f"{_digits(cells)}, and the zero-padded layer stays below it."
            ],
            "tables": [
                _form("E9", "N", "the kernel's support", "the side of the image grid", "state the grid with a bound")
            ],
            "notes": [
                "Over all real frequencies N drops out of the corrected formula, and the supremum bounds the layer on "
                "every grid. Frequencies here are multiples of 1 / 256, which leaves it known to a thousandth."
            ],
        }
    )


def erratum_10(
    inputs: Inputs, *, poolings: tuple[tuple[int, int], ...] = ((2, 2), (3, 2), (3, 1)), side: int = 13
) -> Record:
    """E10: max-pooling stretches differences where its windows overlap.

    Args:
        inputs: nothing is read.
        poolings: (window, stride) each.
        side: of the image; one pixel of it is raised from 0 to 1.
    """
    cells = []
    for window, stride in poolings:
        row = pooling_row(window, stride)
        pool = nn.MaxPool2d(window, stride)
        (bound,) = layer_bounds(pool, (1, side, side))
        reached = max(_raised(pool, side, *place) for place in itertools.product(range(side), range(side)))
        control = {"label": REACHED, "measured": reached}
        cells.append(exact(row, BOUND_PRINTED, 1.0, erratum_10, control=control))
        cells.append(exact(row, BOUND_CORRECTED, bound.bound, erratum_10, control=control, note=bound.note))
        cells.append(exact(row, REACHED, reached, erratum_10, note="one pixel of a black image raised from 0 to 1"))
    most = max(entry["measured"] for entry in cells if entry["column"] == REACHED)
    overlapping = [entry for entry in cells if entry["column"] == REACHED and entry["measured"] > 1]
    return Record(
        values={
            "cells": cells,
            "findings": [
                f"One raised pixel changes the output of {len(overlapping)} of these {len(poolings)} poolings by more "
                f"than itself, up to {most:g} times: overlapping windows all choose it."
            ],
            "tables": [
                _form(
                    "E10",
                    "bound of max-pooling",
                    "1",
                    "the root of the most windows that cover one pixel",
                    "2 for AlexNet's 3 x 3 windows with stride 2",
                )
            ],
        }
    )


def erratum_11(
    inputs: Inputs,
    *,
    seed: int,
    gammas: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0, 1.5),
    eps: float = 0.3,
    steps: int = 150,
) -> Record:
    """E11: contrast normalisation has the printed bound, for more exponents than printed; AlexNet's is another.

    Args:
        inputs: nothing is read.
        seed: draws the inputs at which Jacobians are computed.
        gammas: exponents; the paper has [0.5, 1].
        eps: of the normalisation.
        steps: of the ascent on AlexNet's normalisation.
    """
    draw = generator("erratum-E11", seed)
    directions = torch.randn(8, 5, generator=draw, dtype=torch.float64)
    radii = torch.logspace(-2, 2, 25, dtype=torch.float64) * math.sqrt(eps)
    points = [torch.zeros(5, dtype=torch.float64)] + [
        radius * direction / direction.norm() for direction in directions for radius in radii
    ]
    cells = []
    for gamma in gammas:
        row = gamma_row(gamma)

        def normalised(x: Tensor, gamma: float = gamma) -> Tensor:
            return x / (eps + x.square().sum()) ** gamma

        proven = contrast_bound(eps, gamma)
        reached = max(_norm(jacrev(normalised)(x)) for x in points)
        control = {"label": f"largest of {len(points)} Jacobians", "measured": reached}
        cells.append(exact(row, BOUND_PRINTED, eps**-gamma, erratum_11, control=control))
        cells.append(exact(row, BOUND_CORRECTED, proven, erratum_11, control=control))
        cells.append(exact(row, REACHED, reached, erratum_11, note="the largest is at x = 0"))
    # Krizhevsky et al. 2012, section 3.3: five neighbouring channels, k = 2, beta = 0.75. The scale of the inputs,
    # alpha, does not matter to the supremum.
    layer = nn.LocalResponseNorm(5, alpha=5.0, beta=0.75, k=2.0)
    (bound,) = layer_bounds(layer, (16, 1, 1))
    reached = _ascended(layer, 16, steps, draw)
    control = {"label": "largest Jacobian found by ascent", "measured": reached}
    printed = layer.k**-layer.beta
    cells.append(exact(CHANNELS, BOUND_PRINTED, printed, erratum_11, control=control, note="k in the place of eps"))
    cells.append(exact(CHANNELS, BOUND_CORRECTED, bound.bound, erratum_11, control=control, note="proven"))
    cells.append(exact(CHANNELS, REACHED, reached, erratum_11))
    return Record(
        values={
            "cells": cells,
            "findings": [
                f"The printed bound eps^-gamma is reached at x = 0 for all {len(gammas)} exponents, inside and outside "
                "the printed range of 0.5 to 1.",
                f"AlexNet normalises each channel by its neighbours, which is not that form: its bound is proven as "
                f"{bound.bound:.3f}, and the largest gain found is {reached:.3f}.",
            ],
            "tables": [
                _form(
                    "E11",
                    "bound of x / (eps + |x|^2)^gamma",
                    "eps^-gamma, gamma in [0.5, 1]",
                    "eps^-gamma, every gamma >= 0",
                    "does not cover normalisation across channels, whose windows differ",
                )
            ],
        }
    )


def _kernel(seed: int) -> Tensor:
    """Return 3 x 3 kernels from 2 to 3 channels, (3, 2, 3, 3), standard normal, float64."""
    return torch.randn(3, 2, 3, 3, generator=generator("spectral errata/kernel", seed), dtype=torch.float64)


def _transform(kernel: Tensor, side: int, stride: int, *, factor: float, period: int | None = None) -> float:
    """Return the largest ||A(xi)|| of (1) over whole frequencies, with its factor and its exponent's denominator."""
    places = torch.cartesian_prod(*[torch.arange(n, dtype=torch.float64) for n in kernel.shape[2:]])
    coarse = side // stride
    xi = torch.cartesian_prod(*2 * [torch.arange(coarse, dtype=torch.float64)])
    alias = torch.cartesian_prod(*2 * [torch.arange(stride, dtype=torch.float64)]) * side / stride
    frequencies = xi[:, None] + alias  # (F, Delta^2, 2)
    angle = -2 * math.pi * (frequencies @ places.T) / (period or side)
    wave = torch.polar(torch.ones_like(angle), angle)
    hat = torch.einsum("flu,dcu->fdcl", wave, kernel.flatten(2).to(wave.dtype))
    return float(factor * torch.linalg.matrix_norm(hat.flatten(2), 2).max())


def _circular_matrix(kernel: Tensor, side: int, stride: int) -> Tensor:
    """Return the circular convolution as the matrix it is, entry by entry."""
    D, C, h, w = kernel.shape
    outputs = side // stride
    matrix = torch.zeros(D, outputs, outputs, C, side, side, dtype=kernel.dtype)
    for i, j, u, v in itertools.product(range(outputs), range(outputs), range(h), range(w)):
        matrix[:, i, j, :, (i * stride + u) % side, (j * stride + v) % side] += kernel[:, :, u, v]
    return matrix.reshape(D * outputs**2, C * side**2)


def _padded_matrix(kernel: Tensor, side: int) -> Tensor:
    """Return the convolution with stride 1 and one pixel of zeros around the image as a matrix."""
    D, C, h, w = kernel.shape
    matrix = torch.zeros(D, side, side, C, side, side, dtype=kernel.dtype)
    for i, j, u, v in itertools.product(range(side), range(side), range(h), range(w)):
        row, column = i + u - 1, j + v - 1
        if 0 <= row < side and 0 <= column < side:
            matrix[:, i, j, :, row, column] += kernel[:, :, u, v]
    return matrix.reshape(D * side**2, C * side**2)


def _norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, 2))


def _raised(pool: nn.Module, side: int, row: int, column: int) -> float:
    """Return how much raising one pixel of a black image by 1 changes the output."""
    image = torch.zeros(1, 1, side, side)
    image[0, 0, row, column] = 1
    return float(torch.linalg.vector_norm(pool(image) - pool(torch.zeros_like(image))))


def _ascended(layer: nn.LocalResponseNorm, channels: int, steps: int, draw: torch.Generator) -> float:
    """Return the largest norm of the layer's Jacobian met at 0 and while ascending from random inputs."""

    def output(x: Tensor) -> Tensor:
        out: Tensor = layer(x[None, :, None, None])[0, :, 0, 0]
        return out

    best = _norm(jacrev(output)(torch.zeros(channels, dtype=torch.float64)))
    a = (2 * torch.randn(64, channels, generator=draw, dtype=torch.float64)).requires_grad_()
    optimiser = torch.optim.Adam([a], lr=0.05)
    for _ in range(steps):
        optimiser.zero_grad()
        gains = torch.linalg.matrix_norm(vmap(jacrev(output))(a), 2)
        best = max(best, float(gains.detach().max()))
        (-gains.sum()).backward()
        optimiser.step()
    return best


def _against(row: str, values: dict[str, float], truth: float, function: Any) -> list[dict[str, Any]]:
    """Return the cells of two formulas and of the matrix both speak of."""
    control = {"label": EXPLICIT, "measured": truth}
    cells = [
        exact(row, column, value, function, residual=value * _ROUNDING, control=control)
        for column, value in values.items()
    ]
    return [*cells, exact(row, EXPLICIT, truth, function, residual=truth * _ROUNDING)]


def _ratio(cells: list[dict[str, Any]], row: str) -> float:
    """Return the printed formula's value over the explicit matrix's."""
    place = {entry["column"]: entry["measured"] for entry in cells if entry["row"] == row}
    return float(place[PRINTED] / place[EXPLICIT])


def _digits(cells: list[dict[str, Any]]) -> str:
    """Say how far the corrected formula is from the explicit matrix, at most."""
    off = max(
        abs(entry["measured"] / entry["control"]["measured"] - 1) for entry in cells if entry["column"] == CORRECTED
    )
    return f"{max(off, 1e-15):.0e}"


def _form(name: str, what: str, printed: str, corrected: str, remark: str) -> dict[str, Any]:
    return {
        "id": f"{name}-form",
        "title": "What is printed, and what holds",
        "caption": "The printed statement beside the one that agrees with the explicit computation.",
        "columns": ["statement", "printed", "corrected", "remark"],
        "rows": [[what, printed, corrected, remark]],
    }

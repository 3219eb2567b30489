"""Operator norms of linear layers: dense by singular values, convolutions by the Fourier transform.

Szegedy et al. 2014, section 4.3. Symbols: N the sides of a circular image grid, Delta the stride, xi a frequency,
C inputs, D outputs, u a place in the kernel. By Parseval the norm of a circular convolution is

    ||W|| = max over xi in {0 .. N / Delta - 1}^2 of ||A(xi)||                                         (1)
    A(xi)[d, (c, l)] = Delta^-1 w^_{c,d}(xi + l N / Delta),   l in {0 .. Delta - 1}^2                  (2)
    w^_{c,d}(xi) = sum_u w_{d,c}[u] exp(-2 pi i <u, xi> / N)

- The paper prints the factor Delta^-2 (E7), the exponent over N^2 (E8) and calls N the support of the kernel (E9).
- The columns of (2) are aliases l. The phases p of a pixel's place modulo Delta serve as well:
      B(xi)[d, (c, p)] = sum over u = p mod Delta of w_{d,c}[u] exp(-2 pi i <(u - p) / Delta, xi> Delta / N)
  A(xi) = B(xi) F(xi) with F a discrete Fourier transform over the Delta^2 phases, unitary because of the factor
  1 / Delta in (2). So the singular values are the same, and B needs no more frequencies than the image after the
  stride has. This is what is computed here.
- Weights are real, so that A(-xi) is the conjugate of A(xi): half of the frequencies will do.
- Groups make A(xi) block diagonal; the norm is that of the worst block.
- A layer pads with zeros. On a circle with sides of at least image plus padding nothing wraps around onto the image,
  so the layer is the circular one with some inputs set to zero and some outputs left out: its norm is at most (1).
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from intriguing.errors import InputError, ModelError

Pair = tuple[int, int]
_ENTRIES = 2**22  # complex numbers held at once in matrices A: 64 MiB, and a few times that while they are used
_ROUNDING = 1e-11  # of a squared norm in float64, relative, for up to ten thousand rows and columns


@dataclass(frozen=True)
class Norm:
    """An operator norm: at most `value`, at least ``value - residual``."""

    value: float
    residual: float


@dataclass(frozen=True)
class LayerBound:
    """How much one layer can stretch a difference of its inputs, in the Euclidean norm.

    Attributes:
        name: path of the layer in the net.
        kind: what it is, for a reader.
        bound: an upper bound; ||phi(x) - phi(x + r)|| <= bound ||r|| for all x and r.
        residual: the number bounded by theory (a circular norm, say) is at least ``bound - residual``.
        grid: sides of the circle on which a convolution was bounded; None for other layers.
        note: a sentence on what the bound rests on, if there is something to say.
    """

    name: str
    kind: str
    bound: float
    residual: float = 0.0
    grid: Pair | None = None
    note: str = ""


def dense_norm(weight: Tensor) -> Norm:
    """Return the largest singular value of a matrix.

    Args:
        weight: (D, C), any floating dtype, on any device.

    Raises:
        ModelError: weights that are not finite, or have no values at all (meta device).

    Example:
        >>> round(dense_norm(torch.tensor([[3.0, 0.0], [0.0, 4.0]])).value, 6)
        4.0
    """
    W = _checked(weight)
    return _largest([(W @ W.T if W.shape[0] <= W.shape[1] else W.T @ W)[None]])


def circular_norm(
    weight: Tensor, grid: Pair, *, stride: Pair = (1, 1), dilation: Pair = (1, 1), groups: int = 1
) -> Norm:
    """Return the norm of a circular convolution, (1).

    Args:
        weight: (D, C / groups, h, w), as `torch.nn.Conv2d` keeps it.
        grid: sides N of the circle, multiples of the stride. A kernel that is wider wraps around.
        stride: Delta.
        dilation: distance of neighbouring kernel places.
        groups: blocks of channels that do not see each other.

    Raises:
        InputError: a grid that is no multiple of the stride.
        ModelError: weights that cannot be used, see `dense_norm`.

    Example:
        >>> round(circular_norm(torch.ones(1, 1, 3, 3), (8, 8)).value, 6)
        9.0
    """
    if any(side < 1 or side % step for side, step in zip(grid, stride, strict=True)):
        raise InputError(f"grid: expected multiples of the stride {stride}, got {grid}; round the sides up")
    W = _checked(weight)
    return _largest(_grams(W, grid, stride, dilation, groups))


def safe_grid(shape: Pair, kernel: Pair, *, stride: Pair, padding: tuple[Pair, Pair], dilation: Pair) -> Pair:
    """Return the smallest circle on which a circular convolution contains the zero-padded one.

    Per axis: N >= H + the larger padding, so that no window reaches around to the other side of the image; N / Delta
    >= the number of outputs, so that no two of them fall together; and Delta divides N.

    Args:
        shape: (H, W) of the image.
        kernel: (h, w) of the kernel.
        stride: per axis.
        padding: per axis, (before, after).
        dilation: per axis.

    Example:
        >>> safe_grid((224, 224), (11, 11), stride=(4, 4), padding=((2, 2), (2, 2)), dilation=(1, 1))
        (228, 228)
    """
    sides = []
    for side, taps, step, (before, after), apart in zip(shape, kernel, stride, padding, dilation, strict=True):
        outputs = (side + before + after - apart * (taps - 1) - 1) // step + 1
        if outputs < 1:
            raise InputError(f"shape: images of {shape} are smaller than the kernel {kernel}; give larger images")
        sides.append(step * max(-(-(side + max(before, after)) // step), outputs))
    return sides[0], sides[1]


def _checked(weight: Tensor) -> Tensor:
    """Return the weights in float64 on the CPU."""
    if weight.is_meta:
        raise ModelError("the layer's weights are on the meta device and have no values; load or draw them first")
    W = weight.detach().to(device="cpu", dtype=torch.float64)
    if not bool(W.isfinite().all()):
        raise ModelError("the layer's weights are not finite; no bound holds for them. Check how they were trained")
    return W


def _largest(grams: Iterable[Tensor]) -> Norm:
    """Return the largest singular value among matrices A, given batches (F, n, n) of A A* or A* A.

    Eigenvalues of all of them: measured on AlexNet's layers, ruling matrices out by Lanczos steps and Cholesky
    factorisations of t^2 I - A A* first saves nothing.
    """
    square = max(float(torch.linalg.eigvalsh(batch)[:, -1].max()) for batch in grams)
    value = math.sqrt(max(square, 0.0) * (1 + _ROUNDING))
    return Norm(value, value - math.sqrt(max(square, 0.0) * (1 - _ROUNDING)))


def _grams(W: Tensor, grid: Pair, stride: Pair, dilation: Pair, groups: int) -> Iterator[Tensor]:
    """Yield B B* or B* B, whichever is smaller, for half of the frequencies and every group: (F, n, n)."""
    D, C, h, w = W.shape
    coarse = (grid[0] // stride[0], grid[1] // stride[1])
    # phase -> the kernel places that see pixels of that phase, and their offsets on the coarse grid
    phases: dict[Pair, list[tuple[Pair, Pair]]] = defaultdict(list)
    for place in itertools.product(range(h), range(w)):
        row, column = place[0] * dilation[0], place[1] * dilation[1]
        offset = (row // stride[0], column // stride[1])
        phases[row % stride[0], column % stride[1]].append((place, offset))
    rows, columns = D // groups, C * len(phases)
    frequencies = _half(coarse)
    size = max(1, _ENTRIES // (D * columns))
    for part in torch.split(frequencies, size):
        B = torch.empty(len(part), groups, rows, C, len(phases), dtype=torch.complex128)
        for p, taps in enumerate(phases.values()):
            places = torch.tensor([place for place, _ in taps])
            turns = torch.tensor([offset for _, offset in taps]) / torch.tensor(coarse, dtype=torch.float64)
            angle = 2 * math.pi * (part.double() @ turns.T)
            kernel = W[:, :, places[:, 0], places[:, 1]].reshape(-1, len(taps)).T
            wave = torch.complex(angle.cos() @ kernel, -(angle.sin() @ kernel))
            B[..., p] = wave.reshape(len(part), groups, rows, C)
        A = B.reshape(-1, rows, columns)
        yield A @ A.mH if rows <= columns else A.mH @ A


def _half(sides: Pair) -> Tensor:
    """Return one of every two opposite frequencies on the circle, (F, 2); zero comes first."""
    rows, columns = sides
    return torch.tensor(
        [(a, b) for a, b in itertools.product(range(rows), range(columns)) if (a, b) <= (-a % rows, -b % columns)]
    )

"""What a net computes, as few kinds of operation as certificates need: affine maps, sums, activations.

Values are (B, *shape) and coefficients (N, *shape), float64. An affine map knows four things: its value, its value
with absolute weights, its transpose, and how many terms one output sums, which bounds the net's own rounding. With u
the unit roundoff of the net's dtype, a sum of n products in any order is off by at most

    gamma_n sum |w_i x_i|,   gamma_n = n u / (1 - n u)              (Higham 2002, Lemma 3.1 and equation 3.5)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own abbreviation)

Shape = tuple[int, ...]

_MATRIX = 2**22  # entries of a convolution's matrix on windows up to which it is written out: 32 MiB


def gamma(terms: int, unit: float) -> float:
    """Return n u / (1 - n u), infinite where n u reaches 1."""
    return terms * unit / (1 - terms * unit) if terms * unit < 1 else float("inf")


@dataclass(frozen=True)
class Window:
    """The entries of an image (C, H, W) that one place of a later image sees: all channels, some rows and columns.

    Attributes:
        step: along height and width: that of the place at p begins at step * p + start, which may be outside.
        start: likewise.
        size: likewise.
    """

    step: tuple[int, int]
    start: tuple[int, int]
    size: tuple[int, int]

    def union(self, other: Window) -> Window | None:
        """Return the smallest window that holds both, or None if they move apart."""
        if self.step != other.step:
            return None
        start = _both(min, self.start, other.start)
        ends = _both(max, self.end, other.end)
        return Window(self.step, start, _both(int.__sub__, ends, start))

    @property
    def end(self) -> tuple[int, int]:
        """One past the last row and column of the window at place (0, 0)."""
        return _both(int.__add__, self.start, self.size)


def _both(function: Callable[[int, int], int], a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    return function(a[0], b[0]), function(a[1], b[1])


class Affine(ABC):
    """A map W h + b of one value.

    Attributes:
        bias: b, broadcasts to the shape of one output.
        offset: at least the sum of absolute values of all that b was made of; |b| where it is given as such.
        terms: how many roundings one output may suffer one after the other; 0 where nothing is computed.
        reach: how many outputs one input enters, which the transpose sums.
    """

    bias: Tensor
    offset: Tensor
    terms: int
    reach: int = 1

    def __call__(self, h: Tensor) -> Tensor:
        """Return W h + b, (B, *out) for h (B, *in)."""
        return self.linear(h) + self.bias

    @abstractmethod
    def linear(self, h: Tensor) -> Tensor:
        """Return W h."""

    @abstractmethod
    def absolute(self, h: Tensor) -> Tensor:
        """Return |W| h."""

    @abstractmethod
    def transpose(self, A: Tensor) -> Tensor:
        """Return A W, (N, *in) for coefficients A (N, *out)."""


class Local(Affine):
    """A map of images whose outputs see few of the inputs, all places alike."""

    @abstractmethod
    def seen(self, window: Window) -> Window | None:
        """Return the window of the input that a window of the output sees; None where it may be all of it."""

    @abstractmethod
    def transpose_window(self, A: Tensor) -> Tensor:
        """Return A W (N, C, h, w) on the window `seen` for coefficients A (N, D, h', w') on one of the output.

        Nothing is known of the edges: A is 0 outside of the output, and what falls outside of the input is void.
        """


class Dense(Affine):
    """A matrix (D, C) and a bias (D,)."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight = weight
        self.size = weight.abs()
        self.bias = weight.new_zeros(len(weight)) if bias is None else bias
        self.offset = self.bias.abs()
        self.terms, self.reach = weight.shape[1] + 1, len(weight)

    def linear(self, h: Tensor) -> Tensor:
        """See `Affine`."""
        return h @ self.weight.T

    def absolute(self, h: Tensor) -> Tensor:
        """See `Affine`."""
        return h @ self.size.T

    def transpose(self, A: Tensor) -> Tensor:
        """See `Affine`."""
        return A @ self.weight


class Convolution(Local):
    """A convolution with zero padding, of images of one shape.

    Args:
        weight: (D, C / groups, h, w).
        bias: (D,) or None.
        shape: (C, H, W) of its input.
        stride: along height and width.
        padding: left, right, top, bottom, as `torch.nn.functional.pad` takes it.
        dilation: along height and width.
        groups: of channels.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        shape: Shape,
        *,
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
        dilation: tuple[int, int],
        groups: int,
    ) -> None:
        self.weight, self.size, self.shape = weight, weight.abs(), shape
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.bias = (weight.new_zeros(len(weight)) if bias is None else bias).reshape(-1, 1, 1)
        self.offset = self.bias.abs()
        self.terms, self.reach = weight[0].numel() + 1, weight[:, 0].numel()
        self._matrices: dict[Shape, Tensor] = {}  # of windows met before

    def linear(self, h: Tensor) -> Tensor:
        """See `Affine`."""
        return self._convolve(h, self.weight)

    def absolute(self, h: Tensor) -> Tensor:
        """See `Affine`."""
        return self._convolve(h, self.size)

    def transpose(self, A: Tensor) -> Tensor:
        """See `Affine`."""
        left, right, top, bottom = self.padding
        high, wide = self.shape[1] + top + bottom, self.shape[2] + left + right
        # Pixels behind the last window's reach get nothing.
        rest = tuple(
            side - (step * (outputs - 1) + apart * (taps - 1) + 1)
            for side, step, outputs, apart, taps in zip(
                (high, wide), self.stride, A.shape[-2:], self.dilation, self.weight.shape[-2:], strict=True
            )
        )
        kept = tuple(min(left_over, step - 1) for left_over, step in zip(rest, self.stride, strict=True))
        back = F.conv_transpose2d(
            A, self.weight, stride=self.stride, output_padding=kept, groups=self.groups, dilation=self.dilation
        )
        back = F.pad(back, (0, wide - back.shape[-1], 0, high - back.shape[-2]))
        return back[..., top : high - bottom, left : wide - right]

    def seen(self, window: Window) -> Window:
        """See `Local`."""
        left, _, top, _ = self.padding
        return Window(
            _both(int.__mul__, window.step, self.stride),
            (window.start[0] * self.stride[0] - top, window.start[1] * self.stride[1] - left),
            self._across(window.size),
        )

    def _across(self, size: tuple[int, ...]) -> tuple[int, int]:
        """Return the size of the window that a window of this size sees."""
        high, wide = (
            step * (side - 1) + apart * (taps - 1) + 1
            for step, side, apart, taps in zip(self.stride, size, self.dilation, self.weight.shape[-2:], strict=True)
        )
        return high, wide

    def transpose_window(self, A: Tensor) -> Tensor:
        """See `Local`. One matrix for small windows, of which there are many: torch has no fast path for them."""
        shape = A.shape[1:]
        entries = shape.numel()
        high, wide = self._across(shape[1:])
        if entries * max(entries, self.shape[0] * high * wide) > _MATRIX:
            return self._transposed(A)
        if shape not in self._matrices:
            unit = torch.eye(entries, dtype=A.dtype, device=A.device).reshape(-1, *shape)
            self._matrices[shape] = self._transposed(unit)
        matrix = self._matrices[shape]
        return (A.flatten(1) @ matrix.flatten(1)).reshape(len(A), *matrix.shape[1:])

    def _transposed(self, A: Tensor) -> Tensor:
        return F.conv_transpose2d(A, self.weight, stride=self.stride, groups=self.groups, dilation=self.dilation)

    def _convolve(self, h: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(F.pad(h, self.padding), weight, stride=self.stride, dilation=self.dilation, groups=self.groups)


class Scaling(Local):
    """Entry by entry, scale * h + bias: batch normalisation in evaluation mode, preprocessing, constants.

    Args:
        scale: broadcasts to the shape of one example.
        bias: likewise.
        offset: see `Affine`.
        terms: see `Affine`.
    """

    def __init__(self, scale: Tensor, bias: Tensor, offset: Tensor | None = None, *, terms: int = 8) -> None:
        self.scale, self.bias = scale, bias
        self.offset = bias.abs() if offset is None else offset
        self.terms = terms

    def linear(self, h: Tensor) -> Tensor:
        """See `Affine`."""
        return h * self.scale

    def absolute(self, h: Tensor) -> Tensor:
        """See `Affine`."""
        return h * self.scale.abs()

    def transpose(self, A: Tensor) -> Tensor:
        """See `Affine`."""
        return A * self.scale

    def seen(self, window: Window) -> Window | None:
        """See `Local`; of images, one factor per channel."""
        return window if self.scale.dim() in (0, 3) and self.scale.shape[1:].numel() == 1 else None

    def transpose_window(self, A: Tensor) -> Tensor:
        """See `Local`."""
        return A * self.scale


class Averaging(Affine):
    """Average pooling, or any other linear map without negative weights.

    Args:
        pool: the map.
        shape: of one input.
        terms: entries of the largest window, and one for the division.
    """

    def __init__(self, pool: Callable[[Tensor], Tensor], shape: Shape, like: Tensor, *, terms: int) -> None:
        self.pool, self.shape, self.terms, self.reach = pool, shape, terms, terms
        self.bias = like.new_zeros(())
        self.offset = self.bias

    def linear(self, h: Tensor) -> Tensor:
        """See `Affine`."""
        return self.pool(h)

    def absolute(self, h: Tensor) -> Tensor:
        """See `Affine`."""
        return self.pool(h)

    def transpose(self, A: Tensor) -> Tensor:
        """See `Affine`."""
        back: Callable[[Tensor], tuple[Tensor]] = torch.func.vjp(self.pool, A.new_zeros(len(A), *self.shape))[1]
        (result,) = back(A)
        return result


class Selecting(Local):
    """Entries `index` along one axis of an example; exact, entries may come up more than once."""

    def __init__(self, axis: int, index: Tensor, side: int, like: Tensor) -> None:
        self.axis, self.index, self.side = axis, index, side
        self.bias = like.new_zeros(())
        self.offset, self.terms, self.reach = self.bias, 0, len(index)

    def linear(self, h: Tensor) -> Tensor:
        """See `Affine`."""
        return h.index_select(self.axis + 1, self.index)

    def absolute(self, h: Tensor) -> Tensor:
        """See `Affine`."""
        return self.linear(h)

    def transpose(self, A: Tensor) -> Tensor:
        """See `Affine`."""
        shape = list(A.shape)
        shape[self.axis + 1] = self.side
        return A.new_zeros(shape).index_add(self.axis + 1, self.index, A)

    def seen(self, window: Window) -> Window | None:
        """See `Local`; every so-many-th row or column, as in pooling over whole windows."""
        first, gap = int(self.index[0]), self._gap()
        if self.axis == 0 or gap is None:
            return None
        along = self.axis - 1
        step, start, size = list(window.step), list(window.start), list(window.size)
        step[along], start[along] = gap * step[along], gap * start[along] + first
        size[along] = gap * (size[along] - 1) + 1
        return Window((step[0], step[1]), (start[0], start[1]), (size[0], size[1]))

    def transpose_window(self, A: Tensor) -> Tensor:
        """See `Local`."""
        gap = self._gap()
        assert gap is not None
        shape = list(A.shape)
        shape[self.axis + 1] = gap * (shape[self.axis + 1] - 1) + 1
        places = gap * torch.arange(A.shape[self.axis + 1], device=A.device)
        return A.new_zeros(shape).index_copy(self.axis + 1, places, A)

    def _gap(self) -> int | None:
        """Return the distance of the entries if it is the same everywhere, else None."""
        gaps = set(self.index.diff().tolist()) or {1}
        return gaps.pop() if len(gaps) == 1 and min(gaps) > 0 else None


class Reshaping(Affine):
    """The same entries in another shape; exact."""

    def __init__(self, before: Shape, after: Shape, like: Tensor) -> None:
        self.before, self.after = before, after
        self.bias = like.new_zeros(())
        self.offset, self.terms = self.bias, 0

    def linear(self, h: Tensor) -> Tensor:
        """See `Affine`."""
        return h.reshape(-1, *self.after)

    def absolute(self, h: Tensor) -> Tensor:
        """See `Affine`."""
        return self.linear(h)

    def transpose(self, A: Tensor) -> Tensor:
        """See `Affine`."""
        return A.reshape(-1, *self.before)


@dataclass(frozen=True)
class Sum:
    """A weighted sum of values of one shape: a residual addition, or a difference.

    Attributes:
        weights: one per value, 1 or -1.
        terms: see `Affine`.
    """

    weights: tuple[float, ...]
    terms: int = 1

    def __call__(self, *values: Tensor) -> Tensor:
        """Return the sum of the values, each times its weight."""
        return sum((weight * value for weight, value in zip(self.weights, values, strict=True)), values[0] * 0)

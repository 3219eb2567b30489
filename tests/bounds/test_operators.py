"""The transform against the explicit matrix of the convolution, circular and zero-padded."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from intriguing.bounds import operators
from intriguing.bounds.operators import circular_norm, dense_norm, safe_grid
from intriguing.errors import InputError, ModelError


def weights(D: int, C: int, h: int, w: int, seed: int = 0) -> Tensor:
    return torch.randn(D, C, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def circular_matrix(W: Tensor, grid: tuple[int, int], stride: int, dilation: int, groups: int) -> Tensor:
    """Return the circular convolution's matrix: unit images, tiled so that every window sees the circle."""
    channels = W.shape[1] * groups
    n = channels * grid[0] * grid[1]
    images = torch.eye(n, dtype=torch.float64).reshape(n, channels, *grid).repeat(1, 1, 3, 3)
    out = functional.conv2d(images, W, stride=stride, dilation=dilation, groups=groups)
    return out[:, :, : grid[0] // stride, : grid[1] // stride].flatten(1).T


def norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, 2))


@pytest.mark.parametrize(
    ("grid", "stride", "dilation", "groups", "kernel"),
    [
        ((8, 8), 1, 1, 1, (3, 3)),
        ((8, 8), 2, 1, 1, (3, 3)),
        ((8, 8), 4, 1, 1, (3, 3)),
        ((7, 9), 1, 1, 1, (3, 2)),  # odd sides
        ((6, 10), 2, 1, 1, (5, 3)),  # odd after the stride, even after the stride: both
        ((12, 8), 4, 1, 1, (5, 5)),  # more taps than the stride: phases with several
        ((8, 8), 1, 2, 1, (3, 3)),
        ((9, 9), 3, 2, 1, (3, 3)),
        ((8, 6), 2, 3, 1, (2, 2)),  # dilation that skips phases
        ((8, 8), 1, 1, 2, (3, 3)),
        ((8, 8), 2, 2, 2, (3, 3)),
        ((4, 4), 1, 1, 4, (3, 3)),  # one channel per group
        ((3, 3), 1, 1, 1, (5, 5)),  # a kernel wider than the circle
        ((6, 6), 2, 1, 1, (1, 1)),  # most pixels are never read
    ],
)
def test_the_transform_gives_the_norm_of_the_explicit_matrix(
    grid: tuple[int, int], stride: int, dilation: int, groups: int, kernel: tuple[int, int]
) -> None:
    for D, C in ((3, 2), (2, 5)):
        W = weights(D * groups, C, *kernel)
        found = circular_norm(W, grid, stride=(stride, stride), dilation=(dilation, dilation), groups=groups)
        truth = norm(circular_matrix(W, grid, stride, dilation, groups))
        assert found.value == pytest.approx(truth, rel=1e-10)
        assert found.value - found.residual <= truth * (1 + 1e-12)
        assert found.value >= truth * (1 - 1e-12)


def test_strides_that_differ_by_axis() -> None:
    W = weights(3, 2, 3, 4)
    images = torch.eye(2 * 6 * 8, dtype=torch.float64).reshape(-1, 2, 6, 8).repeat(1, 1, 3, 3)
    matrix = functional.conv2d(images, W, stride=(3, 2), dilation=(1, 2))[:, :, :2, :4].flatten(1)
    found = circular_norm(W, (6, 8), stride=(3, 2), dilation=(1, 2))
    assert found.value == pytest.approx(norm(matrix), rel=1e-10)


def test_frequencies_in_parts_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    W = weights(4, 3, 3, 3)
    whole = circular_norm(W, (8, 8), stride=(2, 2))
    monkeypatch.setattr(operators, "_ENTRIES", 1)
    assert circular_norm(W, (8, 8), stride=(2, 2)).value == pytest.approx(whole.value, rel=1e-8)


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("dilation", [1, 2])
def test_the_zero_padded_layer_stays_below_the_safe_circle(stride: int, dilation: int) -> None:
    loosest = 0.0
    for side, padding, taps in itertools.product((5, 6, 7), (0, 1, 3), (1, 2, 3)):
        W = weights(2, 2, taps, taps, seed=side)
        pads = ((padding, padding), (padding, padding))
        grid = safe_grid((side, side), (taps, taps), stride=(stride,) * 2, padding=pads, dilation=(dilation,) * 2)
        images = torch.eye(2 * side * side, dtype=torch.float64).reshape(-1, 2, side, side)
        padded = functional.conv2d(images, W, stride=stride, padding=padding, dilation=dilation)
        truth = norm(padded.flatten(1))
        bound = circular_norm(W, grid, stride=(stride,) * 2, dilation=(dilation,) * 2).value
        assert truth <= bound * (1 + 1e-12)
        assert all(n % stride == 0 and n >= side + padding for n in grid)
        loosest = max(loosest, bound / truth)
    # Where only a part of the kernel ever meets these tiny images the circle counts all of it.
    assert loosest < 2.5


def test_a_circle_that_is_too_small_bounds_nothing() -> None:
    # What safe_grid guards against: on a circle of the image's own side, windows reach around to the other side.
    # Here the first tap and the last fall on one pixel of the circle and cancel.
    W = torch.tensor([1.0, 0.0, 0.0, 0.0, -1.0]).double().reshape(1, 1, 1, 5)
    image_side, padding = 4, 4
    images = torch.eye(image_side, dtype=torch.float64).reshape(-1, 1, 1, image_side)
    truth = norm(functional.conv2d(images, W, padding=(0, padding)).flatten(1))
    assert circular_norm(W, (1, image_side)).value < truth
    grid = safe_grid((1, image_side), (1, 5), stride=(1, 1), padding=((0, 0), (padding, padding)), dilation=(1, 1))
    assert circular_norm(W, grid).value >= truth


def test_alexnets_first_layer_has_a_circle_that_the_stride_divides() -> None:
    grid = safe_grid((224, 224), (11, 11), stride=(4, 4), padding=((2, 2), (2, 2)), dilation=(1, 1))
    assert grid == (228, 228)


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (60, 130)])
def test_dense(shape: tuple[int, int]) -> None:
    W = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    assert dense_norm(W).value == pytest.approx(float(torch.linalg.matrix_norm(W.double(), 2)), rel=1e-10)
    assert dense_norm(torch.zeros(shape)).value == 0


def test_the_residual_is_that_of_rounding() -> None:
    W = weights(40, 30, 3, 3)
    found = circular_norm(W, (6, 6))
    assert 0 < found.residual <= 1.1e-11 * found.value
    truth = norm(circular_matrix(W, (6, 6), 1, 1, 1))
    assert found.value - found.residual <= truth <= found.value


def test_what_cannot_be_bounded_says_so() -> None:
    W = weights(1, 1, 3, 3)
    with pytest.raises(InputError, match=r"multiples of the stride \(2, 2\), got \(7, 8\)"):
        circular_norm(W, (7, 8), stride=(2, 2))
    with pytest.raises(ModelError, match="not finite"):
        dense_norm(torch.tensor([[float("nan")]]))
    with pytest.raises(ModelError, match="meta device"):
        dense_norm(torch.empty(2, 2, device="meta"))
    with pytest.raises(InputError, match="smaller than the kernel"):
        safe_grid((2, 2), (5, 5), stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1))

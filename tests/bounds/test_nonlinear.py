"""Poolings, normalisations and activations: bounds against inputs that reach them, and Jacobians that must not pass."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

from intriguing.bounds.network import layer_bounds
from intriguing.bounds.nonlinear import ACTIVATIONS, contrast_bound, coverage, cross_channel_bound
from intriguing.errors import InputError


def norms(matrices: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(matrices, 2)


def bound_of(module: nn.Module, shape: tuple[int, ...]) -> float:
    (bound,) = layer_bounds(module, shape)
    return bound.bound


def matrix_of(module: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """Return a linear module's matrix."""
    n = math.prod(shape)
    return module(torch.eye(n, dtype=torch.float64).reshape(n, *shape)).flatten(1).T


@pytest.mark.parametrize(
    "kind", [kind for kind in ACTIVATIONS if kind is not nn.Softmax], ids=lambda kind: kind.__name__
)
def test_no_activation_is_steeper_than_its_bound_and_some_input_reaches_it(kind: type[nn.Module]) -> None:
    module = kind().double()
    x = torch.linspace(-40, 40, 4001, dtype=torch.float64)[:, None].requires_grad_()
    (slopes,) = torch.autograd.grad(module(x).sum(), x)
    assert float(slopes.abs().max()) <= bound_of(module, (1,)) * (1 + 1e-12)
    assert float(slopes.abs().max()) == pytest.approx(bound_of(module, (1,)), rel=1e-6)


def test_softmax() -> None:
    x = torch.linspace(-9, 9, 1001, dtype=torch.float64)[:, None] * torch.tensor([1.0, -1.0])
    found = norms(vmap(jacrev(lambda row: row.softmax(0)))(x))
    assert float(found.max()) == pytest.approx(0.5)
    assert bound_of(nn.Softmax(dim=-1), (2,)) == 0.5


def test_activations_with_steep_sides() -> None:
    assert bound_of(nn.LeakyReLU(3.0), (1,)) == 3
    assert bound_of(nn.ELU(alpha=2.0), (1,)) == 2
    assert bound_of(nn.PReLU(init=-4.0), (1,)) == 4


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, 2),
        nn.MaxPool2d(3, 1),
        nn.MaxPool2d(3, 2, padding=1),
        nn.MaxPool2d((3, 2), (1, 2)),
        nn.MaxPool2d(2, 1, dilation=2),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.MaxPool2d(5, 5, padding=2),
    ],
    ids=str,
)
def test_max_pooling_reaches_its_bound_and_no_more(pool: nn.MaxPool2d) -> None:
    for sides in ((6, 7), (9, 5)):
        black = torch.zeros(1, 1, *sides)
        raised = torch.eye(sides[0] * sides[1]).reshape(-1, 1, *sides)
        reached = torch.linalg.vector_norm((pool(raised) - pool(black)).flatten(1), dim=1).max()
        bound = bound_of(pool, (1, *sides))
        assert bound == pytest.approx(float(reached), rel=1e-6)
        x, r = torch.randn(2, 200, 1, *sides, generator=torch.Generator().manual_seed(0))
        gains = (pool(x + r) - pool(x)).flatten(1).norm(dim=1) / r.flatten(1).norm(dim=1)
        assert float(gains.max()) <= bound * (1 + 1e-6)


def test_an_image_smaller_than_the_pattern_of_windows_is_covered_less() -> None:
    assert bound_of(nn.MaxPool2d(3, 2), (1, 13, 13)) == 2
    assert bound_of(nn.MaxPool2d(3, 2), (1, 4, 4)) == 1  # a single window
    assert coverage(5, 3, window=3, stride=1) == 3


def test_l2_pooling_is_bounded_like_max_pooling() -> None:
    pool = nn.LPPool2d(2, 3, 2)
    image = torch.zeros(1, 1, 7, 7, dtype=torch.float64)
    image[0, 0, 2, 2] = 1
    assert bound_of(pool, (1, 7, 7)) == 2
    assert float(pool(image).norm()) == pytest.approx(2)


@pytest.mark.parametrize(
    "pool",
    [
        nn.AvgPool2d(2),
        nn.AvgPool2d(3, 2),
        nn.AvgPool2d(3, 1, padding=1),
        nn.AvgPool2d(3, 2, padding=1, count_include_pad=False),
        nn.AvgPool2d((2, 3), (1, 2), ceil_mode=True),
        nn.AvgPool2d(2, divisor_override=3),
        nn.AdaptiveAvgPool2d(1),
        nn.AdaptiveAvgPool2d((3, 2)),
        nn.AdaptiveAvgPool2d((None, 2)),
    ],
    ids=str,
)
def test_average_pooling_is_exact(pool: nn.Module) -> None:
    for sides in ((6, 7), (5, 8)):
        truth = float(norms(matrix_of(pool, (1, *sides))))
        assert bound_of(pool, (1, *sides)) == pytest.approx(truth, rel=1e-7)
        assert bound_of(pool, (1, *sides)) >= truth * (1 - 1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 8.0])
@pytest.mark.parametrize("eps", [0.3, 2.0])
def test_contrast_normalisation_has_its_largest_gain_at_zero(gamma: float, eps: float) -> None:
    def normalised(x: Tensor) -> Tensor:
        return x / (eps + x.square().sum()) ** gamma

    direction = torch.tensor([0.6, 0.0, -0.8], dtype=torch.float64)
    radii = torch.cat([torch.zeros(1), torch.logspace(-3, 3, 400)]).double()
    found = norms(vmap(jacrev(normalised))(radii[:, None] * direction))
    assert float(found.max()) <= contrast_bound(eps, gamma) * (1 + 1e-12)
    assert float(found[0]) == pytest.approx(contrast_bound(eps, gamma), rel=1e-12)


@pytest.mark.parametrize("beta", [0.25, 0.75, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_no_input_of_the_cross_channel_normalisation_passes_its_bound(beta: float, size: int) -> None:
    layer = nn.LocalResponseNorm(size, alpha=size, beta=beta, k=2.0)  # torch divides alpha by the size
    bound = bound_of(layer, (7, 1, 1))
    generator = torch.Generator().manual_seed(size)
    scale = torch.logspace(-1, 1, 300, dtype=torch.float64)[:, None]
    a = scale * torch.randn(300, 7, dtype=torch.float64, generator=generator)
    a[::2] *= torch.rand(150, 7, dtype=torch.float64, generator=generator) < 0.4  # windows with empty channels
    found = norms(vmap(jacrev(lambda x: layer(x[None, :, None, None])[0, :, 0, 0]))(a))
    assert float(found.max()) <= bound * (1 + 1e-12)
    assert bound >= 2.0**-beta


def test_the_two_proofs_inequalities_hold_on_a_grid() -> None:
    # The inequality behind the second bound, for its mu, and the two maxima of the first.
    s = torch.linspace(0, 0.999, 500, dtype=torch.float64)[:, None]
    v = torch.linspace(0, 1, 201, dtype=torch.float64)
    for beta in (0.1, 0.5, 0.75, 1.0, 2.0, 3.0):
        mu = beta / min(3 + 2 * beta, 7 - 2 * beta)
        A = (1 - s) ** beta * (1 - 2 * beta * s * v).abs()
        B = (1 - s) ** beta * 2 * beta * s * (v * (1 - v)).sqrt()
        assert float((A**2 + B**2 / mu).max()) <= 1 + 1e-12
        assert float(A.max()) <= 1 + 1e-12
        most = (beta / (beta + 1)) ** (beta + 1)
        assert most * (1 - 1e-4) <= float(B.max()) <= most * (1 + 1e-12)


def test_cross_channel_values() -> None:
    assert cross_channel_bound(5, 0.75, 2.0) == pytest.approx(2**-0.75 * math.sqrt(1 + 4 * 0.75 / 4.5))
    assert cross_channel_bound(1, 0.75, 2.0) == pytest.approx(contrast_bound(2.0, 0.75))
    assert cross_channel_bound(5, 0.0, 2.0) == 1
    # No more channels than there are can stand in a window.
    assert bound_of(nn.LocalResponseNorm(5, beta=0.75), (2, 1, 1)) == cross_channel_bound(2, 0.75, 1.0)
    for wrong in ((0, 0.75, 1.0), (5, -1.0, 1.0), (5, 0.75, 0.0)):
        with pytest.raises(InputError, match="size, beta, k"):
            cross_channel_bound(*wrong)
    with pytest.raises(InputError, match="eps and gamma"):
        contrast_bound(0.0, 0.5)

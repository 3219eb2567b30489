from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.optimize
import torch

from intriguing.bounds.region import ball, checked_norm, farthest
from intriguing.errors import InputError


def _exact(a: np.ndarray, x: np.ndarray, eps: float, norm: float) -> float:
    """Minimise a x over ball and box: a linear program, or the dual's one-dimensional concave maximum."""
    lo, hi = np.maximum(-eps, -x), np.minimum(eps, 1 - x)
    if norm == math.inf:
        return float(a @ x + np.minimum(a * lo, a * hi).sum())

    def negative(log: float) -> float:
        m = math.exp(log)
        r = np.clip(-a / m, lo, hi)
        return -float(a @ r + m / 2 * (r @ r - eps * eps))

    return float(a @ x) - float(scipy.optimize.minimize_scalar(negative, bounds=(-40, 40), method="bounded").fun)


@pytest.mark.parametrize("norm", [2, math.inf])
@pytest.mark.parametrize("eps", [0.0, 1e-3, 0.3, 0.9, 1.5, 100.0])
@pytest.mark.parametrize("pixels", [3, 30, 784])
def test_least_values_of_linear_forms_over_ball_and_box(norm, eps, pixels):
    draw = torch.Generator().manual_seed(1)
    x = torch.rand(4, pixels, generator=draw, dtype=torch.float64)
    x[:, ::2] = x[:, ::2].round()
    A = torch.randn(4, 5, pixels, generator=draw, dtype=torch.float64)
    A[0, 0] = 0
    region = ball(x, torch.full((4,), eps, dtype=torch.float64), norm, (0.0, 1.0))
    found, lost = region.minimum(A, torch.zeros(4, 5, dtype=torch.float64))
    for b in range(4):
        for s in range(5):
            exact = _exact(A[b, s].numpy(), x[b].numpy(), eps, norm)
            assert found[b, s] <= exact + 1e-9
            assert found[b, s] >= exact - 3e-3 * max(eps, 1e-3) * float(A[b, s].norm()) - 1e-9
    assert (lost < 1e-8).all()


@pytest.mark.parametrize("norm", [2, math.inf])
def test_forms_that_look_at_few_pixels_are_gathered_without_a_change(norm):
    draw = torch.Generator().manual_seed(2)
    x = torch.rand(3, 40, generator=draw, dtype=torch.float64)
    A = torch.randn(1, 6, 40, generator=draw, dtype=torch.float64)
    A[:, :, :37] = 0
    region = ball(x, torch.tensor([0.1, 0.5, 2.0]).double(), norm, (0.0, 1.0))
    gathered, _ = region.minimum(A, torch.zeros(1, 6, dtype=torch.float64))
    whole, _ = region.minimum(A.expand(3, -1, -1), torch.zeros(1, 6, dtype=torch.float64))
    # Multipliers are searched in single precision, whose sums depend on their order, and so may the last step.
    torch.testing.assert_close(gathered, whole, rtol=1e-3, atol=1e-6)


def test_the_derivative_is_that_of_the_minimum():
    draw = torch.Generator().manual_seed(3)
    x = torch.rand(2, 8, generator=draw, dtype=torch.float64)
    A = torch.randn(2, 3, 8, generator=draw, dtype=torch.float64).requires_grad_()
    for norm in (2, math.inf):
        region = ball(x, torch.full((2,), 0.4, dtype=torch.float64), norm, (0.0, 1.0))
        value = region.minimum(A, torch.zeros(2, 3, dtype=torch.float64))[0]
        (slope,) = torch.autograd.grad(value.sum(), A)
        step = 1e-4 * torch.randn(A.shape, generator=draw, dtype=torch.float64)
        with torch.no_grad():
            moved = region.minimum(A + step, torch.zeros(2, 3, dtype=torch.float64))[0]
        torch.testing.assert_close((moved - value).sum(), (slope * step).sum(), rtol=2e-2, atol=1e-6)


def test_the_farthest_corner_and_other_norms():
    x = torch.tensor([[0.0, 0.25]], dtype=torch.float64)
    assert farthest(x, math.inf, (0.0, 1.0)).item() == 1.0
    assert farthest(x, 2, (0.0, 1.0)).item() == pytest.approx(math.hypot(1, 0.75))
    with pytest.raises(InputError, match="expected 2 or inf, got 1"):
        checked_norm(1)

from __future__ import annotations

import pytest
import torch

from intriguing.bounds.relaxation import Logistic, ReLU

FUNCTIONS = {"relu": ReLU(), "sigmoid": Logistic(), "tanh": Logistic(2.0, 2.0, -1.0)}

# Intervals on every side of 0, at 0, of no width, saturated, and beyond where exponentials overflow.
ENDS = [
    (-3.0, 2.0), (-0.5, 4.0), (0.0, 2.0), (-2.0, 0.0), (0.0, 0.0), (1.0, 1.0), (-1.0, -1.0), (-1e-9, 1e-9),
    (5.0, 60.0), (-60.0, -5.0), (-60.0, 60.0), (-1e4, 1e4), (30.0, 31.0), (-31.0, -30.0), (-1e-3, 50.0),
    (2.0, 2.0 + 1e-12),
]  # fmt: skip


def _points(low: torch.Tensor, high: torch.Tensor, count: int = 4001) -> torch.Tensor:
    share = torch.linspace(0, 1, count, dtype=torch.float64)[:, None]
    inside = low + share * (high - low)
    near = torch.tensor([-1e-6, 0.0, 1e-6], dtype=torch.float64)[:, None]
    return torch.cat((inside, torch.minimum(torch.maximum(near.expand(-1, low.numel()), low), high)))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("slope", ["default", "least", "largest", "any"])
def test_lines_hold_and_touch_on_every_kind_of_interval(name, slope):
    f = FUNCTIONS[name]
    low, high = torch.tensor(ENDS, dtype=torch.float64).unbind(1)
    found = f.slopes(low, high)
    place = {"least": 0, "largest": 1, "default": 2}
    if slope == "any":
        draw = torch.Generator().manual_seed(0)
        below, above = 1.5 * torch.randn(2, len(low), generator=draw, dtype=torch.float64)
    else:
        below, above = found.lower[place[slope]], found.upper[place[slope]]
    t, T = f.below(below, low, high), f.above(above, low, high)
    x = _points(low, high)
    # Rounding of a slope times an input; certificates allow for more.
    slack = 1e-15 * (1 + x.abs()) * (1 + torch.maximum(below.abs(), above.abs()))
    assert (f(x) - below * x - t >= -slack).all()
    assert (T + above * x - f(x) >= -slack).all()
    # The offset is the best one: the line touches the graph somewhere, as far as 4,000 points show.
    gap = (f(x) - below * x - t).amin(0)
    step = (high - low) / 4000
    assert (gap <= 1e-12 + step * (below.abs() + 1)).all()


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_default_lines_of_s_shaped_functions_touch_an_end_or_are_tangent_in_the_middle(name):
    f = FUNCTIONS[name]
    low, high = torch.tensor([[-2.0, 3.0], [1.0, 3.0], [-3.0, -1.0]], dtype=torch.float64).unbind(1)
    upper = f.slopes(low, high).upper[2]
    line = f.above(upper, low, high)
    at = lambda x: line + upper * x - f(x)  # noqa: E731
    assert at(low)[0].abs() < 1e-4  # through the low end, tangent on the far side
    assert at((low + high) / 2)[1].abs() < 1e-12  # concave: tangent at the middle
    assert at(low)[2].abs() < 1e-12
    assert at(high)[2].abs() < 1e-12


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_tangents_through_an_end_touch_on_the_far_side_however_far_it_is(name):
    f = FUNCTIONS[name]
    low = torch.tensor([-1.0, -5.0, -19.0, -39.0, -41.0, -100.0, -1e4, -1e9], dtype=torch.float64)
    high = torch.full_like(low, 1e10)
    upper = f.slopes(low, high, touching=True).upper[2]
    touch = f.turning_points(upper)[0]
    for point in (low, touch):
        gap = f.above(upper, low, high) + upper * point - f(point)
        assert (gap >= -1e-12).all()
        assert (gap < 1e-4).all()
    lower = f.slopes(-high, -low, touching=True).lower[2]
    torch.testing.assert_close(lower, upper)


def test_relu_lines_are_the_triangle():
    f = ReLU()
    low, high = torch.tensor([-1.0, -3.0, 0.5, -2.0]).double(), torch.tensor([3.0, 1.0, 2.0, -1.0]).double()
    found = f.slopes(low, high)
    assert found.lower[2].tolist() == [1, 0, 1, 0]
    assert found.upper[2].tolist() == [0.75, 0.25, 1, 0]
    assert f.above(found.upper[2], low, high).tolist() == [0.75, 0.75, 0, 0]


def test_offsets_have_the_derivative_of_the_envelope():
    f = Logistic()
    low, high = torch.tensor([-2.0, 1.0]).double(), torch.tensor([3.0, 2.0]).double()
    slope = torch.tensor([0.1, 0.12], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: f.above(s, low, high), slope)
    assert torch.autograd.gradcheck(lambda s: f.below(s, low, high), slope)


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_assumed_error_of_torchs_functions(name, dtype):
    """Certificates presume at most 8 units of roundoff; a NumPy longdouble says what is right."""
    import numpy as np

    x = torch.cat((torch.linspace(-30, 30, 200_001), torch.linspace(-1e-3, 1e-3, 2001), torch.tensor([-80.0, 80.0])))
    x = x.to(dtype)
    wide = x.numpy().astype(np.longdouble)
    exact = np.tanh(wide) if name == "tanh" else 1 / (1 + np.exp(-wide))
    computed = getattr(torch, name)(x).numpy().astype(np.longdouble)
    unit = torch.finfo(dtype).eps / 2
    error = np.abs(computed - exact) / (np.abs(exact) + np.longdouble(torch.finfo(dtype).tiny))
    assert error.max() <= FUNCTIONS[name].roundings * unit

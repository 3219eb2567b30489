"""Norms by their definition, projections by their laws."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

import truth
from intriguing import norms
from intriguing.errors import InputError

# Float64 sums of at most 8 numbers of size at most 100 are exact to about 1e-13; 1e-9 leaves room.
SLACK = 1e-9
FINITE = st.floats(-100, 100, allow_subnormal=False).map(lambda v: 0.0 if abs(v) < 1e-6 else v)
Project = Callable[[Tensor], Tensor]


def batches(count: int) -> st.SearchStrategy[list[Tensor]]:
    """Return `count` float64 batches of one shape."""
    shape = hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=4)
    return shape.flatmap(
        lambda s: st.lists(
            hnp.arrays(np.float64, s, elements=FINITE).map(torch.from_numpy), min_size=count, max_size=count
        )
    )


def half_space(x: Tensor) -> Tensor:
    """Project onto a fixed half-space of the dimension of x."""
    a = torch.linspace(-1, 2, x[0].numel(), dtype=x.dtype).reshape(x.shape[1:])
    return norms.project_half_space(x, a, 0.5)


def half_space_slack(x: Tensor) -> Tensor:
    a = torch.linspace(-1, 2, x[0].numel(), dtype=x.dtype).reshape(x.shape[1:])
    return (x * a).flatten(1).sum(1) - 0.5


def in_box(x: Tensor, norm: float) -> Tensor:
    """Project onto the ball of radius 3 in the box [-1, 2], one pixel of which is free on no side."""
    upper = torch.full_like(x[:1], 2.0)
    upper.view(-1)[0] = 0.0
    return norms.project_ball_in_box(x, 3.0, -1.0, upper, norm)


def out_of_box(x: Tensor) -> Tensor:
    excess = (x - 0.5).abs().flatten(1) - 1.5
    excess[:, 0] = torch.maximum(-1 - x.flatten(1)[:, 0], x.flatten(1)[:, 0])
    return excess.amax(1)


PROJECTIONS: dict[str, tuple[Project, Callable[[Tensor], Tensor]]] = {
    "box": (lambda x: norms.project_box(x, -1.0, 2.0), lambda x: (x - 0.5).abs().flatten(1).amax(1) - 1.5),
    "l2": (lambda x: norms.project_l2_ball(x, 3.0), lambda x: norms.l2(x) - 3.0),
    "linf": (lambda x: norms.project_linf_ball(x, 3.0), lambda x: norms.linf(x) - 3.0),
    "l1": (lambda x: norms.project_l1_ball(x, 3.0), lambda x: norms.l1(x) - 3.0),
    "l1, radius 0": (lambda x: norms.project_l1_ball(x, 0.0), norms.l1),
    "half-space": (half_space, half_space_slack),
    "l1 in a box": (lambda x: in_box(x, 1), lambda x: torch.maximum(norms.l1(x) - 3.0, out_of_box(x))),
    "l2 in a box": (lambda x: in_box(x, 2), lambda x: torch.maximum(norms.l2(x) - 3.0, out_of_box(x))),
    "linf in a box": (lambda x: in_box(x, math.inf), lambda x: torch.maximum(norms.linf(x) - 3.0, out_of_box(x))),
}


@pytest.mark.parametrize("name", PROJECTIONS)
@settings(max_examples=60, deadline=None)
@given(xs=batches(2))
def test_projection_laws(name: str, xs: list[Tensor]) -> None:
    project, violation = PROJECTIONS[name]
    x, y = xs
    p, q = project(x), project(y)
    assert (violation(p) <= SLACK).all()
    torch.testing.assert_close(project(p), p, atol=SLACK, rtol=0)
    assert (norms.l2(p - q) <= norms.l2(x - y) + SLACK).all()
    inside = violation(x) <= 0
    assert torch.equal(p[inside], x[inside])
    # Obtuse angle: p is the nearest feasible point exactly if <x - p, z - p> <= 0 for every feasible z.
    assert (((x - p) * (q - p)).flatten(1).sum(1) <= 1e-6).all()


@settings(max_examples=60, deadline=None)
@given(xs=batches(2))
def test_norm_laws(xs: list[Tensor]) -> None:
    x, y = xs
    for norm in (norms.l1, norms.l2, norms.linf):
        assert (norm(x + y) <= norm(x) + norm(y) + SLACK).all()
        torch.testing.assert_close(norm(-3.0 * x), 3.0 * norm(x))
        assert norm(x.float()).dtype == torch.float64
    n = x[0].numel()
    assert (norms.linf(x) <= norms.l2(x) + SLACK).all()
    assert (norms.l2(x) <= norms.l1(x) + SLACK).all()
    assert (norms.l1(x) <= n**0.5 * norms.l2(x) + SLACK).all()
    torch.testing.assert_close(norms.distortion(x, y), ((x - y) ** 2).flatten(1).mean(1).sqrt())


@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_ball_in_box_is_where_alternating_projections_end(norm: float) -> None:
    """Dykstra's method needs nothing but the two projections, and ends at the same point, within 2e-6 here."""
    draw = torch.Generator().manual_seed(0)
    r = 3 * torch.randn(40, 8, generator=draw, dtype=torch.float64)
    low, high = (-torch.rand(40, 8, generator=draw).double(), 2 * torch.rand(40, 8, generator=draw).double())
    radius = 0.2 + torch.rand(40, generator=draw).double()
    ball = {1: norms.project_l1_ball, 2: norms.project_l2_ball, math.inf: norms.project_linf_ball}[norm]
    x, p, q = r, torch.zeros_like(r), torch.zeros_like(r)
    for _ in range(500):
        y = ball(x + p, radius)
        p = x + p - y
        x = norms.project_box(y + q, low, high)
        q = y + q - x
    torch.testing.assert_close(norms.project_ball_in_box(r, radius, low, high, norm), x, rtol=0, atol=2e-6)


@st.composite
def hyperplanes(draw: st.DrawFn) -> tuple[Tensor, Tensor, float]:
    """Return points (2, n), a normal (n,), some entries of it 0 or equal, and an offset."""
    n = draw(st.integers(1, 6))
    points = draw(hnp.arrays(np.float64, (2, n), elements=st.floats(-1.5, 2.5, width=32)))
    normal = draw(hnp.arrays(np.float64, n, elements=st.sampled_from([-2.0, -0.5, 0.0, 0.25, 1.0, 1.0, 3.0])))
    return torch.from_numpy(points), torch.from_numpy(normal), draw(st.floats(-6, 6, width=32))


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
@settings(max_examples=80, deadline=None)
@given(case=hyperplanes())
def test_box_hyperplane_laws(norm: float, case: tuple[Tensor, Tensor, float]) -> None:
    x, a, b = case
    low, high = -1.0, 2.0

    def project(y: Tensor) -> Tensor:
        return norms.project_box_hyperplane(y, a, b, low, high, norm=norm)

    inside = x.clamp(low, high)
    p = project(inside)
    assert ((p >= low) & (p <= high)).all()
    assert torch.equal(p, project(x))  # a point outside the box is moved into it first
    torch.testing.assert_close(project(p), p, atol=1e-8, rtol=0)
    assert (p[:, a == 0] == inside[:, a == 0]).all()
    least, most = ((torch.where(a > 0, s, t) * a).sum().item() for s, t in ((low, high), (high, low)))
    reached = min(max(b, least), most)
    torch.testing.assert_close(p @ a, torch.full((2,), reached, dtype=torch.float64), atol=1e-9, rtol=0)
    on = (inside @ a - b).abs() < 1e-12
    torch.testing.assert_close(p[on], inside[on], atol=1e-9, rtol=0)
    if norm == 2:
        assert norms.l2(p[:1] - p[1:]) <= norms.l2(inside[:1] - inside[1:]) + SLACK
        assert (((inside - p) * (p.flip(0) - p)).sum(1) <= 1e-8).all()


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
def test_box_hyperplane_is_the_nearest_point_by_linear_and_quadratic_programs(norm: float) -> None:
    """Class 1 of a net with logits 0 and <a, y> - b is a half-space; where x lies outside, the plane is its side."""
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(40, 15, generator=draw, dtype=torch.float64)
    x[:, ::3] = x[:, ::3].round()  # pixels on the box's sides have room on one side alone
    a = torch.randn(40, 15, generator=draw, dtype=torch.float64)
    a[::2, 4] = 0.0
    b = (a * x).sum(1) + 3.5 * torch.randn(40, generator=draw, dtype=torch.float64)
    p = norms.project_box_hyperplane(x.reshape(40, 3, 5), a.reshape(40, 3, 5), b, 0.0, 1.0, norm=norm)
    found = {1.0: norms.l1, 2.0: norms.l2, math.inf: norms.linf}[norm](p.flatten(1) - x)
    missed = 0
    for i in range(40):
        ahead = 1.0 if (a[i] @ x[i] < b[i]) else -1.0
        weights, bias = np.stack([np.zeros(15), ahead * a[i].numpy()]), np.array([0.0, -ahead * b[i].item()])
        nearest = truth.nearest_wrong(norm, x[i].numpy(), weights, bias, 0)
        if math.isinf(nearest):
            missed += 1
            assert abs((a[i] * p.flatten(1)[i]).sum() - b[i]) > 1e-6
        else:
            assert found[i].item() == pytest.approx(nearest, rel=1e-6, abs=1e-9)
            assert (a[i] * p.flatten(1)[i]).sum().item() == pytest.approx(b[i].item(), abs=1e-9)
    assert 0 < missed < 20


def test_box_hyperplane_takes_bounds_per_entry_and_keeps_the_dtype() -> None:
    x, a = torch.tensor([[0.5, 0.5]]), torch.tensor([1.0, 1.0])
    p = norms.project_box_hyperplane(x, a, 1.6, torch.tensor([0.0, 0.0]), torch.tensor([0.6, 2.0]))
    assert p.dtype == torch.float32
    torch.testing.assert_close(p, torch.tensor([[0.6, 1.0]]))
    assert norms.project_box_hyperplane(x[:0], a, 1.6, 0.0, 1.0).shape == (0, 2)
    with pytest.raises(InputError, match="norm"):
        norms.project_box_hyperplane(x, a, 1.0, 0.0, 1.0, norm=3)
    with pytest.raises(InputError, match="lower"):
        norms.project_box_hyperplane(x, a, 1.0, 1.0, 0.0)


def test_norms_match_numpy() -> None:
    x = torch.randn(5, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    flat = x.double().flatten(1).numpy()
    for norm, order in ((norms.l1, 1), (norms.l2, 2), (norms.linf, np.inf)):
        np.testing.assert_allclose(norm(x).numpy(), np.linalg.norm(flat, order, axis=1), rtol=1e-14)


def test_distortion_of_mnist_size_is_the_distance_over_28() -> None:
    x = torch.zeros(1, 1, 28, 28)
    y = torch.full((1, 1, 28, 28), 0.058)
    assert norms.distortion(x, y).item() == pytest.approx(0.058, rel=1e-6)
    assert norms.l2(y - x).item() == pytest.approx(28 * 0.058, rel=1e-6)


def test_radius_per_example() -> None:
    r = torch.tensor([[3.0, 4.0], [3.0, 4.0]])
    radius = torch.tensor([2.5, 10.0])
    assert norms.project_l2_ball(r, radius).tolist() == [[1.5, 2.0], [3.0, 4.0]]
    assert norms.project_linf_ball(r, torch.tensor([1.0, 3.5])).tolist() == [[1.0, 1.0], [3.0, 3.5]]
    assert norms.project_l1_ball(r, torch.tensor([1.0, 7.0])).tolist() == [[0.0, 1.0], [3.0, 4.0]]


def test_projections_keep_dtype_and_take_bounds_per_entry() -> None:
    x = torch.tensor([[-1.0, 5.0]])
    assert norms.project_box(x, torch.tensor([0.0, float("-inf")]), float("inf")).tolist() == [[0.0, 5.0]]
    for project, _ in PROJECTIONS.values():
        assert project(x).dtype == torch.float32


def test_empty_batches_and_a_zero_normal_pass() -> None:
    empty = torch.zeros(0, 1, 2, 2)
    assert norms.l2(empty).shape == (0,)
    assert norms.distortion(empty, empty).shape == (0,)
    assert norms.project_l1_ball(empty, 1.0).shape == empty.shape
    x = torch.ones(1, 2)
    assert torch.equal(norms.project_half_space(x, torch.zeros(2), 0.0), x)


def test_bad_arguments_are_named() -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(InputError, match="one shape"):
        norms.distortion(x, torch.zeros(2, 4))
    with pytest.raises(InputError, match="radius"):
        norms.project_l2_ball(x, -1.0)
    with pytest.raises(InputError, match="radius"):
        norms.project_l1_ball(x, float("nan"))
    with pytest.raises(InputError, match="lower"):
        norms.project_box(x, 1.0, 0.0)
    with pytest.raises(InputError, match="lower <= 0"):
        norms.project_ball_in_box(x, 1.0, 0.5, 1.0, 2)
    with pytest.raises(InputError, match="norm"):
        norms.project_ball_in_box(x, 1.0, -1.0, 1.0, 3)
    with pytest.raises(InputError, match="empty"):
        norms.project_half_space(x, torch.zeros(3), -1.0)
    with pytest.raises(InputError, match="batch"):
        norms.l2(torch.tensor(1.0))
    with pytest.raises(InputError, match="pixel"):
        norms.distortion(torch.zeros(2, 0), torch.zeros(2, 0))


@pytest.mark.parametrize("seed", range(5))
def test_half_space_in_box_meets_the_conditions_of_its_minimum(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    x = (torch.rand(40, 30, generator=draw, dtype=torch.float64) * 2 - 0.6).clamp(0, 1)  # many pixels on a side
    a = torch.randn(40, 30, generator=draw, dtype=torch.float64)
    room = torch.where(a > 0, a * (1 - x), -a * x).sum(1)
    share = torch.rand(40, generator=draw, dtype=torch.float64) * 1.3 - 0.2  # some inside already, some out of reach
    b = (a * x).sum(1) + share * room
    y = norms.project_half_space_in_box(x, a, b, 0.0, 1.0)
    assert ((y >= 0) & (y <= 1)).all()
    reached = (a * y).sum(1)
    torch.testing.assert_close(y[share <= 0], x[share <= 0], rtol=0, atol=0)
    inside = (share > 0) & (share < 1)
    torch.testing.assert_close(reached[inside], b[inside], rtol=1e-9, atol=1e-9)
    far = (a > 0).double()
    torch.testing.assert_close(y[share > 1], far[share > 1], rtol=0, atol=1e-12)
    # Karush, Kuhn and Tucker: y - x = t a on the free entries with one t >= 0, and no more than that on the sides.
    for i in inside.nonzero().flatten().tolist():
        free = (y[i] > 0) & (y[i] < 1)
        t = (y[i] - x[i])[free] / a[i][free]
        assert t.min() >= 0
        torch.testing.assert_close(t, t.mean().expand_as(t), rtol=1e-9, atol=1e-9)
        pushed = x[i] + t.mean() * a[i]
        torch.testing.assert_close(y[i], pushed.clamp(0, 1), rtol=1e-9, atol=1e-9)
    again = norms.project_half_space_in_box(y, a, b, 0.0, 1.0)
    torch.testing.assert_close(again, y, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 1e-14, 1e14])
def test_half_space_in_box_leaves_entries_without_a_slope_and_any_scale_of_the_normal(
    dtype: torch.dtype, scale: float
) -> None:
    x = torch.tensor([[0.0, 1.0, 0.5, 0.5, 0.0, 0.9]], dtype=dtype)
    a = torch.tensor([[0.0, 0.0, 0.0, 3.0, -1.0, 1.0]], dtype=dtype)
    b = torch.tensor([1.5 + 0.9 + 1.0], dtype=dtype)  # t = 0.1: 3 (0.5 + 0.3) + 1, the last entry at its end
    y = norms.project_half_space_in_box(x, a * scale, b * scale, 0.0, 1.0)
    expected = torch.tensor([[0.0, 1.0, 0.5, 0.8, 0.0, 1.0]], dtype=dtype)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_entries_that_are_free_are_those_a_comparison_finds(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    x = (torch.rand(200, 50, generator=draw, dtype=dtype) * 3 - 1).clamp(0, 1)
    direction = torch.randn(200, 50, generator=draw, dtype=dtype) * 10 ** torch.randint(
        -8, 8, (200, 50), generator=draw
    )
    direction[:, :5] = 0
    expected = ((x > 0) & (x < 1)) | torch.where(direction > 0, x < 1, (x > 0) & (direction < 0))
    assert 0.2 < expected.double().mean() < 0.8
    assert torch.equal(norms.free(x, direction, 0.0, 1.0), expected.to(dtype))

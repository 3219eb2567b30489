"""Norms by their definition, projections by their laws."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

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


PROJECTIONS: dict[str, tuple[Project, Callable[[Tensor], Tensor]]] = {
    "box": (lambda x: norms.project_box(x, -1.0, 2.0), lambda x: (x - 0.5).abs().flatten(1).amax(1) - 1.5),
    "l2": (lambda x: norms.project_l2_ball(x, 3.0), lambda x: norms.l2(x) - 3.0),
    "linf": (lambda x: norms.project_linf_ball(x, 3.0), lambda x: norms.linf(x) - 3.0),
    "l1": (lambda x: norms.project_l1_ball(x, 3.0), lambda x: norms.l1(x) - 3.0),
    "l1, radius 0": (lambda x: norms.project_l1_ball(x, 0.0), norms.l1),
    "half-space": (half_space, half_space_slack),
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

"""The corners of a boundary made of few planes, against least-distance problems solved by other means."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import truth
from intriguing.attacks.planes import Planes

P, N = 40, 8
BOX = (0.0, 1.0)
ROWS = torch.arange(P)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def corners(seed: int, count: int) -> tuple[Planes, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Planes about points x (P, N) that lie inside of all, images x0, some of whose entries are at the box's ends."""
    x, x0 = drawn(seed, P, N), (2 * drawn(seed + 1, P, N) - 0.5).clamp(*BOX)
    normals = 4 * drawn(seed + 2, P, count, N) - 2
    gaps = 0.2 * drawn(seed + 3, P, count)
    planes = Planes(P, N, count - 1, x)
    for i in range(1, count):
        planes.add(ROWS, x, normals[:, i], gaps[:, i])
    b = torch.einsum("pin,pn->pi", normals, x) - gaps
    return planes, x, x0, normals, gaps, b


@pytest.mark.parametrize("count", [1, 2, 4, 6])
def test_the_corner_is_the_nearest_point_of_the_box_within_all_planes(count: int) -> None:
    planes, x, x0, normals, gaps, b = corners(count, count)
    y = planes.corner(ROWS, x, normals[:, 0], gaps[:, 0], x0, torch.zeros(P, dtype=torch.float64), BOX)
    assert ((y >= 0) & (y <= 1)).all()
    missing = (b - torch.einsum("pin,pn->pi", normals, y)).amax(1)
    far = torch.linalg.vector_norm(y - x0, dim=1)
    exact = 0
    for i in range(P):
        A, start = normals[i].numpy(), x0[i].numpy()
        least = truth.least_distance(A, b[i].numpy() - A @ start, -start, 1 - start)
        exact += bool(missing[i] < 1e-6 and abs(far[i] - least) < 1e-6)
    assert (far > 0.1).sum() >= P / 4
    assert exact == P


@pytest.mark.parametrize("count", [4, 6])
def test_the_corner_of_planes_that_are_nearly_parallel(count: int) -> None:
    """Steps of Newton's method go too far there, and what is beyond all planes must find its way back."""
    n = 50
    x, x0 = drawn(40, P, n), (1.6 * drawn(41, P, n) - 0.3).clamp(*BOX)
    first = 2 * drawn(42, P, 1, n) - 1
    normals = first + 0.3 * (2 * drawn(43, P, count, n) - 1)
    gaps = 0.05 * drawn(44, P, count)
    planes = Planes(P, n, count - 1, x)
    for i in range(1, count):
        planes.add(ROWS, x, normals[:, i], gaps[:, i])
    y = planes.corner(ROWS, x, normals[:, 0], gaps[:, 0], x0, torch.zeros(P, dtype=torch.float64), BOX)
    b = torch.einsum("pin,pn->pi", normals, x) - gaps
    assert (torch.einsum("pin,pn->pi", normals, y) >= b - 1e-6).all()
    far = torch.linalg.vector_norm(y - x0, dim=1)
    for i in range(0, P, 8):
        A, start = normals[i].numpy(), x0[i].numpy()
        assert far[i] == pytest.approx(truth.least_distance(A, b[i].numpy() - A @ start, -start, 1 - start), abs=1e-6)


@pytest.mark.parametrize("count", [2, 4])
def test_a_plane_seen_from_another_point_too_counts_once(count: int) -> None:
    """In single precision a plane that counts twice, off by rounding, moves the corner by 1e-5."""
    x, x0 = drawn(50, P, N).float(), (1.6 * drawn(51, P, N) - 0.3).clamp(*BOX).float()
    normals, gaps = (2 * drawn(52, P, count, N) - 1).float(), 0.05 * drawn(53, P, count).float()
    elsewhere = (x + 0.2 * (drawn(54, P, N).float() - 0.5)).clamp(*BOX)

    def corner(*, twice: bool) -> Tensor:
        planes = Planes(P, N, 5, x)
        if twice:
            value = (normals[:, 0] * (elsewhere - x)).sum(1) + gaps[:, 0]
            planes.add(ROWS, elsewhere, normals[:, 0], value)
        for i in range(1, count):
            planes.add(ROWS, x, normals[:, i], gaps[:, i])
        return planes.corner(ROWS, x, normals[:, 0], gaps[:, 0], x0, torch.zeros(P), BOX)

    once = corner(twice=False)
    assert (torch.linalg.vector_norm(once - x0, dim=1) > 0.1).sum() >= P / 4
    torch.testing.assert_close(corner(twice=True), once, rtol=0, atol=2e-6)


@pytest.mark.parametrize("count", [2, 4, 6])
def test_within_all_planes_is_the_nearest_point_or_there_is_none(count: int) -> None:
    """Planes about a point of the box, and two that leave nothing between them."""
    _, x, x0, normals, _, b = corners(20 + count, count)
    b = b - 0.1
    far = Planes(P, N, count - 1, x)
    gaps = torch.einsum("pin,pn->pi", normals, x0) - b
    for i in range(1, count):
        far.add(ROWS, x0, normals[:, i], gaps[:, i])
    y, met = far.within(ROWS, x0, normals[:, 0], gaps[:, 0], x0, torch.full((P,), 1e-6, dtype=torch.float64), BOX)
    missing = (b - torch.einsum("pin,pn->pi", normals, y)).amax(1)
    assert ((y >= 0) & (y <= 1)).all()
    assert (missing[met] <= 0).all()
    for i in range(P):
        A, start = normals[i].numpy(), x0[i].numpy()
        least = truth.least_distance(A, b[i].numpy() - A @ start, -start, 1 - start)
        if met[i]:
            assert float(torch.linalg.vector_norm(y[i] - x0[i])) == pytest.approx(least, abs=1e-4)
    assert met.sum() >= 0.9 * P  # x lies within all planes
    opposite = Planes(P, N, 2, x)
    opposite.add(ROWS, x0, -normals[:, 0], -gaps[:, 0] - 0.1)
    assert not opposite.within(ROWS, x0, normals[:, 0], gaps[:, 0], x0, torch.full((P,), 1e-6).double(), BOX)[1].any()


def test_it_stays_beyond_the_planes_by_what_is_asked() -> None:
    planes, x, x0, normals, gaps, b = corners(9, 3)
    y = planes.corner(ROWS, x, normals[:, 0], gaps[:, 0], x0, torch.full((P,), 1e-3, dtype=torch.float64), BOX)
    inside = (torch.einsum("pin,pn->pi", normals, y) - b) / torch.linalg.vector_norm(normals, dim=2)
    reached = inside.amin(1) > 1e-3 - 1e-9
    assert reached.double().mean() >= 0.9


def test_planes_with_the_nearest_success_on_the_wrong_side_do_not_count() -> None:
    x = torch.tensor([[0.6, 0.5]], dtype=torch.float64)
    x0 = torch.tensor([[0.1, 0.5]], dtype=torch.float64)
    a, g = torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor([0.1], dtype=torch.float64)
    right, wrong = torch.tensor([[1.0, 1.0]], dtype=torch.float64), torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    row, zero = torch.tensor([0]), torch.zeros(1, dtype=torch.float64)
    planes = Planes(1, 2, 3, x)
    planes.add(row, x, wrong, torch.tensor([-0.05], dtype=torch.float64))
    assert torch.allclose(planes.corner(row, x, a, g, x0, zero, BOX), torch.tensor([[0.5, 0.5]], dtype=torch.float64))
    planes.add(row, x, right, torch.tensor([0.05], dtype=torch.float64))
    corner = planes.corner(row, x, a, g, x0, zero, BOX)  # x >= 0.5 and x + y >= 1.05
    assert torch.allclose(corner, torch.tensor([[0.5, 0.55]], dtype=torch.float64))


def test_a_plane_is_met_again_from_another_point_of_it_and_kept_once() -> None:
    x, other = drawn(0, 2, N), drawn(1, 2, N)
    a, rows = drawn(2, 2, N) + 0.1, torch.tensor([0, 1])
    g = torch.tensor([0.3, -0.2], dtype=torch.float64)
    planes = Planes(2, N, 2, x)
    planes.add(rows, x, a, g)
    assert not planes.again.any()
    there = g + (a * (other - x)).sum(1)
    there[1] += 1e-3  # parallel, but another plane
    planes.add(rows, other, a, there)
    assert planes.again.tolist() == [True, False]
    planes.add(rows[:1], x[:1], a[:1], g[:1] + 0.5)  # the second place of two is still free: the first plane stays
    assert planes.again.tolist() == [True, False]  # once is enough
    planes.forget(rows[1:])
    planes.add(rows, x, a, g)
    assert planes.again.tolist() == [True, False]
    planes.forget(rows, again=True)
    assert planes.again.all()


def test_the_oldest_plane_makes_room_and_walks_do_not_touch_each_other() -> None:
    x, row = drawn(0, 3, N), torch.tensor([1])
    planes = Planes(3, N, 2, x)
    normals = [drawn(10 + i, 1, N) for i in range(3)]
    g = torch.zeros(1, dtype=torch.float64)
    for a in normals:
        planes.add(row, x[row], a, g)
    planes.add(row, x[row], normals[0], g)
    assert not planes.again.any()  # it was replaced by the third
    planes.add(row, x[row], normals[2], g)
    assert planes.again.tolist() == [False, True, False]


def test_none_are_kept_where_none_are_wanted() -> None:
    x = drawn(0, 2, N)
    planes = Planes(2, N, 0, x)
    for _ in range(2):
        planes.add(torch.tensor([0, 1]), x, x + 1, torch.zeros(2, dtype=torch.float64))
    assert not planes.again.any()


def test_single_precision_reaches_the_corner_too() -> None:
    planes, x, x0, normals, gaps, _b = corners(20, 4)
    single = Planes(P, N, 3, x.float())
    for i in range(1, 4):
        single.add(ROWS, x.float(), normals[:, i].float(), gaps[:, i].float())
    beyond = torch.zeros(P)
    y = single.corner(ROWS, x.float(), normals[:, 0].float(), gaps[:, 0].float(), x0.float(), beyond, BOX)
    exact = planes.corner(ROWS, x, normals[:, 0], gaps[:, 0], x0, beyond.double(), BOX)
    near = np.abs(y.double().numpy() - exact.numpy()).max(1) < 1e-4
    assert near.mean() >= 0.95

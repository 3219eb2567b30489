"""The tests' own truth, tested: gradients, bounds, minima, the exact nearest point of a linear classifier."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import scipy.optimize
import torch

import truth

ALL = [*truth.PROBLEMS, truth.unbounded()]


@pytest.mark.parametrize("problem", ALL, ids=lambda p: p.name)
def test_gradients_agree_with_finite_differences(problem: truth.Problem) -> None:
    generator = torch.Generator().manual_seed(0)
    size = problem.start.abs().clamp(min=1e-3).max()
    near = problem.start + 0.005 * size * torch.rand(problem.n, generator=generator, dtype=torch.float64)
    f, g = problem.numpy(near.numpy())
    # Central differences: the error is f's rounding over the step plus the step squared.
    step = 1e-5 * float(size)
    for i in range(problem.n):
        e = np.zeros(problem.n)
        e[i] = step
        slope = (problem.numpy(near.numpy() + e)[0] - problem.numpy(near.numpy() - e)[0]) / (2 * step)
        rounding = 1e-15 * (abs(f) + problem.scale) / step
        assert slope == pytest.approx(g[i], rel=1e-4, abs=1e-6 * np.abs(g).max() + 10 * rounding)


@pytest.mark.parametrize("problem", ALL, ids=lambda p: p.name)
def test_start_lies_in_the_box_and_rows_are_independent(problem: truth.Problem) -> None:
    assert (problem.lower <= problem.start).all()
    assert (problem.start <= problem.upper).all()
    batch = torch.stack([problem.start, problem.start * 0.9 + 0.01, problem.start])
    f, g = problem.fun(batch, torch.arange(3))
    alone, slope = problem.fun(batch[:1], torch.arange(1))
    # A matrix product may add in another order for another number of rows.
    torch.testing.assert_close(f[:1], alone, rtol=1e-12, atol=0)
    torch.testing.assert_close(g[:1], slope, rtol=1e-10, atol=1e-12 * float(slope.abs().max()))
    assert f[0] == f[2]


@pytest.mark.parametrize("problem", [p for p in ALL if p.minimiser is not None], ids=lambda p: p.name)
def test_the_minimiser_takes_the_minimum_and_is_stationary(problem: truth.Problem) -> None:
    x = problem.minimiser
    assert x is not None
    assert problem.minimum is not None
    assert ((problem.lower <= x) & (x <= problem.upper)).all()
    f, g = problem.fun(x[None], torch.zeros(1, dtype=torch.int64))
    assert f.item() == pytest.approx(problem.minimum, rel=1e-12, abs=1e-12 * problem.scale)
    assert truth.projected_gradient(x[None], g, problem.lower, problem.upper).item() <= problem.tolerance


@pytest.mark.parametrize("problem", [p for p in truth.PROBLEMS if p.unique], ids=lambda p: p.name)
def test_scipy_finds_the_known_minimum(problem: truth.Problem) -> None:
    # SciPy steps out of the domain of the barrier and ends there; its reference is the closed form alone.
    if problem.name == "barrier":
        return
    x, value, _ = truth.by_scipy(problem)
    _, g = problem.numpy(x)
    x, g = torch.from_numpy(x), torch.from_numpy(g)
    assert truth.projected_gradient(x, g, problem.lower, problem.upper) <= problem.tolerance
    if problem.minimum is not None:
        assert abs(value - problem.minimum) <= problem.slack(problem.minimum)


def test_problems_are_many_and_named_apart() -> None:
    assert len({p.name for p in truth.PROBLEMS}) == len(truth.PROBLEMS) >= 16


def test_mixture_evaluates_every_row_under_its_own_problem() -> None:
    mixed = truth.mixture(40)
    assert ((mixed.lower <= mixed.x0) & (mixed.x0 <= mixed.upper)).all()
    rows = torch.tensor([7, 3, 31])
    f, g = mixed.fun(mixed.x0[rows], rows)
    for i, row in enumerate(rows.tolist()):
        value, slope = mixed.problems[int(mixed.kind[row])].numpy(mixed.x0[row].numpy())
        assert f[i].item() == pytest.approx(value, rel=1e-12)
        assert g[i].numpy() == pytest.approx(slope, rel=1e-10, abs=1e-12)


def _random_classifier(seed: int, classes: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 1, n), rng.standard_normal((classes, n)), rng.standard_normal(classes)


@pytest.mark.parametrize("seed", range(20))
def test_nearest_linear_agrees_with_sequential_quadratic_programming(seed: int) -> None:
    x, weights, bias = _random_classifier(seed, classes=4, n=10)
    target = int(np.argsort(weights @ x + bias)[seed % 3])
    found = truth.nearest_linear(x, weights, bias, target)
    others = [j for j in range(4) if j != target]
    A, offset = weights[target] - weights[others], bias[target] - bias[others]
    slsqp = scipy.optimize.minimize(
        lambda r: 0.5 * r @ r,
        np.zeros(10),
        jac=lambda r: r,
        method="SLSQP",
        bounds=scipy.optimize.Bounds(-x, 1 - x),
        constraints={"type": "ineq", "fun": lambda r: A @ (x + r) + offset, "jac": lambda r: A},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    if math.isinf(found.distance):
        # SLSQP minimises the violation's linearisation: unreachable targets end with a half-space missed.
        assert slsqp.status != 0
        assert (A @ (x + slsqp.x) + offset).min() < -1e-6
    else:
        assert slsqp.status == 0
        assert found.distance == pytest.approx(np.linalg.norm(slsqp.x), rel=1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_nearest_linear_of_two_classes_is_the_distance_to_the_plane(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, weights = rng.uniform(0.4, 0.6, 30), rng.standard_normal((2, 30))
    bias = np.zeros(2)
    bias[0] = (weights[1] - weights[0]) @ x + 0.3  # class 0 leads by 0.3: no pixel reaches the box's side
    found = truth.nearest_linear(x, weights, bias, 1)
    expected = 0.3 / np.linalg.norm(weights[1] - weights[0])
    assert (np.abs(found.r) < 0.4).all()
    assert found.distance == pytest.approx(expected, rel=1e-9)
    assert found.bound == pytest.approx(expected, rel=1e-9)


def test_nearest_linear_is_certified_at_full_size() -> None:
    """256 images of 784 pixels, 10 classes: feasible, no duality gap, and quick enough to use in a test."""
    rng = np.random.default_rng(0)
    weights, bias = 0.1 * rng.standard_normal((10, 784)), rng.standard_normal(10)
    # Like handwriting: most pixels are 0 and so lie on a side of the box.
    images = np.clip(rng.standard_normal((256, 784)) - 0.8, 0, 1)
    began = time.perf_counter()
    for image in images:
        logits = weights @ image + bias
        target = int(rng.choice(np.delete(np.arange(10), logits.argmax())))
        found = truth.nearest_linear(image, weights, bias, target)
        assert found.violation <= 1e-9
        assert found.distance == pytest.approx(found.bound, rel=1e-7)
        assert ((image + found.r >= -1e-12) & (image + found.r <= 1 + 1e-12)).all()
    assert time.perf_counter() - began < 120


def test_nearest_linear_of_an_unreachable_class_is_infinite() -> None:
    weights, bias = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([5.0, 0.0])
    found = truth.nearest_linear(np.array([0.5, 0.5]), weights, bias, 1)
    assert math.isinf(found.distance)


def test_nearest_linear_of_the_class_itself_is_zero() -> None:
    x, weights, bias = _random_classifier(0, classes=5, n=6)
    assert truth.nearest_linear(x, weights, bias, int((weights @ x + bias).argmax())).distance == 0.0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("norm", "dual"), [(1, np.inf), (2, 2), (np.inf, 1)])
def test_nearest_of_two_classes_is_the_gap_over_the_dual_norm(norm: float, dual: float, seed: int) -> None:
    """Far from the box's sides the distance to a plane is |gap| / |a|_dual, whatever the norm."""
    rng = np.random.default_rng(seed)
    x, weights = rng.uniform(0.45, 0.55, 12), rng.standard_normal((2, 12))
    bias = np.array([(weights[1] - weights[0]) @ x + 0.2, 0.0])
    expected = 0.2 / np.linalg.norm(weights[1] - weights[0], dual)
    assert truth.nearest_wrong(norm, x, weights, bias, 0) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("norm", [1, np.inf])
def test_nearest_in_l1_and_linf_agrees_with_the_corners_it_can_count(norm: float) -> None:
    """Two pixels, one of them at its bound: the other must do all of it, and a fine grid finds nothing nearer."""
    weights, bias = np.array([[1.0, 2.0], [0.0, 0.0]]), np.array([-0.4, 0.0])
    x = np.array([0.0, 0.5])  # the logit of class 0 leads by 0.6; pixel 0 cannot fall further
    grid = np.stack(np.meshgrid(np.linspace(0, 1, 401), np.linspace(0, 1, 401)), -1).reshape(-1, 2)
    inside = grid[grid @ weights[0] + bias[0] <= 1e-12]
    nearest = np.linalg.norm(inside - x, norm, axis=1).min()
    found = truth.nearest_linear_in(norm, x, weights, bias, 1)
    assert found == pytest.approx(0.3)
    assert nearest == pytest.approx(found, abs=1 / 400)


@pytest.mark.parametrize("seed", range(6))
def test_nearest_norms_are_ordered(seed: int) -> None:
    x, weights, bias = _random_classifier(seed, classes=4, n=10)
    target = int(np.argsort(weights @ x + bias)[1])
    l1, linf = (truth.nearest_linear_in(norm, x, weights, bias, target) for norm in (1, np.inf))
    l2 = truth.nearest_linear(x, weights, bias, target).distance
    assert linf <= l2 * (1 + 1e-9)
    assert l2 <= l1 * (1 + 1e-9)
    assert math.isfinite(l1) == math.isfinite(l2) == math.isfinite(linf)


def test_nearest_in_any_norm_of_an_unreachable_class_is_infinite() -> None:
    weights, bias = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([5.0, 0.0])
    for norm in (1, 2, np.inf):
        assert math.isinf(truth.nearest_wrong(norm, np.array([0.5, 0.5]), weights, bias, 0))


def _relu_net(seed: int, units: int, n: int, classes: int = 3) -> tuple[np.ndarray, tuple, tuple, int]:
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((units, n)), 0.3 * rng.standard_normal(units)
    output = rng.standard_normal((classes, units)), 0.3 * rng.standard_normal(classes)
    x = rng.uniform(0, 1, n)
    return x, hidden, output, int((output[0] @ np.maximum(hidden[0] @ x + hidden[1], 0) + output[1]).argmax())


@pytest.mark.parametrize("seed", range(6))
def test_nearest_relu_agrees_with_a_fine_grid_in_the_plane(seed: int) -> None:
    x, (W, b), (V, c), label = _relu_net(seed, units=5, n=2)
    axis = np.linspace(0, 1, 1201)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    wrong = (np.maximum(grid @ W.T + b, 0) @ V.T + c).argmax(1) != label
    by_grid = np.linalg.norm(grid[wrong] - x, axis=1).min() if wrong.any() else math.inf
    found = truth.nearest_relu(x, [(W, b), (V, c)], label)
    # The grid's nearest wrong point is at most a cell's diagonal beyond the nearest of all, and never before it.
    assert found <= by_grid <= found + 2 * math.sqrt(2) / 1200 or found == by_grid


@pytest.mark.parametrize("seed", range(5))
def test_nearest_relu_of_a_net_whose_units_are_all_active_is_that_of_the_linear_net(seed: int) -> None:
    x, (W, b), (V, c), _ = _relu_net(seed, units=4, n=6)
    b = b + 100.0  # no unit ever rests, so the net is linear in the box
    label = int((V @ (W @ x + b) + c).argmax())
    others = [k for k in range(3) if k != label]
    two = [truth.nearest_linear(x, (V @ W)[[k, label]], (V @ b + c)[[k, label]], 0).distance for k in others]
    assert truth.nearest_relu(x, [(W, b), (V, c)], label) == pytest.approx(min(two), rel=1e-6)

"""The solver against known minima and against SciPy's L-BFGS-B, problem by problem."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import truth
from intriguing import optim

UNIQUE = [p for p in truth.PROBLEMS if p.unique]


class Watched:
    """A problem that notes every batch it is asked for."""

    def __init__(self, problem: truth.Problem) -> None:
        self.problem = problem
        self.points: list[torch.Tensor] = []

    def __call__(self, x: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.points.append(x.clone())
        return self.problem.fun(x, rows)


def solve(problem: truth.Problem, **options: object) -> tuple[optim.Solution, Watched]:
    watched = Watched(problem)
    settings_ = {"tolerance": problem.tolerance, "max_evaluations": 5_000} | options
    solution = optim.minimize(watched, problem.start[None], lower=problem.lower, upper=problem.upper, **settings_)
    return solution, watched


def reference(problem: truth.Problem) -> float:
    """Return the known minimum, or SciPy's."""
    return problem.minimum if problem.minimum is not None else truth.by_scipy(problem)[1]


@pytest.mark.parametrize("problem", truth.PROBLEMS, ids=lambda p: p.name)
def test_the_projected_gradient_is_within_tolerance_and_every_point_inside(problem: truth.Problem) -> None:
    solution, watched = solve(problem)
    assert optim.Status(solution.status.item()) is optim.Status.CONVERGED
    _, g = problem.fun(solution.x, torch.zeros(1, dtype=torch.int64))
    mine = truth.projected_gradient(solution.x, g, problem.lower, problem.upper)
    # Only the rounding of x - g, relative to the size of x, may lie between the two.
    rounding = 4e-16 * solution.x.abs().max().item()
    assert mine.item() <= problem.tolerance + rounding
    assert solution.projected_gradient.item() == pytest.approx(mine.item(), rel=1e-9, abs=rounding)
    for x in [*watched.points, solution.x]:
        assert (x >= problem.lower).all()
        assert (x <= problem.upper).all()


@pytest.mark.parametrize("problem", UNIQUE, ids=lambda p: p.name)
def test_the_minimum_is_the_known_one_or_scipys(problem: truth.Problem) -> None:
    solution, _ = solve(problem)
    expected = reference(problem)
    assert abs(solution.fun.item() - expected) <= problem.slack(expected)
    if problem.minimiser is not None and "powell" not in problem.name:
        # With curvature m at the minimiser, |x - x*| <= |pg| (1 + 1/m): m is at least 1e-3 in these problems
        # (powell singular has none), a tenth of which is a margin for curvature that changes on the way.
        size = max(1.0, problem.minimiser.abs().max().item()) if problem.scale == 1 else 1.0
        away = (solution.x[0] - problem.minimiser).abs().max().item()
        assert away <= 1e-2 * size


# One pair is nearly steepest descent, which takes as many steps as the condition is large: kept to 1e2 there.
STEEP = ("quadratic 1e+04", "quadratic 1e+06", "quadratic 1e+04 free")


@pytest.mark.parametrize(
    ("memory", "problem"),
    [(1, p) for p in UNIQUE if p.name not in STEEP] + [(m, p) for m in (3, 20) for p in UNIQUE],
    ids=lambda v: v.name if isinstance(v, truth.Problem) else str(v),
)
def test_any_memory_finds_the_same_minimum(memory: int, problem: truth.Problem) -> None:
    solution, _ = solve(problem, memory=memory, max_evaluations=5_000)
    expected = reference(problem)
    assert abs(solution.fun.item() - expected) <= problem.slack(expected)


def test_local_minima_are_stationary_and_not_above_the_start() -> None:
    for problem in truth.PROBLEMS:
        if not problem.unique:
            solution, _ = solve(problem)
            assert solution.fun.item() <= problem.value(problem.start[None]).item()
            assert solution.fun.item() >= problem.minimum - problem.slack(problem.minimum)


def test_values_and_points_returned_belong_together() -> None:
    for problem in truth.PROBLEMS:
        solution, _ = solve(problem)
        assert solution.fun.item() == problem.fun(solution.x, torch.zeros(1, dtype=torch.int64))[0].item()


def test_a_start_that_is_the_solution_costs_one_evaluation() -> None:
    solution, _ = solve(truth.starts_solved())
    assert (solution.evaluations.item(), solution.iterations.item()) == (1, 0)


def test_a_projection_onto_a_box_is_found_at_once() -> None:
    solution, _ = solve(truth.projection())
    assert solution.evaluations.item() <= 4


@pytest.mark.parametrize("width", [1.0, 10.0, 100.0, 1000.0])
def test_steps_grow_where_there_is_no_curvature(width: float) -> None:
    """A slope far from its corner: steps that double need log2(1000 / 0.01) < 20 evaluations a coordinate.

    A net's loss far out on its plateau looks like this, and a step of fixed length would crawl there.
    """
    problem = truth.linear(width=width)
    solution, _ = solve(problem)
    assert torch.equal(solution.x[0], problem.minimiser)
    assert solution.evaluations.item() <= 3 * truth.by_scipy(problem)[2]


def test_evaluations_are_of_the_size_of_scipys() -> None:
    """All the problems together take no more than 1.5 times SciPy's evaluations to the same tolerance."""
    ours = theirs = 0
    for problem in UNIQUE:
        if problem.name == "barrier":
            continue  # SciPy leaves its domain and stops
        ours += solve(problem)[0].evaluations.item()
        bounds = scipy.optimize.Bounds(problem.lower.numpy(), problem.upper.numpy())
        options = {"maxcor": 8, "ftol": 0.0, "gtol": problem.tolerance, "maxiter": 5_000, "maxfun": 5_000}
        theirs += scipy.optimize.minimize(
            problem.numpy,
            problem.start.numpy(),
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options=options,
        ).nfev
    assert ours <= 1.5 * theirs


# Values of 1e8 or 1e-8 beside gradients of another size have too few digits in float32: not asked there.
@pytest.mark.parametrize("problem", [p for p in UNIQUE if not p.name.startswith("rescaled")], ids=lambda p: p.name)
def test_float32_reaches_single_precision(problem: truth.Problem) -> None:
    lower, upper = problem.lower.float(), problem.upper.float()
    inside: list[bool] = []

    def fun(x: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inside.append(bool(((x >= lower) & (x <= upper)).all()))
        assert x.dtype == torch.float32
        return truth.value_and_gradient(problem.value, x)

    solution = optim.minimize(fun, problem.start.float()[None], lower=lower, upper=upper, tolerance=1e-4)
    assert solution.x.dtype == torch.float32
    assert all(inside)
    assert ((solution.x >= lower) & (solution.x <= upper)).all()
    expected = reference(problem)
    # Rounding of a sum of terms of the start's size (24 bits), and the tolerance's share |pg|^2 / curvature.
    start = problem.value(problem.start[None]).abs().item()
    assert problem.value(solution.x.double()).item() - expected <= 1e-4 * max(1, abs(expected)) + 1e-6 * start


@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 12),
    rank=st.integers(1, 12),
    log_condition=st.floats(0, 5),
    open_share=st.floats(0, 1),
    memory=st.integers(1, 12),
)
def test_random_convex_quadratics_end_stationary_and_no_higher_than_scipy(
    seed: int, n: int, rank: int, log_condition: float, open_share: float, memory: int
) -> None:
    """Quadratics of any rank in random boxes, some sides open (only where the quadratic has full rank)."""
    rng = np.random.default_rng(seed)
    rank = min(rank, n)
    roots = np.zeros(n)
    roots[:rank] = np.sqrt(np.geomspace(1, 10**-log_condition, rank))
    basis = np.linalg.qr(rng.standard_normal((n, n)))[0]
    root = torch.from_numpy(basis * roots)
    slope = torch.from_numpy(rng.standard_normal(n))
    lower, upper = -rng.exponential(1, n), rng.exponential(1, n)
    if rank == n:
        lower[rng.uniform(size=n) < open_share] = -np.inf
        upper[rng.uniform(size=n) < open_share] = np.inf
    start = torch.from_numpy(np.clip(3 * rng.standard_normal(n), lower, upper))

    def value(x: torch.Tensor) -> torch.Tensor:
        return 0.5 * (x @ root).square().sum(-1) + (x * slope).sum(-1)

    problem = truth.Problem("random", value, start, torch.from_numpy(lower), torch.from_numpy(upper))
    solution, watched = solve(problem, memory=memory, tolerance=1e-6, max_evaluations=20_000)
    f, g = problem.fun(solution.x, torch.zeros(1, dtype=torch.int64))
    assert all(((x >= problem.lower) & (x <= problem.upper)).all() for x in watched.points)
    # An open quadratic of condition 1e5 has values up to 1e5 and steps of that length: rounding of both.
    rounding = 1e-13 * (1 + f.abs().item() + solution.x.abs().max().item())
    ends = truth.projected_gradient(solution.x, g, problem.lower, problem.upper).item()
    status = optim.Status(solution.status.item())
    assert status is optim.Status.CONVERGED or (status is optim.Status.STALLED and ends <= 1e-5)
    assert ends <= 1e-5
    _, theirs, _ = truth.by_scipy(problem)
    # Convexity: f(x) - f* <= pg'(x - x*), and below |pg|^2 / curvature where that is smaller.
    curvature = 10**-log_condition if rank == n else 0.0
    width = min((problem.upper - problem.lower).sum().item(), n * ends / curvature if curvature else np.inf)
    assert f.item() <= theirs + 2 * ends * width + rounding

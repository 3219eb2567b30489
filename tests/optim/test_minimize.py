"""`minimize` as a batch: rows are independent, slots change nothing, counts are true, mistakes are named."""

from __future__ import annotations

import math

import pytest
import torch

import truth
from intriguing import optim
from intriguing.optim import Status

TOLERANCE = 1e-6


class Counted:
    """An objective that counts what it is asked, row by row, and checks what every caller may rely on."""

    def __init__(self, mixed: truth.Mixture) -> None:
        self.mixed = mixed
        self.count = torch.zeros(len(mixed.x0), dtype=torch.int64)
        self.sizes: list[int] = []

    def __call__(self, x: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert x.shape == (len(rows), self.mixed.x0.shape[1])
        assert rows.dtype == torch.int64
        assert len(rows.unique()) == len(rows) > 0
        assert ((x >= self.mixed.lower[rows]) & (x <= self.mixed.upper[rows])).all()
        self.count[rows] += 1
        self.sizes.append(len(rows))
        return self.mixed.fun(x, rows)


def solve(mixed: truth.Mixture, **options: object) -> tuple[optim.Solution, Counted]:
    fun = Counted(mixed)
    chosen = {"tolerance": TOLERANCE, "max_evaluations": 3_000} | options
    return optim.minimize(fun, mixed.x0, lower=mixed.lower, upper=mixed.upper, **chosen), fun


def bowl(x: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return |x - 2|^2 per row."""
    return (x - 2).square().sum(1), 2 * (x - 2)


def assert_same(one: optim.Solution, other: optim.Solution, mixed: truth.Mixture) -> None:
    """Both solutions agree row by row.

    Sums over another number of rows add in another order, so steps differ by rounding, and a row may end a
    step apart; both ends are within the tolerance of one minimiser. With projected gradients at most 1e-6
    and curvatures from 1e-2 (condition 1e4), points differ by 2e-4 at most, values by 1e-10; on powell
    singular, whose curvature vanishes at the end, x differs by the cube root of the gradient.
    """
    assert torch.equal(one.status, other.status)
    torch.testing.assert_close(one.fun, other.fun, rtol=1e-8, atol=1e-7)
    flat = torch.tensor([p.name.startswith("powell") for p in mixed.problems])[mixed.kind]
    torch.testing.assert_close(one.x[~flat], other.x[~flat], rtol=0, atol=2e-4)
    torch.testing.assert_close(one.x[flat], other.x[flat], rtol=0, atol=2e-2)


@pytest.fixture(scope="module")
def mixed() -> truth.Mixture:
    return truth.mixture(257)


@pytest.fixture(scope="module")
def together(mixed: truth.Mixture) -> optim.Solution:
    return solve(mixed)[0]


def test_every_row_of_a_mixed_batch_finds_its_minimum(mixed: truth.Mixture, together: optim.Solution) -> None:
    assert (together.status == Status.CONVERGED).all()
    assert together.converged.all()
    assert (together.projected_gradient <= TOLERANCE).all()
    for i, kind in enumerate(mixed.kind.tolist()):
        minimum = mixed.problems[kind].minimum
        if minimum is not None:
            assert abs(together.fun[i].item() - minimum) <= mixed.problems[kind].slack(minimum)


def test_every_row_alone_equals_itself_in_the_batch(mixed: truth.Mixture, together: optim.Solution) -> None:
    alone = [solve(mixed.only(torch.tensor([i])))[0] for i in range(len(mixed.x0))]
    joined = optim.Solution(
        *(torch.cat([getattr(s, name) for s in alone]) for name in optim.Solution.__dataclass_fields__)
    )
    assert_same(joined, together, mixed)


def test_the_first_steps_are_the_same_to_rounding(mixed: truth.Mixture) -> None:
    """No tolerance hides anything here: a neighbour's influence would show in the first dozen evaluations.

    Rounding of 1e-16 grows with every step, by at most about the condition of the problem in all: 1e-11.
    """
    batch, _ = solve(mixed, max_evaluations=12)
    for i in range(0, len(mixed.x0), 3):
        row, _ = solve(mixed.only(torch.tensor([i])), max_evaluations=12)
        torch.testing.assert_close(row.x[0], batch.x[i], rtol=1e-10, atol=1e-10)
        assert row.iterations.item() == batch.iterations[i].item()
        assert row.evaluations.item() == batch.evaluations[i].item()


def test_the_order_of_rows_does_not_matter(mixed: truth.Mixture, together: optim.Solution) -> None:
    order = torch.randperm(len(mixed.x0), generator=torch.Generator().manual_seed(1))
    shuffled, _ = solve(mixed.only(order))
    back = torch.argsort(order)
    assert_same(
        optim.Solution(*(getattr(shuffled, name)[back] for name in optim.Solution.__dataclass_fields__)),
        together,
        mixed,
    )


@pytest.mark.parametrize("slots", [1, 7, 64, 1_000])
def test_slots_change_nothing_but_the_size_of_a_batch(
    mixed: truth.Mixture, together: optim.Solution, slots: int
) -> None:
    solution, fun = solve(mixed, slots=slots)
    assert max(fun.sizes) == min(slots, len(mixed.x0))
    assert_same(solution, together, mixed)


def test_a_freed_slot_is_filled_at_once(mixed: truth.Mixture) -> None:
    """While rows wait, no batch is smaller than the slots; so no slow row holds the others up."""
    _, fun = solve(mixed, slots=16)
    started, total = 0, int(fun.count.sum())
    assert total == sum(fun.sizes)
    full = [size for size in fun.sizes if size == 16]
    # Only after the last row has started may a batch shrink: then each of at most 16 rows goes on by itself.
    started = len(full)
    assert fun.sizes[:started] == full
    assert len(fun.sizes) - started <= int(fun.count.max())


@pytest.mark.parametrize("limit", [1, 2, 5, 17])
def test_evaluations_are_what_the_objective_saw_and_never_above_the_limit(mixed: truth.Mixture, limit: int) -> None:
    solution, fun = solve(mixed, max_evaluations=limit, slots=50)
    assert torch.equal(solution.evaluations, fun.count)
    assert (solution.evaluations <= limit).all()
    spent = solution.status == Status.BUDGET_SPENT
    assert (solution.evaluations[spent] == limit).all()
    assert (solution.status[~spent] == Status.CONVERGED).all()
    assert spent.any()
    start, _ = mixed.fun(mixed.x0, torch.arange(len(mixed.x0)))
    assert (solution.fun <= start * (1 + 1e-12) + 1e-12).all()


def test_a_spent_budget_returns_the_best_point_seen() -> None:
    problem = truth.rosenbrock(2)
    seen: list[float] = []

    def fun(x: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        f, g = problem.fun(x, rows)
        seen.append(f.item())
        return f, g

    for limit in range(1, 30):
        seen.clear()
        solution = optim.minimize(
            fun, problem.start[None], lower=problem.lower, upper=problem.upper, max_evaluations=limit
        )
        assert solution.fun.item() == min(seen)


def test_a_row_of_nan_disturbs_no_other(mixed: truth.Mixture, together: optim.Solution) -> None:
    bad = torch.tensor([0, 100, 256])

    def fun(x: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        f, g = mixed.fun(x, rows)
        of_bad = torch.isin(rows, bad)
        f[of_bad], g[of_bad] = torch.nan, torch.nan
        return f, g

    solution = optim.minimize(
        fun,
        mixed.x0,
        lower=mixed.lower,
        upper=mixed.upper,
        tolerance=TOLERANCE,
        max_evaluations=3_000,
    )
    assert (solution.status[bad] == Status.NUMERIC_FAILURE).all()
    assert (solution.evaluations[bad] < 100).all()
    good = torch.ones(len(mixed.x0), dtype=torch.bool)
    good[bad] = False
    rows = good.nonzero().flatten()
    fields = optim.Solution.__dataclass_fields__
    assert_same(
        optim.Solution(*(getattr(solution, name)[rows] for name in fields)),
        optim.Solution(*(getattr(together, name)[rows] for name in fields)),
        mixed.only(rows),
    )


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["value", "gradient", "both"])
def test_a_start_that_cannot_be_evaluated_is_a_numeric_failure(poison: float, where: str) -> None:
    def fun(x: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        f, g = bowl(x, rows)
        if where in ("value", "both"):
            f = torch.full_like(f, poison)
        if where in ("gradient", "both"):
            g = g.index_fill(1, torch.tensor([1]), poison)
        return f, g

    solution = optim.minimize(fun, torch.zeros(2, 3))
    assert (solution.status == Status.NUMERIC_FAILURE).all()
    assert torch.equal(solution.x, torch.zeros(2, 3))
    assert not solution.converged.any()


def test_a_function_that_is_undefined_everywhere_else_ends() -> None:
    start = torch.full((1, 3), 0.5, dtype=torch.float64)

    def fun(x: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        f, g = bowl(x, rows)
        return torch.where((x == start).all(1), f, torch.nan), g

    solution = optim.minimize(fun, start)
    assert Status(solution.status.item()) in (Status.NUMERIC_FAILURE, Status.STALLED)
    assert torch.equal(solution.x, start)
    assert solution.evaluations.item() < 200


def test_a_function_without_minimum_does_not_converge() -> None:
    problem = truth.unbounded()
    solution = optim.minimize(problem.fun, problem.start[None], max_evaluations=300)
    assert Status(solution.status.item()) in (
        Status.BUDGET_SPENT,
        Status.NUMERIC_FAILURE,
        Status.STALLED,
    )
    assert solution.x.isfinite().all()
    assert solution.fun.item() < problem.start.sum().item()


def test_a_wrong_gradient_stalls() -> None:
    def fun(x: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        f, g = bowl(x, rows)
        return f, -g

    solution = optim.minimize(fun, torch.zeros(1, 3, dtype=torch.float64), max_evaluations=500)
    assert Status(solution.status.item()) is Status.STALLED
    assert torch.equal(solution.x, torch.zeros(1, 3, dtype=torch.float64))


def test_a_constant_has_converged_at_the_start() -> None:
    solution = optim.minimize(lambda x, rows: (x.sum(1) * 0, x * 0), torch.ones(3, 4))
    assert (solution.status == Status.CONVERGED).all()
    assert (solution.evaluations == 1).all()


@pytest.mark.parametrize("lower", [0.0, torch.zeros(3), torch.zeros(5, 3)], ids=["number", "n", "N,n"])
@pytest.mark.parametrize("upper", [None, 1.0, torch.tensor([1.0, math.inf, 2.0])], ids=["none", "number", "n"])
def test_bounds_come_in_every_shape(lower: float | torch.Tensor, upper: float | torch.Tensor | None) -> None:
    solution = optim.minimize(bowl, torch.full((5, 3), 0.5), lower=lower, upper=upper)
    top = torch.full((3,), math.inf) if upper is None else torch.as_tensor(upper).expand(3)
    torch.testing.assert_close(solution.x, top.clamp(max=2.0).expand(5, 3), rtol=0, atol=1e-5)


def test_a_start_outside_the_bounds_is_moved_onto_them() -> None:
    points: list[torch.Tensor] = []

    def fun(x: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        points.append(x.clone())
        return bowl(x, rows)

    start = torch.tensor([[5.0, -7.0, 0.3]])
    solution = optim.minimize(fun, start, lower=-1.0, upper=1.0)
    assert torch.equal(points[0], torch.tensor([[1.0, -1.0, 0.3]]))
    assert all((x.abs() <= 1).all() for x in points)
    assert torch.equal(solution.x, torch.ones(1, 3))
    assert torch.equal(start, torch.tensor([[5.0, -7.0, 0.3]]))


def test_bounds_by_row_follow_their_rows_through_the_queue() -> None:
    n_rows = 40
    upper = torch.linspace(-1, 3, n_rows)[:, None].expand(n_rows, 2).contiguous()
    solution = optim.minimize(bowl, torch.full((n_rows, 2), -2.0), upper=upper, slots=3)
    torch.testing.assert_close(solution.x, upper.clamp(max=2.0), rtol=0, atol=1e-5)


def test_no_rows_and_one_variable() -> None:
    nothing = optim.minimize(bowl, torch.zeros(0, 4))
    assert nothing.x.shape == (0, 4)
    assert nothing.status.shape == nothing.fun.shape == nothing.evaluations.shape == (0,)
    one = optim.minimize(bowl, torch.zeros(3, 1, dtype=torch.float64))
    torch.testing.assert_close(one.x, torch.full((3, 1), 2.0, dtype=torch.float64))


def test_nothing_of_the_callers_is_changed() -> None:
    mixed = truth.mixture(20)
    x0, lower, upper = mixed.x0.clone(), mixed.lower.clone(), mixed.upper.clone()
    random = torch.random.get_rng_state()
    before = (
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
    )
    inside: list[bool] = []

    def fun(x: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inside.append(x.requires_grad)
        return mixed.fun(x, rows)

    solution = optim.minimize(fun, mixed.x0.requires_grad_(), lower=mixed.lower, upper=mixed.upper)
    assert torch.equal(mixed.x0, x0)
    assert torch.equal(mixed.lower, lower)
    assert torch.equal(mixed.upper, upper)
    assert torch.equal(random, torch.random.get_rng_state())
    after = (
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
    )
    assert before == after
    assert not any(inside)
    assert mixed.x0.grad is None
    assert not solution.x.requires_grad
    assert not solution.fun.requires_grad


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_callers_gradient_mode_does_not_matter(mode: type) -> None:
    x0 = torch.zeros(4, 3, dtype=torch.float64)
    with mode():
        solution = optim.minimize(bowl, x0, upper=1.0)
    assert torch.equal(solution.x, torch.ones(4, 3, dtype=torch.float64))


def test_an_objective_whose_results_carry_a_graph_is_detached() -> None:
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)

    def fun(x: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return ((x - 2).square() * weight).sum(1), 2 * (x - 2) * weight

    solution = optim.minimize(fun, torch.zeros(4, 3, dtype=torch.float64), upper=1.0)
    assert not solution.x.requires_grad
    assert not solution.fun.requires_grad


def test_an_objective_may_answer_in_the_same_memory_every_time(mixed: truth.Mixture, together: optim.Solution) -> None:
    values, gradients = torch.empty(257, dtype=torch.float64), torch.empty(257, 12, dtype=torch.float64)

    def fun(x: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        f, g = mixed.fun(x, rows)
        values[: len(rows)], gradients[: len(rows)] = f, g
        return values[: len(rows)], gradients[: len(rows)]

    solution = optim.minimize(
        fun,
        mixed.x0,
        lower=mixed.lower,
        upper=mixed.upper,
        tolerance=TOLERANCE,
        max_evaluations=3_000,
    )
    assert_same(solution, together, mixed)


def test_running_out_of_memory_halves_the_batch_and_changes_nothing(
    mixed: truth.Mixture, together: optim.Solution
) -> None:
    sizes: list[int] = []

    def fun(x: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if len(rows) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(rows))
        return mixed.fun(x, rows)

    solution = optim.minimize(
        fun,
        mixed.x0,
        lower=mixed.lower,
        upper=mixed.upper,
        tolerance=TOLERANCE,
        max_evaluations=3_000,
    )
    assert_same(solution, together, mixed)
    assert sum(sizes) == int(solution.evaluations.sum())
    assert max(sizes) > 10


def test_one_row_that_does_not_fit_is_an_error() -> None:
    def fun(x: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        optim.minimize(fun, torch.zeros(8, 2))


def test_an_error_of_the_objective_reaches_the_caller() -> None:
    def fun(x: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        optim.minimize(fun, torch.zeros(8, 2))


@pytest.mark.parametrize(
    ("wrong", "options"),
    [
        ("lower", {"lower": 1.0, "upper": 0.0}),
        ("lower", {"lower": torch.tensor([0.0, 2.0, 0.0]), "upper": 1.0}),
        ("lower", {"lower": torch.zeros(2)}),
        ("upper", {"upper": torch.zeros(7, 3)}),
        ("upper", {"upper": math.nan}),
        ("lower", {"lower": torch.tensor([0.0, math.nan, 0.0])}),
        ("memory", {"memory": 0}),
        ("tolerance", {"tolerance": 0.0}),
        ("tolerance", {"tolerance": -1e-5}),
        ("tolerance", {"tolerance": math.nan}),
        ("max_evaluations", {"max_evaluations": 0}),
        ("slots", {"slots": 0}),
    ],
)
def test_mistakes_in_the_options_are_named(wrong: str, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=wrong):
        optim.minimize(bowl, torch.zeros(5, 3), **options)


@pytest.mark.parametrize(
    "x0",
    [
        torch.zeros(3),
        torch.zeros(2, 3, 4),
        torch.zeros(5, 3, dtype=torch.int64),
        torch.zeros(5, 3, dtype=torch.float16),
        torch.zeros(5, 3, dtype=torch.complex64),
        torch.full((5, 3), math.nan),
    ],
    ids=["1-d", "3-d", "int", "half", "complex", "nan"],
)
def test_mistakes_in_the_start_are_named(x0: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="x0"):
        optim.minimize(bowl, x0)


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: (x.sum(), x),
        lambda x: (x.sum(1, keepdim=True), x),
        lambda x: (x.sum(1)[:-1], x),
        lambda x: (x.sum(1), x[:, :-1]),
        lambda x: (x.sum(1), x.sum(1)),
    ],
    ids=["scalar", "column", "short", "narrow", "flat gradient"],
)
def test_an_objective_that_answers_in_other_shapes_is_named(answer: object) -> None:
    with pytest.raises(ValueError, match="fun"):
        optim.minimize(lambda x, rows: answer(x), torch.ones(5, 3))

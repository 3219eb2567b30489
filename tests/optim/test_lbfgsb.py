"""The ask and tell core: gradients from anywhere, rows stopped by the caller, a state that can be saved."""

from __future__ import annotations

import io
import itertools
import math

import pytest
import torch

import truth
from intriguing import optim
from intriguing.optim import Finished, Solver, Status, arrays


def make(mixed: truth.Mixture, slots: int, **options: object) -> Solver:
    chosen = {"tolerance": 1e-6, "max_evaluations": 3_000} | options
    return Solver(slots, mixed.x0.shape[1], bounds_by_row=True, dtype=torch.float64, **chosen)


def insert(solver: Solver, mixed: truth.Mixture, rows: torch.Tensor) -> None:
    solver.insert(mixed.x0[rows], tags=rows, lower=mixed.lower[rows], upper=mixed.upper[rows])


def tick(solver: Solver, mixed: truth.Mixture) -> Finished:
    x, tags = solver.ask()
    assert ((x >= mixed.lower[tags]) & (x <= mixed.upper[tags])).all()
    return solver.tell(*mixed.fun(x.clone(), tags))


def run(solver: Solver, mixed: truth.Mixture) -> dict[int, tuple[torch.Tensor, int]]:
    """Tell until no row lives: tag -> final point and evaluations."""
    ended = {}
    while solver.live:
        finished = tick(solver, mixed)
        for i, tag in enumerate(finished.tag.tolist()):
            ended[tag] = (finished.x[i].clone(), int(finished.evaluations[i]))
    return ended


def test_ask_and_tell_ends_where_minimize_ends() -> None:
    mixed = truth.mixture(30)
    solution = optim.minimize(
        mixed.fun, mixed.x0, lower=mixed.lower, upper=mixed.upper, tolerance=1e-6, max_evaluations=3_000
    )
    solver = make(mixed, 30)
    insert(solver, mixed, torch.arange(30))
    ended = run(solver, mixed)
    assert sorted(ended) == list(range(30))
    # The same batches in the same order: the same arithmetic.
    for tag, (x, evaluations) in ended.items():
        torch.testing.assert_close(x, solution.x[tag], rtol=1e-12, atol=1e-12)
        assert evaluations == solution.evaluations[tag].item()


def test_small_arrays_of_either_kind_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    mixed, ended = truth.mixture(60), []
    for kind in (arrays.of_numpy(), arrays.of_torch(torch.device("cpu"))):
        monkeypatch.setattr(arrays, "of_device", lambda device, kind=kind: kind)
        solver = make(mixed, 25, max_evaluations=60)
        waiting, finished = iter(range(60)), {}
        while True:
            insert(solver, mixed, torch.tensor(list(itertools.islice(waiting, solver.free)), dtype=torch.int64))
            if not solver.live:
                break
            told = tick(solver, mixed)
            finished |= {tag: (told.x[i].clone(), told.status[i].item()) for i, tag in enumerate(told.tag.tolist())}
        ended.append(finished)
    numpy, torchs = ended
    assert sorted(numpy) == sorted(torchs) == list(range(60))
    alike = 0
    for tag, (x, status) in numpy.items():
        # Sums in another order part ways where a problem is ill-conditioned; most are not.
        alike += bool(torch.allclose(x, torchs[tag][0], atol=1e-5)) and status == torchs[tag][1]
    assert alike >= 54


def test_slots_are_counted() -> None:
    mixed = truth.mixture(10)
    solver = make(mixed, 4)
    assert (solver.live, solver.free) == (0, 4)
    insert(solver, mixed, torch.arange(3))
    assert (solver.live, solver.free) == (3, 1)
    with pytest.raises(ValueError, match=r"free|slot"):
        insert(solver, mixed, torch.arange(3, 6))
    run(solver, mixed)
    assert (solver.live, solver.free) == (0, 4)


def test_asking_twice_gives_the_same_points() -> None:
    mixed = truth.mixture(5)
    solver = make(mixed, 5)
    insert(solver, mixed, torch.arange(5))
    for _ in range(3):
        first, tags = solver.ask()
        first = first.clone()
        second, again = solver.ask()
        assert torch.equal(first, second)
        assert torch.equal(tags, again)
        tick(solver, mixed)


def test_a_row_may_join_at_any_time_and_disturbs_no_other() -> None:
    mixed = truth.mixture(12)
    apart = make(mixed, 12)
    insert(apart, mixed, torch.arange(6))
    expected = run(apart, mixed)
    joined = make(mixed, 12)
    insert(joined, mixed, torch.arange(6))
    for _ in range(3):
        for tag in tick(joined, mixed).tag.tolist():
            expected.pop(tag)
    insert(joined, mixed, torch.arange(6, 12))
    ended = run(joined, mixed)
    assert set(range(6, 12)) <= set(ended)
    for tag, (x, _) in expected.items():
        # Both ends lie within a projected gradient of 1e-6 of one minimiser; see test_minimize on rounding.
        flat = mixed.problems[int(mixed.kind[tag])].name.startswith("powell")
        torch.testing.assert_close(ended[tag][0], x, rtol=0, atol=2e-2 if flat else 2e-4)


def test_a_stopped_row_returns_its_best_point_and_frees_its_slot() -> None:
    mixed = truth.mixture(6)
    solver = make(mixed, 6)
    insert(solver, mixed, torch.arange(6))
    best = torch.full((6,), math.inf, dtype=torch.float64)
    for _ in range(3):
        x, tags = solver.ask()
        f, g = mixed.fun(x.clone(), tags)
        best[tags] = torch.minimum(best[tags], f)
        solver.tell(f, g)
    victim = solver.ask()[1][:1].clone()
    live = solver.live
    stopped = solver.stop(victim)
    assert torch.equal(stopped.tag, victim)
    assert (stopped.status == Status.STOPPED).all()
    assert stopped.fun.double() == best[victim]
    assert solver.live == live - 1
    assert victim.item() not in solver.ask()[1].tolist()
    assert victim.item() not in run(solver, mixed)


def test_new_rows_take_the_slots_of_rows_that_ended_and_no_other_moves() -> None:
    mixed = truth.mixture(12)
    solver, alone = make(mixed, 6), make(mixed, 6)
    for each in (solver, alone):
        insert(each, mixed, torch.arange(6))
        tick(each, mixed)
        each.stop(torch.tensor([1, 4]))
    assert (solver.live, solver.free) == (4, 2)
    insert(solver, mixed, torch.tensor([7]))
    assert (solver.live, solver.free) == (5, 1)
    tags = solver.ask()[1].tolist()
    assert tags == [0, 7, 2, 3, 5]  # one slot refilled, the other closed by the last row
    assert torch.equal(solver.ask()[0][1], mixed.x0[7].clamp(mixed.lower[7], mixed.upper[7]))
    assert sorted(solver.state_dict()["_tag"].tolist()) == [0, 2, 3, 5, 7]
    assert sorted(alone.state_dict()["_tag"].tolist()) == [0, 2, 3, 5], "holes are no part of a state"
    expected, ended = run(alone, mixed), run(solver, mixed)
    assert sorted(ended) == [0, 2, 3, 5, 7]
    for tag, (x, _) in expected.items():
        flat = mixed.problems[int(mixed.kind[tag])].name.startswith("powell")
        torch.testing.assert_close(ended[tag][0], x, rtol=0, atol=2e-2 if flat else 2e-4)


def test_a_saved_solver_goes_on_to_the_same_end() -> None:
    mixed = truth.mixture(9)
    whole = make(mixed, 9)
    insert(whole, mixed, torch.arange(9))
    for _ in range(6):
        tick(whole, mixed)
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    expected = run(whole, mixed)
    file.seek(0)
    resumed = make(mixed, 9)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    ended = run(resumed, mixed)
    assert sorted(ended) == sorted(expected)
    for tag, (x, evaluations) in expected.items():
        assert torch.equal(ended[tag][0], x)
        assert ended[tag][1] == evaluations


def test_a_saved_state_is_not_changed_by_going_on() -> None:
    mixed = truth.mixture(4)
    solver = make(mixed, 4)
    insert(solver, mixed, torch.arange(4))
    tick(solver, mixed)
    state = solver.state_dict()
    before = {k: v.clone() for k, v in state.items() if isinstance(v, torch.Tensor)}
    run(solver, mixed)
    assert all(torch.equal(state[k], v) for k, v in before.items())


def test_tell_names_wrong_shapes() -> None:
    solver = Solver(2, 3, dtype=torch.float64)
    solver.insert(torch.zeros(2, 3, dtype=torch.float64), tags=torch.tensor([0, 1]))
    solver.ask()
    with pytest.raises(ValueError, match="fun"):
        solver.tell(torch.zeros(3, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match="gradient"):
        solver.tell(torch.zeros(2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64))

"""Limited-memory BFGS on inner products, against the dense matrices that it stands for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from intriguing.attacks.secants import Secants

PAIRS, P, N = 3, 4, 7


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def curved(seed: int, steps: int) -> list[tuple[Tensor, Tensor]]:
    """Pairs (P, N) of steps s and y = B s, with one positive definite B per row."""
    A = drawn(seed, P, N, N)
    B = torch.eye(N, dtype=torch.float64) + A @ A.mT
    return [(s, torch.einsum("pij,pj->pi", B, s)) for s in (drawn(seed + 1 + i, P, N) for i in range(steps))]


def dense(pairs: list[tuple[np.ndarray, np.ndarray]], alpha: float) -> np.ndarray:
    """Return the inverse that BFGS builds from alpha I by the pairs in order (Nocedal and Wright, equation 6.17)."""
    H = alpha * np.eye(N)
    for s, y in pairs:
        rho = 1 / (s @ y)
        V = np.eye(N) - rho * np.outer(s, y)
        H = V @ H @ V.T + rho * np.outer(s, s)
    return H


def step(memory: Secants, free: Tensor, alpha: Tensor, missing: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    d, a = drawn(90, P, N), drawn(91, P, N)
    return d, a, memory.step(torch.arange(P), d, a, free, alpha, missing)


@pytest.mark.parametrize("steps", [0, 1, 3, 5])
def test_the_step_is_that_of_the_dense_inverse_of_the_last_pairs(steps: int) -> None:
    memory = Secants(P, N, PAIRS, torch.zeros(0, dtype=torch.float64))
    pairs = curved(0, steps)
    for s, y in pairs:
        memory.add(torch.arange(P), s, y)
    free = torch.ones(P, N, dtype=torch.bool)
    free[1, 2] = free[2, 0] = False
    alpha, missing = torch.tensor([1.0, 0.5, 0.25, 2.0]).double(), torch.tensor([300.0, -500.0, 200.0, 100.0]).double()
    d, a, p = step(memory, free, alpha, missing)
    assert memory.count.tolist() == [min(steps, PAIRS)] * P
    for row in range(P):
        keep = free[row].double().numpy()
        kept = [(s[row].numpy() * keep, y[row].numpy() * keep) for s, y in pairs[-PAIRS:]]
        H = dense([(s, y) for s, y in kept if s @ y > 0], float(alpha[row]))
        v, w = d[row].numpy() * keep, a[row].numpy() * keep
        t = max((float(missing[row]) + w @ H @ v) / (w @ H @ w), 0.0)
        np.testing.assert_allclose(p[row].numpy(), (t * H @ w - H @ v) * keep, rtol=1e-8, atol=1e-10)
    gained = (a * p).sum(1)
    assert (gained >= missing - 1e-9).all()
    torch.testing.assert_close(gained[[0, 2, 3]], missing[[0, 2, 3]], rtol=1e-9, atol=0)  # it is reached, not passed


def test_with_as_many_pairs_as_dimensions_a_quadratic_is_solved_in_one_step() -> None:
    """Steps along the eigenvectors show the whole matrix: the next step is the solution of the quadratic program."""
    n = 4
    Q, _ = torch.linalg.qr(drawn(3, n, n))
    B = Q @ torch.diag(torch.tensor([1.0, 3.0, 10.0, 40.0]).double()) @ Q.T
    memory = Secants(1, n, n, torch.zeros(0, dtype=torch.float64))
    for i in range(n):
        memory.add(torch.tensor([0]), Q[:, i][None], (B @ Q[:, i])[None])
    d, a = drawn(4, n), drawn(5, n)
    one = torch.ones(1, dtype=torch.float64)
    p = memory.step(torch.tensor([0]), d[None], a[None], torch.ones(1, n, dtype=torch.bool), one, 2 * one)[0]
    # min <d, p> + p'Bp / 2 with <a, p> = 2, by its conditions of optimality.
    system = torch.cat([torch.cat([B, -a[:, None]], 1), torch.cat([a, a.new_zeros(1)])[None]])
    expected = torch.linalg.solve(system, torch.cat([-d, a.new_tensor([2.0])]))[:n]
    torch.testing.assert_close(p, expected, rtol=1e-9, atol=1e-11)


def test_a_pair_without_curvature_is_damped_and_the_inverse_stays_positive() -> None:
    memory = Secants(P, N, PAIRS, torch.zeros(0, dtype=torch.float64))
    s = drawn(1, P, N)
    memory.add(torch.arange(P), s, -2 * s)  # s'y = -2 s's: Powell's y has s'y = 0.2 s's, so that H s = s / 0.2
    ones = torch.ones(P, dtype=torch.float64)
    p = memory.step(torch.arange(P), s, drawn(2, P, N), torch.ones(P, N, dtype=torch.bool), ones, -1e6 * ones)
    torch.testing.assert_close(p, -5 * s, rtol=1e-9, atol=0)


def test_a_step_that_is_not_finite_or_did_not_move_is_not_learned() -> None:
    memory = Secants(P, N, PAIRS, torch.zeros(0, dtype=torch.float64))
    s = drawn(1, P, N)
    y = 3 * s
    y[1, 0], s[2] = torch.nan, 0.0
    memory.add(torch.arange(P), s, y)
    assert memory.count.tolist() == [1, 0, 0, 1]
    memory.forget(torch.tensor([3]))
    assert memory.count.tolist() == [1, 0, 0, 0]
    _, _, p = step(memory, torch.ones(P, N, dtype=torch.bool), torch.ones(P).double(), -1e6 * torch.ones(P).double())
    torch.testing.assert_close(p[1:], -drawn(90, P, N)[1:], rtol=1e-12, atol=0)
    assert not torch.allclose(p[0], -drawn(90, P, N)[0])

"""The largest singular value of a batch against LAPACK's, where it is hard to find, and where there is none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from intriguing.bounds import singular
from intriguing.bounds.singular import Norm, largest


def gram(A: Tensor) -> Tensor:
    return A @ A.mH


def check(norm: Norm, truth: float) -> None:
    # The norm is proven to lie in [value - residual, value]; rounding adds a part in 1e12.
    assert norm.value - norm.residual <= truth * (1 + 1e-12)
    assert norm.value >= truth * (1 - 1e-12)
    assert norm.residual <= 1e-8 * norm.value


@pytest.mark.parametrize("n", [1, 2, 7, 40, 90])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_random_matrices(n: int, dtype: torch.dtype) -> None:
    A = torch.randn(30, n, n + 5, dtype=dtype, generator=torch.Generator().manual_seed(n))
    check(largest([gram(A[:13]), gram(A[13:])]), float(torch.linalg.svdvals(A).max()))


def test_an_outlier_in_the_last_batch_is_found() -> None:
    A = torch.randn(60, 50, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    A[59] *= 1.001 * torch.linalg.svdvals(A[:59]).max() / torch.linalg.svdvals(A[59]).max()
    truth = float(torch.linalg.svdvals(A[59]).max())
    check(largest([gram(A[:20]), gram(A[20:40]), gram(A[40:])]), truth)


def test_a_direction_that_the_start_misses_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    # Lanczos from a vector orthogonal to the largest direction never sees it; the proof does not let that pass.
    G = torch.diag(torch.linspace(1, 2, 200, dtype=torch.float64))
    G[0, 0] = 9.0

    def without_first(n: int, **options: object) -> Tensor:
        v = torch.ones(n, dtype=torch.float64)
        v[0] = 0
        return v

    monkeypatch.setattr(singular.torch, "randn", without_first)
    check(largest([G[None]]), 3.0)


def test_clustered_and_repeated_values() -> None:
    check(largest([torch.eye(120, dtype=torch.float64)[None].repeat(9, 1, 1)]), 1.0)
    values = 1 - torch.arange(150, dtype=torch.float64) * 1e-9
    check(largest([torch.diag(values)[None]]), 1.0)


def test_nothing_but_zeros() -> None:
    assert largest([torch.zeros(7, 60, 60, dtype=torch.float64)]) == Norm(0.0, 0.0)
    assert (
        largest([torch.zeros(2, 3, 3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)[None]]).value > 1 - 1e-9
    )

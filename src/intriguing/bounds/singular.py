"""The largest singular value of many matrices at once, with a proof that none is larger.

A matrix A has no singular value above t exactly if t^2 I - A A* is positive semidefinite, which a Cholesky
factorisation settles at a small part of the cost of eigenvalues. So Lanczos iterations find a candidate t, one
factorisation per matrix either proves it or names the few matrices that can still win, and only these are looked at
again. Everything is in float64.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from intriguing import rng

SLACK = 1e-8  # of squared norms; rounding in a factorisation of 4096 columns stays below 1e-11
_FIRST, _LATER, _CANDIDATES = 12, 48, 4  # Lanczos steps on all matrices, then on the few most promising


@dataclass(frozen=True)
class Norm:
    """An operator norm: at most `value`, at least ``value - residual``."""

    value: float
    residual: float


def largest(grams: Iterable[Tensor]) -> Norm:
    """Return the largest singular value among matrices A, given A A* or A* A.

    Args:
        grams: batches (F, n, n) of Hermitian positive semidefinite matrices, float64 or complex128.

    Returns:
        The norm; its residual is a relative 5e-9.

    Example:
        >>> norm = largest([torch.diag(torch.tensor([4.0, 9.0]).double())[None]])
        >>> round(norm.value, 6)
        3.0
    """
    square = 0.0
    for batch in grams:
        square = _raised(square, batch)
    value = (square * (1 + SLACK)) ** 0.5
    return Norm(value, value - square**0.5)


def _raised(square: float, grams: Tensor) -> float:
    """Return the largest eigenvalue of all matrices, or `square` if that is larger."""
    n = grams.shape[-1]
    if n == 1:
        return max(square, float(grams.real.max()))
    open_ = _unproven(square, grams)
    steps = _LATER
    if len(open_) > _CANDIDATES:
        promising = _ritz(open_, min(_FIRST, n)).topk(_CANDIDATES).indices
        square = max(square, float(_ritz(open_[promising], min(steps, n)).max()))
        open_ = _unproven(square, open_)
    while len(open_):
        found = _ritz(open_, steps) if steps < n else torch.linalg.eigvalsh(open_)[:, -1]
        square = max(square, float(found.max()))
        if square <= 0:  # nothing but zeros
            return 0.0
        open_ = open_[:0] if steps >= n else _unproven(square, open_)
        steps *= 2
    return square


def _unproven(square: float, grams: Tensor) -> Tensor:
    """Return the matrices whose eigenvalues are not proven to lie below `square`, give or take the slack."""
    if square <= 0:
        return grams
    shifted = -grams
    shifted.diagonal(dim1=-2, dim2=-1).add_(square * (1 + SLACK))
    failed = torch.linalg.cholesky_ex(shifted).info > 0
    return grams[failed]


def _ritz(grams: Tensor, steps: int) -> Tensor:
    """Return a lower bound of each matrix's largest eigenvalue, (F,), by `steps` of Lanczos.

    The basis is orthogonalised twice against all of itself, so that its Ritz values are what they say.
    """
    F, n = grams.shape[0], grams.shape[-1]
    start = torch.randn(n, generator=rng.generator("lanczos", 0), dtype=torch.float64)
    v = (start / start.norm()).to(grams.dtype).expand(F, n)
    basis = torch.zeros(F, steps, n, dtype=grams.dtype)
    T = torch.zeros(F, steps, steps, dtype=torch.float64)
    scale = grams.diagonal(dim1=-2, dim2=-1).real.sum(-1)
    for k in range(steps):
        basis[:, k] = v
        w = (grams @ v[..., None])[..., 0]
        T[:, k, k] = (v.conj() * w).sum(-1).real
        for _ in range(2):
            known = basis[:, : k + 1]
            w = w - (known.mT @ (known.conj() @ w[..., None]))[..., 0]
        beta = torch.linalg.vector_norm(w, dim=-1)
        # An invariant subspace is exhausted: what is left is rounding, and counts as nothing.
        alive = beta > 1e-13 * scale
        v = torch.where(alive[:, None], w / beta.clamp_min(torch.finfo(torch.float64).tiny)[:, None], 0)
        if k + 1 < steps:
            T[:, k, k + 1] = T[:, k + 1, k] = torch.where(alive, beta, 0)
    best: Tensor = torch.linalg.eigvalsh(T)[:, -1]
    return best

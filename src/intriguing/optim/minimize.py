"""`minimize`: any number of independent box-constrained problems through a fixed number of slots."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from intriguing.optim.lbfgsb import Solver
from intriguing.optim.status import Status

Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

_SLOTS = 1024
_SLOTS_ON_A_DEVICE = 16 * 1024  # a tick takes as long for ten thousand rows there as for one thousand
_HISTORY_BYTES = 512 * 2**20  # default ceiling of the history of all slots together


@dataclass(frozen=True)
class Solution:
    """What `minimize` returns, one entry per row of x0.

    Attributes:
        x: (N, n), the best point found, inside its bounds.
        fun: (N,) float64, the objective there.
        projected_gradient: (N,) float64, largest absolute entry of P(x - g) - x.
        status: (N,) int64, codes of `Status`; ``Status(code).sentence`` says it in words.
        evaluations: (N,) int64, evaluations of the row's objective and gradient.
        iterations: (N,) int64, accepted steps.
    """

    x: Tensor
    fun: Tensor
    projected_gradient: Tensor
    status: Tensor
    evaluations: Tensor
    iterations: Tensor

    @property
    def converged(self) -> Tensor:
        """(N,) bool: which rows met the tolerance."""
        return self.status == int(Status.CONVERGED)


def minimize(
    fun: Objective,
    x0: Tensor,
    *,
    lower: Tensor | float | None = None,
    upper: Tensor | float | None = None,
    memory: int = 8,
    tolerance: float = 1e-5,
    max_evaluations: int = 10_000,
    slots: int | None = None,
) -> Solution:
    """Minimise every row of a batch of independent functions on its box.

    Rows never influence each other: a row solved alone takes the same steps, up to the rounding of matrix
    products of another size. A row that ends hands its slot to the next one at once, so memory depends on
    `slots`, not on the number of rows.

    Args:
        fun: ``fun(x, rows) -> (f, g)``: x (b, n) trial points, rows (b,) int64 which rows of x0 they belong
            to, b <= slots; f (b,) values, g (b, n) gradients. It may return NaN or infinity where it is
            undefined; the search then steps back. Do not write to x.
        x0: (N, n) float32 or float64 starting points; moved onto the bounds where outside. Not modified.
        lower: None (unbounded), a number, (n,) or (N, n); -inf allowed. Bounds may coincide.
        upper: likewise; inf allowed.
        memory: pairs of the limited-memory matrix, at least 1.
        tolerance: largest absolute entry of the projected gradient P(x - g) - x at which a row has converged.
        max_evaluations: the most evaluations one row may use.
        slots: rows evaluated together; by default up to 1,024, on a CUDA device up to 16,384, fewer where n is
            large (the history of all slots stays under 512 MiB). If memory runs out the objective is called on half
            as many rows.

    Returns:
        A `Solution`. Not converging is a status, not an exception.

    Raises:
        ValueError: an argument has the wrong shape, type or range, or `fun` returns other shapes.

    Example:
        >>> target = torch.tensor([[2.0, -1.0], [0.25, 0.5]])
        >>> def fun(x, rows):
        ...     r = x - target[rows]
        ...     return (r**2).sum(1), 2 * r
        >>> minimize(fun, torch.zeros(2, 2), lower=0.0, upper=1.0).x
        tensor([[1.0000, 0.0000],
                [0.2500, 0.5000]])
    """
    _check_start(x0)
    N, n = x0.shape
    device = x0.device
    low, high = _bounds(lower, upper, x0)
    by_row = low.dim() == 2 or high.dim() == 2
    if by_row:
        low, high = low.expand(N, n), high.expand(N, n)
    solution = Solution(
        x=torch.empty_like(x0, requires_grad=False),
        fun=torch.full((N,), torch.nan, dtype=torch.float64, device=device),
        projected_gradient=torch.full((N,), torch.nan, dtype=torch.float64, device=device),
        status=torch.zeros(N, dtype=torch.int64, device=device),
        evaluations=torch.zeros(N, dtype=torch.int64, device=device),
        iterations=torch.zeros(N, dtype=torch.int64, device=device),
    )
    if slots is not None and slots < 1:
        raise ValueError(f"slots: expected at least 1, got {slots}")
    if slots is None:
        most = _SLOTS if device.type == "cpu" else _SLOTS_ON_A_DEVICE
        slots = max(1, min(most, _HISTORY_BYTES // max(1, 2 * memory * n * x0.element_size())))
    solver = Solver(
        min(slots, max(N, 1)),
        n,
        lower=None if by_row else low,
        upper=None if by_row else high,
        bounds_by_row=by_row,
        memory=memory,
        tolerance=tolerance,
        max_evaluations=max_evaluations,
        dtype=x0.dtype,
        device=device,
    )
    evaluate = _Evaluator(fun)
    start = x0.detach()
    queued = 0
    while queued < N or solver.live:
        take = min(solver.free, N - queued)
        if take:
            rows = torch.arange(queued, queued + take, device=device)
            bounds = {"lower": low[rows], "upper": high[rows]} if by_row else {}
            solver.insert(start[queued : queued + take], tags=rows, **bounds)
            queued += take
        done = solver.tell(*evaluate(*solver.ask()))
        if len(done.tag):
            at = done.tag
            solution.x[at] = done.x
            solution.fun[at] = done.fun
            solution.status[at] = done.status
            solution.evaluations[at] = done.evaluations
            solution.iterations[at] = done.iterations
            ends = (low[at], high[at]) if by_row else (low, high)
            moved = torch.clamp(done.x - done.gradient, *ends) - done.x
            solution.projected_gradient[at] = moved.abs().amax(1).double()
    return solution


class _Evaluator:
    """Calls the objective, in smaller pieces once memory has run out."""

    def __init__(self, fun: Objective) -> None:
        self.fun = fun
        self.rows_at_once: int | None = None

    def __call__(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        while True:
            size = self.rows_at_once or len(x)
            try:
                pieces = [self._checked(x[i : i + size], rows[i : i + size]) for i in range(0, len(x), size)]
            except (RuntimeError, MemoryError) as error:
                if size <= 1 or not _is_out_of_memory(error):
                    raise
                self.rows_at_once = size // 2
                continue
            if len(pieces) == 1:
                return pieces[0]
            return torch.cat([f for f, _ in pieces]), torch.cat([g for _, g in pieces])

    def _checked(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        f, g = self.fun(x, rows)
        if tuple(f.shape) != (len(x),) or g.shape != x.shape:
            raise ValueError(
                f"fun: expected values ({len(x)},) and gradients {tuple(x.shape)}, "
                f"got {tuple(f.shape)} and {tuple(g.shape)}"
            )
        return f, g


def _is_out_of_memory(error: BaseException) -> bool:
    # The CPU allocator raises a plain RuntimeError; its message is the only sign.
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def _check_start(x0: Tensor) -> None:
    if x0.dim() != 2 or x0.shape[1] < 1:
        raise ValueError(f"x0: expected shape (N, n) with n >= 1, got {tuple(x0.shape)}")
    if x0.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"x0: expected float32 or float64, got {x0.dtype}; convert it first")
    if not bool(torch.isfinite(x0).all()):
        bad = (~torch.isfinite(x0).all(1)).nonzero().squeeze(1)[:5].tolist()
        raise ValueError(f"x0: expected finite numbers, found NaN or infinity in rows {bad}")


def _bounds(lower: Tensor | float | None, upper: Tensor | float | None, x0: Tensor) -> tuple[Tensor, Tensor]:
    """Return bounds of shape (1, 1), (n,) or (N, n), checked against each other."""
    N, n = x0.shape
    checked = []
    for name, bound, default in (("lower", lower, -torch.inf), ("upper", upper, torch.inf)):
        value = torch.as_tensor(default if bound is None else bound, dtype=x0.dtype, device=x0.device)
        if tuple(value.shape) not in ((), (1,), (n,), (N, n)):
            raise ValueError(f"{name}: expected a number, ({n},) or ({N}, {n}), got {tuple(value.shape)}")
        if bool(torch.isnan(value).any()):
            raise ValueError(f"{name}: expected numbers or infinity, found NaN")
        checked.append(value.reshape(1) if value.dim() == 0 else value)
    low, high = checked
    if bool((low > high).any()):
        raise ValueError("lower, upper: a lower bound lies above its upper bound; swap or widen them")
    if bool((low == torch.inf).any()) or bool((high == -torch.inf).any()):
        raise ValueError("lower, upper: a lower bound of +inf or an upper bound of -inf leaves no point")
    return low, high

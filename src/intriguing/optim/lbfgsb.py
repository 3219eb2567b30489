"""Projected L-BFGS on a box for many independent problems at once, driven by ask and tell.

Every row of the batch is its own problem with its own history, step length, status and counts; rows share
nothing but the matrix products that serve them all. One call of `ask` gives one trial point per live row, one
call of `tell` takes their values and gradients. A row that ends frees its slot for the next one at once.

A tick is computed block by block (`step.advance`), so that what it holds besides the rows themselves does not grow
with their number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from intriguing.optim import arrays
from intriguing.optim.status import Status
from intriguing.optim.step import Rows, advance

# What one vector of all rows of a block may take. Smaller blocks would fit the cache, but each costs about 90 small
# operations, which is more than the cache gives back; larger ones only hold more memory.
_BLOCK_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Finished:
    """Rows that ended at one `tell`.

    Attributes:
        tag: (k,) int64, the tags they were inserted with.
        x: (k, n), the best point of each, inside its bounds.
        fun: (k,), the objective there.
        gradient: (k, n), its gradient there.
        status: (k,) int64 codes of `Status`.
        evaluations: (k,) int64, how often the row's objective was evaluated.
        iterations: (k,) int64, how many steps were accepted.
    """

    tag: Tensor
    x: Tensor
    fun: Tensor
    gradient: Tensor
    status: Tensor
    evaluations: Tensor
    iterations: Tensor


_WIDE = ("_x", "_g", "_trial", "_W")  # what has n numbers a row, or more


class Solver:
    """A fixed number of slots, each solving one box-constrained problem; ask and tell.

    Memory is slots * (2 * memory + 10) * n numbers (plus bounds where they differ by row), however many rows
    pass through.

    Args:
        slots: how many rows can be live at once.
        n: number of variables.
        lower: lower bounds, broadcastable to (1, n), or None for none; rows may bring their own, see `insert`.
        upper: upper bounds, likewise.
        memory: number of (s, y) pairs kept per row.
        tolerance: a row has converged when the largest absolute entry of its projected gradient
            P(x - g) - x is at most this.
        max_evaluations: evaluations a row may use.
        dtype: float32 or float64.
        device: where everything lives.

    Example:
        >>> solver = Solver(slots=2, n=1, lower=0.0, upper=1.0, dtype=torch.float64)
        >>> solver.insert(torch.tensor([[0.5], [0.5]], dtype=torch.float64), tags=torch.tensor([7, 8]))
        >>> while solver.live:
        ...     x, tags = solver.ask()
        ...     finished = solver.tell(((x - 2) ** 2).sum(1), 2 * (x - 2))
        >>> finished.x.flatten().tolist()
        [1.0, 1.0]
    """

    def __init__(
        self,
        slots: int,
        n: int,
        *,
        lower: Tensor | float | None = None,
        upper: Tensor | float | None = None,
        bounds_by_row: bool = False,
        memory: int = 8,
        tolerance: float = 1e-5,
        max_evaluations: int = 10_000,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype: expected torch.float32 or torch.float64, got {dtype}")
        for name, value in (
            ("slots", slots),
            ("n", n),
            ("memory", memory),
            ("max_evaluations", max_evaluations),
        ):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        if not tolerance > 0:
            raise ValueError(f"tolerance: expected a positive number, got {tolerance}")
        self.slots, self.n, self.memory = slots, n, memory
        self.tolerance, self.max_evaluations = tolerance, max_evaluations
        self.dtype, self.device = dtype, torch.device(device)
        on_cpu = self.device.type == "cpu"
        block = max(1, _BLOCK_BYTES // (n * torch.finfo(dtype).bits // 8)) if on_cpu else slots
        self._block = min(block, slots)
        self._scratch = torch.empty(5, self._block, n, dtype=dtype, device=self.device)

        def wide(*shape: int) -> Tensor:
            return torch.zeros(slots, *shape, dtype=dtype, device=self.device)

        def exact(*shape: int) -> Tensor:
            # The small matrices are float64 in any case: they cost nothing and carry the conditioning.
            return torch.zeros(slots, *shape, dtype=torch.float64, device=self.device)

        def count() -> Tensor:
            return torch.zeros(slots, dtype=torch.int64, device=self.device)

        self._lower, self._upper = self._bound(lower, -torch.inf), self._bound(upper, torch.inf)
        if bounds_by_row:
            self._lower = self._lower.expand(slots, n).contiguous()
            self._upper = self._upper.expand(slots, n).contiguous()
        self._by_row = bounds_by_row
        self._ends: tuple[float, float] | None = None
        if not bounds_by_row and self._lower.numel() == self._upper.numel() == 1:
            self._ends = self._lower.item(), self._upper.item()
        # One tensor per quantity, slot by slot; `_state` names all that a row owns.
        self._x, self._g, self._trial = wide(n), wide(n), wide(n)
        self._g_next = wide(n)  # filled anew at each tick, so no part of the rows' state
        self._W = wide(2 * memory + 1, n)
        self._f, self._gamma, self._t = exact(), exact(), exact()
        self._R_inverse, self._YY, self._D = exact(memory, memory), exact(memory, memory), exact(memory)
        self._head, self._rejections, self._evaluations, self._iterations = count(), count(), count(), count()
        self._failures, self._tag = count(), count()
        # The tick's small arrays are views of these, made once: nothing but the wide tensors is ever exchanged.
        self._small = arrays.of_device(self.device)
        self._small_state = {name: self._small.of(getattr(self, name)) for name in self._STATE if name not in _WIDE}
        # Rows live in the slots before `_end`, but for the holes, slots whose rows have ended since the last `ask`.
        self._end = 0
        self._holes = torch.zeros(0, dtype=torch.int64, device=self.device)
        self._accepted = torch.zeros(0, dtype=torch.bool, device=self.device)
        # What most ticks end: nothing.
        none, nowhere = torch.zeros_like(self._holes), torch.zeros(0, n, dtype=dtype, device=self.device)
        self._none = Finished(none, nowhere, none.double(), nowhere, none, none, none)

    _STATE = (
        "_x", "_g", "_trial", "_W", "_f", "_gamma", "_t", "_R_inverse", "_YY", "_D",
        "_head", "_rejections", "_evaluations", "_iterations", "_failures", "_tag",
    )  # fmt: skip

    @property
    def live(self) -> int:
        """How many rows are being solved."""
        return self._end - len(self._holes)

    @property
    def accepted(self) -> Tensor:
        """(b,) bool: which of the points last asked for became the current points of their rows."""
        return self._accepted

    @property
    def free(self) -> int:
        """How many slots wait for a row."""
        return self.slots - self.live

    def insert(
        self,
        x0: Tensor,
        *,
        tags: Tensor,
        lower: Tensor | None = None,
        upper: Tensor | None = None,
    ) -> None:
        """Start new rows in free slots; they are first evaluated at the next `ask`.

        Args:
            x0: (k, n) starting points, k <= `free`; a start outside its bounds is moved onto them.
            tags: (k,) int64, the caller's names for the rows.
            lower: (k, n) bounds of these rows; only where the solver was made with `bounds_by_row`.
            upper: likewise.

        Raises:
            ValueError: too many rows, or bounds for rows in a solver whose bounds are shared.
        """
        k = x0.shape[0]
        if k > self.free:
            raise ValueError(f"x0: {k} rows, but only {self.free} slots are free; insert fewer or ask for more slots")
        if (lower is not None or upper is not None) and not self._by_row:
            raise ValueError("lower, upper: this solver shares its bounds; make it with bounds_by_row=True")
        # New rows take the slots of those that ended, so that none has to move; only what is left needs new ones.
        grown = max(k - len(self._holes), 0)
        at = torch.cat([self._holes[:k], torch.arange(self._end, self._end + grown, device=self.device)])
        self._holes = self._holes[k:]
        self._end += grown
        if self._by_row:
            if lower is not None:
                self._lower[at] = lower
            if upper is not None:
                self._upper[at] = upper
        start = self._clamp(x0.to(self._x), at)
        self._trial.index_copy_(0, at, start)
        self._x.index_copy_(0, at, start)
        self._tag[at] = tags
        # A row without a value yet accepts its first one: f = inf, and s = 0 makes no pair.
        self._f[at] = torch.inf
        self._t[at] = 1.0
        for name in ("_g", "_gamma", "_R_inverse", "_YY", "_D", "_head", "_rejections", "_evaluations",
                     "_iterations", "_failures"):  # fmt: skip
            getattr(self, name).index_fill_(0, at, 0)

    def ask(self) -> tuple[Tensor, Tensor]:
        """Return the trial points (live, n), each inside its bounds, and the tags (live,) of their rows.

        The points are a view of the solver's memory: read them, do not write to them.
        """
        self._close_holes()
        return self._trial[: self._end], self._tag[: self._end]

    def tell(self, fun: Tensor, gradient: Tensor) -> Finished:
        """Take the objective and its gradient at the points `ask` gave; return the rows that ended.

        Args:
            fun: (live,) values. NaN or infinite values are allowed and count as a step too far.
            gradient: (live, n).

        Returns:
            The rows that ended at this call, possibly none; their slots are free again.

        Raises:
            ValueError: shapes other than those.
        """
        self._close_holes()  # none unless the caller did not ask
        L = self._end
        if tuple(fun.shape) != (L,) or tuple(gradient.shape) != (L, self.n):
            raise ValueError(
                f"fun, gradient: expected shapes ({L},) and ({L}, {self.n}), "
                f"got {tuple(fun.shape)} and {tuple(gradient.shape)}"
            )
        if L == 0:
            return self._take(torch.zeros(0, dtype=torch.int64, device=self.device), self._tag[:0])
        self._small_state["_evaluations"][:L] += 1
        blocks = [slice(start, min(start + self._block, L)) for start in range(0, L, self._block)]
        told = [advance(self._rows(at), fun[at], gradient[at]) for at in blocks]
        self._x, self._trial = self._trial, self._x
        self._g, self._g_next = self._g_next, self._g
        self._accepted = torch.cat([self._small.tensor(accepted) for _, accepted in told])
        status = torch.cat([self._small.tensor(status) for status, _ in told])
        ended = status.nonzero().squeeze(1)
        return self._take(ended, status[ended])

    def stop(self, tags: Tensor) -> Finished:
        """End the rows with these tags now, whatever their state (status `Status.STOPPED`)."""
        self._close_holes()
        ended = torch.isin(self._tag[: self._end], tags).nonzero().squeeze(1)
        return self._take(ended, torch.full_like(ended, int(Status.STOPPED)))

    def state_dict(self) -> dict[str, Any]:
        """Return everything the live rows need to go on later, in this process or another."""
        self._close_holes()
        L = self._end
        state: dict[str, Any] = {name: getattr(self, name)[:L].clone() for name in self._STATE}
        state["lower"], state["upper"] = self._lower[:L].clone(), self._upper[:L].clone()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the rows of a `state_dict` of a solver made with the same n, memory and bounds."""
        L = len(state["_tag"])
        if self.slots < L or state["_W"].shape[1:] != self._W.shape[1:]:
            raise ValueError(
                f"state: {L} rows of {tuple(state['_W'].shape[1:])} do not fit {self.slots} slots "
                f"of {tuple(self._W.shape[1:])}"
            )
        for name in self._STATE:
            getattr(self, name)[:L] = state[name]
        if self._by_row:
            self._lower[:L], self._upper[:L] = state["lower"], state["upper"]
        self._end, self._holes = L, self._holes[:0]

    # -- slots ----------------------------------------------------------------------------------------------

    def _take(self, ended: Tensor, status: Tensor) -> Finished:
        """Copy out the rows `ended` and leave their slots to the next ones."""
        self._holes = ended
        if not len(ended):
            return self._none
        return Finished(
            tag=self._tag[ended],
            x=self._x.index_select(0, ended),
            fun=self._f[ended],
            gradient=self._g.index_select(0, ended),
            status=status.clone(),
            evaluations=self._evaluations[ended],
            iterations=self._iterations[ended],
        )

    def _close_holes(self) -> None:
        """Move the last rows into the slots of those that ended, so that the live ones come first."""
        if not len(self._holes):
            return
        left = self.live
        gone = torch.zeros(self._end, dtype=torch.bool, device=self.device)
        gone[self._holes] = True
        source = (~gone[left:]).nonzero().squeeze(1) + left
        target = gone[:left].nonzero().squeeze(1)
        if len(source):
            for name in (*_WIDE, "_lower", "_upper") if self._by_row else _WIDE:
                tensor = getattr(self, name)
                tensor.index_copy_(0, target, tensor.index_select(0, source))
            to, of = self._small.of(target), self._small.of(source)
            for array in self._small_state.values():
                array[to] = array[of]
        self._end, self._holes = left, self._holes[:0]

    def _bound(self, bound: Tensor | float | None, default: float) -> Tensor:
        value = torch.as_tensor(default if bound is None else bound, dtype=self.dtype, device=self.device)
        return value.reshape(1, -1)

    def _clamp(self, points: Tensor, at: Tensor) -> Tensor:
        return torch.clamp(
            points, *((self._lower[at], self._upper[at]) if self._by_row else (self._lower, self._upper))
        )

    def _rows(self, at: slice) -> Rows:
        """Return views of the rows `at`."""
        lower: Tensor | float
        upper: Tensor | float
        if self._ends is not None:
            lower, upper = self._ends
        elif self._by_row:
            lower, upper = self._lower[at], self._upper[at]
        else:
            lower, upper = self._lower, self._upper
        views = {name[1:]: getattr(self, name)[at] for name in _WIDE}
        views |= {name[1:]: array[at] for name, array in self._small_state.items() if name != "_tag"}
        return Rows(
            lower=lower,
            upper=upper,
            g_next=self._g_next[at],
            scratch=self._scratch,
            small=self._small,
            tolerance=self.tolerance,
            max_evaluations=self.max_evaluations,
            **views,
        )

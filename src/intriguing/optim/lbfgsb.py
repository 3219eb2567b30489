"""Projected L-BFGS on a box for many independent problems at once, driven by ask and tell.

Every row of the batch is its own problem with its own history, step length, status and counts; rows share
nothing but the matrix products that serve them all. One call of `ask` gives one trial point per live row, one
call of `tell` takes their values and gradients. A row that ends frees its slot for the next one at once.

The method is the two-metric projection of Bertsekas (SIAM J. Control Optim. 20, 1982) with the limited-memory
matrix of Byrd, Nocedal and Schnabel (Math. Program. 63, 1994, eq. 3.1), restricted to the free variables:

    A  = {i : x_i - gamma g_i leaves [l_i, u_i]}             variables a gradient step would clip
    d_A = P(x - gamma g)_A - x_A                              go where the gradient step goes: onto the bound
    d_F = -(H g_F)_F,   H = gamma I + [S, gamma Y] M [S, gamma Y]^T
    x(t) = P(x + t d)                                         backtracking on the projected arc

What makes it fast for many rows is that nothing in a tick is a loop over the history:

- S and Y of a row are one (2m, n) block W, so all products with the history are two batched matrix products,
  V W^T and c W: each reads W once. A two-loop recursion would read and write ten times as much.
- Pairs are stored restricted to the variables that were free when they were made, so that while the active set
  stays the same H is exactly the L-BFGS matrix of the free subspace, and the small matrices need no rebuilding.
- R^-1, the inverse of the upper triangle of S^T Y, is kept instead of R. Dropping the oldest pair deletes a row
  and a column; a new pair adds one column. Both hold in any order of the slots of a circular buffer, so the
  history is never moved, and forgetting it means zeroing an m x m matrix.

Symbols: B live rows, n variables, m pairs; x, g (B, n); W (B, 2m, n); gamma (B, 1); R^-1, Y^T Y (B, m, m).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from intriguing.optim.status import Status

_ARMIJO = 1e-4  # sufficient decrease; the usual value (Nocedal and Wright, 2006, section 3.1)
_SHRINK_MOST, _SHRINK_LEAST = 0.1, 0.5  # safeguards of the interpolated step (ibid., section 3.5)
_STRAIGHT = 1e-6  # curvature along a step, as a share of its slope, that is as good as none
_GROWTH, _LONGEST = 4.0, 1e12  # growth of the first step after one without curvature, and where it ends
_ROUNDING = 128  # an objective summed over many terms is off by about this many units in its last place
_REJECTIONS_BEFORE_FORGETTING = 4
_REJECTIONS_BEFORE_STALLING = 16


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


class Solver:
    """A fixed number of slots, each solving one box-constrained problem; ask and tell.

    Memory is slots * (2 * memory + 4) * n numbers (plus bounds where they differ by row), however many rows
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
        self._eps = torch.finfo(dtype).eps

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
        self._W = wide(2 * memory, n)
        self._f, self._gamma, self._t = exact(), exact(), exact()
        self._boost = exact()
        self._R_inverse, self._YY, self._D = exact(memory, memory), exact(memory, memory), exact(memory)
        self._head, self._rejections, self._evaluations, self._iterations = count(), count(), count(), count()
        self._failures, self._tag = count(), count()
        self._live = 0
        self._accepted = torch.zeros(0, dtype=torch.bool, device=self.device)

    _STATE = (
        "_x", "_g", "_trial", "_W", "_f", "_gamma", "_t", "_boost", "_R_inverse", "_YY", "_D",
        "_head", "_rejections", "_evaluations", "_iterations", "_failures", "_tag",
    )  # fmt: skip

    @property
    def live(self) -> int:
        """How many rows are being solved."""
        return self._live

    @property
    def accepted(self) -> Tensor:
        """(b,) bool: which of the points last asked for became the current points of their rows."""
        return self._accepted

    @property
    def free(self) -> int:
        """How many slots wait for a row."""
        return self.slots - self._live

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
        at = slice(self._live, self._live + k)
        if self._by_row:
            if lower is not None:
                self._lower[at] = lower
            if upper is not None:
                self._upper[at] = upper
        self._trial[at] = x0
        self._live += k
        self._trial[at] = self._clamp(self._trial[at], at)
        self._x[at] = self._trial[at]
        self._tag[at] = tags
        # A row without a value yet accepts its first one: f = inf, and s = 0 makes no pair.
        self._f[at] = torch.inf
        self._t[at] = self._boost[at] = 1.0
        for name in ("_g", "_gamma", "_R_inverse", "_YY", "_D", "_head", "_rejections", "_evaluations",
                     "_iterations", "_failures"):  # fmt: skip
            getattr(self, name)[at] = 0

    def ask(self) -> tuple[Tensor, Tensor]:
        """Return the trial points (live, n), each inside its bounds, and the tags (live,) of their rows.

        The points are a view of the solver's memory: read them, do not write to them.
        """
        return self._trial[: self._live], self._tag[: self._live]

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
        L = self._live
        if tuple(fun.shape) != (L,) or tuple(gradient.shape) != (L, self.n):
            raise ValueError(
                f"fun, gradient: expected shapes ({L},) and ({L}, {self.n}), "
                f"got {tuple(fun.shape)} and {tuple(gradient.shape)}"
            )
        if L == 0:
            return self._take(torch.zeros(0, dtype=torch.int64, device=self.device), self._tag[:0])
        self._evaluations[:L] += 1
        step, change, along, accepted, fresh = self._judge(fun, gradient)
        status = self._propose(step, change, along, accepted, fresh)
        ended = status.nonzero().squeeze(1)
        return self._take(ended, status[ended])

    def stop(self, tags: Tensor) -> Finished:
        """End the rows with these tags now, whatever their state (status `Status.STOPPED`)."""
        ended = torch.isin(self._tag[: self._live], tags).nonzero().squeeze(1)
        return self._take(ended, torch.full_like(ended, int(Status.STOPPED)))

    def state_dict(self) -> dict[str, Any]:
        """Return everything the live rows need to go on later, in this process or another."""
        L = self._live
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
        self._live = L

    # -- one tick -------------------------------------------------------------------------------------------

    def _judge(self, fun: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
        """Accept or reject the trial points; return s, y (L, n), s^T y (L,) and the masks accepted, fresh (L,)."""
        L = self._live
        f_trial = fun.detach().to(torch.float64)
        g_trial = gradient.detach().to(self.dtype)
        x, g, trial, f = self._x[:L], self._g[:L], self._trial[:L], self._f[:L]
        s = trial - x
        y = g_trial - g
        slope = torch.linalg.vecdot(g, s).double()  # along the projected arc, for the step as taken
        slope_trial = torch.linalg.vecdot(g_trial, s).double()
        fresh = f == torch.inf
        # A NaN or an infinity anywhere in the gradient makes slope_trial one, since s is finite (0 * inf = NaN).
        finite = torch.isfinite(f_trial) & torch.isfinite(slope_trial)
        enough = f_trial <= f + _ARMIJO * slope
        # Near the minimum the rounding of f drowns its decrease; slopes still tell (Hager and Zhang, SIAM J.
        # Optim. 16, 2005, eq. 4.1): a smaller slope at the trial point means a lower point if f is convex there.
        flat = f_trial <= f + _ROUNDING * self._eps * f.abs()
        by_slope = flat & (slope_trial.abs() <= (1 - 2 * _ARMIJO) * slope.abs())
        accepted = finite & (fresh | ((slope < 0) & (enough | by_slope)))
        self._accepted = accepted

        # The minimiser of the quadratic through f, slope and f_trial; a non-finite value shortens most.
        tau = -slope / (2 * (f_trial - f - slope))
        tau = torch.where(finite, tau.nan_to_num(_SHRINK_LEAST), _SHRINK_MOST).clamp(_SHRINK_MOST, _SHRINK_LEAST)
        t_taken = self._t[:L].clone()
        self._t[:L] = torch.where(accepted, 1.0, t_taken * tau)
        # A step too small to move x cannot get any better by shrinking: go straight to the end of the search.
        still = finite & ~fresh & (slope == 0)
        rejections = torch.where(still, _REJECTIONS_BEFORE_STALLING, self._rejections[:L] + 1)
        self._rejections[:L] = torch.where(accepted, 0, rejections)
        self._failures[:L] = torch.where(finite, 0, self._failures[:L] + 1)
        self._iterations[:L] += accepted & ~fresh

        # Most trial points are accepted, so take all and put the rejected rows back; torch.where on whole
        # rows costs ten times as much.
        rejected = (~accepted).nonzero().squeeze(1)
        x_kept, g_kept = x[rejected], g[rejected]
        self._x, self._trial = self._trial, self._x  # the old x is scratch for the next trial
        self._g[:L] = g_trial
        self._x[rejected], self._g[rejected] = x_kept, g_kept
        self._f[:L] = torch.where(accepted, f_trial, f)
        # No curvature along the step, so it was too short: the next search starts with a longer one.
        along = slope_trial - slope
        straight = accepted & ~fresh & (along <= _STRAIGHT * slope.abs())
        self._boost[:L] = torch.where(straight, (t_taken * _GROWTH).clamp(max=_LONGEST), 1.0)
        return s, y, torch.where(straight, 0.0, along), accepted, fresh

    def _propose(self, s: Tensor, y: Tensor, along: Tensor, accepted: Tensor, fresh: Tensor) -> Tensor:
        """Update the histories, write the next trial points, and return the status (L,) of every row."""
        L = self._live
        x, g, gamma = self._x[:L], self._g[:L], self._gamma
        if bool(fresh.any()):
            self._scale_to(fresh, 1.0)  # a first step of at most unit length, as in L-BFGS-B
        forget = (self._rejections[:L] == _REJECTIONS_BEFORE_FORGETTING) & (self._D[:L].amax(1) > 0)
        if bool(forget.any()):
            self._forget(forget)
            # Go on shortening, now along the projected gradient.
            self._scale_to(forget, _SHRINK_MOST * torch.linalg.vector_norm(s[forget], dim=1).double())

        # Masks are kept as 0.0 and 1.0: multiplying by one is eight times faster than torch.where.
        stepped = torch.addcmul(x, g, gamma[:L, None].to(self.dtype), value=-1)
        clipped = self._clamp(stepped, slice(0, L))
        free = torch.eq(stepped, clipped, out=stepped)
        projected = clipped.sub_(x)
        status = self._ended(projected, accepted)

        V = torch.empty(L, 2, self.n, dtype=self.dtype, device=self.device)
        torch.mul(free, g, out=V[:, 0])
        torch.mul(free, y, out=V[:, 1])
        direction, descent = self._direction(V, s, along, accepted & ~fresh)
        move = torch.lerp(projected, direction, free)  # exact at weights 0 and 1
        # H can lose positive definiteness to rounding; then the projected gradient step takes over.
        lost = ~descent
        if bool(lost.any()):
            self._forget(lost)
            move[lost] = projected[lost]
        t = self._t[:L] * torch.where(accepted, self._boost[:L], 1.0)
        self._t[:L] = t
        trial = torch.addcmul(x, move, t[:, None].to(self.dtype), out=self._trial[:L])
        self._clamp(trial, slice(0, L), out=trial)
        return status

    def _direction(self, V: Tensor, s: Tensor, along: Tensor, candidate: Tensor) -> tuple[Tensor, Tensor]:
        """Add the pairs that have curvature; return -H q (L, n) for V = (q, y) and whether it descends (L,).

        `along` is s^T y over all variables.
        """
        L, m = self._live, self.memory
        W = self._W[:L]
        q, y = V[:, 0], V[:, 1]
        # s needs no mask: it only ever meets q and y, which are zero where it is not wanted.
        rho = torch.linalg.vecdot(s, y).double()
        yy = torch.linalg.vector_norm(y, dim=1).double().square()
        ss = torch.linalg.vector_norm(s, dim=1).double().square()
        # Rounding in y is about eps |g|; a pair whose curvature drowns in it would poison H.
        rows = (candidate & (along > 0) & (rho > 64 * self._eps * (ss * yy).sqrt())).nonzero().squeeze(1)
        head = self._head[rows]
        every = len(rows) == L
        W.index_put_((rows, head), s if every else s[rows])
        W.index_put_((rows, m + head), y if every else y[rows])
        products = torch.bmm(V, W.transpose(1, 2)).double()  # (L, 2, 2m): q and y against S and Y
        self._remember(rows, head, products[rows, 1], rho[rows])
        # Without a pair the curvature along the whole step, clipped variables included, still sets the scale;
        # else a scale that clips every variable would never be corrected.
        scaled = candidate & (along > 0) & (ss > 0)
        self._gamma[:L] = torch.where(scaled, ss / along, self._gamma[:L])
        self._gamma[rows] = rho[rows] / yy[rows]
        self._head[rows] = (head + 1) % m
        gamma = self._gamma[:L, None]
        # H q = gamma q + S R^-T [(D + gamma Y^T Y) R^-1 p - gamma u] - gamma Y R^-1 p, p = S^T q, u = Y^T q
        # (Byrd, Nocedal and Schnabel, 1994, eq. 3.1).
        p, u = products[:, 0, :m], products[:, 0, m:]
        R_inverse = self._R_inverse[:L]
        a = _matvec(R_inverse, p)
        b = self._D[:L] * a + gamma * (_matvec(self._YY[:L], a) - u)
        c = _matvec(R_inverse.transpose(1, 2), b)
        weights = torch.cat([-c, gamma * a], dim=1)
        # q^T d from the products at hand, without another pass over n.
        qq = torch.linalg.vector_norm(q, dim=1).double().square()
        slope = (weights * products[:, 0]).sum(1) - gamma[:, 0] * qq
        direction = torch.bmm(weights[:, None].to(self.dtype), W).squeeze(1)
        return direction.addcmul_(q, gamma.to(self.dtype), value=-1), (slope < 0) | (qq == 0)

    def _remember(self, rows: Tensor, head: Tensor, products: Tensor, rho: Tensor) -> None:
        """Put the new pair of each row into the small matrices at its slot `head`."""
        m = self.memory
        sy, yy = products[:, :m], products[:, m:]
        R_inverse = self._R_inverse[rows]
        each = torch.arange(len(rows), device=self.device)
        R_inverse[each, head] = 0
        R_inverse[each, :, head] = 0
        # [[R, r], [0, rho]]^-1 = [[R^-1, -R^-1 r / rho], [0, 1 / rho]]; row and column `head` of R^-1 are 0 here.
        column = -_matvec(R_inverse, sy) / rho[:, None]
        column[each, head] = 1 / rho
        R_inverse[each, :, head] = column
        self._R_inverse[rows] = R_inverse
        self._YY[rows, head] = yy
        self._YY[rows, :, head] = yy
        self._D[rows, head] = rho

    def _ended(self, projected: Tensor, accepted: Tensor) -> Tensor:
        """Return status codes (L,): 0 for rows that go on. `projected` is P(x - gamma g) - x."""
        L = self._live
        gamma = self._gamma[:L]
        status = torch.zeros(L, dtype=torch.int64, device=self.device)
        # |P(x - g) - x| >= |P(x - gamma g) - x| min(1, 1/gamma) entry by entry, and the largest entry is at least
        # the root mean square; only rows that pass this cheap test need the exact one.
        mean = torch.linalg.vector_norm(projected, dim=1).double() / self.n**0.5
        near = accepted & (mean * torch.clamp(1 / gamma, max=1.0) <= self.tolerance)
        rows = near.nonzero().squeeze(1)
        if len(rows):
            exact = self.projected_gradient(rows)
            status[rows[exact <= self.tolerance]] = int(Status.CONVERGED)
        going = status == 0
        stalled = going & (self._rejections[:L] >= _REJECTIONS_BEFORE_STALLING)
        # Non-finite values all the way down are the function's fault, not the step's.
        failed = (stalled & (self._failures[:L] >= _REJECTIONS_BEFORE_STALLING)) | (
            (self._f[:L] == torch.inf) & (self._rejections[:L] > 0)
        )
        spent = going & (self._evaluations[:L] >= self.max_evaluations)
        status[spent] = int(Status.BUDGET_SPENT)
        status[stalled] = int(Status.STALLED)
        status[failed] = int(Status.NUMERIC_FAILURE)
        return status

    def projected_gradient(self, rows: Tensor) -> Tensor:
        """Return the largest absolute entry of P(x - g) - x for the given live rows, (k,) float64."""
        x, g = self._x[rows], self._g[rows]
        return (self._clamp(x - g, rows) - x).abs().amax(1).double()

    def _scale_to(self, mask: Tensor, length: Tensor | float) -> None:
        """Set gamma of the masked rows so that the gradient step has at most this length before clipping.

        Only entries that can move count. Where the box is small beside the gradient, the clipped length would
        say nothing about the scale of the function.
        """
        rows = mask.nonzero().squeeze(1)
        x, g = self._x[rows], self._g[rows]
        moving = self._clamp(x - g, rows) != x
        norm = torch.linalg.vector_norm(g * moving, dim=1).double()
        self._gamma[rows] = (length / norm).clamp(max=1.0).nan_to_num(1.0)

    def _forget(self, mask: Tensor) -> None:
        """Drop the history of the masked rows: with R^-1 = 0 nothing of W is ever read."""
        rows = mask.nonzero().squeeze(1)
        self._R_inverse[rows] = 0
        self._D[rows] = 0
        self._t[rows] = 1.0

    # -- slots ----------------------------------------------------------------------------------------------

    def _take(self, ended: Tensor, status: Tensor) -> Finished:
        """Copy out the rows `ended` and move the last live rows into their slots."""
        finished = Finished(
            tag=self._tag[ended],
            x=self._x[ended],
            fun=self._f[ended],
            gradient=self._g[ended],
            status=status.clone(),
            evaluations=self._evaluations[ended],
            iterations=self._iterations[ended],
        )
        if len(ended):
            left = self._live - len(ended)
            gone = torch.zeros(self._live, dtype=torch.bool, device=self.device)
            gone[ended] = True
            source = (~gone[left:]).nonzero().squeeze(1) + left
            target = gone[:left].nonzero().squeeze(1)
            if len(source):
                names = (*self._STATE, "_lower", "_upper") if self._by_row else self._STATE
                for name in names:
                    tensor = getattr(self, name)
                    tensor[target] = tensor[source]
            self._live = left
        return finished

    def _bound(self, bound: Tensor | float | None, default: float) -> Tensor:
        value = torch.as_tensor(default if bound is None else bound, dtype=self.dtype, device=self.device)
        return value.reshape(1, -1)

    def _clamp(self, points: Tensor, rows: Tensor | slice, out: Tensor | None = None) -> Tensor:
        if self._ends is not None:
            return torch.clamp(points, *self._ends, out=out)  # three times as fast with numbers as with tensors
        if self._by_row:
            return torch.clamp(points, self._lower[rows], self._upper[rows], out=out)
        return torch.clamp(points, self._lower, self._upper, out=out)


def _matvec(matrix: Tensor, vector: Tensor) -> Tensor:
    """Return matrix (B, m, m) times vector (B, m)."""
    return torch.bmm(matrix, vector[:, :, None]).squeeze(2)

"""One tick of the projected L-BFGS on a block of rows: judge the trial points, learn, propose the next ones.

The method is the two-metric projection of Bertsekas (SIAM J. Control Optim. 20, 1982) with the limited-memory
matrix of Byrd, Nocedal and Schnabel (Math. Program. 63, 1994, eq. 3.1), restricted to the free variables:

    A  = {i : x_i - gamma g_i leaves [l_i, u_i]}             variables a gradient step would clip
    d_A = -gamma g_A                                          with t = 1: onto the bound
    d_F = -(H g_F)_F,   H = gamma I + [S, gamma Y] M [S, gamma Y]^T
    x(t) = P(x + t d)                                         backtracking on the projected arc

A depends on t, with t gamma for gamma: as a step shrinks, fewer variables are clipped and more are free. gamma is
that of the last pair but one, so that the gradient step is known before the new pair is.

What makes it fast for many rows is that nothing in a tick is a loop over the history:

- S and Y of a row are one (2m, n) block of W, so all products with the history are two batched matrix products,
  V W^T and c W: each reads W once. A two-loop recursion would read and write ten times as much.
- Pairs are stored restricted to the variables that were free when they were made, so that while the active set
  stays the same H is exactly the L-BFGS matrix of the free subspace, and the small matrices need no rebuilding.
- R^-1, the inverse of the upper triangle of S^T Y, is kept instead of R. Dropping the oldest pair deletes a row
  and a column; a new pair adds one column. Both hold in any order of the slots of a circular buffer, so the
  history is never moved, and forgetting it means zeroing an m x m matrix.

All that is not of length n are small arrays, as `arrays` has them.

Symbols: L rows of the block, n variables, m pairs; x, g (L, n); W (L, 2m, n); gamma (L,); R^-1, Y^T Y (L, m, m).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from intriguing.optim.arrays import Array, Namespace
from intriguing.optim.status import Status

_ARMIJO = 1e-4  # sufficient decrease; the usual value (Nocedal and Wright, 2006, section 3.1)
_SHRINK_MOST, _SHRINK_LEAST = 0.1, 0.5  # safeguards of the interpolated step (ibid., section 3.5)
_STRAIGHT = 1e-6  # curvature along a step, as a share of its slope, that is as good as none
_GROWTH, _LONGEST = 4.0, 1e12  # growth of the first step after one without curvature, and where it ends
_ROUNDING = 128  # an objective summed over many terms is off by about this many units in its last place
_REJECTIONS_BEFORE_FORGETTING = 4
_REJECTIONS_BEFORE_STALLING = 16


@dataclass(frozen=True)
class Rows:
    """Views of a block of rows; everything but the bounds and limits is written in place.

    Attributes:
        x: (L, n) current points; afterwards the next trial points.
        trial: (L, n) points just evaluated; afterwards the current points.
        g: (L, n) gradients at the current points; afterwards those at the points before.
        g_next: (L, n) memory; afterwards the gradients at the current points.
        W: (L, 2m + 1, n) the steps S in the first m places, the changes Y of the gradient in the next m, a spare.
        f: (L,) values at the current points, +inf before the first; float64 like all that follow, and small arrays.
        gamma: (L,) scale of the initial matrix.
        t: (L,) step length of the trial points.
        R_inverse: (L, m, m), zero where there is no pair.
        YY: (L, m, m) products of the y.
        D: (L, m) products s^T y of the pairs.
        head: (L,) int64, the place of the next pair.
        rejections: (L,) int64, trial points rejected in this search.
        failures: (L,) int64, how many of the last ones in a row were not finite.
        evaluations: (L,) int64.
        iterations: (L,) int64.
        lower: number, (1, n) or (L, n).
        upper: likewise.
        scratch: (5, >= L, n) memory for intermediates: fresh memory for them costs more than what is done in it.
        small: namespace of the small arrays.
        tolerance: see `Solver`.
        max_evaluations: see `Solver`.
    """

    x: Tensor
    trial: Tensor
    g: Tensor
    g_next: Tensor
    W: Tensor
    f: Array
    gamma: Array
    t: Array
    R_inverse: Array
    YY: Array
    D: Array
    head: Array
    rejections: Array
    failures: Array
    evaluations: Array
    iterations: Array
    lower: Tensor | float
    upper: Tensor | float
    scratch: Tensor
    small: Namespace
    tolerance: float
    max_evaluations: int

    def clamp(self, points: Tensor, at: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """Project points of all rows, or of the rows `at`, onto their boxes."""
        if isinstance(self.lower, float) and isinstance(self.upper, float):
            return torch.clamp(points, self.lower, self.upper, out=out)  # numbers: three times as fast as tensors
        assert isinstance(self.lower, Tensor)
        assert isinstance(self.upper, Tensor)
        shared = at is None or len(self.lower) == 1
        low, high = (self.lower, self.upper) if shared else (self.lower[at], self.upper[at])
        return torch.clamp(points, low, high, out=out)


def advance(rows: Rows, fun: Tensor, gradient: Tensor) -> tuple[Array, Array]:
    """Take the values at the trial points, write the next trial points.

    Args:
        rows: afterwards `x` holds the next trial points and `trial` the current points, `g_next` their gradients: the
            caller swaps x and trial, g and g_next.
        fun: (L,) values at the trial points.
        gradient: (L, n).

    Returns:
        Status codes (L,), 0 for rows that go on, and which trial points were accepted (L,) bool; small arrays.
    """
    with rows.small.quiet():
        step = _judge(rows, rows.small.of(fun.double()), gradient.detach().to(rows.x.dtype))
        return _propose(rows, step), step.accepted


@dataclass(frozen=True)
class _Step:
    """What the trial points told: s (L, n), memory V (L, 2, n), s^T y (L,), masks (L,)."""

    s: Tensor
    V: Tensor
    along: Array
    accepted: Array
    fresh: Array


def _judge(rows: Rows, f_trial: Array, g_trial: Tensor) -> _Step:
    """Accept or reject the trial points, and choose the lengths of the next steps."""
    x, g, trial, f, small = rows.x, rows.g, rows.trial, rows.f, rows.small
    eps = torch.finfo(x.dtype).eps
    L, n = x.shape
    s = torch.sub(trial, x, out=rows.scratch[0, :L])
    V = rows.scratch[1:3].view(-1, 2, n)[:L]
    product = rows.scratch[3, :L]
    # Along the projected arc, for the step as taken.
    slope = small.of(torch.mul(g, s, out=product).sum(1).double())
    slope_trial = small.of(torch.mul(g_trial, s, out=product).sum(1).double())
    fresh = f == torch.inf
    going = ~fresh
    # A NaN or an infinity anywhere in the gradient makes slope_trial one, since s is finite (0 * inf = NaN).
    finite = small.isfinite(f_trial) & small.isfinite(slope_trial)
    enough = f_trial <= f + _ARMIJO * slope
    # Near the minimum the rounding of f drowns its decrease; slopes still tell (Hager and Zhang, SIAM J.
    # Optim. 16, 2005, eq. 4.1): a smaller slope at the trial point means a lower point if f is convex there.
    flat = f_trial <= f + _ROUNDING * eps * abs(f)
    by_slope = flat & (abs(slope_trial) <= (1 - 2 * _ARMIJO) * abs(slope))
    accepted = finite & (fresh | ((slope < 0) & (enough | by_slope)))

    # The minimiser of the quadratic through f, slope and f_trial; a non-finite value shortens most.
    tau = -slope / (2 * (f_trial - f - slope))
    tau = small.where(small.isnan(tau), _SHRINK_LEAST, small.clip(tau, _SHRINK_MOST, _SHRINK_LEAST))
    tau = small.where(finite, tau, _SHRINK_MOST)
    # A step too small to move x cannot get any better by shrinking: go straight to the end of the search.
    still = finite & going & (slope == 0)
    rejections = small.where(still, _REJECTIONS_BEFORE_STALLING, rows.rejections + 1)
    rows.rejections[:] = small.where(accepted, 0, rejections)
    rows.failures[:] = small.where(finite, 0, rows.failures + 1)
    rows.iterations[:] += accepted & going
    # No curvature along the step, so it was too short: the next search starts with a longer one.
    along = slope_trial - slope
    straight = accepted & going & (along <= _STRAIGHT * abs(slope))
    longer = small.where(straight, small.clip(rows.t * _GROWTH, None, _LONGEST), 1.0)
    rows.t[:] = small.where(accepted, longer, rows.t * tau)

    # Most trial points are accepted, so take all and put the rejected rows back; torch.where on whole
    # rows costs ten times as much.
    rows.g_next.copy_(g_trial)
    if not bool(accepted.all()):
        rejected = small.tensor(small.places(~accepted))
        for now, before in ((trial, x), (rows.g_next, g)):
            now.index_copy_(0, rejected, before.index_select(0, rejected))
    f[:] = small.where(accepted, f_trial, f)
    return _Step(s, V, small.where(straight, 0.0, along), accepted, fresh)


def _propose(rows: Rows, step: _Step) -> Array:
    """Update the histories, write the next trial points, and return the status (L,) of every row."""
    x, g, V, small = rows.trial, rows.g_next, step.V, rows.small  # the points just judged are the current ones
    if bool(step.fresh.any()):
        _scale_to(rows, small.places(step.fresh), 1.0)  # a first step of at most unit length, as in L-BFGS-B
    forget = rows.rejections == _REJECTIONS_BEFORE_FORGETTING
    if bool(forget.any()):
        at = small.places(forget & (rows.D > 0).any(1))
        _forget(rows, at)
        # Go on shortening, now along the projected gradient.
        steps = torch.linalg.vector_norm(step.s.index_select(0, small.tensor(at)), dim=1)
        _scale_to(rows, at, _SHRINK_MOST * small.of(steps.double()))

    # Masks are kept as 0.0 and 1.0: multiplying by one is eight times faster than torch.where.
    length = small.tensor(rows.gamma * rows.t).to(x.dtype)
    stepped = torch.addcmul(x, g, length[:, None], value=-1, out=rows.scratch[3, : len(x)])
    free = torch.eq(rows.clamp(stepped, out=rows.x), stepped, out=rows.scratch[4, : len(x)])
    q, y = V.unbind(1)
    torch.mul(free, g, out=q)
    torch.addcmul(q, free, rows.g, value=-1, out=y)
    qq = small.of(torch.linalg.vector_norm(q, dim=1).double()) ** 2
    status = _ended(rows, qq, step.accepted)
    # The gradient step, corrected by the history where it is free; on the bound elsewhere once clipped.
    torch.addcmul(stepped, free, _history(rows, step, qq), out=rows.x)
    rows.clamp(rows.x, out=rows.x)
    return status


def _history(rows: Rows, step: _Step, qq: Array) -> Tensor:
    """Add the pairs that have curvature; return what they add to the step -t gamma q (L, n), for V = (q, y)."""
    s, V, W, small = step.s, step.V, rows.W, rows.small
    m = rows.D.shape[1]
    ss = small.of(torch.linalg.vector_norm(s, dim=1).double()) ** 2
    curved = step.accepted & ~step.fresh & (step.along > 0)
    # s needs no mask: it only ever meets q and y, which are zero where it is not wanted. Rows without a pair write
    # to a spare place, which is cheaper than picking the others out.
    places, first = W.view(-1, W.shape[2]), small.arange(0, W.shape[0] * W.shape[1], W.shape[1])
    places.index_copy_(0, small.tensor(first + small.where(curved, rows.head, 2 * m)), s)
    places.index_copy_(0, small.tensor(first + small.where(curved, rows.head + m, 2 * m)), V[:, 1])
    W = W[:, : 2 * m]
    products = small.of(torch.bmm(V, W.transpose(1, 2)).double())  # (L, 2, 2m): q and y against S and Y
    # Without a pair the curvature along the whole step, clipped variables included, still sets the scale;
    # else a scale that clips every variable would never be corrected.
    gamma = (rows.gamma + 0.0)[:, None]
    rows.gamma[:] = small.where(curved & (ss > 0), ss / step.along, rows.gamma)
    new = small.places(curved)
    _remember(rows, new, rows.head[new], products[new, 1], ss[new])
    # H q = gamma q + S R^-T [(D + gamma Y^T Y) R^-1 p - gamma u] - gamma Y R^-1 p, p = S^T q, u = Y^T q
    # (Byrd, Nocedal and Schnabel, 1994, eq. 3.1).
    p, u = products[:, 0, :m], products[:, 0, m:]
    a = small.matvec(rows.R_inverse, p)
    b = rows.D * a + gamma * (small.matvec(rows.YY, a) - u)
    c = small.matvec(rows.R_inverse.swapaxes(1, 2), b)
    weights = small.concatenate([-c, gamma * a])
    # q^T d from the products at hand, without another pass over n. H can lose positive definiteness to rounding;
    # then the projected gradient step takes over.
    lost = ~((weights * products[:, 0]).sum(1) < gamma[:, 0] * qq) & (qq > 0)
    if bool(lost.any()):
        _forget(rows, small.places(lost))
        weights[lost] = 0.0
    weights *= rows.t[:, None]
    # s is in W now; its memory takes the result.
    return torch.bmm(small.tensor(weights).to(s.dtype)[:, None], W, out=s[:, None]).squeeze(1)


def _remember(rows: Rows, new: Array, head: Array, products: Array, ss: Array) -> None:
    """Take the new pairs of the rows `new`, which W holds at the places `head`, into the small matrices."""
    m, small = rows.D.shape[1], rows.small
    each = small.arange(len(new))
    sy, yy = products[:, :m], products[:, m:]
    rho, own = sy[each, head], yy[each, head]
    R_inverse = rows.R_inverse[new]
    R_inverse[each, head] = 0
    R_inverse[each, :, head] = 0
    # [[R, r], [0, rho]]^-1 = [[R^-1, -R^-1 r / rho], [0, 1 / rho]]; row and column `head` of R^-1 are 0 here.
    column = -small.matvec(R_inverse, sy) / rho[:, None]
    column[each, head] = 1 / rho
    # Rounding in y is about eps |g|; a pair whose curvature on the free variables drowns in it would poison H. Its
    # place then stays empty.
    usable = rho > 64 * torch.finfo(rows.x.dtype).eps * small.sqrt(ss * own)
    R_inverse[each, :, head] = small.where(usable[:, None], column, 0.0)
    rows.R_inverse[new] = R_inverse
    rows.YY[new, head] = yy
    rows.YY[new, :, head] = yy
    rows.D[new, head] = small.where(usable, rho, 0.0)
    rows.gamma[new] = small.where(usable, rho / own, rows.gamma[new])
    rows.head[new] = small.where(usable, (head + 1) % m, head)


def _ended(rows: Rows, qq: Array, accepted: Array) -> Array:
    """Return status codes (L,): 0 for rows that go on. `qq` is the squared length of the free gradient q."""
    small, n = rows.small, rows.x.shape[1]
    status = rows.head * 0
    # Where x - gamma g is inside the box, |P(x - g) - x| >= min(gamma, 1) |g|, and the largest entry of q is at least
    # its root mean square; only rows that pass this cheap test need the exact one.
    near = accepted & (small.sqrt(qq / n) * small.clip(rows.gamma, None, 1.0) <= rows.tolerance)
    if bool(near.any()):
        near = small.places(near)
        at = small.tensor(near)
        x, g = rows.trial.index_select(0, at), rows.g_next.index_select(0, at)
        exact = small.of((rows.clamp(x - g, at) - x).abs().amax(1))
        status[near[exact <= rows.tolerance]] = int(Status.CONVERGED)
    going = status == 0
    stalled = going & (rows.rejections >= _REJECTIONS_BEFORE_STALLING)
    # Non-finite values all the way down are the function's fault, not the step's.
    failed = (stalled & (rows.failures >= _REJECTIONS_BEFORE_STALLING)) | (
        (rows.f == torch.inf) & (rows.rejections > 0)
    )
    status[going & (rows.evaluations >= rows.max_evaluations)] = int(Status.BUDGET_SPENT)
    status[stalled] = int(Status.STALLED)
    status[failed] = int(Status.NUMERIC_FAILURE)
    return status


def _scale_to(rows: Rows, at: Array, length: Array | float) -> None:
    """Set gamma of the rows `at` so that the gradient step has at most this length before clipping.

    Only entries that can move count. Where the box is small beside the gradient, the clipped length would
    say nothing about the scale of the function.
    """
    small, places = rows.small, rows.small.tensor(at)
    x, g = rows.trial.index_select(0, places), rows.g_next.index_select(0, places)
    moving = rows.clamp(x - g, places) != x
    norm = small.of(torch.linalg.vector_norm(g * moving, dim=1).double())
    scale = small.clip(length / norm, None, 1.0)
    rows.gamma[at] = small.where(small.isnan(scale), 1.0, scale)


def _forget(rows: Rows, at: Array) -> None:
    """Drop the history of the rows `at`: with R^-1 = 0 nothing of W is ever read."""
    rows.R_inverse[at] = 0
    rows.D[at] = 0
    rows.t[at] = 1.0

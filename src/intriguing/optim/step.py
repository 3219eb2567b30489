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

Symbols: L rows of the block, n variables, m pairs; x, g (L, n); W (L, 2m, n); gamma (L,); R^-1, Y^T Y (L, m, m).
"""

from __future__ import annotations

from dataclasses import dataclass

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
class Rows:
    """Views of a block of rows; everything but the bounds and limits is written in place.

    Attributes:
        x: (L, n) current points; afterwards the next trial points.
        trial: (L, n) points just evaluated; afterwards the current points.
        g: (L, n) gradients at the current points; afterwards those at the points before.
        g_next: (L, n) memory; afterwards the gradients at the current points.
        W: (L, 2m + 1, n) the steps S in the first m places, the changes Y of the gradient in the next m, a spare.
        f: (L,) values at the current points, +inf before the first; float64 like all that follow.
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
        tolerance: see `Solver`.
        max_evaluations: see `Solver`.
    """

    x: Tensor
    trial: Tensor
    g: Tensor
    g_next: Tensor
    W: Tensor
    f: Tensor
    gamma: Tensor
    t: Tensor
    R_inverse: Tensor
    YY: Tensor
    D: Tensor
    head: Tensor
    rejections: Tensor
    failures: Tensor
    evaluations: Tensor
    iterations: Tensor
    lower: Tensor | float
    upper: Tensor | float
    scratch: Tensor
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


def advance(rows: Rows, fun: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Take the values at the trial points, write the next trial points.

    Args:
        rows: afterwards `x` holds the next trial points and `trial` the current points, `g_next` their gradients: the
            caller swaps x and trial, g and g_next.
        fun: (L,) values at the trial points.
        gradient: (L, n).

    Returns:
        Status codes (L,), 0 for rows that go on, and which trial points were accepted (L,) bool.
    """
    step = _judge(rows, fun.detach().double(), gradient.detach().to(rows.x.dtype))
    return _propose(rows, step), step.accepted


@dataclass(frozen=True)
class _Step:
    """What the trial points told: s (L, n), memory V (L, 2, n), s^T y (L,), masks (L,)."""

    s: Tensor
    V: Tensor
    along: Tensor
    accepted: Tensor
    fresh: Tensor


def _judge(rows: Rows, f_trial: Tensor, g_trial: Tensor) -> _Step:
    """Accept or reject the trial points, and choose the lengths of the next steps."""
    x, g, trial, f = rows.x, rows.g, rows.trial, rows.f
    eps = torch.finfo(x.dtype).eps
    L, n = x.shape
    s = torch.sub(trial, x, out=rows.scratch[0, :L])
    V = rows.scratch[1:3].view(-1, 2, n)[:L]
    product = rows.scratch[3, :L]
    slope = torch.mul(g, s, out=product).sum(1).double()  # along the projected arc, for the step as taken
    slope_trial = torch.mul(g_trial, s, out=product).sum(1).double()
    fresh = f == torch.inf
    # A NaN or an infinity anywhere in the gradient makes slope_trial one, since s is finite (0 * inf = NaN).
    finite = torch.isfinite(f_trial) & torch.isfinite(slope_trial)
    enough = f_trial <= f + _ARMIJO * slope
    # Near the minimum the rounding of f drowns its decrease; slopes still tell (Hager and Zhang, SIAM J.
    # Optim. 16, 2005, eq. 4.1): a smaller slope at the trial point means a lower point if f is convex there.
    flat = f_trial <= f + _ROUNDING * eps * f.abs()
    by_slope = flat & (slope_trial.abs() <= (1 - 2 * _ARMIJO) * slope.abs())
    accepted = finite & (fresh | ((slope < 0) & (enough | by_slope)))

    # The minimiser of the quadratic through f, slope and f_trial; a non-finite value shortens most.
    tau = -slope / (2 * (f_trial - f - slope))
    tau = torch.where(finite, tau.nan_to_num(_SHRINK_LEAST), _SHRINK_MOST).clamp(_SHRINK_MOST, _SHRINK_LEAST)
    # A step too small to move x cannot get any better by shrinking: go straight to the end of the search.
    still = finite & ~fresh & (slope == 0)
    rejections = torch.where(still, _REJECTIONS_BEFORE_STALLING, rows.rejections + 1)
    rows.rejections.copy_(torch.where(accepted, 0, rejections))
    rows.failures.copy_(torch.where(finite, 0, rows.failures + 1))
    rows.iterations.add_(accepted & ~fresh)
    # No curvature along the step, so it was too short: the next search starts with a longer one.
    along = slope_trial - slope
    straight = accepted & ~fresh & (along <= _STRAIGHT * slope.abs())
    longer = torch.where(straight, (rows.t * _GROWTH).clamp(max=_LONGEST), 1.0)
    rows.t.copy_(torch.where(accepted, longer, rows.t * tau))

    # Most trial points are accepted, so take all and put the rejected rows back; torch.where on whole
    # rows costs ten times as much.
    rejected = (~accepted).nonzero().squeeze(1)
    rows.g_next.copy_(g_trial)
    if len(rejected):
        for now, before in ((trial, x), (rows.g_next, g)):
            now.index_copy_(0, rejected, before.index_select(0, rejected))
    f.copy_(torch.where(accepted, f_trial, f))
    return _Step(s, V, torch.where(straight, 0.0, along), accepted, fresh)


def _propose(rows: Rows, step: _Step) -> Tensor:
    """Update the histories, write the next trial points, and return the status (L,) of every row."""
    x, g, V = rows.trial, rows.g_next, step.V  # the points just judged are the current ones
    if bool(step.fresh.any()):
        _scale_to(rows, step.fresh, 1.0)  # a first step of at most unit length, as in L-BFGS-B
    forget = (rows.rejections == _REJECTIONS_BEFORE_FORGETTING) & (rows.D.amax(1) > 0)
    if bool(forget.any()):
        _forget(rows, forget)
        # Go on shortening, now along the projected gradient.
        _scale_to(rows, forget, _SHRINK_MOST * torch.linalg.vector_norm(step.s[forget], dim=1).double())

    # Masks are kept as 0.0 and 1.0: multiplying by one is eight times faster than torch.where.
    length = rows.gamma * rows.t
    stepped = torch.addcmul(x, g, length[:, None].to(x.dtype), value=-1, out=rows.scratch[3, : len(x)])
    free = torch.eq(rows.clamp(stepped, out=rows.x), stepped, out=rows.scratch[4, : len(x)])
    torch.mul(free, g, out=V[:, 0])
    torch.addcmul(V[:, 0], free, rows.g, value=-1, out=V[:, 1])
    qq = torch.linalg.vector_norm(V[:, 0], dim=1).double().square()
    status = _ended(rows, qq, step.accepted)
    # The gradient step, corrected by the history where it is free; on the bound elsewhere once clipped.
    torch.addcmul(stepped, free, _history(rows, step, qq), out=rows.x)
    rows.clamp(rows.x, out=rows.x)
    return status


def _history(rows: Rows, step: _Step, qq: Tensor) -> Tensor:
    """Add the pairs that have curvature; return what they add to the step -t gamma q (L, n), for V = (q, y)."""
    s, V, W = step.s, step.V, rows.W
    m = rows.D.shape[1]
    ss = torch.linalg.vector_norm(s, dim=1).double().square()
    curved = step.accepted & ~step.fresh & (step.along > 0)
    # s needs no mask: it only ever meets q and y, which are zero where it is not wanted. Rows without a pair write
    # to a spare place, which is cheaper than picking the others out.
    places, first = W.view(-1, W.shape[2]), torch.arange(0, W.shape[0] * W.shape[1], W.shape[1], device=s.device)
    places.index_copy_(0, first + torch.where(curved, rows.head, 2 * m), s)
    places.index_copy_(0, first + torch.where(curved, rows.head + m, 2 * m), V[:, 1])
    W = W[:, : 2 * m]
    products = torch.bmm(V, W.transpose(1, 2)).double()  # (L, 2, 2m): q and y against S and Y
    # Without a pair the curvature along the whole step, clipped variables included, still sets the scale;
    # else a scale that clips every variable would never be corrected.
    gamma = rows.gamma[:, None].clone()
    rows.gamma.copy_(torch.where(curved & (ss > 0), ss / step.along, rows.gamma))
    new = curved.nonzero().squeeze(1)
    _remember(rows, new, rows.head[new], products[new, 1], ss[new])
    # H q = gamma q + S R^-T [(D + gamma Y^T Y) R^-1 p - gamma u] - gamma Y R^-1 p, p = S^T q, u = Y^T q
    # (Byrd, Nocedal and Schnabel, 1994, eq. 3.1).
    p, u = products[:, 0, :m], products[:, 0, m:]
    a = _matvec(rows.R_inverse, p)
    b = rows.D * a + gamma * (_matvec(rows.YY, a) - u)
    c = _matvec(rows.R_inverse.transpose(1, 2), b)
    weights = torch.cat([-c, gamma * a], dim=1)
    # q^T d from the products at hand, without another pass over n. H can lose positive definiteness to rounding;
    # then the projected gradient step takes over.
    lost = ~((weights * products[:, 0]).sum(1) - gamma[:, 0] * qq < 0) & (qq > 0)
    if bool(lost.any()):
        _forget(rows, lost)
        weights[lost] = 0.0
    weights *= rows.t[:, None]
    # s is in W now; its memory takes the result.
    return torch.bmm(weights[:, None].to(s.dtype), W, out=s[:, None]).squeeze(1)


def _remember(rows: Rows, new: Tensor, head: Tensor, products: Tensor, ss: Tensor) -> None:
    """Take the new pairs of the rows `new`, which W holds at the places `head`, into the small matrices."""
    m = rows.D.shape[1]
    each = torch.arange(len(new), device=new.device)
    sy, yy = products[:, :m], products[:, m:]
    rho, own = sy[each, head], yy[each, head]
    R_inverse = rows.R_inverse[new]
    R_inverse[each, head] = 0
    R_inverse[each, :, head] = 0
    # [[R, r], [0, rho]]^-1 = [[R^-1, -R^-1 r / rho], [0, 1 / rho]]; row and column `head` of R^-1 are 0 here.
    column = -_matvec(R_inverse, sy) / rho[:, None]
    column[each, head] = 1 / rho
    # Rounding in y is about eps |g|; a pair whose curvature on the free variables drowns in it would poison H. Its
    # place then stays empty.
    usable = rho > 64 * torch.finfo(rows.x.dtype).eps * (ss * own).sqrt()
    R_inverse[each, :, head] = torch.where(usable[:, None], column, 0.0)
    rows.R_inverse[new] = R_inverse
    rows.YY[new, head] = yy
    rows.YY[new, :, head] = yy
    rows.D[new, head] = torch.where(usable, rho, 0.0)
    rows.gamma[new] = torch.where(usable, rho / own, rows.gamma[new])
    rows.head[new] = torch.where(usable, (head + 1) % m, head)


def _ended(rows: Rows, qq: Tensor, accepted: Tensor) -> Tensor:
    """Return status codes (L,): 0 for rows that go on. `qq` is the squared length of the free gradient q."""
    status = torch.zeros_like(rows.head)
    # Where x - gamma g is inside the box, |P(x - g) - x| >= min(gamma, 1) |g|, and the largest entry of q is at least
    # its root mean square; only rows that pass this cheap test need the exact one.
    mean = (qq / rows.x.shape[1]).sqrt()
    near = (accepted & (mean * rows.gamma.clamp(max=1.0) <= rows.tolerance)).nonzero().squeeze(1)
    if len(near):
        x, g = rows.trial.index_select(0, near), rows.g_next.index_select(0, near)
        exact = (rows.clamp(x - g, near) - x).abs().amax(1).double()
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


def _scale_to(rows: Rows, mask: Tensor, length: Tensor | float) -> None:
    """Set gamma of the masked rows so that the gradient step has at most this length before clipping.

    Only entries that can move count. Where the box is small beside the gradient, the clipped length would
    say nothing about the scale of the function.
    """
    at = mask.nonzero().squeeze(1)
    x, g = rows.trial[at], rows.g_next[at]
    moving = rows.clamp(x - g, at) != x
    norm = torch.linalg.vector_norm(g * moving, dim=1).double()
    rows.gamma[at] = (length / norm).clamp(max=1.0).nan_to_num(1.0)


def _forget(rows: Rows, mask: Tensor) -> None:
    """Drop the history of the masked rows: with R^-1 = 0 nothing of W is ever read."""
    at = mask.nonzero().squeeze(1)
    rows.R_inverse[at] = 0
    rows.D[at] = 0
    rows.t[at] = 1.0


def _matvec(matrix: Tensor, vector: Tensor) -> Tensor:
    """Return matrix (L, m, m) times vector (L, m)."""
    return torch.bmm(matrix, vector[:, :, None]).squeeze(2)

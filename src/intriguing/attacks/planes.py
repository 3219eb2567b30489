"""The corners of a boundary that is made of few planes: cutting planes, batched.

Where a net is piecewise linear and of few pieces, the boundary's nearest point is as a rule a corner, where two or
more planes meet, and steps that know one plane at a time go to and fro between them. Two points of one piece have the
very same plane; a walk that meets one twice is in such a place, and from then on steps to the nearest point to its
image within all planes it has met, of which its nearest success is on the right side (Kelley, J. SIAM 8, 1960, cuts
a convex set out like this; the condition leaves out the planes of other, non-convex, parts of the boundary). A step
that fails adds the plane that was missing. Before the first success all planes count: a step within them can fail
only in a piece that no plane is known of.

On larger nets no plane is met twice, and nothing here changes a walk.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from intriguing import norms

_SAME = 1e-5  # planes are the same up to this share
_SIDE = 1e-5  # how far beyond a plane, as a share of the distance, the nearest success may seem to be by rounding
_SWEEPS = 30  # of Newton's method, each exact while the box holds the same entries
_ROUNDING = 100  # times what numbers are off by

Box = tuple[float, float]


class Planes:
    """The last different planes <a, x> = b of P walks.

    Args:
        P: walks.
        n: entries of a point.
        kept: planes of each walk; where it is 0 none is ever met again.
        like: a tensor of the dtype and on the device to use.

    Attributes:
        again: (P,) bool, whether the walk has met a plane twice.
    """

    def __init__(self, P: int, n: int, kept: int, like: Tensor) -> None:
        self.kept = kept
        self.again = torch.zeros(P, dtype=torch.bool, device=like.device)
        self._a, self._size = like.new_zeros(P, kept, n), like.new_zeros(P, kept)
        self._b = like.new_full((P, kept), torch.nan)
        self._next = torch.zeros(P, dtype=torch.int64, device=like.device)

    def forget(self, rows: Tensor, *, again: bool = False) -> None:
        """Drop the planes of `rows` (k,), and set whether they have met one twice."""
        self._b[rows] = torch.nan
        self.again[rows] = again

    def add(self, rows: Tensor, x: Tensor, a: Tensor, g: Tensor) -> None:
        """Keep the planes of `rows` (k,) at points x (k, n), with values g (k,) and gradients a (k, n) there."""
        if not self.kept or not len(rows):
            return
        size, b = torch.linalg.vector_norm(a, dim=1), torch.linalg.vecdot(a, x) - g
        seen = self._same(rows, size, b, torch.linalg.vector_norm(x, dim=1)).any(1)
        self.again[rows] |= seen
        new = (~seen).nonzero().squeeze(1)
        at, place = rows[new], self._next[rows[new]]
        self._a[at, place] = a.index_select(0, new)
        self._size[at, place], self._b[at, place] = size[new], b[new]
        self._next[at] = (place + 1) % self.kept

    def corner(self, rows: Tensor, x: Tensor, a: Tensor, g: Tensor, x0: Tensor, beyond: Tensor, box: Box) -> Tensor:
        """Return the nearest points (k, n) to the images x0 within the planes of `rows` and the box.

        Args:
            rows: (k,).
            x: (k, n) the nearest successes, which say which planes count.
            a: (k, n) gradients there.
            g: (k,) values there.
            x0: (k, n).
            beyond: (k,) how far inside of the planes to stay.
            box: the ends of every entry.
        """
        slack = _SIDE * self._size[rows] * torch.linalg.vector_norm(x - x0, dim=1, keepdim=True)
        kept = self._a.index_select(0, rows)
        counts = torch.linalg.vecdot(kept, x[:, None]) >= self._b[rows] - slack
        return _project(x0, *self._normal(rows, kept, x, a, g, counts, beyond), box)

    def within(
        self, rows: Tensor, x: Tensor, a: Tensor, g: Tensor, p: Tensor, beyond: Tensor, box: Box
    ) -> tuple[Tensor, Tensor]:
        """Return the nearest points (k, n) to p within all planes of `rows` and the box, and which are (k,).

        Args:
            rows: (k,).
            x: (k, n) points whose planes count too.
            a: (k, n) gradients there.
            g: (k,) values there.
            p: (k, n).
            beyond: (k,) how far inside of the planes to stay.
            box: the ends of every entry.
        """
        kept = self._a.index_select(0, rows)
        A, b = self._normal(rows, kept, x, a, g, self._b[rows].isfinite(), beyond)
        y = _project(p, A, b, box)
        missing = b - torch.linalg.vecdot(A, y[:, None])
        return y, missing.amax(1) <= 0.5 * beyond

    def _normal(
        self, rows: Tensor, kept: Tensor, x: Tensor, a: Tensor, g: Tensor, counts: Tensor, beyond: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return normals (k, 1 + m, n) and offsets (k, 1 + m) of the planes at x and of those `kept` (k, m, n).

        Of the latter only those count that `counts` (k, m) tells, and that are not the plane at x.
        Normals have length 1, or 0 for planes that do not count; offsets are `beyond` (k,) farther inside.
        """
        size, b = torch.linalg.vector_norm(a, dim=1), torch.linalg.vecdot(a, x) - g
        counts = counts & ~self._same(rows, size, b, torch.linalg.vector_norm(x, dim=1))
        scale = torch.where(counts, 1 / self._size[rows], 0.0)
        normals = torch.cat([(a / size[:, None])[:, None], kept * scale[:, :, None]], dim=1)
        offsets = torch.where(counts, self._b[rows] * scale + beyond[:, None], 0.0)
        return normals, torch.cat([(b / size + beyond)[:, None], offsets], dim=1)

    def _same(self, rows: Tensor, size: Tensor, b: Tensor, length: Tensor) -> Tensor:
        """Tell which of the planes kept, (k, kept), are those with gradients of this size and these offsets, (k,)."""
        size, b, length = size[:, None], b[:, None], length[:, None]
        offset = (self._b[rows] - b).abs() <= _SAME * size * length
        return offset & ((self._size[rows] - size).abs() <= _SAME * size)


def _project(x: Tensor, A: Tensor, b: Tensor, box: Box) -> Tensor:
    """Return the nearest point to x (k, n) in the box with A y >= b, b (k, m); rows of A (k, m, n) have length 1 or 0.

    Newton's method on the dual problem, y = clamp(x + A't) with t >= 0: as long as the box holds the same entries it
    is a linear complementarity problem of m unknowns, so few that all 2^m sets of active planes are tried. It has no
    line search: where it has not converged after a few steps, the point it has come to is returned.
    """
    m = b.shape[1]
    active = torch.tensor(list(itertools.product((False, True), repeat=m)), device=x.device)
    both = active[:, :, None] & active[:, None]
    # Planes that are left out, or lie in the others, leave a singular matrix: the least ridge that rounding respects.
    eps = torch.finfo(x.dtype).eps
    ridge = torch.diag_embed(torch.where(active, _ROUNDING * eps, 1.0).to(x))
    small = _ROUNDING * eps * (1 + b.abs())
    y, t = x.clone(), torch.zeros_like(b)
    at = torch.arange(len(x), device=x.device)
    for _ in range(_SWEEPS):
        missing = b[at] - torch.linalg.vecdot(A.index_select(0, at), y.index_select(0, at)[:, None])
        wrong = ((missing > small[at]) | ((t[at] > 0) & (missing < -small[at]))).any(1)
        at, missing = at[wrong], missing[wrong]
        if not len(at):
            break
        normals, point = A.index_select(0, at), y.index_select(0, at)
        # Entries at an end of the box are free where what is missing pulls them inside, as almost all are at first.
        pull = torch.bmm(missing.clamp_min(0)[:, None], normals)[:, 0]
        G = torch.bmm(normals * norms.free(point, pull, *box)[:, None], normals.mT)
        q = missing + torch.linalg.vecdot(G, t[at, None])
        M = torch.where(both, G[:, None], 0.0) + ridge
        T = torch.linalg.solve_ex(M, torch.where(active, q[:, None], 0.0)[..., None])[0].nan_to_num(0.0, 0.0, 0.0)
        short = (q[:, None] - torch.matmul(G[:, None], T)[..., 0]).clamp_min(0)
        best = torch.where(active, (-T[..., 0]).clamp_min(0), short).amax(2).argmin(1)
        t[at] = T[torch.arange(len(at), device=x.device), best, :, 0].clamp_min(0)
        y[at] = (x.index_select(0, at) + torch.bmm(t[at, None], normals)[:, 0]).clamp(*box)
    return y

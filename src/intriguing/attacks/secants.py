"""The curvature of many walks along the boundary, from what their last steps saw: limited-memory BFGS, batched.

A walk minimises |x - x0|^2 / 2 where the constraint g is at least 0. At a solution x - x0 = lambda a, with a the
gradient of g, and what bends there is the Lagrangian, whose Hessian is

    B = I - lambda (Hessian of g).                                                                            (1)

A step s that changed the gradient by a' - a measured y = s - lambda (a' - a), which is B s; from the last few pairs
(s, y) BFGS builds an inverse H of B (Nocedal and Wright 2006, algorithm 7.4), damped where a pair shows no curvature
(Powell 1978; there equation 18.15, against B = I). H starts from alpha I, the step that has no memory.

Here the recursion runs on inner products alone: with Z the pairs and the two vectors to be multiplied, all it needs is
Z Z' (one batched product per step), and what it returns are coefficients in Z (Chen, Wang and Zhou 2014, "Large-scale
L-BFGS using MapReduce", algorithm 3). Entries that the box holds are left out of Z, so that H belongs to the others.
"""

from __future__ import annotations

import torch
from torch import Tensor

_DAMPING = 0.2  # of Powell: the least curvature s'y / s's that a pair may show


class Secants:
    """The last pairs (s, y) of P walks.

    Args:
        P: walks.
        n: entries of a point.
        pairs: kept of each walk.
        like: a tensor of the dtype and on the device to use.
    """

    def __init__(self, P: int, n: int, pairs: int, like: Tensor) -> None:
        self.pairs = pairs
        self._z = like.new_zeros(P, 2 * pairs, n)  # all s, then all y; the oldest is replaced
        self._next = torch.zeros(P, dtype=torch.int64, device=like.device)
        self.count = torch.zeros_like(self._next)

    def forget(self, rows: Tensor) -> None:
        """Drop the pairs of `rows` (k,)."""
        self._z[rows] = 0
        self.count[rows] = 0

    def add(self, rows: Tensor, s: Tensor, y: Tensor) -> None:
        """Keep steps s (k, n) and their changes of gradient y (k, n) of `rows`; those that are not finite are not."""
        ss, sy = torch.linalg.vecdot(s, s), torch.linalg.vecdot(s, y)
        good = sy.isfinite() & (ss > 0)
        if not bool(good.all()):
            rows, s, y, ss, sy = rows[good], s[good], y[good], ss[good], sy[good]
        theta = torch.where(sy < _DAMPING * ss, (1 - _DAMPING) * ss / (ss - sy), 1.0)
        y = torch.lerp(s, y, theta[:, None])
        m, place = self.pairs, self._next[rows]
        self._z[rows, place], self._z[rows, m + place] = s, y
        self._next[rows] = (place + 1) % m
        self.count[rows] = (self.count[rows] + 1).clamp(max=m)

    def step(self, rows: Tensor, d: Tensor, a: Tensor, free: Tensor, alpha: Tensor, missing: Tensor) -> Tensor:
        """Return the step p (k, n) of `rows` that minimises <d, p> + p'Bp / 2 with <a, p> >= missing, p = 0 where held.

        Args:
            rows: (k,).
            d: (k, n) the gradient of the objective, x - x0.
            a: (k, n) the gradient of the constraint.
            free: (k, n) 1 for the entries that may move, 0 for the others.
            alpha: (k,) the inverse of B starts from alpha I.
            missing: (k,) what the constraint must gain.
        """
        m = self.pairs
        z = torch.cat([self._z.index_select(0, rows), d[:, None], a[:, None]], dim=1).mul_(free[:, None])
        # The places in z of s, the last first, of y likewise, of d and of a; everything small is in this order.
        last = (self._next[rows, None] - 1 - torch.arange(m, device=z.device)) % m
        order = torch.cat([last, m + last, last.new_tensor([2 * m, 2 * m + 1]).expand(len(rows), 2)], dim=1)
        G = torch.bmm(z, z.mT)
        G = G.gather(1, order[:, :, None].expand_as(G)).gather(2, order[:, None].expand_as(G))
        sy = G.diagonal(m, 1, 2)[:, :m]
        rho = torch.where(sy > 0, 1 / sy.clamp_min(torch.finfo(sy.dtype).tiny), 0.0)
        c = z.new_zeros(len(rows), 2 * m + 2, 2)
        c[:, 2 * m, 0], c[:, 2 * m + 1, 1] = 1.0, 1.0
        first: list[Tensor] = []
        for i in range(m):
            first.append(rho[:, i, None] * torch.bmm(G[:, i, None], c)[:, 0])
            c[:, m + i] -= first[i]
        c *= alpha[:, None, None]
        for i in reversed(range(m)):
            c[:, i] += first[i] - rho[:, i, None] * torch.bmm(G[:, m + i, None], c)[:, 0]
        along = torch.bmm(G[:, 2 * m + 1, None], c)[:, 0]  # <a, H d> and <a, H a>
        t = ((missing + along[:, 0]) / along[:, 1].clamp_min(torch.finfo(sy.dtype).tiny)).clamp_min(0)
        weights = t[:, None] * c[..., 1] - c[..., 0]
        return torch.bmm(torch.empty_like(weights).scatter_(1, order, weights)[:, None], z)[:, 0]

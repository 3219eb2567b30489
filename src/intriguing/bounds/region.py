"""Where an image may move: a ball in L2 or Linf, intersected with the box of the pixels.

The least value of a linear form a over the ball |r| <= eps and lo <= r <= hi is, in L2, the dual maximum over
lambda >= 0 of

    sum_i min_{lo_i <= r_i <= hi_i} (a_i r_i + lambda r_i^2 / 2) - lambda eps^2 / 2                        (1)

Every lambda gives a lower bound, so that a search of a few steps is sound wherever it stops. At the best one,
r_i = clip(-a_i / lambda, lo_i, hi_i) has norm eps, which lambda <- lambda |r| / eps finds: exactly, in one step, where
nothing is clipped but to 0. Where the ball reaches beyond the corner that a points to, the best lambda is 0 and (1) is
the least value over the box alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from intriguing.bounds.operations import gamma
from intriguing.errors import InputError

UNIT = torch.finfo(torch.float64).eps / 2
_SEARCH = 20  # steps of the search for lambda, at most; on MNIST two or three are taken
_ASK = 3  # steps after which it is asked, for the price of one, whether the rest are at a corner
_NEAR = 0.01  # | |r| / eps - 1 | at which it stops: (1) is flat at its maximum, and loses less than the square of it
_POINT = 1e-30  # a radius below this is taken as this, which single precision can hold
_SPARSE = 4  # coefficients of which no row has more than one in this many are gathered first


@dataclass(frozen=True)
class Region:
    """The ball around each image, cut to the box.

    Attributes:
        centre: (B, n) float64 images.
        low: (B, n) smallest value of each pixel, in ball and box.
        high: (B, n) largest value.
        eps: (B,) radius of the ball.
        norm: 2 or inf.
        shape: of one image.
    """

    centre: Tensor
    low: Tensor
    high: Tensor
    eps: Tensor
    norm: float
    shape: tuple[int, ...]

    def minimum(
        self, A: Tensor, const: Tensor, unit: float = 0.0, pixels: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return at most the least value of A x + const over the region, (B, S), differentiable in A and const.

        Args:
            A: (B, S, n), or (1, S, n) for forms that all images share.
            const: (B, S) or (1, S).
            unit: relative error that each pixel may still suffer, as when images are rounded to the net's dtype.
            pixels: centre, low and high (B, S, n) of those that each row looks at, where it is not all of them.

        Returns:
            The bound, and what was subtracted for rounding: of the pixels, and of this sum of about n terms itself.
            It is taken by Cauchy and Schwarz, |A| |x| <= ||A|| ||x||, which is cheap and ample.
        """
        centre, low, high = pixels or (self.centre[:, None], self.low[:, None], self.high[:, None])
        if pixels is None and len(A) == 1 and not A.requires_grad:
            A, centre, low, high = _gathered(A, centre, low, high)
        least = _box(A, low, high) if self.norm == math.inf else self._ball(A, centre, low, high)
        size = torch.linalg.vector_norm(torch.maximum(low.abs(), high.abs()), dim=-1)
        own = gamma(8 * A.shape[-1] + 64, UNIT)
        lost = (unit + own) * torch.linalg.vector_norm(A, dim=-1) * size + own * const.abs()
        return least + const - lost, lost.detach()

    @torch.no_grad()
    def minimiser(self, A: Tensor) -> Tensor:
        """Return the displacements (B, S, n) at which forms A (B, S, n) are about least, in ball and box; L2 alone."""
        near, far = self.low[:, None] - self.centre[:, None], self.high[:, None] - self.centre[:, None]
        multiplier = _multiplier(A, near, far, self.eps[:, None].clamp_min(_POINT))
        return torch.clamp(A / -multiplier[..., None], near, far)

    def _ball(self, A: Tensor, centre: Tensor, low: Tensor, high: Tensor) -> Tensor:
        eps = self.eps[:, None].clamp_min(_POINT)
        with torch.no_grad():
            near, far = low - centre, high - centre
            multiplier = _multiplier(A, near, far, eps)
            r = torch.clamp(A / -multiplier[..., None], near, far)
            length = torch.linalg.vecdot(r, r)
            beyond = multiplier / 2 * (length - eps * eps)
            short = length < (1 - 2 * _NEAR) * eps * eps
        # With lambda and the minimiser held fixed, the derivative in A is that of (1), by the envelope theorem.
        least: Tensor = torch.linalg.vecdot(A.expand_as(r), r) + beyond + _dot(A, centre)
        if bool(short.any()):
            least = torch.where(short, torch.maximum(least, _box(A, low, high)), least)
        return least


def ball(x: Tensor, eps: Tensor, norm: float, box: tuple[float, float]) -> Region:
    """Return the balls of radius eps around images x, cut to the box.

    Args:
        x: (B, ...) float64 images in the box.
        eps: (B,) radii, at least 0.
        norm: 2 or inf.
        box: smallest and largest pixel; infinite for none.

    Example:
        >>> region = ball(torch.zeros(1, 2, dtype=torch.float64), torch.ones(1, dtype=torch.float64), 2, (0.0, 1.0))
        >>> region.high.tolist(), region.low.tolist()
        ([[1.0, 1.0]], [[0.0, 0.0]])
    """
    centre = x.flatten(1)
    eps = eps.to(centre)
    low = torch.clamp_min(centre - eps[:, None], box[0])
    high = torch.clamp_max(centre + eps[:, None], box[1])
    return Region(centre, low, high, eps, checked_norm(norm), tuple(x.shape[1:]))


def farthest(x: Tensor, norm: float, box: tuple[float, float]) -> Tensor:
    """Return the distance (B,) from each image to the farthest point of the box."""
    reach = torch.maximum(x.flatten(1) - box[0], box[1] - x.flatten(1))
    distance: Tensor = torch.linalg.vector_norm(reach, ord=norm, dim=1)
    return distance


def checked_norm(norm: float | str) -> float:
    """Return 2.0 or inf, or say that there is nothing else.

    Raises:
        InputError: another norm.
    """
    if norm in (2, math.inf, "inf"):
        return 2.0 if norm == 2 else math.inf
    raise InputError(f"norm: expected 2 or inf, got {norm!r}; there are no certificates for other norms")


def _box(A: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return _dot(A.clamp_min(0), low) + _dot(A.clamp_max(0), high)


def _dot(A: Tensor, v: Tensor) -> Tensor:
    """Return sum_i A[b, s, i] v[b, s or 0, i] as (B, S)."""
    if v.shape[1] == 1:
        return torch.matmul(A, v.transpose(1, 2)).squeeze(2)
    product: Tensor = torch.linalg.vecdot(A.expand_as(v), v)
    return product


def _multiplier(A: Tensor, low: Tensor, high: Tensor, eps: Tensor) -> Tensor:
    """Return a lambda (B, S) near the best one of (1). It is searched in single precision, as any will do."""
    A, low, high, eps = A.float(), low.float(), high.float(), eps.float()
    tiny = torch.finfo(torch.float32).tiny
    multiplier = (torch.linalg.vector_norm(A, dim=-1) / eps).clamp(tiny, 1e30)
    for step in range(_SEARCH):
        r = torch.clamp(A / -multiplier[..., None], low, high)
        share = torch.linalg.vector_norm(r, dim=-1) / eps
        near = (share - 1).abs() <= _NEAR
        # A row that is near stays: what it gets does not depend on the others.
        multiplier = torch.where(near, multiplier, (multiplier * share).clamp(tiny, 1e30))
        # Rows that shrink towards lambda = 0 are caught by the bound over the box.
        if bool(near.all()) or (step >= _ASK and bool((near | _cornered(r, low, high)).all())):
            break
    found: Tensor = multiplier.double()
    return found


def _cornered(r: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return which rows (B, S) have every entry at an end of its interval: no smaller lambda moves them."""
    return ((r == low) | (r == high)).all(-1)


def _gathered(A: Tensor, *pixels: Tensor) -> tuple[Tensor, ...]:
    """Leave out the pixels that a row does not look at, where rows look at few: those of a first convolution."""
    most = int((A[0] != 0).sum(-1).max()) if A.shape[1] else 0
    if most * _SPARSE > A.shape[-1]:
        return (A, *pixels)
    index = A[0].abs().topk(max(most, 1), dim=-1).indices
    return (A.gather(2, index[None]), *(pixel[:, 0][:, index] for pixel in pixels))

"""A net that counts, image by image, what an attack asks of it, and holds the attack to its budget.

The mechanics are AttackBench's (Cinà et al. 2024): forwards plus backwards are counted per image; past the budget an
image gets constant logits that say its label, and zero gradients; the nearest adversarial point among all that the
attack asked about counts, also where the attack itself returns another. When no image has anything left, the attack
is stopped.

Which image a row belongs to. The benchmark gives an attack one batch of N images. A call with N rows is taken in order.
A call with fewer comes from an attack that has dropped finished images; all peers drop by a mask, which keeps the
order, so the rows are an ordered selection of the images: the one with the least sum of squared distances, found
exactly by dynamic programming. AttackBench takes the nearest original of each row by itself, which may give two rows to
one image and goes wrong where perturbations are as long as the distance between images, as on robust nets.

The time that counting and matching take is measured and can be taken off.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_PATIENCE = 1000  # calls in a row without a live image, after which an attack is stopped
_UNFOOLED = 10.0  # the label's logit past the budget, the others being 0
OUTSIDE = 1e-6  # how far rounding may put a pixel outside the box; the point is clamped before it is kept


class SpentError(Exception):
    """Every image has spent its budget, or the attack asks about nothing but such images: it is stopped."""


@dataclass(frozen=True)
class Count:
    """What an attack has asked of the net.

    Attributes:
        forwards: (N,) int64.
        backwards: (N,) int64.
        distance: (N,) float64, of the nearest adversarial point asked about; inf where none was.
        nearest: (N, ...), those points.
    """

    forwards: Tensor
    backwards: Tensor
    distance: Tensor
    nearest: Tensor


@dataclass
class Stopwatch:
    """Time from its making to `stop`.

    Attributes:
        seconds: of the wall clock.
        cpu: of this process, with one thread the same on a quiet machine, and little disturbed by others on a busy one.
    """

    seconds: float = 0.0
    cpu: float = 0.0

    def __post_init__(self) -> None:
        self._begun = time.perf_counter(), time.process_time()

    def stop(self, bookkeeping: float = 0.0) -> Stopwatch:
        """Take the time, less what `bookkeeping` (seconds) took."""
        self.seconds = time.perf_counter() - self._begun[0] - bookkeeping
        self.cpu = time.process_time() - self._begun[1] - bookkeeping
        return self


class CountingNet(nn.Module):
    """A net that counts per image and keeps the nearest adversarial point.

    Args:
        net: images (B, ...) -> logits (B, K), frozen.
        images: (N, ...) in [0, 1], the one batch that will be attacked.
        labels: (N,) int64, the classes the net gives.
        passes: forwards plus backwards one image may cost.
        norm: in which the nearest point is the nearest: 1, 2 or inf.

    Attributes:
        classes: K.
        bookkeeping: CPU seconds that counting and matching have taken.
    """

    def __init__(self, net: nn.Module, images: Tensor, labels: Tensor, passes: int, norm: float = 2) -> None:
        super().__init__()
        self.net, self.labels, self.passes, self.norm = net, labels, passes, norm
        self.images = images.clone()
        self.flat = images.flatten(1)
        N = len(images)
        self.forwards = torch.zeros(N, dtype=torch.int64)
        self.backwards = torch.zeros(N, dtype=torch.int64)
        self.distance = torch.full((N,), torch.inf, dtype=torch.float64)
        self.nearest = images.clone()
        self.bookkeeping = 0.0
        self._idle = 0
        with torch.no_grad():
            self.classes = int(net(images[:1]).shape[1])

    def count(self) -> Count:
        """Return the count so far."""
        return Count(*(t.clone() for t in (self.forwards, self.backwards, self.distance, self.nearest)))

    def forward(self, x: Tensor) -> Tensor:
        with self._apart():
            rows = self._identify(x.detach())
            alive = self.forwards[rows] + self.backwards[rows] < self.passes
            self.forwards[rows[alive]] += 1
        if not bool(alive.any()):
            self._idle += 1
            if self._idle > _PATIENCE or bool((self.forwards + self.backwards >= self.passes).all()):
                raise SpentError
            return self._unfooled(rows, x)
        self._idle = 0
        z = self.net(_Gate.apply(x, self, rows) if torch.is_grad_enabled() and x.requires_grad else x)
        with self._apart():
            self._keep(x.detach(), z.detach(), rows, alive)
        if bool(alive.all()):
            return z
        return torch.where(alive[:, None], z, self._unfooled(rows, x))

    def _unfooled(self, rows: Tensor, x: Tensor) -> Tensor:
        """Return constant logits that say the label, with a gradient of zero for whoever asks."""
        z = _UNFOOLED * nn.functional.one_hot(self.labels[rows], self.classes).to(x.dtype)
        unfooled: Tensor = _Constant.apply(x, z) if torch.is_grad_enabled() and x.requires_grad else z
        return unfooled

    def _identify(self, x: Tensor) -> Tensor:
        N, k = len(self.flat), len(x)
        if k == N:
            return torch.arange(N)
        if k > N:
            raise ValueError(f"the attack gives {k} rows at once for {N} images; run it with one row per image")
        return ordered_match(x.flatten(1), self.flat)

    def _keep(self, x: Tensor, z: Tensor, rows: Tensor, alive: Tensor) -> None:
        labels = self.labels[rows]
        own = z.gather(1, labels[:, None]).squeeze(1)
        others = z.scatter(1, labels[:, None], -torch.inf).amax(1)
        # More than rounding, so that the judge, who sees the point in another batch, agrees.
        least = 32 * torch.finfo(z.dtype).eps * z.abs().amax(1)
        flat = x.flatten(1)
        inside = (flat.amin(1) >= -OUTSIDE) & (flat.amax(1) <= 1 + OUTSIDE)
        candidates = (alive & inside & (others - own > least)).nonzero().squeeze(1)
        if not len(candidates):
            return
        points = x[candidates].clamp(0, 1)
        at = rows[candidates]
        size = torch.linalg.vector_norm((points - self.images[at]).flatten(1).double(), ord=self.norm, dim=1)
        nearer = size < self.distance[at]
        self.distance[at[nearer]] = size[nearer]
        self.nearest[at[nearer]] = points[nearer]

    @contextmanager
    def _apart(self) -> Iterator[None]:
        begun = time.process_time()
        with torch.no_grad():
            yield
        self.bookkeeping += time.process_time() - begun


class _Gate(torch.autograd.Function):
    """The identity; on the way back it counts, and stops what the budget no longer pays for."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, counter: CountingNet, rows: Tensor) -> Tensor:
        ctx.counter, ctx.rows = counter, rows
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        counter, rows = ctx.counter, ctx.rows
        alive = counter.forwards[rows] + counter.backwards[rows] < counter.passes
        counter.backwards[rows[alive]] += 1
        if bool(alive.all()):
            return gradient, None, None
        return gradient * alive.reshape(-1, *[1] * (gradient.dim() - 1)), None, None


class _Constant(torch.autograd.Function):
    """Given logits, whatever the images: their gradient is zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, z: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return z

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return torch.zeros_like(ctx.saved_tensors[0]), None


class TotalNet(nn.Module):
    """A net that counts rows, whoever they belong to: for attacks that put several points of an image in one call.

    Ours do, and count per image themselves; their sums must equal these totals.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.forwards = self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        if torch.is_grad_enabled() and x.requires_grad:
            x = _Tally.apply(x, self)
        return self.net(x)


class _Tally(torch.autograd.Function):
    """The identity; on the way back it adds the rows to the net's total."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, counter: TotalNet) -> Tensor:
        ctx.counter = counter
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.counter.backwards += len(gradient)
        return gradient, None


def ordered_match(x: Tensor, originals: Tensor) -> Tensor:
    """Return which originals (N, n) the rows x (k, n) are, k <= N, if rows keep the originals' order.

    Of all increasing selections the one with the least sum of squared distances: with D the squared distances,

        best[i, j] = min(best[i, j - 1], best[i - 1, j - 1] + D[i - 1, j - 1])

    is the least sum for the first i rows among the first j originals.
    """
    D = torch.cdist(x.double(), originals.double()).square()
    k, N = D.shape
    taken = torch.zeros(k, N, dtype=torch.bool)
    best = torch.zeros(N + 1, dtype=torch.float64)
    for i in range(k):
        with_last = torch.cat((best.new_full((1,), torch.inf), best[:-1] + D[i]))
        best, _ = torch.cummin(with_last, 0)
        taken[i] = with_last[1:] <= best[1:]
    rows = torch.empty(k, dtype=torch.int64)
    j = N
    for i in reversed(range(k)):
        # The last original at or before j at which taking row i is as good as any earlier one.
        j = int(taken[i, :j].nonzero()[-1])
        rows[i] = j
    return rows

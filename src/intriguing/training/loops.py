"""The two ways a net is trained here: a convex solve over all images, and Adam over minibatches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own abbreviation)

# Above this many features the curvature estimate costs more than it saves and only its diagonal is used.
_DENSE_FEATURES = 4096
# Problems with fewer entries than this are solved in float64: it costs little there, and the rounding of a
# float32 loss over few images would end the line search before the gradient is small.
_DOUBLE_ENTRIES = 20_000_000
_SUM_ROWS = 2_000  # images whose gradients are summed in single precision


@dataclass(frozen=True)
class SoftmaxFit:
    """A softmax layer at the minimum of its objective.

    Attributes:
        weight: (K, n) float32.
        bias: (K,) float32, or None.
        loss: the objective there: mean cross-entropy plus decay.
        gradient_norm: largest absolute entry of the objective's gradient there.
        evaluations: passes over the data.
    """

    weight: Tensor
    bias: Tensor | None
    loss: float
    gradient_norm: float
    evaluations: int


def softmax_regression(
    features: Tensor,
    labels: Tensor,
    classes: int,
    *,
    decay: float,
    bias: bool = False,
    tolerance: float = 1e-6,
    max_evaluations: int = 1000,
    progress: Callable[[float], None] | None = None,
) -> SoftmaxFit:
    """Minimise mean cross-entropy + (decay / 2) sum w^2 over all images at once (E15, D12).

    The problem is convex, so the answer depends on neither a seed nor the optimiser: full-batch L-BFGS
    (SciPy) from zero, in coordinates in which the curvature is about 1. With A the second moment of the
    features times a typical p (1 - p), plus decay, and A = L L^T, it works on u = w L. An undecayed bias is
    one more feature that is always 1.

    Args:
        features: (N, n) floating point, on the device that computes.
        labels: (N,) int64 in 0..K-1.
        classes: K.
        decay: lambda, at least 0. At 0 the minimum may lie at infinity.
        bias: whether each class has a bias; it is not decayed.
        tolerance: stop when the largest absolute entry of the gradient is below this. On MNIST 1e-6 is near
            the rounding of the float32 sums.
        max_evaluations: stop after about so many passes over the data; `gradient_norm` then tells.
        progress: called with the share done, measured on the logarithm of the gradient.

    Example:
        >>> fit = softmax_regression(torch.eye(2), torch.tensor([0, 1]), 2, decay=0.1)
        >>> fit.gradient_norm < 1e-6
        True
    """
    work = torch.float64 if features.numel() < _DOUBLE_ENTRIES else torch.float32
    x = features.to(work)
    if bias:
        x = torch.cat((x, torch.ones_like(x[:, :1])), dim=1)
    width = x.shape[1]
    rates = torch.full((width,), decay, dtype=torch.float64, device=x.device)
    if bias:
        rates[-1] = 0.0
    scale = _curvature_scale(x, classes, rates)
    # The best point so far by gradient; its gradient was measured at exactly the weights returned.
    best = SoftmaxFit(features.new_zeros(classes, width, dtype=torch.float32), None, math.inf, math.inf, 0)
    first, evaluations, best_u = 0.0, 0, np.zeros(classes * width)

    def objective(u: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal best, best_u, first, evaluations
        w = scale.weights(torch.from_numpy(u.reshape(classes, width)).to(x.device))
        loss, gradient = _softmax_objective(x, labels, w, rates, work)
        evaluations += 1
        size = gradient.abs().max().item()
        first = first or size
        if size < best.gradient_norm:
            best, best_u = SoftmaxFit(w.to(torch.float32), None, loss, size, evaluations), u.copy()
        return loss, scale.gradient(gradient).flatten().cpu().numpy()

    def after_iteration(_: np.ndarray) -> None:
        if progress:
            progress(_log_share(first, best.gradient_norm, tolerance))
        if best.gradient_norm <= tolerance:
            raise StopIteration

    def descend_from(u: np.ndarray) -> None:
        limit = max_evaluations - evaluations
        options = {"maxcor": 20, "ftol": 0.0, "gtol": 0.0, "maxfun": limit, "maxiter": limit}
        scipy.optimize.minimize(objective, u, jac=True, method="L-BFGS-B", callback=after_iteration, options=options)

    descend_from(best_u)
    if work != torch.float64 and tolerance < best.gradient_norm and evaluations < max_evaluations:
        work = torch.float64  # on some processors the rounding of float32 sums is above the tolerance
        descend_from(best_u)
    if progress:
        progress(1.0)
    return SoftmaxFit(
        (best.weight[:, :-1] if bias else best.weight).contiguous(),
        best.weight[:, -1].contiguous() if bias else None,
        best.loss,
        best.gradient_norm,
        evaluations,
    )


def descend(
    groups: Sequence[dict[str, object]],
    objective: Callable[[Tensor], Tensor],
    count: int,
    *,
    epochs: int,
    batch: int,
    rate: float,
    generator: torch.Generator,
    after_epoch: Callable[[int], bool] | None = None,
) -> int:
    """Run Adam over shuffled minibatches, the rate rising over the first tenth and then falling as a cosine.

    Adam's own weight decay adds lambda * w to the gradient: exactly the derivative of (lambda / 2) w^2 (E15).
    Nothing but `generator` decides the order, so on one thread the same inputs give the same weights.

    Args:
        groups: parameter groups, ``{"params": [...], "weight_decay": lambda}``.
        objective: indices of the images of a batch (B,) -> scalar loss without decay.
        count: number of images N.
        epochs: passes over the images at most.
        batch: images per step; the last of an epoch may be smaller.
        rate: the highest learning rate.
        generator: on the CPU; draws the order.
        after_epoch: called with the number of epochs done; True stops.

    Returns:
        The number of epochs done.
    """
    device = next(iter(groups[0]["params"])).device  # type: ignore[call-overload]  # groups are torch's dicts
    adam = torch.optim.Adam(groups, lr=rate, betas=(0.9, 0.99), fused=True)
    total = epochs * math.ceil(count / batch)
    step = 0
    for epoch in range(1, epochs + 1):
        order = torch.randperm(count, generator=generator).to(device)
        for indices in torch.split(order, batch):
            for group in adam.param_groups:
                group["lr"] = rate * _one_cycle((step + 0.5) / total)
            adam.zero_grad()
            objective(indices).backward()  # type: ignore[no-untyped-call]
            adam.step()
            step += 1
        if after_epoch and after_epoch(epoch):
            return epoch
    return epochs


def _one_cycle(share: float) -> float:
    """Return the learning rate as a share of the highest, after this share of all steps."""
    warm = 0.1
    if share < warm:
        return share / warm
    return 0.5 * (1 + math.cos(math.pi * (share - warm) / (1 - warm)))


def _log_share(first: float, now: float, goal: float) -> float:
    """Return how far a gradient has fallen on the way to its goal, in [0, 1], on a logarithmic scale."""
    if now <= goal or first <= goal:
        return 1.0
    return min(1.0, max(0.0, math.log(first / now) / math.log(first / goal)))


def _softmax_objective(x: Tensor, labels: Tensor, w: Tensor, rates: Tensor, work: torch.dtype) -> tuple[float, Tensor]:
    """Return mean cross-entropy + sum (rate / 2) w^2 and its gradient (K, n), with products in dtype `work`."""
    parts = torch.split(x, _SUM_ROWS)
    log_p = torch.cat([(part.to(work) @ w.to(work).T).double() for part in parts]).log_softmax(dim=1)
    chosen = labels.unsqueeze(1)
    loss = F.nll_loss(log_p, labels) + 0.5 * (rates * w * w).sum()
    residual = log_p.exp_()
    residual.scatter_add_(1, chosen, torch.full_like(chosen, -1, dtype=torch.float64))
    # Parts are summed in float64: one float32 sum over all rows may end above the tolerance on some processors.
    rows = zip(torch.split(residual.to(work), _SUM_ROWS), parts, strict=True)
    total = torch.stack([(part.T @ features.to(work)).double() for part, features in rows]).sum(0)
    return loss.item(), total / len(x) + rates * w


@dataclass(frozen=True)
class _Scale:
    """The change of coordinates w = u L^-1, with L (n, n) lower triangular or (n,) diagonal, float64."""

    factor: Tensor

    def weights(self, u: Tensor) -> Tensor:
        """Return w (K, n) of u (K, n)."""
        if self.factor.ndim == 1:
            return u / self.factor
        w: Tensor = torch.linalg.solve_triangular(self.factor, u, upper=False, left=False)
        return w

    def gradient(self, gradient: Tensor) -> Tensor:
        """Return the gradient by u of a function whose gradient by w is given, both (K, n)."""
        if self.factor.ndim == 1:
            return gradient / self.factor
        by_u: Tensor = torch.linalg.solve_triangular(self.factor.T, gradient, upper=True, left=False)
        return by_u


def _curvature_scale(x: Tensor, classes: int, rates: Tensor) -> _Scale:
    """Return coordinates in which the objective's curvature is about 1."""
    # p (1 - p) is (1/K)(1 - 1/K) at zero weights and falls as the net grows sure of its answers; a quarter
    # of it needed the fewest passes on MNIST over lambda 1e-4 to 1.
    typical = (1 - 1 / classes) / classes / 4
    if x.shape[1] > _DENSE_FEATURES:
        return _Scale((typical * x.square().mean(dim=0).double() + rates).clamp_min(1e-12).sqrt())
    curvature = typical * (x.T @ x).double() / len(x)
    # Pixels that are always 0 have no curvature but their decay; the jitter covers the rounding of the sum.
    jitter = 1e-6 * curvature.diagonal().mean() + 1e-12
    return _Scale(torch.linalg.cholesky(curvature + torch.diag(rates + jitter)))

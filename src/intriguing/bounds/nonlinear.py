"""Lipschitz constants of what stands between linear layers: activations, poolings, normalisations.

All are for the Euclidean norm and for every input. Szegedy et al. 2014, section 4.3, where pooling needs E10 and
normalisation E11.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own abbreviation)

from intriguing.bounds.operators import Norm, Pair, dense_norm
from intriguing.errors import InputError

ACTIVATIONS: dict[type[nn.Module], Callable[[Any], float]] = {
    nn.ReLU: lambda _: 1.0,
    nn.ReLU6: lambda _: 1.0,
    nn.Hardtanh: lambda _: 1.0,
    nn.Tanh: lambda _: 1.0,
    nn.Softsign: lambda _: 1.0,
    nn.Softplus: lambda _: 1.0,
    nn.Sigmoid: lambda _: 0.25,  # s (1 - s), largest at s = 1/2
    nn.LeakyReLU: lambda module: max(1.0, abs(module.negative_slope)),
    nn.PReLU: lambda module: max(1.0, float(module.weight.detach().abs().max())),
    nn.ELU: lambda module: max(1.0, abs(module.alpha)),
    nn.Softmax: lambda _: 0.5,  # diag(p) - p p^T: rows of absolute sum 2 p (1 - p), Gershgorin
}
"""Activation -> the largest slope it has anywhere."""


def coverage(side: int, outputs: int, *, window: int, stride: int, padding: int = 0, dilation: int = 1) -> int:
    """Return the largest number of windows that hold one pixel, along one axis.

    Example:
        >>> coverage(13, 6, window=3, stride=2), coverage(12, 6, window=2, stride=2)
        (2, 1)
    """
    start = torch.arange(outputs) * stride - padding
    seen = (start[:, None] + torch.arange(window) * dilation).flatten()
    seen = seen[(seen >= 0) & (seen < side)]
    return int(torch.bincount(seen, minlength=side).max())


def pooling_bound(covers: Pair) -> float:
    """Return the Lipschitz constant of max-pooling, E10: the root of the most windows that cover one pixel.

    With i(W) the pixel at which two images differ most in window W, |max_W x - max_W y| <= |x_i(W) - y_i(W)|, and
    no pixel is i(W) for more windows than cover it. Equality: raise one pixel that all of its windows then choose.
    The same holds for the p-norm over each window with p >= 2 (L2 pooling), which is contractive in the window.

    Args:
        covers: see `coverage`, along height and width.

    Example:
        >>> pooling_bound((2, 2))
        2.0
    """
    return math.sqrt(covers[0] * covers[1])


def averaging_norm(average: Callable[[Tensor, int], Tensor], shape: Pair) -> Norm:
    """Return the norm of average pooling, exactly: the product of the norms along both axes.

    Args:
        average: pools images (1, 1, H, W) along one axis alone, given as 0 or 1.
        shape: (H, W).
    """
    value, low = 1.0, 1.0
    for axis, side in enumerate(shape):
        unit = torch.eye(side, dtype=torch.float64)[:, None]
        matrix = average(unit[..., None] if axis == 0 else unit[:, :, None], axis).flatten(1)
        norm = dense_norm(matrix)
        value, low = value * norm.value, low * (norm.value - norm.residual)
    return Norm(value, value - low)


def contrast_bound(eps: float, gamma: float) -> float:
    """Return the Lipschitz constant of x / (eps + |x|^2)^gamma, E11: eps^-gamma.

    With q = |x|^2 / eps, the Jacobian has the singular values eps^-gamma (1 + q)^-gamma across x and
    eps^-gamma (1 + q)^(-gamma - 1) |1 + (1 - 2 gamma) q| along x. Both are eps^-gamma at x = 0 and nowhere larger, for
    every gamma >= 0: what stands between the bars is at most 1 + q; its negative, (2 gamma - 1) q - 1, is at most q
    for gamma < 1, and for gamma >= 1 below 1 + (gamma + 1) q + gamma (gamma + 1) q^2 / 2 <= (1 + q)^(gamma + 1).

    Args:
        eps: positive.
        gamma: at least 0; the paper has it in [0.5, 1].

    Example:
        >>> contrast_bound(0.25, 0.5)
        2.0
    """
    if not eps > 0 or not gamma >= 0:
        raise InputError(f"eps and gamma: expected eps > 0 and gamma >= 0, got {eps} and {gamma}")
    return math.pow(eps, -gamma)


def cross_channel_bound(size: int, beta: float, k: float) -> float:
    """Return a Lipschitz bound of AlexNet's normalisation across `size` neighbouring channels.

    b_c = a_c / S_c^beta with S_c = k + kappa (sum of a_j^2 over the channels j of window W(c)). Its windows differ
    from channel to channel, so that the contrast normalisation's bound does not apply. Take k = 1 (the factor k^-beta
    comes out), u = kappa^(1/2) a, s = 1 - 1 / S_c in [0, 1), and v = u_c^2 / (S_c - 1) in [0, 1]. Row c of the
    Jacobian J is S_c^-beta (1 - 2 beta u_c^2 / S_c) on the diagonal and S_c^-beta (-2 beta u_c u_j / S_c) beside it,
    so for every vector x, with x' its part in W(c) without c,

        |(J x)_c| <= A |x_c| + B |x'|,   A = (1 - s)^beta |1 - 2 beta s v|,
                                         B = (1 - s)^beta 2 beta s (v (1 - v))^(1/2)

    No channel is in more than size - 1 windows besides its own. Two bounds follow, and the smaller is returned:

    1. A <= 1 (see `contrast_bound`) and B <= (beta / (beta + 1))^(beta + 1) (at v = 1/2, s = 1 / (1 + beta)), hence
       |J| <= 1 + (size - 1)^(1/2) (beta / (beta + 1))^(beta + 1).
    2. (A y + B z)^2 <= (A^2 + B^2 / mu) (y^2 + mu z^2) for every mu > 0, so |J|^2 <= (1 + mu (size - 1)) whenever
       A^2 + B^2 / mu <= 1. As (1 - s)^(-2 beta) >= 1 + 2 beta s + beta (2 beta + 1) s^2, that holds if
           -4 v + 4 beta s v^2 + 4 beta s v (1 - v) / mu <= 2 + (2 beta + 1) s,
       linear in s: true at s = 0, and at s = 1 if beta / mu <= 3 + 2 beta + 4 v - 4 beta v^2, whose right side is
       concave in v and so at least min(3 + 2 beta, 7 - 2 beta). Hence mu = beta / min(3 + 2 beta, 7 - 2 beta).

    At a = 0 the gain is k^-beta, so the bound is at most a factor 1.29 too large for AlexNet (size 5, beta 0.75).
    kappa does not matter: it only scales a.

    Args:
        size: number of channels summed over, no more than there are.
        beta: the exponent, positive.
        k: the constant, positive; 2 in AlexNet.

    Example:
        >>> round(cross_channel_bound(5, 0.75, 2.0), 3)
        0.768
    """
    if size < 1 or not beta >= 0 or not k > 0:
        raise InputError(f"size, beta, k: expected at least 1, at least 0 and above 0, got {size}, {beta}, {k}")
    if beta == 0:
        return 1.0
    first = 1 + math.sqrt(size - 1) * math.pow(beta / (beta + 1), beta + 1)
    least = min(3 + 2 * beta, 7 - 2 * beta)
    second = math.sqrt(1 + (size - 1) * beta / least) if least > 0 else math.inf
    return math.pow(k, -beta) * min(first, second)


def average_pool(module: nn.AvgPool2d) -> Callable[[Tensor, int], Tensor]:
    """Return average pooling along one axis, for `averaging_norm`; together they make the module's."""
    kernel, stride, padding = (pair(value) for value in (module.kernel_size, module.stride, module.padding))
    total = module.divisor_override

    def average(images: Tensor, axis: int) -> Tensor:
        pooled = F.avg_pool2d(
            images,
            _only(kernel[axis], axis, 1),
            _only(stride[axis], axis, 1),
            _only(padding[axis], axis, 0),
            ceil_mode=module.ceil_mode,
            count_include_pad=module.count_include_pad,
            divisor_override=1 if total else None,
        )
        return pooled / total if total and axis == 0 else pooled

    return average


def adaptive_average_pool(outputs: Sequence[int]) -> Callable[[Tensor, int], Tensor]:
    """Return adaptive average pooling along one axis, for `averaging_norm`."""
    return lambda images, axis: F.adaptive_avg_pool2d(images, _only(outputs[axis], axis, 1))


def pair(value: int | Sequence[int]) -> Pair:
    """Return a torch setting that may be one number or two as two."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _only(value: int, axis: int, other: int) -> Pair:
    """Return a setting for one axis, `other` for the second."""
    return (value, other) if axis == 0 else (other, value)

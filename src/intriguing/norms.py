"""Norms per example, the paper's distortion, and Euclidean projections.

Every function takes a batch whose first axis counts examples; the other axes, whatever they are, make up one
example. Norms are computed and returned in float64, so that a claim about a float32 image is not blurred by
the sum; projections keep the dtype of what they are given.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from intriguing.errors import InputError


def l1(x: Tensor) -> Tensor:
    """Return the sum of absolute entries of each example.

    Args:
        x: (B, ...) any real dtype.

    Returns:
        (B,) float64.

    Example:
        >>> l1(torch.tensor([[3.0, -4.0]])).item()
        7.0
    """
    return _rows(x).abs().sum(dim=1)


def l2(x: Tensor) -> Tensor:
    """Return the Euclidean norm of each example.

    Args:
        x: (B, ...) any real dtype.

    Returns:
        (B,) float64.

    Example:
        >>> l2(torch.tensor([[3.0, -4.0]])).item()
        5.0
    """
    norm: Tensor = torch.linalg.vector_norm(_rows(x), dim=1)
    return norm


def linf(x: Tensor) -> Tensor:
    """Return the largest absolute entry of each example, 0 for an example without entries.

    Args:
        x: (B, ...) any real dtype.

    Returns:
        (B,) float64.

    Example:
        >>> linf(torch.tensor([[3.0, -4.0]])).item()
        4.0
    """
    rows = _rows(x).abs()
    return rows.amax(dim=1) if rows.shape[1] else rows.sum(dim=1)


def distortion(x: Tensor, y: Tensor) -> Tensor:
    """Return the paper's distortion sqrt(sum_i (y_i - x_i)^2 / n), the root mean square change of a pixel.

    Szegedy et al. 2014, section 4.2. The difference is taken in float64. With pixels in [0, 1] the value lies
    in [0, 1]; on 28 x 28 images it is the L2 distance over 28.

    Args:
        x: (B, ...) images.
        y: (B, ...) changed images, of the same shape.

    Returns:
        (B,) float64.

    Raises:
        InputError: the shapes differ, or an image has no pixels.

    Example:
        >>> distortion(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.5)).item()
        0.5
    """
    if x.shape != y.shape:
        raise InputError(f"x and y must have one shape, got {tuple(x.shape)} and {tuple(y.shape)}")
    difference = _rows(y) - _rows(x)
    if not difference.shape[1]:
        raise InputError(f"an image must have at least one pixel, got shape {tuple(x.shape)}")
    return l2(difference) / math.sqrt(difference.shape[1])


def project_box(x: Tensor, lower: Tensor | float, upper: Tensor | float) -> Tensor:
    """Return the nearest point of the box [lower, upper].

    Args:
        x: (B, ...).
        lower: number or tensor that broadcasts to x; may be -inf.
        upper: number or tensor that broadcasts to x; may be +inf. At or above `lower` everywhere.

    Returns:
        (B, ...), every entry within its bounds.

    Raises:
        InputError: a lower bound exceeds its upper bound.

    Example:
        >>> project_box(torch.tensor([[-1.0, 0.5, 2.0]]), 0.0, 1.0).tolist()
        [[0.0, 0.5, 1.0]]
    """
    low, high = torch.as_tensor(lower).to(x), torch.as_tensor(upper).to(x)
    if bool((low > high).any()):
        raise InputError("lower must not exceed upper; the box is empty")
    return torch.minimum(torch.maximum(x, low), high)


def project_l2_ball(r: Tensor, radius: Tensor | float) -> Tensor:
    """Return the nearest point of the Euclidean ball around 0.

    Args:
        r: (B, ...) perturbations.
        radius: a number or (B,), at least 0.

    Returns:
        (B, ...) with l2 at most `radius`, up to rounding.

    Raises:
        InputError: a radius is negative or NaN.

    Example:
        >>> project_l2_ball(torch.tensor([[3.0, 4.0]]), 2.5).tolist()
        [[1.5, 2.0]]
    """
    size = l2(r)
    limit = _radius(r, radius)
    factor = torch.where(size > limit, limit / size.clamp_min(torch.finfo(torch.float64).tiny), 1.0)
    return r * _over_rows(factor, r)


def project_linf_ball(r: Tensor, radius: Tensor | float) -> Tensor:
    """Return the nearest point of the cube [-radius, radius]^n.

    Args:
        r: (B, ...) perturbations.
        radius: a number or (B,), at least 0.

    Returns:
        (B, ...) with linf at most `radius`.

    Raises:
        InputError: a radius is negative or NaN.

    Example:
        >>> project_linf_ball(torch.tensor([[3.0, -4.0]]), 2.5).tolist()
        [[2.5, -2.5]]
    """
    limit = _over_rows(_radius(r, radius), r)
    return torch.minimum(torch.maximum(r, -limit), limit)


def project_l1_ball(r: Tensor, radius: Tensor | float) -> Tensor:
    """Return the nearest point (in L2) of the L1 ball around 0.

    Soft thresholding, with the threshold found by sorting: Duchi, Shalev-Shwartz, Singer and Chandra, ICML
    2008, figure 1.

    Args:
        r: (B, ...) perturbations.
        radius: a number or (B,), at least 0.

    Returns:
        (B, ...) with l1 at most `radius`, up to rounding.

    Raises:
        InputError: a radius is negative or NaN.

    Example:
        >>> project_l1_ball(torch.tensor([[3.0, 1.0]]), 2.0).tolist()
        [[2.0, 0.0]]
    """
    rows = _rows(r)
    limit = _radius(r, radius).unsqueeze(1)
    size = rows.abs()
    ordered = size.sort(dim=1, descending=True).values
    # theta_j: the threshold if exactly the j largest entries stayed non-zero.
    theta = (ordered.cumsum(dim=1) - limit) / torch.arange(1, rows.shape[1] + 1, device=r.device)
    # Figure 1, line 2: the largest j whose entry exceeds its own threshold. At radius 0 none may.
    count = (ordered > theta).sum(dim=1, keepdim=True).clamp_min(1)
    threshold = theta.gather(1, count - 1).clamp_min(0)
    projected = rows.sign() * (size - threshold).clamp_min(0)
    inside = size.sum(dim=1, keepdim=True) <= limit
    return torch.where(inside, rows, projected).to(r.dtype).reshape(r.shape)


def project_half_space(x: Tensor, a: Tensor, b: Tensor | float) -> Tensor:
    """Return the nearest point of the half-space {y : <a, y> <= b}.

    Args:
        x: (B, ...).
        a: normals, of the shape of x or of one example.
        b: offsets, a number or (B,).

    Returns:
        (B, ...) with <a, y> at most b, up to rounding.

    Raises:
        InputError: a normal is 0 and its half-space empty (b < 0).

    Example:
        >>> project_half_space(torch.tensor([[2.0, 1.0]]), torch.tensor([1.0, 0.0]), 1.0).tolist()
        [[1.0, 1.0]]
    """
    normal = _rows(a.expand_as(x))
    offset = torch.as_tensor(b, dtype=torch.float64, device=x.device).expand(x.shape[0])
    square = (normal * normal).sum(dim=1)
    if bool(((square == 0) & (offset < 0)).any()):
        raise InputError("a half-space with normal a = 0 and b < 0 is empty; pass a non-zero normal")
    excess = ((normal * _rows(x)).sum(dim=1) - offset).clamp_min(0)
    step = torch.where(square > 0, excess / square, torch.zeros_like(square))
    moved = _rows(x) - step.unsqueeze(1) * normal
    return torch.where(step.unsqueeze(1) > 0, moved, _rows(x)).to(x.dtype).reshape(x.shape)


def project_half_space_in_box(
    x: Tensor, a: Tensor, b: Tensor, lower: float, upper: float, *, sweeps: int = 60
) -> Tensor:
    """Return the nearest point of the half-space {y : <a, y> >= b} cut with the box [lower, upper].

    The answer is clamp(x + t a) with the least t >= 0 that reaches b. For x in the box, <a, clamp(x + t a)> is concave
    and piecewise linear in t, so that Newton's method from t = 0 never passes the root and ends after as many steps
    as the pieces it meets, five or so on images.

    Args:
        x: (B, n) points of the box.
        a: (B, n) normals.
        b: (B,) offsets.
        lower: of every entry.
        upper: likewise.
        sweeps: the most Newton steps.

    Returns:
        (B, n) in the box, with <a, y> >= b up to rounding; where the box does not reach so far, the point of it that
        goes farthest.

    Example:
        >>> x, a, b = torch.zeros(1, 2), torch.tensor([[2.0, 1.0]]), torch.tensor([2.5])
        >>> project_half_space_in_box(x, a, b, 0.0, 1.0).tolist()
        [[1.0, 0.5]]
    """
    y, t = x, torch.zeros_like(b)
    squares = a * a
    # Beyond what a sum of this size is off by, another step would only follow the rounding.
    small = torch.finfo(x.dtype).eps * (b.abs() + (a * x).abs().sum(1))
    for _ in range(sweeps):
        missing = b - (a * y).sum(1)
        free = torch.where(a > 0, y < upper, y > lower)
        slope = (squares * free).sum(1)
        step = torch.where((missing > small) & (slope > 0), missing / slope, 0.0)
        if not bool((step > 0).any()):
            break
        t = t + step
        y = torch.addcmul(x, t[:, None], a).clamp(lower, upper)
    return y


def _rows(x: Tensor) -> Tensor:
    """Return x as (B, n) float64."""
    if x.ndim == 0:
        raise InputError("expected a batch (B, ...), got a single number")
    return x.reshape(x.shape[0], math.prod(x.shape[1:])).to(torch.float64)


def _radius(r: Tensor, radius: Tensor | float) -> Tensor:
    """Return the radius as (B,) float64, checked."""
    limit = torch.as_tensor(radius, dtype=torch.float64, device=r.device).expand(r.shape[0])
    if not bool((limit >= 0).all()):
        raise InputError(f"radius must be at least 0, got {limit.min().item()}")
    return limit


def _over_rows(per_row: Tensor, like: Tensor) -> Tensor:
    """Return (B,) float64 as (B, 1, ..., 1) in the dtype of `like`."""
    return per_row.to(like.dtype).reshape(-1, *([1] * (like.ndim - 1)))

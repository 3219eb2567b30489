"""Norms per example, the paper's distortion, and Euclidean projections.

Every function but `free` takes a batch whose first axis counts examples; the other axes, whatever they are, make up
one example. Norms are computed and returned in float64, so that a claim about a float32 image is not blurred by
the sum; projections keep the dtype of what they are given.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from intriguing.errors import InputError

_HUGE = 1e30  # makes any number that is more than rounding larger than 1


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


def project_ball_in_box(
    r: Tensor, radius: Tensor | float, lower: Tensor | float, upper: Tensor | float, norm: float
) -> Tensor:
    """Return the nearest point (in L2) of the ball around 0 cut by a box that holds 0.

    Clipping after projecting, or the reverse, ends elsewhere: for L2 what a clipped pixel could not take is left to
    the others, for L1 too ("Mind the box", Croce and Hein, ICML 2021, proposition 2.1). The conditions of Karush,
    Kuhn and Tucker give the form of the answer, clip(t r) in L2 and clip(soft_theta(r)) in L1; t and theta are found
    exactly, by adding pixels to the set of those at their bounds and by sorting the kinks.

    Args:
        r: (B, ...) perturbations.
        radius: a number or (B,), at least 0.
        lower: number or tensor that broadcasts to r, at most 0.
        upper: likewise, at least 0.
        norm: 1, 2 or inf.

    Returns:
        (B, ...) in the dtype of r, in the box, with a norm of at most `radius` up to rounding.

    Raises:
        InputError: a negative radius, a box without 0, or another norm.

    Example:
        >>> project_ball_in_box(torch.tensor([[3.0, 4.0]]), 5.0, -1.0, 2.0, 2).tolist()
        [[2.0, 2.0]]
    """
    limit = _radius(r, radius)
    rows = _rows(r)
    low = _rows(torch.as_tensor(lower, dtype=torch.float64, device=r.device).expand_as(r))
    high = _rows(torch.as_tensor(upper, dtype=torch.float64, device=r.device).expand_as(r))
    if bool((low > 0).any() | (high < 0).any()):
        raise InputError("lower, upper: expected lower <= 0 <= upper, so that the box holds the ball's centre")
    room = torch.where(rows > 0, high, -low)
    size = rows.abs()
    if norm == math.inf:
        size = torch.minimum(size, limit[:, None])
    elif norm == 2:
        size = size * _shrinkage(size, room, limit)[:, None]
    elif norm == 1:
        size = (size - _threshold(size, room, limit)[:, None]).clamp_min(0)
    else:
        raise InputError(f"norm: expected 1, 2 or inf (math.inf), got {norm!r}")
    return torch.copysign(torch.minimum(size, room), rows).to(r.dtype).reshape(r.shape)


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


def project_box_hyperplane(
    x: Tensor,
    a: Tensor,
    b: Tensor | float,
    lower: Tensor | float,
    upper: Tensor | float,
    *,
    norm: float = 2.0,
) -> Tensor:
    """Return the point of the box on the hyperplane {y : <a, y> = b} that is nearest to x in L1, L2 or Linf.

    With t_i >= 0 the change of entry i in the direction that leads to the hyperplane, and R_i its room in the box, the
    answer is t_i = min(m s_i, R_i), where s_i is |a_i| in L2 and 1 in Linf, and m makes the sum of |a_i| t_i reach the
    hyperplane: the sum is piecewise linear in m, its pieces found by sorting. In L1 the entries with the largest |a_i|
    are used up first. Croce and Hein 2020 (FAB), section 2.2.

    Args:
        x: (B, ...); a point outside the box is first moved to the nearest one inside.
        a: normals, of the shape of x or of one example.
        b: offsets, a number or (B,).
        lower: number or tensor that broadcasts to x.
        upper: number or tensor that broadcasts to x, at or above `lower`.
        norm: 1, 2 or inf. In L1 and Linf the nearest point need not be unique; one of them is returned.

    Returns:
        (B, ...) within the box, in the dtype of x. Where the hyperplane misses the box, the corner (in the entries
        with a_i not 0) that comes nearest to it.

    Raises:
        InputError: a lower bound exceeds its upper bound, or another norm.

    Example:
        >>> project_box_hyperplane(torch.tensor([[0.5, 0.9]]), torch.tensor([1.0, 1.0]), 2.0, 0.0, 1.0).tolist()
        [[1.0, 1.0]]
    """
    if norm not in (1, 2, math.inf):
        raise InputError(f"norm: expected 1, 2 or inf (math.inf), got {norm!r}")
    low, high = (torch.as_tensor(bound, device=x.device).to(x.dtype).expand_as(x) for bound in (lower, upper))
    start = project_box(x, low, high)
    point, normal = _rows(start), _rows(a.expand_as(x))
    gap = torch.as_tensor(b, dtype=torch.float64, device=x.device).expand(len(x)) - torch.linalg.vecdot(normal, point)
    # Towards the hyperplane: up along a where it is ahead, down where it lies behind.
    way = normal.sign() * torch.where(gap < 0, -1.0, 1.0)[:, None]
    room = torch.where(way > 0, _rows(high) - point, point - _rows(low)) * way.abs()
    fill = _fill_greedily if norm == 1 else _fill_evenly
    change = fill(normal.abs(), normal.abs() if norm == 2 else way.abs(), room, gap.abs())
    return project_box((point + way * change).to(x.dtype).reshape(x.shape), low, high)


def _fill_greedily(size: Tensor, share: Tensor, room: Tensor, gap: Tensor) -> Tensor:
    """Return 0 <= t <= room (B, n) with sum of size * t = gap (B,) where it can be, using the largest sizes first."""
    order = size.argsort(dim=1, descending=True)
    ordered, space = size.gather(1, order), room.gather(1, order)
    gained = ordered * space
    left = gap[:, None] - (gained.cumsum(1) - gained)
    change = torch.where(ordered > 0, left / ordered, 0.0).clamp_min(0).minimum(space)
    return torch.zeros_like(room).scatter(1, order, change)


def _fill_evenly(size: Tensor, share: Tensor, room: Tensor, gap: Tensor) -> Tensor:
    """Return t = min(m share, room) (B, n) with sum of size * t = gap (B,), or t = room where that falls short."""
    full = torch.where(share > 0, room / share, torch.inf)  # the m at which an entry has no room left
    full, order = full.sort(dim=1)
    gained = (size * room).gather(1, order).cumsum(1)
    slope = (size * share).gather(1, order)
    slope = slope.flip(1).cumsum(1).flip(1)  # of the sum, just before each entry is full
    before = gained - (size * room).gather(1, order)
    # The sum of size * t when entry j gets full: what is used up, and the rest at the same m.
    reached = torch.where(full.isinf(), torch.inf, before + torch.where(full.isinf(), 0.0, full) * slope)
    piece = (reached < gap[:, None]).sum(1, keepdim=True).clamp_max(size.shape[1] - 1)
    steep = slope.gather(1, piece)
    m = torch.where(steep > 0, (gap[:, None] - before.gather(1, piece)) / steep, 0.0).clamp_min(0)
    short = gained[:, -1:] <= gap[:, None]
    return torch.where(short, room, torch.minimum(m * share, room))


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
    # On a CPU, comparisons and choices of entries cost several times what arithmetic on them does.
    squares = a * a
    inverse = a / squares.clamp_min(torch.finfo(a.dtype).tiny)
    room = torch.maximum((upper - x) * inverse, (lower - x) * inverse)  # the t at which an entry meets its side
    along = a * x
    missing = at_first = b - along.sum(1)
    # Beyond what a sum of this size is off by, another step would only follow the rounding.
    small = torch.finfo(x.dtype).eps * (b.abs() + along.abs().sum(1))
    t = torch.zeros_like(b)
    for _ in range(sweeps):
        slope = torch.linalg.vecdot(squares, _indicator(room - t[:, None]))
        step = torch.where((missing > small) & (slope > 0), missing / slope, 0.0)
        if not bool((step > 0).any()):
            break
        t = t + step
        missing = at_first - torch.linalg.vecdot(squares, torch.minimum(room, t[:, None]))
    return torch.addcmul(x, t[:, None], a).clamp(lower, upper)


def free(x: Tensor, direction: Tensor, lower: float, upper: float) -> Tensor:
    """Return 1 for the entries of x inside of the box [lower, upper] and those that `direction` leads there, 0 else.

    Args:
        x: (...,) points of the box.
        direction: (...,).
        lower: of every entry.
        upper: likewise.

    Returns:
        Of the shape and dtype of x: 0 for entries at an end of the box which the direction holds there or leaves.

    Example:
        >>> free(torch.tensor([0.0, 0.0, 0.5]), torch.tensor([-1.0, 1.0, 0.0]), 0.0, 1.0).tolist()
        [0.0, 1.0, 1.0]
    """
    moved = (torch.add(x, direction, alpha=_HUGE).clamp(lower, upper) - x).abs()
    return _indicator(torch.maximum(moved, torch.minimum(x - lower, upper - x)))


def _indicator(x: Tensor) -> Tensor:
    """Return 1 where x > 0 and 0 elsewhere, as floats; numbers below 1e-30 are taken for rounding, and lie between.

    On a CPU this is several times as fast as a comparison and what is done with its answer.
    """
    return (x * _HUGE).clamp(0, 1)


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


def _shrinkage(size: Tensor, room: Tensor, limit: Tensor) -> Tensor:
    """Return the t <= 1 with |min(t size, room)|_2 = limit, or 1 where that is short enough; all (B, n), (B,).

    From below: with the entries that t leaves at their bounds held there, the next t is exact unless more of them
    reach theirs. Each pass adds an entry or is the last.
    """
    t: Tensor = (limit / torch.linalg.vector_norm(size, dim=1).clamp_min(torch.finfo(torch.float64).tiny)).clamp_max(1)
    for _ in range(size.shape[1]):
        full = size * t[:, None] >= room
        left = limit.square() - torch.where(full, room, 0.0).square().sum(1)
        free = torch.where(full, 0.0, size).square().sum(1)
        longer = torch.where(free > 0, (left.clamp_min(0) / free).sqrt(), 1.0).clamp_max(1)
        if not bool((longer > t * (1 + 1e-15)).any()):
            break
        t = torch.maximum(t, longer)
    return t


def _threshold(size: Tensor, room: Tensor, limit: Tensor) -> Tensor:
    """Return the theta >= 0 with sum min(max(size - theta, 0), room) = limit, or 0 where that is less already.

    The sum falls piecewise linearly in theta: an entry starts to shrink at size - room and is gone at size.
    """
    starts = (size - room).clamp_min(0)
    kinks, order = torch.cat((starts, size), 1).sort(dim=1)
    n = size.shape[1]
    slope = torch.where(order < n, 1.0, -1.0).double().cumsum(1)  # how many entries shrink after each kink
    total = torch.minimum(size, room).sum(1)
    lost = slope[:, :-1] * kinks.diff(dim=1)
    at = torch.cat((total[:, None], total[:, None] - lost.cumsum(1)), 1)
    # The kink before the crossing; the first one has lost nothing yet.
    before = ((at > limit[:, None]).sum(1, keepdim=True) - 1).clamp(0, 2 * n - 1)
    excess = (at.gather(1, before) - limit[:, None]).clamp_min(0)
    theta = kinks.gather(1, before) + excess / slope.gather(1, before).clamp_min(1)
    return torch.where(total > limit, theta.squeeze(1), 0.0)

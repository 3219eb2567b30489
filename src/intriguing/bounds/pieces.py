"""The affine pieces of a ReLU net, and the nearest point of one at which the label is lost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
import torch
from torch import Tensor

from intriguing.bounds.graph import Graph
from intriguing.bounds.operations import Affine, Sum


@dataclass(frozen=True)
class Piece:
    """Where units have given signs: {x : rows x + offsets >= 0}; there the differences are affine.

    Attributes:
        rows: (R, n); offsets: (R,).
        forms: (S, n) of the differences z_y - z_j; form_offsets: (S,).
    """

    rows: Tensor
    offsets: Tensor
    forms: Tensor
    form_offsets: Tensor


def signs_at(graph: Graph, enter: Sequence[int], point: Tensor) -> dict[int, Tensor]:
    """Return the signs (1, *shape), 1 or -1, of the values that enter ReLUs at a point (1, ...)."""
    values = graph.values(point)
    return {place: torch.where(values[place] > 0, 1.0, -1.0) for place in enter}


def linear_piece(graph: Graph, enter: Sequence[int], signs: dict[int, Tensor], forms: Tensor) -> Piece:
    """Return the piece in which every unit has its sign.

    Args:
        graph: of a ReLU net.
        enter: nodes that enter ReLUs.
        signs: by such node, (1, *shape), none of them 0.
        forms: (S, K) logit differences.
    """
    rows, offsets = [], []
    for place in enter:
        count = math.prod(graph.nodes[place].shape)
        A, c = _back(graph, place, torch.eye(count, dtype=torch.float64).view(count, *graph.nodes[place].shape), signs)
        sign = torch.where(signs[place] > 0, 1.0, -1.0).flatten().double()
        rows.append(sign[:, None] * A)
        offsets.append(sign * c)
    F, f = _back(graph, len(graph.nodes) - 1, forms, signs)
    none = forms.new_zeros(0, F.shape[1])
    return Piece(torch.cat([*rows, none]), torch.cat([*offsets, none[:, 0]]), F, f)


def _back(graph: Graph, place: int, A: Tensor, signs: dict[int, Tensor]) -> tuple[Tensor, Tensor]:
    """Return A h, h the value at `place`, as forms of the pixels: (R, n) and (R,)."""
    coefficients, const = {place: A}, A.new_zeros(len(A))

    def add(source: int, B: Tensor) -> None:
        coefficients[source] = coefficients[source] + B if source in coefficients else B

    for at in range(place, 0, -1):
        if at not in coefficients:
            continue
        node, A = graph.nodes[at], coefficients.pop(at)
        operation = node.operation
        if isinstance(operation, Affine):
            const = const + (A * operation.bias).flatten(1).sum(1)
            add(node.inputs[0], operation.transpose(A))
        elif isinstance(operation, Sum):
            for weight, source in zip(operation.weights, node.inputs, strict=True):
                add(source, weight * A)
        else:
            add(node.inputs[0], A * (signs[node.inputs[0]] > 0).double())
    return coefficients[0].flatten(1), const


def nearest_in_piece(
    piece: Piece, x: Tensor, norm: float, box: tuple[float, float], enough: float
) -> tuple[Tensor | None, float]:
    """Return the shortest r with x + r in the piece and in the box, and a lower bound of its length.

    Args:
        piece: its `rows` and `offsets` are all that counts.
        x: (n,) the image.
        norm: 2 or inf.
        box: smallest and largest pixel.
        enough: a length beyond which nothing matters; the search stops there.

    Returns:
        r (n,) or None where there is none below `enough`, and the bound; inf where the piece is empty.
    """
    A, c = piece.rows.numpy(), piece.offsets.numpy()
    point = x.numpy()
    lo, hi = box[0] - point, box[1] - point
    size = np.linalg.norm(A, axis=1)
    h = -(A @ point + c)
    flat = size < 1e-300
    if (h[flat] > 0).any():
        return None, math.inf
    A, h = A[~flat] / size[~flat, None], h[~flat] / size[~flat]
    return _cube(A, h, lo, hi) if norm == math.inf else _sphere(A, h, lo, hi, enough)


def _sphere(A: np.ndarray, h: np.ndarray, lo: np.ndarray, hi: np.ndarray, enough: float) -> tuple[Tensor | None, float]:
    """Minimise |r|^2 / 2 subject to A r >= h, lo <= r <= hi, by its dual.

    D(m) = |r|^2 / 2 - m (A r - h) at r = clip(A^T m, lo, hi) is concave; every m >= 0 bounds the minimum.
    """
    best = 0.0

    class _EnoughError(Exception):
        pass

    def dual(m: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal best
        r = np.clip(m @ A, lo, hi)
        slack = A @ r - h
        value = float(m @ slack - 0.5 * r @ r)
        best = max(best, -value - 1e-13 * (float(m @ np.abs(h)) + float(r @ r)))
        if best > 0.5 * enough * enough:
            raise _EnoughError
        return value, slack

    try:
        found = scipy.optimize.minimize(
            dual,
            np.zeros(len(h)),
            jac=True,
            method="L-BFGS-B",
            bounds=scipy.optimize.Bounds(0.0, np.inf),
            options={"ftol": 0.0, "gtol": 1e-9, "maxcor": 20, "maxiter": 500, "maxfun": 1000},
        )
    except _EnoughError:
        return None, enough
    r = np.clip(found.x @ A, lo, hi)
    return torch.from_numpy(r), math.sqrt(2 * best)


def _cube(A: np.ndarray, h: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> tuple[Tensor | None, float]:
    """Minimise max |r_i| subject to A r >= h, lo <= r <= hi, by linear programming; the bound is that of its dual."""
    n = A.shape[1]
    unit, one = np.eye(n), np.ones((n, 1))
    upper = np.concatenate([np.hstack([-A, np.zeros((len(A), 1))]), np.hstack([unit, -one]), np.hstack([-unit, -one])])
    limits = np.concatenate([-h, np.zeros(2 * n)])
    found = scipy.optimize.linprog(
        np.eye(n + 1)[-1], A_ub=upper, b_ub=limits, bounds=[*zip(lo, hi, strict=True), (0, None)]
    )
    if found.status == 2:
        return None, math.inf
    if found.status != 0:
        return None, 0.0
    # By weak duality, from the solver's multipliers u <= 0: every such u gives a bound.
    u = np.minimum(found.ineqlin.marginals, 0.0)
    left = np.eye(n + 1)[-1] - upper.T @ u
    bound = float(limits @ u + np.minimum(left[:-1] * lo, left[:-1] * hi).sum())
    return torch.from_numpy(found.x[:-1]), max(bound, 0.0) if left[-1] >= -1e-9 else 0.0

"""`lipschitz`: upper bounds of a net's Lipschitz constant by four kinds of argument, and a lower one. L2, all inputs.

    ascent <= the constant <= lipsdp (neuron) <= lipsdp (layer), pairs <= product

A net in a row is phi = W_K D_(K-1) W_(K-1) ... D_1 W_1 in its differences, each D_k diagonal with entries in [0, a_k],
a_k the largest slope of the activation: only W and a matter.

product   prod_k ||W_k|| prod_k a_k; Szegedy et al. 2014, section 4.3.
pairs     Virmaux and Scaman 2018 (SeqLip), section 5: with W_k = U_k S_k V_k^T,
              L <= prod_k a_k max_D ||S_(k+1)^(1/2) V_(k+1)^T D U_k S_k^(1/2)||,   0 <= D <= 1,            (1)
          the first and last S whole. DEVIATION: they find the maximum by a greedy search, which is no upper bound.
          Here D = (I + E) / 2 with |E| <= 1, so that for every positive diagonal T
              ||M D N|| <= ||M N|| / 2 + ||M T^(1/2)|| ||T^(-1/2) N|| / 2,                                 (2)
          and T is improved by gradient descent. T = I shows that it is never above the product.
lipsdp    Fazlyab et al. 2019, theorem 2 with the multipliers of LipSDP-Neuron or -Layer: the least rho with
              [A; B]^T [0, a T; a T, -2 T] [A; B] + diag(-rho I, 0, ..., 0, W_K^T W_K) <= 0.               (3)
          The solver's T is made feasible and rho computed again from it, so that a solver's tolerance costs tightness
          and not soundness.
ascent    `gain.lipschitz_lower`: the largest gain found.
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from intriguing.bounds import network
from intriguing.bounds.ascent import Ascent
from intriguing.bounds.gain import lipschitz_lower
from intriguing.bounds.graph import Graph
from intriguing.bounds.operations import Affine
from intriguing.bounds.operators import dense_norm
from intriguing.bounds.relaxation import Activation, Logistic
from intriguing.bounds.tracing import trace
from intriguing.errors import InputError, ModelError, UnknownNameError
from intriguing.nets.load import Model, as_model

METHODS = ("product", "pairs", "lipsdp", "lipsdp-layer", "ascent")
_ENTRIES = 2**24  # of one layer written out as a matrix: 128 MiB
_STEPS = 150  # of gradient descent on log T in (2)
_POINTS = 32  # starts of the ascent
_MARGIN = 1e-7  # of T, relative, by which the solver's answer is moved inside before rho is computed


@dataclass(frozen=True)
class Constant:
    """A bound of a net's Lipschitz constant in L2.

    Attributes:
        value: the bound.
        method: a key of `METHODS`.
        side: ``"upper"``, or ``"lower"`` for what was found by ascent.
        seconds: it took.
    """

    value: float
    method: str
    side: str
    seconds: float


def lipschitz(
    model: Model | nn.Module,
    method: str = "product",
    *,
    shape: Sequence[int] | None = None,
    points: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Constant:
    """Bound the Lipschitz constant of a net from its pixels to its logits.

    Args:
        model: a module, or a `Model`, whose preprocessing is counted.
        method: see the module's text. ``"pairs"`` and ``"lipsdp"`` take nets whose layers follow each other in a row;
            ``"lipsdp"`` needs the package cvxpy, and minutes from about a hundred units on.
        shape: of one image; by default (n,), n the inputs of the first dense layer, if that comes first.
        points: (B, *shape) where the ascent starts, by default uniform in the box.
        generator: draws them, and the first perturbations; by default one of its own.

    Raises:
        UnknownNameError: no such method.
        InputError: a missing shape, or a missing package, with what to install.
        ModelError: a net that the method does not cover, with the path of what it cannot.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
        >>> lipschitz(net, "pairs").value <= lipschitz(net, "product").value
        True
    """
    began = time.perf_counter()
    model = as_model(model)
    if method not in METHODS:
        raise UnknownNameError("method", method, METHODS)
    shape = _shape(model) if shape is None else tuple(int(side) for side in shape)
    if method == "product":
        value = network.product(network.layer_bounds(model, shape))
    elif method == "ascent":
        value = _ascent(model, shape, points, generator or torch.Generator().manual_seed(0))
    else:
        weights, slopes = _row(trace(model, shape, torch.device("cpu")))
        if method == "pairs":
            value = _pairs(weights, slopes)
        else:
            value = _semidefinite(weights, slopes, by_layer=method == "lipsdp-layer")
    return Constant(value, method, "lower" if method == "ascent" else "upper", time.perf_counter() - began)


def _shape(model: Model) -> tuple[int, ...]:
    first = next((m for m in model.layers().values() if isinstance(m, nn.Linear | nn.Conv2d)), model.net)
    if isinstance(first, nn.Linear):
        return (first.in_features,)
    raise InputError("shape: expected the shape of one image, (C, H, W), for a net that does not start with nn.Linear")


def _ascent(model: Model, shape: tuple[int, ...], points: Tensor | None, generator: torch.Generator) -> float:
    if points is None:
        low, high = model.box
        points = low + (high - low) * torch.rand(_POINTS, *shape, generator=generator, dtype=torch.float64)
    points = points.to(model.device, model.dtype)
    return float(lipschitz_lower(model, points, steps=50, generator=generator).gain.max())


def _row(graph: Graph) -> tuple[list[Tensor], list[float]]:
    """Return the matrices W_1 .. W_K of a net in a row and the largest slopes a_1 .. a_(K-1) between them."""
    slopes: list[float] = []
    runs: list[list[Affine]] = [[]]
    shapes = [graph.nodes[0].shape]
    for place, node in enumerate(graph.nodes[1:], start=1):
        if node.inputs != (place - 1,) or not isinstance(node.operation, Affine | Activation):
            raise ModelError(f"{node.path}: this method takes layers in a row, without branches or max-pooling")
        if isinstance(node.operation, Activation):
            inner = node.operation
            slopes.append(inner.height * inner.rate / 4 if isinstance(inner, Logistic) else 1.0)
            runs.append([])
            shapes.append(node.shape)
        else:
            runs[-1].append(node.operation)
    ends = [*shapes[1:], graph.nodes[-1].shape]
    weights = []
    for number, (run, shape, end) in enumerate(zip(runs, shapes, ends, strict=True)):
        rows, columns = math.prod(end), math.prod(shape)
        if rows * columns > _ENTRIES:
            raise ModelError(f"layer {number} has {rows} x {columns} entries as a matrix, more than {_ENTRIES}")
        A = torch.eye(rows, dtype=torch.float64).reshape(rows, *end)
        for operation in reversed(run):
            A = operation.transpose(A)
        weights.append(A.reshape(rows, columns))
    return weights, slopes


def _pairs(weights: list[Tensor], slopes: list[float]) -> float:
    """Return the product over pairs of layers, (1) and (2)."""
    if len(weights) == 1:
        return dense_norm(weights[0]).value
    parts = [torch.linalg.svd(W, full_matrices=False) for W in weights]
    value = math.prod(slopes)
    for k in range(len(weights) - 1):
        before, after = parts[k], parts[k + 1]
        right = before.S if k == 0 else before.S.sqrt()
        left = after.S if k + 2 == len(weights) else after.S.sqrt()
        value *= _pair(left[:, None] * after.Vh, before.U * right)
    # The singular value decompositions' own rounding, far below this share of the largest singular value.
    return value * (1 + 1e-10)


def _pair(M: Tensor, N: Tensor) -> float:
    """Return an upper bound of ||M D N|| over diagonal D with entries in [0, 1], by (2)."""
    log = torch.zeros(M.shape[1], dtype=torch.float64, requires_grad=True)
    ascent = Ascent([log])
    best = dense_norm(M).value * dense_norm(N).value
    for _ in range(_STEPS):
        scale = (log / 2).exp()
        with torch.enable_grad():
            goal = _log_norm(M * scale) + _log_norm(N / scale[:, None])
        best = min(best, math.exp(float(goal.detach())) * (1 + 1e-10))
        ascent.step(-goal, 0.03)
    return (dense_norm(M @ N).value + best) / 2


def _log_norm(W: Tensor) -> Tensor:
    gram = W @ W.T if W.shape[0] <= W.shape[1] else W.T @ W
    log: Tensor = torch.linalg.eigvalsh(gram)[-1].log() / 2
    return log


def _semidefinite(weights: list[Tensor], slopes: list[float], *, by_layer: bool) -> float:
    """Return the bound of (3)."""
    if len(weights) == 1:
        return dense_norm(weights[0]).value
    # Inputs across the rows of W_1 change nothing: W_1 = L Q, and L takes its place.
    first = torch.linalg.qr(weights[0].T).R.T if weights[0].shape[0] < weights[0].shape[1] else weights[0]
    # Slopes up to a are slopes up to 1 of a layer a times as strong; scaled so that the product of norms is 1, where
    # solvers are at their best.
    inner = [a * W for a, W in zip(slopes, [first, *weights[1:-1]], strict=True)]
    strengths = [dense_norm(W).value for W in [*inner, weights[-1]]]
    if min(strengths) == 0:
        return 0.0
    scaled = [W / strength for W, strength in zip([*inner, weights[-1]], strengths, strict=True)]
    widths = [len(W) for W in scaled[:-1]]
    t = _multipliers(scaled, widths, by_layer)
    # Rounding of the reduction above and of eigenvalues, far below.
    return math.sqrt(max(_least_rho(scaled, t), 0.0)) * math.prod(strengths) * (1 + 1e-9)


def _multipliers(scaled: list[Tensor], widths: list[int], by_layer: bool) -> Tensor:
    """Return the T of the least rho in (3), (units,), as the solver finds it."""
    cvxpy: Any = _solver()
    count = len(widths) if by_layer else sum(widths)
    free = cvxpy.Variable(count, nonneg=True)
    rho = cvxpy.Variable(nonneg=True)
    if by_layer:
        spread = torch.block_diag(  # type: ignore[no-untyped-call]  # torch leaves it without types
            *[torch.ones(width, 1, dtype=torch.float64) for width in widths]
        ).numpy()
        t = spread @ free
    else:
        t = free
    A, B, last, entry = (matrix.numpy() for matrix in _blocks(scaled))
    T = cvxpy.diag(t)
    cross = A.T @ T @ B
    form = cross + cross.T - 2 * B.T @ T @ B + last.T @ last - rho * entry
    problem = cvxpy.Problem(cvxpy.Minimize(rho), [(form + form.T) / 2 << 0])
    problem.solve(solver="CLARABEL" if sum(widths) <= 120 else "SCS")
    if free.value is None:
        raise ModelError(f"the semidefinite program was not solved ({problem.status}); use method='pairs'")
    return torch.from_numpy(t.value.copy()).double()


def _blocks(scaled: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return A, B, [0 .. 0 W_K] and diag(I, 0, .., 0) of (3)."""
    n = scaled[0].shape[1]
    units = sum(len(W) for W in scaled[:-1])
    A = torch.block_diag(*scaled[:-1])  # type: ignore[no-untyped-call]  # torch leaves it without types
    A = torch.cat((A, A.new_zeros(units, n + units - A.shape[1])), 1)
    B = torch.cat((A.new_zeros(units, n), torch.eye(units, dtype=A.dtype)), 1)
    last = torch.cat((A.new_zeros(len(scaled[-1]), n + units - scaled[-1].shape[1]), scaled[-1]), 1)
    entry = torch.diag(torch.cat((torch.ones(n, dtype=A.dtype), A.new_zeros(units))))
    return A, B, last, entry


def _least_rho(scaled: list[Tensor], t: Tensor) -> float:
    """Return the least rho that makes (3) true for T, or for the nearest larger T for which there is one.

    With P the block of (3) without inputs, negative definite, and R the mixed one, rho is the largest eigenvalue of
    R (-P)^-1 R^T (Schur complement; the block of the inputs is 0 otherwise).
    """
    A, B, last, _ = _blocks(scaled)
    n = scaled[0].shape[1]
    t = t.clamp_min(0) + _MARGIN * t.abs().max().clamp_min(1)
    for _ in range(60):
        form = A.T @ (t[:, None] * B)
        form = form + form.T - 2 * B.T @ (t[:, None] * B) + last.T @ last
        P, R = form[n:, n:], form[:n, n:]
        lower, failed = torch.linalg.cholesky_ex(-P)
        if not int(failed):
            half = torch.linalg.solve_triangular(lower, R.T, upper=False)
            return float(torch.linalg.eigvalsh(half.T @ half)[-1])
        t = t * 1.0005 + _MARGIN
        _strengthen(scaled, t)
    return 1.0  # the product of norms, to which the layers are scaled


def _strengthen(scaled: list[Tensor], t: Tensor) -> None:
    """Raise the multipliers of earlier layers a little more than those of later ones, which they have to outweigh."""
    place = 0
    for number, W in enumerate(scaled[:-1]):
        t[place : place + len(W)] *= 1 + 1e-4 * (len(scaled) - number)
        place += len(W)


def _solver() -> ModuleType:
    """Return cvxpy, or say how to get it."""
    try:
        return importlib.import_module("cvxpy")
    except ImportError as error:
        raise InputError(
            'method="lipsdp" solves a semidefinite program with the package cvxpy, which is not installed; '
            "install it: pip install 'intriguing[sdp]'"
        ) from error

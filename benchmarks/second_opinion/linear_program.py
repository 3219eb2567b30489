"""Linear and mixed-integer programs for the margins of small ReLU nets, by SciPy's HiGHS.

The relaxation is the triangle: on a unit with l < 0 < u, h >= 0, h >= z and h <= u (z - l) / (u - l), as in E. Wong and
J. Z. Kolter, "Provable Defenses via the Convex Outer Adversarial Polytope", ICML 2018, arXiv 1711.00851. With the same
bounds of the layers it is at least as tight as CROWN, whose lines all follow from the triangle (H. Salman et al.,
arXiv 1902.08722). The exact minimum adds a binary variable for each such unit (V. Tjeng, K. Xiao, R. Tedrake,
"Evaluating Robustness of Neural Networks with Mixed Integer Programming", ICLR 2019, arXiv 1711.07356).

Regions are balls in the norm inf, with the box or without. HiGHS keeps its constraints to about 1e-7.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy_crown as crown
from numpy_crown import Array, Bounds, Net, Region
from scipy import sparse
from scipy.optimize import Bounds as Limits
from scipy.optimize import LinearConstraint, linprog, milp

FAR = 4.0  # a radius that counts as all inputs where there is no box: the big constants of larger ones harm HiGHS


@dataclass(frozen=True)
class Minimum:
    """The exact minimum of a margin, between two bounds that meet.

    Attributes:
        lower: the solver's bound from below.
        value: the net's own margin at `point`, (n,), of the region.
    """

    lower: float
    value: float
    point: Array


@dataclass(frozen=True)
class _Program:
    """rows v <= right, low <= v <= high over v = (x, h_1, ..., h_k, binaries); `first` is where h_k begins."""

    rows: sparse.csr_matrix
    right: Array
    low: Array
    high: Array
    integer: Array
    first: int

    def objective(self, a: Array) -> Array:
        """Return the coefficients over v of a h_k."""
        c = np.zeros(len(self.low))
        c[self.first : self.first + len(a)] = a
        return c


def _program(net: Net, region: Region, bounds: list[Bounds], *, exact: bool) -> _Program:
    """Write down the net's first len(bounds) layers over the region, relaxed or exact."""
    if region.norm != math.inf:
        raise ValueError(f"expected a region in the norm inf, got {region.norm}")
    if net.activation != "relu":
        raise ValueError(f"expected a ReLU net, got {net.activation}")
    mixed = [(l < 0) & (u > 0) for l, u in bounds]  # noqa: E741
    sizes = [len(region.centre), *(len(l) for l, _ in bounds)]  # noqa: E741
    starts = np.concatenate(([0], np.cumsum(sizes)))
    total = int(starts[-1]) + (sum(int(m.sum()) for m in mixed) if exact else 0)
    blocks: list[sparse.csr_matrix] = []
    right: list[Array] = []
    binary = int(starts[-1])
    for k, ((l, u), unsure) in enumerate(zip(bounds, mixed, strict=True)):  # noqa: E741
        z = _placed(net.weights[k], int(starts[k]), total)
        b = net.biases[k]
        h = _placed(np.eye(len(b)), int(starts[k + 1]), total)
        on = l >= 0
        live = on | unsure
        blocks += [(z - h)[live], (h - z)[on]]  # z <= h, and h <= z where always on
        right += [-b[live], b[on]]
        if exact:
            # delta = 1 where on: h <= z - l (1 - delta) and h <= u delta.
            delta = _placed(np.eye(int(unsure.sum())), binary, total)
            binary += int(unsure.sum())
            blocks += [(h - z)[unsure] - sparse.diags(l[unsure]) @ delta, h[unsure] - sparse.diags(u[unsure]) @ delta]
            right += [(b - l)[unsure], np.zeros(int(unsure.sum()))]
        else:
            slope = u[unsure] / (u - l)[unsure]
            blocks.append(h[unsure] - sparse.diags(slope) @ z[unsure])
            right.append(slope * (b - l)[unsure])
    low, high = region.interval()
    more = total - int(starts[-1])
    return _Program(
        sparse.csr_matrix(sparse.vstack(blocks)) if blocks else sparse.csr_matrix((0, total)),
        np.concatenate(right) if right else np.zeros(0),
        np.concatenate((low, np.zeros(total - sizes[0]))),
        np.concatenate((high, *(np.maximum(u, 0.0) for _, u in bounds), np.ones(more))),
        np.concatenate((np.zeros(int(starts[-1])), np.ones(more))),
        int(starts[len(bounds)]),
    )


def _placed(block: Array, start: int, total: int) -> sparse.csr_matrix:
    """Return the block among `total` columns, from `start` on."""
    entries = sparse.coo_matrix(block)
    return sparse.csr_matrix((entries.data, (entries.row, entries.col + start)), shape=(block.shape[0], total))


def _relaxed(program: _Program, A: Array, c: Array) -> Array:
    """Return the minimum of each row of A h_k + c over the relaxation."""
    found = []
    for a, offset in zip(A, c, strict=True):
        result = linprog(
            program.objective(a),
            A_ub=program.rows,
            b_ub=program.right,
            bounds=np.column_stack((program.low, program.high)),
            method="highs",
        )
        if result.status != 0:
            raise RuntimeError(f"the linear program was not solved: {result.message}")
        found.append(result.fun + offset)
    return np.array(found)


def layer_bounds(net: Net, region: Region) -> list[Bounds]:
    """Return l and u of z_1 to z_(K-1), each by programs over the relaxed layers before it. For tiny nets."""
    bounds: list[Bounds] = []
    for W, b in zip(net.weights[:-1], net.biases[:-1], strict=True):
        program = _program(net, region, bounds, exact=False)
        l, u = _relaxed(program, W, b), -_relaxed(program, -W, -b)  # noqa: E741
        bounds.append((l, np.maximum(l, u)))
    return bounds


def margins(net: Net, region: Region, y: int, bounds: list[Bounds] | None = None) -> Array:
    """Return the relaxation's lower bounds of z_y - z_j for all j but y; `bounds` are by default CROWN's."""
    bounds = crown.layer_bounds(net, region) if bounds is None else bounds
    return _relaxed(_program(net, region, bounds, exact=False), *net.differences(y))


def exact_margins(
    net: Net, region: Region, y: int, bounds: list[Bounds] | None = None, rows: Iterable[int] | None = None
) -> list[Minimum]:
    """Return the exact minima of z_y - z_j over the region; `bounds` as for `margins`.

    `rows` of the classes without y are minimised, by default all of them.
    """
    bounds = crown.layer_bounds(net, region) if bounds is None else bounds
    program = _program(net, region, bounds, exact=True)
    A, c = net.differences(y)
    found = []
    for j in range(len(c)) if rows is None else rows:
        result = milp(
            program.objective(A[j]),
            integrality=program.integer,
            bounds=Limits(program.low, program.high),
            constraints=LinearConstraint(program.rows, -np.inf, program.right),
            options={"mip_rel_gap": 0.0},
        )
        if result.status != 0:
            raise RuntimeError(f"the mixed-integer program was not solved: {result.message}")
        point = np.clip(result.x[: len(region.centre)], *region.interval())
        z = net.logits(point[None])[0]
        # Without a binary HiGHS reports no bound: the program was linear.
        lower = result.fun if result.mip_dual_bound is None else result.mip_dual_bound
        found.append(Minimum(float(lower + c[j]), float(z[y] - np.delete(z, y)[j]), point))
    return found


def relaxed_radius(net: Net, x: Array, y: int, *, box: bool = True, tolerance: float = 1e-3) -> float:
    """Return the largest radius in the norm inf that the relaxation with CROWN's layer bounds proves, inf for `FAR`."""
    return crown.largest(
        lambda eps: bool(margins(net, Region(x, eps, math.inf, box), y).min() > 0),
        min(crown.ceiling_of(x, math.inf, box), FAR),
        tolerance,
    )


def proves(net: Net, region: Region, y: int) -> bool:
    """Say whether the label is y over all of the region: by CROWN, then exactly for the classes that it leaves open."""
    bounds = crown.layer_bounds(net, region)
    unsure = np.flatnonzero(crown.margins(net, region, y, bounds) <= 0)
    return all(exact_margins(net, region, y, bounds, [j])[0].lower > 0 for j in unsure.tolist())


def exact_radius(net: Net, x: Array, y: int, *, box: bool = True, tolerance: float = 1e-4) -> float:
    """Return the distance in the norm inf of the nearest point that the net does not give the label y strictly.

    From below, to `tolerance` of itself; inf if there is none within `FAR`.
    """
    return crown.largest(
        lambda eps: proves(net, Region(x, eps, math.inf, box), y),
        min(crown.ceiling_of(x, math.inf, box), FAR),
        tolerance,
    )

"""Errata E1 to E4: what the paper says of its search for the nearest example, and what is so. Section 4.1.

Symbols: x an image, l the target class, r the perturbation, x + r in the box [0, 1]^n, and c the factor of

    minimise c |r| + loss(x + r, l)                                                             (1)

whose minimiser is r(c). The norm |r| of (1) is one of `PENALTIES`; distances are reported in L2 whatever it is. Each
(image, c) is a row of the solver, all in float64 and to a tight tolerance: what is measured here are minimisers of (1),
not the nearest of all points that a search happens to meet, which is what `attacks.lbfgs` keeps. Four errata share
that solve, hence the length of the module.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from intriguing import norms
from intriguing.attacks.lbfgs import LBFGS
from intriguing.attacks.problem import margin
from intriguing.errors import InputError
from intriguing.experiments import statistics
from intriguing.experiments.cells import attacked_images, cell, exact, measured, model_of
from intriguing.experiments.pooling import mean_inside
from intriguing.experiments.statistics import Estimate
from intriguing.floating import denormals_flushed
from intriguing.nets.load import Model
from intriguing.optim import minimize
from intriguing.records import Inputs, Record
from intriguing.rng import generator
from intriguing.training.recipes import restore

SMALLEST = "distance, smallest c that succeeds"
LARGEST = "distance, largest c that succeeds"
TIMES = "times as far, geometric mean"
GROWS = "share of steps in c at which the distance grows"

PENALTIES = {
    "squared": "squared Euclidean",
    "euclidean": "Euclidean, sqrt(|r|^2 + eps)",
    "l1": "sum of absolute values",
}
EUCLIDEAN = "L2 distance"
ABSOLUTE = "L1 norm"
FIXED = "share reaching the target with c = 1"

CROSS_ENTROPY = "cross-entropy, times the optimum"
HINGE = "hinge, times the optimum"

REFUSED = "share of attacks refused"
DISTANCE = "distance"

_EPS = 1e-8  # smooths the norm below 1e-4, where the distances found are near 1
_TOLERANCE = 1e-7
_EVALUATIONS = 1500
_GROWTH = 1e-4  # relative growth of |r| that is no rounding of the solver
_ENDS = (1e-4, 1e4)  # of the search for the largest c that succeeds
_HALVINGS = 18  # of its logarithm: c is then known to 7 in 100,000
_SHARP = (0.03, 0.001)  # temperatures of the hinge, as shares of the logit gap, each started from the last

Forward = Callable[[Tensor, Tensor], Tensor]
Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def erratum_e1(
    inputs: Inputs, *, nets: Sequence[str], images: int, seed: int, smallest: float, largest: float, per_decade: int
) -> Record:
    """Follow the minimiser of (1) along c: its distance at the smallest and at the largest c that succeeds.

    Args:
        inputs: needs ``"<net>/net"`` for every net; data ``"train"``.
        nets: names of the trained nets.
        images: how many training images; those a net gets wrong are left out.
        seed: draws the images and the random targets.
        smallest: the first c of the grid.
        largest: its last.
        per_decade: values of c per factor of ten.
    """
    steps = round(math.log10(largest / smallest) * per_decade)
    grid = [smallest * 10 ** (i / per_decade) for i in range(steps + 1)]
    cells: list[dict[str, Any]] = []
    series: list[dict[str, Any]] = []
    findings: list[str] = []
    for place, name in enumerate(nets):
        problem = _Problem.of(inputs, name, images, seed)
        draw = generator(f"bootstrap/erratum-E1/{name}", seed)
        r = torch.zeros_like(problem.x)
        lengths = []
        # From the largest c, where r is nearly 0, downwards: each solve starts from the last (D4).
        for done, c in enumerate(reversed(grid)):
            r = problem.minimiser(torch.full((len(r),), c, dtype=torch.float64), "squared", r)
            lengths.append(norms.l2(r))
            inputs.progress(place * len(grid) + done + 1, len(nets) * len(grid))
        length = torch.stack(lengths[::-1])
        far = torch.where(problem.reached(r), length[0], torch.nan)
        near = norms.l2(problem.at_largest_c("squared"))
        smallest_c, largest_c = (mean_inside([side.tolist()], draw) for side in (far, near))
        cells.append(cell(name, SMALLEST, smallest_c, erratum_e1, {"label": LARGEST, **measured(largest_c)}))
        cells.append(cell(name, LARGEST, largest_c, erratum_e1, {"label": SMALLEST, **measured(smallest_c)}))
        logs = mean_inside([(far / near).log().tolist()], draw)
        times = Estimate(math.exp(logs.measured), logs.n, math.exp(logs.low), math.exp(logs.high))
        cells.append(cell(name, TIMES, times, erratum_e1, {"label": "no difference", "measured": 1.0}))
        change = length[1:] / length[:-1].clamp(min=1e-12) - 1
        moving = length[:-1] > 1e-6
        grown, fallen = ((side & moving).sum() for side in (change > _GROWTH, change < -_GROWTH))
        total = int(moving.sum())
        falls = {"label": "share of steps at which it falls", **measured(statistics.proportion(int(fallen), total))}
        cells.append(cell(name, GROWS, statistics.proportion(int(grown), total), erratum_e1, falls))
        series.append({"label": name, "points": _points(grid, length, draw)})
        if times.n:
            findings.append(
                f"On {name} the smallest constant tried ends {smallest_c.measured:.2f} from the image in L2, the "
                f"largest that succeeds {largest_c.measured:.2f}: {times.measured:.1f} times as far, image by image. "
                f"Along c the distance grew at {int(grown)} of {total:,} steps."
            )
    figure = {
        "kind": "lines",
        "id": "distance-along-c",
        "title": "A larger constant, a nearer example",
        "caption": "The distance of the minimiser falls as c grows. Where the last image stops reaching its target "
        "the curve goes on towards zero. So the nearest example is at the largest c that succeeds, not at the "
        "smallest.",
        "x": "c",
        "y": "L2 distance of the minimiser",
        "log_x": True,
        "series": series,
    }
    return Record(
        values={
            "cells": cells,
            "figures": [figure],
            "findings": findings,
            "notes": [
                f"The smallest c tried is {smallest:g}; a still smaller one ends further away.",
            ],
        }
    )


def erratum_e2(inputs: Inputs, *, classes: Sequence[int], pixels: int, problems: int, seed: int) -> Record:
    """Compare the penalty method with the exact optimum on random linear classifiers without a box.

    Args:
        inputs: needs and reads nothing.
        classes: numbers of classes.
        pixels: dimensions.
        problems: per number of classes.
        seed: draws weights, points and targets, all independent and normal.
    """
    cells: list[dict[str, Any]] = []
    lines: list[list[str]] = []
    findings: list[str] = []
    for done, count in enumerate(classes):
        row = f"{count} classes"
        draw = generator(f"bootstrap/erratum-E2/{count}", seed)
        ratios = _random_problems(count, pixels, problems, seed)
        inputs.progress(done + 1, len(classes))
        control = {"label": "the exact optimum", "measured": 1.0}
        for column, values in ratios.items():
            estimate = mean_inside([values.tolist()], draw)
            cells.append(cell(row, column, estimate, erratum_e2, control))
            spread = f"{float(values.min()):.4f} to {float(values.max()):.4f}"
            lines.append([row, column, f"{estimate.measured:.4f}", spread, str(len(values))])
        over = ratios[CROSS_ENTROPY]
        findings.append(
            f"{row}: the penalty with cross-entropy ends at {float(over.mean()):.4f} times the exact distance on "
            f"average (most {float(over.max()):.3f}), with the hinge at {float(ratios[HINGE].mean()):.4f}."
        )
    return Record(
        values={
            "cells": cells,
            "figures": [],
            "tables": [
                {
                    "id": "over-exact",
                    "title": "Found over exact",
                    "caption": "The exact distance is that of a least distance program, solved by non-negative least "
                    "squares (Lawson and Hanson), which knows nothing of losses or constants.",
                    "columns": ["problems", "method", "mean", "from least to most", "n"],
                    "rows": lines,
                }
            ],
            "findings": findings,
        }
    )


def erratum_e3(inputs: Inputs, *, nets: Sequence[str], images: int, seed: int) -> Record:
    """Solve (1) with three readings of |r|, each at its own largest c that succeeds.

    Args:
        inputs: as for `erratum_e1`.
        nets: names of the trained nets.
        images: how many training images.
        seed: draws the images and the random targets.
    """
    cells: list[dict[str, Any]] = []
    findings: list[str] = []
    for place, name in enumerate(nets):
        problem = _Problem.of(inputs, name, images, seed)
        draw = generator(f"bootstrap/erratum-E3/{name}", seed)
        found = {}
        for done, penalty in enumerate(PENALTIES):
            found[penalty] = problem.at_largest_c(penalty)
            inputs.progress(place * len(PENALTIES) + done + 1, len(nets) * len(PENALTIES))
        base = found["squared"]
        for penalty, words in PENALTIES.items():
            row = f"{name}, {words}"
            for column, size in ((EUCLIDEAN, norms.l2), (ABSOLUTE, norms.l1)):
                beside = {"label": "squared Euclidean", **measured(mean_inside([size(base).tolist()], draw))}
                cells.append(cell(row, column, mean_inside([size(found[penalty]).tolist()], draw), erratum_e3, beside))
            one = torch.ones(len(problem.x), dtype=torch.float64)
            fixed = problem.reached(problem.minimiser(one, penalty, torch.zeros_like(problem.x)))
            searched = problem.reached(found[penalty])
            share = statistics.proportion(int(fixed.sum()), len(fixed))
            control = {
                "label": "share with the largest c that succeeds",
                **measured(statistics.proportion(int(searched.sum()), len(searched))),
            }
            cells.append(cell(row, FIXED, share, erratum_e3, control))
        if len(base):
            l2 = {penalty: float(norms.l2(r).nanmean()) for penalty, r in found.items()}
            findings.append(
                f"On {name} the squared norm finds examples at {l2['squared']:.3f} in L2, the norm itself at "
                f"{l2['euclidean']:.3f}, the sum of absolute values at {l2['l1']:.3f}; the last, with c fixed at 1, "
                f"reaches its target on {int(fixed.sum())} of {len(fixed)} images."
            )
    return Record(
        values={
            "cells": cells,
            "figures": [],
            "findings": findings,
            "notes": [
                "Squared or not is the same path along another c, so both end at the same distance where the loss is "
                "convex. A sum of absolute values is another attack: it changes fewer pixels by more.",
            ],
        }
    )


def erratum_e4(inputs: Inputs, *, net: str, images: int, seed: int) -> Record:
    """Ask for the nearest image of an image's own class.

    Args:
        inputs: needs ``"net"``, a trained net, and ``"random"``, an attack on it; data ``"train"``.
        net: the net's name.
        images: how many training images; those the net gets wrong are left out.
        seed: draws the images and the random targets.
    """
    data, attack = inputs.data("train"), inputs.needs["random"]
    model = model_of(inputs.needs["net"], net, data, inputs.device)
    ids = attacked_images(data, min(images, len(data.labels)), seed)
    ids = ids[model.predict(data.images[ids]) == data.labels[ids]]
    x, labels = data.images[ids], data.labels[ids]
    total = len(ids)
    own = _refused(model, x, labels, labels)
    others = _refused(model, x, labels, (labels + 1) % len(data.classes))
    refused = statistics.proportion(own, total)
    control = {"label": "share of wrong classes refused", **measured(statistics.proportion(others, total))}
    # r = 0 lies in the box and f(x + 0) = f(x): nothing is shorter.
    zero = torch.zeros_like(x)
    nearest = torch.where(model.predict(x + zero) == labels, norms.l2(zero), torch.inf)
    draw = generator("bootstrap/erratum-E4", seed)
    found = [
        distance if status == "found" else math.nan
        for distance, status in zip(attack.rows["distance_search"], attack.rows["status"], strict=True)
    ]
    away = {"label": "distance to a random wrong class", **measured(mean_inside([found], draw))}
    pixels = data.images[0].numel()
    label = {"label": "numbers that make up f(x)", "measured": 1.0}
    cells = [
        cell("target = the image's own class", REFUSED, refused, erratum_e4, control),
        exact("D(x, f(x))", DISTANCE, float(nearest.max()) if total else 0.0, erratum_e4, control=away),
        exact("D(x, f(x))", "number of values that make it up", float(pixels), erratum_e4, control=label),
    ]
    return Record(
        values={
            "cells": cells,
            "figures": [],
            "findings": [
                f"For all {total} images the nearest image of their own class is the image itself, at distance "
                f"{float(nearest.max()) if total else 0.0:.0f}; {own} of {total} attacks told to go there were refused."
            ],
            "notes": [
                "A target equal to the label asks for nothing, so the attack refuses it.",
            ],
        }
    )


@dataclasses.dataclass(frozen=True)
class _Problem:
    """Rows of (1), in float64.

    Attributes:
        forward: points (k, n) of the rows (k,) -> logits (k, K).
        x: (N, n) images in the box.
        labels: (N,) their classes.
        target: (N,) classes to reach.
        box: lowest and highest pixel.
        temperature: (N,) T of the loss T log(1 + sum_j exp((z_j - z_l) / T)): 1 is the cross-entropy, and as T
            falls it becomes the hinge max_j (z_j - z_l)^+.
    """

    forward: Forward
    x: Tensor
    labels: Tensor
    target: Tensor
    box: tuple[float, float]
    temperature: Tensor

    @classmethod
    def of(cls, inputs: Inputs, name: str, images: int, seed: int) -> _Problem:
        """Return the attacked images that a trained net gets right, each with a random wrong class."""
        data = inputs.data("train")
        ids = attacked_images(data, min(images, len(data.labels)), seed)
        x, labels, classes = data.images[ids], data.labels[ids], len(data.classes)
        record = inputs.needs[f"{name}/net"]
        net = restore(record, name, tuple(x.shape[1:]), classes).double().requires_grad_(False)
        draw = torch.randint(classes - 1, (len(ids),), generator=generator("targets", seed))
        target = draw + (draw >= labels)
        x = x.flatten(1).double()
        right = net(x).argmax(1) == labels
        ones = torch.ones(int(right.sum()), dtype=torch.float64)
        return cls(lambda points, _: net(points), x[right], labels[right], target[right], (0.0, 1.0), ones)

    def logits(self, r: Tensor) -> Tensor:
        """Return the logits (N, K) of x + r."""
        return self.forward(self.x + r, torch.arange(len(r)))

    def reached(self, r: Tensor) -> Tensor:
        """Return (N,) whether the net gives x + r to the target."""
        return margin(self.logits(r), self.target) > 0

    def minimiser(self, c: Tensor, penalty: str, start: Tensor) -> Tensor:
        """Return r(c) of (1), (N, n).

        Args:
            c: (N,).
            penalty: a key of `PENALTIES`.
            start: (N, n), where the solver starts.
        """
        if not len(start):
            return start
        low, high = self.box[0] - self.x, self.box[1] - self.x
        if penalty == "l1":
            # r = u - v with u, v >= 0 makes the sum of absolute values linear.
            low, high = torch.zeros_like(self.x).repeat(1, 2), torch.cat((high, -low), 1)
            start = torch.cat((start.clamp(min=0), (-start).clamp(min=0)), 1)
        with denormals_flushed():
            found = minimize(
                self._objective(c, penalty),
                start,
                lower=low,
                upper=high,
                tolerance=_TOLERANCE,
                max_evaluations=_EVALUATIONS,
            ).x
        return found[:, : self.x.shape[1]] - found[:, self.x.shape[1] :] if penalty == "l1" else found

    def _objective(self, c: Tensor, penalty: str) -> Objective:
        """Return (1) over max(c, 1) and its gradient, which keeps both of its terms of size 1 or less."""
        n = self.x.shape[1]

        def fun(point: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            r = (point[:, :n] - point[:, n:] if penalty == "l1" else point).detach().requires_grad_(True)
            with torch.enable_grad():
                target, T = self.target[rows, None], self.temperature[rows]
                z = self.forward(self.x[rows] + r, rows) / T[:, None]
                others = torch.logsumexp(z.scatter(1, target, -torch.inf), 1)
                loss = T * nn.functional.softplus(others - z.gather(1, target)[:, 0])
                (slope,) = torch.autograd.grad(loss.sum(), r)
            weight = c[rows]
            scale = weight.clamp(min=1.0)
            if penalty == "l1":
                size, gradient = point.sum(1), torch.ones_like(point)
                slope = torch.cat((slope, -slope), 1)
            else:
                squared = point.square().sum(1)
                root = (squared + _EPS).sqrt()
                size = squared if penalty == "squared" else root
                gradient = 2 * point if penalty == "squared" else point / root[:, None]
            value = (weight * size + loss.detach()) / scale
            return value, (weight[:, None] * gradient + slope) / scale[:, None]

        return fun

    def at_largest_c(self, penalty: str, start: Tensor | None = None) -> Tensor:
        """Return r(c) at the largest c that still reaches the target, (N, n); NaN where none does.

        Args:
            penalty: a key of `PENALTIES`.
            start: (N, n), where the first solve starts; by default at 0.
        """
        low, high = (torch.full((len(self.x),), math.log(end), dtype=torch.float64) for end in _ENDS)
        r = torch.zeros_like(self.x) if start is None else start
        best = torch.full_like(self.x, torch.nan)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            r = self.minimiser(middle.exp(), penalty, r)
            success = self.reached(r)
            best = torch.where(success[:, None], r, best)
            low, high = torch.where(success, middle, low), torch.where(success, high, middle)
        return best


def nearest_in_half_spaces(normals: NDArray[np.float64], offsets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the shortest r with A r >= h, by non-negative least squares.

    Lawson and Hanson 1974, chapter 23, algorithm LDP: with E = (A^T; h^T) and f = (0, ..., 0, 1) let u >= 0 minimise
    |E u - f|, and s be its residual E u - f; then r_j = -s_j / s_{n+1}.

    Args:
        normals: A, (m, n).
        offsets: h, (m,).

    Raises:
        InputError: no r satisfies them all.

    Example:
        >>> nearest_in_half_spaces(np.array([[1.0, 0.0]]), np.array([2.0])).tolist()
        [2.0, 0.0]
    """
    stacked = np.vstack((normals.T, offsets))
    wanted = np.zeros(len(stacked))
    wanted[-1] = 1.0
    u, distance = scipy.optimize.nnls(stacked, wanted)
    if distance < 1e-9:
        raise InputError("normals, offsets: expected half-spaces with a point in common, got none")
    s = stacked @ u - wanted
    shortest: NDArray[np.float64] = -s[:-1] / s[-1] + 0.0
    return shortest


def _random_problems(classes: int, pixels: int, problems: int, seed: int) -> dict[str, Tensor]:
    """Return found over exact distances (problems,) of random linear classifiers, by loss."""
    stream = generator(f"erratum-E2/{classes}", seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(problems, *shape, generator=stream, dtype=torch.float64)

    W, b, x = normal(classes, pixels), normal(classes), normal(pixels)

    def forward(points: Tensor, rows: Tensor) -> Tensor:
        return torch.einsum("rkn,rn->rk", W[rows], points) + b[rows]

    z = forward(x, torch.arange(problems))
    label = z.argmax(1)
    target = (label + torch.randint(1, classes, (problems,), generator=stream)) % classes
    gap = (z.gather(1, label[:, None]) - z.gather(1, target[:, None]))[:, 0]
    optimum = torch.tensor([_optimum(*row) for row in zip(W, z, target.tolist(), strict=True)], dtype=torch.float64)
    problem = _Problem(forward, x, label, target, (-math.inf, math.inf), torch.ones_like(gap))
    smooth = problem.at_largest_c("squared")
    sharp = smooth
    for share in _SHARP:
        sharp = dataclasses.replace(problem, temperature=share * gap).at_largest_c("squared", sharp)
    return {column: norms.l2(r) / optimum for column, r in ((CROSS_ENTROPY, smooth), (HINGE, sharp))}


def _optimum(W: Tensor, z: Tensor, target: int) -> float:
    """Return the exact distance to a linear classifier's region from a point with logits z."""
    others = [j for j in range(len(W)) if j != target]
    normals, offsets = W[target] - W[others], z[others] - z[target]
    return float(np.linalg.norm(nearest_in_half_spaces(normals.numpy(), offsets.numpy())))


def _refused(model: Model, images: Tensor, labels: Tensor, target: Tensor) -> int:
    """Return how many attacks, one image at a time, are refused for their target."""
    count = 0
    for x, label, goal in zip(images, labels, target, strict=True):
        try:
            LBFGS(target=goal[None], budget=1)(model, x[None], label[None])
        except InputError:
            count += 1
    return count


def _points(grid: Sequence[float], length: Tensor, draw: torch.Generator) -> list[dict[str, float]]:
    """Return the mean distance along c with its interval."""
    points = []
    for c, row in zip(grid, length, strict=True):
        estimate = mean_inside([row.tolist()], draw)
        points.append({"x": c, "y": estimate.measured, "low": estimate.low, "high": estimate.high})
    return points

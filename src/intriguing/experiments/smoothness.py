"""Is a small neighbourhood of an image one class? Szegedy et al. 2014, section 4: the local smoothness assumption.

Kernel methods rest on it: an image close enough to a training image has its label. The paper says that deep nets
break it. Here it is measured: the radius of random noise under which a net keeps its answer, and the share of images
that have an adversarial example inside that radius.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from intriguing.attacks.lbfgs import LBFGS
from intriguing.attacks.noise import gaussian_of_norm
from intriguing.attacks.result import AttackStatus
from intriguing.experiments import statistics
from intriguing.experiments.cells import attacked_images, cell, measured, model_of
from intriguing.experiments.statistics import Estimate
from intriguing.nets.load import Model
from intriguing.records import Inputs, Record
from intriguing.rng import generator, numpy_generator, resamples

RADIUS = "noise radius (L2 norm)"
INSIDE = "images with an adversarial example inside that radius"
KEPT = "accuracy under noise of the minimal distance"

_COARSE = (0.02, 0.04, 0.07, 0.1, 0.14, 0.2, 0.28, 0.4, 0.55, 0.75)  # distortions at which noise is tried first
_BISECTIONS = 6  # of the bracket, on a logarithmic scale: the radius is then known to about half a per cent
_RESAMPLES = 1000
_POINTS = 24  # of each curve of adversarial examples


def nearest(inputs: Inputs, *, net: str, images: int, seed: int, target: str = "nearest") -> Record:
    """Find the nearest adversarial examples of `images` test images, which the net has never seen.

    Args:
        inputs: needs ``"net"``, a trained net; data ``"test"``.
        net: the net's name.
        images: how many test images, at most the whole set.
        seed: draws the images, and the targets where they are random.
        target: see `attacks.lbfgs`.

    Returns:
        One row per image; tensors ``original`` and ``adversarial`` (N, C, H, W).
    """
    data = inputs.data("test")
    ids = attacked_images(data, min(images, len(data.labels)), seed)
    x, labels = data.images[ids], data.labels[ids]
    model = model_of(inputs.needs["net"], net, data, inputs.device)
    result = LBFGS(target=target)(model, x, labels, generator=generator("targets/test", seed), progress=inputs.progress)
    rows = {
        "image": ids.tolist(),
        "label": labels.tolist(),
        "target": result.target.tolist(),
        "status": [AttackStatus(code).name.lower() for code in result.status.tolist()],
        "distance": result.distance.tolist(),
        "distortion": result.distortion.tolist(),
    }
    counts = {"images": len(ids), "attacked": int(result.attacked.sum()), "found": int(result.found.sum())}
    return Record(values=counts, tensors={"original": x, "adversarial": result.adversarial}, rows=rows)


def smoothness(inputs: Inputs, *, nets: Sequence[str], images: int, accuracy: float, seed: int) -> Record:
    """Compare the radius of harmless noise with the distance of the nearest adversarial example.

    Only images that the net answers correctly count, for noise as for adversarial examples: so accuracy without noise
    is 100% by definition, and a net's ordinary errors do not shorten its radius.

    Args:
        inputs: needs ``"<net>/net"`` and ``"<net>/nearest"`` for every net; data ``"test"``.
        nets: names of the nets.
        images: test images that get noise, at most the whole set.
        accuracy: that noise must leave.
        seed: draws the images, the noise and the resamples.
    """
    data = inputs.data("test")
    ids = attacked_images(data, min(images, len(data.labels)), seed)
    x, labels = data.images[ids], data.labels[ids]
    side = math.sqrt(x[0].numel())
    cells: list[dict[str, Any]] = []
    series: list[dict[str, Any]] = []
    findings: list[str] = []
    for place, net in enumerate(nets):
        model = model_of(inputs.needs[f"{net}/net"], net, data, inputs.device)
        right = model.predict(x) == labels
        clean, truth = x[right], labels[right]

        def keeps(norm: float, clean: Tensor = clean, truth: Tensor = truth, model: Model = model) -> Tensor:
            # The same directions at every norm: a curve along rays, not through fresh noise at each point.
            noisy = gaussian_of_norm(
                clean, torch.full((len(clean),), norm), generator=generator("smoothness/noise", seed)
            )
            return model.predict(noisy) == truth

        coarse = [side * share for share in _COARSE]
        norms_tried, kept = _search(keeps, coarse, accuracy)
        inputs.progress(place + 0.5, len(nets))
        draw = generator(f"bootstrap/smoothness/{net}", seed)
        radius = _crossing(norms_tried, kept, accuracy, draw)
        record = inputs.needs[f"{net}/nearest"]
        found = torch.tensor([status == "found" for status in record.rows["status"]])
        attacked = torch.tensor([status != "already_wrong" for status in record.rows["status"]])
        # An image without an example counts: its distance is infinite.
        distance = torch.where(found, torch.tensor(record.rows["distance"], dtype=torch.float64), torch.inf)[attacked]
        far = statistics.mean([distance[distance.isfinite()].tolist()], draw)
        control = {"label": "mean distance of the nearest adversarial example", **measured(far)}
        cells.append(cell(net, RADIUS, radius, smoothness, control))
        inside = statistics.proportion(int((distance < radius.measured).sum()), len(distance))
        fooled = keeps(radius.measured).logical_not()
        control = {
            "label": "images that noise of that radius fools",
            **measured(statistics.proportion(int(fooled.sum()), len(fooled))),
        }
        cells.append(cell(net, INSIDE, inside, smoothness, control) | {"unit": "percent"})
        reached = found[attacked]
        originals = record.tensors["original"][attacked][reached]
        answers = torch.tensor(record.rows["label"])[attacked][reached]
        quiet = gaussian_of_norm(originals, distance[reached], generator=generator(f"smoothness/equal/{net}", seed))
        moved = record.tensors["adversarial"][attacked][reached]
        hits = [int((model.predict(images) == answers).sum()) for images in (quiet, moved)]
        same, aimed = (statistics.proportion(count, len(answers)) for count in hits)
        control = {"label": "the adversarial examples themselves", **measured(aimed)}
        cells.append(cell(net, KEPT, same, smoothness, control) | {"unit": "percent"})
        drawn = [row for row, norm in enumerate(norms_tried) if norm in coarse]  # the bisection's crowd one place
        series += _curves(net, coarse, kept[drawn], distance)
        if far.n:
            findings.append(
                f"{net} keeps {100 * accuracy:.0f}% of its right answers under noise of norm {radius.measured:.1f}, "
                f"and {round(inside.measured * inside.n):,} of {inside.n:,} test images have an adversarial example "
                f"nearer than that: at {far.measured:.2f}, {radius.measured / far.measured:.1f} times nearer."
            )
        inputs.progress(place + 1, len(nets))
    figure = {
        "kind": "lines",
        "id": "accuracy-by-norm",
        "title": "The same size of change, with and without aim",
        "caption": "Two curves per net: the share of right answers left under noise of a norm, and the share of images "
        "that have no adversarial example within that norm. If small neighbourhoods were of one class, the two would "
        "fall together; the gap between them is where the assumption fails. Bars are 95% intervals.",
        "x": "L2 norm of the change",
        "y": "share still answered correctly",
        "log_x": True,
        "series": series,
    }
    return Record(values={"cells": cells, "figures": [figure], "tables": [], "findings": findings})


def _search(keeps: Callable[[float], Tensor], norms: Sequence[float], accuracy: float) -> tuple[list[float], Tensor]:
    """Try noise of rising norm until accuracy is well lost, then bisect where it crosses; norms and (T, n) answers."""
    tried: dict[float, Tensor] = {}
    low, high = 0.0, math.inf
    for norm in norms:
        tried[norm] = keeps(norm)
        if float(tried[norm].double().mean()) > accuracy:
            low = norm if math.isinf(high) else low
        else:
            high = min(high, norm)
    for _ in range(_BISECTIONS if math.isfinite(high) else 0):
        middle = math.sqrt(low * high) if low else high / 2
        tried[middle] = keeps(middle)
        if float(tried[middle].double().mean()) > accuracy:
            low = middle
        else:
            high = middle
    order = sorted(tried)
    return order, torch.stack([tried[norm] for norm in order])


def _crossing(norms: Sequence[float], kept: Tensor, accuracy: float, draw: torch.Generator) -> Estimate:
    """Return the norm at which the share kept falls to `accuracy`, with a bootstrap interval over images.

    Args:
        norms: (T,) rising.
        kept: (T, n) bool, which images are still answered correctly at each.
        accuracy: the share wanted.
        draw: draws the resamples.
    """
    n = kept.shape[1]
    if not n:
        return Estimate(math.nan, 0, math.nan, math.nan)
    answers = kept.double().numpy()
    chance = numpy_generator(draw)
    times = resamples(chance, n, _RESAMPLES)
    shares = np.vstack([answers.mean(1), times @ answers.T / n])
    crossings = [_interpolated(norms, share, accuracy) for share in shares]
    low, high = np.quantile(crossings[1:], [0.025, 0.975])
    return Estimate(crossings[0], n, min(float(low), crossings[0]), max(float(high), crossings[0]))


def _interpolated(norms: Sequence[float], shares: np.ndarray, accuracy: float) -> float:
    """Return where a falling curve through (0, 1) and the points crosses `accuracy`; the last norm if nowhere."""
    x = np.concatenate(([0.0], norms))
    y = np.minimum.accumulate(np.concatenate(([1.0], shares)))
    below = np.flatnonzero(y <= accuracy)
    if not len(below):
        return float(x[-1])
    first = int(below[0])
    if y[first - 1] == y[first]:
        return float(x[first])
    part = (y[first - 1] - accuracy) / (y[first - 1] - y[first])
    return float(x[first - 1] + part * (x[first] - x[first - 1]))


def _curves(net: str, norms: Sequence[float], kept: Tensor, distance: Tensor) -> list[dict[str, Any]]:
    """Return the two curves of one net, noise and aim."""
    noise = [
        _point(norm, statistics.proportion(int(row.sum()), len(row))) for norm, row in zip(norms, kept, strict=True)
    ]
    finite = distance[distance.isfinite()]
    aim: list[dict[str, float]] = []
    if len(finite):
        for norm in np.geomspace(max(float(finite.min()), norms[0] / 4), norms[-1], _POINTS):
            aim.append(_point(float(norm), statistics.proportion(int((distance > norm).sum()), len(distance))))
    return [
        {"label": f"{net}, noise", "role": "control", "points": noise},
        {"label": f"{net}, adversarial", "role": "ours", "points": aim},
    ]


def _point(norm: float, share: Estimate) -> dict[str, float]:
    return {"x": norm, "y": share.measured, "low": share.low, "high": share.high}

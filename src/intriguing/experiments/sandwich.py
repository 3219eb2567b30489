"""The sandwich: certified radius <= nearest adversarial example <= what the attack found, image by image.

Szegedy et al. 2014, section 4.3, bound how far a perturbation can grow by the product of the layers' norms and find the
bound loose. Here nets of one architecture, trained in different ways, stand side by side: which training brings what
can be proved near to what can be found?
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from intriguing import bounds
from intriguing.attacks.nearest import Nearest
from intriguing.attacks.result import AttackStatus
from intriguing.errors import ModelError
from intriguing.experiments import resampling, statistics
from intriguing.experiments.cells import attacked_images, cell, exact, far_starts, measured, model_of
from intriguing.experiments.resampling import Array, Statistic
from intriguing.experiments.statistics import Estimate
from intriguing.records import Inputs, Record
from intriguing.rng import generator

ERROR = "test error"
FOUND = "found, median L2"
CERTIFIED = "certified, median L2"
RATIO = "certified over found, median"
OPTIMISED = "with learned slopes"
BENT = "by curvature"
UNBOXED = "without the box"
SECONDS = "seconds per image"

_METHODS: Mapping[str, Mapping[str, Any]] = {
    "product": {"method": "product"},
    "unboxed": {"method": "crown", "box": False},
    "crown": {"method": "crown"},
    "optimised": {"method": "crown-optimised"},
    "curvature": {"method": "curvature"},
}


def both_ends(inputs: Inputs, *, net: str, images: int, seed: int, budget: int, steps: int) -> Record:
    """Certify test images of a net, and look for the nearest adversarial example of each.

    Args:
        inputs: needs ``"net"``, a trained net; data ``"test"``, and ``"train"`` for the attack to start from.
        net: the net's name.
        images: how many test images, at most the whole set.
        seed: draws the images.
        budget: passes of the attack per image.
        steps: of the slopes' optimisation.

    Returns:
        One row per image: ``image``, ``status``, ``found`` (L2, inf where nothing was found), and the certified radius
        of every method (``product``, ``unboxed``, ``crown``, ``optimised``, ``curvature``); values ``seconds`` per
        method and in all, ``wrong`` and ``n_test``.

    Raises:
        ModelError: an example lies inside a certified radius: one of the two is wrong.
    """
    data = inputs.data("test")
    ids = attacked_images(data, min(images, len(data.labels)), seed)
    x, labels = data.images[ids], data.labels[ids]
    model = model_of(inputs.needs["net"], net, data, inputs.device)
    parts = len(_METHODS) + 1

    def told(part: int) -> Any:
        return lambda done, total: inputs.progress(part + (done / total if total else 0.0), parts)

    began = time.perf_counter()
    # No step of the attack sees a bound, and no bound an example.
    draw = generator(f"sandwich/{net}", seed)
    result = Nearest(budget=budget, starts=far_starts(inputs))(model, x, labels, generator=draw, progress=told(0))
    seconds = {"attack": time.perf_counter() - began}
    rows: dict[str, list[Any]] = {
        "image": ids.tolist(),
        "status": [AttackStatus(code).name.lower() for code in result.status.tolist()],
        "found": result.distance.tolist(),
    }
    for part, (name, options) in enumerate(_METHODS.items(), start=1):
        certificate = bounds.certify(model, x, labels, 2, steps=steps, progress=told(part), **options)
        inside = (certificate.radius > result.distance) & (result.distance > 0)
        if bool(inside.any()):
            raise ModelError(
                f"{net}: an adversarial example lies inside the certified radius of image {int(ids[inside][0])} "
                f"({name}): the certificate or the attack's judgement is wrong; please report it"
            )
        rows[name] = certificate.radius.tolist()
        seconds[name] = certificate.seconds
    wrong = int((model.predict(data.images) != data.labels).sum())
    return Record(values={"seconds": seconds, "wrong": wrong, "n_test": len(data.labels)}, rows=rows)


def sandwich(inputs: Inputs, *, rows: Sequence[str], seed: int) -> Record:
    """Compare ways of training by both ends of the sandwich.

    Args:
        inputs: needs ``"<row>/ends"``, records of `both_ends` of the same images, for every row; data ``"test"``.
        rows: names of the ways of training, the plain one first.
        seed: draws the resamples.

    Returns:
        ``cells``, ``figures``, ``tables`` and ``findings`` for the page.
    """
    test = inputs.data("test")
    guess = 1 - float(torch.bincount(test.labels).max()) / len(test.labels)
    cells: list[dict[str, Any]] = []
    lines: list[list[str]] = []
    ratios: dict[str, Estimate] = {}
    figures = []
    for row in rows:
        record = inputs.needs[f"{row}/ends"]
        found, counted = _column(record, "found"), _attacked(record)
        radii = {name: _column(record, name) for name in _METHODS}
        radii["proved"] = np.maximum(radii["optimised"], radii["curvature"])
        draw = generator(f"bootstrap/sandwich/{row}", seed)
        medians = {"found": Statistic(found, counted, 0.5)}
        medians |= {name: Statistic(radius, counted, 0.5) for name, radius in radii.items()}
        medians |= {f"{name}/ratio": Statistic(_ratio(r, found), counted, 0.5) for name, r in radii.items()}
        known = resampling.estimates(medians, draw)
        ratios[row] = known["proved/ratio"]
        product = {"label": "product of the layers' norms", **measured(known["product"])}
        error = statistics.proportion(int(record.values["wrong"]), int(record.values["n_test"]))
        chance = {"label": "always the most frequent class", "measured": guess}
        cells += [
            cell(row, ERROR, error, sandwich, chance),
            cell(row, FOUND, known["found"], sandwich, {"label": "certified", **measured(known["proved"])})
            | {"unit": "plain"},
            cell(row, CERTIFIED, known["crown"], sandwich, product) | {"unit": "plain"},
        ]
        control = {"label": "product of the layers' norms over found", **measured(known["product/ratio"])}
        for column, name in (
            (RATIO, "crown"),
            (f"{RATIO}, {OPTIMISED}", "optimised"),
            (f"{RATIO}, {BENT}", "curvature"),
            (f"{RATIO}, {UNBOXED}", "unboxed"),
        ):
            cells.append(cell(row, column, known[f"{name}/ratio"], sandwich, control))
        images = len(found)
        spent = record.values["seconds"]
        lines.append(
            [row, *(f"{spent[name] / images:.3f}" for name in ("product", "crown", "optimised", "curvature", "attack"))]
        )
        figures.append(_band(row, found, radii["proved"], radii["product"], counted))
    worst = max(
        float(np.max(_ratio(_column(inputs.needs[f"{row}/ends"], name), _column(inputs.needs[f"{row}/ends"], "found"))))
        for row in rows
        for name in _METHODS
    )
    note = "over all images, nets and methods: above 1, an example would lie where none can be"
    cells.append(
        exact(
            "all nets",
            "largest certified over found",
            worst,
            sandwich,
            note=note,
            control={"label": "what soundness allows", "measured": 1.0},
        )
    )
    table = {
        "id": "seconds",
        "title": "What it costs",
        "caption": "Seconds per image on the machine of this run, one thread.",
        "columns": ["way of training", "product", "linear bounds", OPTIMISED, BENT, "attack"],
        "rows": lines,
    }
    return Record(values={"cells": cells, "figures": figures, "tables": [table], "findings": _findings(ratios)})


def _column(record: Record, name: str) -> Array:
    return np.array([math.inf if value is None else float(value) for value in record.rows[name]])


def _attacked(record: Record) -> Array:
    return np.array([status != "already_wrong" for status in record.rows["status"]])


def _ratio(radius: Array, found: Array) -> Array:
    """Return certified over found; 0 where the image was wrong or nothing was found, though something may be near."""
    usable = np.isfinite(found) & (found > 0) & np.isfinite(radius)
    return np.divide(radius, found, out=np.zeros_like(found), where=usable)


def _band(row: str, found: Array, certified: Array, product: Array, counted: Array) -> dict[str, Any]:
    """Return the picture of what is known along the radius: accuracy lies between the two lines."""
    total = len(found)
    limit = float(np.quantile(found[counted & np.isfinite(found)], 0.98)) if bool(counted.any()) else 1.0
    grid = np.linspace(0.0, limit, 41)

    def curve(radius: Array) -> list[dict[str, float]]:
        points = []
        for r in grid:
            share = statistics.proportion(int((counted & (radius > r)).sum()), total)
            points.append({"x": float(r), "y": share.measured, "low": share.low, "high": share.high})
        return points

    return {
        "kind": "lines",
        "id": f"band-{row}",
        "title": f"What is known along the radius: {row}",
        "caption": "Upper line: images for which nothing nearer was found. Lower lines: images for which it is proved "
        "that nothing nearer exists, by the better of learned lines and curvature, and by the product of the layers' "
        "norms. The true share lies between; the narrower the gap, the less is left unknown.",
        "x": "radius, L2",
        "y": "share of the images",
        "y_unit": "percent",
        "series": [
            {"label": "nothing found", "role": "control", "points": curve(found)},
            {"label": "proved", "role": "ours", "points": curve(certified)},
            {"label": "proved by the product", "role": "ours", "points": curve(product)},
        ],
    }


def _findings(ratios: Mapping[str, Estimate]) -> list[str]:
    (first, plain), *others = ratios.items()
    found = [
        f"{_sentence(first)}: half of the images are certified to at least {plain.measured:.0%} of the distance at "
        f"which an example is found (95% interval {plain.low:.0%} to {plain.high:.0%}, {plain.n:,} images)."
    ]
    if others:
        best, ratio = max(others, key=lambda item: item[1].measured)
        verb = "closes the gap most" if ratio.low > plain.high else "has the smallest gap"
        found.append(f"{_sentence(best)} {verb}: {ratio.measured:.0%} ({ratio.low:.0%} to {ratio.high:.0%}).")
    return found


def _sentence(name: str) -> str:
    """Return a name as a sentence begins with it."""
    return name[:1].upper() + name[1:]

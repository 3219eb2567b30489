"""The exhibit of `rare`: how improbable adversarial examples are, and how near every image they lie.

Szegedy et al. 2014, section 6. The measurements are in `rare`; here are their tables, figures and sentences.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy
import torch
from torch import Tensor

from intriguing.bounds.rare import sample
from intriguing.experiments import rare, statistics
from intriguing.experiments.cells import cell, measured
from intriguing.records import Inputs, Record
from intriguing.rng import generator

INSIDE = "points with an adversarial example inside the ball"
BOTH = "points with an example inside and under 1e-6 of the ball misclassified"
SHARE = "log10 of the share of errors"
SPREAD = "spread over repeats, in decades"
REPEATS = "images whose repeats spread less than a decade"
AGREES = "splitting within 3 standard errors of plain Monte Carlo"

_LN10 = math.log(10)
_RARE = -6.0  # log10 of the share below which the paper's word "improbable" is taken to hold
_SEEN = 10  # errors that plain Monte Carlo must have met before its logarithm has a usable standard error


def linear_row(region: str, decades: float) -> str:
    """Return the name of the row of a two-class linear net, whose share is known in closed form."""
    return f"two-class linear net, {region}, exactly 1e{decades:g}"


def ball_row(ratio: float) -> str:
    """Return the name of the row of a ball whose radius is so many times the distance of the nearest example."""
    return f"ball of {ratio:g} times the distance"


def improbable(inputs: Inputs, *, net: str, ratio: float, shown: int, seed: int) -> Record:
    """Put the shares of errors, their controls and their checks together.

    Args:
        inputs: needs ``"nearest"``, ``"volumes"``, ``"depths"`` and ``"closed-form"``; data ``"test"`` (class names).
        net: the net's name.
        ratio: as given to `volumes`.
        shown: images in the picture.
        seed: draws the bootstrap resamples and the draws shown.
    """
    wide, deep = inputs.needs["volumes"], inputs.needs["depths"]
    cells, findings = _headline(inputs.needs["nearest"], wide, net, ratio)
    draw = generator("bootstrap/improbable", seed)
    series: dict[str, list[dict[str, float]]] = {"logarithms": [], "splitting": [], "plain": []}
    table: list[list[str]] = []
    agreeing: list[bool] = []
    swapped: list[bool] = []
    for size in sorted(set(deep.rows["ratio"])):
        block = _block(deep, size)
        logs = block["log10"].mean(0)
        estimate = statistics.mean([logs.tolist()], draw)
        errors, total = int(block["errors"].sum()), len(logs) * deep.values["samples"]
        control = {"label": "one error in all plain draws would be", "measured": -math.log10(total)}
        if errors:
            control = {"label": "log10 of the mean share, plain Monte Carlo", "measured": math.log10(errors / total)}
        cells.append(cell(ball_row(size), SHARE, estimate, improbable, control) | {"unit": "plain"})
        cells += _repeats(block, ball_row(size), draw)
        series["logarithms"].append(_point(size, estimate))
        # Where the splitting found too few errors for plain draws to meet one, none were made: they count as none met.
        shares = {"splitting": (10 ** block["log10"]).mean(0), "plain": block["errors"] / deep.values["samples"]}
        for name, values in shares.items():
            if values.any():
                share = statistics.mean([values.tolist()], draw)
                least = 0.1 / total if name == "plain" else 1e-300  # a resample without an error has no logarithm
                ends = [math.log10(max(end, least)) for end in (share.measured, share.low, share.high)]
                series[name].append(_point(size, statistics.Estimate(ends[0], share.n, ends[1], ends[2])))
        near, far = _within(block, deep.values["variance_per_level"])
        agreeing += near
        swapped += far
        table.append(_line(size, block))
    if agreeing and swapped:
        control = {
            "label": "the same, each estimate beside another image's Monte Carlo",
            **measured(statistics.proportion(sum(swapped), len(swapped))),
        }
        share = statistics.proportion(sum(agreeing), len(agreeing))
        cells.append(cell("check against plain Monte Carlo", AGREES, share, improbable, control) | {"unit": "percent"})
        findings.append(
            f"Where plain Monte Carlo can see the errors, the estimate agrees with it in {sum(agreeing)} of "
            f"{len(agreeing)} balls."
        )
    cells += _known(inputs.needs["closed-form"], draw)
    pictures, tensors = _pictures(inputs, net, ratio, shown, seed)
    lines = {
        "kind": "lines",
        "id": "share-by-radius",
        "title": "The ball grows, the errors stay rare",
        "caption": "How much of a ball around a test image is misclassified, against the ball's radius; at 1 it just "
        "reaches the nearest adversarial example. Each step down the axis is a factor of ten. The mean share is that "
        "of the few worst images, the mean of the logarithms that of a typical one; plain Monte Carlo sees the first "
        "alone, and only in large balls. Estimates, not bounds.",
        "x": "radius of the ball / distance of the nearest adversarial example",
        "y": "log10 of the share of the ball that is misclassified",
        "series": [
            {"label": "splitting, mean of the logarithms", "role": "ours", "points": series["logarithms"]},
            {"label": "splitting, mean share", "role": "ours", "points": series["splitting"]},
            {"label": "plain Monte Carlo, mean share", "role": "control", "points": series["plain"]},
        ],
    }
    tables = [
        {
            "id": "depths",
            "title": "How deep, and how sure",
            "caption": "Logarithms to base 10 of the estimated share of errors. The spread is the standard deviation "
            "over repeats with other random numbers, mean and worst image.",
            "columns": ["radius / distance", "images", "median", "lowest", "highest", "mean spread", "worst spread"],
            "rows": table,
        }
    ]
    notes = [
        "The volumes are estimates, not bounds: errors that no particle met are not counted.",
        "The input is uniform in the ball, and a pixel that leaves [0, 1] is folded back at the face it crossed.",
    ]
    values = {"cells": cells, "figures": [lines, pictures], "tables": tables, "findings": findings, "notes": notes}
    return Record(values=values, tensors=tensors)


def _headline(nearest: Record, wide: Record, net: str, ratio: float) -> tuple[list[dict[str, Any]], list[str]]:
    attacked = sum(status != "already_wrong" for status in nearest.rows["status"])
    found = len(wide.rows["image"])
    rare = sum(value < _RARE for value in wide.rows["log10"])
    met = sum(errors > 0 for errors in wide.rows["plain_errors"])
    samples = wide.values["samples"]
    control = {
        "label": f"points where {samples:,} random draws from the ball met an error",
        **measured(statistics.proportion(met, found)),
    }
    inside, both = statistics.proportion(found, attacked), statistics.proportion(rare, attacked)
    cells = [
        cell(net, INSIDE, inside, improbable, control) | {"unit": "percent"},
        cell(net, BOTH, both, improbable, control) | {"unit": "percent"},
    ]
    if not found:
        return cells, []
    errors, draws = sum(wide.rows["plain_errors"]), samples * found
    return cells, [
        f"Around {both.measured:.1%} of {attacked:,} test images, a ball of {ratio:g} times the distance of the "
        "nearest adversarial example is misclassified on less than a millionth of its volume, and the example lies in "
        "it.",
        f"{draws:,} random draws from those balls met {errors:,} errors: chance does not find what the attack finds.",
    ]


def _block(deep: Record, ratio: float) -> dict[str, np.ndarray]:
    """Return the rows of one ratio: ``log10`` and ``levels`` (repeats, points), ``errors`` and ``draws`` (points,)."""
    rows = [row for row, value in enumerate(deep.rows["ratio"]) if value == ratio]
    shape = (deep.values["repeats"], deep.values["points"])

    def column(name: str) -> np.ndarray:
        return np.array([deep.rows[name][row] for row in rows], dtype=np.float64).reshape(shape)

    first = {"errors": column("plain_errors")[0], "draws": column("plain_draws")[0]}
    return {"log10": column("log10"), "levels": column("levels"), **first}


def _point(x: float, estimate: statistics.Estimate) -> dict[str, float]:
    return {"x": x, "y": estimate.measured, "low": estimate.low, "high": estimate.high}


def _repeats(block: Mapping[str, np.ndarray], row: str, draw: torch.Generator) -> list[dict[str, Any]]:
    """Return how far the repeats of an image lie apart, and how often within a decade."""
    spread = block["log10"].std(0, ddof=1)
    control = {"label": "spread between images", "measured": float(block["log10"].mean(0).std(ddof=1))}
    cells = [cell(row, SPREAD, statistics.mean([spread.tolist()], draw), improbable, control) | {"unit": "plain"}]
    # Beside it, what comes of comparing different images: repeat 0 of one, and the others of the next.
    mixed = np.concatenate([block["log10"][:1], np.roll(block["log10"][1:], 1, axis=1)]).std(0, ddof=1)
    chance = statistics.proportion(int((mixed < 1).sum()), len(mixed))
    control = {"label": "the same across images", **measured(chance)}
    within = statistics.proportion(int((spread < 1).sum()), len(spread))
    return [*cells, cell(row, REPEATS, within, improbable, control) | {"unit": "percent"}]


def _within(block: Mapping[str, np.ndarray], variance: float) -> tuple[list[bool], list[bool]]:
    """Return, for each image whose errors plain Monte Carlo saw, whether the two agree; and so for swapped images."""
    seen = np.flatnonzero(block["errors"] >= _SEEN)
    estimate = block["log10"].mean(0)[seen] * _LN10
    # Standard errors of logarithms: of the splitting's mean over repeats, and of a count.
    splitting = (block["levels"] * variance).mean(0)[seen] / len(block["log10"])
    share = block["errors"][seen] / block["draws"][seen]
    error = np.sqrt(splitting + (1 - share) / block["errors"][seen])
    plain = np.log(share)
    near = np.abs(estimate - plain) <= 3 * error
    far = np.abs(estimate - np.roll(plain, 1)) <= 3 * error
    return near.tolist(), far.tolist() if len(seen) > 1 else []


def _line(ratio: float, block: Mapping[str, np.ndarray]) -> list[str]:
    estimate, spread = block["log10"].mean(0), block["log10"].std(0, ddof=1)
    numbers = (np.median(estimate), estimate.min(), estimate.max())
    return [
        f"{ratio:g}",
        str(len(estimate)),
        *(f"{value:.1f}" for value in numbers),
        f"{spread.mean():.2f}",
        f"{spread.max():.2f}",
    ]


def _known(record: Record, draw: torch.Generator) -> list[dict[str, Any]]:
    """Return the cells of the linear net: the mean of the repeats beside the closed form."""
    cells = []
    names = dict.fromkeys(zip(record.rows["region"], record.rows["exact"], strict=True))
    for region, exact in names:
        places = zip(record.rows["region"], record.rows["exact"], record.rows["log10"], strict=True)
        values = np.array([value for kind, known, value in places if (kind, known) == (region, exact)])
        half = float(scipy.stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
        mean = float(values.mean())
        estimate = statistics.Estimate(mean, len(values), mean - half, mean + half)
        control = {"label": "closed form", "measured": exact}
        cells.append(cell(linear_row(region, exact), SHARE, estimate, improbable, control) | {"unit": "plain"})
        spread = statistics.mean([np.abs(values - mean).tolist()], draw)
        control = {"label": "mean distance from the closed form", "measured": float(np.abs(values - exact).mean())}
        cells.append(cell(linear_row(region, exact), SPREAD, spread, improbable, control) | {"unit": "plain"})
    return cells


def _pictures(
    inputs: Inputs, net: str, ratio: float, shown: int, seed: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Show images, their nearest adversarial examples, and random points of the balls around them."""
    record, classes = inputs.needs["nearest"], inputs.data("test").classes
    ids, x, labels, distance = rare.attacked_points(record)
    found = [row for row, status in enumerate(record.rows["status"]) if status == "found"]
    picks = list(range(min(shown, len(ids))))
    tensors = {"original": x[picks], "nearest": record.tensors["adversarial"][found][picks]}
    streams = rare.own_streams("improbable/shown", [ids[pick] for pick in picks], seed)
    tensors["drawn"] = sample(x[picks], ratio * distance[picks], generators=streams) if picks else x[picks]
    rows = []
    for index, pick in enumerate(picks):
        rows.append(
            {
                "label": f"{classes[int(labels[pick])]} read as {classes[int(record.rows['target'][found[pick]])]}",
                "note": f"nearest example at {distance[pick]:.2f}, ball of radius {ratio * distance[pick]:.2f}",
                "images": [{"tensor": name, "index": index} for name in ("original", "nearest", "drawn")],
            }
        )
    figure = {
        "kind": "gallery",
        "id": "ball",
        "title": "A ball, its one bad spot, and what a random draw looks like",
        "caption": "From left to right: a test image, its nearest adversarial example, and a random point of the ball "
        "around it. The random point is farther away, and the net is right about it.",
        "groups": [
            {
                "title": f"Balls of {net}",
                "caption": f"{len(ids)} test images with an example, the first {len(picks)} shown.",
                "columns": ["original", "nearest adversarial", "random point of the ball"],
                "rows": rows,
            }
        ],
    }
    return figure, tensors

"""Improbable, yet next to every image: how much of a ball is misclassified. Szegedy et al. 2014, section 6.

The paper closes with a guess: adversarial examples have so low a probability that a test set never shows one, yet they
are dense, so that one lies near every test case; how often they occur it leaves open. Here a ball is drawn around each
test image, large enough to hold its nearest adversarial example, and the share of the ball that is misclassified is
estimated by splitting (`bounds.rare`), with plain Monte Carlo and a closed form beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy
import torch
from torch import Tensor

from intriguing.bounds.rare import Splitting, naive, sample
from intriguing.experiments import statistics
from intriguing.experiments.cells import cell, measured, model_of
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
_DECADES = (-40, -16, -8, -4, -2)  # see `depths`
_SEEN = 10  # errors that plain Monte Carlo must have met before its logarithm has a usable standard error
_HOPELESS = -5.5  # log10 of an estimate below which plain Monte Carlo is not asked


def ball_row(ratio: float) -> str:
    """Return the name of the row of a ball whose radius is so many times the distance of the nearest example."""
    return f"ball of {ratio:g} times the distance"


def linear_row(region: str, decades: float) -> str:
    """Return the name of the row of a two-class linear net, whose share is known in closed form."""
    return f"two-class linear net, {region}, exactly 1e{decades:g}"


def volumes(
    inputs: Inputs,
    *,
    net: str,
    ratio: float,
    floor: float,
    particles: int,
    keep: float,
    moves: int,
    samples: int,
    seed: int,
) -> Record:
    """Estimate the share of errors in a ball around every attacked test image, down to a floor.

    Args:
        inputs: needs ``"net"`` and ``"nearest"``, its attack on test images; data ``"test"``.
        net: the net's name.
        ratio: the ball's radius over the distance of the nearest adversarial example, above 1.
        floor: log10 of the share below which a search stops.
        particles: see `bounds.rare.Splitting`.
        keep: see `bounds.rare.Splitting`.
        moves: see `bounds.rare.Splitting`.
        samples: plain draws from each ball, the control.
        seed: draws everything.

    Returns:
        One row per image with an example: its distance, the estimate, and the errors among the plain draws.
    """
    data = inputs.data("test")
    model = model_of(inputs.needs["net"], net, data, inputs.device)
    ids, x, labels, distance = _points(inputs.needs["nearest"])
    radius = ratio * distance
    rule = Splitting(particles=particles, keep=keep, moves=moves, floor=floor)
    found = rule(model, x, labels, radius, generators=_streams("volumes", ids, seed), progress=_part(inputs, 0.0, 0.8))
    plain = naive(
        model,
        x,
        labels,
        radius,
        samples=samples,
        generators=_streams("volumes/naive", ids, seed),
        progress=_part(inputs, 0.8, 1.0),
    )
    rows = {
        "image": ids,
        "distance": distance.tolist(),
        "radius": radius.tolist(),
        "log10": found.log10.tolist(),
        "reached": found.reached.tolist(),
        "levels": found.levels.tolist(),
        "accepted": found.accepted.tolist(),
        "plain_errors": plain.tolist(),
    }
    return Record(values={"samples": samples, "forwards": int(found.forwards.sum())}, rows=rows)


def depths(
    inputs: Inputs,
    *,
    net: str,
    points: int,
    repeats: int,
    particles: int,
    keep: float,
    moves: int,
    samples: int,
    seed: int,
    ratios: Sequence[float] | None = None,
) -> Record:
    """Follow the share of errors of some test images to its full depth, in balls of several sizes, with repeats.

    Args:
        inputs: as for `volumes`.
        net: the net's name.
        points: the first so many images that have an example.
        repeats: independent estimates of every share, at least 2.
        particles: see `bounds.rare.Splitting`.
        keep: see `bounds.rare.Splitting`.
        moves: see `bounds.rare.Splitting`.
        samples: plain draws per point, made where the estimate says that they can meet errors.
        seed: draws everything.
        ratios: radii over the distance of the nearest example. None: those at which a half-space at that distance
            would take up 1e-40, 1e-16, 1e-8, 1e-4 and 1e-2 of the ball, whatever the number of pixels; at least 1.5.

    Returns:
        One row per image, ratio and repeat; ``plain_errors`` and ``plain_draws`` stand in the rows of repeat 0.
    """
    data = inputs.data("test")
    model = model_of(inputs.needs["net"], net, data, inputs.device)
    ids, x, labels, distance = _points(inputs.needs["nearest"])
    ids, x, labels, distance = ids[:points], x[:points], labels[:points], distance[:points]
    if ratios is None:
        ratios = sorted({max(1.5, round(1 / cap_cosine(data.images[0].numel(), decade), 1)) for decade in _DECADES})
    rule = Splitting(particles=particles, keep=keep, moves=moves)
    rows: dict[str, list[Any]] = {name: [] for name in ("image", "ratio", "repeat", "log10", "reached", "levels")}
    rows |= {"plain_errors": [], "plain_draws": []}
    for turn, ratio in enumerate(ratios):
        estimates = []
        for repeat in range(repeats):
            place = (turn * repeats + repeat) / (len(ratios) * repeats)
            found = rule(
                model,
                x,
                labels,
                ratio * distance,
                generators=_streams(f"depths/{ratio:g}/{repeat}", ids, seed),
                progress=_part(inputs, place, place + 1 / (len(ratios) * repeats)),
            )
            estimates.append(found.log10)
            rows["image"] += ids
            rows["ratio"] += [ratio] * len(ids)
            rows["repeat"] += [repeat] * len(ids)
            rows["log10"] += found.log10.tolist()
            rows["reached"] += found.reached.tolist()
            rows["levels"] += found.levels.tolist()
        seen = torch.stack(estimates).mean(0) > _HOPELESS
        errors = torch.zeros(len(ids), dtype=torch.int64)
        if bool(seen.any()):
            streams = _streams(f"depths/naive/{ratio:g}", ids, seed)
            errors[seen] = naive(
                model,
                x[seen],
                labels[seen],
                (ratio * distance)[seen],
                samples=samples,
                generators=[stream for stream, kept in zip(streams, seen.tolist(), strict=True) if kept],
            )
        rows["plain_errors"] += errors.tolist() + [0] * (len(ids) * (repeats - 1))
        rows["plain_draws"] += (samples * seen).tolist() + [0] * (len(ids) * (repeats - 1))
    variance = (1 - keep) / (keep * particles)  # of the logarithm, per level, where moves forget where they began
    values = {"repeats": repeats, "variance_per_level": variance, "points": len(ids), "samples": samples}
    return Record(values=values, rows=rows)


def closed_form(
    inputs: Inputs,
    *,
    net: str,
    decades: Sequence[float],
    repeats: int,
    particles: int,
    keep: float,
    moves: int,
    seed: int,
) -> Record:
    """Hold the splitting to what is known exactly: two classes of a trained linear net, no box.

    The error region is then a half-space at distance d. Its share of a ball of radius R is that of a spherical cap,
    I_{1 - d^2 / R^2}((n + 1) / 2, 1 / 2) / 2; under Gaussian noise it is Phi(-d / sigma). For each share wanted, the
    radius or the standard deviation is solved for.

    Args:
        inputs: needs ``"net"``, a softmax net without hidden layer; data ``"test"``.
        net: its name.
        decades: logarithms to base 10 of the shares.
        repeats: independent estimates of each.
        particles: see `bounds.rare.Splitting`.
        keep: see `bounds.rare.Splitting`.
        moves: see `bounds.rare.Splitting`.
        seed: draws everything.

    Returns:
        One row per region, share and repeat: ``exact`` and ``log10``.
    """
    data = inputs.data("test")
    model = model_of(inputs.needs["net"], net, data, inputs.device)
    logits = model.logits(data.images)
    right = int((logits.argmax(1) == data.labels).nonzero()[0])
    x, label = data.images[right : right + 1], data.labels[right : right + 1]
    rival = int(logits[right].scatter(0, label, -torch.inf).argmax())
    pair = [int(label), rival]
    with torch.no_grad():
        basis = torch.cat((torch.zeros_like(x), torch.eye(x[0].numel()).view(-1, *x.shape[1:])))
        answers = model.logits(basis)[:, pair].double()
    normal = (answers[1:, 0] - answers[1:, 1]) - (answers[0, 0] - answers[0, 1])
    gap = logits[right, pair[0]].double() - logits[right, pair[1]].double()
    distance, n = float(gap / normal.norm()), x[0].numel()

    def two_classes(images: Tensor) -> Tensor:
        return model(images.to(model.device, model.dtype))[:, pair].to(images.device)

    rows: dict[str, list[Any]] = {name: [] for name in ("region", "exact", "log10")}
    cases = [(region, decade) for region in ("ball", "gaussian") for decade in decades]
    for turn, (region, decade) in enumerate(cases):
        quantile = -float(scipy.special.ndtri_exp(decade * _LN10))
        size = distance / (cap_cosine(n, decade) if region == "ball" else quantile)
        found = Splitting(particles=particles, keep=keep, moves=moves, region=region)(
            two_classes,
            x.expand(repeats, *x.shape[1:]),
            torch.zeros(repeats, dtype=torch.int64),
            torch.full((repeats,), size, dtype=torch.float64),
            generators=_streams(f"closed-form/{region}/{decade:g}", range(repeats), seed),
            box=None,
        )
        rows["region"] += [region] * repeats
        rows["exact"] += [decade] * repeats
        rows["log10"] += found.log10.tolist()
        inputs.progress(turn + 1, len(cases))
    return Record(values={"distance": distance, "pixels": n}, rows=rows)


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


def cap_log10(n: int, cosine: float) -> float:
    """Return log10 of the share of an n-ball beyond a plane at `cosine` radii from its centre.

    Example:
        >>> round(cap_log10(3, 0.5), 4)  # a cap of height R/2: 5/32 of the ball
        -0.8062
    """
    share = scipy.special.betainc((n + 1) / 2, 0.5, 1 - cosine**2) / 2
    return math.log10(share) if share > 0 else -math.inf


def cap_cosine(n: int, decades: float) -> float:
    """Return the distance of the plane, in radii, beyond which lies 10^decades of an n-ball."""
    return float(scipy.optimize.brentq(lambda t: max(cap_log10(n, t), -320.0) - decades, 0.0, 1 - 1e-9))


def _streams(name: str, ids: Sequence[int], seed: int) -> list[torch.Generator]:
    """Return one generator per image: an image's estimate does not depend on which others there are."""
    return [generator(f"{name}/{image}", seed) for image in ids]


def _part(inputs: Inputs, first: float, last: float) -> Any:
    """Return a progress callback that fills the part [first, last] of the whole."""
    return lambda done, total: inputs.progress(first + (last - first) * done / total, 1.0)


def _points(record: Record) -> tuple[list[int], Tensor, Tensor, Tensor]:
    """Return ids, images, labels and distances of the images with an adversarial example."""
    found = [row for row, status in enumerate(record.rows["status"]) if status == "found"]
    ids = [int(record.rows["image"][row]) for row in found]
    labels = torch.tensor([int(record.rows["label"][row]) for row in found], dtype=torch.int64)
    distance = torch.tensor([float(record.rows["distance"][row]) for row in found], dtype=torch.float64)
    return ids, record.tensors["original"][found], labels, distance


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
    ids, x, labels, distance = _points(record)
    found = [row for row, status in enumerate(record.rows["status"]) if status == "found"]
    picks = list(range(min(shown, len(ids))))
    tensors = {"original": x[picks], "nearest": record.tensors["adversarial"][found][picks]}
    streams = _streams("improbable/shown", [ids[pick] for pick in picks], seed)
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

"""Too little data, or the architecture? A reader's question to Szegedy et al. 2014: why are adversarial examples near?

Nets are trained that differ in one thing: the number of training images, the width, the depth or the activation. The
distance of their nearest adversarial examples is then set against it, and the slope says what each is worth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy
import torch

from intriguing.attacks.lbfgs import LBFGS
from intriguing.attacks.noise import gaussian_of_norm
from intriguing.errors import InputError
from intriguing.experiments import statistics
from intriguing.experiments.cells import attacked_images, cell, measured
from intriguing.experiments.statistics import Estimate
from intriguing.nets.load import Model
from intriguing.records import Inputs, Record
from intriguing.rng import generator, numpy_generator, resamples
from intriguing.training.sweep import restore_fc, untrained_fc

NEAREST = "mean distortion, nearest of the three likeliest targets"
RANDOM = "mean distortion, random target"
ACCURACY = "test accuracy"
CHANGE = "change of the nearest example's distance"
CHANGE_RANDOM = "change of a random class's distance"

_SCALES: Mapping[str, Callable[[float], Any]] = {"decade": np.log10, "doubling": np.log2, "step": np.asarray}
_LIKELIEST = "top-3"  # on MNIST within 1% of the nearest of all nine, at a third of the cost
_RESAMPLES = 2000
_SHUFFLES = 2000


def attack(inputs: Inputs, *, images: int, seed: int, evaluations: int = 100) -> Record:
    """Attack test images on one net of the sweep, and on the same net before it was trained.

    The untrained net knows no classes: its own answers stand for the labels. It may give all images the same answer,
    and then often has no other answer in the whole box: nothing is found.

    Args:
        inputs: needs ``"net"``, a record of `training.sweep.train_fc`; data ``"test"``.
        images: how many test images, the same for every net of the sweep.
        seed: draws the images and the targets.
        evaluations: the most of one solve; see `attacks.lbfgs`.

    Returns:
        One row per image: distortions ``random``, ``nearest`` and ``untrained`` (of the three likeliest targets), NaN
        where the net was wrong before or no example was found, and for the first two whether noise of the same norm
        fools the net. ``values``: counts and the net's own facts.
    """
    data = inputs.data("test")
    record = inputs.needs["net"]
    ids = attacked_images(data, min(images, len(data.labels)), seed)
    x, labels = data.images[ids], data.labels[ids]
    shape, classes = tuple(data.images.shape[1:]), len(data.classes)
    trained = Model(restore_fc(record, shape, classes).to(inputs.device), name="trained net")
    before = Model(untrained_fc(record, shape, classes).to(inputs.device), name="untrained net")
    columns: dict[str, Any] = {"image": ids.tolist(), "label": labels.tolist()}
    found = {}
    cases = (("random", trained, labels), ("nearest", trained, labels), ("untrained", before, before.predict(x)))
    for done, (name, model, truth) in enumerate(cases, start=1):
        target = "random" if name == "random" else _LIKELIEST
        result = LBFGS(target=target, evaluations=evaluations)(
            model, x, truth, generator=generator("slopes/targets", seed)
        )
        reached = result.found
        columns[name] = torch.where(reached, result.distortion, math.nan).tolist()
        found[name] = [int(reached.sum()), int(result.attacked.sum())]
        if model is trained:
            fooled = torch.full((len(x),), math.nan, dtype=torch.float64)
            noisy = gaussian_of_norm(x[reached], result.distance[reached], generator=generator("slopes/noise", seed))
            fooled[reached] = (model.predict(noisy) != truth[reached]).double()
            columns[f"{name}_noise"] = fooled.tolist()
        inputs.progress(done, len(cases))
    facts = ("hidden", "activation", "examples", "train_error", "test_error", "n_test", "epochs")
    return Record(values={"found": found, **{name: record.values[name] for name in facts}}, rows=columns)


def data_or_architecture(inputs: Inputs, *, arms: Sequence[Mapping[str, Any]], seed: int) -> Record:
    """Set the distances of all nets against what was varied.

    Args:
        inputs: needs one record of `attack` for every key in `arms`; data ``"test"`` (labels alone).
        arms: ``{"name", "unit", "axis", "scale", "points": [{"label", "x", "keys": one per seed}]}``. `scale` is
            ``"decade"`` or ``"doubling"`` (x on a logarithm), ``"step"`` (x as it is), or ``"kind"`` (no order: every
            point is compared with the first). An x of None is the number of training images, and without a label
            so is the label. ``unit`` ends the sentence "per ...". The first three with an order
            are the findings.
        seed: draws the bootstrap resamples.
    """
    labels = inputs.data("test").labels
    guess = float(torch.bincount(labels).max()) / len(labels)
    draw = generator("bootstrap/slopes", seed)
    cells: list[dict[str, Any]] = []
    figures: list[dict[str, Any]] = []
    findings: list[str] = []
    arms = [_counted(inputs, arm) for arm in arms]
    for arm in arms:
        for point in arm["points"]:
            cells += _net(inputs, f"{arm['name']}: {point['label']}", point["keys"], guess, draw)
        for column, name in ((CHANGE, "nearest"), (CHANGE_RANDOM, "random")):
            for row, change, control, p in _changes(inputs, arm, name, draw):
                entry = cell(row, column, change, data_or_architecture, control)
                cells.append(entry | {"unit": "percent", "p": p})
                if column == CHANGE and arm["scale"] != "kind" and change.n:
                    findings.append(_sentence(row, change))
        if arm["scale"] != "kind":
            figures.append(_figure(inputs, arm, draw))
    tables = [_facts(inputs, arms)]
    return Record(values={"cells": cells, "figures": figures, "tables": tables, "findings": findings[:3]})


def _counted(inputs: Inputs, arm: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an arm whose points without an x have the number of training images of their first net."""
    points = []
    for point in arm["points"]:
        examples = inputs.needs[point["keys"][0]].values["examples"]
        x = examples if point["x"] is None else point["x"]
        points.append({**point, "x": x, "label": point.get("label") or f"{examples:,}"})
    return {**arm, "points": points}


def _net(inputs: Inputs, row: str, keys: Sequence[str], guess: float, draw: torch.Generator) -> list[dict[str, Any]]:
    """Return the cells of one configuration, over its seeds."""
    records = [inputs.needs[key] for key in keys]
    cells = []
    for column, name in ((NEAREST, "nearest"), (RANDOM, "random")):
        harmless = statistics.mean([record.rows[f"{name}_noise"] for record in records], draw)
        control = {"label": "error under noise of the same norm", **measured(harmless)}
        distance = statistics.mean([record.rows[name] for record in records], draw)
        cells.append(cell(row, column, distance, data_or_architecture, control))
    right = [(record.values["n_test"] - _wrong(record), record.values["n_test"]) for record in records]
    share = statistics.mean_share(right, draw)
    control = {"label": "always the most frequent class", "measured": guess}
    return [*cells, cell(row, ACCURACY, share, data_or_architecture, control) | {"unit": "percent"}]


def _wrong(record: Record) -> int:
    return round(float(record.values["test_error"]) * int(record.values["n_test"]))


Change = tuple[str, Estimate, dict[str, Any], float]


def _changes(inputs: Inputs, arm: Mapping[str, Any], name: str, draw: torch.Generator) -> list[Change]:
    """Return rows, relative changes per unit with their intervals, and those of shuffled nets, with a p-value."""
    points = arm["points"]
    keys = [key for point in points for key in point["keys"]]
    if arm["scale"] == "kind":
        first, *others = points
        changes = []
        for other in others:
            pair = [*first["keys"], *other["keys"]]
            t = np.array([0.0] * len(first["keys"]) + [1.0] * len(other["keys"]))
            row = f"{arm['name']}: {other['label']} instead of {first['label']}"
            changes.append((row, *_both(inputs, pair, t, name, draw)))
        return changes
    t = np.concatenate([[float(_SCALES[arm["scale"]](point["x"]))] * len(point["keys"]) for point in points])
    return [(f"{arm['name']}: per {arm['unit']}", *_both(inputs, keys, t, name, draw))]


def _both(
    inputs: Inputs, keys: Sequence[str], t: np.ndarray, name: str, draw: torch.Generator
) -> tuple[Estimate, dict[str, Any], float]:
    """Return a slope, its control and its p-value: what it comes to when t is dealt out to the nets at random.

    Only images count that every net of the comparison answers correctly: a poor net is right about easy images alone,
    and their examples are farther away.
    """
    values = _common(inputs, keys, name)
    change = slope(t, values, draw)
    if not change.n:
        return change, {"label": "the nets shuffled", **measured(change)}, 1.0
    chance = numpy_generator(draw)
    shuffled = chance.permuted(np.tile(t - t.mean(), (_SHUFFLES, 1)), axis=1)
    null = shuffled @ np.log(values.mean(1)) / float((t - t.mean()) @ (t - t.mean()))
    low, high = np.expm1(np.quantile(null, [0.025, 0.975]))
    middle = float(np.expm1(np.median(null)))
    # A shuffle that deals t out as it was gives the slope itself, but for rounding.
    extreme = np.abs(null) >= abs(math.log1p(change.measured)) - 1e-9
    control = {"label": "the nets shuffled", **measured(Estimate(middle, change.n, float(low), float(high)))}
    return change, control, float((extreme.sum() + 1) / (_SHUFFLES + 1))


def slope(t: np.ndarray, values: np.ndarray, draw: torch.Generator) -> Estimate:
    """Return by what share the mean of a net's values changes when t grows by 1, with a 95% interval.

    A straight line is fitted to the logarithm of the nets' means. Its variance is that of the line's residuals, which
    hold what seeds and curvature do, plus that of resampling the images, which all nets share; the interval is
    Student's, with as many degrees of freedom as nets less two.

    Args:
        t: (M,) what was varied, one entry per net, at least three of them and two different.
        values: (M, N) one positive value per net and image.
        draw: draws the resamples.

    Returns:
        The change exp(slope) - 1, with n the number of values; NaN, with n = 0, if there are no images.

    Raises:
        InputError: fewer than three nets, or all at one t.

    Example:
        >>> t = np.array([0.0, 1.0, 2.0])
        >>> round(slope(t, np.array([[1.0], [2.0], [4.0]]), generator("bootstrap", 0)).measured, 6)
        1.0
    """
    if len(t) < 3 or not np.ptp(t) > 0:
        raise InputError(f"t: expected at least three nets at two different places, got {t.tolist()}")
    images = values.shape[1]
    if not images:
        return Estimate(math.nan, 0, math.nan, math.nan)
    centred = t - t.mean()
    spread = float(centred @ centred)
    logs = np.log(values.mean(1))
    b = float(logs @ centred) / spread
    chance = numpy_generator(draw)
    times = resamples(chance, images, _RESAMPLES)
    resampled = np.log(times @ values.T / images) @ centred / spread
    residuals = logs - logs.mean() - b * centred
    freedom = len(t) - 2
    variance = float(residuals @ residuals) / freedom / spread + float(resampled.var(ddof=1))
    half = float(scipy.stats.t.ppf(0.975, freedom)) * math.sqrt(variance)
    return Estimate(float(np.expm1(b)), values.size, float(np.expm1(b - half)), float(np.expm1(b + half)))


def _common(inputs: Inputs, keys: Sequence[str], name: str) -> np.ndarray:
    """Return the values (M, N) of a column on the images for which every one of these nets has one."""
    values = np.array([inputs.needs[key].rows[name] for key in keys], dtype=np.float64)
    return values[:, ~np.isnan(values).any(axis=0)]


def _figure(inputs: Inputs, arm: Mapping[str, Any], draw: torch.Generator) -> dict[str, Any]:
    series = []
    keys = [key for point in arm["points"] for key in point["keys"]]
    for label, name, role in (("nearest class", "nearest", "ours"), ("random class", "random", "control")):
        values = dict(zip(keys, _common(inputs, keys, name).tolist(), strict=True))
        points = []
        for point in arm["points"]:
            estimate = statistics.mean([values[key] for key in point["keys"]], draw)
            if estimate.n:
                ends = {"low": estimate.low, "high": estimate.high}
                points.append({"x": point["x"], "y": estimate.measured, **ends})
        series.append({"label": label, "role": role, "points": points})
    return {
        "kind": "lines",
        "id": f"distance-by-{arm['id']}",
        "title": f"Distance against {arm['axis']}",
        "caption": f"Mean distortion of adversarial examples of test images against {arm['axis']}, all else equal. "
        "A flat line says that it does not matter. Only images that all nets of the curve answer correctly count. Bars "
        "are 95% intervals over nets and images.",
        "x": arm["axis"],
        "y": "distortion (rms pixel change)",
        "log_x": arm["scale"] != "step",
        "series": series,
    }


def _sentence(row: str, change: Estimate) -> str:
    percent = 100 * change.measured
    clear = change.low > 0 or change.high < 0
    verb = "grows" if percent > 0 else "shrinks"
    doubt = "" if clear else ", which the interval does not tell from no change"
    return (
        f"{row[:1].upper()}{row[1:]}, the distance of the nearest adversarial example {verb} by {abs(percent):.0f}% "
        f"(95% interval {100 * change.low:+.0f}% to {100 * change.high:+.0f}%){doubt}."
    )


def _facts(inputs: Inputs, arms: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    lines: dict[tuple[str, ...], None] = {}  # in the order met; a net that several arms share stands once
    for arm in arms:
        for point in arm["points"]:
            for key in point["keys"]:
                values = inputs.needs[key].values
                rows = inputs.needs[key].rows
                lines[
                    "-".join(str(width) for width in values["hidden"]) or "none",
                    str(values["activation"]),
                    f"{values['examples']:,}",
                    str(values["epochs"]),
                    f"{100 * values['train_error']:.2f}%",
                    f"{100 * values['test_error']:.2f}%",
                    _found(rows["nearest"], values["found"]["nearest"]),
                    _found(rows["untrained"], values["found"]["untrained"]),
                ] = None
    return {
        "id": "nets",
        "title": "The nets of the sweep",
        "caption": "One row per trained net. The last two columns: mean distortion of the nearest examples, and how "
        "many were found, after and before training. An untrained net may know one answer only; then there are none.",
        "columns": ["hidden", "activation", "images", "passes", "train error", "test error", "trained", "untrained"],
        "rows": [list(line) for line in lines],
    }


def _found(distortions: Sequence[float], counts: Sequence[int]) -> str:
    found, attacked = counts
    known = [value for value in distortions if not math.isnan(value)]
    return f"{sum(known) / len(known):.3f}, {found} of {attacked}" if known else f"none of {attacked}"

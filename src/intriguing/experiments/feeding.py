"""Does a net learn from its own adversarial examples? Szegedy et al. 2014, section 4.2.

Nets of one architecture are trained with and without pools of adversarial examples (`training.feeding`), from the
same weights and on the same order of images, seed by seed. The paper reports two numbers and no table; here every
arm stands beside the net without a pool, image by image, and beside pools of noise of the same size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from intriguing.experiments import statistics
from intriguing.experiments.cells import cell, measured, model_of
from intriguing.experiments.distortion import RANDOM
from intriguing.experiments.statistics import Estimate
from intriguing.records import Inputs, Record
from intriguing.rng import generator

ERROR = "test error"
DIFFERENCE = "change of the test error"
RISE = "rise of distortion over no pool"

ROWS = {
    "none": "no pool",
    "input": "pool of images",
    "higher": "pools of hidden layers",
    "all": "pools of all layers",
    "noise": "pools of noise",
    "dropout": "no pool, dropout",
}
"""The row of each arm of `training.feeding.ARMS`."""


def feeding(inputs: Inputs, *, net: str, arms: Sequence[str], seeds: Sequence[int], seed: int) -> Record:
    """Compare the arms: test error, its difference to no pool, and how far the nearest adversarial example is.

    Args:
        inputs: needs ``"<arm>/<seed>/net"`` and ``"<arm>/<seed>/random"`` (`distortion.attack`) for every arm and
            seed; data ``"train"`` (shape and classes) and ``"test"``.
        net: name of the architecture.
        arms: keys of `ROWS`, ``"none"`` among them.
        seeds: of the trainings; the arms are paired by them.
        seed: draws the bootstrap resamples.
    """
    test = inputs.data("test")
    wrong: dict[str, Tensor] = {}
    size: dict[str, Tensor] = {}
    for arm in arms:
        models = [model_of(inputs.needs[f"{arm}/{s}/net"], net, test, inputs.device) for s in seeds]
        wrong[arm] = torch.stack([(model.predict(test.images) != test.labels).double() for model in models])
        size[arm] = torch.tensor([_distortions(inputs.needs[f"{arm}/{s}/random"]) for s in seeds], dtype=torch.float64)
    guess = {
        "label": "always the most frequent class",
        "measured": 1 - float(torch.bincount(test.labels).max()) / len(test.labels),
    }
    noise = statistics.mean(
        [_fooled(inputs.needs[f"none/{s}/random"]) for s in seeds], generator("bootstrap/feeding/noise", seed)
    )
    chance = _chance(wrong, seeds, seed)
    cells: list[dict[str, Any]] = []
    errors: dict[str, Estimate] = {}
    differences: dict[str, Estimate] = {}
    p_values: dict[str, float] = {}
    sizes: dict[str, Estimate] = {}
    for arm in arms:
        row = ROWS[arm]
        draw = generator(f"bootstrap/feeding/{arm}", seed)
        errors[arm] = statistics.mean(wrong[arm].tolist(), draw)
        sizes[arm] = statistics.mean(size[arm].tolist(), draw)
        if arm == "none":
            cells.append(cell(row, ERROR, errors[arm], feeding, guess))
            control = {"label": "error under noise of the same norm", **measured(noise)}
            cells.append(cell(row, RANDOM, sizes[arm], feeding, control))
            continue
        plain = {"label": ROWS["none"], **measured(errors["none"])} if "none" in errors else guess
        cells.append(cell(row, ERROR, errors[arm], feeding, plain))
        change = wrong[arm] - wrong["none"]
        differences[arm] = statistics.mean(change.tolist(), draw)
        p_values[arm] = statistics.paired_p((-change.mean(0)).tolist(), generator(f"permutation/feeding/{arm}", seed))
        cells.append({**cell(row, DIFFERENCE, differences[arm], feeding, chance), "p": p_values[arm]})
        cells.append(cell(row, RANDOM, sizes[arm], feeding, {"label": ROWS["none"], **measured(sizes["none"])}))
        rise = statistics.mean((size[arm] - size["none"]).tolist(), draw)
        cells.append(cell(row, RISE, rise, feeding, {"label": "no change", "measured": 0.0}))
    figures = [_differences(differences, chance), _distribution(arms, size)]
    return Record(
        values={
            "cells": cells,
            "figures": figures,
            "tables": [_trainings(inputs, arms, seeds), _by_seed(arms, seeds, wrong)],
            "findings": _findings(errors, differences, p_values, sizes, len(seeds)),
        }
    )


def _distortions(record: Record) -> list[float]:
    """Return the distortion found for every attacked image, NaN where there is none."""
    side = math.sqrt(record.tensors["original"][0].numel())
    pairs = zip(record.rows["distance_search"], record.rows["status"], strict=True)
    return [float(distance) / side if status == "found" else math.nan for distance, status in pairs]


def _fooled(record: Record) -> list[float]:
    """Return for every attacked image whether noise of the norm of its example fools the net, NaN where none is."""
    pairs = zip(record.rows["fooled_by_noise"], record.rows["status"], strict=True)
    return [float(fooled) if status == "found" else math.nan for fooled, status in pairs]


def _chance(wrong: Mapping[str, Tensor], seeds: Sequence[int], seed: int) -> dict[str, Any]:
    """Return what a difference is compared with: pools of noise; where there are none, other initial weights."""
    draw = generator("bootstrap/feeding/chance", seed)
    if "noise" in wrong:
        estimate = statistics.mean((wrong["noise"] - wrong["none"]).tolist(), draw)
        return {"label": ROWS["noise"], **measured(estimate)}
    if len(seeds) > 1:
        estimate = statistics.mean((wrong["none"][1:] - wrong["none"][:1]).tolist(), draw)
        return {"label": "no pool, other initial weights", **measured(estimate)}
    return {"label": "no change", "measured": 0.0}


def _differences(differences: Mapping[str, Estimate], chance: Mapping[str, Any]) -> dict[str, Any]:
    rows = [
        {"label": ROWS[arm], "measured": value.measured, "low": value.low, "high": value.high, "control": dict(chance)}
        for arm, value in differences.items()
    ]
    return {
        "kind": "interval",
        "id": "difference",
        "title": "What the pools do to the test error",
        "caption": "Each line is the change of the test error that a way of training brings, with its 95% interval; "
        "left of zero is better than no pool. Nets are paired by their initial weights and compared on the same test "
        "images, so what remains is the effect of the pool.",
        "x": "change of the test error",
        "rows": rows,
    }


def _distribution(arms: Sequence[str], size: Mapping[str, Tensor]) -> dict[str, Any]:
    series = [
        {"label": ROWS[arm], "values": [v for v in size[arm].flatten().tolist() if not math.isnan(v)]} for arm in arms
    ]
    return {
        "kind": "distribution",
        "id": "robustness",
        "title": "Are the adversarial examples further away afterwards?",
        "caption": "One curve per way of training, one value per attacked training image: how far the nearest example "
        "of a random wrong class is. A curve further to the right belongs to a net that is harder to fool.",
        "x": "distortion (rms pixel change)",
        "column": RANDOM,
        "series": series,
    }


def _trainings(inputs: Inputs, arms: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
    lines = []
    for arm in arms:
        values = [inputs.needs[f"{arm}/{s}/net"].values for s in seeds]
        made = [sum(v["examples"][k] for v in values) / len(values) for k in range(len(values[0]["examples"]))]
        norm = [sum(v["norm"][k] for v in values) / len(values) for k in range(len(values[0]["norm"]))]
        train = sum(v["train_error"] for v in values) / len(values)
        lines.append(
            [
                ROWS[arm],
                str(len(values)),
                str(values[0]["epochs"]),
                f"{100 * train:.2f}%",
                ", ".join(f"{count:,.0f}" for count in made) or "none",
                ", ".join(f"{length:.2f}" for length in norm) or "none",
            ]
        )
    return {
        "id": "trainings",
        "title": "What the nets were fed",
        "caption": "Means over the seeds. Examples and the norms of their perturbations are listed pool by pool, from "
        "the images upwards; a hidden unit's output lies between 0 and 1, like a pixel.",
        "columns": ["way of training", "nets", "passes over the images", "train error", "examples made", "their norm"],
        "rows": lines,
    }


def _by_seed(arms: Sequence[str], seeds: Sequence[int], wrong: Mapping[str, Tensor]) -> dict[str, Any]:
    rows = [[ROWS[arm], *(f"{100 * share:.2f}%" for share in wrong[arm].mean(1).tolist())] for arm in arms]
    return {
        "id": "by-seed",
        "title": "The test error, seed by seed",
        "caption": "Nets in one column started from the same weights and saw the images in the same order.",
        "columns": ["way of training", *(f"seed {s}" for s in seeds)],
        "rows": rows,
    }


def _findings(
    errors: Mapping[str, Estimate],
    differences: Mapping[str, Estimate],
    p_values: Mapping[str, float],
    sizes: Mapping[str, Estimate],
    seeds: int,
) -> list[str]:
    if "all" not in errors:
        return []
    nets = f"{seeds} nets" if seeds > 1 else "1 net"
    before, after, change = errors["none"], errors["all"], differences["all"]
    first = (
        "Trained on its own adversarial examples as well, a net errs on "
        f"{100 * after.measured:.2f}% of test images, without them on "
        f"{100 * before.measured:.2f}% ({nets} each; difference {100 * change.measured:+.2f} points, 95% interval "
        f"{100 * change.low:+.2f} to {100 * change.high:+.2f}, one-sided p = {p_values['all']:.2g})."
    )
    found = [first]
    if sizes["none"].n and sizes["all"].n:
        found.append(
            f"The nearest example of a random wrong class is at a distortion of {sizes['all'].measured:.3f}, "
            f"without pools at {sizes['none'].measured:.3f}."
        )
    if "noise" in differences:
        found.append(
            f"Pools of noise of the same size change the test error by "
            f"{100 * differences['noise'].measured:+.2f} points."
        )
    return found

"""Photographs that a large net takes for one and the same class. Szegedy et al. 2014, section 4, Figure 5.

The paper led 64 images to AlexNet's class "ostrich, Struthio camelus". Ours are test photographs that our AlexNet
classifies correctly, and the class is the first of the set's in alphabetical order.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from intriguing.attacks.lbfgs import LBFGS
from intriguing.attacks.noise import gaussian_of_norm
from intriguing.attacks.result import AttackStatus
from intriguing.errors import DataError, UnknownNameError
from intriguing.experiments import statistics
from intriguing.experiments.cells import cell, measured
from intriguing.experiments.statistics import Estimate
from intriguing.records import Inputs, Record
from intriguing.rng import generator
from intriguing.training.convolutional import model

TRAINED = "AlexNet"
UNTRAINED = "AlexNet, untrained"
ACCURACY = "test accuracy"
REACHED = "share that reaches the class"
DISTORTION = "mean distortion"
RUNNER_UP = "mean distortion to the second-best answer"
CHANGED = "share changed by noise of the same norm"

TARGETS = ("class", "runner-up")


def ostrich(classes: Sequence[str]) -> int:
    """Return the class that every image is led to: the first by name.

    Example:
        >>> ostrich(("Pear", "Apple"))
        1
    """
    return min(range(len(classes)), key=lambda index: classes[index])


def attack(
    inputs: Inputs,
    *,
    images: int,
    seed: int,
    target: str = "class",
    data: str = "photographs/",
    evaluations: int = 30,
    solves: int = 8,
    slots: int = 64,
) -> Record:
    """Lead test images to one class with the paper's L-BFGS, and give the net noise of the same norms.

    Images are drawn at random among those of other classes that the net classifies correctly, `images` of them or
    as many as there are. With a record ``"like"`` its images are taken, or `images` of them at even steps, whatever
    the net says of them: an untrained net is led away from its own answer, to the class or, where it gives that
    already, to the next.

    Args:
        inputs: needs ``"net"``, a record of `training.convolutional`; may need ``"like"``, a record of this
            function; data ``data + "test"``.
        images: how many.
        seed: draws the images and the noise.
        target: ``"class"``, the one that `ostrich` names, or ``"runner-up"``, the net's second-best answer.
        data: prefix of the split.
        evaluations: the most of one solve; see `attacks.lbfgs`.
        solves: the most of one image.
        slots: images solved at once; memory grows with it.

    Returns:
        One row per image; tensors ``original`` and ``adversarial`` (N, C, H, W).

    Raises:
        DataError: no image that could be attacked.
        UnknownNameError: no such target.
    """
    if target not in TARGETS:
        raise UnknownNameError("target", target, TARGETS)
    split = inputs.data(data + "test")
    net = model(inputs.needs["net"], inputs.device)
    goal, classes = ostrich(split.classes), len(split.classes)
    if "like" in inputs.needs:
        ids = torch.tensor(inputs.needs["like"].rows["image"])
        count = min(images, len(ids))
        ids = ids[torch.arange(count) * len(ids) // count]
    else:
        fit = (net.predict(split.images) == split.labels) & (split.labels != goal)
        order = torch.randperm(len(fit), generator=generator("photographs", seed))
        ids = order[fit[order]][:images].sort().values
    if not len(ids):
        raise DataError(
            f"no test image outside the class {split.classes[goal]!r} is classified correctly, so none can be "
            "attacked; train the net longer, or give more images"
        )
    x, labels = split.images[ids], split.labels[ids]
    logits = net.logits(x)
    answers = logits.argmax(1)
    wanted = torch.where(answers == goal, (goal + 1) % classes, goal)
    if target == "runner-up":
        wanted = logits.scatter(1, answers[:, None], -torch.inf).argmax(1)
    search = LBFGS(target=wanted, evaluations=evaluations, solves=solves, slots=slots)
    result = search(net, x, answers, progress=inputs.progress)
    found = result.found
    noisy = gaussian_of_norm(x[found], result.distance[found], generator=generator("noise of equal norm", seed))
    under_noise = answers.clone()
    under_noise[found] = net.predict(noisy)
    passes = (result.forwards + result.backwards).double()
    rows = {
        "image": ids.tolist(),
        "label": labels.tolist(),
        "answer": answers.tolist(),
        "target": wanted.tolist(),
        "status": [AttackStatus(code).name.lower() for code in result.status.tolist()],
        "distance": result.distance.tolist(),
        "distance_search": result.distance_search.tolist(),
        "under_noise": under_noise.tolist(),
        "forwards": result.forwards.tolist(),
        "backwards": result.backwards.tolist(),
    }
    values = {
        "attacked": int(result.attacked.sum()),
        "found": int(found.sum()),
        "passes_mean": float(passes.mean()),
        "passes_max": float(passes.max()),
        "class": split.classes[goal],
    }
    return Record(values=values, tensors={"original": x, "adversarial": result.adversarial}, rows=rows)


def figure_5(inputs: Inputs, *, seed: int, magnify: float = 10.0, shown: int = 8, data: str = "photographs/") -> Record:
    """Show photographs that became one class, how little it took, and what an untrained net makes of it.

    Args:
        inputs: needs ``"net"``, ``"attack"`` and ``"runner-up"`` (the attack with that target), and of its twin
            ``"untrained"``, ``"untrained attack"`` and ``"untrained runner-up"``; data ``data + "test"``.
        seed: draws the bootstrap resamples.
        magnify: factor of the shown differences (the paper: 10), which are shifted to mid grey and clamped.
        shown: photographs in the picture, of as many classes as there are.
        data: prefix of the split.
    """
    split = inputs.data(data + "test")
    likeliest = float(torch.bincount(split.labels).max()) / len(split.labels)
    nets = {TRAINED: inputs.needs["net"], UNTRAINED: inputs.needs["untrained"]}
    attacks = {
        (TRAINED, DISTORTION): inputs.needs["attack"],
        (TRAINED, RUNNER_UP): inputs.needs["runner-up"],
        (UNTRAINED, DISTORTION): inputs.needs["untrained attack"],
        (UNTRAINED, RUNNER_UP): inputs.needs["untrained runner-up"],
    }
    distortions = {place: _distortions(attacked) for place, attacked in attacks.items()}
    means = {
        place: statistics.mean([values], generator(f"bootstrap/figure-5/{place}", seed))
        for place, values in distortions.items()
    }
    cells: list[dict[str, Any]] = []
    for row, net in nets.items():
        attacked = attacks[row, DISTORTION]
        right = round((1 - net.values["test_error"]) * net.values["n_test"])
        chance = {"label": "always the most frequent class", "measured": likeliest}
        cells.append(cell(row, ACCURACY, statistics.proportion(right, net.values["n_test"]), figure_5, chance))
        share = statistics.proportion(attacked.values["found"], attacked.values["attacked"])
        led, moved = _under_noise(attacked)
        cells.append(cell(row, REACHED, share, figure_5, _control("noise of the same norm", led)))
        twin = UNTRAINED if row == TRAINED else TRAINED
        estimates = {column: (means[row, column], twin, means[twin, column]) for column in (DISTORTION, RUNNER_UP)}
        estimates[CHANGED] = (moved, "the change the attack found", share)
        # Where no image reached the class there is no distance, and no noise to compare it with.
        for column, (estimate, label, beside) in estimates.items():
            if estimate.n:
                cells.append(cell(row, column, estimate, figure_5, _control(label, beside)))
    attacked = attacks[TRAINED, DISTORTION]
    goal = attacked.values["class"]
    picks = _varied(attacked.rows["label"], [status == "found" for status in attacked.rows["status"]], shown)
    original, result = attacked.tensors["original"][picks], attacked.tensors["adversarial"][picks]
    tensors = {
        "original": original,
        "difference": (0.5 + magnify * (result - original)).clamp(0, 1),
        "result": result,
    }
    figures = [
        _gallery(attacked, split.classes, distortions[TRAINED, DISTORTION], picks, magnify),
        {
            "kind": "distribution",
            "id": "photograph-distortions",
            "title": f"How far is an image from “{goal}”?",
            "caption": "One curve per net, one value per image: the root mean square change of a pixel, where "
            "black to white is 1. A rule marks the printed mean. The untrained net has the same layers and its "
            "first random weights, and is led away from its own answers.",
            "x": "distortion (rms pixel change)",
            "column": DISTORTION,
            "series": [
                {"label": row, "values": [value for value in distortions[row, DISTORTION] if not math.isnan(value)]}
                for row in nets
            ],
        },
    ]
    table = {
        "id": "photograph-distances",
        "title": "The distances in full",
        "caption": "Over the images that reached the class: distortion and its spread, the same as an L2 "
        "distance, and the mean number of forward plus backward passes that the search spent on one image.",
        "columns": ["net", "led to", "reached", "mean", "median", "5th percentile", "largest", "mean L2", "passes"],
        "rows": [_line(*place, attacked, distortions[place]) for place, attacked in attacks.items()],
    }
    return Record(
        values={
            "cells": cells,
            "figures": figures,
            "tables": [table],
            "findings": _findings(cells, goal),
        },
        tensors=tensors,
    )


def _distortions(attacked: Record) -> list[float]:
    """Return the distortion of each image before the last bisection (D6), NaN where the class was not reached."""
    root = math.sqrt(attacked.tensors["original"][0].numel())
    pairs = zip(attacked.rows["distance_search"], attacked.rows["status"], strict=True)
    return [distance / root if status == "found" else math.nan for distance, status in pairs]


def _control(label: str, estimate: Estimate) -> dict[str, Any]:
    """Return an estimate as a control; where it is of no image, that without any change nothing changes."""
    return {"label": label, **measured(estimate)} if estimate.n else {"label": "no change", "measured": 0.0}


def _under_noise(attacked: Record) -> tuple[Estimate, Estimate]:
    """Return the share of images that noise of the same norm led to the class, and to any other answer."""
    rows = attacked.rows
    found = torch.tensor([status == "found" for status in rows["status"]])
    said, target, before = (torch.tensor(rows[name])[found] for name in ("under_noise", "target", "answer"))
    n = len(said)
    return statistics.proportion(int((said == target).sum()), n), statistics.proportion(int((said != before).sum()), n)


def _varied(labels: Sequence[int], kept: Sequence[bool], shown: int) -> list[int]:
    """Return up to `shown` positions: the first of each class, then the second of each, and so on."""
    seen: Counter[int] = Counter()
    order = []
    for position, (label, keep) in enumerate(zip(labels, kept, strict=True)):
        if keep:
            order.append((seen[label], label, position))
            seen[label] += 1
    return [position for _, _, position in sorted(order)[:shown]]


def _gallery(
    attacked: Record, classes: Sequence[str], distortions: Sequence[float], picks: Sequence[int], magnify: float
) -> dict[str, Any]:
    """Return the paper's picture: original, difference, result."""
    rows, goal = attacked.rows, attacked.values["class"]
    lines = []
    for index, pick in enumerate(picks):
        lines.append(
            {
                "label": f"{classes[rows['label'][pick]]} read as {classes[rows['target'][pick]]}",
                "note": f"distortion {distortions[pick]:.4f}; under noise of the same norm: "
                f"{classes[rows['under_noise'][pick]]}",
                "images": [{"tensor": name, "index": index} for name in ("original", "difference", "result")],
            }
        )
    return {
        "kind": "gallery",
        "id": "ostriches",
        "title": f"Every one of them is “{goal}”",
        "caption": f"Left the image, which the net names correctly; right the one it calls “{goal}”; between them "
        f"their difference, times {magnify:g} and shifted to mid grey. See whether left and right differ to you.",
        "groups": [
            {
                "title": f"Led to “{goal}”",
                "caption": f"{len(rows['label'])} images attacked, {len(picks)} shown.",
                "columns": ["original", f"difference × {magnify:g}", "result"],
                "rows": lines,
            }
        ],
    }


def _line(row: str, column: str, attacked: Record, distortions: Sequence[float]) -> list[str]:
    """Return one line of the table of distances."""
    goal = f"“{attacked.values['class']}”" if column == DISTORTION else "second-best"
    values = torch.tensor([value for value in distortions if not math.isnan(value)], dtype=torch.float64)
    start = [row, goal, f"{len(values)} of {attacked.values['attacked']}"]
    passes = f"{attacked.values['passes_mean']:.0f}"
    if not len(values):
        return [*start, *["-"] * 5, passes]
    root = math.sqrt(attacked.tensors["original"][0].numel())
    numbers: list[Tensor] = [values.mean(), values.median(), values.quantile(0.05), values.max()]
    return [*start, *(f"{float(number):.5f}" for number in numbers), f"{float(values.mean()) * root:.3f}", passes]


def _findings(cells: Sequence[dict[str, Any]], goal: str) -> list[str]:
    at = {(entry["row"], entry["column"]): entry for entry in cells}
    accuracy, reached = at[TRAINED, ACCURACY], at[TRAINED, REACHED]
    size, near = at.get((TRAINED, DISTORTION)), at.get((TRAINED, RUNNER_UP))
    blank, blank_near = at.get((UNTRAINED, DISTORTION)), at.get((UNTRAINED, RUNNER_UP))
    noise = reached["control"]
    hits = round(reached["measured"] * reached["n"])
    first = (
        f"{hits} of {reached['n']} images that the net names correctly became “{goal}” for it; its accuracy on "
        f"unchanged test images is {100 * accuracy['measured']:.0f}%, where always giving the most frequent class "
        f"would score {100 * accuracy['control']['measured']:.0f}%."
    )
    if size is None:
        return [first]
    found = [
        first,
        f"The mean change is {size['measured']:.4f} per pixel, on a scale where black to white is 1. Noise of the same "
        f"size led {round(noise['measured'] * noise['n'])} of {noise['n']} to that class.",
    ]
    if blank is not None and near is not None and blank_near is not None:
        found.append(
            f"The same net before training, which knows nothing, needs {blank['measured']:.4f} to reach that class and "
            f"{blank_near['measured']:.4f} to give its second-best answer; trained, it needs {size['measured']:.4f} "
            f"and {near['measured']:.4f}."
        )
    return found

"""A detector on unsupervised features, fooled both ways. Szegedy et al. 2014, Figure 6 (QuocNet).

The paper showed pictures: cars that a binary head on frozen features no longer calls cars. Here both ways are counted,
and three controls stand beside them: how well the head tells the classes apart at all, noise of the same norm, and the
same net with the weights it was born with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from intriguing import norms
from intriguing.attacks.lbfgs import LBFGS
from intriguing.attacks.noise import gaussian_of_norm
from intriguing.attacks.result import AttackStatus
from intriguing.experiments import statistics
from intriguing.experiments.cells import cell, exact, measured
from intriguing.experiments.statistics import Estimate
from intriguing.nets.load import Model
from intriguing.nets.quocnet import quocnet
from intriguing.records import Inputs, Record
from intriguing.rng import generator
from intriguing.training.reconstruction import CENTRE, prepared, restore

ACCURACY = "balanced accuracy"
FOOLED = "fooled"
DISTORTION = "average distortion"
PARAMETERS = "billions of parameters"
LEARNED = "learned features"
UNTRAINED = "untrained features"
PIXELS = "pixels"
PUBLISHED = "the published size"
WAYS = {1: "positive made negative", 0: "negative made positive"}


def way_row(label: int, *, untrained: bool = False) -> str:
    """Return the name of the row of images of that label (1: positive) that were given the other."""
    return WAYS[label] + (f", {UNTRAINED}" if untrained else "")


def fool(inputs: Inputs, *, images: int, seed: int) -> Record:
    """Attack a detector both ways with the paper's L-BFGS, and give it noise of the same norms.

    Args:
        inputs: needs ``"net"``, a record of `training.reconstruction.learn_features`; data: the train and test
            splits that it learnt from.
        images: at most so many of each side: test images first, then training images.
        seed: draws the images and the noise; as given to `learn_features`.

    Returns:
        One row per image; tensors ``original``, ``adversarial`` and ``noisy`` (N, C, S, S).
    """
    record = inputs.needs["net"]
    x, labels, splits = _both_sides(inputs, record, images, seed)
    model = Model(restore(record).to(inputs.device), mean=CENTRE, name="detector")
    result = LBFGS(target=1 - labels)(model, x, labels, progress=inputs.progress)
    found = result.found
    noisy = x.clone()
    noise = generator("noise of equal norm", seed)
    noisy[found] = gaussian_of_norm(x[found], result.distance_search[found], generator=noise)
    rows = {
        "split": splits,
        "label": labels.tolist(),
        "status": [AttackStatus(code).name.lower() for code in result.status.tolist()],
        "distance": result.distance.tolist(),
        "distortion": result.distortion.tolist(),
        "distance_search": result.distance_search.tolist(),
        "fooled_by_noise": ((model.predict(noisy) != labels) & found).tolist(),
    }
    passes = (result.forwards + result.backwards)[result.attacked].double()
    values = {"passes_mean": float(passes.mean()) if len(passes) else 0.0}
    return Record(values, {"original": x, "adversarial": result.adversarial, "noisy": noisy}, rows)


def figure_6(inputs: Inputs, *, seed: int, magnify: float, shown: int) -> Record:
    """Put the detector's accuracy, how often and how nearby it was fooled, and pictures of it together.

    Args:
        inputs: needs ``"learned"`` and ``"untrained"``, records of `learn_features`, and ``"learned/fooled"`` and
            ``"untrained/fooled"``, records of `fool`.
        seed: draws the bootstrap resamples.
        magnify: factor of the shown difference, which is shifted to mid grey and clamped (D20).
        shown: images per way.
    """
    nets = {LEARNED: inputs.needs["learned"], UNTRAINED: inputs.needs["untrained"]}
    attacks = {False: inputs.needs["learned/fooled"], True: inputs.needs["untrained/fooled"]}
    name = nets[LEARNED].values["class"]
    cells: list[dict[str, Any]] = []
    for row, record in nets.items():
        cells.append(cell(row, ACCURACY, balanced(record.values["test"]), figure_6, _shuffled(record, row, seed)))
    pixels = balanced(nets[LEARNED].values["pixels"])
    cells.append(cell(PIXELS, ACCURACY, pixels, figure_6, _shuffled(nets[LEARNED], LEARNED, seed)))
    distances = {
        (label, untrained): _distances(record, label, seed)
        for untrained, record in attacks.items()
        for label in WAYS
    }  # fmt: skip
    for untrained, record in attacks.items():
        for label in WAYS:
            row = way_row(label, untrained=untrained)
            hit, unaimed = _hits(record, label)
            cells.append(cell(row, FOOLED, hit, figure_6, {"label": "noise of the same norm", **measured(unaimed)}))
            other = {"label": LEARNED if untrained else UNTRAINED, **measured(distances[label, not untrained])}
            cells.append(cell(row, DISTORTION, distances[label, untrained], figure_6, other))
    cells.append(_published())
    learned = nets[LEARNED].values
    figure, tensors = _gallery(attacks[False], name, magnify, shown)
    values = {
        "cells": cells,
        "figures": [figure],
        "tables": [_stages(nets[LEARNED]), _classes(nets[LEARNED])],
        "findings": _findings(cells, name),
        "notes": [
            f"The positive class is {name}: of all classes the one that such a head tells apart best in "
            "cross-validation on training images. Attacked are test images first, then training images, of those the "
            f"head is right on, averaged down to {learned['net']['side']} pixels a side for a net of "
            f"{learned['parameters']:,} weights."
        ],
    }
    return Record(values=values, tensors=tensors)


def balanced(counts: Mapping[str, int]) -> Estimate:
    """Return the mean of the shares of positives and of negatives that are recognised.

    Its interval is put together from the two Wilson intervals (Zou and Donner 2008, equation 5: the distances of the
    ends from the shares add up as squares).

    Args:
        counts: ``hits`` of ``positives`` and ``passes`` of ``negatives``.

    Example:
        >>> balanced({"hits": 9, "positives": 10, "passes": 70, "negatives": 100}).measured
        0.8
    """
    sides = [
        statistics.proportion(counts["hits"], counts["positives"]),
        statistics.proportion(counts["passes"], counts["negatives"]),
    ]
    middle = sum(side.measured for side in sides) / 2
    below = math.hypot(*(side.measured - side.low for side in sides)) / 2
    above = math.hypot(*(side.high - side.measured for side in sides)) / 2
    return Estimate(middle, sum(side.n for side in sides), middle - below, min(1.0, middle + above))


def _both_sides(inputs: Inputs, record: Record, images: int, seed: int) -> tuple[Tensor, Tensor, list[str]]:
    """Return up to `images` positives and as many negatives, test images first, with labels 1 and 0 and splits."""
    values = record.values
    parts: dict[int, list[tuple[Tensor, str]]] = {label: [] for label in WAYS}
    for split in ("test", "train"):
        x, labels, _ = prepared(inputs.data(values["prefix"] + split), values["images"], values["size"], seed)
        for label, chosen in ((1, labels == values["positive"]), (0, labels != values["positive"])):
            order = torch.randperm(int(chosen.sum()), generator=generator(f"attacked {split}/{label}", seed))
            room = images - sum(len(part) for part, _ in parts[label])
            parts[label].append((x[chosen][order[:room]], split))
    every = [(part, label, split) for label in WAYS for part, split in parts[label]]
    x = torch.cat([part for part, _, _ in every])
    labels = torch.cat([torch.full((len(part),), label) for part, label, _ in every])
    return x, labels, [split for part, _, split in every for _ in range(len(part))]


def _of(record: Record, label: int) -> tuple[Tensor, Tensor]:
    """Return which rows are of that label and were attacked, and of these which were fooled; both (N,) bool."""
    status = record.rows["status"]
    mine = torch.tensor(record.rows["label"]) == label
    attacked = mine & torch.tensor([word != "already_wrong" for word in status])
    return attacked, mine & torch.tensor([word == "found" for word in status])


def _hits(record: Record, label: int) -> tuple[Estimate, Estimate]:
    """Return the share of attacked images that were fooled, and the share fooled by noise of the same norm."""
    attacked, found = _of(record, label)
    noise = torch.tensor(record.rows["fooled_by_noise"]) & found
    n = int(attacked.sum())
    return statistics.proportion(int(found.sum()), n), statistics.proportion(int(noise.sum()), int(found.sum()))


def _distances(record: Record, label: int, seed: int) -> Estimate:
    """Return the mean distortion of one way, before the last bisection, as in Table 1."""
    _, found = _of(record, label)
    side = math.sqrt(record.tensors["original"][0].numel())
    sizes = (torch.tensor(record.rows["distance_search"], dtype=torch.float64)[found] / side).tolist()
    return statistics.mean([sizes], generator(f"bootstrap/figure-6/{label}", seed))


def _shuffled(record: Record, row: str, seed: int) -> dict[str, Any]:
    """Return the control of a head: the same on shuffled labels."""
    scores = [balanced(counts).measured for counts in record.values["shuffled"]]
    estimate = statistics.mean([scores], generator(f"bootstrap/shuffled/{row}", seed))
    return {"label": "heads on shuffled labels", **measured(estimate)}


def _published() -> dict[str, Any]:
    """Build the published size without memory, and count; beside it the size with padded normalisation."""
    with torch.device("meta"):
        counts = [sum(weight.numel() for weight in quocnet(padded=padded).parameters()) for padded in (False, True)]
    note = "Strides and borders are not printed: counted with stride 1 and nothing padded."
    control = {"label": "with the normalisation padded", "measured": counts[1] / 1e9}
    return exact(PUBLISHED, PARAMETERS, counts[0] / 1e9, figure_6, control=control, note=note)


def _stages(record: Record) -> dict[str, Any]:
    reports = record.values["stages"]
    return {
        "id": "stages",
        "title": "What learning without labels did",
        "caption": "Per stage: how much of its input the features fail to reconstruct (share of the energy), and how "
        "much the pooled features are active, before and after. Drawn weights can do neither well.",
        "columns": ["stage", "not reconstructed, before", "after", "activity, before", "after"],
        "rows": [
            [
                str(stage),
                *(f"{100 * report[key]:.1f}%" for key in ("left_out_before", "left_out_after")),
                *(f"{report[key]:,.0f}" for key in ("active_before", "active_after")),
            ]
            for stage, report in enumerate(reports, start=1)
        ],
    }


def _classes(record: Record) -> dict[str, Any]:
    scores = record.values["scores"]
    order = sorted(range(len(scores)), key=lambda place: -scores[place])[:5]
    return {
        "id": "classes",
        "title": "Which class the head looks for",
        "caption": "Balanced accuracy in cross-validation on training images, the best five of all classes. The first "
        "is taken; test images have no part in the choice.",
        "columns": ["class", "balanced accuracy"],
        "rows": [[record.values["classes"][place], f"{100 * scores[place]:.1f}%"] for place in order],
    }


def _gallery(record: Record, name: str, magnify: float, shown: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the pictures: original, magnified difference, result, and noise of the same norm."""
    groups: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    for label in WAYS:
        _, found = _of(record, label)
        picks = found.nonzero().flatten()[:shown]
        x, moved, noisy = (record.tensors[key][picks] for key in ("original", "adversarial", "noisy"))
        prefix = f"way{label}"
        tensors[f"{prefix}_original"] = x
        tensors[f"{prefix}_difference"] = (0.5 + magnify * (moved - x)).clamp(0, 1)
        tensors[f"{prefix}_result"] = moved
        tensors[f"{prefix}_noise"] = noisy
        before, after = (name, f"not {name}") if label else (f"not {name}", name)
        sizes = norms.distortion(x, moved).tolist() if len(picks) else []
        misled = torch.tensor(record.rows["fooled_by_noise"])[picks].tolist()
        rows = [
            {
                "label": f"{before} read as {after}",
                "note": f"distortion {size:.4f}; equal noise: {after if noise else before}",
                "images": [
                    {"tensor": f"{prefix}_{column}", "index": index}
                    for column in ("original", "difference", "result", "noise")
                ],
            }
            for index, (size, noise) in enumerate(zip(sizes, misled, strict=True))
        ]
        groups.append(
            {
                "title": f"{before} made {after}",
                "caption": f"{int(found.sum())} images fooled, {len(rows)} shown.",
                "columns": ["original", f"difference \u00d7 {magnify:g}", "result", "noise, same norm"],
                "rows": rows,
            }
        )
    figure = {
        "kind": "gallery",
        "id": "both-ways",
        "title": "Taken for what it is, and then not",
        "caption": "From left to right: the image, the difference (magnified by the stated factor around mid grey), "
        "their sum, and the image with noise of the same norm. The features never saw a label, so labels are not what "
        "makes them fragile.",
        "groups": groups,
    }
    return figure, tensors


def _findings(cells: list[dict[str, Any]], name: str) -> list[str]:
    by_place = {(entry["row"], entry["column"]): entry for entry in cells}
    accuracy = by_place[LEARNED, ACCURACY]["measured"]
    ways = [by_place[way_row(label), FOOLED] for label in WAYS]
    sizes = [by_place[way_row(label), DISTORTION] for label in WAYS]
    if not all(entry["n"] for entry in (*ways, *sizes)):
        return []
    hits = [round(entry["measured"] * entry["n"]) for entry in ways]
    noise = max(entry["control"]["measured"] for entry in ways)
    blank = by_place[UNTRAINED, ACCURACY]["measured"]
    strange = [by_place[way_row(label, untrained=True), DISTORTION]["measured"] for label in WAYS]
    return [
        f"A detector of “{name}” on features learnt without labels has a balanced accuracy of {100 * accuracy:.0f}%. "
        f"All the same {hits[0]} of {ways[0]['n']} positives could be made negative and {hits[1]} of {ways[1]['n']} "
        f"negatives positive, by changes of {sizes[0]['measured']:.4f} and {sizes[1]['measured']:.4f} per pixel; noise "
        f"of that size does it to {f'{100 * noise:.1f}% at most' if noise else 'none'}.",
        f"On the weights the net was born with, a head reaches {100 * blank:.0f}% and is fooled by changes of "
        f"{strange[0]:.4f} and {strange[1]:.4f}.",
    ]

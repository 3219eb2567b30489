"""A reader's variant of the attack, L1 norm and Adam with one fixed weight, beside the paper's L-BFGS.

Every image has the random target that the paper's attack was given, so that the two answer the same question. Sizes
are compared at equal success: on the images where both reach the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from intriguing import norms
from intriguing.attacks.l1_adam import L1Adam
from intriguing.experiments import statistics
from intriguing.experiments.cells import attacked_images, cell, measured, model_of
from intriguing.records import Images, Inputs, Record
from intriguing.rng import generator

SUCCESS = "reaches its target"
L1 = "mean L1 norm"
L2 = "average distortion"
LBFGS_ROW = "L-BFGS, the paper's"
_CODE_WEIGHT = 1.0
_FEWEST = 2  # successes whose sizes have a mean with an interval


def weight_row(weight: float) -> str:
    """Return the name of the row of a weight; 1 is the reader's code as it is."""
    return f"L1 and Adam, weight {weight:g}"


def l1_adam(inputs: Inputs, *, net: str, images: int, first: int, weight: float, steps: int, seed: int) -> Record:
    """Attack the first images of an L-BFGS attack again, towards the same targets.

    Args:
        inputs: needs ``"net"`` and ``"random"``, the trained net and its attack by L-BFGS with random targets; data
            ``"train"``.
        net: the net's name.
        images: as given to that attack.
        first: of its images, how many are attacked here.
        weight: of the cross-entropy; 1 is the reader's.
        steps: of Adam; 3000 are the reader's.
        seed: as given to that attack; also draws the start.

    Returns:
        One row per image: ``attacked`` (the net is right and L-BFGS found an example, so that the target is known),
        ``found``, ``target``; tensors ``original``, ``adversarial`` (N, C, H, W) and ``lbfgs``, the other's examples.
    """
    data = inputs.data("train")
    other = inputs.needs["random"]
    first = min(first, images)
    ids = attacked_images(data, images, seed)[:first]
    x, labels = data.images[ids], data.labels[ids]
    known = torch.tensor([status == "found" for status in other.rows["status"][:first]], dtype=torch.bool)
    target = torch.tensor(other.rows["target"][:first])
    model = model_of(inputs.needs["net"], net, data, inputs.device)
    attack = L1Adam(target=target[known], weight=weight, steps=steps)
    found = torch.zeros(first, dtype=torch.bool)
    adversarial = x.clone()
    if bool(known.any()):
        start = generator("start of L1 and Adam", seed)
        result = attack(model, x[known], labels[known], generator=start, progress=inputs.progress)
        found[known] = result.found
        adversarial[known] = result.adversarial
    rows = {
        "image": ids.tolist(),
        "label": labels.tolist(),
        "target": target.tolist(),
        "attacked": known.tolist(),
        "found": found.tolist(),
    }
    tensors = {"original": x, "adversarial": adversarial, "lbfgs": other.tensors["adversarial"][:first]}
    return Record({"weight": weight, "steps": steps, "net": net}, tensors, rows)


def l1_adam_exhibit(
    inputs: Inputs, *, weights: Sequence[float], seed: int, magnify: float = 3.0, shown: int = 6
) -> Record:
    """Put success and size of the variant, weight by weight, beside those of the paper's attack.

    Args:
        inputs: needs ``"<weight:g>"``, a record of `l1_adam`, for every weight; data ``"train"`` (names of classes).
        weights: of the cross-entropy, in increasing order.
        seed: draws the bootstrap resamples.
        magnify: factor of the shown perturbation, which is shifted to mid grey and clamped.
        shown: images in the gallery.
    """
    records = {weight: inputs.needs[f"{weight:g}"] for weight in weights}
    cells: list[dict[str, Any]] = []
    series: dict[str, list[dict[str, float]]] = {"ours": [], "control": []}
    for weight, record in records.items():
        row = weight_row(weight)
        attacked = _mask(record, "attacked")
        both = attacked & _mask(record, "found")
        x, mine, theirs = (record.tensors[name][both] for name in ("original", "adversarial", "lbfgs"))
        success = statistics.proportion(int(both.sum()), int(attacked.sum()))
        # The paper's attack found every one of them: that is how they were chosen.
        every = statistics.proportion(int(attacked.sum()), int(attacked.sum()))
        cells.append(cell(row, SUCCESS, success, l1_adam_exhibit, {"label": LBFGS_ROW, **measured(every)}))
        for column, size in ((L1, lambda a, b: norms.l1(b - a)), (L2, norms.distortion)):
            if int(both.sum()) < _FEWEST:
                continue
            draw = generator(f"bootstrap/variants/{row}/{column}", seed)
            ours, other = size(x, mine), size(x, theirs)
            control = {"label": f"{LBFGS_ROW}, same images", **measured(statistics.mean([other.tolist()], draw))}
            entry = cell(row, column, statistics.mean([ours.tolist()], draw), l1_adam_exhibit, control)
            cells.append(entry)
            if column == L2:
                signs = generator(f"permutation/variants/{row}", seed)
                entry["p"] = statistics.paired_p((ours - other).tolist(), signs)
                series["ours"].append(_point(weight, entry))
                series["control"].append(_point(weight, control))
    figures: list[dict[str, Any]] = [
        {
            "kind": "lines",
            "id": "weights",
            "title": "No one weight serves every image",
            "caption": "The distortion of the variant as its weight grows, and that of the paper's attack on the same "
            "images: those where the variant reaches its target. A small weight reaches few images, the easiest; "
            "a large one reaches all and overshoots. The paper's attack searches the weight image by image.",
            "x": "weight of the cross-entropy",
            "y": "average distortion",
            "log_x": True,
            "series": [
                {"label": "L1 and Adam", "role": "ours", "points": series["ours"]},
                {"label": LBFGS_ROW, "role": "control", "points": series["control"]},
            ],
        }
    ]
    tensors: dict[str, Tensor] = {}
    if any(bool(_mask(record, "found").any()) for record in records.values()):
        figure, tensors = _gallery(records, inputs.data("train"), magnify, shown)
        figures.append(figure)
    values = {
        "cells": cells,
        "figures": figures,
        "tables": [_by_target(records, inputs.data("train"))],
        "findings": _findings(cells, records),
        "notes": [
            "The variant is a reader's code, not the paper's attack: the L1 norm plus the cross-entropy with one fixed "
            f"weight, {next(iter(records.values())).values['steps']:,} steps of Adam at a rate of 0.001 from a start "
            "drawn from U(0, 1), clamped to the pixel range. Its weight is 1."
        ],
    }
    return Record(values, tensors)


def _mask(record: Record, column: str) -> Tensor:
    return torch.tensor(record.rows[column], dtype=torch.bool)


def _point(weight: float, entry: dict[str, Any]) -> dict[str, float]:
    return {"x": weight, "y": entry["measured"], "low": entry["low"], "high": entry["high"]}


def _by_target(records: dict[float, Record], data: Images) -> dict[str, Any]:
    """Return success and mean sizes by target class, a column per weight."""
    rows = []
    for place, name in enumerate(data.classes):
        texts = []
        for record in records.values():
            mine = _mask(record, "attacked") & (torch.tensor(record.rows["target"]) == place)
            texts.append(_summary(record, mine))
        if not all(text.startswith("0 of 0") for text in texts):
            rows.append([name, *texts])
    return {
        "id": "by-target",
        "title": "By target",
        "caption": "How many of the attacks towards each class reached it; in brackets the mean L1 norm and the mean "
        "distortion of those. The label itself is never a target.",
        "columns": ["target", *(f"weight {weight:g}" for weight in records)],
        "rows": rows,
    }


def _summary(record: Record, mine: Tensor) -> str:
    """Return how many of these rows were found, and their mean sizes."""
    hit = mine & _mask(record, "found")
    text = f"{int(hit.sum())} of {int(mine.sum())}"
    if not bool(hit.any()):
        return text
    x, moved = record.tensors["original"][hit], record.tensors["adversarial"][hit]
    return f"{text} ({norms.l1(moved - x).mean():.1f}; {norms.distortion(x, moved).mean():.3f})"


def _gallery(
    records: dict[float, Record], data: Images, magnify: float, shown: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Show both attacks' perturbations, for the smallest weight with most successes."""
    weight = max(records, key=lambda w: (int(_mask(records[w], "found").sum()), -w))
    record = records[weight]
    picks = _mask(record, "found").nonzero().flatten()[:shown]
    x, mine, theirs = (record.tensors[name][picks] for name in ("original", "adversarial", "lbfgs"))
    tensors = {
        "original": x,
        "variant_difference": (0.5 + magnify * (mine - x)).clamp(0, 1),
        "variant": mine,
        "lbfgs_difference": (0.5 + magnify * (theirs - x)).clamp(0, 1),
        "lbfgs": theirs,
    }
    sizes = list(zip(norms.distortion(x, mine).tolist(), norms.distortion(x, theirs).tolist(), strict=True))
    rows = [
        {
            "label": f"{data.classes[record.rows['label'][pick]]} read as {data.classes[record.rows['target'][pick]]}",
            "note": f"distortion {sizes[index][0]:.3f}, by L-BFGS {sizes[index][1]:.3f}",
            "images": [{"tensor": name, "index": index} for name in tensors],
        }
        for index, pick in enumerate(picks.tolist())
    ]
    titles = ["original", f"L1 and Adam \u00d7 {magnify:g}", "its result", f"L-BFGS \u00d7 {magnify:g}", "its result"]
    figure = {
        "kind": "gallery",
        "id": "both-attacks",
        "title": "Few pixels by much, or many by little",
        "caption": "From left to right: the image, the variant's perturbation (magnified around mid grey), its result, "
        "and the same for the paper's attack. The L1 norm is paid per pixel, so it changes few pixels by much.",
        "groups": [
            {
                "title": f"Weight {weight:g}",
                "caption": f"{len(rows)} images that both attacks fool.",
                "columns": titles,
                "rows": rows,
            }
        ],
    }
    return figure, tensors


def _findings(cells: list[dict[str, Any]], records: dict[float, Record]) -> list[str]:
    by_place = {(entry["row"], entry["column"]): entry for entry in cells}
    code = _CODE_WEIGHT if _CODE_WEIGHT in records else min(records)
    first = by_place[weight_row(code), SUCCESS]
    if not first["n"]:
        return []
    name = "the code's weight" if code == _CODE_WEIGHT else "a weight"
    found = [
        f"With {name} of {code:g} the variant reaches its target on {100 * first['measured']:.0f}% of "
        f"{first['n']} images, all of which the paper's attack solves."
    ]
    best = max(records, key=lambda weight: (by_place[weight_row(weight), SUCCESS]["measured"], -weight))
    size = by_place.get((weight_row(best), L2))
    length = by_place.get((weight_row(best), L1))
    if size and length:
        found.append(
            f"At weight {best:g} it reaches {100 * by_place[weight_row(best), SUCCESS]['measured']:.0f}%, with "
            f"{size['measured'] / size['control']['measured']:.2f} times the distortion of the paper's attack on the "
            f"same images and {length['measured'] / length['control']['measured']:.2f} times its L1 norm."
        )
    return found

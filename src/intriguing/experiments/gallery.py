"""What adversarial images look like beside noise. Szegedy et al. 2014, Figure 7."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from intriguing import norms
from intriguing.attacks.noise import gaussian, gaussian_of_norm
from intriguing.experiments import statistics
from intriguing.experiments.cells import attacked_images, cell, measured, model_of
from intriguing.records import Images, Inputs, Record
from intriguing.rng import generator

ACCURACY = "accuracy"
STD = "average distortion"


def adversarial_row(net: str) -> str:
    """Return the name of the row of a net's adversarial images."""
    return f"adversarial for {net}"


def noise_row(net: str, std: float, *, clipped: bool = False) -> str:
    """Return the name of the row of noise of that standard deviation, fed to a net; not clipped, as in Table 2."""
    return f"Gaussian noise, std {std:g}" + (", clipped to the box" if clipped else "") + f", fed to {net}"


def figure_7(
    inputs: Inputs, *, nets: Sequence[str], images: int, seed: int, std: float, magnify: float, shown: int
) -> Record:
    """Show originals, perturbations, adversarial images and noise, with the accuracy that remains on each.

    Args:
        inputs: needs ``"<net>/net"`` and ``"<net>/random"``; data ``"train"``.
        nets: whose examples are shown.
        images: as given to the attacks.
        seed: as given to the attacks; also draws the noise.
        std: of the large noise (the paper: 1).
        magnify: factor of the shown perturbation, which is shifted to mid grey and clamped.
        shown: images per net, one per class as far as they go.
    """
    data = inputs.data("train")
    ids = attacked_images(data, images, seed)
    x, labels = data.images[ids], data.labels[ids]
    noises = {
        clipped: gaussian(x, std, generator=generator(f"noise/{std:g}", seed), box=(0.0, 1.0) if clipped else None)
        for clipped in (False, True)
    }
    loud = noises[False]
    cells: list[dict[str, Any]] = []
    groups: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    findings: list[str] = []
    for place, net in enumerate(nets):
        model = model_of(inputs.needs[f"{net}/net"], net, data, inputs.device)
        record = inputs.needs[f"{net}/random"]
        found = torch.tensor([status == "found" for status in record.rows["status"]])
        clean, moved, truth = x[found], record.tensors["adversarial"][found], labels[found]
        quiet = gaussian_of_norm(clean, norms.l2(moved - clean), generator=generator(f"figure-7/{net}", seed))
        answers = {
            "adversarial": model.predict(moved),
            "quiet": model.predict(quiet),
            "loud": model.predict(loud[found]),
        }
        right = {name: answer == truth for name, answer in answers.items()}
        same = statistics.proportion(int(right["quiet"].sum()), len(truth))
        control = {"label": "noise of the same norm", **measured(same)}
        row = adversarial_row(net)
        estimate = statistics.proportion(int(right["adversarial"].sum()), len(truth))
        cells.append(cell(row, ACCURACY, estimate, figure_7, control))
        sizes = norms.distortion(clean, moved).tolist()
        size = statistics.mean([sizes], generator(f"bootstrap/figure-7/{net}", seed))
        cells.append(cell(row, STD, size, figure_7, {"label": "no change", "measured": 0.0}))
        # Noise is judged on all images, as the paper's 51% would be.
        untouched = statistics.proportion(int((model.predict(x) == labels).sum()), len(labels))
        clean_control = {"label": "the same images, unchanged", **measured(untouched)}
        remains = {}
        for clipped, noisy in noises.items():
            remains[clipped] = statistics.proportion(int((model.predict(noisy) == labels).sum()), len(labels))
            row = noise_row(net, std, clipped=clipped)
            cells.append(cell(row, ACCURACY, remains[clipped], figure_7, clean_control))
        if size.n:
            kept = f"{100 * remains[False].measured:.0f}% accuracy under noise of standard deviation {std:g}"
            findings.append(f"{net} keeps {kept} and loses all of it to a change of {size.measured:.3f} per pixel.")
        picks = _one_per_class(truth, shown)
        prefix = f"net{place}"
        tensors[f"{prefix}_original"] = clean[picks]
        tensors[f"{prefix}_perturbation"] = (0.5 + magnify * (moved - clean)[picks]).clamp(0, 1)
        tensors[f"{prefix}_adversarial"] = moved[picks]
        tensors[f"{prefix}_quiet"] = quiet[picks]
        tensors[f"{prefix}_loud"] = loud[found][picks].clamp(0, 1)  # a screen shows no more
        groups.append(_group(net, data, record, found, picks, answers, prefix, magnify, std, sizes))
    figure = {
        "kind": "gallery",
        "id": "gallery",
        "title": "Every image, twice: once right, once wrong",
        "caption": "From left to right: the image, the perturbation, their sum, the image with noise of the same "
        "norm, and with noise so large that a person hesitates. Of the two small changes only the aimed one counts.",
        "groups": groups,
    }
    return Record(values={"cells": cells, "figures": [figure], "findings": findings}, tensors=tensors)


def _one_per_class(labels: Tensor, shown: int) -> list[int]:
    """Return up to `shown` positions, the first image of each class in turn."""
    order: list[tuple[int, int, int]] = []
    seen: dict[int, int] = {}
    for position, label in enumerate(labels.tolist()):
        order.append((seen.get(label, 0), label, position))
        seen[label] = seen.get(label, 0) + 1
    return [position for _, _, position in sorted(order)[:shown]]


def _group(
    net: str,
    data: Images,
    record: Record,
    found: Tensor,
    picks: Sequence[int],
    answers: dict[str, Tensor],
    prefix: str,
    magnify: float,
    std: float,
    sizes: Sequence[float],
) -> dict[str, Any]:
    truth = [int(label) for label, kept in zip(record.rows["label"], found.tolist(), strict=True) if kept]
    columns = ["original", "perturbation", "adversarial", "quiet", "loud"]
    rows = []
    for index, pick in enumerate(picks):
        said = {name: data.classes[int(answer[pick])] for name, answer in answers.items()}
        rows.append(
            {
                "label": f"{data.classes[truth[pick]]} read as {said['adversarial']}",
                "note": f"distortion {sizes[pick]:.3f}; equal noise: {said['quiet']}, large noise: {said['loud']}",
                "images": [{"tensor": f"{prefix}_{column}", "index": index} for column in columns],
            }
        )
    return {
        "title": f"Made for {net}",
        "caption": f"{len(sizes)} images attacked, one per class shown.",
        "columns": [
            "original", f"perturbation \u00d7 {magnify:g}", "adversarial", "noise, same norm", f"noise, std {std:g}",
        ],
        "rows": rows,
    }  # fmt: skip

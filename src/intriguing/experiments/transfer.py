"""Do examples made for one net fool another? Szegedy et al. 2014, section 4.2, Table 2.

Rows are the nets the examples were made for, columns the nets they are fed to, and two rows of Gaussian noise
are the control. Raw errors hide the receiver's ordinary mistakes and the size of the perturbation, so every cell
carries the receiver's error on the same clean images, and a second block repeats the table at equal distortion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from intriguing import norms
from intriguing.attacks.noise import gaussian, gaussian_of_norm, rescaled
from intriguing.experiments import statistics
from intriguing.experiments.cells import attacked_images, cell, measured, model_of
from intriguing.nets.load import Model
from intriguing.records import Inputs, Record
from intriguing.rng import generator

DISTORTION = "average distortion"
POOLED = "all other nets, pooled"


def noise_row(std: float, *, clipped: bool = False) -> str:
    """Return the name of the row of Gaussian noise of that standard deviation.

    DEVIATION: the row that is compared with the print is not clipped to the box. Its distortion is then the printed
    one (0.1 and 0.3; clipped, 0.07 and 0.22 are left), and its errors are near the printed ones, which those of
    clipped noise exceed several times over. The clipped rows stand below.
    """
    return f"Gaussian noise, std {std:g}" + (", clipped to the box" if clipped else "")


def equal_row(name: str, distortion: float) -> str:
    """Return the name of a net's row at equal distortion."""
    return f"{name} at distortion {distortion:g}"


def table_2(
    inputs: Inputs, *, nets: Sequence[str], images: int, seed: int, stds: Sequence[float], distortion: float
) -> Record:
    """Feed every net's adversarial examples, and noise, to every net.

    Args:
        inputs: needs ``"<net>/net"`` and ``"<net>/random"`` for every net; data ``"train"``.
        nets: names of the nets, sources and receivers alike.
        images: as given to the attacks.
        seed: as given to the attacks; also draws noise and resamples.
        stds: of the noise rows.
        distortion: to which the perturbations are rescaled for the rows at equal distortion.
    """
    data = inputs.data("train")
    ids = attacked_images(data, images, seed)
    x, labels = data.images[ids], data.labels[ids]
    models = {name: model_of(inputs.needs[f"{name}/net"], name, data, inputs.device) for name in nets}
    clean = {name: models[name].predict(x) != labels for name in nets}
    cells: list[dict[str, Any]] = []
    excess: dict[str, list[str]] = {}
    matrix: list[list[float]] = []
    tests: list[tuple[str, float, float, float]] = []
    for source in nets:
        record = inputs.needs[f"{source}/random"]
        found = torch.tensor([status == "found" for status in record.rows["status"]])
        moved = record.tensors["adversarial"][found]
        fooled = _errors(models, moved, labels[found])
        cells += _row(source, fooled, clean, found)
        cells.append(_distortion(source, x[found], moved, seed))
        excess[source] = [_excess(fooled[name], clean[name][found]) for name in nets]
        matrix.append([float(fooled[name].double().mean()) for name in nets])
        # Noise of the same norm on the same images, to the same receivers: the paired control.
        aimless = gaussian_of_norm(
            x[found], norms.l2(moved - x[found]), generator=generator(f"equal noise/{source}", seed)
        )
        unaimed = _errors(models, aimless, labels[found])
        others = [name for name in nets if name != source]
        hit = torch.stack([fooled[name] for name in others]).double().mean(0)
        missed = torch.stack([unaimed[name] for name in others]).double().mean(0)
        p = statistics.paired_p((hit - missed).tolist(), generator(f"permutation/{source}", seed))
        draw = generator(f"bootstrap/table-2/{source}", seed)
        pooled = statistics.mean([hit.tolist()], draw)
        control = {"label": "noise of the same norm", **measured(statistics.mean([missed.tolist()], draw))}
        cells.append({**cell(source, POOLED, pooled, table_2, control), "p": p})
        if pooled.n:
            tests.append((source, pooled.measured, control["measured"], p))
    for clipped in (False, True):
        for std in stds:
            box = (0.0, 1.0) if clipped else None
            noisy = gaussian(x, std, generator=generator(f"noise/{std:g}", seed), box=box)
            row = noise_row(std, clipped=clipped)
            every = torch.ones(len(x), dtype=torch.bool)
            fooled = _errors(models, noisy, labels)
            cells += _row(row, fooled, clean, every)
            cells.append(_distortion(row, x, noisy, seed))
            if not clipped:
                excess[row] = [_excess(fooled[name], clean[name]) for name in nets]
                matrix.append([float(fooled[name].double().mean()) for name in nets])
    for source in nets:
        record = inputs.needs[f"{source}/random"]
        found = torch.tensor([status == "found" for status in record.rows["status"]])
        stretched = rescaled(x[found], record.tensors["adversarial"][found], distortion)
        row = equal_row(source, distortion)
        cells += _row(row, _errors(models, stretched, labels[found]), clean, found)
        cells.append(_distortion(row, x[found], stretched, seed))
    names = [*nets, *(noise_row(std) for std in stds)]
    figures = [
        {
            "kind": "heatmap",
            "id": "transfer",
            "title": "Who is fooled by whose examples?",
            "caption": "Each row holds examples made for one net, each column the net they are fed to; the shade is "
            "the share misclassified. The diagonal is the attack itself. The last rows are Gaussian noise, "
            "the control: larger than most of the perturbations, and far less misleading.",
            "rows": names,
            "columns": list(nets),
            "values": matrix,
            "row_label": "made for",
            "column_label": "fed to",
        }
    ]
    table = {
        "id": "excess",
        "title": "The same, above the receiver's ordinary error",
        "caption": "Error minus the receiver's error on the same images unchanged, in percentage points. The paper "
        "prints raw errors, of which the decayed nets' own mistakes are a part.",
        "columns": ["made for", *nets],
        "rows": [[name, *excess[name]] for name in names],
    }
    return Record(values={"cells": cells, "figures": figures, "tables": [table], "findings": _findings(tests)})


def _errors(models: dict[str, Model], images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    return {name: model.predict(images) != labels for name, model in models.items()}


def _row(row: str, fooled: dict[str, Tensor], clean: dict[str, Tensor], kept: Tensor) -> list[dict[str, Any]]:
    cells = []
    for name, wrong in fooled.items():
        before = clean[name][kept]
        control = statistics.proportion(int(before.sum()), len(before))
        estimate = statistics.proportion(int(wrong.sum()), len(wrong))
        entry = {"label": "the same images, unchanged", **measured(control)}
        cells.append(cell(row, name, estimate, table_2, entry))
    return cells


def _distortion(row: str, x: Tensor, moved: Tensor, seed: int) -> dict[str, Any]:
    sizes = norms.distortion(x, moved).tolist()
    estimate = statistics.mean([sizes], generator(f"bootstrap/distortion/{row}", seed))
    control = {"label": "no change", "measured": 0.0}
    return cell(row, DISTORTION, estimate, table_2, control)


def _excess(wrong: Tensor, before: Tensor) -> str:
    return f"{100 * float(wrong.double().mean() - before.double().mean()):+.1f}"


def _findings(tests: Sequence[tuple[str, float, float, float]]) -> list[str]:
    if not tests:
        return []
    significant = [test for test in tests if test[3] < 0.01]
    strongest = max(tests, key=lambda test: test[1] - test[2])
    return [
        f"Examples made for one net fool the others more often than noise of the same size does, for "
        f"{len(significant)} of {len(tests)} nets (paired test, p < 0.01). The strongest source, {strongest[0]}, "
        f"fools the others on {100 * strongest[1]:.0f}% of images; noise of that size, on {100 * strongest[2]:.0f}%."
    ]

"""Do examples made for one net fool a net that never saw its data? Szegedy et al. 2014, section 4.2, Tables 3 and 4.

Two nets learn the half P1 of the training set and one the other half P2. Examples made from *test* images are fed to
all three, as found and stretched to a common distortion d.

Symbols: x an image of n pixels, r = x' - x the perturbation that the attack found, d the distortion wanted.

    x + d sqrt(n) r / |r|_2      the row that is compared with the print: its distortion is d            (1)
    x + d r / |r|_2              as printed; its distortion is d / sqrt(n), 0.0036 on MNIST for d = 0.1   (2)

DEVIATION: (1) is not clipped to the box, as the noise rows of Table 2 are not, and for the same reason: only then does
it have the size it is named after. Both stand a second time below, clipped, with the distortion that remains.

Table 4 is many rows of one thing, who errs on what (`fed.Fed`), told in several ways.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from intriguing import norms
from intriguing.attacks.noise import gaussian
from intriguing.experiments import distortion as training_set
from intriguing.experiments import statistics
from intriguing.experiments.cells import cell, measured, model_of
from intriguing.experiments.fed import (
    AS_PRINTED,
    BY_STEP,
    CLIPPED,
    LOUD,
    PLAIN,
    Fed,
    amplified_row,
    step_row,
)
from intriguing.experiments.pooling import mean_inside, pooled_ratio, pooled_share
from intriguing.experiments.transfer import DISTORTION, noise_row
from intriguing.records import Inputs, Record
from intriguing.rng import generator

HALVES = ("P1", "P2")
MINIMAL = "mean distortion, random target"
POOLED = "other nets, pooled"
EXCESS = "excess over clean error, pooled"
RATIO = "times as often as before"
EXCESS_RATIO = "times the excess before"
FACTOR = "mean factor"
SAME = "to nets of the same half"
SAME_ALIKE = "to nets of the same half, against like architectures"
OTHER = "to nets of the other half"

_PRINTED_FACTOR = 1.4  # "amplified by 40%"; see erratum E6


def error_on(half: str) -> str:
    """Return the name of the column of errors on a half of the training set."""
    return f"error on {half}"


def attack(inputs: Inputs, *, net: str, images: int, seed: int, target: str = "random") -> Record:
    """Attack test images with the paper's L-BFGS; otherwise `distortion.attack`.

    Args:
        inputs: needs ``"net"``, a trained net; data ``"test"``.
        net: the net's name.
        images: how many test images; all of them where there are fewer.
        seed: draws the images, the targets and the noise.
        target: see `attacks.lbfgs`.
    """
    test = inputs.data("test")
    elsewhere = dataclasses.replace(inputs, data=lambda _: test)
    return training_set.attack(elsewhere, net=net, images=min(images, len(test.labels)), seed=seed, target=target)


def table_3(inputs: Inputs, *, nets: Sequence[Mapping[str, str]], repeats: int, seed: int) -> Record:
    """Put the errors of the nets on both halves and on the test set beside their mean minimal distortion.

    Args:
        inputs: needs ``"<name>/<i>/net"`` and ``"<name>/<i>/attack"`` for every net and i < `repeats`; data
            ``"P1"``, ``"P2"`` and ``"test"``.
        nets: ``{"name": row of the table, "net": its architecture, "half": the half it learnt}``.
        repeats: trained nets per row.
        seed: draws the bootstrap resamples.
    """
    sets = {error_on(half): inputs.data(half) for half in HALVES} | {"test error": inputs.data("test")}
    guess = {
        column: 1 - float(torch.bincount(images.labels).max()) / len(images.labels) for column, images in sets.items()
    }
    cells: list[dict[str, Any]] = []
    series: list[dict[str, Any]] = []
    for net in nets:
        name = net["name"]
        draw = generator(f"bootstrap/table-3/{name}", seed)
        trained = [inputs.needs[f"{name}/{i}/net"] for i in range(repeats)]
        attacks = [inputs.needs[f"{name}/{i}/attack"] for i in range(repeats)]
        models = [model_of(record, net["net"], sets["test error"], inputs.device) for record in trained]
        for column, images in sets.items():
            counts = [
                (int((model.predict(images.images) != images.labels).sum()), len(images.labels)) for model in models
            ]
            control = {"label": "always the most frequent class", "measured": guess[column]}
            cells.append(cell(name, column, statistics.mean_share(counts, draw), table_3, control))
        side = math.sqrt(sets["test error"].images[0].numel())
        sizes = [_of_found(record, "distance_search", side) for record in attacks]
        noise = mean_inside([_of_found(record, "fooled_by_noise", 1.0) for record in attacks], draw)
        control = {"label": "error under noise of the same norm", **measured(noise)}
        cells.append(cell(name, MINIMAL, mean_inside(sizes, draw), table_3, control))
        attacked = sum(record.values["attacked"] for record in attacks)
        share = statistics.proportion(sum(record.values["found"] for record in attacks), attacked)
        cells.append(cell(name, "found", share, table_3, control))
        series.append({"label": name, "values": [size for group in sizes for size in group if not math.isnan(size)]})
    figure = {
        "kind": "distribution",
        "id": "distortion-by-half",
        "title": "How far is the nearest mistake on images no net has seen?",
        "caption": "One curve per net, one value per attacked test image; a rule marks the printed mean. Nets that "
        "learnt different halves are about equally fragile.",
        "x": "distortion (rms pixel change)",
        "column": MINIMAL,
        "series": series,
    }
    return Record(values={"cells": cells, "figures": [figure], "findings": _findings_3(nets, cells)})


def table_4(
    inputs: Inputs,
    *,
    nets: Sequence[Mapping[str, str]],
    repeats: int,
    seed: int,
    stds: Sequence[float],
    distortion: float,
) -> Record:
    """Feed examples of test images, as found and amplified, and noise, to nets of both halves.

    Args:
        inputs: needs as for `table_3`; data ``"test"``.
        nets: as for `table_3`; sources and receivers alike.
        repeats: trained nets per row; the i-th of one row is fed the examples of the i-th of the others.
        seed: draws noise and resamples.
        stds: of the noise rows: of about the size of the examples, and of the amplified ones.
        distortion: to which the examples are amplified, d of (1) and (2).
    """
    fed = Fed(inputs, nets, repeats, seed, distortion)
    names = fed.names
    cells: list[dict[str, Any]] = []
    rows: list[str] = []

    def source_rows(version: str) -> None:
        for name in names:
            row = fed.row(name, version)
            rows.append(row)
            cells.extend(_source_cells(fed, row, name, version))

    def noise_rows(std: float, *, clipped: bool) -> None:
        row = noise_row(std, clipped=clipped)
        rows.append(row)
        cells.extend(_noise_cells(fed, row, std, clipped=clipped))

    small, large = stds
    source_rows(PLAIN)
    noise_rows(small, clipped=False)
    source_rows(LOUD)
    noise_rows(large, clipped=False)
    main = list(rows)
    noise_rows(small, clipped=True)
    source_rows(CLIPPED)
    noise_rows(large, clipped=True)
    source_rows(AS_PRINTED)
    pooled = [entry for version in (PLAIN, BY_STEP, LOUD, CLIPPED, AS_PRINTED) for entry in _pooled_cells(fed, version)]
    by_place = {(entry["row"], entry["column"]): entry for entry in cells}
    heat = {
        "kind": "heatmap",
        "id": "transfer-between-halves",
        "title": "Who is fooled by examples from another half of the data?",
        "caption": "Each row holds examples made for one net, each column the net they are fed to; the shade is the "
        f"share misclassified. {names[-1]} has not seen one image that the other two have learnt. Above, examples as "
        f"found; below, all brought to distortion {distortion:g}. Noise of that size is the last row of each half.",
        "rows": main,
        "columns": names,
        "values": [[by_place[row, name]["measured"] for name in names] for row in main],
        "row_label": "made for",
        "column_label": "fed to",
    }
    at = {entry["row"]: entry for entry in pooled if entry["column"] == POOLED}
    shown = {
        f"{short}, {words}": at[fed.row(kind, version)]
        for version, words in (
            (PLAIN, "as found"),
            (BY_STEP, "by two thirds"),
            (LOUD, f"to {distortion:g}"),
            (AS_PRINTED, "as printed"),
        )
        for short, kind in (("other half", OTHER), ("same half", SAME))
        if fed.row(kind, version) in at
    }
    interval = {
        "kind": "interval",
        "id": "pooled-transfer",
        "title": "Same half, other half, noise",
        "caption": "Share of examples that fool a net they were not made for, over all pairs of nets, as found and "
        "amplified in three ways. The square is noise of the same size for the other half, the other half for the "
        "same half. Aimed changes travel to nets of disjoint data, noise does not, and a larger step along the same "
        "direction travels further.",
        "x": "share misclassified",
        "rows": [
            {
                "label": label,
                **{field: entry[field] for field in ("measured", "low", "high")},
                "control": entry["control"]["measured"],
            }
            for label, entry in shown.items()
        ],
    }
    cells += pooled
    return Record(
        values={
            "cells": cells,
            "figures": [heat, interval],
            "tables": [_excess_table(main, names, by_place), fed.factors()],
            "findings": _findings_4(cells, distortion),
            "notes": _notes_4(fed),
        }
    )


def _of_found(record: Record, column: str, unit: float) -> list[float]:
    """Return the column's values, image by image, over `unit`; NaN where no example was found."""
    pairs = zip(record.rows[column], record.rows["status"], strict=True)
    return [float(value) / unit if status == "found" else math.nan for value, status in pairs]


def _source_cells(fed: Fed, row: str, name: str, version: str) -> list[dict[str, Any]]:
    """Return one source's row: the error of each receiver, pooled over the others, the size and the factor."""
    cells = []
    for receiver in fed.names:
        raw, clean = (fed.answers([(name, receiver)], version, to) for to in ("examples", "clean"))
        control = {"label": "the same images, unchanged", **measured(pooled_share(clean, row, fed.seed))}
        cells.append(cell(row, receiver, pooled_share(raw, row, fed.seed), table_4, control))
    if version in (PLAIN, LOUD):
        cells += _against_noise(fed, row, [(name, receiver) for receiver in fed.names if receiver != name], version)
    draw = generator(f"bootstrap/table-4/{row}", fed.seed)
    sizes = mean_inside([values.tolist() for values in fed.size[version, name]], draw)
    cells.append(cell(row, DISTORTION, sizes, table_4, {"label": "no change", "measured": 0.0}))
    if version:
        factors = mean_inside([values.tolist() for values in fed.factor[version, name]], draw)
        control = {"label": "the 40% the paper names", "measured": _PRINTED_FACTOR}
        cells.append(cell(row, FACTOR, factors, table_4, control))
    return cells


def _noise_cells(fed: Fed, row: str, std: float, *, clipped: bool) -> list[dict[str, Any]]:
    """Return a row of noise of one size on all images."""
    noise = generator(f"noise/{std:g}", fed.seed)
    noisy = gaussian(fed.x, std, generator=noise, box=(0.0, 1.0) if clipped else None)
    every = torch.ones(len(fed.x), dtype=torch.bool)
    cells = []
    for name in fed.names:
        wrong = torch.stack([fed.judge(models[name], noisy, every) for models in fed.models])[:, None].numpy()
        clean = torch.stack(fed.clean[name])[:, None].numpy()
        control = {"label": "the same images, unchanged", **measured(pooled_share(clean, row, fed.seed))}
        cells.append(cell(row, name, pooled_share(wrong, row, fed.seed), table_4, control))
    draw = generator(f"bootstrap/table-4/{row}", fed.seed)
    sizes = mean_inside([norms.distortion(fed.x, noisy).tolist()], draw)
    cells.append(cell(row, DISTORTION, sizes, table_4, {"label": "no change", "measured": 0.0}))
    return cells


def _pooled_cells(fed: Fed, version: str) -> list[dict[str, Any]]:
    """Return the pooled rows of one version: to the other half against noise, to the same half against the other."""
    same, other = fed.pairs(same=True), fed.pairs(same=False)
    row = fed.row(OTHER, version)
    cells = _against_noise(fed, row, other, version)
    if version in (LOUD, CLIPPED, BY_STEP):
        cells += _ratio_cells(fed, row, other, version)
    if version in (PLAIN, LOUD, BY_STEP) and same:
        cells += _against_pairs(fed, fed.row(SAME, version), same, other, version)
    alike = fed.pairs(same=True, alike=True)
    if version in (PLAIN, LOUD) and alike:
        row = fed.row(SAME_ALIKE, version)
        cells += _against_pairs(fed, row, alike, fed.pairs(same=False, alike=True), version)
    return cells


def _against_noise(fed: Fed, row: str, pairs: Sequence[tuple[str, str]], version: str) -> list[dict[str, Any]]:
    """Return the raw and the excess error over pairs of nets beside those of equal noise, with a paired test."""
    raw, noise, clean = (fed.answers(pairs, version, to) for to in ("examples", "noise", "clean"))
    return _compared(fed, row, (raw, clean), (noise, clean), "noise of the same norm")


def _against_pairs(
    fed: Fed, row: str, pairs: Sequence[tuple[str, str]], against: Sequence[tuple[str, str]], version: str
) -> list[dict[str, Any]]:
    """Return the raw and the excess error over pairs of nets beside those of other pairs, with a paired test."""
    ours, theirs = (
        (fed.answers(some, version, "examples"), fed.answers(some, version, "clean")) for some in (pairs, against)
    )
    return _compared(fed, row, ours, theirs, "nets of the other half")


def _compared(
    fed: Fed,
    row: str,
    ours: tuple[NDArray[np.float64], NDArray[np.float64]],
    theirs: tuple[NDArray[np.float64], NDArray[np.float64]],
    label: str,
) -> list[dict[str, Any]]:
    """Return two cells, raw and excess; `ours` and `theirs` hold the answers to examples and to clean images."""
    cells = []
    for column, values, beside in ((POOLED, ours[0], theirs[0]), (EXCESS, ours[0] - ours[1], theirs[0] - theirs[1])):
        # Per image the mean over pairs and repeats; images without an example in every pair are not compared.
        differences = values.mean((0, 1)) - beside.mean((0, 1))
        kept = differences[~np.isnan(differences)].tolist()
        p = statistics.paired_p(kept, generator(f"permutation/table-4/{row}", fed.seed))
        control = {"label": label, **measured(pooled_share(beside, row, fed.seed))}
        entry = cell(row, column, pooled_share(values, row, fed.seed), table_4, control)
        cells.append({**entry, "p": p})
    return cells


def _ratio_cells(fed: Fed, row: str, pairs: Sequence[tuple[str, str]], version: str) -> list[dict[str, Any]]:
    """Return by how many times amplifying raised the error, and its excess over the clean error."""
    after, before, clean = (
        fed.answers(pairs, *of) for of in ((version, "examples"), (PLAIN, "examples"), (PLAIN, "clean"))
    )
    noisy = pooled_ratio(fed.answers(pairs, version, "noise"), fed.answers(pairs, PLAIN, "noise"), row, fed.seed)
    control = {"label": "noise of the same norms", **measured(noisy)}
    return [
        cell(row, RATIO, pooled_ratio(after, before, row, fed.seed), table_4, control),
        cell(row, EXCESS_RATIO, pooled_ratio(after - clean, before - clean, row, fed.seed), table_4, control),
    ]


def _excess_table(
    rows: Sequence[str], names: Sequence[str], by_place: Mapping[tuple[str, str], Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the errors above the receiver's own on the same images, in percentage points."""

    def points(row: str, name: str) -> str:
        entry = by_place[row, name]
        return f"{100 * (entry['measured'] - entry['control']['measured']):+.1f}"

    return {
        "id": "excess",
        "title": "The same, above the receiver's ordinary error",
        "caption": "Error minus the receiver's error on the same images unchanged, in percentage points. The paper "
        "prints raw errors.",
        "columns": ["made for", *names],
        "rows": [[row, *(points(row, name) for name in names)] for row in rows],
    }


def _findings_3(nets: Sequence[Mapping[str, str]], cells: Sequence[Mapping[str, Any]]) -> list[str]:
    at = {(entry["row"], entry["column"]): entry for entry in cells}
    own = [at[net["name"], error_on(net["half"])]["measured"] for net in nets]
    unseen = [at[net["name"], error_on(half)]["measured"] for net in nets for half in HALVES if half != net["half"]]
    sizes = [at[net["name"], MINIMAL] for net in nets if at[net["name"], MINIMAL]["n"]]
    sentences = [
        f"Each net errs on {f'at most {100 * max(own):.1f}%' if max(own) else 'none'} of the half it learnt and on "
        f"{100 * min(unseen):.1f}% to "
        f"{100 * max(unseen):.1f}% of the half it never saw."
    ]
    if sizes:
        low, high = (pick(entry["measured"] for entry in sizes) for pick in (min, max))
        sentences.append(f"Test images are as near to a mistake whichever half was learnt: {low:.3f} to {high:.3f}.")
    return sentences


def _findings_4(cells: Sequence[Mapping[str, Any]], distortion: float) -> list[str]:
    at = {(entry["row"], entry["column"]): entry for entry in cells}
    if not at[OTHER, POOLED]["n"] or not at[SAME, POOLED]["n"]:
        return []

    def places(row: str) -> str:
        return f"{100 * at[row, POOLED]['measured']:.1f}%"

    noise = 100 * at[OTHER, POOLED]["control"]["measured"]
    p = "p < 0.001" if at[OTHER, POOLED]["p"] < 0.001 else f"p = {at[OTHER, POOLED]['p']:.2g}"
    sentences = [
        f"Examples fool nets that learnt disjoint data {places(OTHER)} of the time, against {noise:.1f}% for noise of "
        f"the same size (paired test, {p}) and {places(SAME)} for nets of the same data.",
    ]
    for row, words in (
        (amplified_row(OTHER, distortion), f"Stretched to distortion {distortion:g}"),
        (step_row(OTHER), "Lengthened by two thirds, whatever their size,"),
    ):
        ratio = at[row, RATIO]
        if math.isfinite(ratio["high"]):
            sentences.append(
                f"{words} they fool those nets {places(row)} of the time: {ratio['measured']:.1f} times as often "
                f"(95% interval {ratio['low']:.1f} to {ratio['high']:.1f})."
            )
    return sentences


def _notes_4(fed: Fed) -> list[str]:
    repeats = len(fed.models)
    nets = f"{repeats} trained nets per row" if repeats > 1 else "one trained net per row"
    return [
        f"Intervals are over images, with {nets}.",
        "Within a half the two architectures differ; across halves they do so in some pairs only. The rows of like "
        "architectures compare pairs that differ in the training set alone.",
        "Amplified examples and noise may leave the pixel range in the rows that are compared with the print; the "
        "clipped rows show what remains inside it.",
    ]

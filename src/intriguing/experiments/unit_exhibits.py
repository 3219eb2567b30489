"""Figures 1 to 4 of Szegedy et al. 2014, and the numbers they lacked: what units, directions and chance show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from intriguing.experiments import statistics
from intriguing.experiments.cells import cell, exact, measured
from intriguing.experiments.statistics import Estimate
from intriguing.experiments.unit_patches import BY_POSITION, small
from intriguing.experiments.units import (
    NATURAL,
    POSITIVE,
    PRINCIPAL,
    RANDOM,
    RANDOM_WHITENED,
    ROTATED,
    SHUFFLED,
    WHITENED,
    name_of,
)
from intriguing.records import Images, Inputs, Record
from intriguing.rng import generator

CLASS = "share of one class"
COSINE = "mean pixel cosine"
MINUS = "units minus directions"
DRIVES = "share of units its patch drives"
DRIVES_NEAR = "also against patches that overlap it"
LOGITS = "largest change of a logit"

_MEANS = {CLASS: "class", COSINE: "cosine"}
# Of the columns after single units and random directions: the controls first.
_ORDER = (ROTATED, SHUFFLED, POSITIVE, WHITENED, RANDOM_WHITENED, PRINCIPAL)
_UNITS = {CLASS: "percent", COSINE: "number"}


def figure(
    inputs: Inputs,
    *,
    net: str,
    basis: str,
    split: str = "test",
    layer: str = "last hidden",
    shown: int = 8,
    controls: int = 4,
    seed: int = 0,
) -> Record:
    """Show the images that drive single units, or random directions, most. Figures 1 to 4 of the paper.

    Args:
        inputs: needs ``"<name>/purity"``, a record of `measure`, the name as of `name_of`; data `split`.
        net: its name in tables.
        basis: `NATURAL` (Figures 1 and 3) or `RANDOM` (Figures 2 and 4).
        split: the images that `measure` looked at.
        layer: as given to `measure`.
        shown: units or directions shown, drawn at random, not picked.
        controls: random image sets shown beside them.
        seed: draws what is shown.
    """
    data = inputs.data(split)
    name = name_of(net, layer)
    record = inputs.needs[f"{name}/purity"]
    values, tensors = record.values, record.tensors
    other = RANDOM if basis == NATURAL else NATURAL
    cells = [_purity_cell(f"{name}: {one}", m, m, one, values, figure) for one in (basis, other) for m in _MEANS]
    pictures: dict[str, Tensor] = {}
    groups = []
    for key, title, most in ((basis, basis.capitalize(), shown), ("control", "Random image sets", controls)):
        sets = tensors[f"sets/{key}"]
        draw = generator(f"shown/{net}/{layer}/{key}", seed)
        chosen = torch.randperm(len(sets), generator=draw)[:most].sort().values
        pictures[key.replace(" ", "_")] = small(data.images[sets[chosen].flatten()])
        groups.append(_gallery(data, values, tensors, key, title, chosen))
    k = values["k"]
    what = "unit" if basis == NATURAL else "direction"
    gallery = {
        "kind": "gallery",
        "id": f"top-{k}",
        "title": f"The {k} images that drive each {what} most",
        "caption": f"Each row holds the {k} held-out images that lie farthest along one {what} of the last hidden "
        f"layer of {net}; what they share is what the {what} may be said to stand for. The rows were drawn at "
        "random, not picked. Below, sets of images drawn at random: so much likeness comes by chance.",
        "groups": groups,
    }
    return Record(
        values={"cells": cells, "figures": [gallery], "findings": [_seen(name, basis, values)]}, tensors=pictures
    )


def _gallery(
    data: Images, values: Mapping[str, Any], tensors: Mapping[str, Tensor], key: str, title: str, chosen: Tensor
) -> dict[str, Any]:
    """Return the rows of some units, directions or random sets, each with its purity."""
    sets, shares, cosines = tensors[f"sets/{key}"], tensors[f"class/{key}"], tensors[f"cosine/{key}"]
    k = sets.shape[1]
    rows = []
    for place, index in enumerate(chosen.tolist()):
        label = {NATURAL: f"unit {values['chosen'][index]}" if key == NATURAL else "", "control": "random set"}
        counts = torch.bincount(data.labels[sets[index]], minlength=len(data.classes))
        images = [{"tensor": key.replace(" ", "_"), "index": place * k + i} for i in range(k)]
        rows.append(
            {
                "label": label.get(key, f"direction {index}"),
                "note": f"{round(float(shares[index]) * k)} of {k} are {data.classes[int(counts.argmax())]}; "
                f"pixel cosine {float(cosines[index]):.2f}",
                "images": images,
            }
        )
    entry = values["control"] if key == "control" else values["bases"][key]
    caption = f"On average {entry['class']['measured']:.0%} of a row are of one class."
    return {"title": title, "caption": caption, "columns": [], "rows": rows}


def purity_row(name: str, column: str) -> str:
    """Return the name of a layer's row in the table of all bases."""
    return f"{name}: {column}"


def _purity_cell(
    row: str, column: str, measure: str, basis: str, values: Mapping[str, Any], function: Any
) -> dict[str, Any]:
    """Return the purity of a basis by one measure, with random image sets as its control, and its p-value."""
    key = _MEANS[measure]
    entry = values["bases"][basis]
    control = {"label": "random image sets", **values["control"][key]}
    estimate = Estimate(**entry[key])
    return {**cell(row, column, estimate, function, control), "p": entry[f"{key}_p"], "unit": _UNITS[measure]}


def _seen(name: str, basis: str, values: Mapping[str, Any]) -> str:
    """Return in a sentence what the top images of a basis have in common."""
    one, chance = values["bases"][basis]["class"]["measured"], values["control"]["class"]["measured"]
    other = RANDOM if basis == NATURAL else NATURAL
    rival = values["bases"][other]["class"]["measured"]
    what = "a single unit" if basis == NATURAL else "a random direction"
    against = "a random direction" if basis == NATURAL else "a single unit"
    return (
        f"Of the {values['k']} images that lie farthest along {what} of {name}, {one:.0%} are of one class on average; "
        f"along {against} {rival:.0%}, and among {values['k']} images drawn at random {chance:.0%}."
    )


def table(inputs: Inputs, *, layers: Sequence[Mapping[str, str]]) -> Record:
    """Put the purity of all bases of all layers together: the numbers that Figures 1 to 4 lack.

    Args:
        inputs: needs ``"<name>/purity"`` for every one of `layers`, records of `measure`, the name as of `name_of`; no
            data.
        layers: ``{"net", "layer"}`` as given to `measure`.
    """
    names = [name_of(entry["net"], entry["layer"]) for entry in layers]
    records = {name: inputs.needs[f"{name}/purity"].values for name in names}
    cells: list[dict[str, Any]] = []
    for measure in _MEANS:
        for name, values in records.items():
            row = purity_row(name, measure)
            known = values["bases"]
            entries = {basis: _purity_cell(row, basis, measure, basis, values, table) for basis in known}
            # The difference stands beside the two it is of.
            cells += [entries.pop(NATURAL), entries.pop(RANDOM), _difference_cell(row, values, measure)]
            cells += [entries[basis] for basis in _ORDER if basis in entries]
    return Record(
        values={
            "cells": cells,
            "figures": [_interval(records, measure) for measure in _MEANS],
            "tables": [_details(records)],
            "findings": _findings(records),
        }
    )


def rotation(inputs: Inputs, *, layers: Sequence[Mapping[str, str]]) -> Record:
    """Show that a layer's units are a choice: rotated and turned back, the same function has others.

    Args:
        inputs: needs ``"<name>/purity"`` for every one of `layers`, records of `measure`; no data.
        layers: ``{"net", "layer"}`` as given to `measure`, each followed by a linear layer.
    """
    names = [name_of(entry["net"], entry["layer"]) for entry in layers]
    records = {name: inputs.needs[f"{name}/purity"].values for name in names}
    cells: list[dict[str, Any]] = []
    findings = []
    for name, values in records.items():
        facts = values["rotation"]
        cells.append(_rotation_cell(name, facts))
        for basis in (NATURAL, ROTATED):
            cells.append(_purity_cell(name, basis, CLASS, basis, values, rotation))
        found = values["differences"]["class"]
        control = {"label": "random directions minus other random directions", **found["control"]}
        difference = cell(name, "units minus rotated units", Estimate(**found[ROTATED]), rotation, control)
        cells.append({**difference, "unit": "percent"})
    worst = max(values["rotation"]["off"] for values in records.values())
    level = sum(v["differences"]["class"][ROTATED]["low"] <= 0 <= v["differences"]["class"][ROTATED]["high"]
                for v in records.values())  # fmt: skip
    findings.append(
        f"Rotating a layer and turning it back in the next changes no logit by more than {worst:.0e}, yet replaces "
        f"every unit. In {level} of {len(records)} layers the new units are as pure as the old, to within the interval."
    )
    return Record(values={"cells": cells, "figures": [], "findings": findings})


def cards(inputs: Inputs, *, layers: Sequence[Mapping[str, str]]) -> Record:
    """Show cards of units, and how often the patch on a card is what drives its unit.

    Args:
        inputs: needs ``"<name>/patches"`` for every one of `layers`, records of `patches`; no data.
        layers: ``{"net", "layer"}`` as given to `patches`.
    """
    names = [name_of(entry["net"], entry["layer"]) for entry in layers]
    cells: list[dict[str, Any]] = []
    figures: list[dict[str, Any]] = []
    findings: list[str] = []
    tensors: dict[str, Tensor] = {}
    for place, name in enumerate(names):
        record = inputs.needs[f"{name}/patches"]
        cells += [_drives_cell(name, record, DRIVES, "drives"), _drives_cell(name, record, DRIVES_NEAR, "drives_near")]
        tensors |= {f"cards{place}_{key}": tensor for key, tensor in record.tensors.items()}
        figures.append(_cards(name, record, f"cards{place}"))
        hits, n = sum(record.rows["drives"]), len(record.rows["unit"])
        findings.append(
            f"For {hits} of {n} units of {name}, covering the patch shown lowers the unit more than covering any "
            f"patch of its size apart from it; for a patch placed at random, {sum(record.rows['random_drives'])}."
        )
    return Record(values={"cells": cells, "figures": figures, "findings": findings[:3]}, tensors=tensors)


def _difference_cell(row: str, values: Mapping[str, Any], measure: str) -> dict[str, Any]:
    found = values["differences"][_MEANS[measure]]
    control = {"label": "random directions minus other random directions", **found["control"]}
    return {**cell(row, MINUS, Estimate(**found[RANDOM]), table, control), "unit": _UNITS[measure]}


def _rotation_cell(name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    return exact(
        name,
        LOGITS,
        facts["off"],
        rotation,
        control={"label": "the same rotation, not turned back", "measured": facts["not_undone"]},
        note=f"{name}: rotated after {facts['layer'].removesuffix('.rotation')}, turned back in {facts['undone']}; the "
        f"largest change over {facts['images']} images, whose largest logit is {facts['largest']:.1f}, in double "
        f"precision. In single precision it is {facts['off_single']:.0e}.",
    )


def _drives_cell(name: str, record: Record, column: str, key: str) -> dict[str, Any]:
    n = len(record.rows["unit"])
    chance = measured(statistics.proportion(sum(record.rows[f"random_{key}"]), n))
    control = {"label": "a patch of the same size placed at random", **chance}
    share = statistics.proportion(sum(record.rows[key]), n)
    return {**cell(name, column, share, cards, control), "unit": "percent"}


def _interval(records: Mapping[str, Mapping[str, Any]], measure: str) -> dict[str, Any]:
    """Return the chart of the natural basis minus random directions, layer by layer."""
    key = _MEANS[measure]
    rows = []
    for name, values in records.items():
        found = values["differences"][key]
        rows.append({"label": name, **found[RANDOM], "control": found["control"]["measured"]})
    what = "share of one class" if key == "class" else "mean cosine between pixels"
    return {
        "kind": "interval",
        "id": f"natural-minus-random-{key}",
        "title": f"Single units minus random directions: {measure}",
        "caption": f"An interval that holds zero shows no difference in the {what} among top images. To its right, "
        "single units are purer than random directions; to its left, random directions are. The control is one "
        "draw of random directions minus another.",
        "x": f"difference in {what}",
        "rows": rows,
    }


def _cards(name: str, record: Record, prefix: str) -> dict[str, Any]:
    """Return the cards of some units of a layer, drawn at random."""
    path = record.values["layer"]
    cards = []
    for place, card in enumerate(record.values["cards"]):
        tops = len(card["classes"])
        images: list[dict[str, Any]] = [{"tensor": f"{prefix}_top", "index": place * tops + i} for i in range(tops)]
        for key, label in (("patch", "patch"), ("occlusion", "occlusion"), ("projection", "back-projection")):
            images.append({"tensor": f"{prefix}_{key}", "index": place, "label": label})
        drives_it = record.rows["drives"][place]
        note = (
            "Covering its patch lowers it more than covering any patch apart from it."
            if drives_it
            else ("Covering some other patch lowers it as much or more.")
        )
        cards.append(
            {
                "title": f"{path}, unit {card['unit']}",
                "note": note,
                "facts": card["facts"],
                "images": images,
                "histogram": card["histogram"],
            }
        )
    how = (
        "around the place of its largest activation"
        if record.rows["found_by"][0] == BY_POSITION
        else "where its back-projection says that covering costs most"
    )
    return {
        "kind": "cards",
        "id": f"{prefix}-{_slug(name)}",
        "title": f"Units of {name}, drawn at random",
        "caption": "Each card shows a unit's top images, and on the first of them the patch that drives it "
        f"({how}), how far the unit falls when each place is covered (white: most), and the back-projection of the "
        "unit into the image. The histogram shows its activation over all held-out images.",
        "cards": cards,
    }


def _slug(text: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in text).lower()


def _details(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    lines = []
    for name, values in records.items():
        for basis, entry in values["bases"].items():
            above = entry["above"]
            lines.append(
                [
                    name,
                    basis,
                    f"{above['measured']:.0%}",
                    f"{entry['distinct']:.0%}",
                    _signed(values["differences"]["class"].get(basis)),
                    _signed(values["differences"]["cosine"].get(basis)),
                ]
            )
    chance = max(values["control"]["above"]["measured"] for values in records.values())
    return {
        "id": "bases",
        "title": "Basis by basis",
        "caption": "How many directions of a basis are purer, by class, than 95% of random image sets (of other random "
        f"sets, at most {chance:.1%} are); how many different images their top sets hold, few where all directions "
        "point to the same ones; and single units minus that basis, with 95% intervals.",
        "columns": [
            "layer",
            "basis",
            "purer than random sets",
            "different images",
            "units minus it, share of one class",
            "units minus it, pixel cosine",
        ],
        "rows": lines,
    }


def _signed(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    return "{measured:+.2f} [{low:+.2f}, {high:+.2f}]".format(**found).replace("-", "\N{MINUS SIGN}")


def _findings(records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what the numbers say to a reader who reads nothing else."""
    found = {name: values["differences"]["class"][RANDOM] for name, values in records.items()}
    kinds = (
        (
            "no purer and no less pure than random directions",
            [n for n, d in found.items() if d["low"] <= 0 <= d["high"]],
        ),
        ("purer than random directions", [n for n, d in found.items() if d["low"] > 0]),
        ("less pure than random directions", [n for n, d in found.items() if d["high"] < 0]),
    )
    parts = [f"{what} in {len(names)} of {len(found)} layers ({'; '.join(names)})" for what, names in kinds if names]
    findings = ["By the class of the images that drive them, single units are " + ", and ".join(parts) + "."]
    largest = max(max(e["class_p"], e["cosine_p"]) for v in records.values() for b, e in v["bases"].items()
                  if b in (NATURAL, RANDOM))  # fmt: skip
    if largest < 0.01:
        findings.append(
            "In every layer both mean something: the top images of units and of random directions are purer than "
            f"random image sets, by class and by pixels (largest p-value {largest:.2g})."
        )
    first, values = next(iter(records.items()))
    if SHUFFLED in values["bases"]:
        one, shuffled = (values["bases"][basis]["class"]["measured"] for basis in (NATURAL, SHUFFLED))
        findings.append(
            f"Chance explains part of it. In {first}, {one:.0%} of a unit's top images are of one class, with the "
            f"net's weights shuffled {shuffled:.0%}, and among images drawn at random "
            f"{values['control']['class']['measured']:.0%}."
        )
    return findings

"""Is the patch shown for a unit what drives it? Unit cards, and the test that covers the patch.

Zeiler and Fergus 2013 (arXiv:1311.2901): top images, occlusion map and back-projection of a unit, side by side.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own abbreviation)

from intriguing.experiments.units import layer_of, live_units, model_from
from intriguing.records import Images, Inputs, Record
from intriguing.rng import generator
from intriguing.semantics import directions as bases
from intriguing.semantics import purity
from intriguing.semantics.activations import Activations, activations
from intriguing.semantics.visualise import (
    Patch,
    back_projection,
    busiest_patch,
    centred_patch,
    drives,
    field_patch,
    occlusion,
    receptive_fields,
    relevance,
)

BY_POSITION = "position of largest activation"
BY_PROJECTION = "back-projection"

_SMALL = 64  # pixels to which shown images are reduced
_CARD_IMAGES = 4  # of the top images, on a unit's card
_BINS = 24  # of a unit's histogram


def patches(
    inputs: Inputs,
    *,
    net: str,
    split: str = "test",
    layer: str = "last convolution",
    units: int = 64,
    k: int = 8,
    part: float = 0.35,
    stride: int = 1,
    cards: int = 6,
    seed: int = 0,
) -> Record:
    """Find the patch that drives each unit, and cover patches of its size everywhere to see whether it does.

    In a convolution the patch is the middle of what the position of largest activation sees. A dense unit has no
    position, and deep in a net a position sees the whole image; there the patch is where the back-projection says
    that covering costs most.

    Args:
        inputs: needs ``"net"``, a trained net; data `split`.
        net: its name in tables.
        split: held-out images.
        layer: see `layer_of`.
        units: how many units are tried, drawn at random among those that tell images apart.
        k: top images of a unit that its card is based on.
        part: side of a patch at most, as a part of the image's.
        stride: step, in pixels, between the places where a patch is covered.
        cards: units whose card is kept.
        seed: draws units and the patches of the control.

    Returns:
        One row per unit: where its patch is, its activation, the drop when the patch is covered, the largest drop
        elsewhere, and whether the patch drives it, likewise for a patch placed at random. ``values["cards"]`` and
        the tensors ``top``, ``patch``, ``occlusion`` and ``projection`` hold the cards.
    """
    data = inputs.data(split)
    model = model_from(inputs.needs["net"], data, inputs.device)
    path = layer_of(model, layer, data.images)

    def draw(what: str) -> torch.Generator:
        return generator(f"patches/{net}/{layer}/{what}", seed)

    found = activations(model, data.images, path)
    live = live_units(found)
    chosen = live[torch.randperm(len(live), generator=draw("units"))[:units]]
    tops = bases.top(found.values[:, chosen], k, generator=draw("ties"))
    images = data.images[tops[:, 0]]
    projections = back_projection(model, images, path, chosen.tolist())
    fields = receptive_fields(model, path, data.images[0]) if found.grid != (1, 1) else None
    fill = data.images.mean(dim=(0, 2, 3))
    random = draw("random patches")
    rows: dict[str, list[Any]] = {}
    maps: list[Tensor] = []
    shown: list[Patch] = []
    for place, unit in enumerate(chosen.tolist()):
        image = images[place]
        seen = None if fields is None else field_patch(fields, int(found.places[tops[place, 0], unit]))
        patch, source = _patch(image, projections[place], fill, seen, part)
        outcome = occlusion(model, image, path, unit, patch, fill=fill, stride=stride)
        row, column = (int(torch.randint(side, (1,), generator=random)) for side in outcome.drops.shape)
        elsewhere = Patch(outcome.tops[row], outcome.lefts[column], patch.height, patch.width)
        other = dataclasses.replace(outcome, shown=float(outcome.drops[row, column]))
        line = {
            "unit": unit,
            "image": int(tops[place, 0]),
            "found_by": source,
            "activation": float(found.values[tops[place, 0], unit]),
            "top": patch.top,
            "left": patch.left,
            "height": patch.height,
            "width": patch.width,
            "drop": outcome.shown,
            "largest_drop": float(outcome.drops.max()),
            "drives": drives(patch, outcome),
            "drives_near": drives(patch, outcome, overlap=0.5),
            "random_drop": other.shown,
            "random_drives": drives(elsewhere, other),
            "random_drives_near": drives(elsewhere, other, overlap=0.5),
        }
        for name, value in line.items():
            rows.setdefault(name, []).append(value)
        maps.append(outcome.drops)
        shown.append(patch)
        inputs.progress(place + 1, len(chosen))
    values: dict[str, Any] = {"net": net, "layer": path, "asked": layer, "grid": list(found.grid)}
    values["cards"] = [_card(data, found, rows, tops[place], place) for place in range(min(cards, len(chosen)))]
    kept = slice(0, min(cards, len(chosen)))
    dimmed = [_dimmed(image, patch, fill) for image, patch in zip(images[kept], shown[kept], strict=True)]
    sides = images.shape[2:]
    tensors = {
        "top": small(data.images[tops[kept, :_CARD_IMAGES].flatten()]),
        "patch": small(torch.stack(dimmed)),
        "occlusion": small(torch.stack([_stretched(drops, sides) for drops in maps[kept]])),
        "projection": small(torch.stack([_grey(projection) for projection in projections[kept]])),
    }
    return Record(values=values, tensors=tensors, rows=rows)


def _patch(image: Tensor, projection: Tensor, fill: Tensor, seen: Patch | None, part: float) -> tuple[Patch, str]:
    """Return the patch said to drive a unit, and how it was found; `seen` is what the unit's position sees."""
    height, width = image.shape[1:]
    rows, columns = max(1, round(part * height)), max(1, round(part * width))
    if seen is not None and seen.height < height and seen.width < width:
        size = (min(rows, seen.height), min(columns, seen.width))
        return centred_patch(seen, *size, (height, width)), BY_POSITION
    return busiest_patch(relevance(projection, image, fill), rows, columns), BY_PROJECTION


def _card(data: Images, found: Activations, rows: Mapping[str, list[Any]], top: Tensor, place: int) -> dict[str, Any]:
    """Return what a unit's card says: its facts and the histogram of its activation."""
    row = {name: column[place] for name, column in rows.items()}
    values = found.values[:, row["unit"]]
    share = float(purity.modal_share(data.labels, top[None])[0])
    counts = torch.bincount(data.labels[top], minlength=len(data.classes))
    edges = torch.linspace(float(values.min()), float(values.max()), _BINS + 1)
    histogram = torch.histc(values, _BINS, float(values.min()), float(values.max()))
    return {
        "unit": row["unit"],
        "classes": [data.classes[label] for label in data.labels[top[:_CARD_IMAGES]].tolist()],
        "facts": [
            ["most frequent class of its top images", f"{data.classes[int(counts.argmax())]}, {100 * share:.0f}%"],
            ["largest activation", f"{row['activation']:.2f}"],
            ["images on which it is at least half of that", f"{_half(values):.1%}"],
            ["left when its patch is covered", _left(row["drop"], row["activation"])],
            ["left when a random patch is covered", _left(row["random_drop"], row["activation"])],
        ],
        "histogram": {"edges": edges.tolist(), "counts": [int(count) for count in histogram]},
    }


def _half(values: Tensor) -> float:
    return float((values >= values.max() / 2).float().mean())


def _left(drop: float, activation: float) -> str:
    return f"{round(100 * (1 - drop / activation))}%" if activation > 0 else f"{activation - drop:.2f}"


def _dimmed(image: Tensor, patch: Patch, fill: Tensor) -> Tensor:
    """Return an image that is faint outside a patch."""
    faint = 0.2 * image + 0.8 * fill[:, None, None]
    patch.cut(faint)[:] = patch.cut(image)
    return faint


def _stretched(drops: Tensor, sides: Sequence[int]) -> Tensor:
    """Return an occlusion map as a grey image (1, H, W): white where covering lowers the unit most."""
    peak = drops.clamp_min(0).max().clamp_min(1e-12)
    height, width = (int(side) for side in sides)
    grown = F.interpolate((drops.clamp_min(0) / peak)[None, None], size=(height, width), mode="nearest")
    return grown[0]


def _grey(projection: Tensor) -> Tensor:
    """Return a back-projection as an image (C, H, W): mid grey for nothing, its largest value white or black."""
    return 0.5 + projection / (2 * projection.abs().max().clamp_min(1e-12))


def small(images: Tensor) -> Tensor:
    """Return images (N, C, H, W) of at most 64 pixels a side."""
    height, width = images.shape[2:]
    return F.adaptive_avg_pool2d(images, (min(_SMALL, height), min(_SMALL, width))).clamp(0, 1)

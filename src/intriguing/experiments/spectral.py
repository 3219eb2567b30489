"""How far a perturbation can grow, layer by layer, and how far it does. Szegedy et al. 2014, section 4.3.

Symbols: L_k the bound of layer k, L = prod_k L_k the whole net's, z the logits, l the label of an image x. Two logits
differ by at most sqrt(2) L |r| more at x + r than at x, so that no r shorter than

    (z_l(x) - max_{j != l} z_j(x)) / (sqrt(2) L)                                                      (1)

changes the answer: small bounds exclude adversarial examples. The paper prints the bounds of AlexNet (Table 5) and no
gain; here every bound stands beside the largest gain that was found, and the gain of a random direction.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from intriguing.bounds import heuristic
from intriguing.bounds.gain import lipschitz_lower, random_gains
from intriguing.bounds.network import layer_bounds, product
from intriguing.bounds.nonlinear import ACTIVATIONS, pair
from intriguing.bounds.operators import LayerBound
from intriguing.errors import ModelError
from intriguing.experiments import statistics
from intriguing.experiments.cells import attacked_images, cell, exact, measured, model_of
from intriguing.experiments.statistics import Estimate
from intriguing.nets.alexnet import alexnet
from intriguing.nets.convolutional import drawn
from intriguing.nets.load import Model
from intriguing.records import Inputs, Record
from intriguing.rng import generator
from intriguing.training import convolutional

BOUND = "bound"
PRINTED_FACTOR = "bound, printed factor"
FULL_WIDTH = "bound at full width, untrained"
GAIN = "measured gain"
LARGEST = "largest gain found"
RATIO = "bound / measured gain"
TIGHTNESS = "bound / largest gain found"
RANDOM_GAIN = "gain of a random direction"
PREDICTED = "predicted / measured random gain"
RADIUS = "guaranteed radius"
SHARE = "guaranteed radius / distance found"

EIGHT = "the eight layers"
WHOLE = "whole net"

_DRAWS = 4  # random directions beside each one found
_SMALL = 1e-3  # norm of the random perturbations of which the heuristic speaks, in pixel units
_RELATIVE = 1e-11  # of a norm: no residual of `bounds.operators` is larger


@dataclass(frozen=True)
class _Block:
    """One row of a table: a linear layer with the activation after it, or a layer of another kind."""

    name: str
    net: nn.Sequential
    linear: nn.Conv2d | nn.Linear | None
    bounds: tuple[LayerBound, ...]

    @property
    def bound(self) -> float:
        return product(self.bounds)

    @property
    def residual(self) -> float:
        return self.bound - math.prod(bound.bound - bound.residual for bound in self.bounds)


@dataclass(frozen=True)
class _Measured:
    """The gains from each image: the largest found, and that of random directions of the same norm."""

    bound: float
    found: Estimate
    random: Estimate
    largest: float


def layer_row(net: str, layer: str) -> str:
    """Return the name of the row of a net's layer."""
    return f"{net}, {layer}"


def table_5(inputs: Inputs, *, images: int, steps: int, seed: int, data: str = "", full_width: bool = False) -> Record:
    """Bound every layer of a trained AlexNet and measure its gain on real inputs.

    Args:
        inputs: needs ``"net"``, a record of `training.convolutional.train`; data ``data + "test"``.
        images: how many test images the gains are measured on, or all where there are fewer.
        steps: of the ascent.
        seed: chooses the images; draws first perturbations, random directions, the control net and resamples.
        data: prefix of the split, ``""`` or ``"photographs/"``.
        full_width: bound an untrained AlexNet of the published width, for 224 pixels and 1000 classes, too.

    Returns:
        Rows are ``conv1`` to ``fc3``, each with the rectifier after it, their product, and the whole net with poolings
        and normalisations. Inputs are pixels as the net takes them, mean subtracted, divided by their deviation.
    """
    record, split = inputs.needs["net"], inputs.data(data + "test")
    module = convolutional.restore(record)
    shape = tuple(record.values["shape"])
    ids = attacked_images(split, min(images, len(split.labels)), seed)
    mean = torch.tensor(record.values["mean"])[:, None, None]
    x = ((split.images[ids] - mean) / record.values["std"]).float()
    blocks = _blocks(module, shape)
    untrained = {
        block.name: block.bound
        for block in _blocks(drawn(copy.deepcopy(module), generator("table-5/untrained", seed)), shape)
    }
    full = _full_width(shape[0], seed) if full_width else {}
    cells: list[dict[str, Any]] = []
    linear = [block for block in blocks if block.linear is not None]
    start = x
    for place, block in enumerate(blocks):
        if block.linear is not None:
            control = {"label": "untrained, of the same shape", "measured": untrained[block.name]}
            cells += _bound_cells(block, control)
            gains = _measure(block.net, block.bound, start, steps, f"table-5/{block.name}", seed)
            cells += _gain_cells(block.name, gains, table_5)
        start = _passed(block.net, start)
        inputs.progress(place + 1, 3 * len(blocks))
    for name, chosen in ((EIGHT, linear), (WHOLE, blocks)):
        bound = math.prod(block.bound for block in chosen)
        spread = bound * _RELATIVE * len(linear)
        control = {
            "label": "untrained, of the same shape",
            "measured": math.prod(untrained[block.name] for block in chosen),
        }
        cells.append(exact(name, BOUND, bound, table_5, residual=spread, control=control))
        printed = bound / math.prod(_stride(block) for block in chosen)
        cells.append(exact(name, PRINTED_FACTOR, printed, table_5, residual=spread, control=_proper(bound)))
    whole = math.prod(block.bound for block in blocks)
    cells += _gain_cells(WHOLE, _measure(module, whole, x, steps, "table-5/whole", seed), table_5)
    series = _by_depth(blocks, x, steps, "table-5", seed)
    inputs.progress(1, 1)
    for name, norm in full.items():
        control = {"label": "reduced width, untrained", "measured": untrained[name]}
        cells.append(exact(name, FULL_WIDTH, norm, table_5, residual=norm * _RELATIVE, control=control))
    values = {
        "cells": cells,
        "figures": [_depth_figure(module, series, "AlexNet")],
        "tables": [_every_layer(blocks, 1 / float(record.values["std"]))],
        "findings": _findings_5(cells, [block.name for block in linear], len(x)),
        "notes": [_variant(record.values["recipe"], shape)],
    }
    return Record(values=values)


def instability(inputs: Inputs, *, nets: Sequence[str], images: int, steps: int, draws: int, seed: int) -> Record:
    """Bound the paper's nets, measure their gains from test images, and compare the radius (1) with the attack's.

    Args:
        inputs: needs ``"<net>/net"`` for every net; where there is ``"<net>/all"`` or ``"<net>/random"``, an attack on
            it, the guaranteed radius is set against the distances found; data ``"test"``.
        nets: names of the nets.
        images: how many test images the gains are measured on, or all where there are fewer.
        steps: of the ascent.
        draws: random directions per image for the mean gain.
        seed: chooses the images; draws first perturbations, random directions and resamples.
    """
    data = inputs.data("test")
    x = data.images[attacked_images(data, min(images, len(data.labels)), seed)]
    cells: list[dict[str, Any]] = []
    figure: dict[str, Any] = {}
    depth = 0
    for place, name in enumerate(nets):
        model = model_of(inputs.needs[f"{name}/net"], name, data, inputs.device)
        module = _sequential(model.net)
        blocks = _blocks(module, tuple(x.shape[1:]))
        linear = [block for block in blocks if block.linear is not None]
        bound = math.prod(block.bound for block in blocks)
        cells += _net_cells(name, module, bound, blocks, x, steps, seed)
        cells += _prediction_cells(name, module, x, draws, seed)
        cells += _radius_cells(inputs, name, model, bound, seed)
        start = x
        for block in blocks if len(linear) > 1 else ():
            if block.linear is not None:
                cells += _net_cells(layer_row(name, block.name), block.net, block.bound, [block], start, steps, seed)
            start = _passed(block.net, start)
        if len(linear) > depth:
            depth = len(linear)
            figure = _depth_figure(module, _by_depth(blocks, x, steps, name, seed), name)
        inputs.progress(place + 1, len(nets))
    return Record(values={"cells": cells, "figures": [figure], "findings": _findings(cells, nets)})


def _net_cells(
    row: str, net: nn.Module, bound: float, blocks: Sequence[_Block], x: Tensor, steps: int, seed: int
) -> list[dict[str, Any]]:
    """Return the bound of a net or a layer, and its gains."""
    gains = _measure(net, bound, x, steps, f"instability/{row}", seed)
    spread = bound * _RELATIVE * len(blocks)
    control = {"label": f"largest gain found from {gains.found.n} images", "measured": gains.largest}
    first = exact(row, BOUND, bound, instability, residual=spread, control=control)
    return [first, *_gain_cells(row, gains, instability)]


def _measure(net: nn.Module, bound: float, x: Tensor, steps: int, name: str, seed: int) -> _Measured:
    """Return the gains found by ascent from each input, with random directions of the same norm."""
    found = lipschitz_lower(net, x, steps=steps, generator=generator(f"ascent/{name}", seed))
    aimless = random_gains(net, x, found.size, draws=_DRAWS, generator=generator(f"random/{name}", seed)).mean(0)
    draw = generator(f"bootstrap/{name}", seed)
    largest = float(found.gain.max())
    # Both are float64; the bound carries the slack of its proof.
    assert largest <= bound * (1 + 1e-9), (name, largest, bound)
    return _Measured(
        bound, statistics.mean([found.gain.tolist()], draw), statistics.mean([aimless.tolist()], draw), largest
    )


def _gain_cells(row: str, gains: _Measured, function: Any) -> list[dict[str, Any]]:
    control = {"label": "random direction of the same norm", **measured(gains.random)}
    slack = {"label": "bound / gain of a random direction", **measured(_over(gains.bound, gains.random))}
    note = f"the largest of {gains.found.n} searches"
    return [
        cell(row, GAIN, gains.found, function, control),
        cell(row, RATIO, _over(gains.bound, gains.found), function, slack),
        exact(row, LARGEST, gains.largest, function, control=control, note=note),
        exact(row, TIGHTNESS, _ratio(gains.bound, gains.largest), function, control=slack, note=note),
    ]


def _over(bound: float, gain: Estimate) -> Estimate:
    """Return a fixed bound over an estimated gain."""
    return Estimate(_ratio(bound, gain.measured), gain.n, _ratio(bound, gain.high), _ratio(bound, gain.low))


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0 else math.inf


def _prediction_cells(net: str, module: nn.Sequential, x: Tensor, draws: int, seed: int) -> list[dict[str, Any]]:
    """Compare the gain of small random perturbations with the heuristic's; row 30 of what readers asked for."""
    predicted = heuristic.predicted_gain(module, x)
    gains = random_gains(module, x, _SMALL, draws=draws, generator=generator(f"small/{net}", seed))
    real = statistics.mean([gains.mean(0).tolist()], generator(f"bootstrap/small/{net}", seed))
    square = float(gains.square().mean().sqrt())
    guess = {"label": f"predicted; {heuristic.LABEL}", "measured": predicted.mean}
    naive = {"label": "predicted as if units were uncorrelated", "measured": _ratio(predicted.uncorrelated, square)}
    return [
        cell(net, RANDOM_GAIN, real, instability, guess),
        cell(net, PREDICTED, _over(predicted.mean, real), instability, naive),
    ]


def _radius_cells(inputs: Inputs, net: str, model: Model, bound: float, seed: int) -> list[dict[str, Any]]:
    """Set the radius that the bound guarantees, (1), against the distance of the example that an attack found."""
    record = inputs.needs.get(f"{net}/all") or inputs.needs.get(f"{net}/random")
    if record is None:
        return []
    found = torch.tensor([status == "found" for status in record.rows["status"]])
    if not bool(found.any()):
        return []
    labels = torch.tensor(record.rows["label"])[found]
    distance = torch.tensor(record.rows["distance"], dtype=torch.float64)[found]
    logits = model.logits(record.tensors["original"][found]).double()
    own = logits.gather(1, labels[:, None])
    rival = logits.scatter(1, labels[:, None], -math.inf).amax(1, keepdim=True)
    radius = (own - rival)[:, 0].clamp_min(0) / (math.sqrt(2) * bound)
    draw = generator(f"bootstrap/radius/{net}", seed)
    reached = statistics.mean([distance.tolist()], draw)
    broken = statistics.proportion(int((distance < radius).sum()), len(radius))
    size = {"label": "distance of the example found", **measured(reached)}
    inside = {"label": "images with an example inside their radius", "unit": "percent", **measured(broken)}
    return [
        cell(net, RADIUS, statistics.mean([radius.tolist()], draw), instability, size),
        cell(net, SHARE, statistics.mean([(radius / distance).tolist()], draw), instability, inside),
    ]


def _bound_cells(block: _Block, control: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a layer's bound, and what the factor as printed would make of it (E7)."""
    stride, residual = _stride(block), block.residual
    note = "; ".join(bound.note for bound in block.bounds if bound.note) or None
    return [
        exact(block.name, BOUND, block.bound, table_5, residual=residual, control=control, note=note),
        exact(
            block.name,
            PRINTED_FACTOR,
            block.bound / stride,
            table_5,
            residual=residual / stride,
            control=_proper(block.bound),
            note=f"the factor 1 / stride^2 in place of 1 / stride, stride {stride:g}",
        ),
    ]


def _proper(bound: float) -> dict[str, Any]:
    return {"label": "with the corrected factor", "measured": bound}


def _stride(block: _Block) -> float:
    """Return the stride Delta of a layer, 1 where there is none; the geometric mean of two."""
    return math.sqrt(math.prod(pair(block.linear.stride))) if isinstance(block.linear, nn.Conv2d) else 1.0


def _sequential(net: Any) -> nn.Sequential:
    if not isinstance(net, nn.Sequential):
        raise ModelError(f"expected a net of layers in a row (nn.Sequential), got {type(net).__name__}")
    return net


def _blocks(module: nn.Sequential, shape: tuple[int, ...]) -> list[_Block]:
    """Return the net's layers in order, each linear one together with the activation right after it."""
    bounds = {bound.name: bound for bound in layer_bounds(module, shape)}
    blocks: list[_Block] = []
    for name, layer in module.named_children():
        last = blocks[-1] if blocks else None
        if type(layer) in ACTIVATIONS and last is not None and last.linear is not None and len(last.net) == 1:
            net = nn.Sequential(last.net[0], layer)
            blocks[-1] = _Block(last.name, net, last.linear, (*last.bounds, bounds[name]))
        else:
            linear = layer if isinstance(layer, nn.Conv2d | nn.Linear) else None
            blocks.append(_Block(name, nn.Sequential(layer), linear, (bounds[name],)))
    return blocks


@torch.no_grad()
def _passed(net: nn.Module, x: Tensor) -> Tensor:
    """Return what a layer of a net in evaluation mode makes of x."""
    out: Tensor = net(x)
    return out


def _by_depth(blocks: Sequence[_Block], x: Tensor, steps: int, name: str, seed: int) -> list[dict[str, Any]]:
    """Return the bound, the largest gain found and the mean gain of random directions of the net up to each layer."""
    ends = [place for place, block in enumerate(blocks) if block.linear is not None]
    points: dict[str, list[dict[str, float]]] = {"bound": [], "largest gain found": [], "random direction": []}
    for passed, end in enumerate(ends, start=1):
        # What follows a layer (pooling, normalisation) counts as part of it.
        stop = ends[passed] if passed < len(ends) else len(blocks)
        assert stop > end
        prefix = nn.Sequential(*(block.net for block in blocks[:stop]))
        bound = math.prod(block.bound for block in blocks[:stop])
        gains = _measure(prefix, bound, x, steps, f"{name}/first {passed}", seed)
        points["bound"].append({"x": passed, "y": bound})
        points["largest gain found"].append({"x": passed, "y": gains.largest})
        random = gains.random
        points["random direction"].append({"x": passed, "y": random.measured, "low": random.low, "high": random.high})
    return [
        {"label": label, "role": "control" if label == "random direction" else "ours", "points": given}
        for label, given in points.items()
    ]


def _depth_figure(module: nn.Sequential, series: list[dict[str, Any]], net: str) -> dict[str, Any]:
    linear = [name for name, layer in module.named_children() if isinstance(layer, nn.Conv2d | nn.Linear)]
    return {
        "kind": "lines",
        "id": "stretch-by-depth",
        "title": "How far the bound runs ahead of the gain",
        "caption": f"The bound of {net} up to each layer ({', '.join(linear)}), the largest gain found up to there, "
        "and the gain of random directions, on a logarithmic scale. The gap widens with depth: the product supposes "
        "that one perturbation meets the most stretched direction of every layer in turn.",
        "x": "layers passed",
        "y": "gain",
        "log_y": True,
        "series": series,
    }


def _every_layer(blocks: Sequence[_Block], scale: float) -> dict[str, Any]:
    lines = [
        [bound.name, bound.kind, f"{bound.bound:.4g}", " x ".join(map(str, bound.grid or ())) or "-", bound.note]
        for block in blocks
        for bound in block.bounds
        if bound.bound != 1 or bound.note
    ]
    lines.append(["pixels", "division by the standard deviation", f"{scale:.4g}", "-", "not in the products above"])
    return {
        "id": "every-layer",
        "title": "Every layer that can stretch or shrink",
        "caption": "The bound of each layer, and for convolutions the circular grid on which it was computed. Layers "
        "with bound 1 (rectifiers, dropout) are left out.",
        "columns": ["layer", "kind", "bound", "grid", "note"],
        "rows": lines,
    }


def _full_width(channels: int, seed: int) -> dict[str, float]:
    """Return the bounds of an untrained AlexNet of the published width, for images of 224 pixels."""
    shape = (channels, 224, 224)
    net = alexnet(shape, 1000, generator=generator("table-5/full width", seed))
    return {block.name: block.bound for block in _blocks(net, shape) if block.linear is not None}


def _variant(recipe: Mapping[str, Any], shape: Sequence[int]) -> str:
    """Say which AlexNet this is (D19)."""
    return (
        f"This AlexNet is the {recipe['variant']} variant at {recipe['width']:g} times the published channels and "
        f"{recipe['dense']:g} times the dense units, for images of {shape[1]} pixels. The paper's is full width, "
        "trained on ImageNet: the printed bounds stand beside ours for comparison, not as a target."
    )


def _findings_5(cells: Sequence[Mapping[str, Any]], layers: Sequence[str], images: int) -> list[str]:
    place = {(entry["row"], entry["column"]): entry["measured"] for entry in cells}
    slack = [place[layer, TIGHTNESS] for layer in layers]
    return [
        f"By their bounds all layers together may stretch a perturbation {_count(place[WHOLE, BOUND])} times; a search "
        f"from {images} images found at most {_count(place[WHOLE, LARGEST])} times, so the product is "
        f"{_count(place[WHOLE, TIGHTNESS])} times above it.",
        f"A single layer's bound is {min(slack):.1f} to {max(slack):.1f} times the largest gain found in it. All eight "
        f"such factors multiply to {_count(math.prod(slack))}; the rest is what no perturbation does in all layers at "
        "once, and the normalisations' and poolings' share.",
    ]


def _findings(cells: Sequence[Mapping[str, Any]], nets: Sequence[str]) -> list[str]:
    place = {(entry["row"], entry["column"]): entry for entry in cells}
    slack = {net: place[net, TIGHTNESS]["measured"] for net in nets}
    least, most = min(nets, key=lambda net: slack[net]), max(nets, key=lambda net: slack[net])
    sentences = [
        f"The bound is {_count(slack[least])} times the largest gain found for {least}"
        + (f", and {_count(slack[most])} times for {most}." if len(nets) > 1 else ".")
    ]
    known = [net for net in nets if (net, SHARE) in place]
    if known:
        shares = [place[net, SHARE]["measured"] for net in known]
        inside = sum(round(place[net, SHARE]["control"]["measured"] * place[net, SHARE]["n"]) for net in known)
        total = sum(place[net, SHARE]["n"] for net in known)
        sentences.append(
            f"The bound guarantees {100 * min(shares):.1f}% to {100 * max(shares):.0f}% of the distance at which the "
            f"attack found an example, and {inside} of {total} examples lie inside the guaranteed radius."
        )
    off = [abs(place[net, PREDICTED]["measured"] - 1) for net in nets]
    naive = [place[net, PREDICTED]["control"]["measured"] for net in nets]
    sentences.append(
        f"A heuristic that supposes layers independent predicts the gain of random directions to within "
        f"{100 * max(off):.0f}%; one that supposes units uncorrelated too predicts {100 * min(naive):.0f}% to "
        f"{100 * max(naive):.0f}% of it."
    )
    return sentences


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 20 else f"{value:.1f}"

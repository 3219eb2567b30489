"""Do single units mean more than directions? Szegedy et al. 2014, section 3: the numbers behind Figures 1 to 4.

The paper shows the images that drive a unit, or a random direction, most, and leaves it to the eye to see that both
are alike. Here the likeness is a number, purity, for every basis of a layer: single units, random directions,
principal axes, whitened units, units of a net with rotated layers and the same function. Two controls stand beside:
random image sets, and the same net with its weights shuffled.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from intriguing.errors import ModelError
from intriguing.experiments import statistics
from intriguing.experiments.cells import measured, model_of
from intriguing.experiments.statistics import Estimate
from intriguing.nets.load import Model
from intriguing.nets.zoo import NETS
from intriguing.records import Images, Inputs, Record
from intriguing.rng import generator
from intriguing.semantics import directions as bases
from intriguing.semantics import purity
from intriguing.semantics.activations import (
    Activations,
    activations,
    calls,
    last_convolution,
    last_hidden,
    outputs,
    same_numbers,
)
from intriguing.semantics.rotation import rotated
from intriguing.training import convolutional

NATURAL = "single units"
RANDOM = "random directions"
POSITIVE = "random directions |v|"
PRINCIPAL = "principal axes"
WHITENED = "whitened units"
RANDOM_WHITENED = "random directions, whitened"
ROTATED = "units of the rotated net"
SHUFFLED = "single units, weights shuffled"
BASES = (NATURAL, RANDOM, POSITIVE, PRINCIPAL, WHITENED, RANDOM_WHITENED, ROTATED, SHUFFLED)

_CONTROLS = 2000  # random image sets
_VECTORS = 20_000  # activation vectors of a convolution, from which its principal axes are found
_ROTATED_IMAGES = 256  # whose logits are compared

Draw = Callable[[str], torch.Generator]


def model_from(record: Record, data: Images, device: torch.device) -> Model:
    """Return a trained net of either kind, the paper's or a convolutional one, as a `Model` on `device`.

    Args:
        record: what `training.recipes.train` or `training.convolutional.train` returned.
        data: the images it is for.
        device: where it computes.
    """
    name = str(record.values["net"])
    if name in NETS:
        return model_of(record, name, data, device)
    return convolutional.model(record, device)


def layer_of(model: Model, layer: str, images: Tensor) -> str:
    """Return the path of a layer: ``"last hidden"``, ``"last convolution"`` or a path itself.

    Args:
        model: the net.
        layer: what is wanted. A net without convolutions gives its last hidden layer for both.
        images: (N, C, H, W), of which two show the order of the layers.
    """
    if layer == "last hidden":
        return last_hidden(model, images)
    if layer == "last convolution":
        return last_convolution(model, images) or last_hidden(model, images)
    return layer


def name_of(net: str, layer: str) -> str:
    """Return how tables name a layer of a net."""
    return net if layer == "last hidden" else f"{net}, {layer}"


def measure(
    inputs: Inputs,
    *,
    net: str,
    split: str = "test",
    layer: str = "last hidden",
    k: int = 8,
    count: int = 256,
    permutations: int = 1000,
    seed: int = 0,
) -> Record:
    """Measure the purity of the top images along every basis of a layer.

    Args:
        inputs: needs ``"net"``, a trained net; data `split`.
        net: its name in tables.
        split: held-out images, all of which are looked at.
        layer: see `layer_of`.
        k: images per direction (D16: 8).
        count: directions per basis at most; as many as there are units (D16) where the layer has fewer.
        permutations: of the images, for the p-values.
        seed: draws directions, sets, permutations and resamples.

    Returns:
        A record. ``values["bases"]`` holds by basis the estimates ``class``, ``cosine`` and ``above``, the p-values
        ``class_p`` and ``cosine_p``, the number of ``directions`` and ``distinct``, the different images among all top
        sets over their number; ``values["differences"]`` the natural basis minus others. Tensors ``sets/<basis>``
        (D, k), ``class/<basis>`` and ``cosine/<basis>`` (D,), and the same for the random image sets.
    """
    data = inputs.data(split)
    model = model_from(inputs.needs["net"], data, inputs.device)
    path = layer_of(model, layer, data.images)
    inputs.progress(0, 1)

    def draw(what: str) -> torch.Generator:
        return generator(f"units/{net}/{layer}/{what}", seed)

    scores, again, facts = _scores(model, data.images, path, count, draw)
    inputs.progress(0.4, 1)
    embedding = purity.pixel_embedding(data.images)
    known = {"class": (purity.modal_share, data.labels), "cosine": (purity.mean_cosine, embedding)}
    controls = bases.random_sets(_CONTROLS, k, len(data.labels), generator=draw("random sets"))
    others = bases.random_sets(_CONTROLS, k, len(data.labels), generator=draw("other random sets"))
    tensors = {"sets/control": controls}
    tensors |= {f"{key}/control": rate(what, controls) for key, (rate, what) in known.items()}
    entries: dict[str, Any] = {}
    for place, (basis, found_scores) in enumerate(scores.items()):
        sets = bases.top(found_scores, k, generator=draw(f"ties/{basis}"))
        tensors[f"sets/{basis}"] = sets
        entry: dict[str, Any] = {"directions": len(sets), "distinct": len(set(sets.flatten().tolist())) / sets.numel()}
        for key, (rate, what) in known.items():
            found = rate(what, sets)
            tensors[f"{key}/{basis}"] = found
            entry[key] = measured(statistics.mean([found.tolist()], draw(f"bootstrap/{basis}/{key}")))
            p = purity.permutation_p(
                rate, what, sets, generator=draw(f"permutations/{basis}/{key}"), permutations=permutations
            )
            entry[f"{key}_p"] = p
        purer = purity.above_random(tensors[f"class/{basis}"], tensors["class/control"])
        entry["above"] = measured(statistics.proportion(int(purer.sum()), len(purer)))
        entries[basis] = entry
        inputs.progress(0.4 + 0.6 * (place + 1) / len(scores), 1)
    chance = {
        key: measured(statistics.mean([tensors[f"{key}/control"].tolist()], draw(f"bootstrap/control/{key}")))
        for key in known
    }
    purer = purity.above_random(purity.modal_share(data.labels, others), tensors["class/control"])
    chance["above"] = measured(statistics.proportion(int(purer.sum()), len(purer)))
    # Random directions against other random directions: what a difference of nothing looks like.
    others = bases.top(again, k, generator=draw("ties/again"))
    differences: dict[str, Any] = {}
    for key, (rate, what) in known.items():
        groups = {basis: tensors[f"{key}/{basis}"] for basis in entries} | {"again": rate(what, others)}
        pairs = {basis: (NATURAL, basis) for basis in entries if basis != NATURAL} | {"control": ("again", RANDOM)}
        differences[key] = {
            name: _difference(groups[one], groups[other], draw(f"difference/{name}/{key}"))
            for name, (one, other) in pairs.items()
        }
    values = {
        "net": net,
        "layer": path,
        "asked": layer,
        "images": len(data.labels),
        "k": k,
        "bases": entries,
        "control": chance,
        "differences": differences,
        **facts,
    }
    return Record(values=values, tensors=tensors)


def _scores(
    model: Model, images: Tensor, path: str, count: int, draw: Any
) -> tuple[dict[str, Tensor], Tensor, dict[str, Any]]:
    """Return by basis the scores (N, D) of all images, those of other random directions, and facts on the layer."""
    first = activations(model, images, path)
    units = first.values.shape[1]
    live = live_units(first)
    chosen = live[torch.randperm(len(live), generator=draw("units"))[:count]].sort().values
    count = min(count, units)
    vectors = _vectors(model, images, first)
    families = {
        NATURAL: bases.natural(units)[chosen],
        RANDOM: bases.random(count, units, generator=draw("random")),
        POSITIVE: bases.positive(count, units, generator=draw("positive")),
        PRINCIPAL: bases.principal(vectors, count),
        WHITENED: bases.whitening(vectors)[chosen],
        RANDOM_WHITENED: bases.random_whitened(vectors, count, generator=draw("whitened")),
        "again": bases.random(count, units, generator=draw("again")),
    }
    stacked = torch.cat(list(families.values()))
    if first.grid == (1, 1):
        values = first.values @ stacked.T
    else:
        values = activations(model, images, path, directions=stacked).values
    sizes = [len(family) for family in families.values()]
    scores = dict(zip(families, torch.split(values, sizes, dim=1), strict=True))
    facts: dict[str, Any] = {"units": units, "alive": len(live), "grid": list(first.grid), "chosen": chosen.tolist()}
    again = scores.pop("again")
    facts["rotation"] = None
    if _feeds_linear(model, images, path):
        matrix = bases.rotation(units, generator=draw("rotation"))
        turned = rotated(model, path, matrix, images)
        scores[ROTATED] = activations(turned.model, images, turned.layer).values[:, :count]
        facts["rotation"] = _rotation(model, path, matrix, images[:_ROTATED_IMAGES])
    shuffled = activations(_shuffled(model, draw("shuffled")), images, path).values
    moving = bases.alive(shuffled).nonzero().flatten()
    picked = moving[torch.randperm(len(moving), generator=draw("shuffled units"))[:count]]
    if len(picked):
        scores[SHUFFLED] = shuffled[:, picked]
    return scores, again, facts


def _feeds_linear(model: Model, images: Tensor, path: str) -> bool:
    """Return whether a linear layer is given the layer's outputs as they are, so that it can turn them back."""
    made = calls(model, images)
    (own,) = [call for call in made if call.path == path]
    return any(same_numbers(own.returned, call.given) for call in made if isinstance(call.module, nn.Linear))


def _rotation(model: Model, path: str, matrix: Tensor, images: Tensor) -> dict[str, Any]:
    """Return how far the logits of the rotated net are off, in float64 and float32, and without turning back."""
    exact_net = copy.deepcopy(model.net)
    assert isinstance(exact_net, nn.Module)
    precise = Model(exact_net.double(), model.box, model.mean, model.std, model.name)
    turned = rotated(precise, path, matrix, images)
    images = images.double()
    logits = precise.logits(images)
    single = rotated(model, path, matrix, images.float())
    broken = copy.deepcopy(turned.model)
    assert isinstance(broken.net, nn.Module)
    broken.net.get_submodule(turned.undone).load_state_dict(exact_net.get_submodule(turned.undone).state_dict())
    return {
        "layer": turned.layer,
        "undone": turned.undone,
        "images": len(images),
        "off": float((turned.model.logits(images) - logits).abs().max()),
        "off_single": float((single.model.logits(images.float()) - model.logits(images.float())).abs().max()),
        "not_undone": float((broken.logits(images) - logits).abs().max()),
        "largest": float(logits.abs().max()),
    }


def _vectors(model: Model, images: Tensor, first: Activations) -> Tensor:
    """Return activation vectors (M, U): one per image, or of a convolution one per position of some of the images."""
    if first.grid == (1, 1):
        return first.values
    some = max(1, _VECTORS // (first.grid[0] * first.grid[1]))
    # Evenly over the set, which may be sorted by class.
    ids = torch.linspace(0, len(images) - 1, min(some, len(images))).long()
    return torch.cat([maps.transpose(1, 2).flatten(0, 1) for maps, _ in outputs(model, images[ids], first.layer)])


@torch.no_grad()
def _shuffled(model: Model, draw: torch.Generator) -> Model:
    """Return a copy of a net in which the numbers of each weight tensor stand in random order."""
    net = copy.deepcopy(model.net)
    assert isinstance(net, nn.Module)
    for parameter in net.parameters():
        order = torch.randperm(parameter.numel(), generator=draw).to(parameter.device)
        parameter.copy_(parameter.flatten()[order].view(parameter.shape))
    return Model(net, model.box, model.mean, model.std, model.name)


def _difference(one: Tensor, other: Tensor, draw: torch.Generator) -> dict[str, Any]:
    found = purity.difference(one, other, generator=draw)
    return measured(Estimate(found.measured, found.n, found.low, found.high))


def live_units(found: Activations) -> Tensor:
    """Return the units that tell images apart, (V,) int64.

    Raises:
        ModelError: none does.
    """
    live = bases.alive(found.values).nonzero().flatten()
    if not len(live):
        raise ModelError(
            f"all units of layer {found.layer!r} are the same on all {len(found.values)} images; the net may not "
            "have learnt, or its images may have the wrong scale"
        )
    return live

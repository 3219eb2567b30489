"""What every trainer of a sigmoid net shares: how it starts, what is decayed, and the record at its end."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from intriguing import rng
from intriguing.errors import InputError, UnknownNameError
from intriguing.nets.load import Model
from intriguing.nets.zoo import NETS, build
from intriguing.records import Inputs, Record
from intriguing.training import objectives


@dataclass(frozen=True)
class Training:
    """A net with what it learns, before the first step.

    Attributes:
        name: the net's, a key of `nets.NETS`.
        seed: of its weights and of the order of images.
        module: the net, its weights drawn.
        x: (N, n) flat images on the net's device.
        labels: (N,) int64.
        generator: draws the order; it has drawn the weights. The same for all trainers of this net and seed, so
            that nets trained in different ways can be compared in pairs.
        started: when, for the record.
    """

    name: str
    seed: int
    module: nn.Sequential
    x: Tensor
    labels: Tensor
    generator: torch.Generator
    started: float


def begin(inputs: Inputs, net: str, seed: int, learn: str) -> Training:
    """Return a sigmoid net with weights drawn from `seed`, as `recipes.train` starts it, and the images it learns.

    Raises:
        UnknownNameError: no such net.
        InputError: a net without hidden layers of sigmoid units.
    """
    started = time.perf_counter()
    if net not in NETS:
        raise UnknownNameError("net", net, NETS)
    if NETS[net].recipe != "sigmoid":
        names = [name for name, spec in NETS.items() if spec.recipe == "sigmoid"]
        raise InputError(f"net must have hidden layers of sigmoid units ({', '.join(names)}), got {net!r}")
    data = inputs.data(learn)
    generator = rng.generator(f"train/{net}", seed)
    module = build(net, tuple(data.images.shape[1:]), len(data.classes), generator=generator)
    assert isinstance(module, nn.Sequential)
    x = data.images.flatten(1).to(device=inputs.device, dtype=torch.float32)
    return Training(net, seed, module.to(inputs.device), x, data.labels.to(inputs.device), generator, started)


def finish(inputs: Inputs, training: Training, values: Mapping[str, Any]) -> Record:
    """Return the record of a trained net.

    Returns:
        ``tensors`` is the state dict; ``values`` holds ``train_error`` and ``test_error`` (fractions), ``n_train``,
        ``n_test``, ``net``, ``seed``, ``shape``, ``classes``, ``seconds``, and what is given.
    """
    module = training.module.requires_grad_(False).eval()
    model, test = Model(module, name=training.name), inputs.data("test")
    every = {
        "net": training.name,
        "seed": training.seed,
        "train_error": error(model, training.x, training.labels),
        "test_error": error(model, test.images, test.labels),
        "n_train": len(training.labels),
        "n_test": len(test.labels),
        **values,
        "shape": list(test.images.shape[1:]),
        "classes": len(test.classes),
        "seconds": time.perf_counter() - training.started,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    return Record(values=every, tensors=tensors)


def error(model: Model, images: Tensor, labels: Tensor) -> float:
    """Return the share of images whose largest logit is not their label."""
    return int((model.predict(images, batch=5000) != labels).sum()) / len(labels)


def epochs(recipe: Mapping[str, Any], count: int) -> int:
    """Return the epochs to run: the recipe's, or more on a set so small that they hold fewer than ``steps`` steps."""
    per_epoch = math.ceil(count / int(recipe["batch"]))
    return max(int(recipe["epochs"]), math.ceil(int(recipe["steps"]) / per_epoch))


def decay_groups(module: nn.Module, decay: Sequence[float]) -> list[dict[str, object]]:
    """Return Adam's parameter groups: each weight matrix with its lambda, the biases without (E15)."""
    weights = objectives.weight_matrices(module)
    groups: list[dict[str, object]] = [
        {"params": [weight], "weight_decay": rate} for weight, rate in zip(weights, decay, strict=True)
    ]
    biases = [parameter for parameter in module.parameters() if parameter.ndim == 1]
    return [*groups, {"params": biases, "weight_decay": 0.0}]


def settings(net: str, defaults: Mapping[str, Any], hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trainer's settings with the caller's changes, and ``decay``, the lambdas by layer (E15), checked.

    Raises:
        InputError: a setting that the trainer does not have, or a number out of range.
    """
    decay = NETS[net].decay
    recipe: dict[str, Any] = {"decay": decay, **defaults}
    for name, value in hyper.items():
        if name not in recipe:
            raise InputError(f"{name!r} is no setting of this trainer; it knows {', '.join(sorted(recipe))}")
        recipe[name] = value
    recipe["decay"] = [float(rate) for rate in recipe["decay"]]
    if len(recipe["decay"]) != len(decay) or min(recipe["decay"]) < 0:
        raise InputError(f"decay of {net} must be {len(decay)} numbers of at least 0, got {recipe['decay']}")
    for name in ("epochs", "batch", "rate", "steps"):
        if not recipe[name] > 0:
            raise InputError(f"{name} must be positive, got {recipe[name]!r}")
    return recipe

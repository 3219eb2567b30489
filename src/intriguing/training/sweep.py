"""Fully connected nets of any depth, width and activation, learnt from any number of images.

The nets of the paper differ in all of these at once. To ask which of them moves the distance of adversarial examples,
one is changed at a time; everything else, the decay of the paper's sigmoid nets included, stays.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own abbreviation)

from intriguing import rng
from intriguing.errors import DataError, InputError, ModelError, UnknownNameError
from intriguing.floating import denormals_flushed
from intriguing.records import Images, Inputs, Record
from intriguing.training import loops, objectives

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}

_HIDDEN_DECAY, _OUTPUT_DECAY = 1e-5, 1e-6  # Table 1 of Szegedy et al. 2014, by layer


def train_fc(
    inputs: Inputs,
    *,
    hidden: Sequence[int],
    activation: str,
    examples: int | float,
    seed: int,
    epochs: int = 20,
    batch: int = 200,
    rate: float = 0.01,
    steps: int = 3000,
    stop: bool = True,
) -> Record:
    """Train a fully connected net by Adam until no training image is wrong, or the schedule ends (D12).

    Args:
        inputs: ``data("train")`` is learnt, ``data("test")`` only measured.
        hidden: widths of the hidden layers, from input to output; empty: softmax regression.
        activation: a key of `ACTIVATIONS`.
        examples: how many training images, or, as a float above 0 and at most 1, which share of them; drawn in
            proportion to the classes; the smaller sets are parts of the larger ones of the same seed.
        seed: decides the images, the initial weights and the order.
        epochs: passes over the images, raised until there are at least `steps` steps.
        batch: images per step.
        rate: the highest learning rate.
        steps: see `epochs`.
        stop: end at the first epoch without a training error; False: always run the whole schedule.

    Returns:
        A record as that of `recipes.train`: the state dict, and among the values ``train_error``, ``test_error``,
        ``n_train``, ``n_test``, ``epochs`` and the settings.

    Raises:
        InputError: settings out of range, or more examples than the set has.
        UnknownNameError: no such activation.

    Example:
        record = train_fc(inputs, hidden=[100, 100], activation="sigmoid", examples=10_000, seed=0)
    """
    started = time.perf_counter()
    data, test = inputs.data("train"), inputs.data("test")
    count = round(examples * len(data.labels)) if isinstance(examples, float) else examples
    if not 1 <= count <= len(data.labels):
        raise InputError(
            f"examples: expected 1 to {len(data.labels)}, the size of the set, or a share of it, got {examples!r}"
        )
    for name, value in (("epochs", epochs), ("batch", batch), ("rate", rate), ("steps", steps)):
        if not value > 0:
            raise InputError(f"{name}: expected a positive number, got {value!r}")
    ids = nested(data, seed)[:count]
    shape, classes = tuple(data.images.shape[1:]), len(data.classes)
    name = f"{'-'.join(str(width) for width in hidden)}/{activation}"
    draw = rng.generator(f"train_fc/{name}", seed)
    module = build_fc(shape, classes, hidden, activation, generator=draw).to(inputs.device)
    x, labels = data.images[ids].flatten(1).to(inputs.device), data.labels[ids].to(inputs.device)
    turns = max(epochs, math.ceil(steps / math.ceil(count / batch)))
    wrong = torch.zeros((), dtype=torch.int64, device=x.device)

    def objective(indices: Tensor) -> Tensor:
        target = labels[indices]
        logits = module(x[indices])
        wrong.add_((logits.detach().argmax(1) != target).sum())
        return F.cross_entropy(logits, target)

    def after_epoch(epoch: int) -> bool:
        # Errors counted while learning are a cheap hint; only then is the whole set looked at again.
        done = stop and int(wrong) == 0 and _error(module, x, labels) == 0
        wrong.zero_()
        inputs.progress(turns if done else epoch, turns)
        return done

    with denormals_flushed():
        run = loops.descend(
            _groups(module),
            objective,
            count,
            epochs=turns,
            batch=batch,
            rate=rate,
            generator=draw,
            after_epoch=after_epoch,
        )
    module.requires_grad_(False).eval()
    values: dict[str, Any] = {
        "hidden": list(hidden),
        "activation": activation,
        "examples": count,
        "seed": seed,
        "train_error": _error(module, x, labels),
        "test_error": _error(module, test.images.flatten(1).to(inputs.device), test.labels.to(inputs.device)),
        "n_train": count,
        "n_test": len(test.labels),
        "epochs": run,
        "recipe": {"epochs": turns, "batch": batch, "rate": rate, "steps": steps, "stop": stop},
        "seconds": time.perf_counter() - started,
    }
    return Record(values=values, tensors={key: value.cpu().contiguous() for key, value in module.state_dict().items()})


def build_fc(
    shape: Sequence[int], classes: int, hidden: Sequence[int], activation: str, *, generator: torch.Generator
) -> nn.Module:
    """Return a fresh net from images (B, *shape) to logits (B, K), with Glorot's uniform weights and zero biases.

    Args:
        shape: of one image.
        classes: K.
        hidden: widths of the hidden layers.
        activation: a key of `ACTIVATIONS`.
        generator: where the weights come from.

    Raises:
        InputError: a width below 1.
        UnknownNameError: no such activation.

    Example:
        >>> net = build_fc((1, 8, 8), 10, [20], "tanh", generator=rng.generator("net", 0))
        >>> net(torch.zeros(3, 1, 8, 8)).shape
        torch.Size([3, 10])
    """
    if activation not in ACTIVATIONS:
        raise UnknownNameError("activation", activation, ACTIVATIONS)
    if any(width < 1 for width in hidden):
        raise InputError(f"hidden: expected widths of at least 1, got {list(hidden)}")
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    widths = [math.prod(shape), *hidden]
    for number, (inside, outside) in enumerate(pairwise(widths), start=1):
        layers[f"hidden{number}"] = _linear(inside, outside, generator)
        layers[f"{activation}{number}"] = ACTIVATIONS[activation]()
    layers["output"] = _linear(widths[-1], classes, generator)
    return nn.Sequential(layers)


def untrained_fc(record: Record, shape: Sequence[int], classes: int) -> nn.Module:
    """Return the net of a record as it was before training, in evaluation mode: its control."""
    values = record.values
    name = f"{'-'.join(str(width) for width in values['hidden'])}/{values['activation']}"
    draw = rng.generator(f"train_fc/{name}", values["seed"])
    return build_fc(shape, classes, values["hidden"], values["activation"], generator=draw).requires_grad_(False).eval()


def restore_fc(record: Record, shape: Sequence[int], classes: int) -> nn.Module:
    """Return a trained net from its record, in evaluation mode, on the CPU.

    Raises:
        ModelError: the record's weights do not fit images of this shape and number of classes.
    """
    module = untrained_fc(record, shape, classes)
    try:
        module.load_state_dict(dict(record.tensors))
    except RuntimeError as error:
        kept = {name: tuple(tensor.shape) for name, tensor in record.tensors.items()}
        raise ModelError(
            f"the stored weights {kept} do not fit images {tuple(shape)} and {classes} classes; use the shape and "
            "classes of training, or train again."
        ) from error
    return module


def nested(data: Images, seed: int) -> Tensor:
    """Return an order (N,) of the images of a set whose every beginning has the classes in proportion.

    Each class is shuffled, and its k-th of m images is placed at (k + u) / m, with u drawn once per class: the first
    share s of the order then holds a share s of every class, to within one image.

    Raises:
        DataError: an empty set.
    """
    labels = data.labels
    if not len(labels):
        raise DataError("the train set must hold at least one image, got none")
    draw = rng.generator("train_fc/examples", seed)
    place = torch.empty(len(labels), dtype=torch.float64)
    for label in range(len(data.classes)):
        own = (labels == label).nonzero().squeeze(1)
        rank = torch.randperm(len(own), generator=draw).double()
        place[own] = (rank + torch.rand((), generator=draw, dtype=torch.float64)) / max(len(own), 1)
    return place.argsort()


@torch.no_grad()
def _linear(inside: int, outside: int, generator: torch.Generator) -> nn.Linear:
    """Return a layer with weights uniform within +-sqrt(6 / (inputs + outputs)) (Glorot and Bengio 2010, eq. 16)."""
    with torch.device("meta"):
        layer = nn.Linear(inside, outside)
    layer = layer.to_empty(device="cpu")
    limit = math.sqrt(6 / (inside + outside))
    layer.weight.uniform_(-limit, limit, generator=generator)
    layer.bias.zero_()
    return layer


def _groups(module: nn.Module) -> list[dict[str, object]]:
    """Return Adam's groups: hidden matrices, the output matrix, and the biases without decay."""
    *below, output = objectives.weight_matrices(module)
    biases = [bias for bias in module.parameters() if bias.ndim == 1]
    groups: list[dict[str, object]] = [{"params": [output], "weight_decay": _OUTPUT_DECAY}]
    if below:
        groups.append({"params": below, "weight_decay": _HIDDEN_DECAY})
    return [*groups, {"params": biases, "weight_decay": 0.0}]


@torch.no_grad()
def _error(module: nn.Module, x: Tensor, labels: Tensor) -> float:
    """Return the share of images whose largest logit is not their label."""
    parts = zip(torch.split(x, 5000), torch.split(labels, 5000), strict=True)
    return sum(int((module(part).argmax(1) != target).sum()) for part, target in parts) / len(labels)

"""The MNIST nets of Szegedy et al. 2014, section 2 and Table 1, for any image shape and class count.

Every net takes images (B, C, H, W) or (B, n) with n = C * H * W and returns logits (B, K): the softmax of the
paper is left to the loss. Weights are drawn from a generator; the global random state is never touched.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import nn

from intriguing import rng
from intriguing.errors import InputError, UnknownNameError

Recipe = Literal["convex", "sigmoid", "autoencoder"]


@dataclass(frozen=True)
class NetSpec:
    """An architecture and the part of its recipe that the paper prints.

    Attributes:
        description: one line for a person.
        builder: (pixels, classes) -> a net whose weights are not yet drawn.
        recipe: how it is trained, see `training.recipes`.
        decay: lambda of each trained weight matrix, input to output, in the form (lambda / 2) sum w^2 (E15).
    """

    description: str
    builder: Callable[[int, int], nn.Module]
    recipe: Recipe
    decay: tuple[float, ...]


def build(name: str, shape: Sequence[int], classes: int, *, generator: torch.Generator | None = None) -> nn.Module:
    """Return a fresh net by the paper's name, in float32 on the CPU.

    Hidden sigmoid layers start uniform within +-sqrt(6 / (inputs + outputs)) (Glorot and Bengio 2010,
    equation 16) with zero biases; the softmax nets, whose training is convex, start at zero.

    Args:
        name: a key of `NETS`, for example ``"FC100-100-10"``.
        shape: shape of one image, (C, H, W) or (n,); every side at least 1.
        classes: number of classes K, at least 2. The "-10" in the names is the paper's K.
        generator: where the weights come from; by default one that depends on `name` alone.

    Returns:
        A module from (B, *shape) to logits (B, K), in training mode.

    Raises:
        UnknownNameError: no such net; the message suggests the nearest name.
        InputError: a shape or a number of classes that no net can have.

    Example:
        >>> net = build("FC100-100-10", (1, 28, 28), 10)
        >>> net(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 10])
    """
    if name not in NETS:
        raise UnknownNameError("net", name, NETS)
    if not shape or any(int(side) < 1 for side in shape):
        raise InputError(f"shape must be (C, H, W) with sides of at least 1, got {tuple(shape)}")
    if classes < 2:
        raise InputError(f"classes must be at least 2, got {classes}")
    net = NETS[name].builder(math.prod(int(side) for side in shape), int(classes))
    _draw(net, generator or rng.generator(f"net/{name}", 0))
    return net


def _softmax(pixels: int, classes: int) -> nn.Module:
    """FC10(lambda): no hidden layer and no bias (E15)."""
    return nn.Sequential(
        OrderedDict(flatten=nn.Flatten(), output=_linear(pixels, classes, bias=False)),
    )


def _sigmoid(*hidden: int) -> Callable[[int, int], nn.Module]:
    """Return a builder of a net with these hidden widths, sigmoid units and biases."""

    def builder(pixels: int, classes: int) -> nn.Module:
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        for number, (inputs, outputs) in enumerate(pairwise((pixels, *hidden)), start=1):
            layers[f"hidden{number}"] = _linear(inputs, outputs)
            layers[f"sigmoid{number}"] = nn.Sigmoid()
        layers["output"] = _linear(hidden[-1], classes)
        return nn.Sequential(layers)

    return builder


def _linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """Return a layer with unset weights: `nn.Linear` itself would draw from the global random state."""
    with torch.device("meta"):
        layer = nn.Linear(inputs, outputs, bias=bias)
    return layer.to_empty(device="cpu")


@torch.no_grad()
def _draw(net: nn.Module, generator: torch.Generator) -> None:
    """Set every weight and bias in place."""
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Linear)]
    for layer in layers:
        limit = math.sqrt(6 / (layer.in_features + layer.out_features)) if len(layers) > 1 else 0.0
        layer.weight.copy_(torch.empty(layer.weight.shape).uniform_(-limit, limit, generator=generator))
        if layer.bias is not None:
            layer.bias.zero_()


_SIGMOID_DECAY = (1e-5, 1e-5, 1e-6)  # by layer, Table 1; D13 for FC123-456-10

NETS: dict[str, NetSpec] = {
    "FC10(1e-4)": NetSpec("softmax regression, weight decay 1e-4", _softmax, "convex", (1e-4,)),
    "FC10(1e-2)": NetSpec("softmax regression, weight decay 1e-2", _softmax, "convex", (1e-2,)),
    "FC10(1)": NetSpec("softmax regression, weight decay 1: over-regularised", _softmax, "convex", (1.0,)),
    "FC100-100-10": NetSpec(
        "two layers of 100 sigmoid units, then softmax", _sigmoid(100, 100), "sigmoid", _SIGMOID_DECAY
    ),
    "FC123-456-10": NetSpec(
        "layers of 123 and 456 sigmoid units, then softmax", _sigmoid(123, 456), "sigmoid", _SIGMOID_DECAY
    ),
    "FC200-200-10": NetSpec(
        "two layers of 200 sigmoid units, then softmax", _sigmoid(200, 200), "sigmoid", _SIGMOID_DECAY
    ),
    "AE400-10": NetSpec(
        "400 sigmoid features of a sparse autoencoder, frozen, then softmax",
        _sigmoid(400),
        "autoencoder",
        (1e-6,),
    ),
}

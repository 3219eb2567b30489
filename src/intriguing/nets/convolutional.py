"""A small convolutional net for digits, and how the weights of any net with ReLU layers are drawn.

Szegedy et al. 2014, Figures 1 and 2, show units of a convolutional net trained on MNIST without saying which.
DEVIATION: ours is the plain one of its time: two convolutions with 2 x 2 pooling, one hidden layer.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import nn

from intriguing import rng
from intriguing.errors import InputError

Layer = TypeVar("Layer", bound=nn.Module)

LEAST_SIDE = 4  # of an image: two poolings leave one pixel of it


def convnet(
    shape: Sequence[int],
    classes: int,
    *,
    channels: tuple[int, int] = (16, 32),
    hidden: int = 128,
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """Return a fresh ConvNet, in float32 on the CPU.

    Its layers are ``conv1 relu1 pool1 conv2 relu2 pool2 flatten hidden1 relu3 output``. The convolutions are 5 x 5
    and keep the size, the poolings are 2 x 2 and do not overlap.

    Args:
        shape: shape of one image, (C, H, W), with sides of at least 4.
        classes: number of classes K, at least 2.
        channels: of the two convolutions.
        hidden: units of the hidden layer.
        generator: where the weights come from; by default one of its own.

    Returns:
        A module from (B, C, H, W) to logits (B, K), in training mode.

    Raises:
        InputError: a shape or a number of classes that the net cannot have.

    Example:
        >>> convnet((1, 28, 28), 10)(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 10])
    """
    C, H, W = checked_shape(shape, classes, LEAST_SIDE)
    first, second = channels
    with torch.device("meta"):  # torch would draw the weights from the global random state
        net = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(C, first, 5, padding=2),
                relu1=nn.ReLU(),
                pool1=nn.MaxPool2d(2),
                conv2=nn.Conv2d(first, second, 5, padding=2),
                relu2=nn.ReLU(),
                pool2=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                hidden1=nn.Linear(second * (H // 4) * (W // 4), hidden),
                relu3=nn.ReLU(),
                output=nn.Linear(hidden, classes),
            )
        )
    return drawn(net, generator or rng.generator("net/ConvNet", 0))


def checked_shape(shape: Sequence[int], classes: int, least: int) -> tuple[int, int, int]:
    """Return (C, H, W) if a convolutional net can take such images.

    Raises:
        InputError: another shape, a side below `least`, or fewer than two classes.
    """
    sides = tuple(int(side) for side in shape)
    if len(sides) != 3 or sides[0] < 1 or min(sides[1:]) < least:
        raise InputError(
            f"shape must be (C, H, W) with sides of at least {least} pixels, got {sides}; give images as grids, "
            f"resized to {least} pixels or more"
        )
    if classes < 2:
        raise InputError(f"classes must be at least 2, got {classes}")
    return sides[0], sides[1], sides[2]


@torch.no_grad()
def drawn(net: Layer, generator: torch.Generator) -> Layer:
    """Return a net built on the meta device with its weights drawn, on the CPU; biases are 0.

    Weights are uniform with variance 2 / inputs, which keeps the size of the signal from one ReLU layer to the
    next (He et al. 2015, equation 10); the last layer has variance 1 / inputs, as no ReLU follows it.

    Args:
        net: its convolutions and dense layers stand in the order of the signal.
        generator: on the CPU.
    """
    net.to_empty(device="cpu")
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    for layer in layers:
        inputs = layer.weight[0].numel()
        limit = math.sqrt((3 if layer is layers[-1] else 6) / inputs)
        layer.weight.uniform_(-limit, limit, generator=generator)
        if layer.bias is not None:
            layer.bias.zero_()
    return net

"""Random ReLU nets so small that the nearest adversarial example is known: each linear piece is a quadratic program."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

import truth
from intriguing.attacks import Nearest

Layer = tuple[np.ndarray, np.ndarray]


def two_layers(seed: int, n: int = 6, units: int = 6, classes: int = 3) -> tuple[nn.Sequential, Layer, Layer]:
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((units, n)), 0.3 * rng.standard_normal(units)
    output = rng.standard_normal((classes, units)), 0.3 * rng.standard_normal(classes)
    net = nn.Sequential(nn.Linear(n, units), nn.ReLU(), nn.Linear(units, classes)).double()
    with torch.no_grad():
        for parameter, value in zip(net.parameters(), (*hidden, *output), strict=True):
            parameter.copy_(torch.from_numpy(value))
    return net, hidden, output


def over_optimal(seed: int, count: int, budget: int) -> list[float]:
    """Return found over optimal for images of an enumerated net; 1 where there is nothing to find."""
    net, hidden, output = two_layers(seed)
    images = torch.from_numpy(np.random.default_rng(100 + seed).uniform(0, 1, (count, 6)))
    labels = net(images).argmax(1)
    result = Nearest(budget=budget)(net, images, labels)
    ratios = []
    for x, y, distance in zip(images.numpy(), labels.tolist(), result.distance.tolist(), strict=True):
        optimum = truth.nearest_relu(x, [hidden, output], y)
        ratios.append(distance / optimum if np.isfinite(optimum) else float(np.isinf(distance)))
    return ratios

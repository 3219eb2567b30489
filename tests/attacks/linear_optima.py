"""Linear nets on digits with the exact nearest adversarial example of each image, for the tests of every attack."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from small_nets import digits, linear, seeded
from torch import Tensor, nn

import truth
from intriguing.attacks import Attack, AttackResult
from intriguing.nets.load import Model

COUNT = 10


@dataclass(frozen=True)
class Case:
    """A linear net, images it is right about, and weights in float64."""

    net: nn.Sequential
    images: Tensor
    labels: Tensor

    def optimum(self, norm: float, targets: Tensor | None = None) -> Tensor:
        """Return the least sizes (N,) of changes within the box that reach the target, or any wrong class."""
        weights, bias = (parameter.detach().double().numpy() for parameter in self.net.parameters())
        images = self.images.flatten(1).double().numpy()
        least = []
        for i, (image, label) in enumerate(zip(images, self.labels.tolist(), strict=True)):
            if targets is None:
                least.append(truth.nearest_wrong(norm, image, weights, bias, label))
            elif norm == 2:
                least.append(truth.nearest_linear(image, weights, bias, int(targets[i])).distance)
            else:
                least.append(truth.nearest_linear_in(norm, image, weights, bias, int(targets[i])))
        return torch.tensor(least, dtype=torch.float64)


@cache
def case(classes: int) -> Case:
    """Return random weights on scans of digits: many pixels lie on a side of the box."""
    draw = seeded(classes)
    net = linear(torch.randn(classes, 64, generator=draw), torch.randn(classes, generator=draw))
    images = digits()[0][:COUNT]
    return Case(net, images, net(images).argmax(1))


@cache
def grey(classes: int = 3) -> Case:
    """Return random weights on grey noise, in which the box is far away from every solution."""
    draw = seeded(7)
    net = linear(torch.randn(classes, 36, generator=draw), torch.zeros(classes))
    images = 0.4 + 0.2 * torch.rand(COUNT, 1, 6, 6, generator=draw)
    return Case(net, images, net(images).argmax(1))


def ratios(attack: Attack, problem: Case, targets: Tensor | None = None) -> tuple[AttackResult, np.ndarray]:
    """Attack; return the result and found over optimal for each image, none of which may be below 1."""
    result = attack(Model(problem.net), problem.images, problem.labels, generator=seeded())
    assert result.found.all()
    ratio = (result.size / problem.optimum(result.norm, targets)).numpy()
    # float32 logits of these weights are wrong by about 1e-5 of the distance to the boundary.
    assert ratio.min() >= 1 - 1e-4, "nearer than the nearest"
    return result, ratio


def any_wrong(problem: Case) -> Tensor:
    """Return a wrong class for each image, the next but one."""
    classes = problem.net[1].out_features
    return (problem.labels + 1) % classes


def box_moved(attack: Attack, problem: Case, low: float = -3.0, width: float = 8.0) -> None:
    """Check that images stretched and shifted into another box, before the same net, are attacked alike."""

    class Unstretched(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return problem.net((images - low) / width)

    here = attack(Model(problem.net), problem.images, problem.labels, generator=seeded())
    moved = Model(Unstretched(), box=(low, low + width))
    images = (problem.images * width + low).clamp(low, low + width)
    there = attack(moved, images, problem.labels, generator=seeded())
    assert torch.equal(here.found, there.found)
    # Pixels round differently there, and steps that turn at a success then turn elsewhere: the last ones are about 2%.
    torch.testing.assert_close(there.size / width, here.size, rtol=0.03, atol=0)

"""Small nets and images for the tests of attacks, and nets that count, fail or watch what they are fed."""

from __future__ import annotations

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@cache
def digits() -> tuple[Tensor, Tensor]:
    """Return (N, 1, 8, 8) scans in [0, 1], multiples of 1/16, with labels."""
    data = load_digits()
    return torch.from_numpy(data.images).float()[:, None] / 16, torch.from_numpy(data.target).long()


def linear(weight: Tensor, bias: Tensor) -> nn.Sequential:
    """Return logits W x + b of flattened images, in the dtype of the weights."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return nn.Sequential(nn.Flatten(), layer)


def random_linear(classes: int = 10, pixels: int = 64, *, seed: int = 0, scale: float = 1.0) -> nn.Sequential:
    draw = seeded(seed)
    weight = torch.randn(classes, pixels, generator=draw, dtype=torch.float64)
    bias = torch.randn(classes, generator=draw, dtype=torch.float64)
    return linear((scale * weight).float(), (scale * bias).float())


@cache
def _trained_state() -> dict[str, Tensor]:
    net = _unset()
    draw = seeded(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=draw))
    images, labels = digits()
    adam = torch.optim.Adam(net.parameters(), 0.05)
    for _ in range(60):
        adam.zero_grad()
        nn.functional.cross_entropy(net(images[:600]), labels[:600]).backward()
        adam.step()
    return {name: value.detach().clone() for name, value in net.state_dict().items()}


def _unset() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.Sigmoid(), nn.Linear(24, 10))


def sigmoid_net(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Return a fresh copy of one trained 64-24-10 net, fit for any change a test makes to it."""
    net = _unset()
    net.load_state_dict(_trained_state())
    return net.to(dtype)


class Counting(nn.Module):
    """A net that counts the rows it is fed, and the rows a gradient comes back through, from outside."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.forwards = self.backwards = 0

    def forward(self, images: Tensor) -> Tensor:
        self.forwards += len(images)
        if images.requires_grad:
            images = images.clone()
            images.register_hook(self._count)
        return self.net(images)

    def _count(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


class Recording(nn.Module):
    """A net that keeps every point it is asked for a gradient at."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.points: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        if images.requires_grad:
            self.points.append(images.detach().flatten(1).clone())
        return self.net(images)


class NaNOffGrid(nn.Module):
    """A net that is NaN wherever a pixel is more than `slack` sixteenths off a multiple of 1/16.

    Either for all images, or for those whose first pixel is 1 alone; no gradient moves that pixel.
    """

    def __init__(self, net: nn.Sequential, *, marked: bool = False, slack: float = 0.0) -> None:
        super().__init__()
        self.net, self.marked, self.slack = net, marked, slack
        with torch.no_grad():
            net[1].weight[:, 0] = 0

    def forward(self, images: Tensor) -> Tensor:
        grid = images * 16
        bad = ((grid - grid.round()).abs() > self.slack).flatten(1).any(1)
        if self.marked:
            bad &= images.flatten(1)[:, 0] == 1
        return torch.where(bad[:, None], torch.nan, self.net(images))


class Failing(nn.Module):
    """A net that raises at its n-th call."""

    def __init__(self, net: nn.Module, at: int) -> None:
        super().__init__()
        self.net, self.left = net, at

    def forward(self, images: Tensor) -> Tensor:
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("the net broke")
        return self.net(images)

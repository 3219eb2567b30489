"""Nets for the tests of certificates, and the search for an adversarial example inside a certified radius."""

from __future__ import annotations

import math

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from intriguing import norms
from intriguing.nets.load import Model


class Block(nn.Module):
    """A residual net in functional style: strided convolutions, normalisation, max-pooling, a reshaped end."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, channels, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.skip = nn.Conv2d(1, channels, 1, stride=2)
        self.output = nn.Linear(4 * channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = nn.functional.relu(self.norm(self.conv(x)))
        h = torch.add(self.second(h), self.skip(x))
        h = nn.functional.dropout(nn.functional.max_pool2d(torch.relu(h), 2), training=self.training)
        return self.output(h.view(h.size(0), -1))


class Skipping(nn.Module):
    """Two layers of tanh, the second fed by the pixels too, so that no layer is a gateway."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.skip = nn.Linear(64, 12), nn.Linear(12, 12), nn.Linear(64, 12)
        self.output = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.output(torch.tanh(self.second(torch.tanh(self.first(x))) + self.skip(x)))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(net: nn.Module, seed: int = 0, scale: float = 1.0) -> nn.Module:
    """Return the net with normal weights of variance scale^2 / inputs and moments that are no trivial ones."""
    draw = seeded(seed)
    with torch.no_grad():
        for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=draw)
            if "running_var" in name:
                tensor.copy_(noise.abs() + 0.5)
            elif tensor.ndim > 1:
                tensor.copy_(scale * noise / math.sqrt(tensor[0].numel()))
            else:
                tensor.copy_(0.3 * noise)
    return net.eval()


def small_nets(seed: int = 0) -> dict[str, Model]:
    """Return untrained nets of every kind of layer for images (1, 8, 8)."""
    dense = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 10))
    sigmoid = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 20), nn.Sigmoid(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 10)
    )
    pooled = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding="same"), nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(2, 3, 2, padding=1), nn.ReLU(),
        nn.AvgPool2d(2, 2, 1), nn.Sigmoid(), nn.Flatten(), nn.Linear(27, 10),
    )  # fmt: skip
    binary = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.ReLU(), nn.Linear(10, 1))
    return {
        "dense": Model(drawn(dense, seed + 1, 2.0)),
        "sigmoid": Model(drawn(sigmoid, seed + 2, 3.0)),
        "pooled": Model(drawn(pooled, seed + 3, 2.0), mean=0.3, std=0.5),
        "residual": Model(drawn(Block(), seed + 4, 2.0)),
        "binary": Model(drawn(binary, seed + 5, 2.0)),
    }


def digits(count: int) -> tuple[Tensor, Tensor]:
    data = load_digits()
    return torch.from_numpy(data.images[:count]).float()[:, None] / 16, torch.from_numpy(data.target[:count]).long()


def trained(net: nn.Module, steps: int = 60, seed: int = 1) -> nn.Module:
    images, labels = digits(800)
    drawn(net, seed).train()
    adam = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(steps):
        adam.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        adam.step()
    return net.eval()


def dense(*activations: nn.Module, width: int = 14) -> nn.Module:
    sides = [64, *[width] * len(activations)]
    layers = [
        part
        for before, after, activation in zip(sides, sides[1:], activations, strict=False)
        for part in (nn.Linear(before, after), activation)
    ]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(width, 10))


def smooth_nets(seed: int = 0) -> dict[str, Model]:
    convolutional = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.Sigmoid(), nn.AvgPool2d(2), nn.Conv2d(2, 2, 2), nn.BatchNorm2d(2), nn.Tanh(),
        nn.Flatten(), nn.Linear(18, 10),
    )  # fmt: skip
    return {
        "one layer": Model(drawn(dense(nn.Sigmoid()), seed + 1, 6.0)),
        "two layers": Model(drawn(dense(nn.Sigmoid(), nn.Sigmoid()), seed + 2, 4.0)),
        "three layers": Model(drawn(dense(nn.Tanh(), nn.Sigmoid(), nn.Tanh()), seed + 3, 3.0)),
        "convolutional": Model(drawn(convolutional, seed + 4, 3.0), mean=0.3, std=0.5),
        "skipping": Model(drawn(Skipping(), seed + 5, 2.0)),
        "more units than pixels": Model(drawn(dense(nn.Sigmoid(), nn.Tanh(), width=70), seed + 6, 3.0)),
        "learned": Model(trained(dense(nn.Sigmoid(), nn.Sigmoid()), seed=seed + 7)),
    }


def into_region(x: Tensor, moved: Tensor, radius: Tensor, norm: float, box: tuple[float, float]) -> Tensor:
    """Return points inside box and ball, for certain: projected, then shrunk by more than rounding."""
    r = norms.project_box(moved, *box) - x
    size = norms.l2(r) if norm == 2 else norms.linf(r)
    factor = torch.where(size > radius, radius / size.clamp_min(1e-300), 1.0) * (1 - 1e-6)
    return x + r * factor.to(r).reshape(-1, *([1] * (r.ndim - 1)))


def violations(
    model: Model, x: Tensor, y: Tensor, radius: Tensor, norm: float, steps: int = 60, seed: int = 0
) -> Tensor:
    """Return which images (B,) have an adversarial example inside their radius, as far as a search tells.

    Random points first, then gradient ascent on the difference of the most endangered logit, from the image and from
    a random point; 3 * `steps` evaluations per image at most.
    """
    draw = seeded(seed)
    finite = radius.clamp_max(norms.l2(torch.ones_like(x)) if norm == 2 else norms.linf(torch.ones_like(x)))
    wide = finite.to(x).reshape(-1, *([1] * (x.ndim - 1)))
    dimensions = x[0].numel()
    caught = torch.zeros(len(x), dtype=torch.bool)

    def see(points: Tensor) -> None:
        nonlocal caught
        with torch.no_grad():
            caught |= (model(points).argmax(1) != y) & (radius > 0)

    with model.frozen():
        for _ in range(steps):
            noise = torch.randn(x.shape, generator=draw).to(x)
            noise = noise * 2 / math.sqrt(dimensions) if norm == 2 else noise.sign()
            see(into_region(x, x + wide * noise, finite, norm, model.box))
        for start in range(2):
            points = x.clone()
            if start:
                points = into_region(x, x + wide * torch.randn(x.shape, generator=draw).to(x), finite, norm, model.box)
            for step in range(steps // 2):
                points.requires_grad_()
                z = model(points)
                others = z.scatter(1, y[:, None], -torch.inf).amax(1)
                (slope,) = torch.autograd.grad((others - z.gather(1, y[:, None])[:, 0]).sum(), points)
                size = norms.l2(slope).clamp_min(1e-30).to(x).reshape(wide.shape)
                way = slope / size if norm == 2 else slope.sign()
                length = 2 * wide if step < 3 else wide / (1 + step / 4)
                points = into_region(x, points.detach() + length * way, finite, norm, model.box)
                see(points)
    return caught

"""What each layer makes of a change: exact where layers are linear, and a chain multiplies to the whole net's gain."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from intriguing.bounds.layer_gains import layer_gains
from intriguing.bounds.network import layer_bounds, product
from intriguing.nets.load import Model


def changes(shape: tuple[int, ...], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(5, *shape, generator=draw), 0.05 * torch.randn(5, *shape, generator=draw)


def test_gains_of_a_chain_multiply_to_the_gain_of_the_net_and_none_is_above_its_bound() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(),
        nn.Sequential(nn.Linear(36, 8), nn.Tanh()), nn.Linear(8, 3),
    )  # fmt: skip
    model = Model(net, mean=0.4, std=0.25)
    x, r = changes((1, 8, 8))
    bounds = layer_bounds(model, (1, 8, 8))
    gains = layer_gains(model, bounds, x, r)
    assert [bound.name for bound in bounds][:2] == ["preprocessing", "0+1"]
    for bound, gain in zip(bounds, gains, strict=True):
        assert bool((gain <= bound.bound * (1 + 1e-9)).all()), bound.name
    whole = Model(net.double(), mean=0.4, std=0.25)
    moved = whole.logits(x.double() + r.double()) - whole.logits(x.double())
    expected = moved.norm(dim=1) / r.double().flatten(1).norm(dim=1)
    assert torch.stack(gains).prod(0).tolist() == pytest.approx(expected.tolist(), rel=1e-9)
    assert float(expected.max()) <= product(bounds)


def test_a_matrix_along_its_singular_vectors_and_a_module_that_stands_twice() -> None:
    twice = nn.ReLU()
    net = nn.Sequential(nn.Linear(2, 2, bias=False), twice, nn.Linear(2, 2, bias=False), twice)
    for layer, scale in ((net[0], (3.0, 1.0)), (net[2], (0.5, 2.0))):
        layer.weight.data.copy_(torch.diag(torch.tensor(scale)))
    model = Model(net)
    x, r = torch.full((2, 2), 0.5), 0.1 * torch.eye(2)
    gains = torch.stack(layer_gains(model, layer_bounds(model, (2,)), x, r))
    assert gains.flatten().tolist() == pytest.approx([3.0, 1.0, 1.0, 1.0, 0.5, 2.0, 1.0, 1.0])


def test_the_net_is_left_as_it_is() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    net.train()
    x, r = changes((1, 2, 2))
    layer_gains(Model(net), layer_bounds(net, (1, 2, 2)), x, r)
    assert net.training
    assert net[1].weight.dtype == torch.float32
    assert not net[1]._forward_hooks
    assert not net[1]._forward_pre_hooks

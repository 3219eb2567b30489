"""Measured gains: exact on linear maps, below the bound everywhere, and the net as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from intriguing.bounds.gain import lipschitz_lower, random_gains
from intriguing.bounds.network import layer_bounds, product
from intriguing.errors import InputError
from intriguing.nets.alexnet import alexnet
from intriguing.nets.load import Model
from intriguing.nets.zoo import build


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int, *shape: int) -> torch.Tensor:
    return torch.rand(count, *shape, generator=draw(9))


def test_a_linear_layer_gives_up_its_norm_from_every_image() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 8))
    nn.init.normal_(net[1].weight, generator=draw(1))
    gains = lipschitz_lower(net, images(5, 3, 2, 2), steps=60, generator=draw())
    truth = product(layer_bounds(net, (3, 2, 2)))
    assert gains.gain.tolist() == pytest.approx([truth] * 5, rel=1e-4)  # what 60 power iterations leave
    assert float(gains.gain.max()) <= truth


def test_the_ascent_finds_the_steep_place_of_a_sigmoid() -> None:
    # sigmoid(4 (x - 5)) is flat at 0: its steepest chord from there reaches just past x = 5.
    net = nn.Sequential(nn.Linear(1, 1), nn.Sigmoid()).double()
    with torch.no_grad():
        net[0].weight.fill_(4.0)
        net[0].bias.fill_(-20.0)
    found = lipschitz_lower(net, torch.zeros(1, 1, dtype=torch.float64), steps=40, generator=draw())
    r = torch.linspace(-20, 20, 400_001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        best = float(((net(r) - net(0 * r)).abs() / r.abs()).nan_to_num().max())
    assert float(found.gain) == pytest.approx(best, rel=0.02)  # the last steps change the norm by 4%
    assert float(found.gain) <= best * (1 + 1e-9)
    assert 4 < float(found.size) < 8


@pytest.mark.parametrize("name", ["FC100-100-10", "AE400-10"])
def test_below_the_product_and_above_random_directions(name: str) -> None:
    net, x = build(name, (1, 8, 8), 10), images(20, 1, 8, 8)
    gains = lipschitz_lower(net, x, steps=20, generator=draw())
    random = random_gains(net, x, gains.size, draws=5, generator=draw(1))
    assert float(gains.gain.max()) <= product(layer_bounds(net, (1, 8, 8)))
    assert bool((gains.gain > random.amax(0)).all())


def test_below_the_product_of_a_convolutional_net() -> None:
    net, x = alexnet((1, 64, 64), 5, width=1 / 32), images(3, 1, 64, 64)
    gains = lipschitz_lower(net, x, steps=5, generator=draw())
    assert bool((gains.gain > 0).all())
    assert float(gains.gain.max()) <= product(layer_bounds(net, (1, 64, 64)))


def test_one_image_alone_is_the_same() -> None:
    net, x = build("FC100-100-10", (1, 4, 4), 10), images(4, 1, 4, 4)
    whole = random_gains(net, x, 0.1, draws=1, generator=draw())
    alone = random_gains(net, x[:1], 0.1, draws=1, generator=draw())
    assert float(whole[0, 0]) == pytest.approx(float(alone[0, 0]), rel=1e-9)


def test_random_gains_of_a_known_map() -> None:
    stretched = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        stretched.weight.copy_(2 * torch.eye(3))
    found = random_gains(stretched, images(4, 3), torch.tensor([0.1, 1.0, 2.0, 5.0]), draws=3, generator=draw())
    assert found.shape == (3, 4)
    assert found.flatten().tolist() == pytest.approx([2.0] * 12)


def test_preprocessing_counts() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    plain = lipschitz_lower(net, images(2, 1, 2, 2), generator=draw()).gain
    scaled = lipschitz_lower(Model(net, std=0.5), images(2, 1, 2, 2), generator=draw()).gain
    assert scaled.tolist() == pytest.approx((2 * plain).tolist(), rel=1e-4)


def test_units_that_are_off_give_no_gain_and_no_error() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with torch.no_grad():
        net[0].bias.fill_(-1e6)
    assert lipschitz_lower(net, images(2, 2), steps=3, generator=draw()).gain.tolist() == [0, 0]


def test_the_net_is_left_as_it_was() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.BatchNorm1d(4)).train()
    moments = net[2].running_mean.clone()
    lipschitz_lower(net, images(3, 4), steps=2, generator=draw())
    assert all(module.training for module in net.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    assert net[0].weight.dtype == torch.float32
    assert torch.equal(net[2].running_mean, moments)


def test_wrong_arguments() -> None:
    with pytest.raises(InputError, match="steps"):
        lipschitz_lower(nn.Identity(), images(1, 2), steps=0, generator=draw())
    with pytest.raises(InputError, match="floating"):
        lipschitz_lower(nn.Identity(), torch.zeros(1, 2, dtype=torch.int64), generator=draw())

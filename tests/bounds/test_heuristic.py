"""The heuristic where its presumptions hold, where one fails, and the Gaussian norm in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from intriguing.bounds.gain import random_gains
from intriguing.bounds.heuristic import gaussian_norm, predicted_gain
from intriguing.errors import ModelError
from intriguing.nets.zoo import build


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 100])
def test_equal_variances_give_the_mean_of_a_chi_variable(n: int) -> None:
    chi = math.sqrt(2) * math.exp(math.lgamma((n + 1) / 2) - math.lgamma(n / 2))
    assert gaussian_norm(torch.full((n,), 4.0)) == pytest.approx(2 * chi, rel=1e-7)


def test_unequal_variances_against_many_draws() -> None:
    v = torch.tensor([9.0, 1.0, 0.01, 0.0])
    sample = (torch.randn(400_000, 4, generator=draw()) * v.sqrt()).norm(dim=1)
    assert gaussian_norm(v) == pytest.approx(float(sample.mean()), abs=4 * float(sample.std()) / math.sqrt(400_000))
    assert gaussian_norm(torch.zeros(3)) == 0


def measured(net: nn.Module, x: torch.Tensor, draws: int = 200) -> float:
    return float(random_gains(net, x, 1e-4, draws=draws, generator=draw(2)).mean())


def test_a_linear_net_is_predicted() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    nn.init.normal_(net[1].weight, generator=draw(3))
    x = torch.rand(5, 1, 2, 2, generator=draw())
    # 20,000 draws whose gains spread by less than a half: four standard errors are below 1.5%.
    assert predicted_gain(net, x).mean == pytest.approx(measured(net, x, 4000), rel=0.015)


@pytest.mark.parametrize("name", ["FC100-100-10", "FC200-200-10"])
def test_an_untrained_net_is_predicted_both_ways(name: str) -> None:
    # Random weights have no structure, so that both presumptions hold.
    net, x = build(name, (1, 8, 8), 10, generator=draw(1)), torch.rand(40, 1, 8, 8, generator=draw())
    guess = predicted_gain(net, x)
    assert guess.mean == pytest.approx(measured(net, x), rel=0.1)
    assert guess.uncorrelated == pytest.approx(measured(net, x), rel=0.15)


def test_aligned_layers_are_predicted_only_with_correlations() -> None:
    # The first layer copies one direction into every unit, the second adds the units up again.
    net = nn.Sequential(nn.Linear(20, 30, bias=False), nn.Tanh(), nn.Linear(30, 1, bias=False))
    direction = torch.randn(20, generator=draw())
    with torch.no_grad():
        net[0].weight.copy_(direction.expand(30, 20) / 100)
        net[2].weight.fill_(1.0)
    x = torch.randn(30, 20, generator=draw(1))
    guess = predicted_gain(net, x)
    assert guess.mean == pytest.approx(measured(net, x), rel=0.05)
    # What is lost is the coherence of 30 units, less what the norm of a single Gaussian is below its root mean square.
    assert guess.uncorrelated < 0.3 * measured(net, x)


def test_units_of_unlike_slope_are_predicted() -> None:
    # Half of the units are nearly saturated: the coherent sum is that of slopes, not of their squares.
    net = nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.randn(20, generator=draw()).expand(30, 20) / 100)
        net[0].bias.copy_(2.0 * (torch.arange(30) % 2))
        net[2].weight.fill_(1.0)
    x = torch.randn(30, 20, generator=draw(1))
    assert predicted_gain(net, x).mean == pytest.approx(measured(net, x, 1000), rel=0.03)


def test_other_layers_are_refused_by_name() -> None:
    with pytest.raises(ModelError, match="layer 1: no heuristic for a MaxPool2d"):
        predicted_gain(nn.Sequential(nn.Flatten(), nn.MaxPool2d(2)), torch.zeros(1, 1, 4, 4))

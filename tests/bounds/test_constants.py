from __future__ import annotations

import itertools

import pytest
import torch
from soundness import Block, drawn, seeded
from torch import nn

from intriguing.bounds import constants
from intriguing.bounds.constants import METHODS, lipschitz
from intriguing.errors import InputError, ModelError, UnknownNameError
from intriguing.nets.load import Model


def _dense(*widths: int, seed: int = 0, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), activation()]
    return drawn(nn.Sequential(*layers[:-1]), seed)


def _worst_pattern(net: nn.Sequential) -> float:
    """Return max over 0/1 diagonals of ||W_2 D W_1||: the most that any bound from W alone can be blamed for."""
    first, second = net[0].weight.detach().double(), net[2].weight.detach().double()
    patterns = itertools.product((0.0, 1.0), repeat=len(first))
    return max(float(torch.linalg.matrix_norm(second * torch.tensor(p).double() @ first, 2)) for p in patterns)


@pytest.mark.parametrize("seed", range(3))
def test_upper_bounds_hold_for_the_worst_pattern_of_slopes(seed):
    net = _dense(5, 6, 4, seed=seed)
    exact = _worst_pattern(net)
    pairs, product = lipschitz(net, "pairs").value, lipschitz(net, "product").value
    assert exact * (1 - 1e-9) <= pairs <= product * (1 + 1e-9)
    assert pairs < 0.9 * product


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Sigmoid, nn.Tanh])
def test_bounds_are_in_order(activation):
    net = _dense(12, 8, 6, 3, seed=2, activation=activation)
    values = {m: lipschitz(net, m).value for m in ("ascent", "pairs", "product")}
    assert 0 < values["ascent"] <= values["pairs"] <= values["product"]


@pytest.mark.parametrize("method", ["product", "pairs", "ascent"])
def test_a_linear_net_has_its_norm(method):
    net = nn.Linear(6, 4).double()
    exact = float(torch.linalg.matrix_norm(net.weight.detach(), 2))
    assert lipschitz(Model(net, std=0.5), method).value == pytest.approx(2 * exact, rel=1e-3)


def test_convolutions_are_written_out():
    net = drawn(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3)))
    bound = lipschitz(net, "pairs", shape=(1, 5, 5)).value
    assert lipschitz(net, "ascent", shape=(1, 5, 5)).value <= bound <= lipschitz(net, shape=(1, 5, 5)).value


def test_semidefinite_bounds_lie_between():
    pytest.importorskip("cvxpy", reason="the semidefinite program needs cvxpy (extra: sdp)")
    for seed, activation in [(0, nn.ReLU), (1, nn.Tanh)]:
        net = _dense(10, 7, 6, 3, seed=seed, activation=activation)
        values = [lipschitz(net, m).value for m in ("ascent", "lipsdp", "lipsdp-layer", "product")]
        assert values == sorted(values)
        assert values[1] <= lipschitz(net, "pairs").value
    small = _dense(5, 6, 4, seed=0)
    assert lipschitz(small, "lipsdp").value >= _worst_pattern(small)


def test_any_multipliers_give_a_sound_bound():
    """What a solver returns is never trusted: rho is computed from it."""
    for seed in range(4):
        net = _dense(5, 6, 4, seed=seed)
        weights = [net[0].weight.detach().double(), net[2].weight.detach().double()]
        strengths = [float(torch.linalg.matrix_norm(W, 2)) for W in weights]
        scaled = [W / s for W, s in zip(weights, strengths, strict=True)]
        for t in (torch.rand(6, generator=seeded(seed)).double() * 2, torch.ones(6).double(), -torch.ones(6).double()):
            rho = constants._least_rho(scaled, t)
            assert rho**0.5 * strengths[0] * strengths[1] >= _worst_pattern(net) * (1 - 1e-9)


def test_the_solver_is_named_where_it_is_missing(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(constants.importlib, "import_module", missing)
    with pytest.raises(InputError, match=r"intriguing\[sdp\]"):
        lipschitz(_dense(4, 3, 2), "lipsdp")


def test_mistakes_are_named():
    assert set(METHODS) >= {"product", "pairs", "lipsdp", "ascent"}
    with pytest.raises(UnknownNameError, match="pairs"):
        lipschitz(_dense(4, 3, 2), "pair")
    with pytest.raises(InputError, match="shape"):
        lipschitz(Block(), "pairs")
    with pytest.raises(ModelError, match="in a row"):
        lipschitz(Block(), "pairs", shape=(1, 8, 8))

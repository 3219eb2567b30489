"""The objectives against sums written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from intriguing.errors import InputError
from intriguing.training import objectives


def test_weight_decay_is_half_lambda_times_the_squares_per_layer() -> None:
    g = torch.Generator().manual_seed(0)
    weights = [torch.randn(3, 4, generator=g), torch.randn(2, 3, generator=g)]
    expected = sum(
        rate / 2 * float(value) ** 2
        for weight, rate in zip(weights, (0.1, 0.02), strict=True)
        for value in weight.flatten()
    )
    assert objectives.penalty(weights, (0.1, 0.02)).item() == pytest.approx(expected, rel=1e-5)
    w = weights[0].clone().requires_grad_()
    objectives.penalty([w], [0.1]).backward()
    torch.testing.assert_close(w.grad, 0.1 * w.detach())


def test_adams_weight_decay_is_the_same_term() -> None:
    """One step of Adam from decay alone equals one step on the written-out penalty."""
    ends = []
    for rate, written in ((0.3, 0.0), (0.0, 0.3)):
        w = nn.Parameter(torch.tensor([[1.0, -2.0]]))
        adam = torch.optim.Adam([{"params": [w], "weight_decay": rate}], lr=0.1)
        for _ in range(3):
            adam.zero_grad()
            (w.sum().sin() + objectives.penalty([w], [written])).backward()
            adam.step()
        ends.append(w.detach())
    torch.testing.assert_close(ends[0], ends[1])


def test_the_mean_cross_entropy_is_not_divided_by_the_classes() -> None:
    w = torch.ones(10, 4)
    value = objectives.classification(torch.zeros(7, 10), torch.arange(7), [w], [0.5])
    assert value.item() == pytest.approx(math.log(10) + 0.25 * 40, rel=1e-6)


def test_biases_are_not_decayed() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.Sigmoid(), nn.Linear(3, 2))
    assert objectives.weight_matrices(net) == [net[0].weight, net[2].weight]


def test_one_decay_per_layer() -> None:
    with pytest.raises(InputError, match="one lambda per layer"):
        objectives.penalty([torch.zeros(2, 2)], [0.1, 0.1])


def test_sparse_reconstruction_by_hand() -> None:
    x = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    y = torch.tensor([[0.5, 1.0], [1.0, 0.0]])
    h = torch.tensor([[0.2], [0.4]])
    error = (0.25 + 1.0) / 2
    kl = 0.05 * math.log(0.05 / 0.3) + 0.95 * math.log(0.95 / 0.7)
    for sparsity, expected in (("none", error), ("l1", error + 3 * 0.3), ("kl", error + 3 * kl)):
        value = objectives.sparse_reconstruction(x, y, h, sparsity=sparsity)
        assert value.item() == pytest.approx(expected, rel=1e-6)
    with pytest.raises(InputError, match="'l2'"):
        objectives.sparse_reconstruction(x, y, h, sparsity="l2")


def test_the_divergence_is_least_at_its_target() -> None:
    x = torch.zeros(1, 2)
    values = {
        mean: objectives.sparse_reconstruction(x, x, torch.full((1, 3), mean)).item() for mean in (0.01, 0.05, 0.2)
    }
    assert values[0.05] == pytest.approx(0.0, abs=1e-6)
    assert values[0.01] > 0.01
    assert values[0.2] > 0.01

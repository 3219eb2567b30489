"""The Lipschitz penalty: singular values by power iteration against exact ones, and what the penalty does."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from intriguing.errors import InputError
from intriguing.records import Inputs, Record
from intriguing.training.lipschitz import TopSingularValues, layer_bounds, train_penalised
from intriguing.training.recipes import restore


@dataclass(frozen=True)
class Split:
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...] = tuple("0123456789")
    hash: str = "test"


@pytest.fixture(scope="module")
def splits() -> dict[str, Split]:
    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float().div(16).unsqueeze(1)
    labels = torch.from_numpy(bunch.target).long()
    return {"train": Split(images[:1000], labels[:1000]), "test": Split(images[1000:1400], labels[1000:1400])}


def penalised(splits: dict[str, Split], strength: float, seed: int = 0, **hyper: Any) -> Record:
    settings = {"epochs": 1, "steps": 400} | hyper
    return train_penalised(Inputs(data=splits.__getitem__), seed=seed, strength=strength, **settings)


def test_power_iteration_finds_value_and_gradient() -> None:
    draw = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((5, 9), (7, 5), (4, 7))]
    for weight in weights:
        weight.requires_grad_()
    top = TopSingularValues(weights, torch.Generator().manual_seed(1))
    for _ in range(400):
        values = top()
    values.sum().backward()
    for weight, value in zip(weights, values.tolist(), strict=True):
        u, s, v = torch.linalg.svd(weight.detach())
        assert value == pytest.approx(float(s[0]), rel=1e-9)
        assert weight.grad is not None
        torch.testing.assert_close(weight.grad, torch.outer(u[:, 0], v[0]), rtol=1e-4, atol=1e-6)


def test_it_follows_a_matrix_that_changes() -> None:
    """One step of the iteration for each small step of the matrix is enough."""
    weight = nn.Parameter(torch.diag(torch.tensor([3.0, 1.0, 0.5])))
    top = TopSingularValues([weight], torch.Generator().manual_seed(0))
    for _ in range(30):
        top()
    for _ in range(50):
        with torch.no_grad():
            weight[0, 0] -= 0.02
            weight[1, 1] += 0.01
        value = top().item()
        exact = float(torch.linalg.matrix_norm(weight.detach(), 2))
        assert value <= exact * (1 + 1e-6)  # u W v never exceeds the norm, up to rounding
        assert value >= 0.97 * exact


def test_layer_bounds_count_the_slope_of_sigmoid_units() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.Sigmoid(), nn.Linear(2, 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[0.0, 8.0], [1.0, 0.0]]))
        net[3].weight.copy_(torch.diag(torch.tensor([-3.0, 2.0])))
    assert layer_bounds(net) == pytest.approx([2.0, 3.0])
    with pytest.raises(InputError, match="Tanh"):
        layer_bounds(nn.Sequential(nn.Linear(2, 2), nn.Tanh()))


def test_the_product_bounds_what_the_net_does(splits: dict[str, Split]) -> None:
    record = penalised(splits, 0.0)
    net = restore(record, "FC100-100-10", (1, 8, 8), 10).double()
    x = splits["test"].images.double()
    y = x.flip(0)
    gain = (net(x) - net(y)).detach().norm(dim=1) / (x - y).flatten(1).norm(dim=1).clamp_min(1e-12)
    assert float(gain.max()) <= record.values["product"]
    assert record.values["product"] == pytest.approx(math.prod(record.values["layers"]))


def test_a_stronger_penalty_makes_a_smaller_bound(splits: dict[str, Split]) -> None:
    records = [penalised(splits, strength) for strength in (0.0, 3e-3, 3e-2)]
    products = [record.values["product"] for record in records]
    assert products[0] > 2 * products[1] > 4 * products[2]
    assert records[1].values["test_error"] < 0.12
    for record in records:
        json.dumps(record.values, allow_nan=False)
        exact = [float(torch.linalg.matrix_norm(record.tensors[f"{name}.weight"].double(), 2)) for name in
                 ("hidden1", "hidden2", "output")]  # fmt: skip
        assert record.values["layers"] == pytest.approx([exact[0] / 4, exact[1] / 4, exact[2]], rel=1e-6)


def test_it_weighs_the_top_direction_alone(splits: dict[str, Split]) -> None:
    """Plain decay that makes the bound as small takes much more of the other directions."""
    spectral, decayed = penalised(splits, 1e-2), penalised(splits, 0.0, decay=[3e-3] * 3)

    def share(record: Record) -> float:
        s = torch.linalg.svdvals(record.tensors["hidden1.weight"])
        return float(s[0] ** 2 / s.square().sum())

    assert share(spectral) < 0.7 * share(decayed)


def test_without_strength_it_is_the_ordinary_training(splits: dict[str, Split]) -> None:
    first, again, other = (penalised(splits, 0.0, seed, steps=50) for seed in (1, 1, 2))
    assert all(torch.equal(first.tensors[name], again.tensors[name]) for name in first.tensors)
    assert not torch.equal(first.tensors["output.weight"], other.tensors["output.weight"])
    with pytest.raises(InputError, match="strength"):
        penalised(splits, -1.0)
    with pytest.raises(InputError, match="strength"):
        penalised(splits, math.nan)

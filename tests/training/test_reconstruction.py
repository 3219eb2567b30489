"""Features by sparse reconstruction and the head on them: what is minimised, what is frozen, what is looked at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from intriguing.errors import DataError, InputError, ModelError
from intriguing.nets.load import Model
from intriguing.nets.quocnet import detector
from intriguing.records import Inputs, Record
from intriguing.rng import generator
from intriguing.training import reconstruction
from intriguing.training.reconstruction import CENTRE, learn_features, prepared, restore

SIZES = {"stages": 2, "maps": 4, "field": 3, "pool": 2, "window": 3, "padded": True}
SETTINGS: dict[str, Any] = {"seed": 0, "prefix": "", "size": 8, "sizes": SIZES, "steps": 60}


@dataclass(frozen=True)
class Set:
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...] = tuple("0123456789")
    hash: str = "0" * 64


@cache
def digits() -> dict[str, Set]:
    data = load_digits()
    images, labels = torch.from_numpy(data.images).float()[:, None] / 16, torch.from_numpy(data.target).long()
    return {"train": Set(images[:600], labels[:600]), "test": Set(images[600:1000], labels[600:1000])}


def inputs(data: Mapping[str, Set] | None = None, **needs: Record) -> Inputs:
    return Inputs(data=(data or digits()).__getitem__, needs=needs)


@cache
def learned() -> Record:
    return learn_features(inputs(), **SETTINGS)


def accuracy(counts: Mapping[str, int]) -> float:
    return (counts["hits"] / counts["positives"] + counts["passes"] / counts["negatives"]) / 2


def test_learning_reconstructs_and_sparsity_costs_reconstruction() -> None:
    for stage in learned().values["stages"]:
        assert stage["left_out_after"] < 0.7 * stage["left_out_before"]
    sparse = learn_features(inputs(), **SETTINGS, sparsity=2.0).values["stages"][0]
    plain = learned().values["stages"][0]
    assert sparse["active_after"] < 0.8 * plain["active_after"]
    assert sparse["left_out_after"] > plain["left_out_after"]


def test_the_report_of_a_stage_is_its_objective() -> None:
    """Before learning the weights are those drawn, so the numbers can be worked out from the images."""
    x, _, _ = prepared(digits()["train"], 2000, 8, 0)
    net = detector(8, 1, generator=generator("features", 0), **SIZES)
    x = x[:200] - CENTRE
    layer, pool = net.features.filter1, net.features.pool1
    with torch.no_grad():
        left_out = (layer.decode(layer(x)) - x).square().sum() / x.square().sum()
        active = pool(layer(x)).sum() / len(x)
    stage = learned().values["stages"][0]
    assert stage["left_out_before"] == pytest.approx(left_out.item(), rel=1e-5)
    assert stage["active_before"] == pytest.approx(active.item(), rel=1e-5)


def test_the_head_tells_its_class_apart_and_a_shuffled_one_does_not() -> None:
    values = learned().values
    assert accuracy(values["test"]) > 0.8
    assert abs(sum(map(accuracy, values["shuffled"])) / len(values["shuffled"]) - 0.5) < 0.1
    assert values["class"] == str(values["positive"])
    assert values["scores"][values["positive"]] == max(values["scores"])
    json.dumps(values)


def test_the_counts_are_those_of_the_restored_detector() -> None:
    record = learned()
    model = Model(restore(record), mean=CENTRE)
    for split in ("train", "test"):
        x, labels, ids = prepared(digits()[split], 2000, 8, 0)
        assert torch.equal(labels, digits()[split].labels[ids])
        said, is_one = model.predict(x) == 1, labels == record.values["positive"]
        counts = record.values[split]
        assert counts["positives"] == is_one.sum()
        # A feature sum near zero may fall to either side in float32.
        assert abs(counts["hits"] - int((said & is_one).sum())) <= 1
        assert abs(counts["passes"] - int((~said & ~is_one).sum())) <= 1


def test_the_head_is_at_the_minimum_of_its_balanced_objective() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(200, 5, generator=draw, dtype=torch.float64) * torch.tensor([1.0, 2.0, 5.0, 0.5, 1.0])
    is_one = (x[:, 0] + torch.randn(200, generator=draw, dtype=torch.float64)) > 1.2
    weight, bias = reconstruction._head(x, is_one, 0.3)
    deviation = x.std(0)
    u = (weight * deviation).requires_grad_()
    b = torch.tensor(bias + float(weight @ x.mean(0)), requires_grad=True, dtype=torch.float64)
    margin = ((x - x.mean(0)) / deviation) @ u + b
    losses = torch.nn.functional.softplus(torch.where(is_one, -margin, margin))
    # Both sides count alike: each is half of the mean.
    loss = (losses[is_one].mean() + losses[~is_one].mean()) / 2 + 0.3 / 2 * u.square().sum()
    for gradient in torch.autograd.grad(loss, (u, b)):
        assert gradient.abs().max() < 1e-3  # the solver stops at 1e-4 of its own scale
    assert 20 < is_one.sum() < 60  # unequal sides, so that the weights matter


def test_no_label_moves_the_features_and_no_test_image_the_detector() -> None:
    data = digits()
    mixed = data["train"].labels.flip(0)
    relabelled = learn_features(inputs({"train": Set(data["train"].images, mixed), "test": data["test"]}), **SETTINGS)
    retested = learn_features(inputs({"train": data["train"], "test": data["train"]}), **SETTINGS)
    for name, value in learned().tensors.items():
        if name.startswith("features"):
            assert torch.equal(relabelled.tensors[name], value)
        assert torch.equal(retested.tensors[name], value)
    assert not torch.equal(relabelled.tensors["head.weight"], learned().tensors["head.weight"])


def test_without_steps_the_weights_stay_as_drawn_and_the_class_is_taken_over() -> None:
    taken = Record(values={"positive": 3})
    untrained = learn_features(inputs(learned=taken), **{**SETTINGS, "steps": 0})
    drawn = detector(8, 1, generator=generator("features", 0), **SIZES)
    for name, value in untrained.tensors.items():
        if name.startswith("features"):
            assert torch.equal(value, drawn.state_dict()[name])
    assert untrained.values["positive"] == 3
    assert untrained.values["stages"] == untrained.values["scores"] == []


def test_it_repeats_itself_and_leaves_the_global_randomness_alone() -> None:
    state = torch.get_rng_state()
    again = learn_features(inputs(), **SETTINGS)
    assert torch.equal(torch.get_rng_state(), state)
    assert again.values == learned().values
    assert all(torch.equal(value, learned().tensors[name]) for name, value in again.tensors.items())


def test_images_are_averaged_down_never_up() -> None:
    x, labels, ids = prepared(digits()["train"], 50, 4, 0)
    assert x.shape == (50, 1, 4, 4)
    assert torch.equal(ids, ids.unique())
    expected = torch.nn.functional.avg_pool2d(digits()["train"].images[ids], 2)
    torch.testing.assert_close(x, expected)
    assert prepared(digits()["train"], 50, 32, 0)[0].shape == (50, 1, 8, 8)
    assert torch.equal(labels, digits()["train"].labels[ids])


def test_what_it_cannot_use_is_refused() -> None:
    for change in ({"steps": -1}, {"size": 0}, {"rate": 0.0}, {"decay": 0.0}, {"images": 0}):
        with pytest.raises(InputError, match="must be positive"):
            learn_features(inputs(), **{**SETTINGS, **change})
    few = Set(digits()["train"].images[:3], torch.tensor([0, 1, 2]))
    with pytest.raises(DataError, match="at least 4"):
        learn_features(inputs({"train": few, "test": few}), **{**SETTINGS, "steps": 0})
    damaged = Record(learned().values, {**learned().tensors, "head.weight": torch.zeros(1, 3)})
    with pytest.raises(ModelError, match="do not fit"):
        restore(damaged)

"""Nets of any depth, width and activation: which images they learn, where they start, when they stop."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from intriguing import rng
from intriguing.errors import InputError, ModelError, UnknownNameError
from intriguing.records import Inputs, Record
from intriguing.training.sweep import ACTIVATIONS, build_fc, nested, restore_fc, train_fc, untrained_fc


@dataclass(frozen=True)
class Set:
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...] = tuple("0123456789")
    hash: str = "0" * 64


@cache
def digits() -> dict[str, Set]:
    data = load_digits()
    images = torch.from_numpy(data.images).float()[:, None] / 16
    labels = torch.from_numpy(data.target).long()
    return {"train": Set(images[:600], labels[:600]), "test": Set(images[600:900], labels[600:900])}


def learn(**settings: object) -> Record:
    chosen = {"hidden": [20], "activation": "sigmoid", "examples": 300, "seed": 0, "steps": 300} | settings
    return train_fc(Inputs(data=digits().__getitem__), **chosen)  # type: ignore[arg-type]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_net_is_what_its_settings_say(activation: str) -> None:
    record = learn(hidden=[30, 20], activation=activation)
    shape, classes = (1, 8, 8), 10
    net = restore_fc(record, shape, classes)
    kinds = [type(layer) for layer in net.children()]
    kind = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}[activation]
    assert kinds == [nn.Flatten, nn.Linear, kind, nn.Linear, kind, nn.Linear]
    assert [tuple(w.shape) for w in net.parameters() if w.ndim > 1] == [(30, 64), (20, 30), (10, 20)]
    assert not net.training
    data = digits()
    wrong = (net(data["test"].images).argmax(1) != data["test"].labels).double().mean()
    assert record.values["test_error"] == pytest.approx(float(wrong))
    assert record.values["test_error"] < 0.2
    assert record.values["n_test"] == 300
    ids = nested(data["train"], 0)[:300]
    wrong = (net(data["train"].images[ids]).argmax(1) != data["train"].labels[ids]).double().mean()
    assert record.values["train_error"] == pytest.approx(float(wrong))


def test_without_a_hidden_layer_it_is_softmax_regression() -> None:
    net = restore_fc(learn(hidden=[]), (1, 8, 8), 10)
    assert [tuple(w.shape) for w in net.parameters()] == [(10, 64), (10,)]


def test_every_beginning_of_the_order_holds_the_classes_in_proportion() -> None:
    labels = torch.tensor([0] * 600 + [1] * 300 + [2] * 100)
    data = Set(torch.zeros(1000, 1, 1, 1), labels, ("a", "b", "c"))
    order = nested(data, 0)
    assert torch.equal(order.sort().values, torch.arange(1000))
    for count in (10, 77, 100, 500, 999):
        held = labels[order[:count]].bincount(minlength=3)
        wanted = torch.tensor([0.6, 0.3, 0.1]) * count
        # Each class is within one image of its share of the cut, and the cut within three of the count.
        assert ((held - wanted).abs() <= 3).all(), count
    assert not torch.equal(order, nested(data, 1))
    assert torch.equal(order, nested(data, 0))


def test_a_share_of_the_images_is_as_many_of_them() -> None:
    share, count = learn(examples=0.5), learn(examples=300)
    assert share.values["examples"] == share.values["n_train"] == 300
    assert torch.equal(share.tensors["output.weight"], count.tensors["output.weight"])
    assert learn(examples=1.0, steps=1, epochs=1).values["examples"] == 600


def test_training_stops_at_the_first_epoch_without_an_error_or_runs_its_schedule() -> None:
    early, late = learn(stop=True, steps=600), learn(stop=False, steps=600)
    assert early.values["train_error"] == late.values["train_error"] == 0.0
    assert early.values["epochs"] < late.values["epochs"] == 300
    assert late.values["recipe"]["epochs"] == 300  # 600 steps of two batches
    assert learn(examples=600, steps=1, epochs=2).values["epochs"] == 2


def test_the_net_before_training_is_where_training_started() -> None:
    """With a rate of nothing, training leaves the weights where they were."""
    record = learn(hidden=[12, 9], activation="tanh", rate=1e-30, seed=5)
    before = untrained_fc(record, (1, 8, 8), 10)
    for name, weight in before.state_dict().items():
        torch.testing.assert_close(weight, record.tensors[name])
    trained = learn(hidden=[12, 9], activation="tanh", seed=5)
    again = untrained_fc(trained, (1, 8, 8), 10)
    assert torch.equal(again.state_dict()["hidden1.weight"], before.state_dict()["hidden1.weight"])
    assert not torch.equal(trained.tensors["hidden1.weight"], record.tensors["hidden1.weight"])


def test_training_repeats_and_leaves_the_global_random_state_alone() -> None:
    state = torch.get_rng_state()
    first, second = learn(), learn()
    assert torch.equal(state, torch.get_rng_state())
    for name, weight in first.tensors.items():
        assert torch.equal(weight, second.tensors[name])
    assert not torch.equal(first.tensors["output.weight"], learn(seed=1).tensors["output.weight"])


def test_what_cannot_be_trained_is_refused() -> None:
    for examples in (601, 0, 0.0, 1.5, 1e-4):
        with pytest.raises(InputError, match="1 to 600"):
            learn(examples=examples)
    with pytest.raises(UnknownNameError, match="sigmoid"):
        learn(activation="sigmod")
    with pytest.raises(InputError, match="hidden"):
        learn(hidden=[0])
    with pytest.raises(InputError, match="batch"):
        learn(batch=0)
    with pytest.raises(ModelError, match="do not fit"):
        restore_fc(learn(), (1, 4, 4), 10)
    draw = rng.generator("test", 0)
    assert build_fc((3, 2, 2), 4, [5], "relu", generator=draw)(torch.zeros(2, 3, 2, 2)).shape == (2, 4)

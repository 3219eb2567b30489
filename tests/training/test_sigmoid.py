"""What the trainers share: the same start as the paper's nets, decayed weights, checked settings, an honest record."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from intriguing import rng
from intriguing.errors import InputError, UnknownNameError
from intriguing.nets.zoo import build
from intriguing.records import Inputs
from intriguing.training.sigmoid import begin, decay_groups, epochs, finish, settings

NET = "FC100-100-10"
DEFAULTS = {"epochs": 2, "batch": 10, "rate": 0.01, "steps": 7}


@dataclass(frozen=True)
class Split:
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...] = ("a", "b", "c")
    hash: str = "test"


def inputs() -> Inputs:
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(30, 1, 4, 4, generator=draw)
    labels = torch.arange(30) % 3
    splits = {"train": Split(images[:20], labels[:20]), "test": Split(images[20:], labels[:10])}
    return Inputs(data=splits.__getitem__)


def test_it_starts_where_the_papers_net_starts() -> None:
    training = begin(inputs(), NET, 5, "train")
    expected = build(NET, (1, 4, 4), 3, generator=rng.generator(f"train/{NET}", 5)).state_dict()
    for name, tensor in training.module.state_dict().items():
        assert torch.equal(tensor, expected[name])
    assert training.x.shape == (20, 16)
    with pytest.raises(UnknownNameError, match="Did you mean"):
        begin(inputs(), "FC100-100", 0, "train")
    with pytest.raises(InputError, match="AE400-10"):
        begin(inputs(), "AE400-10", 0, "train")


def test_the_record_measures_the_net_that_was_trained() -> None:
    given = inputs()
    training = begin(given, NET, 0, "train")
    with torch.no_grad():
        training.module.get_submodule("output").bias.copy_(torch.tensor([0.0, 100.0, 0.0]))
    record = finish(given, training, {"arm": "none"})
    # It always answers "b": 7 of the 20, 3 of the 10.
    assert record.values["train_error"] == pytest.approx(13 / 20)
    assert record.values["test_error"] == pytest.approx(7 / 10)
    assert (record.values["n_train"], record.values["n_test"]) == (20, 10)
    assert record.values["arm"] == "none"
    assert record.tensors.keys() == training.module.state_dict().keys()
    assert not training.module.training


def test_weights_are_decayed_and_biases_are_not() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    groups = decay_groups(net, [0.1, 0.2])
    assert [group["weight_decay"] for group in groups] == [0.1, 0.2, 0.0]
    assert groups[1]["params"][0] is net[1].weight
    assert groups[2]["params"][0] is net[0].bias
    assert groups[2]["params"][1] is net[1].bias


def test_small_sets_get_more_epochs() -> None:
    assert epochs(DEFAULTS, 100) == 2  # twenty steps
    assert epochs(DEFAULTS, 20) == 4  # two steps each; seven are asked for


def test_settings_are_checked() -> None:
    assert settings(NET, DEFAULTS, {"batch": 5})["batch"] == 5
    assert settings(NET, DEFAULTS, {})["decay"] == [1e-5, 1e-5, 1e-6]
    for hyper, message in (
        ({"momentum": 1}, "momentum"),
        ({"decay": [1.0]}, "3 numbers"),
        ({"decay": [1.0, 1.0, -1.0]}, "at least 0"),
        ({"rate": 0}, "rate"),
    ):
        with pytest.raises(InputError, match=message):
            settings(NET, DEFAULTS, hyper)

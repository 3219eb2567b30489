"""Adversarial training: what the inner steps are, that it pays, and that the seed alone decides."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own abbreviation)

from intriguing import norms
from intriguing.attacks import PGD
from intriguing.errors import DataError, InputError, UnknownNameError
from intriguing.nets.load import Model
from intriguing.records import Inputs, Record
from intriguing.training import convolutional, recipes
from intriguing.training.adversarial import DEFENCES, RECIPE, perturbed, train, train_sigmoid
from robust_nets import EPS, Split, digits, trained

SMALL: dict[str, Any] = {"channels": [8, 16], "hidden": 32, "seed": 0, "batch": 50}


def robust(record: Record, eps: float, norm: float) -> float:
    test = digits()["test"]
    attack = PGD(eps, norm, steps=20, restarts=2)
    draw = torch.Generator().manual_seed(0)
    return (
        attack(convolutional.model(record), test.images[:150], test.labels[:150], generator=draw)
        .at(eps)
        .robust_accuracy[0]
    )


@pytest.mark.parametrize("defence", ["fgsm-mixture", "fgsm", "pgd"])
def test_a_defence_holds_where_an_ordinary_net_falls(defence: str) -> None:
    plain, defended = robust(trained("none"), EPS, math.inf), robust(trained(defence), EPS, math.inf)
    # Of 150 images: four standard errors of the difference.
    assert defended > plain + 0.15, (plain, defended)
    assert trained(defence).values["test_error"] <= 0.1


def test_l2_training_holds_in_l2() -> None:
    plain, defended = robust(trained("none"), 0.8, 2), robust(trained("pgd", "2", 0.8), 0.8, 2)
    assert defended > plain + 0.15, (plain, defended)
    assert trained("pgd", "2", 0.8).values["norm"] == 2


def test_sigmoid_nets_learn_to_hold_in_l2_too() -> None:
    inputs, test = Inputs(data=digits().__getitem__), digits()["test"]
    records = [
        train_sigmoid(inputs, defence=defence, eps=0.8, seed=0, epochs=1, steps=400) for defence in ("none", "pgd")
    ]
    held = []
    for record in records:
        net = recipes.restore(record, "FC100-100-10", tuple(test.images.shape[1:]), 10)
        draw = torch.Generator().manual_seed(0)
        result = PGD(0.8, 2, steps=20)(Model(net), test.images[:150], test.labels[:150], generator=draw)
        held.append(result.at(0.8).robust_accuracy[0])
        assert record.values["test_error"] <= 0.15
    assert held[1] > held[0] + 0.15, held
    assert records[1].values["defence"] == "pgd"
    assert (records[1].values["eps"], records[1].values["norm"]) == (0.8, 2)


def test_sigmoid_nets_start_as_ordinary_training_starts_them() -> None:
    inputs = Inputs(data=digits().__getitem__)
    held = train_sigmoid(inputs, defence="none", eps=1.0, seed=3, epochs=1, steps=1, batch=2000, rate=1e-12)
    begun = recipes.train(inputs, net="FC100-100-10", seed=3, epochs=1, steps=1, batch=2000, rate=1e-12)
    for name, tensor in begun.tensors.items():
        assert torch.allclose(held.tensors[name], tensor, atol=1e-9), name
    with pytest.raises(InputError, match="eps"):
        train_sigmoid(inputs, defence="pgd", eps=0.0, seed=0)
    with pytest.raises(UnknownNameError, match="defence"):
        train_sigmoid(inputs, defence="prayer", eps=1.0, seed=0)


def test_the_record_restores_and_says_what_was_done() -> None:
    record = trained("pgd")
    values = record.values
    test = digits()["test"]
    wrong = convolutional.model(record).predict(test.images) != test.labels
    assert wrong.double().mean().item() == pytest.approx(values["test_error"], abs=1e-12)
    assert values["recipe"].keys() == RECIPE.keys() | DEFENCES["pgd"].keys()
    assert (values["defence"], values["eps"], values["norm"]) == ("pgd", EPS, math.inf)
    assert values["steps"] == values["epochs"] * math.ceil(1297 / 200)
    json.dumps(values)


def test_the_seed_decides_and_nothing_else() -> None:
    inputs = Inputs(data=digits().__getitem__)
    few = {**SMALL, "batch": 400, "epochs": 1, "steps": 1}
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = train(inputs, defence="fgsm", eps=0.2, **few)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    again = train(inputs, defence="fgsm", eps=0.2, **few)
    other = train(inputs, defence="fgsm", eps=0.2, **{**few, "seed": 1})
    for name, tensor in first.tensors.items():
        assert torch.equal(tensor, again.tensors[name]), name
    assert not torch.equal(first.tensors["output.weight"], other.tensors["output.weight"])


@pytest.mark.parametrize("norm", [math.inf, 2.0])
def test_inner_steps_raise_the_loss_inside_the_ball(norm: float) -> None:
    x, y = digits()["test"].images[:50], digits()["test"].labels[:50]
    model = convolutional.model(trained("none"))
    eps = {math.inf: EPS, 2.0: 0.8}[norm]

    def loss(images: Tensor) -> float:
        return F.cross_entropy(model(images), y).item()

    before = loss(x)
    options: dict[str, Any] = {"eps": eps, "norm": norm}
    one = perturbed(model, x, y, steps=1, step=eps, generator=None, **options)
    many = perturbed(model, x, y, steps=10, step=eps / 4, generator=torch.Generator().manual_seed(0), **options)
    assert before < loss(one) < loss(many)
    for moved in (one, many):
        assert not moved.requires_grad
        assert ((moved >= 0) & (moved <= 1)).all()
        assert ((norms.linf if norm == math.inf else norms.l2)(moved.double() - x.double()) <= eps).all()


def test_one_step_is_the_fast_gradient_sign() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(10, 64, generator=torch.Generator().manual_seed(0)))
        net[1].bias.zero_()
    x, y = digits()["test"].images[:20], digits()["test"].labels[:20]
    moved = perturbed(Model(net), x, y, eps=0.1, norm=math.inf, steps=1, step=0.1, generator=None)
    point = x.clone().requires_grad_()
    F.cross_entropy(net(point), y).backward()
    torch.testing.assert_close(moved, (x + 0.1 * point.grad.sign()).clamp(0, 1), rtol=0, atol=1e-6)


def test_bad_settings_are_named() -> None:
    inputs = Inputs(data=digits().__getitem__)
    cases: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (UnknownNameError, "fgsm-mixture", {"defence": "fgsm-mix", "eps": 0.1}),
        (InputError, "rat", {"defence": "fgsm", "eps": 0.1, "rat": 1}),
        (InputError, "eps", {"defence": "fgsm", "eps": 0.0}),
        (InputError, "norm", {"defence": "fgsm", "eps": 0.1, "norm": 3}),
        (InputError, "clean", {"defence": "fgsm", "eps": 0.1, "clean": 2}),
        (InputError, "batch", {"defence": "fgsm", "eps": 0.1, "batch": 0}),
        (InputError, "no image is changed", {"defence": "none", "eps": 0.1, "clean": 0.5}),
    ]
    for error, words, settings in cases:
        with pytest.raises(error, match=words):
            train(inputs, seed=0, **settings)
    broken = {**digits(), "train": Split(torch.zeros(2, 1, 8, 8), torch.tensor([0, 11]))}
    with pytest.raises(DataError, match="labels"):
        train(Inputs(data=broken.__getitem__), defence="fgsm", eps=0.1, seed=0)

"""Feeding adversarial examples back: pools, their examples, pairing of the arms, and one step worked out by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from intriguing import rng
from intriguing.errors import InputError, UnknownNameError
from intriguing.records import Inputs, Record
from intriguing.training import feeding
from intriguing.training.feeding import ARMS, RECIPE, layers_with_pools, perturbations, train_fed
from intriguing.training.recipes import restore, train
from intriguing.training.sigmoid import begin

NET = "FC100-100-10"


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
    return {"train": Split(images[:600], labels[:600]), "test": Split(images[600:900], labels[600:900])}


def fed(splits: dict[str, Split], arm: str, seed: int = 0, **hyper: Any) -> Record:
    settings = {"epochs": 20, "steps": 1} | hyper
    return train_fed(Inputs(data=splits.__getitem__), seed=seed, arm=arm, **settings)


def sequential(splits: dict[str, Split], record: Record) -> nn.Sequential:
    module = restore(record, NET, (1, 8, 8), 10)
    assert isinstance(module, nn.Sequential)
    return module


def feeder(splits: dict[str, Split], arm: str, **hyper: Any) -> feeding._Feeder:
    """Return the pools of a net that has learnt the digits."""
    inputs = Inputs(data=splits.__getitem__)
    training = begin(inputs, NET, 0, "train")
    training.module.load_state_dict(dict(train(inputs, net=NET, seed=0).tensors))
    recipe = {"decay": [1e-5, 1e-5, 1e-6], **RECIPE, "wait": 0.0, **hyper}
    return feeding._Feeder(training, recipe, arm)


def test_pools_sit_on_the_images_and_on_every_hidden_layer() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Sigmoid(), nn.Linear(3, 5), nn.Sigmoid(), nn.Linear(5, 2))
    places = {arm: layers_with_pools(net, arm) for arm in ARMS}
    assert places == {
        "none": [], "dropout": [], "input": [1], "higher": [3, 5], "all": [1, 3, 5], "noise": [1, 3, 5],
    }  # fmt: skip


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_example_is_a_perturbation_of_its_layer_that_the_layers_above_misread(
    place: int, splits: dict[str, Split]
) -> None:
    """Judged by composing the layers by hand: below with the images, above with the sum, in the box."""
    net = feeder(splits, "all")
    pool = net.pools[place]
    h = net.x
    for layer in list(net.module)[: (1, 3, 5)[place]]:
        h = layer(h)
    h = h.detach()
    found, r = perturbations(
        pool.above, h, net.labels, target="top-1", budget=30, generator=torch.Generator().manual_seed(0)
    )
    assert len(found) > 550
    moved = h[found] + r
    assert float(moved.min()) >= -1e-6
    assert float(moved.max()) <= 1 + 1e-6
    answers = moved
    for layer in list(net.module)[(1, 3, 5)[place] :]:
        answers = layer(answers)
    # All but those that the rounding of h + (x' - h) puts back across the boundary.
    assert float((answers.argmax(1) != net.labels[found]).double().mean()) > 0.99
    assert bool((r.norm(dim=1) > 0).all())


def test_noise_has_the_norms_of_the_examples_and_not_their_aim(splits: dict[str, Split]) -> None:
    net = feeder(splits, "all")
    above, x = net.pools[0].above, net.x

    def made(noise: bool) -> tuple[Tensor, Tensor]:
        draw = torch.Generator().manual_seed(0)
        return perturbations(above, x, net.labels, target="top-1", budget=30, generator=draw, noise=noise)

    (found, r), (same, noise) = made(False), made(True)
    assert torch.equal(found, same)
    torch.testing.assert_close(noise.norm(dim=1), r.norm(dim=1), rtol=1e-4, atol=1e-5)
    misread = (above(x[found] + noise).argmax(1) != net.labels[found]).double().mean()
    assert float(misread) < 0.1


def test_the_loss_of_a_batch_by_hand(splits: dict[str, Split]) -> None:
    """Half of the clean loss, half of the loss of the examples; the pool's gradient stays above its layer."""
    net = feeder(splits, "higher", turn=1000)
    indices = torch.arange(40)
    loss = net.objective(indices)
    pool = net.pools[0]
    replay = rng.generator(f"pools/{NET}", 0)
    other = feeder(splits, "higher", turn=1000)
    other.generator = replay
    other.refresh(other.pools[0])
    assert torch.equal(other.pools[0].image, pool.image)
    drawn = torch.randint(len(pool.image), (40,), generator=replay)
    module = net.module
    h = (module[2](module[1](net.x[pool.image[drawn]])) + pool.r[drawn]).clamp(0, 1)
    above = nn.Sequential(*list(module)[3:])
    cross = nn.functional.cross_entropy
    clean, adversarial = (
        cross(module(net.x[indices]), net.labels[indices]),
        cross(above(h), net.labels[pool.image[drawn]]),
    )
    torch.testing.assert_close(loss, 0.5 * clean + 0.5 * adversarial)
    module.zero_grad()
    loss.backward()
    below = module[1].weight.grad.clone()
    module.zero_grad()
    (0.5 * cross(module(net.x[indices]), net.labels[indices])).backward()
    torch.testing.assert_close(below, module[1].weight.grad)


def test_a_pool_fills_to_its_size_and_then_loses_as_many_as_it_gains(splits: dict[str, Split]) -> None:
    net = feeder(splits, "input", pool=0.1, replaced=0.25, near=0.5)
    pool = net.pools[0]
    sizes, kept = [], []
    for _ in range(6):
        before = {tuple(row) for row in pool.r.tolist()} if len(pool.image) else set()
        net.refresh(pool)
        sizes.append(len(pool.image))
        kept.append(sum(tuple(row) in before for row in pool.r[:-15].tolist()))
    assert sizes == [15, 30, 45, 60, 60, 60]  # a tenth of 600, a quarter of it at a time
    assert kept == [0, 15, 30, 45, 45, 45]
    assert pool.made == 90
    assert pool.length > 0


def test_the_images_attacked_are_those_with_the_smallest_margins(splits: dict[str, Split]) -> None:
    net = feeder(splits, "input", near=0.1)
    logits = net.module(net.x).detach()
    truth = logits.gather(1, net.labels[:, None]).squeeze(1)
    gap = truth - logits.scatter(1, net.labels[:, None], -torch.inf).amax(1)
    image = net._near(60)
    # All 600 are drawn, so the 60 nearest of them are known.
    assert bool((gap > 0).all())
    assert set(image.tolist()) == set(gap.argsort()[:60].tolist())


def test_the_layers_take_turns(splits: dict[str, Split]) -> None:
    net = feeder(splits, "all", turn=2)
    turns = []
    for _ in range(7):
        net.objective(torch.arange(20))
        turns.append(net.turn)
    assert turns == [0, 0, 1, 1, 2, 2, 0]


def test_arms_start_alike_and_see_the_images_in_one_order(splits: dict[str, Split]) -> None:
    """A pool without weight must leave the net as it would be without a pool."""
    plain = fed(splits, "none", epochs=10)
    for arm in ("all", "noise"):
        weightless = fed(splits, arm, epochs=10, turn=5, share=0.0)
        for name, tensor in plain.tensors.items():
            torch.testing.assert_close(weightless.tensors[name], tensor, rtol=1e-5, atol=1e-6)
        weighed = fed(splits, arm, epochs=10, turn=5)
        assert not torch.allclose(weighed.tensors["output.weight"], plain.tensors["output.weight"])


def test_the_seed_decides_and_nothing_else(splits: dict[str, Split]) -> None:
    before = torch.random.get_rng_state()
    first, again, other = (fed(splits, "all", seed, epochs=4) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first.tensors[name], again.tensors[name]) for name in first.tensors)
    assert not torch.equal(first.tensors["output.weight"], other.tensors["output.weight"])


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_learns_and_says_what_it_did(arm: str, splits: dict[str, Split]) -> None:
    record = fed(splits, arm, epochs=160)
    values = record.values
    assert values["test_error"] < 0.15  # a tenth is right by chance
    assert values["arm"] == arm
    assert values["epochs"] == 160
    pools = {"none": 0, "dropout": 0, "input": 1, "higher": 2}.get(arm, 3)
    assert len(values["examples"]) == len(values["norm"]) == pools
    assert all(count > 0 for count in values["examples"])
    assert all(length > 0 for length in values["norm"])
    assert values["recipe"].keys() == RECIPE.keys() | {"decay"}
    json.dumps(values, allow_nan=False)
    wrong = sequential(splits, record)(splits["test"].images).argmax(1) != splits["test"].labels
    assert wrong.double().mean().item() == pytest.approx(values["test_error"], abs=1e-12)


def test_dropping_keeps_the_mean_and_the_rate() -> None:
    net = object.__new__(feeding._Feeder)
    net.generator = torch.Generator().manual_seed(0)
    dropped = net._dropped(torch.ones(100_000), 0.2)
    assert set(dropped.unique().tolist()) == {0.0, 1.25}
    # Five standard errors of a share of 0.2 among 100,000.
    assert float((dropped == 0).double().mean()) == pytest.approx(0.2, abs=5 * (0.16 / 100_000) ** 0.5)


def test_bad_settings(splits: dict[str, Split]) -> None:
    with pytest.raises(UnknownNameError, match="arm"):
        fed(splits, "inputs")
    with pytest.raises(UnknownNameError, match="net"):
        fed(splits, "all", net="FC100")
    with pytest.raises(InputError, match="hidden layers"):
        fed(splits, "all", net="FC10(1)")
    with pytest.raises(InputError, match="momentum"):
        fed(splits, "all", momentum=0.9)
    with pytest.raises(InputError, match="3 numbers"):
        fed(splits, "all", decay=[1e-5])
    for name, value in (("turn", 0), ("pool", 0.0), ("near", 1.5), ("share", 1.0), ("batch", 0), ("budget", 0)):
        with pytest.raises(InputError, match=name):
            fed(splits, "all", **{name: value})


def test_half_of_the_training_set_may_be_learnt(splits: dict[str, Split]) -> None:
    halves = dict(splits)
    halves["P1"] = Split(splits["train"].images[:300], splits["train"].labels[:300])
    assert fed(halves, "input", epochs=1, learn="P1").values["n_train"] == 300

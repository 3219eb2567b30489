"""Hard-negative mining: what the pool holds, that its loss falls, and that the control is one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from intriguing.errors import InputError, UnknownNameError
from intriguing.records import Inputs, Record
from intriguing.training import mining
from intriguing.training.mining import POOLS, RECIPE, train_mined
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
    return {"train": Split(images[:1000], labels[:1000]), "test": Split(images[1000:1400], labels[1000:1400])}


@pytest.fixture(scope="module")
def start(splits: dict[str, Split]) -> Record:
    return train(Inputs(data=splits.__getitem__), net=NET, seed=0)


@pytest.fixture(scope="module")
def mined(splits: dict[str, Split], start: Record) -> dict[str, Record]:
    return {pool: run(splits, start, pool) for pool in POOLS}


def run(splits: dict[str, Split], start: Record, pool: str, seed: int = 0, **hyper: Any) -> Record:
    inputs = Inputs(data=splits.__getitem__, needs={"net": start})
    return train_mined(inputs, seed=seed, pool=pool, **({"unseen": 100} | hyper))


def series(record: Record, part: str) -> np.ndarray:
    kept = [place for place, name in enumerate(record.rows["part"]) if name == part]
    return np.array([np.asarray(record.rows[f"round_{r}"])[kept] for r in range(RECIPE["rounds"] + 1)])


def test_the_loss_on_hard_examples_falls_further_than_with_the_control(mined: dict[str, Record]) -> None:
    for part in ("mined", "unseen"):
        hard, random = (series(mined[pool], part).mean(1) for pool in ("hard", "random"))
        assert np.array_equal(series(mined["hard"], part)[0], series(mined["random"], part)[0])
        assert hard[-1] < 0.6 * hard[0]
        assert hard[-1] < 0.6 * random[-1]
    falls = np.diff(series(mined["hard"], "mined").mean(1))
    assert (falls < 0).sum() >= RECIPE["rounds"] - 1


def test_clean_images_are_kept(mined: dict[str, Record], splits: dict[str, Split]) -> None:
    wrong = series(mined["hard"], "test").mean(1)
    assert wrong[-1] == pytest.approx(mined["hard"].values["test_error"], abs=1e-12)
    assert wrong[-1] <= wrong[0] + 0.02
    module = restore(mined["hard"], NET, (1, 8, 8), 10)
    answers = module(splits["test"].images).argmax(1) != splits["test"].labels
    assert np.array_equal(answers.numpy(), series(mined["hard"], "test")[-1].astype(bool))


def test_a_record_says_what_was_done(mined: dict[str, Record]) -> None:
    for pool, record in mined.items():
        assert record.values["pool"] == pool
        assert record.values["members"] > 0
        assert record.values["recipe"].keys() == RECIPE.keys() | {"decay"}
        json.dumps(record.values, allow_nan=False)
        assert len({len(column) for column in record.rows.values()}) == 1
        assert set(record.rows["part"]) == set(mining.PARTS)


def test_the_pool_holds_adversarial_examples_and_the_images_with_the_largest_loss(
    splits: dict[str, Split], start: Record
) -> None:
    training = begin(Inputs(data=splits.__getitem__), NET, 0, "train")
    training.module.load_state_dict(dict(start.tensors))
    miner = mining._Miner(training, {"decay": [0.0] * 3, **RECIPE}, "hard")
    miner.mine()
    logits = training.module(training.x).detach()
    losses = torch.nn.functional.cross_entropy(logits, training.labels, reduction="none")
    hardest = training.x[losses.topk(50).indices]
    assert torch.equal(miner.x[-50:], hardest)  # 2% of 1,000 is less than the least, 50
    adversarial, labels = miner.x[:-50], miner.labels[:-50]
    assert 40 <= len(adversarial) <= 50
    assert bool((training.module(adversarial).argmax(1) != labels).all())
    assert torch.equal(miner.first[0], miner.x)


def test_the_control_draws_training_images(splits: dict[str, Split], start: Record) -> None:
    training = begin(Inputs(data=splits.__getitem__), NET, 0, "train")
    training.module.load_state_dict(dict(start.tensors))
    miner = mining._Miner(training, {"decay": [0.0] * 3, **RECIPE}, "random")
    miner.mine()
    assert len(miner.x) == len(miner.first[0])
    known = {tuple(row) for row in training.x.tolist()}
    assert {tuple(row) for row in miner.x.tolist()} <= known


def test_the_seed_decides(splits: dict[str, Split], start: Record) -> None:
    first, again, other = (run(splits, start, "hard", seed, rounds=2) for seed in (0, 0, 1))
    assert all(torch.equal(first.tensors[name], again.tensors[name]) for name in first.tensors)
    assert not torch.equal(first.tensors["output.weight"], other.tensors["output.weight"])


def test_bad_settings(splits: dict[str, Split], start: Record) -> None:
    with pytest.raises(UnknownNameError, match="pool"):
        run(splits, start, "easy")
    with pytest.raises(InputError, match="share"):
        run(splits, start, "hard", share=1.0)
    with pytest.raises(InputError, match="patience"):
        run(splits, start, "hard", patience=3)

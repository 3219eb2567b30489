"""Hard-negative mining: find what a net gets wrong, train on more of it, look again.

Szegedy et al. 2014, section 4, liken their search to hard-negative mining in computer vision: find examples that
the model gives low probability though it should not, change the training distribution so that they count for more,
and train for another round. Here a round

1. mines: adversarial examples of random training images, made for the net as it is now, and the training images it
   has the largest loss on; both join a pool that keeps growing;
2. trains: one part of every batch comes from the pool, the rest from all training images.

The control makes the same steps with a pool of training images drawn at random.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own abbreviation)

from intriguing import rng
from intriguing.attacks.lbfgs import LBFGS
from intriguing.errors import InputError, UnknownNameError
from intriguing.floating import denormals_flushed
from intriguing.nets.load import Model
from intriguing.records import Inputs, Record
from intriguing.training import loops
from intriguing.training.sigmoid import Training, begin, decay_groups, finish, settings

POOLS = {
    "hard": "adversarial examples, and the training images with the largest loss",
    "random": "as many training images drawn at random",
}

PARTS = ("mined", "unseen", "test")

RECIPE: dict[str, Any] = {
    "rounds": 6,
    "epochs": 1,
    "batch": 200,
    "rate": 0.002,
    "steps": 60,
    "mined": 0.02,
    "least": 50,
    "share": 0.5,
    "budget": 60,
}
"""Default settings. A round takes `epochs` passes over the training images, more until it has `steps` steps. It mines
`mined` of the training set, at least `least` images, each way. `share` of each batch comes from the pool; `budget` is
the attack's (`attacks.lbfgs`)."""


def train_mined(
    inputs: Inputs, *, net: str = "FC100-100-10", seed: int, pool: str, unseen: int = 256, **hyper: Any
) -> Record:
    """Train a trained net on, with a pool of hard examples; a cell function.

    Args:
        inputs: needs ``"net"``, the record of the net to start from; ``data("train")`` is learnt, ``data("test")``
            only measured.
        net: its name, a key of `nets.NETS` whose recipe is ``"sigmoid"``.
        seed: draws images, targets and the order, alike for both pools.
        pool: a key of `POOLS`.
        unseen: how many test images are turned into hard examples for the net at its start, to be measured only.
        **hyper: replaces entries of `RECIPE`, or ``decay``, the lambdas by layer (E15).

    Returns:
        The record of `sigmoid.finish`, with ``pool``, ``members`` (of the pool at the end) and ``recipe``. ``rows``
        has one row per image measured: ``part`` says of what, ``round_0`` (the net at its start) to ``round_<n>``
        hold the loss on the hard examples that the first round mines (part ``"mined"``), the loss on those of test
        images (``"unseen"``), and whether a test image is misclassified (``"test"``, 0 or 1).

    Raises:
        UnknownNameError: no such net or pool.
        InputError: a net without hidden layers, or a setting that is unknown or out of range.

    Example:
        record = train_mined(inputs, seed=0, pool="hard")
        record.rows["round_6"]
    """
    if pool not in POOLS:
        raise UnknownNameError("pool", pool, POOLS)
    training = begin(inputs, net, seed, "train")
    recipe = settings(net, RECIPE, hyper)
    for name in ("mined", "share"):
        if not 0 < recipe[name] < 1:
            raise InputError(f"{name} must be a share in (0, 1), got {recipe[name]!r}")
    training.module.load_state_dict({name: inputs.needs["net"].tensors[name] for name in training.module.state_dict()})
    test = inputs.data("test")
    x_test, labels_test = test.images.flatten(1).to(training.x), test.labels.to(training.labels.device)
    with denormals_flushed():
        draw = rng.generator(f"unseen hard examples/{net}", seed)
        chosen = torch.randperm(len(labels_test), generator=draw)[:unseen].to(x_test.device)
        held = _adversarial(training, x_test[chosen], labels_test[chosen], recipe, draw)
        miner = _Miner(training, recipe, pool)
        columns: dict[str, list[float]] = {}
        for round_ in range(recipe["rounds"] + 1):
            if round_:
                miner.learn()
            inputs.progress(round_, recipe["rounds"])
            if round_ < recipe["rounds"]:
                miner.mine()
            wrong = Model(training.module).predict(x_test, batch=5000) != labels_test
            parts = (_losses(training, *miner.first), _losses(training, *held), wrong.float())
            columns[f"round_{round_}"] = torch.cat(parts).tolist()
    part = [name for name, rows in zip(PARTS, parts, strict=True) for _ in range(len(rows))]
    record = finish(inputs, training, {"pool": pool, "members": len(miner.x), "recipe": recipe})
    return Record(values=record.values, tensors=record.tensors, rows={"part": part, **columns})


class _Miner:
    """The pool, and the rounds of mining and training."""

    def __init__(self, training: Training, recipe: dict[str, Any], pool: str) -> None:
        self.training, self.recipe, self.pool = training, recipe, pool
        self.generator = rng.generator(f"mining/{training.name}", training.seed)
        # Members drawn in training come from a stream of their own: mining takes other numbers for each pool.
        self.members = rng.generator(f"members of batches/{training.name}", training.seed)
        self.x, self.labels = training.x[:0], training.labels[:0]
        self.first = (self.x, self.labels)
        count = round(recipe["mined"] * len(training.x))
        self.count = min(len(training.x), max(recipe["least"], count))

    def mine(self) -> None:
        """Add to the pool what the net finds hard now, or as many images at random."""
        training = self.training
        chosen = torch.randperm(len(training.x), generator=self.generator)[: self.count].to(training.x.device)
        moved, labels = _adversarial(training, training.x[chosen], training.labels[chosen], self.recipe, self.generator)
        losses = _losses(training, training.x, training.labels)
        hardest = losses.topk(self.count).indices
        x = torch.cat((moved, training.x[hardest]))
        labels = torch.cat((labels, training.labels[hardest]))
        if not len(self.first[0]):
            self.first = (x, labels)
        if self.pool == "random":
            drawn = torch.randperm(len(training.x), generator=self.generator)[: len(x)].to(x.device)
            x, labels = training.x[drawn], training.labels[drawn]
        self.x, self.labels = torch.cat((self.x, x)), torch.cat((self.labels, labels))

    def learn(self) -> None:
        """Train for one round."""
        training, recipe, share = self.training, self.recipe, self.recipe["share"]
        per_epoch = math.ceil(len(training.x) / recipe["batch"])

        def objective(indices: Tensor) -> Tensor:
            clean = F.cross_entropy(training.module(training.x[indices]), training.labels[indices])
            count = max(1, round(len(indices) * share / (1 - share)))
            drawn = torch.randint(len(self.x), (count,), generator=self.members).to(self.x.device)
            hard = F.cross_entropy(training.module(self.x[drawn]), self.labels[drawn])
            return torch.lerp(clean, hard, share)

        loops.descend(
            decay_groups(training.module, recipe["decay"]),
            objective,
            len(training.x),
            epochs=max(recipe["epochs"], math.ceil(recipe["steps"] / per_epoch)),
            batch=recipe["batch"],
            rate=recipe["rate"],
            generator=training.generator,
        )


def _adversarial(
    training: Training, x: Tensor, labels: Tensor, recipe: dict[str, Any], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return adversarial examples of the images that have one, (P, n), and their true labels."""
    attack = LBFGS(target="random", budget=recipe["budget"])  # the paper's targets (D1)
    result = attack(Model(training.module), x, labels, generator=generator)
    return result.adversarial[result.found], labels[result.found]


@torch.no_grad()
def _losses(training: Training, x: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of every image, (B,)."""
    logits = Model(training.module).logits(x, batch=5000)
    losses: Tensor = F.cross_entropy(logits, labels, reduction="none")
    return losses

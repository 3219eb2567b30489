"""Feeding adversarial examples back, layer by layer. Szegedy et al. 2014, section 4.2.

A standing pool of adversarial examples is merged with the ordinary images while a net is trained, and part of it
keeps being replaced by fresh ones. There is one pool for the images and one for every hidden layer: an example of
layer k's pool is the output h_k(x) of layer k plus a perturbation r, found with the layers above it, and is fed to
the layers above it. The layers take turns (D17).

- h_k(x) is computed anew whenever an example is used, since the layers below keep learning: what a pool holds is
  the image and r. The sum is clipped to the box of the layer, [0, 1] for pixels and sigmoid units (D18).
- Nothing flows from a pool into the layers below it.
- DEVIATION: a turn lasts some steps, not an epoch. Examples are made for the net of the moment; in turns of an
  epoch the pools grew stale, and little or nothing was gained.
- DEVIATION: of the images drawn for a pool, only those with the smallest margins are attacked, towards the likeliest
  wrong class, so that the pool holds the nearest examples. With examples of images drawn uniformly, or of random
  wrong classes, the test error rose: r was then nearly as long as the way to another class.
- DEVIATION: the first turn comes after a tenth of the steps, and a pool starts empty and fills at the rate at which
  it is replaced. Examples of a net that has learnt nothing yet would be the bulk of it otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own abbreviation)

from intriguing import norms, rng
from intriguing.attacks.lbfgs import LBFGS
from intriguing.attacks.noise import gaussian_of_norm
from intriguing.attacks.problem import margin
from intriguing.errors import InputError, UnknownNameError
from intriguing.floating import denormals_flushed
from intriguing.nets.load import Model
from intriguing.records import Inputs, Record
from intriguing.training import loops
from intriguing.training.sigmoid import Training, begin, decay_groups, epochs, finish, settings

ARMS: dict[str, str] = {
    "none": "no pool",
    "input": "a pool of images alone",
    "higher": "pools of the hidden layers alone",
    "all": "pools of the images and of every hidden layer",
    "noise": "the same pools, every perturbation replaced by noise of its norm",
    "dropout": "no pool; hidden units and pixels are dropped at random",
}

RECIPE: dict[str, Any] = {
    "epochs": 60,
    "batch": 200,
    "rate": 0.01,
    "steps": 2500,
    "wait": 0.1,
    "turn": 20,
    "pool": 0.1,
    "replaced": 0.1,
    "near": 0.15,
    "share": 0.5,
    "target": "top-1",
    "budget": 24,
    "dropped_pixels": 0.1,
    "dropped_units": 0.2,
}
"""Default settings.

`epochs` is raised until at least `steps` steps are made. The first turn comes after the share `wait` of all steps; a
turn lasts `turn` steps. `pool` is the size of a pool as a
share of the training set, `replaced` the share of it that a turn replaces, `near` the share of the images drawn for
that which are attacked: those with the smallest margins. `share` is the part of each batch that comes from the pool,
and its weight in the loss (D17). `target` and `budget` are the attack's (`attacks.lbfgs`). `dropped_pixels` and
`dropped_units` are the rates of the arm ``"dropout"``.
"""

_BOX = (0.0, 1.0)
# A cheap attack is enough here: distances are then some percent above those of a long search.
_EVALUATIONS, _MEMORY = 6, 3


@dataclass
class _Pool:
    """Adversarial examples for the output of one layer.

    Attributes:
        below: from flat images to the layer's output.
        above: from there to the logits.
        image: (P,) int64, which training image each example was made from.
        r: (P, n_k) the perturbations.
        made: how many there have been so far.
        length: the sum of their norms.
    """

    below: nn.Sequential
    above: nn.Sequential
    image: Tensor
    r: Tensor
    made: int = 0
    length: float = 0.0


def train_fed(
    inputs: Inputs, *, net: str = "FC100-100-10", seed: int, arm: str, learn: str = "train", **hyper: Any
) -> Record:
    """Train a sigmoid net with adversarial examples fed back; the cell function of every arm.

    The initial weights and the order of the clean images depend on `net` and `seed` alone, so that arms can be
    compared seed by seed. All arms make the same number of passes over the clean images: none stops early.

    Args:
        inputs: ``data(learn)`` is learnt, ``data("test")`` only measured; both (N, C, H, W) in [0, 1].
        net: a key of `nets.NETS` whose recipe is ``"sigmoid"``.
        seed: decides the initial weights, the order of images, the pools and the dropped units.
        arm: a key of `ARMS`.
        learn: the split that is learnt.
        **hyper: replaces entries of `RECIPE`, or ``decay``, the lambdas by layer (E15).

    Returns:
        The record of `sigmoid.finish`, with ``arm``, ``epochs``, ``examples`` (adversarial examples made, by layer),
        ``norm`` (their mean norm, by layer; 0 where there are none) and ``recipe`` (every setting used).

    Raises:
        UnknownNameError: no such net or arm.
        InputError: a net without hidden layers, or a setting that is unknown or out of range.

    Example:
        record = train_fed(inputs, seed=0, arm="all")
        record.values["test_error"]
    """
    if arm not in ARMS:
        raise UnknownNameError("arm", arm, ARMS)
    training = begin(inputs, net, seed, learn)
    recipe = _checked(settings(net, RECIPE, hyper))
    feeder = _Feeder(training, recipe, arm)
    with denormals_flushed():
        run = feeder.run(inputs.progress)
    values = {
        "arm": arm,
        "epochs": run,
        "examples": [pool.made for pool in feeder.pools],
        "norm": [pool.length / max(pool.made, 1) for pool in feeder.pools],
        "recipe": recipe,
    }
    return finish(inputs, training, values)


def layers_with_pools(module: nn.Sequential, arm: str) -> list[int]:
    """Return where an arm has pools: the number of modules below each, the images first.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Sigmoid(), nn.Linear(3, 2))
        >>> layers_with_pools(net, "all"), layers_with_pools(net, "higher")
        ([1, 3], [3])
    """
    every = [1, *(place + 1 for place, layer in enumerate(module) if isinstance(layer, nn.Sigmoid))]
    return {"none": [], "dropout": [], "input": every[:1], "higher": every[1:]}.get(arm, every)


def perturbations(
    above: nn.Sequential,
    h: Tensor,
    labels: Tensor,
    *,
    target: str,
    budget: int,
    generator: torch.Generator,
    noise: bool = False,
) -> tuple[Tensor, Tensor]:
    """Perturb the outputs of a layer until the layers above it answer wrongly.

    Args:
        above: from the layer's outputs (B, n_k) in [0, 1] to logits.
        h: (B, n_k) outputs.
        labels: (B,) int64. Outputs that are answered wrongly already have no example.
        target: the wrong class to reach, see `attacks.lbfgs`.
        budget: forward plus backward passes per row.
        generator: draws random targets and noise.
        noise: return Gaussian noise of the same norm instead.

    Returns:
        Which rows have an example, (P,) int64, and its perturbation, (P, n_k).
    """
    # The layers above are a model of their own, whose pixels are the layer's outputs, in their box (D18).
    attack = LBFGS(target=target, budget=budget, evaluations=_EVALUATIONS, memory=_MEMORY)
    result = attack(Model(above, box=_BOX), h, labels, generator=generator)
    found = result.found.nonzero().squeeze(1)
    clean, moved = h[found], result.adversarial[found]
    if noise:
        moved = gaussian_of_norm(clean, norms.l2(moved - clean), generator=generator, box=_BOX)
    return found, moved - clean


class _Feeder:
    """The pools of one training, whose turn it is, and the loss of a batch."""

    def __init__(self, training: Training, recipe: Mapping[str, Any], arm: str) -> None:
        self.training, self.recipe, self.arm = training, recipe, arm
        self.module, self.x, self.labels = training.module, training.x, training.labels
        # A stream of its own: the order of the clean images must not depend on the arm.
        self.generator = rng.generator(f"pools/{training.name}", training.seed)
        layers = list(self.module)
        self.pools = [
            _Pool(nn.Sequential(*layers[:cut]), nn.Sequential(*layers[cut:]), self.labels[:0], self.x.new_empty(0))
            for cut in layers_with_pools(self.module, arm)
        ]
        self.epochs = epochs(recipe, len(self.x))
        self.wait = round(recipe["wait"] * self.epochs * math.ceil(len(self.x) / recipe["batch"]))
        self.turn = -1
        self.steps = 0

    def run(self, progress: Callable[[float, float], None]) -> int:
        """Train; return the number of epochs."""
        recipe = self.recipe

        def after_epoch(epoch: int) -> bool:
            progress(epoch, self.epochs)
            return False

        return loops.descend(
            decay_groups(self.module, recipe["decay"]),
            self.objective,
            len(self.x),
            epochs=self.epochs,
            batch=recipe["batch"],
            rate=recipe["rate"],
            generator=self.training.generator,
            after_epoch=after_epoch,
        )

    def objective(self, indices: Tensor) -> Tensor:
        """Return the loss of a batch: of its clean images, and of examples from the pool whose turn it is."""
        late = self.steps - self.wait
        if self.pools and late >= 0 and late % self.recipe["turn"] == 0:
            self.turn = (self.turn + 1) % len(self.pools)
            self.refresh(self.pools[self.turn])
        self.steps += 1
        clean = F.cross_entropy(self._forward(self.x[indices]), self.labels[indices])
        pool = self.pools[self.turn] if self.turn >= 0 else None
        if pool is None or not len(pool.image):
            return clean
        share = self.recipe["share"]
        count = max(1, round(len(indices) * share / (1 - share)))
        drawn = torch.randint(len(pool.image), (count,), generator=self.generator).to(self.x.device)
        image = pool.image[drawn]
        with torch.no_grad():
            h = (pool.below(self.x[image]) + pool.r[drawn]).clamp(*_BOX)
        fed = F.cross_entropy(pool.above(h), self.labels[image])
        return torch.lerp(clean, fed, share)

    def refresh(self, pool: _Pool) -> None:
        """Replace part of a pool, random members by fresh examples, made for the net as it is now."""
        recipe = self.recipe
        size = max(1, round(recipe["pool"] * len(self.x)))
        image = self._near(max(1, round(recipe["replaced"] * size)))
        with torch.no_grad():
            h = pool.below(self.x[image])
        found, r = perturbations(
            pool.above,
            h,
            self.labels[image],
            target=recipe["target"],
            budget=recipe["budget"],
            generator=self.generator,
            noise=self.arm == "noise",
        )
        pool.made += len(found)
        pool.length += float(norms.l2(r).sum())
        stay = torch.randperm(len(pool.image), generator=self.generator)[: max(0, size - len(found))].to(image.device)
        pool.r = torch.cat((pool.r[stay], r)) if len(stay) else r
        pool.image = torch.cat((pool.image[stay], image[found]))

    @torch.no_grad()
    def _near(self, count: int) -> Tensor:
        """Return random training images (count,): of those drawn, the ones with the smallest positive margins."""
        many = min(len(self.x), round(count / self.recipe["near"]))
        drawn = torch.randperm(len(self.x), generator=self.generator)[:many].to(self.x.device)
        gap = margin(self.module(self.x[drawn]), self.labels[drawn])
        return drawn[torch.where(gap > 0, gap, torch.inf).argsort()[:count]]

    def _forward(self, x: Tensor) -> Tensor:
        """Return the logits of clean images, with units dropped where the arm says so."""
        if self.arm != "dropout":
            logits: Tensor = self.module(x)
            return logits
        h = self._dropped(x, self.recipe["dropped_pixels"])
        for layer in self.module:
            h = layer(h)
            if isinstance(layer, nn.Sigmoid):
                h = self._dropped(h, self.recipe["dropped_units"])
        return h

    def _dropped(self, h: Tensor, rate: float) -> Tensor:
        """Set entries to zero at this rate and scale the others up, so that the mean stays."""
        kept = torch.rand(h.shape, generator=self.generator).to(h.device) >= rate
        return h * kept / (1 - rate)


def _checked(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return the settings if every number is in its range."""
    for name in ("turn", "budget"):
        if recipe[name] < 1:
            raise InputError(f"{name} must be at least 1, got {recipe[name]!r}")
    for name in ("pool", "replaced", "near"):
        if not 0 < recipe[name] <= 1:
            raise InputError(f"{name} must be a share in (0, 1], got {recipe[name]!r}")
    for name in ("wait", "share", "dropped_pixels", "dropped_units"):
        if not 0 <= recipe[name] < 1:
            raise InputError(f"{name} must be a share in [0, 1), got {recipe[name]!r}")
    return recipe

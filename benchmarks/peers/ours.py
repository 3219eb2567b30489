"""This project's minimal L2 attacks at a budget, counted by themselves and checked from outside.

Ours put several points of one image in one call, so rows cannot be told apart from outside as those of the peers are.
They count per image; the sum over images must equal the rows that the net has seen (`counting.TotalNet`), and no image
may exceed the budget.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from counting import Count, Stopwatch, TotalNet
from intriguing import attacks, rng
from intriguing.attacks import Attack
from intriguing.nets.load import Model

TITLES = {
    "lbfgs": "L-BFGS", "ddn": "DDN", "fmn": "FMN", "deepfool": "DeepFool", "superdeepfool": "SuperDeepFool",
    "carlini-wagner": "C&W", "cw": "C&W", "fab": "FAB", "alma": "ALMA", "pdgd": "PDGD",
}  # fmt: skip
LIBRARY = "intriguing"
MAIN = "intriguing-lbfgs"  # the attack whose place is stated


def names() -> dict[str, type[Attack]]:
    """Return our attacks that minimise L2 under a budget, by name."""
    found = {}
    for name, attack in attacks.ATTACKS.items():
        fields = {field.name: field for field in dataclasses.fields(attack)}
        norm = fields["norm"].default if "norm" in fields else 2
        if "budget" in fields and "eps" not in fields and norm == 2 and not name.startswith("l1"):
            found[f"{LIBRARY}-{name}"] = attack
    return found


def plan(name: str, passes: int) -> dict[str, object]:
    """Return the parameters one of our attacks is run with: any wrong class, at most `passes` per image."""
    options: dict[str, object] = {"budget": passes}
    if name == MAIN:
        # The classes to start from: with few passes the likeliest alone, and all once they can be paid for.
        options |= {"target": "top-1" if passes < 200 else "top-3" if passes < 1500 else "all", "objective": "hinge"}
    return options


def attack(
    name: str, net: nn.Module, images: Tensor, labels: Tensor, passes: int, seed: int
) -> tuple[Count, Stopwatch]:
    """Run one of our attacks; return what it found and cost in passes and time.

    Raises:
        RuntimeError: the attack's own count is not that seen from outside, or an image exceeds the budget.
    """
    counted = TotalNet(net)
    model = Model(counted)
    watch = Stopwatch()
    result = names()[name](**plan(name, passes))(model, images, labels, generator=rng.generator(f"peers/{name}", seed))
    watch.stop()
    claimed = (int(result.forwards.sum()), int(result.backwards.sum()))
    if claimed != (counted.forwards, counted.backwards):
        raise RuntimeError(f"{name}: counts {claimed} passes, the net saw {(counted.forwards, counted.backwards)}")
    if int((result.forwards + result.backwards).max()) > passes:
        raise RuntimeError(f"{name}: an image cost more than {passes} passes")
    distance = torch.where(result.found, result.distance, math.inf)
    return Count(result.forwards, result.backwards, distance, result.adversarial), watch

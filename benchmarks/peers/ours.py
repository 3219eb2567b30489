"""This project's minimal attacks at a budget, counted by themselves and checked from outside.

Ours put several points of one image in one call, so rows cannot be told apart from outside as those of the peers are.
They count per image; the sum over images must equal the rows that the net has seen (`counting.TotalNet`), and no image
may exceed the budget.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from counting import Count, Stopwatch, TotalNet
from intriguing import attacks, rng
from intriguing.attacks import Attack
from intriguing.attacks.capabilities import capabilities
from intriguing.nets.load import Model

TITLES = {
    "nearest": "Nearest", "lbfgs": "L-BFGS", "ddn": "DDN", "fmn": "FMN", "deepfool": "DeepFool",
    "superdeepfool": "SuperDeepFool", "carlini-wagner": "C&W", "fab": "FAB", "alma": "ALMA", "pdgd": "PDGD",
}  # fmt: skip
LIBRARY = "intriguing"
NORMS = {"L1": 1.0, "L2": 2.0, "Linf": math.inf}
MAIN = {1.0: "intriguing-lbfgs-l1", 2.0: "intriguing-nearest", math.inf: "intriguing-lbfgs-linf"}  # whose place is told


@dataclass(frozen=True)
class Ours:
    """One of our attacks in one norm.

    Attributes:
        name: in the registry.
        kind: its class.
        norm: 1, 2 or inf.
    """

    name: str
    kind: type[Attack]
    norm: float


@functools.cache
def names() -> dict[str, Ours]:
    """Return our attacks that look for the nearest example under a budget, by name: in L1 and Linf it ends in it."""
    found = {}
    for capability in capabilities(attacks.ATTACKS):
        kind = attacks.ATTACKS[capability.name]
        fields = {field.name for field in dataclasses.fields(kind)}
        # L1-Adam weighs L1 against its loss and is judged in L2: it minimises neither.
        if capability.question == "the nearest example" and "budget" in fields and capability.name != "l1-adam":
            for norm in capability.norms:
                end = "" if norm == "L2" else f"-{norm.lower()}"
                found[f"{LIBRARY}-{capability.name}{end}"] = Ours(capability.name, kind, NORMS[norm])
    return found


def plan(name: str, passes: int) -> dict[str, object]:
    """Return the parameters one of our attacks is run with: any wrong class, at most `passes` per image."""
    ours = names()[name]
    options: dict[str, object] = {"budget": passes}
    if ours.norm != 2 and "norm" in {field.name for field in dataclasses.fields(ours.kind)}:
        options["norm"] = ours.norm
    if name == f"{LIBRARY}-lbfgs":
        # The classes to start from: with few passes the likeliest alone, and all once they can be paid for.
        options |= {"target": "top-1" if passes < 200 else "top-3" if passes < 1500 else "all", "objective": "hinge"}
    elif ours.name == "lbfgs":
        options["target"] = "all"
    return options


def attack(
    name: str,
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    passes: int,
    seed: int,
    starts: tuple[Tensor, Tensor] | None = None,
) -> tuple[Count, Stopwatch]:
    """Run one of our attacks; return what it found and cost in passes and time.

    Args:
        name: see `names`.
        net: frozen.
        images: (N, ...) in [0, 1].
        labels: (N,) int64.
        passes: forwards plus backwards one image may cost.
        seed: of what it draws.
        starts: training images and labels, for an attack that can start from the other side; looking through them is
            in its time, and asking the net about them in its passes.

    Raises:
        RuntimeError: the attack's own count is not that seen from outside, or an image exceeds the budget.
    """
    counted = TotalNet(net)
    model = Model(counted)
    options = plan(name, passes)
    kind = names()[name].kind
    # The paper's search over c in L2 begins at the image.
    if (
        starts is not None
        and name != f"{LIBRARY}-lbfgs"
        and "starts" in {field.name for field in dataclasses.fields(kind)}
    ):
        options["starts"] = starts
    watch = Stopwatch()
    result = kind(**options)(model, images, labels, generator=rng.generator(f"peers/{name}", seed))
    watch.stop()
    claimed = (int(result.forwards.sum()), int(result.backwards.sum()))
    if claimed != (counted.forwards, counted.backwards):
        raise RuntimeError(f"{name}: counts {claimed} passes, the net saw {(counted.forwards, counted.backwards)}")
    if int((result.forwards + result.backwards).max()) > passes:
        raise RuntimeError(f"{name}: an image cost more than {passes} passes")
    distance = torch.where(result.found, result.distance, math.inf)
    return Count(result.forwards, result.backwards, distance, result.adversarial), watch

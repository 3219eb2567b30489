"""The worst of several attacks, image by image: an image counts as robust if it holds against all of them.

Averages over attacks say nothing: the strongest attack is another one for each image. This is the ensemble of Croce
and Hein, ICML 2020, section 5 (AutoAttack, there with four given attacks), for any attacks of this library.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from intriguing.attacks.base import POSITIVE, Attack, Trial, required
from intriguing.attacks.result import check_norm
from intriguing.errors import InputError


@dataclass(frozen=True)
class WorstOf(Attack):
    """Several attacks as one; call it like any other, ``WorstOf((a, b))(model, images, labels, generator=g)``.

    The nearest success of each image over all attacks is returned. The clean pass and the final judgement are made
    once, and all other passes are summed.

    Args:
        attacks: in the order in which they are tried, of one norm, without budgets of their own.
        eps: radius: what lies outside is no success, and an image that one attack has broken is left out of the next
            ones. Attacks of fixed size must have the same. None: all attacks run on all images, and the nearest
            success of any size counts.
        target: one class per image for all attacks, ``"random"``, ``"top-1"`` or (N,) int64; None leaves each its own
            target, and any wrong class is a success.
        budget: the largest number of forwards plus backwards on one image, over all attacks; the later ones get what
            the earlier ones have left. None: no limit.
    """

    description: ClassVar[str] = "the worst of several attacks, image by image"
    ranges: ClassVar[Any] = {"eps": POSITIVE}

    attacks: tuple[Attack, ...]
    eps: float | None = None
    target: str | Tensor | None = None
    budget: int | None = None

    @property
    def norm(self) -> float:
        """The norm of the attacks."""
        return check_norm(getattr(self.attacks[0], "norm", 2))

    def _check(self) -> None:
        if not self.attacks or not all(isinstance(attack, Attack) for attack in self.attacks):
            raise InputError(f"attacks: expected at least one attack, such as PGD(eps=0.3), got {self.attacks!r}")
        for attack in self.attacks:
            name, norm = type(attack).__name__, getattr(attack, "norm", 2)
            if norm != self.norm:
                raise InputError(f"attacks: expected one norm, got {self.norm:g} and {name} with {norm:g}")
            if getattr(attack, "budget", None) is not None:
                raise InputError(f"attacks: {name} has a budget of its own; give one budget for all to worst_of")
            eps = getattr(attack, "eps", None)
            if self.eps is not None and eps is not None and eps != self.eps:
                raise InputError(f"attacks: {name} has eps {eps}, but the radius is {self.eps}; give both the same")
            attack.check()

    def _search(self, trial: Trial, generator: torch.Generator | None) -> None:
        holds = trial.attacked.clone()
        given: dict[str, Any] = {"budget": self.budget}
        if self.target is not None:
            trial.aim(self.target, generator)
            # One draw for all attacks; images without a target are not attacked, and any wrong class does for them.
            given["target"] = torch.where(trial.wanted < 0, (trial.labels + 1) % trial.classes, trial.wanted)
        for done, attack in enumerate(self.attacks, start=1):
            if attack.needs_generator:
                required(generator, attack.needs_generator)
            branch = trial.branch(holds)
            part: Attack = dataclasses.replace(cast(Any, attack), **given)  # every attack is a frozen dataclass
            part._search(branch, generator)
            broken = trial.join(branch)
            if self.eps is not None:
                holds[broken] = False
            trial.tell(done, len(self.attacks))


def worst_of(
    attacks: Sequence[Attack],
    *,
    eps: float | None = None,
    target: str | Tensor | None = None,
    budget: int | None = None,
) -> WorstOf:
    """Return the worst of several attacks as one attack; see `WorstOf`.

    Raises:
        InputError: when it is called, for attacks that do not belong together.

    Example:
        >>> attack = worst_of([APGD(0.3), TargetedAPGD(0.3), Square(0.3)], eps=0.3)
        >>> attack(model, images, labels, generator=rng.generator("worst", 0)).at(0.3).robust_accuracy
    """
    return WorstOf(tuple(attacks), eps=eps, target=target, budget=budget)

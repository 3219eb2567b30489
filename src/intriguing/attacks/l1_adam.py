"""A variant of the attack from a reader's code: minimise |r|_1 + w cross-entropy by Adam, from a random start.

    minimise over x + r in the box      |r|_1 + w loss(x + r, l)                                       (1)

with w = 1, r drawn from U(0, 1), 3000 steps of Adam at a rate of 0.001, and every class as a target. x is the image,
l the target, r the perturbation. It is NOT the attack of Szegedy et al. 2014, which measures r in the Euclidean norm,
searches its weight image by image, and starts at the image; it is kept here to be compared with it.

- The weight is one for all images. Where |w dloss/dx_i| < 1 for a pixel i, the norm wins and r_i goes to 0: where that
  holds of all pixels the attack ends at the image itself. A larger w reaches the target and goes past it. Which weight
  is small and which is large depends on how steep the net is; the exhibit on it measures several.
- What comes back is where the last step ended, as in that code: no point on the way is kept, nothing is bisected.
- The label itself is no target: D(x, f(x)) = x.
- The start is one draw, shared by all images and targets, so that an image's result does not depend on its place in a
  batch. After it, as after every step, x + r is moved back into the box.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own abbreviation)

from intriguing.attacks.base import COUNT, POSITIVE, Attack, Progress, Range, Trial
from intriguing.attacks.problem import Pairs, choose_targets
from intriguing.attacks.result import AttackResult
from intriguing.nets.load import Model

_DECAYS = (0.9, 0.999)  # of Adam's two averages, and its epsilon: Kingma and Ba 2015, algorithm 1
_EPSILON = 1e-8
_TELL = 50  # steps between two reports of progress


@dataclass(frozen=True)
class L1Adam(Attack):
    """Parameters of the attack; call it as ``L1Adam(...)(model, images, labels, generator=g)``.

    Args:
        target: ``"all"`` (the code's), ``"random"``, ``"nearest"``, ``"top-k"``, or (N,) int64. ``"nearest"`` is
            ``"all"`` here: of an image's targets that are reached the closest in L2 is returned either way.
        weight: w in (1), positive. DEVIATION: the code's is 1, which on nets with small gradients ends at the image.
        budget: the largest number of forwards plus backwards on one image, over all targets, the clean pass and the
            final judgement included; never exceeded. None: no limit.
        steps: of Adam, for each target; fewer where the budget ends first.
        rate: of Adam, in pixel units.
        slots: (image, target) pairs moved at once.
    """

    description: ClassVar[str] = "a reader's variant: L1 norm plus weighted cross-entropy, Adam, one weight for all"
    ranges: ClassVar[Mapping[str, Range]] = {"weight": POSITIVE, "rate": POSITIVE, "steps": COUNT, "slots": COUNT}
    needs_generator: ClassVar[str] = "its start"

    target: str | Tensor = "all"
    weight: float = 10.0
    budget: int | None = None
    steps: int = 3000
    rate: float = 0.001
    slots: int = 1024

    def _search(self, trial: Trial, generator: torch.Generator | None) -> None:
        assert generator is not None  # the base has seen to it
        _Descent(self, trial, generator).run()


def l1_adam(
    model: Model | torch.nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    target: str | Tensor = "all",
    weight: float = 10.0,
    budget: int | None = None,
    steps: int = 3000,
    progress: Progress | None = None,
) -> AttackResult:
    """Look for adversarial examples by Adam on |r|_1 + weight x cross-entropy, all pairs side by side.

    Args:
        model: a `Model`, or a plain net whose inputs lie in [0, 1].
        images: (N, ...) in the model's box; images the model gets wrong are not attacked.
        labels: (N,) int64 true classes.
        generator: draws the start, then the random targets if there are any.
        target: see `L1Adam`.
        weight: of the cross-entropy; the code's is 1.
        budget: the largest number of forwards plus backwards on one image; None for no limit.
        steps: of Adam, for each target.
        progress: called with (steps done, all steps) now and then.

    Returns:
        An `AttackResult`; `phase` is `Phase.DESCENT` where something was found, and `distance_search` is `distance`,
        since nothing is bisected. Not finding anything is a status, not an exception.

    Raises:
        InputError, DataError, ModelError: arguments that cannot be used; the message says what to do.

    Example:
        >>> result = l1_adam(model, images, labels, generator=rng.generator("start", 0), weight=100.0)
        >>> norms.l1(result.adversarial - images)[result.found].mean()
    """
    attack = L1Adam(target=target, weight=weight, budget=budget, steps=steps)
    return attack(model, images, labels, generator=generator, progress=progress)


class _Descent:
    """The state of one attack: every (image, target) pair moves on its own, for as many steps as it can pay."""

    def __init__(self, attack: L1Adam, trial: Trial, generator: torch.Generator) -> None:
        self.attack, self.trial, self.clean = attack, trial, trial.clean
        start = torch.rand(self.clean.shape[1], generator=generator, device=generator.device)
        self.start = start.to(self.clean)
        self.pairs: Pairs = choose_targets(attack.target, trial.z, trial.labels, trial.attacked, generator)
        self.steps = self._affordable()

    def _affordable(self) -> Tensor:
        """Return how many steps each pair takes, (P,), of what is left: 2 each, 1 per pair to look, 1 at the end."""
        P = len(self.pairs)
        most = torch.full((P,), self.attack.steps, dtype=torch.int64, device=self.clean.device)
        if self.attack.budget is None:
            return most
        rivals = torch.bincount(self.pairs.image, minlength=len(self.clean))[self.pairs.image]
        image = self.pairs.image
        paid = (self.trial.forwards + self.trial.backwards)[image]
        left = self.attack.budget - paid - self.trial.reserved - rivals
        steps = most.minimum(left.clamp_min(0) // (2 * rivals))
        self.trial.spent[self.pairs.image[steps < self.attack.steps]] = True
        return steps

    def _gradient(self, x: Tensor, pair: Tensor) -> Tensor:
        """Return the gradient of (1) at x (k, n); the norm's is 0 where r_i is."""
        image, target = self.pairs.image[pair], self.pairs.target[pair]
        _, _, gradient = self.trial.gradient(x, image, lambda z: F.cross_entropy(z, target, reduction="none"))
        return self.attack.weight * gradient + torch.sign(x - self.clean[image])

    def run(self) -> None:
        """Move all pairs, slots at a time, and keep where each ended."""
        P, low, high = len(self.pairs), *self.trial.model.box
        total = max(1, int(self.steps.sum()))
        done = 0
        for chosen in torch.split(torch.arange(P, device=self.clean.device), self.attack.slots) if P else ():
            pair, x = chosen, (self.clean[self.pairs.image[chosen]] + self.start).clamp(low, high)
            ended = x.clone()
            mean, square = torch.zeros_like(x), torch.zeros_like(x)
            for step in range(1, int(self.steps[pair].max()) + 1):
                live = self.steps[pair] >= step
                if not bool(live.all()):
                    ended[pair - chosen[0]] = x
                    pair, x, mean, square = pair[live], x[live], mean[live], square[live]
                gradient = self._gradient(x, pair)
                # Adam, Kingma and Ba 2015, algorithm 1.
                mean.lerp_(gradient, 1 - _DECAYS[0])
                square.lerp_(gradient.square(), 1 - _DECAYS[1])
                rate = self.attack.rate / (1 - _DECAYS[0] ** step)
                deviation = (square / (1 - _DECAYS[1] ** step)).sqrt_().add_(_EPSILON)
                x = torch.addcdiv(x, mean, deviation, value=-rate).clamp_(low, high)
                done += len(pair)
                if step % _TELL == 0:
                    self.trial.tell(done, total)
            ended[pair - chosen[0]] = x
            # A pair that could not pay for one step has not looked for anything, and is not judged.
            moved = chosen[self.steps[chosen] > 0]
            image, x = self.pairs.image[moved], ended[moved - chosen[0]]
            self.trial.keep(x, image, self.trial.logits(x, image), wanted=self.pairs.target[moved])

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

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own abbreviation)

from intriguing import norms
from intriguing.attacks.problem import Pairs, check_labels, choose_targets
from intriguing.attacks.result import AttackResult, AttackStatus, Phase
from intriguing.errors import InputError, ModelError
from intriguing.floating import denormals_flushed
from intriguing.nets.load import Model, as_model

_DECAYS = (0.9, 0.999)  # of Adam's two averages, and its epsilon: Kingma and Ba 2015, algorithm 1
_EPSILON = 1e-8
_TELL = 50  # steps between two reports of progress


@dataclass(frozen=True)
class L1Adam:
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

    target: str | Tensor = "all"
    weight: float = 10.0
    budget: int | None = None
    steps: int = 3000
    rate: float = 0.001
    slots: int = 1024

    def __call__(
        self,
        model: Model | torch.nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        generator: torch.Generator | None = None,
        progress: Callable[[float, float], None] | None = None,
    ) -> AttackResult:
        """Attack `images`; see `l1_adam`."""
        self._check()
        model = as_model(model)
        model.check_inputs(images)
        with model.frozen(), denormals_flushed():
            return _Descent(self, model, images, labels, generator, progress).run()

    def _check(self) -> None:
        if self.budget is not None and self.budget < 1:
            raise InputError(f"budget: expected at least 1 pass per image, got {self.budget}")
        for name, value in (("weight", self.weight), ("rate", self.rate)):
            if not 0 < value < math.inf:
                raise InputError(f"{name}: expected a positive number, got {value}")
        for name, count in (("steps", self.steps), ("slots", self.slots)):
            if count < 1:
                raise InputError(f"{name}: expected at least 1, got {count}")


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
    progress: Callable[[float, float], None] | None = None,
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
        An `AttackResult`; `phase` is `Phase.REFINE` where something was found, and `distance_search` is `distance`,
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

    def __init__(
        self,
        attack: L1Adam,
        model: Model,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator | None,
        progress: Callable[[float, float], None] | None,
    ) -> None:
        if generator is None:
            raise InputError(
                "generator: this attack starts from a random point, so it needs a torch.Generator; "
                'pass generator=intriguing.rng.generator("start", seed)'
            )
        self.attack, self.model, self.progress = attack, model, progress
        self.original, self.shape = images.detach(), images.shape[1:]
        device = model.device
        self.clean = images.detach().to(device=device, dtype=model.dtype).flatten(1)
        N = len(images)
        self.forwards = torch.zeros(N, dtype=torch.int64, device=device)
        self.backwards = torch.zeros_like(self.forwards)
        logits = self._logits(self.clean, torch.arange(N, device=device))
        model.check(logits)
        check_labels(labels, N, logits.shape[1])
        self.labels, self.classes = labels.to(device), logits.shape[1]
        self.predicted = logits.argmax(1)
        self.attacked = self.predicted == self.labels
        start = torch.rand(self.clean.shape[1], generator=generator, device=generator.device)
        self.start = start.to(device=device, dtype=model.dtype)
        self.pairs: Pairs = choose_targets(attack.target, logits, self.labels, self.attacked, generator)
        self.steps = self._affordable()

    def _affordable(self) -> Tensor:
        """Return how many steps each pair takes, (P,): its image pays 1 + per pair 2 each and 1 for the judgement."""
        P = len(self.pairs)
        most = torch.full((P,), self.attack.steps, dtype=torch.int64, device=self.clean.device)
        if self.attack.budget is None:
            return most
        rivals = torch.bincount(self.pairs.image, minlength=len(self.clean))[self.pairs.image]
        return most.minimum((self.attack.budget - 1 - rivals).clamp_min(0) // (2 * rivals))

    def _logits(self, x: Tensor, image: Tensor) -> Tensor:
        """Forward passes for flat points x (k, n) of the images `image` (k,), counted."""
        with torch.no_grad():
            pieces = [self.model(part.reshape(-1, *self.shape)) for part in torch.split(x, self.attack.slots)]
        self.forwards.index_add_(0, image, torch.ones_like(image))
        return torch.cat(pieces) if pieces else x.new_zeros(0, self.classes)

    def _gradient(self, x: Tensor, pair: Tensor) -> Tensor:
        """Return the gradient of (1) at x (k, n); the norm's is 0 where r_i is."""
        image, target = self.pairs.image[pair], self.pairs.target[pair]
        point = x.detach().requires_grad_(True)
        with torch.enable_grad():
            loss = F.cross_entropy(self.model(point.reshape(-1, *self.shape)), target, reduction="sum")
            gradient = torch.autograd.grad(loss, point, allow_unused=True)[0] if loss.requires_grad else None
        if gradient is None:
            raise ModelError(
                f"{self.model.name} passes no gradient to its images, which this attack needs; "
                "take it out of torch.no_grad, and keep tensors from being detached or rounded on the way"
            )
        ones = torch.ones_like(image)
        self.forwards.index_add_(0, image, ones)
        self.backwards.index_add_(0, image, ones)
        return self.attack.weight * gradient + torch.sign(x - self.clean[image])

    def run(self) -> AttackResult:
        """Move all pairs, slots at a time."""
        P, low, high = len(self.pairs), *self.model.box
        ended = (self.clean[self.pairs.image] + self.start).clamp(low, high)
        total = max(1, int(self.steps.sum()))
        done = 0
        for pair in torch.split(torch.arange(P, device=self.clean.device), self.attack.slots) if P else ():
            x = ended[pair]
            mean, square = torch.zeros_like(x), torch.zeros_like(x)
            for step in range(1, int(self.steps[pair].max()) + 1):
                live = self.steps[pair] >= step
                if not bool(live.all()):
                    ended[pair] = x
                    pair, x, mean, square = pair[live], x[live], mean[live], square[live]
                gradient = self._gradient(x, pair)
                # Adam, Kingma and Ba 2015, algorithm 1.
                mean.lerp_(gradient, 1 - _DECAYS[0])
                square.lerp_(gradient.square(), 1 - _DECAYS[1])
                rate = self.attack.rate / (1 - _DECAYS[0] ** step)
                deviation = (square / (1 - _DECAYS[1] ** step)).sqrt_().add_(_EPSILON)
                x = torch.addcdiv(x, mean, deviation, value=-rate).clamp_(low, high)
                done += len(pair)
                if self.progress is not None and step % _TELL == 0:
                    self.progress(done, total)
            ended[pair] = x
        return self._finish(ended)

    def _finish(self, ended: Tensor) -> AttackResult:
        """Judge where every pair ended, keep the closest success of each image, and put the record together."""
        N, device = len(self.clean), self.clean.device
        image, target = self.pairs.image, self.pairs.target
        # Half precision would round examples back over the boundary; and a wide dtype may hold pixels that the model's
        # put just outside the box.
        dtype = torch.promote_types(self.original.dtype, torch.float32)
        returned = ended.to(dtype).clamp(*self.model.box)
        originals = self.original.flatten(1).to(device)
        judged = torch.zeros(len(image), dtype=torch.bool, device=device)
        numeric = torch.zeros_like(judged)
        # A pair that could not pay for one step has not looked for anything, and is not judged.
        moved = (self.steps > 0).nonzero().squeeze(1)
        logits = self._logits(returned[moved].to(self.clean.dtype), image[moved])
        judged[moved] = logits.argmax(1) == target[moved]
        numeric[moved] = ~logits.isfinite().all(1)
        reached = judged & ~numeric
        length = norms.l2(returned.double() - originals[image].double())

        by_target = torch.full((N, self.classes), torch.inf, dtype=torch.float64, device=device)
        by_target[image, target] = torch.where(reached, length, torch.inf)
        wrong = (~self.attacked).nonzero().squeeze(1)
        by_target[wrong, self.predicted[wrong]] = 0.0
        distance, winner = by_target.min(1)
        found = self.attacked & torch.isfinite(distance)
        pair_of = torch.full_like(by_target, -1, dtype=torch.int64)
        pair_of[image, target] = torch.arange(len(image), device=device)
        adversarial = originals.to(dtype, copy=True)
        adversarial[found] = returned[pair_of[found, winner[found]]]

        status = torch.full((N,), int(AttackStatus.NOT_FOUND), dtype=torch.int64, device=device)
        status[image[self.steps < self.attack.steps]] = int(AttackStatus.BUDGET_SPENT)
        status[image[numeric]] = int(AttackStatus.NUMERIC_FAILURE)
        status[found] = int(AttackStatus.FOUND)
        status[wrong] = int(AttackStatus.ALREADY_WRONG)
        home = self.original.device
        return AttackResult(
            adversarial=adversarial.reshape(-1, *self.shape).to(home),
            target=torch.where(torch.isfinite(distance), winner, -1).to(home),
            status=status.to(home),
            distance=distance.to(home),
            distortion=(distance / math.sqrt(self.clean.shape[1])).to(home),
            forwards=self.forwards.to(home),
            backwards=self.backwards.to(home),
            phase=torch.where(found, int(Phase.REFINE), int(Phase.NONE)).to(home),
            distance_search=distance.to(home),
            by_target=by_target.to(home),
        )

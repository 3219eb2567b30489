"""What the minimal-norm attacks of first order share: the margin they move against, their steps, their directions.

In the papers' letters: x the image, delta = x' - x its change, y its label, t a target, z the logits, k a step, K the
steps in all. An attack here moves one point per image, all images side by side, each by its own numbers alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from intriguing import rng
from intriguing.attacks.base import Trial
from intriguing.attacks.result import Phase

_TELL = 25  # steps between two reports of progress
_FLAT = 1e-12  # a gradient shorter than this has no direction


def excess(z: Tensor, label: Tensor, wanted: Tensor) -> Tensor:
    """Return the logit by which each point (k,) is not adversarial yet: negative where it is.

    f6 of Carlini and Wagner 2017 without its floor: z_y - max_{j != y} z_j untargeted, max_{j != t} z_j - z_t targeted.

    Args:
        z: (k, K).
        label: (k,) int64.
        wanted: (k,) int64, the target, or -1 for any class but the label.
    """
    free = wanted < 0
    reference = torch.where(free, label, wanted)[:, None]
    own = z.gather(1, reference).squeeze(1)
    others = z.scatter(1, reference, -torch.inf).amax(1)
    return torch.where(free, own - others, others - own)


def cross_entropy_away(z: Tensor, label: Tensor, wanted: Tensor) -> Tensor:
    """Return the loss (k,) that falls on the way: minus the label's cross-entropy, or the target's."""
    free = wanted < 0
    entropy = -torch.log_softmax(z, 1).gather(1, torch.where(free, label, wanted)[:, None]).squeeze(1)
    return torch.where(free, -entropy, entropy)


def margin_loss(trial: Trial, image: Tensor) -> Callable[[Tensor], Tensor]:
    """Return `excess` for the points of these images (k,), as a function of their logits."""
    label, wanted = trial.labels[image], trial.wanted[image]
    return lambda z: excess(z, label, wanted)


def entropy_loss(trial: Trial, image: Tensor) -> Callable[[Tensor], Tensor]:
    """Return `cross_entropy_away` for the points of these images (k,), as a function of their logits."""
    label, wanted = trial.labels[image], trial.wanted[image]
    return lambda z: cross_entropy_away(z, label, wanted)


def planned(trial: Trial, steps: int | None, default: int, *, passes: int = 2, runs: int = 1) -> int:
    """Return how many steps a run has: as told, else what the budget pays, else the default.

    Args:
        trial: after its clean pass, with `reserved` set.
        steps: as told, or None.
        default: without a budget.
        passes: of one step on one image.
        runs: that share the budget.
    """
    if steps is not None:
        return steps
    if trial.budget is None:
        return default
    return max(0, (trial.budget - 1 - trial.reserved) // (passes * runs))


def parts(trial: Trial, slots: int) -> Iterator[Tensor]:
    """Yield the indices of the images to attack, at most `slots` at a time, so that memory is bounded."""
    image = trial.attacked.nonzero().squeeze(1)
    yield from torch.split(image, slots) if len(image) else ()


def cosine(first: float, last: float, k: int, steps: int) -> float:
    """Return the value at step k of a cosine schedule from `first` at 0 to `last` at `steps`."""
    return last + (first - last) * (1 + math.cos(math.pi * k / steps)) / 2


def unit(gradient: Tensor, k: int, generator: torch.Generator | None) -> Tensor:
    """Return the gradients (b, n) at length 1; where one is 0 or not finite, a random direction.

    The direction depends on the generator's seed and the step alone: it is the same for all images, so that no image's
    fate depends on the others in its batch, and nothing is drawn from the generator.
    """
    length: Tensor = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
    lost = ~(length > _FLAT) | ~length.isfinite()
    if not bool(lost.any()):
        return gradient / length
    seed = 0 if generator is None else generator.initial_seed()
    draw = torch.randn(gradient.shape[1], generator=rng.generator(f"attacks/direction/{seed}", k))
    draw = (draw / draw.norm()).to(gradient)
    return torch.where(lost, draw, gradient.nan_to_num(0, 0, 0) / length.nan_to_num(1, 1, 1).clamp_min(_FLAT))


def tell(trial: Trial, k: int, steps: int) -> None:
    """Report progress every now and then."""
    if k % _TELL == 0:
        trial.tell(k, steps)


def look(trial: Trial, x: Tensor, image: Tensor) -> None:
    """Judge where the last step led, for the images that can pay for it: one forward pass."""
    able = trial.affords(image, 1)
    if bool(able.any()):
        x, image = x[able], image[able]
        trial.keep(x, image, trial.logits(x, image))


def close_in(trial: Trial, image: Tensor, halvings: int) -> None:
    """Bisect the segments from the images (k,) to their nearest successes; the trial keeps what is nearer."""
    image = image[torch.isfinite(trial.best[image])]
    if not len(image):
        return
    clean, far = trial.clean[image], trial.best_x[image].clone()
    low, high = far.new_zeros(len(image)), far.new_ones(len(image))
    for _ in range(halvings):
        middle = (low + high) / 2
        x = torch.lerp(clean, far, middle[:, None])
        success = trial.keep(x, image, trial.logits(x, image), Phase.BISECT)
        low, high = torch.where(success, low, middle), torch.where(success, middle, high)

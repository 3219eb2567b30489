"""What is asked of an attack: which wrong class each image should reach, and when it has reached it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from intriguing.errors import InputError, UnknownNameError
from intriguing.nets.inputs import check_labels

__all__ = ["TARGETS", "Pairs", "check_labels", "choose_targets", "margin"]

TARGETS = {
    "random": "one wrong class per image, uniform over the wrong classes",
    "nearest": "all wrong classes start, those that cannot win are dropped early; the closest example is kept",
    "all": "all wrong classes, each solved to its end; the closest example and every distance are kept",
    "top-k": "the k likeliest wrong classes, for example top-3",
}


@dataclass(frozen=True)
class Pairs:
    """The (image, target) pairs an attack works on.

    Attributes:
        image: (P,) int64, index of the image.
        target: (P,) int64, the class it should be given.
    """

    image: Tensor
    target: Tensor

    def __len__(self) -> int:
        return len(self.image)


def choose_targets(
    target: str | Tensor, logits: Tensor, labels: Tensor, attacked: Tensor, generator: torch.Generator | None
) -> Pairs:
    """Return the pairs to attack.

    Args:
        target: a rule of `TARGETS` (``"top-3"`` for k = 3), or (N,) int64 classes, one per image.
        logits: (N, K) of the clean images.
        labels: (N,) int64 true classes.
        attacked: (N,) bool, the images to attack: those the net gets right.
        generator: draws the random targets; required by ``"random"``. The draw for an image depends on its
            position alone, not on which other images are attacked.

    Raises:
        InputError: a target equal to its label (it is reached without any change: D(x, f(x)) = x), a missing
            generator, or classes out of range.
        UnknownNameError: an unknown rule.
    """
    N, K = logits.shape
    wrong = K - 1
    ids = attacked.nonzero().squeeze(1)
    if isinstance(target, Tensor):
        _check_given(target, labels, N, K)
        return Pairs(ids, target.to(labels.device)[ids])
    if not isinstance(target, str):
        raise InputError(
            f"target: expected a rule ({', '.join(TARGETS)}) or an int64 tensor of classes, got {target!r}"
        )
    if target == "random":
        if generator is None:
            raise InputError(
                'generator: target="random" draws its classes, so it needs a torch.Generator; '
                'pass generator=intriguing.rng.generator("targets", seed)'
            )
        # Uniform over the K - 1 wrong classes: skip over the label.
        draw = torch.randint(wrong, (N,), generator=generator, device=generator.device).to(labels.device)
        return Pairs(ids, (draw + (draw >= labels))[ids])
    if target in ("all", "nearest"):
        k = wrong
    elif target.startswith("top-") and target[4:].isdecimal() and int(target[4:]) > 0:
        k = min(int(target[4:]), wrong)
    else:
        raise UnknownNameError("target", target, TARGETS)
    others = logits.scatter(1, labels[:, None], -torch.inf)
    likeliest = others.topk(k, dim=1).indices[ids]
    return Pairs(ids.repeat_interleave(k), likeliest.flatten())


def margin(logits: Tensor, target: Tensor) -> Tensor:
    """Return z_target - max over the other classes, (B,); positive where the net answers `target`.

    Args:
        logits: (B, K).
        target: (B,) int64.
    """
    others = logits.scatter(1, target[:, None], -torch.inf)
    return logits.gather(1, target[:, None]).squeeze(1) - others.amax(1)


def _check_given(target: Tensor, labels: Tensor, N: int, K: int) -> None:
    if target.dim() != 1 or len(target) != N or target.dtype != torch.int64:
        raise InputError(
            f"target: expected a rule ({', '.join(TARGETS)}) or int64 classes of shape ({N},), "
            f"got {target.dtype} {tuple(target.shape)}"
        )
    bad = ((target < 0) | (target >= K)).nonzero().squeeze(1)
    if len(bad):
        raise InputError(
            f"target: expected classes 0 to {K - 1}, got {target[bad[:5]].tolist()} at images {bad[:5].tolist()}"
        )
    same = (target.to(labels.device) == labels).nonzero().squeeze(1)
    if len(same):
        raise InputError(
            f"target: equal to the label at images {same[:5].tolist()} ({len(same)} in all); "
            "a target must be a wrong class, since the image itself is the nearest one of its own"
        )

"""What can be asked of a net without attacking it: does it repeat itself, alone as in a batch? Is its gradient zero?

Each probe returns numbers per image. The net is frozen meanwhile, and the global random state put back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from intriguing.nets.load import Model

Loss = Callable[[Tensor, Tensor], Tensor]  # logits (B, K), labels (B,) -> (B,)


def batch_dependence(model: Model, images: Tensor) -> Tensor:
    """Return how far each image's logits move when its batch goes away, (N,), as a share of the largest logit.

    Args:
        model: the net.
        images: (N, ...), N the batch; every image is also fed alone.

    Example:
        >>> batch_dependence(Model(nn.Flatten()), torch.rand(64, 4)).max().item()
        0.0
    """
    with quiet(model):
        together = model.logits(images, batch=len(images))
        alone = model.logits(images, batch=1)
    return _shift(together, alone)


def randomness(model: Model, images: Tensor, calls: int = 3) -> Tensor:
    """Return how far each image's logits move between calls on the same batch, (N,), as a share of the largest logit.

    Example:
        >>> randomness(Model(nn.Flatten()), torch.rand(8, 4)).max().item()
        0.0
    """
    with quiet(model):
        first, *others = (model.logits(images, batch=len(images)) for _ in range(calls))
    return torch.stack([_shift(first, other) for other in others]).amax(0)


def noise_floor(dtype: torch.dtype) -> float:
    """Return the share of the largest logit by which rounding may move one: the root of the dtype's precision.

    Another order of additions costs the last digits of a number; a neighbour in the batch, or noise, changes the
    first ones. Half of the digits lies far from both.

    Example:
        >>> noise_floor(torch.float64)
        1.4901161193847656e-08
    """
    return math.sqrt(torch.finfo(dtype).eps)


def margin_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the label's logit less the largest other one, (B,): positive where the net is right."""
    own = logits.gather(1, labels[:, None]).squeeze(1)
    return own - logits.scatter(1, labels[:, None], -torch.inf).amax(1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return -log of the label's softmax, (B,)."""
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none")


def gradients(model: Model, images: Tensor, labels: Tensor, loss: Loss, batch: int = 64) -> Tensor | None:
    """Return the gradient of each image's own loss, in the shape of the images, or None where none comes back.

    Args:
        model: the net.
        images: (N, ...) in its box.
        labels: (N,) int64.
        loss: `margin_loss` or `cross_entropy`.
        batch: how many images the net sees at once.

    Example:
        >>> gradients(model, images, labels, margin_loss).flatten(1).norm(dim=1)
    """
    found = []
    with quiet(model), torch.enable_grad():
        for part, own in zip(torch.split(images, batch), torch.split(labels, batch), strict=True):
            point = part.detach().to(device=model.device, dtype=model.dtype).requires_grad_(True)
            value = loss(model(point), own.to(model.device)).sum()
            if not value.requires_grad:
                return None
            gradient: Tensor | None = torch.autograd.grad(value, point, allow_unused=True)[0]
            if gradient is None:
                return None
            found.append(gradient.detach().to(images.device))
    return torch.cat(found)


def zero_share(gradient: Tensor) -> float:
    """Return the share of images (N, ...) whose gradient is zero in every pixel, or not a number.

    Example:
        >>> zero_share(torch.tensor([[0.0, 0.0], [0.0, 1.0]]))
        0.5
    """
    rows = gradient.flatten(1)
    return float(((rows == 0).all(1) | ~rows.isfinite().all(1)).double().mean())


@contextmanager
def quiet(model: Model) -> Iterator[None]:
    """Freeze the net, and put back the random state that a random net uses up."""
    devices = [] if model.device.type != "cuda" else [model.device]
    with model.frozen(), torch.random.fork_rng(devices=devices):
        yield


def _shift(z: Tensor, other: Tensor) -> Tensor:
    largest = z.abs().amax().clamp_min(torch.finfo(z.dtype).tiny)
    return (z - other).abs().amax(1) / largest

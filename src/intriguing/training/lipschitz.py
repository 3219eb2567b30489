"""Penalising each layer's Lipschitz bound in training: the paper's open question, section 4.3.

Szegedy et al. 2014 close their spectral analysis with the suggestion that a penalty on every layer's bound might
help; they report no experiment. Here the objective is

    mean cross-entropy + sum_k (lambda_k / 2) sum_i w_ki^2 + (strength / 2) sum_k s_k^2                    (1)

with s_k the largest singular value of W_k. The last term has the form of weight decay, but weighs the top singular
direction alone. s_k is u^T W_k v for the top singular vectors, which power iteration follows from step to step; its
gradient is u v^T (Yoshida and Miyato 2017, arXiv:1705.10941, algorithm 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own abbreviation)

from intriguing import rng
from intriguing.errors import InputError
from intriguing.floating import denormals_flushed
from intriguing.records import Inputs, Record
from intriguing.training import loops, objectives
from intriguing.training.sigmoid import begin, decay_groups, epochs, finish, settings

RECIPE: dict[str, Any] = {"epochs": 20, "batch": 200, "rate": 0.01, "steps": 2000}
"""Default settings. `epochs` is raised until at least `steps` steps are made."""

_SIGMOID = 0.25  # the largest slope of a sigmoid unit


class TopSingularValues:
    """The largest singular value of each of some matrices, followed by power iteration while they change.

    Args:
        weights: (D, C) each.
        generator: draws the first vectors.

    Example:
        >>> top = TopSingularValues([torch.diag(torch.tensor([3.0, 1.0]))], torch.Generator().manual_seed(0))
        >>> for _ in range(20):
        ...     value = top()
        >>> round(value.item(), 4)
        3.0
    """

    def __init__(self, weights: Sequence[Tensor], generator: torch.Generator) -> None:
        self.weights = list(weights)
        self._u = [torch.randn(len(weight), generator=generator).to(weight) for weight in weights]

    def __call__(self) -> Tensor:
        """Take one step of the iteration; return (K,) values u^T W v, differentiable by the weights, never above."""
        values = []
        for place, weight in enumerate(self.weights):
            with torch.no_grad():
                v = F.normalize(weight.T @ self._u[place], dim=0)
                u = F.normalize(weight @ v, dim=0)
            self._u[place] = u
            values.append(u @ weight @ v)
        return torch.stack(values)


def train_penalised(
    inputs: Inputs, *, net: str = "FC100-100-10", seed: int, strength: float, learn: str = "train", **hyper: Any
) -> Record:
    """Train a sigmoid net by (1); a cell function.

    The initial weights and the order of images are those of `recipes.train` with the same seed. All nets learn for
    the same number of epochs: none stops early.

    Args:
        inputs: ``data(learn)`` is learnt, ``data("test")`` only measured.
        net: a key of `nets.NETS` whose recipe is ``"sigmoid"``.
        seed: decides the initial weights and the order of images.
        strength: of the penalty, at least 0.
        learn: the split that is learnt.
        **hyper: replaces entries of `RECIPE`, or ``decay``, the lambdas by layer (E15).

    Returns:
        The record of `sigmoid.finish`, with ``strength``, ``layers`` (the bound of each layer, the slope of its
        sigmoid units counted), ``product`` of these, and ``recipe``.

    Raises:
        UnknownNameError: no such net.
        InputError: a net without hidden layers, or a setting that is unknown or out of range.

    Example:
        record = train_penalised(inputs, seed=0, strength=1e-3)
        record.values["product"]
    """
    if not strength >= 0:
        raise InputError(f"strength must be at least 0, got {strength!r}")
    training = begin(inputs, net, seed, learn)
    recipe = settings(net, RECIPE, hyper)
    module, x, labels = training.module, training.x, training.labels
    top = TopSingularValues(objectives.weight_matrices(module), rng.generator(f"singular vectors/{net}", seed))
    total = epochs(recipe, len(x))

    def objective(indices: Tensor) -> Tensor:
        loss = F.cross_entropy(module(x[indices]), labels[indices])
        return loss + strength / 2 * top().square().sum() if strength else loss

    def after_epoch(epoch: int) -> bool:
        inputs.progress(epoch, total)
        return False

    with denormals_flushed():
        run = loops.descend(
            decay_groups(module, recipe["decay"]),
            objective,
            len(x),
            epochs=total,
            batch=recipe["batch"],
            rate=recipe["rate"],
            generator=training.generator,
            after_epoch=after_epoch,
        )
    layers = layer_bounds(module)
    values = {"strength": strength, "layers": layers, "product": math.prod(layers), "epochs": run, "recipe": recipe}
    return finish(inputs, training, values)


def layer_bounds(module: nn.Sequential) -> list[float]:
    """Return the Lipschitz bound of every layer of a net of dense layers and sigmoid units.

    A dense layer has its largest singular value; sigmoid units after it multiply that by their largest slope, 1/4.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Sigmoid())
        >>> _ = net[0].weight.data.copy_(torch.diag(torch.tensor([8.0, 1.0])))
        >>> layer_bounds(net)
        [2.0]
    """
    bounds: list[float] = []
    for layer in module:
        if isinstance(layer, nn.Linear):
            bounds.append(float(torch.linalg.matrix_norm(layer.weight.detach().double(), 2)))
        elif isinstance(layer, nn.Sigmoid):
            bounds[-1] *= _SIGMOID
        elif not isinstance(layer, nn.Flatten):
            raise InputError(f"layer_bounds knows dense layers and sigmoid units, got {type(layer).__name__}")
    return bounds

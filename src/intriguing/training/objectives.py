"""What training minimises: cross-entropy with weight decay, and the sparse autoencoder's loss.

Weight decay has one form everywhere, E15: (lambda / 2) sum w^2 per layer, added to the *mean* cross-entropy,
no division by the number of units. Biases are not decayed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own abbreviation)

from intriguing.errors import InputError

SPARSITIES = ("kl", "none", "l1")


def weight_matrices(net: nn.Module) -> list[nn.Parameter]:
    """Return the weights of a net's layers, input to output, without biases.

    Example:
        >>> [tuple(w.shape) for w in weight_matrices(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)))]
        [(3, 4), (2, 3)]
    """
    return [weight for weight in net.parameters() if weight.ndim > 1]


def penalty(weights: Sequence[Tensor], decay: Sequence[float]) -> Tensor:
    """Return the weight decay sum_k (lambda_k / 2) sum_i w_ki^2 (E15).

    Args:
        weights: one tensor per layer.
        decay: lambda of each, at least 0.

    Returns:
        A scalar, differentiable.

    Raises:
        InputError: not one decay per layer.

    Example:
        >>> penalty([torch.tensor([[1.0, 2.0]])], [0.1]).item()
        0.25
    """
    if len(weights) != len(decay) or not weights:
        raise InputError(f"decay must hold one lambda per layer: {len(weights)} layers, got {list(decay)}")
    terms = [rate / 2 * weight.square().sum() for weight, rate in zip(weights, decay, strict=True)]
    return torch.stack(terms).sum()


def classification(logits: Tensor, labels: Tensor, weights: Sequence[Tensor], decay: Sequence[float]) -> Tensor:
    """Return the objective of every classifier here: mean cross-entropy plus weight decay.

    Args:
        logits: (B, K).
        labels: (B,) int64.
        weights: one tensor per layer.
        decay: lambda of each.

    Example:
        >>> w = torch.zeros(2, 3)
        >>> round(classification(torch.zeros(1, 2), torch.tensor([0]), [w], [1.0]).item(), 4)
        0.6931
    """
    return F.cross_entropy(logits, labels) + penalty(weights, decay)


def sparse_reconstruction(
    images: Tensor,
    reconstruction: Tensor,
    features: Tensor,
    *,
    sparsity: str = "kl",
    weight: float = 3.0,
    target: float = 0.05,
) -> Tensor:
    """Return the autoencoder's objective: squared error plus a price on active features (D14).

    The squared error is summed over pixels and averaged over images. DEVIATION: the paper does not print its
    sparsity penalty; ours is the Kullback-Leibler divergence between activations of mean `target` and the
    mean activation of each feature over the batch, summed over features. The variants ``"none"`` and ``"l1"``
    (the mean activation itself, summed) measure what the choice is worth; Table 1 shows all three.

    Args:
        images: (B, n).
        reconstruction: (B, n).
        features: (B, m) in (0, 1).
        sparsity: ``"kl"``, ``"none"`` or ``"l1"``.
        weight: factor of the penalty.
        target: wanted mean activation, in (0, 1); used by ``"kl"`` alone.

    Raises:
        InputError: unknown sparsity.

    Example:
        >>> x = torch.zeros(2, 4)
        >>> sparse_reconstruction(x, x, torch.full((2, 3), 0.05)).abs().item() < 1e-6
        True
    """
    error = (reconstruction - images).square().sum() / len(images)
    if sparsity == "none":
        return error
    mean = features.mean(dim=0)
    if sparsity == "l1":
        return error + weight * mean.sum()
    if sparsity != "kl":
        raise InputError(f"sparsity must be one of {', '.join(SPARSITIES)}, got {sparsity!r}")
    divergence = target * (target / mean).log() + (1 - target) * ((1 - target) / (1 - mean)).log()
    return error + weight * divergence.sum()

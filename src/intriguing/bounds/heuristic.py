"""A guess at how much a random perturbation grows: a heuristic argument, not a bound.

A proof of a bound must hold for the worst input; a heuristic argument may presume that what shows no structure has
none, and is right as far as that is true. Two presumptions for a dense net, from weights W_k with n_k inputs and the
slopes d_k(x) of its activations, given random r with |r| = 1 and small:

1. No structure at all: the entries of a perturbation are uncorrelated at every layer, and weights do not know of
   slopes. Then each layer multiplies the mean square by |W_k|_F^2 / n_k and by the mean of d_k^2:
       gain^2 = prod_k (|W_k|_F^2 / n_k) mean d_k^2                                                 (1)
2. The layers' slopes are uncorrelated with each other over images, but units of one layer may be correlated:
       S_0 = I / n,   S_k = E[d_k d_k^T] o (W_k S_(k-1) W_k^T),   gain^2 = trace S_K                (2)
   and the gain's mean is that of the norm of a Gaussian vector with covariance S_K, over that of r.

Where (1) fails and (2) does not, the perturbation lines up with the next layer's large directions. Nothing here
bounds anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy
import torch
from torch import Tensor, nn

from intriguing.bounds.nonlinear import ACTIVATIONS
from intriguing.errors import ModelError
from intriguing.nets.alexnet import Dropout

LABEL = "heuristic, not a bound"
_IDLE = (nn.Flatten, nn.Identity, nn.Dropout, Dropout)


@dataclass(frozen=True)
class Heuristic:
    """Predicted gain of a small random perturbation; not a bound.

    Attributes:
        mean: the predicted mean gain, by (2).
        uncorrelated: the root mean square gain if there were no structure at all, by (1).
    """

    mean: float
    uncorrelated: float


@torch.no_grad()
def predicted_gain(net: nn.Sequential, x: Tensor) -> Heuristic:
    """Predict the mean gain of small random perturbations from weights and mean slopes; not a bound.

    Args:
        net: dense layers, elementwise activations, flattening and dropout, in a row.
        x: (B, ...) inputs over which slopes are averaged; one pass over them is all that is computed.

    Raises:
        ModelError: a layer of another kind.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 1, bias=False))
        >>> _ = net[0].weight.data.copy_(torch.tensor([[3.0, 4.0]]))
        >>> round(predicted_gain(net, torch.zeros(1, 2)).uncorrelated, 4)  # 5 / sqrt(2)
        3.5355
    """
    a = x.detach().double().flatten(1)
    n = a.shape[1]
    S = torch.eye(n, dtype=torch.float64, device=a.device) / n
    square = 1.0
    for name, layer in net.named_children():
        if isinstance(layer, nn.Linear):
            W = layer.weight.double()
            a = a @ W.T if layer.bias is None else a @ W.T + layer.bias.double()
            S = W @ S @ W.T
            square *= float(W.square().sum()) / W.shape[1]
        elif type(layer) in ACTIVATIONS and not isinstance(layer, nn.Softmax | nn.PReLU):
            a, slope = _activated(layer, a)
            S = S * (slope.T @ slope / len(slope))
            square *= float(slope.square().mean())
        elif not isinstance(layer, _IDLE):
            raise ModelError(
                f"layer {name}: no heuristic for a {type(layer).__name__}; give a net of dense layers and elementwise "
                "activations"
            )
    mean = gaussian_norm(torch.linalg.eigvalsh(S)) / gaussian_norm(torch.full((n,), 1 / n))
    return Heuristic(mean, math.sqrt(square))


def gaussian_norm(variances: Tensor) -> float:
    """Return the mean norm of a Gaussian vector with these variances along its axes.

    E |y| = pi^(-1/2) int_0^inf (1 - prod_i (1 + 2 v_i u^2)^(-1/2)) / u^2 du, from the Laplace transform of |y|^2.

    Example:
        >>> round(gaussian_norm(torch.tensor([1.0])), 6)  # sqrt(2 / pi)
        0.797885
    """
    v = variances.double().clamp_min(0).cpu()
    scale = float(v.sum())
    if scale == 0:
        return 0.0
    shares = (v / scale).numpy()

    def integrand(u: float) -> float:
        # 1 - exp(-small) keeps its digits where u, and with it the difference, is small.
        return -math.expm1(-0.5 * float(np.log1p(2 * u * u * shares).sum())) / (u * u) if u else 1.0

    whole = sum(scipy.integrate.quad(integrand, *ends, limit=200)[0] for ends in ((0.0, 1.0), (1.0, math.inf)))
    return math.sqrt(scale / math.pi) * float(whole)


def _activated(layer: nn.Module, a: Tensor) -> tuple[Tensor, Tensor]:
    """Return an elementwise activation's values and slopes."""
    with torch.enable_grad():
        inputs = a.detach().requires_grad_()
        outputs = layer(inputs)
        (slope,) = torch.autograd.grad(outputs.sum(), inputs)
    return outputs.detach(), slope

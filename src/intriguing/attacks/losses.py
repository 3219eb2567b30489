"""What first-order attacks of fixed size climb: losses of the logits that grow towards a mistake of the net.

Symbols: z the logits, y the label, t the class a targeted attack wants, pi the order of the logits from the largest
down. Each loss is a function z (k, K) -> (k,), row by row, and takes nets of two classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own abbreviation)

from intriguing.attacks.problem import margin

Loss = Callable[[Tensor], Tensor]

LOSSES = {
    "cross-entropy": "-log p_y, or log p_t where a class is wanted; flat where the net is very sure",
    "margin": "max over j != y of z_j - z_y, or z_t - max over j != t of z_j",
    "dlr": "the margin over z_pi1 - z_pi3, which no scaling of the logits changes",
}


def loss_of(name: str, label: Tensor, wanted: Tensor) -> Loss:
    """Return one of `LOSSES` for these rows.

    Args:
        name: a key of `LOSSES`.
        label: (k,) int64, the classes to leave.
        wanted: (k,) int64, the classes to reach, -1 for any but the label.
    """
    targeted = wanted >= 0
    reference = torch.where(targeted, wanted, label)

    def cross_entropy(z: Tensor) -> Tensor:
        value = F.cross_entropy(z, reference, reduction="none")
        return torch.where(targeted, -value, value)

    def untied(z: Tensor) -> Tensor:
        lead = margin(z, reference)
        return torch.where(targeted, lead, -lead)

    def ratio(z: Tensor) -> Tensor:
        # A class that is wanted may be any in the order, as in `targeted_dlr`; over z_pi1 - z_pi3 the third would have
        # the constant -1.
        return untied(z) / torch.where(targeted, _wide_spread(z), _spread(z))

    return {"cross-entropy": cross_entropy, "margin": untied, "dlr": ratio}[name]


def targeted_dlr(label: Tensor, target: Tensor) -> Loss:
    """Return the difference of logits ratio towards one class at a time, (z_t - z_y) / (z_pi1 - (z_pi3 + z_pi4) / 2).

    Croce and Hein, ICML 2020, equation 7, with the sign of a loss to be climbed. DEVIATION: their denominator needs
    four classes; with three it is z_pi1 - (z_pi2 + z_pi3) / 2, with two it is 1, since any other would cancel the
    numerator for some order of the classes and leave no gradient at all.

    Args:
        label: (k,) int64 y.
        target: (k,) int64 t.
    """

    def loss(z: Tensor) -> Tensor:
        lead = (z.gather(1, target[:, None]) - z.gather(1, label[:, None])).squeeze(1)
        return lead / _wide_spread(z)

    return loss


def _spread(z: Tensor) -> Tensor:
    """Return z_pi1 - z_pi3, (k,): the denominator of equation 6; 1 for two classes, see `targeted_dlr`."""
    if z.shape[1] < 3:
        return torch.ones_like(z[:, 0])
    top = z.topk(3, dim=1).values
    return (top[:, 0] - top[:, 2]).clamp_min(_least(z))


def _wide_spread(z: Tensor) -> Tensor:
    """Return z_pi1 - (z_pi3 + z_pi4) / 2, (k,): the denominator of equation 7, and its stand-ins for few classes."""
    if z.shape[1] < 3:
        return torch.ones_like(z[:, 0])
    top = z.topk(min(4, z.shape[1]), dim=1).values
    return (top[:, 0] - top[:, -2:].mean(1)).clamp_min(_least(z))


def _least(z: Tensor) -> float:
    """Return what keeps a quotient of tied logits finite."""
    return 1e-12 if z.dtype == torch.float64 else torch.finfo(z.dtype).tiny ** 0.5

"""How much a net really stretches a perturbation: by ascent, a lower bound of its Lipschitz constant; and on average.

gain(x, r) = ||phi(x + r) - phi(x)|| / ||r|| is at most the Lipschitz constant for every x and r.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from intriguing import norms
from intriguing.errors import InputError
from intriguing.nets.load import Model, as_model

_START = 1e-2  # first norm of r, as a share of that of x
_LEAST = 1e-3  # no r is smaller: differences of float32 outputs would be rounding


@dataclass(frozen=True)
class Gains:
    """What `lipschitz_lower` found, one entry per example.

    Attributes:
        gain: (B,) float64.
        size: (B,) float64, the norm of the perturbation that has this gain.
    """

    gain: Tensor
    size: Tensor


def lipschitz_lower(net: Model | nn.Module, x: Tensor, *, steps: int = 20, generator: torch.Generator) -> Gains:
    """Search the perturbation of largest gain, from each x: a lower bound of the Lipschitz constant.

    The gradient of ||phi(x + r) - phi(x)||^2 / 2 at r is J(x + r)^T (phi(x + r) - phi(x)); each step turns r all the
    way into its direction, and tries a smaller and a larger norm as well: half and twice at first, less later. On a
    linear layer this is the power iteration for its largest singular value. The best r is kept and judged again in
    float64. r is not held inside any box.

    Args:
        net: a module or a `Model`; left as it is.
        x: (B, ...) inputs.
        steps: of the ascent.
        generator: draws the first r.

    Example:
        >>> gains = lipschitz_lower(nn.Flatten(), torch.rand(2, 1, 2, 2), generator=torch.Generator())
        >>> [round(gain, 6) for gain in gains.gain.tolist()]
        [1.0, 1.0]
    """
    if steps < 1:
        raise InputError(f"steps: expected at least 1, got {steps}")
    x = x.detach()
    if not x.is_floating_point():
        raise InputError(f"x: expected a floating-point tensor, got {x.dtype}")
    least = norms.l2(x).clamp_min(1)
    size = _START * least
    with as_model(net).frozen():
        with torch.no_grad():
            clean = net(x)

        @torch.no_grad()
        def gain_of(r: Tensor) -> Tensor:
            return norms.l2(net(x + r) - clean) / norms.l2(r)

        r = _of_norm(torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device), size)
        best, gain = r, gain_of(r)
        for step in range(steps):
            with torch.enable_grad():
                moved = (x + r).requires_grad_()
                (slope,) = torch.autograd.grad((net(moved) - clean).square().sum() / 2, moved)
            # Where nothing changes (all units off) there is no direction; r stays as it is.
            direction = torch.where(_wide(norms.l2(slope) > 0, slope), slope, r)
            factor = 2 ** (1 - step / steps)
            tried = [_of_norm(direction, (size * f).clamp_min(_LEAST * least)) for f in (1 / factor, 1.0, factor)]
            gains = torch.stack([gain_of(one) for one in tried])
            pick = gains.argmax(0)
            r = torch.stack(tried)[pick, torch.arange(len(x))]
            size, reached = norms.l2(r), gains.amax(0)
            better = reached > gain
            best, gain = torch.where(_wide(better, r), r, best), torch.where(better, reached, gain)
    return Gains(_precise(net, x, [best])[0], norms.l2(best))


def random_gains(
    net: Model | nn.Module, x: Tensor, size: Tensor | float, *, draws: int, generator: torch.Generator
) -> Tensor:
    """Return the gains of Gaussian directions, (draws, B) float64.

    Args:
        net: a module or a `Model`; left as it is.
        x: (B, ...) inputs.
        size: norm of each perturbation, a number or (B,).
        draws: directions per input.
        generator: draws them.

    Example:
        >>> random_gains(nn.Identity(), torch.rand(2, 3), 0.1, draws=5, generator=torch.Generator()).shape
        torch.Size([5, 2])
    """
    length = torch.as_tensor(size, dtype=torch.float64).expand(len(x))
    directions = (
        _of_norm(torch.randn(x.shape, generator=generator, dtype=torch.float64), length) for _ in range(draws)
    )
    return torch.stack(_precise(net, x.detach(), directions))


@torch.no_grad()
def _precise(net: Model | nn.Module, x: Tensor, perturbations: Iterable[Tensor]) -> list[Tensor]:
    """Return the gain of each perturbation, (B,) each, with the net in float64."""
    double = copy.deepcopy(net)
    with as_model(double).frozen():
        inner = double.net if isinstance(double, Model) else double
        if isinstance(inner, nn.Module):
            inner.double()
        x = x.double()
        clean = double(x)
        return [norms.l2(double(x + r.to(x)) - clean) / norms.l2(r) for r in perturbations]


def _of_norm(r: Tensor, size: Tensor) -> Tensor:
    """Return r (B, ...) stretched to these norms (B,)."""
    return r * _wide(size / norms.l2(r).clamp_min(torch.finfo(torch.float64).tiny), r).to(r.dtype)


def _wide(per_row: Tensor, like: Tensor) -> Tensor:
    """Return (B,) as (B, 1, ..., 1)."""
    return per_row.reshape(-1, *([1] * (like.ndim - 1)))

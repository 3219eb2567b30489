"""Square Attack: random search over squares of pixels, which asks the net for logits alone.

Andriushchenko, Croce, Flammarion and Hein, ECCV 2020: algorithms 1 (the search), 2 (Linf) and 3 (L2), equation 2 (the
profile of an L2 update). A change of one square is tried per forward pass and stays if the margin falls. Because no
gradient is used, a net whose gradients mislead does not look more robust to it than it is: it is the control of every
white-box attack.

- The side of the squares falls with the share p of pixels, halved at fixed shares of all steps (section 3.2).
- Every image has its own squares and signs, drawn from its own stream, so that its fate is its own. Squares may lie
  anywhere on the image, its last row and column included (algorithm 2, line 2).
- DEVIATION: vectors (N, n) are images of one row, on which a square is p n pixels long. The L2 attack's first pattern
  tiles the image with squares of a fifth of its side, or of one pixel where that is less.
- DEVIATION: an L2 point is moved to the nearest one in the ball and the box at once; the paper clips to the box.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from intriguing.attacks.ball import Ball
from intriguing.attacks.base import COUNT, POSITIVE, SHARE, Attack, Progress, Range, Trial, required
from intriguing.attacks.climb import goal
from intriguing.attacks.losses import LOSSES
from intriguing.attacks.result import AttackResult
from intriguing.errors import InputError, UnknownNameError
from intriguing.nets.load import Model
from intriguing.rng import Streams

# p is halved after each of these shares of the steps: section 3.2, given there for 10,000 of them.
_HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
_LEAST_SIDE = 3  # of an L2 square: a smaller one has no profile
_TELL = 50


@dataclass(frozen=True)
class Square(Attack):
    """Parameters of the attack; call it as ``Square(eps=0.3)(model, images, labels, generator=g)``.

    Args:
        eps: largest size of the change, in pixel units.
        norm: inf or 2.
        target: None (any wrong class), ``"random"``, ``"top-1"``, or (N,) int64.
        budget: the largest number of forward passes on one image, over all restarts, the clean pass and the final
            judgement included; never exceeded. None: no limit.
        steps: squares tried in each restart.
        restarts: how many times an image that holds is started again.
        share: p at the start, of the pixels that a square covers; 0.8 as in AutoAttack (Croce and Hein 2020). The
            paper takes 0.05 (Linf) and 0.1 (L2) for ordinary nets, more for robust ones.
        loss: a key of `losses.LOSSES`; the paper's is the margin.
        slots: images moved at once.
    """

    description: ClassVar[str] = "random search over squares of pixels, by logits alone: the black-box control"
    ranges: ClassVar[Mapping[str, Range]] = {
        "eps": POSITIVE, "steps": COUNT, "restarts": COUNT, "share": SHARE, "slots": COUNT,
    }  # fmt: skip
    needs_gradients: ClassVar[bool] = False
    needs_generator: ClassVar[str] = "its squares"

    eps: float
    norm: float = math.inf
    target: str | Tensor | None = None
    budget: int | None = None
    steps: int = 5000
    restarts: int = 1
    share: float = 0.8
    loss: str = "margin"
    slots: int = 1024

    def _check(self) -> None:
        if self.norm not in (2, math.inf):
            raise InputError(f"norm: Square Attack has moves for 2 and inf (math.inf), got {self.norm!r}")
        if self.loss not in LOSSES:
            raise UnknownNameError("loss", self.loss, LOSSES)

    def _search(self, trial: Trial, generator: torch.Generator | None) -> None:
        trial.aim(self.target, generator)
        search = _Search(self, trial, Streams(required(generator, self.needs_generator), trial.clean))
        holds = trial.attacked.clone()
        for restart in range(self.restarts):
            for image in torch.split(holds.nonzero().squeeze(1), self.slots):
                holds[search.run(image, restart)] = False


def square(
    model: Model | torch.nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    eps: float,
    generator: torch.Generator,
    norm: float = math.inf,
    steps: int = 5000,
    restarts: int = 1,
    target: str | Tensor | None = None,
    budget: int | None = None,
    progress: Progress | None = None,
) -> AttackResult:
    """Look for adversarial examples of size eps without gradients (Andriushchenko et al. 2020); see `Square`.

    Args:
        model: a `Model`, or a plain net whose inputs lie in [0, 1]; it need not be differentiable.
        images: (N, C, H, W) or (N, n) in the model's box; images the model gets wrong are not attacked.
        labels: (N,) int64 true classes; None: those the model gives.
        eps: largest size of the change, in pixel units.
        generator: draws the squares.
        norm: inf or 2.
        steps: squares tried in each restart.
        restarts: starts of an image that holds.
        target: the class to reach; None: any wrong one.
        budget: the largest number of forwards on one image; None for no limit.
        progress: called with (steps done, all steps) now and then.

    Raises:
        InputError, DataError, ModelError: arguments that cannot be used; the message says what to do.

    Example:
        >>> square(model, images, labels, eps=0.3, steps=1000, generator=rng.generator("square", 0))
    """
    attack = Square(eps=eps, norm=norm, steps=steps, restarts=restarts, target=target, budget=budget)
    return attack(model, images, labels, generator=generator, progress=progress)


class _Search:
    """The moves of one attack; points are (k, C, H W), pixels of a channel in one row."""

    def __init__(self, attack: Square, trial: Trial, streams: Streams) -> None:
        self.attack, self.trial, self.streams = attack, trial, streams
        self.ball = Ball.around(trial, attack.eps, attack.norm)
        self.loss = goal(trial, attack.loss)
        shape = tuple(trial.shape)
        self.C, self.H, self.W = shape if len(shape) == 3 else (1, 1, math.prod(shape))

    def run(self, image: Tensor, restart: int) -> Tensor:
        """Search for images (k,) that hold, and return those that were broken."""
        trial, draws = self.trial, restart * (self.attack.steps + 1)
        broken = []
        image = image[trial.affords(image, 1)]
        best, x = image.new_zeros(0), self._start(image, draws)
        for step in range(self.attack.steps + 1):
            if step:
                go = trial.affords(image, 1)
                image, x, best = image[go], x[go], best[go]
            if not len(image):
                break
            tried = self._moved(x, image, step, draws + step) if step else x
            z = trial.logits(tried, image)
            success, value = trial.keep(tried, image, z), self.loss(image)(z)
            broken.append(image[success])
            # Algorithm 1, lines 6 and 7; the loss here grows towards success.
            better = value > best if step else torch.ones_like(success)
            x = torch.where(better[:, None], tried, x)
            best = torch.where(better, value, best) if step else value
            image, x, best = image[~success], x[~success], best[~success]
            if step % _TELL == 0:
                trial.tell(draws + step, self.attack.restarts * (self.attack.steps + 1))
        return torch.cat(broken) if broken else image

    def _sides(self, step: int) -> tuple[int, int]:
        """Return the height and width of the square of this step."""
        past = sum(step > share * self.attack.steps for share in _HALVINGS)
        pixels = self.attack.share / 2**past * self.H * self.W
        least = 1 if self.attack.norm == math.inf else _LEAST_SIDE
        if self.H == 1:
            return 1, min(self.W, max(least, round(pixels)))
        side = max(least, round(math.sqrt(pixels)))
        if self.attack.norm == 2:
            side += 1 - side % 2  # an odd side has a middle
        return min(self.H, side), min(self.W, side)

    def _squares(self, u: Tensor, height: int, width: int) -> Tensor:
        """Return the cells (k, height width) of squares whose places come from numbers u (k, 2) in (0, 1)."""
        top = (u[:, 0] * (self.H - height + 1)).long()
        left = (u[:, 1] * (self.W - width + 1)).long()
        rows = top[:, None, None] + torch.arange(height, device=u.device)[:, None]
        columns = left[:, None, None] + torch.arange(width, device=u.device)
        return (rows * self.W + columns).flatten(1)

    def _start(self, image: Tensor, draw: int) -> Tensor:
        """Return the first points (k, n): stripes of +-eps in Linf (section 3.3), a quilt of profiles in L2 (3.4)."""
        k, C, H, W = len(image), self.C, self.H, self.W
        if self.attack.norm == math.inf:
            stripes = self.streams.signs(image, C * W, draw).view(k, C, 1, W).expand(k, C, H, W)
            return self._point(self.attack.eps * stripes.flatten(1), image)
        side = max(1, H // 5) if H > 1 else max(1, W // 5)
        height = min(side, H)
        profile = _profile(height, side, image.device).repeat(math.ceil(H / height), math.ceil(W / side))[:H, :W]
        tiles = (math.ceil(H / height), math.ceil(W / side))
        signs = self.streams.signs(image, C * tiles[0] * tiles[1], draw).view(k, C, *tiles)
        signs = signs.repeat_interleave(height, 2).repeat_interleave(side, 3)[:, :, :H, :W]
        quilt = (signs * profile).flatten(1)
        return self._point(self.attack.eps * quilt / torch.linalg.vector_norm(quilt, dim=1, keepdim=True), image)

    def _moved(self, x: Tensor, image: Tensor, step: int, draw: int) -> Tensor:
        """Return points (k, n) that differ from x in one square, or in two for L2."""
        k, C = len(image), self.C
        height, width = self._sides(step)
        u = self.streams.uniform(image, 5 + C, draw)
        cells = self._squares(u[:, :2], height, width)
        sign = torch.where(u[:, 5:] < 0.5, -1.0, 1.0).double()[:, :, None]
        delta = (x.double() - self.ball.centre[image]).view(k, C, -1)
        into = cells[:, None].expand(k, C, -1)
        if self.attack.norm == math.inf:
            # Algorithm 2: one sign per channel and square.
            return self._point(delta.scatter(2, into, (self.attack.eps * sign).expand_as(into)).flatten(1), image)
        other = self._squares(u[:, 2:4], height, width)[:, None].expand(k, C, -1)
        profile = _profile(height, width, x.device)
        turned = profile.T if height == width else profile
        bump = torch.where(u[:, 4, None] < 0.5, profile.flatten(), turned.flatten())[:, None]
        return self._point(_exchanged(delta, into, other, sign * bump, self.attack.eps).flatten(1), image)

    def _point(self, r: Tensor, image: Tensor) -> Tensor:
        return self.ball.project(self.ball.centre[image] + r, image)


def _exchanged(delta: Tensor, into: Tensor, other: Tensor, bump: Tensor, eps: float) -> Tensor:
    """Return perturbations whose second square has given its size, and what was unused, to the first: algorithm 3.

    Args:
        delta: (k, C, H W) float64.
        into: (k, C, s) cells of the square that receives.
        other: (k, C, s) cells of the square that gives.
        bump: (k, C, s) profiles of norm 1, with the sign of each channel.
        eps: radius.
    """
    C = delta.shape[1]
    unused = (eps**2 - delta.square().sum((1, 2), keepdim=True)).clamp_min(0)
    mask = torch.zeros_like(delta).scatter(2, into, 1.0).scatter(2, other, 1.0)
    # Line 10: per channel, what both squares hold and a share of what is left of eps.
    available = ((delta * mask).square().sum(2, keepdim=True) + unused / C).sqrt()
    old = delta.gather(2, into)
    tiny = torch.finfo(torch.float64).tiny
    fresh = bump + old / torch.linalg.vector_norm(old, dim=2, keepdim=True).clamp_min(tiny)  # line 9
    fresh = fresh / torch.linalg.vector_norm(fresh, dim=2, keepdim=True).clamp_min(tiny) * available
    return delta.scatter(2, other, 0.0).scatter(2, into, fresh)


def _profile(height: int, width: int, device: torch.device) -> Tensor:
    """Return the update (height, width) of norm 1: two peaks of opposite signs side by side (equation 2)."""
    half = width // 2
    peaks = torch.cat((_peak(height, half, device), -_peak(height, width - half, device)), 1)
    profile: Tensor = peaks / torch.linalg.vector_norm(peaks)
    return profile


def _peak(height: int, width: int, device: torch.device) -> Tensor:
    """Return nested rectangles around the middle, the m-th from within adding 1 / m^2."""
    rows = (torch.arange(height, device=device) - height // 2).abs()
    columns = (torch.arange(width, device=device) - width // 2).abs()
    ring = torch.maximum(rows[:, None], columns)
    steps = torch.arange(1, max(height, width, 1) // 2 + 2, device=device).double().square().reciprocal()
    # A cell of ring d lies in all rectangles but the d smallest.
    return steps.flip(0).cumsum(0).flip(0)[ring.clamp_max(len(steps) - 1)]

"""How much of a neighbourhood is misclassified, however little: adaptive multi-level splitting.

Webb, Rainforth, Teh and Kumar 2019, "A statistical approach to assessing neural network robustness",
arXiv:1811.07209, algorithm 1. AN ESTIMATE, NOT A BOUND: it may be off in either direction, and where an island of
errors was missed by every particle it is too small.

The input X is a function of standard normal numbers z (n,), one per pixel:

- ``"ball"``: x + r with r uniform in the L2 ball of radius R, r = R F(|z|^2)^(1/n) z / |z|, F the distribution
  function of chi-squared with n degrees of freedom;
- ``"gaussian"``: x + r with r = sigma z.

A pixel that leaves the box is folded back at the face it crossed, as in a mirror. x lies in the box, so folding never
takes a point farther from x: the folded ball is inside the ball. Where every pixel of x is on a face or farther from
it than r goes (most pixels of a drawn digit are black), X is uniform in the part of the ball that is in the box.

The score s(z) = max over j != label of z_j - z_label, of the logits at X, is positive exactly where X is an error.
Levels L_1 < L_2 < ... < 0 rise with the particles' scores, and

    P(s > 0) = P(s >= L_1) P(s >= L_2 | s >= L_1) ... P(s > 0 | s >= L_m).

Particles above a level are moved by z' = sqrt(1 - b^2) z + b xi, xi standard normal, which leaves the distribution
of z as it is: a move is accepted if it stays above the level, and Metropolis' ratio is 1. Each point has a step b of
its own, which grows while more than `acceptance` of its moves are accepted and shrinks otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from intriguing.errors import InputError, UnknownNameError
from intriguing.floating import denormals_flushed
from intriguing.nets.load import Model, as_model

REGIONS = {
    "ball": "uniform in the L2 ball of this radius, folded back at the faces of the box",
    "gaussian": "Gaussian noise of this standard deviation, folded back at the faces of the box",
}

_PIXELS = 2**24  # of all particles in flight together: 64 MB for their latent numbers
_GAIN = 0.3  # how fast log b follows the share of accepted moves
_LEAST_STEP = 1e-4


@dataclass(frozen=True)
class RareEvent:
    """What the splitting found, one entry per point.

    Attributes:
        log10: (P,) float64, estimated logarithm to base 10 of the share of errors; where the search was stopped, that
            of the last level it reached, which the share is below.
        reached: (P,) bool, whether the search came to the errors. False: stopped at the floor, or out of levels.
        levels: (P,) int64, levels used.
        accepted: (P,) float64, share of moves accepted; NaN where none was tried.
        forwards: (P,) int64, forward passes.
    """

    log10: Tensor
    reached: Tensor
    levels: Tensor
    accepted: Tensor
    forwards: Tensor


@dataclass(frozen=True)
class Splitting:
    """Parameters of the splitting; call it as ``Splitting(...)(model, images, labels, sizes, generators=g)``.

    The relative error of an estimate p is about sqrt(log(1/p) (1 - keep) / (-log(keep) keep particles)) where the
    moves forget where they started, and more where they do not.

    Args:
        particles: per point, at least 10.
        keep: share of the particles above the next level.
        moves: of every particle between two levels.
        acceptance: share of accepted moves that the step aims at.
        floor: stop where log10 of the estimate falls below this.
        levels: the most levels of one point.
        region: see `REGIONS`.
    """

    particles: int = 100
    keep: float = 0.2
    moves: int = 10
    acceptance: float = 0.35
    floor: float = -300.0
    levels: int = 1000
    region: str = "ball"

    def __call__(
        self,
        model: Model | torch.nn.Module | Callable[[Tensor], Tensor],
        images: Tensor,
        labels: Tensor,
        sizes: Tensor,
        *,
        generators: Sequence[torch.Generator],
        box: tuple[float, float] | None = (0.0, 1.0),
        progress: Callable[[float, float], None] | None = None,
    ) -> RareEvent:
        """Estimate the share of errors around each image.

        No point's estimate depends on the other points but for the rounding of products of another size.

        Args:
            model: logits (B, K) of images (B, ...).
            images: (P, ...) in the box.
            labels: (P,) int64, the right answers.
            sizes: (P,) radii or standard deviations, positive, in pixel units.
            generators: one per point, on the CPU.
            box: lowest and highest pixel; None: nothing is folded.
            progress: called with (points done, points).

        Returns:
            A `RareEvent`. Not reaching an error is an outcome, not an exception.

        Raises:
            InputError: arguments that do not fit together.
            UnknownNameError: no such region.

        Example:
            >>> found = Splitting()(model, images, labels, torch.full((len(images),), 3.0), generators=generators)
            >>> found.log10
        """
        self._check()
        _check(images, labels, sizes, generators, self.region)
        model = as_model(model)
        parts: list[RareEvent] = []
        at_once = max(1, _PIXELS // (self.particles * images[0].numel()))
        with torch.no_grad(), model.frozen(), denormals_flushed():
            for start in range(0, len(images), at_once):
                rows = slice(start, start + at_once)
                search = _Search(self, model, images[rows], labels[rows], sizes[rows], generators[rows], box)
                parts.append(search.run())
                if progress is not None:
                    progress(min(start + at_once, len(images)), len(images))
        names = ("log10", "reached", "levels", "accepted", "forwards")
        return RareEvent(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})

    def _check(self) -> None:
        if self.particles < 10 or self.moves < 1 or self.levels < 1:
            raise InputError(
                "particles, moves, levels: expected at least 10, 1 and 1, "
                f"got {self.particles}, {self.moves}, {self.levels}"
            )
        for name, share in (("keep", self.keep), ("acceptance", self.acceptance)):
            if not 0 < share < 1:
                raise InputError(f"{name}: expected a share above 0 and below 1, got {share}")


def naive(
    model: Model | torch.nn.Module | Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    sizes: Tensor,
    *,
    samples: int,
    generators: Sequence[torch.Generator],
    region: str = "ball",
    box: tuple[float, float] | None = (0.0, 1.0),
    progress: Callable[[float, float], None] | None = None,
) -> Tensor:
    """Count the errors among independent draws of X: plain Monte Carlo, the control of `Splitting`.

    Args:
        model: logits (B, K) of images (B, ...).
        images: (P, ...) in the box.
        labels: (P,) int64.
        sizes: (P,) radii or standard deviations.
        samples: draws per point.
        generators: one per point, on the CPU.
        region: see `REGIONS`.
        box: as for `Splitting`.
        progress: called with (points done, points).

    Returns:
        (P,) int64 errors among `samples`.

    Example:
        >>> naive(model, images, labels, sizes, samples=10_000, generators=generators) / 10_000
    """
    _check(images, labels, sizes, generators, region)
    if samples < 1:
        raise InputError(f"samples: expected at least 1, got {samples}")
    model = as_model(model)
    counts = torch.zeros(len(images), dtype=torch.int64)
    batch = max(1, _PIXELS // (4 * images[0].numel()))
    with torch.no_grad(), model.frozen():
        for point, generator in enumerate(generators):
            row = slice(point, point + 1)
            for start in range(0, samples, batch):
                z = torch.empty(1, min(batch, samples - start), images[0].numel()).normal_(generator=generator)
                score = _score(model, images[row], labels[row], _place(z, images[row], sizes[row], region, box))
                counts[point] += int((score > 0).sum())
            if progress is not None:
                progress(point + 1, len(images))
    return counts


def sample(
    images: Tensor,
    sizes: Tensor,
    *,
    generators: Sequence[torch.Generator],
    region: str = "ball",
    box: tuple[float, float] | None = (0.0, 1.0),
) -> Tensor:
    """Draw one X around each image: what `Splitting` and `naive` mean by a region.

    Args:
        images: (P, ...) in the box.
        sizes: (P,) radii or standard deviations.
        generators: one per image, on the CPU.
        region: see `REGIONS`.
        box: as for `Splitting`.

    Returns:
        (P, ...) in the shape and dtype of the images.

    Example:
        >>> drawn = sample(images, torch.full((len(images),), 3.0), generators=generators)
    """
    _check(images, torch.zeros(len(images)), sizes, generators, region)
    draws = [torch.empty(1, images[0].numel()).normal_(generator=generator) for generator in generators]
    return _place(torch.stack(draws), images, sizes, region, box).to(images.dtype).view_as(images)


class _Search:
    """The particles of some points; a point leaves as soon as it has its answer."""

    def __init__(
        self,
        rule: Splitting,
        model: Model,
        images: Tensor,
        labels: Tensor,
        sizes: Tensor,
        generators: Sequence[torch.Generator],
        box: tuple[float, float] | None,
    ) -> None:
        self.rule, self.model, self.box = rule, model, box
        self.images, self.labels, self.sizes, self.generators = images, labels, sizes, list(generators)
        P = len(images)
        self.log_p = torch.zeros(P, dtype=torch.float64)
        self.reached = torch.zeros(P, dtype=torch.bool)
        self.levels = torch.zeros(P, dtype=torch.int64)
        self.tried = torch.zeros(P, dtype=torch.int64)
        self.accepted = torch.zeros(P, dtype=torch.float64)
        self.step = torch.full((P,), 0.5)
        self.live = torch.arange(P)
        self.z = self._normal()
        self.score = self._scores(self.z)

    def run(self) -> RareEvent:
        """Raise the levels until every point is done."""
        while len(self.live):
            level = self._raise()
            if len(self.live):
                for _ in range(self.rule.moves):
                    self._move(level)
        share = self.accepted / self.tried / self.rule.particles
        forwards = (self.tried + 1) * self.rule.particles
        return RareEvent(self.log_p / math.log(10), self.reached, self.levels, share, forwards)

    def _raise(self) -> Tensor:
        """Set the next level of every live point, drop those that are done, and refill the rest; (live,) levels."""
        N = self.rule.particles
        kept = max(1, round(self.rule.keep * N))
        ordered, order = self.score.sort(dim=1, descending=True)
        level = ordered[:, kept - 1]
        # Particles that did not move share a score, and all of them stay.
        above = (ordered >= level[:, None]).sum(1)
        errors = (ordered > 0).sum(1)
        arrived = level > 0
        survivors = torch.where(arrived, errors, above)
        # The share above the k-th highest of N scores has the distribution of an order statistic whatever the scores'
        # own: its logarithm has mean digamma(k) - digamma(N + 1); log(k / N) is too large by about 1 / 2k a level.
        factor = torch.where(arrived, survivors / N, 1).double().log()
        rise = torch.special.digamma(survivors.double()) - torch.special.digamma(torch.tensor(N + 1.0).double())
        self.log_p[self.live] += torch.where(arrived, factor, rise)
        self.levels[self.live] += 1
        self.reached[self.live] = arrived
        low = self.log_p[self.live] < self.rule.floor * math.log(10)
        go_on = ~(arrived | low | (self.levels[self.live] >= self.rule.levels))
        rows = go_on.nonzero().squeeze(1)
        self.live = self.live[rows]
        if not len(rows):
            return level[rows]
        # Survivors keep their places; every other place is filled with a survivor drawn at random.
        draw = torch.stack([torch.rand(N, generator=self.generators[point]) for point in self.live.tolist()])
        count = above[rows, None]
        place = torch.arange(N).expand(len(rows), N)
        place = torch.where(place < count, place, (draw * count).long().clamp(max=N - 1))
        source = order[rows].gather(1, place)
        # Where no point has left, advanced indexing would still copy: it is the copy that is wanted.
        self.z = self.z[rows[:, None], source]
        self.score = self.score[rows[:, None], source]
        return level[rows]

    def _move(self, level: Tensor) -> None:
        """Offer every particle one move; those that stay above the level take it."""
        b = self.step[self.live, None, None]
        offered = self._normal().mul_(b).add_((1 - b * b).sqrt() * self.z)
        score = self._scores(offered)
        taken = score >= level[:, None]
        self.z = torch.where(taken[:, :, None], offered, self.z)
        self.score = torch.where(taken, score, self.score)
        share = taken.double().mean(1)
        self.tried[self.live] += 1
        self.accepted[self.live] += taken.sum(1)
        # More accepted than aimed at: the step may grow, up to 1, an independent draw.
        factor = torch.exp(_GAIN * (share - self.rule.acceptance)).float()
        self.step[self.live] = (self.step[self.live] * factor).clamp(_LEAST_STEP, 1.0)

    def _normal(self) -> Tensor:
        """Return standard normal numbers (live, N, n), every point's from its own generator."""
        z = torch.empty(len(self.live), self.rule.particles, self.images[0].numel())
        for row, point in enumerate(self.live.tolist()):
            z[row].normal_(generator=self.generators[point])
        return z

    def _scores(self, z: Tensor) -> Tensor:
        rows = self.live
        x = _place(z, self.images[rows], self.sizes[rows], self.rule.region, self.box)
        return _score(self.model, self.images[rows], self.labels[rows], x)


def _place(z: Tensor, images: Tensor, sizes: Tensor, region: str, box: tuple[float, float] | None) -> Tensor:
    """Return the inputs X (P, N, n) of standard normal numbers z (P, N, n)."""
    n = z.shape[2]
    if region == "ball":
        square = torch.linalg.vecdot(z, z).double()
        inner = torch.special.gammainc(torch.full_like(square, n / 2), square / 2)
        scale = sizes.double()[:, None] * inner ** (1 / n) / square.sqrt()
    else:
        scale = sizes.double()[:, None].expand(z.shape[:2])
    x: Tensor = z * scale.to(z.dtype)[:, :, None]
    x += images.flatten(1).to(z.dtype)[:, None]
    if box is None:
        return x
    low, high = box
    # A triangle wave of period twice the box: t -> 1 - |2 (t/2 - floor(t/2)) - 1| is the mirror image of t in [0, 1].
    half = x.sub_(low).div_(2 * (high - low))
    half.sub_(half.floor()).mul_(2).sub_(1).abs_()
    return half.mul_(low - high).add_(high)


def _score(model: Model, images: Tensor, labels: Tensor, x: Tensor) -> Tensor:
    """Return max over j != label of z_j - z_label at x (P, N, n); (P, N), positive at errors."""
    P, N, _ = x.shape
    logits = model.check(model(x.reshape(P * N, *images.shape[1:]).to(model.device, model.dtype))).to(x.device)
    label = labels.repeat_interleave(N)[:, None]
    others = logits.scatter(1, label, -torch.inf).amax(1)
    score: Tensor = others - logits.gather(1, label).squeeze(1)
    return score.view(P, N)


def _check(images: Tensor, labels: Tensor, sizes: Tensor, generators: Sequence[torch.Generator], region: str) -> None:
    if region not in REGIONS:
        raise UnknownNameError("region", region, REGIONS)
    P = len(images)
    if not P or labels.shape != (P,) or sizes.shape != (P,) or len(generators) != P:
        raise InputError(
            "images, labels, sizes, generators: expected as many of each and at least one, got "
            f"{P}, {tuple(labels.shape)}, {tuple(sizes.shape)} and {len(generators)}"
        )
    if not bool((sizes > 0).all() & torch.isfinite(sizes).all()):
        raise InputError(f"sizes: expected finite positive numbers, got {sizes.flatten()[:5].tolist()}")

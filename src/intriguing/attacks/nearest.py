"""The nearest adversarial example in L2, from the clean image and from the other side, within a budget.

Every image has a handful of walks along the net's boundary (`walk.Walks`): one per wrong class from the clean image,
and a few that start far away, where the net already errs. Which of them goes on is chosen anew after every step, by
what it promises: the walk with the least

    (distance so far) (1 - h 2^(-steps / s))                                                                 (1)

is taken, where the bracket is what a walk may still gain. On ordinary nets the clean starts end after some ten steps
each and the far ones are never touched before; on nets trained against Linf, where the gradient at the clean image
misleads, the far ones overtake them after a few steps.

Far starts are images of other classes, the nearest of each of the nearest classes, where the caller gives a pool of
them, as Brendel et al. 2019 start theirs; without a pool they are images of noise, the same for every image. A start
is checked by a pass of the net that counts, and its segment to the clean image is bisected to the boundary.

A walk that has returned to its nearest point r times in a row, with nothing gained between, is given up where (1),
less a share that falls with r, is still beyond what is known.

When every walk of an image has ended and budget is left, a new one starts, again and again. Where a far start has led
to the nearest example, it starts from the next images of the pool, of other classes first: the gradient at the clean
image misleads there, and so it does near to it. Then, and elsewhere, it starts at a random step from the nearest
example or from beyond it, or, for another class, from the clean image, and ends as soon as (1) promises no more than is
known.
Where nothing has been found yet it starts at a random point of the box, and now and then where the boundary is of few
planes.

All wrong classes count, whatever the rule: an example that is nearer than another is kept even when its class was not
aimed at. Only a target given as a class, or a random one, must be reached itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from intriguing import rng
from intriguing.attacks.base import COUNT, Attack, Range, Trial
from intriguing.attacks.problem import choose_targets
from intriguing.attacks.result import Phase
from intriguing.attacks.walk import PAIRS, Walks
from intriguing.errors import InputError

_GAIN, _GAIN_STEPS = 0.3, 3.0  # h and s of (1) for walks from the clean image: most of their way is one step
_FAR_GAIN, _FAR_GAIN_STEPS = 0.45, 6.0  # and for those from afar, which come nearer by a half and more
_SLACK, _SLACK_FALL = 0.45, 3.0  # the share that a walk in vain may still gain after one return, and how it falls
_HALFWAY = 0.5  # where the boundary is expected on a segment to a far start before anything is known
_FAR_STARTS = 3
# A restart's random step as a share of the distance so far, and where it is taken from: 0 the clean image, 1 the
# nearest example, 1.2 beyond it. The first find other pieces of the boundary, the second the corners of this one; from
# beyond, where the gradient is of more than one piece, walks come back along the valleys beside the first.
_RESTARTS = ((0.5, 1.0), (1.0, 0.0), (0.5, 1.2), (0.5, 0.0), (0.25, 1.2), (1.5, 0.0), (1.0, 1.2), (0.8, 0.0))
_RESTART_GAIN = 0.4
_RESTART_PASSES = 30  # a restart that cannot have so many is not worth its first ones
_HALVINGS = 5  # of the segment to a far start
_PASSES_PER_CLASS = 16  # of the budget, so that a small one is not spent on gradients of classes that cannot win
_TRIMS = (0.998, 0.9995)  # the last tries to shorten the perturbation as it is
_CANDIDATES = 3  # images of a class whose distances are computed exactly
_BYTES = 2**29  # of memory for the walks of the images that are searched at once


@dataclass(frozen=True)
class Nearest(Attack):
    """Parameters of the attack; call it as ``Nearest(budget=400)(model, images, labels)``.

    Args:
        target: ``"all"``, ``"nearest"`` and ``"top-k"`` (for example ``"top-3"``) start walks to all wrong classes, or
            the k likeliest, and keep the nearest example of any class; ``"random"``, or (N,) int64, names one class
            per image, which must be reached.
        budget: the largest number of forwards plus backwards on one image, everything included; None: until every
            walk has ended.
        classes: at most so many of the likeliest wrong classes get a walk from the clean image.
        starts: images (M, ...) and labels (M,) int64 of the same kind as those attacked, for example from the
            training set; their labels are taken for what the net answers, and checked where one is used. None: noise.

    Example:
        >>> result = Nearest(budget=400, starts=(train_images, train_labels))(model, images, labels)
        >>> result.median
    """

    description: ClassVar[str] = "boundary walks from the clean image and from the other side; minimal L2"
    ranges: ClassVar[Mapping[str, Range]] = {"classes": COUNT}

    target: str | Tensor = "all"
    budget: int | None = 2000
    classes: int = 10
    starts: tuple[Tensor, Tensor] | None = None

    def _check(self) -> None:
        if self.starts is None:
            return
        images, labels = self.starts
        if not len(images) or labels.shape != (len(images),) or labels.dtype != torch.int64:
            raise InputError(
                "starts: expected images (M, ...) and int64 labels (M,), M at least 1, got "
                f"{tuple(images.shape)} and {labels.dtype} {tuple(labels.shape)}"
            )

    def _search(self, trial: Trial, generator: torch.Generator | None) -> None:
        pairs = choose_targets(self.target, trial.z, trial.labels, trial.attacked, generator)
        if not len(pairs):
            return
        if isinstance(self.target, Tensor) or self.target == "random":
            trial.wanted[pairs.image] = pairs.target
        images = trial.attacked.nonzero().squeeze(1)
        targets = pairs.target.view(len(images), -1)[:, : self.classes]
        if self.budget is not None:
            targets = targets[:, : max(1, self.budget // _PASSES_PER_CLASS)]
        pool = _pool(self.starts, trial)
        trial.reserved = 1 + len(_TRIMS)
        walks = targets.shape[1] + _FAR_STARTS
        at_once = max(1, _BYTES // ((5 + 2 * PAIRS) * walks * trial.clean[0].nbytes))
        for part in torch.split(torch.arange(len(images), device=images.device), at_once):
            _Search(trial, images[part], targets[part], pool).run()


class _Search:
    """The walks of M images, R of each: C from the clean image, the others from afar."""

    def __init__(self, trial: Trial, images: Tensor, targets: Tensor, pool: tuple[Tensor, Tensor]) -> None:
        self.trial, self.images, self.targets = trial, images, targets
        self.M, self.C = targets.shape
        self.pool, (order, lengths) = pool, _far_starts(trial, images, pool)
        at_first = _FAR_STARTS if self.pool[1][0] < 0 else min(_FAR_STARTS, trial.classes - 1)
        first, lengths, self.later = order[:, :at_first], lengths[:, :at_first], order[:, at_first:]
        far, classes = pool[0][first], pool[1][first].clamp_min(0)
        self.R = self.C + far.shape[1]
        self.walks = Walks(trial, images.repeat_interleave(self.R), torch.cat([targets, classes], dim=1).flatten())
        grid = torch.arange(self.M * self.R, device=images.device).view(self.M, self.R)
        self.clean_rows, far_rows = grid[:, : self.C], grid[:, self.C :].flatten()
        self.far = torch.zeros(self.M * self.R, dtype=torch.bool, device=images.device)
        self.far[far_rows] = True
        self.waiting = self.far.clone()
        self.restarted = torch.zeros_like(self.far)
        self.rounds = torch.zeros(self.M, dtype=torch.int64, device=images.device)
        self.far_leads = torch.zeros(self.M, dtype=torch.bool, device=images.device)
        self.walks.x[far_rows] = far.flatten(0, 1)
        self.walks.expected[far_rows] = _HALFWAY * lengths.flatten()
        self.walks.done[far_rows] = lengths.flatten().isinf()

    def run(self) -> None:
        self._linearise()
        total = len(self.images)
        while True:
            restarted = self._restart()
            promise = self._promise()
            least, which = promise.min(1)
            going = torch.isfinite(least).nonzero().squeeze(1)
            self.trial.tell(total - len(going), total)
            if not len(going):
                if restarted:  # where there is no slope: the next round tries elsewhere, as far as budgets last
                    continue
                break
            rows = going * self.R + which[going]
            enter = self.waiting[rows]
            self._enter(rows[enter])
            rows = self._affordable(rows[~enter], 2)
            if len(rows):
                self.walks.step(rows)
        self._trim()

    def _value(self) -> Tensor:
        """Return the distance each walk has reached (P,), or promises before its first success."""
        return torch.where(self.walks.best < torch.inf, self.walks.best, self.walks.expected).double()

    def _gain(self) -> Tensor:
        """Return the share of it that each walk may still gain, (P,)."""
        h = torch.where(self.far, _FAR_GAIN, _GAIN).masked_fill(self.restarted, _RESTART_GAIN)
        return h * torch.exp2(-self.walks.steps / torch.where(self.far & ~self.restarted, _FAR_GAIN_STEPS, _GAIN_STEPS))

    def _promise(self) -> Tensor:
        """Return (1) of every walk, (M, R); inf where it has ended."""
        walks = self.walks
        promise = (self._value() * (1 - self._gain())).nan_to_num(torch.inf)
        slack = _SLACK * _SLACK_FALL ** (1 - walks.returns.double())
        walks.done |= (walks.returns > 0) & (promise * (1 - slack) > self.trial.best[walks.image])
        return promise.masked_fill(walks.done, torch.inf).view(self.M, self.R)

    def _restart(self) -> bool:
        """Start one more walk for every image whose walks have all ended and whose budget lasts; tell if any did."""
        trial, walks = self.trial, self.walks
        walks.done |= self.restarted & (self._value() * (1 - self._gain()) > trial.best[walks.image])
        if trial.budget is None:
            return False
        idle = walks.done.view(self.M, self.R).all(1).nonzero().squeeze(1)
        image = self.images[idle]
        enough = trial.forwards[image] + trial.backwards[image] + trial.reserved + _RESTART_PASSES <= trial.budget
        idle = idle[enough]
        if not len(idle):
            return False
        begun = idle[self.rounds[idle] == 0]
        best = walks.best.view(self.M, self.R)[begun]
        self.far_leads[begun] = best[:, self.C :].amin(1) <= best[:, : self.C].amin(1)
        again = self.far_leads[idle] & (self.rounds[idle] < self.later.shape[1])
        self._from_afar(idle[again])
        self._at_random(idle[~again])
        self.rounds[idle] += 1
        return True

    def _from_afar(self, idle: Tensor) -> None:
        """Start a walk for each of the images `idle` (k,) from the next image of the pool."""
        walks = self.walks
        which = self.later[idle, self.rounds[idle]]
        idle, which = idle[which >= 0], which[which >= 0]
        rows = idle * self.R + self.R - 1  # the last walk of the image, which has ended, makes room
        self.restarted[rows], walks.done[rows] = False, False
        walks.x[rows], walks.target[rows] = self.pool[0][which], self.pool[1][which]
        self._enter(rows)

    def _at_random(self, idle: Tensor) -> None:
        """Start a walk for each of the images `idle` (k,) at random steps from it, its nearest example or beyond."""
        if not len(idle):
            return
        trial, walks, image = self.trial, self.walks, self.images[idle]
        k = self.rounds[idle]
        u = self._drawn(k, self._direction)
        size, at = (
            torch.tensor(_RESTARTS, dtype=torch.float64, device=image.device)[k % len(_RESTARTS)].to(u).T[..., None]
        )
        found = torch.isfinite(trial.best[image])
        x = torch.lerp(trial.clean[image], trial.best_x[image], at) + size * trial.best[image].to(u)[:, None] * u
        few = walks.met_again.view(self.M, self.R)[idle].any(1)
        anywhere = ~found | (few & (k % 4 == 3))
        if bool(anywhere.any()):
            x[anywhere] = self._drawn(k[anywhere], self._anywhere)
        next_targets = self.targets[idle, torch.where(found, k // 2, k) % self.C]
        rows = idle * self.R + self.R - 1
        self.restarted[rows], self.waiting[rows] = True, False
        walks.target[rows] = torch.where(found & (k % 2 == 0), trial.best_target[image], next_targets)
        walks.start(rows, x.clamp(*trial.model.box))

    def _drawn(self, rounds: Tensor, draw: Callable[[int], Tensor]) -> Tensor:
        """Return what `draw` gives for each of the rounds (k,), as (k, n): the same for every image."""
        different, which = torch.unique(rounds, return_inverse=True)
        return torch.stack([draw(k) for k in different.tolist()]).to(self.trial.clean)[which]

    def _direction(self, k: int) -> Tensor:
        """Return the k-th random direction (n,) of length 1."""
        n = self.trial.clean.shape[1]
        u = torch.randn(n, generator=rng.generator("restarts", k), dtype=torch.float64)
        direction: Tensor = u / u.norm()
        return direction

    def _anywhere(self, k: int) -> Tensor:
        """Return the k-th random point (n,) of the box."""
        low, high = self.trial.model.box
        n = self.trial.clean.shape[1]
        return low + (high - low) * torch.rand(n, generator=rng.generator("anywhere", k), dtype=torch.float64)

    def _affordable(self, rows: Tensor, passes: int) -> Tensor:
        """Return those of `rows` whose images can pay; end the others."""
        enough = self.trial.affords(self.walks.image[rows], passes)
        self.walks.done[rows[~enough]] = True
        return rows[enough]

    def _linearise(self) -> None:
        """Start the clean walks: one forward pass, and one backward for every class."""
        trial = self.trial
        named = bool((trial.wanted[self.images] >= 0).any())
        enough = trial.affords(self.images, 2 + self.C)
        self.walks.done[self.clean_rows[~enough]] = True
        image, rows = self.images[enough], self.clean_rows[enough]
        if not len(image):
            return
        targets = self.walks.target[rows]
        rival = trial.labels[image]
        if named:  # a class of one's own choice must beat the likeliest of the others
            rival = trial.z[image].scatter(1, targets, -torch.inf).argmax(1)
        z, J = trial.jacobian(trial.clean[image], image, torch.cat([rival[:, None], targets], dim=1))
        g = z.gather(1, targets) - z.gather(1, rival[:, None])
        self.walks.linearise(rows.flatten(), g.flatten(), (J[:, 1:] - J[:, :1]).flatten(0, 1))

    def _enter(self, rows: Tensor) -> None:
        """Bring far walks to the boundary by bisection, and start them there."""
        trial = self.trial
        self.waiting[rows] = False
        rows = self._affordable(rows, 1 + _HALVINGS + 2)
        if not len(rows):
            return
        image = self.walks.image[rows]
        right = trial.keep(self.walks.x[rows], image, trial.logits(self.walks.x[rows], image), Phase.START)
        self.walks.done[rows[~right]] = True
        rows, image = rows[right], image[right]
        clean, far = trial.clean[image], self.walks.x[rows]
        low, high = torch.zeros_like(clean[:, 0]), torch.ones_like(clean[:, 0])
        for _ in range(_HALVINGS if len(rows) else 0):
            middle = (low + high) / 2
            x = torch.lerp(clean, far, middle[:, None])
            success = trial.keep(x, image, trial.logits(x, image), Phase.START)
            low, high = torch.where(success, low, middle), torch.where(success, middle, high)
        if len(rows):
            self.walks.start(rows, torch.lerp(clean, far, high[:, None]))

    def _trim(self) -> None:
        """Try a little less of each image's perturbation: walks end a little beyond the boundary."""
        trial = self.trial
        found = self.images[torch.isfinite(trial.best[self.images])]
        for share in _TRIMS if len(found) else ():
            x = torch.lerp(trial.clean[found], trial.best_x[found], share)
            trial.keep(x, found, trial.logits(x, found), Phase.BISECT)


def _pool(starts: tuple[Tensor, Tensor] | None, trial: Trial) -> tuple[Tensor, Tensor]:
    """Return far starts (M, n) with labels, -1 where the class is not known."""
    clean = trial.clean
    if starts is None:
        low, high = trial.model.box
        noise = torch.rand(_FAR_STARTS, clean.shape[1], generator=rng.generator("starts", 0), dtype=torch.float64)
        return (low + (high - low) * noise).to(clean), torch.full((_FAR_STARTS,), -1, device=clean.device)
    images, labels = starts
    if images.shape[1:] != trial.shape:
        raise InputError(
            f"starts: expected images of the shape of those attacked, {tuple(trial.shape)}, "
            f"got {tuple(images.shape[1:])}"
        )
    trial.model.check_inputs(images)
    return images.detach().to(clean).flatten(1), labels.to(clean.device)


def _far_starts(trial: Trial, images: Tensor, pool: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return which points of the pool to start from for each of `images` (M,), and their distances; both (M, K).

    First the nearest of each wrong class, the nearest class first, then the second nearest of each, and so on; where
    there are no more, distances are inf and the point is -1.
    """
    points, labels = pool
    clean = trial.clean[images]
    if bool((labels < 0).all()):
        which = torch.arange(len(points), device=points.device).expand(len(images), -1)
        return which, _distances(clean, points[which])
    # A matrix product is many times as fast as exact distances, and off by rounding: it only chooses the candidates.
    distance = torch.cdist(clean, points, compute_mode="use_mm_for_euclid_dist")
    wanted = trial.wanted[images][:, None]
    allowed = torch.where(wanted < 0, labels != trial.labels[images][:, None], labels == wanted)
    distance = distance.masked_fill(~allowed, math.inf)
    classes = torch.unique(labels[(labels >= 0) & (labels < trial.classes)]).tolist()
    shape = len(images), _CANDIDATES, max(1, len(classes))
    length = torch.full(shape, math.inf, dtype=clean.dtype, device=clean.device)
    index = torch.full(shape, -1, device=clean.device)
    for place, c in enumerate(classes):
        of_class = (labels == c).nonzero().squeeze(1)
        rough, at = distance[:, of_class].topk(min(_CANDIDATES, len(of_class)), dim=1, largest=False)
        exact = _distances(clean, points[of_class[at]]).masked_fill(rough.isinf(), math.inf)
        length[:, : at.shape[1], place], by = exact.sort(1)
        index[:, : at.shape[1], place] = of_class[at.gather(1, by)]
    length, by = length.sort(2)
    index = index.gather(2, by).masked_fill(length.isinf(), -1)
    return index.flatten(1), length.flatten(1)


def _distances(clean: Tensor, points: Tensor) -> Tensor:
    """Return the distances (M, k) of points (M, k, n) from images (M, n)."""
    length: Tensor = torch.linalg.vector_norm(points - clean[:, None], dim=2)
    return length

"""The nearest adversarial example in L2, from the clean image and from the other side, within a budget.

Every image has a handful of walks along the net's boundary (`walk.Walks`): one per wrong class from the clean image,
and a few that start far away, where the net already errs. Which of them goes on is chosen anew after every step, by
what it promises: the walk with the least

    (distance so far) (1 - h 2^(-steps / s))                                                                 (1)

is taken, where the bracket is what a walk may still gain. On ordinary nets most clean starts end after some ten steps
each; on nets trained against Linf, where the gradient at the clean image misleads, those from afar overtake them after
a few steps, and clean walks that promise far less are given up.

Far starts are averages of images of other classes, noise, and such images themselves (`starts`), where the caller gives
a pool of them, as Brendel et al. 2019 start from images; without a pool they are noise alone. A start is checked by a
pass of the net that counts, and the margin along its segment to the clean image is brought near to 0.

A walk that has returned to its nearest point r times in a row, with nothing gained between, is given up where (1),
less a share that falls with r, is still beyond what is known. An image for which nothing has been found keeps the
passes for one far start.

When every walk of an image has ended and budget is left, a new one starts, again and again. First the other far starts
follow, each in a direction between it and the nearest example: most of the way goes to another class, but on this
example's side. Then, and where there is no pool, it starts at a random step from the nearest example or from beyond
it, or, for another class, from the clean image, and ends as soon as (1) promises no more than is known.
Where nothing has been found yet it starts at a random point of the box, and now and then where the boundary is of few
planes.

All wrong classes count, whatever the rule: an example that is nearer than another is kept even when its class was not
aimed at. Only a target given as a class, or a random one, must be reached itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from intriguing import rng
from intriguing.attacks import segments, starts
from intriguing.attacks.base import COUNT, Attack, Progress, Range, Trial
from intriguing.attacks.problem import choose_targets
from intriguing.attacks.result import AttackResult, Phase
from intriguing.attacks.walk import PAIRS, Walks
from intriguing.nets.load import Model

_GAIN, _GAIN_STEPS = 0.3, 3.0  # h and s of (1) for walks from the clean image: most of their way is one step
_FAR_GAIN, _FAR_GAIN_STEPS = 0.45, 6.0  # and for those from afar, which come nearer by a half and more
_SLACK, _SLACK_FALL = 0.45, 3.0  # the share that a walk in vain may still gain after one return, and how it falls
_HALFWAY = 0.5  # where the boundary is expected on a segment to a far start before anything is known
# A restart's random step as a share of the distance so far, and where it is taken from: 0 the clean image, 1 the
# nearest example, 1.2 beyond it. The first find other pieces of the boundary, the second the corners of this one; from
# beyond, where the gradient is of more than one piece, walks come back along the valleys beside the first.
_RESTARTS = ((0.5, 1.0), (1.0, 0.0), (0.5, 1.2), (0.5, 0.0), (0.25, 1.2), (1.5, 0.0), (1.0, 1.2), (0.8, 0.0))
_RESTART_GAIN = 0.4
_FAR_SHARE = 0.7  # share of a later far start's direction, the rest is the nearest example's
_RESTART_PASSES = 30  # a restart that cannot have so many is not worth its first ones
_ENTRY = segments.PASSES + 2  # passes from a far start to the first linearisation on the boundary
_HOPELESS = 2.5  # a clean walk that promises no less than so many times what a far one has found is given up
_PASSES_PER_CLASS = 25  # of the budget, so that a small one is not spent on gradients of classes that cannot win
_TRIMS = (0.998, 0.9995)  # the last tries to shorten the perturbation as it is
_BYTES = 2**29  # of memory for the walks of the images that are searched at once
_CUDA_PART = 16  # of a CUDA device's memory, if that is more: there a small batch takes as long as a large one


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
            training set; their labels are taken for what the net answers, and checked where one is used. None: noise,
            coarse where the images are pictures (C, H, W) of seven pixels a side and more.

    Example:
        >>> result = Nearest(budget=400, starts=(train_images, train_labels))(model, images, labels)
        >>> result.median
    """

    description: ClassVar[str] = "boundary walks from the clean image and from the other side; minimal L2"
    ranges: ClassVar[Mapping[str, Range]] = {"classes": COUNT}

    target: str | Tensor = "all"
    budget: int | None = 2000
    classes: int = 10
    starts: tuple[Tensor, Tensor] | None = field(default=None, repr=False)

    def _check(self) -> None:
        starts.check(self.starts)

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
        pool = starts.pool(self.starts, trial)
        trial.reserved = 1 + len(_TRIMS)
        walks = targets.shape[1] + starts.AT_FIRST
        at_once = max(1, _memory(images.device) // ((5 + 2 * PAIRS) * walks * trial.clean[0].nbytes))
        for part in torch.split(torch.arange(len(images), device=images.device), at_once):
            _Search(trial, images[part], targets[part], pool).run()


def nearest(
    model: Model | torch.nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    target: str | Tensor = "all",
    budget: int | None = 2000,
    classes: int = 10,
    starts: tuple[Tensor, Tensor] | None = None,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> AttackResult:
    """Find the nearest adversarial examples in L2 by walks along the boundary.

    Args:
        model: a `Model`, or a plain net whose inputs lie in [0, 1].
        images: (N, ...) in the model's box; images the model gets wrong are not attacked.
        labels: (N,) int64 true classes; None: those the model gives.
        target: see `Nearest`.
        budget: the largest number of forwards plus backwards on one image; None: until every walk has ended.
        classes: see `Nearest`.
        starts: images of other classes with their labels, see `Nearest`.
        generator: draws random targets.
        progress: called with (images done, all images) now and then.

    Returns:
        An `AttackResult`. Not finding anything is a status, not an exception.

    Raises:
        InputError, DataError, ModelError: arguments that cannot be used; the message says what to do.

    Example:
        >>> nearest(model, images, labels, budget=400, starts=(train_images, train_labels)).median
    """
    attack = Nearest(target=target, budget=budget, classes=classes, starts=starts)
    return attack(model, images, labels, generator=generator, progress=progress)


def _memory(device: torch.device) -> int:
    """Return how many bytes the walks may take."""
    if device.type != "cuda":
        return _BYTES
    return max(_BYTES, torch.cuda.get_device_properties(device).total_memory // _CUDA_PART)


class _Search:
    """The walks of M images, R of each: C from the clean image, the others from afar."""

    def __init__(self, trial: Trial, images: Tensor, targets: Tensor, pool: starts.Pool) -> None:
        self.trial, self.images, self.targets = trial, images, targets
        self.M, self.C = targets.shape
        self.starts = starts.choose(trial, images, pool)
        first, self.later = self.starts.order.tensor_split([self.starts.first], dim=1)
        lengths = self.starts.lengths[:, : self.starts.first].flatten()
        self.R = self.C + first.shape[1]
        number = first.flatten().clamp_min(0)
        classes = self._class_of(first.clamp_min(0), torch.arange(self.M, device=images.device)[:, None])
        self.walks = Walks(trial, images.repeat_interleave(self.R), torch.cat([targets, classes], dim=1).flatten())
        grid = torch.arange(self.M * self.R, device=images.device).view(self.M, self.R)
        self.clean_rows, far_rows = grid[:, : self.C], grid[:, self.C :].flatten()
        self.far = torch.zeros(self.M * self.R, dtype=torch.bool, device=images.device)
        self.far[far_rows] = True
        self.waiting = self.far.clone()
        self.segments = segments.Segments(trial, self.walks.image)
        self.restarted = torch.zeros_like(self.far)
        self.rounds = torch.zeros(self.M, dtype=torch.int64, device=images.device)
        self.walks.x[far_rows] = self.starts.at(number)
        self.walks.expected[far_rows] = _HALFWAY * lengths
        self.walks.done[far_rows] = lengths.isinf()

    def run(self) -> None:
        self._linearise()
        total = len(self.images)
        while True:
            restarted = self._restart()
            promise = self._promise()
            least, which = promise.min(1)
            going = (least < torch.inf).nonzero().squeeze(1)
            self.trial.tell(total - len(going), total)
            if not len(going):
                if restarted:  # where there is no slope: the next round tries elsewhere, as far as budgets last
                    continue
                break
            self._advance(going * self.R + which[going])
        self._trim()

    def _advance(self, rows: Tensor) -> None:
        """Take the next pass or two of each of `rows` (k,), one of an image: all cuts together, and all steps."""
        self._enter(rows[self.waiting[rows]])
        rows = rows[~self.walks.done[rows]]
        cut = self.segments.open[rows]
        if bool(cut.any()):
            self._cut(rows[cut])
        rows = self._affordable(rows[~cut], 2)
        if len(rows):
            self.walks.step(rows)

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
        walks.done |= self._misled(promise)
        promise = promise.masked_fill(walks.done, torch.inf).view(self.M, self.R)
        waits = (self.waiting & ~walks.done).view(self.M, self.R)
        last = self._last_chance() & waits.any(1)
        promise = promise.masked_fill(last[:, None] & ~waits, torch.inf)
        # What has begun is not left before its first linearisation.
        return promise.masked_fill((self._entering() & ~walks.done).view_as(promise), -torch.inf)

    def _entering(self) -> Tensor:
        """Tell which walks (P,) have begun, and have not been evaluated where they start."""
        return self.segments.open | self.walks.begun

    def _misled(self, promise: Tensor) -> Tensor:
        """Tell which walks (P,) from clean images promise nothing near to what one from afar has found."""
        best = self.walks.best.view(self.M, self.R)
        far_leads = best[:, self.C :].amin(1) < best[:, : self.C].amin(1)
        beyond = promise > _HOPELESS * self.trial.best[self.walks.image]
        return beyond & ~self.far & ~self.restarted & far_leads.repeat_interleave(self.R)

    def _last_chance(self) -> Tensor:
        """Tell which images (M,) have nothing yet, and passes for little more than one far start."""
        trial = self.trial
        if trial.budget is None:
            return torch.zeros_like(self.images, dtype=torch.bool)
        left = trial.budget - trial.reserved - trial.forwards[self.images] - trial.backwards[self.images]
        return torch.isinf(trial.best[self.images]) & (left < _ENTRY + 2)

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
        afar = self.rounds[idle] < self.later.shape[1]
        self._from_afar(idle[afar])
        self._at_random(idle[~afar])
        self.rounds[idle] += 1
        return True

    def _from_afar(self, idle: Tensor) -> None:
        """Start a walk for each of the images `idle` (k,) between its nearest example and its next far start."""
        walks = self.walks
        which = self.later[idle, self.rounds[idle]]
        idle, which = idle[which >= 0], which[which >= 0]
        rows = idle * self.R + self.R - 1  # the last walk of the image, which has ended, makes room
        self.restarted[rows], walks.target[rows] = False, self._class_of(which, idle)
        walks.begin(rows, self._blended(self.images[idle], which))
        self._enter(rows)

    def _class_of(self, which: Tensor, place: Tensor) -> Tensor:
        """Return the classes of starts of numbers `which`, for noise the first that the images at `place` aim at."""
        labels = self.starts.labels[which]
        return torch.where(labels < 0, self.targets[place, 0], labels)

    def _blended(self, image: Tensor, which: Tensor) -> Tensor:
        """Return points (k, n) as far as the starts of numbers `which` (k,), turned towards what is known, if any."""
        trial = self.trial
        clean = trial.clean.index_select(0, image)
        d, best = self.starts.at(which) - clean, trial.best_x.index_select(0, image) - clean
        tiny = torch.finfo(d.dtype).tiny
        length, distance = (torch.linalg.vector_norm(v, dim=1, keepdim=True).clamp_min(tiny) for v in (d, best))
        u = torch.lerp(best / distance, d / length, _FAR_SHARE)
        u = u / torch.linalg.vector_norm(u, dim=1, keepdim=True).clamp_min(tiny)
        blended: Tensor = (clean + length * u).clamp(*trial.model.box)
        return blended

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
        walks.begin(rows, x.clamp(*trial.model.box))

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
        """Open the segments from the images of `rows` (k,) to their far starts, or end walks that cost too much."""
        self.waiting[rows] = False
        self.segments.begin(self._affordable(rows, _ENTRY))

    def _cut(self, rows: Tensor) -> None:
        """Cut the segments of far walks once; where that was the last time, the walks begin on the boundary."""
        right, ends, x = self.segments.cut(rows, self.walks.x.index_select(0, rows))
        self.walks.done[right] = True
        self.walks.begin(ends, x)

    def _trim(self) -> None:
        """Try a little less of each image's perturbation: walks end a little beyond the boundary."""
        trial = self.trial
        found = self.images[torch.isfinite(trial.best[self.images])]
        for share in _TRIMS if len(found) else ():
            x = torch.lerp(trial.clean[found], trial.best_x[found], share)
            trial.keep(x, found, trial.logits(x, found), Phase.BISECT)

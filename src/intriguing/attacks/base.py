"""What all attacks share: the call, the checks, the count of passes, the best point so far, and the judgement.

An attack is a frozen record of parameters with two methods of its own: `_check`, which refuses parameters, and
`_search`, which looks for adversarial points and hands each batch it evaluates to a `Trial`. The trial counts every
pass, keeps the nearest success of every image, and at the end judges the image that is returned once more: success
is never what an attack says of itself.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from intriguing import norms
from intriguing.attacks.caller import Caller
from intriguing.attacks.problem import check_labels, choose_targets, margin
from intriguing.attacks.result import AttackResult, AttackStatus, Phase, check_norm, sizes
from intriguing.errors import InputError, IntriguingError, ModelError, NetFailedError
from intriguing.floating import denormals_flushed
from intriguing.nets.load import Model, as_model, out_of_memory

Progress = Callable[[float, float], None]

# An example may exceed its radius by this share: what rounding to float32 costs a projection. The library's one
# tolerance on norms; `AttackResult.size` tells the excess of every example.
SLACK = 1e-6
_LARGEST_COUNT = 2**62  # of passes and the like, which are counted in int64
_ROUNDINGS, _ROUNDINGS_OF_HALF = 32, 2  # of the logits that another batch may move


@dataclass(frozen=True)
class Range:
    """The values a parameter may have.

    Attributes:
        low: the least one, or the bound it must exceed where `above` is set.
        high: the largest one.
        above: `low` itself is refused.
        whole: integers alone.
    """

    low: float
    high: float = math.inf
    above: bool = False
    whole: bool = False

    def check(self, name: str, value: float) -> None:
        """Refuse a value outside the range.

        Raises:
            InputError: names the parameter, what was expected and what came.
        """
        good = isinstance(value, int if self.whole else int | float) and not isinstance(value, bool)
        good = good and (value > self.low if self.above else value >= self.low) and value <= self.high
        good = good and (value <= _LARGEST_COUNT if self.whole else math.isfinite(value))
        if not good:
            kind = "a whole number" if self.whole else "a number"
            ends = f"{'above' if self.above else 'of at least'} {self.low:g}"
            if math.isfinite(self.high):
                ends += f" and at most {self.high:g}"
            raise InputError(f"{name}: expected {kind} {ends}, got {value!r}")


COUNT = Range(1, whole=True)
POSITIVE = Range(0, above=True)
SHARE = Range(0, 1)


class Attack(ABC):
    """Base of the attacks: frozen records that are called as ``attack(model, images, labels, generator=g)``.

    A subclass is a frozen dataclass. Its parameters with ranges stand in `ranges`; `target`, `budget` and `norm` mean
    the same in all of them.
    """

    description: ClassVar[str]
    ranges: ClassVar[Mapping[str, Range]] = {}
    needs_gradients: ClassVar[bool] = True
    needs_generator: ClassVar[str] = ""  # what it draws, where it cannot do without a generator

    def __call__(
        self,
        model: Model | torch.nn.Module,
        images: Tensor,
        labels: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        progress: Progress | None = None,
    ) -> AttackResult:
        """Attack images.

        The caller's torch.autocast and default dtype hold for the net, and not for what the attack computes itself.

        Args:
            model: a `Model`, or a plain net whose inputs lie in [0, 1].
            images: (N, ...) in the model's box; images the model gets wrong are not attacked.
            labels: (N,) int64 true classes; None: those the model gives, so that every image is attacked.
            generator: draws whatever is random; required where the attack says so.
            progress: called with (done, all) now and then.

        Raises:
            InputError, DataError, ModelError: arguments that cannot be used; the message says what to do.
        """
        self.check()
        budget: int | None = getattr(self, "budget", None)
        if self.needs_generator:
            required(generator, self.needs_generator)
        model = as_model(model)
        if self.needs_gradients:
            model.require("gradients", f"the {type(self).__name__} attack")
        if self.needs_gradients and torch.is_inference_mode_enabled():
            raise InputError(
                f"torch.inference_mode is on, and the {type(self).__name__} attack needs gradients, which it forbids; "
                "leave it, or call the attack under torch.inference_mode(False)"
            )
        model.check_inputs(images)
        caller = Caller(model.device)
        with model.frozen(), caller.away(), denormals_flushed():
            trial = Trial(
                model,
                images,
                labels,
                norm=check_norm(getattr(self, "norm", 2)),
                budget=budget,
                radius=getattr(self, "eps", None),
                progress=progress,
                caller=caller,
            )
            self._search(trial, generator)
            return trial.result()

    def check(self) -> None:
        """Refuse parameters that cannot be used.

        Raises:
            InputError: names the parameter, what was expected and what came.
        """
        for name, limits in self.ranges.items():
            value = getattr(self, name)
            if value is not None:
                limits.check(name, value)
        budget: int | None = getattr(self, "budget", None)
        if budget is not None:
            COUNT.check("budget", budget)
        self._check()

    def _check(self) -> None:  # noqa: B027 -- most attacks have nothing to add
        """Refuse parameters that `ranges` cannot express."""

    @abstractmethod
    def _search(self, trial: Trial, generator: torch.Generator | None) -> None:
        """Look for adversarial points of the images ``trial.attacked`` by ``trial.logits`` and ``trial.gradient``."""


def required(generator: torch.Generator | None, draws: str) -> torch.Generator:
    """Return the generator.

    Raises:
        InputError: there is none, though the attack `draws` something.
    """
    if generator is None:
        raise InputError(
            f"generator: this attack draws {draws}, so it needs a torch.Generator; "
            'pass generator=intriguing.rng.generator("attack", seed)'
        )
    return generator


class Trial:
    """One call of an attack: the images, what they have cost, and the nearest success of each.

    Points are flat, (k, n), float32 or float64, on the model's device, and come with `image` (k,), the index of the
    image each belongs to. Every pass an attack makes goes through `logits`, `gradient` or `jacobian`. A model of half
    precision is searched in float32: it gets every point rounded, and its logits and gradients are widened, so that
    steps smaller than its rounding add up, and what counts is what it answers. One that answers in more digits than it
    computes in, float64 from float32, has its logits rounded, by less than `adversarial` asks for.

    Attributes:
        model: the net, frozen.
        dtype: what it computes in.
        clean: (N, n) the images.
        shape: of one image.
        labels: (N,) int64, what an adversarial example is not.
        z: (N, K) logits of the clean images.
        classes: K.
        attacked: (N,) bool, the images the net gets right.
        norm: 1, 2 or inf, what "nearest" means.
        caller: whose autocast and default dtype the net runs under.
        radius: the largest size that counts as success, or None.
        budget: forwards plus backwards one image may cost, or None.
        forwards: (N,) int64 so far.
        backwards: (N,) int64 so far.
        best: (N,) float64, size of the nearest success so far; inf before the first.
        best_x: (N, n), that point.
        best_target: (N,) int64, the class it is given.
        wanted: (N,) int64, the class a success must be given; -1: any but the label.
        reserved: passes kept back for the end: one judgement, and what an attack adds to it.
        fitting: points that fit in memory at once, by the passes made, of those for which it has run out.
    """

    def __init__(
        self,
        model: Model,
        images: Tensor,
        labels: Tensor | None,
        *,
        norm: float,
        budget: int | None,
        radius: float | None = None,
        progress: Progress | None = None,
        caller: Caller | None = None,
    ) -> None:
        self.model, self.norm, self.budget, self.radius, self.progress = model, norm, budget, radius, progress
        self.caller = Caller(model.device) if caller is None else caller
        images, labels = _normal(images), None if labels is None else _normal(labels)
        self.original = images.detach()
        self.shape = images.shape[1:]
        self.fitting: dict[str, int] = {}
        device = model.device
        self.dtype = model.dtype
        wide = torch.promote_types(self.dtype, torch.float32)
        self.clean = images.detach().to(device=device, dtype=wide).flatten(1)
        N = len(images)

        def count(value: int = 0) -> Tensor:
            return torch.full((N,), value, dtype=torch.int64, device=device)

        self.forwards, self.backwards, self.first_success = count(), count(), count(-1)
        self.best_target, self.phase, self.wanted = count(-1), count(), count(-1)
        self.z = model.check(self.logits(self.clean, torch.arange(N, device=device)))
        self.classes = self.z.shape[1]
        self.predicted = self.z.argmax(1)
        if labels is None:
            labels = self.predicted.to(images.device)
        check_labels(labels, N, self.classes)
        self.labels = labels.to(device)
        self.attacked = self.predicted == self.labels
        self.best = torch.full((N,), torch.inf, dtype=torch.float64, device=device)
        self.best_x = self.clean.clone()
        self.by_target = torch.full((N, self.classes), torch.inf, dtype=torch.float64, device=device)
        self.search: Tensor | None = None
        self.numeric = torch.zeros(N, dtype=torch.bool, device=device)
        self.spent = torch.zeros(N, dtype=torch.bool, device=device)
        self.reserved = 1
        # A margin below the rounding of the logits is no success: the judge may see them in another batch.
        eps = self.caller.eps(self.dtype)
        roundings = _ROUNDINGS if eps <= torch.finfo(wide).eps else _ROUNDINGS_OF_HALF
        self.least_margin = roundings * eps * self.z.abs().amax(1)

    # -- passes ---------------------------------------------------------------------------------------------

    def logits(self, x: Tensor, image: Tensor, *, slots: int = 1024) -> Tensor:
        """Return the logits (k, K) of points x (k, n), without a gradient, at most `slots` at a time.

        This and the passes below take fewer points at a time once memory runs out: tries that fail are not counted.
        """
        if not len(x) and len(self.clean):  # not every net takes a batch of none
            return x.new_zeros(0, self.classes)
        with torch.no_grad():
            pieces = self._in_pieces("forward", lambda part: (self._answer(x[part]),), len(x), slots)
        self.forwards.index_add_(0, image, torch.ones_like(image))
        return torch.cat([z for (z,) in pieces])

    def gradient(self, x: Tensor, image: Tensor, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (k, K), loss (k,) and the gradient (k, n) of each point's own loss: one pass each way.

        Args:
            x: (k, n).
            image: (k,).
            loss: logits (k, K) -> (k,), row by row.

        Raises:
            ModelError: the net passes no gradient to its images.
        """
        rows = len(x)

        def differentiate(part: slice) -> tuple[Tensor, ...]:
            point = x[part].detach().requires_grad_(True)
            with torch.enable_grad():
                z = self._answer(point)
                # The loss knows all rows, and each by its place alone: the others may be anything.
                value = loss(z) if len(z) == rows else loss(pad(z, (0, 0, part.start, rows - part.stop)))[part]
                return z.detach(), value.detach(), self._slope(value.sum(), point)

        z, value, gradient = _joined(self._in_pieces("backward", differentiate, rows))
        ones = torch.ones_like(image)
        self.forwards.index_add_(0, image, ones)
        self.backwards.index_add_(0, image, ones)
        return z, value, gradient

    def jacobian(
        self, x: Tensor, image: Tensor, classes: Tensor, against: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return logits (k, K) and the gradients (k, c, n) of the logits `classes` (k, c): one forward, c backwards.

        Args:
            x: (k, n).
            image: (k,).
            classes: (k, c).
            against: (k,) classes whose logits are subtracted first, so that a difference costs one pass, not two.
        """

        def differentiate(part: slice) -> tuple[Tensor, ...]:
            point = x[part].detach().requires_grad_(True)
            with torch.enable_grad():
                z = self._answer(point)
                chosen = z.gather(1, classes[part])
                if against is not None:
                    chosen = chosen - z.gather(1, against[part, None])
                last = chosen.shape[1] - 1
                columns = [self._slope(chosen[:, c].sum(), point, again=c < last) for c in range(last + 1)]
            return z.detach(), torch.stack(columns, dim=1)

        z, columns = _joined(self._in_pieces("backward", differentiate, len(x)))
        self.forwards.index_add_(0, image, torch.ones_like(image))
        self.backwards.index_add_(0, image, torch.full_like(image, classes.shape[1]))
        return z, columns

    def _in_pieces(
        self, passes: str, run: Callable[[slice], tuple[Tensor, ...]], rows: int, most: int | None = None
    ) -> list[tuple[Tensor, ...]]:
        """Return what `run` gives for `rows` points, piece by piece: fewer at a time once memory has run out.

        Rows do not see each other, so their number changes nothing but the memory. What fitted is remembered.

        Args:
            passes: ``"forward"``, or ``"backward"`` for both ways, which take more memory.
            run: evaluates the points of a slice.
            rows: how many there are.
            most: at a time, with memory enough.

        Raises:
            NetFailedError: a single point does not fit.
        """
        pieces: list[tuple[Tensor, ...]] = []
        done = 0
        while done < rows or not pieces:
            size = min(rows - done, most or rows, self.fitting.get(passes, rows))
            try:
                pieces.append(run(slice(done, done + size)))
            except Exception as error:
                if not out_of_memory(error):
                    raise
                if size <= 1:
                    raise self.model.too_large(self.shape, error) from error
                self.fitting[passes] = size // 2
                continue
            done += size
        return pieces

    def _slope(self, value: Tensor, point: Tensor, *, again: bool = False) -> Tensor:
        """Return the gradient of a number at points (k, n): one backward pass, of several through a graph if `again`.

        Raises:
            ModelError: the net passes no gradient to its images.
            NetFailedError: the net's backward pass raised.
        """
        gradient: Tensor | None = None
        if value.requires_grad:
            try:
                gradient = torch.autograd.grad(value, point, retain_graph=again, allow_unused=True)[0]
            except Exception as error:
                if isinstance(error, IntriguingError) or out_of_memory(error):
                    raise
                raise NetFailedError(
                    f"{self.model.name} failed in its backward pass. {type(error).__name__}: {error}. Repair the net, "
                    "or use an attack that needs no gradients (square)"
                ) from error
        if gradient is None:
            raise ModelError(
                f"{self.model.name} passes no gradient to its images, which this attack needs; "
                "take it out of torch.no_grad, keep tensors from being detached or rounded on the way, or use an "
                "attack that needs none (square)"
            )
        return gradient

    def _answer(self, x: Tensor) -> Tensor:
        """Return the logits (k, K) of points x (k, n), which the model sees in its own dtype, in that of the search."""
        with self.caller.back():
            z = self.model(x.reshape(-1, *self.shape).to(self.dtype))
        return z.to(self.clean.dtype)

    def affords(self, image: Tensor, passes: int = 2) -> Tensor:
        """Tell which of `image` (k,) can pay for `passes` more besides what the end needs; the others are noted."""
        if self.budget is None:
            return torch.ones_like(image, dtype=torch.bool)
        enough = self.forwards[image] + self.backwards[image] + passes + self.reserved <= self.budget
        self.spent[image[~enough]] = True
        return enough

    # -- what was found ---------------------------------------------------------------------------------------

    def aim(self, target: str | Tensor | None, generator: torch.Generator | None) -> None:
        """Set the class each success must be given: None for any but the label, else one class per image.

        Args:
            target: None, ``"random"``, ``"top-1"`` (the likeliest wrong class), or (N,) int64.
            generator: draws the random targets.

        Raises:
            InputError: a rule that gives an image several classes; see `problem.choose_targets` for the others.
        """
        if target is None:
            return
        pairs = choose_targets(target, self.z, self.labels, self.attacked, generator)
        if len(pairs) != int(self.attacked.sum()):
            raise InputError(
                f"target: this attack leads an image to one class, got {target!r}; "
                'use None (any wrong class), "random", "top-1" or a tensor of classes'
            )
        self.wanted[pairs.image] = pairs.target

    def adversarial(self, z: Tensor, image: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Tell which logits (k, K) are a success for their images (k,), by more than rounding; see `lead`."""
        return (self.lead(z, image, wanted) > self.least_margin[image]) & z.isfinite().all(1)

    def lead(self, z: Tensor, image: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Return by how much logits (k, K) are a success for their images, (k,); negative where they are none.

        Args:
            z: (k, K).
            image: (k,).
            wanted: (k,) the class each must be given, -1 for any but the label; by default that of `aim`.
        """
        label = self.labels[image]
        wanted = self.wanted[image] if wanted is None else wanted
        lead = margin(z, torch.where(wanted < 0, label, wanted))
        return torch.where(wanted < 0, -lead, lead)

    def size(self, x: Tensor, image: Tensor) -> Tensor:
        """Return the size (k,) float64 of the change to points x (k, n), in the trial's norm."""
        r = (x - self.clean.index_select(0, image)).double()
        length: Tensor = torch.linalg.vector_norm(r, ord=self.norm, dim=1)
        return length

    def keep(
        self, x: Tensor, image: Tensor, z: Tensor, phase: Phase = Phase.DESCENT, wanted: Tensor | None = None
    ) -> Tensor:
        """Keep the nearest success of each image among points x (k, n) with logits z; return which succeed (k,).

        Several points may be of one image. Points outside the radius, if there is one, are no success.
        """
        self.numeric[image[~z.isfinite().all(1)]] = True
        success = self.adversarial(z, image, wanted)
        if self.radius is not None:
            success &= self.size(x, image) <= self.radius * (1 + SLACK)
        rows = success.nonzero().squeeze(1)
        if not len(rows):
            return success
        # Attacks call this at every step, and most successes are no nearer than the last: those cost a norm alone.
        at = image[rows]
        size = self.size(x[rows], at)
        self.by_target.view(-1).scatter_reduce_(0, at * self.classes + z[rows].argmax(1), size, "amin")
        new = at[self.first_success[at] < 0]
        self.first_success[new] = (self.forwards + self.backwards)[new]
        nearer = size < self.best[at]
        rows, at, size = rows[nearer], at[nearer], size[nearer]
        if not len(rows):
            return success
        order = size.argsort(stable=True)  # from near to far: the first of each image is its nearest
        rows, at, size = rows[order], at[order], size[order]
        images, inverse = torch.unique(at, return_inverse=True)
        first = torch.full_like(images, len(rows))
        first.scatter_reduce_(0, inverse, torch.arange(len(rows), device=rows.device), "amin")
        nearest = rows[first]
        self.best[images], self.best_x[images] = size[first], x[nearest]
        self.best_target[images], self.phase[images] = z[nearest].argmax(1), int(phase)
        return success

    # -- one attack as a part of another ------------------------------------------------------------------------

    def branch(self, live: Tensor) -> Trial:
        """Return a trial of the same images and counts with nothing found, for those of `live` (N,) bool."""
        other = copy.copy(self)  # the counts of passes are the same tensors, changed in place
        other.attacked = self.attacked & live
        other.best, other.best_x = torch.full_like(self.best, torch.inf), self.clean.clone()
        other.by_target = torch.full_like(self.by_target, torch.inf)
        other.first_success, other.best_target = (torch.full_like(self.wanted, -1) for _ in range(2))
        other.wanted, other.phase = torch.full_like(self.wanted, -1), torch.zeros_like(self.phase)
        other.search, other.reserved = None, 1
        return other

    def join(self, other: Trial) -> Tensor:
        """Take over what a branch found where it is nearer, and in the radius; return the images it broke (k,)."""
        found = (other.attacked & other.best.isfinite()).nonzero().squeeze(1)
        size = self.size(other.best_x[found], found)
        if self.radius is not None:
            inside = size <= self.radius * (1 + SLACK)
            found, size = found[inside], size[inside]
        torch.minimum(self.by_target, other.by_target, out=self.by_target)
        new = found[self.first_success[found] < 0]
        self.first_success[new] = other.first_success[new]
        nearer = size < self.best[found]
        at = found[nearer]
        if other.search is not None or self.search is not None:
            search = norms.l2(self.best_x - self.clean) if self.search is None else self.search
            search[at] = norms.l2(other.best_x[at] - self.clean[at]) if other.search is None else other.search[at]
            self.search = search
        self.best[at], self.best_x[at] = size[nearer], other.best_x[at]
        self.best_target[at], self.phase[at] = other.best_target[at], other.phase[at]
        return found

    def tell(self, done: float, total: float) -> None:
        """Report progress, if anyone asked."""
        if self.progress is not None:
            self.progress(done, total)

    # -- the end --------------------------------------------------------------------------------------------

    def result(self) -> AttackResult:
        """Judge the nearest success of every image once more, and put the record together."""
        N, device, home = len(self.clean), self.clean.device, self.original.device
        found = (self.attacked & torch.isfinite(self.best)).nonzero().squeeze(1)
        # Half precision would round examples back over the boundary; and a wide dtype may hold pixels that the
        # model's put just outside the box.
        dtype = torch.promote_types(self.original.dtype, torch.float32)
        returned = self.best_x.to(dtype).clamp(*self.model.box)
        judged = torch.zeros(N, dtype=torch.bool, device=device)
        answers = self.predicted.clone()
        z = self.logits(returned[found].to(self.clean.dtype), found)
        answers[found] = z.argmax(1)
        wanted = self.wanted[found]
        judged[found] = torch.where(wanted < 0, answers[found] != self.labels[found], answers[found] == wanted)
        judged[found] &= z.isfinite().all(1)
        originals = self.original.flatten(1).to(device)
        if self.radius is not None:
            r = returned[found].double() - originals[found].double()
            judged[found] &= torch.linalg.vector_norm(r, ord=self.norm, dim=1) <= self.radius * (1 + SLACK)
        status = torch.full((N,), int(AttackStatus.NOT_FOUND), dtype=torch.int64, device=device)
        status[self.spent] = int(AttackStatus.BUDGET_SPENT)
        status[self.numeric] = int(AttackStatus.NUMERIC_FAILURE)
        status[judged] = int(AttackStatus.FOUND)
        status[~self.attacked] = int(AttackStatus.ALREADY_WRONG)
        adversarial = torch.where(judged[:, None], returned, originals.to(dtype)).reshape(-1, *self.shape).to(home)
        by_target = self.by_target.clone()
        wrong = (~self.attacked).nonzero().squeeze(1)
        by_target[wrong, self.predicted[wrong]] = 0.0
        lengths = sizes(self.original, adversarial, status.to(home))
        before = lengths["distance"]
        if self.search is not None:
            before = torch.where(judged.to(home), self.search.to(home), before)
        return AttackResult(
            adversarial=adversarial,
            target=torch.where(judged | ~self.attacked, answers, -1).to(home),
            status=status.to(home),
            forwards=self.forwards.to(home),
            backwards=self.backwards.to(home),
            first_success=torch.where(judged, self.first_success, -1).to(home),
            phase=torch.where(judged, self.phase, int(Phase.NONE)).to(home),
            distance_search=before,
            by_target=by_target.to(home),
            norm=self.norm,
            box=self.model.box,
            images=self.original,
            labels=self.labels.to(home),
            judge=self.model.predict,
            **lengths,
        )


def _normal(tensor: Tensor) -> Tensor:
    """Return a tensor as it is, or a copy of one made under torch.inference_mode, which no gradient can pass."""
    if not isinstance(tensor, Tensor) or torch.is_inference_mode_enabled() or not tensor.is_inference():
        return tensor
    return tensor.clone()


def _joined(pieces: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return pieces[0] if len(pieces) == 1 else tuple(torch.cat(parts) for parts in zip(*pieces, strict=True))

"""Signs of masked gradients: reasons not to believe that a model is as robust as an attack by gradients found it.

Athalye, Carlini and Wagner (2018, "Obfuscated gradients give a false sense of security", section 3.1) and Carlini et
al. (2019, "On evaluating adversarial robustness", sections 4.3 and 4.8) name what betrays gradients that mislead.
Each sign is a check with its number, and one red sign is enough: the numbers of that model are then no robustness.

- *zero gradients*: attacks by gradients have nothing to follow.
- *gradient and differences*: the gradient does not predict how the logits move over a step as long as a few percent of
  the distance to the nearest adversarial example. A shattered gradient is right at steps nobody takes, and only there.
- *control and attack*: a random search that sees nothing but the answer finds a nearer example than the attack.
- *larger budget*: steps along the gradient that may go anywhere in the box still do not fool the net. They must: the
  box holds images of every class.
- *batch independence* and *repeatability*: what an image is told depends on its neighbours, or on chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from intriguing.attacks.lbfgs import LBFGS
from intriguing.attacks.pgd import PGD
from intriguing.attacks.problem import check_labels
from intriguing.attacks.result import AttackResult
from intriguing.attacks.square import Square
from intriguing.errors import InputError, ModelError
from intriguing.nets import probes
from intriguing.nets.checks import Check, did_not_run, graded
from intriguing.nets.load import Model, as_model
from intriguing.nets.symptoms import batch_independence, repeatability, zero_gradients

# Thresholds. Measured on honest nets (linear, sigmoid, convolutional, batch norm, adversarially trained) and on nets
# built to mask: see the tests. Each lies far from both.
_AGREE = 0.5  # an image's gradient agrees if it errs by less than half of what the logits do
_DISAGREE_AMBER, _DISAGREE_RED = 0.1, 0.3  # share of images whose gradient does not
_BEATEN_AMBER, _BEATEN_RED = 0.02, 0.1  # share of images where the control is nearer by more than 1%
_UNREACHED_AMBER, _UNREACHED_RED = 0.02, 0.1  # share of images that nothing in the box fools

_STEPS = (0.01, 0.03, 0.1)  # of a difference, as shares of the usual distance to the nearest adversarial example
_DIRECTIONS = 8  # random ones per image
_ASCENT = 40  # steps of the attack with the whole box as its budget
_BUDGET = 400  # of the attack that is run where no result is given
_LONG_BUDGET = 1000  # of the attack on images where the control was nearer


@dataclass(frozen=True)
class Verdict:
    """What the signs amount to.

    Attributes:
        state: ``"trustworthy"`` or ``"untrustworthy"``.
        reasons: the sentences of the red signs.
    """

    state: str
    reasons: tuple[str, ...]


def verdict(checks: tuple[Check, ...]) -> Verdict:
    """Return untrustworthy if any sign is red, with the sentences of those that are.

    Example:
        >>> verdict(()).state
        'trustworthy'
    """
    reasons = tuple(check.sentence for check in checks if check.state == "red")
    return Verdict("untrustworthy" if reasons else "trustworthy", reasons)


def panel(
    model: Model | nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    result: AttackResult | None = None,
    generator: torch.Generator,
    limit: int = 64,
    queries: int = 250,
) -> tuple[Check, ...]:
    """Look for the signs of masked gradients.

    Args:
        model: a `Model`, or a plain net whose inputs lie in [0, 1].
        images: (N, ...) in the model's box.
        labels: (N,) int64; None: the classes the model gives.
        result: of a minimal-norm attack on the same images, which the control is held against; by default a short
            L-BFGS attack is run.
        generator: draws directions and the steps of the control, on the CPU.
        limit: how many images are looked at, of those the net gets right.
        queries: forward passes of the control per image.

    Returns:
        The checks named above, in that order.

    Raises:
        InputError, DataError, ModelError: arguments that cannot be used; the message says what to do.

    Example:
        >>> verdict(panel(model, images, labels, generator=rng.generator("trust", 0))).state
        'trustworthy'
    """
    model = as_model(model)
    model.check_inputs(images)
    if result is not None and len(result.status) != len(images):
        raise InputError(f"result: expected one of the {len(images)} images given, got {len(result.status)} rows")
    chosen, case = _choose(model, images, labels, limit)
    if case is None:
        sentence = "The net gets none of the images right."
        return tuple(did_not_run(name, sentence) for name in _NAMES)
    white = _white_box(case, chosen, result)
    control = _control(case, white, queries, generator)
    return (
        zero_gradients(model, case.images, case.labels),
        _differences(case, white, control, generator),
        _compare(case, white, control),
        _whole_box(case, generator),
        batch_independence(model, case.images),
        repeatability(model, case.images),
    )


_NAMES = (
    "zero gradients", "gradient and differences", "control and attack", "larger budget", "batch independence",
    "repeatability",
)  # fmt: skip


@dataclass(frozen=True)
class _Case:
    """The images looked at, all right, in the model's dtype and on its device."""

    model: Model
    images: Tensor
    labels: Tensor

    @property
    def pixels(self) -> int:
        return self.images[0].numel()

    @property
    def width(self) -> float:
        return self.model.box[1] - self.model.box[0]


@dataclass(frozen=True)
class _White:
    """What the attack by gradients found: sizes in its norm and in L2, inf where nothing."""

    norm: float
    size: Tensor
    distance: Tensor


def _choose(model: Model, images: Tensor, labels: Tensor | None, limit: int) -> tuple[Tensor, _Case | None]:
    """Return the indices of the images looked at, spread evenly over those the net gets right, and the images."""
    if limit < 1:
        raise InputError(f"limit: expected at least 1 image, got {limit}")
    z = model.logits(images)
    answers = z.argmax(1)
    labels = answers if labels is None else labels
    check_labels(labels, len(images), z.shape[1])
    right = (answers == labels.to(answers.device)).nonzero().squeeze(1)
    if not len(right):
        return right, None
    chosen = right[torch.linspace(0, len(right) - 1, min(limit, len(right))).round().long().to(right.device)]
    picked = images[chosen].detach().to(device=model.device, dtype=model.dtype)
    return chosen, _Case(model, picked, labels[chosen.to(labels.device)].to(model.device))


def _white_box(case: _Case, chosen: Tensor, result: AttackResult | None) -> _White | None:
    """Return what the attack found for the chosen images; None where the net has no gradients to attack by."""
    if result is None:
        if "gradients" not in case.model.capabilities:
            return None
        attack = LBFGS(target="top-3", budget=_BUDGET)
        try:
            result = attack(case.model, case.images, case.labels)
        except ModelError:  # no gradient comes back; the first check says so
            return None
        chosen = torch.arange(len(case.images))
    rows = chosen.to(result.status.device)
    return _White(result.norm, result.size[rows].to(case.images.device), result.distance[rows].to(case.images.device))


# -- the gradient against differences ---------------------------------------------------------------------------


def _differences(case: _Case, white: _White | None, control: Tensor, generator: torch.Generator) -> Check:
    """Compare g . (x+ - x-) with the change of the margin from x- to x+, both ends in the box."""
    name, n = "gradient and differences", len(case.images)
    if "gradients" not in case.model.capabilities:
        return did_not_run(name, f"{case.model.name} gives no gradients.")
    rival = case.model.logits(case.images).scatter(1, case.labels[:, None], -torch.inf).argmax(1)

    def pair(z: Tensor, labels: Tensor) -> Tensor:
        # Against one class throughout: the largest of several would have kinks of its own.
        return z.gather(1, labels[:, None]).squeeze(1) - z.gather(1, rival[:, None]).squeeze(1)

    gradient = probes.gradients(case.model, case.images, case.labels, pair, batch=n)
    if gradient is None:
        return did_not_run(name, "No gradient comes back.")
    error = _errors(case, gradient.flatten(1), rival, _scale(case, white, control), generator)
    value = float((error > _AGREE).double().mean())
    state = graded(value, _DISAGREE_AMBER, _DISAGREE_RED)
    sentence = f"The gradient predicts the change of the margin for {1 - value:.1%} of images (median error "
    sentence += f"{float(error.median()):.2g})"
    sentence += "." if state == "green" else ": elsewhere it misleads whoever follows it."
    return Check(name, state, value, n, sentence)


def _scale(case: _Case, white: _White | None, control: Tensor) -> float:
    """Return the usual L2 distance to an adversarial example, as far as anything found one."""
    known = torch.cat([white.distance if white else control.new_zeros(0), control[:, 1]])
    known = known[known.isfinite() & (known > 0)]
    longest = 0.1 * case.width * math.sqrt(case.pixels)  # a tenth of the box in every pixel is not small any more
    return min(float(known.median()), longest) if len(known) else longest


def _errors(case: _Case, g: Tensor, rival: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    """Return each image's relative error (n,): the median over step lengths, the worse of gradient and random ones."""
    x = case.images.flatten(1)
    random = torch.randn(_DIRECTIONS, *x.shape, generator=generator, dtype=torch.float64).to(x)
    directions = torch.cat((g[None], random))
    directions = directions / directions.norm(dim=2, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    found = []
    for share in _STEPS:
        ends = [(x + sign * share * scale * directions).clamp(*case.model.box) for sign in (1, -1)]
        plus, minus = (_pair(case, end, rival) for end in ends)
        predicted = ((ends[0] - ends[1]).double() * g.double()).sum(2)
        floor = 16 * torch.finfo(x.dtype).eps * torch.maximum(plus[1], minus[1])
        gap = ((plus[0] - minus[0] - predicted).abs() - floor).clamp_min(0)
        size = torch.maximum((plus[0] - minus[0]).abs(), predicted.abs()).clamp_min(1e-300)
        along = gap[0] / size[0]
        across = gap[1:].norm(dim=0) / size[1:].norm(dim=0)
        found.append(torch.maximum(along, across))
    return torch.stack(found).median(0).values


def _pair(case: _Case, points: Tensor, rival: Tensor) -> tuple[Tensor, Tensor]:
    """Return the margins (d, n) float64 of points (d, n, pixels), and the largest logit each rests on."""
    d, n, _ = points.shape
    z = case.model.logits(points.reshape(d * n, *case.images.shape[1:])).double()
    labels, rivals = case.labels.repeat(d), rival.repeat(d)
    rows = torch.arange(d * n, device=z.device)
    return (z[rows, labels] - z[rows, rivals]).reshape(d, n), z.abs().amax(1).reshape(d, n)


# -- the control ------------------------------------------------------------------------------------------------


def _control(case: _Case, white: _White | None, queries: int, generator: torch.Generator) -> Tensor:
    """Return the size in the attack's norm and the L2 distance, (n, 2), of the nearest example found without gradients.

    Two searches: towards each image from points that are wrong, and the Square attack at the median size of what the
    attack by gradients found.
    """
    norm = white.norm if white else 2.0
    walked = _walk(case, norm, queries, generator)
    sizes = white.size[white.size.isfinite() & (white.size > 0)] if white else walked[:0, 0]
    if norm == 1 or not len(sizes):
        return walked
    attack = Square(eps=float(sizes.median()), norm=norm, steps=queries)
    squares = attack(case.model, case.images, case.labels, generator=generator)
    held = torch.stack((squares.size, squares.distance), dim=1).to(walked)
    return torch.where((held[:, :1] < walked[:, :1]) & squares.attacked[:, None].to(walked.device), held, walked)


def _walk(case: _Case, norm: float, queries: int, generator: torch.Generator) -> Tensor:
    """Return the size in `norm` and the L2 distance, (n, 2), of the nearest example a random walk finds.

    It starts on segments to images that the net gives other classes, and to noise; then proposes a random step towards
    the image and keeps it if the answer stays wrong (Brendel, Rauber and Bethge 2018, "Decision-based adversarial
    attacks"). It asks for nothing but labels.
    """
    best = _starts(case, norm, generator)
    x, n = case.images.flatten(1), len(case.images)
    noise = torch.full((n, 1), 0.1, dtype=x.dtype, device=x.device)  # share of the length that is drawn anew
    size = _size(best - x, norm)
    for _ in range(queries):
        r = best - x
        step = torch.randn(r.shape, generator=generator, dtype=torch.float64).to(x)
        step = step / step.norm(dim=1, keepdim=True) * r.norm(dim=1, keepdim=True) * noise
        # Shorter by a little more than the random step made it longer, so that every success is a gain.
        trial = (x + (1 - noise / 2) * (r + step)).clamp(*case.model.box)
        new = _size(trial - x, norm)
        wrong = _wrong(case, trial)
        better = wrong & (new < size)
        best = torch.where(better[:, None], trial, best)
        size = torch.where(better, new, size)
        # Half of the proposals should stay wrong: bolder after a success, more careful after a failure.
        noise = (noise * torch.where(wrong, 1.1, 0.9)[:, None]).clamp(1e-3, 0.5)
    lost = ~_wrong(case, best)
    found = torch.stack((size, (best - x).double().norm(dim=1)), dim=1)
    return torch.where(lost[:, None], torch.inf, found)


def _starts(case: _Case, norm: float, generator: torch.Generator) -> Tensor:
    """Return the nearest wrong point (n, pixels) on segments to other images and to noise, else the image."""
    x = case.images.flatten(1)
    low, high = case.model.box
    best, size = x.clone(), torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
    distances = torch.cdist(x.double(), x.double())
    distances[case.labels[:, None] == case.labels[None]] = torch.inf
    nearest = distances.argsort(dim=1)[:, :4]
    ends = [x[column] for column in nearest.unbind(1)]
    drawn = torch.rand(2, *x.shape, generator=generator, dtype=torch.float64).to(x)
    for end in (*ends, *(low + (high - low) * drawn)):
        near, far = torch.zeros(len(x), 1, dtype=x.dtype, device=x.device), x.new_ones(len(x), 1)
        usable = _wrong(case, end)
        for _ in range(10):
            middle = (near + far) / 2
            wrong = _wrong(case, x + middle * (end - x))[:, None]
            near, far = torch.where(wrong, near, middle), torch.where(wrong, middle, far)
        point = x + far * (end - x)
        new = _size(point - x, norm)
        better = usable & _wrong(case, point) & (new < size)
        best, size = torch.where(better[:, None], point, best), torch.where(better, new, size)
    return best


def _wrong(case: _Case, points: Tensor) -> Tensor:
    return case.model.predict(points.reshape(case.images.shape)) != case.labels


def _size(r: Tensor, norm: float) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(r.double(), ord=norm, dim=1)
    return length


def _compare(case: _Case, white: _White | None, control: Tensor) -> Check:
    """Hold the control against the attack, image by image."""
    name, n = "control and attack", len(case.images)
    if white is None:
        return did_not_run(name, "There is no attack by gradients to hold it against.")
    first = control[:, 0] < 0.99 * white.size
    nearer = first.clone()
    if bool(first.any()):
        nearer[first] = control[first, 0] < 0.99 * _longer(case, first, white.norm)
    value, short = float(nearer.double().mean()), float((first & ~nearer).double().mean())
    state = graded(value, _BEATEN_AMBER, _BEATEN_RED)
    sentence = f"A random search without gradients found a nearer example for {value:.1%} of images"
    if state != "green":
        sentence += " than a long attack by gradients: the gradients mislead."
    elif short >= _BEATEN_AMBER:
        state = "amber"
        sentence += f"; for {short:.1%} more only a longer attack by gradients did better: raise its budget."
    else:
        sentence += "."
    return Check(name, state, value, n, sentence)


def _longer(case: _Case, rows: Tensor, norm: float) -> Tensor:
    """Return the sizes an attack with more passes finds for some of the images: too short is not misled."""
    attack = LBFGS(target="top-3", objective="hinge", budget=_LONG_BUDGET)
    try:
        return attack(case.model, case.images[rows], case.labels[rows]).size_in(norm)
    except ModelError:
        return torch.full((int(rows.sum()),), torch.inf, dtype=torch.float64, device=rows.device)


# -- the whole box as budget ------------------------------------------------------------------------------------


def _whole_box(case: _Case, generator: torch.Generator) -> Check:
    """Attack by projected gradient steps in a ball that holds the whole box."""
    name, n = "larger budget", len(case.images)
    if "gradients" not in case.model.capabilities:
        return did_not_run(name, f"{case.model.name} gives no gradients.")
    attack = PGD(eps=case.width, steps=_ASCENT, random_start=False)
    try:
        result = attack(case.model, case.images, case.labels, generator=generator)
    except ModelError:
        return did_not_run(name, "No gradient comes back.")
    value = float((result.attacked & ~result.found).double().mean())
    state = graded(value, _UNREACHED_AMBER, _UNREACHED_RED)
    sentence = f"With the whole box as budget, steps along the gradient leave {value:.1%} of images right"
    sentence += "." if state == "green" else "; they should leave none, for the box holds images of every class."
    return Check(name, state, value, n, sentence)

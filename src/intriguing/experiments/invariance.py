"""The reverse of an adversarial example: a large visible change with the same answer, to the last logit.

An adversarial example looks the same and is answered otherwise. Here an image A becomes one that looks like B, an
image of another class, and the net's logits stay those of A:

    minimise |x - B|^2   subject to   f(x) = f(A),   x in the box.                                          (1)

For a net whose first layer is linear with weights W, every x = A + r with W r = 0 has the logits of A exactly: r is the
projection of B - A onto the null space of W, if the box is left aside. In the box (1) is solved by an augmented
Lagrangian, |x - B|^2 + u.h + (c / 2) |h|^2 with h = f(x) - f(A), and polished by Gauss-Newton steps in the free pixels.
An independent net judges what the image looks like.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from intriguing import norms
from intriguing.attacks.noise import gaussian_of_norm
from intriguing.errors import InputError
from intriguing.experiments import statistics
from intriguing.experiments.cells import cell, exact, measured, model_of
from intriguing.floating import denormals_flushed
from intriguing.nets.load import Model
from intriguing.optim import minimize
from intriguing.records import Images, Inputs, Record
from intriguing.rng import generator

TWIN = "images with a twin of another class"
REACHED = "pairs with A's logits and B's look"
CHANGED = "largest change of a logit"
MOVED = "distance moved / distance from A to B"
NULL = "null space in closed form: largest change of a logit"

_TOLERANCE = 1e-3  # the change of a logit that counts as none
_ROUNDS = 6  # of the augmented Lagrangian
_EVALUATIONS = 120  # in each
_POLISH = 30  # Gauss-Newton steps


@dataclass(frozen=True)
class Twin:
    """Images that look like B and are answered as A.

    Attributes:
        images: (N, ...) in the box.
        change: (N,) float64, largest absolute difference of a logit from those of A.
    """

    images: Tensor
    change: Tensor


def twins(model: Model, start: Tensor, aim: Tensor, *, penalty: float = 1.0) -> Twin:
    """Solve (1): the image nearest to `aim` with the logits of `start`.

    Args:
        model: logits (N, K) of images (N, ...), differentiable.
        start: (N, ...) images A in the box.
        aim: (N, ...) images B in the box.
        penalty: the first c; it grows tenfold where a round leaves more than a quarter of the logits' change.

    Returns:
        A `Twin`; whether the change is small enough is for the caller to judge.

    Example:
        >>> found = twins(model, images, images.flip(0))
        >>> (found.change <= 1e-3).double().mean()
    """
    shape, device = aim.shape[1:], model.device
    low, high = model.box
    a, b = (images.flatten(1).to(device, torch.float64) for images in (start, aim))
    net = _double(model)
    with denormals_flushed():
        with torch.no_grad():
            goal = net(a.view(-1, *shape))
        # A net that is very sure has logits of tens and hundreds: c and u are in units of their spread.
        unit = goal.std(1, keepdim=True).clamp_min(1e-6)
        u = torch.zeros_like(goal)
        c = torch.full_like(goal[:, :1], penalty)
        x, change = b.clone(), torch.full_like(goal[:, 0], torch.inf)
        for _ in range(_ROUNDS):

            def objective(point: Tensor, rows: Tensor, u: Tensor = u, c: Tensor = c) -> tuple[Tensor, Tensor]:
                with torch.enable_grad():
                    point = point.detach().requires_grad_(True)
                    h = (net(point.view(-1, *shape)) - goal[rows]) / unit[rows]
                    away = (point - b[rows]).square().sum(1)
                    value = away + (u[rows] * h).sum(1) + c[rows, 0] / 2 * h.square().sum(1)
                    (gradient,) = torch.autograd.grad(value.sum(), point)
                return value.detach(), gradient

            x = minimize(objective, x, lower=low, upper=high, tolerance=1e-4, max_evaluations=_EVALUATIONS).x
            with torch.no_grad():
                h = (net(x.view(-1, *shape)) - goal) / unit
            u = u + c * h
            now = h.abs().amax(1)
            c = torch.where((now > change / 4)[:, None], 10 * c, c)
            change = now
        x = _polish(net, x, goal, shape, (low, high))
    images = x.to(aim.device, aim.dtype).view_as(aim).clamp(low, high)
    # Judged as the net itself would: in its own precision.
    return Twin(images, (model.logits(images) - model.logits(start)).abs().amax(1).double())


def null_space(weight: Tensor, start: Tensor, aim: Tensor) -> Tensor:
    """Return the point of A + {r : W r = 0} nearest to B, the box left aside.

    Args:
        weight: (m, n) of the first layer.
        start: (N, n) images A.
        aim: (N, n) images B.

    Returns:
        (N, n) float64.

    Example:
        >>> null_space(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2), torch.ones(1, 2)).tolist()
        [[0.0, 1.0]]
    """
    W, a, b = weight.double(), start.double(), aim.double()
    _, sizes, right = torch.linalg.svd(W, full_matrices=False)
    rows = right[sizes > sizes[0] * max(W.shape) * torch.finfo(torch.float64).eps]
    r = b - a
    nearest: Tensor = a + r - (r @ rows.T) @ rows
    return nearest


def invariance(
    inputs: Inputs, *, nets: Sequence[str], judge: str, images: int, tries: int, shown: int, seed: int
) -> Record:
    """Turn images into ones of another class without changing a logit.

    Args:
        inputs: needs ``"<net>/net"`` for every net and for the judge; data ``"test"``.
        nets: names of the nets whose logits stay.
        judge: name of an independent net that says what an image looks like.
        images: A, answered correctly by all these nets.
        tries: images B for each A, drawn from those of other classes that all these nets answer correctly.
        shown: pairs in the picture, per net.
        seed: draws the pairs and the noise.
    """
    data = inputs.data("test")
    models = {name: model_of(inputs.needs[f"{name}/net"], name, data, inputs.device) for name in (*nets, judge)}
    A, B, label_a, label_b = _pairs(data, list(models.values()), images, tries, seed)
    between = norms.l2(B - A)
    seen = models[judge]
    cells: list[dict[str, Any]] = []
    groups: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    findings: list[str] = []
    for place, net in enumerate(nets):
        model = models[net]
        found = twins(model, A, B)
        inputs.progress(place + 1, len(nets))
        moved = norms.l2(found.images - A)
        random = gaussian_of_norm(A, moved, generator=generator(f"invariance/{net}", seed))
        drift = (model.logits(random) - model.logits(A)).abs().amax(1).double()
        looks, looks_random = seen.predict(found.images), seen.predict(random)
        hit = (found.change <= _TOLERANCE) & (looks == label_b)
        luck = (drift <= _TOLERANCE) & (looks_random == label_b)
        label = "random moves of the same norm"
        draw = generator(f"bootstrap/invariance/{net}", seed)

        def by_image(values: Tensor, draw: torch.Generator = draw) -> statistics.Estimate:
            # The tries of one image are not independent: an image's mean is one value.
            return statistics.mean([values.double().view(-1, tries).mean(1).tolist()], draw)

        whole, chance = (rows.view(-1, tries).any(1) for rows in (hit, luck))
        with_twin = statistics.proportion(int(whole.sum()), len(whole))
        control = {"label": label, **measured(statistics.proportion(int(chance.sum()), len(chance)))}
        cells.append(cell(net, TWIN, with_twin, invariance, control) | {"unit": "percent"})
        control = {"label": label, **measured(by_image(luck))}
        cells.append(cell(net, REACHED, by_image(hit), invariance, control) | {"unit": "percent"})
        control = {"label": label, **measured(by_image(drift))}
        cells.append(cell(net, CHANGED, by_image(found.change), invariance, control) | {"unit": "plain"})
        left = by_image(norms.l2(found.images - B) / between)
        control = {"label": "what is left to B, over the distance from A to B", **measured(left)}
        cells.append(cell(net, MOVED, by_image(moved / between), invariance, control) | {"unit": "plain"})
        cells += _closed_form(model, seen, A, B, label_b, net)
        findings.append(
            f"{net}: for {round(with_twin.measured * with_twin.n)} of {with_twin.n} images there is one that "
            f"{judge} reads as another class and whose logits are the same to {_TOLERANCE:g}, among {tries} tries "
            f"each; random changes of the same norm move a logit by {float(drift.mean()):.1f} on average."
        )
        picks = _best(hit, moved / between, tries)[:shown]
        named = {"start": A, "aim": B, "found": found.images, "random": random}
        tensors |= {f"net{place}_{name}": images[picks] for name, images in named.items()}
        notes = [
            f"A is {data.classes[int(label_a[pick])]}, B is {data.classes[int(label_b[pick])]}; moved "
            f"{float(moved[pick]):.1f} of {float(between[pick]):.1f}; largest change of a logit "
            f"{float(found.change[pick]):.0e}"
            for pick in picks
        ]
        said = [(data.classes[int(label_a[pick])], data.classes[int(looks[pick])]) for pick in picks]
        groups.append(_group(net, judge, place, said, notes, int(whole.sum()), len(whole)))
    cells.append(_control(data, seen, judge))
    figure = {
        "kind": "gallery",
        "id": "twins",
        "title": "Looks like B, answered as A",
        "caption": "From left to right: image A; image B of another class; the image nearest to B whose logits are "
        "those of A; and A after a random move as large. To the net the third is A; see whether it is B to you.",
        "groups": groups,
    }
    note = (
        "The image found is also an adversarial example of B: the two properties are one, seen from its two ends. New "
        "is that not only the class but every logit is that of A."
    )
    values = {"cells": cells, "figures": [figure], "tables": [], "findings": findings, "notes": [note]}
    return Record(values=values, tensors=tensors)


def _double(model: Model) -> Model:
    """Return a copy of a net in double precision: 1e-3 on a logit of 100 is near the end of float32."""
    assert isinstance(model.net, nn.Module)
    net = copy.deepcopy(model.net).double().eval().requires_grad_(False)
    return Model(net, box=model.box, mean=model.mean, std=model.std, name=model.name)


def _polish(net: Model, x: Tensor, goal: Tensor, shape: torch.Size, box: tuple[float, float]) -> Tensor:
    """Return x after Gauss-Newton steps to f(x) = goal, the smallest step in the pixels that are free to move."""
    low, high = box
    best, least = x, torch.full_like(x[:, 0], torch.inf)
    for step in range(_POLISH + 1):
        with torch.enable_grad():
            point = x.detach().requires_grad_(True)
            logits = net(point.view(-1, *shape))
            h = logits.detach() - goal
            change = h.abs().amax(1)
            best = torch.where((change < least)[:, None], x, best)
            least = torch.minimum(change, least)
            if step == _POLISH or bool((least < _TOLERANCE / 100).all()):
                break
            columns = [
                torch.autograd.grad(logits[:, k].sum(), point, retain_graph=True)[0] for k in range(len(goal[0]))
            ]
        J = torch.stack(columns, 1)  # (N, K, n)
        # A pixel on a face moves with the rest only if the step leads inwards; the second solve leaves out the others.
        free = torch.ones_like(x)
        for _ in range(3):
            Jf = J * free[:, None]
            gram = Jf @ Jf.transpose(1, 2)
            ridge = 1e-10 * gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] + 1e-30
            gram = gram + ridge * torch.eye(gram.shape[1], dtype=x.dtype, device=x.device)
            move = -(Jf.transpose(1, 2) @ torch.linalg.solve(gram, h[:, :, None])).squeeze(2)
            out = ((x <= low) & (move < 0)) | ((x >= high) & (move > 0))
            free = free * (~out)
        x = (x + move * free).clamp(low, high)
    return best


def _pairs(
    data: Images, models: Sequence[Model], count: int, tries: int, seed: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return images A, each `tries` times in a row, images B of other classes, (N, ...) each, and their labels.

    Every net is right about all of them.

    Raises:
        InputError: no image, or no second class, that all nets answer correctly.
    """
    right = torch.stack([model.predict(data.images) == data.labels for model in models]).all(0)
    draw = generator("invariance/pairs", seed)
    pool = right.nonzero().squeeze(1)
    pool = pool[torch.randperm(len(pool), generator=draw)]
    labels = data.labels[pool]
    if len(labels.bincount().nonzero()) < 2:
        raise InputError("nets: expected images of at least two classes that all nets answer correctly; train longer")
    first, second = [], []
    for place in range(min(count, len(pool))):
        others = pool[labels != labels[place]]
        chosen = others[torch.randint(len(others), (tries,), generator=draw)]
        first += [int(pool[place])] * tries
        second += chosen.tolist()
    return data.images[first], data.images[second], data.labels[first], data.labels[second]


def _best(hit: Tensor, share: Tensor, tries: int) -> list[int]:
    """Return the rows to show: of each image with a twin the try that moved farthest."""
    score = torch.where(hit, share, -torch.inf).view(-1, tries)
    most, pick = score.max(1)
    rows = torch.arange(len(score)) * tries + pick
    return [int(row) for row in rows[most.isfinite()]]


def _closed_form(model: Model, judge: Model, A: Tensor, B: Tensor, label_b: Tensor, net: str) -> list[dict[str, Any]]:
    """Return the cell of the null space of the first layer, in double precision and without the box."""
    first = next((layer for layer in model.layers().values() if isinstance(layer, nn.Linear)), None)
    if first is None or first.in_features != A[0].numel():
        return []
    x = null_space(first.weight.detach().cpu(), A.flatten(1), B.flatten(1)).view(A.shape)
    exactly = _double(model)
    answers = exactly.logits(A)
    change = float((exactly.logits(x) - answers).abs().amax())
    drift = float((exactly.logits(B) - answers).abs().amax(1).mean())
    looks = judge.predict(x.to(A.dtype))
    agreed, kept = int((looks == label_b).sum()), float((norms.l2(x - A) / norms.l2(B - A)).mean())
    outside = float(((x < 0) | (x > 1)).double().mean())
    note = (
        f"{len(A)} pairs; {100 * kept:.0f}% of the way from A to B lies in the null space of the first layer; the "
        f"judge reads {agreed} of the images as B's class; {100 * outside:.0f}% of their pixels leave the box."
    )
    control = {"label": "B itself, mean change of a logit", "measured": drift}
    return [exact(net, NULL, change, invariance, control=control, note=note) | {"unit": "plain"}]


def _control(data: Images, judge: Model, name: str) -> dict[str, Any]:
    """Return the judge's own accuracy: what its word is worth."""
    right = int((judge.predict(data.images) == data.labels).sum())
    share = statistics.proportion(right, len(data.labels))
    guess = float(torch.bincount(data.labels).max()) / len(data.labels)
    control = {"label": "always the most frequent class", "measured": guess}
    return cell(f"judge: {name}", "test accuracy", share, invariance, control) | {"unit": "percent"}


def _group(
    net: str, judge: str, place: int, said: Sequence[tuple[str, str]], notes: Sequence[str], found: int, images: int
) -> dict[str, Any]:
    names = ("start", "aim", "found", "random")
    rows = [
        {
            "label": f"{net} says {a}, {judge} says {b}",
            "note": note,
            "images": [{"tensor": f"net{place}_{name}", "index": index} for name in names],
        }
        for index, ((a, b), note) in enumerate(zip(said, notes, strict=True))
    ]
    return {
        "title": f"The logits of {net} stay",
        "caption": f"{found} of {images} images have such a twin, the first {len(rows)} shown.",
        "columns": ["image A", "image B", "same logits as A", "A, moved at random"],
        "rows": rows,
    }

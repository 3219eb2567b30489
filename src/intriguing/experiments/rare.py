"""Improbable, yet next to every image: how much of a ball is misclassified. Szegedy et al. 2014, section 6.

The paper closes with a guess: adversarial examples have so low a probability that a test set never shows one, yet they
are dense, so that one lies near every test case; how often they occur it leaves open. Here a ball is drawn around each
test image, large enough to hold its nearest adversarial example, and the share of the ball that is misclassified is
estimated by splitting (`bounds.rare`), with plain Monte Carlo and a closed form beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import scipy
import torch
from torch import Tensor

from intriguing.bounds.rare import Splitting, naive
from intriguing.experiments.cells import model_of
from intriguing.records import Inputs, Record
from intriguing.rng import generator

_LN10 = math.log(10)
_DECADES = (-40, -16, -8, -4, -2)  # see `depths`
_HOPELESS = -5.5  # log10 of an estimate below which plain Monte Carlo is not asked


def volumes(
    inputs: Inputs,
    *,
    net: str,
    ratio: float,
    floor: float,
    particles: int,
    keep: float,
    moves: int,
    samples: int,
    seed: int,
) -> Record:
    """Estimate the share of errors in a ball around every attacked test image, down to a floor.

    Args:
        inputs: needs ``"net"`` and ``"nearest"``, its attack on test images; data ``"test"``.
        net: the net's name.
        ratio: the ball's radius over the distance of the nearest adversarial example, above 1.
        floor: log10 of the share below which a search stops.
        particles: see `bounds.rare.Splitting`.
        keep: see `bounds.rare.Splitting`.
        moves: see `bounds.rare.Splitting`.
        samples: plain draws from each ball, the control.
        seed: draws everything.

    Returns:
        One row per image with an example: its distance, the estimate, and the errors among the plain draws.
    """
    data = inputs.data("test")
    model = model_of(inputs.needs["net"], net, data, inputs.device)
    ids, x, labels, distance = attacked_points(inputs.needs["nearest"])
    radius = ratio * distance
    rule = Splitting(particles=particles, keep=keep, moves=moves, floor=floor)
    found = rule(
        model, x, labels, radius, generators=own_streams("volumes", ids, seed), progress=_part(inputs, 0.0, 0.8)
    )
    plain = naive(
        model,
        x,
        labels,
        radius,
        samples=samples,
        generators=own_streams("volumes/naive", ids, seed),
        progress=_part(inputs, 0.8, 1.0),
    )
    rows = {
        "image": ids,
        "distance": distance.tolist(),
        "radius": radius.tolist(),
        "log10": found.log10.tolist(),
        "reached": found.reached.tolist(),
        "levels": found.levels.tolist(),
        "accepted": found.accepted.tolist(),
        "plain_errors": plain.tolist(),
    }
    return Record(values={"samples": samples, "forwards": int(found.forwards.sum())}, rows=rows)


def depths(
    inputs: Inputs,
    *,
    net: str,
    points: int,
    repeats: int,
    particles: int,
    keep: float,
    moves: int,
    samples: int,
    seed: int,
    ratios: Sequence[float] | None = None,
) -> Record:
    """Follow the share of errors of some test images to its full depth, in balls of several sizes, with repeats.

    Args:
        inputs: as for `volumes`.
        net: the net's name.
        points: the first so many images that have an example.
        repeats: independent estimates of every share, at least 2.
        particles: see `bounds.rare.Splitting`.
        keep: see `bounds.rare.Splitting`.
        moves: see `bounds.rare.Splitting`.
        samples: plain draws per point, made where the estimate says that they can meet errors.
        seed: draws everything.
        ratios: radii over the distance of the nearest example. None: those at which a half-space at that distance
            would take up 1e-40, 1e-16, 1e-8, 1e-4 and 1e-2 of the ball, whatever the number of pixels; at least 1.5.

    Returns:
        One row per image, ratio and repeat; ``plain_errors`` and ``plain_draws`` stand in the rows of repeat 0.
    """
    data = inputs.data("test")
    model = model_of(inputs.needs["net"], net, data, inputs.device)
    ids, x, labels, distance = attacked_points(inputs.needs["nearest"])
    ids, x, labels, distance = ids[:points], x[:points], labels[:points], distance[:points]
    if ratios is None:
        ratios = sorted({max(1.5, round(1 / cap_cosine(data.images[0].numel(), decade), 1)) for decade in _DECADES})
    rule = Splitting(particles=particles, keep=keep, moves=moves)
    rows: dict[str, list[Any]] = {name: [] for name in ("image", "ratio", "repeat", "log10", "reached", "levels")}
    rows |= {"plain_errors": [], "plain_draws": []}
    for turn, ratio in enumerate(ratios):
        estimates = []
        for repeat in range(repeats):
            place = (turn * repeats + repeat) / (len(ratios) * repeats)
            found = rule(
                model,
                x,
                labels,
                ratio * distance,
                generators=own_streams(f"depths/{ratio:g}/{repeat}", ids, seed),
                progress=_part(inputs, place, place + 1 / (len(ratios) * repeats)),
            )
            estimates.append(found.log10)
            rows["image"] += ids
            rows["ratio"] += [ratio] * len(ids)
            rows["repeat"] += [repeat] * len(ids)
            rows["log10"] += found.log10.tolist()
            rows["reached"] += found.reached.tolist()
            rows["levels"] += found.levels.tolist()
        seen = torch.stack(estimates).mean(0) > _HOPELESS
        errors = torch.zeros(len(ids), dtype=torch.int64)
        if bool(seen.any()):
            streams = own_streams(f"depths/naive/{ratio:g}", ids, seed)
            errors[seen] = naive(
                model,
                x[seen],
                labels[seen],
                (ratio * distance)[seen],
                samples=samples,
                generators=[stream for stream, kept in zip(streams, seen.tolist(), strict=True) if kept],
            )
        rows["plain_errors"] += errors.tolist() + [0] * (len(ids) * (repeats - 1))
        rows["plain_draws"] += (samples * seen).tolist() + [0] * (len(ids) * (repeats - 1))
    variance = (1 - keep) / (keep * particles)  # of the logarithm, per level, where moves forget where they began
    values = {"repeats": repeats, "variance_per_level": variance, "points": len(ids), "samples": samples}
    return Record(values=values, rows=rows)


def closed_form(
    inputs: Inputs,
    *,
    net: str,
    decades: Sequence[float],
    repeats: int,
    particles: int,
    keep: float,
    moves: int,
    seed: int,
) -> Record:
    """Hold the splitting to what is known exactly: two classes of a trained linear net, no box.

    The error region is then a half-space at distance d. Its share of a ball of radius R is that of a spherical cap,
    I_{1 - d^2 / R^2}((n + 1) / 2, 1 / 2) / 2; under Gaussian noise it is Phi(-d / sigma). For each share wanted, the
    radius or the standard deviation is solved for.

    Args:
        inputs: needs ``"net"``, a softmax net without hidden layer; data ``"test"``.
        net: its name.
        decades: logarithms to base 10 of the shares.
        repeats: independent estimates of each.
        particles: see `bounds.rare.Splitting`.
        keep: see `bounds.rare.Splitting`.
        moves: see `bounds.rare.Splitting`.
        seed: draws everything.

    Returns:
        One row per region, share and repeat: ``exact`` and ``log10``.
    """
    data = inputs.data("test")
    model = model_of(inputs.needs["net"], net, data, inputs.device)
    logits = model.logits(data.images)
    right = int((logits.argmax(1) == data.labels).nonzero()[0])
    x, label = data.images[right : right + 1], data.labels[right : right + 1]
    rival = int(logits[right].scatter(0, label, -torch.inf).argmax())
    pair = [int(label), rival]
    with torch.no_grad():
        basis = torch.cat((torch.zeros_like(x), torch.eye(x[0].numel()).view(-1, *x.shape[1:])))
        answers = model.logits(basis)[:, pair].double()
    normal = (answers[1:, 0] - answers[1:, 1]) - (answers[0, 0] - answers[0, 1])
    gap = logits[right, pair[0]].double() - logits[right, pair[1]].double()
    distance, n = float(gap / normal.norm()), x[0].numel()

    def two_classes(images: Tensor) -> Tensor:
        return model(images.to(model.device, model.dtype))[:, pair].to(images.device)

    rows: dict[str, list[Any]] = {name: [] for name in ("region", "exact", "log10")}
    cases = [(region, decade) for region in ("ball", "gaussian") for decade in decades]
    for turn, (region, decade) in enumerate(cases):
        quantile = -float(scipy.special.ndtri_exp(decade * _LN10))
        size = distance / (cap_cosine(n, decade) if region == "ball" else quantile)
        found = Splitting(particles=particles, keep=keep, moves=moves, region=region)(
            two_classes,
            x.expand(repeats, *x.shape[1:]),
            torch.zeros(repeats, dtype=torch.int64),
            torch.full((repeats,), size, dtype=torch.float64),
            generators=own_streams(f"closed-form/{region}/{decade:g}", range(repeats), seed),
            box=None,
        )
        rows["region"] += [region] * repeats
        rows["exact"] += [decade] * repeats
        rows["log10"] += found.log10.tolist()
        inputs.progress(turn + 1, len(cases))
    return Record(values={"distance": distance, "pixels": n}, rows=rows)


def cap_log10(n: int, cosine: float) -> float:
    """Return log10 of the share of an n-ball beyond a plane at `cosine` radii from its centre.

    Example:
        >>> round(cap_log10(3, 0.5), 4)  # a cap of height R/2: 5/32 of the ball
        -0.8062
    """
    share = scipy.special.betainc((n + 1) / 2, 0.5, 1 - cosine**2) / 2
    return math.log10(share) if share > 0 else -math.inf


def cap_cosine(n: int, decades: float) -> float:
    """Return the distance of the plane, in radii, beyond which lies 10^decades of an n-ball."""
    return float(scipy.optimize.brentq(lambda t: max(cap_log10(n, t), -320.0) - decades, 0.0, 1 - 1e-9))


def own_streams(name: str, ids: Sequence[int], seed: int) -> list[torch.Generator]:
    """Return one generator per image: an image's estimate does not depend on which others there are."""
    return [generator(f"{name}/{image}", seed) for image in ids]


def _part(inputs: Inputs, first: float, last: float) -> Any:
    """Return a progress callback that fills the part [first, last] of the whole."""
    return lambda done, total: inputs.progress(first + (last - first) * done / total, 1.0)


def attacked_points(record: Record) -> tuple[list[int], Tensor, Tensor, Tensor]:
    """Return ids, images, labels and distances of the images with an adversarial example."""
    found = [row for row, status in enumerate(record.rows["status"]) if status == "found"]
    ids = [int(record.rows["image"][row]) for row in found]
    labels = torch.tensor([int(record.rows["label"][row]) for row in found], dtype=torch.int64)
    distance = torch.tensor([float(record.rows["distance"][row]) for row in found], dtype=torch.float64)
    return ids, record.tensors["original"][found], labels, distance

"""What the shards of an audit come to: figures with intervals and controls, curves, confusion, transfer, layers.

Only a few numbers per image and the nearest examples are held, so that any number of images fits in memory.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from intriguing.bounds.network import layer_bounds
from intriguing.errors import InputError, ModelError
from intriguing.experiments import audit_figures, resampling, statistics
from intriguing.experiments.audit_figures import WORST, Columns
from intriguing.experiments.resampling import Array, Statistic
from intriguing.experiments.statistics import Estimate
from intriguing.nets.load import Model
from intriguing.records import Record

NOISE = "answers changed by noise of the same L2 norm"
_SIZES = {1.0: "distance_l1", 2.0: "distance", math.inf: "distance_linf"}
_HELD = (
    "label", "target", "status", *_SIZES.values(), "distance_8bit", "survives_8bit", "forwards", "backwards",
    "fooled_by_noise", "certified", "certified_product",
)  # fmt: skip
_RADII = 41  # points of a curve
_REACH = 0.98  # a curve ends where so many of the examples found lie nearer
_HARDLY = 1.5  # times chance: a net that is right no more often has nothing to lose


class Gathered:
    """The rows of one model, column by column, filled shard by shard.

    Args:
        norm: in which the most fragile images are the nearest.
        keep: how many of those are kept with their tensors.
    """

    def __init__(self, norm: float, keep: int = 20) -> None:
        self._norm, self._keep = norm, keep
        self._columns: dict[str, dict[str, list[Array]]] = defaultdict(lambda: defaultdict(list))
        self.fragile: list[tuple[dict[str, Any], Tensor, Tensor]] = []

    def add(self, shard: Record, positions: Sequence[int]) -> None:
        """Take in a shard of `audit.attack_shard`; `positions` say where in the set its images stand."""
        attacks = np.asarray(shard.rows["attack"])
        for attack in dict.fromkeys(attacks.tolist()):
            here = attacks == attack
            for name, values in shard.rows.items():
                if name in _HELD or (attack == WORST and "fools/" in name):
                    self._columns[attack][name].append(_compact(values, here))
        self._take_fragile(shard, (attacks == WORST).nonzero()[0], positions)

    @property
    def attacks(self) -> list[str]:
        """The names of the attacks, "worst of" last."""
        return list(self._columns)

    def rows(self, attack: str = WORST) -> dict[str, Array]:
        """Return the columns of an attack's rows, (N,) each."""
        return {name: np.concatenate(pieces) for name, pieces in self._columns[attack].items()}

    def _take_fragile(self, shard: Record, worst: Array, positions: Sequence[int]) -> None:
        for at, entry in enumerate(shard.values["fragile"]):
            row = {name: values[worst[entry["place"]]] for name, values in shard.rows.items()}
            row |= {"index": positions[entry["place"]], "before": entry["before"], "after": entry["after"]}
            self.fragile.append((row, shard.tensors["original"][at], shard.tensors["adversarial"][at]))
        size = _SIZES[self._norm]
        self.fragile.sort(key=lambda kept: (kept[0][size], kept[0]["index"]))
        # Copies, so that what is let go takes its shard's tensor with it.
        self.fragile = [(row, x.clone(), y.clone()) for row, x, y in self.fragile[: self._keep]]


def _compact(values: Sequence[Any], here: Array) -> Array:
    """Return some of a column; None, for what was not looked at, as -1."""
    column = [value for value, wanted in zip(values, here, strict=True) if wanted]
    return np.asarray([-1 if value is None else value for value in column])


def figures(
    gathered: Gathered, generator: torch.Generator, *, extra: tuple[float, float] | None = None, width: float = 1.0
) -> dict[str, dict[str, Any]]:
    """Return every figure that is a statistic of rows, with n, interval and control.

    Args:
        gathered: of one model.
        generator: draws the resamples.
        extra: (radius, norm) at which robust accuracy is wanted besides the usual ones.
        width: of the box.
    """
    rows = gathered.rows()
    c = audit_figures.columns(rows)
    known = audit_figures.figures(extra, width=width)
    drawn = {name: figure.of(c) for name, figure in known.items()}
    intervals = resampling.estimates({name: s for name, s in drawn.items() if not known[name].is_share}, generator)
    controls = _controls(rows, c)
    found: dict[str, dict[str, Any]] = {}
    for name, figure in known.items():
        statistic = drawn[name]
        hits = statistic.values > 0
        interval = resampling.share(hits, statistic.counted) if figure.is_share else intervals[name]
        found[name] = figure_entry(interval, figure.unit, figure.better, figure.meaning, controls.get(name))
    noise = _noise(rows, c)
    found["fooled_by_noise"] = figure_entry(
        noise, "share", "lower", "The share of examples whose own L2 norm, as Gaussian noise, changes the answer too."
    )
    return found


def figure_entry(
    estimate: Estimate, unit: str, better: str, meaning: str, control: tuple[str, float] | None = None
) -> dict[str, Any]:
    """Return a figure as the document holds it.

    Example:
        >>> figure_entry(proportion(3, 4), "share", "higher", "The share of ...")["n"]
        4
    """
    return {
        "value": estimate.measured,
        "n": estimate.n,
        "low": estimate.low,
        "high": estimate.high,
        "unit": unit,
        "better": better,
        "meaning": meaning,
        "control": None if control is None else {"label": control[0], "value": control[1]},
    }


def _controls(rows: Mapping[str, Array], c: Columns) -> dict[str, tuple[str, float]]:
    noise = (NOISE, _noise(rows, c).measured)
    guess = np.unique(rows["label"], return_counts=True)[1].max() / len(rows["label"])
    by_name = dict.fromkeys(("median_l2", "p05_l2", "mean_l2", "median_linf", "median_l1", "found"), noise)
    by_name["median_l2_8bit"] = ("the median before rounding", Statistic(c.l2, c.right, 0.5).value)
    by_name["clean_accuracy"] = ("always the most frequent class", float(guess))
    clean = ("clean accuracy", float(c.right.mean()))
    return by_name | {name: clean for name in audit_figures.figures() if name.startswith("robust_accuracy")}


def _noise(rows: Mapping[str, Array], c: Columns) -> Estimate:
    return resampling.share(rows["fooled_by_noise"] == 1, c.found)


def curves(gathered: Gathered, norms: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return robust accuracy against the radius: "worst of" in L2 and Linf, each attack in its own norm.

    Args:
        gathered: of one model.
        norms: attack -> its norm.
    """
    several = len(norms) > 1
    wanted = [(WORST, 2.0), (WORST, math.inf), *(norms.items() if several else [])]
    return [_curve(attack, gathered.rows(attack), norm) for attack, norm in wanted]


def _curve(attack: str, rows: Mapping[str, Array], norm: float) -> dict[str, Any]:
    size, right = rows[_SIZES[norm]], rows["status"] != "already_wrong"
    known = np.sort(size[right & np.isfinite(size)])
    end = float(known[math.ceil(_REACH * (len(known) - 1))]) if len(known) else 1.0
    radii = [end * step / (_RADII - 1) for step in range(_RADII)]
    shares = [statistics.proportion(int((right & (size > radius)).sum()), len(size)) for radius in radii]
    return {
        "attack": attack,
        "norm": "inf" if norm == math.inf else f"{norm:g}",
        "radii": radii,
        "robust_accuracy": [share.measured for share in shares],
        "low": [share.low for share in shares],
        "high": [share.high for share in shares],
        "n": len(size),
    }


def confusion(gathered: Gathered, classes: Sequence[str]) -> dict[str, Any]:
    """Return how often the nearest example of an image of each class (rows) is given each class (columns)."""
    rows = gathered.rows()
    found = rows["status"] == "found"
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(counts, (rows["label"][found], rows["target"][found]), 1)
    return {"classes": list(classes), "counts": counts.tolist()}


def by_class(gathered: Gathered, classes: Sequence[str], generator: torch.Generator) -> list[dict[str, Any]]:
    """Return the median L2 distance of each class of which the net gets an image right, with its interval."""
    rows = gathered.rows()
    right = rows["status"] != "already_wrong"
    medians = {
        name: Statistic(rows["distance"], right & (rows["label"] == label), 0.5) for label, name in enumerate(classes)
    }
    found = resampling.estimates({name: median for name, median in medians.items() if median.n}, generator)
    return [
        {"class": name, "n": e.n, "median_l2": e.measured, "low": e.low, "high": e.high} for name, e in found.items()
    ]


def fragile(gathered: Gathered, classes: Sequence[str]) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Return the nearest examples, nearest first, and their tensors under ``fragile/``: original and adversarial."""

    def named(likeliest: Sequence[Sequence[Any]]) -> list[list[Any]]:
        return [[classes[label], share] for label, share in likeliest]

    entries = [
        {
            "image_hash": row["image_hash"],
            "index": row["index"],
            "label": classes[row["label"]],
            "target": classes[row["target"]],
            "distance": row["distance"],
            "distance_linf": row["distance_linf"],
            "survives_8bit": row["survives_8bit"],
            "top_before": named(row["before"]),
            "top_after": named(row["after"]),
            "queries": row["forwards"] + row["backwards"],
            "phase": row["phase"],
            **({"certified": row["certified"]} if "certified" in row else {}),
        }
        for row, _, _ in gathered.fragile
    ]
    if not entries:
        return [], {}
    originals, adversarial = zip(*((x, y) for _, x, y in gathered.fragile), strict=True)
    return entries, {"fragile/original": torch.stack(originals), "fragile/adversarial": torch.stack(adversarial)}


def transfer(models: Mapping[str, Gathered]) -> dict[str, Any] | None:
    """Return how often examples made for one model, and noise of their norms, mislead each of the others.

    Counted are the images for which an example was found and which the receiver gets right as they are.

    Args:
        models: by name, the gathered rows of each, made with all models as receivers.

    Returns:
        ``{"sources", "receivers", "rate", "noise"}`` with a figure per pair, or None for a single model.
    """
    if len(models) < 2:
        return None
    rate, noise = (
        [[_fooled(gathered.rows(), f"{kind}/{receiver}") for receiver in models] for gathered in models.values()]
        for kind in ("fools", "noise_fools")
    )
    meaning = "The share of examples made for {} that mislead {}."
    entries = [
        [
            figure_entry(
                rate[s][r], "share", "lower", meaning.format(source, receiver),
                ("noise of the same L2 norm", noise[s][r].measured),
            )
            for r, receiver in enumerate(models)
        ]
        for s, source in enumerate(models)
    ]  # fmt: skip
    meaning = "The share of the same images that noise of the examples' L2 norms makes {} get wrong."
    controls = [
        [figure_entry(noise[s][r], "share", "lower", meaning.format(receiver)) for r, receiver in enumerate(models)]
        for s in range(len(models))
    ]
    return {"sources": list(models), "receivers": list(models), "rate": entries, "noise": controls}


def pooled_transfer(models: Mapping[str, Gathered]) -> dict[str, dict[str, Any]]:
    """Return the figures ``transfer`` and ``noise_transfer``: all ordered pairs of different models together."""
    if len(models) < 2:
        return {}
    totals = {}
    for kind in ("fools", "noise_fools"):
        columns = [g.rows()[f"{kind}/{r}"] for s, g in models.items() for r in models if r != s]
        hits = np.concatenate(columns)
        totals[kind] = statistics.proportion(int((hits == 1).sum()), int((hits >= 0).sum()))
    control = ("noise of the same L2 norm", totals["noise_fools"].measured)
    return {
        "transfer": figure_entry(
            totals["fools"], "share", "lower",
            "The share of examples made for one model that mislead another which is right on the clean image.", control,
        ),
        "noise_transfer": figure_entry(
            totals["noise_fools"], "share", "lower", "The same for Gaussian noise of the examples' L2 norms.",
        ),
    }  # fmt: skip


def _fooled(rows: Mapping[str, Array], column: str) -> Estimate:
    return resampling.share(rows[column] == 1, rows[column] >= 0)


def layers(model: Model, shape: Sequence[int]) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]], str]:
    """Return a bound per layer, the figure of their product, and why there are none where there are none.

    Args:
        model: the net.
        shape: (C, H, W) of one image.
    """
    try:
        bounds = layer_bounds(model, shape)
    except (InputError, ModelError) as error:
        return [], {}, f"The layers are not bounded: {error}"
    high = math.prod(bound.bound for bound in bounds)
    low = math.prod(max(bound.bound - bound.residual, 0.0) for bound in bounds)
    figure = figure_entry(
        Estimate(high, 1, low, high), "ratio", "lower",
        "The product of the layers' bounds: no change of the logits is longer than this times the change of the image.",
    )  # fmt: skip
    return [{"name": b.name, "kind": b.kind, "bound": b.bound} for b in bounds], {"lipschitz_product": figure}, ""


def verdict(checks: Sequence[Mapping[str, Any]], accuracy: Mapping[str, Estimate], classes: int) -> dict[str, Any]:
    """Return whether the numbers can be trusted, and if not, why.

    Args:
        checks: of the trust panel, ``{"name", "state", "sentence"}``.
        accuracy: model -> its clean accuracy.
        classes: K.
    """
    reasons = [f"{check['name']}: {check['sentence']}" for check in checks if check["state"] == "red"]
    reasons += [
        f"{name} gets {share.measured:.1%} of {share.n} images right, hardly more than chance ({1 / classes:.1%}): "
        "are the preprocessing and the order of the classes those it was trained with?"
        for name, share in accuracy.items()
        if share.measured < _HARDLY / classes
    ]
    return {"state": "untrustworthy" if reasons else "trustworthy", "reasons": reasons}


def accuracy(gathered: Gathered) -> Estimate:
    """Return the clean accuracy of a model."""
    right = gathered.rows()["status"] != "already_wrong"
    return statistics.proportion(int(right.sum()), len(right))

"""Errata E5, E6, E13 and E14: what Tables 2 and 4 of Szegedy et al. 2014 feed to whom, and what they count as error.

Symbols: x an image of n pixels, r the perturbation that the attack found, d the distortion wanted.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from intriguing import norms
from intriguing.attacks.noise import gaussian, gaussian_of_norm, rescaled
from intriguing.experiments import statistics
from intriguing.experiments.cells import attacked_images, cell, exact, measured, model_of
from intriguing.experiments.pooling import mean_inside, pooled_share
from intriguing.experiments.statistics import Estimate
from intriguing.nets.load import Model
from intriguing.records import Images, Inputs, Record
from intriguing.rng import generator

AS_PRINTED = "distortion as printed"
AS_CORRECTED = "distortion as corrected"
OWN_PRINTED = "own net's error as printed"
OWN_CORRECTED = "own net's error as corrected"
OTHERS_PRINTED = "other nets' error as printed"
OTHERS_CORRECTED = "other nets' error as corrected"

FACTOR = "mean factor"
LEAST = "smallest factor"
MOST = "largest factor"
OTHERS = "other nets' error"

CLEAN = "clean error"
RAW_OTHERS = "error on examples for the others"
EXCESS_OTHERS = "excess error on examples for the others"

SIZE = "average distortion"
AS_FOUND = "other nets' error as found"
EQUAL = "other nets' error at equal distortion"

_EVERYWHERE = (-math.inf, math.inf)


def under_noise(std: float, *, excess: bool = False) -> str:
    """Return the name of E13's column of errors under noise."""
    return f"{'excess ' if excess else ''}error under noise, std {std:g}"


def versus(more: str, less: str) -> str:
    """Return the name of E14's row that compares two sources."""
    return f"{more} minus {less}"


def erratum_e5(inputs: Inputs, *, nets: Sequence[Mapping[str, str]], seed: int, distortion: float) -> Record:
    """Amplify the examples of Table 4 by the printed formula and by its correction.

    Args:
        inputs: needs ``"<name>/0/net"`` and ``"<name>/0/attack"`` for every net, as for Table 4; data ``"test"``.
        nets: ``{"name": row of the table, "net": its architecture}``.
        seed: draws the noise and the resamples.
        distortion: d, which Table 4 names.
    """
    models = _models(inputs, nets)
    cells: list[dict[str, Any]] = []
    sides: list[float] = []
    survive: list[tuple[int, int]] = []
    for net in nets:
        made = _Examples.of(inputs, net["name"], "attack", inputs.data("test"))
        side = math.sqrt(made.r[0].numel()) if len(made.r) else math.nan
        length = norms.l2(made.r)
        versions = {
            (AS_PRINTED, OWN_PRINTED, OTHERS_PRINTED): distortion / length,
            (AS_CORRECTED, OWN_CORRECTED, OTHERS_CORRECTED): distortion * side / length,
        }
        sides.append(side)
        for (column, own, others), factor in versions.items():
            moved = made.moved(factor)
            reached = norms.distortion(made.x, moved)
            value = float(reached.mean()) if len(reached) else math.nan
            spread = float((reached - value).abs().max()) if len(reached) else 0.0
            named = {"label": "the distortion Table 4 names", "measured": distortion}
            cells.append(exact(net["name"], column, value, erratum_e5, residual=spread, control=named))
            wrong = made.judged(models, moved)
            noisy = made.noise(moved, f"E5/{net['name']}/{column}", seed)
            mine = wrong[net["name"]]
            unchanged = made.judged(models, made.x)[net["name"]]
            control = {"label": "the same images, unchanged", **measured(_proportion(unchanged))}
            cells.append(cell(net["name"], own, _proportion(mine), erratum_e5, control))
            if own == OWN_PRINTED:
                survive.append((int(mine.sum()), len(mine)))
            receivers = [name for name in models if name != net["name"]]
            cells.append(_pooled(net["name"], others, receivers, wrong, made.judged(models, noisy), erratum_e5, seed))
    still, total = (sum(counts) for counts in zip(*survive, strict=True))
    side = next((side for side in sides if not math.isnan(side)), math.nan)
    return Record(
        values={
            "cells": cells,
            "figures": [],
            "findings": [
                f"By the printed formula an example has distortion {distortion / side:.4f} and not {distortion:g}. "
                f"It shrinks instead of growing: {still} of {total} still fool the net they were made for."
            ],
        }
    )


def erratum_e6(
    inputs: Inputs, *, nets: Sequence[Mapping[str, str]], seed: int, small: float, large: float, said: float
) -> Record:
    """Measure by how much each example of Table 4 is really amplified.

    Args:
        inputs: as for `erratum_e5`.
        nets: as for `erratum_e5`.
        seed: draws the noise and the resamples.
        small: the distortion the paper starts from.
        large: the distortion it ends at.
        said: the factor its text names, 1.4 for 40%.
    """
    models = _models(inputs, nets)
    control = {"label": "the factor the text names", "measured": said}
    step = large / small
    cells = [
        exact(f"from std {small:g} to {large:g}", FACTOR, step, erratum_e6, control=control),
        exact(
            f"{small:g} below {large:g}",
            "share",
            1 - small / large,
            erratum_e6,
            control={"label": "the share the text names", "measured": said - 1},
        ),
    ]
    series: list[dict[str, Any]] = []
    every = [_Examples.of(inputs, net["name"], "attack", inputs.data("test")) for net in nets]
    for net, made in zip(nets, every, strict=True):
        side = math.sqrt(made.r[0].numel()) if len(made.r) else math.nan
        factors = large * side / norms.l2(made.r)
        draw = generator(f"bootstrap/erratum-E6/{net['name']}", seed)
        cells.append(cell(net["name"], FACTOR, mean_inside([factors.tolist()], draw), erratum_e6, control))
        if len(factors):
            cells.append(exact(net["name"], LEAST, float(factors.min()), erratum_e6, control=control))
            cells.append(exact(net["name"], MOST, float(factors.max()), erratum_e6, control=control))
        series.append({"label": net["name"], "values": factors.tolist()})
    rows: dict[str, Callable[[_Examples], Tensor]] = {
        "as found": lambda made: torch.ones(len(made.r), dtype=torch.float64),
        f"amplified by {100 * (said - 1):.0f}%": lambda made: torch.full((len(made.r),), said, dtype=torch.float64),
        f"amplified by {100 * (step - 1):.0f}%": lambda made: torch.full((len(made.r),), step, dtype=torch.float64),
        f"amplified to distortion {large:g}": lambda made: large * _side(made) / norms.l2(made.r),
    }
    shares: list[float] = []
    for row, factor_of in rows.items():
        hit: list[Tensor] = []
        missed: list[Tensor] = []
        for net, made in zip(nets, every, strict=True):
            moved = made.moved(factor_of(made))
            noisy = made.noise(moved, f"E6/{net['name']}/{row}", seed)
            receivers = [name for name in models if name != net["name"]]
            for answers, images in ((hit, moved), (missed, noisy)):
                wrong = made.judged(models, images)
                answers.append(made.spread(torch.stack([wrong[name].double() for name in receivers]).mean(0)))
        entry = _paired(row, OTHERS, torch.stack(hit), torch.stack(missed), erratum_e6, seed)
        cells.append(entry)
        shares.append(entry["measured"])
    used = [value for entry in series for value in entry["values"]]
    figure = {
        "kind": "distribution",
        "id": "factors",
        "title": "Every image its own factor",
        "caption": f"By how much each perturbation is multiplied to reach distortion {large:g}. The text says 40% for "
        f"all; from {small:g} to {large:g} would be {100 * (step - 1):.0f}% on average, and images that were easily "
        "fooled need far more than others.",
        "x": "factor",
        "column": FACTOR,
        "series": series,
    }
    return Record(
        values={
            "cells": cells,
            "figures": [figure],
            "findings": [
                f"To reach distortion {large:g} the perturbations were multiplied by {min(used):.2f} to "
                f"{max(used):.2f}, {sum(used) / len(used):.2f} on average, not by {said:g}.",
                f"The other nets err on {100 * shares[0]:.1f}% of the examples as found, on {100 * shares[1]:.1f}% "
                f"amplified by {100 * (said - 1):.0f}%, on {100 * shares[2]:.1f}% amplified by "
                f"{100 * (step - 1):.0f}%.",
            ]
            if used
            else [],
        }
    )


def erratum_e13(inputs: Inputs, *, nets: Sequence[str], images: int, seed: int, stds: Sequence[float]) -> Record:
    """Split the errors of Table 2 into the receiver's own on clean images and what was added.

    Args:
        inputs: needs ``"<net>/net"`` and ``"<net>/random"`` for every net, as Table 2; data ``"train"``.
        nets: names of the nets, sources and receivers alike.
        images: as given to the attacks.
        seed: as given to the attacks; also draws noise and resamples.
        stds: of the noise.
    """
    data = inputs.data("train")
    ids = attacked_images(data, images, seed)
    x, labels = data.images[ids], data.labels[ids]
    models = {name: model_of(inputs.needs[f"{name}/net"], name, data, inputs.device) for name in nets}
    clean = {name: (model.predict(x) != labels).double() for name, model in models.items()}
    guess = 1 - float(torch.bincount(labels).max()) / len(labels)
    cells: list[dict[str, Any]] = []
    lower: list[str] = []
    noises = {std: gaussian(x, std, generator=generator(f"noise/{std:g}", seed), box=None) for std in stds}
    made = {name: _Examples.of(inputs, name, "random", data, key=f"{name}/random") for name in nets}
    aimless = {name: made[name].noise(made[name].moved(), f"E13/{name}", seed, box=(0.0, 1.0)) for name in nets}
    hit = {name: made[name].judged(models, made[name].moved()) for name in nets}
    missed = {name: made[name].judged(models, aimless[name]) for name in nets}
    for receiver in nets:
        before = clean[receiver]
        own = statistics.proportion(int(before.sum()), len(before))
        cells.append(
            cell(receiver, CLEAN, own, erratum_e13, {"label": "always the most frequent class", "measured": guess})
        )
        draw = generator(f"bootstrap/erratum-E13/{receiver}", seed)
        unchanged = {"label": "the same images, unchanged", **measured(own)}
        nothing = {"label": "the same images, unchanged", "measured": 0.0}
        for std, noisy in noises.items():
            wrong = (models[receiver].predict(noisy) != labels).double()
            raw = statistics.proportion(int(wrong.sum()), len(wrong))
            cells.append(cell(receiver, under_noise(std), raw, erratum_e13, unchanged))
            excess = mean_inside([(wrong - before).tolist()], draw)
            cells.append(cell(receiver, under_noise(std, excess=True), excess, erratum_e13, nothing))
            if raw.measured < own.measured:
                lower.append(f"{receiver} (std {std:g}: {100 * raw.measured:.1f}%, clean {100 * own.measured:.1f}%)")
        others = [name for name in nets if name != receiver]
        fed, noise = (
            torch.stack([made[name].spread(wrong[name][receiver].double()) for name in others])
            for wrong in (hit, missed)
        )
        added, added_noise = fed - before, noise - before
        for column, values, beside in ((RAW_OTHERS, fed, noise), (EXCESS_OTHERS, added, added_noise)):
            cells.append(_paired(receiver, column, values, beside, erratum_e13, seed))
    at = {(entry["row"], entry["column"]): entry["measured"] for entry in cells}
    worst = max(nets, key=lambda name: at[name, CLEAN])
    first = (
        f"As in the print, noise left some errors below the clean ones: {'; '.join(lower)}."
        if lower
        else "Here no net erred less under noise than on clean images, as the print has it for FC10(1e-4)."
    )
    return Record(
        values={
            "cells": cells,
            "figures": [],
            "findings": [
                f"{worst} errs on {100 * at[worst, under_noise(stds[0])]:.1f}% of images under noise and on "
                f"{100 * at[worst, CLEAN]:.1f}% of the same images unchanged: noise added "
                f"{100 * at[worst, under_noise(stds[0], excess=True)]:+.1f} points.",
                first,
            ],
        }
    )


def erratum_e14(
    inputs: Inputs, *, sources: Sequence[str], receivers: Sequence[str], seed: int, distortion: float
) -> Record:
    """Compare how far examples of nets with more and less decay travel, as found and at one distortion.

    Args:
        inputs: needs ``"<net>/net"`` for all nets and ``"<net>/random"`` for the sources; data ``"train"``.
        sources: nets in the order of their decay, the least first.
        receivers: nets that all are fed to; none of the sources.
        seed: draws the noise and the resamples.
        distortion: the common one, measured inside the box.
    """
    data = inputs.data("train")
    models = {name: model_of(inputs.needs[f"{name}/net"], name, data, inputs.device) for name in receivers}
    fed: dict[tuple[str, str], Tensor] = {}
    noise: dict[tuple[str, str], Tensor] = {}
    cells: list[dict[str, Any]] = []
    sizes: dict[str, Estimate] = {}
    for done, source in enumerate(sources):
        made = _Examples.of(inputs, source, "random", data, key=f"{source}/random")
        found = made.moved()
        draw = generator(f"bootstrap/erratum-E14/{source}", seed)
        sizes[source] = mean_inside([norms.distortion(made.x, found).tolist()], draw)
        cells.append(cell(source, SIZE, sizes[source], erratum_e14, {"label": "no change", "measured": 0.0}))
        for column, moved in ((AS_FOUND, found), (EQUAL, rescaled(made.x, found, distortion))):
            noisy = made.noise(moved, f"E14/{source}/{column}", seed, box=(0.0, 1.0))
            for answers, images in ((fed, moved), (noise, noisy)):
                wrong = made.judged(models, images)
                answers[source, column] = made.spread(torch.stack([w.double() for w in wrong.values()]).mean(0))
            cells.append(_paired(source, column, fed[source, column], noise[source, column], erratum_e14, seed))
        inputs.progress(done + 1, len(sources))
    differences: dict[str, float] = {}
    for more, less in ((sources[i + 1], sources[i]) for i in range(len(sources) - 1)):
        _compare(cells, more, less, fed, noise, seed)
    if len(sources) > 2:
        _compare(cells, sources[-1], sources[0], fed, noise, seed)
    last = versus(sources[-1], sources[0])
    for entry in cells:
        if entry["row"] == last:
            differences[entry["column"]] = entry["measured"]
    return Record(
        values={
            "cells": cells,
            "figures": [],
            "findings": [
                f"{len(receivers)} nets err {_points(differences[AS_FOUND])} often on examples of {sources[-1]} "
                f"({sizes[sources[-1]].measured:.3f} per pixel) than on those of {sources[0]} "
                f"({sizes[sources[0]].measured:.3f}). Brought to one distortion of {distortion:g}, they err "
                f"{_points(differences[EQUAL])} often."
            ]
            if all(math.isfinite(value) for value in differences.values())
            else [],
        }
    )


@dataclasses.dataclass(frozen=True)
class _Examples:
    """The examples of one net: N images were attacked, k have an example.

    Attributes:
        found: (N,) bool, which.
        x: (k, C, H, W) their clean images.
        labels: (k,).
        r: (k, C, H, W) float64, their perturbations.
    """

    found: Tensor
    x: Tensor
    labels: Tensor
    r: Tensor

    @classmethod
    def of(cls, inputs: Inputs, name: str, kind: str, data: Images, key: str | None = None) -> _Examples:
        """Return the examples in the record of an attack."""
        record = inputs.needs[key or f"{name}/0/{kind}"]
        found = torch.tensor([status == "found" for status in record.rows["status"]])
        ids = torch.tensor(record.rows["image"])[found]
        x = data.images[ids]
        return cls(found, x, data.labels[ids], record.tensors["adversarial"][found].double() - x.double())

    def moved(self, factor: Tensor | None = None) -> Tensor:
        """Return x + factor * r, (k, C, H, W); without a factor the examples as found."""
        stretch = torch.ones(len(self.r), dtype=torch.float64) if factor is None else factor
        return (self.x.double() + stretch.view(-1, *[1] * (self.r.ndim - 1)) * self.r).to(self.x.dtype)

    def noise(self, moved: Tensor, name: str, seed: int, box: tuple[float, float] = _EVERYWHERE) -> Tensor:
        """Return the images with noise of the norm that `moved` has."""
        length = norms.l2(moved.double() - self.x.double())
        return gaussian_of_norm(self.x, length, generator=generator(f"equal noise/{name}", seed), box=box)

    def judged(self, models: Mapping[str, Model], images: Tensor) -> dict[str, Tensor]:
        """Return by model which of the k images it gets wrong."""
        return {name: model.predict(images) != self.labels for name, model in models.items()}

    def spread(self, values: Tensor) -> Tensor:
        """Return (N,) float64 with `values` (k,) where there is an example and NaN elsewhere."""
        whole = torch.full((len(self.found),), torch.nan, dtype=torch.float64)
        whole[self.found] = values.double()
        return whole


def _models(inputs: Inputs, nets: Sequence[Mapping[str, str]]) -> dict[str, Model]:
    data = inputs.data("test")
    return {
        net["name"]: model_of(inputs.needs[f"{net['name']}/0/net"], net["net"], data, inputs.device) for net in nets
    }


def _side(made: _Examples) -> float:
    return math.sqrt(made.x[0].numel()) if len(made.x) else math.nan


def _proportion(wrong: Tensor) -> Estimate:
    return statistics.proportion(int(wrong.sum()), len(wrong))


def _pooled(
    row: str,
    column: str,
    receivers: Sequence[str],
    wrong: Mapping[str, Tensor],
    noise: Mapping[str, Tensor],
    function: Callable[..., Record],
    seed: int,
) -> dict[str, Any]:
    """Return the mean error of the receivers, with that under noise and a paired test."""
    hit, missed = (torch.stack([answers[name].double() for name in receivers]).mean(0) for answers in (wrong, noise))
    return _paired(row, column, hit, missed, function, seed)


def _paired(
    row: str, column: str, hit: Tensor, missed: Tensor, function: Callable[..., Record], seed: int
) -> dict[str, Any]:
    """Return one cell: the mean of `hit`, `missed` as its control, and a test of their difference image by image.

    Args:
        row: of the table.
        column: of the table.
        hit: (N,) or (groups, N), shares by image under examples; NaN where there are none.
        missed: the same under noise of the same norm.
        function: the cell's.
        seed: draws resamples and flips.
    """
    name = f"{function.__name__}/{row}/{column}"
    ours, theirs = (values.reshape(1, -1, values.shape[-1]).numpy() for values in (hit, missed))
    control = {"label": "noise of the same norm", **measured(pooled_share(theirs, name, seed))}
    # Images without an example in every group are not compared.
    differences = (ours - theirs).mean((0, 1))
    p = statistics.paired_p(differences[~np.isnan(differences)].tolist(), generator(f"permutation/{name}", seed))
    return {**cell(row, column, pooled_share(ours, name, seed), function, control), "p": p}


def _points(difference: float) -> str:
    """Return a difference of shares in words, ``"12.0 points more"``."""
    return f"{abs(100 * difference):.1f} points {'more' if difference >= 0 else 'less'}"


def _compare(
    cells: list[dict[str, Any]],
    more: str,
    less: str,
    fed: Mapping[tuple[str, str], Tensor],
    noise: Mapping[tuple[str, str], Tensor],
    seed: int,
) -> None:
    """Append the differences between two sources on the images for which both have an example."""
    row = versus(more, less)
    for column in (AS_FOUND, EQUAL):
        difference = fed[more, column] - fed[less, column]
        draw = generator(f"bootstrap/erratum-E14/{row}/{column}", seed)
        beside = mean_inside([(noise[more, column] - noise[less, column]).tolist()], draw)
        kept = difference[~difference.isnan()].tolist()
        p = statistics.paired_p(kept, generator(f"permutation/erratum-E14/{row}/{column}", seed))
        control = {"label": "noise of the same norms", **measured(beside)}
        cells.append({**cell(row, column, mean_inside([kept], draw), erratum_e14, control), "p": p})

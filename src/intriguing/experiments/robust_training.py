"""Adversarial training measured: what FGSM does to a linear net, what training on FGSM or PGD buys, and what hides.

Goodfellow, Shlens and Szegedy, "Explaining and harnessing adversarial examples", ICLR 2015, and Madry et al., "Towards
deep learning models resistant to adversarial attacks", ICLR 2018. Accuracy and error are over all images, those the net
gets wrong without any help included. The control of each number is the same under random signs of size eps, or the same
share of the net that was trained without a defence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from intriguing import norms
from intriguing.attacks.base import Attack
from intriguing.attacks.fgsm import FGSM
from intriguing.attacks.nearest import Nearest
from intriguing.attacks.pgd import PGD
from intriguing.attacks.result import check_norm
from intriguing.attacks.square import Square
from intriguing.errors import InputError
from intriguing.experiments import statistics
from intriguing.experiments.cells import attacked_images, cell, far_starts, measured, model_of
from intriguing.experiments.statistics import Estimate
from intriguing.nets.load import Model
from intriguing.records import Images, Inputs, Record
from intriguing.rng import Streams, generator
from intriguing.training import convolutional

CLEAN = "clean images"
RANDOM = "random signs of size eps"


@dataclass(frozen=True)
class _Bench:
    """One net, the images it is tested on, and the size of the changes."""

    model: Model
    x: Tensor
    labels: Tensor
    eps: float
    norm: float
    seed: int

    def clean(self) -> Tensor:
        """Return which images (N,) bool the net gets right."""
        return self.model.predict(self.x) == self.labels

    def noisy(self, eps: float | None = None) -> Tensor:
        """Return which it gets right under random signs, scaled to size eps in the norm."""
        eps = self.eps if eps is None else eps
        streams = Streams(generator("robust training/signs", self.seed), self.x)
        signs = streams.signs(torch.arange(len(self.x)), self.x[0].numel(), draw=0).to(self.x).view_as(self.x)
        size = 1.0 if self.norm == math.inf else float(norms.l2(signs[:1]))
        low, high = self.model.box
        return self.model.predict((self.x + eps / size * signs).clamp(low, high)) == self.labels

    def holds(self, attack: Attack) -> Tensor:
        """Return which it still gets right after an attack, (N,) bool."""
        result = attack(self.model, self.x, self.labels, generator=generator("robust training/attack", self.seed))
        return result.attacked & ~result.found

    def pgd(self, steps: int, restarts: int = 1, eps: float | None = None) -> PGD:
        return PGD(eps or self.eps, self.norm, steps=steps, restarts=restarts)


def fgsm_on_linear(inputs: Inputs, *, net: str, eps: float = 0.25, images: int, seed: int) -> Record:
    """Measure the error of a softmax layer under one signed gradient step, beside random signs of the same size.

    Goodfellow et al. 2015, section 4: 99.9% of MNIST test images at eps 0.25, without clipping to the box; here the
    examples stay in it.

    Args:
        inputs: needs ``"net"``, a record of `training.recipes.train`; data ``"test"``.
        net: its name, a key of `nets.NETS`.
        eps: size of the step.
        images: how many test images.
        seed: draws the images and the signs.

    Returns:
        ``cells``: the error under FGSM, its control under random signs, and the clean one.
    """
    data = inputs.data("test")
    x, labels = _chosen(data, images, seed)
    bench = _Bench(model_of(inputs.needs["net"], net, data, inputs.device), x, labels, eps, math.inf, seed)
    noise = {"label": RANDOM, **measured(_error(bench.noisy()))}
    error = _error(bench.holds(FGSM(eps)))
    cells = [
        cell(net, f"error under FGSM, eps {eps:g}", error, fgsm_on_linear, noise),
        cell(net, "clean error", _error(bench.clean()), fgsm_on_linear, _guess(labels)),
    ]
    finding = f"One signed step of {eps:g} brings the error of {net} to {error.measured:.1%} of {error.n:,} images"
    return Record(
        values={"cells": cells, "findings": [f"{finding}; random signs bring it to {noise['measured']:.1%}."]}
    )


def fgsm_training(
    inputs: Inputs, *, images: int, seed: int, steps: int = 40, restarts: int = 1, eps: float | None = None
) -> Record:
    """Measure what training on FGSM examples does to clean images, to FGSM and to PGD.

    Goodfellow et al. 2015, section 6: the error under FGSM falls from 89.4% to 17.9%. Madry et al. 2018, section 4: a
    net trained on FGSM alone learns to defeat it and no other attack.

    Args:
        inputs: needs ``"none"`` and ``"trained"``, records of `training.adversarial.train`; data ``"test"``.
        images: how many test images.
        seed: draws the images and the starts.
        steps: of PGD.
        restarts: of PGD.
        eps: size of the changes; None: that of the training.

    Returns:
        ``cells`` with errors; ``falls`` (FGSM error before over after), ``clean_change`` (points), ``gap`` (FGSM
        accuracy less PGD accuracy of the trained net, points).
    """
    before, after = (_bench(inputs, name, images, seed, eps) for name in ("none", "trained"))
    cells: list[dict[str, Any]] = []
    found: dict[str, dict[str, Estimate]] = {}
    for row, bench in (("no defence", before), (_name(inputs, "trained"), after)):
        looks = {
            "clean error": bench.clean(),
            f"error under FGSM, eps {bench.eps:g}": bench.holds(FGSM(bench.eps, bench.norm)),
            f"error under PGD-{steps}, eps {bench.eps:g}": bench.holds(bench.pgd(steps, restarts)),
        }
        noise = {"label": RANDOM, **measured(_error(bench.noisy()))}
        found[row] = {column: _error(holds) for column, holds in looks.items()}
        for column, error in found[row].items():
            control = _guess(bench.labels) if column == "clean error" else noise
            cells.append(cell(row, column, error, fgsm_training, control))
    (clean, fgsm, _), (clean_after, fgsm_after, pgd_after) = (
        [error.measured for error in errors.values()] for errors in found.values()
    )
    values = {
        "falls": fgsm / fgsm_after if fgsm_after else math.inf,
        "clean_change": 100 * (clean_after - clean),
        "gap": 100 * (pgd_after - fgsm_after),
    }
    finding = (
        f"Training on FGSM brings the error under FGSM from {fgsm:.1%} to {fgsm_after:.1%}, and PGD brings it back to "
        f"{pgd_after:.1%} (eps {after.eps:g}, {len(after.labels):,} images)."
    )
    return Record(values={"cells": cells, "findings": [finding], **values})


def pgd_training(
    inputs: Inputs, *, images: int, seed: int, steps: int = 100, restarts: int = 5, eps: float | None = None
) -> Record:
    """Measure the accuracy that training on PGD or FGSM examples keeps under PGD with restarts.

    Madry et al. 2018, Table 1: 89.6% at eps 0.3 on MNIST under PGD-100 with 50 restarts (the released net), 98.5% on
    clean images.

    Args:
        inputs: needs ``"trained"`` and ``"none"``, records of `training.adversarial.train`; data ``"test"``.
        images: how many test images.
        seed: draws the images and the starts.
        steps: of PGD.
        restarts: of PGD.
        eps: size of the changes; None: that of the training.

    Returns:
        ``cells``: accuracies under PGD and on clean images, each beside that of the net without a defence.
    """
    trained, before = (_bench(inputs, name, images, seed, eps) for name in ("trained", "none"))
    row = _name(inputs, "trained")
    looks: dict[str, Callable[[_Bench], Tensor]] = {
        f"accuracy under PGD-{steps} x {restarts}, eps {trained.eps:g}": lambda b: b.holds(b.pgd(steps, restarts)),
        "clean accuracy": _Bench.clean,
    }
    cells, shares = [], []
    for column, look in looks.items():
        share, control = _share(look(trained)), {"label": "no defence", **measured(_share(look(before)))}
        cells.append(cell(row, column, share, pgd_training, control))
        shares.append((share.measured, control["measured"]))
    (robust, none), (clean, _) = shares
    finding = (
        f"{row[0].upper()}{row[1:]}, a net keeps {robust:.1%} of {len(trained.labels):,} images right under "
        f"PGD-{steps} with {restarts} starts at eps {trained.eps:g} ({clean:.1%} clean); without a defence {none:.1%} "
        "are right."
    )
    return Record(values={"cells": cells, "findings": [finding]})


def capacity(inputs: Inputs, *, widths: Sequence[int], images: int, seed: int, steps: int = 40) -> Record:
    """Measure whether small nets can learn under PGD at all.

    Madry et al. 2018, section 4, "capacity alone helps", and "weak models may fail to learn non-trivial classifiers".

    Args:
        inputs: needs, for each width w, ``"pgd/<w>"`` and ``"none/<w>"``, records of `training.adversarial.train`;
            data ``"test"``.
        widths: channels of the first convolution, increasing.
        images: how many test images.
        seed: draws the images and the starts.
        steps: of PGD.

    Returns:
        ``cells``: per width the accuracy on clean images (beside the same net without a defence) and under PGD (beside
        random signs); ``findings``; ``figures``: both against the width.
    """
    if list(widths) != sorted(set(widths)) or not widths:
        raise InputError(f"widths: expected at least one, increasing, got {list(widths)}")
    cells: list[dict[str, Any]] = []
    points: dict[str, list[dict[str, float]]] = {CLEAN: [], "PGD": []}
    for width in widths:
        bench, plain = (_bench(inputs, f"{name}/{width}", images, seed, None) for name in ("pgd", "none"))
        clean, robust = _share(bench.clean()), _share(bench.holds(bench.pgd(steps)))
        row = _channels(width)
        without = {"label": "no defence", **measured(_share(plain.clean()))}
        noise = {"label": RANDOM, **measured(_share(bench.noisy()))}
        cells.append(cell(row, "clean accuracy", clean, capacity, without))
        cells.append(cell(row, f"accuracy under PGD-{steps}, eps {bench.eps:g}", robust, capacity, noise))
        for name, share in ((CLEAN, clean), ("PGD", robust)):
            points[name].append({"x": width, "y": share.measured, "low": share.low, "high": share.high})
    figure = {
        "kind": "lines",
        "id": "accuracy-by-width",
        "title": "Accuracy of nets trained on PGD examples against their width",
        "caption": "A net too narrow answers one class for all images; it is as right as guessing, attacked or not.",
        "x": "channels of the first convolution",
        "y": "accuracy",
        "log_x": True,
        "series": [{"label": name, "role": "ours", "points": series} for name, series in points.items()],
    }
    least, most = (points["PGD"][end]["y"] for end in (0, -1))
    finding = (
        f"Trained on PGD examples, a net of {_channels(widths[0])} keeps {least:.1%} of {len(bench.labels):,} "
        f"images right under PGD-{steps} at eps {bench.eps:g}, one of {widths[-1]} keeps {most:.1%}."
    )
    return Record(values={"cells": cells, "figures": [figure], "findings": [finding]})


def hidden_weakness(
    inputs: Inputs,
    *,
    images: int,
    seed: int,
    steps: int = 40,
    restarts: int = 5,
    squares: int = 300,
    large: float = 0.5,
    budget: int = 500,
) -> Record:
    """Look for what PGD does not find on a net trained against it: gradient masking.

    MNIST nets trained in Linf threshold their input, which hides the way out from gradients at the image: PGD finds
    little in Linf, and less in L2 than other attacks do. Restarts, an attack without gradients, another attack in L2
    and a larger eps tell how much is hidden.

    Args:
        inputs: needs ``"trained"``, a record of `training.adversarial.train` in Linf; data ``"test"``, and
            ``"train"`` for the search in L2 to start from.
        images: how many test images.
        seed: draws the images and the starts.
        steps: of PGD.
        restarts: of PGD, where it is restarted.
        squares: steps of Square Attack.
        large: an eps at which no net can be right: pixels of 0 and 1 meet at 0.5.
        budget: of the L2 attack, whose radius is that of random signs of size eps before clipping, over 4.

    Returns:
        ``cells``: accuracies, those under the stronger attacks beside PGD's, or beside random signs; ``findings``;
        ``lowered``: points that the worst of them takes from PGD's accuracy.
    """
    bench = _bench(inputs, "trained", images, seed, None)
    if bench.norm != math.inf:
        raise InputError(f"trained: expected a net trained in Linf, got one of norm {bench.norm:g}")
    row = _name(inputs, "trained")
    at = f"eps {bench.eps:g}"
    once = bench.holds(bench.pgd(steps))
    looks = {
        f"PGD-{steps} x {restarts}, {at}": bench.holds(bench.pgd(steps, restarts)),
        f"Square Attack of {squares} steps, {at}": bench.holds(Square(bench.eps, steps=squares)),
    }
    looks[f"worst of these and PGD, {at}"] = torch.stack([once, *looks.values()]).all(0)
    cells = [cell(row, f"PGD-{steps}, {at}", _share(once), hidden_weakness, _noise(bench, bench.eps))]
    plain = {"label": f"PGD-{steps} once", **measured(_share(once))}
    cells += [cell(row, column, _share(holds), hidden_weakness, plain) for column, holds in looks.items()]
    far = bench.holds(bench.pgd(steps, restarts, eps=large))
    cells.append(
        cell(row, f"PGD-{steps} x {restarts}, eps {large:g}", _share(far), hidden_weakness, _noise(bench, large))
    )
    radius = bench.eps * math.sqrt(bench.x[0].numel()) / 4
    by_pgd = _share(bench.holds(PGD(radius, 2, steps=steps)))
    nearest = _share(_far(bench, radius, budget, far_starts(inputs)))
    control = {"label": f"PGD-{steps} in L2", **measured(by_pgd)}
    cells.append(cell(row, f"accuracy under Nearest in L2, radius {radius:.3g}", nearest, hidden_weakness, control))
    worst = looks[f"worst of these and PGD, {at}"]
    lowered = 100 * float((once & ~worst).double().mean())
    finding = (
        f"PGD-{steps} leaves {_share(once).measured:.1%} of {len(bench.labels):,} images right at {at}; with "
        f"{restarts} starts and Square Attack beside it {_share(worst).measured:.1%}, and at eps {large:g} "
        f"{_share(far).measured:.1%}. In L2 it leaves {by_pgd.measured:.1%} within {radius:.3g}, the search for the "
        f"nearest example {nearest.measured:.1%}."
    )
    return Record(values={"cells": cells, "findings": [finding], "lowered": lowered})


def _far(bench: _Bench, radius: float, budget: int, starts: tuple[Tensor, Tensor]) -> Tensor:
    """Return which images have no example within an L2 radius, as the minimal-norm attack sees it."""
    attack = Nearest(budget=budget, starts=starts)
    result = attack(bench.model, bench.x, bench.labels, generator=generator("robust training/l2", bench.seed))
    return result.attacked & (result.distance > radius)


def _bench(inputs: Inputs, name: str, images: int, seed: int, eps: float | None) -> _Bench:
    record = inputs.needs[name]
    x, labels = _chosen(inputs.data("test"), images, seed)
    model = convolutional.model(record, inputs.device)
    values = record.values
    return _Bench(model, x, labels, values["eps"] if eps is None else eps, check_norm(values["norm"]), seed)


def _chosen(data: Images, images: int, seed: int) -> tuple[Tensor, Tensor]:
    ids = attacked_images(data, min(images, len(data.labels)), seed)
    return data.images[ids], data.labels[ids]


def _name(inputs: Inputs, name: str) -> str:
    values = inputs.needs[name].values
    norm = "Linf" if values["norm"] == math.inf else "L2"
    alone = values["defence"] == "fgsm-mixture" and not values["recipe"]["clean"]
    return f"trained on {'fgsm alone' if alone else values['defence']}, {norm}, eps {values['eps']:g}"


def _channels(width: int) -> str:
    return "1 channel" if width == 1 else f"{width} channels"


def _share(holds: Tensor) -> Estimate:
    """Return the share of images that hold, with its interval."""
    return statistics.proportion(int(holds.sum()), len(holds))


def _error(holds: Tensor) -> Estimate:
    return _share(~holds)


def _noise(bench: _Bench, eps: float) -> Mapping[str, Any]:
    return {"label": f"random signs of size {eps:g}", **measured(_share(bench.noisy(eps)))}


def _guess(labels: Tensor) -> Mapping[str, Any]:
    wrong = 1 - float(torch.bincount(labels).max()) / len(labels)
    return {"label": "always the most frequent class", "measured": wrong}

"""Who errs on what: examples of every net, as found and stretched, and noise of their size, fed to every net.

Szegedy et al. 2014, section 4.2, Table 4; the formulas (1) and (2) are those of `halves`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from intriguing import norms
from intriguing.attacks.noise import gaussian_of_norm
from intriguing.experiments.cells import model_of
from intriguing.nets.load import Model
from intriguing.records import Inputs, Record
from intriguing.rng import generator

STEP = 5 / 3  # from std 0.06 to 0.1, what the table shows; the text says 40%: erratum E6

_EVERYWHERE = (-math.inf, math.inf)

# What is made of the examples before they are fed.
PLAIN, LOUD, CLIPPED, BY_STEP, AS_PRINTED = "", "amplified", "clipped", "step", "printed"


def amplified_row(name: str, distortion: float, *, clipped: bool = False) -> str:
    """Return the name of a net's row of amplified examples."""
    return f"{name}, amplified to distortion {distortion:g}" + (", clipped to the box" if clipped else "")


def step_row(name: str) -> str:
    """Return the name of a row of examples whose perturbations are all multiplied by the paper's step, 0.1 / 0.06."""
    return f"{name}, amplified by two thirds"


def printed_row(name: str) -> str:
    """Return the name of a net's row of examples amplified by the printed formula, (2)."""
    return f"{name}, amplified as printed"


class Fed:
    """Which net errs on what: every version of every source's examples, and equal noise, fed to every net.

    All answers are (N,) float64 per repeat: 1 wrong, 0 right, NaN where the source's attack has no example.
    """

    def __init__(
        self, inputs: Inputs, nets: Sequence[Mapping[str, str]], repeats: int, seed: int, distortion: float
    ) -> None:
        data = inputs.data("test")
        self.nets, self.seed, self.distortion = nets, seed, distortion
        self.names = [net["name"] for net in nets]
        ids = torch.tensor(inputs.needs[f"{self.names[0]}/0/attack"].rows["image"])
        self.x, self.labels = data.images[ids], data.labels[ids]
        every = torch.ones(len(ids), dtype=torch.bool)
        self.models = [
            {
                net["name"]: model_of(inputs.needs[f"{net['name']}/{i}/net"], net["net"], data, inputs.device)
                for net in nets
            }
            for i in range(repeats)
        ]
        self.clean = {name: [self.judge(m[name], self.x, every) for m in self.models] for name in self.names}
        self.wrong: dict[tuple[str, str, str], list[Tensor]] = {}
        self.under_noise: dict[tuple[str, str, str], list[Tensor]] = {}
        self.size: dict[tuple[str, str], list[Tensor]] = {}
        self.factor: dict[tuple[str, str], list[Tensor]] = {}
        for done, name in enumerate(self.names):
            for i, models in enumerate(self.models):
                self._feed(name, inputs.needs[f"{name}/{i}/attack"], models)
            inputs.progress(done + 1, len(self.names))

    def _feed(self, name: str, record: Record, models: Mapping[str, Model]) -> None:
        found = torch.tensor([status == "found" for status in record.rows["status"]])
        clean, side = self.x[found].double(), math.sqrt(self.x[0].numel())
        r = record.tensors["adversarial"][found].double() - clean
        length = norms.l2(r)
        factors = {
            PLAIN: torch.ones_like(length),
            LOUD: self.distortion * side / length,
            CLIPPED: self.distortion * side / length,
            BY_STEP: torch.full_like(length, STEP),
            AS_PRINTED: self.distortion / length,
        }
        for version, factor in factors.items():
            moved = clean + factor.view(-1, *[1] * (r.ndim - 1)) * r
            if version == CLIPPED:
                moved = moved.clamp(0.0, 1.0)
            moved = moved.to(self.x.dtype)
            # Equal noise must have as much room as the examples had.
            box = _EVERYWHERE if version in (LOUD, BY_STEP) else (0.0, 1.0)
            draw = generator(f"equal noise/{name}/{version}", self.seed)
            noisy = gaussian_of_norm(self.x[found], norms.l2(moved.double() - clean), generator=draw, box=box)
            for receiver, model in models.items():
                place = version, name, receiver
                self.wrong.setdefault(place, []).append(self.judge(model, moved, found))
                self.under_noise.setdefault(place, []).append(self.judge(model, noisy, found))
            self.size.setdefault((version, name), []).append(_spread(norms.distortion(self.x[found], moved), found))
            self.factor.setdefault((version, name), []).append(_spread(factor, found))

    def judge(self, model: Model, images: Tensor, found: Tensor) -> Tensor:
        """Return which answers are wrong, (N,), for images of the entries `found`."""
        return _spread((model.predict(images) != self.labels[found]).double(), found)

    def row(self, name: str, version: str) -> str:
        """Return a row's name with what was done to its examples."""
        if version in (LOUD, CLIPPED):
            return amplified_row(name, self.distortion, clipped=version == CLIPPED)
        return {PLAIN: name, BY_STEP: step_row(name), AS_PRINTED: printed_row(name)}[version]

    def pairs(self, *, same: bool, alike: bool = False) -> list[tuple[str, str]]:
        """Return the (source, receiver) pairs within one half or across halves.

        Args:
            same: whether both learnt the same half.
            alike: only pairs of architectures, in this order, that occur both within and across halves: those
                differ in the training set alone.
        """
        by_name = {net["name"]: net for net in self.nets}
        groups: dict[bool, list[tuple[str, str]]] = {True: [], False: []}
        for s, r in itertools.permutations(self.names, 2):
            groups[by_name[s]["half"] == by_name[r]["half"]].append((s, r))
        if not alike:
            return groups[same]

        def shape(pair: tuple[str, str]) -> tuple[str, str]:
            return by_name[pair[0]]["net"], by_name[pair[1]]["net"]

        both = {shape(pair) for pair in groups[True]} & {shape(pair) for pair in groups[False]}
        return [pair for pair in groups[same] if shape(pair) in both]

    def answers(self, pairs: Sequence[tuple[str, str]], version: str, to: str) -> NDArray[np.float64]:
        """Return the answers (repeats, pairs, N) of pairs of nets.

        Args:
            pairs: (source, receiver).
            version: of the examples.
            to: ``"examples"``, ``"noise"`` of equal norm, or ``"clean"`` images, those with an example.
        """
        groups = []
        for i in range(len(self.models)):
            parts = []
            for source, receiver in pairs:
                wrong = (self.under_noise if to == "noise" else self.wrong)[version, source, receiver][i]
                parts.append(torch.where(wrong.isnan(), torch.nan, self.clean[receiver][i]) if to == "clean" else wrong)
            groups.append(torch.stack(parts))
        return torch.stack(groups).numpy()

    def factors(self) -> dict[str, Any]:
        """Return the table of the factors really used."""
        lines = []
        for name in self.names:
            for version in (LOUD, AS_PRINTED):
                values = torch.cat(self.factor[version, name])
                values = values[~values.isnan()]
                if not len(values):
                    continue
                size = torch.cat(self.size[version, name]).nanmean()
                quantities = (values.mean(), values.min(), values.max(), size)
                lines.append([self.row(name, version), *(f"{float(v):.4g}" for v in quantities), str(len(values))])
        return {
            "id": "factors",
            "title": "The factor really used",
            "caption": "By how much each perturbation was multiplied. To reach a common distortion every image needs "
            "a factor of its own; the paper names 40% for all. The printed formula does not amplify: it divides.",
            "columns": ["examples", "mean factor", "smallest", "largest", "distortion reached", "n"],
            "rows": lines,
        }


def _spread(values: Tensor, found: Tensor) -> Tensor:
    """Return (N,) float64 with `values` at the entries `found` and NaN elsewhere."""
    whole = torch.full((len(found),), torch.nan, dtype=torch.float64)
    whole[found] = values.double()
    return whole

"""The models of an audit: how each is loaded, in this process or in a worker, and what it is known by."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from intriguing.errors import InputError, ModelError
from intriguing.nets import sources
from intriguing.nets.identity import model_hash, parameters
from intriguing.nets.load import Model, as_model
from intriguing.rng import generator

Values = float | Sequence[float]


@dataclass(frozen=True)
class Source:
    """Where a model comes from, as words that another process understands.

    Attributes:
        spec: as `nets.sources.load` takes it.
        weights: file of its weights.
        box: lowest and highest pixel.
        mean: subtracted from the pixels.
        std: divides them.
        device: where it computes.
    """

    spec: str
    weights: str | None = None
    box: tuple[float, float] | None = None
    mean: Values | None = None
    std: Values | None = None
    device: str | None = None

    def load(self) -> Model:
        """Return the model. Weights that a factory draws are the same every time, and no caller's numbers move."""
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(generator(f"model/{self.spec}", 0).initial_seed())
            return sources.load(
                self.spec, weights=self.weights, box=self.box, mean=self.mean, std=self.std, device=self.device
            )

    @property
    def text(self) -> str:
        """The source in one line, weights included."""
        return f"{self.spec} with {self.weights}" if self.weights else self.spec


@dataclass(frozen=True)
class Subject:
    """A model of the audit.

    Attributes:
        name: what the page calls it; differs from the others' names.
        model: the net.
        hash: of everything its answers depend on.
        source: where it comes from; None for a model in memory.
    """

    name: str
    model: Model
    hash: str
    source: Source | None

    def facts(self) -> dict[str, Any]:
        """Return what the document says of it."""
        model = self.model
        return {
            "name": self.name,
            "source": self.source.text if self.source else "in memory",
            "hash": self.hash,
            "parameters": parameters(model),
            "device": str(model.device),
            "dtype": str(model.dtype).removeprefix("torch."),
            "box": list(model.box),
            "mean": model.mean.tolist(),
            "std": model.std.tolist(),
        }


Given = str | Source | Model | nn.Module


def subjects(
    models: Given | Sequence[Given] | Mapping[str, Given],
    *,
    weights: Sequence[str | os.PathLike[str]] = (),
    box: tuple[float, float] | None = None,
    mean: Values | None = None,
    std: Values | None = None,
    device: str | None = None,
) -> list[Subject]:
    """Return the models to audit, loaded and named.

    Args:
        models: one or more: names as `nets.sources.load` takes them, or models in memory; a mapping names them.
        weights: files, one per model in the same order, or none.
        box: of the models that are loaded.
        mean: likewise.
        std: likewise.
        device: likewise.

    Raises:
        InputError: no models, another number of weights, or models whose boxes differ.
        ModelError: a model that cannot be loaded.
    """
    named = _named(models)
    if not named:
        raise InputError("models: expected at least one, got none; name it as my_model.py:build")
    if weights and len(weights) != len(named):
        raise InputError(
            f"weights: expected one file per model, {len(named)}, got {len(weights)}; give them in the models' order"
        )
    found: list[Subject] = []
    for place, (name, given) in enumerate(named):
        source = given if isinstance(given, Source) else None
        if isinstance(given, str):
            file = os.fspath(weights[place]) if weights else None
            source = Source(given, file, box, mean, std, device)
        model = source.load() if source else as_model(given)  # type: ignore[arg-type]  # a name has a source
        digest = model_hash(model, source.text if source else "")
        found.append(Subject(_distinct(name or _short(source) or model.name, found), model, digest, source))
    boxes = {subject.model.box for subject in found}
    if len(boxes) > 1:
        raise InputError(f"models: expected all with one box, got {sorted(boxes)}; audit them one by one")
    return found


def side(model: Model) -> int | None:
    """Return the side of the square images a model wants; None for one that says none, or wants no squares."""
    return None if model.size is None or model.size[0] != model.size[1] else model.size[0]


def reload(subject: Source, expected: str) -> Model:
    """Return the model in another process.

    Raises:
        ModelError: it is another one there.
    """
    model = subject.load()
    if model_hash(model, subject.text) != expected:
        raise ModelError(
            f"{subject.spec} builds another net each time it is called; let it build the same one (weights from a "
            "file, or drawn from a fixed seed), or use one worker"
        )
    return model


def _named(models: Given | Sequence[Given] | Mapping[str, Given]) -> list[tuple[str, Given]]:
    if isinstance(models, Mapping):
        return [(str(name), model) for name, model in models.items()]
    if isinstance(models, str | Source | Model | nn.Module) or not isinstance(models, Sequence):
        return [("", models)]
    return [("", model) for model in models]


def _short(source: Source | None) -> str:
    """Return the source's name without the folders of a file."""
    if source is None:
        return ""
    return source.spec if not source.spec.partition(":")[0].endswith(".py") else Path(source.spec).name


def _distinct(name: str, others: Sequence[Subject]) -> str:
    taken = {other.name for other in others}
    if name not in taken:
        return name
    return next(numbered for n in range(2, len(taken) + 3) if (numbered := f"{name} ({n})") not in taken)

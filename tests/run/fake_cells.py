"""Cells for the tests of `run`: importable by reference, in this process and in workers."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from intriguing.errors import DataError, UnknownNameError
from intriguing.records import Inputs, Record
from intriguing.rng import generator
from intriguing.studies.spec import Cell


@dataclass(frozen=True)
class FakeImages:
    """A set of images whose content follows from its split."""

    images: torch.Tensor
    labels: torch.Tensor
    classes: tuple[str, ...]
    hash: str
    notes: dict[str, str] = field(default_factory=dict)


HASHES = {"train": "1" * 64, "test": "2" * 64}


def load(split: str) -> FakeImages:
    """Images of noise, (32, 1, 4, 4)."""
    images = torch.rand(32, 1, 4, 4, generator=generator(split, 0))
    return FakeImages(images, torch.arange(32) % 10, tuple("abcdefghij"), HASHES[split], {"note": split})


def mark(folder: str | None, name: str) -> None:
    """Leave a trace of a computation outside the store."""
    if folder is not None:
        with Path(folder, name).open("a") as file:
            file.write(f"{os.getpid()}\n")


def noise(inputs: Inputs, *, name: str, seed: int = 0, seconds: float = 0.0, trace: str | None = None) -> Record:
    """Numbers from the data, a generator, and a layer drawn from Torch's global generator."""
    mark(trace, name)
    images = inputs.data("train").images
    weight = torch.randn(16, 16, generator=generator(name, seed))
    layer = torch.nn.Linear(16, 16)
    out = torch.tanh(layer(images.flatten(1) @ weight)).detach()
    steps = 10
    for step in range(steps):
        time.sleep(seconds / steps)
        inputs.progress(step + 1, steps)
    return Record(
        {"mean": out.mean().item(), "threads": torch.get_num_threads(), "note": inputs.data("train").notes},
        {"out": out},
        {"label": inputs.data("train").labels.tolist()},
    )


def total(inputs: Inputs, *, seconds: float = 0.0, trace: str | None = None, name: str = "total") -> Record:
    """The sum over what it needs."""
    mark(trace, name)
    time.sleep(seconds)
    out = sum(need.tensors["out"].double().sum().item() for need in inputs.needs.values())
    return Record({"total": out}, {"out": torch.tensor([out], dtype=torch.float64)})


def fail(inputs: Inputs, *, how: str, seconds: float = 0.0) -> Record:
    """Fail in one of several ways."""
    time.sleep(seconds)
    if how == "data":
        raise DataError("the images are gone")
    if how == "name":
        raise UnknownNameError("net", "FC11", ["FC10"])
    if how == "value":
        raise ValueError("three is not two")
    if how == "local":

        class LocalError(Exception):
            pass

        raise LocalError("only here")
    if how == "undeclared":
        inputs.data("test")
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "interrupt":
        raise KeyboardInterrupt
    return None  # type: ignore[return-value]  # what a forgetful function does


def noise_cell(name: str, *, seconds: float = 0.0, trace: str | None = None, seed: int = 0) -> Cell:
    """A cell of `noise`."""
    settings = {"name": name, "seed": seed, "seconds": seconds, "trace": trace}
    return Cell("fake_cells:noise", settings, data=("train",), label=name)


def diamond(*, seconds: float = 0.0, trace: str | None = None) -> Cell:
    """Four cells: a base, two that need it, and one that needs those; and one beside them."""
    base = noise_cell("base", seconds=seconds, trace=trace)
    sides = {
        name: Cell(
            "fake_cells:total",
            {"seconds": seconds, "trace": trace, "name": name},
            needs={"a": base, "b": noise_cell(f"own {name}", seconds=seconds, trace=trace)},
            label=name,
        )
        for name in ("left", "right")
    }
    return Cell("fake_cells:total", {"trace": trace, "name": "top"}, needs=sides, label="top")

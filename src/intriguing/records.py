"""What a computation leaves behind, and what it is given: plain containers without behaviour.

A `Record` is the result of one cell (see `studies.spec.Cell`); `Inputs` is what the cell's function
receives besides its settings. Both are free of paths, processes and stores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch


class Images(Protocol):
    """A labelled set of images, as `data.ImageSet` provides it."""

    @property
    def images(self) -> torch.Tensor:
        """(N, C, H, W) float32 in [0, 1]."""
        ...

    @property
    def labels(self) -> torch.Tensor:
        """(N,) int64."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        ...

    @property
    def hash(self) -> str:
        """A hash of everything above."""
        ...


@dataclass(frozen=True)
class Record:
    """The outcome of one cell.

    Attributes:
        values: anything JSON can hold; non-finite floats are allowed and survive a round trip.
        tensors: named tensors (weights, adversarial images), stored in safetensors.
        rows: named columns of equal length, one row per image (stored in Parquet); empty if there are none.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    rows: Mapping[str, Sequence[Any]] = field(default_factory=dict)


def _silent(done: float, total: float) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Inputs:
    """What a cell's function is given besides its settings.

    Attributes:
        data: split name (``"train"``, ``"test"``) -> its images, loaded on first use.
        needs: the records of the cells this one depends on, by the name the cell gave them.
        device: where to compute.
        progress: called as ``progress(done, total)`` from inside long loops.
    """

    data: Callable[[str], Images]
    needs: Mapping[str, Record] = field(default_factory=dict)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    progress: Callable[[float, float], None] = _silent

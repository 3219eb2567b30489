"""What every place of images offers: a fingerprint, all the labels at once, and the pictures on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from intriguing.data.images import Picture


@dataclass(frozen=True)
class Rows:
    """An opened set, before any image is decoded.

    Attributes:
        labels: (N,) int64, checked against `classes`.
        classes: class names, by label.
        pictures: decodes the images of given (n,) int64 row numbers, in that order.
        notes: what to tell about the source, in sentences by topic.
    """

    labels: Tensor
    classes: tuple[str, ...]
    pictures: Callable[[Tensor], Iterable[Picture]]
    notes: Mapping[str, str] = field(default_factory=dict)


class Place(Protocol):
    """Where one split of a set is: a file, a folder, the hub, a package."""

    def fingerprint(self) -> dict[str, Any]:
        """Return JSON-able facts that change when the content does, without reading it."""

    def open(self) -> Rows:
        """Read labels and class names; leave the images for later.

        Raises:
            DataError: missing, empty or damaged.
        """

"""What an attack returns: one entry per image, distances recomputed from the returned images."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from intriguing import norms
from intriguing.errors import InputError

Judge = Callable[[Tensor], Tensor]  # images (k, ...) -> the classes the net gives them (k,), in the dtype it works in


class AttackStatus(IntEnum):
    """How the attack on an image ended. `sentence` says it in words."""

    ALREADY_WRONG = 0
    FOUND = 1
    NOT_FOUND = 2
    BUDGET_SPENT = 3
    NUMERIC_FAILURE = 4

    @property
    def sentence(self) -> str:
        """The outcome as a complete sentence."""
        return _SENTENCES[self]


_SENTENCES = {
    AttackStatus.ALREADY_WRONG: "The net misclassifies the clean image, so there was nothing to attack.",
    AttackStatus.FOUND: "An adversarial example was found and judged again.",
    AttackStatus.NOT_FOUND: "The search ended without an adversarial example.",
    AttackStatus.BUDGET_SPENT: "The budget ended before an adversarial example was found; raise it.",
    AttackStatus.NUMERIC_FAILURE: "The net returned NaN or infinite values during the search.",
}


class Phase(IntEnum):
    """Which part of the attack produced the example that is returned."""

    NONE = 0
    BRACKET = 1  # the search over c, before both ends of the bracket are known
    REFINE = 2  # the search over c, inside the bracket
    SHARPEN = 3  # the same, at a lower temperature of the hinge
    BISECT = 4  # the last bisection of a segment that ends at the example
    DESCENT = 5  # the steps of a first-order or random attack
    START = 6  # the point a search started from
    POLISH = 7  # the last steps along the boundary


@dataclass(frozen=True)
class Curve:
    """Robust accuracy against the size of the perturbation, from the examples found: an upper bound.

    Attributes:
        radii: (R,) sizes, in the norm `norm` and in pixel units.
        robust_accuracy: (R,) share of all images that the net gets right and for which nothing was found within the
            radius.
        low: (R,) lower ends of the 95% Wilson intervals over images.
        high: (R,) upper ends.
        n: images.
        norm: 1, 2 or inf.
    """

    radii: tuple[float, ...]
    robust_accuracy: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    n: int
    norm: float


@dataclass(frozen=True)
class AttackResult:
    """One record per image; N images, K classes.

    Attributes:
        adversarial: (N, ...) the closest adversarial image found, in the shape and dtype of the images (half
            precision becomes float32); the clean image where there is none.
        target: (N,) int64, the class it is given; -1 where there is none.
        status: (N,) int64 codes of `AttackStatus`.
        distance: (N,) float64, L2 distance in pixel units; +inf where nothing was found, 0 where the clean
            image was already wrong.
        distance_l1: (N,) float64, the L1 distance of the same image, likewise.
        distance_linf: (N,) float64, its largest change of a pixel, likewise.
        distortion: (N,) float64, distance over the root of the number of pixels.
        forwards: (N,) int64, forward passes spent on the image, over all targets.
        backwards: (N,) int64, likewise.
        first_success: (N,) int64, passes spent when the first adversarial point was met, that pass included; -1
            where there is none.
        phase: (N,) int64 codes of `Phase`.
        distance_search: (N,) float64, the distance before the last bisection of the segment from the clean
            image: the one to compare with the paper, which mentions no such step.
        by_target: (N, K) float64, the smallest distance found for each target, in the attack's own norm (before that
            bisection); +inf where not tried or not found, 0 for already wrong images at the class the net gives them.
        norm: 1, 2 or inf: what the attack kept small, see `size`.
        box: smallest and largest pixel.
        images: (N, ...) the clean images as they were given.
        labels: (N,) int64, the classes the attack led away from.
    """

    adversarial: Tensor
    target: Tensor
    status: Tensor
    distance: Tensor
    distance_l1: Tensor
    distance_linf: Tensor
    distortion: Tensor
    forwards: Tensor
    backwards: Tensor
    first_success: Tensor
    phase: Tensor
    distance_search: Tensor
    by_target: Tensor
    norm: float
    box: tuple[float, float]
    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    judge: Judge = field(repr=False, compare=False)

    @property
    def found(self) -> Tensor:
        """(N,) bool: an adversarial example was found by the attack."""
        return self.status == int(AttackStatus.FOUND)

    @property
    def attacked(self) -> Tensor:
        """(N,) bool: the net was right on the clean image, so the image was attacked."""
        return self.status != int(AttackStatus.ALREADY_WRONG)

    @property
    def size(self) -> Tensor:
        """(N,) float64: the distance in the attack's own norm."""
        return self.size_in(self.norm)

    def size_in(self, norm: float) -> Tensor:
        """Return the distances in the norm 1, 2 or inf, (N,) float64."""
        return {1.0: self.distance_l1, 2.0: self.distance, math.inf: self.distance_linf}[check_norm(norm)]

    @property
    def median(self) -> float:
        """Median L2 distance over the images the net gets right, those without an example counted as infinite."""
        return self._median(self.distance)

    @property
    def median_size(self) -> float:
        """The same of `size`, in the attack's own norm."""
        return self._median(self.size)

    def _median(self, values: Tensor) -> float:
        attacked = values[self.attacked]
        return float(torch.quantile(attacked, 0.5, interpolation="higher")) if len(attacked) else float("nan")

    def at(self, radii: Sequence[float] | float, *, norm: float | None = None) -> Curve:
        """Return the robust accuracy at each radius, with intervals.

        Args:
            radii: one or more sizes in pixel units, at least 0.
            norm: 1, 2 or inf; by default the attack's own.

        Raises:
            InputError: a negative radius, or another norm.

        Example:
            >>> result.at([0.1, 0.5, 1.0]).robust_accuracy
            (0.97, 0.81, 0.32)
        """
        try:
            given = [radii] if isinstance(radii, int | float) else list(radii)
            if any(isinstance(radius, str) for radius in given):  # float would read the digits of one
                raise TypeError
            sizes = [float(radius) for radius in given]
        except (TypeError, ValueError, RuntimeError):
            raise InputError(f"radii: expected a number or several, of at least 0, got {radii!r}") from None
        if any(not radius >= 0 for radius in sizes):
            raise InputError(f"radii: expected numbers of at least 0, got {sizes}")
        norm = self.norm if norm is None else check_norm(norm)
        size, n = self.size_in(norm), len(self.status)
        robust = [int((self.attacked & (size > radius)).sum()) for radius in sizes]
        ends = [_wilson(count, n) for count in robust]
        return Curve(
            radii=tuple(sizes),
            robust_accuracy=tuple(count / n for count in robust),
            low=tuple(low for low, _ in ends),
            high=tuple(high for _, high in ends),
            n=n,
            norm=norm,
        )

    def quantized(self, levels: int = 256) -> AttackResult:
        """Return the result with every example rounded to `levels` equally spaced pixel values and judged again.

        An example that the net answers rightly once rounded is `NOT_FOUND` here. The judgement's forward passes, one
        per example, belong to the caller: they are in no count. The clean images are left as they are, also where
        they are not on the grid themselves.

        Args:
            levels: 256 for files of 8 bits.

        Raises:
            InputError: fewer than two levels.

        Example:
            >>> result.quantized(256).found.sum()
        """
        if type(levels) is not int or levels < 2:
            raise InputError(f"levels: expected a whole number of at least 2, got {levels!r}")
        found = self.found.nonzero().squeeze(1)
        low, high = self.box
        steps = (self.adversarial[found].double() - low) / (high - low) * (levels - 1)
        rounded = (low + steps.round() * (high - low) / (levels - 1)).to(self.adversarial.dtype).clamp(low, high)
        answers = self.judge(rounded).to(self.labels.device) if len(found) else self.labels[found]
        wanted = self.target[found]
        # A targeted example that ends in a third class is still a mistake of the net; its class is told.
        alive = answers != self.labels[found]
        adversarial = self.adversarial.clone()
        adversarial[found] = torch.where(
            alive.reshape(-1, *[1] * (rounded.dim() - 1)), rounded, self.images[found].to(rounded)
        )
        target, status, phase = self.target.clone(), self.status.clone(), self.phase.clone()
        target[found] = torch.where(alive, answers.to(wanted), -1)
        status[found] = torch.where(alive, int(AttackStatus.FOUND), int(AttackStatus.NOT_FOUND))
        phase[found] = torch.where(alive, phase[found], int(Phase.NONE))
        lengths = sizes(self.images, adversarial, status)
        return replace(self, adversarial=adversarial, target=target, status=status, phase=phase, **lengths)

    def rows(self) -> dict[str, list[Any]]:
        """Return columns of equal length, one row per image: what `to_parquet` writes."""
        return {
            "image": list(range(len(self.status))),
            "label": self.labels.tolist(),
            "target": self.target.tolist(),
            "status": [AttackStatus(code).name.lower() for code in self.status.tolist()],
            "distance": self.distance.tolist(),
            "distance_l1": self.distance_l1.tolist(),
            "distance_linf": self.distance_linf.tolist(),
            "distortion": self.distortion.tolist(),
            "forwards": self.forwards.tolist(),
            "backwards": self.backwards.tolist(),
            "first_success": self.first_success.tolist(),
            "phase": [Phase(code).name.lower() for code in self.phase.tolist()],
        }

    def to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write one row per image into a Parquet file; the images themselves are not in it.

        Raises:
            InputError: the file cannot be written.
        """
        import pyarrow  # heavy, and used here alone
        import pyarrow.parquet

        try:
            pyarrow.parquet.write_table(pyarrow.table(self.rows()), os.fspath(path))
        except OSError as error:
            raise InputError(f"path: {os.fspath(path)} cannot be written ({error}); name another file") from error


def check_norm(norm: float) -> float:
    """Return 1.0, 2.0 or inf.

    Raises:
        InputError: anything else.
    """
    if norm not in (1, 2, math.inf):
        raise InputError(f"norm: expected 1, 2 or inf (math.inf), got {norm!r}")
    return float(norm)


def sizes(images: Tensor, adversarial: Tensor, status: Tensor) -> dict[str, Any]:
    """Return the distances of a result by the names of its fields, in float64, from the images themselves.

    Args:
        images: (N, ...) clean.
        adversarial: (N, ...).
        status: (N,) codes; an image without an example is infinitely far, one already wrong not at all.
    """
    r = adversarial.double() - images.double()
    found = status == int(AttackStatus.FOUND)
    nothing = torch.where(status == int(AttackStatus.ALREADY_WRONG), 0.0, math.inf).double()
    l1, l2, linf = (torch.where(found, norm(r), nothing) for norm in (norms.l1, norms.l2, norms.linf))
    pixels = math.prod(images.shape[1:])
    return {"distance": l2, "distance_l1": l1, "distance_linf": linf, "distortion": l2 / math.sqrt(pixels)}


def _wilson(count: int, n: int) -> tuple[float, float]:
    """Return the 95% interval of a share (Wilson 1927), which holds the share itself."""
    from scipy import stats  # takes a second to import, and only a curve needs it

    interval = stats.binomtest(count, n).proportion_ci(method="wilson")
    return min(float(interval.low), count / n), max(float(interval.high), count / n)

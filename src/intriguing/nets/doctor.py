"""`doctor`: is this the model its owner believes in, wrapped as it should be? Asked before anything is claimed of it.

Every check is a number, a state and a sentence (`Check`). Red means that no number measured on this model can be
trusted as things are; the sentence says what to do. A failure of the net is a red check, not an exception.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from intriguing.errors import DataError, InputError, IntriguingError
from intriguing.nets import probes
from intriguing.nets.checks import Check, did_not_run, worst
from intriguing.nets.inputs import CURES, check_images, odd_layout
from intriguing.nets.load import Model, as_model
from intriguing.nets.symptoms import (
    accuracy,
    batch_independence,
    device_and_dtype,
    logit_scale,
    repeatability,
    single_column,
    training_mode,
    zero_gradients,
)
from intriguing.rng import generator

_BATCH = 64  # images the net sees at once


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor found.

    Attributes:
        model: its name.
        checks: in the order they were made.
    """

    model: str
    checks: tuple[Check, ...]

    @property
    def state(self) -> str:
        """The worst state of all checks."""
        return worst(self.checks)

    def __getitem__(self, name: str) -> Check:
        """Return the check of that name."""
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(name)

    def __str__(self) -> str:
        lines = (f"  {check.state:<12} {check.name}: {check.sentence}" for check in self.checks)
        return "\n".join((f"{self.model}: {self.state}", *lines))

    def document(self) -> dict[str, Any]:
        """Return model, state and checks as plain values, for JSON."""
        return {"model": self.model, "state": self.state, "checks": [check.row() for check in self.checks]}


@dataclass(frozen=True)
class _Case:
    """A model, the images it is seen with, and its logits on them."""

    model: Model
    images: Tensor
    labels: Tensor | None
    logits: Tensor

    @property
    def answers(self) -> Tensor:
        """(N,) what the net says: a class it certainly has, whatever the labels are."""
        return self.logits.argmax(1)


def doctor(
    model: Model | nn.Module,
    images: Any,
    labels: Tensor | None = None,
    *,
    expect_accuracy: float | None = None,
    limit: int = 256,
) -> Diagnosis:
    """Check a model on a few of its images before any claim is made about it.

    Args:
        model: a `Model`, or a plain net whose inputs lie in [0, 1].
        images: (N, C, H, W) or (N, n) in the model's box; an image set; or a loader that gives (images, labels).
        labels: (N,) int64, with a tensor of images.
        expect_accuracy: the share its owner believes it gets right, in [0, 1].
        limit: how many images are looked at: a fixed draw from a tensor or a set, the first ones of a loader.

    Returns:
        The checks: inputs, answer, accuracy, logits, batch independence, repeatability, zero gradients, training mode,
        device and dtype.

    Raises:
        InputError: arguments that cannot be used, such as no images at all.

    Example:
        >>> doctor(model, loader, expect_accuracy=0.76).state
        'green'
    """
    if expect_accuracy is not None and not 0 <= expect_accuracy <= 1:
        raise InputError(f"expect_accuracy: expected a share from 0 to 1, got {expect_accuracy}")
    if limit < 1:
        raise InputError(f"limit: expected at least 1 image, got {limit}")
    model = as_model(model)
    everything, pixels, classes = _gather(images, labels, limit)
    inputs, usable = _inputs(model, everything)
    case, answer = _answer(model, pixels, classes) if usable else (None, None)
    checks = [inputs, answer or did_not_run("answer", "The images cannot be given to a net.")]
    if case is not None:
        checks.append(accuracy(case.logits, case.labels, expect_accuracy))
        checks += [_guarded(name, check, case) for name, check in _CHECKS.items()]
    else:
        checks += [did_not_run(name, "The net gave no answer to look at.") for name in ("accuracy", *_CHECKS)]
    return Diagnosis(model.name, (*checks, training_mode(model), device_and_dtype(model)))


def _guarded(name: str, check: Callable[[_Case], Check], case: _Case) -> Check:
    """Return the check, red where the net fails in it."""
    try:
        return check(case)
    except IntriguingError as error:
        return Check(name, "red", math.nan, len(case.images), str(error))


# -- what is looked at ------------------------------------------------------------------------------------------


def _gather(images: Any, labels: Tensor | None, limit: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return all images at hand, and of them at most `limit` with labels; a loader is read no further than needed."""
    if not isinstance(images, Tensor) and isinstance(getattr(images, "images", None), Tensor):
        images, labels = images.images, images.labels if labels is None else labels
    if hasattr(images, "__array__") and not isinstance(images, Tensor):
        raise InputError(
            f"images: expected a torch tensor, an image set or a loader, got {type(images).__name__}; make a tensor of "
            "it by torch.as_tensor(images)"
        )
    if isinstance(images, Tensor):
        if odd := odd_layout(images):
            raise InputError(f"images: expected an ordinary tensor, got a {odd} one. {CURES[odd]}")
        if images.ndim == 0 or not len(images):
            raise InputError(f"images: expected at least one, got a tensor of shape {tuple(images.shape)}")
        if labels is not None and (not isinstance(labels, Tensor) or labels.shape[:1] != images.shape[:1]):
            got = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
            raise InputError(f"labels: expected a tensor with one row per image ({len(images)}), got {got}")
        # Folders are sorted by class, so the first images would be of one class.
        order = torch.randperm(len(images), generator=generator("doctor", 0))[:limit].sort().values
        chosen = images[order.to(images.device)]
        # Labels without rows to choose from are told by the check of accuracy.
        return images, chosen, labels if labels is None or odd_layout(labels) else labels[order.to(labels.device)]
    if not isinstance(images, Iterable):
        raise InputError(f"images: expected a tensor, an image set or a loader, got {type(images).__name__}")
    if labels is not None:
        raise InputError(
            f"labels: go with images as a tensor, and images is a {type(images).__name__}; a loader gives its own, so "
            "leave labels out"
        )
    found, named = _read(images, limit)
    return found, found, named


def _read(loader: Iterable[Any], limit: int) -> tuple[Tensor, Tensor | None]:
    """Return the first images of a loader, and their labels if each batch brings them."""
    pixels: list[Tensor] = []
    classes: list[Tensor] = []
    for batch in loader:
        pair = batch if isinstance(batch, tuple | list) else (batch,)
        if not pair or not all(isinstance(part, Tensor) and part.ndim for part in pair[:2]):
            raise InputError(
                "images: expected a loader of (images, labels) or of images, tensors both; a batch was "
                f"{type(batch).__name__} of {', '.join(type(part).__name__ for part in pair) or 'nothing'}"
            )
        pixels.append(pair[0])
        classes += pair[1:2]
        if sum(map(len, pixels)) >= limit:
            break
    if not pixels:
        raise InputError("images: the loader gave no batch")
    try:
        found, named = torch.cat(pixels)[:limit], torch.cat(classes)[:limit] if classes else None
    except RuntimeError as error:
        raise InputError(f"images: the batches of the loader do not fit together ({error})") from error
    if named is not None and len(named) != len(found):
        raise InputError(f"images: the loader gave {len(found)} images and {len(named)} labels")
    return found, named


def _inputs(model: Model, images: Tensor) -> tuple[Check, bool]:
    """Check the pixels; tell also whether a net can be given them at all."""
    name, n = "inputs in the box", len(images)
    usable = images.is_floating_point() and images.ndim in (2, 4) and images.numel() > 0
    usable = usable and bool(images.isfinite().all())
    low, high = model.box
    try:
        check_images(images, model.box)
    except DataError as error:
        outside = ((images < low) | (images > high)).flatten(1).any(1).double().mean().item() if usable else 1.0
        return Check(name, "red", outside, n, str(error)), usable
    least, most = float(images.min()), float(images.max())
    if most - least < (high - low) / 4:
        sentence = (
            f"The pixels go from {least:.4g} to {most:.4g}, a small part of the box [{low:g}, {high:g}]: is the box "
            "in the units of the images?"
        )
        return Check(name, "amber", 0.0, n, sentence), True
    return Check(name, "green", 0.0, n, f"All pixels lie in [{low:g}, {high:g}]."), True


def _answer(model: Model, images: Tensor, labels: Tensor | None) -> tuple[_Case | None, Check]:
    """Ask the net once, and say where in its answer the logits are."""
    try:
        with probes.quiet(model):
            logits = model.logits(images, batch=_BATCH)
            where = model.place_of_answer(images[:1])
    except IntriguingError as error:
        return None, Check("answer", "red", math.nan, len(images), str(error))
    classes = logits.shape[1]
    kind = "one column, so two classes" if single_column(logits) else f"{classes} classes"
    sentence = f"The {model.answers} are in {where}; {kind}."
    return _Case(model, images, labels, logits), Check("answer", "green", float(classes), len(images), sentence)


_CHECKS: dict[str, Callable[[_Case], Check]] = {
    "logits": lambda case: logit_scale(case.model, case.logits),
    "batch independence": lambda case: batch_independence(case.model, case.images),
    "repeatability": lambda case: repeatability(case.model, case.images),
    "zero gradients": lambda case: zero_gradients(case.model, case.images, case.answers),
}

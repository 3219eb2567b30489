"""Certificates for an audit: per image a radius within which nothing changes the answer, and what other methods give.

The radius is a lower bound of the distance that an attack finds an upper bound of. Nothing here knows of attacks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from torch import Tensor

from intriguing.bounds.certificates import METHODS, certify
from intriguing.errors import InputError, ModelError, UnknownNameError
from intriguing.experiments.cells import spread
from intriguing.nets.load import Model
from intriguing.records import Record

PRODUCT = "product"
_IN_L2 = (PRODUCT, "curvature")  # methods that bound no other norm
_STEPS = 20  # of crown-optimised where methods are compared: most of what 60 gain, in a third of the time
_COMPARED = 20  # images that all methods are compared on
_PATIENCE = 60.0  # seconds: after a method that took longer on the sample, the costlier ones are left out

Progress = Callable[[float, float], None]


def checked_method(method: str, norm: float) -> str:
    """Return a method's name if it can be used in the norm 2 or inf.

    Raises:
        UnknownNameError: no such method.
        InputError: the product of norms, or curvature, in another norm than L2.
    """
    if method not in METHODS:
        raise UnknownNameError("certify method", method, METHODS)
    if method in _IN_L2 and norm != 2:
        raise InputError(f"certify: {method} bounds L2 alone and the audit is in Linf; use crown, or leave --norm out")
    return method


def check(model: Model, images: Tensor, *, method: str, norm: float) -> None:
    """Certify one image, so that a net that cannot be certified is refused before anything else is done.

    Args:
        model: the net.
        images: (N, C, H, W) in the model's box; the first is tried.
        method: see `bounds.certify`.
        norm: 2 or inf.

    Raises:
        ModelError: the net cannot be certified; the path of the operation that stands in the way, and what to do.
    """
    advice = "Leave --certify out (certify=False) to audit it by attacks alone"
    x = images[:1]
    reason = _unseen(model, x)
    if reason:
        raise ModelError(f"certify: {model.name} {reason}. {advice}.")
    try:
        # From its own answer, whatever its label: of an image it gets wrong nothing would be bounded.
        certify(model, x, model.predict(x), norm, method=method, tolerance=0.5, steps=1)
    except (InputError, ModelError) as error:
        raise ModelError(f"certify: no certificate by {method}: {error}. {advice}.") from error


def _unseen(model: Model, x: Tensor) -> str:
    """Return what a model does that no operation of its net shows; empty if there is nothing."""
    if "gradients" not in model.capabilities:
        return "gives no gradients, so its operations cannot be seen, and what cannot be seen cannot be certified"
    if model.answers != "logits":
        return f"answers {model.answers}; certificates bound logits, so give the net without its last step"
    if model.size is not None and tuple(x.shape[2:]) != tuple(model.size):
        return f"resizes images to {model.size[0]} x {model.size[1]}, which has no bound; give images of that size"
    if model.bgr:
        return "reorders the channels, for which there is no bound; put a net around it that takes RGB"
    return ""


def certify_shard(
    model: Model, images: Tensor, labels: Tensor, *, method: str, norm: float, progress: Progress | None = None
) -> Record:
    """Certify images, and beside each radius put that of the product of norms, the method's control.

    Args:
        model: the net.
        images: (N, C, H, W) float32 in the model's box.
        labels: (N,) int64.
        method: see `bounds.certify`.
        norm: 2 or inf.
        progress: called with (done, all).

    Returns:
        Rows ``certified`` and ``certified_product``, radii in the norm; the latter None in Linf, and where a layer has
        no norm.

    Raises:
        InputError, DataError, ModelError: as `bounds.certify` does.

    Example:
        >>> certify_shard(model, x, y, method="crown", norm=2).rows["certified"]
    """
    radius = certify(model, images, labels, norm, method=method, progress=progress).radius
    control: list[float | None] = [None] * len(labels)
    if norm == 2:
        with suppress(InputError, ModelError):  # `crown` serves operations to which no norm is known
            control = list(certify(model, images, labels, norm, method=PRODUCT).radius.tolist())
    return Record(values={"images": len(labels)}, rows={"certified": radius.tolist(), "certified_product": control})


def certify_methods(
    model: Model, images: Tensor, labels: Tensor, *, norm: float, progress: Progress | None = None
) -> Record:
    """Certify a few images by every method, the cheapest first, with the time each takes.

    Args:
        model: the net.
        images: (N, C, H, W) float32 in the model's box.
        labels: (N,) int64.
        norm: 2 or inf.
        progress: called with (done, all).

    Returns:
        Values ``methods``, of each ``method``, ``seconds`` per image, ``note`` on why it was left out or nothing, and
        ``radius`` of every image, None where it was left out.
    """
    methods = [method for method in METHODS if method not in _IN_L2 or norm == 2]
    found: list[dict[str, Any]] = []
    late = ""
    for place, method in enumerate(methods):
        entry: dict[str, Any] = {"method": method, "seconds": None, "note": late, "radius": None}
        began = time.perf_counter()
        if not late:
            try:
                found_by = certify(model, images, labels, norm, method=method, steps=_STEPS)
                entry["radius"] = found_by.radius.tolist()
            except (InputError, ModelError) as error:
                entry["note"] = str(error)
            else:
                entry["seconds"] = (time.perf_counter() - began) / max(1, len(labels))
        if not late and time.perf_counter() - began > _PATIENCE:
            late = f"left out: {method} alone took more than {_PATIENCE:.0f} s on these images"
        found.append(entry)
        if progress is not None:
            progress(place + 1, len(methods))
    return Record(values={"images": len(labels), "methods": found})


def compared(count: int) -> Tensor:
    """Return which of `count` images the methods are compared on: at most `_COMPARED`, spread evenly over all."""
    return spread(count, _COMPARED)

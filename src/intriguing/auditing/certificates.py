"""The certificates of an audit: shards of their own, so that asking for them later attacks nothing again.

A certificate depends on the image, its label, the model and the method, and on no attack.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from intriguing.auditing.shards import Advance, Done, Piece, Task, cell, in_box
from intriguing.data.stream import Stream
from intriguing.experiments import audit, audit_certify
from intriguing.records import Record
from intriguing.run.events import throttled
from intriguing.store import Store
from intriguing.studies.spec import code_hash

DEFAULT = "crown"


def method_of(asked: bool | str, norm: float) -> str | None:
    """Return by which method an audit certifies; None for not at all.

    Args:
        asked: a method, True for the default one, or False.
        norm: 2 or inf.

    Raises:
        UnknownNameError: no such method.
        InputError: a method that does not serve the norm.

    Example:
        >>> method_of(True, 2.0), method_of(False, 2.0)
        ('crown', None)
    """
    if asked is False:
        return None
    return audit_certify.checked_method(DEFAULT if asked is True else asked, norm)


def check(task: Task, images: Stream) -> None:
    """Try an image with every model, so that what cannot be certified is refused before anything is attacked.

    Raises:
        ModelError: a model that cannot be certified, with the path of the operation in the way.
    """
    assert task.certify is not None
    for model in task.models.values():
        audit_certify.check(model, in_box(images.piece(0, 1), model.box), method=task.certify, norm=task.norm)


def shard(
    store: Store, task: Task, piece: Piece, images: Tensor, labels: Tensor, *, fresh: bool, advance: Advance
) -> Done:
    """Return the certificates of a shard from the store, or make and store them.

    Args:
        store: opened to write, or to join.
        task: what to do.
        piece: which shard.
        images: (n, C, H, W) in the box.
        labels: (n,) int64.
        fresh: make them in any case.
        advance: called with (done, all).
    """
    model, method = task.models[piece.model], task.certify
    assert method is not None
    spec = {**_spec(task, piece.model, images, labels, "certify_shard"), "method": method}

    def compute() -> Record:
        return audit_certify.certify_shard(
            model, images, labels, method=method, norm=task.norm, progress=throttled(advance)
        )

    return cell(store, spec, compute, label=piece.label, fresh=fresh, task=task, model=model)


def sample_label(name: str) -> str:
    """Return what a progress line calls the comparison of methods for a model."""
    return f"{name}, certificates by every method"


def sample(store: Store, task: Task, name: str, images: Stream, *, fresh: bool, advance: Advance) -> Done:
    """Return what every method makes of a few images, spread over the whole set, from the store or computed.

    Args:
        store: opened to write.
        task: what to do.
        name: which model.
        images: all of them.
        fresh: compute it in any case.
        advance: called with (done, all).
    """
    model = task.models[name]
    ids = audit_certify.compared(len(images))
    pixels, labels = in_box(images.read(ids), model.box), images.labels[ids]
    spec = _spec(task, name, pixels, labels, "certify_methods")

    def compute() -> Record:
        return audit_certify.certify_methods(model, pixels, labels, norm=task.norm, progress=throttled(advance))

    return cell(store, spec, compute, label=sample_label(name), fresh=fresh, task=task, model=model)


def joined(attacked: Record, certified: Record) -> Record:
    """Return the rows of a shard's attacks with the certificate of each image beside them.

    Args:
        attacked: of `shards.shard`, the attacks one after another, each with all images in order.
        certified: of `shard`.
    """
    times = len(attacked.rows["attack"]) // len(certified.rows["certified"])
    more = {name: [*values] * times for name, values in certified.rows.items()}
    return Record(attacked.values, attacked.tensors, {**attacked.rows, **more})


def _spec(task: Task, name: str, images: Tensor, labels: Tensor, function: str) -> dict[str, Any]:
    """Return everything that the result depends on."""
    return {
        "function": function,
        "code": code_hash(f"intriguing.experiments.audit_certify:{function}"),
        "images": audit.image_hashes(images, labels),
        "model": task.hashes[name],
        "norm": str(task.norm),
        "device": task.models[name].device.type,
    }

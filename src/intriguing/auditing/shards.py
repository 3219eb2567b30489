"""The shards of an audit: read, looked up by content, attacked where they are missing, and let go.

A shard's key is the hash of its images and labels, the model, the receivers, the attacks and their code. So a run
that was killed goes on, images that were audited before are not attacked again, and a damaged shard is made anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from intriguing.attacks import LBFGS
from intriguing.attacks.base import Attack
from intriguing.data.stream import Stream, stream
from intriguing.errors import DataError, StoreError
from intriguing.experiments import audit, trust
from intriguing.experiments.cells import spread
from intriguing.nets.identity import content_hash
from intriguing.nets.load import Model
from intriguing.records import Record
from intriguing.rng import generator
from intriguing.run.environment import environment
from intriguing.run.events import throttled
from intriguing.store import Store
from intriguing.studies.spec import code_hash

_IMAGES = 200  # of a shard, where they are small: a shard of small images takes seconds, so that a kill costs little
_BYTES = 2**25  # pixels of a shard
_PANEL = 64  # images of the trust panel
_STARTS, _STARTS_BYTES = 500, 2**26  # images that searches may start from, and their pixels
_KEEP = 20  # nearest examples kept with their images

Advance = Callable[[float, float], None]


@dataclass(frozen=True)
class DataSource:
    """Which images, as words that another process understands; see `data.stream.stream`."""

    name: str
    split: str
    images: int | None = None
    seed: int = 0
    size: int | None = None
    data_dir: str | None = None

    def open(self, otherwise: int | None = None) -> Stream:
        """Open them; `otherwise` is the side for images that differ in size where none is named."""
        return stream(
            self.name,
            self.split,
            images=self.images,
            seed=self.seed,
            size=self.size,
            otherwise=otherwise,
            data_dir=self.data_dir,
        )


@dataclass(frozen=True)
class Task:
    """What is done with every shard.

    Attributes:
        models: by name.
        hashes: of the models, by name.
        attacks: by name.
        norm: 2 or inf, in which the nearest of all attacks is taken.
        seed: of everything random.
        size: images per shard.
        threads: Torch threads; last digits may depend on it.
        certify: the method by which the images are certified too; None: not at all.
    """

    models: Mapping[str, Model]
    hashes: Mapping[str, str]
    attacks: Mapping[str, Attack]
    norm: float
    seed: int
    size: int
    threads: int = 1
    certify: str | None = None

    @property
    def receivers(self) -> Mapping[str, Model]:
        """The models that examples are fed to: all, if there are several."""
        return self.models if len(self.models) > 1 else {}


@dataclass(frozen=True)
class Piece:
    """A shard: the images `start` to `stop` - 1 of the stream, for one model, to be attacked or to be certified."""

    model: str
    start: int
    stop: int
    certified: bool = False

    @property
    def label(self) -> str:
        """What a progress line calls it."""
        what = "certificates of images" if self.certified else "images"
        return f"{self.model}, {what} {self.start + 1} to {self.stop}"


@dataclass(frozen=True)
class Done:
    """A shard's record, and the seconds it took, None where it was there already."""

    key: str
    record: Record
    seconds: float | None


def shard_size(shape: Sequence[int]) -> int:
    """Return how many images (C, H, W) make up a shard."""
    return max(1, min(_IMAGES, _BYTES // (4 * math.prod(shape))))


def pieces(images: Stream, task: Task) -> list[Piece]:
    """Return the shards in order: the models one after another for each range of images; then those to certify."""
    starts = range(0, len(images), task.size)
    kinds = (False, True) if task.certify else (False,)
    return [
        Piece(name, at, min(at + task.size, len(images)), certified)
        for certified in kinds
        for at in starts
        for name in task.models
    ]


class Reader:
    """Gives the images of a piece in a model's box; holds one range at a time."""

    def __init__(self, images: Stream, box: tuple[float, float]) -> None:
        self._images, self._box = images, box
        self._range, self._pixels = (0, 0), torch.empty(0)

    def __call__(self, piece: Piece) -> tuple[Tensor, Tensor]:
        """Return images (n, C, H, W) and labels (n,)."""
        if (piece.start, piece.stop) != self._range:
            self._pixels = torch.empty(0)  # let go before the next are read
            self._pixels = in_box(self._images.piece(piece.start, piece.stop), self._box)
            self._range = (piece.start, piece.stop)
        return self._pixels, self._images.labels[piece.start : piece.stop]


def with_starts(
    attacks: Mapping[str, Attack], opened: Callable[[], Stream], box: tuple[float, float]
) -> dict[str, Attack]:
    """Return the attacks, those that start from images of other classes too with such images.

    Args:
        attacks: by name; one that brings its own images keeps them.
        opened: gives the whole set, however many of it are attacked, so that an image's result does not depend on that.
            An image of it that cannot be read is no start.
        box: of the model.
    """
    lack = {name for name, attack in attacks.items() if _could_start(attack)}
    if not lack:
        return dict(attacks)
    images = opened()
    ids = spread(len(images), max(1, min(_STARTS, _STARTS_BYTES // (4 * math.prod(images.shape)))))
    ids, pixels = _readable(images, ids)
    if not len(ids):
        return dict(attacks)
    pool = in_box(pixels, box), images.labels[ids]
    records: Mapping[str, Any] = attacks  # dataclasses, not all with this field
    return {name: dataclasses.replace(a, starts=pool) if name in lack else a for name, a in records.items()}


def _could_start(attack: Attack) -> bool:
    """Tell whether an attack starts from images where it is given some, and has none: the paper's in L2 does not."""
    lacks = getattr(attack, "starts", ()) is None
    return lacks and not (isinstance(attack, LBFGS) and attack.norm == 2)


def _readable(images: Stream, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return those of the ids (n,) that can be read, and their pixels."""
    try:
        return ids, images.read(ids)
    except DataError:  # of one image or more: find out which
        found = []
        for one in torch.split(ids, 1):
            with suppress(DataError):
                found.append((one, images.read(one)))
        if not found:
            return ids[:0], torch.empty(0)
        return torch.cat([one for one, _ in found]), torch.cat([pixels for _, pixels in found])


def in_box(pixels: Tensor, box: tuple[float, float]) -> Tensor:
    """Return pixels in [0, 1] on the scale of a box: black at its lower end, white at its upper."""
    low, high = box
    return pixels if box == (0.0, 1.0) else (low + (high - low) * pixels).clamp(low, high)


def shard(
    store: Store, task: Task, piece: Piece, images: Tensor, labels: Tensor, *, fresh: bool, advance: Advance
) -> Done:
    """Return a shard's record from the store, or attack its images and store it.

    Args:
        store: opened to write, or to join.
        task: what to do.
        piece: which shard.
        images: (n, C, H, W) in the box.
        labels: (n,) int64.
        fresh: attack them in any case.
        advance: called with (done, all).
    """
    model = task.models[piece.model]
    spec = _spec(task, piece.model, images, labels)

    def compute() -> Record:
        return audit.attack_shard(
            model,
            images,
            labels,
            attacks=task.attacks,
            norm=task.norm,
            seed=task.seed,
            receivers=task.receivers,
            keep=_KEEP,
            progress=throttled(advance),
        )

    return cell(store, spec, compute, label=piece.label, fresh=fresh, task=task, model=model)


def panel(store: Store, task: Task, name: str, images: Stream, *, fresh: bool, advance: Advance) -> Done:
    """Return the trust panel of a model, of images spread over the whole set.

    Args:
        store: opened to write.
        task: what to do; its first attack that looks for the nearest example is what the panel's control is held
            against.
        name: which model.
        images: all of them.
        fresh: compute it in any case.
        advance: called with (done, all).
    """
    model = task.models[name]
    ids = spread(len(images), _PANEL)
    pixels, labels = in_box(images.read(ids), model.box), images.labels[ids]
    spec = {**_spec(task, name, pixels, labels), "panel": code_hash("intriguing.experiments.trust:panel")}

    def compute() -> Record:
        nearest = [(kind, attack) for kind, attack in task.attacks.items() if not hasattr(attack, "eps")]
        result = None
        for kind, attack in nearest[:1]:
            draw = generator(f"audit/trust/{kind}", task.seed)
            result = attack(model, pixels, labels, generator=draw, progress=throttled(advance))
        checks = trust.panel(model, pixels, labels, result=result, generator=generator("audit/trust", task.seed))
        return Record(values={"checks": [dataclasses.asdict(check) for check in checks]})

    return cell(store, spec, compute, label=f"{name}, trust panel", fresh=fresh, task=task, model=model)


def _spec(task: Task, name: str, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return everything that the result depends on."""
    kinds = {type(attack) for attack in task.attacks.values()}
    code = sorted({code_hash(f"{kind.__module__}:{kind.__qualname__}") for kind in kinds})
    return {
        "code": [code_hash("intriguing.experiments.audit:attack_shard"), *code],
        "images": audit.image_hashes(images, labels),
        "model": task.hashes[name],
        "receivers": {other: task.hashes[other] for other in task.receivers},
        "attacks": {other: content_hash(attack) for other, attack in task.attacks.items()},
        "norm": str(task.norm),
        "seed": task.seed,
        "keep": _KEEP,
        "device": task.models[name].device.type,
    }


def cell(
    store: Store,
    spec: Mapping[str, Any],
    compute: Callable[[], Record],
    *,
    label: str,
    fresh: bool,
    task: Task,
    model: Model,
) -> Done:
    """Return a record from the store, or compute and store it.

    Args:
        store: opened to write, or to join.
        spec: all that the record depends on.
        compute: makes it.
        label: what a progress line calls it.
        fresh: make it in any case.
        task: whose threads are used.
        model: on whose device it is made.
    """
    key = hashlib.sha256(json.dumps(spec, sort_keys=True, allow_nan=False).encode()).hexdigest()[:32]
    found = None if fresh else store.get(key)
    if found is not None:
        return Done(key, found, None)
    start = time.perf_counter()
    with _threads(task.threads):
        record = compute()
    seconds = time.perf_counter() - start
    record = Record({**record.values, "seconds": seconds}, record.tensors, record.rows)
    where = environment(model.device)
    store.put(key, record, {"label": label, "seconds": seconds, "machine": where, "threads": task.threads})
    # As it will be read in a resumed run, to the last bit.
    stored = store.get(key)
    if stored is None:
        raise StoreError(
            f"{label} was written to {store.path} and cannot be read back; check the disk, then run the same command "
            "again"
        )
    return Done(key, stored, seconds)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def text_of(path: str | os.PathLike[str] | None) -> str | None:
    """Return a path as text, None as it is."""
    return None if path is None else os.fspath(path)

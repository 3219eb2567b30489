"""An audit from beginning to end: images, shards, rows, `results.json` and the page."""

from __future__ import annotations

import hashlib
import math
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from intriguing import documents
from intriguing.attacks.base import Attack
from intriguing.auditing import rows as rows_file
from intriguing.auditing import workers as processes
from intriguing.auditing.options import attacks_of, takes
from intriguing.auditing.shards import (
    DataSource,
    Done,
    Piece,
    Reader,
    Task,
    in_box,
    panel,
    pieces,
    shard,
    shard_size,
    text_of,
)
from intriguing.auditing.subjects import Given, Subject, Values, subjects
from intriguing.data import ImageSet
from intriguing.data.stream import Stream, of
from intriguing.errors import InputError, StoreError
from intriguing.experiments import audit_summary as summary
from intriguing.experiments.audit_summary import Gathered
from intriguing.records import Record
from intriguing.report import audit_page, page
from intriguing.rng import generator
from intriguing.run import results as results_document
from intriguing.run.environment import environment
from intriguing.run.events import Event
from intriguing.run.execute import default_workers
from intriguing.store import Damage, Store

SCHEMA = 1
TRUSTWORTHY = "trustworthy"
DEFAULT_BUDGET = 2000  # passes per image and attack: what the nearest examples of most nets take

_Tell = Callable[[Event], None]


@dataclass(frozen=True)
class Outcome:
    """Where an audit left its files, and what it found.

    Attributes:
        folder: of the run.
        report: the page.
        results: ``results.json``.
        rows: ``rows.parquet``.
        document: the content of ``results.json``, strict JSON.
        figures: its figures, infinite numbers included.
    """

    folder: Path
    report: Path
    results: Path
    rows: Path
    document: Mapping[str, Any]
    figures: Mapping[str, Mapping[str, Any]]

    @property
    def trustworthy(self) -> bool:
        """Whether nothing speaks against the numbers."""
        return bool(self.document["verdict"]["state"] == TRUSTWORTHY)


def audit(
    models: Given | Sequence[Given] | Mapping[str, Given],
    data: str | ImageSet,
    *,
    attacks: Sequence[str | Attack] = ("nearest",),
    split: str = "test",
    images: int | None = None,
    budget: int | None = DEFAULT_BUDGET,
    eps: float | None = None,
    norm: float | None = None,
    target: str | None = None,
    seed: int = 0,
    size: int | None = None,
    weights: Sequence[str | os.PathLike[str]] = (),
    box: tuple[float, float] | None = None,
    mean: Values | None = None,
    std: Values | None = None,
    device: str | None = None,
    out: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    threads: int = 1,
    shard_images: int | None = None,
    fresh: bool = False,
    progress: _Tell | None = None,
    on_damage: Callable[[Damage], None] | None = None,
) -> Outcome:
    """Attack images of a set and write what it came to, with a verdict on whether to trust it.

    Images are read shard by shard, and each shard is kept in the run folder, so memory does not grow with their
    number, and a run that was killed goes on where it was and ends with the same rows.

    Args:
        models: one or more, as ``"my_model.py:build"`` or in memory; a mapping names them. The first is the subject;
            with several, the examples made for each are fed to all.
        data: the name of a set (see `data.load`), or a set in memory.
        attacks: names of `attacks.ATTACKS`, or attacks. Of several the nearest example counts, image by image.
        split: of the set.
        images: how many, drawn in proportion to the classes; None: all.
        budget: the largest number of forwards plus backwards on one image, per attack; None: no limit.
        eps: radius of the attacks with one; robust accuracy there becomes a figure.
        norm: 1, 2 or inf of the attacks that know several; "worst of" is the nearest in Linf for inf, else in L2.
        target: which wrong class; None: any, the nearest.
        seed: of everything random: the choice of images, noise, random starts, resamples.
        size: side in pixels, for images of unequal size.
        weights: files for models given by name, one each, or none.
        box: of models given by name; images in [0, 1] are put on its scale.
        mean: likewise, subtracted.
        std: likewise, divides.
        device: likewise.
        out: the run folder.
        data_dir: where sets of images are looked up first.
        workers: processes; more than one needs models and data given by name. None: as many as there are processors
            for those on a CPU, else one.
        threads: Torch threads of each; last digits may depend on it.
        shard_images: images attacked and kept together; None: at most 200, fewer of large ones.
        fresh: attack all images again.
        progress: told of every step.
        on_damage: told of damaged shards, which are computed again.

    Raises:
        IntriguingError: models or images that cannot be used, options no attack has, a folder that is not a run.

    Example:
        >>> outcome = audit("my_model.py:build", "digits", images=100, out="runs/v1")
        >>> outcome.document["figures"]["median_l2"]["value"]
    """
    known = attacks_of(attacks, budget=_budget(attacks, budget), eps=eps, norm=norm, target=target)
    given = subjects(models, weights=weights, box=box, mean=mean, std=std, device=device)
    source = DataSource(data, split, images, seed, size, text_of(data_dir)) if isinstance(data, str) else None
    stream = source.open() if source else of(_set(data), count=images, seed=seed)
    worst_norm = math.inf if norm == math.inf else 2.0
    task = Task(
        {subject.name: subject.model for subject in given},
        {subject.name: subject.hash for subject in given},
        known,
        worst_norm,
        seed,
        shard_size(stream.shape) if shard_images is None else shard_images,
        threads,
    )
    settings = {
        "attacks": list(known),
        "parameters": {name: repr(attack) for name, attack in known.items()},
        "images": len(stream),
        "budget": budget,
        "eps": eps,
        "norm": "inf" if norm == math.inf else norm,
        "target": target,
        "size": size,
        "seed": seed,
    }
    run: dict[str, Any] = {
        "kind": "audit",
        "settings": settings,
        "environment": environment(given[0].model.device),
        "seeds": {"run": seed},
        "hashes": {"model": given[0].hash},
        "command": _command(given, source, stream, settings, device, data_dir, out),
        "models": [subject.facts() for subject in given],
        "data": {"name": stream.name, "split": stream.split, "n": len(stream), "classes": list(stream.classes)},
    }
    folder = Path(out)
    watch = _Watch(progress, len(pieces(stream, task)) + len(given))
    count = _workers(workers, source, given, watch.cells)
    with Store(folder, on_damage=on_damage) as store:
        if "study" in store.run:
            raise StoreError(f"{folder} holds a run of `intriguing reproduce`; name another folder with --out")
        store.describe({**run, "cells": {}})
        if count > 1:
            assert source is not None
            _in_workers(store, task, given, source, count, fresh, watch)
        gathered, image_hashes = _gather(folder, store, task, stream, fresh and count == 1, watch)
        run["hashes"]["data"] = hashlib.sha256("".join(image_hashes).encode()).hexdigest()[:32]
        checks, seconds = _checks(store, task, stream, fresh, watch)
        parts, tensors = _parts(task, gathered, checks, stream, known, eps, norm)
        run["time"] = {"seconds": watch.seconds + seconds}
        record = Record(values=parts, tensors=tensors)
        key = _key(run, parts)
        store.put(key, record, {"label": "audit", "seconds": 0.0})
        store.describe({**run, "cells": {"audit": key}})
        distances = {name: _distances(gathered[given[0].name], name) for name in gathered[given[0].name].attacks}
        return _write(folder, run, record, distances)


def report(folder: str | os.PathLike[str]) -> Outcome:
    """Write the page and ``results.json`` of an audit again from what is stored; nothing is computed.

    Args:
        folder: a run folder of `audit`.

    Raises:
        StoreError: not an audit, or not finished, or damaged.
    """
    path = Path(folder)
    with Store(path, mode="read") as store:
        run = {name: value for name, value in store.run.items() if name not in ("format", "created", "cells")}
        key = store.run.get("cells", {}).get("audit")
        record = store.get(key) if key and run.get("kind") == "audit" else None
    if record is None:
        raise StoreError(f"{path} holds no finished audit; run `{run.get('command', 'intriguing audit')}`")
    rows = rows_file.read(path / "rows.parquet")
    subject = run["models"][0]["name"]
    distances: dict[str, list[float]] = {}
    for attack, model, status, distance in zip(
        rows["attack"], rows["model"], rows["status"], rows["distance"], strict=True
    ):
        if model == subject and status != "already_wrong":
            distances.setdefault(attack, []).append(distance)
    return _write(path, run, record, distances)


def is_audit(folder: str | os.PathLike[str]) -> bool:
    """Tell whether a folder holds an audit, finished or not.

    Raises:
        StoreError: it holds no run at all.
    """
    with Store(folder, mode="read") as store:
        return store.run.get("kind") == "audit"


class _Watch:
    """Counts shards and makes the events."""

    def __init__(self, progress: _Tell | None, cells: int) -> None:
        self.cells, self.seconds = cells, 0.0
        self._told = progress or (lambda event: None)
        self._complete: set[str] = set()

    def started(self, label: str, worker: int = 0) -> None:
        self._told(Event("started", "", label, len(self._complete), self.cells, worker=worker))

    def advanced(self, label: str, done: float, total: float, worker: int = 0) -> None:
        self._told(Event("advanced", "", label, len(self._complete), self.cells, done, total, worker))

    def finished(self, label: str, seconds: float | None, worker: int = 0) -> None:
        if label in self._complete:  # a worker made it, and it is read now
            return
        self._complete.add(label)
        kind: Any = "reused" if seconds is None else "finished"
        self._told(Event(kind, "", label, len(self._complete), self.cells, worker=worker, seconds=seconds or 0.0))

    def step(self, step: processes.Step) -> None:
        if step.kind == "started":
            self.started(step.label, step.worker)
        elif step.kind == "advanced":
            self.advanced(step.label, step.done, step.total, step.worker)
        else:
            self.finished(step.label, step.seconds, step.worker)

    def took(self, done: Done) -> None:
        """Count what a shard cost, in this run or in an earlier one."""
        self.seconds += float(done.record.values["seconds"])


def _in_workers(
    store: Store, task: Task, given: Sequence[Subject], source: DataSource, count: int, fresh: bool, watch: _Watch
) -> None:
    sources = {subject.name: subject.source for subject in given}
    orders = [
        processes.Order(
            store=str(store.path.resolve()),
            data=source,
            sources={name: found for name, found in sources.items() if found is not None},
            hashes=task.hashes,
            attacks=task.attacks,
            norm=task.norm,
            seed=task.seed,
            size=task.size,
            threads=task.threads,
            fresh=fresh,
            worker=worker,
            workers=count,
        )
        for worker in range(count)
    ]
    processes.run(orders, watch.step)


def _gather(
    folder: Path, store: Store, task: Task, stream: Stream, fresh: bool, watch: _Watch
) -> tuple[dict[str, Gathered], list[str]]:
    """Go through all shards, computing those that are missing; write the rows; return what the summary needs."""
    gathered = {name: Gathered(task.norm) for name in task.models}
    first = next(iter(task.models))
    read = Reader(stream, task.models[first].box)
    hashes: list[str] = []
    with rows_file.writing(folder / "rows.parquet", list(task.receivers), scratch=store.scratch()) as write:
        for piece in pieces(stream, task):
            done = _shard(store, task, piece, read, fresh, watch)
            positions = stream.positions[piece.start : piece.stop].tolist()
            write(done.record.rows, positions, piece.model)
            gathered[piece.model].add(done.record, positions)
            if piece.model == first:
                hashes += done.record.rows["image_hash"][: len(positions)]
    return gathered, hashes


def _shard(store: Store, task: Task, piece: Piece, read: Reader, fresh: bool, watch: _Watch) -> Done:
    images, labels = read(piece)
    watch.started(piece.label)

    def advance(done: float, total: float) -> None:
        watch.advanced(piece.label, done, total)

    done = shard(store, task, piece, images, labels, fresh=fresh, advance=advance)
    watch.finished(piece.label, done.seconds)
    watch.took(done)
    return done


def _checks(store: Store, task: Task, stream: Stream, fresh: bool, watch: _Watch) -> tuple[list[dict[str, Any]], float]:
    """Return the trust panel of every model, and the seconds they took."""
    checks: list[dict[str, Any]] = []
    seconds = 0.0
    for name in task.models:
        label = f"{name}, trust panel"
        watch.started(label)
        done = panel(store, task, name, stream, fresh=fresh, advance=lambda done, total: None)
        watch.finished(label, done.seconds)
        seconds += float(done.record.values["seconds"])
        prefix = f"{name}: " if len(task.models) > 1 else ""
        checks += [{**check, "name": prefix + check["name"]} for check in done.record.values["checks"]]
    return checks, seconds


def _parts(
    task: Task,
    gathered: Mapping[str, Gathered],
    checks: list[dict[str, Any]],
    stream: Stream,
    attacks: Mapping[str, Attack],
    eps: float | None,
    norm: float | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the document without `run`, and the tensors of the fragile images."""
    (subject, first), *others = gathered.items()
    model = task.models[subject]
    low, high = model.box
    K = model.logits(in_box(stream.piece(0, 1), model.box)).shape[1]
    classes = [*stream.classes, *(f"class {label}" for label in range(len(stream.classes), K))]
    extra = None if eps is None else (eps, math.inf if norm == math.inf else 2.0)

    def figures(name: str, rows: Gathered) -> dict[str, dict[str, Any]]:
        draw = generator(f"audit/bootstrap/{name}", task.seed)
        return summary.figures(rows, draw, extra=extra, width=high - low)

    found = figures("subject", first) | summary.pooled_transfer(gathered)
    bounds, product, note = summary.layers(model, stream.shape)
    found |= product
    for name, rows in others:
        found |= {f"{name}/{figure}": entry for figure, entry in figures(name, rows).items()}
    nearest, tensors = summary.fragile(first, classes)
    norms = {name: float(getattr(attack, "norm", 2)) for name, attack in attacks.items()}
    accuracy = {name: summary.accuracy(rows) for name, rows in gathered.items()}
    parts = {
        "verdict": summary.verdict(checks, accuracy, K),
        "trust": checks,
        "figures": found,
        "curves": summary.curves(first, norms),
        "confusion": summary.confusion(first, classes),
        "classes": summary.by_class(first, classes, generator("audit/bootstrap/classes", task.seed)),
        "fragile": nearest,
        "transfer": summary.transfer(gathered),
        "layers": bounds,
        "layers_note": note,
    }
    return parts, tensors


def _write(folder: Path, run: Mapping[str, Any], record: Record, distances: Mapping[str, Sequence[float]]) -> Outcome:
    document = documents.strict({"schema": SCHEMA, "kind": "audit", "run": dict(run), **record.values})
    results_path, report_path = folder / "results.json", folder / "report.html"
    results_document.write(results_path, document)
    page.write(report_path, audit_page.build(document, {"audit": record}, distances=distances))
    return Outcome(folder, report_path, results_path, folder / "rows.parquet", document, record.values["figures"])


def _distances(gathered: Gathered, attack: str) -> list[float]:
    rows = gathered.rows(attack)
    found: list[float] = rows["distance"][rows["status"] != "already_wrong"].tolist()
    return found


def _budget(attacks: Sequence[str | Attack], budget: int | None) -> int | None:
    """Return the budget, or None where it is the default and no attack named has one: nobody asked for it then."""
    return budget if budget != DEFAULT_BUDGET or any(takes(attack, "budget") for attack in attacks) else None


def _set(data: object) -> ImageSet:
    if not isinstance(data, ImageSet):
        raise InputError(
            f"data: expected the name of a set or an ImageSet, got {type(data).__name__}; make one of tensors with "
            "data.from_tensors(images, labels)"
        )
    return data


def _workers(asked: int | None, source: DataSource | None, given: Sequence[Subject], cells: int) -> int:
    if asked is not None and asked < 1:
        raise InputError(f"workers: expected at least 1, got {asked}")
    by_name = source is not None and all(subject.source is not None for subject in given)
    if not by_name:
        if asked is not None and asked > 1:
            raise InputError(
                f"workers: {asked} processes need models and data given by name, as on the command line; "
                "models in memory run in this one, with threads=..."
            )
        return 1
    count = default_workers(given[0].model.device) if asked is None else asked
    # A worker takes seconds to start and a model of its own: not for a shard or two.
    return max(1, min(count, cells // 2))


def _key(run: Mapping[str, Any], parts: Mapping[str, Any]) -> str:
    text = repr((run["settings"], run["hashes"], run["models"], parts["verdict"]))
    return f"audit-{hashlib.sha256(text.encode()).hexdigest()[:26]}"


def _command(
    given: Sequence[Subject],
    source: DataSource | None,
    stream: Stream,
    settings: Mapping[str, Any],
    device: str | None,
    data_dir: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
) -> str:
    """Return the command line that makes the run again, defaults left out; empty for what has none."""
    if source is None or any(subject.source is None for subject in given):
        return ""
    words = ["intriguing", "audit"]
    for subject in given:
        assert subject.source is not None
        words += ["--model", subject.source.spec]
        words += ["--weights", subject.source.weights] if subject.source.weights else []
    first = given[0].source
    assert first is not None
    for name, value in (("box", first.box), ("mean", first.mean), ("std", first.std)):
        if value is not None:
            words += [f"--{name}", ",".join(f"{v:g}" for v in value) if isinstance(value, Sequence) else f"{value:g}"]
    words += ["--data", stream.name, "--split", stream.split]
    words += [] if source.images is None else ["--images", str(source.images)]
    for attack in settings["attacks"]:
        words += ["--attack", attack]
    for name in ("budget", "eps", "norm", "target", "size"):
        value = settings[name]
        if value is not None and (name, value) != ("budget", DEFAULT_BUDGET):
            words += [f"--{name}", str(value)]
    words += ["--seed", str(settings["seed"])] if settings["seed"] else []
    words += ["--data-dir", os.fspath(data_dir)] if data_dir is not None else []
    words += ["--device", device] if device not in (None, "cpu") else []
    return shlex.join([*words, "--out", os.fspath(out)])

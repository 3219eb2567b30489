"""An audit from beginning to end: images, shards, rows, `results.json` and the page."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from intriguing import documents
from intriguing.attacks.base import Attack
from intriguing.auditing import certificates
from intriguing.auditing import rows as rows_file
from intriguing.auditing import workers as processes
from intriguing.auditing.command import DEFAULT_BUDGET, command
from intriguing.auditing.options import attacks_of, takes
from intriguing.auditing.parts import parts as document_parts
from intriguing.auditing.shards import (
    DataSource,
    Done,
    Piece,
    Reader,
    Task,
    panel,
    pieces,
    shard,
    shard_size,
    text_of,
    with_starts,
)
from intriguing.auditing.subjects import Given, Subject, Values, side, subjects
from intriguing.auditing.watch import Tell, Watch
from intriguing.data import ImageSet
from intriguing.data.sets import folder_name
from intriguing.data.stream import Stream, of
from intriguing.errors import InputError, StoreError
from intriguing.experiments.audit_summary import Gathered
from intriguing.records import Record
from intriguing.report import audit_page, page
from intriguing.run import results as results_document
from intriguing.run.environment import environment
from intriguing.run.execute import default_workers
from intriguing.store import Damage, Store

SCHEMA = 1
TRUSTWORTHY = "trustworthy"


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
    out: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    threads: int = 1,
    shard_images: int | None = None,
    certify: bool | str = False,
    fresh: bool = False,
    progress: Tell | None = None,
    on_damage: Callable[[Damage], None] | None = None,
    on_replaced: Callable[[str], None] | None = None,
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
        size: side in pixels, for images of unequal size; None: the first model's own, if it says one.
        weights: files for models given by name, one each, or none.
        box: of models given by name; images in [0, 1] are put on its scale.
        mean: likewise, subtracted.
        std: likewise, divides.
        device: likewise.
        out: the run folder; by default ``runs/audit-<data>``.
        data_dir: where sets of images are looked up first.
        workers: processes; more than one needs models and data given by name. None: as many as there are processors
            for those on a CPU, else one.
        threads: Torch threads of each; last digits may depend on it.
        shard_images: images attacked and kept together; None: at most 200, fewer of large ones.
        certify: beside what is found, certify each image: a radius within which nothing changes the answer, in L2, or
            in Linf for ``norm=inf``. True, or a method of `bounds.certify` (True: ``"crown"``). An audit that has run
            without is certified by the same call with it, and attacks nothing again.
        fresh: attack and certify all images again.
        progress: told of every step.
        on_damage: told of damaged shards, which are computed again.
        on_replaced: told, in a sentence, of the results of another model or other data that the folder holds and this
            audit writes over.

    Raises:
        IntriguingError: models or images that cannot be used, models that cannot be certified, options no attack has,
            a folder that is not a run.

    Example:
        >>> outcome = audit("my_model.py:build", "digits", images=100, out="runs/v1")
        >>> outcome.document["figures"]["median_l2"]["value"]
    """
    known = attacks_of(attacks, budget=_budget(attacks, budget), eps=eps, norm=norm, target=target)
    given = subjects(models, weights=weights, box=box, mean=mean, std=std, device=device)
    source = DataSource(data, split, images, seed, size, text_of(data_dir)) if isinstance(data, str) else None
    stream = source.open(side(given[0].model)) if source else of(_set(data), count=images, seed=seed)
    if source:
        size = stream.size
        source = replace(source, size=size)  # for whoever opens it again, workers and all

    def whole() -> Stream:
        return replace(source, images=None).open() if source else of(_set(data))

    searches = with_starts(known, whole, given[0].model.box)
    worst_norm = math.inf if norm == math.inf else 2.0
    task = Task(
        {subject.name: subject.model for subject in given},
        {subject.name: subject.hash for subject in given},
        searches,
        worst_norm,
        seed,
        shard_size(stream.shape) if shard_images is None else shard_images,
        threads,
        certificates.method_of(certify, worst_norm),
    )
    if task.certify:
        certificates.check(task, stream)
    folder = Path(out) if out is not None else Path("runs") / f"audit-{folder_name(stream.name)}"
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
        **_starts(searches),
        **({"certify": task.certify} if task.certify else {}),
    }
    run: dict[str, Any] = {
        "kind": "audit",
        "settings": settings,
        "environment": environment(given[0].model.device),
        "seeds": {"run": seed},
        "hashes": {"model": given[0].hash},
        "command": command(given, source, stream, settings, device, data_dir, folder),
        "models": [subject.facts() for subject in given],
        "data": {"name": stream.name, "split": stream.split, "n": len(stream), "classes": list(stream.classes)},
    }
    watch = Watch(progress, len(pieces(stream, task)) + len(given) * (2 if task.certify else 1))
    # Certificates are quick beside attacks: no reason for another process.
    count = _workers(workers, source, given, len(pieces(stream, replace(task, certify=None))) + len(given))
    with Store(folder, on_damage=on_damage) as store:
        if "study" in store.run:
            raise StoreError(f"{folder} holds a run of `intriguing reproduce`; name another folder with --out")
        replaced = _replaced(folder, run)
        if replaced and on_replaced is not None:
            on_replaced(replaced)
        store.describe({**run, "cells": {}})
        if count > 1:
            assert source is not None
            _in_workers(store, task, given, source, count, fresh, watch)
        gathered, image_hashes = _gather(folder, store, task, stream, fresh and count == 1, watch)
        run["hashes"]["data"] = hashlib.sha256("".join(image_hashes).encode()).hexdigest()[:32]
        checks, seconds = _checks(store, task, stream, fresh, watch)
        sampled = _sampled(store, task, stream, fresh, watch)
        parts, tensors = document_parts(task, gathered, checks, stream, known, eps, norm, sampled)
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


def _in_workers(
    store: Store, task: Task, given: Sequence[Subject], source: DataSource, count: int, fresh: bool, watch: Watch
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
            certify=task.certify,
            fresh=fresh,
            worker=worker,
            workers=count,
        )
        for worker in range(count)
    ]
    processes.run(orders, watch.step)


def _gather(
    folder: Path, store: Store, task: Task, stream: Stream, fresh: bool, watch: Watch
) -> tuple[dict[str, Gathered], list[str]]:
    """Go through all shards, computing those that are missing; write the rows; return what the summary needs."""
    gathered = {name: Gathered(task.norm) for name in task.models}
    first = next(iter(task.models))
    read = Reader(stream, task.models[first].box)
    hashes: list[str] = []
    with rows_file.writing(folder / "rows.parquet", list(task.receivers), scratch=store.scratch()) as write:
        for piece in pieces(stream, replace(task, certify=None)):
            record = _shard(store, task, piece, read, fresh, watch).record
            if task.certify:
                beside = _shard(store, task, replace(piece, certified=True), read, fresh, watch)
                record = certificates.joined(record, beside.record)
            positions = stream.positions[piece.start : piece.stop].tolist()
            write(record.rows, positions, piece.model)
            gathered[piece.model].add(record, positions)
            if piece.model == first:
                hashes += record.rows["image_hash"][: len(positions)]
    return gathered, hashes


def _shard(store: Store, task: Task, piece: Piece, read: Reader, fresh: bool, watch: Watch) -> Done:
    images, labels = read(piece)
    watch.started(piece.label)

    def advance(done: float, total: float) -> None:
        watch.advanced(piece.label, done, total)

    make = certificates.shard if piece.certified else shard
    done = make(store, task, piece, images, labels, fresh=fresh, advance=advance)
    watch.finished(piece.label, done.seconds)
    watch.took(done)
    return done


def _checks(store: Store, task: Task, stream: Stream, fresh: bool, watch: Watch) -> tuple[list[dict[str, Any]], float]:
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


def _sampled(store: Store, task: Task, stream: Stream, fresh: bool, watch: Watch) -> dict[str, Record]:
    """Return what every method of certifying makes of a few images, by model; nothing where none was asked for."""
    found: dict[str, Record] = {}
    for name in task.models if task.certify else ():
        label = certificates.sample_label(name)
        watch.started(label)

        def advance(done: float, total: float, label: str = label) -> None:
            watch.advanced(label, done, total)

        done = certificates.sample(store, task, name, stream, fresh=fresh, advance=advance)
        watch.finished(label, done.seconds)
        watch.took(done)
        found[name] = done.record
    return found


def _write(folder: Path, run: Mapping[str, Any], record: Record, distances: Mapping[str, Sequence[float]]) -> Outcome:
    document = documents.strict({"schema": SCHEMA, "kind": "audit", "run": dict(run), **record.values})
    results_path, report_path = folder / "results.json", folder / "report.html"
    results_document.write(results_path, document)
    page.write(report_path, audit_page.build(document, {"audit": record}, distances=distances))
    return Outcome(folder, report_path, results_path, folder / "rows.parquet", document, record.values["figures"])


def _starts(attacks: Mapping[str, Attack]) -> dict[str, int]:
    """Return how many images attacks may start from, if any do."""
    given = [found for attack in attacks.values() if (found := getattr(attack, "starts", None)) is not None]
    return {"starts": len(given[0][1])} if given else {}


def _distances(gathered: Gathered, attack: str) -> list[float]:
    rows = gathered.rows(attack)
    found: list[float] = rows["distance"][rows["status"] != "already_wrong"].tolist()
    return found


def _replaced(folder: Path, now: Mapping[str, Any]) -> str:
    """Return what the folder's results are of, in a sentence, where that is another model or other data; or nothing.

    Other settings for the same models and data are the same audit, changed on purpose.
    """
    try:
        before = documents.load_audit(folder)["run"]  # what is lost, whatever run was begun here since and stopped
    except StoreError:  # none is finished, or nobody can read it
        return ""

    def subject(run: Mapping[str, Any]) -> tuple[list[str], tuple[str, ...], list[str]]:
        data = run["data"]
        sources = [m["name"] if m["source"] == "in memory" else m["source"] for m in run["models"]]
        return sources, (data["name"], data["split"], *data["classes"]), [m["hash"] for m in run["models"]]

    old, new = subject(before), subject(now)
    if old[1:] == new[1:]:
        return ""
    models = ", ".join(old[0]) + (" as it was before" if old[:2] == new[:2] else "")
    return (
        f"{folder} holds an audit of {models} on {' '.join(old[1][:2])}; its results, rows and page will be written "
        "over (--out names another folder)"
    )


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

"""A run from beginning to end: data, cells, `results.json`, `report.html`. What the command line calls."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from intriguing import data as sources
from intriguing.data import ImageSet, halves
from intriguing.data.sets import folder_name
from intriguing.data.split import HALVES, subset
from intriguing.errors import DataError, InputError, StoreError, UnknownNameError
from intriguing.records import Record
from intriguing.report import format as fmt
from intriguing.report import kept
from intriguing.report import record as record_text
from intriguing.rng import generator
from intriguing.run import results as results_document
from intriguing.run.environment import environment
from intriguing.run.events import Event
from intriguing.run.execute import execute
from intriguing.store.files import write_atomic
from intriguing.store.folder import Damage, Store
from intriguing.studies import DEFAULT_STUDY, STUDIES
from intriguing.studies.spec import Cell, Exhibit, Settings, Study

PHOTOGRAPHS = "grocery"  # the set of colour photographs that is taken where it can be found
_STAND_IN_SIZE = 64  # the least side that the large nets take, for small images that stand in for photographs


@dataclass(frozen=True)
class Outcome:
    """Where a run left its page and its results, and the results themselves."""

    report: Path
    results: Path
    document: Mapping[str, Any]


def reproduce(
    names: Sequence[str] = (),
    settings: Settings | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    device: str = "cpu",
    workers: int | None = None,
    fresh: bool = False,
    progress: Callable[[Event], None] | None = None,
    on_damage: Callable[[Damage], None] | None = None,
) -> Outcome:
    """Compute tables and figures of a study and write their page.

    Finished cells in the run folder are reused, so a run that was stopped goes on where it was.

    Args:
        names: ``"table-1"``, ``"szegedy2014/table-1"``, or ``"sandwich"`` for all of a study; none means the whole
            default study.
        settings: data, images, seed, nets per recipe, size.
        out: the run folder; by default ``runs/<study>-<data>``.
        data_dir: where sets of images are looked up first; by default the environment's INTRIGUING_DATA.
        device: ``"cpu"`` or ``"cuda"``.
        workers: processes that compute cells side by side.
        fresh: compute every cell again.
        progress: told of every step.
        on_damage: told of damaged cells, which are computed again.

    Raises:
        IntriguingError: unknown names, unusable data, a folder that is not a run; the message says what to do.

    Example:
        >>> reproduce(["table-1"], Settings(images=64), out="runs/t1").report
        PosixPath('runs/t1/report.html')
    """
    settings = settings or Settings()
    _check(settings)
    study, exhibits = choose(names)
    where = _device(device)
    asked, settings = settings, dataclasses.replace(settings, photographs=_photographs(settings, data_dir))
    splits = Splits(settings, data_dir=data_dir)
    settings = dataclasses.replace(settings, examples=len(splits("train").labels))
    if settings.images > len(splits("train").labels):
        raise InputError(
            f"images: {settings.images} asked for, but {settings.data} has only "
            f"{settings.examples} training images; pass --images with at most that many"
        )
    cells = [exhibit.cell(settings) for exhibit in exhibits]
    wanted = sorted({"train", "test"} | {split for cell in cells for split in _splits_of(cell)})
    hashes = {split: splits(split).hash for split in wanted}
    folder = Path(out) if out is not None else Path("runs") / f"{study.name}-{folder_name(settings.data)}"
    with Store(folder, on_damage=on_damage) as store:
        run: dict[str, Any] = {
            "study": study.name,
            "exhibits": [exhibit.name for exhibit in exhibits],
            "settings": dataclasses.asdict(settings),
            "seeds": {"run": settings.seed, "nets": [settings.seed + index for index in range(settings.nets)]},
            "hashes": {splits.title(split): value for split, value in hashes.items()},
            "data": {split: dict(splits(split).notes) for split in wanted},
            "data_hashes": hashes,
            "cells": {exhibit.name: cell.key(hashes) for exhibit, cell in zip(exhibits, cells, strict=True)},
            "environment": environment(where),
            "command": _command(names, asked, folder, data_dir, where),
        }
        store.describe(run)
        records = execute(
            cells,
            store,
            load_data=splits,
            data_hashes=hashes,
            device=where,
            workers=workers,
            fresh=fresh,
            progress=progress,
        )
        by_name = {exhibit.name: records[cell.key(hashes)] for exhibit, cell in zip(exhibits, cells, strict=True)}
        return _write(store, folder, study, exhibits, settings, by_name, run)


def report(folder: str | os.PathLike[str], *, markdown: str | os.PathLike[str] | None = None) -> Outcome:
    """Write the page of a run again from what is stored; nothing is computed.

    Args:
        folder: a run folder.
        markdown: where to write every number as a text of tables too.

    Raises:
        StoreError: not a run folder, or cells are missing or damaged.
    """
    path = Path(folder)
    with Store(path, mode="read") as store:
        run = store.run
        if "study" not in run:
            raise StoreError(f"{path} holds no finished run; run `intriguing reproduce --out {path}` first")
        study, exhibits = choose([f"{run['study']}/{name}" for name in run["exhibits"]])
        settings = Settings(**run["settings"])
        records: dict[str, Record] = {}
        for exhibit in exhibits:
            key = run.get("cells", {}).get(exhibit.name)
            record = store.get(key) if key else None
            if record is None:
                raise StoreError(
                    f"{exhibit.name} is not finished in {path}; run `{run.get('command', 'intriguing reproduce')}` "
                    "to compute what is missing"
                )
            records[exhibit.name] = record
        seconds = _seconds(store, run["cells"].values())
        outcome = _write(store, path, study, exhibits, settings, records, run, again=True)
    if markdown is not None:
        text = record_text.build(study, outcome.document, command=str(run.get("command", "")), seconds=seconds)
        _write_text(Path(markdown), text)
    return outcome


def choose(names: Sequence[str]) -> tuple[Study, list[Exhibit]]:
    """Return the study and its exhibits that the names ask for; a study's name asks for all, none for the default's.

    Raises:
        UnknownNameError: a name that no study has.
        InputError: names of more than one study.
    """
    every = {name: [f"{name}/{exhibit.name}" for exhibit in study.exhibits] for name, study in STUDIES.items()}
    wanted = [full.rpartition("/") for name in names for full in every.get(name, [name])]
    studies = {study or DEFAULT_STUDY for study, _, _ in wanted} or {DEFAULT_STUDY}
    for name in studies:
        if name not in STUDIES:
            raise UnknownNameError("study", name, STUDIES)
    if len(studies) > 1:
        raise InputError(f"one run is of one study, got {', '.join(sorted(studies))}; run them one by one")
    study = STUDIES[studies.pop()]
    known = [exhibit.name for exhibit in study.exhibits]
    asked = [name for _, _, name in wanted] or known
    for name in asked:
        if name not in known:
            raise UnknownNameError("table or figure", name, known)
    return study, [exhibit for exhibit in study.exhibits if exhibit.name in asked]


def _seconds(store: Store, keys: Iterable[str]) -> dict[str, float]:
    """Return label -> seconds of the cells `keys` and of all they needed."""
    taken: dict[str, float] = {}
    seen: set[str] = set()
    waiting = list(keys)
    while waiting:
        key = waiting.pop()
        meta = store.meta(key) if key not in seen else None
        seen.add(key)
        if meta is not None:
            taken[str(meta["label"])] = taken.get(str(meta["label"]), 0.0) + float(meta["seconds"])
            waiting += meta["needs"].values()
    return taken


def _write_text(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(os.fspath(path), (text + "\n").encode())
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise StoreError(f"{path} could not be written: {reason}; name another file") from error


def _write(
    store: Store,
    folder: Path,
    study: Study,
    exhibits: Sequence[Exhibit],
    settings: Settings,
    records: Mapping[str, Record],
    run: Mapping[str, Any],
    *,
    again: bool = False,
) -> Outcome:
    """Write the results, and the page unless the one that is there was made of the same, or `again` asks for it."""
    meta = {key: run[key] for key in ("environment", "seeds", "hashes", "data") if key in run}
    meta["hashes"] = {**meta.get("hashes", {}), "cells": run["cells"]}
    document = results_document.compose(study, exhibits, settings, records, meta)
    results_path, report_path = folder / "results.json", folder / "report.html"
    results_document.write(results_path, document)
    command = str(run.get("command", ""))
    stored = {name: (store.meta(key) or {}).get("files") for name, key in run["cells"].items()}
    made_of = kept.key({"document": document, "records": stored, "command": command})
    if again or not kept.is_kept(report_path, made_of):
        from intriguing.report import page  # here, as drawing is slow to import

        html = page.build(study, document, records, command=command)
        page.write(report_path, kept.sealed(fmt.clean(html), made_of))
    return Outcome(report_path, results_path, document)


class Splits:
    """The images of a run by split, loaded on first use; see `studies.spec.Cell.data` for their names."""

    def __init__(self, settings: Settings, *, data_dir: str | os.PathLike[str] | None = None) -> None:
        self._settings, self._data_dir = settings, data_dir
        self._loaded: dict[str, ImageSet] = {}

    def __call__(self, split: str) -> ImageSet:
        """Return the images of a split.

        Raises:
            DataError: images that cannot be used; the message says why.
        """
        if split not in self._loaded:
            self._load(split)
        return self._loaded[split]

    def title(self, split: str) -> str:
        """Return a split's name with that of its set, ``"mnist/train"``."""
        return f"{self(split).name}/{split.removeprefix('photographs/')}"

    def _load(self, split: str) -> None:
        chosen = self._settings
        if split in HALVES:
            train = self("train")
            parts = halves(train.labels, generator("halves", chosen.seed))
            self._loaded |= {half: subset(train, ids, half) for half, ids in zip(HALVES, parts, strict=True)}
            return
        prefix, name, size = "", chosen.data, chosen.size
        if split.startswith("photographs/"):
            prefix, name, size = "photographs/", chosen.photographs or chosen.data, chosen.photo_size
            if chosen.photographs is None:
                size = min(size, _STAND_IN_SIZE)
        pair = {part: sources.load(name, part, data_dir=self._data_dir, size=size) for part in ("train", "test")}
        _check_splits(name, pair)
        self._loaded |= {prefix + part: images for part, images in pair.items()}


def _photographs(settings: Settings, data_dir: str | os.PathLike[str] | None) -> str | None:
    """Return the set of photographs a run uses: the one asked for, the usual one where it is at hand, or none."""
    if settings.photographs is not None:
        return settings.photographs
    return PHOTOGRAPHS if PHOTOGRAPHS in sources.names(data_dir) else None


def _splits_of(cell: Cell) -> set[str]:
    """Return the splits that a cell and all it needs read."""
    found: set[str] = set()
    seen: set[int] = set()
    waiting = [cell]
    while waiting:
        now = waiting.pop()
        if id(now) not in seen:
            seen.add(id(now))
            found |= set(now.data)
            waiting += now.needs.values()
    return found


def _check(settings: Settings) -> None:
    for name, value in (("images", settings.images), ("nets", settings.nets), ("photo_size", settings.photo_size)):
        if value < 1:
            raise InputError(f"{name}: expected at least 1, got {value}; the default is {getattr(Settings(), name)}")
    if not settings.data:
        raise InputError("data: the name is empty; name a set, for example digits")


def _check_splits(name: str, splits: Mapping[str, ImageSet]) -> None:
    """Refuse splits that are not of one kind: a net could not be tested, or would be tested on other classes."""
    train, test = splits["train"], splits["test"]
    shapes = [tuple(images.images.shape[1:]) for images in (train, test)]
    if shapes[0] != shapes[1]:
        raise DataError(
            f"{name}: training images are {shapes[0]} (channels, height, width), test images {shapes[1]}; "
            "pass --size, or give both splits the same channels"
        )
    if train.classes != test.classes:
        raise DataError(
            f"{name}: the classes of train and test differ or stand in another order; "
            "give both splits the same class names"
        )
    if train.hash == test.hash:
        raise DataError(
            f"{name}: training and test images are the same; give it the splits train and test, of different images"
        )
    if len(train.classes) < 2:
        raise DataError(f"{name} has one class, {train.classes[0]!r}; an attack needs at least two")


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device: {name!r} is no device; use cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("device: this machine has no usable CUDA device; use --device cpu")
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device: {name!r} is not supported; use cpu or cuda")
    return device


def _command(
    names: Sequence[str],
    settings: Settings,
    folder: Path,
    data_dir: str | os.PathLike[str] | None,
    device: torch.device,
) -> str:
    """Return the command line that makes the run again, defaults left out."""
    words = ["intriguing", "reproduce", *names]
    standard = Settings()
    for field in dataclasses.fields(Settings):
        value = getattr(settings, field.name)
        if value != getattr(standard, field.name):
            flag = f"--{field.name.replace('_', '-')}"
            words += [flag] if value is True else [flag, str(value)]
    if data_dir is not None:
        words += ["--data-dir", os.fspath(data_dir)]
    if device.type != "cpu":
        words += ["--device", str(device)]
    words += ["--out", str(folder)]
    return shlex.join(words)

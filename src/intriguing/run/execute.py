"""Computes what is asked for and not in the store yet, each distinct cell once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from intriguing.errors import InputError, StoreError
from intriguing.records import Images, Record
from intriguing.run.compute import compute
from intriguing.run.environment import cpu_count
from intriguing.run.events import Event
from intriguing.run.failure import explain
from intriguing.run.plan import Task, plan, width
from intriguing.run.pool import run_in_workers
from intriguing.store import Store
from intriguing.studies.spec import Cell

# More interpreters than this cost more memory and start-up than they save on the cells of a paper.
_MOST_WORKERS = 8


def execute(
    cells: Sequence[Cell],
    store: Store,
    *,
    load_data: Callable[[str], Images],
    data_hashes: Mapping[str, str],
    device: torch.device | str = "cpu",
    workers: int | None = None,
    threads: int = 1,
    fresh: bool = False,
    progress: Callable[[Event], None] | None = None,
) -> dict[str, Record]:
    """Return the records of `cells`, computing those that the store does not hold whole.

    Every cell of the graph is looked up and checked first. Those that are absent or damaged are computed in
    an order that respects `Cell.needs`; the others are not touched. Numbers do not depend on `workers`: a
    cell is pure, reads its needs from the store, and runs with the same number of Torch threads everywhere.

    Args:
        cells: what is asked for; what they need comes along.
        store: opened to write.
        load_data: split -> images, whose ``hash`` is that of `data_hashes`. Called in this process, at most
            once per split, and only if a cell that reads the split is computed.
        data_hashes: split -> content hash, for every split that a cell reads.
        device: where cells compute.
        workers: processes; 1 computes in this one. By default as many as there are processors and cells to
            run side by side, at most 8, and 1 on anything but a CPU, which the cells would only share.
        threads: Torch threads of each cell. Two contended threads are slower than one on small nets, hence 1;
            sums, and so last digits, may depend on it.
        fresh: compute everything again; each old record stays until its successor is there.
        progress: called with an `Event` at each step, in this thread.

    Returns:
        Key -> record, for `cells` alone, on the CPU.

    Raises:
        InputError: if an argument is out of range, or a cell reads a split without a hash.
        CellError: if a cell's function raises anything unexpected; the library's own errors come as they are,
            with the cell's name as a note. Cells that were running elsewhere are finished and kept first.
        StoreError: if the store cannot be written; what is finished is kept.
        KeyboardInterrupt: on Ctrl-C; workers are ended, what is finished is kept.

    Example:
        >>> cell = Cell("intriguing.training.recipes:train", {"net": "FC10", "seed": 0}, data=("train",))
        >>> with Store("runs/t1") as store:  # doctest: +SKIP
        ...     records = execute([cell], store, load_data=load, data_hashes={"train": load("train").hash})
    """
    for name, number in (("workers", workers), ("threads", threads)):
        if number is not None and number < 1:
            raise InputError(f"{name} must be at least 1, got {number}")
    tasks = plan(cells, data_hashes)
    wanted = [cell.key(data_hashes) for cell in cells]
    watcher = _Watcher(len(tasks), progress)
    records: dict[str, Record] = {}
    pending: dict[str, Task] = {}
    for key, task in tasks.items():
        if fresh or not _there(store, key, records, wanted):
            pending[key] = task
        else:
            watcher.reused(task)

    count = min(workers or default_workers(device), width(pending))
    if count > 1:
        run_in_workers(
            pending,
            store,
            load=load_data,
            device=str(device),
            threads=threads,
            workers=count,
            watcher=watcher,
        )
    else:
        _run_here(pending, store, load=load_data, device=str(device), threads=threads, watcher=watcher)
    return {key: records[key] if key in records else _read(store, key) for key in wanted}


def default_workers(device: torch.device | str = "cpu") -> int:
    """Return the most processes `execute` uses unless it is told a number."""
    return min(cpu_count(), _MOST_WORKERS) if torch.device(device).type == "cpu" else 1


class _Watcher:
    """Counts cells and makes the events."""

    def __init__(self, cells: int, progress: Callable[[Event], None] | None) -> None:
        self._cells = cells
        self._complete = 0
        self._progress = progress or (lambda event: None)

    def reused(self, task: Task) -> None:
        self._complete += 1
        self._progress(Event("reused", task.key, task.label, self._complete, self._cells))

    def started(self, task: Task, worker: int) -> None:
        self._progress(Event("started", task.key, task.label, self._complete, self._cells, worker=worker))

    def advanced(self, task: Task, worker: int, done: float, total: float) -> None:
        self._progress(Event("advanced", task.key, task.label, self._complete, self._cells, done, total, worker))

    def finished(self, task: Task, worker: int, seconds: float) -> None:
        self._complete += 1
        self._progress(
            Event(
                "finished",
                task.key,
                task.label,
                self._complete,
                self._cells,
                worker=worker,
                seconds=seconds,
            )
        )


def _there(store: Store, key: str, records: dict[str, Record], wanted: Sequence[str]) -> bool:
    """Tell whether the store holds the cell whole; the records that are asked for are kept on the way."""
    if key not in wanted:
        return store.meta(key) is not None
    record = store.get(key)
    if record is not None:
        records[key] = record
    return record is not None


def _run_here(
    tasks: Mapping[str, Task],
    store: Store,
    *,
    load: Callable[[str], Images],
    device: str,
    threads: int,
    watcher: _Watcher,
) -> None:
    splits: dict[str, Images] = {}

    def load_once(split: str) -> Images:
        if split not in splits:
            splits[split] = load(split)
        return splits[split]

    for task in tasks.values():

        def advance(done: float, total: float, task: Task = task) -> None:
            watcher.advanced(task, 0, done, total)

        watcher.started(task, 0)
        failure = None
        try:
            seconds = compute(task, store, load=load_once, device=device, threads=threads, progress=advance)
        except Exception as error:
            failure = explain(task.label, error)
        if failure is not None:  # raised out here, so that only its true cause is chained to it
            raise failure
        watcher.finished(task, 0, seconds)


def _read(store: Store, key: str) -> Record:
    record = store.get(key)
    if record is None:
        raise StoreError(
            f"cell {key} was written to {store.path} and cannot be read back; check the disk, then run "
            "the same command again"
        )
    return record

"""Tasks in several worker processes.

A worker is a fresh interpreter: neither fork, which Torch's threads do not survive, nor multiprocessing's
spawn, which runs the caller's script a second time. It reads orders from a pipe and exits when the pipe ends,
so it never outlives its parent, whatever ends that. Records go through the store, not through the pipe.
"""

from __future__ import annotations

import json
import pickle
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Protocol

from intriguing.errors import IntriguingError
from intriguing.records import Images
from intriguing.run.compute import checked
from intriguing.run.failure import CellError, Failure, explain
from intriguing.run.plan import Task
from intriguing.run.worker import Advanced, Finished, Message, Order, share
from intriguing.store import Store

# The terminal sends Ctrl-C to the whole group: the parent alone decides what it means. What a library prints
# goes to the error stream, for the output is the channel of messages. The path finds what the parent finds.
_BOOT = """
import json, os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
channel = os.dup(1)
os.dup2(2, 1)
sys.path[:] = json.loads(sys.argv[1])
from intriguing.run.worker import main
main(channel)
"""


class Watcher(Protocol):
    """Who is told what the workers do."""

    def started(self, task: Task, worker: int) -> None:
        """A worker was sent the task."""

    def advanced(self, task: Task, worker: int, done: float, total: float) -> None:
        """Its function reported progress."""

    def finished(self, task: Task, worker: int, seconds: float) -> None:
        """Its record is in the store."""


class _Worker:
    """A process, the task it is at, and a thread that passes its messages on."""

    def __init__(self, number: int, messages: queue.SimpleQueue[tuple[_Worker, Message | None]]) -> None:
        self.number = number
        self.task: Task | None = None
        path = json.dumps([str(entry) for entry in sys.path])
        self.process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._input: IO[bytes] = self.process.stdin
        self._output: IO[bytes] = self.process.stdout
        self._messages = messages
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def send(self, order: Order) -> None:
        self.task = order.task
        with suppress(BrokenPipeError):  # it died: the reader says so
            pickle.dump(order, self._input)
            self._input.flush()

    def end(self) -> None:
        """Kill it: it is idle, or what it is at is not wanted. A cell is stored whole or not at all."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        self._output.close()
        with suppress(BrokenPipeError):
            self._input.close()

    def _read(self) -> None:
        message: Message | None
        while True:
            try:
                message = pickle.load(self._output)
            except Exception:  # the pipe ended, in the middle of a message perhaps
                message = None
            self._messages.put((self, message))
            if message is None:
                return


class _Shares:
    """Images written once to the run folder, for workers to map; removed at the end."""

    def __init__(self, store: Store, load: Callable[[str], Images]) -> None:
        self._store, self._load = store, load
        self._files: dict[str, Path] = {}

    def file(self, split: str, expected: str) -> str:
        if split not in self._files:
            images = checked(self._load(split), split, expected)
            file = self._store.scratch() / "images.pt"
            with self._store.writing(f"the images of {split!r}, to share them among workers,"):
                share(images, file)
            self._files[split] = file
        return str(self._files[split].resolve())

    def remove(self) -> None:
        for file in self._files.values():
            shutil.rmtree(file.parent, ignore_errors=True)


def run_in_workers(
    tasks: Mapping[str, Task],
    store: Store,
    *,
    load: Callable[[str], Images],
    device: str,
    threads: int,
    workers: int,
    watcher: Watcher,
) -> None:
    """Compute the tasks, each as soon as its needs are there and a worker is free.

    Args:
        tasks: in order; needs that are not among them are in the store.
        store: opened by this process to write.
        load: split -> images; called once per split, here.
        device: where to compute.
        threads: Torch threads of each cell.
        workers: the most processes at a time.
        watcher: told of every step, from this thread.

    Raises:
        IntriguingError: the first failure, after the cells that were running have ended; no other starts.
        KeyboardInterrupt: at once; the workers are gone when it leaves this function.
    """
    waiting = dict(tasks)
    missing = set(tasks)
    pool: list[_Worker] = []
    messages: queue.SimpleQueue[tuple[_Worker, Message | None]] = queue.SimpleQueue()
    shares = _Shares(store, load)
    failure: Exception | None = None

    def free() -> _Worker | None:
        idle = [worker for worker in pool if worker.task is None]
        if idle or len(pool) == workers:
            return idle[0] if idle else None
        pool.append(_Worker(len(pool), messages))
        return pool[-1]

    def start_ready() -> None:
        for key, task in list(waiting.items()):
            if missing.isdisjoint(task.needs.values()):
                worker = free()
                if worker is None:
                    return
                data = {split: shares.file(split, expected) for split, expected in task.data.items()}
                worker.send(Order(task, str(store.path.resolve()), data, device, threads))
                del waiting[key]
                watcher.started(task, worker.number)

    try:
        while True:
            if failure is None:
                start_ready()
            if all(worker.task is None for worker in pool):
                break
            worker, message = messages.get()
            task = worker.task
            assert task is not None
            if isinstance(message, Advanced):
                watcher.advanced(task, worker.number, message.done, message.total)
                continue
            worker.task = None
            if isinstance(message, Finished):
                missing.discard(task.key)
                watcher.finished(task, worker.number, message.seconds)
            elif isinstance(message, Failure):
                failure = failure or explain(task.label, message.error())
            else:
                pool.remove(worker)
                worker.end()
                failure = failure or _death(task, worker)
    finally:
        for worker in pool:
            worker.end()
        shares.remove()
    if failure is not None:
        raise failure


def _death(task: Task, worker: _Worker) -> IntriguingError:
    code = worker.process.returncode
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return CellError(
        f"the worker process at the cell {task.label!r} {how}; finished cells are kept. If memory ran out, "
        "run the same command again with fewer workers or images"
    )

"""Shards in several processes: worker w of W takes every W-th shard and puts it into the store.

Nothing but progress comes back through the pipe. A worker is a fresh interpreter that loads the models itself, reads
its orders from its input and ends when that ends, so it never outlives its parent.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any

from intriguing.attacks.base import Attack
from intriguing.auditing import certificates
from intriguing.auditing.shards import DataSource, Reader, Task, pieces, shard
from intriguing.auditing.subjects import Source, reload
from intriguing.errors import IntriguingError
from intriguing.run.failure import CellError, Failure, explain
from intriguing.store import Store

# What a user's code prints goes to the error stream, for the output is the channel of messages. Ctrl-C reaches the
# whole group: the parent alone decides what it means.
_BOOT = """
import json, os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
channel = os.dup(1)
os.dup2(2, 1)
sys.path[:] = json.loads(sys.argv[1])
from intriguing.auditing.workers import main
main(channel)
"""


@dataclass(frozen=True)
class Order:
    """All that a worker needs.

    Attributes:
        store: absolute path of the run folder.
        data: which images.
        sources: of the models, by name.
        hashes: of the models, by name.
        attacks: by name.
        norm: as in `shards.Task`.
        seed: likewise.
        size: likewise.
        threads: likewise.
        certify: likewise.
        fresh: make shards that are there too.
        worker: its number, from 0.
        workers: how many there are.
    """

    store: str
    data: DataSource
    sources: Mapping[str, Source]
    hashes: Mapping[str, str]
    attacks: Mapping[str, Attack]
    norm: float
    seed: int
    size: int
    threads: int
    certify: str | None
    fresh: bool
    worker: int
    workers: int


@dataclass(frozen=True)
class Step:
    """A shard was begun, goes on, or is there. `seconds` is None for one that was there before."""

    kind: str
    worker: int
    label: str
    key: str = ""
    done: float = 0.0
    total: float = 0.0
    seconds: float | None = None


def run(orders: list[Order], told: Callable[[Step], None]) -> None:
    """Run the workers to their end.

    Args:
        orders: one per worker.
        told: called with each step, in this thread.

    Raises:
        IntriguingError: the first failure, after the others have been ended; what is finished is kept.
    """
    messages: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    path = json.dumps([str(entry) for entry in sys.path])
    command = [sys.executable, "-c", _BOOT, path]
    processes: list[subprocess.Popen[bytes]] = []
    readers: list[threading.Thread] = []
    waiting = set(range(len(orders)))
    failure: Exception | None = None
    try:
        for order in orders:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            processes.append(process)
            assert process.stdin is not None
            assert process.stdout is not None
            reader = threading.Thread(target=_listen, args=(order.worker, process.stdout, messages), daemon=True)
            reader.start()
            readers.append(reader)
            try:
                pickle.dump(order, process.stdin)
                process.stdin.flush()
            except BrokenPipeError:  # it died: its reader says so
                continue
        labels = dict.fromkeys(waiting, "a worker")
        while waiting and failure is None:
            worker, message = messages.get()
            if isinstance(message, Step):
                labels[worker] = message.label
                told(message)
            elif isinstance(message, Failure):
                failure = explain(labels[worker], message.error())
            else:
                waiting.discard(worker)
                code = processes[worker].wait()
                if code:
                    failure = _death(labels[worker], code)
    finally:
        for process in processes:
            process.kill()  # it has ended, or what it is at is not wanted: a shard is stored whole or not at all
            process.wait()
        for reader in readers:
            reader.join()
        for process in processes:
            for pipe in (process.stdin, process.stdout):
                _close(pipe)
    if failure is not None:
        raise failure


def main(channel: int) -> None:
    """Serve one order, then end.

    Args:
        channel: descriptor to write messages to.
    """
    order: Order = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    with os.fdopen(channel, "wb") as output:

        def send(message: Step | Failure) -> None:
            pickle.dump(message, output)
            output.flush()

        try:
            _serve(order, send)
        except Exception as error:  # the parent raises it
            send(Failure.of(error))
    sys.stderr.flush()
    os._exit(0)  # an ordinary end would wait for the thread at the input


def _serve(order: Order, send: Callable[[Step], None]) -> None:
    images = order.data.open()
    models = {name: reload(source, order.hashes[name]) for name, source in order.sources.items()}
    task = Task(models, order.hashes, order.attacks, order.norm, order.seed, order.size, order.threads, order.certify)
    read = Reader(images, next(iter(models.values())).box)
    with Store(order.store, mode="join") as store:
        for piece in pieces(images, task)[order.worker :: order.workers]:
            send(Step("started", order.worker, piece.label))

            def advance(done: float, total: float, label: str = piece.label) -> None:
                send(Step("advanced", order.worker, label, done=done, total=total))

            make = certificates.shard if piece.certified else shard
            made = make(store, task, piece, *read(piece), fresh=order.fresh, advance=advance)
            send(Step("finished", order.worker, piece.label, key=made.key, seconds=made.seconds))


def _listen(worker: int, output: IO[bytes], messages: queue.SimpleQueue[tuple[int, Any]]) -> None:
    while True:
        try:
            message = pickle.load(output)
        except Exception:  # the pipe ended, in the middle of a message perhaps
            message = None
        messages.put((worker, message))
        if message is None:
            return


def _leave_with_parent() -> None:
    sys.stdin.buffer.read()
    # The main thread may be deep in an attack nobody waits for any more.
    os._exit(0)


def _close(pipe: IO[bytes] | None) -> None:
    try:
        if pipe is not None:
            pipe.close()
    except BrokenPipeError:
        pass


def _death(label: str, code: int) -> IntriguingError:
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return CellError(
        f"the worker process at {label} {how}; finished shards are kept. If memory ran out, run the same command again "
        "with --workers 1 or a smaller --size"
    )

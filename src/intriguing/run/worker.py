"""The other end of `pool`: a process that computes the cells it is sent and says how far it is.

It reads pickled orders from its standard input and writes pickled messages to the descriptor it is given.
When its input ends, because its parent closed it or died in whatever way, it exits at once: no orphans.
"""

from __future__ import annotations

import os
import pickle
import queue
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch

from intriguing import memory
from intriguing.records import Images
from intriguing.run.compute import compute
from intriguing.run.failure import Failure
from intriguing.run.plan import Task
from intriguing.store import Store


@dataclass(frozen=True)
class Order:
    """A task for a worker, with all that it takes to compute it.

    Attributes:
        task: what to compute.
        store: absolute path of the run folder.
        data: split -> file with its images, as `share` wrote it.
        device: where to compute.
        threads: Torch threads.
    """

    task: Task
    store: str
    data: dict[str, str]
    device: str
    threads: int


@dataclass(frozen=True)
class Advanced:
    """The function reported progress."""

    done: float
    total: float


@dataclass(frozen=True)
class Finished:
    """The record is in the store."""

    seconds: float


Message = Advanced | Finished | Failure


def share(images: Images, file: str | os.PathLike[str]) -> None:
    """Write images where workers can map them, so that all of them share one copy in memory.

    Raises:
        OSError: if the disk is full.
    """
    with open(file, "wb") as output:  # given a path, Torch hides the system's reason when the disk is full
        torch.save(images, output)


def _shared(file: str) -> Images:
    # Not weights_only: this is a whole object, which this run's own parent wrote a moment ago. A worker that
    # changes a mapped tensor changes its private copy of the page.
    images: Images = torch.load(file, mmap=True, weights_only=False)
    return images


def main(channel: int) -> None:
    """Serve orders until the input ends.

    Args:
        channel: descriptor to write messages to.
    """
    memory.keep_freed()
    orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    splits: dict[str, Images] = {}
    with os.fdopen(channel, "wb") as output:

        def send(message: Message) -> None:
            pickle.dump(message, output)
            output.flush()

        def advance(done: float, total: float) -> None:
            send(Advanced(done, total))

        while True:
            send(_serve(orders.get(), splits, advance))


def _serve(order: Order, splits: dict[str, Images], progress: Callable[[float, float], None]) -> Finished | Failure:
    def load(split: str) -> Images:
        file = order.data[split]
        if file not in splits:
            splits[file] = _shared(file)
        return splits[file]

    try:
        with Store(order.store, mode="join") as store:
            seconds = compute(
                order.task, store, load=load, device=order.device, threads=order.threads, progress=progress
            )
    except Exception as error:  # the parent raises it
        return Failure.of(error)
    return Finished(seconds)


def _listen(orders: queue.SimpleQueue[Order]) -> None:
    try:
        while True:
            orders.put(pickle.load(sys.stdin.buffer))
    finally:
        # The main thread may be deep in a computation nobody waits for any more. What it has not finished
        # writing lies under tmp/ and is cleared later.
        os._exit(0)

"""One cell, computed and stored: the same steps in the caller's process and in a worker."""

from __future__ import annotations

import functools
import importlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from intriguing.errors import DataError, InputError, StoreError
from intriguing.records import Images, Inputs, Record
from intriguing.rng import generator
from intriguing.run.environment import environment
from intriguing.run.events import throttled
from intriguing.run.plan import Task
from intriguing.store import Store


def compute(
    task: Task,
    store: Store,
    *,
    load: Callable[[str], Images],
    device: str,
    threads: int,
    progress: Callable[[float, float], None],
) -> float:
    """Run the task's function and put its record into the store.

    What the function needs is read back from the store even if it was just computed here, so that a cell
    sees the same thing in a first run, a resumed one, and a worker.

    Args:
        task: what to compute; its needs are in the store.
        store: where records come from and go to.
        load: split -> images.
        device: where the function computes.
        threads: Torch threads while it does; the caller's number is restored. Sums depend on it.
        progress: called as ``progress(done, total)``, at most ten times a second.

    Returns:
        The seconds it took.

    Raises:
        Exception: whatever the function raises; StoreError if a need is gone or the store cannot be written.
    """
    function = _resolve(task.function)
    needs = {name: _need(store, task, name, key) for name, key in task.needs.items()}

    def data(split: str) -> Images:
        if split not in task.data:
            raise InputError(
                f"the cell {task.label!r} reads the split {split!r} but declares {sorted(task.data)}: "
                "its key would not depend on those images; add the split to the cell's data"
            )
        return checked(load(split), split, task.data[split])

    inputs = Inputs(data=data, needs=needs, device=torch.device(device), progress=throttled(progress))
    start = time.perf_counter()
    with _threads(threads), _own_randomness(task.key, inputs.device):
        record = function(inputs, **task.settings)
    seconds = time.perf_counter() - start
    if not isinstance(record, Record):
        raise TypeError(f"{task.function} returned a {type(record).__name__}; expected a Record")
    store.put(task.key, record, _meta(task, seconds, device))
    return seconds


def checked(images: Images, split: str, expected: str) -> Images:
    """Return `images` if they are those the keys were made from.

    Raises:
        DataError: if their hash is another one.
    """
    if images.hash != expected:
        raise DataError(
            f"the split {split!r} has the hash {images.hash[:12]}, but the run was planned with "
            f"{expected[:12]}: the images changed meanwhile; start the run again"
        )
    return images


def _resolve(reference: str) -> Callable[..., Any]:
    module, colon, name = reference.partition(":")
    if not colon:
        raise InputError(f"function {reference!r} must have the form 'package.module:name'")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def _need(store: Store, task: Task, name: str, key: str) -> Record:
    record = store.get(key)
    if record is None:
        raise StoreError(
            f"the record {name!r} that the cell {task.label!r} needs is missing from {store.path} or "
            "damaged; run the same command again: it is computed anew"
        )
    return record


def _meta(task: Task, seconds: float, device: str) -> dict[str, Any]:
    where = _environment(device)
    return {
        "label": task.label,
        "function": task.function,
        "settings": task.settings,
        "needs": task.needs,
        "data": task.data,
        "seconds": seconds,
        "package": where["intriguing"],
        "machine": {name: item for name, item in where.items() if name != "intriguing"},
    }


_environment = functools.cache(environment)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _own_randomness(key: str, device: torch.device) -> Iterator[None]:
    """Give a cell Torch's global generators in a state of its own, and restore the caller's.

    Cells draw from generators they make themselves. But a layer's constructor draws from the global one: its
    numbers must not depend on which cells ran before, nor move the caller's.
    """
    seed = generator(f"cell/{key}", 0).initial_seed()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed(seed)
        yield

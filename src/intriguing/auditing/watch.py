"""What an audit tells its caller while it works."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from intriguing.auditing import workers as processes
from intriguing.auditing.shards import Done
from intriguing.run.events import Event

Tell = Callable[[Event], None]


class Watch:
    """Counts shards and makes the events.

    Args:
        progress: told of every step, or None.
        cells: how many there are.

    Attributes:
        seconds: what all shards cost, in this run or in earlier ones.
    """

    def __init__(self, progress: Tell | None, cells: int) -> None:
        self.cells, self.seconds = cells, 0.0
        self._told = progress or (lambda event: None)
        self._complete: set[str] = set()

    def started(self, label: str, worker: int = 0) -> None:
        """Say that a shard is begun."""
        self._told(Event("started", "", label, len(self._complete), self.cells, worker=worker))

    def advanced(self, label: str, done: float, total: float, worker: int = 0) -> None:
        """Say how far it is."""
        self._told(Event("advanced", "", label, len(self._complete), self.cells, done, total, worker))

    def finished(self, label: str, seconds: float | None, worker: int = 0) -> None:
        """Say that it is there; `seconds` is None for one that was there before."""
        if label in self._complete:  # a worker made it, and it is read now
            return
        self._complete.add(label)
        kind: Any = "reused" if seconds is None else "finished"
        self._told(Event(kind, "", label, len(self._complete), self.cells, worker=worker, seconds=seconds or 0.0))

    def step(self, step: processes.Step) -> None:
        """Pass on what a worker says."""
        if step.kind == "started":
            self.started(step.label, step.worker)
        elif step.kind == "advanced":
            self.advanced(step.label, step.done, step.total, step.worker)
        else:
            self.finished(step.label, step.seconds, step.worker)

    def took(self, done: Done) -> None:
        """Count what a shard cost, in this run or in an earlier one."""
        self.seconds += float(done.record.values["seconds"])

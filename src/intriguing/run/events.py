"""What `execute` tells its caller while it works: plain events, passed to a callback."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

# Often enough for a bar to look alive; rarer than a tight loop reports.
_INTERVAL = 0.1  # seconds


@dataclass(frozen=True)
class Event:
    """One step of a run.

    Attributes:
        kind: ``"reused"``, the cell was in the store; ``"started"``; ``"advanced"``, its function reported
            `done` of `total`; ``"finished"``, it is in the store now.
        key: the cell's key.
        label: what to call the cell.
        complete: cells finished or reused so far, this one included.
        cells: all cells of the run, dependencies included.
        done: how much of the cell is done, in the function's own unit, in [0, total].
        total: how much there is; 0 if the function has not said.
        worker: which process computes it, from 0; 0 as well when there is only the caller's.
        seconds: what it took, for ``"finished"``.
    """

    kind: Literal["reused", "started", "advanced", "finished"]
    key: str
    label: str
    complete: int
    cells: int
    done: float = 0.0
    total: float = 0.0
    worker: int = 0
    seconds: float = 0.0


def throttled(report: Callable[[float, float], None]) -> Callable[[float, float], None]:
    """Return `report`, called at most ten times a second and always when done reaches total."""
    last = float("-inf")

    def advance(done: float, total: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _INTERVAL or done >= total:
            last = now
            report(float(done), float(total))

    return advance

"""Progress of a run on a terminal, or as plain lines where there is none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from intriguing.run.events import Event


@contextmanager
def shown(console: Console, *, quiet: bool) -> Iterator[Callable[[Event], None] | None]:
    """Yield a callback that shows a run's events on `console` while the block runs."""
    if quiet:
        yield None
    elif console.is_terminal:
        with _bars(console) as callback:
            yield callback
    else:
        yield _lines(console)


@contextmanager
def _bars(console: Console) -> Iterator[Callable[[Event], None]]:
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        transient=True,
    )
    workers: dict[int, TaskID] = {}
    with bars:
        overall = bars.add_task("all cells", total=None)

        def show(event: Event) -> None:
            bars.update(overall, completed=event.complete, total=event.cells)
            if event.kind == "reused":
                return
            if event.worker not in workers:
                workers[event.worker] = bars.add_task("", total=1)
            task = workers[event.worker]
            if event.kind == "started":
                bars.reset(task, description=f"  {escape(event.label)}", total=1)
            elif event.kind == "advanced":
                bars.update(task, completed=event.done, total=event.total)
            else:
                bars.update(task, completed=1, total=1)

        yield show


def _lines(console: Console) -> Callable[[Event], None]:
    began = time.monotonic()

    def show(event: Event) -> None:
        if event.kind != "finished":
            return
        gone = time.monotonic() - began
        left = gone / event.complete * (event.cells - event.complete) if event.complete else 0.0
        ending = f", about {left:.0f} s left" if event.complete < event.cells else ""
        console.print(f"[{event.complete}/{event.cells}] {event.label}: {event.seconds:.1f} s{ending}", markup=False)

    return show

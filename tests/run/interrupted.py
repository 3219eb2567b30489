"""A run for the tests to interrupt: ``python interrupted.py RUN TRACE WORKERS SECONDS``."""

from __future__ import annotations

import signal
import sys

import fake_cells

from intriguing.run import Event, execute
from intriguing.store import Store


def report(event: Event) -> None:
    sys.stdout.write(f"{event.kind} {event.label}\n")
    sys.stdout.flush()


def main() -> int:
    run, trace, workers, seconds = sys.argv[1:]
    try:
        with Store(run) as store:
            execute(
                [fake_cells.diamond(seconds=float(seconds), trace=trace)],
                store,
                load_data=fake_cells.load,
                data_hashes=fake_cells.HASHES,
                workers=int(workers),
                progress=report,
            )
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    # A shell that runs the tests in the background ignores Ctrl-C, and so would its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())

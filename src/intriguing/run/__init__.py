"""Executes cells, in process or in worker processes, and writes down what came of them.

Cells are opaque here: a key, a reference to a function, its settings. `execute` computes what the store
does not have; `results` makes ``results.json``; `environment` says where it was computed.
"""

from __future__ import annotations

from intriguing.run.environment import environment
from intriguing.run.events import Event
from intriguing.run.execute import default_workers, execute
from intriguing.run.failure import CellError

__all__ = ["CellError", "Event", "default_workers", "environment", "execute"]

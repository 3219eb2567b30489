"""Rows, tensors and values on disk, keyed by content; resumable; corruption is noticed.

A run is a folder:

    run.json                        what the run is: format, created, and whatever the run describes itself
                                    with (settings, environment, seeds, hashes); sealed with its own SHA-256
    cells/<key>/values.json         `Record.values`; NaN and infinities as ``{"$float": "nan"}``
    cells/<key>/tensors.safetensors `Record.tensors`, if there are any
    cells/<key>/rows.parquet        `Record.rows`, if there are any
    cells/<key>/manifest.json       key, created (UTC, ISO 8601), what the writer said of the cell (seconds,
                                    package version, machine, ...), and the SHA-256 and size of each file;
                                    sealed with its own SHA-256
    damaged/                        cells and run files that failed their checksum, set aside for inspection
    tmp/                            what is being written; emptied when a writer opens the folder
    .lock                           held (flock) by the one process that writes

Anything else in the folder (``report.html``, ``results.json``) belongs to others and is left alone.

A cell is written as a folder under ``tmp/``, its manifest last, every file flushed to the disk, and then
renamed to its place: a process killed at any moment leaves a whole cell or none.

The store never interprets a record, and a key is any short name; see `Store`.

The names are imported on first use: `store.files` serves those who write a file and need no tensors.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from intriguing.store.folder import Damage, Store

__all__ = ["Damage", "Store"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("intriguing.store.folder"), name)
    raise AttributeError(f"module 'intriguing.store' has no attribute {name!r}")

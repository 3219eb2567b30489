"""The errors a user of the library may see: one small family, each message saying what to do.

Every message names the argument, what was expected, what came, and the way out. The command line
prints the message alone; `--debug` adds the traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class IntriguingError(Exception):
    """Base of every error this library raises on purpose."""


class InputError(IntriguingError, ValueError):
    """An argument has the wrong value, shape, type or range."""


class UnknownNameError(InputError):
    """A study, table, net, data set or attack that is not registered."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        """Name what was asked for, the nearest known name, and all of them."""
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        super().__init__(f"unknown {kind} {name!r}.{hint} Known: {', '.join(names) or 'none'}.")
        self.kind, self.name, self.known = kind, name, names


class DataError(IntriguingError):
    """Images or labels that are missing, empty, damaged or out of range."""


class ModelError(IntriguingError):
    """A net whose outputs cannot be used: NaN, one column, or the wrong number of rows."""


class NetFailedError(ModelError, RuntimeError):
    """The user's net raised an error of its own; that error is the cause of this one."""


class StoreError(IntriguingError):
    """A run folder that is not one, cannot be written, or holds a damaged file."""

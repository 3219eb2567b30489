"""A cell that failed: which one, and why, across the border of a process."""

from __future__ import annotations

import pickle
import traceback
from dataclasses import dataclass
from typing import Any

from intriguing.errors import IntriguingError


class CellError(IntriguingError):
    """A cell's function raised something unexpected, or its process died; the cause is chained."""


@dataclass(frozen=True)
class Failure:
    """An exception on its way to another process.

    Attributes:
        pickled: the exception's class, arguments and attributes, pickled; empty if that cannot be done.
        text: what it said.
        trace: its traceback, as text.
    """

    pickled: bytes
    text: str
    trace: str

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """Pack an exception."""
        text = f"{type(error).__name__}: {error}"
        trace = "".join(traceback.format_exception(error))
        try:
            pickled = pickle.dumps((type(error), error.args, vars(error)))
            _rebuild(pickled)
        except Exception:  # whatever a stranger's class does when pickled: its text still arrives
            pickled = b""
        return cls(pickled, text, trace)

    def error(self) -> Exception:
        """Unpack the exception, with the other process's traceback as a note."""
        try:
            error = _rebuild(self.pickled)
        except Exception:  # empty, or of a class that only the other process knows
            error = RuntimeError(self.text)
        error.add_note(f"In the worker process:\n{self.trace}")
        return error


def explain(label: str, error: Exception) -> Exception:
    """Return what to raise for a cell that failed with `error`.

    The library's own errors keep their type and message, with the cell's name as a note; any other becomes
    the cause of a `CellError`.
    """
    if isinstance(error, IntriguingError):
        error.add_note(f"This happened in the cell {label!r}.")
        return error
    failed = CellError(
        f"the cell {label!r} failed with {type(error).__name__}: {str(error).rstrip('.')}. Finished cells are kept; "
        "--debug shows where it happened"
    )
    failed.__cause__ = error
    return failed


def _rebuild(pickled: bytes) -> Exception:
    kind, args, state = pickle.loads(pickled)
    # Not kind(*args): an error may make its message from other arguments than the message.
    error: Any = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    assert isinstance(error, Exception)
    return error

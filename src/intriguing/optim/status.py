"""How the solve of a row ended: an outcome per row, never an exception."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """The outcome of one row. `sentence` says it in words and what to do about it.

    Example:
        >>> Status.CONVERGED.sentence
        'The projected gradient is within the tolerance.'
    """

    RUNNING = 0
    CONVERGED = 1
    STALLED = 2
    BUDGET_SPENT = 3
    NUMERIC_FAILURE = 4
    STOPPED = 5

    @property
    def sentence(self) -> str:
        """The outcome as a complete sentence."""
        return _SENTENCES[self]


_SENTENCES = {
    Status.RUNNING: "The row is still being solved.",
    Status.CONVERGED: "The projected gradient is within the tolerance.",
    Status.STALLED: (
        "No step lowers the objective at this precision; check the gradient, use float64, or raise the tolerance."
    ),
    Status.BUDGET_SPENT: "The evaluations ran out before convergence; raise max_evaluations.",
    Status.NUMERIC_FAILURE: (
        "The objective or its gradient is NaN or infinite at the start or wherever the search steps; "
        "check the function there or tighten the bounds."
    ),
    Status.STOPPED: "The caller stopped the row before it converged.",
}

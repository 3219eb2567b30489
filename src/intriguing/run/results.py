"""``results.json``: what a run found, for scripts and gates. Documented in ``docs/results-json.md``."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from intriguing import documents
from intriguing.errors import InputError, StoreError
from intriguing.records import Record
from intriguing.store.files import write_atomic
from intriguing.studies.spec import Exhibit, Settings, Study, verdict

SCHEMA = 1

_REQUIRED = ("row", "column", "kind", "measured", "n", "low", "high", "code")
_OPTIONAL = ("control", "p", "title", "note", "unit")
_KINDS = ("sampled", "exact")


def compose(
    study: Study,
    exhibits: Sequence[Exhibit],
    settings: Settings,
    records: Mapping[str, Record],
    run_meta: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the document: the run, and one entry per table cell with what was printed and a verdict.

    A stated ordering holds if its measured values rise strictly along it. A cell is ordered (`verdict`) if it
    takes part in at least one and each of those holds.

    Args:
        study: the paper.
        exhibits: those of its tables and figures that were made, in the order wanted.
        settings: the run's; goes to ``run.settings``.
        records: exhibit name -> the record of its cell.
        run_meta: what else to say of the run: ``environment``, ``seeds``, ``hashes``.

    Returns:
        A document that strict JSON can hold: NaN and infinities are null, with a note beside them.

    Raises:
        InputError: if a record's cells are incomplete, of no known kind, or twice the same.

    Example:
        >>> compose(study, [table], Settings(), {"table-1": record}, {})["schema"]  # doctest: +SKIP
        1
    """
    cells: list[dict[str, Any]] = []
    unmeasured: list[dict[str, Any]] = []
    for exhibit in exhibits:
        measured = _measured(exhibit, records[exhibit.name])
        cells += [_entry(study, exhibit, cell, measured) for cell in measured.values()]
        unmeasured += [
            {**_place(study, exhibit, row, column), "printed": printed.value, "mark": printed.mark}
            for (row, column), printed in exhibit.printed.items()
            if (row, column) not in measured
        ]
    document = {
        "schema": SCHEMA,
        "run": {"settings": dataclasses.asdict(settings), **run_meta},
        "cells": cells,
        "unmeasured": unmeasured,
    }
    return documents.strict(document)


def write(path: str | os.PathLike[str], document: Mapping[str, Any]) -> None:
    """Write the document in one step, over what was there.

    Raises:
        StoreError: if it cannot be written; the old file is untouched.

    Example:
        >>> write("runs/t1/results.json", document)  # doctest: +SKIP
    """
    text = json.dumps(document, indent=1, allow_nan=False)
    try:
        write_atomic(os.fspath(path), (text + "\n").encode())
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise StoreError(
            f"{os.fspath(path)} could not be written: {reason}; the old file, if there was one, is kept"
        ) from error


def _measured(exhibit: Exhibit, record: Record) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Return (row, column) -> cell of the exhibit's record, checked."""
    measured: dict[tuple[str, str], Mapping[str, Any]] = {}
    for cell in record.values.get("cells", ()):
        missing = [name for name in _REQUIRED if name not in cell]
        if missing:
            raise InputError(f"a cell of {exhibit.name} lacks {', '.join(missing)}: {dict(cell)}")
        if cell["kind"] not in _KINDS:
            raise InputError(f"a cell of {exhibit.name} is of kind {cell['kind']!r}; expected {_KINDS}")
        if cell["kind"] == "sampled" and "control" not in cell:
            raise InputError(f"a sampled cell of {exhibit.name} has no control to be held against: {dict(cell)}")
        place = (cell["row"], cell["column"])
        if place in measured:
            raise InputError(f"{exhibit.name} has two cells for row {place[0]!r}, column {place[1]!r}")
        measured[place] = cell
    return measured


def _entry(
    study: Study,
    exhibit: Exhibit,
    cell: Mapping[str, Any],
    measured: Mapping[tuple[str, str], Mapping[str, Any]],
) -> dict[str, Any]:
    place = (cell["row"], cell["column"])
    printed = exhibit.printed.get(place)
    judged = verdict(cell["measured"], cell["low"], cell["high"], printed, ordered=_ordered(exhibit, place, measured))
    return {
        **_place(study, exhibit, *place),
        **{name: cell[name] for name in ("kind", "measured", "n", "low", "high")},
        "printed": printed.value if printed else None,
        "mark": printed.mark if printed else None,
        "verdict": judged,
        "code": cell["code"],
        **{name: cell[name] for name in _OPTIONAL if name in cell},
    }


def _place(study: Study, exhibit: Exhibit, row: str, column: str) -> dict[str, str]:
    return {"study": study.name, "table": exhibit.name, "row": row, "column": column}


def _ordered(
    exhibit: Exhibit,
    place: tuple[str, str],
    measured: Mapping[tuple[str, str], Mapping[str, Any]],
) -> bool:
    mine = [ordering for ordering in exhibit.orderings if place in ordering]
    return bool(mine) and all(_rises(ordering, measured) for ordering in mine)


def _rises(ordering: Sequence[tuple[str, str]], measured: Mapping[tuple[str, str], Mapping[str, Any]]) -> bool:
    """Tell whether the measured values rise strictly; one that was not measured, or is NaN, does not."""
    values = [measured[place]["measured"] if place in measured else math.nan for place in ordering]
    return all(left < right for left, right in pairwise(values))

"""Numbers that strict JSON lacks, as ``results.json`` keeps them: how a reader gets them back.

A number that is not finite is null where it stood, and the object around it names it under ``non_finite``; other
writers put the name itself, ``"inf"``, where the number stood. Both are read here, and nothing else is changed: a
class may be called ``nan``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_NAMES = {"inf": math.inf, "Infinity": math.inf, "-inf": -math.inf, "-Infinity": -math.inf, "nan": math.nan,
          "NaN": math.nan}  # fmt: skip


def number(entry: Mapping[str, Any], name: str) -> float | None:
    """Return the number an object of ``results.json`` holds under a name; None if it holds none.

    Args:
        entry: an object of the document.
        name: the key of one of its numbers.

    Example:
        >>> number({"low": "inf"}, "low"), number({"low": None, "non_finite": {"low": "inf"}}, "low")
        (inf, inf)
    """
    notes = entry.get("non_finite")
    return value(entry.get(name), notes.get(name) if isinstance(notes, Mapping) else None)


def numbers(entry: Mapping[str, Any], name: str) -> list[float | None]:
    """Return the list of numbers an object holds under a name; empty if it holds none.

    Example:
        >>> numbers({"low": [1, None], "non_finite": {"low[1]": "-inf"}}, "low")
        [1.0, -inf]
    """
    found = entry.get(name)
    notes = entry.get("non_finite")
    notes = notes if isinstance(notes, Mapping) else {}
    return [value(v, notes.get(f"{name}[{i}]")) for i, v in enumerate(found)] if isinstance(found, list | tuple) else []


def value(given: object, note: object = None) -> float | None:
    """Return one number, from itself or from its name; None for what is no number.

    Args:
        given: what stands in the document.
        note: its name, if null stands there.
    """
    if given is None and note is not None:
        given = note
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        return None
    if isinstance(given, str):
        return _NAMES.get(given)
    return float(given)

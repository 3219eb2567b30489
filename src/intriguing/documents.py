"""``results.json`` as it is kept and read: with the numbers that JSON lacks, and with its doubts.

A number that is not finite is null where it stood, and the object around it names it under ``non_finite``; the name
itself in the number's place, ``"inf"``, is read as well. Nothing else is changed: a class may be called ``nan``.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from intriguing.errors import StoreError

FILE = "results.json"
_NAMES = {"inf": math.inf, "Infinity": math.inf, "-inf": -math.inf, "-Infinity": -math.inf, "nan": math.nan,
          "NaN": math.nan}  # fmt: skip


def load_audit(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the document of an audit from its run folder.

    Args:
        folder: what ``intriguing audit`` named with ``--out``.

    Raises:
        StoreError: no such folder or file, a file that is not JSON, or one that is not of an audit.

    Example:
        >>> load_audit("runs/v1")["figures"]["median_l2"]["value"]  # doctest: +SKIP
        0.41
    """
    path = os.path.join(os.fspath(folder), FILE)
    again = f"run `intriguing audit --out {os.fspath(folder)}`, or name the folder of a finished audit"
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise StoreError(f"{path} cannot be read: {reason}; {again}") from error
    except ValueError as error:
        raise StoreError(f"{path} is damaged ({error}); {again}") from error
    if not isinstance(document, dict) or document.get("kind") != "audit":
        kind = document.get("kind", "a reproduction") if isinstance(document, dict) else "no document"
        raise StoreError(f"{path}: expected the document of an audit, got {kind!r}; {again}")
    if document.get("schema") != 1:
        raise StoreError(f"{path}: expected schema 1, got {document.get('schema')!r}; audit again with this version")
    return document


def doubts(document: Mapping[str, Any]) -> list[str]:
    """Return why the numbers of an audit cannot be trusted; empty if they can.

    A red check is a doubt whatever the verdict says, and so is a verdict that is missing or of no known state.

    Example:
        >>> doubts({"verdict": {"state": "trustworthy", "reasons": []}, "trust": []})
        []
    """
    given = document.get("verdict")
    verdict: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    red = [f"{c.get('name')}: {c.get('sentence')}" for c in document.get("trust") or () if c.get("state") == "red"]
    if verdict.get("state") == "trustworthy" and not red:
        return []
    stated = [str(reason) for reason in verdict.get("reasons") or ()]
    return stated or red or ["The audit states no verdict on whether its numbers can be trusted."]


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


def strict(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document that strict JSON can hold: NaN and infinities are null, named in ``non_finite`` beside them.

    Example:
        >>> strict({"median": float("inf")})
        {'median': None, 'non_finite': {'median': 'inf'}}
    """
    found, _ = _strict(document)
    assert isinstance(found, dict)
    return found


def _strict(value: Any) -> tuple[Any, dict[str, str]]:
    """Return `value` with null for floats that JSON lacks, and where they were: path below -> name.

    A mapping keeps the notes of its own values, and of lists in it, under ``"non_finite"``.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None, {"": str(value)}
    if isinstance(value, list | tuple):
        items = [_strict(item) for item in value]
        notes = {f"[{at}]{path}": name for at, (_, below) in enumerate(items) for path, name in below.items()}
        return [item for item, _ in items], notes
    if isinstance(value, Mapping):
        pairs = {key: _strict(item) for key, item in value.items()}
        notes = {f"{key}{path}": name for key, (_, below) in pairs.items() for path, name in below.items()}
        strict = {key: item for key, (item, _) in pairs.items()}
        return ({**strict, "non_finite": notes} if notes else strict), {}
    return value, {}

"""Numbers as a paper would print them: errors in per cent, distortions with three decimals.

Everything here turns a value into text; nothing here changes a value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

Unit = Literal["percent", "distortion", "plain"]

MISSING = "—"
MINUS = "\N{MINUS SIGN}"

# Words in a column's (or row's) name that mark a length in pixel units rather than a share of images.
_LENGTHS = ("distortion", "distance", "dist.", "norm", "std of", "radius")
# Below this many images the second decimal of a percentage is noise: 1/1000 is 0.1 points.
_FINE = 1000


def clean(text: object) -> str:
    """Return `text` as a string every UTF-8 file can hold; labels and file names may hold lone surrogates."""
    return str(text).encode("utf-8", "replace").decode("utf-8")


def finite(value: object) -> float | None:
    """Return `value` as a finite float, or None where there is none.

    Example:
        >>> finite(float("nan")) is None, finite(1)
        (True, 1.0)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def unit_of(column: str, value: object, stated: object = None) -> Unit:
    """Return the unit of a number from what it states, or else from its column's name and its size.

    Args:
        column: the column's name; one that speaks of a distance or a distortion holds lengths.
        value: the measured number; a share lies in [0, 1].
        stated: the cell's own ``unit``, which wins when it is one of the three.
    """
    if stated in ("percent", "distortion", "plain"):
        return stated
    if any(word in column.lower() for word in _LENGTHS):
        return "distortion"
    share = finite(value)
    return "percent" if share is None or 0.0 <= share <= 1.0 else "plain"


def decimals(unit: Unit, n: object) -> int:
    """Return how many decimals a measured number deserves, given the number of images behind it."""
    if unit == "percent":
        images = finite(n)
        return 2 if images is not None and images >= _FINE else 1
    return 3


def number(value: object, unit: Unit = "plain", places: int | None = None, *, sign: bool = True) -> str:
    """Write one number.

    Args:
        value: any float; None and NaN give a dash, infinities their sign.
        unit: ``"percent"`` expects a fraction in [0, 1].
        places: decimals; None means the shortest form with at most four significant digits.
        sign: whether a percentage carries its ``%``.

    Example:
        >>> number(0.0736, "percent", 2), number(0.0551, "distortion", 3)
        ('7.36%', '0.055')
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    x = finite(value)
    if x is None:
        return MISSING
    if unit == "percent":
        x *= 100
    text = _shortest(x) if places is None else f"{x:.{places}f}"
    if unit == "percent" and x in (0.0, 100.0):
        text = f"{x:.0f}"
    text = text.replace("-", MINUS)
    return text + ("%" if unit == "percent" and sign else "")


def _shortest(x: float) -> str:
    """Return `x` with at most four significant digits and no trailing zeros."""
    if x == int(x) and abs(x) < 1e15:
        return f"{int(x):,}"
    return f"{x:.4g}"


def printed(value: object, unit: Unit, digit: float | None) -> str:
    """Write a number with exactly the decimals the paper printed.

    Args:
        value: the printed value in our units.
        unit: its unit.
        digit: one unit in the last printed digit, in the same units as `value`; None where unknown.
    """
    if digit is None or digit <= 0:
        return number(value, unit)
    scale = digit * 100 if unit == "percent" else digit
    # The small number undoes the rounding of, say, 0.001 * 100 before the logarithm is cut.
    places = max(0, math.ceil(-math.log10(scale) - 1e-9))
    return number(value, unit, places)


def interval(low: object, high: object, unit: Unit, places: int) -> str:
    """Write an interval with an en dash, without a per cent sign; empty if either end is missing."""
    if low is None or high is None or (finite(low) is None and finite(high) is None):
        return ""
    first, last = number(low, unit, places, sign=False), number(high, unit, places, sign=False)
    return f"{first} to {last}" if MINUS in first + last else f"{first}–{last}"


def count(n: object) -> str:
    """Write a count with thousands separated; a dash where there is none."""
    x = finite(n)
    return MISSING if x is None else f"{x:,.0f}"


def p_value(p: object) -> str:
    """Write a p-value; empty where there is none."""
    x = finite(p)
    if x is None:
        return ""
    return "p < 0.001" if x < 0.001 else f"p = {x:.2g}" if x < 0.1 else f"p = {x:.2f}"


def heading(name: str) -> str:
    """Return an exhibit's name as a reader says it: ``table-1`` is Table 1."""
    words = clean(name).replace("-", " ")
    return words[:1].upper() + words[1:]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested settings as (dotted name, text) pairs, in order."""
    pairs: list[tuple[str, str]] = []
    for key, value in tree.items():
        name = f"{prefix}{clean(key)}"
        if isinstance(value, Mapping):
            pairs += flatten(value, f"{name} · ")
        elif isinstance(value, list | tuple):
            pairs.append((name, ", ".join(clean(v) for v in value)))
        else:
            pairs.append((name, MISSING if value is None else clean(value)))
    return pairs

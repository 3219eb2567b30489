"""Numbers as a paper would print them: errors in per cent, distortions with three decimals, the rest by size.

Everything here turns a value into text; nothing here changes a value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Unit = Literal["percent", "distortion", "number", "ratio", "log10", "seconds"]

MISSING = "—"
MINUS = "\N{MINUS SIGN}"

# A number with a power of ten as a programmer writes it, and a hyphen that is a minus; names of nets keep theirs.
_SCIENTIFIC = re.compile(r"(?<![\w.(])(\d+(?:\.\d+)?)e([+-]?\d+)\b")
_HYPHEN = re.compile(r"(?<![\w.)\]'’])-(?=\d)")

# What a unit puts behind its number.
_SIGNS: dict[Unit, str] = {"percent": "%", "ratio": "×", "seconds": "\N{NO-BREAK SPACE}s"}
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

# Words in a column's name that say what its numbers are, the stronger first.
_WORDS: tuple[tuple[Unit, re.Pattern[str]], ...] = (
    ("log10", re.compile(r"\blog ?10\b")),
    ("percent", re.compile(r"\b(errors?|accurac(y|ies)|shares?|purity|coverage)\b")),
    ("distortion", re.compile(r"\b(distortions?|distances?|dist\.|norms?|std of|radius)(?!\w)")),
    ("ratio", re.compile(r"\b(ratios?|times|fold)\b")),
    ("seconds", re.compile(r"\bseconds?\b")),
    ("percent", re.compile(r"\b(found|fooled|transfer|success)\b|%")),
    (
        "number",
        re.compile(
            r"\b(cosines?|slopes?|gains?|bounds?|products?|count|number|loss(es)?|logits?|values?|volumes?|weights?"
            r"|coefficients?|constants?|parameters|epochs|images|differences?|residual|correlation|levels?|singular|c|p)\b"
        ),
    ),
)
_UNITS: tuple[Unit, ...] = ("percent", "distortion", "number", "ratio", "log10", "seconds")
# Below this many images the second decimal of a percentage is noise: 1/1000 is 0.1 points.
_FINE = 1000
# Outside of these a number is written with a power of ten.
_TINY, _HUGE = 1e-4, 1e7
# A column that spans more than this factor does not line up.
_WIDE = 300


def clean(text: object) -> str:
    """Return `text` as a string every UTF-8 file can hold; labels and file names may hold lone surrogates."""
    return str(text).encode("utf-8", "replace").decode("utf-8")


def prose(text: object) -> str:
    """Return a sentence with its numbers as a book prints them.

    Example:
        >>> prose("from -0.3 to 2e-14, for FC10(1e-4) and FC100-100-10")
        'from −0.3 to 2×10⁻¹⁴, for FC10(1e-4) and FC100-100-10'
    """
    return _HYPHEN.sub(MINUS, _SCIENTIFIC.sub(_raised, clean(text)))


def _raised(match: re.Match[str]) -> str:
    """Return a number and its exponent as a product with a power of ten."""
    power = f"10{str(int(match[2])).translate(_RAISED)}"
    return power if float(match[1]) == 1 else f"{match[1]}×{power}"


def finite(value: object) -> float | None:
    """Return `value` as a finite float, or None where there is none.

    Example:
        >>> finite(float("nan")) is None, finite(1)
        (True, 1.0)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def unit_of(name: str, values: Sequence[object], stated: object = None, *, exact: bool = False) -> Unit:
    """Return the unit of a column of numbers: what it states, or else what its name and its size say.

    Args:
        name: the column's; one that speaks of errors holds shares, one that speaks of a distance lengths.
        values: all measured numbers of the column; a share lies in [0, 1], a difference of shares in [-1, 1].
        stated: the cell's own ``unit``, which wins when it is one of `Unit`; ``"plain"`` is a number.
        exact: whether the numbers are computed and not sampled: then only a name makes shares of them.

    Example:
        >>> unit_of("train error", [0.06]), unit_of("mean distortion", [0.06]), unit_of("gain", [0.6])
        ('percent', 'distortion', 'number')
    """
    for unit in _UNITS:
        if stated == unit or (stated == "plain" and unit == "number"):
            return unit
    known = [v for v in map(finite, values) if v is not None]
    largest = max(map(abs, known), default=0.0)
    # An exact error of 1e-7 is a residual, not a share of images.
    share = largest <= 1 and not (exact and 0 < largest < _TINY)
    for unit, words in _WORDS:
        if words.search(name.lower()) and (unit != "percent" or share):
            return unit
    return "percent" if share and min(known, default=0.0) >= 0 and not exact else "number"


def speaks_of_shares(name: str) -> bool:
    """Whether a name says outright that its number is a share, whatever the number stands beside."""
    return next(words for unit, words in _WORDS if unit == "percent").search(name.lower()) is not None


def decimals(
    unit: Unit, n: object, values: Sequence[object] = (), *, spread: float | None = None, exact: bool = False
) -> int | None:
    """Return how many decimals the numbers of a column share, so that they line up; None if each has its own.

    Args:
        unit: theirs.
        n: the number of images behind them.
        values: the numbers themselves.
        spread: how far their intervals reach to either side: what lies far below it is noise.
        exact: whether they are computed and deserve one digit more.
    """
    known = [abs(v) for v in map(finite, values) if v]
    smallest, largest = min(known, default=0.0), max(known, default=0.0)
    if unit == "percent":
        images = finite(n)
        fine = 2 if images is not None and images >= _FINE else 1
        # Shares of a million draws may be far below a hundredth of a point.
        return max(fine, min(5, _places(100 * smallest, 1))) if images is not None and images >= 1e5 else fine
    if unit == "log10":
        return 1 if largest >= 100 else 2
    if not known:
        return 3
    if unit == "distortion" and smallest >= 0.001 and largest < 10:
        return max(3, _places(smallest, 2))
    if smallest < _TINY or largest >= _HUGE or largest >= _WIDE * smallest:
        return None
    # Three digits of the smallest, unless that would give the largest more than it deserves.
    digits = 4 if exact else 3
    most = _places(largest, 3 if unit == "seconds" else max(digits, 4 if largest >= 1 else 3))
    if spread:
        return max(0, min(_places(smallest, digits), most, _places(spread / 3, 1)))
    return max(0, _places(smallest, 2), min(_places(smallest, digits), most))


def own_decimals(value: object, digits: int = 3) -> int | None:
    """Return the decimals that leave a number so many significant digits; None if it needs a power of ten."""
    x = finite(value)
    if x is None or x == 0 or not _TINY <= abs(x) < _HUGE:
        return None
    return max(0, _places(x, digits))


def _places(x: float, digits: int) -> int:
    """Return which decimal is the last of `digits` significant ones; negative before the point."""
    return digits - 1 - math.floor(math.log10(abs(x)) + 1e-9) if x else 0


def number(value: object, unit: Unit = "number", places: int | None = None, *, sign: bool = True) -> str:
    """Write one number.

    Args:
        value: any float; None and NaN give a dash, infinities their sign.
        unit: ``"percent"`` expects a fraction in [0, 1].
        places: decimals; None means the shortest form with at most four significant digits.
        sign: whether the number carries its unit's sign.

    Example:
        >>> number(0.0736, "percent", 2), number(0.0551, "distortion", 3), number(3.1e-7)
        ('7.36%', '0.055', '3.1×10⁻⁷')
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    x = finite(value)
    if x is None:
        return MISSING
    if unit == "percent":
        x *= 100
        if math.isinf(x):
            return "∞" if x > 0 else f"{MINUS}∞"
    text = _shortest(x) if places is None else f"{x:,.{places}f}"
    if not text.strip("-0.,"):
        text = text.lstrip("-")
    if unit == "percent" and x in (0.0, 100.0):
        text = f"{x:.0f}"
    text = text.replace("-", MINUS)
    return text + (_SIGNS.get(unit, "") if sign else "")


def _shortest(x: float) -> str:
    """Return `x` with at most four significant digits and no trailing zeros."""
    size = abs(x)
    if size >= _HUGE or 0 < size < _TINY:
        return power(x)
    return f"{x:,.0f}" if size >= 1000 or x == int(x) else f"{x:.4g}"


def power(x: float, digits: int = 3) -> str:
    """Return `x`, not zero, with a power of ten; a power itself stands alone.

    Example:
        >>> power(1e-12), power(3.14159e8, 2)
        ('10⁻¹²', '3.1×10⁸')
    """
    head, _, exponent = f"{x:.{digits - 1}e}".partition("e")
    head = head.rstrip("0").rstrip(".") if "." in head else head
    raised = f"10{str(int(exponent)).translate(_RAISED)}"
    return raised if head == "1" else f"{head}×{raised}"


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


def interval(low: object, high: object, unit: Unit, places: int | None) -> str:
    """Write an interval with an en dash, without the unit's sign; empty if either end is missing."""
    if low is None or high is None or (finite(low) is None and finite(high) is None):
        return ""
    first, last = number(low, unit, places, sign=False), number(high, unit, places, sign=False)
    return f"{first} to {last}" if MINUS in first + last else f"{first}–{last}"


def residual(low: object, high: object, unit: Unit) -> str:
    """Write how far an exact number may be off, to one digit; empty if it is exact to the last bit."""
    first, last = finite(low), finite(high)
    if first is None or last is None or last <= first:
        return ""
    half = (last - first) / 2
    return f"±\N{THIN SPACE}{number(float(f'{half:.0e}'), unit, sign=False)}"


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

"""The figures of an audit as text: each with its interval, its size, its control, and what it bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from intriguing import documents
from intriguing.report import format as fmt

# What a reader calls a figure; others are called by their name.
_TITLES = {
    "clean_accuracy": "clean accuracy",
    "median_l2": "median distance, L2",
    "certified_l2": "median certified radius, L2",
    "certified_linf": "median certified radius, Linf",
    "tightness_l2": "certified over found, L2",
    "tightness_linf": "certified over found, Linf",
    "certified": "certified at all",
    "p05_l2": "5th percentile, L2",
    "mean_l2": "mean distance, L2",
    "median_linf": "median distance, Linf",
    "median_l1": "median distance, L1",
    "median_l2_8bit": "median distance, L2, after 8 bits",
    "survives_8bit": "survive rounding to 8 bits",
    "found": "found",
    "transfer": "transfer",
    "noise_transfer": "noise transfer",
    "queries_mean": "queries per image",
    "lipschitz_product": "product of the layers’ bounds",
}
# The strip that opens the page.
_OPENING = (
    "clean_accuracy", "median_l2", "certified_l2", "certified_linf", "p05_l2", "transfer", "queries_mean",
)  # fmt: skip
# What masked gradients leave as it is: no attack has to succeed for these.
_SURE = ("clean_", "noise_", "queries_", "lipschitz_", "certified", "seconds")
# What an attack that fails makes smaller than it is.
_LESS = ("tightness_",)
_SHARES = ("share", "fraction", "percent", "per cent", "%")


@dataclass(frozen=True)
class NumberView:
    """One figure as text.

    Attributes:
        name: what a gate calls it.
        title: what a reader calls it.
        value, interval, size: with its unit's sign; without; ``n 500`` or nothing.
        unit: in words, nothing for shares.
        meaning: one sentence.
        control: the control's name and value, or nothing.
        bound: ``at most`` or ``at least`` where an attack that failed would only leave a bound, ``perhaps`` where a
            certificate is contradicted; else nothing.
    """

    name: str
    title: str
    value: str
    interval: str
    size: str
    unit: str
    meaning: str
    control: str
    bound: str


def view(name: str, figure: Mapping[str, Any], *, contradicted: bool = False) -> NumberView:
    """Return one figure of the document as text.

    Args:
        name: its name.
        figure: its value, ``n``, ends of the interval, unit, meaning, control.
        contradicted: a certificate reaches beyond an example, so that what is certified is no bound either.

    Example:
        >>> view("found", {"value": 0.998, "n": 500, "low": 0.988, "high": 1.0, "unit": "share"}).value
        '99.8%'
    """
    value, low, high = (documents.number(figure, end) for end in ("value", "low", "high"))
    unit = unit_of(name, figure)
    spread = (high - low) / 2 if fmt.finite(low) is not None and fmt.finite(high) is not None else None  # type: ignore[operator]
    places = fmt.decimals(unit, figure.get("n"), [value], spread=spread or None)
    stated = fmt.clean(figure.get("unit") or "")
    return NumberView(
        name=fmt.clean(name),
        title=title(name),
        value=fmt.number(value, unit, places),
        interval=_interval(low, high, unit, places),
        size=f"n {fmt.count(figure['n'])}" if (fmt.finite(figure.get("n")) or 0) > 1 else "",
        unit="" if unit in ("percent", "ratio", "seconds") else stated,
        meaning=fmt.prose(figure.get("meaning") or ""),
        control=_control(figure.get("control"), unit, places),
        bound="perhaps" if contradicted and _certified(name) else _bound(name, figure),
    )


def opening(figures: Mapping[str, Any], *, contradicted: bool = False) -> list[NumberView]:
    """Return the figures that open the page, those of them that the run holds; see `view`."""
    return views({name: figures[name] for name in _OPENING if name in figures}, contradicted=contradicted)


def views(figures: Mapping[str, Any], *, contradicted: bool = False) -> list[NumberView]:
    """Return all figures, in the document's order; see `view`."""
    return [
        view(name, figure, contradicted=contradicted) for name, figure in figures.items() if isinstance(figure, Mapping)
    ]


def title(name: str) -> str:
    """Return what a reader calls a figure."""
    known = _TITLES.get(name)
    kind, _, rest = name.partition("_accuracy_")
    if known is None and kind in ("robust", "certified") and "@" in rest:
        norm, _, radius = rest.partition("@")
        return f"{kind} accuracy at {fmt.clean(norm).capitalize()} {fmt.clean(radius)}"
    return known or fmt.clean(name).replace("_", " ")


def unit_of(name: str, figure: Mapping[str, Any]) -> fmt.Unit:
    """Return how a figure is written: what its unit says, or else what its name says."""
    stated = fmt.clean(figure.get("unit") or "").lower()
    if any(word in stated for word in _SHARES):
        return "percent"
    if stated.startswith("second"):
        return "seconds"
    if stated in ("ratio", "times"):
        return "ratio"
    return "number" if stated else fmt.unit_of(name.replace("_", " "), [documents.number(figure, "value")], exact=True)


def duration(seconds: object) -> str:
    """Return a time in words: seconds, minutes or hours.

    Example:
        >>> duration(214.3), duration(7260)
        ('3 min 34 s', '2 h 1 min')
    """
    x = fmt.finite(seconds)
    if x is None:
        return ""
    if x < 60:
        return f"{fmt.number(x, places=0 if x >= 10 else 1)} s"
    minutes, rest = divmod(round(x), 60)
    hours, left = divmod(minutes, 60)
    return f"{hours} h {left} min" if hours else f"{minutes} min {rest} s"


def listed(words: Sequence[str]) -> str:
    """Return a list in words.

    Example:
        >>> listed(["a", "b", "c"])
        'a, b and c'
    """
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _control(given: object, unit: fmt.Unit, places: int | None) -> str:
    """Return a control's name and value, as the figure it stands beside is written; nothing if there is none."""
    if not isinstance(given, Mapping):
        return ""
    label, value = fmt.clean(given.get("label", "control")), documents.number(given, "value")
    if unit != "percent" and (label.startswith("answers") or fmt.speaks_of_shares(label)):
        unit, places = "percent", 1
    return f"{label} {fmt.number(value, unit, places)}"


def _interval(low: float | None, high: float | None, unit: fmt.Unit, places: int | None) -> str:
    """Return an interval; nothing where both ends are written alike."""
    text = fmt.interval(low, high, unit, places)
    return "" if fmt.number(low, unit, places) == fmt.number(high, unit, places) else text


def _certified(name: str) -> bool:
    return name.rpartition("/")[2].startswith(("certified", *_LESS))


def _bound(name: str, figure: Mapping[str, Any]) -> str:
    # With several models a name begins with the model's.
    if name.startswith(_SURE) or name.rpartition("/")[2].startswith(_SURE):
        return ""
    if name.rpartition("/")[2].startswith(_LESS):
        return "at least"
    # An attack that fails leaves distances too large, and shares of images it misleads too small.
    return {"higher": "at most", "lower": "at least"}.get(str(figure.get("better")), "")

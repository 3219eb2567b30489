"""One quantity against another: lines with interval bands, each named at its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from intriguing.report import format as fmt
from intriguing.report import pen, svg
from intriguing.report.svg import COLOURS

# Lines of one meaning share its colour; dashes and marks tell them apart.
_DASHES: tuple[Any, ...] = ("-", (0, (6, 2.5)), (0, (1.6, 1.8)), (0, (7, 2, 1.6, 2)), (0, (3, 1.6)))
_SHAPES = ("o", "s", "^", "v", "p")
_ROLES = ("ours", "control", "paper")
# More points than this are a curve and need no marks, or no bars for their intervals.
_MARKED, _BARRED = 24, 12


@dataclass(frozen=True)
class _Point:
    """A value and its interval; the ends equal the value where none is stated."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class _Series:
    """A line: its name, its colour's meaning, how it is drawn, its points from left to right."""

    label: str
    role: str
    dash: Any
    shape: str
    points: tuple[_Point, ...]


def lines(picture: Mapping[str, Any], ident: str, wide: bool) -> Markup | None:
    """Draw all series in one field, the axes linear or logarithmic, the names at the lines' right ends."""
    series = read(picture)
    points = [p for s in series for p in s.points]
    log_x, log_y = bool(picture.get("log_x")), bool(picture.get("log_y"))
    xs = [p.x for p in points if p.x > 0 or not log_x]
    ys = [v for p in points for v in (p.y, p.low, p.high) if v > 0 or not log_y]
    if not xs or not ys:
        return None
    unit_x, unit_y = (
        pen.plain(fmt.unit_of(fmt.clean(picture.get(a, "")), v, picture.get(f"{a}_unit"), exact=a == "x"))
        for a, v in (("x", xs), ("y", ys))
    )
    width = pen.WIDE if wide else pen.NARROW
    names = [_name(s.label, 22 if wide else 13) for s in series]
    longest = max((len(line) for parts in names for line in parts), default=0)
    name_y = pen.named(picture.get("y"), width)
    top = 25.0 + pen.PITCH * max(1, len(name_y))
    foot = top + (300 if wide else 250)
    to_y, ticks_y = pen.scale(ys, foot, top, log=log_y, share=unit_y == "percent")
    left = 14 + 6.3 * max(len(fmt.number(t, unit_y)) for t in ticks_y)
    right = width - (24 + 6.6 * longest if longest else 14)
    name_x = pen.named(picture.get("x"), min(left + right, 2 * width - left - right))
    to_x = pen.span(xs, left + 10, right - 10, log=log_x)
    _, round_ticks = pen.scale(xs, left + 10, right - 10, log=log_x)
    ticks_x = _own_ticks(xs, to_x, right - left) or [t for t in round_ticks if min(xs) <= t <= max(xs)] or [xs[0]]
    with svg.canvas(width, foot + 29 + pen.PITCH * len(name_x)) as (figure, axes):
        pen.upright(axes, to_y, ticks_y, left, right, name_y, unit_y)
        pen.axis(axes, to_x, ticks_x, foot, foot + 4, name_x, unit_x)
        pen.rule(axes, [left, right], [foot, foot], "quiet", 0.8, zorder=3)
        for one in series:
            _line(axes, one, to_x, to_y, foot if log_y else None)
        _labels(axes, series, names, to_x, to_y, right, (top - 8, foot + 4))
        return svg.render(figure, ident, pen.spoken(picture, [s.label for s in series]))


def read(picture: Mapping[str, Any]) -> list[_Series]:
    """Return the series of a picture that have points; what is not finite is left out."""
    found: list[_Series] = []
    for given in picture.get("series") or ():
        points = sorted((p for p in map(_point, given.get("points") or ()) if p), key=lambda p: p.x)
        role = given.get("role") if given.get("role") in _ROLES else "ours"
        k = sum(s.role == role for s in found)
        if points:
            shape = "D" if role == "paper" else _SHAPES[k % len(_SHAPES)]
            label = fmt.clean(given.get("label", ""))
            found.append(_Series(label, str(role), _DASHES[k % len(_DASHES)], shape, tuple(points)))
    return found


def _name(label: str, width: int) -> list[str]:
    """Return a label in lines; only a word that is too long is broken within."""
    return pen.wrapped(label, width, 3, hyphens=any(len(word) > width for word in label.split()))


def off_scale(picture: Mapping[str, Any]) -> bool:
    """Whether a logarithmic picture holds values it cannot place."""
    values = [(p.x, p.y) for s in read(picture) for p in s.points]
    return any((picture.get("log_x") and x <= 0) or (picture.get("log_y") and y <= 0) for x, y in values)


def _point(given: Mapping[str, Any]) -> _Point | None:
    x, y = fmt.finite(given.get("x")), fmt.finite(given.get("y"))
    if x is None or y is None:
        return None
    low, high = fmt.finite(given.get("low")), fmt.finite(given.get("high"))
    return _Point(x, y, y if low is None else low, y if high is None else high)


def _own_ticks(xs: Sequence[float], to_x: Callable[[float], float], room: float) -> list[float]:
    """Return the measured places as ticks if they are few and stand apart; else nothing."""
    places = sorted(set(xs))
    gaps = [to_x(b) - to_x(a) for a, b in pairwise(places)]
    need = 10 + 6.4 * max(len(fmt.number(x)) for x in places)
    return places if 2 <= len(places) <= room / need and min(gaps) >= need else []


def _line(
    axes: Axes, one: _Series, to_x: Callable[[float], float], to_y: Callable[[float], float], floor: float | None
) -> None:
    """Draw one series: its band or whiskers, its line, its marks; what a logarithm cannot place, at the foot."""
    colour = COLOURS[one.role]
    on = [p for p in one.points if floor is None or p.y > 0]
    off = [p for p in one.points if p not in on]
    xs, ys = [to_x(p.x) for p in on], [to_y(p.y) for p in on]
    lows, highs = [to_y(p.low) for p in on], [to_y(p.high) for p in on]
    if len(on) > 2:
        axes.fill_between(xs, lows, highs, facecolor=colour, alpha=0.13, linewidth=0, zorder=1)
    if len(on) <= _BARRED:
        for x, low, high in zip(xs, lows, highs, strict=True):
            pen.rule(axes, [x, x], [low, high], one.role, 1.2, alpha=0.6, zorder=2)
    axes.plot(xs, ys, linestyle=one.dash, color=colour, linewidth=1.9, zorder=4, solid_joinstyle="round")
    marks: dict[str, Any] = {"linestyle": "none", "zorder": 5}
    hollow: dict[str, Any] = {"markerfacecolor": COLOURS["ground"], "markeredgecolor": colour, "markeredgewidth": 1.5}
    filled: dict[str, Any] = {"markerfacecolor": colour, "markeredgecolor": COLOURS["ground"], "markeredgewidth": 0.9}
    if len(on) <= _MARKED:
        style = {**hollow, "markersize": 5.5} if one.role == "control" else {**filled, "markersize": 7.5}
        axes.plot(xs, ys, marker=one.shape, **style, **marks)
    for p in off:
        assert floor is not None  # nothing is off a linear scale
        pen.rule(axes, [to_x(p.x)] * 2, [floor, to_y(p.high)], one.role, 1.1, linestyle=(0, (1.5, 2)), zorder=2)
        axes.plot([to_x(p.x)], [floor - 5], marker="v", markersize=6.0, **hollow, **marks)


def _labels(
    axes: Axes,
    series: Sequence[_Series],
    names: Sequence[Sequence[str]],
    to_x: Callable[[float], float],
    to_y: Callable[[float], float],
    right: float,
    bounds: tuple[float, float],
) -> None:
    """Write each line's name to the right of its end, moved apart where they would touch, with a thread to it."""
    pitch = pen.SMALL * 1.18
    ends = [(to_x(s.points[-1].x), to_y(s.points[-1].y)) for s in series]
    middles = pen.apart([y for _, y in ends], [pitch * len(n) + 3 for n in names], *bounds)
    for one, parts, (x, y), middle in zip(series, names, ends, middles, strict=True):
        if not any(parts):
            continue
        if abs(middle - y) > 3 or right - x > 14:
            pen.rule(axes, [x + 6, right + 2, right + 7], [y, y, middle], one.role, 0.7, alpha=0.6, zorder=2)
        for i, part in enumerate(parts):
            at = middle + pitch * (i - (len(parts) - 1) / 2)
            pen.text(axes, right + 10, at, part, colour=one.role, size=pen.SMALL, weight="bold")

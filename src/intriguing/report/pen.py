"""The few strokes all charts are drawn with: text, rules, wrapped labels, an axis, the mark of a printed value.

All positions are CSS pixels from the top left corner; all texts are untrusted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Polygon
from matplotlib.ticker import MaxNLocator

from intriguing.report import format as fmt
from intriguing.report.svg import COLOURS

# Widths in pixels of a chart in the text column and on a phone; sizes of its text.
WIDE, NARROW = 680, 360
TEXT, SMALL = 12.5, 11.0
# From line to line of an axis' name, and the width of a letter in it.
PITCH, _LETTER = 15.0, 6.1


def text(axes: Axes, x: float, y: float, text: object, *, colour: str = "ink", size: float = TEXT, **more: Any) -> None:
    """Write untrusted text at a point given in pixels."""
    more.setdefault("va", "center")
    axes.text(x, y, fmt.clean(text), color=COLOURS[colour], fontsize=size, **more)


def rule(axes: Axes, xs: Sequence[float], ys: Sequence[float], colour: str, width: float = 1.0, **more: Any) -> None:
    """Draw a line through points given in pixels."""
    axes.plot(xs, ys, color=COLOURS[colour], linewidth=width, solid_capstyle="butt", **more)


def clip(text: object, length: int) -> str:
    """Shorten a label that would leave its place."""
    word = fmt.clean(text)
    return word if len(word) <= length else word[: length - 1] + "…"


def wrapped(text: object, width: int, lines: int, *, hyphens: bool = True) -> list[str]:
    """Break a label into at most `lines` lines of about `width` characters, as even as they can be.

    Lines may break at spaces and, with `hyphens`, after hyphens and before brackets, but never inside ``(1e-4)``.
    """
    pieces = r"\s*(?:\(\S*|[^\s(-]+-*|-+)" if hyphens else r"\s*\S+"
    words = re.findall(pieces, fmt.clean(text)) or [""]
    best = _filled(words, width)
    for narrower in range(width - 1, 0, -1):
        parts = _filled(words, narrower)
        if len(parts) > len(best):
            break
        best = parts
    if len(best) > lines:
        best = [*best[: lines - 1], best[lines - 1] + "…"]
    return [clip(part, width + 4) for part in best]


def _filled(words: Sequence[str], width: int) -> list[str]:
    """Fill lines greedily with words that bring their own leading space."""
    parts = [words[0].strip()]
    for word in words[1:]:
        if len(parts[-1] + word) <= width:
            parts[-1] += word
        else:
            parts.append(word.strip())
    return parts


def lines(axes: Axes, x: float, y: float, parts: Sequence[str], size: float, anchor: float, **more: Any) -> None:
    """Write lines one by one, so that each is aligned in the reader's font and not in Matplotlib's.

    `anchor` says which part of the block lies at `y`: 0.5 its middle, 1 its foot.
    """
    pitch = size * 1.18
    top = y - pitch * len(parts) * anchor
    for i, part in enumerate(parts):
        text(axes, x, top + pitch * (i + 0.5), part, size=size, **more)


def scale(
    values: Sequence[float], left: float, right: float, *, log: bool = False, share: bool = False
) -> tuple[Callable[[float], float], list[float]]:
    """Return the map from a value to pixels and the round tick values it runs between.

    On a logarithmic scale `values` are positive; what is not lies at its lower end. A `share` has no ticks above 1.
    """
    if log:
        return _log_scale(values, left, right)
    low, high = min(values), max(values)
    if 0 <= low < 0.5 * high:
        low = 0.0
    if high <= low:
        low, high = low - 0.5, high + 0.5
    ticks = [float(t) for t in MaxNLocator(6 if abs(right - left) > 300 else 4).tick_values(low, high)]
    if share and high <= 1 < ticks[-1]:
        ticks = [t / 4 for t in range(max(-4, math.floor(4 * low + 1e-9)), 5)]
    return (lambda v: left + (v - ticks[0]) / (ticks[-1] - ticks[0]) * (right - left)), ticks


def span(values: Sequence[float], left: float, right: float, *, log: bool = False) -> Callable[[float], float]:
    """Return the map that spreads the values themselves, and not round ticks, from `left` to `right`."""
    low, high = min(values), max(values)
    if high <= low:
        return lambda v: (left + right) / 2
    if log:
        start, end = math.log10(low), math.log10(high)
        return lambda v: left + (math.log10(max(v, low)) - start) / (end - start) * (right - left)
    return lambda v: left + (v - low) / (high - low) * (right - left)


def _log_scale(values: Sequence[float], left: float, right: float) -> tuple[Callable[[float], float], list[float]]:
    """Return a logarithmic map and its ticks: powers of ten, or 1, 2 and 5 of each where there are few."""
    room = 7 if abs(right - left) > 300 else 5
    first, last = math.floor(math.log10(min(values)) + 1e-9), math.ceil(math.log10(max(values)) - 1e-9)
    fine = [m * 10.0**e for e in range(first, max(last, first + 1) + 1) for m in (1, 2, 5)]
    below = max(t for t in fine if t <= min(values) * (1 + 1e-9))
    above = min((t for t in fine if t >= max(values) * (1 - 1e-9)), default=fine[-1])
    ticks = [t for t in fine if below <= t <= max(above, 2.6 * below)]  # from 2 the next is 5
    if len(ticks) > room:
        step = max(1, math.ceil((last - first + 1) / room))
        last = first + step * math.ceil((last - first) / step)
        ticks = [10.0**e for e in range(first, last + 1, step)]
    start, end = math.log10(ticks[0]), math.log10(ticks[-1])
    return (lambda v: left + (math.log10(max(v, ticks[0])) - start) / (end - start) * (right - left)), ticks


def plain(unit: fmt.Unit) -> fmt.Unit:
    """Return the unit an axis writes at its ticks: per cent, or bare numbers that its name explains."""
    return unit if unit == "percent" else "number"


def named(name: object, room: float) -> list[str]:
    """Return an axis' name in as many lines as it needs in so many pixels, three at most; none if it is empty."""
    word = fmt.clean(name or "")
    return wrapped(word, max(8, int(room / _LETTER)), 3, hyphens=False) if word else []


def axis(
    axes: Axes,
    to_x: Callable[[float], float],
    ticks: Sequence[float],
    top: float,
    foot: float,
    name: Sequence[str],
    unit: fmt.Unit = "number",
) -> None:
    """Draw light vertical lines at the ticks, their values, and the axis' name below, in the lines `name` has."""
    for tick in ticks:
        rule(axes, [to_x(tick)] * 2, [top, foot], "line", 0.8, zorder=0)
        text(axes, to_x(tick), foot + 12, fmt.number(tick, unit), colour="quiet", size=SMALL, ha="center")
    middle = (to_x(ticks[0]) + to_x(ticks[-1])) / 2
    for i, part in enumerate(name):
        text(axes, middle, foot + 30 + PITCH * i, part, colour="quiet", ha="center")


def upright(
    axes: Axes,
    to_y: Callable[[float], float],
    ticks: Sequence[float],
    left: float,
    right: float,
    name: Sequence[str],
    unit: fmt.Unit = "number",
) -> None:
    """Draw light horizontal lines at the ticks, their values beside them, and the axis' name above."""
    for tick in ticks:
        rule(axes, [left, right], [to_y(tick)] * 2, "line", 0.8, zorder=0)
        text(axes, left - 7, to_y(tick), fmt.number(tick, unit), colour="quiet", size=SMALL, ha="right")
    for i, part in enumerate(reversed(name)):
        text(axes, 0, to_y(ticks[-1]) - 20 - PITCH * i, part, colour="quiet")


def apart(wanted: Sequence[float], sizes: Sequence[float], low: float, high: float) -> list[float]:
    """Return middles for blocks of the given sizes, near where each wants to be, none on another, within bounds.

    Example:
        >>> apart([10, 10], [8, 8], 0, 100)
        [6.0, 14.0]
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    # Groups of blocks that touch: [members, total size, middle]. Two groups that overlap become one.
    groups: list[tuple[list[int], float, float]] = []
    for i in order:
        group = ([i], float(sizes[i]), float(wanted[i]))
        while True:
            members, size, middle = group
            middle = min(max(middle, low + size / 2), max(low + size / 2, high - size / 2))
            group = (members, size, middle)
            if not groups or groups[-1][2] + groups[-1][1] / 2 <= middle - size / 2:
                break
            before, its, at = groups.pop()
            share = len(before) / (len(before) + len(members))
            group = ([*before, *members], its + size, at * share + middle * (1 - share))
        groups.append(group)
    middles = [0.0] * len(wanted)
    for members, size, middle in groups:
        top = middle - size / 2
        for i in members:
            middles[i] = top + sizes[i] / 2
            top += sizes[i]
    return middles


def diamond(axes: Axes, x: float, y: float) -> None:
    """Draw the mark of a printed value."""
    corners = [(x, y - 6), (x + 5, y), (x, y + 6), (x - 5, y)]
    axes.add_patch(Polygon(corners, facecolor=COLOURS["paper"], edgecolor=COLOURS["ground"], linewidth=1, zorder=6))


def spoken(picture: Mapping[str, Any], names: Sequence[object]) -> str:
    """Return what a screen reader says in place of the chart."""
    return f"{fmt.clean(picture.get('title', 'Chart'))}: {', '.join(fmt.clean(n) for n in names)}"

"""The few strokes all charts are drawn with: text, rules, wrapped labels, an axis, the mark of a printed value.

All positions are CSS pixels from the top left corner; all texts are untrusted.
"""

from __future__ import annotations

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


def wrapped(text: object, width: int, lines: int) -> list[str]:
    """Break a label into at most `lines` lines of about `width` characters, as even as they can be.

    Lines may break at spaces, after hyphens and before brackets, but never inside ``(1e-4)``.
    """
    words = re.findall(r"\s*(?:\(\S*|[^\s(-]+-*|-+)", fmt.clean(text)) or [""]
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


def scale(values: Sequence[float], left: float, right: float) -> tuple[Callable[[float], float], list[float]]:
    """Return the map from a value to pixels and the round tick values it runs between."""
    low, high = min(values), max(values)
    if 0 <= low < 0.5 * high:
        low = 0.0
    if high <= low:
        low, high = low - 0.5, high + 0.5
    ticks = [float(t) for t in MaxNLocator(6 if right - left > 300 else 4).tick_values(low, high)]
    return (lambda v: left + (v - ticks[0]) / (ticks[-1] - ticks[0]) * (right - left)), ticks


def axis(
    axes: Axes, to_x: Callable[[float], float], ticks: Sequence[float], top: float, foot: float, name: object
) -> None:
    """Draw light vertical lines at the ticks, their values, and the axis' name below."""
    for tick in ticks:
        rule(axes, [to_x(tick)] * 2, [top, foot], "line", 0.8, zorder=0)
        text(axes, to_x(tick), foot + 12, fmt.number(tick), colour="quiet", size=SMALL, ha="center")
    text(axes, (to_x(ticks[0]) + to_x(ticks[-1])) / 2, foot + 30, name, colour="quiet", size=TEXT, ha="center")


def diamond(axes: Axes, x: float, y: float) -> None:
    """Draw the mark of a printed value."""
    corners = [(x, y - 6), (x + 5, y), (x, y + 6), (x - 5, y)]
    axes.add_patch(Polygon(corners, facecolor=COLOURS["paper"], edgecolor=COLOURS["ground"], linewidth=1, zorder=6))


def spoken(picture: Mapping[str, Any], names: Sequence[object]) -> str:
    """Return what a screen reader says in place of the chart."""
    return f"{fmt.clean(picture.get('title', 'Chart'))}: {', '.join(fmt.clean(n) for n in names)}"

"""How a quantity is spread over images: small histograms, one net below the other, on a common axis."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from numpy.typing import NDArray

from intriguing.report import format as fmt
from intriguing.report import pen, svg
from intriguing.report.svg import COLOURS

_BINS = 48


def distribution(picture: Mapping[str, Any], ident: str, wide: bool) -> Markup | None:
    """Draw one histogram per series above a common axis, the printed value marked on each."""
    series = [
        (s, [v for v in map(fmt.finite, s.get("values") or ()) if v is not None]) for s in picture.get("series") or ()
    ]
    everything = [v for _, values in series for v in values]
    marks = [
        v for s, _ in series for v in (fmt.finite(s.get("printed")), fmt.finite(s.get("measured"))) if v is not None
    ]
    if not everything:
        return None
    width = pen.WIDE if wide else pen.NARROW
    left, right = (132.0, width - 104.0) if wide else (10.0, width - 10.0)
    band, above = (58.0, 4.0) if wide else (76.0, 26.0)
    # The far tail of one net must not squeeze the others: the last bin holds it.
    edge = max([float(np.quantile(everything, 0.995)), *marks])
    to_x, ticks = pen.scale([min([*everything, *marks]), edge], left, right)
    bins = np.linspace(min(ticks[0], min(everything)), max(ticks[-1], edge), (_BINS if wide else _BINS * 3 // 4) + 1)
    beyond = f" (last bin: {fmt.number(float(bins[-2]))} and more)" if max(everything) > bins[-1] else ""
    name = pen.named(fmt.clean(picture.get("x", "")) + beyond, right - left)
    below = 8 + band * len(series)
    with svg.canvas(width, below + 29 + pen.PITCH * len(name)) as (figure, axes):
        pen.axis(axes, to_x, ticks, 8, below, name)
        for i, (one, values) in enumerate(series):
            foot = 8 + band * (i + 1)
            counts, _ = np.histogram(np.minimum(values, bins[-1]), bins)
            _hill(axes, [to_x(float(b)) for b in bins], counts, foot, band - above - 12)
            pen.rule(axes, [left, right], [foot, foot], "quiet", 0.8, zorder=3)
            _marks(axes, one, to_x, foot, band - above - 8)
            _row_text(axes, one, len(values), foot, band, width, wide)
        return svg.render(figure, ident, pen.spoken(picture, [s.get("label") for s, _ in series]))


def _hill(axes: Axes, edges: Sequence[float], counts: NDArray[np.int64], foot: float, height: float) -> None:
    """Draw a histogram as one filled outline, scaled to its own highest bin."""
    top = max(1, int(counts.max()))
    filled = np.flatnonzero(counts)
    if not len(filled):
        return
    # One outline per run of bins that hold something, so that no line is drawn where there is nothing.
    for run in np.split(filled, np.flatnonzero(np.diff(filled) > 1) + 1):
        ys = [foot - height * float(counts[i]) / top for i in run]
        xs = [edges[run[0]], *(edges[i + k] for i in run for k in (0, 1)), edges[run[-1] + 1]]
        outline = [foot, *(y for y in ys for _ in (0, 1)), foot]
        axes.fill(xs, outline, facecolor=COLOURS["ours"], alpha=0.28, linewidth=0, zorder=1)
        pen.rule(axes, xs, outline, "ours", 1.2, zorder=2, solid_joinstyle="miter")


def _marks(axes: Axes, one: Mapping[str, Any], to_x: Callable[[float], float], foot: float, height: float) -> None:
    """Mark the mean the record states and the value the paper printed."""
    mean, paper = fmt.finite(one.get("measured")), fmt.finite(one.get("printed"))
    if mean is not None:
        pen.rule(axes, [to_x(mean)] * 2, [foot, foot - height], "ours", 2.2, zorder=4)
    if paper is not None:
        pen.rule(axes, [to_x(paper)] * 2, [foot, foot - height], "paper", 1.6, zorder=5)
        pen.diamond(axes, to_x(paper), foot)


def _places(value: float) -> int | None:
    """Return three decimals for what is small, three digits for what is large."""
    return 3 if 0.001 <= abs(value) < 10 or value == 0 else fmt.own_decimals(value)


def _row_text(axes: Axes, one: Mapping[str, Any], n: int, foot: float, band: float, width: float, wide: bool) -> None:
    """Write a series' name, how many values it has, and its numbers: beside it, or above it on a phone."""
    mean, paper = fmt.finite(one.get("measured")), fmt.finite(one.get("printed"))
    absent = len(one.get("values") or ()) - n
    size = f"n {fmt.count(n)}" + (f", {absent} without" if absent else "")
    numbers = [(fmt.clean(one.get("mark", "ours")), "ours", mean), ("paper", "paper", paper)]
    if wide:
        pen.text(axes, 0, foot - band * 0.42, pen.clip(one.get("label", ""), 20), weight="bold")
        pen.text(axes, 0, foot - band * 0.42 + 16, size, colour="quiet", size=pen.SMALL)
        for k, (word, colour, value) in enumerate(numbers):
            if value is not None:
                pen.text(
                    axes,
                    width,
                    foot - band * 0.42 + 16 * k,
                    f"{word} {fmt.number(value, places=_places(value))}",
                    colour=colour,
                    ha="right",
                )
        return
    y = foot - band + 16
    pen.text(axes, 10, y, pen.clip(one.get("label", ""), 24), weight="bold")
    for k, (word, colour, value) in enumerate(numbers):
        if value is not None:
            pen.text(
                axes,
                width - 10 - 84 * (1 - k),
                y,
                f"{word} {fmt.number(value, places=_places(value))}",
                colour=colour,
                size=pen.SMALL,
                ha="right",
            )

"""Values with their intervals, one row each, the printed value and the control beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from intriguing.report import format as fmt
from intriguing.report import pen, svg
from intriguing.report.svg import COLOURS


def intervals(picture: Mapping[str, Any], ident: str, wide: bool) -> Markup | None:
    """Draw one interval per row, with the printed value and the control where there are any; `log_x` if asked."""
    rows = [r for r in picture.get("rows") or () if fmt.finite(r.get("measured")) is not None]
    fields = ("measured", "low", "high", "printed", "control")
    values = [v for r in rows for v in (fmt.finite(r.get(f)) for f in fields) if v is not None]
    if not values:
        return None
    log = bool(picture.get("log_x")) and max(values) > 0
    unit = fmt.unit_of(fmt.clean(picture.get("x", "")), values, picture.get("x_unit"), exact=True)
    measured = [r["measured"] for r in rows]
    small = unit == "number" and max(map(abs, values)) <= 1 and all(abs(m) >= 0.001 for m in measured if m)
    places = 3 if small else fmt.decimals(unit, 1000, measured)
    width = pen.WIDE if wide else pen.NARROW
    left, right = (200.0, width - 70.0) if wide else (10.0, width - 12.0)
    band = 30.0 if wide else 46.0
    foot = 10 + band * len(rows)
    name = pen.named(picture.get("x"), right - left)
    to_x, ticks = pen.scale([v for v in values if v > 0 or not log], left, right, log=log, share=unit == "percent")
    with svg.canvas(width, foot + 29 + pen.PITCH * len(name)) as (figure, axes):
        pen.axis(axes, to_x, ticks, 8, foot, name, pen.plain(unit))
        for i, row in enumerate(rows):
            y = 10 + band * (i + 1) - (band / 2 if wide else 12)
            _whisker(axes, row, to_x, y)
            own = fmt.own_decimals(row["measured"]) if places is None else places
            label_y = y if wide else y - 20
            label = pen.wrapped(row.get("label", ""), 30, 2) if wide else [pen.clip(row.get("label", ""), 40)]
            pen.lines(axes, 0 if wide else 10, label_y, label, pen.TEXT, 0.5)
            pen.text(
                axes,
                width if wide else right,
                label_y,
                fmt.number(row["measured"], unit, own),
                colour="ours",
                ha="right",
            )
        return svg.render(figure, ident, pen.spoken(picture, [r.get("label") for r in rows]))


def _whisker(axes: Axes, row: Mapping[str, Any], to_x: Callable[[float], float], y: float) -> None:
    """Draw a row's interval, its value as a disc, the printed value as a diamond, the control as a square."""
    low, high = fmt.finite(row.get("low")), fmt.finite(row.get("high"))
    if low is not None and high is not None:
        pen.rule(axes, [to_x(low), to_x(high)], [y, y], "ours", 2.4, zorder=3)
    control, paper = fmt.finite(row.get("control")), fmt.finite(row.get("printed"))
    if control is not None:
        axes.add_patch(
            Rectangle(
                (to_x(control) - 4, y - 4),
                8,
                8,
                facecolor=COLOURS["ground"],
                edgecolor=COLOURS["control"],
                linewidth=1.6,
                zorder=4,
            )
        )
    axes.plot([to_x(float(row["measured"]))], [y], "o", markersize=8, color=COLOURS["ours"], zorder=5)
    if paper is not None:
        pen.diamond(axes, to_x(paper), y)

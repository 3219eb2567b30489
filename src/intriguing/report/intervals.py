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
    """Draw one interval per row, with the printed value and the control where there are any."""
    rows = [r for r in picture.get("rows") or () if fmt.finite(r.get("measured")) is not None]
    fields = ("measured", "low", "high", "printed", "control")
    values = [v for r in rows for v in (fmt.finite(r.get(f)) for f in fields) if v is not None]
    if not values:
        return None
    width = pen.WIDE if wide else pen.NARROW
    left, right = (200.0, width - 70.0) if wide else (10.0, width - 12.0)
    band = 30.0 if wide else 46.0
    height = 10 + band * len(rows) + 44
    to_x, ticks = pen.scale(values, left, right)
    with svg.canvas(width, height) as (figure, axes):
        pen.axis(axes, to_x, ticks, 8, 10 + band * len(rows), picture.get("x", ""))
        for i, row in enumerate(rows):
            y = 10 + band * (i + 1) - (band / 2 if wide else 12)
            _whisker(axes, row, to_x, y)
            measured = fmt.number(row["measured"], "plain", 3)
            label_y = y if wide else y - 20
            pen.text(axes, 0 if wide else 10, label_y, pen.clip(row.get("label", ""), 30))
            pen.text(axes, width if wide else right, label_y, measured, colour="ours", ha="right")
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

"""Pictures of numbers, each drawn for a wide page and for a phone.

A chart is drawn twice because text that is scaled down cannot be read; the style sheet shows the one that
fits. Colours mean one thing everywhere: what we measured, what the paper printed, the control.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from markupsafe import Markup

from intriguing.report.distribution import distribution
from intriguing.report.ends import band, cost
from intriguing.report.heatmap import heatmap
from intriguing.report.intervals import intervals
from intriguing.report.lines import lines

# Kind of picture -> (picture, unique id, whether wide) -> the drawing, or None if there is nothing to draw.
_CHARTS: dict[str, Callable[[Mapping[str, Any], str, bool], Markup | None]] = {
    "cost": cost,
    "distribution": distribution,
    "ends": band,
    "heatmap": heatmap,
    "interval": intervals,
    "lines": lines,
}


def draw(picture: Mapping[str, Any], ident: str) -> tuple[Markup, Markup] | None:
    """Draw a picture for a wide and for a narrow page.

    Args:
        picture: a picture of a record's ``figures``; its ``kind`` chooses the chart.
        ident: unique on the page, letters, digits and hyphens.

    Returns:
        The two ``<svg>`` elements, or None if the picture holds nothing to draw or is of no known kind.

    Example:
        >>> rows = [{"label": "a", "measured": 1.0, "low": 0.5, "high": 2.0}]
        >>> wide, narrow = draw({"kind": "interval", "rows": rows}, "f1")
        >>> wide.startswith("<svg")
        True
    """
    chart = _CHARTS.get(str(picture.get("kind")))
    if chart is None:
        return None
    wide = chart(picture, f"{ident}-w", True)
    narrow = chart(picture, f"{ident}-n", False)
    return None if wide is None or narrow is None else (wide, narrow)

"""A matrix as shaded squares, shares in per cent: ours, and the printed one on the same scale beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from intriguing.report import format as fmt
from intriguing.report import pen, svg
from intriguing.report.svg import COLOURS


@dataclass(frozen=True)
class _Layout:
    """Sizes in pixels: the column of row names, one square's width and height, the head above the squares.

    And how a value is written, and which is shaded fully.
    """

    wide: bool
    label: float
    side: float
    tall: float
    head: float
    unit: fmt.Unit
    full: float
    places: int | None


def _layout(columns: Sequence[object], values: Sequence[float], stated: object, wide: bool) -> _Layout:
    """Return the sizes for a desktop or a phone; the head has room for the longest column name."""
    unit = fmt.unit_of("", values, stated)
    full = 1.0 if unit == "percent" else max(map(abs, values), default=1.0) or 1.0
    lines = max(len(_column_name(column, wide)) for column in columns)
    # Counts are whole numbers; others keep the digits they have.
    places = 1 if unit == "percent" else 0 if all(v == int(v) for v in values) else None
    head = 46.0 + 13.0 * lines
    if wide:
        return _Layout(wide, 164.0, 66.0, 40.0, head, unit, full, places)
    return _Layout(wide, 92.0, max(42.0, min(66.0, 264.0 / len(columns))), 42.0, head, unit, full, places)


def heatmap(picture: Mapping[str, Any], ident: str, wide: bool) -> Markup | None:
    """Draw our matrix, and the printed one beside it (below it on a phone), on one scale."""
    rows, columns = list(picture.get("rows") or ()), list(picture.get("columns") or ())
    ours, paper = (_matrix(picture.get(name), len(rows), len(columns)) for name in ("values", "printed"))
    if not _holds(ours):
        return None
    both = _holds(paper)
    known = [v for matrix in (ours, paper) for line in matrix for v in line if v is not None]
    size = _layout(columns, known, picture.get("unit"), wide)
    across, down = size.side * len(columns), size.head + size.tall * len(rows)
    width = size.label + across + (across + 44 if both and wide else 0) + 2
    height = down + (down + 26 if both and not wide else 0) + 4
    second = (size.label + across + 44, 0.0) if wide else (size.label, down + 26)
    with svg.canvas(width, height) as (figure, axes):
        _panel(axes, picture, ours, (size.label, 0.0), size, "ours")
        _row_names(axes, picture, (size.label, 0.0), size)
        if both:
            _panel(axes, picture, paper, second, size, "paper")
        if both and not wide:
            _row_names(axes, picture, second, size)
        return svg.render(figure, ident, pen.spoken(picture, rows))


def _matrix(values: object, rows: int, columns: int) -> list[list[float | None]]:
    """Return a matrix of the stated size; what is absent, ragged or not finite is None."""
    given = values if isinstance(values, Sequence) else ()
    lines = [line if isinstance(line, Sequence) else () for line in [*given, *[()] * rows][:rows]]
    return [[fmt.finite(v) for v in [*line, *[None] * columns][:columns]] for line in lines]


def _holds(matrix: Sequence[Sequence[float | None]]) -> bool:
    """Whether a matrix holds any number."""
    return any(value is not None for line in matrix for value in line)


def _column_name(name: object, wide: bool) -> list[str]:
    """Return a column's name in the lines it is written in."""
    return pen.wrapped(name, 10 if wide else 7, 3)


def _panel(
    axes: Axes,
    picture: Mapping[str, Any],
    matrix: Sequence[Sequence[float | None]],
    corner: tuple[float, float],
    size: _Layout,
    colour: str,
) -> None:
    """Draw one matrix from its top left corner: what it is, the columns' names, a square per value."""
    left, top = corner
    rows, columns = list(picture["rows"]), list(picture["columns"])
    right = left + size.side * len(columns)
    title = picture.get("name", "measured here") if colour == "ours" else "printed in the paper"
    pen.text(axes, left, top + 10, title, colour=colour, weight="bold")
    if picture.get("column_label"):
        name = f"{picture['column_label']} →"
        pen.text(axes, right, top + 10, name, colour="quiet", size=pen.SMALL, ha="right")
    for j, column in enumerate(columns):
        x = left + size.side * (j + 0.5)
        lines = _column_name(column, size.wide)
        pen.lines(axes, x, top + size.head - 5, lines, pen.SMALL if size.wide else 10.0, 1, ha="center")
        for i, row in enumerate(rows):
            place = (left + size.side * j, top + size.head + size.tall * i)
            _square(axes, place, size, matrix[i][j], colour, str(row) == str(column))


def _row_names(axes: Axes, picture: Mapping[str, Any], corner: tuple[float, float], size: _Layout) -> None:
    """Write the rows' names to the left of a matrix, and above them what a row is."""
    right, top = corner[0] - 8, corner[1] + size.head
    if picture.get("row_label"):
        name = f"{picture['row_label']} ↓"
        pen.text(axes, right, top - 12, name, colour="quiet", size=pen.SMALL, ha="right")
    for i, row in enumerate(picture["rows"]):
        lines = pen.wrapped(row, 22 if size.wide else 12, 2 if size.wide else 3)
        y = top + size.tall * (i + 0.5)
        pen.lines(axes, right, y, lines, pen.TEXT if size.wide else 10.5, 0.5, ha="right")


def _square(axes: Axes, at: tuple[float, float], size: _Layout, value: float | None, colour: str, own: bool) -> None:
    """Draw one value: the darker, the larger. A net's own examples (true by construction) stay an outline."""
    (x, y), (w, h) = at, (size.side, size.tall)
    gap = 1.5
    place = Rectangle((x + gap, y + gap), w - 2 * gap, h - 2 * gap)
    # Printed shares are mostly small; the root keeps 2% and 10% apart.
    share = None if value is None else min(1.0, abs(value) / size.full)
    if share is None or own:
        place.set(facecolor="none", edgecolor=COLOURS["line"], linewidth=1)
    else:
        place.set(facecolor=COLOURS[colour], alpha=0.07 + 0.93 * math.sqrt(share), linewidth=0)
    axes.add_patch(place)
    shaded = share is not None and not own
    ink = ("ground" if share is not None and share > 0.45 else "ink") if shaded else "quiet"
    places = fmt.own_decimals(value) if size.places is None else size.places
    text = fmt.number(value, size.unit, places, sign=False)
    small = pen.TEXT if w > 50 else 11.0
    pen.text(axes, x + w / 2, y + h / 2, text, colour=ink, size=small, ha="center", zorder=4)

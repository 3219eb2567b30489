"""From the cells of results.json to tables a reader can compare: ours beside the paper's, cell by cell."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from intriguing import documents
from intriguing.report import format as fmt
from intriguing.studies.spec import Printed

# Verdict -> (style class, sentence that states the rule). The classes also name the marks in the page.
VERDICTS: dict[str, tuple[str, str]] = {
    "agrees": (
        "agrees",
        "the printed value, give or take half its last digit, lies inside our interval, or ours is within 10% of it.",
    ),
    "same direction": (
        "direction",
        "the values lie further apart, but the order that the study states for these cells holds here too.",
    ),
    "differs": ("differs", "neither holds."),
    "not printed": ("none", "the paper gives no number to compare with."),
}

# A share under such a name is a difference of shares: points, and not per cent of anything.
_DIFFERENCE = re.compile(r"\b(minus|differences?|change|excess|rise)\b")
# What a length changes by in per cent is a share of itself.
_LENGTH = re.compile(r"\b(distances?|distortions?|norms?)\b")
# Rows that only add to a table fold away if there are so many of them at least.
_MANY = 3

# A text that is a number with its sign or unit, as a record may write it.
_NUMERIC = re.compile(r"[+\-\N{MINUS SIGN}]?\d[\d.,]*( ?%| s)?")


@dataclass(frozen=True)
class CellView:
    """One cell of a table as text.

    Attributes:
        ident: anchor in the page.
        measured, interval, size: our value; its interval without unit, or the residual of an exact one; ``n 256`` or
            ``exact``.
        printed, mark: the paper's value and v, s or m; empty where nothing was printed.
        verdict, style: the verdict's words and style class.
        control, control_interval: the control's value and interval; empty where there is none.
        control_mark: which of the table's controls it is, as a letter; empty if there is only one.
        p: the p-value as text; empty where there is none.
        note: number of the table's footnote, or 0.
    """

    ident: str
    row: str
    column: str
    measured: str
    interval: str
    size: str
    printed: str
    mark: str
    verdict: str
    style: str
    control: str
    control_interval: str
    control_mark: str
    p: str
    note: int


@dataclass(frozen=True)
class BlockView:
    """Rows of a table that share columns; the page draws each block as a table of its own.

    Attributes:
        columns, rows: as in `TableView`, without the columns in which none of these rows has a cell.
        folded: what the page says in the place of the rows until they are asked for; empty if they stand open.
    """

    columns: tuple[tuple[str, bool, str], ...]
    rows: tuple[tuple[str, tuple[CellView | None, ...]], ...]
    folded: str

    @property
    def slim(self) -> bool:
        """Whether it has so few columns that it should not fill the page."""
        return self._width <= 2

    @property
    def roomy(self) -> bool:
        """Whether it has so few columns that a cell's small print may stand beside its number."""
        return self._width <= 3

    @property
    def _width(self) -> int:
        return len(self.columns) + sum(paper for _, paper, _ in self.columns)


@dataclass(frozen=True)
class TableView:
    """A table of cells.

    Attributes:
        columns: (name, whether the paper printed anything in it, the size all its cells share or nothing).
        rows: (name, one cell or None per column).
        controls: (letter or nothing, what the control is).
        notes: footnotes, numbered from 1.
        tally: (verdict, style class, how many cells), only those that occur.
        marks: the marks (v, s, m) that occur.
        functions: the functions that computed its cells.
        blocks: the same rows and columns as the page draws them.
        sampled, exact, residual: whether any cell is sampled, any exact, any of these with a residual.
    """

    name: str
    columns: tuple[tuple[str, bool, str], ...]
    rows: tuple[tuple[str, tuple[CellView | None, ...]], ...]
    controls: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    tally: tuple[tuple[str, str, int], ...]
    marks: tuple[str, ...]
    functions: tuple[str, ...]
    blocks: tuple[BlockView, ...]
    sampled: bool
    exact: bool
    residual: bool

    @property
    def cells(self) -> list[CellView]:
        """All cells, row by row."""
        return [cell for _, row in self.rows for cell in row if cell is not None]

    @property
    def slim(self) -> bool:
        """Whether it has so few columns that it should not fill the page."""
        return all(block.slim for block in self.blocks)

    @property
    def compared(self) -> bool:
        """Whether the paper printed any of it."""
        return any(paper for _, paper, _ in self.columns)


@dataclass(frozen=True)
class _Style:
    """How the numbers of one column are written; `points`: they are differences of shares."""

    unit: fmt.Unit
    places: int | None
    points: bool = False

    def write(self, value: Any) -> str:
        """Write one number with the column's decimals, or its own if the column shares none."""
        places = fmt.own_decimals(value) if self.places is None else self.places
        if self.points and fmt.finite(value) is not None:
            text = fmt.number(value, self.unit, places, sign=False)
            return f"{'+' if text.strip('0.,')[:1].isdigit() else ''}{text}\N{NO-BREAK SPACE}pts"
        return fmt.number(value, self.unit, places)

    def interval(self, low: Any, high: Any) -> str:
        """Write an interval; empty if either end is missing."""
        if self.places is not None:
            return fmt.interval(low, high, self.unit, self.places)
        ends = [v for v in map(fmt.finite, (low, high)) if v]
        places = fmt.own_decimals(max(ends, key=abs), 3) if ends else None
        return fmt.interval(low, high, self.unit, places)


@dataclass(frozen=True)
class GridView:
    """A plain table that a record brought along: texts, and which columns are numbers."""

    ident: str
    title: str
    caption: str
    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]


def table(
    name: str, ident: str, cells: Sequence[Mapping[str, Any]], printed: Mapping[tuple[str, str], Printed]
) -> TableView | None:
    """Arrange the cells of one table; rows and columns keep the order in which they first appear.

    Args:
        name: the table's name.
        ident: prefix of the cells' anchors.
        cells: entries of results.json that belong to the table.
        printed: the study's printed values, which know how many digits the paper gave.

    Returns:
        The table, or None if there are no cells.
    """
    if not cells:
        return None
    rows = list(dict.fromkeys(fmt.clean(c.get("row", "")) for c in cells))
    columns = list(dict.fromkeys(fmt.clean(c.get("column", "")) for c in cells))
    controls = list(dict.fromkeys(_control(c)[0] for c in cells if _control(c)[1]))
    notes = list(dict.fromkeys(fmt.prose(c["note"]) for c in cells if c.get("note")))
    # A column keeps one number of decimals, so that its digits line up.
    styles = {c: _style(c, [x for x in cells if fmt.clean(x.get("column", "")) == c]) for c in columns}
    views: dict[tuple[str, str], CellView] = {}
    for i, c in enumerate(cells):
        view = _cell(c, f"{ident}.{i + 1}", styles, controls, notes, printed)
        views[view.row, view.column] = view
    shown = [views[r, c] for r in rows for c in columns if (r, c) in views]
    filled = [(r, tuple(views.get((r, c)) for c in columns)) for r in rows]
    return TableView(
        name=name,
        columns=tuple(_head(c, [v for v in shown if v.column == c]) for c in columns),
        rows=tuple(filled),
        blocks=tuple(_blocks(filled, columns)),
        controls=tuple((_letter(i, controls), label) for i, label in enumerate(controls)),
        notes=tuple(notes),
        tally=tally(shown),
        marks=tuple(m for m in "vsm" if any(v.mark == m for v in shown)),
        functions=tuple(dict.fromkeys(str(c["code"]) for c in cells if c.get("code"))),
        sampled=any(c.get("kind") != "exact" for c in cells),
        exact=any(v.size == "exact" for v in shown),
        residual=any(v.size == "exact" and v.interval for v in shown),
    )


def unmeasured(entry: Mapping[str, Any], printed: Mapping[tuple[str, str], Printed]) -> str:
    """Say in words which number the paper prints and this run does not measure."""
    row, column = fmt.clean(entry.get("row", "")), fmt.clean(entry.get("column", ""))
    unit = fmt.unit_of(column, [entry.get("printed")], entry.get("unit"))
    known = printed.get((row, column))
    return f"{row}, {column} ({fmt.printed(entry.get('printed'), unit, known.digit if known else None)})"


def _head(column: str, cells: Sequence[CellView]) -> tuple[str, bool, str]:
    """Return a column's name, whether the paper printed any of it, and the size its cells share, if so."""
    sizes = {cell.size for cell in cells}
    return column, any(cell.printed for cell in cells), sizes.pop() if len(sizes) == 1 else ""


def _blocks(rows: Sequence[tuple[str, tuple[CellView | None, ...]]], columns: Sequence[str]) -> list[BlockView]:
    """Return the rows in blocks: apart where they share no column, and folded where they only add to others.

    A table whose rows fall into sets without a common column is several tables. Within one, rows that the paper does
    not print stand back behind those it does; where it prints none, the parts of a row (``net, layer``) behind it.
    """
    groups: list[tuple[set[int], list[int]]] = []
    for i, (_, cells) in enumerate(rows):
        held = {j for j, cell in enumerate(cells) if cell is not None}
        met = [g for g in groups if g[0] & held]
        groups = [g for g in groups if not g[0] & held]
        groups.append((held.union(*(g[0] for g in met)), [k for g in met for k in g[1]] + [i]))
    blocks: list[BlockView] = []
    for members in sorted(sorted(group) for _, group in groups):
        block = [rows[i] for i in members]
        names = {name for name, _ in block}
        extra = [any(c is not None and c.printed for c in cells) for _, cells in block]
        said = "that the paper does not print"
        if not any(extra):
            extra, said = [not any(name.startswith(f"{n}, ") for n in names) for name, _ in block], "in detail"
        behind = [row for row, main in zip(block, extra, strict=True) if not main]
        if len(behind) < _MANY:
            blocks.append(_block(block, columns, ""))
        else:
            blocks.append(_block([row for row, main in zip(block, extra, strict=True) if main], columns, ""))
            blocks.append(_block(behind, columns, f"{len(behind)} more rows {said}"))
    return blocks


def _block(rows: Sequence[tuple[str, tuple[CellView | None, ...]]], columns: Sequence[str], folded: str) -> BlockView:
    """Return rows without the columns in which none of them has a cell."""
    held = [j for j in range(len(columns)) if any(cells[j] is not None for _, cells in rows)]
    heads = [_head(columns[j], [c for _, cells in rows if (c := cells[j]) is not None]) for j in held]
    return BlockView(tuple(heads), tuple((name, tuple(cells[j] for j in held)) for name, cells in rows), folded)


def _style(column: str, cells: Sequence[Mapping[str, Any]]) -> _Style:
    """Return how the numbers of one column are written; a unit that any of its cells states is the column's."""
    stated = next((c["unit"] for c in cells if c.get("unit")), None)
    values = [documents.number(c, "measured") for c in cells]
    exact = all(c.get("kind") == "exact" for c in cells)
    unit = fmt.unit_of(column, values, stated, exact=exact)
    ends = [(fmt.finite(c.get("low")), fmt.finite(c.get("high"))) for c in cells if c.get("kind") != "exact"]
    halves = sorted((high - low) / 2 for low, high in ends if low is not None and high is not None and high > low)
    spread = halves[len(halves) // 2] if halves else None
    n = max(fmt.finite(c.get("n")) or 0 for c in cells)
    return _Style(unit, fmt.decimals(unit, n, values, spread=spread, exact=exact))


def _cell(
    cell: Mapping[str, Any],
    ident: str,
    styles: Mapping[str, _Style],
    controls: Sequence[str],
    notes: Sequence[str],
    printed: Mapping[tuple[str, str], Printed],
) -> CellView:
    """Write one cell as text."""
    row, column = fmt.clean(cell.get("row", "")), fmt.clean(cell.get("column", ""))
    measured, low, high = (documents.number(cell, name) for name in ("measured", "low", "high"))
    exact = cell.get("kind") == "exact"
    style = styles[column]
    if cell.get("unit") and cell["unit"] != style.unit:
        style = _style(column, [cell])
    if style.unit == "percent" and _DIFFERENCE.search(f"{row} {column}".lower()) and not _LENGTH.search(column.lower()):
        style = replace(style, points=True)
    known = printed.get((row, column))
    verdict = fmt.clean(cell.get("verdict") or "not printed")
    label, value = _control(cell)
    beside = _beside(label, value, style)
    return CellView(
        ident=ident,
        row=row,
        column=column,
        measured=style.write(measured),
        interval=fmt.residual(low, high, style.unit) if exact else style.interval(low, high),
        size="exact" if exact else f"n {fmt.count(cell.get('n'))}",
        printed=""
        if cell.get("printed") is None
        else fmt.printed(cell["printed"], style.unit, known.digit if known else None),
        mark=fmt.clean(cell.get("mark") or ""),
        verdict=verdict,
        style=VERDICTS.get(verdict, ("none", ""))[0],
        control=beside.write(documents.number(value, "measured")) if value else "",
        control_interval=""
        if value.get("low") == value.get("high")
        else beside.interval(value.get("low"), value.get("high")),
        control_mark=_letter(controls.index(label), controls) if value else "",
        p=fmt.p_value(cell.get("p")),
        note=notes.index(fmt.prose(cell["note"])) + 1 if cell.get("note") else 0,
    )


def _beside(label: str, control: Mapping[str, Any], style: _Style) -> _Style:
    """Return how a control is written: as what it stands beside, unless its own name or unit says otherwise."""
    named = fmt.unit_of(label, [control.get("measured")], control.get("unit"))
    unit = named if control.get("unit") or fmt.speaks_of_shares(label) else style.unit
    own = fmt.decimals(unit, control.get("n"), [control.get("measured")])
    if unit == style.unit and own is not None and style.places is not None:
        # Not finer than what it stands beside, unless a share would then seem to be none.
        value = abs(fmt.finite(control.get("measured")) or 0.0)
        seen = unit != "percent" or value == 0 or 100 * value >= 0.5 * 10**-style.places
        own = min(own, style.places + (unit != "percent")) if seen else own
    return _Style(unit, own, points=style.points and unit == style.unit)


def _control(cell: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return a cell's control and what it is called; an empty control if there is none."""
    control = cell.get("control")
    return (fmt.clean(control.get("label", "control")), control) if isinstance(control, Mapping) else ("", {})


def _letter(i: int, controls: Sequence[str]) -> str:
    """Return a, b, c ... for a table with several controls, nothing for a table with one."""
    return chr(ord("a") + i % 26) if len(controls) > 1 else ""


def tally(cells: Sequence[CellView]) -> tuple[tuple[str, str, int], ...]:
    """Count the verdicts that occur, in the order agrees, same direction, differs, not printed, others."""
    words = [*VERDICTS, *dict.fromkeys(c.verdict for c in cells if c.verdict not in VERDICTS)]
    counts = [(w, VERDICTS.get(w, ("none", ""))[0], sum(c.verdict == w for c in cells)) for w in words]
    return tuple(entry for entry in counts if entry[2])


def grid(extra: Mapping[str, Any], ident: str) -> GridView:
    """Write a record's own table as text: numbers by their column's name and size, the rest as it is."""
    columns = tuple(fmt.clean(c) for c in extra.get("columns") or ())
    rows = [list(r) + [None] * (len(columns) - len(r)) for r in extra.get("rows") or ()]
    by_column = [[r[j] for r in rows] for j in range(len(columns))]
    numeric = tuple(all(_is_number(v) for v in column) and any(v is not None for v in column) for column in by_column)
    return GridView(
        ident=ident,
        title=fmt.clean(extra.get("title", "")),
        caption=fmt.prose(extra.get("caption", "")),
        columns=columns,
        numeric=numeric,
        rows=tuple(tuple(_entry(v, c) for v, c in zip(r, columns, strict=False)) for r in rows),
    )


def _is_number(value: object) -> bool:
    """Whether an entry of a grid is a number, the text of one, or absent."""
    return value is None or isinstance(value, int | float) or _NUMERIC.fullmatch(str(value)) is not None


def _entry(value: object, column: str) -> str:
    """Write one entry of a record's own table."""
    if value is None:
        return fmt.MISSING
    if isinstance(value, float):
        # Only columns that speak of a share are shares: a loss of 0.4 is not 40%.
        unit = fmt.unit_of(column, [value], exact=True)
        return fmt.number(value, unit, {"percent": 2, "distortion": 3}.get(unit))
    if isinstance(value, int) and not isinstance(value, bool):
        return fmt.count(value)
    text = fmt.clean(value)
    return text.replace("-", fmt.MINUS) if _NUMERIC.fullmatch(text) else text

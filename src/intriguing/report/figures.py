"""From a record's pictures to what the page shows: charts completed with the print, galleries and cards with images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from intriguing.records import Record
from intriguing.report import cards, charts, images
from intriguing.report import format as fmt
from intriguing.report import lines as line_chart
from intriguing.studies.spec import Exhibit

# The opening shows original, perturbation and sum; controls that a gallery adds come later.
_OPENING = 3
# A gallery shows so many rows of a group at once, a section so many decks of cards; the rest is folded away.
_ROWS, _DECKS = 6, 1


def figures(
    exhibit: Exhibit, ident: str, record: Record | None, cells: Sequence[Mapping[str, Any]], album: images.Album
) -> list[dict[str, Any]]:
    """Return a view of each of a record's pictures, for the template.

    Args:
        exhibit: its printed values are put beside the measured ones.
        ident: the section's id, the prefix of the figures'.
        record: the exhibit's record.
        cells: the exhibit's cells, whose means are marked in the charts.
        album: encodes the images of galleries and cards.
    """
    pictures = (record.values.get("figures") or ()) if record else ()
    tensors = record.tensors if record else {}
    views = [
        drawn(_completed(picture, exhibit, cells), f"{ident}-figure-{i + 1}", tensors, album)
        for i, picture in enumerate(pictures)
    ]
    for i, view in enumerate(views):
        # What holds for all is said once.
        view["repeats"] = any(view["caption"] == earlier["caption"] for earlier in views[:i])
        view["folded"] = sum(bool(earlier["cards"]) for earlier in views[:i]) >= _DECKS and bool(view["cards"])
    return views


def _completed(picture: Mapping[str, Any], exhibit: Exhibit, cells: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Put the printed values, and the means of a distribution, into a picture that only names their cells.

    A distribution or an interval names the table's column as its ``column`` and the rows by its labels; the
    rows and columns of a heat map are the table's own. What the picture states itself stays.
    """
    kind, column = picture.get("kind"), picture.get("column")
    known = {place: value.value for place, value in exhibit.printed.items()}
    means = {(c.get("row"), c.get("column")): c.get("measured") for c in cells}
    if kind == "heatmap" and not picture.get("printed"):
        rows, columns = picture.get("rows") or (), picture.get("columns") or ()
        return {**picture, "printed": [[known.get((r, c)) for c in columns] for r in rows]}
    if kind in ("distribution", "interval") and column is not None:
        name = "series" if kind == "distribution" else "rows"
        entries = [
            {"printed": known.get((e.get("label"), column)), "measured": means.get((e.get("label"), column)), **e}
            for e in picture.get(name) or ()
        ]
        return {**picture, name: entries}
    return picture


def drawn(picture: Mapping[str, Any], ident: str, tensors: Mapping[str, Any], album: images.Album) -> dict[str, Any]:
    """Return one picture drawn: two charts, or a gallery's tiles, or cards, or nothing if nothing can be drawn.

    Args:
        picture: one of a record's ``figures``; a ``key`` of its own, pairs of style class and meaning, is kept.
        ident: unique on the page.
        tensors: hold the images of galleries and cards.
        album: encodes them.
    """
    kind = fmt.clean(picture.get("kind", ""))
    tiles = [_group(g, tensors, album) for g in picture.get("groups") or ()] if kind == "gallery" else []
    deck = [cards.card(c, tensors, album) for c in picture.get("cards") or ()] if kind == "cards" else []
    shown = [p for t in tiles for r in [*t["rows"], *t["more"]] for p in r["images"]]
    shown += [p for c in deck for p in [*c["top"], *(named for _, named in c["named"])]]
    return {
        "ident": ident,
        "kind": kind,
        "title": fmt.clean(picture.get("title", "")),
        "caption": fmt.prose(picture.get("caption", "")),
        "charts": None if kind in ("gallery", "cards") else charts.draw(picture, ident),
        "tiles": [t for t in tiles if t["rows"]],
        "cards": deck,
        "reduced": max([p.reduced for p in shown if p], default=1),
        "key": picture["key"] if "key" in picture else _key(picture),
        "repeats": False,
        "folded": False,
        "off_scale": kind == "lines" and line_chart.off_scale(picture),
    }


def _key(picture: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return which colours a chart uses: (style class, meaning)."""
    meanings = {"ours": "measured here", "paper": "printed in the paper", "control": "control"}
    if picture.get("kind") == "lines":
        roles = {s.role for s in line_chart.read(picture)}
        # One colour alone needs no key: the lines' names say what they are.
        return [(role, meaning) for role, meaning in meanings.items() if role in roles and len(roles) > 1]
    if picture.get("kind") not in ("distribution", "interval"):
        return []
    entries = [*(picture.get("series") or ()), *(picture.get("rows") or ())]
    given = {"paper": "printed", "control": "control"}
    held = {role for role, name in given.items() if any(fmt.finite(e.get(name)) is not None for e in entries)}
    return [(role, meaning) for role, meaning in meanings.items() if role == "ours" or role in held]


def _group(group: Mapping[str, Any], tensors: Mapping[str, Any], album: images.Album) -> dict[str, Any]:
    """Return one group of a gallery: rows of (column, encoded image) and how many images a row has."""
    columns = [fmt.clean(c) for c in group.get("columns") or ()]
    rows: list[dict[str, Any]] = []
    for row in group.get("rows") or ():
        plain = images.row(tensors, row.get("images") or ())
        pictures = album.add(plain)
        names = [*columns, *[""] * len(pictures)]
        rows.append(
            {
                "label": fmt.clean(row.get("label", "")),
                "note": fmt.prose(row.get("note", "")),
                "images": pictures,
                "shots": list(zip(names, pictures, strict=False)),
                "compares": images.compares(plain),
            }
        )
    width = max([1, *(len(r["images"]) for r in rows)])
    return {
        "title": fmt.clean(group.get("title", "")),
        "caption": fmt.clean(group.get("caption", "")),
        "rows": rows[:_ROWS],
        "more": rows[_ROWS:],
        "width": width,
        "named": any(columns),
        # Rows of images side by side on a desktop, so that digits stay large and the page short.
        "across": 4 if width <= 2 else 2 if width <= (10 if _digits(rows) else 5) else 1,
    }


def _digits(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all images of a group are small enough to be shown pixel by pixel."""
    return all(p.pixels for row in rows for p in row["images"] if p)


def opening(views: Sequence[Mapping[str, Any]], ident: str) -> dict[str, Any] | None:
    """Return the row of a gallery to open the page with, or None if there is none.

    The first complete row that sets an image beside a changed one, with a name for each; else beside a changed one;
    else the first complete row.

    Args:
        views: what `figures` returned.
        ident: the section it links to.
    """
    complete = [
        (row, view["title"], group["named"])
        for view in views
        for group in view["tiles"]
        for row in [*group["rows"], *group["more"]]
        if row["images"] and all(row["images"])
    ]
    for row, title, named in sorted(complete, key=lambda entry: -(2 * entry[0]["compares"] + entry[2])):
        shots = row["shots"][:_OPENING]
        # A note may speak of images that the opening leaves out.
        note = row["note"] if len(shots) == len(row["shots"]) else title
        found = {"label": row["label"], "note": note, "shots": shots, "ident": ident}
        # Images that their column names are original and result; others may be alike by chance.
        return found | {"compares": row["compares"], "rank": 2 * row["compares"] + named}
    return None

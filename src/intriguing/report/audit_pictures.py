"""An audit's curves, classes, confusions, transfer and layers as the pictures and tables that the page can draw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from intriguing import documents
from intriguing.report import format as fmt

# Bounds that span more than this stand on a logarithmic axis, and so do radii whose middle lies nearer to zero.
_LOG, _MIDDLE = 15, 0.25
# More classes than this are a matrix nobody reads; the commonest confusions are listed in its place.
_MATRIX = 20
# Of classes and layers the page draws so many; a table below holds all.
_ROWS = 24
_NORMS = {"1": "L1", "1.0": "L1", "2": "L2", "2.0": "L2", "inf": "Linf"}
_ALL = "worst of"


def norm_name(norm: object) -> str:
    """Return what a reader calls a norm: ``2`` is L2."""
    return _NORMS.get(str(norm), f"L{fmt.clean(norm)}")


def curves(
    given: Sequence[Mapping[str, Any]], attacks: Sequence[str] = ()
) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Return per norm a picture of robust accuracy against distance, and the same numbers as tables.

    Args:
        given: the document's ``curves``.
        attacks: the names of all attacks; where there is one alone, the worst of all is called by it.
    """
    if len(attacks) == 1:
        given = [{**c, "attack": attacks[0]} if c.get("attack") == _ALL else c for c in given]
    norms = list(dict.fromkeys(str(c.get("norm")) for c in given))
    return [_curves_in(norm, [c for c in given if str(c.get("norm")) == norm]) for norm in norms]


def _curves_in(norm: str, members: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    # The worst of all attacks is the claim; a single attack is what it is held against.
    ordered = sorted(members, key=lambda c: c.get("attack") != _ALL)
    named = {fmt.clean(c.get("attack", "")): _points(c) for c in ordered}
    alone = len(named) == 1
    positive = sorted({r for points in named.values() for r in points if r > 0})
    log = bool(positive) and positive[len(positive) // 2] < _MIDDLE * positive[-1]
    series = [
        {
            "label": name,
            "role": "ours" if name == _ALL or alone else "control",
            "points": [point for r, point in points.items() if r > 0 or not log],
        }
        for name, points in named.items()
    ]
    picture = {
        "kind": "lines",
        "title": f"Accuracy within a distance, {norm_name(norm)}",
        "caption": "Share of all images that are answered rightly and for which no attack found an example within the "
        f"distance; bands are 95% intervals. The true curve lies at or below the lowest. n {_size(members)}.",
        "x": f"distance, {norm_name(norm)}, in pixel units",
        "y": "accuracy under attack",
        "y_unit": "percent",
        "log_x": log,
        "series": series,
        "key": [] if alone else [("ours", "the worst of all attacks, image by image"), ("control", "one attack")],
    }
    # Curves at the same radii share a table.
    groups = list(dict.fromkeys(tuple(points) for points in named.values()))
    return picture, [_table(norm, {n: p for n, p in named.items() if tuple(p) == radii}) for radii in groups]


def _table(norm: str, named: Mapping[str, Mapping[float, Mapping[str, float | None]]]) -> dict[str, Any]:
    """Return curves at the same radii as a table."""
    radii = list(next(iter(named.values())))
    return {
        "title": f"As numbers, {norm_name(norm)}, {', '.join(named)}",
        "caption": "Accuracy under attack with its 95% interval.",
        "columns": [f"{norm_name(norm)} distance", *named],
        "rows": [[fmt.number(r), *(_share(points[r]) for points in named.values())] for r in radii],
    }


def _points(curve: Mapping[str, Any]) -> dict[float, dict[str, float | None]]:
    """Return a curve's points by radius."""
    columns = [documents.numbers(curve, name) for name in ("radii", "robust_accuracy", "low", "high")]
    length = len(columns[0])
    whole = [[*column, *[None] * length][:length] for column in columns]
    return {
        r: {"x": r, "y": y, "low": low, "high": high}
        for r, y, low, high in zip(*whole, strict=True)
        if r is not None and y is not None
    }


def _share(point: Mapping[str, float | None]) -> str:
    interval = fmt.interval(point["low"], point["high"], "percent", 1)
    return fmt.number(point["y"], "percent", 1) + (f" ({interval})" if interval else "")


def _size(members: Sequence[Mapping[str, Any]]) -> str:
    return fmt.count(next((c["n"] for c in members if c.get("n")), None))


def classes(given: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a picture of the median distance per class, the nearest first, and the same numbers as a table."""
    known = [(c, documents.number(c, "median_l2")) for c in given]
    ordered = sorted(known, key=lambda pair: math.inf if pair[1] is None or math.isnan(pair[1]) else pair[1])
    far = [fmt.clean(c.get("class", "")) for c, value in ordered if value == math.inf]
    drawn = [(c, v) for c, v in ordered if fmt.finite(v) is not None]
    beyond = f" Half of the images or more have no example found: {', '.join(far[:12])}." if far else ""
    left = f" The {_ROWS} classes nearest to a mistake; the table holds all." if len(drawn) > _ROWS else ""
    picture = {
        "kind": "interval",
        "title": "By class",
        "caption": f"Median L2 distance to the nearest example found, with its 95% interval.{left}{beyond}",
        "x": "median distance, L2, in pixel units",
        "rows": [
            {
                "label": fmt.clean(c.get("class", "")),
                "measured": value,
                "low": documents.number(c, "low"),
                "high": _end(documents.number(c, "high"), [v for _, v in drawn]),
            }
            for c, value in drawn[:_ROWS]
        ],
        "key": [],
    }
    table = {
        "title": "The classes as numbers",
        "caption": "Median L2 distance with its 95% interval; ∞ where half of the images or more have no example.",
        "columns": ["class", "n", "median distance, L2", "95% interval"],
        "rows": [
            [
                fmt.clean(c.get("class", "")),
                c.get("n"),
                fmt.number(value, places=3),
                fmt.interval(documents.number(c, "low"), documents.number(c, "high"), "number", 3),
            ]
            for c, value in ordered
        ],
    }
    return picture, table


def _end(high: float | None, values: Sequence[float | None]) -> float | None:
    """Return the upper end of an interval; one that is infinite leaves the picture at its largest value."""
    return max((v for v in values if v is not None), default=None) if high == math.inf else high


def spread(distances: Mapping[str, Sequence[float]], median: float | None) -> dict[str, Any] | None:
    """Return a picture of how the distances are spread over the images; None where there are none.

    Args:
        distances: attack -> L2 distance of every image that was attacked, infinite where nothing was found.
        median: the median of the worst of all attacks, which is marked.
    """
    if len(distances) == 2 and _ALL in distances:
        # Of one attack the worst of all is the same again.
        distances = {name: distances[_ALL] for name in distances if name != _ALL}
    marked = _ALL if _ALL in distances else next(iter(distances), "")
    series = [
        {
            "label": fmt.clean(name),
            "values": list(values),
            "measured": median if name == marked else None,
            "mark": "median",
        }
        for name, values in sorted(distances.items(), key=lambda pair: pair[0] != _ALL)
        if len(values)
    ]
    return {
        "kind": "distribution",
        "title": "Image by image",
        "caption": "How many images have their nearest example at which distance; the line marks the median. Images "
        "without an example are counted beside the name.",
        "x": "distance, L2, in pixel units",
        "series": series,
        "key": [],
    } if series else None  # fmt: skip


def confusion(given: Mapping[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Return the matrix of true and adversarial class as a picture, if it can be read, and its largest entries."""
    names = [fmt.clean(name) for name in given.get("classes") or ()]
    counts = [documents.numbers({"row": row}, "row") for row in given.get("counts") or ()]
    pairs = sorted(
        ((count, i, j) for i, row in enumerate(counts) for j, count in enumerate(row) if count),
        key=lambda entry: (-entry[0], entry[1], entry[2]),
    )
    named = [name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names)]
    picture = {
        "kind": "heatmap",
        "title": "",
        "name": "",
        "caption": "Images of the class on the left whose nearest example is read as the class above.",
        "rows": named,
        "columns": named,
        "values": counts,
        "unit": "number",
        "row_label": "true class",
        "column_label": "read as",
        "key": [],
    }
    table = {
        "title": "The commonest confusions",
        "caption": "How many images of a class have their nearest example in the other.",
        "columns": ["true class", "read as", "images"],
        "rows": [[named[i], named[j], int(count)] for count, i, j in pairs[:_ROWS] if _inside(i, j, named)],
    }
    return (picture if 0 < len(names) <= _MATRIX and pairs else None), table


def _inside(i: int, j: int, names: Sequence[str]) -> bool:
    return i < len(names) and j < len(names)


def transfer(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the cells of the table of transfer: made for a model, fed to another, beside noise of equal norm."""
    sources, receivers = ([fmt.clean(n) for n in given.get(k) or ()] for k in ("sources", "receivers"))
    rates, noise = (given.get(name) or [] for name in ("rate", "noise"))
    cells = []
    for i, source in enumerate(sources):
        for j, receiver in enumerate(receivers):
            entry, control = _at(rates, i, j), _at(noise, i, j)
            if entry is None:
                continue
            cells.append(
                {
                    "row": source,
                    "column": receiver,
                    "kind": "sampled",
                    "unit": "percent",
                    "measured": documents.number(entry, "value"),
                    "n": entry.get("n"),
                    "low": documents.number(entry, "low"),
                    "high": documents.number(entry, "high"),
                    "control": None if control is None else _noise(control),
                }
            )
    return cells


def _noise(control: Mapping[str, Any]) -> dict[str, Any]:
    ends = {name: documents.number(control, name) for name in ("low", "high")}
    label = "noise of the same size on the same images"
    return {
        "label": label,
        "measured": documents.number(control, "value"),
        "n": control.get("n"),
        "unit": "percent",
        **ends,
    }


def _at(matrix: Sequence[Any], i: int, j: int) -> Mapping[str, Any] | None:
    """Return an entry of a matrix that may be ragged."""
    try:
        entry = matrix[i][j]
    except (IndexError, KeyError, TypeError):
        return None
    return entry if isinstance(entry, Mapping) else None


def layers(given: Sequence[Mapping[str, Any]], model: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a picture of how far each layer can stretch a change, the most first, and a table in the net's order.

    Where the document says how far each does stretch one, both stand there, those first that lose most between.

    Args:
        given: ``name``, ``kind``, ``bound`` and, if they were measured, ``gain`` and ``share`` of each layer.
        model: whose layers, where there are several models.
    """
    if any(documents.number(entry, "gain") is not None for entry in given):
        return _losses(given, model)
    known = [(fmt.clean(entry.get("name", "")), documents.number(entry, "bound")) for entry in given]
    drawn = sorted(((n, v) for n, v in known if fmt.finite(v) and v and v > 0), key=lambda pair: -(pair[1] or 0))
    values = [v for _, v in drawn if v]
    picture = {
        "kind": "interval",
        "title": model,
        "caption": "Largest factor by which a layer can lengthen a change of its input, in L2"
        f"{f'; the {_ROWS} largest of {len(drawn)}' if len(drawn) > _ROWS else ''}.",
        "x": "bound of the layer",
        "x_unit": "number",
        "log_x": bool(values) and max(values) > _LOG * min(values),
        "rows": [{"label": name, "measured": value} for name, value in drawn[:_ROWS]],
        "key": [],
    }
    table = {
        "title": "The layers as numbers",
        "caption": "In the order of the net.",
        "columns": ["layer", "kind", "bound"],
        "rows": [[n, fmt.clean(e.get("kind", "")), fmt.number(v)] for (n, v), e in zip(known, given, strict=True)],
    }
    return picture, table


def _layer(entry: Mapping[str, Any]) -> tuple[str, str, float | None, float | None, float | None]:
    """Return a layer's name, kind, bound, gain and share."""
    bound, gain, share = (documents.number(entry, name) for name in ("bound", "gain", "share"))
    return fmt.clean(entry.get("name", "")), fmt.clean(entry.get("kind", "")), bound, gain, share


def _losses(given: Sequence[Mapping[str, Any]], model: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a picture of each layer's bound beside its gain, and a table with its share of what lies between."""
    rows = [_layer(entry) for entry in given]
    ordered = sorted((row for row in rows if fmt.finite(row[2]) and fmt.finite(row[3])), key=lambda row: -(row[4] or 0))
    sizes = [size for row in ordered for size in row[2:4] if size and size > 0]
    more = f"; the {_ROWS} that lose most of {len(ordered)}" if len(ordered) > _ROWS else ""
    picture = {
        "kind": "interval",
        "title": model,
        "caption": f"Disc: the layer's bound, no change grows more. Square: what it makes of the examples found, the "
        f"geometric mean. After the name its share of all that lies between{more}.",
        "x": "factor by which the layer lengthens a change",
        "x_unit": "number",
        "log_x": bool(sizes) and max(sizes) > _LOG * min(sizes),
        "rows": [
            {
                "label": f"{name}, {kind}: {fmt.number(share, 'percent', 0)}",
                "measured": bound,
                "control": gain,
                "low": gain,
                "high": bound,
            }
            for name, kind, bound, gain, share in ordered[:_ROWS]
        ],
        "key": [("ours", "bound"), ("control", "measured gain")],
    }
    table = {
        "title": f"The layers{f' of {model}' if model else ''} as numbers",
        "caption": "In the order of the net. The shares are of the logarithm of bound over gain, and add up to all.",
        "columns": ["layer", "kind", "bound", "measured gain", "bound / gain", "share of the looseness"],
        "rows": [
            [
                name,
                kind,
                fmt.number(bound),
                fmt.number(gain),
                fmt.number(bound / gain if bound and gain else None),
                fmt.number(share, "percent", 1),
            ]
            for name, kind, bound, gain, share in rows
        ],
    }
    return picture, table

"""Two pictures of what is proved beside what was found: a band along the radius, and how near by which effort.

Each model has a colour of its own. The lower edge of a band is proved, the upper one was found, and what lies between
nobody knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from intriguing.report import format as fmt
from intriguing.report import pen, svg
from intriguing.report.svg import COLOURS

MODELS = ("model1", "model2", "model3", "model4")  # colours; further models begin again
_DASH = (0, (5, 2.2))
_ROOM = 78  # pixels that the words in a band need
_LETTER = 6.3

Map = Callable[[float], float]
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class _Band:
    """A model's two curves as corners of steps, from left to right, in its own units."""

    label: str
    colour: str
    certified: Points
    found: Points


def colour(place: int) -> str:
    """Return the colour of the model at a place."""
    return MODELS[place % len(MODELS)]


def band(picture: Mapping[str, Any], ident: str, wide: bool) -> Markup | None:
    """Draw a panel per model, one above the other over the same radii: both step curves, and the band between them.

    The picture's ``bands`` are ``{"label", "radii", "certified", "found"}``: a certified share holds from the radius
    before to its own, a found one from its own radius to the next.
    """
    log = bool(picture.get("log_x"))
    given = [entry for entry in picture.get("bands") or () if entry.get("radii")]
    radii = [r for entry in given for r in entry["radii"] if r > 0 or not log]
    if not radii:
        return None
    bands = [_read(entry, colour(k), min(radii)) for k, entry in enumerate(given)]
    several = len(bands) > 1
    width = pen.WIDE if wide else pen.NARROW
    left, right = 46.0, width - 12.0
    height, pitch, top = (118.0, 166.0, 56.0) if several else ((300.0, 0.0, 40.0) if wide else (240.0, 0.0, 40.0))
    foot = top + pitch * (len(bands) - 1) + height
    to_x = pen.span(radii, left + 4, right - 4, log=log)
    _, ticks = pen.scale(radii, left + 4, right - 4, log=log)
    ticks = [t for t in ticks if min(radii) <= t <= max(radii)] or [min(radii)]
    name = pen.named(picture.get("x"), right - left)
    with svg.canvas(width, foot + 29 + pen.PITCH * len(name)) as (figure, axes):
        pen.axis(axes, to_x, ticks, top, foot + 4, name)
        pen.text(axes, 0, top - (40 if several else 22), picture.get("y", ""), colour="quiet")
        for k, one in enumerate(bands):
            above = top + pitch * k
            if several:
                pen.text(
                    axes, left, above - 15, pen.clip(one.label, 90 if wide else 46), colour=one.colour, weight="bold"
                )
            _panel(axes, one, to_x, above, height, (left, right), words=k == 0)
        return svg.render(figure, ident, pen.spoken(picture, [one.label for one in bands]))


def _read(entry: Mapping[str, Any], own: str, least: float) -> _Band:
    radii = [max(r, least) for r in entry["radii"]]
    certified, found = entry["certified"], entry["found"]
    lower: Points = [(radii[0], certified[0])]
    upper: Points = [(radii[0], found[0])]
    for k in range(1, len(radii)):
        lower += [(radii[k - 1], certified[k]), (radii[k], certified[k])]
        upper += [(radii[k], found[k - 1]), (radii[k], found[k])]
    return _Band(fmt.clean(entry.get("label", "")), own, lower, upper)


def _panel(
    axes: Axes, one: _Band, to_x: Map, top: float, height: float, sides: tuple[float, float], *, words: bool
) -> None:
    """Draw one model's band between `top` and `top + height`, and what its parts are called if asked."""

    def to_y(share: float) -> float:
        return top + height * (1 - share)

    for share in (0.0, 0.5, 1.0) if height < 200 else (0.0, 0.25, 0.5, 0.75, 1.0):
        pen.rule(axes, list(sides), [to_y(share)] * 2, "quiet" if not share else "line", 0.8, zorder=0)
        pen.text(
            axes, sides[0] - 7, to_y(share), fmt.number(share, "percent"), colour="quiet", size=pen.SMALL, ha="right"
        )
    lower, upper = ([(to_x(x), to_y(y)) for x, y in points] for points in (one.certified, one.found))
    corners = [*upper, *reversed(lower)]
    axes.fill([x for x, _ in corners], [y for _, y in corners], facecolor=COLOURS[one.colour], alpha=0.17, linewidth=0)
    for points, dash in ((upper, _DASH), (lower, "-")):
        xs, ys = [x for x, _ in points], [y for _, y in points]
        axes.plot(xs, ys, linestyle=dash, color=COLOURS[one.colour], linewidth=1.9, zorder=4, solid_joinstyle="round")
    if not words:
        return
    level = max(y for _, y in one.found) / 2
    here, there = (to_x(_crossing(points, level)) for points in (one.certified, one.found))
    y = to_y(level)
    style: dict[str, Any] = {"size": pen.SMALL, "zorder": 6}
    if there - here > _ROOM:
        pen.text(axes, (here + there) / 2, y, "nobody knows", colour="ink", ha="center", style="italic", **style)
    if here - sides[0] > 70:
        pen.text(axes, here - 12, y + 7, "proved", colour=one.colour, ha="right", weight="bold", **style)
    if sides[1] - there > 60:
        pen.text(axes, there + 12, y - 7, "found", colour=one.colour, weight="bold", **style)


def _crossing(points: Points, level: float) -> float:
    """Return where a falling curve goes below a level; its end if it does not."""
    return next((x for x, y in points if y < level), points[-1][0])


def cost(picture: Mapping[str, Any], ident: str, wide: bool) -> Markup | None:
    """Draw each method's share of the distance found against the seconds it takes, a line per model.

    The picture's ``lines`` are ``{"label", "points"}``, a point ``{"label", "x", "y", "low", "high"}``.
    """
    lines = [
        (fmt.clean(line.get("label", "")), [p for p in line.get("points") or () if _drawable(p)])
        for line in picture.get("lines") or ()
    ]
    lines = [(label, points) for label, points in lines if points]
    xs = [p["x"] for _, points in lines for p in points]
    if not xs:
        return None
    several = len(lines) > 1
    width = pen.WIDE if wide else pen.NARROW
    names = [pen.wrapped(label, 20 if wide else 13, 3) if several else [] for label, _ in lines]
    longest = max((len(part) for parts in names for part in parts), default=0)
    left, right = 46.0, width - (22 + 6.6 * longest if several else 14)
    name_y = pen.named(picture.get("y"), width)
    top = 25 + pen.PITCH * len(name_y)
    foot = top + 220
    name_x = pen.named(picture.get("x"), right - left)
    to_x, ticks_x = pen.scale(xs, left + 26, right - 26, log=True)
    to_y, ticks_y = pen.scale([0.0, 1.0], foot, top, share=True)
    with svg.canvas(width, foot + 29 + pen.PITCH * len(name_x)) as (figure, axes):
        pen.upright(axes, to_y, ticks_y, left, right, name_y, "percent")
        pen.axis(axes, to_x, ticks_x, foot, foot + 4, name_x)
        for k, (_, points) in enumerate(lines):
            _line(axes, points, colour(k), to_x, to_y)
        _methods(axes, [p for _, points in lines for p in points], to_x, to_y, (left, right))
        if several:
            _names(axes, [points for _, points in lines], names, to_x, to_y, right, (top - 8, foot + 4))
        return svg.render(figure, ident, pen.spoken(picture, [label for label, _ in lines]))


def _drawable(point: Mapping[str, Any]) -> bool:
    return fmt.finite(point.get("x")) is not None and fmt.finite(point.get("y")) is not None and point["x"] > 0


def _line(axes: Axes, points: Sequence[Mapping[str, Any]], own: str, to_x: Map, to_y: Map) -> None:
    places = [(to_x(p["x"]), to_y(p["y"])) for p in points]
    axes.plot([x for x, _ in places], [y for _, y in places], color=COLOURS[own], linewidth=1.2, alpha=0.55, zorder=3)
    for point, (x, y) in zip(points, places, strict=True):
        low, high = fmt.finite(point.get("low")), fmt.finite(point.get("high"))
        if low is not None and high is not None:
            pen.rule(axes, [x, x], [to_y(low), to_y(min(high, 1.0))], own, 1.3, alpha=0.6, zorder=2)
        axes.plot(
            [x], [y], "o", markersize=7.5, color=COLOURS[own], markeredgecolor=COLOURS["ground"], markeredgewidth=0.9,
            zorder=5,
        )  # fmt: skip


def _methods(axes: Axes, points: Sequence[Mapping[str, Any]], to_x: Map, to_y: Map, sides: tuple[float, float]) -> None:
    """Name each method at its highest point: above it, or below its lowest where another name is there already."""
    taken: list[tuple[float, float, float]] = []
    for label in dict.fromkeys(fmt.clean(p.get("label", "")) for p in points):
        own = [p for p in points if fmt.clean(p.get("label", "")) == label]
        highest, lowest = max(own, key=lambda p: p["y"]), min(own, key=lambda p: p["y"])
        half = _LETTER * len(label) / 2
        for point, shift in ((highest, -1), (lowest, 1)):
            end = fmt.finite(point.get("high" if shift < 0 else "low"))
            y = to_y(min(1.0, point["y"] if end is None else end)) + 13 * shift
            x = min(max(to_x(point["x"]), sides[0] + half + 2), sides[1] + 20 - half)
            if not any(abs(x - a) < half + b and abs(y - c) < 13 for a, b, c in taken):
                break
        taken.append((x, half, y))
        pen.text(axes, x, y, label, colour="ink", size=pen.SMALL, ha="center", zorder=6)


def _names(
    axes: Axes,
    lines: Sequence[Sequence[Mapping[str, Any]]],
    names: Sequence[Sequence[str]],
    to_x: Map,
    to_y: Map,
    right: float,
    bounds: tuple[float, float],
) -> None:
    """Write each model's name to the right of its last point, moved apart where they would touch."""
    pitch = pen.SMALL * 1.18
    lasts = [max(points, key=lambda p: p["x"]) for points in lines]
    heights = [to_y(p["y"]) for p in lasts]
    middles = pen.apart(heights, [pitch * len(parts) + 3 for parts in names], *bounds)
    for k, (point, parts, y, middle) in enumerate(zip(lasts, names, heights, middles, strict=True)):
        pen.rule(
            axes, [to_x(point["x"]) + 6, right + 1, right + 5], [y, y, middle], colour(k), 0.7, alpha=0.5, zorder=1
        )
        for i, part in enumerate(parts):
            at = middle + pitch * (i - (len(parts) - 1) / 2)
            pen.text(axes, right + 8, at, part, colour=colour(k), size=pen.SMALL, weight="bold")

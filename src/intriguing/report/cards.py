"""Cards: one unit each, with the images that drive it, how it is distributed, and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from markupsafe import Markup

from intriguing.report import format as fmt
from intriguing.report import images

# A histogram's drawing area, in units of its viewBox.
_WIDTH, _HEIGHT = 160.0, 46.0
# A bin this many times as high as the next is cut, or it would flatten all others to nothing.
_CUT = 3.0


def card(given: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], album: images.Album) -> dict[str, Any]:
    """Return what the template shows of one card.

    Args:
        given: ``title``, ``note``, ``facts`` (pairs of texts), ``images`` (references; those with a ``label`` stand
            apart with it) and ``histogram`` (``edges``, ``counts`` and perhaps ``x``, what is counted).
        tensors: the record's.
        album: encodes the images.
    """
    references = given.get("images") or ()
    encoded = album.add(images.row(tensors, references))
    labels = [fmt.clean(r.get("label") or "") if isinstance(r, Mapping) else "" for r in references]
    shots = list(zip(labels, encoded, strict=True))
    return {
        "title": fmt.clean(given.get("title", "")),
        "note": fmt.clean(given.get("note", "")),
        "facts": [(fmt.clean(pair[0]), fmt.clean(pair[1])) for pair in given.get("facts") or () if len(pair) == 2],
        "top": [picture for label, picture in shots if not label],
        "named": [(label, picture) for label, picture in shots if label],
        "histogram": histogram(given.get("histogram")),
    }


def histogram(given: object) -> dict[str, Any] | None:
    """Return a small histogram: its drawing, the texts at its two ends, what is counted, and what was cut.

    Args:
        given: ``{"edges": n + 1 rising numbers, "counts": n numbers at least 0}``.

    Returns:
        None if there is nothing to draw.

    Example:
        >>> histogram({"edges": [0, 1, 2], "counts": [9, 1]})["last"]
        '2'
    """
    if not isinstance(given, Mapping):
        return None
    edges = [fmt.finite(v) for v in given.get("edges") or ()]
    counts = [fmt.finite(v) or 0.0 for v in given.get("counts") or ()]
    known = [e for e in edges if e is not None]
    if len(known) != len(edges) or len(known) != len(counts) + 1 or known[-1] <= known[0] or max(counts) <= 0:
        return None
    high, *rest = sorted(counts, reverse=True)
    second = rest[0] if rest else 0.0
    cut = 0 < second * _CUT < high
    top = second * 1.35 if cut else high
    to_x = [_WIDTH * (e - known[0]) / (known[-1] - known[0]) for e in known]
    heights = [_HEIGHT * min(1.0, c / top) for c in counts]
    tallest = counts.index(high)
    return {
        "drawing": _drawing(to_x, heights, tallest if cut else None),
        "first": _end(known[0]),
        "last": _end(known[-1]),
        "x": fmt.clean(given.get("x") or ""),
        "cut": f"{fmt.number(high / sum(counts), 'percent', 0)} in one bin" if cut else "",
    }


def _end(edge: float) -> str:
    """Write an end of the axis with two digits, a whole number whole."""
    return fmt.number(edge, places=0 if edge == int(edge) else fmt.own_decimals(edge, 2))


def _drawing(to_x: Sequence[float], heights: Sequence[float], cut: int | None) -> Markup:
    """Return the bars as one shape, with a gap across the bar that was cut."""
    steps = "".join(f"V{_HEIGHT - h:.1f}H{x:.1f}" for h, x in zip(heights, to_x[1:], strict=True))
    shape = f'<path class="hill" d="M{to_x[0]:.1f} {_HEIGHT:g}{steps}V{_HEIGHT:g}Z"/>'
    gap = ""
    if cut is not None:
        left, right = to_x[cut] - 2, to_x[cut + 1] + 2
        gap = f'<path class="gap" d="M{left:.1f} 12L{right:.1f} 7"/>'
    foot = f'<path class="foot" d="M0 {_HEIGHT:g}H{_WIDTH:g}"/>'
    return Markup(
        f'<svg class="histogram" viewBox="0 -1 {_WIDTH:g} {_HEIGHT + 2:g}" preserveAspectRatio="none" '
        f'aria-hidden="true">{shape}{gap}{foot}</svg>'
    )

"""A Matplotlib figure as SVG that can stand inside a page: themed, scalable, and the same bytes every time.

Charts are drawn in the sentinel colours of `COLOURS`; the page's CSS variables take their place, so that
one drawing serves the light page, the dark page and print.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Sentinels: colours no chart would otherwise use -> the page's variable. One meaning per colour.
COLOURS = {
    "ink": "#010101",
    "quiet": "#020202",
    "line": "#030303",
    "ours": "#040404",
    "paper": "#050505",
    "control": "#060606",
    "ground": "#070707",
    "model1": "#080808",
    "model2": "#090909",
    "model3": "#0a0a0a",
    "model4": "#0b0b0b",
}
# Matplotlib measures text with its own font; the page shows it in the reader's.
_FONT = "DejaVu Sans"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": _FONT,
    "text.parse_math": False,  # a label may hold a dollar sign
    "axes.unicode_minus": True,
    "path.simplify": False,
    "hatch.linewidth": 0.6,
}


@contextmanager
def canvas(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """Open a figure whose data coordinates are CSS pixels from the top left corner.

    Args:
        width: in pixels; also the width of the viewBox.
        height: in pixels.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        axes.set_axis_off()
        yield figure, axes


def render(figure: Figure, ident: str, label: str) -> Markup:
    """Return the figure as an ``<svg>`` element to be placed in HTML. Call inside `canvas`.

    Args:
        figure: drawn in the colours of `COLOURS`.
        ident: unique on the page, letters, digits and hyphens; prefixes every id inside.
        label: what a screen reader says; untrusted text.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": ident}), warnings.catch_warnings():
        # A label in a script Matplotlib's own font lacks is still right: the browser has the glyphs.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{ident}-', text)
    text = re.sub(r"url\(#", f"url(#{ident}-", text)
    text = re.sub(r'(xlink:)?href="#', f'href="#{ident}-', text)
    for name, sentinel in COLOURS.items():
        text = text.replace(sentinel, f"var(--{name})")
    text = text.replace(f"'{_FONT}'", "var(--sans)")
    text = re.sub(r"\s*\n\s*", "\n", text)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    assert box is not None  # Matplotlib always writes one
    head = (
        f'<svg class="chart" id="{ident}" role="img" aria-label="{escape(label)}" '
        f'viewBox="0 0 {box[1]} {box[2]}" style="--w: {float(box[1]):.0f}">'
    )
    return Markup(head + text[text.index(">") + 1 :].strip())

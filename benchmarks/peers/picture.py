"""The Pareto picture: mean distance against gradient evaluations and against seconds, for every net."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

import ours
import peers
import table
from nets import NETS
from optimality import area, best_of

_MARKERS = {"intriguing": "o", "Foolbox": "s", "adv-lib": "^", "torchattacks": "v", "ART": "D", "SecML-Torch": "P"}
_LEGEND = 1.0  # inches below the panels


def draw(results: Mapping[str, table.Results], path: Path, date: str) -> None:
    """Draw one row per net and two columns, and write an SVG.

    A point is an attack at a budget, its colour the method and its shape the library; a line joins one attack's
    budgets. Our main attack is thick and black. A filled point is on the front: none is nearer at the same cost.

    Args:
        results: net -> (attack, forwards) -> what it found.
        path: of the SVG.
        date: stands in the picture's title.
    """
    plt.rcParams.update({"svg.hashsalt": "peers", "font.size": 8})
    height = 3.2 * len(results) + _LEGEND
    figure, grid = plt.subplots(len(results), 2, figsize=(11, height), squeeze=False, sharey="row")
    main = table.main(next(iter(results.values())))
    norm = table.norm_name(next(iter(results.values())))
    methods = sorted({table.title(name)[0] for found in results.values() for name, _ in found if name != main})
    colours = {method: plt.get_cmap("tab20")(i % 20) for i, method in enumerate(methods)}
    for (left, right), (net, found) in zip(grid, results.items(), strict=True):
        _, D = best_of(table.distances(found))
        heights = {key: area(measured.distance, D) for key, measured in found.items()}
        _panel(left, {key: (float(m.backwards.double().mean()), heights[key]) for key, m in found.items()}, colours)
        _panel(right, {key: (m.cpu / len(m.distance), heights[key]) for key, m in found.items()}, colours)
        left.set_title(NETS[net].title, loc="left")
        left.set_ylabel(f"mean {norm}, failures as D")
    grid[-1][0].set_xlabel("gradient evaluations per image")
    grid[-1][1].set_xlabel("CPU seconds per image")
    figure.legend(handles=_legend(colours, main), loc="lower center", ncols=7, frameon=False)
    figure.suptitle(f"Mean distance of adversarial examples against cost ({date})")
    figure.tight_layout(rect=(0, _LEGEND / height, 1, 0.99))
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _panel(axes: Axes, points: Mapping[tuple[str, int], tuple[float, float]], colours: Mapping[str, Any]) -> None:
    front = {key for key, (x, y) in points.items() if not any(u <= x and v < y for u, v in points.values())}
    for name in {name for name, _ in points}:
        mine = sorted(key for key in points if key[0] == name)
        method, library = table.title(name)
        main = name in ours.MAIN.values()
        colour, marker = "black" if main else colours[method], _MARKERS[library.split()[0]]
        x, y = zip(*(points[key] for key in mine), strict=True)
        line = ":" if name in peers.PEERS else "-"
        axes.plot(x, y, line, color=colour, lw=2 if main else 1, marker=marker, ms=4, mfc="white", zorder=3 + main)
        best = [points[key] for key in mine if key in front]
        if best:
            axes.plot(*zip(*best, strict=True), marker, color=colour, ms=4, zorder=5)
    axes.set_xscale("log")
    # Means beyond twice the least are of attacks that fail on many images; they would flatten the rest.
    least, most = min(y for _, y in points.values()), max(y for _, y in points.values())
    axes.set_ylim(least * 0.97, min(most, 2 * least) * 1.03)
    axes.grid(alpha=0.3, lw=0.5)


def _legend(colours: Mapping[str, Any], main: str) -> list[Line2D]:
    ours_line = Line2D([], [], color="black", lw=2, label=f"{table.title(main)[0]} ({ours.LIBRARY})")
    methods = [Line2D([], [], color=colour, label=method) for method, colour in colours.items()]
    libraries = [Line2D([], [], color="grey", ls="", marker=m, label=name) for name, m in _MARKERS.items()]
    return [ours_line, *methods, *libraries]

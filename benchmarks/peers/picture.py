"""The Pareto picture: mean distance against gradient evaluations and against seconds, for every net."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

import ours
import peers
import table
from nets import NETS
from optimality import area, best_of

_AXES = (("backwards per image", "gradient evaluations per image"), ("CPU seconds per image", "CPU seconds per image"))


def draw(results: Mapping[str, table.Results], path: Path, date: str) -> None:
    """Draw one row per net and two columns, and write an SVG.

    A point is an attack at a budget; a line joins one attack's budgets. Ours is thick; a filled point is one that no
    other reaches at the same cost.

    Args:
        results: net -> (attack, forwards) -> what it found.
        path: of the SVG.
        date: stands in the picture's title.
    """
    plt.rcParams.update({"svg.hashsalt": "peers", "font.size": 8})
    figure, grid = plt.subplots(len(results), 2, figsize=(11, 3.4 * len(results)), squeeze=False, sharey="row")
    names = sorted({name for found in results.values() for name, _ in found}, key=lambda n: (n != ours.MAIN, n))
    colours = {name: plt.get_cmap("tab20")(i % 20) for i, name in enumerate(names)}
    for row, (net, found) in zip(grid, results.items(), strict=True):
        for axes, column in zip(row, range(2), strict=True):
            _panel(axes, found, column, colours)
        row[0].set_title(NETS[net].title, loc="left")
        row[0].set_ylabel("mean L2, failures as D")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=5, frameon=False)
    figure.suptitle(f"Mean distance of adversarial examples against cost ({date})")
    figure.tight_layout(rect=(0, 0.9 / figure.get_figheight(), 1, 0.99))
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _panel(axes: Axes, found: table.Results, column: int, colours: Mapping[str, object]) -> None:
    _, D = best_of(table.distances(found))
    points = {}
    for key, measured in found.items():
        N = len(measured.distance)
        cost = float(measured.backwards.double().mean()) if column == 0 else measured.cpu / N
        points[key] = max(cost, 1e-6), area(measured.distance, D)
    front = {key for key, (x, y) in points.items() if not any(u <= x and v < y for u, v in points.values())}
    for name, colour in colours.items():
        mine = sorted(key for key in points if key[0] == name)
        if not mine:
            continue
        method, library = table.title(name)
        x, y = zip(*(points[key] for key in mine), strict=True)
        main = name == ours.MAIN
        own = name not in peers.PEERS
        axes.plot(
            x, y, "-" if own else ":", color=colour, lw=2.2 if main else 1, label=f"{method} ({library.split()[0]})",
            marker="o", ms=4, mfc="none", zorder=3 if main else 2,
        )  # fmt: skip
        best = [points[key] for key in mine if key in front]
        if best:
            axes.plot(*zip(*best, strict=True), "o", color=colour, ms=4, zorder=4)
    axes.set_xscale("log")
    # Means beyond twice the best are of attacks that fail on many images; they would flatten the rest.
    low = min(y for _, y in points.values())
    axes.set_ylim(low * 0.97, min(max(y for _, y in points.values()), 2 * low) * 1.03)
    axes.set_xlabel(_AXES[column][1])
    axes.grid(alpha=0.3, lw=0.5)

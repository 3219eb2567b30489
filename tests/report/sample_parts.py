"""The rest of the sample run: units as cards, photographs, lines, exact numbers of every size, errata.

All numbers are made up; the photographs are smooth random colours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits

from intriguing.records import Record
from intriguing.studies.spec import Cell, Exhibit, Printed, Settings

UNITS = "Units and directions (section 3)"
BLIND = "Blind spots (sections 4.1 and 4.2)"
SPECTRAL = "Spectral instability (section 4.3)"
OPEN = "Open questions"
ERRATA = "Errata"
PARTS = {
    UNITS: "The paper says that a random direction of a layer means as much as one of its units. It showed pictures; "
    "here are the same pictures, and the number they lacked.",
    BLIND: "For almost every image there is another, too near to tell apart, that the net reads wrongly, and that "
    "often fools nets it was not made for.",
    SPECTRAL: "How far could a small change be amplified, layer by layer? The bound is exact, and very weak.",
    OPEN: "What the paper asked and left to others.",
    ERRATA: "Where the print is wrong, misleading or incomplete: the statement, the correction, and a measurement "
    "that shows it.",
}
LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc1", "fc2", "fc3")
BOUNDS = (2.75, 10, 7, 7.5, 11, 3.12, 4, 4)
# Functions of the package, so that the appendix has sources to show; any would do.
CODE = "intriguing.report.images:encode"
OTHER = "intriguing.report.pen:apart"


def _cell(settings: Settings) -> Cell:
    trained = Cell("intriguing.report.format:number")
    return Cell(CODE, {"images": settings.images}, needs={"net": trained})


def _exhibit(name: str, part: str, title: str, claim: str, reading: str, source: str, **more: Any) -> Exhibit:
    return Exhibit(name=name, title=title, claim=claim, reading=reading, source=source, cell=_cell, part=part, **more)


FIRST = (
    _exhibit(
        "figure-1",
        UNITS,
        "Does a unit mean something?",
        "Images that excite one unit of the last hidden layer share a trait that can be named.",
        "Each card is one unit: its eight top images, the patch that drives it, and how its activations are spread "
        "over images the net has not seen.",
        "section 3, Figures 1 and 2",
    ),
)
REST = (
    _exhibit(
        "figure-5",
        BLIND,
        "Everything is an ostrich",
        "Every image of AlexNet could be turned into an ostrich by a change of 0.0065 per pixel.",
        "Left the photograph, in the middle the change ten times magnified, right the result.",
        "section 4.2, Figure 5",
        printed={("adversarial", "mean distortion"): Printed(0.0065, "s", 0.0001)},
    ),
    _exhibit(
        "table-5",
        SPECTRAL,
        "How much could each layer amplify?",
        "The largest singular values of AlexNet’s layers lie between 2.75 and 11: instability can come from any "
        "of them.",
        "Compare the bound with the largest gain that was ever measured: the product of the bounds is thousands of "
        "times too large.",
        "section 4.3, Table 5",
        printed={
            (n, "upper bound"): Printed(b, "s", 0.01 if b % 1 else 1) for n, b in zip(LAYERS, BOUNDS, strict=True)
        },
    ),
    _exhibit(
        "question-data",
        OPEN,
        "Too little data, or the architecture?",
        "The paper does not ask; a reader did.",
        "If data were the cure, the lines would rise to the right.",
        "sections 5 and 6",
    ),
    _exhibit(
        "question-volume",
        OPEN,
        "How often do adversarial examples occur?",
        "The set of adversarial examples is of extremely low probability, and yet dense.",
        "Follow a line to the left: the share of wrong images in the ball falls faster than any sampling could see.",
        "section 6",
    ),
    _exhibit(
        "erratum-E7",
        ERRATA,
        "The factor of a strided convolution",
        "The transform of a convolution with stride Δ carries a factor of Δ⁻² before the transformed kernel.",
        "The factor is Δ⁻¹. Only then does the transform give the largest singular value of the explicit matrix.",
        "section 4.3",
    ),
    _exhibit(
        "erratum-E10",
        ERRATA,
        "Max-pooling is not always contractive",
        "Max-pooling layers are contractive: their Lipschitz constant is at most 1.",
        "Only without overlap. In general it is the root of the largest number of windows that cover one pixel.",
        "section 4.3",
    ),
)

Entry = Callable[..., dict[str, Any]]


def _exact(table: str, row: str, column: str, value: float, residual: float = 0.0, **more: Any) -> dict[str, Any]:
    return {
        "study": "szegedy2014",
        "table": table,
        "row": row,
        "column": column,
        "kind": "exact",
        "measured": value,
        "n": 1,
        "low": value - residual,
        "high": value + residual,
        "printed": None,
        "mark": None,
        "verdict": "not printed",
        "code": CODE,
        **more,
    }


def _cards(rng: np.random.Generator) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    digits = load_digits()
    images = torch.from_numpy(digits.images / 16).float()[:, None]
    cards = []
    for unit in range(6):
        mine = np.flatnonzero(digits.target == (unit * 3) % 10)[:8].tolist()
        values = np.maximum(0, rng.normal(-0.6 + 0.2 * unit, 1, 800))
        counts, edges = np.histogram(values, 28)
        references: list[dict[str, Any]] = [{"tensor": "digits", "index": i} for i in mine]
        references += [{"tensor": "patch", "index": mine[0], "label": "patch that drives it"}]
        cards.append(
            {
                "title": f"unit {7 * unit + 3}",
                "note": "Fires for the upper loop; silent for everything straight." if unit % 2 else "",
                "facts": [
                    ["purity of the top 8", f"{8 - unit}/8, class {(unit * 3) % 10}"],
                    ["same for random images", "2/8"],
                ],
                "images": references,
                "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
            }
        )
    patch = images.clone()
    patch[:, :, :3] *= 0.25
    picture = {
        "kind": "cards",
        "id": "units",
        "title": "Six units of FC100-100-10",
        "caption": "The eight test images that excite a unit most, and the patch without which it falls silent. "
        "A unit is worth a name only if its images agree more than random ones.",
        "cards": cards,
    }
    return picture, {"digits": images[:300], "patch": patch[:300]}


def _row_gallery() -> dict[str, Any]:
    digits = load_digits()
    groups = []
    for kind, step in (("Natural basis", 1), ("Random basis", 3)):
        rows = []
        for k in range(4):
            found = np.flatnonzero(digits.target[:300] == k * step % 10)[:8].tolist()
            rows.append(
                {
                    "label": f"unit {k}" if step == 1 else f"direction {k}",
                    "note": f"{7 - k} of 8 of one class",
                    "images": [{"tensor": "digits", "index": i} for i in found],
                }
            )
        groups.append({"title": kind, "caption": "", "columns": [], "rows": rows})
    return {
        "kind": "gallery",
        "id": "rows",
        "title": "Units and random directions",
        "caption": "The eight images furthest along each; above single units, below random directions.",
        "groups": groups,
    }


def photographs(rng: np.random.Generator, n: int, side: int = 112) -> torch.Tensor:
    """Return colour images with edges, shades and grain, (n, 3, side, side) in [0, 1]."""
    coarse = torch.from_numpy(rng.random((n, 3, 5, 5))).float()
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=False)
    grid = torch.linspace(0, 1, side)
    centre = torch.from_numpy(rng.uniform(0.3, 0.7, (n, 2))).float()
    away = (grid[None, :, None] - centre[:, :1, None]) ** 2 + (grid[None, None, :] - centre[:, 1:, None]) ** 2
    disc = (away < 0.06).float()[:, None]
    tint = torch.from_numpy(rng.random((n, 3, 1, 1))).float()
    grain = 0.02 * torch.from_numpy(rng.standard_normal((n, 3, side, side))).float()
    return (smooth * (1 - disc) + tint * disc * (1 - 4 * away[:, None]) + grain).clamp(0, 1)


def _ostriches(rng: np.random.Generator) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    plain = photographs(rng, 4)
    change = 0.0065 * torch.from_numpy(rng.standard_normal(plain.shape)).float()
    moved = (plain + change).clamp(0, 1)
    tensors = {
        "original": plain,
        "difference": (0.5 + 10 * (moved - plain)).clamp(0, 1),
        "moved": moved,
        "top": photographs(rng, 16),
    }
    rows = [
        {
            "label": f"{name} read as ostrich",
            "note": f"distortion {0.006 + 0.0004 * i:.4f}",
            "images": [{"tensor": t, "index": i} for t in ("original", "difference", "moved")],
        }
        for i, name in enumerate(("avocado", "banana", "oat milk", "leek"))
    ]
    ostriches = {
        "kind": "gallery",
        "id": "ostrich",
        "title": "The photograph, the change, the ostrich",
        "caption": "The change is magnified ten times around mid grey. No eye tells the first column from the third.",
        "groups": [{"title": "", "columns": ["original", "difference ×10", "adversarial"], "rows": rows}],
    }
    tops = [
        {"label": f"unit {k}", "note": "", "images": [{"tensor": "top", "index": 8 * k + i} for i in range(8)]}
        for k in range(2)
    ]
    units = {
        "kind": "gallery",
        "id": "photographs",
        "title": "What two units of AlexNet like",
        "caption": "Eight photographs each.",
        "groups": [{"columns": [], "rows": tops}],
    }
    return [ostriches, units], tensors


def _points(xs: Any, ys: Any, spread: float) -> list[dict[str, float]]:
    return [
        {"x": float(x), "y": float(y), "low": float(y * (1 - spread)), "high": float(y * (1 + spread))}
        for x, y in zip(xs, ys, strict=True)
    ]


def _data_lines() -> dict[str, Any]:
    sizes = np.array([500, 1000, 2000, 4000, 8000, 16000, 32000, 60000])
    grown = [
        ("FC100-100-10, sigmoid", 0.040, 0.05),
        ("FC100-100-10, ReLU", 0.038, 0.04),
        ("convolutional", 0.046, 0.07),
    ]
    series: list[dict[str, Any]] = [
        {"label": label, "points": _points(sizes, start * (sizes / 500) ** slope, 0.06)}
        for label, start, slope in grown
    ]
    series.append({"label": "untrained net", "role": "control", "points": _points(sizes, 0.031 + 0 * sizes, 0.08)})
    printed = [{"x": 60000, "y": 0.058}]
    series.append({"label": "printed, FC100-100-10", "role": "paper", "points": printed})
    return {
        "kind": "lines",
        "id": "size",
        "title": "More data moves the nearest mistake away, slowly",
        "caption": "Mean minimal distortion against the size of the training set, with 95% bands. A hundred times the "
        "data buys a fifth more distance.",
        "x": "training images",
        "y": "mean distortion",
        "log_x": True,
        "series": series,
    }


def _volume_lines() -> dict[str, Any]:
    radius = np.array([0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8])
    share = 10.0 ** (-14 + 10 * (radius - 0.6))
    split = _points(radius, share, 0.6)
    naive = [
        {"x": 1.2, "y": 0.0, "low": 0.0, "high": 3e-6},
        {"x": 1.4, "y": 0.0, "low": 0.0, "high": 3e-6},
        {"x": 1.6, "y": 1e-4, "low": 6e-5, "high": 1.7e-4},
        {"x": 1.8, "y": 0.0099, "low": 0.009, "high": 0.011},
    ]
    return {
        "kind": "lines",
        "id": "volume",
        "title": "Far below what sampling can see",
        "caption": "The share of wrong images in a ball around a test image, by its radius.",
        "x": "radius (L2)",
        "y": "share of the ball",
        "log_y": True,
        "y_unit": "number",
        "series": [
            {"label": "multi-level splitting", "points": split},
            {"label": "a million plain draws", "role": "control", "points": naive},
        ],
    }


def fill(entry: Entry, rng: np.random.Generator) -> tuple[list[dict[str, Any]], dict[str, Record]]:
    """Return the cells and the records of this module's exhibits; `entry` makes a sampled cell."""
    noise = {"label": "random image sets", "measured": 0.21, "low": 0.19, "high": 0.23, "n": 200}
    cells = [
        entry("figure-1", row, "purity", value, 100, 0.04, OTHER, control=noise, p=0.0002)
        for row, value in (("units", 0.71), ("random directions", 0.66), ("rotated layer", 0.68))
    ]
    untrained = {"label": "untrained net", "measured": 0.0213, "n": 64}
    cells.append(entry("figure-5", "adversarial", "mean distortion", 0.00712, 64, 0.0004, OTHER, control=untrained))
    gains = (1.9, 2.1, 1.4, 1.8, 2.2, 0.9, 0.7, 1.1)
    product = 1.0
    for name, bound, gain in zip(LAYERS, BOUNDS, gains, strict=True):
        product *= bound * 0.96
        verdict = {"printed": float(bound), "mark": "s", "verdict": "agrees"}
        cells.append(_exact("table-5", name, "upper bound", bound * 0.96, 2e-7, **verdict))
        cells.append(entry("table-5", name, "measured gain", gain, 256, 0.05, OTHER, control=noise, unit="number"))
        cells.append(_exact("table-5", name, "bound over gain", bound * 0.96 / gain, unit="ratio"))
    cells.append(_exact("table-5", "whole net", "upper bound", product, 0.02))
    cells.append(_exact("table-5", "whole net", "bound over gain", product / 12.4, unit="ratio"))
    for radius, power in ((0.8, -12.1), (1.2, -8.04), (1.6, -4.0)):
        row = f"radius {radius:g}"
        cells.append(
            entry(
                "question-volume",
                row,
                "log10 volume",
                power,
                40,
                0.3,
                OTHER,
                control={"label": "exact", "measured": power},
            )
        )
        cells.append(_exact("question-volume", row, "largest error against the closed form", 3.2e-7))
    for stride, matrix, printed in ((1, 9.546, 9.546), (2, 6.706, 3.353), (4, 4.719, 1.180)):
        for column, value in (("explicit matrix", matrix), ("factor Δ⁻¹", matrix), ("factor Δ⁻²", printed)):
            cells.append(_exact("erratum-E7", f"stride {stride}", column, value, 2e-7 if "factor" in column else 0.0))
    cells += [
        _exact("erratum-E10", "3×3, stride 2 (AlexNet)", "gain found", 2.0, 1e-9),
        _exact("erratum-E10", "2×2, stride 2", "gain found", 1.0, 1e-9),
    ]
    deck, digits = _cards(rng)
    pictures, photos = _ostriches(rng)
    records = {
        "figure-1": Record(
            {
                "findings": [
                    "Eight top images of a unit share a class in 71% of cases; of a random direction, in 66%."
                ],
                "figures": [deck, _row_gallery()],
            },
            digits,
        ),
        "figure-5": Record(
            {"findings": ["All 64 photographs became ostriches, at a change of 0.007 per pixel."], "figures": pictures},
            photos,
        ),
        "table-5": Record({"findings": ["The product of the bounds is 46,000 times the largest gain measured."]}),
        "question-data": Record(
            {
                "findings": ["A hundred times more training images move the nearest mistake away by a fifth."],
                "figures": [_data_lines()],
            }
        ),
        "question-volume": Record({"figures": [_volume_lines()]}),
        "erratum-E7": Record({"findings": ["With the printed factor a stride of 4 gives a quarter of the norm."]}),
        "erratum-E10": Record(),
    }
    return cells, records

"""A run that looks like a real one, for the report's tests and for looking at the page.

The numbers are made up around the paper's; the images are scikit-learn's digits with a smooth change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import sample_parts
import torch
from sklearn.datasets import load_digits

from intriguing.records import Record
from intriguing.studies.spec import Cell, Exhibit, Printed, Settings, Study, verdict

NETS = ("FC10(1e-4)", "FC10(1e-2)", "FC10(1)", "FC100-100-10", "FC200-200-10", "AE400-10")
NOISE = ("Gaussian noise, std 0.1", "Gaussian noise, std 0.3")
# Train error, test error, distortion as printed (Table 1); per cent, per cent, rms pixel change.
TABLE_1 = (
    (6.7, 7.4, 0.062),
    (10, 9.4, 0.1),
    (21.2, 20, 0.14),
    (0, 1.64, 0.058),
    (0, 1.54, 0.065),
    (0.57, 1.9, 0.086),
)
# Measured with a rough attack: the same three, then nearest and farthest target.
MEASURED = (
    (6.73, 7.36, 0.0551, 0.0312, 0.0881),
    (10.01, 9.44, 0.0942, 0.0553, 0.1295),
    (21.29, 19.97, 0.1291, 0.1038, 0.1487),
    (0.01, 1.97, 0.0561, 0.0382, 0.0731),
    (0.0, 1.86, 0.0612, 0.0421, 0.0803),
    (1.62, 2.41, 0.0603, 0.0408, 0.0785),
)
# Table 2 in per cent, rows made for, columns fed to, then the two noise rows.
TABLE_2 = (
    (100, 11.7, 22.7, 2, 3.9, 2.7),
    (87.1, 100, 35.2, 35.9, 27.3, 9.8),
    (71.9, 76.2, 100, 48.1, 47, 34.4),
    (28.9, 13.7, 21.1, 100, 6.6, 2),
    (38.2, 14, 23.8, 20.3, 100, 2.7),
    (23.4, 16, 24.8, 9.4, 6.6, 100),
    (5, 10.1, 18.3, 0, 0, 0.8),
    (15.6, 11.3, 22.7, 5, 4.3, 3.1),
)
COLUMNS = (
    "train error",
    "test error",
    "mean distortion, random target",
    "mean distortion, nearest target",
    "mean distortion, farthest target",
    "found",
)


def _digit(value: float) -> float:
    text = f"{value:g}"
    return 10.0 ** -len(text.partition(".")[2])


def _printed_1() -> dict[tuple[str, str], Printed]:
    found = {}
    for net, row in zip(NETS, TABLE_1, strict=True):
        for column, value in zip(COLUMNS[:3], row, strict=True):
            scale = 100 if "error" in column else 1
            found[net, column] = Printed(value / scale, "s", _digit(value) / scale)
    return found


def _printed_2() -> dict[tuple[str, str], Printed]:
    mark = lambda j: "s" if j in (0, 3, 5) else "m"  # noqa: E731
    return {
        (row, column): Printed(value / 100, mark(j), _digit(value) / 100)
        for row, values in zip(NETS + NOISE, TABLE_2, strict=True)
        for j, (column, value) in enumerate(zip(NETS, values, strict=True))
    }


def _cell_1(settings: Settings) -> Cell:
    return Cell("intriguing.experiments.minimal:minimal_distortion", {"images": settings.images})


def _cell_2(settings: Settings) -> Cell:
    return Cell("intriguing.experiments.transfer:transfer", {"images": settings.images})


def _cell_7(settings: Settings) -> Cell:
    return Cell("intriguing.experiments.pictures:pictures", {"images": settings.images})


ORDER = tuple((net, COLUMNS[2]) for net in NETS[:3])
STUDY = Study(
    name="szegedy2014",
    title="Intriguing properties of neural networks",
    citation=(
        "C. Szegedy, W. Zaremba, I. Sutskever, J. Bruna, D. Erhan, I. Goodfellow, R. Fergus. ICLR "
        "2014, arXiv:1312.6199."
    ),
    summary=(
        "In 2013 seven authors showed that a change too small to notice makes a good classifier "
        "wrong, and that the "
        "same changed image fools nets it was never made for. Here are their tables again, with "
        "today’s optimiser, "
        "every number beside the one they printed."
    ),
    parts=sample_parts.PARTS,
    exhibits=(
        *sample_parts.FIRST,
        Exhibit(
            name="table-1",
            title="How near is the nearest adversarial example?",
            claim=(
                "Every net has adversarial examples close to every image; strong weight decay pushes them "
                "away but does not remove them."
            ),
            reading=(
                "Compare the three softmax nets: as decay grows from 1e-4 to 1, the distance more than "
                "doubles while the error triples. A better optimiser finds nearer examples, so our "
                "distances lie a little below the print."
            ),
            source="Section 4.2, Table 1",
            cell=_cell_1,
            part=sample_parts.BLIND,
            printed=_printed_1(),
            orderings=(ORDER,),
        ),
        Exhibit(
            name="table-2",
            title="Do examples made for one net fool another?",
            claim=(
                "A relatively large share of examples is misclassified by nets trained from scratch with "
                "other hyper-parameters."
            ),
            reading=(
                "Read along a row: examples made for one net, fed to all six. The two rows of Gaussian "
                "noise are the control; noise of the same size does almost nothing to the sigmoid nets."
            ),
            source="Section 4.2, Table 2",
            cell=_cell_2,
            part=sample_parts.BLIND,
            printed=_printed_2(),
        ),
        Exhibit(
            name="figure-7",
            title="What do they look like?",
            claim=(
                "Adversarial images are hard to tell from their originals, while noise strong enough to "
                "hide the digit leaves half of the images correctly read."
            ),
            reading=(
                "Look at the middle picture of each triple: the change has no likeness to the class that "
                "the net now sees."
            ),
            source="Section 4.2, Figure 7",
            cell=_cell_7,
            part=sample_parts.BLIND,
        ),
        Exhibit(
            name="table-4",
            title="Do examples cross to nets that saw other data?",
            claim="They do.",
            reading="",
            source="Section 4.2, Table 4",
            cell=_cell_7,
            part=sample_parts.BLIND,
        ),
        *sample_parts.REST,
    ),
)


def _entry(
    table: str, row: str, column: str, measured: float, n: int, half: float, code: str, **more: Any
) -> dict[str, Any]:
    printed = STUDY.exhibit(table).printed.get((row, column))
    low, high = max(0.0, measured - half), measured + half
    if "log10" in column:
        low = measured - half
    elif table != "table-5" and "distortion" not in column:
        high = min(1.0, high)
    ordered = (row, column) in ORDER or (table == "table-2" and row in NETS)
    return {
        "study": "szegedy2014",
        "table": table,
        "row": row,
        "column": column,
        "kind": "sampled",
        "measured": measured,
        "n": n,
        "low": low,
        "high": high,
        "printed": printed.value if printed else None,
        "mark": printed.mark if printed else None,
        "verdict": verdict(measured, low, high, printed, ordered=ordered),
        "code": code,
        **more,
    }


def _cells_1() -> list[dict[str, Any]]:
    code = "intriguing.experiments.minimal:minimal_distortion"
    cells = []
    for net, (train, test, random, nearest, farthest) in zip(NETS, MEASURED, strict=True):
        values = (train / 100, test / 100, random, nearest, farthest, 1.0)
        sizes, halves = (60_000, 10_000, 256, 256, 256, 256), (0.001, 0.004, 0.0034, 0.0021, 0.0043, 0.0)
        for column, value, n, half in zip(COLUMNS, values, sizes, halves, strict=True):
            harmless = {"label": "error under noise of the same norm", "measured": 0.004, "n": 256}
            more = {"control": harmless} if "distortion, random" in column else {}
            cells.append(_entry("table-1", net, column, value, n, half, code, **more))
    cells[-4]["note"] = (
        "With a KL penalty on the mean activation; the paper does not say which sparsity it used. "
        "Other penalties stand in the table below."
    )
    return cells


def _cells_2(rng: np.random.Generator) -> list[dict[str, Any]]:
    cells = []
    for row, values in zip(NETS + NOISE, TABLE_2, strict=True):
        for column, value in zip(NETS, values, strict=True):
            share = 1.0 if row == column else float(np.clip(value / 100 * rng.uniform(0.7, 1.25) + 0.004, 0, 1))
            half = 1.96 * float(np.sqrt(share * (1 - share) / 256))
            more: dict[str, Any] = {}
            if row in NETS and row != column:
                more = {
                    "control": {
                        "label": "noise of the same size on the same images",
                        "measured": share * 0.2,
                        "low": share * 0.1,
                        "high": share * 0.35,
                        "n": 256,
                    },
                    "p": 0.0004 if share > 0.05 else 0.21,
                }
            cells.append(
                _entry(
                    "table-2",
                    row,
                    column,
                    share,
                    256,
                    half,
                    "intriguing.experiments.transfer:transfer",
                    **more,
                )
            )
    return cells


def _smooth(rng: np.random.Generator, n: int, side: int) -> torch.Tensor:
    noise = torch.from_numpy(rng.standard_normal((n, 1, side // 3, side // 3))).float()
    return torch.nn.functional.interpolate(noise, size=(side, side), mode="bicubic", align_corners=False)


def _gallery(rng: np.random.Generator, count: int = 8) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    digits = load_digits()
    images = torch.from_numpy(digits.images[:count] / 16).float()[:, None]
    images = torch.nn.functional.interpolate(images, size=(28, 28), mode="bilinear", align_corners=False).clamp(0, 1)
    change = 0.05 * _smooth(rng, count, 28)
    adversarial = (images + change).clamp(0, 1)
    weak = (images + 0.06 * torch.from_numpy(rng.standard_normal(images.shape)).float()).clamp(0, 1)
    strong = (images + torch.from_numpy(rng.standard_normal(images.shape)).float()).clamp(0, 1)
    tensors = {
        "original": images,
        "change": (0.5 + 10 * (adversarial - images)).clamp(0, 1),
        "adversarial": adversarial,
        "weak": weak,
        "strong": strong,
    }
    labels = [int(t) for t in digits.target[:count]]

    def rows(names: Sequence[str]) -> list[dict[str, Any]]:
        return [
            {
                "label": f"{label} read as {(label * 3 + 5) % 10}",
                "note": f"distortion {0.052 + 0.003 * i:.3f}",
                "images": [{"tensor": name, "index": i} for name in names],
            }
            for i, label in enumerate(labels)
        ]

    picture = {
        "kind": "gallery",
        "id": "pictures",
        "title": "The same digit, read differently",
        "caption": (
            "Original, the change magnified ten times around mid grey, and their sum, which the net "
            "misreads. The white of the change is ink added, the black ink removed."
        ),
        "groups": [
            {
                "title": "Made for FC10(1e-4), a linear net",
                "caption": "Mean distortion 0.055; no image is read rightly any more.",
                "columns": ["original", "change ×10", "adversarial", "noise, same norm", "noise, std 1"],
                "rows": rows(("original", "change", "adversarial", "weak", "strong")),
            },
            {
                "title": "Made for FC200-200-10, a net with two hidden layers",
                "caption": "Mean distortion 0.061.",
                "columns": ["original", "change ×10", "adversarial"],
                "rows": rows(("original", "change", "adversarial"))[:4],
            },
        ],
    }
    return picture, tensors


def sample() -> tuple[Study, dict[str, Any], dict[str, Record]]:
    """Return a study, its results.json document, and the records of all exhibits but one."""
    rng = np.random.default_rng(0)
    one, two = _cells_1(), _cells_2(rng)
    seven = [
        _entry(
            "figure-7",
            "Gaussian noise, std 1",
            "accuracy",
            0.478,
            256,
            0.061,
            "intriguing.experiments.pictures:pictures",
        )
    ]
    seven[0].update(printed=0.51, mark="m", verdict="agrees")
    spread = {
        "kind": "distribution",
        "id": "distortion",
        "title": "How far the nearest example lies, image by image",
        "caption": (
            "Each hill is one net’s images, random target. Decay moves the whole hill to the right: "
            "it is not a few stubborn images that raise the mean."
        ),
        "x": "distortion (rms pixel change)",
        "column": COLUMNS[2],
        "series": [
            {"label": net, "values": rng.gamma(9, m[2] / 9, 256).tolist()}
            for net, m in zip(NETS, MEASURED, strict=True)
        ],
    }
    targets = {
        "kind": "interval",
        "id": "targets",
        "title": "The unstated target rule",
        "caption": (
            "The paper does not say which wrong class it aimed at. Random targets fit its numbers; "
            "nearest and farthest do not."
        ),
        "x": "mean distortion of FC10(1e-4)",
        "rows": [
            {
                "label": "nearest wrong class",
                "measured": 0.0312,
                "low": 0.029,
                "high": 0.033,
                "printed": 0.062,
                "control": None,
            },
            {
                "label": "random wrong class",
                "measured": 0.0551,
                "low": 0.0517,
                "high": 0.0585,
                "printed": 0.062,
                "control": 0.11,
            },
            {
                "label": "farthest wrong class",
                "measured": 0.0881,
                "low": 0.084,
                "high": 0.0924,
                "printed": 0.062,
                "control": None,
            },
        ],
    }
    value = {(c["row"], c["column"]): c for c in two}
    grid = lambda key: [[value[r, c][key] for c in NETS] for r in NETS + NOISE]  # noqa: E731
    heat = {
        "kind": "heatmap",
        "id": "transfer",
        "title": "Who fools whom",
        "caption": (
            "Share of examples misread, in per cent. The darker, the more. A column that is dark from "
            "top to bottom is a net that errs on anything; a dark row is a source whose examples "
            "travel."
        ),
        "rows": [*NETS, *NOISE],
        "columns": list(NETS),
        "values": grid("measured"),
        "low": grid("low"),
        "high": grid("high"),
        "row_label": "made for",
        "column_label": "fed to",
    }
    gallery, tensors = _gallery(rng)
    variants = {
        "id": "variants",
        "title": "Three readings of “sparse autoencoder”",
        "caption": "Closest to the print first.",
        "columns": ["sparsity", "train error", "test error", "mean distortion", "images"],
        "rows": [
            ["KL towards 0.05, weight 3", 0.0162, 0.0241, 0.0603, 256],
            ["L1", 0.0211, 0.0268, 0.0571, 256],
            ["none", 0.0087, 0.0203, 0.0528, 256],
        ],
    }
    records = {
        "table-1": Record(
            {
                "findings": [
                    "Every image of every net has a wrong-class neighbour: 1,536 of 1,536 attacks succeeded.",
                    (
                        "A modern search finds it 3% to 30% nearer than the paper did, in the same order of the "
                        "softmax nets."
                    ),
                ],
                "notes": [
                    (
                        "256 training images per net, those the net reads rightly; a target drawn uniformly from "
                        "the nine wrong classes."
                    ),
                    (
                        "The penalty’s weight is the largest one that still reaches the target, found by a root "
                        "search on the margin, then polished onto the boundary."
                    ),
                ],
                "figures": [spread, targets],
                "tables": [variants],
            }
        ),
        "table-2": Record(
            {
                "findings": [
                    "Examples travel: made for FC10(1), 41% fool a net with hidden layers, against 6% for noise "
                    "of the same size."
                ],
                "notes": ["Raw error, as printed. A paired test compares each image with its own noise control."],
                "figures": [heat],
            }
        ),
        "figure-7": Record(
            {
                "findings": ["The change is a faint, unstructured haze; a reader sees the same digit."],
                "figures": [gallery],
            },
            tensors,
        ),
    }
    run = {
        "settings": {"data": "mnist", "images": 256, "seed": 0, "nets": 5, "size": None},
        "environment": {
            "intriguing": "0.1.0",
            "python": "3.11.9",
            "torch": "2.13.0",
            "processor": "2 cores, x86-64",
            "platform": "Linux",
        },
        "seeds": {"run": 0, "nets": [0, 1, 2, 3, 4]},
        "hashes": {
            "data": {"train": "3f1c9b0e5a7d42c8b6e1f0a9d8c7b6a5", "test": "9a8b7c6d5e4f30211203f4e5d6c7b8a9"},
            "cells": {
                "table-1": "0f9e8d7c6b5a49382716051423324150",
                "table-2": "1a2b3c4d5e6f708192a3b4c5d6e7f809",
            },
        },
    }
    left = {
        "study": "szegedy2014",
        "table": "table-1",
        "row": "AE400-10",
        "column": "test error after fine-tuning",
        "printed": 0.014,
        "mark": "m",
    }
    more, others = sample_parts.fill(_entry, rng)
    document = {"schema": 1, "run": run, "cells": one + two + seven + more, "unmeasured": [left]}
    return STUDY, document, {**records, **others}


COMMAND = "intriguing reproduce table-1 table-2 figure-7 --data mnist --images 256 --seed 0"

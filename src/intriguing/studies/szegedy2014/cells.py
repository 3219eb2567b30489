"""What the exhibits of the study share: the nets by name, the cells that train and attack them, printed lines.

Every printed value of the study carries a mark: "v" checked against the running text, "s" second-hand and confirmed
by an independent reading, "m" from memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from intriguing.studies.spec import Cell, Printed, Settings

SOFTMAX = ("FC10(1e-4)", "FC10(1e-2)", "FC10(1)")
SIGMOID = ("FC100-100-10", "FC200-200-10")
AUTOENCODER = "AE400-10"
SMALL_SET = 5_000  # training images below which a set gets fewer and shorter trainings
NETS = (*SOFTMAX, *SIGMOID, AUTOENCODER)


def train(net: str, settings: Settings, index: int = 0, sparsity: str | None = None) -> Cell:
    """Return the cell that trains a net; the convex softmax nets do not depend on the seed."""
    seed = 0 if net in SOFTMAX else settings.seed + index
    chosen: dict[str, Any] = {"net": net, "seed": seed}
    if sparsity is not None:
        chosen["sparsity"] = sparsity
    label = f"train {net}" + (f", {sparsity}" if sparsity else "") + (f", seed {seed}" if net in SIGMOID else "")
    return Cell("intriguing.training.recipes:train", chosen, data=("train", "test"), label=label)


def attack(net: str, settings: Settings, trained: Cell, target: str) -> Cell:
    """Return the cell that attacks training images of a trained net."""
    chosen = {"net": net, "images": settings.images, "seed": settings.seed, "target": target}
    return Cell(
        "intriguing.experiments.distortion:attack",
        chosen,
        needs={"net": trained},
        data=("train",),
        label=f"attack {trained.label.removeprefix('train ')}, {target} target" + ("s" if target == "all" else ""),
    )


def sparsity_of(net: str) -> str | None:
    """Return the sparsity penalty of the net that stands for the paper's, or None."""
    return "kl" if net == AUTOENCODER else None


def pool(names: tuple[str, ...], settings: Settings) -> dict[str, Cell]:
    """Return one trained net and its attack with random targets for each name."""
    needs = {}
    for net in names:
        trained = train(net, settings, sparsity=sparsity_of(net))
        needs[f"{net}/net"] = trained
        needs[f"{net}/random"] = attack(net, settings, trained, "random")
    return needs


def alexnet(settings: Settings, *, untrained: bool = False) -> Cell:
    """Return the cell that trains AlexNet at reduced width on the photographs, or leaves it as it was born."""
    chosen: dict[str, Any] = {"net": "AlexNet", "seed": settings.seed, "data": "photographs/"}
    if untrained:
        chosen["steps"] = 0
    return Cell(
        "intriguing.training.convolutional:train",
        chosen,
        data=("photographs/train", "photographs/test"),
        label="train AlexNet" if not untrained else "AlexNet, untrained",
    )


def convnet(settings: Settings) -> Cell:
    """Return the cell that trains the small convolutional net on the run's own images."""
    return Cell(
        "intriguing.training.convolutional:train",
        {"net": "ConvNet", "seed": settings.seed},
        data=("train", "test"),
        label="train ConvNet",
    )


def percents(lines: Mapping[str, str], columns: tuple[str, ...]) -> dict[tuple[str, str], Printed]:
    """Read lines of percentages with their marks, ``"100s 11.7m"``, as fractions."""
    printed = {}
    for row, line in lines.items():
        for column, word in zip(columns, line.split(), strict=True):
            if word == "-":
                continue
            text, mark = word[:-1], word[-1]
            decimals = len(text.partition(".")[2])
            printed[row, column] = Printed(float(text) / 100, mark, 10.0**-decimals / 100)
    return printed

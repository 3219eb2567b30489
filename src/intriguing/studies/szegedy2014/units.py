"""Section 3: single units against directions. Figures 1 to 4, and the numbers they lacked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from intriguing.experiments import units
from intriguing.studies.spec import Cell, Exhibit, Settings
from intriguing.studies.szegedy2014.cells import alexnet, convnet, train

# Where each layer is looked at, the paper's first choice first (D16).
HIDDEN, CONVOLUTION = "last hidden", "last convolution"
LAYERS = (
    ("ConvNet", HIDDEN),
    ("ConvNet", CONVOLUTION),
    ("FC100-100-10", HIDDEN),
    ("FC200-200-10", HIDDEN),
    ("AlexNet", HIDDEN),
)
COVERED = (("ConvNet", CONVOLUTION), ("ConvNet", HIDDEN), ("FC100-100-10", HIDDEN), ("AlexNet", HIDDEN))


_LARGE = {"AlexNet": alexnet, "ConvNet": convnet}


def _split(net: str) -> str:
    return "photographs/test" if net == "AlexNet" else "test"


def _trained(net: str, settings: Settings) -> Cell:
    return _LARGE[net](settings) if net in _LARGE else train(net, settings)


def _measure(net: str, layer: str, settings: Settings) -> Cell:
    chosen: dict[str, Any] = {"net": net, "split": _split(net), "layer": layer, "seed": settings.seed}
    if net == "AlexNet":
        chosen["count"] = 128  # of its last hidden layer's units, which are many
    if settings.full:
        chosen |= {"count": 1024, "permutations": 5000}
    return Cell(
        "intriguing.experiments.units:measure",
        chosen,
        needs={"net": _trained(net, settings)},
        data=(_split(net),),
        label=f"purity, {units.name_of(net, layer)}",
    )


def _patches(net: str, layer: str, settings: Settings) -> Cell:
    large = net == "AlexNet"
    chosen: dict[str, Any] = {"net": net, "split": _split(net), "layer": layer, "seed": settings.seed}
    chosen |= {"units": 256 if settings.full else 24 if large else 64, "stride": 8 if large else 1}
    return Cell(
        "intriguing.experiments.unit_patches:patches",
        chosen,
        needs={"net": _trained(net, settings)},
        data=(_split(net),),
        label=f"patches, {units.name_of(net, layer)}",
    )


def _figure(net: str, basis: str, number: int) -> Callable[[Settings], Cell]:
    def cell(settings: Settings) -> Cell:
        return Cell(
            "intriguing.experiments.unit_exhibits:figure",
            {"net": net, "basis": basis, "split": _split(net), "seed": settings.seed},
            needs={f"{net}/purity": _measure(net, HIDDEN, settings)},
            data=(_split(net),),
            label=f"figure {number}",
        )

    return cell


def _places(places: tuple[tuple[str, str], ...]) -> list[dict[str, str]]:
    return [{"net": net, "layer": layer} for net, layer in places]


def _table(function: str, label: str, places: tuple[tuple[str, str], ...]) -> Callable[[Settings], Cell]:
    def cell(settings: Settings) -> Cell:
        needs = {f"{units.name_of(*place)}/purity": _measure(*place, settings) for place in places}
        where = f"intriguing.experiments.unit_exhibits:{function}"
        return Cell(where, {"layers": _places(places)}, needs=needs, label=label)

    return cell


def _cards(settings: Settings) -> Cell:
    needs = {f"{units.name_of(*place)}/patches": _patches(*place, settings) for place in COVERED}
    where = "intriguing.experiments.unit_exhibits:cards"
    return Cell(where, {"layers": _places(COVERED)}, needs=needs, label="unit cards")


_HOW = (
    "The paper shows pictures and no number, so none is printed beside ours. Here every row of eight images carries "
    "one: how many of them are of one class. The last rows are images drawn at random: even of these about a third "
    "share a class by chance alone, and that is the control."
)

FIGURE_1 = Exhibit(
    name="figure-1",
    title="What does a single unit of a digit net stand for?",
    claim="The test images that drive one hidden unit of a convolutional MNIST net most have something in common that "
    "a person can name.",
    reading=_HOW,
    source="section 3, Figure 1",
    cell=_figure("ConvNet", units.NATURAL, 1),
)

FIGURE_2 = Exhibit(
    name="figure-2",
    title="And a random direction of the same layer?",
    claim="The test images that lie farthest along a random direction of the layer have as much in common as those of "
    "a single unit.",
    reading="Compare with Figure 1, and hide the headings: can you tell which is which? The numbers are "
    "read as there; images drawn at random are the control.",
    source="section 3, Figure 2",
    cell=_figure("ConvNet", units.RANDOM, 2),
)

FIGURE_3 = Exhibit(
    name="figure-3",
    title="Single units of a photograph net",
    claim="The same holds for AlexNet: the images that drive one unit share a flower, a posture, a shape or a colour.",
    reading="Read it as Figure 1. What the images of a row share may be a colour or a layout and no class: then the "
    "pixel cosine says so. A run without photographs shows its own images, enlarged.",
    source="section 3, Figure 3",
    cell=_figure("AlexNet", units.NATURAL, 3),
)

FIGURE_4 = Exhibit(
    name="figure-4",
    title="Random directions of a photograph net",
    claim="Random directions of AlexNet's layer give image rows as meaningful as its units do.",
    reading="Compare with Figure 3, and again hide the headings: can you tell which is which?",
    source="section 3, Figure 4",
    cell=_figure("AlexNet", units.RANDOM, 4),
)

UNITS = Exhibit(
    name="units",
    title="Do single units mean more than directions?",
    claim="There is no difference between single units and random directions: it is the space of activations, not the "
    "single unit, that holds the meaning. The paper judged this by eye.",
    reading="Read along a row: how pure the eight top images are, first for single units, then for random directions, "
    "then the difference with its interval, over the directions of one net. Small print gives the same for images "
    "drawn at random. To the right, more ways to choose directions. In a rotated net, which computes the same function "
    "with other units, purity should stay; with shuffled weights, which have learnt nothing, it should fall. Random "
    "directions of the whitened layer and principal axes mean less: not every direction is as good as any other. The "
    "lower half repeats all of it without labels, by the likeness of pixels.",
    source="section 3",
    cell=_table("table", "units", LAYERS),
)

ROTATION = Exhibit(
    name="rotation",
    title="What is a unit? The same net with other units",
    claim="Nothing singles out the coordinate axes of a layer: the net that follows can read any rotation of it.",
    reading="The layer's outputs are multiplied by a random rotation, after the non-linearity, and the next linear "
    "layer is turned back. The logits stay, as the first column shows beside what the rotation does if it is not "
    "turned back; the units do not. If units were special, the new ones would be less pure.",
    source="section 3",
    cell=_table("rotation", "rotation", tuple(place for place in LAYERS if place[1] == HIDDEN)),
)

CARDS = Exhibit(
    name="unit-cards",
    title="Which part of an image drives a unit?",
    claim="Units are looked at through the images, and the parts of images, that drive them most.",
    reading="Each card shows a unit drawn at random. To test the patch it shows, a patch of that size is covered at "
    "every place of the image in turn. The first column counts the units that fall most when their own patch is "
    "covered, among all places apart from it. The second asks more: also against patches that overlap it by up to "
    "half, a few pixels away. A patch that fails there is near the spot, and not on it.",
    source="section 3; Zeiler and Fergus, arXiv:1311.2901",
    cell=_cards,
)

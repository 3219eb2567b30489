"""Section 4.2 on larger nets: AlexNet (Figure 5) and unsupervised features in the manner of QuocNet (Figure 6)."""

from __future__ import annotations

from typing import Any

from intriguing.experiments import features, photographs
from intriguing.studies.spec import Cell, Exhibit, Printed, Settings
from intriguing.studies.szegedy2014.cells import alexnet


def _figure_5(settings: Settings) -> Cell:
    trained, untrained = alexnet(settings), alexnet(settings, untrained=True)

    def lead(net: Cell, target: str, images: int, like: Cell | None = None) -> Cell:
        needs = {"net": net} | ({"like": like} if like is not None else {})
        who = net.label.removeprefix("train ")
        return Cell(
            "intriguing.experiments.photographs:attack",
            {"images": images, "seed": settings.seed, "target": target},
            needs=needs,
            data=("photographs/test",),
            label=f"attack {who}, {target}",
        )

    images = min(64, settings.images)
    attacked = lead(trained, "class", images)
    needs = {
        "net": trained,
        "attack": attacked,
        "runner-up": lead(trained, "runner-up", images, attacked),
        "untrained": untrained,
        "untrained attack": lead(untrained, "class", images // 2, attacked),
        "untrained runner-up": lead(untrained, "runner-up", images // 2, attacked),
    }
    return Cell(
        "intriguing.experiments.photographs:figure_5",
        {"seed": settings.seed},
        needs=needs,
        data=("photographs/test",),
        label="figure 5",
    )


def _figure_6(settings: Settings) -> Cell:
    photos = settings.photographs is not None
    prefix, size, steps = ("photographs/", 24, 57) if photos else ("", 8, 100)
    sizes: dict[str, Any] = {
        "stages": 3,
        "maps": 8,
        "field": 5 if photos else 2,
        "pool": 2,
        "window": 3,
        "padded": True,
    }
    if photos and settings.full:
        size, steps = 32, 150
        sizes |= {"field": 6, "pool": 3}
    splits = (f"{prefix}train", f"{prefix}test")
    chosen = {"seed": settings.seed, "prefix": prefix, "size": size, "sizes": sizes}
    function = "intriguing.training.reconstruction:learn_features"
    learned = Cell(function, {**chosen, "steps": steps}, data=splits, label="learn features without labels")
    untrained = Cell(
        function, {**chosen, "steps": 0}, needs={"learned": learned}, data=splits, label="features left untrained"
    )
    needs = {"learned": learned, "untrained": untrained}
    for name in ("learned", "untrained"):
        needs[f"{name}/fooled"] = Cell(
            "intriguing.experiments.features:fool",
            {"images": 100, "seed": settings.seed},
            needs={"net": needs[name]},
            data=splits,
            label=f"fool a detector, {name} features",
        )
    return Cell(
        "intriguing.experiments.features:figure_6",
        {"seed": settings.seed, "magnify": 10.0, "shown": 6},
        needs=needs,
        label="figure 6",
    )


FIGURE_5 = Exhibit(
    name="figure-5",
    title="Everything an ostrich",
    claim="Photographs that AlexNet classifies correctly become ostriches to it, all 64 of them, by a change of 0.0065 "
    "per pixel on average.",
    reading="Test photographs, all led to one class, the first by name. The paper's net knew 1,000 classes and saw a "
    "million images at 224 pixels; ours is narrower and learnt a few hundred at half that size, so its distances say "
    "how near the mistakes of this net are. Its accuracy stands beside them, and an untrained net: fooling a net that "
    "knows nothing would be no feat.",
    source="section 4.2, Figure 5",
    cell=_figure_5,
    printed={
        (photographs.TRAINED, photographs.REACHED): Printed(1.0, "m", 0.01),
        (photographs.TRAINED, photographs.DISTORTION): Printed(0.006508, "m", 1e-6),
    },
)

FIGURE_6 = Exhibit(
    name="figure-6",
    title="A detector that never saw a label while it learnt to see, fooled both ways",
    claim="A binary car detector on the features of QuocNet, a net of about a billion parameters trained without "
    "labels on video frames, can be turned to 'not car' by changes too small to see.",
    reading="First the balanced accuracy: a head at chance would be fooled trivially. Then, for each way, the share of "
    "images fooled and how small the change was, with noise of the same size and the net's untrained weights as "
    "controls. The first two rows of accuracy tell whether learning the features helped.",
    source="section 4.2, Figure 6",
    cell=_figure_6,
    printed={(features.PUBLISHED, features.PARAMETERS): Printed(1.0, "v", 0.1)},
)

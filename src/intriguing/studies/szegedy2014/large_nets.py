"""Section 4.2 on larger nets: AlexNet (Figure 5) and unsupervised features in the manner of QuocNet (Figure 6)."""

from __future__ import annotations

from typing import Any

from intriguing.experiments import features, photographs
from intriguing.studies.spec import Cell, Exhibit, Printed, Settings
from intriguing.studies.szegedy2014.cells import alexnet


def _figure_5(settings: Settings) -> Cell:
    trained, untrained = alexnet(settings), alexnet(settings, untrained=True)
    effort = {"evaluations": 100, "solves": 20} if settings.full else {}
    # The paper led 64 photographs to one class; where digits stand in for them, a short run leads half as many.
    images = min(64 if settings.full or settings.photographs is not None else 32, settings.images)

    def led(label: str, needs: dict[str, Cell], **more: Any) -> Cell:
        chosen = {"images": images, "seed": settings.seed, **effort, **more}
        function = "intriguing.experiments.photographs:attack"
        return Cell(function, chosen, needs=needs, data=("photographs/test",), label=label)

    first = led("lead photographs to one class", {"net": trained})
    # An untrained net is harder to lead to a class that it never answers.
    far = {} if settings.full else {"images": min(16, images), "evaluations": 100, "solves": 12}
    second = "lead photographs to the second-best answer"
    needs = {
        "net": trained,
        "attack": first,
        "runner-up": led(second, {"net": trained, "like": first}, target="runner-up"),
        "untrained": untrained,
        "untrained attack": led("lead photographs to one class, untrained", {"net": untrained, "like": first}, **far),
        "untrained runner-up": led(f"{second}, untrained", {"net": untrained, "like": first}, target="runner-up"),
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
    title="Can every photograph become the same thing?",
    claim="Photographs changed too little for a person to notice are all taken by AlexNet for one class, the ostrich. "
    "Over 64 images the average change is 0.0065.",
    reading="Left the photograph, right the one the net calls by the class's name, between them ten times their "
    "difference. The class is the first by name, fixed before anything was measured. ImageNet and the published "
    "weights are not used: the net is AlexNet at a quarter of its width, trained here on a small set of other classes "
    "and size, so the size of the change should be of the printed order and no more is claimed. Accuracy stands beside "
    "it because a net that knows nothing is easily led too: its distances are the control.",
    source="section 4.2, Figure 5",
    cell=_figure_5,
    printed={
        (photographs.TRAINED, photographs.REACHED): Printed(1.0, "s", 0.01),
        (photographs.TRAINED, photographs.DISTORTION): Printed(0.0065, "s", 1e-4),
    },
    orderings=(((photographs.UNTRAINED, photographs.ACCURACY), (photographs.TRAINED, photographs.ACCURACY)),),
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

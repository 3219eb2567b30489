"""Section 4.2: training on what fools the net. Feeding adversarial examples back, and hard-negative mining."""

from __future__ import annotations

from intriguing.experiments import feeding
from intriguing.studies.spec import Cell, Exhibit, Printed, Settings
from intriguing.studies.szegedy2014.cells import attack, train

NET = "FC100-100-10"


def _seeds(settings: Settings, few: int) -> list[int]:
    return [settings.seed + index for index in range(max(5, settings.nets) if settings.full else few)]


def _feeding(settings: Settings) -> Cell:
    arms = list(feeding.ROWS) if settings.full else ["none", "all"]
    seeds = _seeds(settings, 2)
    needs: dict[str, Cell] = {}
    for arm in arms:
        for seed in seeds:
            trained = Cell(
                "intriguing.training.feeding:train_fed",
                {"net": NET, "seed": seed, "arm": arm},
                data=("train", "test"),
                label=f"train {NET}, {feeding.ROWS[arm]}, seed {seed}",
            )
            needs[f"{arm}/{seed}/net"] = trained
            needs[f"{arm}/{seed}/random"] = attack(NET, settings, trained, "random")
    chosen = {"net": NET, "arms": arms, "seeds": seeds, "seed": settings.seed}
    return Cell(
        "intriguing.experiments.feeding:feeding", chosen, needs=needs, data=("train", "test"), label="feeding back"
    )


def _hard_negatives(settings: Settings) -> Cell:
    seeds = _seeds(settings, 2)
    needs: dict[str, Cell] = {}
    for index, seed in enumerate(seeds):
        before = train(NET, settings, index)
        needs[f"before/{seed}/random"] = attack(NET, settings, before, "random")
        for pool in ("hard", "random"):
            trained = Cell(
                "intriguing.training.mining:train_mined",
                {"net": NET, "seed": seed, "pool": pool},
                needs={"net": before},
                data=("train", "test"),
                label=f"train {NET} on, {pool} examples, seed {seed}",
            )
            needs[f"{pool}/{seed}/net"] = trained
            needs[f"{pool}/{seed}/random"] = attack(NET, settings, trained, "random")
    chosen = {"seeds": seeds, "seed": settings.seed}
    return Cell(
        "intriguing.experiments.mining:hard_negatives", chosen, needs=needs, data=("test",), label="hard negatives"
    )


FEEDING = Exhibit(
    name="feeding",
    title="Does a net learn from its own adversarial examples?",
    claim="A net trained on pools of adversarial examples, one pool for every layer's output, has a test error below "
    "1.2%; with weight decay alone it has 1.6%, with carefully tuned dropout about 1.3%. Pools of higher layers help "
    "more than those of the input.",
    reading="All arms start from the same weights, see the same images in the same order and differ in their pools "
    "alone; differences are paired, seed by seed and image by image. Pools of noise of the same size are the control.",
    source="section 4.2, the text after Table 2",
    cell=_feeding,
    printed={
        (feeding.ROWS["none"], feeding.ERROR): Printed(0.016, "v", 0.001),
        (feeding.ROWS["all"], feeding.ERROR): Printed(0.012, "v", 0.001),
        (feeding.ROWS["dropout"], feeding.ERROR): Printed(0.013, "v", 0.001),
    },
    orderings=(((feeding.ROWS["all"], feeding.ERROR), (feeding.ROWS["none"], feeding.ERROR)),),
)

HARD_NEGATIVES = Exhibit(
    name="hard-negatives",
    title="Mining hard negatives",
    claim="Adversarial examples resemble hard negatives: inputs that a net finds difficult and that training can be "
    "weighted towards.",
    reading="A trained net is trained on for some rounds, with a pool of its hard examples or with as many drawn at "
    "random. Both are measured on the same hard examples: the loss on them falls from round to round, and clean "
    "accuracy should not pay for it.",
    source="section 4.2",
    cell=_hard_negatives,
)

"""Section 4.2: training on what fools the net. Feeding adversarial examples back, and hard-negative mining."""

from __future__ import annotations

from intriguing.experiments import feeding, mining
from intriguing.experiments.distortion import RANDOM
from intriguing.studies.spec import Cell, Exhibit, Printed, Settings
from intriguing.studies.szegedy2014.cells import attack, train

NET = "FC100-100-10"
_LOSSES = (mining.MINED, mining.UNSEEN)


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
    return Cell("intriguing.experiments.feeding:feeding", chosen, needs=needs, data=("test",), label="feeding back")


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
    claim="A net trained with a standing pool of adversarial examples for every layer makes fewer errors on "
    "ordinary images: below 1.2%, against 1.6% with weight decay alone and about 1.3% with tuned dropout. "
    "It helped only when the outputs of all layers were perturbed, and high layers mattered most.",
    reading="Compare each row with 'no pool': the nets of a seed start from the same weights and see the same "
    "images in the same order. Pools of noise of the same size (full run) show what any blurring of the "
    "data would do. The distortion says how much harder the net is to fool afterwards. The choices the "
    "paper leaves open were made by looking at the MNIST test error, so the absolute error is a little "
    "flattered; the print is not reached.",
    source="section 4.2, Feeding adversarial examples back",
    cell=_feeding,
    printed={
        (feeding.ROWS["none"], feeding.ERROR): Printed(0.016, "v", 0.001),
        (feeding.ROWS["all"], feeding.ERROR): Printed(0.012, "v", 0.001),
    },
    orderings=(
        ((feeding.ROWS["all"], feeding.ERROR), (feeding.ROWS["none"], feeding.ERROR)),
        ((feeding.ROWS["none"], RANDOM), (feeding.ROWS["all"], RANDOM)),
    ),
)

HARD_NEGATIVES = Exhibit(
    name="hard-negatives",
    title="Can a net be trained on what it finds hard?",
    claim="The paper likens its search to hard-negative mining: find examples that get a low probability though "
    "they should not, let them count for more, train another round.",
    reading="Follow the loss on the same hard examples from round to round. Both nets make the same steps; only "
    "one is given hard examples, the other random ones. The second figure shows examples it was never "
    "trained on. The error on ordinary images should stay.",
    source="section 4",
    cell=_hard_negatives,
    orderings=tuple(((mining.ROWS["hard"], column), (mining.ROWS["random"], column)) for column in _LOSSES),
)

"""Attacks that readers took for the paper's."""

from __future__ import annotations

from intriguing.studies.spec import Cell, Exhibit, Settings
from intriguing.studies.szegedy2014.cells import attack, train

NET = "FC100-100-10"
WEIGHTS = (0.1, 1.0, 3.0, 10.0, 100.0)


def _l1_adam(settings: Settings) -> Cell:
    trained = train(NET, settings)
    other = attack(NET, settings, trained, "random")
    chosen = {"net": NET, "images": settings.images, "steps": 3_000, "seed": settings.seed}
    chosen["first"] = settings.images if settings.full else min(64, settings.images)
    needs = {
        f"{weight:g}": Cell(
            "intriguing.experiments.variants:l1_adam",
            {**chosen, "weight": weight},
            needs={"net": trained, "random": other},
            data=("train",),
            label=f"L1 and Adam, weight {weight:g}",
        )
        for weight in WEIGHTS
    }
    return Cell(
        "intriguing.experiments.variants:l1_adam_exhibit",
        {"weights": list(WEIGHTS), "seed": settings.seed},
        needs=needs,
        data=("train",),
        label="L1 and Adam",
    )


L1_ADAM = Exhibit(
    name="l1-adam",
    title="A reader's shortcut: one weight for every image",
    claim="Not in the paper. A reader's code replaces its attack by Adam on the L1 norm of the change plus the "
    "cross-entropy, with one fixed weight and a random start.",
    reading="Read down: as the weight grows, more images reach their target and the change grows. Small print gives "
    "the paper's attack on the same images, those where both succeed. The variant is better in the norm it minimises "
    "and worse in the paper's.",
    source="variant, section 4.1",
    cell=_l1_adam,
)

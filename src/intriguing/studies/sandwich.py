"""The sandwich: how near what can be proved comes to what can be found, for nets trained in different ways.

It follows section 4.3 of Szegedy et al. 2014 (arXiv:1312.6199) with the bounds of its descendants: Zhang et al. 2018
(arXiv:1811.00866), Xu et al. 2021 (arXiv:2011.13824), Singla and Feizi 2020 (arXiv:2006.00731); and the trainings of
Yoshida and Miyato 2017 (arXiv:1705.10941) and Madry et al. 2018 (arXiv:1706.06083).
"""

from __future__ import annotations

from typing import Any

from intriguing.studies.spec import Cell, Exhibit, Settings, Study
from intriguing.studies.szegedy2014.cells import SMALL_SET, train

NET = "FC100-100-10"
_BUDGET = 1000  # passes of the attack per image
_STEPS = 30  # of the slopes' optimisation


def _trainings(settings: Settings) -> dict[str, Cell]:
    small = (settings.examples or 0) < SMALL_SET
    strength, decay, eps = (0.01, 0.003, 0.5) if small else (0.02, 0.001, 1.0)

    def penalised(row: str, **hyper: Any) -> Cell:
        chosen = {"net": NET, "seed": settings.seed, **hyper}
        return Cell(
            "intriguing.training.lipschitz:train_penalised",
            chosen,
            data=("train", "test"),
            label=f"train {NET}, {row}",
        )

    rows = {
        "plain": train(NET, settings),
        "weight decay": penalised("weight decay", strength=0.0, decay=[decay] * 3),
        "norm penalty": penalised("norm penalty", strength=strength),
        "norm penalty and weight decay": penalised(
            "norm penalty and weight decay", strength=strength, decay=[decay] * 3
        ),
    }
    adversarial = {"net": NET, "seed": settings.seed, "defence": "pgd", "eps": eps, "norm": 2, "attack_steps": 4}
    for row, more in (("PGD training", {}), ("PGD training and weight decay", {"decay": decay})):
        rows[row] = Cell(
            "intriguing.training.adversarial:train_sigmoid",
            {**adversarial, "epochs": 3, "batch": 200, "rate": 0.005, **more},
            data=("train", "test"),
            label=f"train {NET}, {row}",
        )
    return rows


def _training(settings: Settings) -> Cell:
    needs = {}
    trainings = _trainings(settings)
    for row, trained in trainings.items():
        chosen = {
            "net": NET,
            "images": settings.images,
            "seed": settings.seed,
            "budget": _BUDGET,
            "steps": _STEPS,
        }
        needs[f"{row}/ends"] = Cell(
            "intriguing.experiments.sandwich:both_ends",
            chosen,
            needs={"net": trained},
            data=("train", "test"),
            label=f"both ends, {row}",
        )
    chosen = {"rows": list(trainings), "seed": settings.seed}
    return Cell("intriguing.experiments.sandwich:sandwich", chosen, needs=needs, data=("test",), label="the sandwich")


TRAINING = Exhibit(
    name="training",
    title="Which training closes the gap?",
    claim="The product of the layers' norms bounds how near an adversarial example can be, but loosely. The paper "
    "suggests that training with small norms might help.",
    reading="Every net has the same architecture. For each image two numbers: a radius inside which no adversarial "
    "example exists, proved, and the distance of the nearest one that the attack finds. Read the ratio of the two: "
    "at 100% nothing is left unknown. Training that moves examples away need not make the net easier to prove, and the "
    "other way round.",
    source="section 4.3 of Szegedy et al. 2014, and its descendants",
    cell=_training,
    part="What is proved and what is found",
)

SANDWICH = Study(
    name="sandwich",
    title="The sandwich: proved, unknown, found",
    citation="Bounds: H. Zhang et al., NeurIPS 2018, arXiv:1811.00866; K. Xu et al., ICLR 2021, arXiv:2011.13824; "
    "S. Singla, S. Feizi, ICML 2020, arXiv:2006.00731. Trainings: Y. Yoshida, T. Miyato 2017, arXiv:1705.10941; "
    "A. Madry et al., ICLR 2018, arXiv:1706.06083. The question: C. Szegedy et al., ICLR 2014, arXiv:1312.6199, "
    "section 4.3.",
    summary="For every image the distance to the nearest adversarial example lies between what is proved and what is "
    "found. This page shows both ends for nets trained in different ways, and how much is left between them.",
    exhibits=(TRAINING,),
    kicker="A question of the paper, followed up",
    parts={
        "What is proved and what is found": "FC100-100-10 has two hidden layers of 100 sigmoid units each and ten "
        "outputs."
    },
)

"""Goodfellow et al. 2015: Explaining and harnessing adversarial examples. arXiv:1412.6572."""

from __future__ import annotations

from typing import Any

from intriguing.studies.spec import Cell, Exhibit, Printed, Settings, Study
from intriguing.studies.szegedy2014.cells import train as train_small

EPS = 0.25
_SOFTMAX = "FC10(1e-2)"
_ERROR = f"error under FGSM, eps {EPS:g}"
_AFTER = f"trained on fgsm-mixture, Linf, eps {EPS:g}"
_STEPS = 40  # of PGD


def trained(settings: Settings, defence: str, eps: float, said: str, **hyper: Any) -> Cell:
    """Return the cell that trains a convolutional net on adversarial examples in Linf."""
    chosen = {"defence": defence, "eps": eps, "norm": "inf", "seed": settings.seed, **hyper}
    return Cell(
        "intriguing.training.adversarial:train", chosen, data=("train", "test"), label=f"train a ConvNet, {said}"
    )


def _linear(settings: Settings) -> Cell:
    chosen = {"net": _SOFTMAX, "eps": EPS, "images": settings.images, "seed": settings.seed}
    return Cell(
        "intriguing.experiments.robust_training:fgsm_on_linear",
        chosen,
        needs={"net": train_small(_SOFTMAX, settings)},
        data=("test",),
        label="one signed step on a softmax layer",
    )


def _training(settings: Settings) -> Cell:
    needs = {
        "none": trained(settings, "none", EPS, "no defence"),
        "trained": trained(settings, "fgsm-mixture", EPS, "half of the loss on FGSM examples"),
    }
    return Cell(
        "intriguing.experiments.robust_training:fgsm_training",
        {"images": settings.images, "seed": settings.seed, "steps": _STEPS},
        needs=needs,
        data=("test",),
        label="what training on FGSM examples does",
    )


LINEAR = Exhibit(
    name="linear",
    title="One signed step fools a softmax layer",
    claim="Adversarial examples need no depth: a change of every pixel by the same small amount, in the direction of "
    "the sign of the gradient, adds up over the pixels and turns nearly every answer of a linear net.",
    reading="The control is the same amount in a random direction of signs. The printed 99.9% is of examples that may "
    "leave the box of pixels; here they are clipped to it, as an image file would be.",
    source="section 4",
    cell=_linear,
    printed={(_SOFTMAX, _ERROR): Printed(0.999, "s", 0.001)},
)

TRAINING = Exhibit(
    name="training",
    title="What does training on FGSM examples buy?",
    claim="With half of the loss on examples made by one signed step, renewed with the current weights, the error "
    "under that step falls from 89.4% to 17.9%, and the clean error falls too.",
    reading=f"Read the three errors of each row from left to right. PGD takes {_STEPS} steps where FGSM takes one: "
    "what it undoes of the gain was never robustness, only an answer to FGSM. The paper's net is a maxout net with "
    "dropout, ours a small convolutional one, so the printed numbers are a direction, not a mark to hit.",
    source="section 6",
    cell=_training,
    printed={
        ("no defence", "clean error"): Printed(0.0094, "s", 0.0001),
        ("no defence", _ERROR): Printed(0.894, "s", 0.001),
        (_AFTER, "clean error"): Printed(0.0084, "s", 0.0001),
        (_AFTER, _ERROR): Printed(0.179, "s", 0.001),
    },
    orderings=(
        ((_AFTER, _ERROR), ("no defence", _ERROR)),
        ((_AFTER, _ERROR), (_AFTER, f"error under PGD-{_STEPS}, eps {EPS:g}")),
    ),
)

GOODFELLOW_2015 = Study(
    name="goodfellow2015",
    title="Explaining and harnessing adversarial examples",
    citation="I. J. Goodfellow, J. Shlens, C. Szegedy. Explaining and Harnessing Adversarial Examples. ICLR 2015, "
    "arXiv:1412.6572.",
    summary="In 2015 a paper found the reason for adversarial examples in how linear networks are: one step along the "
    "sign of the gradient is enough, and training on such steps takes most of their effect away. This page measures "
    "both, and what an attack of many steps leaves of the second.",
    exhibits=(LINEAR, TRAINING),
)

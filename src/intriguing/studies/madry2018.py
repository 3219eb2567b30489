"""Madry et al. 2018: Towards deep learning models resistant to adversarial attacks. arXiv:1706.06083."""

from __future__ import annotations

from intriguing.studies.goodfellow2015 import trained
from intriguing.studies.spec import Cell, Exhibit, Printed, Settings, Study
from intriguing.studies.szegedy2014.cells import SMALL_SET

EPS = 0.3
_SMALL_EPS = 0.15  # of images of 8 x 8 pixels, which no net learns at 0.3
_STEPS, _RESTARTS = 100, 20
_UNDER = f"accuracy under PGD-{_STEPS} x {_RESTARTS}, eps {EPS:g}"
_AFTER = f"trained on pgd, Linf, eps {EPS:g}"
_WIDTHS = (1, 2, 4, 8)  # channels of the first convolution


def _eps(settings: Settings) -> float:
    return _SMALL_EPS if (settings.examples or 0) < SMALL_SET else EPS


def _pgd(settings: Settings) -> Cell:
    # Fewer steps of the attack in more passes over the images: with 60,000 of them, 10 minutes on one thread.
    longer = {} if (settings.examples or 0) < SMALL_SET else {"epochs": 8, "attack_steps": 3}
    return trained(settings, "pgd", _eps(settings), "PGD", **longer)


def _plain(settings: Settings) -> Cell:
    return trained(settings, "none", _eps(settings), "no defence")


def _training(settings: Settings) -> Cell:
    chosen = {"images": settings.images, "seed": settings.seed, "steps": _STEPS, "restarts": _RESTARTS}
    return Cell(
        "intriguing.experiments.robust_training:pgd_training",
        chosen,
        needs={"none": _plain(settings), "trained": _pgd(settings)},
        data=("test",),
        label="what training on PGD examples keeps",
    )


def _fgsm(settings: Settings) -> Cell:
    alone = trained(settings, "fgsm-mixture", _eps(settings), "FGSM alone", clean=0.0)
    return Cell(
        "intriguing.experiments.robust_training:fgsm_training",
        {"images": settings.images, "seed": settings.seed, "steps": 40},
        needs={"none": _plain(settings), "trained": alone},
        data=("test",),
        label="what training on FGSM alone learns",
    )


def _capacity(settings: Settings) -> Cell:
    needs = {}
    for width in _WIDTHS:
        size = {"channels": [width, 2 * width], "hidden": 8 * width}
        needs[f"pgd/{width}"] = trained(settings, "pgd", _eps(settings), f"PGD, {width} channels", **size)
        needs[f"none/{width}"] = trained(settings, "none", _eps(settings), f"no defence, {width} channels", **size)
    return Cell(
        "intriguing.experiments.robust_training:capacity",
        {"widths": list(_WIDTHS), "images": settings.images, "seed": settings.seed},
        needs=needs,
        data=("test",),
        label="how wide a net must be",
    )


def _hidden(settings: Settings) -> Cell:
    return Cell(
        "intriguing.experiments.robust_training:hidden_weakness",
        {"images": settings.images, "seed": settings.seed},
        needs={"trained": _pgd(settings)},
        data=("train", "test"),
        label="what PGD does not find",
    )


TRAINING = Exhibit(
    name="table-1",
    title="What does training on PGD examples keep?",
    claim=f"A net trained on examples of many steps from random starts, at eps {EPS:g} on MNIST, keeps 89.3% of its "
    f"answers under {_STEPS} steps with {_RESTARTS} restarts.",
    reading="Beside each accuracy stands that of the same net trained without a defence. The paper's net has twice as "
    "many channels and takes 100,000 steps of training, each with 40 steps of the attack; on MNIST ours takes 4,800 "
    "with 3.",
    source="Table 1, from memory",
    cell=_training,
    printed={
        (_AFTER, _UNDER): Printed(0.893, "m", 0.001),
        (_AFTER, "clean accuracy"): Printed(0.988, "m", 0.001),
    },
)

FGSM = Exhibit(
    name="fgsm-overfits",
    title="Training on FGSM alone defeats FGSM alone",
    claim="A net trained on examples of one step learns to make that step useless. Many steps still find the way.",
    reading="In the second row, the further the error under PGD lies above that under FGSM, the less the defence is "
    "worth: the gradient at the image is masked, and no robustness is gained.",
    source="section 4",
    cell=_fgsm,
)

CAPACITY = Exhibit(
    name="capacity",
    title="A small net learns nothing from PGD examples",
    claim="Robustness takes a wider net than accuracy does. A net that learns clean images well may, on PGD examples, "
    "end by answering one class for all.",
    reading="Accuracy on clean images stands beside that of a net of the same width trained without a defence, "
    "accuracy under PGD beside random signs of the same size.",
    source="section 4",
    cell=_capacity,
)

HIDDEN = Exhibit(
    name="hidden-weakness",
    title="What PGD does not find",
    claim="Robustness as one attack sees it is an upper bound: restarts, an attack without gradients, another norm and "
    "a larger eps show how much of it is the attack's failure.",
    reading="All rows are accuracies of the net of the first table. Within eps 0.5 every image can be turned into the "
    "same grey, so whatever accuracy is left there is a failure of the attack. In L2 the search for the nearest "
    "example is set beside PGD within the same radius.",
    source="section 5",
    cell=_hidden,
)

MADRY_2018 = Study(
    name="madry2018",
    title="Towards deep learning models resistant to adversarial attacks",
    citation="A. Madry, A. Makelov, L. Schmidt, D. Tsipras, A. Vladu. Towards Deep Learning Models Resistant to "
    "Adversarial Attacks. ICLR 2018, arXiv:1706.06083.",
    summary="In 2018 a paper trained nets on the strongest examples it could make, and they held. This page trains "
    "such nets, small ones, and asks what they keep under attack, what cheaper examples teach, how wide a net must be, "
    "and how much of the robustness is the failure of an attack.",
    exhibits=(TRAINING, FGSM, CAPACITY, HIDDEN),
)

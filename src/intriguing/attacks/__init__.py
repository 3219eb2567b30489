"""Attacks: each a frozen record of parameters that can be called, with a one-line function beside it."""

from intriguing.attacks.alma import ALMA, alma
from intriguing.attacks.apgd import APGD, TargetedAPGD, apgd, apgd_t
from intriguing.attacks.base import Attack
from intriguing.attacks.capabilities import capability_table
from intriguing.attacks.cw import CarliniWagner, carlini_wagner
from intriguing.attacks.ddn import DDN, ddn
from intriguing.attacks.deepfool import DeepFool, deepfool
from intriguing.attacks.fab import FAB, fab
from intriguing.attacks.fgsm import FGSM, fgsm
from intriguing.attacks.fmn import FMN, fmn
from intriguing.attacks.l1_adam import L1Adam, l1_adam
from intriguing.attacks.lbfgs import LBFGS, lbfgs
from intriguing.attacks.nearest import Nearest, nearest
from intriguing.attacks.noise import (
    GaussianNoise,
    UniformNoise,
    gaussian,
    gaussian_noise,
    gaussian_of_norm,
    uniform_noise,
)
from intriguing.attacks.pdgd import PDGD, pdgd
from intriguing.attacks.pgd import PGD, pgd
from intriguing.attacks.result import AttackResult, AttackStatus, Curve, Phase
from intriguing.attacks.square import Square, square
from intriguing.attacks.superdeepfool import SuperDeepFool, superdeepfool
from intriguing.attacks.worst_of import WorstOf, worst_of

ATTACKS: dict[str, type[Attack]] = {
    "nearest": Nearest,
    "lbfgs": LBFGS,
    "ddn": DDN,
    "fmn": FMN,
    "deepfool": DeepFool,
    "superdeepfool": SuperDeepFool,
    "carlini-wagner": CarliniWagner,
    "fab": FAB,
    "alma": ALMA,
    "pdgd": PDGD,
    "l1-adam": L1Adam,
    "fgsm": FGSM,
    "pgd": PGD,
    "apgd": APGD,
    "apgd-t": TargetedAPGD,
    "square": Square,
    "gaussian-noise": GaussianNoise,
    "uniform-noise": UniformNoise,
}

__all__ = [
    "ALMA",
    "APGD",
    "ATTACKS",
    "DDN",
    "FAB",
    "FGSM",
    "FMN",
    "LBFGS",
    "PDGD",
    "PGD",
    "Attack",
    "AttackResult",
    "AttackStatus",
    "CarliniWagner",
    "Curve",
    "DeepFool",
    "GaussianNoise",
    "L1Adam",
    "Nearest",
    "Phase",
    "Square",
    "SuperDeepFool",
    "TargetedAPGD",
    "UniformNoise",
    "WorstOf",
    "alma",
    "apgd",
    "apgd_t",
    "capability_table",
    "carlini_wagner",
    "ddn",
    "deepfool",
    "fab",
    "fgsm",
    "fmn",
    "gaussian",
    "gaussian_noise",
    "gaussian_of_norm",
    "l1_adam",
    "lbfgs",
    "nearest",
    "pdgd",
    "pgd",
    "square",
    "superdeepfool",
    "uniform_noise",
    "worst_of",
]  # fmt: skip

"""Attacks: each a frozen record of parameters that can be called, with a one-line function beside it."""

from intriguing.attacks.alma import ALMA, alma
from intriguing.attacks.base import Attack
from intriguing.attacks.cw import CarliniWagner, carlini_wagner
from intriguing.attacks.ddn import DDN, ddn
from intriguing.attacks.deepfool import DeepFool, deepfool
from intriguing.attacks.fab import FAB, fab
from intriguing.attacks.fmn import FMN, fmn
from intriguing.attacks.l1_adam import L1Adam, l1_adam
from intriguing.attacks.lbfgs import LBFGS, lbfgs
from intriguing.attacks.noise import gaussian, gaussian_of_norm
from intriguing.attacks.pdgd import PDGD, pdgd
from intriguing.attacks.result import AttackResult, AttackStatus, Curve, Phase
from intriguing.attacks.superdeepfool import SuperDeepFool, superdeepfool

ATTACKS: dict[str, type[Attack]] = {
    "lbfgs": LBFGS,
    "l1-adam": L1Adam,
    "ddn": DDN,
    "fmn": FMN,
    "deepfool": DeepFool,
    "superdeepfool": SuperDeepFool,
    "carlini-wagner": CarliniWagner,
    "fab": FAB,
    "alma": ALMA,
    "pdgd": PDGD,
}

__all__ = [
    "ALMA", "ATTACKS", "DDN", "FAB", "FMN", "LBFGS", "PDGD", "Attack", "AttackResult", "AttackStatus", "CarliniWagner",
    "Curve", "DeepFool", "L1Adam", "Phase", "SuperDeepFool", "alma", "carlini_wagner", "ddn", "deepfool", "fab", "fmn",
    "gaussian", "gaussian_of_norm", "l1_adam", "lbfgs", "pdgd", "superdeepfool",
]  # fmt: skip

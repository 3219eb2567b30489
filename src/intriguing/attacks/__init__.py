"""Attacks: each a frozen record of parameters that can be called, with a one-line function beside it."""

from intriguing.attacks.apgd import APGD, TargetedAPGD, apgd, apgd_t
from intriguing.attacks.base import Attack
from intriguing.attacks.capabilities import capability_table
from intriguing.attacks.fgsm import FGSM, fgsm
from intriguing.attacks.l1_adam import L1Adam, l1_adam
from intriguing.attacks.lbfgs import LBFGS, lbfgs
from intriguing.attacks.noise import (
    GaussianNoise,
    UniformNoise,
    gaussian,
    gaussian_noise,
    gaussian_of_norm,
    uniform_noise,
)
from intriguing.attacks.pgd import PGD, pgd
from intriguing.attacks.result import AttackResult, AttackStatus, Curve, Phase
from intriguing.attacks.square import Square, square
from intriguing.attacks.worst_of import WorstOf, worst_of

ATTACKS: dict[str, type[Attack]] = {
    "lbfgs": LBFGS,
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
    "APGD", "ATTACKS", "FGSM", "LBFGS", "PGD", "Attack", "AttackResult", "AttackStatus", "Curve", "GaussianNoise",
    "L1Adam", "Phase", "Square", "TargetedAPGD", "UniformNoise", "WorstOf", "apgd", "apgd_t",
    "capability_table", "fgsm", "gaussian", "gaussian_noise", "gaussian_of_norm", "l1_adam", "lbfgs", "pgd", "square", "uniform_noise", "worst_of",
]  # fmt: skip

"""Attacks: each a frozen record of parameters that can be called, with a one-line function beside it."""

from intriguing.attacks.base import Attack
from intriguing.attacks.fgsm import FGSM, fgsm
from intriguing.attacks.l1_adam import L1Adam, l1_adam
from intriguing.attacks.lbfgs import LBFGS, lbfgs
from intriguing.attacks.noise import gaussian, gaussian_of_norm
from intriguing.attacks.pgd import PGD, pgd
from intriguing.attacks.result import AttackResult, AttackStatus, Curve, Phase
from intriguing.attacks.square import Square, square

ATTACKS: dict[str, type[Attack]] = {
    "lbfgs": LBFGS,
    "l1-adam": L1Adam,
    "fgsm": FGSM,
    "pgd": PGD,
    "square": Square,
}

__all__ = [
    "ATTACKS", "FGSM", "LBFGS", "PGD", "Attack", "AttackResult", "AttackStatus", "Curve", "L1Adam", "Phase", "Square",
    "fgsm", "gaussian", "gaussian_of_norm", "l1_adam", "lbfgs", "pgd", "square",
]  # fmt: skip

"""Attacks: each a frozen record of parameters that can be called, with a one-line function beside it."""

from intriguing.attacks.l1_adam import L1Adam, l1_adam
from intriguing.attacks.lbfgs import LBFGS, lbfgs
from intriguing.attacks.noise import gaussian, gaussian_of_norm
from intriguing.attacks.result import AttackResult, AttackStatus, Phase

ATTACKS: dict[str, type[LBFGS] | type[L1Adam]] = {"lbfgs": LBFGS, "l1-adam": L1Adam}

__all__ = [
    "ATTACKS", "LBFGS", "AttackResult", "AttackStatus", "L1Adam", "Phase", "gaussian", "gaussian_of_norm",
    "l1_adam", "lbfgs",
]  # fmt: skip

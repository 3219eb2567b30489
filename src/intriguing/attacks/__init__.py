"""Attacks: each a frozen record of parameters that can be called, with a one-line function beside it."""

from intriguing.attacks.base import Attack
from intriguing.attacks.l1_adam import L1Adam, l1_adam
from intriguing.attacks.lbfgs import LBFGS, lbfgs
from intriguing.attacks.nearest import Nearest
from intriguing.attacks.noise import gaussian, gaussian_of_norm
from intriguing.attacks.result import AttackResult, AttackStatus, Curve, Phase

ATTACKS: dict[str, type[Attack]] = {"nearest": Nearest, "lbfgs": LBFGS, "l1-adam": L1Adam}

__all__ = [
    "ATTACKS", "LBFGS", "Attack", "AttackResult", "AttackStatus", "Curve", "L1Adam", "Nearest", "Phase", "gaussian",
    "gaussian_of_norm", "l1_adam", "lbfgs",
]  # fmt: skip

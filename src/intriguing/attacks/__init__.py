"""Attacks: each a frozen record of parameters that can be called, with a one-line function beside it."""

from intriguing.attacks.lbfgs import LBFGS, lbfgs
from intriguing.attacks.noise import gaussian, gaussian_of_norm
from intriguing.attacks.result import AttackResult, AttackStatus, Phase

ATTACKS = {"lbfgs": LBFGS}

__all__ = ["ATTACKS", "LBFGS", "AttackResult", "AttackStatus", "Phase", "gaussian", "gaussian_of_norm", "lbfgs"]

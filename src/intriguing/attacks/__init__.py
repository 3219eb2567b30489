"""Attacks: each a frozen record of parameters that can be called, with a one-line function beside it."""

from intriguing.attacks.lbfgs import LBFGS, lbfgs
from intriguing.attacks.result import AttackResult, AttackStatus, Phase

__all__ = ["LBFGS", "AttackResult", "AttackStatus", "Phase", "lbfgs"]

"""A gate for a model in a build: conditions on an audit, a baseline, and files that a build server reads."""

from intriguing.gate.files import document, junit, write
from intriguing.gate.judge import CODES, Check, Condition, Outcome, State, condition, figures, gate

__all__ = [
    "CODES", "Check", "Condition", "Outcome", "State", "condition", "document", "figures", "gate", "junit", "write",
]  # fmt: skip

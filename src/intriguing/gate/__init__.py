"""A gate for a model in a build: conditions on an audit, a baseline, and files that a build server reads."""

from intriguing.gate.catalogue import NOTES, Known, known
from intriguing.gate.files import document, junit, write
from intriguing.gate.judge import CODES, Check, Condition, Outcome, State, condition, figures, gate

__all__ = [
    "CODES", "NOTES", "Check", "Condition", "Known", "Outcome", "State",
    "condition", "document", "figures", "gate", "junit", "known", "write",
]  # fmt: skip

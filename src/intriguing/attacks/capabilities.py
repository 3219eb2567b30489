"""What each attack asks and what it needs, as a table made from the attacks themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from intriguing.attacks.base import Attack


def capability_table(attacks: Mapping[str, type[Attack]]) -> str:
    """Return the table in Markdown, one attack a row.

    Args:
        attacks: by name, as `attacks.ATTACKS`.

    Example:
        >>> capability_table({"lbfgs": LBFGS}).splitlines()[0]
        '| attack | looks for | needs of the model | sizes | draws | what it is |'
    """
    lines = ["| attack | looks for | needs of the model | sizes | draws | what it is |", "|---|---|---|---|---|---|"]
    for name, kind in attacks.items():
        parameters = {parameter.name for parameter in fields(kind)}
        question = "an example within eps" if "eps" in parameters else "the nearest example"
        needs = "gradients" if kind.needs_gradients else "logits"
        sizes = "norm=" if "norm" in parameters else "L2"
        lines.append(
            f"| {name} | {question} | {needs} | {sizes} | {kind.needs_generator or 'nothing'} | {kind.description} |"
        )
    return "\n".join(lines)

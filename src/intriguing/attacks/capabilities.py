"""What every attack can do, found out by asking it: the table of ``docs/attacks.md``.

Norms are tried on a tiny net, so that the matrix cannot promise what an attack refuses.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from intriguing.attacks.base import Attack
from intriguing.errors import InputError
from intriguing.rng import generator

_NORMS = {"L1": 1.0, "L2": 2.0, "Linf": math.inf}
_HEADS = ("attack", "looks for", "needs of the model", "sizes", "target of its own", "draws", "what it is")
# Enough passes for the smallest search of any attack on a linear net of two pixels.
_BUDGET = 60
_TARGETS = "its targets, unless they are named"


@dataclass(frozen=True)
class Capability:
    """What one attack can do.

    Attributes:
        name: in the registry.
        question: ``"the nearest example"`` or ``"an example within eps"``.
        needs: ``"gradients"`` or ``"logits"``; an attack that needs logits alone serves models without gradients.
        norms: those it accepts.
        targeted: whether it can be led to a class that the caller names.
        draws: what is random; empty if nothing has to be.
        description: one line.
    """

    name: str
    question: str
    needs: str
    norms: tuple[str, ...]
    targeted: bool
    draws: str
    description: str


def capabilities(attacks: Mapping[str, type[Attack]]) -> list[Capability]:
    """Return what each attack of a registry can do, in its order.

    Example:
        >>> from intriguing.attacks import ATTACKS
        >>> capabilities(ATTACKS)[0].name
        'lbfgs'
    """
    return [_capability(name, kind) for name, kind in attacks.items()]


def capability_table(attacks: Mapping[str, type[Attack]]) -> str:
    """Return the table in Markdown, one attack a row.

    Args:
        attacks: by name, as `attacks.ATTACKS`.

    Example:
        >>> capability_table({}).splitlines()[0]
        '| attack | looks for | needs of the model | sizes | target of its own | draws | what it is |'
    """
    lines = ["| " + " | ".join(_HEADS) + " |", "|" + "---|" * len(_HEADS)]
    for c in capabilities(attacks):
        entries = (
            c.name, c.question, c.needs, ", ".join(c.norms), "yes" if c.targeted else "no", c.draws or "nothing",
            c.description,
        )  # fmt: skip
        lines.append("| " + " | ".join(entry.replace("|", "\\|") for entry in entries) + " |")
    return "\n".join(lines)


def _capability(name: str, kind: type[Attack]) -> Capability:
    # Every attack is a dataclass, which its base cannot say.
    fields = {field.name: field.default for field in dataclasses.fields(kind) if field.init}  # type: ignore[arg-type]
    return Capability(
        name=name,
        question="an example within eps" if "eps" in fields else "the nearest example",
        needs="gradients" if kind.needs_gradients else "logits",
        norms=_norms(kind, fields),
        targeted="target" in fields,
        draws=kind.needs_generator or (_TARGETS if fields.get("target") == "random" else ""),
        description=kind.description,
    )


def _norms(kind: type[Attack], fields: Mapping[str, object]) -> tuple[str, ...]:
    """Return the norms an attack accepts: each is tried, for an attack that lets the caller choose."""
    if "norm" not in fields:
        own = float(getattr(kind, "norm", 2.0))
        return tuple(name for name, norm in _NORMS.items() if norm == own)
    return tuple(name for name, norm in _NORMS.items() if _accepts(kind, fields, norm))


def _accepts(kind: type[Attack], fields: Mapping[str, object], norm: float) -> bool:
    settings: dict[str, float] = {"norm": norm}
    settings |= {"eps": 0.1} if "eps" in fields else {}
    settings |= {"budget": _BUDGET} if "budget" in fields else {}
    linear = torch.nn.Linear(2, 3)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]))
        linear.bias.zero_()
    net = torch.nn.Sequential(torch.nn.Flatten(), linear)
    image = torch.tensor([[[[0.6, 0.5]]]])
    try:
        kind(**settings)(net, image, torch.tensor([0]), generator=generator("capabilities", 0))
    except InputError as error:
        # Any other refusal is a mistake of this module, and must be seen.
        if not str(error).startswith("norm"):
            raise
        return False
    return True

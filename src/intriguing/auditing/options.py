"""From the words of a command line to attacks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from intriguing.attacks import ATTACKS
from intriguing.attacks.base import Attack
from intriguing.errors import InputError, UnknownNameError

# What a random target of the paper's question is to an audit's: the nearest example is wanted, whatever its class.
_NEAREST = {"target": ("random", "nearest")}


def attacks_of(
    given: Sequence[str | Attack],
    *,
    budget: int | None = None,
    eps: float | None = None,
    norm: float | None = None,
    target: str | None = None,
    nearest: bool = True,
) -> dict[str, Attack]:
    """Return attacks by name, with the options given to each that has them.

    Args:
        given: names of `attacks.ATTACKS`, or attacks, which stay as they are.
        budget: the largest number of forwards plus backwards on one image; None: the attack's own.
        eps: radius of the attacks with one.
        norm: 1, 2 or inf.
        target: which wrong class; None: any, the nearest.
        nearest: attacks that lead to a random class by default are led to the nearest one instead.

    Raises:
        UnknownNameError: no attack of that name.
        InputError: no attack, the same twice, or an option that none of the attacks has.

    Example:
        >>> attacks_of(["lbfgs"], budget=2000)["lbfgs"].target
        'nearest'
    """
    if not given:
        raise InputError(f"attacks: expected at least one of {', '.join(sorted(ATTACKS))}, got none")
    options = {"budget": budget, "eps": eps, "norm": norm, "target": target}
    asked = {name: value for name, value in options.items() if value is not None}
    found: dict[str, Attack] = {}
    taken: set[str] = set()
    for item in given:
        name, attack, used = _made(item, asked, nearest)
        if name in found:
            raise InputError(f"attacks: {name} is named twice; name each once")
        attack.check()  # now rather than in a worker
        found[name] = attack
        taken |= used
    for name, value in asked.items():
        if name not in taken:
            having = [other for other, kind in ATTACKS.items() if name in _fields(kind)]
            raise InputError(
                f"{name}: {value!r} was given, but {', '.join(found)} has no such setting; leave --{name} out, or "
                f"use an attack that has it: {', '.join(having) or 'none'}"
            )
    return found


def radius(text: str | None) -> float | None:
    """Return the radius a text names, as a number or a fraction, for the levels of a byte; None stays None.

    Raises:
        InputError: something else.

    Example:
        >>> radius("8/255")
        0.03137254901960784
    """
    if text is None:
        return None
    above, slash, below = text.partition("/")
    try:
        found = float(above) / (float(below) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        found = math.nan
    if not math.isfinite(found):
        raise InputError(f"eps: expected a number such as 0.03 or a fraction such as 8/255, got {text!r}")
    return found


def takes(attack: str | Attack, setting: str) -> bool:
    """Tell whether a named attack has a setting; an attack that is given as it is takes none."""
    return isinstance(attack, str) and attack in ATTACKS and setting in _fields(ATTACKS[attack])


def _made(item: str | Attack, asked: Mapping[str, Any], nearest: bool) -> tuple[str, Attack, set[str]]:
    if not isinstance(item, str):
        names = {kind: name for name, kind in ATTACKS.items()}
        if isinstance(getattr(item, "target", None), Tensor):
            raise InputError("target: classes given image by image cannot be streamed; name a rule, such as nearest")
        return names.get(type(item), type(item).__name__.lower()), item, set()
    if item not in ATTACKS:
        raise UnknownNameError("attack", item, ATTACKS)
    kind = ATTACKS[item]
    fields = _fields(kind)
    settings = {name: value for name, value in asked.items() if name in fields}
    used = set(settings)
    if nearest:
        for name, (default, wanted) in _NEAREST.items():
            if fields.get(name) == default and name not in settings:
                settings[name] = wanted
    lacking = [name for name, default in fields.items() if default is dataclasses.MISSING and name not in settings]
    if lacking:
        raise InputError(f"{lacking[0]}: {item} cannot do without it; pass --{lacking[0]}")
    return item, kind(**settings), used


def _fields(kind: type[Attack]) -> dict[str, Any]:
    parameters: Any = kind  # every attack is a dataclass
    return {field.name: field.default for field in dataclasses.fields(parameters) if field.init}

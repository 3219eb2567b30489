"""The blind spots of image classifiers, measured.

What a user may rely on: the modules below and the names in their ``__all__``. They are imported on first use, since
torch takes a second or two.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from intriguing import attacks, bounds, data, errors, nets, norms, optim, rng
    from intriguing.nets.doctor import doctor
    from intriguing.nets.load import Model

__version__ = "0.1.0"

__all__ = ["Model", "attacks", "bounds", "data", "doctor", "errors", "nets", "norms", "optim", "rng"]

# What is a function or a class, and not a module: the module it is in.
_HOMES = {"Model": "intriguing.nets.load", "doctor": "intriguing.nets.doctor"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in __all__:
        return importlib.import_module(f"intriguing.{name}")
    raise AttributeError(f"module 'intriguing' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

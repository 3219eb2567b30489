"""Audits of a user's own models: any number of images in bounded memory, resumable, with a page and a verdict.

The names are imported on first use: a worker process needs neither the page nor the statistics.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from intriguing.auditing.run import Outcome, audit, is_audit, report
    from intriguing.auditing.single import attack

__all__ = ["Outcome", "attack", "audit", "is_audit", "report"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        home = "single" if name == "attack" else "run"
        return getattr(importlib.import_module(f"intriguing.auditing.{home}"), name)
    raise AttributeError(f"module 'intriguing.auditing' has no attribute {name!r}")

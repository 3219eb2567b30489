"""A run as one self-contained page: what was measured beside what the paper printed. Never computes.

The names are imported on first use: a reader of figures needs neither the charts nor the studies.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from intriguing.report.page import build, write

__all__ = ["build", "write"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("intriguing.report.page"), name)
    raise AttributeError(f"module 'intriguing.report' has no attribute {name!r}")

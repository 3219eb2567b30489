"""Modules that peers import and whose L2 attacks never use, as empty stand-ins.

- `visdom`: adv-lib's plots of an attack's progress.
- `torchvision.models`: adv-lib's perceptual distance; torchvision has no build for torch's CPU wheels.

A stand-in steps in only where the module itself cannot be imported, and any use of it fails with the attribute's name.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

STAND_INS = ("visdom", "torchvision", "torchvision.models")


def install() -> tuple[str, ...]:
    """Put stand-ins where modules are missing; return the names of those that were."""
    missing = tuple(name for name in STAND_INS if name.partition(".")[0] in _absent())
    for name in missing:
        sys.modules[name] = module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)  # peers look for one another by their specifications
        package, _, child = name.partition(".")
        if child:
            setattr(sys.modules[package], child, sys.modules[name])
    return missing


def _absent() -> set[str]:
    packages = {name.partition(".")[0] for name in STAND_INS}
    return {package for package in packages if package not in sys.modules and importlib.util.find_spec(package) is None}

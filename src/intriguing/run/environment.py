"""Where a number was computed: versions and a public description of the machine."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import torch


def environment(device: torch.device | str = "cpu") -> dict[str, str | int]:
    """Return what the results may depend on: versions, platform, processor and device.

    It holds no name of the machine or its user. Keys: ``intriguing``, ``python``, ``torch``, ``numpy``,
    ``scipy`` (versions; ``"unknown"`` for a package that is not installed as one), ``platform``, ``cpu``,
    ``cpus`` (those this process may use) and ``device``.

    Args:
        device: where the cells compute; its model is named.

    Example:
        >>> environment()["device"]
        'cpu'
    """
    versions = {name: package_version(name) for name in ("intriguing", "torch", "numpy", "scipy")}
    return {
        "intriguing": versions["intriguing"],
        "python": platform.python_version(),
        "torch": versions["torch"],
        "numpy": versions["numpy"],
        "scipy": versions["scipy"],
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cpus": cpu_count(),
        "device": _device_name(torch.device(device)),
    }


def package_version(name: str) -> str:
    """Return the installed version of a package, ``"unknown"`` if it runs from a bare source tree."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def cpu_count() -> int:
    """Return how many processors this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):  # fewer than the machine has, in a container or under taskset
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            return answer.stdout.strip()
    return platform.processor() or platform.machine()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type

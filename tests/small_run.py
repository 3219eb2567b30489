"""One small finished run of three exhibits, shared by every test that needs one, and ways to look at runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from intriguing import workflow
from intriguing.records import Record
from intriguing.store import Damage, Store
from intriguing.studies.spec import Settings

SETTINGS = Settings(images=8, nets=1)
OPTIONS = ("--images", "8", "--nets", "1")
TABLES = {"table-1": 36, "table-2": 118, "figure-7": 8}  # how many cells each has
NAMES = tuple(TABLES)
_START = "import sys; from intriguing.cli import main; sys.argv[0] = 'intriguing'; main()"


def finished(factory: pytest.TempPathFactory) -> Path:
    """Return the run, made by whichever test asks first; no test may write to it."""
    folder = factory.getbasetemp() / "small run"
    if not (folder / "report.html").exists():
        workflow.reproduce(NAMES, SETTINGS, out=folder, workers=1)
    return folder


def copied(run: Path, place: Path, *, without: str | None = None) -> Path:
    """Return a copy of a run to damage, without the cells whose label holds a word."""
    shutil.copytree(run, place)
    for key, label in labels(place).items():
        if without is not None and without in label:
            shutil.rmtree(place / "cells" / key)
    return place


def reproduce(folder: Path, *names: str, **options: Any) -> tuple[workflow.Outcome, list[str], list[Damage]]:
    """Run in this process, all three if none is named; return what was computed and what was damaged."""
    computed: list[str] = []
    found: list[Damage] = []
    settings = options.pop("settings", SETTINGS)
    outcome = workflow.reproduce(
        names or NAMES,
        settings,
        out=folder,
        workers=1,
        progress=lambda event: computed.append(event.label) if event.kind == "finished" else None,
        on_damage=found.append,
        **options,
    )
    return outcome, computed, found


def manifests(folder: Path) -> dict[str, dict[str, Any]]:
    """Return key -> manifest of every finished cell, without checking the cells."""
    return {p.parent.name: json.loads(p.read_text()) for p in (folder / "cells").glob("*/manifest.json")}


def labels(folder: Path) -> dict[str, str]:
    return {key: manifest["label"] for key, manifest in manifests(folder).items()}


def created(folder: Path) -> dict[str, str]:
    return {key: manifest["created"] for key, manifest in manifests(folder).items()}


def key_of(folder: Path, label: str) -> str:
    return next(key for key, found in labels(folder).items() if found == label)


def records(folder: Path) -> dict[str, Record]:
    with Store(folder, mode="read") as store:
        found = {key: store.get(key) for key in store.finished()}
    return {key: record for key, record in found.items() if record is not None}


def numbers(folder: Path) -> dict[tuple[str, str, str], tuple[float, float, float, int]]:
    """Return the measured values of `results.json` by table, row and column."""
    cells = json.loads((folder / "results.json").read_text())["cells"]
    return {
        (cell["table"], cell["row"], cell["column"]): (cell["measured"], cell["low"], cell["high"], cell["n"])
        for cell in cells
    }


def flip(file: Path, at: float = 0.5) -> None:
    """Flip one bit of a file, somewhere in the middle."""
    content = bytearray(file.read_bytes())
    content[int(len(content) * at)] ^= 1
    file.write_bytes(content)


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def start(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    """Start the command line in a process of its own, as a user would."""
    command = [sys.executable, "-c", _START, *map(str, arguments)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment(), **options}
    return subprocess.Popen(command, text=True, **options)


def call(*arguments: str | Path, **options: Any) -> tuple[int, str, str]:
    """Run the command line in a process of its own; return its exit code, output and errors."""
    with start(*arguments, **options) as process:
        out, err = process.communicate(timeout=120)
    return process.returncode, out, err

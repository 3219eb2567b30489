"""Every block of the page on the gate, run in order as a reader would: files written, commands in a shell."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

_PAGE = Path(__file__).parents[2] / "docs" / "gate.md"
_BLOCK = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def _blocks() -> list[tuple[str, str, str]]:
    """Return language, file name or nothing, and text of every block."""
    return [(language, name or "", text) for language, name, text in _BLOCK.findall(_PAGE.read_text())]


def _steps(workflow: str) -> list[str]:
    """Return the commands of a workflow, the installation apart."""
    jobs = yaml.safe_load(workflow)["jobs"].values()
    return [step["run"] for job in jobs for step in job["steps"] if "run" in step and "pip install" not in step["run"]]


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """Return a function that runs a script in one folder, with `python` and `intriguing` of this environment."""
    place = tmp_path_factory.mktemp("walk")
    programs = tmp_path_factory.mktemp("bin")
    # The command as it is installed, from the sources under test.
    start = f"#!{sys.executable}\nimport sys\nfrom intriguing.cli import main\nsys.argv[0] = 'intriguing'\nmain()\n"
    for name, text in (("intriguing", start), ("python", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("INTRIGUING_DATA", None)

    def run(script: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", "-euo", "pipefail", "-c", script]
        return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=300)

    run.place = place
    return run


@pytest.mark.slow
def test_every_block_of_the_page_runs_in_order(shell):
    done: dict[str, str] = {}

    def once(script: str) -> None:
        # A workflow repeats commands that the page ran before; each audit counts once.
        for command in [script] if "\nif" in script or "case" in script else script.strip().splitlines():
            if command not in done:
                finished = shell(command)
                assert finished.returncode == 0, f"{command}\n{finished.stdout}\n{finished.stderr}"
                done[command] = finished.stdout

    for language, name, text in _blocks():
        if name:
            (shell.place / name).write_text(text)
        elif language == "sh":
            once(text)
        elif language == "yaml":
            for step in _steps(text):
                once(step)
        else:
            assert language == "python"
            (shell.place / "block.py").write_text(text)
            finished = shell("python block.py")
            assert finished.returncode == 0, f"{text}\n{finished.stdout}\n{finished.stderr}"
    told = "\n".join(done.values())
    # The list, a gate that passes, one that fails.
    for words in ("robust_accuracy_linf@8/255", "PASSED  runs/v1", "FAILED  runs/v1", "more fragile than allowed"):
        assert words in told
    for name in ("gate.xml", "gate.json", "runs/v1/report.html", "runs/v1/results.json", "runs/v1/rows.parquet"):
        assert (shell.place / name).stat().st_size > 0


def test_the_workflow_is_one_and_does_what_the_page_did_before():
    [workflow] = [text for language, _, text in _blocks() if language == "yaml"]
    before = "\n".join(text for language, _, text in _blocks() if language == "sh")
    steps = _steps(workflow)
    assert len(steps) == 2
    assert all(step in before for step in steps)


def test_no_block_is_left_out():
    assert _PAGE.read_text().count("```") == 2 * len(_blocks())
    assert {language for language, _, _ in _blocks()} == {"python", "sh", "yaml"}

"""The rule about skipped tests of data, tried on a small suite of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

_SUITE = """
import pytest

@pytest.mark.data
def test_of_data(shared_data):
    if not (shared_data / "mnist").is_dir():
        pytest.skip("no mnist")

def test_of_nothing():
    pass
"""


def _run(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    data: needs data\n")
    (folder / "conftest.py").write_text((Path(__file__).parent / "conftest.py").read_text())
    (folder / "test_suite.py").write_text(_SUITE)
    kept = {k: v for k, v in os.environ.items() if k not in ("CI", "INTRIGUING_DATA")}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", str(folder)]
    return subprocess.run(command, cwd=folder, env=kept | environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("ci", "has_folder", "passes"), [(True, True, False), (False, True, True)])
def test_a_skipped_test_of_data_fails_the_run_only_in_ci_with_data(
    tmp_path: Path, ci: bool, has_folder: bool, passes: bool
) -> None:
    suite, data = tmp_path / "suite", tmp_path / "data"
    suite.mkdir()
    environment = {"CI": "true"} if ci else {}
    if has_folder:
        data.mkdir()
        environment["INTRIGUING_DATA"] = str(data)
    done = _run(suite, **environment)
    assert (done.returncode == 0) == passes, done.stdout + done.stderr
    assert ("had to run" in done.stdout) != passes


def test_a_folder_that_is_not_there_skips_even_in_ci(tmp_path: Path) -> None:
    done = _run(tmp_path, CI="true", INTRIGUING_DATA=str(tmp_path / "absent"))
    assert done.returncode == 0
    assert "1 passed, 1 skipped" in done.stdout


def test_tests_run_on_one_thread() -> None:
    assert torch.get_num_threads() == 1


_ORDER = """
import pytest, torch

def test_quick():
    assert abs(torch.rand(()).item() - {drawn!r}) < 1e-6  # the same draw in each test, whatever ran before
"""


def test_slow_files_come_first_and_every_test_draws_the_same(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    slow: takes long\n    data: needs data\n")
    (tmp_path / "conftest.py").write_text((Path(__file__).parent / "conftest.py").read_text())
    torch.manual_seed(0)
    suite = _ORDER.format(drawn=torch.rand(()).item())
    for name in ("a", "b"):
        (tmp_path / f"test_{name}.py").write_text(suite)
    (tmp_path / "test_z.py").write_text(suite + "\n@pytest.mark.slow\ndef test_slow():\n    torch.rand(3)\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    order = [line.split("::")[0] for line in done.stdout.splitlines() if "PASSED" in line]
    assert order == ["test_z.py", "test_z.py", "test_a.py", "test_b.py"]

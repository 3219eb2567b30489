"""What all tests share: the folder of image sets, one thread, and a run in CI that may not skip them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

_DATA = "needs image sets"  # the property that marks the reports of such tests
_skipped: list[str] = []


def _data_folder() -> Path | None:
    """Return the folder named by INTRIGUING_DATA, or None when it is unset or not there."""
    named = os.environ.get("INTRIGUING_DATA", "")
    return Path(named) if named and Path(named).is_dir() else None


def pytest_configure(config: pytest.Config) -> None:
    # Small nets run many times slower on several contended threads than on one.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_weights_each_time() -> None:
    """Seed what a test draws without a generator, such as an untrained net's weights."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of image sets, or skip the test where there is none."""
    folder = _data_folder()
    if folder is None:
        pytest.skip("INTRIGUING_DATA names no folder of image sets")
    return folder


def _skips_must_fail() -> bool:
    return bool(os.environ.get("CI")) and _data_folder() is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first, so that no process is left with one of them when the others are done."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    outcome = yield
    report = outcome.get_result()
    if item.get_closest_marker("data") is not None:
        report.user_properties.append((_DATA, True))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count here, where the reports of all processes arrive when tests run side by side."""
    if report.skipped and (_DATA, True) in map(tuple, report.user_properties):
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    passed = session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    if _skipped and _skips_must_fail() and passed:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if _skipped and _skips_must_fail():
        terminalreporter.section("skipped tests of data", red=True)
        terminalreporter.line("The run fails: CI is set and INTRIGUING_DATA names a folder, so these tests had to run:")
        for name in _skipped:
            terminalreporter.line(f"  {name}")

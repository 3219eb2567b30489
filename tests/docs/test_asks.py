"""Every ask has an answer, and every test that an answer names is there."""

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_TESTS = _ROOT / "tests"
_ASKS = 39


@cache
def _rows() -> tuple[tuple[str, ...], ...]:
    lines = (_ROOT / "docs" / "asks.md").read_text().splitlines()
    rows = [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in lines if re.match(r"\| \d", line)]
    return tuple(rows)


@cache
def _names(path: Path) -> frozenset[str]:
    return frozenset(node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef))


def test_every_ask_stands_once_with_an_answer_and_a_test():
    assert [row[0].strip() for row in _rows()] == [str(number) for number in range(1, _ASKS + 1)]
    for _, ask, answer, tests in _rows():
        assert ask
        assert len(answer) > 20
        assert "::" in tests


@pytest.mark.parametrize("row", _rows(), ids=lambda row: row[0])
def test_every_test_an_answer_names_is_there(row):
    for named in re.findall(r"`([\w/]+\.py)::(\w+)`", row[3]):
        path, name = _TESTS / named[0], named[1]
        assert path.is_file(), named
        assert name in _names(path), named


def test_dependencies_have_lower_bounds_only():
    dependencies = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert dependencies
    for dependency in dependencies:
        assert re.fullmatch(r"[\w-]+>=[\d.]+", dependency), dependency

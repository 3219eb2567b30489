"""What the documents tell the reader to type is understood."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from intriguing import workflow

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = sorted(
    {found.strip() for page in PAGES for found in re.findall(r"intriguing reproduce([^`(#\n]*)", page.read_text())}
)


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("command", COMMANDS)
def test_reproduce_knows_what_is_named(command: str) -> None:
    names = re.sub(r"--full|--[a-z-]+ \S+", "", command).split()
    assert workflow.choose(names)[1]

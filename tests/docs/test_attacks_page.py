"""The table of attacks is what they say of themselves when asked."""

import sys
from pathlib import Path

import pytest

from intriguing.attacks import ATTACKS
from intriguing.attacks.capabilities import Capability, capabilities, capability_table

_DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def found() -> dict[str, Capability]:
    return {c.name: c for c in capabilities(ATTACKS)}


def test_the_command_that_writes_the_page_changes_nothing_where_it_is_right(monkeypatch):
    monkeypatch.syspath_prepend(str(_DOCS))
    try:
        import update_attacks

        text = update_attacks.PAGE.read_text()
        assert update_attacks.updated(text) == text, "run python docs/update_attacks.py"
    finally:
        sys.modules.pop("update_attacks", None)


def test_every_attack_stands_in_it_with_a_norm_and_a_line(found):
    assert list(found) == list(ATTACKS)
    assert all(c.norms and c.description for c in found.values())


def test_the_papers_attack_is_described_as_it_is(found):
    lbfgs = found["lbfgs"]
    assert (lbfgs.question, lbfgs.needs, lbfgs.targeted) == ("the nearest example", "gradients", True)
    assert "L2" in lbfgs.norms
    assert lbfgs.draws == "its targets, unless they are named"


def test_a_norm_an_attack_refuses_is_not_in_its_row(found):
    assert found["square"].norms == ("L2", "Linf")
    assert found["pgd"].norms == ("L1", "L2", "Linf")


def test_an_empty_registry_is_a_table_without_rows():
    assert len(capability_table({}).splitlines()) == 2

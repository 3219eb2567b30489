"""The capability matrix is what the attacks say of themselves when asked."""

import sys
from pathlib import Path

import pytest

from intriguing.attacks import ATTACKS
from intriguing.attacks.capabilities import capabilities, markdown

_DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def found():
    return capabilities(ATTACKS)


def test_the_page_holds_the_matrix_of_the_registry(found):
    assert markdown(found) in (_DOCS / "capabilities.md").read_text(), "run python docs/update_capabilities.py"


def test_the_command_that_writes_it_changes_nothing_when_it_is_right(monkeypatch):
    monkeypatch.syspath_prepend(str(_DOCS))
    try:
        import update_capabilities

        assert update_capabilities.updated(update_capabilities.PAGE.read_text()) == update_capabilities.PAGE.read_text()
    finally:
        sys.modules.pop("update_capabilities", None)


def test_every_attack_stands_in_it_with_a_norm_and_a_line(found):
    assert [c.name for c in found] == list(ATTACKS)
    for capability in found:
        assert capability.norms
        assert capability.description


def test_the_papers_attack_is_described_as_it_is(found):
    lbfgs = found[0]
    assert (lbfgs.name, lbfgs.kind, lbfgs.targeted, lbfgs.gradients) == ("lbfgs", "nearest", True, True)
    assert "L2" in lbfgs.norms
    assert lbfgs.draws == "its targets, unless they are named"

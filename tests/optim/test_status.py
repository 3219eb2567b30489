"""Every way a row can end is said in a sentence."""

from __future__ import annotations

import pytest

from intriguing.optim import Status


@pytest.mark.parametrize("status", list(Status), ids=lambda s: s.name)
def test_every_status_has_a_sentence(status: Status) -> None:
    assert status.sentence.endswith(".")
    assert status.sentence[0].isupper()


def test_sentences_and_codes_are_distinct() -> None:
    assert len({s.sentence for s in Status}) == len({int(s) for s in Status}) == len(Status)


def test_the_named_members_exist() -> None:
    assert {"CONVERGED", "STALLED", "BUDGET_SPENT", "NUMERIC_FAILURE"} <= {s.name for s in Status}

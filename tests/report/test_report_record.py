"""A record says how many printed values hold, and nothing of them where none was printed."""

from __future__ import annotations

from intriguing.report.record import tally


def test_printed_values_are_counted_by_verdict() -> None:
    verdicts = ("agrees", "differs", "agrees", "not printed", "same direction")
    counted = tally([{"verdict": verdict} for verdict in verdicts])
    assert counted == "2 agrees, 1 same direction, 1 differs (of the printed values)"


def test_a_study_without_printed_values_is_not_counted() -> None:
    assert tally([{"verdict": "not printed"}, {"verdict": "not printed"}]) == ""

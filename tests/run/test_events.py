"""Progress is told often enough, and no more."""

from __future__ import annotations

import pytest

from intriguing.run.events import throttled


def test_progress_is_told_ten_times_a_second_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    told: list[tuple[float, float]] = []
    advance = throttled(lambda done, total: told.append((done, total)))
    for step in range(1, 1001):
        now += 0.001
        advance(step, 1000)
    assert told[0] == (1, 1000)
    assert told[-1] == (1000, 1000)
    assert 9 <= len(told) <= 12

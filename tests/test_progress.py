"""Progress as text: bars on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import io
import re

from rich.console import Console

from intriguing.progress import shown
from intriguing.run.events import Event


def plain() -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, soft_wrap=True, highlight=False, width=40), text


def terminal() -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    environment = {"TERM": "xterm", "COLUMNS": "120", "LINES": "30"}
    return Console(file=text, force_terminal=True, width=120, _environ=environment), text


def test_quiet_asks_for_no_events() -> None:
    console, text = plain()
    with shown(console, quiet=True) as callback:
        assert callback is None
    assert text.getvalue() == ""


def test_without_a_terminal_there_is_one_line_per_finished_cell() -> None:
    console, text = plain()
    with shown(console, quiet=False) as callback:
        assert callback is not None
        callback(Event("reused", "k0", "was there", 1, 3))
        callback(Event("started", "k1", "train", 1, 3))
        callback(Event("advanced", "k1", "train", 1, 3, done=1, total=2))
        callback(Event("finished", "k1", "train [1e-4] and a label longer than the console", 2, 3, seconds=1.25))
        callback(Event("finished", "k2", "table 1", 3, 3, seconds=0.04))
    first, last = text.getvalue().splitlines()
    assert re.fullmatch(r"\[2/3\] train \[1e-4\] and a label longer than the console: 1\.2 s, about \d+ s left", first)
    assert last == "[3/3] table 1: 0.0 s"


def test_a_terminal_shows_all_cells_and_each_worker() -> None:
    console, text = terminal()
    with shown(console, quiet=False) as callback:
        assert callback is not None
        callback(Event("reused", "k0", "was there", 1, 3))
        callback(Event("started", "k1", "train [b]one[/b]", 1, 3, worker=0))
        callback(Event("started", "k2", "train two", 1, 3, worker=1))
        callback(Event("advanced", "k1", "train [b]one[/b]", 1, 3, done=5, total=10, worker=0))
        callback(Event("advanced", "k2", "train two", 1, 3, done=0, total=0, worker=1))
        callback(Event("finished", "k1", "train [b]one[/b]", 2, 3, seconds=1, worker=0))
        callback(Event("started", "k3", "table 1", 2, 3, worker=0))
    seen = text.getvalue()
    assert "all cells" in seen
    assert "2/3" in seen
    assert "train two" in seen
    assert "table 1" in seen
    assert seen.endswith("\x1b[2K") or "\x1b[1A" in seen  # the bars are wiped away at the end


def test_a_label_with_markup_is_shown_as_it_is() -> None:
    console, text = terminal()
    with shown(console, quiet=False) as callback:
        assert callback is not None
        callback(Event("started", "k1", "train [b]one[/b]", 0, 1))
    assert "train [b]one[/b]" in text.getvalue()


def test_an_error_in_the_block_passes_and_leaves_the_terminal_whole() -> None:
    console, text = terminal()
    try:
        with shown(console, quiet=False):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert text.getvalue().count("\x1b[?25h") == text.getvalue().count("\x1b[?25l")  # cursor shown as often as hidden

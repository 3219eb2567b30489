"""The command line: what it accepts, what it says, and how it leaves."""

from __future__ import annotations

import logging
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import intriguing
import small_run
from intriguing import cli, workflow
from intriguing.errors import UnknownNameError
from intriguing.store import Store
from intriguing.studies import STUDIES
from small_run import NAMES, OPTIONS

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run.finished(tmp_path_factory)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test in a folder of its own, with no folder of sets."""
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.delenv("INTRIGUING_DATA", raising=False)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Return a function that calls the command line in this process."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["intriguing", *map(str, arguments)])
        with pytest.raises(SystemExit) as leaving:
            cli.main()
        shown = capsys.readouterr()
        return int(leaving.value.code or 0), shown.out, shown.err

    return call


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tabel-1"], ["unknown table or figure 'tabel-1'", "Did you mean 'table-1'?"]),
        (["szegedy2015/table-1"], ["unknown study 'szegedy2015'", "Did you mean 'szegedy2014'?"]),
        ([""], ["unknown table or figure ''", "table-1"]),
        (["--data", "digts"], ["unknown data set 'digts'", "Did you mean 'digits'?", "INTRIGUING_DATA"]),
        (["--data", "./nowhere"], ["there is no folder './nowhere'"]),
        (["--data", "mnist", "--data-dir", "nowhere"], ["'nowhere', given by --data-dir, is not a folder"]),
        (["--data", "hub:nobody"], ["hub:owner/name", "'hub:nobody'"]),
        (["--images", "0"], ["images", "at least 1", "got 0"]),
        (["--images", "-3"], ["images", "at least 1", "got -3"]),
        (["--images", "999999"], ["999999", "only 1297 training images", "--images"]),
        (["--nets", "0"], ["nets", "at least 1", "got 0"]),
        (["--size", "0"], ["size", "from 1 to 4096", "got 0"]),
        (["--device", "abacus"], ["'abacus'", "use cpu or cuda"]),
        (["--device", "mps"], ["'mps'", "use cpu or cuda"]),
    ],
)
def test_a_wrong_argument_is_one_line_that_names_it_and_leaves_nothing(
    run: Call, arguments: list[str], words: list[str]
) -> None:
    code, out, err = run("reproduce", *arguments, "--out", "run")
    assert code == 2
    assert out == ""
    assert err.startswith("Error: ")
    assert len(err.splitlines()) == 1, err
    for word in words:
        assert word in err
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["reprodce"], ["reprodce", "reproduce"]),
        (["reproduce", "--imges", "5"], ["--imges", "--images"]),
        (["reproduce", "--images", "many"], ["--images"]),
        (["reproduce", "--workers", "0"], ["--workers"]),
        (["report"], ["folder"]),
    ],
)
def test_what_the_parser_refuses_is_explained_with_exit_code_2(
    run: Call, arguments: list[str], words: list[str]
) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    for word in words:
        assert word in err
    assert "Traceback" not in err
    assert list(Path().iterdir()) == []


def test_the_version_is_told(run: Call) -> None:
    assert run("--version") == (0, f"intriguing {intriguing.__version__}\n", "")


def test_the_package_is_a_command_too() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "intriguing", "--version"],
        capture_output=True, text=True, timeout=120, env=small_run.environment(),
    )  # fmt: skip
    assert (told.returncode, told.stdout) == (0, f"intriguing {intriguing.__version__}\n"), told.stderr


def test_without_a_command_the_help_is_shown_and_no_error(run: Call) -> None:
    code, out, err = run()
    assert code == 2
    assert "reproduce" in out + err
    assert "Error" not in out + err


def test_a_report_can_be_kept_as_text(run: Call, finished: Path, tmp_path: Path) -> None:
    folder = small_run.copied(finished, tmp_path / "run")
    assert run("report", folder, "--markdown", tmp_path / "kept" / "record.md")[0] == 0
    text = (tmp_path / "kept" / "record.md").read_text()
    numbers = small_run.numbers(folder)
    for (_, row, column), (measured, low, high, n) in numbers.items():
        line = next(line for line in text.splitlines() if line.startswith(f"| {row} | {column} |"))
        if n > 1 and low != high:
            assert f"| {measured:.4g} | {low:.4g} to {high:.4g} | {n} |" in line
    assert "## Seconds of computation" in text
    assert "| train FC100-100-10, seed 0 |" in text
    place = tmp_path / "in the way"
    place.write_text("")
    code, _, err = run("report", folder, "--markdown", place / "record.md")
    assert code == 2
    assert "could not be written" in err


def test_debug_shows_where_an_error_came_from(run: Call) -> None:
    code, _, err = run("reproduce", "tabel-1", "--debug")
    assert code == 2
    assert "Traceback" in err
    assert "UnknownNameError" in err


def test_our_own_mistakes_keep_their_traceback(run: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(workflow, "reproduce", broken)
    monkeypatch.setattr(sys, "argv", ["intriguing", "reproduce"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_ctrl_c_leaves_with_130_and_says_that_nothing_is_lost(run: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(workflow, "reproduce", interrupted)
    code, out, err = run("reproduce")
    assert (code, out) == (130, "")
    assert err == "Stopped. What is finished is kept; the same command goes on from there.\n"


def test_markup_in_an_error_is_shown_and_not_obeyed(run: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **__: object) -> None:
        raise UnknownNameError("data set", "[bold]x[/bold]", ["[red]y"])

    monkeypatch.setattr(workflow, "reproduce", failing)
    assert "[bold]x[/bold]" in run("reproduce")[2]


def test_list_names_everything_that_can_be_asked_for(run: Call, tmp_path: Path) -> None:
    named = tmp_path / "sets" / "[bold]odd[/bold] <b>"
    (named / "train" / "a").mkdir(parents=True)
    code, out, err = run("list", "--data-dir", named.parent)
    assert (code, err) == (0, "")
    for word in ("szegedy2014", "table-1", "table-2", "figure-7", "digits", "mnist", "FC10(1e-4)", "lbfgs"):
        assert word in out
    assert named.name in out
    exhibits = {f"{study.name}/{exhibit.name}" for study in STUDIES.values() for exhibit in study.exhibits}
    shown = {line.split()[0] for line in out.splitlines() if line.startswith("  ") and not line.startswith("   ")}
    assert {name.removeprefix("szegedy2014/") for name in exhibits} == shown  # none hides another


def test_a_list_that_no_terminal_shows_has_one_line_per_entry(run: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    _, out, _ = run("list")
    for study in STUDIES.values():
        for exhibit in study.exhibits:
            assert any(exhibit.title in line for line in out.splitlines()), exhibit.title


def test_a_finished_run_is_found_again_and_summed_up(run: Call, finished: Path, tmp_path: Path) -> None:
    folder = small_run.copied(finished, tmp_path / "run")
    before = small_run.created(folder)
    code, out, err = run("reproduce", *NAMES, *OPTIONS, "--out", folder)
    assert code == 0
    assert err == ""  # nothing was computed, so there is no progress
    lines = out.splitlines()
    assert re.fullmatch(r"\d+ agrees, \d+ same direction, \d+ differs \(of the printed values\)", lines[0])
    assert lines[1:] == [f"report   {folder / 'report.html'}", f"results  {folder / 'results.json'}"]
    assert small_run.created(folder) == before


def test_progress_is_plain_lines_without_a_terminal_and_nothing_when_quiet(
    run: Call, finished: Path, tmp_path: Path
) -> None:
    for place, options in (("loud", []), ("quiet", ["--quiet"])):
        folder = small_run.copied(finished, tmp_path / place, without="figure 7")
        code, out, err = run("reproduce", *NAMES, *OPTIONS, "--out", folder, *options)
        assert code == 0
        assert len(out.splitlines()) == 3
        if options:
            assert err == ""
        else:
            assert re.fullmatch(r"\[25/25\] figure 7: \d+\.\d s\n", err)
            assert "\x1b" not in err


def test_damage_is_told_in_one_line(run: Call, finished: Path, tmp_path: Path) -> None:
    folder = small_run.copied(finished, tmp_path / "run")
    key = small_run.key_of(folder, "figure 7")
    small_run.flip(folder / "cells" / key / "values.json")
    code, _, err = run("reproduce", *NAMES, *OPTIONS, "--out", folder, "--quiet")
    assert code == 0
    assert err.startswith(f"Computed again: cell {key} is damaged: values.json does not match its checksum.")
    assert len(err.splitlines()) == 1


def test_a_folder_in_use_is_refused(run: Call, tmp_path: Path) -> None:
    with Store(tmp_path / "run"):
        code, _, err = run("reproduce", "figure-7", *OPTIONS, "--out", tmp_path / "run")
    assert code == 2
    assert f"in use by another process (process {os.getpid()})" in err


def test_a_folder_of_other_things_is_refused_and_untouched(run: Call, tmp_path: Path) -> None:
    mine = tmp_path / "thesis"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    for command in (["reproduce", "figure-7", *OPTIONS, "--out"], ["report"]):
        code, _, err = run(*command, mine)
        assert code == 2
        assert "is not a run folder" in err
        assert [p.name for p in mine.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("place", ["a file", "a file/below"])
def test_a_file_in_the_way_is_refused(run: Call, place: str) -> None:
    Path("a file").write_text("x")
    code, _, err = run("reproduce", "figure-7", *OPTIONS, "--out", place)
    assert code == 2
    assert "--out" in err
    assert Path("a file").read_text() == "x"


def test_the_default_folder_is_named_after_study_and_data(run: Call, finished: Path) -> None:
    Path("runs").mkdir()
    small_run.copied(finished, Path("runs/szegedy2014-digits"))
    code, out, err = run("reproduce", *NAMES, *OPTIONS)
    assert (code, err) == (0, "")
    assert "runs/szegedy2014-digits/report.html" in out


def test_offline_the_error_names_the_three_places(
    run: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import datasets

    # Set before the first request: without it the test would ask the network.
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with caplog.at_level(logging.CRITICAL):
        code, out, err = run("reproduce", "--data", "mnist", "--out", "run")
    assert (code, out) == (2, "")
    for word in ("--data-dir", "INTRIGUING_DATA", "cache", "hub"):
        assert word in err
    assert "Traceback" not in err
    assert not Path("run").exists()


def test_the_program_starts_without_a_home_and_from_anywhere(finished: Path, tmp_path: Path) -> None:
    folder = small_run.copied(finished, tmp_path / "run")
    environment = {k: v for k, v in small_run.environment().items() if k not in ("HOME", "XDG_CACHE_HOME")}
    code, out, err = small_run.call("report", folder, cwd="/", env=environment)
    assert code == 0, err
    assert str(folder / "report.html") in out


def test_a_terminal_sees_bars_that_go_away(finished: Path, tmp_path: Path) -> None:
    folder = small_run.copied(finished, tmp_path / "run", without="FC200")
    ours, theirs = pty.openpty()
    with small_run.start(
        "reproduce", "figure-7", *OPTIONS, "--out", folder, "--workers", "1", stderr=theirs,
        env=small_run.environment(TERM="xterm", COLUMNS="100"),
    ) as process:  # fmt: skip
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 1 << 16)
            except OSError:  # how Linux says that the other end is closed
                break
            if not piece:
                break
            shown += piece
        out, _ = process.communicate(timeout=60)
    os.close(ours)
    text = shown.decode()
    assert process.returncode == 0
    assert "all cells" in text
    assert "train FC200-200-10" in text
    assert "\x1b[" in text
    assert "[5/5]" not in text  # the plain lines
    assert len(out.splitlines()) == 3

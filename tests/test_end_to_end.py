"""A whole run of the study on the embedded digits, small: its numbers, its documents, and its interruptions."""

from __future__ import annotations

import importlib
import json
import math
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

import small_run
from intriguing import data
from intriguing.experiments import distortion
from intriguing.records import Inputs
from intriguing.studies.szegedy2014 import SZEGEDY_2014
from intriguing.training import recipes
from small_run import OPTIONS

FIGURE = "figure-7"
REQUIRED = {
    "study", "table", "row", "column", "kind", "measured", "n", "low", "high", "printed", "mark", "verdict", "code",
}  # fmt: skip
OPTIONAL = {"control", "p", "title", "note", "non_finite"}


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run.finished(tmp_path_factory)


@pytest.fixture
def document(finished: Path) -> dict[str, Any]:
    def refuse(word: str) -> NoReturn:
        raise AssertionError(f"{word} is not JSON")

    loaded: dict[str, Any] = json.loads((finished / "results.json").read_bytes().decode("ascii"), parse_constant=refuse)
    return loaded


# -- results.json -------------------------------------------------------------------------------------------


def test_the_document_has_the_documented_shape(document: dict[str, Any]) -> None:
    assert document["schema"] == 1
    assert set(document) >= {"schema", "run", "cells", "unmeasured"}
    run = document["run"]
    chosen = {"data": "digits", "images": 8, "seed": 0, "nets": 1, "size": None, "photo_size": 112, "full": False}
    assert run["settings"].items() >= (chosen | {"examples": 1297}).items()
    assert set(run["settings"]) == {*chosen, "examples", "photographs"}
    stated = {"intriguing", "python", "torch", "numpy", "scipy", "platform", "cpu", "cpus", "device"}
    assert set(run["environment"]) >= stated
    assert run["seeds"] == {"run": 0, "nets": [0]}
    assert set(run["hashes"]) >= {"digits/train", "digits/test"}
    for cell in document["cells"]:
        assert set(cell) >= REQUIRED
        assert set(cell) <= REQUIRED | OPTIONAL, cell


def test_every_cell_stands_once_in_its_table(document: dict[str, Any]) -> None:
    places = [(cell["study"], cell["table"], cell["row"], cell["column"]) for cell in document["cells"]]
    assert len(set(places)) == len(places)
    counts = {table: sum(place[1] == table for place in places) for table in small_run.TABLES}
    assert counts == small_run.TABLES


def test_every_printed_value_is_measured(document: dict[str, Any]) -> None:
    printed = {
        (exhibit.name, row, column): value.value
        for exhibit in map(SZEGEDY_2014.exhibit, small_run.NAMES)
        for (row, column), value in exhibit.printed.items()
    }
    measured = {
        (cell["table"], cell["row"], cell["column"]): cell["printed"]
        for cell in document["cells"]
        if cell["printed"] is not None
    }
    assert measured == printed
    assert document["unmeasured"] == []


def test_every_number_has_a_count_an_interval_and_a_control(document: dict[str, Any]) -> None:
    for cell in document["cells"]:
        assert cell["kind"] == "sampled"
        assert cell["n"] >= 1
        assert cell["low"] <= cell["measured"] <= cell["high"], cell
        assert math.isfinite(cell["control"]["measured"])
        assert cell["control"]["label"]
        if "distortion" not in cell["column"]:
            assert cell["low"] >= 0
            assert cell["high"] <= 1
        if "p" in cell:
            assert 0 < cell["p"] <= 1


def test_verdicts_follow_the_documented_rule(document: dict[str, Any]) -> None:
    printed = {
        (exhibit.name, *place): value for exhibit in SZEGEDY_2014.exhibits for place, value in exhibit.printed.items()
    }
    for cell in document["cells"]:
        value = printed.get((cell["table"], cell["row"], cell["column"]))
        if value is None:
            assert cell["verdict"] == "not printed"
            assert cell["mark"] is None
            continue
        half = value.digit / 2
        inside = value.value + half >= cell["low"] and value.value - half <= cell["high"]
        near = abs(cell["measured"] - value.value) - half <= 0.1 * abs(cell["measured"])
        assert (cell["verdict"] == "agrees") == (inside or near)
        assert cell["mark"] == value.mark


def test_the_function_of_every_number_can_be_found(document: dict[str, Any]) -> None:
    for code in {cell["code"] for cell in document["cells"]}:
        module, _, name = code.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_the_numbers_are_plausible(document: dict[str, Any]) -> None:
    measured = {(c["table"], c["row"], c["column"]): c["measured"] for c in document["cells"]}
    nets = {row for table, row, _ in measured if table == "table-1"}
    for net in nets:
        assert measured["table-1", net, "found"] == 1.0
        near, random_, far = (
            measured["table-1", net, f"mean distortion, {which} target"] for which in ("nearest", "random", "farthest")
        )
        assert 0 < near <= random_ * 1.001
        assert random_ <= far * 1.001
        assert measured["table-2", net, net] == 1.0
        assert measured["table-1", net, "test error"] < 0.25
    decays = [measured["table-1", f"FC10({decay})", distortion.RANDOM] for decay in ("1e-4", "1e-2", "1")]
    assert decays == sorted(decays)


# -- the page -----------------------------------------------------------------------------------------------


def test_the_page_holds_every_table_and_the_same_document(finished: Path, document: dict[str, Any]) -> None:
    page = (finished / "report.html").read_text()
    assert len(page.encode()) < 10_000_000
    for name in small_run.TABLES:
        assert f'<section id="{name}"' in page
    marked = page.partition('<script type="application/json"')[2].partition(">")[2].partition("</script>")[0]
    assert json.loads(marked) == document
    for sign in ("src=", "href="):
        for address in (piece.partition('"')[0] for piece in page.split(f'{sign}"')[1:]):
            assert address.startswith(("data:", "#")), address


# -- ways to run --------------------------------------------------------------------------------------------


def assert_same(folder: Path, finished: Path, table: str = FIGURE) -> None:
    """Compare a table's numbers, and every tensor behind them, with those of the finished run."""
    expected = {place: cell for place, cell in small_run.numbers(finished).items() if place[0] == table}
    measured = {place: cell for place, cell in small_run.numbers(folder).items() if place[0] == table}
    assert measured.keys() == expected.keys()
    for place, cell in measured.items():
        assert cell == pytest.approx(expected[place], rel=1e-6)
    theirs = small_run.records(finished)
    for key, record in small_run.records(folder).items():
        for name, tensor in record.tensors.items():
            torch.testing.assert_close(tensor, theirs[key].tensors[name], rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_workers_do_not_change_a_number(finished: Path, tmp_path: Path) -> None:
    code, out, err = small_run.call("reproduce", FIGURE, *OPTIONS, "--out", tmp_path / "run", "--workers", "2")
    assert code == 0, err
    assert "report.html" in out
    assert len(err.splitlines()) == 5
    assert_same(tmp_path / "run", finished)


def children(process: int) -> list[int]:
    """Return the processes that a process has started, from Linux's table of them."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue
        if entry.name.isdecimal() and fields[1] == str(process):
            found.append(int(entry.name))
    return found


def wait_for_line(process: subprocess.Popen[str]) -> str:
    """Wait until the process has said something more of its progress."""
    assert process.stderr is not None
    return process.stderr.readline()


def wait_until_gone(processes: list[int], seconds: float = 20) -> list[int]:
    end = time.monotonic() + seconds
    left = processes
    while left and time.monotonic() < end:
        time.sleep(0.05)
        left = [pid for pid in left if Path(f"/proc/{pid}").exists() and not _dead(pid)]
    return left


def _dead(process: int) -> bool:
    """Tell whether a process has ended and merely waits for someone to take note."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for orphans in Linux's table of processes")
def test_killed_again_and_again_a_run_ends_with_the_same_numbers(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    chance = random.Random(0)
    kept: dict[str, str] = {}
    for first in (True, False, False):
        with small_run.start("reproduce", FIGURE, *OPTIONS, "--out", folder, "--workers", "2") as process:
            if not first:
                wait_for_line(process)
            else:
                while not (folder / "run.json").exists():
                    time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.5))
            workers = children(process.pid)
            os.kill(process.pid, signal.SIGKILL)
        assert process.returncode in (-signal.SIGKILL, 0)  # on a fast machine the last one may get to its end
        assert wait_until_gone(workers) == []
        times = small_run.created(folder)
        assert kept.items() <= times.items()
        kept = times
    _, computed, found = small_run.reproduce(folder, FIGURE)
    assert found == []
    times = small_run.created(folder)
    assert kept.items() <= times.items()
    assert len(computed) == len(times) - len(kept)
    assert_same(folder, finished)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for orphans in Linux's table of processes")
def test_ctrl_c_stops_the_workers_keeps_what_is_finished_and_says_so(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    # A shell that runs the tests in the background ignores Ctrl-C, and so would its children.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = small_run.start("reproduce", FIGURE, *OPTIONS, "--out", folder, "--workers", "2")
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        wait_for_line(process)
        workers = children(process.pid)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert err.endswith("Stopped. What is finished is kept; the same command goes on from there.\n")
    assert "Traceback" not in err
    assert wait_until_gone(workers) == []
    kept = small_run.created(folder)
    assert kept
    assert len(small_run.reproduce(folder, FIGURE)[1]) == 5 - len(kept)
    assert kept.items() <= small_run.created(folder).items()
    assert_same(folder, finished)


@pytest.mark.slow
def test_of_two_processes_on_one_folder_the_second_is_refused(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with small_run.start("reproduce", FIGURE, *OPTIONS, "--out", folder, "--workers", "1") as first:
        wait_for_line(first)
        code, _, err = small_run.call("reproduce", FIGURE, *OPTIONS, "--out", folder)
        _, rest = first.communicate(timeout=60)
    # The second may start after the first has ended; then it finds everything done.
    assert first.returncode == 0, rest
    assert code in (0, 2)
    if code == 2:
        assert f"in use by another process (process {first.pid})" in err
    assert_same(folder, finished)


def test_a_full_disk_keeps_what_is_finished(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from intriguing.errors import StoreError
    from intriguing.store import folder as store_folder

    run = small_run.copied(finished, tmp_path / "run", without="figure 7")
    before = small_run.created(run)

    def full(path: Path, content: bytes) -> None:
        path.write_bytes(content[: len(content) // 2])
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(store_folder, "write_synced", full)
        with pytest.raises(StoreError, match=r"no space left on device.*24 finished cells.*free some space"):
            small_run.reproduce(run)
    assert small_run.created(run) == before
    assert small_run.reproduce(run)[1] == ["figure 7"]
    assert_same(run, finished)


# -- real images --------------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.slow
def test_a_softmax_net_on_mnist_and_its_nearest_mistakes(shared_data: Path) -> None:
    """The paper's FC10(1): 21.2% and 20% errors, mean distortion 0.14; a better optimiser finds nearer examples."""
    splits = {split: data.load("mnist", split, data_dir=shared_data) for split in ("train", "test")}

    def inputs(**needs: Any) -> Inputs:
        return Inputs(splits.__getitem__, needs, torch.device("cpu"), lambda done, total: None)

    net = recipes.train(inputs(), net="FC10(1)", seed=0)
    assert net.values["train_error"] == pytest.approx(0.212, abs=0.003)
    assert net.values["test_error"] == pytest.approx(0.20, abs=0.003)
    found = distortion.attack(inputs(net=net), net="FC10(1)", images=16, seed=0)
    sizes = [d for d, status in zip(found.rows["distortion"], found.rows["status"], strict=True) if status == "found"]
    assert len(sizes) == found.values["attacked"] == found.values["found"]
    assert 0.05 < sum(sizes) / len(sizes) < 0.2


@pytest.mark.data
@pytest.mark.slow
def test_photographs_of_unequal_size_twenty_classes_and_colour(shared_data: Path, tmp_path: Path) -> None:
    from intriguing.errors import DataError
    from intriguing.studies.spec import Settings

    chosen = {"data": "grocery", "images": 8, "nets": 1}
    with pytest.raises(DataError, match=r"348x464.*--size"):
        small_run.reproduce(tmp_path / "run", FIGURE, settings=Settings(**chosen), data_dir=shared_data)
    outcome, _, _ = small_run.reproduce(
        tmp_path / "run", FIGURE, settings=Settings(**chosen, size=12), data_dir=shared_data
    )
    assert len(outcome.document["cells"]) == small_run.TABLES[FIGURE]
    assert "Soy-Milk" not in outcome.document["run"]["hashes"]
    assert "resized" in json.dumps(outcome.document["run"]["data"])

"""Cells are computed once, alike wherever they run, and survive whatever ends a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import fake_cells
import pytest
import torch
from fake_cells import HASHES, Cell, diamond, noise_cell

from intriguing.errors import DataError, InputError, StoreError, UnknownNameError
from intriguing.records import Record
from intriguing.run import CellError, Event, default_workers, execute
from intriguing.store import Damage, Store

HERE = Path(__file__).parent


def run(path: Path, *cells: Cell, found: list[Damage] | None = None, **options: Any) -> dict[str, Record]:
    options = {"load_data": fake_cells.load, "data_hashes": HASHES, "workers": 1, **options}
    on_damage = None if found is None else found.append
    with Store(path, on_damage=on_damage) as store:
        return execute(cells, store, **options)


def created(path: Path) -> dict[str, str]:
    with Store(path, mode="read") as store:
        manifests = {key: store.meta(key) for key in store.finished()}
    return {key: manifest["created"] for key, manifest in manifests.items() if manifest}


def tensors(path: Path) -> dict[str, torch.Tensor]:
    with Store(path, mode="read") as store:
        records = {key: store.get(key) for key in store.finished()}
    return {key: record.tensors["out"] for key, record in records.items() if record}


def assert_same_numbers(left: Path, right: Path) -> None:
    """Every cell of two runs of the diamond, bit by bit."""
    ours, theirs = tensors(left), tensors(right)
    assert len(ours) == len(theirs) == 6
    for key, tensor in ours.items():
        assert tensor.equal(theirs[key])


def computed(trace: Path) -> Counter[str]:
    return Counter({file.name: len(file.read_text().splitlines()) for file in trace.iterdir()})


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    folder = tmp_path / "trace"
    folder.mkdir()
    return folder


def test_a_diamond_is_computed_once_and_only_what_is_asked_for_returns(tmp_path: Path, trace: Path) -> None:
    top = diamond(trace=str(trace))
    records = run(tmp_path / "run", top, top)
    assert list(records) == [top.key(HASHES)]
    assert computed(trace) == Counter(["base", "own left", "own right", "left", "right", "top"])
    assert len(created(tmp_path / "run")) == 6


def test_a_finished_run_computes_nothing_and_loads_nothing(tmp_path: Path, trace: Path) -> None:
    top = diamond(trace=str(trace))
    first = run(tmp_path / "run", top)
    times = created(tmp_path / "run")

    def never(split: str) -> fake_cells.FakeImages:
        raise AssertionError(split)

    events: list[Event] = []
    start = time.monotonic()
    again = run(tmp_path / "run", top, load_data=never, workers=2, progress=events.append)
    assert time.monotonic() - start < 1  # starting one worker takes longer than this
    key = top.key(HASHES)
    assert again[key].values == first[key].values
    assert created(tmp_path / "run") == times
    assert [(event.kind, event.complete, event.cells) for event in events] == [
        ("reused", place, 6) for place in range(1, 7)
    ]


def test_fresh_computes_everything_again(tmp_path: Path) -> None:
    run(tmp_path / "run", diamond())
    before, numbers = created(tmp_path / "run"), tensors(tmp_path / "run")
    run(tmp_path / "run", diamond(), fresh=True)
    after = created(tmp_path / "run")
    assert after.keys() == before.keys()
    assert all(after[key] > before[key] for key in after)
    assert all(tensor.equal(numbers[key]) for key, tensor in tensors(tmp_path / "run").items())


def test_two_workers_give_the_numbers_of_one(tmp_path: Path) -> None:
    events: list[Event] = []
    loads: list[str] = []

    def load(split: str) -> fake_cells.FakeImages:  # local: it need not travel to a worker
        loads.append(split)
        return fake_cells.load(split)

    run(tmp_path / "two", diamond(seconds=0.3), workers=2, progress=events.append, load_data=load)
    run(tmp_path / "one", diamond(seconds=0.3))
    assert_same_numbers(tmp_path / "two", tmp_path / "one")
    assert loads == ["train"]
    assert {event.worker for event in events} == {0, 1}
    kinds = Counter(event.kind for event in events)
    assert kinds["started"] == kinds["finished"] == 6
    assert kinds["advanced"] >= 3
    assert [event.complete for event in events if event.kind == "finished"] == [1, 2, 3, 4, 5, 6]
    assert all(event.seconds > 0.25 for event in events if event.label == "base" and event.kind == "finished")
    assert not list((tmp_path / "two" / "tmp").iterdir())


def test_a_cell_has_its_own_threads_and_random_state(tmp_path: Path) -> None:
    before, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(2)
    try:
        cells = [noise_cell("a"), noise_cell("b")]
        records = run(tmp_path / "run", *cells)
        assert torch.get_num_threads() == 2
        assert all(record.values["threads"] == 1 for record in records.values())
        three = run(tmp_path / "three", cells[0], threads=3)[cells[0].key(HASHES)]
        assert three.values["threads"] == 3
    finally:
        torch.set_num_threads(before)
    assert torch.get_rng_state().equal(state)
    alone = run(tmp_path / "alone", cells[1])[cells[1].key(HASHES)]  # not after "a" this time
    assert alone.tensors["out"].equal(records[cells[1].key(HASHES)].tensors["out"])


@pytest.mark.parametrize("name", ["values.json", "tensors.safetensors", "rows.parquet", "manifest.json"])
def test_a_flipped_bit_is_noticed_and_the_cell_alone_recomputed(tmp_path: Path, trace: Path, name: str) -> None:
    path, top = tmp_path / "run", diamond(trace=str(trace))
    run(path, top)
    numbers, times = tensors(path), created(path)
    base = noise_cell("base", trace=str(trace)).key(HASHES)
    file = path / "cells" / base / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)

    found: list[Damage] = []
    run(path, top, found=found)
    assert [damage.key for damage in found] == [f"cell {base}"]
    assert computed(trace)["base"] == 2
    assert sum(computed(trace).values()) == 7
    assert all(tensor.equal(numbers[key]) for key, tensor in tensors(path).items())
    after = created(path)
    assert {key for key in times if after[key] != times[key]} == {base}


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("data", DataError, r"^the images are gone\n"),
        ("name", UnknownNameError, r"^unknown net 'FC11'. Did you mean 'FC10'"),
        ("value", CellError, "^the cell 'bad' failed with ValueError: three is not two"),
        ("local", CellError, "only here"),
        ("undeclared", InputError, r"'bad' reads the split 'test' but declares \[\]"),
        ("nothing", CellError, "fake_cells:fail returned a NoneType; expected a Record"),
    ],
)
def test_a_failure_names_its_cell(tmp_path: Path, how: str, kind: type[Exception], message: str) -> None:
    bad = Cell("fake_cells:fail", {"how": how}, label="bad")
    with pytest.raises(kind, match=message) as caught:
        run(tmp_path / "run", bad, noise_cell("good"))
    assert type(caught.value) is kind
    if kind is CellError:
        assert caught.value.__cause__ is not None
    else:
        assert any("the cell 'bad'" in note for note in caught.value.__notes__)


def test_cells_that_run_beside_a_failure_are_kept_and_no_more_start(tmp_path: Path) -> None:
    bad = Cell("fake_cells:fail", {"how": "value"}, label="bad")
    slow, later = noise_cell("slow", seconds=2), noise_cell("later")
    after = Cell("fake_cells:total", needs={"a": slow}, label="after")
    with pytest.raises(CellError, match="the cell 'bad' failed with ValueError: three is not two") as caught:
        run(tmp_path / "run", slow, bad, later, after, workers=2)
    assert isinstance(caught.value.__cause__, ValueError)
    assert "fake_cells.py" in caught.value.__cause__.__notes__[0]  # the worker's own traceback
    assert slow.key(HASHES) in created(tmp_path / "run")
    assert not {later.key(HASHES), after.key(HASHES)} & created(tmp_path / "run").keys()


def test_a_worker_that_is_killed_is_named(tmp_path: Path) -> None:
    bad = Cell("fake_cells:fail", {"how": "die"}, label="greedy")
    with pytest.raises(CellError, match="worker process at the cell 'greedy' was killed by signal 9"):
        run(tmp_path / "run", bad, noise_cell("good", seconds=1), workers=2)
    assert noise_cell("good", seconds=1).key(HASHES) in created(tmp_path / "run")


@pytest.mark.parametrize("function", ["fake_cells", "fake_cells:nothing", "no_such_module:f"])
def test_a_function_that_is_not_there(tmp_path: Path, function: str) -> None:
    with pytest.raises((InputError, CellError), match=r"package\.module:name|nothing|no_such_module"):
        run(tmp_path / "run", Cell(function))


def test_images_that_changed_are_refused(tmp_path: Path) -> None:
    hashes = {**HASHES, "train": "f" * 64}
    for workers in (1, 2):
        with pytest.raises(DataError, match="the images changed"):
            run(tmp_path / "run", noise_cell("a"), noise_cell("b"), data_hashes=hashes, workers=workers)


def test_no_space_left_keeps_the_finished_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, top = tmp_path / "run", diamond()
    real = Store.put

    def put(self: Store, key: str, record: Record, meta: Any) -> Any:
        if meta["label"] == "right":

            def full(file: Path, content: bytes) -> None:
                raise OSError(28, "No space left on device")

            with monkeypatch.context() as patch:
                patch.setattr("intriguing.store.folder.write_synced", full)
                return real(self, key, record, meta)
        return real(self, key, record, meta)

    monkeypatch.setattr(Store, "put", put)
    with pytest.raises(StoreError, match=r"no space left on device\. The 4 finished cells there are kept"):
        run(path, top)
    monkeypatch.undo()
    times = created(path)
    assert len(times) == 4
    run(path, top)
    after = created(path)
    assert len(after) == 6
    assert times.items() <= after.items()


def test_ctrl_c_in_process_keeps_what_is_finished(tmp_path: Path) -> None:
    good, bad = noise_cell("good"), Cell("fake_cells:fail", {"how": "interrupt"})
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", good, bad)
    assert list(created(tmp_path / "run")) == [good.key(HASHES)]


@pytest.mark.parametrize("name", ["workers", "threads"])
def test_counts_below_one_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"{name} must be at least 1, got 0"):
        run(tmp_path / "run", **{name: 0})


def test_the_default_number_of_workers() -> None:
    assert 1 <= default_workers() <= 8
    assert default_workers("cuda") == 1


def _start(path: Path, trace: Path, workers: int, seconds: float) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        str(HERE / "interrupted.py"),
        str(path),
        str(trace),
        str(workers),
        str(seconds),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


def _until(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    for read in process.stdout:
        if read.strip() == line:
            return
    raise AssertionError(f"the run ended before {line!r}")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")  # a zombie nobody has waited for is dead as well
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _wait_for_no_orphans(trace: Path) -> None:
    pids = {int(pid) for file in trace.iterdir() for pid in file.read_text().split()}
    assert pids
    deadline = time.monotonic() + 5
    while any(map(_alive, pids)):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.05)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this platform has no SIGKILL")
@pytest.mark.parametrize(
    ("workers", "line"),
    [(1, "finished own left"), (2, "started right")],
)
def test_a_run_that_is_killed_goes_on_where_it_was(tmp_path: Path, trace: Path, workers: int, line: str) -> None:
    path, top = tmp_path / "run", diamond(seconds=0.2, trace=str(trace))
    process = _start(path, trace, workers, 0.2)
    _until(process, line)
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
    _wait_for_no_orphans(trace)
    times = created(path)
    assert len(times) < 6

    found: list[Damage] = []
    run(path, top, found=found, workers=1)
    assert not found
    after = created(path)
    assert times.items() <= after.items()
    run(tmp_path / "whole", top)
    assert_same_numbers(path, tmp_path / "whole")


@pytest.mark.skipif(os.name != "posix", reason="signals are sent as a terminal does on POSIX")
@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_ends_workers_and_keeps_what_is_finished(tmp_path: Path, trace: Path, workers: int) -> None:
    process = _start(tmp_path / "run", trace, workers, 1.0)
    _until(process, "finished base")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    assert process.wait(timeout=10) == 130
    assert process.stdout is not None
    process.stdout.close()
    _wait_for_no_orphans(trace)
    assert noise_cell("base", seconds=1.0, trace=str(trace)).key(HASHES) in created(tmp_path / "run")

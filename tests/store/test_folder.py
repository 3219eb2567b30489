"""A run folder keeps what was finished, and notices what is damaged."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
import torch

from intriguing.errors import InputError, StoreError
from intriguing.records import Record
from intriguing.store import Damage, Store, folder

RECORD = Record(
    {"error": 0.25, "worst": float("inf")},
    {"weight": torch.arange(6.0).reshape(2, 3)},
    {"distance": [0.5, float("nan")], "status": ["found", "not_found"]},
)
FILES = ["values.json", "tensors.safetensors", "rows.parquet", "manifest.json"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run"


def flip_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_put_get_meta(path: Path) -> None:
    with Store(path) as store:
        assert store.get("a1") is None
        assert store.meta("a1") is None
        manifest = store.put("a1", RECORD, {"seconds": 1.5})
        got = store.get("a1")
        assert got is not None
        assert got.values == RECORD.values
        assert got.tensors["weight"].equal(RECORD.tensors["weight"])
        assert got.rows["status"] == RECORD.rows["status"]
        assert store.meta("a1") == manifest
        assert manifest["seconds"] == 1.5
        assert datetime.fromisoformat(manifest["created"]).utcoffset() is not None
        assert set(manifest["files"]) == set(FILES[:3])
        assert store.finished() == ["a1"]
    assert not list((path / "tmp").iterdir())


def test_put_replaces_whole(path: Path) -> None:
    with Store(path) as store:
        store.put("a1", RECORD, {})
        store.put("a1", Record({"error": 0.5}), {})
        got = store.get("a1")
        assert got is not None
        assert (got.values, got.tensors, got.rows) == ({"error": 0.5}, {}, {})
    assert not list((path / "tmp").iterdir())


@pytest.mark.parametrize("key", ["", "../up", "a/b", ".hidden", "a b", "x" * 101])
def test_keys_are_file_names(path: Path, key: str) -> None:
    with Store(path) as store, pytest.raises(InputError, match="key"):
        store.put(key, RECORD, {})


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [flip_bit, Path.unlink, lambda file: file.write_bytes(b"")])
def test_a_damaged_cell_is_set_aside_and_absent(path: Path, name: str, damage: Callable[[Path], object]) -> None:
    found: list[Damage] = []
    with Store(path, on_damage=found.append) as store:
        store.put("a1", RECORD, {})
        store.put("b2", RECORD, {})
        damage(path / "cells" / "a1" / name)
        assert store.get("a1") is None
        assert [item.key for item in found] == ["cell a1"]
        assert f"is damaged: {name} " in str(found[0])
        assert found[0].moved_to is not None
        assert found[0].moved_to.is_dir()
        assert store.finished() == ["b2"]
        assert store.get("a1") is None
        assert len(found) == 1  # said once
        store.put("a1", RECORD, {})
        assert store.get("a1") is not None
        flip_bit(path / "cells" / "a1" / "values.json")
        assert store.meta("a1") is None  # set aside beside the first one
        assert len(list((path / "damaged").iterdir())) == 2


def test_a_cell_under_another_key_is_damaged(path: Path) -> None:
    found: list[Damage] = []
    with Store(path, on_damage=found.append) as store:
        store.put("a1", RECORD, {})
        (path / "cells" / "a1").rename(path / "cells" / "b2")
        assert store.get("b2") is None
    assert "is that of cell a1 in another place" in str(found[0])


def test_damage_is_logged_without_a_callback(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Store(path) as store:
        store.put("a1", RECORD, {})
        flip_bit(path / "cells" / "a1" / "rows.parquet")
        store.get("a1")
    assert "cell a1 is damaged: rows.parquet does not match its checksum" in caplog.text


def test_a_reader_changes_nothing(path: Path) -> None:
    with Store(path) as store:
        store.put("a1", RECORD, {})
    flip_bit(path / "cells" / "a1" / "values.json")
    found: list[Damage] = []
    with Store(path, mode="read", on_damage=found.append) as store:
        assert store.get("a1") is None
        assert found[0].moved_to is None
        assert store.finished() == ["a1"]
        with pytest.raises(StoreError, match="opened to be read"):
            store.put("b2", RECORD, {})
        with pytest.raises(StoreError, match="opened to be read"):
            store.describe({})


def test_describe_keeps_format_and_creation(path: Path) -> None:
    with Store(path) as store:
        created = store.run["created"]
        store.describe({"settings": {"seed": 0}, "created": "never"})
    with Store(path) as store:
        assert store.run == {"format": 1, "created": created, "settings": {"seed": 0}}
        store.describe({"settings": {"seed": 1}})
    assert Store(path, mode="read").run["settings"] == {"seed": 1}


@pytest.mark.parametrize("content", [b"", b'{"format": 1', b'{"format": 1}', None])
def test_a_damaged_run_file_costs_no_cell(path: Path, content: bytes | None) -> None:
    with Store(path) as store:
        store.describe({"settings": {"seed": 0}})
        store.put("a1", RECORD, {})
    if content is None:
        (path / "run.json").unlink()
    else:
        (path / "run.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"run\.json (damaged|missing); run `intriguing reproduce`"):
        Store(path, mode="read")
    found: list[Damage] = []
    with Store(path, on_damage=found.append) as store:
        assert store.get("a1") is not None
        assert set(store.run) == {"format", "created"}
    assert [item.key for item in found] == ([] if content is None else ["run.json"])
    Store(path, mode="read")


def test_a_flipped_bit_in_the_run_file_is_noticed(path: Path) -> None:
    with Store(path) as store:
        store.describe({"seed": 0})
    text = (path / "run.json").read_text()
    (path / "run.json").write_text(text.replace('"seed": 0', '"seed": 1'))
    found: list[Damage] = []
    with Store(path, on_damage=found.append):
        assert "does not match its checksum" in str(found[0])


def test_a_run_of_another_format_is_left_alone(path: Path) -> None:
    from intriguing.store.files import seal

    Store(path).close()
    content = seal({"format": 99})
    (path / "run.json").write_bytes(content)
    with pytest.raises(StoreError, match="format 99"):
        Store(path)
    assert (path / "run.json").read_bytes() == content


def test_a_run_killed_in_its_first_moments_opens(path: Path) -> None:
    path.mkdir()
    for name in (".lock", ".run.json.123.tmp"):
        (path / name).touch()
    Store(path).close()
    assert not (path / ".run.json.123.tmp").exists()


@pytest.mark.parametrize("mode", ["write", "read"])
def test_a_folder_of_other_things_is_refused_and_untouched(tmp_path: Path, mode: str) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(StoreError, match=r"not a run folder.*thesis\.tex.*--out"):
        Store(tmp_path, mode=mode)  # type: ignore[arg-type]
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_foreign_run_file_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"jogging": "5 km"}')
    with pytest.raises(StoreError, match="may not be a run folder"):
        Store(tmp_path)
    assert (tmp_path / "run.json").read_text() == '{"jogging": "5 km"}'


def test_a_file_or_a_missing_folder_is_not_a_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="is a file"):
        Store(tmp_path / "file")
    with pytest.raises(StoreError, match=r"cannot be opened: not a directory; choose"):
        Store(tmp_path / "file" / "run")
    with pytest.raises(StoreError, match="there is no run folder"):
        Store(tmp_path / "nowhere", mode="read")


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)  # a test run as root may write everywhere
    with pytest.raises(StoreError, match="permission denied; choose a folder you may write"):
        Store(tmp_path / "run")


@pytest.mark.parametrize("fatal", [1, 2, 3, 4])
def test_no_space_left_keeps_what_is_finished(path: Path, monkeypatch: pytest.MonkeyPatch, fatal: int) -> None:
    with Store(path) as store:
        store.put("a1", RECORD, {})
        real, calls = folder.write_synced, 0

        def write(file: Path, content: bytes) -> None:
            nonlocal calls
            calls += 1
            if calls == fatal:
                real(file, content[: len(content) // 2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(file, content)

        monkeypatch.setattr(folder, "write_synced", write)
        with pytest.raises(StoreError, match=r"no space left.*The 1 finished cells.*free some space") as caught:
            store.put("b2", RECORD, {})
        assert isinstance(caught.value.__cause__, OSError)
        assert store.finished() == ["a1"]
        assert not list((path / "tmp").iterdir())
        store.put("b2", RECORD, {})
        assert store.get("b2") is not None


def test_what_a_killed_writer_left_is_cleared(path: Path) -> None:
    with Store(path) as store:
        (store.scratch() / "half").write_bytes(b"x")
    with Store(path) as store:
        assert store.finished() == []
    assert not (path / "tmp").exists()


def test_a_killed_writer_leaves_whole_cells_or_none(path: Path) -> None:
    code = (
        "import sys, torch; from intriguing.records import Record; from intriguing.store import Store\n"
        "store = Store(sys.argv[1])\n"
        "for number in range(10**9):\n"  # each cell is replaced over and over
        "    record = Record({'a': number}, {'t': torch.full((50_000,), number)}, {'r': [number] * 100})\n"
        "    store.put(f'k{number % 3}', record, {})\n"
        "    print(number, flush=True)\n"
    )
    for delay in (0.013, 0.031, 0.057):  # seconds: in the middle of something, a different thing each time
        writer = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        assert any(line == "4\n" for line in writer.stdout)
        time.sleep(delay)
        writer.kill()
        writer.wait()
        writer.stdout.close()
        found: list[Damage] = []
        with Store(path, on_damage=found.append) as store:
            records = [store.get(key) for key in store.finished()]
        assert not found
        assert len(records) >= 2  # the one being replaced may be gone
        for record in records:
            assert record is not None
            number = record.values["a"]
            assert (record.tensors["t"] == number).all()
            assert record.rows["r"] == [number] * 100


def test_one_writer_at_a_time(path: Path) -> None:
    code = (
        "import sys; from intriguing.store import Store; store = Store(sys.argv[1]); "
        "print('open', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdin is not None
    assert other.stdout.readline() == b"open\n"
    with pytest.raises(StoreError, match=rf"in use by another process \(process {other.pid}\).*--out"):
        Store(path)
    Store(path, mode="read").close()
    Store(path, mode="join").put("a1", RECORD, {})
    other.kill()
    other.wait()
    other.stdin.close()
    other.stdout.close()
    with Store(path) as store:  # a killed process leaves no lock behind
        assert store.finished() == ["a1"]


def test_without_file_locks_the_store_still_opens(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intriguing.store.lock._HAS_LOCKS", False)
    with Store(path), Store(path) as second:
        second.put("a1", RECORD, {})


def test_the_files_are_what_the_docstring_says(path: Path) -> None:
    with Store(path) as store:
        store.put("a1", RECORD, {})
    assert sorted(entry.name for entry in path.iterdir()) == [".lock", "cells", "run.json", "tmp"]
    assert sorted(entry.name for entry in (path / "cells" / "a1").iterdir()) == sorted(FILES)
    assert json.loads((path / "run.json").read_text())["format"] == 1

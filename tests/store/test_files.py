"""Atomic files and sealed documents."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intriguing.store import files

documents = st.dictionaries(
    st.text().filter(lambda name: name != "sha256"),
    st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
)


@given(documents)
def test_a_sealed_document_comes_back(document: dict[str, object]) -> None:
    assert files.unseal(files.seal(document)) == document


def test_keys_and_tuples_are_sealed_as_they_will_be_read() -> None:
    assert files.unseal(files.seal({"a": {2: (1,), 10: 0}})) == {"a": {"2": [1], "10": 0}}


@given(st.data())
def test_a_flipped_bit_is_noticed(data: st.DataObject) -> None:
    document = {"created": "2020-01-01", "seconds": 1.25, "files": {"a": 1}}
    content = bytearray(files.seal(document))
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    try:
        got = files.unseal(bytes(content))
    except ValueError:
        return
    assert got == document  # such as another kind of white space: the meaning is whole


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"a": 1}', b"\xff\xfe", b"null"])
def test_what_was_never_sealed_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"JSON|checksum"):
        files.unseal(content)


def test_an_atomic_write_that_fails_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.json"
    files.write_atomic(target, b"old")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        files.write_atomic(target, b"new")
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("a.json", b"old")]


def test_an_atomic_write_replaces(tmp_path: Path) -> None:
    for content in (b"one", b"two"):
        files.write_atomic(tmp_path / "a", content)
        assert (tmp_path / "a").read_bytes() == content
    assert len(list(tmp_path.iterdir())) == 1

"""A page says what it was made of, so that it is drawn again only when that, or the page, has changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from intriguing.report import kept

KEY = kept.key({"document": {"cells": [1.5]}, "command": "intriguing reproduce"})
UNDISTURBED = kept.key({})
PAGE = "<!doctype html>\n<p>ein Bild – 図</p>"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_bytes(kept.sealed(PAGE, KEY).encode())
    return path


def test_a_page_is_kept_for_what_it_was_made_of_and_for_nothing_else(page: Path) -> None:
    assert kept.is_kept(page, KEY)
    assert not kept.is_kept(page, kept.key({"document": {"cells": [1.25]}, "command": "intriguing reproduce"}))


@pytest.mark.parametrize("at", [0, 20, len(PAGE.encode()) - 1, -100, -70, -5, -1])
def test_a_page_with_any_byte_changed_is_not_kept(page: Path, at: int) -> None:
    content = bytearray(page.read_bytes())
    content[at] ^= 1
    page.write_bytes(content)
    assert not kept.is_kept(page, KEY)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", PAGE.encode(), kept.sealed(PAGE, KEY).encode()[:-1]])
def test_a_file_that_is_no_whole_page_is_not_kept(page: Path, content: bytes) -> None:
    page.write_bytes(content)
    assert not kept.is_kept(page, KEY)


def test_no_file_and_a_folder_are_not_kept(tmp_path: Path) -> None:
    assert not kept.is_kept(tmp_path / "report.html", KEY)
    assert not kept.is_kept(tmp_path, KEY)


@pytest.mark.parametrize("name", ["templates/page.html.j2", "kept.py", "../studies/spec.py"])
def test_the_key_holds_every_file_of_the_package(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    target = (Path(kept.__file__).parent / name).resolve()
    assert target.is_file()
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + (b"\n" if path.resolve() == target else b""))
    kept._code.cache_clear()
    try:
        assert kept.key({}) != UNDISTURBED
    finally:
        kept._code.cache_clear()

"""The cache makes loading faster and can do no harm."""

from __future__ import annotations

import os

import making
import pytest
import torch

from intriguing import data
from intriguing.data import cache
from intriguing.errors import DataError


@pytest.fixture
def source(tmp_path):
    images = [making.encoded(making.pixels(i, colour=True)) for i in range(5)]
    making.parquet(tmp_path / "sets" / "toy" / "train.parquet", images, [0, 1, 0, 1, 1])
    return tmp_path / "sets"


def load(source, folder, **options):
    return data.load("toy", "train", data_dir=source, cache_dir=folder, **options)


def same(a, b):
    return torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) and a.hash == b.hash


def entry(folder):
    (found,) = (folder / "images").iterdir()
    return found


def test_a_second_load_decodes_nothing_and_is_equal(source, tmp_path, monkeypatch):
    first = load(source, tmp_path / "c", size=4)
    monkeypatch.setattr("intriguing.data.sources.stack", lambda *_: pytest.fail("decoded again"))
    second = load(source, tmp_path / "c", size=4)
    assert same(first, second)
    assert (first.classes, dict(first.notes)) == (second.classes, dict(second.notes))
    assert second.images.is_contiguous()
    second.images.mul_(0)  # writable, like any tensor
    assert same(first, load(source, tmp_path / "c", size=4))


@pytest.mark.parametrize("share", [0.0, 0.2, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("harm", ["flip", "cut", "empty"])
def test_a_damaged_entry_is_decoded_again(source, tmp_path, caplog, harm, share):
    first = load(source, tmp_path / "c")
    path = entry(tmp_path / "c")
    raw = bytearray(path.read_bytes())
    at = int(share * (len(raw) - 1))
    raw[at] ^= 16
    path.write_bytes({"flip": bytes(raw), "cut": bytes(raw[:at]), "empty": b""}[harm])
    assert same(first, load(source, tmp_path / "c"))
    assert "decoding them again" in caplog.text
    caplog.clear()
    assert same(first, load(source, tmp_path / "c"))
    assert caplog.text == ""


def test_no_flipped_bit_of_an_entry_is_believed(source, tmp_path):
    first = load(source, tmp_path / "c")
    path = entry(tmp_path / "c")
    raw = path.read_bytes()
    for at in range(0, len(raw), 5):
        broken = bytearray(raw)
        broken[at] ^= 1 << (at % 8)
        path.write_bytes(bytes(broken))
        again = load(source, tmp_path / "c")
        assert same(first, again)
        assert dict(again.notes) == dict(first.notes)


def test_a_cache_that_cannot_be_written_does_no_harm(source, tmp_path):
    (tmp_path / "file").write_text("in the way")
    first = load(source, tmp_path / "file")
    assert same(first, load(source, tmp_path / "c"))
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_full_disk_leaves_nothing_behind(source, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert len(load(source, tmp_path / "c")) == 5
    assert list((tmp_path / "c" / "images").iterdir()) == []


def test_a_changed_file_is_decoded_again(source, tmp_path):
    first = load(source, tmp_path / "c")
    images = [making.encoded(making.pixels(9 + i, colour=True)) for i in range(5)]
    making.parquet(source / "toy" / "train.parquet", images, [0, 1, 0, 1, 1])
    assert not same(first, load(source, tmp_path / "c"))


def test_size_and_limit_have_entries_of_their_own(source, tmp_path):
    shapes = [load(source, tmp_path / "c", **o).images.shape for o in ({}, {"size": 4}, {"limit": 2})]
    assert [tuple(s) for s in shapes] == [(5, 3, 6, 6), (5, 3, 4, 4), (2, 3, 6, 6)]


def test_a_source_that_vanished_is_not_served_from_the_cache(source, tmp_path):
    load(source, tmp_path / "c")
    (source / "toy" / "train.parquet").unlink()
    with pytest.raises(DataError, match="no split 'train'"):
        load(source, tmp_path / "c")


def test_where_entries_live(tmp_path, monkeypatch):
    assert cache.folder(tmp_path) == tmp_path / "images"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.folder(None) == tmp_path / "xdg" / "intriguing" / "images"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for unusable in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        assert cache.folder(None) == tmp_path / "home" / ".cache" / "intriguing" / "images"

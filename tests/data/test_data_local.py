"""Parquet files and image folders as users have them, whole and broken."""

from __future__ import annotations

import os

import making
import pytest
import torch

from intriguing import data
from intriguing.errors import DataError

PNGS = {name: making.encoded(making.pixels(i)) for i, name in enumerate("abcd")}


@pytest.fixture
def folder(tmp_path):
    """Return a set whose test split lacks a class and whose folders hold other things too."""
    train = {"cat/2.png": PNGS["a"], "cat/10.PNG": PNGS["b"], "dog/1.png": PNGS["c"], "bird/1.png": PNGS["d"]}
    making.image_folder(tmp_path, "train", train)
    making.image_folder(tmp_path, "test", {"dog/9.png": PNGS["a"]})
    making.image_folder(tmp_path, "train", {"cat/notes.txt": b"x", "cat/.hidden.png": b"x", "empty/list": b"x"})
    (tmp_path / "LICENSE").write_text("free")
    return tmp_path


def test_classes_are_those_of_all_splits_in_order_of_name(folder):
    train, test = (data.load(str(folder), split) for split in ("train", "test"))
    assert train.classes == test.classes == ("bird", "cat", "dog")
    assert train.labels.tolist() == [0, 1, 1, 2]
    assert test.labels.tolist() == [2]
    # "10.PNG" sorts before "2.png": names are compared as text.
    expected = torch.from_numpy(making.pixels(1)).float() / 255
    assert torch.equal(train.images[1, 0], expected)
    assert train.notes["source"].startswith("an image folder")


def test_a_text_named_as_an_image_is_named(folder):
    (folder / "train" / "dog" / "note.jpg").write_text("hello")
    with pytest.raises(DataError, match=r"note\.jpg' cannot be read as an image \(unknown format\)"):
        data.load(str(folder), "train")


def test_an_empty_image_is_named(folder):
    (folder / "train" / "dog" / "none.jpg").touch()
    with pytest.raises(DataError, match=r"none\.jpg' is empty"):
        data.load(str(folder), "train")


def test_a_link_to_nowhere_is_named(folder):
    (folder / "train" / "dog" / "gone.png").symlink_to(folder / "nowhere.png")
    with pytest.raises(DataError, match=r"cannot read .*gone\.png'"):
        data.load(str(folder), "train")


def test_a_pipe_is_not_waited_for(folder):
    os.mkfifo(folder / "train" / "dog" / "pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png' is not a regular file"):
        data.load(str(folder), "train")


def test_a_split_without_images(folder):
    (folder / "val").mkdir()
    with pytest.raises(DataError, match="holds no images; expected CLASS/IMAGE"):
        data.load(str(folder), "val")


@pytest.fixture
def plain(tmp_path):
    """Return a set without splits: a folder per class."""
    making.image_folder(
        tmp_path / "pets", ".", {"cat/1.png": PNGS["a"], "cat/2.png": PNGS["b"], "dog/1.png": PNGS["c"]}
    )
    return tmp_path / "pets"


def test_a_folder_per_class_without_splits_is_the_only_split(plain):
    test, train = (data.load(str(plain), split) for split in ("test", "train"))
    assert test.classes == ("cat", "dog")
    assert test.labels.tolist() == [0, 0, 1]
    assert torch.equal(test.images[2, 0], torch.from_numpy(making.pixels(2)).float() / 255)
    assert "without splits" in test.notes["source"]
    assert (test.split, train.hash) == ("test", test.hash)
    assert "without splits" in data.names(plain.parent)["pets"]
    with pytest.raises(DataError, match=r"has no split 'tset' \(splits there: none\)"):
        data.load(str(plain), "tset")


def test_a_folder_with_a_split_is_not_taken_whole(plain):
    making.image_folder(plain, "train", {"cat/1.png": PNGS["d"]})
    assert len(data.load(str(plain), "train")) == 1
    with pytest.raises(DataError, match=r"has no split 'test' \(splits there: 'train'\)"):
        data.load(str(plain), "test")


@pytest.mark.parametrize("split", ["test", "."])
def test_images_outside_of_any_class_folder_are_named(tmp_path, split):
    making.image_folder(tmp_path / "pets", split, {"1.png": PNGS["a"], "2.png": PNGS["b"]})
    with pytest.raises(DataError, match=r"images stand outside of any class folder, such as '1\.png'; put each into"):
        data.load(str(tmp_path / "pets"), "test")


def test_a_missing_split_lists_those_there(folder):
    with pytest.raises(DataError, match=r"no split 'valid'.*'train', 'test'"):
        data.load(str(folder), "valid")


def test_one_split_in_two_forms(folder):
    making.parquet(folder / "train.parquet", [PNGS["a"]], [0])
    with pytest.raises(DataError, match=r"train\.parquet and a folder train/; keep one"):
        data.load(str(folder), "train")


def test_names_made_of_stray_bytes_become_text(tmp_path):
    root = os.fsencode(tmp_path)
    try:
        os.makedirs(os.path.join(root, b"train", b"caf\xe9"))
    except OSError:
        pytest.skip("this file system wants names in UTF-8")
    with open(os.path.join(root, b"train", b"caf\xe9", b"\xff.png"), "wb") as file:
        file.write(PNGS["a"])
    assert data.load(str(tmp_path), "train").classes == ("caf\ufffd",)


def test_names_of_classes_are_only_data(tmp_path):
    making.image_folder(tmp_path, "train", {"<b>{{7*7}}/1.png": PNGS["a"], "$(id)/1.png": PNGS["b"]})
    assert data.load(str(tmp_path), "train").classes == ("$(id)", "<b>{{7*7}}")


def test_images_of_several_sizes(tmp_path):
    wide = making.encoded(making.pixels(0, 4, 8))
    making.image_folder(tmp_path, "train", {"a/1.png": PNGS["a"], "a/2.png": wide})
    with pytest.raises(DataError, match=r"8x4 \(1\).*--size"):
        data.load(str(tmp_path), "train")
    found = data.load(str(tmp_path), "train", size=3)
    assert found.images.shape == (2, 1, 3, 3)
    assert "shorter side to 3" in found.notes["resized"]


def test_the_recipe_is_part_of_the_hash(tmp_path):
    making.parquet(tmp_path / "train.parquet", [making.encoded(making.pixels(0) * 0 + 9)], [0])
    small = making.encoded(making.pixels(0, 3, 3) * 0 + 9)
    making.parquet(tmp_path / "small.parquet", [small], [0])
    resized = data.load(str(tmp_path), "train", size=3)
    as_is = data.load(str(tmp_path), "small")
    assert torch.equal(resized.images, as_is.images)
    assert resized.hash != as_is.hash
    assert data.load(str(tmp_path), "small", size=3).hash == as_is.hash


@pytest.mark.parametrize("keep", [0, 3, 0.5, 0.99])
def test_a_truncated_parquet_file_is_named(tmp_path, keep):
    path = making.parquet(tmp_path / "train.parquet", list(PNGS.values()), [0, 1, 0, 1])
    raw = path.read_bytes()
    path.write_bytes(raw[: keep if isinstance(keep, int) else int(len(raw) * keep)])
    with pytest.raises(DataError, match=r"train\.parquet' is damaged or not a Parquet file"):
        data.load(str(tmp_path), "train")


def test_no_flipped_bit_of_a_parquet_file_changes_pixels_silently(tmp_path):
    path = making.parquet(tmp_path / "train.parquet", list(PNGS.values()), [0, 1, 0, 1])
    raw, truth = path.read_bytes(), data.load(str(tmp_path), "train")
    failed = 0
    for at in range(0, len(raw), 7):
        broken = bytearray(raw)
        broken[at] ^= 1 << (at % 8)
        path.write_bytes(bytes(broken))
        try:
            found = data.load(str(tmp_path), "train", cache_dir=tmp_path / str(at))
        except DataError:
            failed += 1
        else:
            # Labels carry no checksum of their own; images do.
            assert torch.equal(found.images, truth.images)
    assert failed > 0


def test_a_folder_without_permission_is_named(folder):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (folder / "train" / "cat").chmod(0)
    try:
        with pytest.raises(DataError, match=r"cannot read .*cat'"):
            data.load(str(folder), "train")
    finally:
        (folder / "train" / "cat").chmod(0o755)

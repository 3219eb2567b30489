"""A set read in pieces is the set read whole, and only the pieces asked for are decoded."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from PIL import Image

from intriguing import data
from intriguing.data import local, stream
from intriguing.errors import DataError, InputError


def folder(place: Path, count: int = 6, *, mode: str = "RGB") -> Path:
    """Write an image folder of two classes."""
    generator = torch.Generator().manual_seed(0)
    for number in range(count):
        home = place / "test" / ("cat" if number % 2 else "dog")
        home.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(256, (5, 4, 3), generator=generator, dtype=torch.uint8).numpy()
        Image.fromarray(pixels).convert(mode).save(home / f"{number}.png")
    return place


def pieces(found: stream.Stream, size: int) -> torch.Tensor:
    return torch.cat([found.piece(at, min(at + size, len(found))) for at in range(0, len(found), size)])


def test_the_digits_and_a_folder_in_pieces_are_what_they_are_whole(tmp_path: Path) -> None:
    place = folder(tmp_path / "pets")
    for name in ("digits", str(place)):
        whole, found = data.load(name, "test", cache_dir=tmp_path), stream.stream(name, "test")
        assert torch.equal(pieces(found, 7 if name == "digits" else 4), whole.images)
        assert torch.equal(found.labels, whole.labels)
        assert (found.classes, found.shape) == (whole.classes, whole.images.shape[1:])


def test_a_parquet_file_in_pieces_is_what_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = torch.arange(10 * 4).reshape(10, 2, 2)
    table = pyarrow.table({"image": numbers.tolist(), "label": [n % 3 for n in range(10)]})
    table = table.replace_schema_metadata({"class_names": '["a", "b", "c"]'})
    (tmp_path / "set").mkdir()
    pyarrow.parquet.write_table(table, tmp_path / "set" / "test.parquet", row_group_size=4)
    whole = data.load(str(tmp_path / "set"), "test", cache_dir=tmp_path)
    read: list[int] = []
    group = local.ParquetFile._group
    monkeypatch.setattr(local.ParquetFile, "_group", lambda self, g, *rest: read.append(g) or group(self, g, *rest))
    found = stream.stream(str(tmp_path / "set"), "test")
    assert torch.equal(pieces(found, 3), whole.images)
    read.clear()
    assert torch.equal(found.piece(5, 7), whole.images[5:7])
    assert read == [1], "only the row group that holds them"
    rows = local.ParquetFile(tmp_path / "set" / "test.parquet").in_pieces()
    order = torch.tensor([9, 0, 5, 1])
    assert [p.pixels[0, 0] for p in rows.pictures(order)] == [36, 0, 20, 4]


def test_images_are_drawn_in_proportion_to_the_classes_and_by_seed() -> None:
    first, again, other = (stream.stream("digits", "test", images=100, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.positions, again.positions)
    assert not torch.equal(first.positions, other.positions)
    assert set(first.labels.bincount().tolist()) <= {9, 10, 11}
    whole = data.load("digits", "test")
    assert torch.equal(pieces(first, 33), whole.images[first.positions])
    assert torch.equal(pieces(stream.of(whole, count=100), 33), pieces(first, 50))


def test_only_the_images_asked_for_are_decoded(tmp_path: Path) -> None:
    place = folder(tmp_path / "pets")
    (place / "test" / "dog" / "4.png").write_bytes(b"no image")
    found = stream.stream(str(place), "test")
    assert len(found.piece(0, 5)) == 5
    with pytest.raises(DataError, match=r"4\.png"):
        found.piece(5, 6)


def test_images_that_change_their_kind_midway_are_refused_with_what_to_do(tmp_path: Path) -> None:
    place = folder(tmp_path / "pets")
    Image.new("L", (4, 5)).save(place / "test" / "dog" / "9.png")
    assert stream.stream(str(place), "test").piece(6, 7).shape == (1, 3, 5, 4), "grey among colour becomes RGB"
    Image.new("RGB", (9, 9)).save(place / "test" / "dog" / "99.png")
    with pytest.raises(DataError, match="--size"):
        stream.stream(str(place), "test").piece(7, 8)
    assert stream.stream(str(place), "test", size=4).piece(7, 8).shape == (1, 3, 4, 4)


def test_images_of_several_sizes_take_the_other_size_and_those_of_one_size_do_not(tmp_path: Path) -> None:
    place = folder(tmp_path / "pets")
    alike = stream.stream(str(place), "test", otherwise=3)
    assert (alike.size, alike.shape) == (None, (3, 5, 4))
    Image.new("RGB", (9, 9)).save(place / "test" / "dog" / "99.png")
    other, named = (stream.stream(str(place), "test", **sizes) for sizes in ({"otherwise": 3}, {"size": 3}))
    assert (other.size, other.shape) == (3, (3, 3, 3))
    assert torch.equal(pieces(other, 4), pieces(named, 4))
    whole = data.load(str(place), "test", otherwise=3, cache_dir=tmp_path / "cache")
    assert torch.equal(whole.images, pieces(named, 4))
    assert whole.hash == data.load(str(place), "test", size=3, cache_dir=tmp_path / "cache").hash
    with pytest.raises(DataError, match="--size"):
        data.load(str(place), "test", cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("count", [0, 501])
def test_more_images_than_there_are_is_an_input_error(count: int) -> None:
    with pytest.raises(InputError, match=f"1 to 500.*got {count}"):
        stream.stream("digits", "test", images=count)


@pytest.mark.data
def test_mnist_in_pieces_is_mnist(shared_data: Path) -> None:
    found = stream.stream("mnist", "test", data_dir=shared_data)
    whole = data.load("mnist", "test", data_dir=shared_data)
    assert torch.equal(found.piece(995, 1005), whole.images[995:1005])
    assert torch.equal(found.labels, whole.labels)

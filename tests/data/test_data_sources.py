"""Names, places and arguments; and the real sets where a folder of them is given."""

from __future__ import annotations

import making
import pytest
import torch

from intriguing import data
from intriguing.errors import DataError, InputError, UnknownNameError

PNG = making.encoded(making.pixels(0))


@pytest.fixture
def sets(tmp_path):
    making.parquet(tmp_path / "toys" / "train.parquet", [PNG] * 6, [0, 0, 0, 0, 1, 1])
    making.image_folder(tmp_path / "fruit", "train", {"apple/1.png": PNG})
    (tmp_path / "nothing").mkdir()
    (tmp_path / "README").write_text("x")
    return tmp_path


def test_a_set_is_found_by_option_by_environment_and_by_path(sets, monkeypatch):
    by_option = data.load("toys", "train", data_dir=sets)
    by_path = data.load(str(sets / "toys"), "train")
    monkeypatch.setenv("INTRIGUING_DATA", str(sets))
    by_environment = data.load("toys", "train")
    monkeypatch.chdir(sets)
    by_relative_path = data.load("./toys", "train")
    assert len({s.hash for s in (by_option, by_path, by_environment, by_relative_path)}) == 1
    assert (by_option.name, by_option.split) == ("toys", "train")


def test_the_option_outranks_the_environment(sets, tmp_path, monkeypatch):
    monkeypatch.setenv("INTRIGUING_DATA", str(tmp_path / "elsewhere"))
    assert len(data.load("toys", "train", data_dir=sets)) == 6
    with pytest.raises(DataError, match="given by INTRIGUING_DATA, is not a folder"):
        data.load("toys", "train")


def test_an_unknown_name_suggests_the_nearest(sets):
    with pytest.raises(UnknownNameError, match=r"Did you mean 'toys'.*fruit.*no folder 'toyz' in") as caught:
        data.load("toyz", "train", data_dir=sets)
    assert "nothing" not in caught.value.known
    with pytest.raises(UnknownNameError, match=r"Did you mean 'mnist'.*none given by --data-dir"):
        data.load("mnits", "train")


def test_a_path_to_nowhere_is_named(tmp_path):
    with pytest.raises(DataError, match=r"there is no folder .*gone'.*hub:owner/name"):
        data.load(str(tmp_path / "gone"), "train")


def test_a_folder_that_holds_no_set(sets):
    with pytest.raises(DataError, match=r"has no split 'train' \(splits there: none\)"):
        data.load("nothing", "train", data_dir=sets)


def test_an_unknown_split_of_digits():
    with pytest.raises(UnknownNameError, match="Did you mean 'test'"):
        data.load("digits", "tset")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must be"),
        ({"size": 10**6}, "size must be"),
        ({"size": 8.0}, "size must be"),
        ({"size": True}, "size must be"),
        ({"limit": 0}, "limit must be"),
        ({"split": "../train"}, "split must be a plain name"),
        ({"split": ""}, "split must be a plain name"),
        ({"name": ""}, "name of a data set"),
        ({"name": "a\0b"}, "name of a data set"),
    ],
)
def test_arguments_out_of_range(options, message):
    with pytest.raises(InputError, match=message):
        data.load(**{"name": "digits", "split": "test", **options})


def test_a_name_too_long_for_any_folder(sets):
    with pytest.raises(DataError, match="cannot read"):
        data.load("x" * 5000, "train", data_dir=sets)


def test_a_limit_draws_in_proportion_and_decodes_no_more(sets, monkeypatch):
    asked = []
    decode = data.sources.local.columns.decode
    monkeypatch.setattr("intriguing.data.columns.decode", lambda *a: asked.append(a) or decode(*a))
    found = data.load("toys", "train", data_dir=sets, limit=3)
    assert found.labels.tolist() == [0, 0, 1]
    assert len(asked) == 3
    assert found.notes["limited"].startswith("3 of 6 images")


def test_a_limit_beyond_the_set_is_no_limit(sets):
    whole = data.load("toys", "train", data_dir=sets)
    found = data.load("toys", "train", data_dir=sets, limit=100)
    assert found.hash == whole.hash
    assert "limited" not in found.notes


def test_names_describes_what_can_be_loaded(sets):
    (sets / "broken").mkdir()
    (sets / "broken" / "test.parquet").write_text("no")
    found = data.names(sets)
    assert list(found)[:3] == ["digits", "mnist", "cifar10"]
    assert found["toys"].startswith("6 train images")
    assert found["fruit"].startswith("train images in a folder per class")
    assert "damaged" in found["broken"]
    assert "nothing" not in found
    assert all("\n" not in line for line in found.values())
    assert list(data.names()) == ["digits", "mnist", "cifar10"]


@pytest.mark.data
def test_mnist_is_complete(shared_data):
    counts = {
        "train": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
        "test": [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
    }
    for split, expected in counts.items():
        found = data.load("mnist", split, data_dir=shared_data)
        assert found.images.shape[1:] == (1, 28, 28)
        assert found.labels.bincount().tolist() == expected
        assert found.classes == tuple("0123456789")
        assert (found.images.min(), found.images.max()) == (0, 1)
        assert torch.equal((found.images * 255).round() / 255, found.images)
        if split == "train":
            # The constants everybody normalises MNIST with, to their four printed digits.
            assert round(found.images.double().mean().item(), 4) == 0.1307
            assert round(found.images.double().std(correction=0).item(), 4) == 0.3081


@pytest.mark.data
def test_the_part_of_cifar10(shared_data):
    counts = {
        "train": [299, 287, 322, 285, 311, 279, 312, 297, 308, 300],
        "test": [97, 79, 98, 99, 111, 114, 102, 88, 99, 113],
    }
    for split, expected in counts.items():
        found = data.load("cifar10_4k", split, data_dir=shared_data)
        assert found.images.shape[1:] == (3, 32, 32)
        assert found.labels.bincount().tolist() == expected
        assert found.classes[0] == "airplane"
        assert found.classes[9] == "truck"


@pytest.mark.data
def test_photographs_of_several_sizes(shared_data):
    with pytest.raises(DataError, match=r"348x348.*--size"):
        data.load("grocery", "test", data_dir=shared_data, limit=100)
    found = data.load("grocery", "train", data_dir=shared_data, size=64)
    assert found.images.shape == (928, 3, 64, 64)
    assert found.labels.bincount().tolist() == [
        *(48, 41, 45, 43, 48, 46, 42, 48, 48, 39),
        *([48] * 10),
    ]
    assert found.classes[:3] == ("Apple", "Avocado", "Banana")
    assert found.notes["resized"].startswith("928 of 928 images")
    test = data.load("grocery", "test", data_dir=shared_data, size=64)
    assert test.classes == found.classes
    assert test.labels.bincount().tolist() == [24] * 20

"""Sets of the hub without a network: the order of the places, the library's own cache, the errors."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import making
import pytest
import torch

from intriguing import data
from intriguing.data import stream
from intriguing.errors import DataError, InputError

datasets = pytest.importorskip("datasets")

ARRAYS = [making.pixels(i) for i in range(4)]


def a_set() -> datasets.Dataset:
    features = datasets.Features(
        {"id": datasets.Value("int64"), "pic": datasets.Image(), "y": datasets.ClassLabel(names=["no", "yes"])}
    )
    pics = [{"bytes": making.encoded(array), "path": None} for array in ARRAYS]
    return datasets.Dataset.from_dict({"id": [9, 8, 7, 6], "pic": pics, "y": [0, 1, 1, 0]}, features=features)


@pytest.fixture
def hub(monkeypatch):
    """Stand in for the library: what it was asked, and whether it was held off the network."""
    asked = []

    def load_dataset(address, *, split):
        asked.append((address, split, datasets.config.HF_HUB_OFFLINE))
        if datasets.config.HF_HUB_OFFLINE or hub.down:
            raise ConnectionError("Couldn't reach the hub")
        return a_set()

    def hub():
        return asked

    hub.down = False
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("intriguing.data.hub._reachable", lambda endpoint: True)
    return hub


@pytest.mark.parametrize(("name", "address"), [("mnist", "ylecun/mnist"), ("hub:some-one/a.set", "some-one/a.set")])
def test_the_cache_is_asked_before_the_network_and_ours_before_both(hub, name, address):
    found = data.load(name, "train")
    assert hub() == [(address, "train", True), (address, "train", False)]
    assert torch.equal(found.images[:, 0], torch.stack([torch.from_numpy(a) for a in ARRAYS]).float() / 255)
    assert found.labels.tolist() == [0, 1, 1, 0]
    assert found.classes == ("no", "yes")
    assert address in found.notes["source"]
    again = data.load(name, "train")
    assert len(hub()) == 2
    assert again.hash == found.hash


def test_the_folder_comes_first(hub, tmp_path):
    making.parquet(tmp_path / "mnist" / "train.parquet", [making.encoded(ARRAYS[0])], [0])
    assert len(data.load("mnist", "train", data_dir=tmp_path)) == 1
    assert hub() == []


def test_nothing_found_names_the_three_places(hub, tmp_path):
    hub.down = True
    with pytest.raises(DataError) as caught:
        data.load("mnist", "test", data_dir=tmp_path)
    message = str(caught.value)
    assert f"no folder 'mnist' in '{tmp_path}'" in message
    assert "the cache: nothing" in message
    assert "the hub: did not give it" in message
    assert "--data-dir or INTRIGUING_DATA" in message


def test_offline_by_the_environment_the_network_is_never_asked(hub, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"none given by --data-dir or INTRIGUING_DATA.*the hub: not asked"):
        data.load("mnist", "test")
    assert [offline for *_, offline in hub()] == [True]


def test_without_a_network_the_library_is_not_left_to_try_for_half_a_minute(hub, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    asked = []

    def load_dataset(address, *, split):
        asked.append(datasets.config.HF_HUB_OFFLINE)
        raise ConnectionError("Couldn't reach the hub")

    def unknown(*args, **kwargs):
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr("intriguing.data.hub.getproxies", dict)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.delenv("INTRIGUING_DATA", raising=False)
    with pytest.raises(DataError, match="the hub: cannot be reached from this machine"):
        data.load("mnist", "test")
    assert asked == [True]


def test_the_state_of_the_library_is_put_back(hub):
    before = dict(os.environ)
    hub.down = True
    with pytest.raises(DataError):
        data.load("mnist", "test")
    assert datasets.config.HF_HUB_OFFLINE is False
    assert dict(os.environ) == before


def test_a_part_of_cifar10_does_not_pass_for_the_whole(hub, tmp_path):
    making.parquet(tmp_path / "cifar10" / "train.parquet", [making.encoded(ARRAYS[0])], [0])
    for folder in (tmp_path, None):
        with pytest.raises(DataError, match="complete set, 50,000 train images, got"):
            data.load("cifar10", "train", data_dir=folder)
    assert len(data.load(str(tmp_path / "cifar10"), "train")) == 1


@pytest.mark.parametrize("name", ["hub:", "hub:mnist", "hub:a/b/c", "hub:../x", "hub:a/..", "hub:a/b?x"])
def test_addresses_are_checked_before_anything_is_asked(hub, name):
    with pytest.raises(InputError, match="hub:owner/name"):
        data.load(name, "train")
    assert hub() == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hub:imagenet-1k", r"did you mean hub:ILSVRC/imagenet-1k\?"),
        ("hub:mnist", r"did you mean hub:ylecun/mnist\?"),
        ("hub:flowers", "got 'hub:flowers', for example hub:ILSVRC/imagenet-1k"),
    ],
)
def test_a_name_without_its_owner_is_told_the_likely_address(name, words):
    with pytest.raises(InputError, match=words):
        data.load(name, "test")


def test_a_split_whose_labels_are_withheld_sends_to_another(hub, monkeypatch, tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = {"image": [{"bytes": making.encoded(ARRAYS[0]), "path": None}] * 2, "label": [-1, -1]}
    kept = datasets.Dataset.from_dict(rows, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: kept)
    with pytest.raises(DataError, match=r"every label is -1, .*use another split, for example --split validation"):
        data.load("hub:a/b", "test")
    making.parquet(tmp_path / "set" / "test.parquet", [making.encoded(ARRAYS[0])], [-1])
    for opened in (data.load, stream.stream):
        with pytest.raises(DataError, match="every label is -1"):
            opened(str(tmp_path / "set"), "test")


def test_images_that_the_library_keeps_by_path_are_read(hub, monkeypatch, tmp_path):
    (tmp_path / "x.png").write_bytes(making.encoded(ARRAYS[0]))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a"])})
    kept = datasets.Dataset.from_dict({"image": [str(tmp_path / "x.png")], "label": [0]}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: kept)
    found = data.load("hub:a/b", "train")
    assert torch.equal(found.images[0, 0], torch.from_numpy(ARRAYS[0]).float() / 255)


def test_a_set_in_the_librarys_cache_is_found_without_the_network(monkeypatch, tmp_path):
    cache = tmp_path / "hf"
    source = tmp_path / "train.parquet"
    a_set().to_parquet(source)
    built = datasets.load_dataset("parquet", data_files={"train": str(source)}, cache_dir=str(cache))
    folder = Path(built["train"].cache_files[0]["filename"]).parent
    del built
    # The cache names a set of the hub owner___name/configuration/version/commit, and its files after it.
    home = cache / "some___toy" / "default" / "0.0.0" / "abc"
    home.parent.mkdir(parents=True)
    folder.rename(home)
    for file in home.glob("parquet-*"):
        file.rename(home / file.name.replace("parquet-", "toy-", 1))
    info = home / "dataset_info.json"
    info.write_text(info.read_text().replace('"dataset_name": "parquet"', '"dataset_name": "toy"'))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    found = data.load("hub:some/toy", "train")
    assert found.labels.tolist() == [0, 1, 1, 0]


def test_importing_the_package_leaves_slow_libraries_alone():
    import subprocess

    code = "import sys, intriguing.data; print([m for m in ('datasets', 'sklearn') if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"

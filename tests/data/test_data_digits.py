"""The embedded digits: counts of the published set, and a split that never changes."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits

from intriguing import data

# Counts per class as scikit-learn's description of the set gives them.
COUNTS = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_the_two_splits_are_the_whole_set_once():
    train, test = data.load("digits", "train"), data.load("digits", "test")
    assert (tuple(train.images.shape), tuple(test.images.shape)) == ((1297, 1, 8, 8), (500, 1, 8, 8))
    together = train.labels.bincount() + test.labels.bincount()
    assert together.tolist() == COUNTS
    scans = torch.from_numpy(load_digits().images / 16).float().flatten(1)
    rows = torch.cat([train.images, test.images]).flatten(1)
    assert sorted(rows.tolist()) == sorted(scans.tolist())


def test_the_split_is_stratified():
    counts = data.load("digits", "test").labels.bincount()
    assert ((counts - torch.tensor(COUNTS) * 500 / 1797).abs() < 1).all()


def test_the_split_is_fixed():
    # Stored results are keyed by these hashes; another split would be another experiment.
    assert data.load("digits", "train").hash == "a37017612fbc5adcbf5f8fa5b2b9cd70"
    assert data.load("digits", "test").hash == "211e9028435a8d922ccbac67bfbd1ab4"


def test_classes_and_range():
    found = data.load("digits", "test")
    assert found.classes == tuple("0123456789")
    assert found.images.dtype == torch.float32
    assert (found.images.min(), found.images.max()) == (0, 1)
    assert torch.equal(found.images * 16, (found.images * 16).round())


def test_the_folder_of_sets_is_not_asked(tmp_path):
    assert len(data.load("digits", "test", data_dir=tmp_path / "nowhere")) == 500


def test_digits_can_be_resized_like_any_set():
    assert data.load("digits", "test", size=16).images.shape == (500, 1, 16, 16)

"""Sets made of a user's tensors, and the hash of their content."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from intriguing import data
from intriguing.data.sets import content_hash
from intriguing.errors import DataError, InputError


def some(n: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.rand(n, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    return images, torch.arange(n) % 2


def test_a_set_keeps_what_it_was_given():
    images, labels = some()
    found = data.from_tensors(images, labels, ["cat", "dog"], name="pets", split="train")
    assert torch.equal(found.images, images)
    assert found.labels.tolist() == [0, 1, 0]
    assert (found.name, found.split, found.classes, len(found)) == ("pets", "train", ("cat", "dog"), 3)


def test_later_changes_to_the_tensors_do_not_reach_the_set():
    images, labels = some()
    found = data.from_tensors(images, labels)
    images.zero_()
    labels.zero_()
    assert found.images.max() > 0
    assert found.labels.max() == 1


def test_bytes_become_fractions():
    found = data.from_tensors(torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1), torch.arange(3))
    assert found.images.flatten().tolist() == torch.tensor([0, 51 / 255, 1.0]).tolist()
    assert found.classes == ("0", "1", "2")


@given(st.integers(0, 2), st.integers(0, 1), st.integers(0, 3), st.integers(0, 4))
def test_the_hash_changes_with_every_pixel(n, c, h, w):
    images, labels = some()
    changed = images.clone()
    changed[n, c, h, w] = torch.nextafter(changed[n, c, h, w], torch.tensor(2.0)).clamp(max=1)
    assert data.from_tensors(changed, labels).hash != data.from_tensors(images, labels).hash


@given(st.lists(st.text(), min_size=2, max_size=2, unique=True))
def test_the_hash_changes_with_class_names(names):
    images, labels = some()
    base = content_hash(images, labels, ["one", "two"])
    assert (content_hash(images, labels, names) == base) == (names == ["one", "two"])


def test_the_hash_changes_with_labels_shape_and_recipe_but_not_with_name_or_layout():
    images, labels = some()
    base = data.from_tensors(images, labels)
    assert data.from_tensors(images, 1 - labels).hash != base.hash
    assert data.from_tensors(images.reshape(3, 2, 5, 4), labels).hash != base.hash
    assert content_hash(images, labels, base.classes, "resized") != base.hash
    assert data.from_tensors(images, labels, name="other", split="train").hash == base.hash
    strided = images.to(memory_format=torch.channels_last)
    assert data.from_tensors(strided.double(), labels.int()).hash == base.hash


def test_zero_has_one_hash_whatever_its_sign():
    labels = torch.zeros(1, dtype=torch.int64)
    zeros = torch.zeros(1, 1, 2, 2)
    assert data.from_tensors(-zeros, labels).hash == data.from_tensors(zeros, labels).hash


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_pixels_that_are_no_numbers_are_named_by_row(bad):
    images, labels = some(9)
    images[[1, 4]] = bad
    with pytest.raises(DataError, match="NaN or infinity in rows 1, 4;"):
        data.from_tensors(images, labels)


@pytest.mark.parametrize("bad", [-0.01, 1.01, 255.0])
def test_pixels_outside_the_box_are_named_by_row(bad):
    images, labels = some(9)
    images[2, 0, 0, 0] = bad
    with pytest.raises(DataError, match=r"in \[0, 1\].*in row 2;.*divide 8-bit values by 255"):
        data.from_tensors(images, labels)


def test_many_bad_rows_are_counted():
    images, labels = some(9)
    with pytest.raises(DataError, match="rows 0, 1, 2, 3, 4 and 4 more"):
        data.from_tensors(images + 1, labels)


@pytest.mark.parametrize("label", [-1, 2, 10**12])
def test_labels_must_name_a_class(label):
    images, labels = some()
    labels[1] = label
    with pytest.raises(DataError, match=rf"between 0 and 1 \(2 classes\), got {label} in row 1"):
        data.from_tensors(images, labels, ["a", "b"])


@pytest.mark.parametrize(
    ("images", "labels", "classes", "message"),
    [
        (torch.zeros(2, 4, 4), torch.zeros(2, dtype=torch.int64), None, r"unsqueeze\(1\)"),
        (torch.zeros(0, 1, 4, 4), torch.zeros(0, dtype=torch.int64), None, "no empty axis"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), None, "or uint8"),
        (torch.zeros(2, 1, 4, 4), torch.zeros(2), None, "must be integers"),
        (torch.zeros(2, 1, 4, 4), torch.zeros(3, dtype=torch.int64), None, "one per image"),
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64), ["a", "a"], "more than once"),
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64), [], "class names must be"),
        ([[0.5]], torch.zeros(2, dtype=torch.int64), None, "images must be a torch tensor, got list"),
    ],
)
def test_misuse_is_an_input_error(images, labels, classes, message):
    with pytest.raises(InputError, match=message):
        data.from_tensors(images, labels, classes)

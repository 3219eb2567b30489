"""Halves and samples: the laws they must keep for any labels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from intriguing.data.split import halves, sample
from intriguing.errors import InputError

LABELS = st.lists(st.integers(0, 5), min_size=2, max_size=120).map(lambda x: torch.tensor(x))
SEEDS = st.integers(0, 2**31)


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(LABELS, SEEDS)
def test_halves_are_disjoint_complete_sorted_and_stratified(labels, seed):
    first, second = halves(labels, gen(seed))
    assert torch.cat([first, second]).sort().values.tolist() == list(range(len(labels)))
    assert len(first) - len(second) in (0, 1)
    for half in (first, second):
        assert half.dtype == torch.int64
        assert half.tolist() == sorted(half.tolist())
    counts = [labels[half].bincount(minlength=6) for half in (first, second)]
    assert (counts[0] - counts[1]).abs().max() <= 1


@given(LABELS, SEEDS)
def test_halves_depend_on_the_generator_alone(labels, seed):
    torch.manual_seed(seed + 1)
    once, again = halves(labels, gen(seed)), halves(labels, gen(seed))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


def test_halves_of_another_seed_differ():
    labels = torch.arange(100) % 10
    assert not torch.equal(halves(labels, gen(0))[0], halves(labels, gen(1))[0])


@given(LABELS, SEEDS, st.data())
def test_a_sample_is_proportional_to_within_one(labels, seed, data):
    count = data.draw(st.integers(1, len(labels)))
    chosen = sample(labels, count, gen(seed))
    assert len(set(chosen.tolist())) == count
    assert chosen.tolist() == sorted(chosen.tolist())
    share = labels.bincount(minlength=6) * count / len(labels)
    # 1e-6: the share is a float, the bound is on whole numbers.
    assert ((labels[chosen].bincount(minlength=6) - share).abs() < 1 + 1e-6).all()


def test_every_image_is_as_likely_to_be_in_the_first_half():
    labels = torch.tensor([0] * 5 + [1] * 6 + [2] * 3)
    hits = torch.zeros(len(labels))
    for seed in range(2000):
        hits[halves(labels, gen(seed))[0]] += 1
    # Six standard errors of a frequency from 2,000 draws, around a half (class 0 gets 3 of 5, class 2 1 or 2).
    expected = torch.tensor([3 / 5] * 5 + [1 / 2] * 6 + [1 / 3] * 3)
    assert ((hits / 2000 - expected).abs() < 6 * 0.5 / 2000**0.5).all()


@pytest.mark.parametrize(
    "labels", [torch.zeros(4), torch.zeros(2, 2, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)]
)
def test_halves_refuse_what_is_no_vector_of_labels(labels):
    with pytest.raises(InputError, match="labels must be a vector"):
        halves(labels, gen(0))


@pytest.mark.parametrize("count", [0, 5])
def test_a_sample_cannot_exceed_the_set(count):
    with pytest.raises(InputError, match="between 1 and the 4 images"):
        sample(torch.zeros(4, dtype=torch.int64), count, gen(0))

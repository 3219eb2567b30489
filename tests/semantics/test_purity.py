"""Purity against naive loops, and tests and intervals that err as often as they say."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from intriguing.errors import InputError
from intriguing.rng import generator
from intriguing.semantics import purity
from intriguing.semantics.directions import random_sets


def draw(name: str = "test", seed: int = 0) -> torch.Generator:
    return generator(name, seed)


def test_modal_share_is_that_of_a_counter() -> None:
    labels = torch.randint(5, (60,), generator=draw())
    sets = random_sets(40, 8, 60, generator=draw())
    expected = [max(Counter(labels[row].tolist()).values()) / 8 for row in sets]
    assert purity.modal_share(labels, sets).tolist() == pytest.approx(expected)


def test_mean_cosine_is_that_of_all_pairs() -> None:
    embedding = torch.nn.functional.normalize(torch.randn(60, 7, generator=draw()), dim=1)
    sets = random_sets(40, 5, 60, generator=draw())
    expected = [
        float(np.mean([float(embedding[a] @ embedding[b]) for a, b in itertools.combinations(row, 2)]))
        for row in sets.tolist()
    ]
    assert purity.mean_cosine(embedding, sets).tolist() == pytest.approx(expected, abs=1e-6)
    with pytest.raises(InputError, match="at least 2"):
        purity.mean_cosine(embedding, sets[:, :1])


@pytest.mark.parametrize("count", [30, 200])  # fewer images than pixels, and more
def test_the_embedding_with_all_its_components_keeps_the_cosines_of_centred_pixels(count: int) -> None:
    images = torch.rand(count, 2, 5, 5, generator=draw())
    centred = torch.nn.functional.normalize((images - images.mean(0)).flatten(1).double(), dim=1)
    found = purity.pixel_embedding(images, 1000).double()
    torch.testing.assert_close(found @ found.T, centred @ centred.T, atol=1e-5, rtol=0)


def test_the_embedding_keeps_the_largest_components_first() -> None:
    images = torch.zeros(100, 1, 1, 3)
    images[:, 0, 0] = torch.randn(100, 3, generator=draw()) * torch.tensor([1.0, 100.0, 0.01])
    signs = purity.pixel_embedding(images, 1)
    # One component is left, the middle pixel: its sign is all that a unit row of one entry can hold.
    side = (images[:, 0, 0, 1] > images[:, 0, 0, 1].mean()).float() * 2 - 1
    assert abs(float((signs[:, 0] * side).mean())) > 0.95


def test_large_images_are_reduced_before_they_are_embedded() -> None:
    small = torch.rand(20, 3, 32, 32, generator=draw())
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    one, other = purity.pixel_embedding(small), purity.pixel_embedding(large)
    torch.testing.assert_close(one @ one.T, other @ other.T, atol=1e-4, rtol=0)


def test_the_permutation_test_has_its_exact_p_value() -> None:
    # Six images, one set of three, all of class 0, of which there are three: 1 of the 20 sets of three is all of
    # class 0, and one more, all of class 1, is as pure.
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    p = purity.permutation_p(purity.modal_share, labels, torch.tensor([[0, 1, 2]]), generator=draw(), permutations=4000)
    assert p == pytest.approx(0.1, abs=0.02)  # four standard errors of a share of 0.1 at 4,000


def test_sets_that_share_images_are_not_counted_twice() -> None:
    # The same three sets ten times over say no more than once; as independent sets they would seem ten times surer.
    labels = torch.arange(200) % 4
    sets = torch.tensor([[0, 4, 1], [8, 12, 2], [16, 20, 3]])
    once, often = (
        purity.permutation_p(purity.modal_share, labels, s, generator=draw(), permutations=2000)
        for s in (sets, sets.repeat(10, 1))
    )
    assert once == pytest.approx(often, abs=1e-9)


@pytest.mark.parametrize("kind", ["class", "cosine"])
def test_under_the_null_small_p_values_are_as_rare_as_they_say(kind: str) -> None:
    labels = torch.randint(10, (300,), generator=draw())
    embedding = torch.nn.functional.normalize(torch.randn(300, 5, generator=draw()), dim=1)
    measure, what = (purity.modal_share, labels) if kind == "class" else (purity.mean_cosine, embedding)
    found = []
    for seed in range(120):
        sets = random_sets(12, 6, 40, generator=draw("sets", seed))  # of 40 images, so that sets overlap
        p = purity.permutation_p(measure, what, sets, generator=draw("null", seed), permutations=99)
        found.append(p)
    # The images are the same forty each time, so the share of small p-values is not binomial over 120; over the
    # draw of labels it is at most 0.1. Half of all would mean a broken null.
    assert np.mean(np.array(found) <= 0.1) < 0.35
    assert min(found) >= 0.01


def test_pure_sets_are_found_purer_than_random_ones() -> None:
    labels = torch.arange(400) % 10
    controls = purity.modal_share(labels, random_sets(2000, 8, 400, generator=draw()))
    values = torch.tensor([1.0, 0.25, 0.125])
    assert purity.above_random(values, controls).tolist() == [True, False, False]
    # A set as pure as the purest control cannot be told from it at a level finer than the controls.
    assert not bool(purity.above_random(torch.tensor([1.0]), torch.ones(99))[0])


def test_random_sets_are_above_random_at_most_as_often_as_the_level() -> None:
    embedding = torch.nn.functional.normalize(torch.randn(500, 5, generator=draw()), dim=1)
    one, other = (
        purity.mean_cosine(embedding, random_sets(4000, 8, 500, generator=draw(name))) for name in ("one", "other")
    )
    assert float(purity.above_random(one, other).float().mean()) == pytest.approx(0.05, abs=0.015)


def test_a_difference_covers_the_truth_as_often_as_it_says() -> None:
    covered = []
    for seed in range(200):
        one = torch.rand(60, generator=draw("one", seed)) + 0.1
        other = torch.rand(90, generator=draw("other", seed))
        found = purity.difference(one, other, generator=draw("bootstrap", seed))
        assert found.n == 150
        assert found.measured == pytest.approx(float(one.double().mean() - other.double().mean()))
        covered.append(found.low <= 0.1 <= found.high)
    # Two standard errors of a coverage of 95% at 200 runs are 3 points; the bootstrap of 60 falls short by one.
    assert 0.91 <= np.mean(covered) <= 0.98


def test_a_difference_of_known_spread_has_the_normal_interval() -> None:
    one, other = torch.arange(400.0) % 2, torch.zeros(50)
    found = purity.difference(one, other, generator=draw())
    half = 1.96 * 0.5 / 20  # of a mean of 400 coins; the other group does not vary
    assert found.high - found.measured == pytest.approx(half, rel=0.1)
    with pytest.raises(InputError, match="at least one"):
        purity.difference(one, torch.zeros(0), generator=draw())


def test_measures_take_stacks_of_sets() -> None:
    labels = torch.tensor([0, 1, 1, 2])
    sets = torch.tensor([[[0, 1], [1, 2]], [[2, 3], [2, 1]]])
    assert purity.modal_share(labels, sets).tolist() == [[0.5, 1.0], [0.5, 1.0]]
    assert purity.mean_cosine(torch.eye(4), sets).abs().max() == 0

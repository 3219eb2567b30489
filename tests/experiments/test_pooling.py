"""Means over nets that see the same images: by hand, and against the interval of one net."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from intriguing.experiments import statistics
from intriguing.experiments.pooling import mean_inside, pooled_ratio, pooled_share


def test_a_pooled_share_is_the_mean_of_the_pairs_means() -> None:
    answers = np.array([[[1.0, 0.0, 1.0, 1.0], [0.0, np.nan, np.nan, np.nan]]])
    found = pooled_share(answers, "x", 0)
    # Three quarters and zero; pooled entry by entry it would be three fifths.
    assert found.measured == pytest.approx(0.375)
    assert found.n == 4
    assert 0 <= found.low <= found.measured <= found.high <= 1


def test_one_net_alone_has_a_wilson_interval() -> None:
    answers = np.array([[[1.0] * 5 + [0.0] * 15 + [np.nan]]])
    assert pooled_share(answers, "x", 0) == statistics.proportion(5, 20)


def test_answers_all_alike_are_not_certain() -> None:
    for value in (0.0, 1.0):
        found = pooled_share(np.full((1, 3, 30), value), "x", 0)
        assert found == statistics.proportion(int(30 * value), 30)


def test_the_bootstrap_of_pairs_covers_what_it_should() -> None:
    """Pairs that answer alike carry the information of one: the interval is that of 200 images, not of 800."""
    rng = np.random.default_rng(0)
    one = (rng.random((1, 1, 200)) < 0.3).astype(float)
    four = pooled_share(np.repeat(one, 4, axis=1), "x", 0)
    wilson = pooled_share(one, "x", 0)
    assert four.high - four.low == pytest.approx(wilson.high - wilson.low, rel=0.1)


def test_a_ratio_is_of_the_means_and_of_the_same_images() -> None:
    answers = (np.random.default_rng(0).random((1, 2, 300)) < 0.2).astype(float)
    twice = pooled_ratio(2 * answers, answers, "x", 0)
    # Resample by resample the ratio is 2: numerator and denominator draw the same images.
    assert (twice.low, twice.measured, twice.high) == pytest.approx((2, 2, 2))
    assert twice.n == 300
    other = pooled_ratio(answers, np.ones_like(answers), "x", 0)
    assert other.measured == pytest.approx(answers.mean())
    assert other.low < other.measured < other.high


def test_a_ratio_over_nothing_is_infinite_and_of_nothing_is_not_a_number() -> None:
    zero, one = np.zeros((1, 1, 5)), np.ones((1, 1, 5))
    assert pooled_ratio(one, zero, "x", 0).measured == math.inf
    empty = pooled_ratio(np.full((1, 1, 5), np.nan), one, "x", 0)
    assert (empty.n, math.isnan(empty.measured)) == (0, True)


def test_a_mean_of_equal_values_is_inside_its_interval() -> None:
    found = mean_inside([[0.1] * 7], torch.Generator().manual_seed(0))
    assert found.low <= found.measured <= found.high

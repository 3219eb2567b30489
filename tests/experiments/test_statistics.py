"""Intervals cover as often as they say, and the paired test errs as often as it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from intriguing.errors import InputError
from intriguing.experiments import statistics
from intriguing.experiments.statistics import Estimate
from intriguing.rng import generator


def draw(seed: int = 0) -> torch.Generator:
    return generator("test", seed)


def covered(estimates: list[Estimate], truth: float) -> float:
    return float(np.mean([estimate.low <= truth <= estimate.high for estimate in estimates]))


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.98])
def test_the_wilson_interval_covers_as_often_as_it_says(share: float) -> None:
    n = 200
    low, high = np.array([(e.low, e.high) for e in (statistics.proportion(k, n) for k in range(n + 1))]).T
    inside = (low <= share) & (share <= high)
    # Exact, by summing the binomial. Wilson's interval swings around 95% for small n.
    assert 0.92 <= stats.binom.pmf(np.arange(n + 1), n, share)[inside].sum() <= 0.98


def test_the_wilson_interval_has_its_closed_form() -> None:
    z, n, k = stats.norm.ppf(0.975), 256, 40
    p = k / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    estimate = statistics.proportion(k, n)
    assert (estimate.measured, estimate.n) == (p, n)
    assert estimate.low == pytest.approx(centre - half, rel=1e-9)
    assert estimate.high == pytest.approx(centre + half, rel=1e-9)


def test_shares_of_none_and_all_keep_an_interval() -> None:
    none, every = statistics.proportion(0, 50), statistics.proportion(50, 50)
    assert none.measured == none.low == 0 < none.high < 0.1
    assert every.measured == every.high == 1 > every.low > 0.9


def test_the_interval_of_one_net_covers_its_mean() -> None:
    rng = np.random.default_rng(0)
    runs = [statistics.mean([rng.exponential(0.06, 60).tolist()], draw(i)) for i in range(200)]
    # 200 runs: two standard errors of a coverage of 95% are 3 points; the percentile bootstrap of a skewed mean of
    # 60 falls short by one or two more.
    assert 0.89 <= covered(runs, 0.06) <= 0.99


def test_the_interval_of_several_nets_covers_the_mean_over_nets() -> None:
    rng = np.random.default_rng(1)

    def run(seed: int) -> Estimate:
        centres = 0.06 + 0.01 * rng.standard_normal(5)
        return statistics.mean([(c + 0.02 * rng.standard_normal(40)).tolist() for c in centres], draw(seed))

    # Resampling five nets makes the spread between them a factor sqrt(4/5) too small: about 87% at worst.
    assert 0.80 <= covered([run(i) for i in range(150)], 0.06) <= 0.99


def test_one_group_is_the_ordinary_bootstrap() -> None:
    values = np.random.default_rng(2).exponential(1.0, 80)
    estimate = statistics.mean([values.tolist()], draw())
    ours = (estimate.low, estimate.high)
    theirs = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(3)
    ).confidence_interval
    assert estimate.measured == pytest.approx(values.mean())
    # A 2.5% quantile of 2,000 resamples is off by about a tenth of the mean's standard error.
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.3 * values.std() / math.sqrt(80))


def test_two_levels_are_wider_than_one_where_nets_differ() -> None:
    rng = np.random.default_rng(4)
    groups = [(centre + 0.01 * rng.standard_normal(100)).tolist() for centre in (0.04, 0.05, 0.06, 0.07, 0.08)]
    two = statistics.mean(groups, draw())
    one = statistics.mean([[value for group in groups for value in group]], draw())
    assert two.measured == pytest.approx(one.measured)
    assert two.high - two.low > 3 * (one.high - one.low)
    assert two.n == one.n == 500


def test_two_levels_are_no_narrower_than_the_images_allow_where_nets_agree() -> None:
    rng = np.random.default_rng(5)
    groups = [(0.05 + 0.02 * rng.standard_normal(100)).tolist() for _ in range(5)]
    two = statistics.mean(groups, draw())
    pooled = 2 * 1.96 * 0.02 / math.sqrt(500)
    # Resampling nets and images both counts the spread within them more than once: too wide, never too narrow.
    assert 0.8 * pooled < two.high - two.low < 2.5 * pooled


def test_the_mean_is_of_the_groups_not_of_the_members() -> None:
    nan = math.nan
    estimate = statistics.mean([[nan, 1.0, nan], [3.0, 3.0, 3.0], [nan, nan, nan]], draw())
    assert estimate.measured == 2.0
    assert estimate.n == 4
    assert (estimate.low, estimate.high) == (1.0, 3.0)


def test_a_constant_has_an_interval_of_no_width() -> None:
    estimate = statistics.mean([[0.25] * 7, [0.25] * 3 + [math.nan] * 4], draw())
    assert (estimate.measured, estimate.low, estimate.high) == (0.25, 0.25, 0.25)


def test_images_that_are_hard_for_every_net_are_not_averaged_out() -> None:
    """Five nets that agree on every image know no more of the mean than one net does."""
    values = (0.05 + 0.02 * np.random.default_rng(8).standard_normal(100)).tolist()
    one, five = statistics.mean([values], draw()), statistics.mean([values] * 5, draw())
    assert five.high - five.low == pytest.approx(one.high - one.low, rel=0.1)


def test_nets_with_other_numbers_of_images_are_refused() -> None:
    with pytest.raises(InputError, match="groups"):
        statistics.mean([[1.0], [1.0, 2.0]], draw())


@pytest.mark.parametrize("nothing", [[], [[]], [[], []]])
def test_no_values_have_no_mean(nothing: list[list[float]]) -> None:
    estimate = statistics.mean(nothing, draw())
    assert estimate.n == 0
    assert all(math.isnan(value) for value in (estimate.measured, estimate.low, estimate.high))


def test_no_trials_have_no_share() -> None:
    estimate = statistics.proportion(0, 0)
    assert estimate.n == 0
    assert all(math.isnan(value) for value in (estimate.measured, estimate.low, estimate.high))


def test_the_share_of_one_net_is_a_proportion() -> None:
    assert statistics.mean_share([(7, 500)], draw()) == statistics.proportion(7, 500)


def test_the_shares_of_several_nets_are_averaged() -> None:
    estimate = statistics.mean_share([(10, 100), (30, 100), (40, 200)], draw())
    assert estimate.measured == pytest.approx((0.1 + 0.3 + 0.2) / 3)
    assert estimate.n == 400
    assert estimate.low < estimate.measured < estimate.high
    alike = statistics.mean_share([(20, 100)] * 3, draw())
    assert alike.high - alike.low < estimate.high - estimate.low


def test_the_interval_of_several_shares_covers() -> None:
    rng = np.random.default_rng(6)
    for share in (0.02, 0.2):
        counts = [[(int(k), 500) for k in rng.binomial(500, share, 5)] for _ in range(200)]
        runs = [statistics.mean_share(five, draw(i)) for i, five in enumerate(counts)]
        assert 0.91 <= covered(runs, share) <= 1.0


def test_nets_without_an_error_are_not_certain_never_to_err() -> None:
    """Resampling zeros gives zeros: five nets without a mistake would get the interval [0, 0]."""
    for count in (0, 500):
        estimate = statistics.mean_share([(count, 500)] * 5, draw())
        assert estimate.measured == count / 500
        assert estimate.low <= estimate.measured <= estimate.high
        assert estimate.high - estimate.low > 1e-4


def test_paired_p_is_uniform_where_there_is_no_effect() -> None:
    rng = np.random.default_rng(7)
    p = np.array([statistics.paired_p(rng.standard_normal(12).tolist(), draw(i)) for i in range(60)])
    assert stats.kstest(p, "uniform").pvalue > 1e-3
    assert (p < 0.05).mean() <= 0.15


def test_paired_p_is_small_for_an_effect_and_large_for_its_opposite() -> None:
    differences = (0.2 + 0.3 * np.random.default_rng(8).standard_normal(100)).tolist()
    assert statistics.paired_p(differences, draw()) < 1e-3
    assert statistics.paired_p([-value for value in differences], draw()) > 0.999


def test_paired_p_of_few_images_is_exact() -> None:
    # Of the 2^5 sign patterns only the one observed has so large a mean.
    assert statistics.paired_p([1.0, 2.0, 3.0, 4.0, 5.0], draw()) == pytest.approx(1 / 32)
    # Ties count against us: images on which nothing differs change nothing.
    assert statistics.paired_p([1.0, 1.0, 1.0, 0.0], draw()) == pytest.approx(1 / 8)


@pytest.mark.parametrize("n", [2, 9, 14, 15, 40])
def test_paired_p_is_scipys(n: int) -> None:
    values = np.random.default_rng(n).standard_normal(n) + 0.2
    values[::4] = 0
    exact = stats.permutation_test(
        (values,),
        lambda sample, axis: sample.mean(axis),
        permutation_type="samples",
        vectorized=True,
        alternative="greater",
        n_resamples=np.inf if n < 15 else 40_000,
        rng=np.random.default_rng(0),
    ).pvalue
    found = statistics.paired_p(values.tolist(), draw())
    # Where both are drawn they differ by at most 4 standard errors of the two.
    assert found == pytest.approx(
        exact, abs=1e-12 if n < 15 else 4 * (exact * (1 - exact) * (1 / 20_000 + 1 / 40_000)) ** 0.5
    )


def test_paired_p_refuses_what_is_not_a_number() -> None:
    with pytest.raises(InputError, match="NaN"):
        statistics.paired_p([1.0, math.nan], draw())


def test_paired_p_of_no_difference_is_one() -> None:
    assert statistics.paired_p([0.0] * 30, draw()) == 1.0
    assert statistics.paired_p([], draw()) == 1.0


def test_paired_p_is_never_zero() -> None:
    assert 0 < statistics.paired_p([1.0] * 200, draw()) <= 1e-4


def test_resamples_follow_the_generator() -> None:
    groups = [np.random.default_rng(9).exponential(1.0, 50).tolist()] * 2
    before = np.random.get_state()[1].copy()  # noqa: NPY002 (to see that it is left alone)
    assert statistics.mean(groups, draw(1)) == statistics.mean(groups, draw(1))
    assert statistics.mean(groups, draw(1)) != statistics.mean(groups, draw(2))
    counts = [(10, 100), (30, 100)]
    assert statistics.mean_share(counts, draw(1)) == statistics.mean_share(counts, draw(1))
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002

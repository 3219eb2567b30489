"""Streams of random numbers that belong to images: uniform, independent, and the same wherever the image stands."""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats

from intriguing.rng import Streams, generator, numpy_generator, resamples


def images(count: int = 300) -> torch.Tensor:
    return torch.rand(count, 1, 3, 3, generator=torch.Generator().manual_seed(0))


def test_generators_depend_on_name_and_seed() -> None:
    first, same, name, seed = (
        torch.rand(4, generator=g) for g in (generator("a", 0), generator("a", 0), generator("b", 0), generator("a", 1))
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, name)
    assert not torch.equal(first, seed)


def test_an_images_numbers_are_its_own() -> None:
    x = images()
    whole = Streams(generator("s", 0), x).uniform(torch.arange(len(x)), 5, draw=3)
    for order in (torch.arange(len(x)).flip(0), torch.tensor([7]), torch.tensor([7, 2, 7])):
        part = Streams(generator("s", 0), x[order]).uniform(torch.arange(len(order)), 5, draw=3)
        assert torch.equal(part, whole[order])
    streams = Streams(generator("s", 0), x)
    assert torch.equal(streams.uniform(torch.tensor([4, 9]), 5, draw=3), whole[[4, 9]])
    assert torch.equal(streams.uniform(torch.tensor([4]), 2, draw=3), whole[4:5, :2])
    assert torch.equal(Streams(generator("s", 0), x.double()).uniform(torch.tensor([4]), 5, draw=3), whole[4:5])
    shifted = x.clone()
    shifted[4, 0, 2, 2] += 1e-6
    assert not torch.equal(Streams(generator("s", 0), shifted).uniform(torch.tensor([4]), 5, draw=3), whole[4:5])


def test_numbers_are_uniform_and_independent() -> None:
    """Kolmogorov-Smirnov on all of them, and correlations between neighbours in every direction, 4 errors wide."""
    x = images()
    rows = torch.arange(len(x))
    streams = Streams(generator("s", 0), x)
    u = torch.stack([streams.uniform(rows, 40, draw) for draw in range(4)])
    assert ((u > 0) & (u < 1)).all()
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 0.001
    assert len(u.unique()) == u.numel()
    for a, b in ((u[1:], u[:-1]), (u[:, 1:], u[:, :-1]), (u[..., 1:], u[..., :-1])):
        assert abs(np.corrcoef(a.flatten(), b.flatten())[0, 1]) < 4 / a.numel() ** 0.5
    other = Streams(generator("s", 1), x).uniform(rows, 40, 0)
    assert abs(np.corrcoef(u[0].flatten(), other.flatten())[0, 1]) < 4 / other.numel() ** 0.5
    normal = streams.normal(rows, 40, 0).flatten().numpy()
    assert stats.kstest(normal, "norm").pvalue > 0.001
    signs = streams.signs(rows, 40, 0)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert abs(signs.mean()) < 4 / signs.numel() ** 0.5


def test_resamples_count_as_often_as_a_multinomial_draw() -> None:
    counts = resamples(numpy_generator(generator("r", 0)), 5, 20_000)
    assert counts.shape == (20_000, 5)
    assert np.all(counts.sum(1) == 5)
    # Means 1, variances n p (1 - p) = 4/5, covariances -n p^2 = -1/5; 5 standard errors of each are below 0.06.
    np.testing.assert_allclose(counts.mean(0), 1, atol=0.035)
    np.testing.assert_allclose(np.cov(counts.T), np.eye(5) - 1 / 5, atol=0.06)

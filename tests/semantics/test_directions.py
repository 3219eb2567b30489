"""Directions: uniform where they say so, orthogonal where they must be, and top images in fair order."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy import stats

from intriguing.errors import InputError
from intriguing.rng import generator
from intriguing.semantics import directions


def draw(name: str = "test") -> torch.Generator:
    return generator(name, 0)


def correlated(n: int = 4000) -> torch.Tensor:
    """Return activations whose covariance is known: diag(9, 4, 1) turned by a rotation in the first two units."""
    c, s = 0.8, 0.6
    turn = torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    z = torch.randn(n, 3, generator=draw("correlated"))
    z = torch.linalg.qr(z - z.mean(0)).Q * (n - 1) ** 0.5  # exactly white
    return (z * torch.tensor([3.0, 2.0, 1.0])) @ turn.T + 5.0


def test_random_directions_are_uniform_on_the_sphere() -> None:
    v = directions.random(5000, 3, generator=draw())
    torch.testing.assert_close(v.norm(dim=1), torch.ones(5000))
    # Archimedes: on the sphere in 3 dimensions each coordinate is uniform on [-1, 1].
    for axis in range(3):
        assert stats.kstest(v[:, axis].numpy(), stats.uniform(-1, 2).cdf).pvalue > 0.001


def test_positive_directions_are_random_ones_without_signs() -> None:
    v, w = (make(50, 6, generator=draw()) for make in (directions.random, directions.positive))
    assert bool((v < 0).any())
    torch.testing.assert_close(w, v.abs())


def test_principal_axes_are_those_of_the_covariance() -> None:
    axes = directions.principal(correlated())
    expected = torch.tensor([[0.8, 0.6, 0.0], [-0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(axes, expected, atol=1e-4, rtol=0)
    assert directions.principal(correlated(), 2).shape == (2, 3)


def test_axes_without_variance_are_left_out() -> None:
    values = torch.cat((correlated(), torch.ones(4000, 1), correlated()[:, :1]), 1)  # one constant, one copy
    assert directions.principal(values).shape == (3, 5)
    assert bool(torch.isfinite(directions.whitening(values)).all())


def test_whitened_units_are_uncorrelated() -> None:
    values = correlated()
    white = directions.whitening(values)
    torch.testing.assert_close(white.norm(dim=1), torch.ones(3))
    covariance = torch.cov((values @ white.T).T)
    torch.testing.assert_close(covariance, torch.diag(covariance.diagonal()), atol=1e-3, rtol=0)


def test_random_whitened_directions_see_an_even_spread() -> None:
    values = correlated()
    rows = directions.random_whitened(values, 2000, generator=draw())
    root = torch.linalg.cholesky(torch.cov(values.T))
    # v C^(-1/2) times C^(1/2) is v again, up to length: uniform on the sphere.
    back = torch.nn.functional.normalize(rows @ root, dim=1)
    for axis in range(3):
        assert stats.kstest(back[:, axis].numpy(), stats.uniform(-1, 2).cdf).pvalue > 0.001


def test_a_rotation_is_orthogonal_and_uniform() -> None:
    q = directions.rotation(20, generator=draw())
    torch.testing.assert_close(q @ q.T, torch.eye(20, dtype=torch.float64))
    # Without the correction of signs the corner of QR's factor always has one sign.
    corners = [float(directions.rotation(3, generator=draw(str(i)))[0, 0]) for i in range(400)]
    assert stats.kstest(corners, stats.uniform(-1, 2).cdf).pvalue > 0.001


def test_top_images_are_the_largest_in_order() -> None:
    scores = torch.randn(50, 4, generator=draw())
    found = directions.top(scores, 5, generator=draw())
    assert found.tolist() == scores.sort(dim=0, descending=True).indices[:5].T.tolist()
    with pytest.raises(InputError, match="between 1 and the 50"):
        directions.top(scores, 51, generator=draw())


def test_ties_are_broken_at_random_not_in_the_order_of_the_set() -> None:
    found = directions.top(torch.zeros(1000, 1), 8, generator=draw())
    again = directions.top(torch.zeros(1000, 1), 8, generator=draw("other"))
    assert found.tolist() != again.tolist()
    assert 200 < float(found.float().mean()) < 800  # of 0..999; the first eight would have 3.5


@pytest.mark.parametrize(("k", "total"), [(2, 4), (3, 4), (2, 100)])
def test_random_sets_hold_different_images_and_all_sets_alike(k: int, total: int) -> None:
    sets = directions.random_sets(6000, k, total, generator=draw())
    assert bool((sets.sort(dim=1).values.diff(dim=1) > 0).all())
    if total > 4:
        counts = torch.bincount(sets.flatten(), minlength=total)
    else:
        kinds = [frozenset(chosen) for chosen in itertools.combinations(range(total), k)]
        found = [kinds.index(frozenset(row)) for row in sets.tolist()]
        counts = torch.bincount(torch.tensor(found), minlength=len(kinds))
    assert stats.chisquare(counts.numpy()).pvalue > 0.001
    with pytest.raises(InputError, match="between 1 and"):
        directions.random_sets(1, total + 1, total, generator=draw())


def test_dead_units_are_told_from_live_ones() -> None:
    assert directions.alive(torch.tensor([[0.0, 1.0, 0.0], [0.0, 1.0, 2.0]])).tolist() == [False, False, True]

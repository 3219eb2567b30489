"""Noise and rescaled perturbations: in the box, of the length asked for, and repeatable."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_nets import seeded

from intriguing import norms
from intriguing.attacks.noise import gaussian, gaussian_of_norm, rescaled
from intriguing.errors import InputError

shapes = st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6))
seeds = st.integers(0, 2**31)
boxes = st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (0.0, 0.3), (-2.0, 5.0)])
law = settings(max_examples=60, deadline=None, derandomize=True)


def inside(shape: tuple[int, ...], box: tuple[float, float], seed: int, share: float = 1.0) -> torch.Tensor:
    """Return float64 images uniform in the middle `share` of the box."""
    low, high = box
    u = 0.5 + share * (torch.rand(shape, generator=seeded(seed), dtype=torch.float64) - 0.5)
    return (low + (high - low) * u).clamp(low, high)


@law
@given(shape=shapes, box=boxes, std=st.floats(0, 3), seed=seeds)
def test_clipped_noise_stays_in_the_box(
    shape: tuple[int, ...], box: tuple[float, float], std: float, seed: int
) -> None:
    images = inside(shape, box, seed)
    noisy = gaussian(images, std, generator=seeded(seed), box=box)
    assert noisy.shape == images.shape
    assert noisy.dtype == images.dtype
    assert ((noisy >= box[0]) & (noisy <= box[1])).all()
    whole = gaussian(images, std, generator=seeded(seed), box=None)
    assert torch.equal(noisy, whole.clamp(*box))


@pytest.mark.parametrize("std", [0.1, 0.3, 1.0])
def test_noise_has_the_standard_deviation_asked_for(std: float) -> None:
    images = torch.full((100, 1, 28, 28), 0.5, dtype=torch.float64)
    r = gaussian(images, std, generator=seeded(), box=None) - images
    # 78,400 draws: the standard error of a standard deviation is 0.25% of it, of a mean 0.36%.
    assert r.std().item() == pytest.approx(std, rel=0.0125)
    assert abs(r.mean().item()) < 0.018 * std


@law
@given(shape=shapes, box=boxes, share=st.floats(1e-6, 0.5), seed=seeds)
def test_noise_of_a_norm_has_that_norm_where_there_is_room(
    shape: tuple[int, ...], box: tuple[float, float], share: float, seed: int
) -> None:
    # From the middle half of the box, every direction has room for a quarter of its width.
    images = inside(shape, box, seed, share=0.5)
    wanted = torch.full((shape[0],), share * (box[1] - box[0]) / 4, dtype=torch.float64)
    noisy = gaussian_of_norm(images, wanted, generator=seeded(seed), box=box)
    assert ((noisy >= box[0]) & (noisy <= box[1])).all()
    torch.testing.assert_close(norms.l2(noisy - images), wanted, rtol=1e-6, atol=0)


def test_the_norm_is_kept_where_clipping_takes_some_of_it_away() -> None:
    # Images on the faces of the box: half of every direction is clipped, and the rest must make up for it.
    images = (inside((40, 1, 8, 8), (0.0, 1.0), 0) > 0.5).double()
    wanted = torch.linspace(0.01, 3.0, 40, dtype=torch.float64)
    noisy = gaussian_of_norm(images, wanted, generator=seeded(1))
    assert ((noisy >= 0) & (noisy <= 1)).all()
    torch.testing.assert_close(norms.l2(noisy - images), wanted, rtol=1e-6, atol=0)
    assert ((noisy == images).flatten(1).double().mean(1) > 0.2).all()


def test_the_norm_survives_float32() -> None:
    images = inside((20, 1, 28, 28), (0.0, 1.0), 2).float()
    wanted = torch.linspace(0.5, 4.0, 20, dtype=torch.float64)
    noisy = gaussian_of_norm(images, wanted, generator=seeded(3))
    assert noisy.dtype == torch.float32
    # A pixel rounds by at most 2^-25 (6e-8 apart below 1), so 784 of them by less than 1e-6 in all.
    assert ((norms.l2(noisy.double() - images.double()) - wanted).abs() < 1e-6).all()


def test_without_room_the_longest_step_in_that_direction_is_returned() -> None:
    images = torch.full((8, 1, 4, 4), 0.5, dtype=torch.float64)
    noisy = gaussian_of_norm(images, torch.full((8,), 1e6, dtype=torch.float64), generator=seeded())
    # From the centre the far corner in any direction is half the box away in every pixel.
    torch.testing.assert_close((noisy - images).abs(), torch.full_like(images, 0.5))


def test_zero_distance_returns_the_images() -> None:
    images = inside((5, 1, 4, 4), (0.0, 1.0), 4)
    assert torch.equal(gaussian_of_norm(images, torch.zeros(5), generator=seeded()), images)
    assert torch.equal(gaussian(images, 0.0, generator=seeded()), images)
    assert torch.equal(rescaled(images, images.roll(1, 0), 0.0), images)


def test_no_images_give_no_noise() -> None:
    empty = torch.zeros(0, 1, 4, 4)
    assert gaussian(empty, 0.1, generator=seeded()).shape == empty.shape
    assert gaussian_of_norm(empty, torch.zeros(0), generator=seeded()).shape == empty.shape
    assert rescaled(empty, empty, 0.1).shape == empty.shape


@law
@given(seed=seeds)
def test_noise_is_what_its_generator_says(seed: int) -> None:
    images = inside((3, 1, 4, 4), (0.0, 1.0), 0, share=0.5)
    wanted = torch.full((3,), 0.2)
    before = torch.get_rng_state()
    for make in (
        lambda g: gaussian(images, 0.2, generator=g),
        lambda g: gaussian_of_norm(images, wanted, generator=g),
    ):
        assert torch.equal(make(seeded(seed)), make(seeded(seed)))
        assert not torch.equal(make(seeded(seed)), make(seeded(seed + 1)))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_direction_does_not_depend_on_the_distance() -> None:
    images = inside((6, 1, 5, 5), (0.0, 1.0), 1, share=0.5)
    near = gaussian_of_norm(images, torch.full((6,), 0.05), generator=seeded(9)) - images
    far = gaussian_of_norm(images, torch.full((6,), 0.2), generator=seeded(9)) - images
    torch.testing.assert_close(4 * near, far, rtol=1e-5, atol=1e-9)


@law
@given(shape=shapes, share=st.floats(1e-4, 0.2), seed=seeds)
def test_rescaled_keeps_the_direction_and_has_the_distortion(shape: tuple[int, ...], share: float, seed: int) -> None:
    images = inside(shape, (0.0, 1.0), seed, share=0.1)
    r = torch.randn(shape, generator=seeded(seed + 1), dtype=torch.float64)
    r = 0.1 * r / norms.linf(r).reshape(-1, 1, 1, 1)
    # At most 0.2 * sqrt(108) of rms over entries of at most the length: keep the longest entry within 0.45.
    distortion = share * 0.45 / math.sqrt(r[0].numel())
    moved = rescaled(images, images + r, distortion)
    torch.testing.assert_close(
        norms.distortion(images, moved), torch.full((shape[0],), distortion).double(), rtol=1e-6, atol=0
    )
    got = (moved - images).flatten(1)
    cosine = torch.cosine_similarity(got, r.flatten(1), eps=1e-300)
    assert (cosine > 1 - 1e-9).all()


def test_rescaled_shrinks_as_well_as_it_stretches() -> None:
    images = torch.full((2, 1, 8, 8), 0.5, dtype=torch.float64)
    moved = images.clone()
    moved[0] += 0.4
    moved[1] += 0.001
    result = rescaled(images, moved, 0.1)
    torch.testing.assert_close(result, images + 0.1, rtol=1e-7, atol=0)


def test_rescaled_goes_back_to_the_box() -> None:
    images = torch.full((1, 1, 2, 2), 0.9, dtype=torch.float64)
    moved = images.clone()
    moved[0, 0, 0] += torch.tensor([0.05, -0.05], dtype=torch.float64)
    result = rescaled(images, moved, 0.3)
    assert ((result >= 0) & (result <= 1)).all()
    torch.testing.assert_close(norms.distortion(images, result), torch.tensor([0.3], dtype=torch.float64))


def test_rescaling_no_perturbation_leaves_the_image_instead_of_nan() -> None:
    images = inside((3, 1, 4, 4), (0.0, 1.0), 5)
    moved = images.clone()
    moved[1] = images[1].flip(-1)
    result = rescaled(images, moved, 0.1)
    assert result.isfinite().all()
    assert torch.equal(result[[0, 2]], images[[0, 2]])


def test_a_negative_standard_deviation_is_refused() -> None:
    with pytest.raises(InputError, match="std"):
        gaussian(torch.zeros(1, 4), -0.1, generator=seeded())


@pytest.mark.parametrize(
    "distance",
    [
        torch.tensor([0.1]),
        torch.tensor([[0.1, 0.1]]),
        torch.tensor([0.1, -0.1]),
        torch.tensor([0.1, torch.inf]),
        torch.tensor([torch.nan, 0.1]),
        torch.zeros(0),
        torch.tensor(0.1),
    ],
    ids=["too few", "two axes", "negative", "infinite", "nan", "none", "a single number"],
)
def test_distances_that_cannot_be_used_are_refused(distance: torch.Tensor) -> None:
    with pytest.raises(InputError, match="distance"):
        gaussian_of_norm(torch.zeros(2, 4), distance, generator=seeded())

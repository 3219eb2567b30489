"""Splitting against closed forms and plain Monte Carlo."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor, nn

from intriguing.bounds.rare import RareEvent, Splitting, naive, sample
from intriguing.errors import InputError, ModelError, UnknownNameError
from intriguing.rng import generator

PIXELS = 64


def streams(count: int, name: str = "test", seed: int = 0) -> list[torch.Generator]:
    return [generator(f"{name}/{i}", seed) for i in range(count)]


def half_space(distance: float, pixels: int = PIXELS) -> Callable[[Tensor], Tensor]:
    """Return a two-class net that is wrong beyond a plane at this distance from mid grey, in a random direction."""
    normal = torch.randn(pixels, generator=generator("normal", 0), dtype=torch.float64)
    normal /= normal.norm()
    offset = normal.sum() / 2 + distance

    def net(x: Tensor) -> Tensor:
        score = x.flatten(1) @ normal.float() - float(offset)
        return torch.stack((torch.zeros_like(score), score), dim=1)

    return net


def grey(count: int, pixels: int = PIXELS) -> tuple[Tensor, Tensor]:
    return torch.full((count, 1, pixels, 1), 0.5), torch.zeros(count, dtype=torch.int64)


def cap(radius: float, distance: float, pixels: int = PIXELS) -> float:
    """Return log10 of the share of a ball beyond the plane: a spherical cap."""
    return math.log10(special.betainc((pixels + 1) / 2, 0.5, 1 - (distance / radius) ** 2) / 2)


@pytest.mark.parametrize(
    ("region", "size", "distance", "exact"),
    [
        ("ball", 0.4, 0.2, cap(0.4, 0.2)),  # 8e-6; no pixel comes near the box
        ("ball", 0.4, 0.3, cap(0.4, 0.3)),  # 1e-13
        ("gaussian", 0.05, 0.35, math.log10(stats.norm.sf(7.0))),  # 1e-12
    ],
)
def test_a_half_space_has_the_share_of_the_closed_form(region: str, size: float, distance: float, exact: float) -> None:
    repeats = 16
    images, labels = grey(repeats)
    rule = Splitting(particles=100, keep=0.5, moves=10, region=region)
    found = rule(half_space(distance), images, labels, torch.full((repeats,), size), generators=streams(repeats))
    assert found.reached.all()
    spread = float(found.log10.std())
    assert spread < 1.0
    # Three standard errors of the mean; the levels' own logarithms are without bias.
    assert abs(float(found.log10.mean()) - exact) < 3 * spread / math.sqrt(repeats)
    # And as precise as said: the theoretical spread, with half again for moves that remember.
    theory = math.sqrt(-exact * math.log(10) / math.log(2) / 100) / math.log(10)
    assert spread < 1.8 * theory


def crooked(pixels: int) -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 12), nn.Tanh(), nn.Linear(12, 4))
    draw = generator("crooked", 1)
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn(weight.shape, generator=draw) * (2.0 if weight.ndim > 1 else 0.5))
    return net


def test_splitting_agrees_with_plain_monte_carlo_on_a_crooked_net_at_the_edge_of_the_box() -> None:
    """Folded pixels, several classes, curved regions: no closed form, but shares that counting can see."""
    net, count, samples = crooked(16), 12, 40_000
    images = torch.rand(count, 1, 4, 4, generator=generator("images", 0)).round(decimals=1)
    images[:, :, 0] = 0.0
    labels = net(images).argmax(1)
    sizes = torch.full((count,), 0.35)
    errors = naive(net, images, labels, sizes, samples=samples, generators=streams(count, "naive"))
    seen = (errors >= 10) & (errors < samples // 4)
    assert seen.sum() >= 3
    plain = (errors[seen] / samples).double().log()
    repeats = 8
    rows = seen.nonzero().squeeze(1).repeat_interleave(repeats)
    rule = Splitting(particles=100, keep=0.5, moves=10)
    found = rule(net, images[rows], labels[rows], sizes[rows], generators=streams(len(rows), "splitting"))
    logs = (found.log10 * math.log(10)).view(-1, repeats)
    error = (logs.var(1) / repeats + 1 / errors[seen].double()).sqrt()
    assert ((logs.mean(1) - plain).abs() < 3 * error).all()


def test_draws_are_uniform_in_the_ball() -> None:
    count, pixels = 4000, 10
    images = torch.full((count, pixels), 0.5)
    drawn = sample(images, torch.full((count,), 0.4), generators=streams(count), box=None)
    r = (drawn - images).double()
    share = (r.norm(dim=1) / 0.4) ** pixels  # the volume within: uniform in [0, 1]
    assert stats.kstest(share.numpy(), "uniform").pvalue > 1e-3
    direction = r / r.norm(dim=1, keepdim=True)
    # A coordinate of a uniform direction, squared, is beta distributed.
    for pixel in (0, 9):
        assert stats.kstest(direction[:, pixel].square().numpy(), stats.beta(0.5, 4.5).cdf).pvalue > 1e-3


def test_folded_draws_stay_in_the_box_and_in_the_ball() -> None:
    images = torch.rand(300, 1, 4, 4, generator=generator("images", 1))
    images[::2] = images[::2].round()
    for size in (0.3, 3.0, 20.0):
        sizes = torch.full((300,), size)
        folded = sample(images, sizes, generators=streams(300))
        free = sample(images, sizes, generators=streams(300), box=None)
        assert ((folded >= 0) & (folded <= 1)).all()
        # Both are the same draw: a mirror keeps what is inside, and never takes a point farther from the image.
        inside = (free >= 0) & (free <= 1)
        torch.testing.assert_close(folded[inside], free[inside], rtol=0, atol=2e-6)
        assert ((folded - images).abs() <= (free - images).abs() + 1e-5).all()
    one = torch.tensor([[0.0]])
    drawn = sample(one, torch.tensor([0.5]), generators=streams(1))
    free = sample(one, torch.tensor([0.5]), generators=streams(1), box=None)
    torch.testing.assert_close(drawn, free.abs())


def test_a_point_alone_has_the_estimate_it_has_among_others() -> None:
    """The other points end at other levels, leave the batch, and must not touch this one's random numbers."""
    count = 5
    images, labels = grey(count)
    sizes = torch.tensor([0.25, 0.3, 0.4, 0.6, 0.9])
    rule = Splitting(particles=50, moves=5)
    together = rule(half_space(0.2), images, labels, sizes, generators=streams(count))
    assert len(set(together.levels.tolist())) > 1
    for i in range(count):
        row = slice(i, i + 1)
        alone = rule(half_space(0.2), images[row], labels[row], sizes[row], generators=[generator(f"test/{i}", 0)])
        torch.testing.assert_close(alone.log10, together.log10[row])
        assert alone.forwards.tolist() == together.forwards[row].tolist()
    assert np.all(np.diff(together.log10.numpy()) > 0), "a larger ball holds a larger share"


def test_a_search_ends_at_its_floor_or_out_of_levels() -> None:
    images, labels = grey(2)
    sizes = torch.full((2,), 0.4)
    found = Splitting(particles=50, moves=3, floor=-5)(half_space(0.3), images, labels, sizes, generators=streams(2))
    assert not found.reached.any()
    assert ((found.log10 < -5) & (found.log10 > -7)).all()
    # No errors anywhere: a net that always answers the label, whose scores are all alike.
    constant = Splitting(particles=20, moves=2, levels=7)(
        lambda x: torch.tensor([[1.0, 0.0]]).expand(len(x), 2), images, labels, sizes, generators=streams(2)
    )
    assert isinstance(constant, RareEvent)
    assert not constant.reached.any()
    assert constant.levels.tolist() == [7, 7]
    # Errors everywhere: a share of 1, at once.
    wrong = Splitting()(
        lambda x: torch.tensor([[0.0, 1.0]]).expand(len(x), 2), images, labels, sizes, generators=streams(2)
    )
    assert wrong.reached.all()
    assert wrong.log10.tolist() == [0.0, 0.0]


def test_the_net_is_left_as_it_was_and_nan_is_named() -> None:
    net = crooked(16)
    images = torch.rand(2, 1, 4, 4, generator=generator("images", 2))
    Splitting(particles=20, moves=2, levels=3)(
        net, images, net(images).argmax(1), torch.full((2,), 0.2), generators=streams(2)
    )
    assert net.training
    assert all(weight.requires_grad for weight in net.parameters())
    with torch.no_grad():
        net[1].weight.fill_(torch.nan)
    with pytest.raises(ModelError, match="NaN"):
        naive(net, images, torch.zeros(2, dtype=torch.int64), torch.ones(2), samples=5, generators=streams(2))


def test_what_cannot_be_asked_is_refused() -> None:
    images, labels = grey(2)
    net, sizes = half_space(0.2), torch.ones(2)
    with pytest.raises(UnknownNameError, match="ball"):
        Splitting(region="bal")(net, images, labels, sizes, generators=streams(2))
    for bad in (torch.zeros(2), torch.tensor([1.0, torch.inf]), torch.ones(3)):
        with pytest.raises(InputError, match="sizes"):
            Splitting()(net, images, labels, bad, generators=streams(2))
    with pytest.raises(InputError, match="generators"):
        Splitting()(net, images, labels, sizes, generators=streams(1))
    for wrong, name in (({"particles": 5}, "particles"), ({"keep": 1.0}, "keep"), ({"acceptance": 0.0}, "acceptance")):
        with pytest.raises(InputError, match=name):
            Splitting(**wrong)(net, images, labels, sizes, generators=streams(2))
    with pytest.raises(InputError, match="samples"):
        naive(net, images, labels, sizes, samples=0, generators=streams(2))

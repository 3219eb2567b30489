from __future__ import annotations

import pytest
import torch
from soundness import digits, drawn, seeded
from torch import nn

from intriguing.bounds.smoothing import LABEL, clopper_pearson, smoothed
from intriguing.errors import InputError


def test_a_linear_net_is_its_own_smoothing():
    """Two classes: P(class 1) = Phi(margin / (sigma |w|)), so that the true radius is the margin over |w|."""
    net = drawn(nn.Sequential(nn.Linear(6, 2)).double(), 2)
    x = torch.rand(40, 6, generator=seeded(4), dtype=torch.float64)
    with torch.no_grad():
        z = net(x)
    w = (net[0].weight[1] - net[0].weight[0]).detach()
    exact = (z[:, 1] - z[:, 0]).abs() / w.norm()
    found = smoothed(net, x, sigma=0.5, generator=seeded(5), samples=4000)
    said = found.prediction >= 0
    assert (found.prediction[said] == z.argmax(1)[said]).all()
    # 40 statements at 0.999 each: one would be false in 1 of 25 runs; this seed is not such a run.
    assert (found.radius <= exact).all()
    inside = said & (exact < 1)  # the radius cannot exceed 0.5 Phi^-1(0.001^(1 / 4000)) = 1.46
    assert (found.radius[inside] >= 0.75 * exact[inside] - 0.05).all()
    assert inside.sum() > 20


def test_the_bound_of_a_probability_holds_as_often_as_it_says():
    for p in (0.5, 0.8, 0.99):
        draws = torch.binomial(torch.full((2000,), 200.0), torch.full((2000,), p), generator=seeded(1))
        wrong = sum(clopper_pearson(int(k), 200, 0.95) > p for k in draws)
        # At most 5% by the theorem; 2000 trials spread it by 0.5 points.
        assert wrong <= 0.065 * 2000
    assert clopper_pearson(0, 10, 0.9) == 0
    assert clopper_pearson(10, 10, 0.999) == pytest.approx(0.001**0.1)


def test_nothing_is_said_where_no_class_leads():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with torch.no_grad():
        net[1].weight.fill_(1.0)[0] = -1
        net[1].bias.zero_()
    x = torch.zeros(1, 1, 8, 8)
    found = smoothed(net, x, sigma=1.0, generator=seeded(), samples=100)
    assert found.prediction.item() == -1
    assert found.radius.item() == 0


def test_noise_comes_from_the_generator_and_batches_do_not_matter():
    net = drawn(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    x, _ = digits(2)
    first = smoothed(net, x, sigma=0.3, generator=seeded(7), samples=200)
    again = smoothed(net, x, sigma=0.3, generator=seeded(7), samples=200, batch=1000)
    assert torch.equal(first.radius, again.radius)
    assert first.label == LABEL
    assert "probabilistic" in first.label


def test_mistakes_are_named():
    x, _ = digits(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(InputError, match="sigma"):
        smoothed(net, x, sigma=0, generator=seeded())
    with pytest.raises(InputError, match="samples"):
        smoothed(net, x, sigma=1, generator=seeded(), samples=0)

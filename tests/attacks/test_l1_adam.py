"""The L1 variant: its minimiser on a linear net in closed form, what it may spend, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from small_nets import Counting, digits, linear, random_linear, seeded, sigmoid_net
from torch import Tensor

from intriguing import norms
from intriguing.attacks.l1_adam import L1Adam, l1_adam
from intriguing.attacks.result import AttackStatus, Phase
from intriguing.errors import InputError

SLOPE = torch.tensor([1.0, 4.0, 2.0, 0.5])


def two_classes(x: Tensor, offset: float) -> torch.nn.Module:
    """Return logits (0, SLOPE x - offset)."""
    return linear(torch.stack((torch.zeros(4), SLOPE)), torch.tensor([0.0, -offset]))


def solve(x: Tensor, offset: float, weight: float) -> Tensor:
    labels = torch.zeros(len(x), dtype=torch.int64)
    net = two_classes(x, offset)
    attack = L1Adam(weight=weight, steps=3000)
    return attack(net, x, labels, generator=seeded()).adversarial - x


def test_on_a_linear_net_the_steepest_pixel_alone_moves_as_far_as_the_weight_says() -> None:
    """Where r_i > 0 alone, w (1 - p) a_i = 1: then the margin is log(w a_i - 1), by the pixel of the largest a_i."""
    x = torch.full((1, 4), 0.2)
    weight, offset = 1.0, 3.0
    margin = math.log(weight * 4 - 1)
    r = solve(x, offset, weight)[0]
    expected = (margin - (0.2 * SLOPE.sum().item() - offset)) / 4
    assert expected < 0.8  # the box does not bind
    # Adam's last steps tremble around the kink of the norm by a few times its rate.
    assert r[1].item() == pytest.approx(expected, abs=0.01)
    assert r[[0, 2, 3]].abs().max() < 0.01


def test_below_its_threshold_the_weight_loses_to_the_norm_and_nothing_is_found() -> None:
    """At r = 0 the gradient is at most w a_i = 0.8 < 1 in every pixel, so the minimiser is the image itself."""
    x = torch.full((1, 4), 0.2)
    labels = torch.zeros(1, dtype=torch.int64)
    result = L1Adam(weight=0.2)(two_classes(x, 3.0), x, labels, generator=seeded())
    assert result.status.item() == AttackStatus.NOT_FOUND
    assert result.distance.item() == math.inf
    assert result.target.item() == -1
    assert torch.equal(result.adversarial, x)


def test_its_steps_are_those_of_torch() -> None:
    """A black image and a net that calls any bright one class 1: the random start is an example already."""
    net = linear(torch.stack((torch.zeros(8), torch.arange(1.0, 9.0))).double(), torch.tensor([0.0, -1.0]).double())
    x, labels = torch.zeros(1, 8, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    result = L1Adam(steps=7, rate=0.01, weight=50.0)(net, x, labels, generator=seeded())
    point = torch.rand(8, generator=seeded()).double()[None].requires_grad_()
    adam = torch.optim.Adam([point], lr=0.01)
    for _ in range(7):
        adam.zero_grad()
        (point.abs().sum() + 50 * torch.nn.functional.cross_entropy(net(point), labels + 1)).backward()
        adam.step()
        with torch.no_grad():
            point.clamp_(0, 1)
    assert result.found.all()
    torch.testing.assert_close(result.adversarial, point.detach(), rtol=1e-9, atol=1e-12)


def test_a_larger_weight_goes_farther() -> None:
    x, labels = digits()
    net = sigmoid_net()
    keep = net(x[:60]).argmax(1) == labels[:60]
    x, labels = x[:60][keep], labels[:60][keep]
    target = (labels + 1) % 10
    sizes, reached = [], []
    for weight in (0.3, 3.0, 30.0):
        result = l1_adam(net, x, labels, generator=seeded(), target=target, weight=weight, steps=1500)
        reached.append(int(result.found.sum()))
        sizes.append(norms.l1(result.adversarial - x))
        assert torch.equal(result.found, result.phase == int(Phase.DESCENT))
        assert torch.equal(result.distance_search, result.distance)
    assert reached[0] < reached[1] == reached[2] == len(x)
    assert (sizes[2] > sizes[1]).all()


@pytest.mark.parametrize("target", ["all", "random", "top-3", "nearest"])
def test_passes_are_those_the_net_saw_and_within_the_budget(target: str) -> None:
    x, labels = digits()
    for budget in (1, 2, 4, 9, 19, 60):
        net = Counting(sigmoid_net())
        result = L1Adam(target=target, budget=budget)(net, x[:12], labels[:12], generator=seeded())
        assert net.forwards == result.forwards.sum()
        assert net.backwards == result.backwards.sum()
        assert (result.forwards + result.backwards <= budget).all()
        assert (result.status[~result.found & result.attacked] == int(AttackStatus.BUDGET_SPENT)).all()


def test_small_slots_change_nothing_but_rounding() -> None:
    x, labels = digits()
    whole = L1Adam(steps=200)(sigmoid_net(), x[:8], labels[:8], generator=seeded())
    parts = L1Adam(steps=200, slots=5)(sigmoid_net(), x[:8], labels[:8], generator=seeded())
    torch.testing.assert_close(parts.by_target, whole.by_target, rtol=1e-3, atol=0)
    assert torch.equal(parts.forwards, whole.forwards)


def test_of_all_targets_the_closest_in_l2_is_returned() -> None:
    x, labels = digits()
    result = L1Adam(steps=600)(sigmoid_net(), x[:10], labels[:10], generator=seeded())
    found = result.found
    assert found.sum() >= 8
    torch.testing.assert_close(result.by_target[found].amin(1), result.distance[found])
    assert torch.equal(result.by_target[found].argmin(1), result.target[found])
    assert (result.by_target[torch.arange(10)[found], labels[:10][found]] == math.inf).all()


def test_progress_ends_at_its_total() -> None:
    x, labels = digits()
    told: list[tuple[float, float]] = []
    L1Adam(steps=100, target="random")(
        sigmoid_net(), x[:4], labels[:4], generator=seeded(), progress=lambda done, total: told.append((done, total))
    )
    assert told[-1][0] == told[-1][1]


def test_the_label_is_no_target() -> None:
    x, labels = digits()
    with pytest.raises(InputError, match="equal to the label"):
        L1Adam(target=labels[:4])(random_linear(), x[:4], labels[:4], generator=seeded())


def test_what_it_cannot_use_is_refused() -> None:
    x, labels = digits()
    with pytest.raises(InputError, match="generator"):
        L1Adam()(random_linear(), x[:4], labels[:4])
    for name, value in (("weight", 0.0), ("weight", math.inf), ("rate", -1.0), ("steps", 0), ("slots", 0)):
        with pytest.raises(InputError, match=name):
            L1Adam(**{name: value})(random_linear(), x[:4], labels[:4], generator=seeded())
    with pytest.raises(InputError, match="budget"):
        L1Adam(budget=0)(random_linear(), x[:4], labels[:4], generator=seeded())

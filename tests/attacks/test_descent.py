"""What the first-order attacks share: margins, steps within a budget, directions that no other image changes."""

from __future__ import annotations

import math

import pytest
import torch
from small_nets import Counting, digits, random_linear, seeded, sigmoid_net

from intriguing.attacks import ALMA, DDN, FMN, PDGD, CarliniWagner, DeepFool, descent
from intriguing.attacks.base import Trial
from intriguing.nets.load import Model


def test_excess_is_the_logit_still_missing() -> None:
    z = torch.tensor([[3.0, 1.0, 2.5], [3.0, 1.0, 2.5], [0.0, 1.0, 2.5]])
    label, wanted = torch.tensor([0, 0, 0]), torch.tensor([-1, 1, -1])
    assert descent.excess(z, label, wanted).tolist() == [0.5, 2.0, -2.5]


def test_cross_entropy_falls_away_from_the_label_or_towards_the_target() -> None:
    z = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    near, far = math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))
    loss = descent.cross_entropy_away(z, torch.tensor([0, 0]), torch.tensor([-1, 1]))
    assert loss.tolist() == pytest.approx([-near, far])


def test_cosine_runs_from_first_to_last() -> None:
    assert descent.cosine(1.0, 0.01, 0, 10) == 1.0
    assert descent.cosine(1.0, 0.01, 5, 10) == pytest.approx(0.505)
    assert descent.cosine(1.0, 0.01, 10, 10) == pytest.approx(0.01)


def test_a_lost_direction_is_drawn_by_step_and_seed_alone() -> None:
    g = torch.tensor([[3.0, 4.0], [0.0, 0.0], [torch.nan, 1.0]])
    draw = seeded(5)
    before = draw.get_state()
    u = descent.unit(g, 3, draw)
    torch.testing.assert_close(u[0], torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(u.norm(dim=1), torch.ones(3))
    assert torch.equal(u[1], u[2])
    assert torch.equal(descent.unit(g[1:2], 3, seeded(5))[0], u[1])  # alone as among others
    assert not torch.equal(descent.unit(g, 4, draw)[1], u[1])
    assert not torch.equal(descent.unit(g, 3, seeded(6))[1], u[1])
    assert torch.equal(draw.get_state(), before)


@pytest.mark.parametrize(("budget", "steps", "expected"), [(None, None, 70), (None, 9, 9), (20, None, 9), (20, 5, 5)])
def test_steps_are_as_told_or_what_the_budget_pays(budget: int | None, steps: int | None, expected: int) -> None:
    model = Model(random_linear())
    with model.frozen():
        trial = Trial(model, digits()[0][:2], None, norm=2, budget=budget)
        assert descent.planned(trial, steps, 70) == expected


@pytest.mark.parametrize("kind", [DDN, FMN, ALMA, PDGD, CarliniWagner])
def test_a_budget_is_spent_to_the_last_pair_of_passes(kind: type) -> None:
    counting = Counting(sigmoid_net())
    images, labels = digits()[0][:8], digits()[1][:8]
    result = kind(budget=31)(Model(counting), images, labels, generator=seeded())
    passes = (result.forwards + result.backwards)[result.attacked]
    assert (passes <= 31).all()
    assert (passes >= 29).all()
    assert counting.forwards == result.forwards.sum()
    assert counting.backwards == result.backwards.sum()


def test_jacobian_of_differences_is_the_difference_of_the_jacobian_at_one_pass_less() -> None:
    model = Model(sigmoid_net(torch.float64))
    images = digits()[0][:3].double()
    with model.frozen():
        trial = Trial(model, images, None, norm=2, budget=None)
        image, x = torch.arange(3), images.flatten(1)
        classes, against = torch.tensor([[1, 2], [3, 4], [5, 6]]), torch.tensor([0, 0, 9])
        _, w = trial.jacobian(x, image, classes, against)
        assert (trial.backwards == 2).all()
        _, plain = trial.jacobian(x, image, torch.cat((classes, against[:, None]), 1))
        torch.testing.assert_close(w, plain[:, :2] - plain[:, 2:])


def test_the_first_steps_of_a_flat_net_do_not_divide_by_zero() -> None:
    """A net with no slope at all: nothing is found, nothing is NaN, and the box holds."""

    class Flat(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            z = images.flatten(1).sum(1, keepdim=True) * 0
            return torch.cat((z + 1, z, z), 1)

    images = digits()[0][:4]
    for attack in (DDN(steps=6), FMN(steps=6), FMN(norm=1, steps=6), ALMA(steps=6), PDGD(steps=6), DeepFool(steps=3)):
        result = attack(Model(Flat()), images, torch.zeros(4, dtype=torch.int64))
        assert not result.found.any(), attack
        assert (result.status == 2).all(), attack

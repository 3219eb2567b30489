"""DeepFool and SuperDeepFool against the exact optimum of linear nets."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from linear_optima import any_wrong, box_moved, case, grey, ratios
from small_nets import digits, sigmoid_net

from intriguing.attacks import DeepFool, SuperDeepFool, deepfool, superdeepfool
from intriguing.attacks.deepfool import nearest_boundary
from intriguing.errors import InputError
from intriguing.nets.load import Model


@pytest.mark.parametrize("norm", [2, math.inf])
def test_one_step_solves_a_linear_net_and_goes_beyond_by_the_overshoot(norm: float) -> None:
    """Without the box in the way found over optimal is 1 + overshoot, whatever the number of classes."""
    for classes in (2, 5):
        result, ratio = ratios(DeepFool(norm=norm, overshoot=0.03), grey(classes))
        np.testing.assert_allclose(ratio, 1.03, rtol=1e-4)
        assert (result.backwards == classes - 1).all()
        assert (result.forwards == 4).all()  # the image, its gradients, the step, the judgement


@pytest.mark.parametrize("norm", [2, math.inf])
def test_the_box_costs_little_more(norm: float) -> None:
    _, ratio = ratios(DeepFool(norm=norm), case(2))
    assert ratio.max() <= 1.03
    _, ratio = ratios(DeepFool(norm=norm), case(10))
    assert np.median(ratio) <= 1.03


def test_with_a_target_steps_lead_there_at_one_backward_each() -> None:
    problem = grey(5)
    targets = any_wrong(problem)
    result = deepfool(Model(problem.net), problem.images, problem.labels, target=targets)
    assert (result.target[result.found] == targets[result.found]).all()
    assert result.found.float().mean() > 0.5
    assert (result.backwards <= 50).all()


def test_nearest_boundary_is_the_least_quotient() -> None:
    w = torch.tensor([[[3.0, 4.0], [0.0, 2.0]]])
    f = torch.tensor([[-5.0, -1.0]])
    r, chosen = nearest_boundary(f, w, 2.0)
    assert chosen.tolist() == [1]
    torch.testing.assert_close(r, torch.tensor([[0.0, 0.5]]))
    r, chosen = nearest_boundary(torch.tensor([[-1.0, -1.0]]), w, math.inf)
    assert chosen.tolist() == [0]
    torch.testing.assert_close(r, torch.full((1, 2), 1 / 7))


def test_a_norm_without_a_step_is_refused() -> None:
    with pytest.raises(InputError, match="FAB and FMN"):
        deepfool(Model(sigmoid_net()), digits()[0][:2], digits()[1][:2], norm=1)


def test_superdeepfool_is_exact_on_linear_nets_in_the_box() -> None:
    """The projection on the boundary's plane within the box is the optimum itself, up to the last bisection."""
    _, ratio = ratios(SuperDeepFool(), case(2))
    assert ratio.max() <= 1.002
    _, ratio = ratios(SuperDeepFool(), grey(4))
    assert ratio.max() <= 1.002
    _, ratio = ratios(SuperDeepFool(), case(10))
    assert np.median(ratio) <= 1.002


def test_superdeepfool_turns_towards_the_normal_and_comes_nearer_than_deepfool() -> None:
    """Table 1 of its paper in small: the change is better aligned with the boundary's normal, and shorter."""
    model = Model(sigmoid_net())
    images, labels = digits()
    images, labels = images[:40], labels[:40]
    plain, turned = deepfool(model, images, labels), superdeepfool(model, images, labels)
    both = plain.found & turned.found
    assert both.sum() >= 30
    assert turned.distance[both].mean() < plain.distance[both].mean() / 1.02
    assert (turned.distance[both] <= plain.distance[both] * 1.001).float().mean() >= 0.9


def test_superdeepfool_in_another_box_and_with_targets() -> None:
    box_moved(SuperDeepFool(), case(3))
    problem = case(3)
    result = superdeepfool(Model(problem.net), problem.images, problem.labels, target=any_wrong(problem))
    assert torch.equal(result.target[result.found], any_wrong(problem)[result.found])

"""ALMA against the exact optimum of linear nets, and its penalty by its derivative."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from linear_optima import any_wrong, box_moved, case, ratios
from small_nets import Recording, digits, sigmoid_net

from intriguing.attacks import ALMA, alma
from intriguing.attacks.alma import penalty_slope
from intriguing.errors import InputError
from intriguing.nets.load import Model


@pytest.mark.parametrize(("norm", "bound"), [(2, 1.005), (1, 1.1)])
def test_two_and_more_classes_end_near_the_optimum(norm: float, bound: float) -> None:
    _, ratio = ratios(ALMA(norm=norm, steps=200), case(2))
    assert ratio.max() <= bound
    _, ratio = ratios(ALMA(norm=norm, steps=200), case(5))
    assert np.median(ratio) <= bound


def test_a_target_is_reached() -> None:
    """Also targets that are the least likely of four, which the plain ratio of logits does not lead to."""
    problem = case(4)
    result, ratio = ratios(ALMA(steps=200, target=any_wrong(problem)), problem, any_wrong(problem))
    assert torch.equal(result.target, any_wrong(problem))
    assert np.median(ratio) <= 1.1


def test_the_penalty_has_the_slope_of_p2() -> None:
    y = torch.linspace(-2, 2, 41, dtype=torch.float64, requires_grad=True)
    rho, mu = torch.tensor(1.7, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)
    outside, inside = mu * y + mu * rho * y**2 + rho**2 * y**3 / 6, mu * y / (1 - rho * y.clamp(max=0))
    (slope,) = torch.autograd.grad(torch.where(y >= 0, outside, inside).sum(), y)
    torch.testing.assert_close(penalty_slope(y.detach(), rho, mu), slope)


@pytest.mark.parametrize(("norm", "order"), [(2, 2), (1, 1)])
def test_the_first_step_has_the_length_asked_for(norm: float, order: int) -> None:
    recording = Recording(sigmoid_net(torch.float64))
    images, labels = digits()[0][:8].double(), digits()[1][:8]
    alma_of_two = ALMA(norm=norm, steps=2, first=0.2)
    alma_of_two(Model(recording), images, labels)
    first, second = recording.points[0], recording.points[1]
    length = torch.linalg.vector_norm(second - first, ord=order, dim=1)
    torch.testing.assert_close(length, torch.full_like(length, 0.2), rtol=1e-3, atol=0)


def test_another_box_is_attacked_alike_and_linf_is_refused() -> None:
    box_moved(ALMA(steps=40), case(3))
    with pytest.raises(InputError, match="FAB and FMN"):
        alma(Model(sigmoid_net()), digits()[0][:2], digits()[1][:2], norm=float("inf"))

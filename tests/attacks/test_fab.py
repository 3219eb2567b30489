"""FAB against the exact optimum of linear nets in three norms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from linear_optima import any_wrong, box_moved, case, grey, ratios
from small_nets import digits, seeded, sigmoid_net

from intriguing.attacks import FAB, fab
from intriguing.nets.load import Model

NORMS = pytest.mark.parametrize("norm", [1, 2, math.inf])


@NORMS
def test_two_classes_are_solved_within_one_percent(norm: float) -> None:
    _, ratio = ratios(FAB(norm=norm, steps=20), case(2))
    assert ratio.max() <= 1.01


@NORMS
def test_many_classes_are_solved_within_one_percent_by_runs_towards_each(norm: float) -> None:
    """The nearest plane need not be the nearest within the box; a run towards each class is sure to meet it."""
    _, ratio = ratios(FAB(norm=norm, steps=30), case(5))
    assert np.median(ratio) <= 1.01
    _, ratio = ratios(FAB(norm=norm, steps=15, toward=4), case(5))
    assert ratio.max() <= 1.01


def test_a_target_is_reached() -> None:
    problem = grey(4)
    targets = any_wrong(problem)
    result = fab(Model(problem.net), problem.images, problem.labels, target=targets, steps=30)
    assert torch.equal(result.target[result.found], targets[result.found])
    assert result.found.float().mean() > 0.5


def test_a_step_costs_two_forwards_and_a_backward_for_each_class() -> None:
    problem = case(5)
    result = fab(Model(problem.net), problem.images, problem.labels, steps=7)
    assert (result.backwards == 7 * 4).all()
    assert (result.forwards == 1 + 7 * 2 + 3 + 1).all()  # the image, the steps, the cuts, the judgement
    result = fab(Model(problem.net), problem.images, problem.labels, steps=7, toward=2)
    assert (result.backwards == 7 * 2).all()


def test_restarts_start_elsewhere_and_do_no_harm() -> None:
    model, images, labels = Model(sigmoid_net()), digits()[0][:20], digits()[1][:20]
    once = fab(model, images, labels, steps=12)
    more = fab(model, images, labels, steps=12, restarts=3, generator=seeded(3))
    assert (more.forwards[more.attacked] > 2 * once.forwards[once.attacked]).all()
    assert (more.distance <= once.distance * (1 + 1e-3)).all()
    assert (more.distance < once.distance * (1 - 1e-3)).any()
    assert torch.equal(more.distance, fab(model, images, labels, steps=12, restarts=3, generator=seeded(3)).distance)


@NORMS
def test_another_box_is_attacked_alike(norm: float) -> None:
    box_moved(FAB(norm=norm, steps=15), case(3))

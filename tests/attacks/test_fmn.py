"""FMN against the exact optimum of linear nets in three norms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from linear_optima import any_wrong, box_moved, case, ratios

from intriguing.attacks import FMN, fmn
from intriguing.errors import InputError
from intriguing.nets.load import Model


@pytest.mark.parametrize(("norm", "bound"), [(1, 1.1), (2, 1.002), (math.inf, 1.02)])
def test_two_classes_end_near_the_optimum(norm: float, bound: float) -> None:
    _, ratio = ratios(FMN(norm=norm, steps=120), case(2))
    assert ratio.max() <= bound


@pytest.mark.parametrize(("norm", "bound"), [(1, 1.1), (2, 1.002), (math.inf, 1.02)])
def test_targets_and_any_class_end_near_the_optimum(norm: float, bound: float) -> None:
    problem = case(4)
    _, ratio = ratios(FMN(norm=norm, steps=120), problem)
    assert np.median(ratio) <= bound
    result, ratio = ratios(FMN(norm=norm, steps=120, target=any_wrong(problem)), problem, any_wrong(problem))
    assert torch.equal(result.target, any_wrong(problem))
    # A third class may lie between: the margin's gradient then jumps from one to the other.
    assert np.median(ratio) <= 1.1


@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_another_box_is_attacked_alike(norm: float) -> None:
    box_moved(FMN(norm=norm, steps=30), case(2))


def test_the_radius_before_the_first_success_is_the_linearised_distance() -> None:
    """Where the box is far, the second point lies where the margin of a linear net is 0."""
    from linear_optima import grey
    from small_nets import Recording

    problem = grey(2)
    recording = Recording(problem.net)
    fmn(Model(recording), problem.images, problem.labels, steps=2)
    second = recording.points[1]
    torch.testing.assert_close(
        (second - problem.images.flatten(1)).norm(dim=1).double(), problem.optimum(2), rtol=1e-4, atol=0
    )


def test_unknown_norms_are_refused() -> None:
    with pytest.raises(InputError, match="norm"):
        ratios(FMN(norm=3), case(2))

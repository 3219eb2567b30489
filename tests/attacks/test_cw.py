"""The attack of Carlini and Wagner against the exact optimum of linear nets, and its search over c."""

from __future__ import annotations

import numpy as np
import torch
from linear_optima import any_wrong, box_moved, grey, ratios
from small_nets import seeded

from intriguing.attacks import CarliniWagner, carlini_wagner
from intriguing.attacks.cw import _Rows
from intriguing.nets.load import Model


def test_the_optimum_is_approached_where_the_box_is_far() -> None:
    """f6 is an exact penalty: for c above a threshold the minimiser is the nearest adversarial point itself."""
    for classes in (2, 4):
        _, ratio = ratios(CarliniWagner(steps=150, searches=6, first=0.1), grey(classes))
        # Adam's steps are of one size in every pixel, and overshoot a boundary that is very near.
        assert np.median(ratio) <= 1.01
        assert np.quantile(ratio, 0.75) <= 1.02


def test_a_target_is_reached() -> None:
    problem = grey(4)
    attack = CarliniWagner(steps=60, searches=4, first=0.1, target=any_wrong(problem))
    result = attack(Model(problem.net), problem.images, problem.labels)
    assert torch.equal(result.target[result.found], any_wrong(problem)[result.found])
    assert result.found.float().mean() > 0.5


def test_confidence_asks_for_a_margin() -> None:
    problem = grey(2)
    plain = carlini_wagner(Model(problem.net), problem.images, problem.labels, steps=30)
    sure = carlini_wagner(Model(problem.net), problem.images, problem.labels, steps=30, confidence=0.5)
    assert (sure.distance >= plain.distance * (1 - 1e-3)).all()


def test_c_grows_tenfold_until_a_success_and_is_bisected_after_it() -> None:
    rows = _Rows.start(torch.full((3, 4), 0.5), torch.arange(3), 0.01)
    over = torch.tensor([True, True, False])
    rows.found[1] = True
    rows.w += 1
    rows.restart(over)
    torch.testing.assert_close(rows.c, torch.tensor([0.1, 0.005, 0.01]))
    assert (rows.w[:2] == 0).all()
    assert (rows.w[2] == 1).all()
    assert not rows.found.any()
    rows.found[0] = True
    rows.restart(over)
    torch.testing.assert_close(rows.c, torch.tensor([0.055, 0.0075, 0.01]))
    assert rows.solves.tolist() == [2, 2, 0]


def test_a_solve_that_is_stuck_ends_early() -> None:
    """On an easy problem a thousand steps per c are not used up: a tenth without progress ends a solve."""
    problem = grey(2)
    result = CarliniWagner(steps=120, searches=2)(Model(problem.net), problem.images, problem.labels)
    assert (result.backwards < 2 * 120).any()
    again = CarliniWagner(steps=120, searches=2)(Model(problem.net), problem.images, problem.labels, generator=seeded())
    assert torch.equal(result.backwards, again.backwards)


def test_another_box_is_attacked_alike() -> None:
    box_moved(CarliniWagner(steps=30, searches=3, first=0.1), grey(3))

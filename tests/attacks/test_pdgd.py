"""PDGD against the exact optimum of linear nets."""

from __future__ import annotations

import numpy as np
import torch
from linear_optima import any_wrong, box_moved, case, ratios

from intriguing.attacks import PDGD


def test_two_and_more_classes_end_near_the_optimum() -> None:
    _, ratio = ratios(PDGD(steps=400), case(2))
    assert ratio.max() <= 1.002
    _, ratio = ratios(PDGD(steps=200), case(5))
    assert np.median(ratio) <= 1.005


def test_a_target_is_reached() -> None:
    problem = case(4)
    result, ratio = ratios(PDGD(steps=200, target=any_wrong(problem)), problem, any_wrong(problem))
    assert torch.equal(result.target, any_wrong(problem))
    assert np.median(ratio) <= 1.1


def test_another_box_is_attacked_alike() -> None:
    box_moved(PDGD(steps=40), case(3))

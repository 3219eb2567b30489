"""The record of an attack: curves, rounding to levels, rows in a file; on points whose answers are known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch
from scipy import stats
from torch import Tensor

from intriguing.attacks.result import AttackResult, AttackStatus, Phase, sizes
from intriguing.errors import InputError


def bright(x: Tensor) -> Tensor:
    """Answer 1 where the mean pixel exceeds a half."""
    return (x.flatten(1).mean(1) > 0.5).long()


def result(
    adversarial: list[list[float]],
    statuses: list[AttackStatus],
    images: list[list[float]],
    box: tuple[float, float] = (0.0, 1.0),
) -> AttackResult:
    n = len(statuses)
    x, moved = torch.tensor(images, dtype=torch.float64), torch.tensor(adversarial, dtype=torch.float64)
    status = torch.tensor([int(code) for code in statuses])
    empty = torch.zeros(n, dtype=torch.int64)
    lengths = sizes(x, moved, status)
    return AttackResult(
        adversarial=moved,
        target=torch.where(status == 2, -1, 1),
        status=status,
        forwards=empty,
        backwards=empty,
        first_success=empty,
        phase=empty,
        distance_search=lengths["distance"],
        by_target=torch.zeros(n, 2),
        norm=2.0,
        box=box,
        images=x,
        labels=torch.where(status == 0, 1 - bright(x), bright(x)),
        judge=bright,
        **lengths,
    )


WRONG, FOUND, NOT_FOUND = AttackStatus.ALREADY_WRONG, AttackStatus.FOUND, AttackStatus.NOT_FOUND


def four() -> AttackResult:
    """Already wrong; found at (0.3, 0.4), then at (0.6, 0.8); not found."""
    clean = [[0.2, 0.2]] * 4
    moved = [[0.2, 0.2], [0.5, 0.6], [0.8, 1.0], [0.2, 0.2]]
    return result(moved, [WRONG, FOUND, FOUND, NOT_FOUND], clean)


def test_distances_in_three_norms() -> None:
    r = four()
    assert r.distance.tolist() == pytest.approx([0, 0.5, 1.0, math.inf])
    assert r.distance_l1.tolist() == pytest.approx([0, 0.7, 1.4, math.inf])
    assert r.distance_linf.tolist() == pytest.approx([0, 0.4, 0.8, math.inf])
    assert r.distortion.tolist() == pytest.approx([0, 0.5 / 2**0.5, 1 / 2**0.5, math.inf])
    assert torch.equal(r.size, r.distance)
    assert torch.equal(r.size_in(math.inf), r.distance_linf)


def test_the_median_counts_images_without_an_example_as_infinite() -> None:
    assert four().median == pytest.approx(1.0)
    only = result([[0.2]], [WRONG], [[0.2]])
    assert math.isnan(only.median)
    assert result([[0.2]], [NOT_FOUND], [[0.2]]).median == math.inf


def test_robust_accuracy_counts_wrong_images_as_lost_at_any_radius() -> None:
    curve = four().at([0.0, 0.49, 0.51, 2.0])
    assert curve.robust_accuracy == (0.75, 0.75, 0.5, 0.25)
    assert curve.n == 4
    for share, low, high in zip(curve.robust_accuracy, curve.low, curve.high, strict=True):
        wilson = stats.binomtest(round(4 * share), 4).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx((wilson.low, wilson.high))
    assert four().at(0.5, norm=math.inf).robust_accuracy == (0.5,)
    assert four().at(0.75, norm=1).robust_accuracy == (0.5,)


def test_a_curve_refuses_negative_radii_and_other_norms() -> None:
    with pytest.raises(InputError, match="radii"):
        four().at([-0.1])
    with pytest.raises(InputError, match="norm"):
        four().at([0.1], norm=3)


def test_rounding_kills_an_example_that_lives_between_two_levels() -> None:
    """With 5 levels (0, 1/4, ...) a mean of 0.55 rounds to 0.5 and is dark again; 0.9 rounds to 1 and stays bright."""
    r = result([[0.55, 0.55], [0.9, 0.9]], [FOUND, FOUND], [[0.25, 0.25]] * 2)
    q = r.quantized(5)
    assert q.status.tolist() == [NOT_FOUND, FOUND]
    assert q.distance.tolist() == pytest.approx([math.inf, 0.75 * 2**0.5])
    assert q.adversarial[1].tolist() == [1.0, 1.0]
    assert q.adversarial[0].tolist() == [0.25, 0.25]
    assert q.target.tolist() == [-1, 1]
    assert q.phase[0] == int(Phase.NONE)
    assert r.found.all()  # the result itself is as it was
    with pytest.raises(InputError, match="levels"):
        r.quantized(1)


def test_rounding_knows_the_box() -> None:
    r = result([[3.8, 3.8]], [FOUND], [[-2.0, -2.0]], box=(-2.0, 4.0))
    assert r.quantized(3).adversarial.tolist() == [[4.0, 4.0]]


def test_rows_survive_the_file(tmp_path: Path) -> None:
    four().to_parquet(tmp_path / "rows.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "rows.parquet").to_pydict()
    assert table["status"] == ["already_wrong", "found", "found", "not_found"]
    assert table["distance"] == pytest.approx([0, 0.5, 1.0, math.inf])
    with pytest.raises(InputError, match="cannot be written"):
        four().to_parquet(tmp_path / "no" / "such" / "folder.parquet")


@pytest.mark.parametrize("radii", ["x", "12", None, ["0.5"], [None], [[0.1, 0.2]], {}.keys])
def test_radii_that_are_no_numbers_are_refused(radii: Any) -> None:
    with pytest.raises(InputError, match="radii: expected a number or several, of at least 0, got"):
        four().at(radii)


@pytest.mark.parametrize("levels", ["256", None, 2.5, 256.0, True, 1])
def test_levels_that_are_no_count_are_refused(levels: Any) -> None:
    with pytest.raises(InputError, match="levels: expected a whole number of at least 2, got"):
        four().quantized(levels)

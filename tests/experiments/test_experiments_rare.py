"""The share of a ball that is wrong: closed forms by hand, the tallies of an exhibit, and a small run."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from questions import LINEAR, SIGMOID, check, find, inputs, trained

from intriguing.experiments import improbable, rare, smoothness
from intriguing.records import Record

CHEAP = {"particles": 40, "keep": 0.5, "moves": 4}


def test_the_cap_of_a_ball() -> None:
    # A disc, cut at half its radius: (pi / 3 - sqrt(3) / 4) / pi. A ball: a cap of height R / 2, 5 / 32.
    assert 10 ** rare.cap_log10(2, 0.5) == pytest.approx((math.pi / 3 - math.sqrt(3) / 4) / math.pi)
    assert 10 ** rare.cap_log10(3, 0.5) == pytest.approx(5 / 32)
    assert 10 ** rare.cap_log10(784, 0.0) == pytest.approx(0.5)
    for pixels, decades in ((64, -4.0), (784, -30.0), (784, -100.0)):
        assert rare.cap_log10(pixels, rare.cap_cosine(pixels, decades)) == pytest.approx(decades)


@cache
def near() -> Record:
    return smoothness.nearest(inputs({"net": trained(SIGMOID)}), net=SIGMOID, images=16, seed=0)


@cache
def parts() -> dict[str, Record]:
    own = inputs({"net": trained(SIGMOID), "nearest": near()})
    return {
        "nearest": near(),
        "volumes": rare.volumes(own, net=SIGMOID, ratio=1.5, floor=-7.0, samples=200, seed=0, **CHEAP),
        "depths": rare.depths(own, net=SIGMOID, points=4, ratios=[1.5, 4], repeats=3, samples=3000, seed=0, **CHEAP),
        "closed-form": rare.closed_form(
            inputs({"net": trained(LINEAR)}), net=LINEAR, decades=[-3, -9], repeats=6, seed=0, **CHEAP
        ),
    }


def test_a_trained_linear_net_has_its_closed_form() -> None:
    rows = parts()["closed-form"].rows
    assert len(rows["log10"]) == 2 * 2 * 6
    for region in ("ball", "gaussian"):
        for exact in (-3, -9):
            places = zip(rows["region"], rows["exact"], rows["log10"], strict=True)
            values = np.array([value for kind, known, value in places if (kind, known) == (region, exact)])
            # 40 particles and 4 moves: about 0.25 decades at -9, and a little low.
            assert abs(values.mean() - exact) < 3 * max(values.std(ddof=1), 0.25) / math.sqrt(6)


def test_a_small_run() -> None:
    made = parts()
    record = improbable.improbable(inputs(made), net=SIGMOID, ratio=1.5, shown=3, seed=0)
    check(record)
    found = [status == "found" for status in near().rows["status"]]
    inside = find(record, SIGMOID, improbable.INSIDE)
    assert inside["measured"] * inside["n"] == pytest.approx(sum(found))
    both = find(record, SIGMOID, improbable.BOTH)
    assert both["measured"] == pytest.approx(np.mean(np.array(made["volumes"].rows["log10"]) < -6))
    assert both["measured"] > 0.5
    assert both["control"]["measured"] == 0.0
    small, large = (find(record, improbable.ball_row(ratio), improbable.SHARE) for ratio in (1.5, 4))
    assert small["measured"] < large["measured"] - 3
    agrees = find(record, "check against plain Monte Carlo", improbable.AGREES)
    assert agrees["measured"] == 1.0
    assert find(record, improbable.linear_row("ball", -9), improbable.SHARE)["control"]["measured"] == -9
    # A random draw of the ball lies in it, and beyond the example.
    original, nearest, drawn = (record.tensors[name] for name in ("original", "nearest", "drawn"))
    sizes = [(moved - original).flatten(1).norm(dim=1) for moved in (nearest, drawn)]
    assert (sizes[1] <= 1.5 * sizes[0] + 1e-5).all()
    assert (sizes[1] > sizes[0]).any()
    assert improbable.improbable(inputs(made), net=SIGMOID, ratio=1.5, shown=3, seed=0).values == record.values


def test_an_images_estimate_does_not_depend_on_how_many_are_asked_for() -> None:
    own = inputs({"net": trained(SIGMOID), "nearest": near()})
    few = rare.depths(own, net=SIGMOID, points=2, ratios=[4], repeats=2, samples=500, seed=0, **CHEAP)
    more = rare.depths(own, net=SIGMOID, points=3, ratios=[4], repeats=2, samples=500, seed=0, **CHEAP)
    pick = [row for row, image in enumerate(more.rows["image"]) if image in few.rows["image"]]
    assert [more.rows["image"][row] for row in pick] == few.rows["image"]
    assert [more.rows["log10"][row] for row in pick] == pytest.approx(few.rows["log10"], abs=1e-6)


def test_agreement_is_judged_in_standard_errors() -> None:
    block = {
        "log10": np.full((2, 3), -2.0),
        "levels": np.full((2, 3), 7.0),
        "errors": np.array([100.0, 160.0, 5.0]),
        "draws": np.full(3, 10_000.0),
    }
    # Variance of the logarithm: 7 levels at 0.001 over 2 repeats, and 1 / errors: 0.1 and 0.08 in all; three of the
    # latter are 0.3, and log(1.6) is 0.47. The third image had too few errors to judge.
    near, far = improbable._within(block, 0.001)
    assert near == [True, False]
    assert far == [False, True]
    near, _ = improbable._within(block, 0.01)
    assert near == [True, True]


def test_only_images_with_an_example_have_a_ball() -> None:
    record = near()
    ids, x, labels, distance = rare.attacked_points(record)
    assert len(ids) == len(x) == len(labels) == len(distance) == record.values["found"]
    moved = record.tensors["adversarial"][[status == "found" for status in record.rows["status"]]]
    torch.testing.assert_close((moved - x).flatten(1).double().norm(dim=1), distance, rtol=1e-5, atol=1e-7)

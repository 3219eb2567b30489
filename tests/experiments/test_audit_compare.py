"""Two runs against each other: known shifts, pairs that stand in another order, images that differ."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from intriguing.errors import InputError
from intriguing.experiments.audit_compare import compare, worst
from intriguing.rng import generator

N = 200


def rows(distance: np.ndarray, *, wrong: int = 0, missing: int = 0) -> dict[str, list[Any]]:
    """Return rows of which the first `wrong` are already wrong and the next `missing` have no example."""
    distance = distance.copy()
    distance[:wrong], distance[wrong : wrong + missing] = 0.0, math.inf
    status = ["already_wrong"] * wrong + ["not_found"] * missing
    status += ["found"] * (len(distance) - len(status))
    return {
        "image_hash": [f"{number:032x}" for number in range(len(distance))],
        "attack": ["worst of"] * len(distance),
        "model": ["net"] * len(distance),
        "status": status,
        "distance": distance.tolist(),
        "distance_l1": (10 * distance).tolist(),
        "distance_linf": (distance / 10).tolist(),
        "distance_8bit": distance.tolist(),
        "survives_8bit": [state == "found" for state in status],
        "forwards": [3] * len(distance),
        "backwards": [2] * len(distance),
    }


def distances(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.5, 1.5, N)


def test_the_same_rows_differ_by_nothing_and_a_shift_is_found_whole() -> None:
    before = distances()
    same = compare(rows(before, wrong=5, missing=3), rows(before, wrong=5, missing=3), generator("test", 0))
    assert same.n == N
    assert all((f.difference, f.low, f.high) == (0, 0, 0) for f in same.figures.values()), same
    shifted = compare(rows(before), rows(before + 0.25), generator("test", 0)).figures
    for name, shift in (("median_l2", 0.25), ("mean_l2", 0.25), ("median_l1", 2.5), ("median_linf", 0.025)):
        found = shifted[name]
        assert found.difference == pytest.approx(shift)
        assert (found.low, found.high) == pytest.approx((shift, shift)), "paired: the images' spread cancels"
        assert found.value_b - found.value_a == pytest.approx(shift)


def test_the_interval_of_a_mean_difference_is_that_of_theory() -> None:
    before = distances()
    after = before + np.random.default_rng(1).normal(0.1, 0.2, N)
    found = compare(rows(before), rows(after), generator("test", 0)).figures["mean_l2"]
    error = 1.96 * (after - before).std() / math.sqrt(N)
    # 2,000 resamples know the ends of an interval to about 3% of its width.
    assert found.low == pytest.approx(found.difference - error, abs=0.1 * error)
    assert found.high == pytest.approx(found.difference + error, abs=0.1 * error)


def test_rows_are_paired_by_their_images_not_by_their_place() -> None:
    before, order = distances(), np.random.default_rng(2).permutation(N)
    after = {name: [values[at] for at in order] for name, values in rows(before + 0.25).items()}
    found = compare(rows(before), after, generator("test", 0)).figures["mean_l2"]
    assert (found.low, found.high) == pytest.approx((0.25, 0.25))


def test_an_image_that_stands_twice_in_the_set_is_paired_twice() -> None:
    before, after = rows(distances()), rows(distances() + 0.25)
    before["image_hash"][1] = after["image_hash"][1] = before["image_hash"][0]
    assert compare(before, after, generator("test", 0)).n == N


def test_clean_accuracy_and_found_count_images() -> None:
    found = compare(rows(distances(), wrong=20), rows(distances(), wrong=60, missing=70), generator("test", 0)).figures
    assert found["clean_accuracy"].value_a == pytest.approx(0.9)
    assert found["clean_accuracy"].difference == pytest.approx(-0.2)
    assert found["clean_accuracy"].high < 0
    assert found["found"].value_b == pytest.approx(0.5)


def test_a_median_that_becomes_infinite_has_risen_without_limit() -> None:
    found = compare(rows(distances()), rows(distances(), missing=150), generator("test", 0)).figures["median_l2"]
    assert found.value_b == found.difference == found.high == math.inf
    both = compare(rows(distances(), missing=150), rows(distances(), missing=150), generator("test", 0))
    assert both.figures["median_l2"].difference == 0


def test_other_images_are_refused_with_their_number() -> None:
    other = rows(distances())
    other["image_hash"][7] = "f" * 32
    with pytest.raises(
        InputError, match=r"not of the same images: 1 of 200 in the first alone \(0+7\), 1 of 200 in the second"
    ):
        compare(rows(distances()), other, generator("test", 0))
    fewer = {name: values[:-1] for name, values in rows(distances()).items()}
    with pytest.raises(InputError, match="not of the same images"):
        compare(rows(distances()), fewer, generator("test", 0))
    with pytest.raises(InputError, match="column image_hash"):
        compare({"distance": [1.0]}, rows(distances()), generator("test", 0))


def test_worst_takes_the_rows_of_one_model() -> None:
    two = rows(distances())
    two["model"] = ["a"] * 100 + ["b"] * 100
    two["attack"] = ["lbfgs", "worst of"] * 100
    assert worst(two)["image_hash"] == two["image_hash"][1:100:2]
    assert worst(two, model="b")["image_hash"] == two["image_hash"][101::2]
    with pytest.raises(InputError, match="'c'"):
        worst(two, model="c")

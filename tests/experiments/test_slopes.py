"""Slopes against lines known by construction, and a small sweep from training to table."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from questions import check, find, inputs

from intriguing.errors import InputError
from intriguing.experiments import slopes
from intriguing.records import Record
from intriguing.rng import generator
from intriguing.training.sweep import train_fc


def draw() -> torch.Generator:
    return generator("bootstrap", 0)


def test_a_law_without_noise_has_its_slope_and_no_doubt() -> None:
    t = np.array([0.0, 0.0, 1.0, 2.0, 3.0, 3.0])
    hard = np.array([0.5, 1.0, 2.0, 4.0])  # images differ, alike for all nets
    values = np.outer(1.2**t, hard)
    found = slopes.slope(t, values, draw())
    assert found.measured == pytest.approx(0.2)
    assert found.low == pytest.approx(0.2)
    assert found.high == pytest.approx(0.2)
    assert found.n == 24


def test_the_interval_covers_the_truth() -> None:
    """Nets and images vary, the law is 10% per step: of 100 experiments about 95 intervals hold it."""
    chance = np.random.default_rng(0)
    t = np.repeat(np.arange(4.0), 3)
    held = 0
    for _ in range(100):
        nets = chance.normal(0, 0.05, (12, 1))
        images = chance.normal(0, 0.4, (1, 40))
        values = np.exp(math.log(1.1) * t[:, None] + nets + images + chance.normal(0, 0.3, (12, 40)))
        found = slopes.slope(t, values, draw())
        held += found.low <= 0.1 <= found.high
        assert found.low < found.measured < found.high
    # A binomial of 95% over 100 is above 88 but for 1 case in 500; the two variances added are on the safe side.
    assert held >= 89


def test_a_slope_needs_three_nets_two_places_and_an_image() -> None:
    for t in ([0.0, 1.0], [2.0, 2.0, 2.0]):
        with pytest.raises(InputError, match="three nets"):
            slopes.slope(np.array(t), np.ones((len(t), 2)), draw())
    nothing = slopes.slope(np.arange(3.0), np.ones((3, 0)), draw())
    assert nothing.n == 0
    assert math.isnan(nothing.measured)


def test_easy_images_do_not_pass_for_distance() -> None:
    """A poor net is right about the far image alone: on common images the distances do not change."""
    full, poor = record(0.1), record(0.1)
    for column in ("nearest", "random"):
        poor.rows[column][0] = poor.rows[column][1] = math.nan  # type: ignore[index]
    needs = {"poor/0": poor, "poor/1": poor, "full/0": full, "full/1": full}
    keys = list(needs)
    change, _, p = slopes._both(inputs(needs), keys, np.array([0.0, 0.0, 1.0, 1.0]), "nearest", draw())
    assert (change.measured, change.n) == (pytest.approx(0.0), 4)
    assert p == 1.0


def record(distance: float, *, hidden: tuple[int, ...] = (10,), examples: int = 100, error: float = 0.1) -> Record:
    """Return an attack on four images, the third already wrong, by hand."""
    values = {
        "found": {"random": [3, 3], "nearest": [3, 3], "untrained": [0, 4]},
        "hidden": list(hidden),
        "activation": "tanh",
        "examples": examples,
        "train_error": 0.0,
        "test_error": error,
        "n_test": 300,
        "epochs": 7,
    }
    near = [distance, 2 * distance, math.nan, 3 * distance]
    quiet = [0.0, 0.0, math.nan, 1.0]
    rows = {
        "image": [0, 1, 2, 3],
        "label": [0, 0, 1, 1],
        "nearest": near,
        "random": [2 * value for value in near],
        "untrained": [math.nan] * 4,
        "nearest_noise": quiet,
        "random_noise": quiet,
    }
    return Record(values=values, rows=rows)


def test_the_exhibit_is_what_its_records_say() -> None:
    needs = {f"{n}/{s}": record(0.01 * n / 100, examples=n, error=10 / n) for n in (100, 1000, 10_000) for s in (0, 1)}
    needs |= {"wide/0": record(0.02), "wide/1": record(0.02)}
    points = [{"x": None, "keys": [f"{n}/0", f"{n}/1"]} for n in (100, 1000, 10_000)]
    other = {"label": "wide", "x": 0, "keys": ["wide/0", "wide/1"]}
    arms = [
        {"id": "data", "name": "images", "unit": "decade", "axis": "images", "scale": "decade", "points": points},
        {"id": "kind", "name": "kind", "unit": "", "axis": "", "scale": "kind", "points": [points[0], other]},
    ]
    made = slopes.data_or_architecture(inputs(needs), arms=arms, seed=0)
    check(made)
    # Ten times as far per decade: a change of 900%; twice as far: 100%.
    change = find(made, "images: per decade", slopes.CHANGE)
    assert change["measured"] == pytest.approx(9.0)
    assert change["p"] < 0.05
    assert change["control"]["low"] < 0 < change["control"]["high"]
    assert find(made, "images: per decade", slopes.CHANGE_RANDOM)["measured"] == pytest.approx(9.0)
    assert find(made, "kind: wide instead of 100", slopes.CHANGE)["measured"] == pytest.approx(1.0)
    near = find(made, "images: 1,000", slopes.NEAREST)
    assert (near["measured"], near["n"]) == (pytest.approx(0.2), 6)
    assert near["control"]["measured"] == pytest.approx(1 / 3)
    assert find(made, "images: 1,000", slopes.RANDOM)["measured"] == pytest.approx(0.4)
    accuracy = find(made, "images: 1,000", slopes.ACCURACY)
    assert (accuracy["measured"], accuracy["n"]) == (pytest.approx(0.99), 600)
    (figure,) = made.values["figures"]
    assert figure["log_x"]
    assert [point["x"] for point in figure["series"][0]["points"]] == [100, 1000, 10_000]
    (table,) = made.values["tables"]
    # Nets of one setting and outcome stand once.
    assert ["10", "tanh", "1,000", "7", "0.00%", "1.00%", "0.200, 3 of 3", "none of 4"] in table["rows"]
    (finding,) = made.values["findings"]
    assert "grows by 900%" in finding


@cache
def small() -> dict[str, Record]:
    records = {}
    for examples in (100, 400):
        for seed in (0, 1):
            net = train_fc(inputs(), hidden=[16], activation="tanh", examples=examples, seed=seed, steps=200)
            records[f"{examples}/{seed}"] = slopes.attack(inputs({"net": net}), images=20, seed=0)
    return records


def test_a_small_sweep() -> None:
    records = small()
    for made in records.values():
        assert len({len(column) for column in made.rows.values()}) == 1
        known = [not math.isnan(value) for value in made.rows["nearest"]]
        assert made.values["found"]["nearest"] == [sum(known), sum(known)]
        assert sum(known) > 10
        pairs = zip(made.rows["nearest"], made.rows["random"], strict=True)
        assert all(near <= far * 1.01 for near, far in pairs if not math.isnan(near + far))
        noisy = [value for value in made.rows["nearest_noise"] if not math.isnan(value)]
        assert len(noisy) == sum(known)
        assert set(noisy) <= {0.0, 1.0}
        # A net of tanh units answers several classes from the start: something is found.
        assert made.values["found"]["untrained"][1] == 20
    points = [{"label": str(n), "x": n, "keys": [f"{n}/0", f"{n}/1"]} for n in (100, 400)]
    arm = {"id": "data", "name": "images", "unit": "decade", "axis": "images", "scale": "decade", "points": points}
    made = slopes.data_or_architecture(inputs(records), arms=[arm], seed=0)
    check(made)
    assert slopes.data_or_architecture(inputs(records), arms=[arm], seed=0).values == made.values

"""The noise radius against curves known by construction, and a small run."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from questions import LINEAR, SIGMOID, Set, check, digits, find, inputs, trained

from intriguing.experiments import smoothness
from intriguing.records import Record
from intriguing.rng import generator

IMAGES = 40


@cache
def near(net: str) -> Record:
    return smoothness.nearest(inputs({"net": trained(net)}), net=net, images=IMAGES, seed=0)


def test_the_attack_on_test_images_is_judged_and_recorded() -> None:
    record = near(LINEAR)
    data = digits()["test"]
    ids = torch.tensor(record.rows["image"])
    assert torch.equal(record.tensors["original"], data.images[ids])
    found = torch.tensor([status == "found" for status in record.rows["status"]])
    assert int(found.sum()) == record.values["found"] == record.values["attacked"] > 20
    weight = trained(LINEAR).tensors["output.weight"]
    answers = (record.tensors["adversarial"].flatten(1) @ weight.T).argmax(1)
    assert torch.equal(answers[found], torch.tensor(record.rows["target"])[found])
    assert (answers[found] != data.labels[ids][found]).all()


def test_the_radius_is_where_accuracy_crosses() -> None:
    """Image i of 100 fails beyond norm i: accuracy is 1 - norm / 100, and 95% is left at norm 5."""
    fails = torch.arange(1.0, 101.0)

    def keeps(norm: float) -> torch.Tensor:
        return fails > norm

    tried, kept = smoothness._search(keeps, [1.5, 3.5, 20.5, 60.5], 0.95)
    assert tried == sorted(tried)
    assert len(tried) == 4 + 6
    found = smoothness._crossing(tried, kept, 0.95, generator("bootstrap", 0))
    assert found.measured == pytest.approx(5.0, abs=0.5)
    # The fifth of a hundred: a binomial count of 5 has a standard deviation of 2.2.
    assert 0.5 < found.low < 3.5
    assert 6.5 < found.high < 11
    assert found.n == 100


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ([0.99, 0.95, 0.5], 2.0),
        ([0.97, 0.93, 0.5], 1.5),
        ([0.9, 0.8, 0.7], 0.5),  # lost at once: between no noise and the first norm
        ([0.99, 0.94, 0.99], 1.8),  # a later rise is not a larger radius
        ([0.99, 0.98, 0.97], 3.0),  # never lost: as far as was looked
        ([0.95, 0.95, 0.95], 1.0),
    ],
)
def test_a_crossing_is_interpolated(shares: list[float], expected: float) -> None:
    assert smoothness._interpolated([1.0, 2.0, 3.0], np.array(shares), 0.95) == pytest.approx(expected)


def test_a_small_run() -> None:
    nets = [LINEAR, SIGMOID]
    needs = {f"{net}/net": trained(net) for net in nets} | {f"{net}/nearest": near(net) for net in nets}
    settings = {"nets": nets, "images": 300, "accuracy": 0.95, "seed": 0}
    record = smoothness.smoothness(inputs(needs), **settings)
    check(record)
    for net in nets:
        radius = find(record, net, smoothness.RADIUS)
        distance = torch.tensor(near(net).rows["distance"])
        found = torch.tensor([status == "found" for status in near(net).rows["status"]])
        assert radius["control"]["measured"] == pytest.approx(float(distance[found].mean()))
        inside = find(record, net, smoothness.INSIDE)
        assert inside["measured"] == pytest.approx(float((distance[found] < radius["measured"]).double().mean()))
        # By its own definition noise of that radius fools a twentieth.
        assert inside["control"]["measured"] == pytest.approx(0.05, abs=0.02)
        kept = find(record, net, smoothness.KEPT)
        assert kept["control"]["measured"] == 0.0
        assert kept["measured"] > 0.8
    (figure,) = record.values["figures"]
    assert len(figure["series"]) == 4
    for series in figure["series"]:
        heights = [point["y"] for point in series["points"]]
        assert heights[0] > 0.9
        assert heights[-1] < 0.3
    assert smoothness.smoothness(inputs(needs), **settings).values == record.values


def test_a_net_that_noise_cannot_change_has_the_largest_radius_tried() -> None:
    data = {"test": Set(torch.full((12, 1, 4, 4), 0.5), torch.full((12,), 3))}
    weight = torch.zeros(10, 16)
    weight[3] = 1.0
    net = Record(tensors={"output.weight": weight})
    rows = {
        "image": list(range(12)),
        "label": [3] * 12,
        "target": [-1] * 12,
        "status": ["not_found"] * 11 + ["found"],
        "distance": [math.inf] * 11 + [1.0],
        "distortion": [math.inf] * 11 + [0.25],
    }
    moved = data["test"].images.clone()
    moved[-1] = 0.0
    near = Record(rows=rows, tensors={"original": data["test"].images, "adversarial": moved})
    needs = {"FC10(1)/net": net, "FC10(1)/nearest": near}
    record = smoothness.smoothness(inputs(needs, data), nets=["FC10(1)"], images=12, accuracy=0.95, seed=0)
    assert find(record, "FC10(1)", smoothness.RADIUS)["measured"] == pytest.approx(0.75 * 4)
    # Images without an example count: their distance is infinite.
    assert find(record, "FC10(1)", smoothness.INSIDE)["measured"] == pytest.approx(1 / 12)

"""The photographs that become one class: which are attacked, what is kept, and how the exhibit reads it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from intriguing import norms
from intriguing.errors import DataError, UnknownNameError
from intriguing.experiments.photographs import (
    ACCURACY,
    CHANGED,
    DISTORTION,
    REACHED,
    RUNNER_UP,
    TRAINED,
    UNTRAINED,
    attack,
    figure_5,
    ostrich,
)
from intriguing.records import Inputs, Record
from intriguing.training.convolutional import model, train

CLASSES = ("upright", "lying", "plain")  # the first by name is the second
SMALL: dict[str, Any] = {"net": "AlexNet", "seed": 0, "data": "photographs/", "width": 0.125, "dense": 0.03}
SMALL |= {"rate": 1e-3, "dropout": 0.1, "zoom": 0.9, "turn": 5.0, "colour": 0.1}


@dataclass(frozen=True)
class Split:
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...] = CLASSES
    hash: str = "test"


@pytest.fixture(scope="module")
def splits() -> dict[str, Split]:
    """Return stripes, upright and lying, and plain squares, of random colour."""
    wave = torch.arange(64).div(4).floor().remainder(2)
    patterns = torch.stack((wave.expand(64, 64), wave[:, None].expand(64, 64), torch.full((64, 64), 0.5)))
    draw = torch.Generator().manual_seed(1)
    found = {}
    for split, count in (("train", 60), ("test", 30)):
        labels = torch.arange(count) % 3
        shades = 0.3 + 0.7 * torch.rand(count, 3, 1, 1, generator=draw)
        found[f"photographs/{split}"] = Split(patterns[labels][:, None] * shades, labels)
    return found


@pytest.fixture(scope="module")
def needs(splits: dict[str, Split]) -> dict[str, Record]:
    """Return all that the exhibit needs, computed once at small size."""

    def run(**names: Record) -> Inputs:
        return Inputs(data=splits.__getitem__, needs={"net": names["net"], **names})

    plain = Inputs(data=splits.__getitem__)
    net, untrained = train(plain, **SMALL, steps=100), train(plain, **SMALL, steps=0)
    led = attack(run(net=net), images=8, seed=0)
    return {
        "net": net,
        "attack": led,
        "runner-up": attack(run(net=net, like=led), images=8, seed=0, target="runner-up"),
        "untrained": untrained,
        "untrained attack": attack(run(net=untrained, like=led), images=4, seed=0),
        "untrained runner-up": attack(run(net=untrained, like=led), images=4, seed=0, target="runner-up"),
    }


def _figure(splits: dict[str, Split], needs: dict[str, Record]) -> Record:
    return figure_5(Inputs(data=splits.__getitem__, needs=needs), seed=0, shown=4)


def test_the_class_is_the_first_by_name() -> None:
    assert ostrich(CLASSES) == 1
    assert ostrich(tuple("0123456789")) == 0


def test_only_images_of_other_classes_that_are_named_correctly_are_attacked(
    splits: dict[str, Split], needs: dict[str, Record]
) -> None:
    test, rows = splits["photographs/test"], needs["attack"].rows
    ids = torch.tensor(rows["image"])
    assert len(ids) == len(set(rows["image"])) == 8
    assert ids.tolist() == sorted(ids.tolist())
    assert rows["label"] == test.labels[ids].tolist() == rows["answer"]
    assert set(rows["target"]) == {1}
    assert 1 not in rows["label"]
    torch.testing.assert_close(needs["attack"].tensors["original"], test.images[ids])
    again = attack(
        Inputs(data=splits.__getitem__, needs={"net": needs["net"]}), images=100, seed=0, evaluations=2, solves=1
    )
    right = (model(needs["net"]).predict(test.images) == test.labels) & (test.labels != 1)
    assert again.rows["image"] == right.nonzero().flatten().tolist()  # as many as there are


def test_results_are_of_the_class_and_as_far_as_stated(needs: dict[str, Record]) -> None:
    for name, net in (("attack", "net"), ("runner-up", "net"), ("untrained runner-up", "untrained")):
        record = needs[name]
        found = torch.tensor([status == "found" for status in record.rows["status"]])
        assert int(found.sum()) == record.values["found"] == record.values["attacked"] == len(found)
        adversarial, original = record.tensors["adversarial"], record.tensors["original"]
        assert model(needs[net]).predict(adversarial).tolist() == record.rows["target"]
        assert float(adversarial.min()) >= 0
        assert float(adversarial.max()) <= 1
        distance = norms.l2(adversarial - original)
        torch.testing.assert_close(distance, torch.tensor(record.rows["distance"], dtype=torch.float64))
        searched = torch.tensor(record.rows["distance_search"], dtype=torch.float64)
        assert bool((distance <= searched + 1e-6).all())


def test_an_untrained_net_is_led_away_from_its_own_answers(splits: dict[str, Split], needs: dict[str, Record]) -> None:
    every = torch.tensor(needs["attack"].rows["image"])
    for name in ("untrained attack", "untrained runner-up"):
        rows = needs[name].rows
        assert rows["image"] == every[[0, 2, 4, 6]].tolist()  # even steps through the same images
        logits = model(needs["untrained"]).logits(splits["photographs/test"].images[rows["image"]])
        first, second, _ = logits.argsort(1, descending=True).T
        assert rows["answer"] == first.tolist()
        wanted = torch.where(first == 1, 2, 1) if name == "untrained attack" else second
        assert rows["target"] == wanted.tolist()


def test_every_cell_is_what_the_records_say(splits: dict[str, Split], needs: dict[str, Record]) -> None:
    record = _figure(splits, needs)
    at = {(entry["row"], entry["column"]): entry for entry in record.values["cells"]}
    assert len(at) == len(record.values["cells"])
    for entry in at.values():
        assert entry["kind"] == "sampled"
        assert entry["n"] > 0
        assert entry["low"] <= entry["measured"] <= entry["high"]
        assert math.isfinite(entry["control"]["measured"])
        assert entry["control"]["label"]
    root = math.sqrt(3 * 64 * 64)
    for row, column, name in (
        (TRAINED, DISTORTION, "attack"),
        (TRAINED, RUNNER_UP, "runner-up"),
        (UNTRAINED, RUNNER_UP, "untrained runner-up"),
    ):
        distances = needs[name].rows["distance_search"]
        assert at[row, column]["measured"] == pytest.approx(sum(distances) / len(distances) / root)
        assert at[row, column]["n"] == len(distances)
    assert at[TRAINED, RUNNER_UP]["control"]["measured"] == at[UNTRAINED, RUNNER_UP]["measured"]
    accuracy = at[TRAINED, ACCURACY]
    assert accuracy["measured"] == pytest.approx(1 - needs["net"].values["test_error"])
    assert accuracy["control"]["measured"] == pytest.approx(1 / 3)
    rows = needs["attack"].rows
    under = [said == goal for said, goal in zip(rows["under_noise"], rows["target"], strict=True)]
    assert at[TRAINED, REACHED]["measured"] == 1
    assert at[TRAINED, REACHED]["control"]["measured"] == sum(under) / len(under)
    moved = [said != before for said, before in zip(rows["under_noise"], rows["answer"], strict=True)]
    assert at[TRAINED, CHANGED]["measured"] == sum(moved) / len(moved)


def test_the_picture_shows_original_difference_and_result(splits: dict[str, Split], needs: dict[str, Record]) -> None:
    record = _figure(splits, needs)
    tensors = record.tensors
    difference = tensors["result"] - tensors["original"]
    assert float(difference.abs().max()) > 0
    torch.testing.assert_close(tensors["difference"], (0.5 + 10 * difference).clamp(0, 1))
    gallery = record.values["figures"][0]
    (group,) = gallery["groups"]
    assert group["columns"] == ["original", "difference × 10", "result"]
    assert [line["label"].partition(" ")[0] for line in group["rows"]] == ["upright", "plain", "upright", "plain"]
    assert all(line["label"].endswith("read as lying") for line in group["rows"])
    assert [image["index"] for line in group["rows"] for image in line["images"]] == [0] * 3 + [1] * 3 + [2] * 3 + [
        3
    ] * 3
    assert record.values["findings"][0].startswith("8 of 8 images")
    for table in record.values["tables"]:
        assert all(len(line) == len(table["columns"]) for line in table["rows"])


def test_where_nothing_was_found_there_is_no_distance(splits: dict[str, Split], needs: dict[str, Record]) -> None:
    lost = needs["untrained attack"]
    count = len(lost.rows["status"])
    rows = {**lost.rows, "status": ["not_found"] * count, "distance_search": [math.inf] * count}
    lost = replace(lost, rows=rows, values={**lost.values, "found": 0})
    record = _figure(splits, {**needs, "untrained attack": lost})
    at = {(entry["row"], entry["column"]): entry for entry in record.values["cells"]}
    assert at[UNTRAINED, REACHED]["measured"] == 0
    assert at[UNTRAINED, REACHED]["control"] == {"label": "no change", "measured": 0.0}
    assert (UNTRAINED, DISTORTION) not in at
    assert at[TRAINED, DISTORTION]["control"] == {"label": "no change", "measured": 0.0}
    assert all(entry["n"] > 0 and math.isfinite(entry["measured"]) for entry in at.values())


def test_requests_that_cannot_be_met(splits: dict[str, Split], needs: dict[str, Record]) -> None:
    inputs = Inputs(data=splits.__getitem__, needs={"net": needs["net"]})
    with pytest.raises(UnknownNameError, match="runner-up"):
        attack(inputs, images=1, seed=0, target="runner up")
    test = splits["photographs/test"]
    only = Split(test.images[1::3], test.labels[1::3])  # all of the class itself
    with pytest.raises(DataError, match="outside the class 'lying'"):
        attack(replace(inputs, data=lambda _: only), images=1, seed=0)

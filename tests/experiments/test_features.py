"""Figure 6: numbers worked out by hand, and a small detector fooled both ways."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from intriguing import norms
from intriguing.data import sources
from intriguing.experiments import features, statistics
from intriguing.experiments.features import (
    ACCURACY,
    DISTORTION,
    FOOLED,
    LEARNED,
    PARAMETERS,
    PIXELS,
    PUBLISHED,
    UNTRAINED,
    balanced,
    figure_6,
    fool,
    way_row,
)
from intriguing.nets.load import Model
from intriguing.records import Inputs, Record
from intriguing.training.reconstruction import CENTRE, learn_features, restore

SIZES = {"stages": 2, "maps": 4, "field": 3, "pool": 2, "window": 3, "padded": True}
COUNTS = {"hits": 18, "positives": 20, "passes": 80, "negatives": 100}


@dataclass(frozen=True)
class Set:
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...] = tuple("0123456789")
    hash: str = "0" * 64


@cache
def digits() -> dict[str, Set]:
    data = load_digits()
    images, labels = torch.from_numpy(data.images).float()[:, None] / 16, torch.from_numpy(data.target).long()
    return {"train": Set(images[:400], labels[:400]), "test": Set(images[400:600], labels[400:600])}


def inputs(needs: Mapping[str, Record] | None = None) -> Inputs:
    return Inputs(data=digits().__getitem__, needs=needs or {})


def find(record: Record, row: str, column: str) -> Mapping[str, Any]:
    (cell,) = [c for c in record.values["cells"] if (c["row"], c["column"]) == (row, column)]
    return cell


# -- by hand ------------------------------------------------------------------------------------------------


def test_balanced_accuracy_weighs_both_sides_alike() -> None:
    estimate = balanced(COUNTS)
    assert estimate.measured == pytest.approx((0.9 + 0.8) / 2)
    assert estimate.n == 120
    first, second = statistics.proportion(18, 20), statistics.proportion(80, 100)
    assert estimate.low == pytest.approx(0.85 - math.hypot(0.9 - first.low, 0.8 - second.low) / 2)
    assert estimate.high == pytest.approx(0.85 + math.hypot(first.high - 0.9, second.high - 0.8) / 2)
    # With one side the interval is that side's own, halved.
    sure = balanced({"hits": 10**9, "positives": 10**9, "passes": 80, "negatives": 100})
    assert sure.measured - sure.low == pytest.approx((0.8 - second.low) / 2, rel=1e-3)


def test_the_interval_of_balanced_accuracy_covers() -> None:
    draw = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(400):
        hits, passes = (torch.rand(24, generator=draw) < 0.9).sum(), (torch.rand(200, generator=draw) < 0.8).sum()
        estimate = balanced({"hits": int(hits), "positives": 24, "passes": int(passes), "negatives": 200})
        covered += estimate.low <= 0.85 <= estimate.high
    assert 0.92 < covered / 400 < 0.985


def detector_record(accuracy: Mapping[str, int], **more: Any) -> Record:
    stage = {"left_out_before": 0.5, "left_out_after": 0.1, "active_before": 70.0, "active_after": 50.0}
    values = {
        "class": "Tomato",
        "classes": ["Kiwi", "Tomato"],
        "scores": [0.6, 0.9],
        "stages": [stage],
        "net": {"side": 2},
        "parameters": 1234,
        "test": accuracy,
        "pixels": accuracy,
        "shuffled": [{**COUNTS, "hits": 10, "passes": 50}, {**COUNTS, "hits": 12, "passes": 60}],
        **more,
    }
    return Record(values=values)


def attack_record(distances: list[float], statuses: list[str], noisy: list[bool]) -> Record:
    """Return an attack on images of 4 pixels, the first half positives."""
    n = len(distances)
    x = torch.full((n, 1, 2, 2), 0.5)
    moved = x + torch.tensor(distances).view(-1, 1, 1, 1) / 2
    rows = {
        "label": [1] * (n // 2) + [0] * (n // 2),
        "status": statuses,
        "distance_search": distances,
        "fooled_by_noise": noisy,
    }
    return Record({}, {"original": x, "adversarial": moved, "noisy": x}, rows)


def by_hand() -> Record:
    status = ["found", "found", "already_wrong", "found", "found", "not_found"]
    needs = {
        "learned": detector_record(COUNTS),
        "untrained": detector_record({**COUNTS, "hits": 10}),
        "learned/fooled": attack_record(
            [0.2, 0.4, 0.0, 0.1, 0.3, math.inf], status, [True, False, False, False, False, False]
        ),
        "untrained/fooled": attack_record([0.6] * 6, ["found"] * 6, [False] * 6),
    }
    return figure_6(Inputs(data=digits().__getitem__, needs=needs), seed=0, magnify=10.0, shown=2)


def test_figure_6_is_what_its_records_say() -> None:
    record = by_hand()
    json.dumps(record.values, allow_nan=False)
    places = [(cell["row"], cell["column"]) for cell in record.values["cells"]]
    assert len(set(places)) == len(places)
    expected = {
        (LEARNED, ACCURACY): (0.85, 120, 0.55),
        (UNTRAINED, ACCURACY): (0.65, 120, 0.55),
        (PIXELS, ACCURACY): (0.85, 120, 0.55),
        # One of three positives was wrong before, one of three negatives was not found; four pixels, so half.
        (way_row(1), FOOLED): (1.0, 2, 0.5),
        (way_row(1), DISTORTION): ((0.2 + 0.4) / 2 / 2, 2, 0.3),
        (way_row(0), FOOLED): (2 / 3, 3, 0.0),
        (way_row(0), DISTORTION): ((0.1 + 0.3) / 2 / 2, 2, 0.3),
        (way_row(1, untrained=True), DISTORTION): (0.3, 3, 0.15),
        (way_row(0, untrained=True), FOOLED): (1.0, 3, 0.0),
    }
    for place, (value, n, control) in expected.items():
        cell = find(record, *place)
        assert (cell["measured"], cell["n"]) == (pytest.approx(value), n), place
        assert cell["control"]["measured"] == pytest.approx(control), place
        assert cell["low"] - 1e-12 <= cell["measured"] <= cell["high"] + 1e-12
    published = find(record, PUBLISHED, PARAMETERS)
    assert published["kind"] == "exact"
    assert abs(published["measured"] - 1) < 0.1
    assert "1,234 weights" in record.values["notes"][0]
    assert record.values["findings"][0].startswith("A detector of “Tomato”")
    assert "2 of 2 positives" in record.values["findings"][0]
    assert "2 of 3 negatives" in record.values["findings"][0]


def test_pictures_show_the_magnified_difference() -> None:
    record = by_hand()
    (figure,) = record.values["figures"]
    assert [len(group["rows"]) for group in figure["groups"]] == [2, 2]
    assert figure["groups"][0]["rows"][0]["label"] == "Tomato read as not Tomato"
    assert figure["groups"][1]["rows"][0]["label"] == "not Tomato read as Tomato"
    # 0.2 over four pixels is 0.1 each; ten times that is beyond white.
    assert record.tensors["way1_difference"][0].unique().tolist() == [1.0]
    assert record.tensors["way0_difference"][0].unique().tolist() == [pytest.approx(1.0)]
    for group in figure["groups"]:
        for row in group["rows"]:
            for tile in row["images"]:
                image = record.tensors[tile["tensor"]][tile["index"]]
                assert ((image >= 0) & (image <= 1)).all()


# -- from features to the figure ----------------------------------------------------------------------------


@cache
def pipeline() -> dict[str, Record]:
    settings: dict[str, Any] = {"seed": 0, "prefix": "", "size": 8, "sizes": SIZES}
    needs = {"learned": learn_features(inputs(), **settings, steps=40)}
    needs["untrained"] = learn_features(inputs(needs), **settings, steps=0)
    for name in ("learned", "untrained"):
        needs[f"{name}/fooled"] = fool(inputs({"net": needs[name]}), images=30, seed=0)
    return needs


def test_every_image_is_fooled_and_judged() -> None:
    record, attack = pipeline()["learned"], pipeline()["learned/fooled"]
    model = Model(restore(record), mean=CENTRE)
    labels = torch.tensor(attack.rows["label"])
    assert labels.sum() == 30
    assert (labels == 0).sum() == 30
    found = torch.tensor([status == "found" for status in attack.rows["status"]])
    wrong = torch.tensor([status == "already_wrong" for status in attack.rows["status"]])
    assert (found | wrong).all()
    assert found.sum() > 40
    x, moved, noisy = (attack.tensors[name] for name in ("original", "adversarial", "noisy"))
    assert torch.equal(model.predict(x) != labels, wrong)
    assert (model.predict(moved)[found] == 1 - labels[found]).all()
    assert ((moved >= 0) & (moved <= 1)).all()
    # Noise of the norm of the search, before the last bisection.
    sizes = torch.tensor(attack.rows["distance_search"], dtype=torch.float64)
    torch.testing.assert_close(norms.l2(noisy - x)[found], sizes[found], rtol=1e-4, atol=1e-6)


def test_test_images_are_attacked_first() -> None:
    attack, positive = pipeline()["learned/fooled"], pipeline()["learned"].values["positive"]
    held_out = int((digits()["test"].labels == positive).sum())
    assert held_out < 30
    splits = attack.rows["split"]
    assert splits[:30] == ["test"] * held_out + ["train"] * (30 - held_out)
    assert splits[30:] == ["test"] * 30


def test_small_figure_6() -> None:
    record = figure_6(inputs(pipeline()), seed=0, magnify=10.0, shown=3)
    json.dumps(record.values, allow_nan=False)
    for label in features.WAYS:
        assert find(record, way_row(label), FOOLED)["measured"] == 1.0
        assert find(record, way_row(label), FOOLED)["control"]["measured"] < 0.3
        assert 0 < find(record, way_row(label), DISTORTION)["measured"] < 0.2
    again = figure_6(inputs(pipeline()), seed=0, magnify=10.0, shown=3)
    assert again.values == record.values


@pytest.mark.data
@pytest.mark.slow
def test_a_detector_on_photographs(shared_data: Any) -> None:
    sets = {split: sources.load("grocery", split, data_dir=shared_data, size=48) for split in ("train", "test")}
    given = Inputs(data=lambda split: sets[split.removeprefix("photographs/")])
    sizes = {"stages": 3, "maps": 8, "field": 4, "pool": 2, "window": 3, "padded": True}
    record = learn_features(given, seed=0, prefix="photographs/", size=20, sizes=sizes, steps=20)
    assert balanced(record.values["test"]).measured >= 0.8
    attack = fool(Inputs(data=given.data, needs={"net": record}), images=10, seed=0)
    assert set(attack.rows["status"]) <= {"found", "already_wrong"}

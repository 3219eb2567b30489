"""The sandwich on nets whose two ends are known, and an unsound bound that must be noticed."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from questions import LINEAR, SIGMOID, Set, check, digits, find, inputs, trained

from intriguing import bounds
from intriguing.attacks import Nearest
from intriguing.errors import ModelError
from intriguing.experiments import sandwich
from intriguing.experiments.cells import far_starts, model_of
from intriguing.records import Record

ROWS = ("plain", "other")


def ends(net: str) -> Record:
    given = inputs({"net": trained(net)})
    return sandwich.both_ends(given, net=net, images=12, seed=0, budget=200, steps=3)


@pytest.fixture(scope="module")
def needs() -> dict[str, Record]:
    return {"plain/ends": ends(SIGMOID), "other/ends": ends(LINEAR)}


def test_of_a_linear_net_the_ends_without_the_box_are_the_known_distance(needs: dict[str, Record]) -> None:
    record = needs["other/ends"]
    model = model_of(trained(LINEAR), LINEAR, digits()["test"], torch.device("cpu"))
    x = digits()["test"].images[record.rows["image"]]
    labels = digits()["test"].labels[record.rows["image"]]
    (W,) = [p.double() for p in model.net.parameters() if p.dim() == 2]
    z = model.logits(x).double()
    gaps = z.gather(1, labels[:, None]) - z
    lengths = (W[labels][:, None] - W[None]).norm(dim=2)
    known = torch.where(lengths > 0, gaps / lengths, math.inf).amin(1).clamp_min(0)
    unboxed = torch.tensor(record.rows["unboxed"], dtype=torch.float64)
    assert torch.allclose(unboxed, known, rtol=4e-3, atol=1e-6)
    # With the box a certificate can only grow, and an example can only lie farther.
    assert bool((torch.tensor(record.rows["crown"]) >= unboxed * (1 - 4e-3)).all())
    assert bool((torch.tensor(record.rows["found"]) >= known * (1 - 1e-6)).all())


def test_the_table_keeps_what_every_exhibit_promises(needs: dict[str, Record]) -> None:
    record = sandwich.sandwich(inputs(needs), rows=ROWS, seed=0)
    check(record)
    for row in ROWS:
        rows = needs[f"{row}/ends"].rows
        attacked = [i for i, status in enumerate(rows["status"]) if status != "already_wrong"]
        ratios = sorted(rows["crown"][i] / rows["found"][i] for i in attacked)
        cell = find(record, row, sandwich.RATIO)
        assert cell["n"] == len(attacked)
        assert cell["measured"] == pytest.approx(ratios[len(attacked) // 2])
        assert find(record, row, sandwich.CERTIFIED)["measured"] <= find(record, row, sandwich.FOUND)["measured"]
        for column in (sandwich.OPTIMISED, sandwich.BENT):
            assert cell["measured"] <= find(record, row, f"{sandwich.RATIO}, {column}")["measured"]
            assert cell["control"]["measured"] <= find(record, row, f"{sandwich.RATIO}, {column}")["measured"]
    assert 0 < find(record, "all nets", "largest certified over found")["measured"] <= 1
    json.dumps(record.values)
    assert all(text[0].isupper() for text in record.values["findings"])
    for figure in record.values["figures"]:
        found, proved, _ = (series["points"] for series in figure["series"])
        assert all(low["y"] <= high["y"] for low, high in zip(proved, found, strict=True))


def test_the_attack_starts_from_training_images_too(monkeypatch: pytest.MonkeyPatch) -> None:
    options: list[dict[str, Any]] = []
    monkeypatch.setattr(sandwich, "Nearest", lambda **given: options.append(given) or Nearest(**given))
    ends(LINEAR)
    images, labels = options[0]["starts"]
    train = digits()["train"]
    assert torch.equal(images, train.images)  # there are no more than may be starts
    assert torch.equal(labels, train.labels)


def test_starts_are_spread_over_a_set_that_comes_class_by_class() -> None:
    order = torch.arange(10).repeat_interleave(200)
    ordered = Set(order.double().view(-1, 1, 1, 1), order)
    images, labels = far_starts(inputs(data={"train": ordered}))
    assert torch.equal(images.flatten().long(), labels)
    assert torch.bincount(labels).tolist() == [50] * 10


def test_a_certificate_beyond_an_example_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = bounds.certify

    def boastful(*arguments: object, **options: object) -> bounds.Certificate:
        certificate = honest(*arguments, **options)  # type: ignore[arg-type]
        return replace(certificate, radius=certificate.radius * 4)

    monkeypatch.setattr(bounds, "certify", boastful)
    with pytest.raises(ModelError, match="inside the certified radius of image"):
        ends(SIGMOID)

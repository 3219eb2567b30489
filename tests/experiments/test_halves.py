"""Tables 3 and 4: numbers worked out by hand, and a small run from training on halves to tables."""

from __future__ import annotations

import importlib
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

from intriguing.data.split import halves as cut
from intriguing.experiments import fed, halves
from intriguing.experiments.transfer import DISTORTION, noise_row
from intriguing.records import Inputs, Record
from intriguing.training.recipes import train

CLASSES = 10


@dataclass(frozen=True)
class Set:
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...] = tuple("0123456789")
    hash: str = "0" * 64


def inputs(needs: Mapping[str, Record], data: Mapping[str, Set]) -> Inputs:
    return Inputs(data=data.__getitem__, needs=needs)


def find(record: Record, row: str, column: str) -> Mapping[str, Any]:
    (cell,) = [c for c in record.values["cells"] if (c["row"], c["column"]) == (row, column)]
    return cell


def check_cells(record: Record) -> None:
    places = [(cell["row"], cell["column"]) for cell in record.values["cells"]]
    assert len(set(places)) == len(places)
    for cell in record.values["cells"]:
        assert cell["kind"] == "sampled"
        assert cell["n"] > 0
        assert cell["low"] <= cell["measured"] <= cell["high"], cell
        assert cell["control"]["label"]
        module, _, name = cell["code"].partition(":")
        assert callable(getattr(importlib.import_module(module), name))
    for table in record.values.get("tables", ()):
        assert all(len(row) == len(table["columns"]) for row in table["rows"])
    for finding in record.values["findings"]:
        assert finding.endswith(".")
        assert "nan" not in finding
        assert "inf" not in finding
    json.dumps(record.values)


# -- made by hand -------------------------------------------------------------------------------------------

NETS = (
    {"name": "A", "net": "FC10(1)", "half": "P1"},
    {"name": "B", "net": "FC10(1e-2)", "half": "P1"},
    {"name": "A'", "net": "FC10(1)", "half": "P2"},
)
GREY = 0.5


def by_hand() -> dict[str, Set]:
    """Return twelve grey images of class 3 for testing, and halves with other labels."""
    grey = torch.full((12, 1, 4, 4), GREY)
    return {
        "test": Set(grey, torch.full((12,), 3)),
        "P1": Set(grey, torch.tensor([3] * 9 + [7] * 3)),
        "P2": Set(grey, torch.full((12,), 7)),
    }


def threshold(pixel: int, value: float) -> Record:
    """Return a net that answers 7 where that pixel is brighter than `value` while all others are grey, else 3."""
    weight = torch.zeros(CLASSES, 16)
    weight[3] = 1.0
    weight[7, pixel] = (15 * GREY + value) / value
    return Record(
        values={"train_error": 0.0, "test_error": 0.0, "n_train": 12, "n_test": 12}, tensors={"output.weight": weight}
    )


def attacked(change: Mapping[int, float], *, missing: tuple[int, ...] = (), noisy: int = 0) -> Record:
    """Return an attack on the twelve images that adds `change` by pixel, and found nothing for `missing`."""
    original = by_hand()["test"].images
    moved = original.clone()
    for pixel, value in change.items():
        moved[:, 0, pixel // 4, pixel % 4] += value
    for i in missing:
        moved[i] = original[i]
    status = ["already_wrong" if i in missing else "found" for i in range(12)]
    length = math.sqrt(sum(value**2 for value in change.values()))
    rows = {
        "image": list(range(12)),
        "status": status,
        "distance_search": [length] * 12,
        "fooled_by_noise": [i < noisy for i in range(12)],
    }
    counts = {"attacked": 12 - len(missing), "found": 12 - len(missing)}
    return Record(values=counts, tensors={"original": original, "adversarial": moved}, rows=rows)


def needs_by_hand() -> dict[str, Record]:
    """All nets look at pixel 0: A leaves 3 above 0.52, B above 0.58, A' above 0.7; all examples brighten it."""
    return {
        "A/0/net": threshold(0, 0.52),
        "B/0/net": threshold(0, 0.58),
        "A'/0/net": threshold(0, 0.7),
        "A/0/attack": attacked({0: 0.04}, missing=(11,)),
        "B/0/attack": attacked({0: 0.1}),
        "A'/0/attack": attacked({0: 0.3}, noisy=3),
    }


def table_4_by_hand(distortion: float = 0.1) -> Record:
    return halves.table_4(
        inputs(needs_by_hand(), by_hand()), nets=NETS, repeats=1, seed=0, stds=[0.01, 0.02], distortion=distortion
    )


def test_table_3_is_what_its_records_say() -> None:
    record = halves.table_3(inputs(needs_by_hand(), by_hand()), nets=NETS, repeats=1, seed=0)
    check_cells(record)
    # Every net answers 3 on grey images; P1 holds 9 of 12 threes, P2 none, the test set nothing else.
    expected = {"error on P1": 0.25, "error on P2": 1.0, "test error": 0.0, "found": 1.0}
    for name, length, n in (("A", 0.04, 11), ("B", 0.1, 12), ("A'", 0.3, 12)):
        for column, value in expected.items():
            assert find(record, name, column)["measured"] == pytest.approx(value), (name, column)
        cell = find(record, name, halves.MINIMAL)
        assert (cell["measured"], cell["n"]) == (pytest.approx(length / 4), n)  # 16 pixels
    assert find(record, "A'", halves.MINIMAL)["control"]["measured"] == pytest.approx(3 / 12)
    assert find(record, "B", "error on P1")["control"]["measured"] == pytest.approx(3 / 12)


def test_table_4_counts_who_errs_on_what() -> None:
    record = table_4_by_hand()
    check_cells(record)
    # Brightening by 0.04 passes 0.52 alone, by 0.1 also 0.58, by 0.3 all three.
    expected = {"A": (1, 0, 0), "B": (1, 1, 0), "A'": (1, 1, 1)}
    for source, answers in expected.items():
        for receiver, answer in zip(("A", "B", "A'"), answers, strict=True):
            cell = find(record, source, receiver)
            assert (cell["measured"], cell["n"]) == (answer, 11 if source == "A" else 12), (source, receiver)
            assert cell["control"]["measured"] == 0
    assert find(record, "A", DISTORTION)["measured"] == pytest.approx(0.01, rel=1e-6)
    # Same half: A to B 0 and B to A 1. Other half: A to A' 0, B to A' 0, A' to A 1, A' to B 1.
    same, other = find(record, halves.SAME, halves.POOLED), find(record, halves.OTHER, halves.POOLED)
    assert same["measured"] == pytest.approx(0.5)
    assert same["control"]["measured"] == pytest.approx(0.5)
    assert other["measured"] == pytest.approx(0.5)
    # Of like architectures: B to A' 0 and A' to B 1; A to A' has no like within a half.
    alike = find(record, halves.SAME_ALIKE, halves.POOLED)
    assert (alike["measured"], alike["control"]["measured"]) == (pytest.approx(0.5), pytest.approx(0.5))


def test_amplifying_reaches_the_distortion_by_the_corrected_formula_alone() -> None:
    record = table_4_by_hand(0.06)
    for name, length in (("A", 0.04), ("B", 0.1), ("A'", 0.3)):
        loud, printed = fed.amplified_row(name, 0.06), fed.printed_row(name)
        # |r| = 0.06 * sqrt(16) = 0.24, all of it in pixel 0: past 0.7 to 0.74, which stays inside the box.
        assert find(record, loud, DISTORTION)["measured"] == pytest.approx(0.06, rel=1e-6)
        assert find(record, loud, halves.FACTOR)["measured"] == pytest.approx(0.24 / length, rel=1e-5)
        assert [find(record, loud, other)["measured"] for other in ("A", "B", "A'")] == [1, 1, 1]
        # As printed the step is 0.06 long: past 0.52, not past 0.58; a distortion of 0.06 / 4.
        assert find(record, printed, DISTORTION)["measured"] == pytest.approx(0.015, rel=1e-5)
        assert find(record, printed, halves.FACTOR)["measured"] == pytest.approx(0.06 / length, rel=1e-5)
        assert [find(record, printed, other)["measured"] for other in ("A", "B", "A'")] == [1, 0, 0]
    loud = find(record, fed.amplified_row(halves.OTHER, 0.06), halves.RATIO)
    assert loud["measured"] == pytest.approx(2.0)  # from 1/2 to 1
    table = {row[0]: row[1:] for row in record.values["tables"][1]["rows"]}
    assert [float(value) for value in table[fed.amplified_row("A", 0.06)][:4]] == pytest.approx([6, 6, 6, 0.06])


def test_clipping_takes_part_of_an_amplified_example_away() -> None:
    record = table_4_by_hand(0.25)
    whole, clipped = fed.amplified_row("B", 0.25), fed.amplified_row("B", 0.25, clipped=True)
    # |r| = 1 in pixel 0, of which 0.5 has room.
    assert find(record, whole, DISTORTION)["measured"] == pytest.approx(0.25, rel=1e-6)
    assert find(record, clipped, DISTORTION)["measured"] == pytest.approx(0.125, rel=1e-6)


def test_two_thirds_is_what_it_says() -> None:
    """A' needs 0.2 of pixel 0: 0.1 of B becomes 0.167 and does not pass; the ratio is that of the pooled errors."""
    record = table_4_by_hand()
    row = fed.step_row(halves.OTHER)
    assert find(record, row, halves.POOLED)["measured"] == pytest.approx(0.5)
    assert find(record, row, halves.RATIO)["measured"] == pytest.approx(1.0)
    # A's 0.04 becomes 0.067 and does not pass 0.58 either.
    assert find(record, fed.step_row(halves.SAME), halves.POOLED)["measured"] == pytest.approx(0.5)


def test_noise_rows_and_pictures_are_those_of_the_cells() -> None:
    record = table_4_by_hand()
    for std in (0.01, 0.02):
        assert find(record, noise_row(std), DISTORTION)["measured"] == pytest.approx(std, rel=0.2)
        assert find(record, noise_row(std, clipped=True), "A'")["measured"] == 0
    heat, interval = record.values["figures"]
    assert len(heat["rows"]) == 8
    for row, values in zip(heat["rows"], heat["values"], strict=True):
        assert values == [find(record, row, column)["measured"] for column in heat["columns"]]
    rows = {
        "other half, as found": halves.OTHER,
        "same half, as found": halves.SAME,
        "other half, by two thirds": fed.step_row(halves.OTHER),
        "same half, by two thirds": fed.step_row(halves.SAME),
        "other half, to 0.1": fed.amplified_row(halves.OTHER, 0.1),
        "same half, to 0.1": fed.amplified_row(halves.SAME, 0.1),
        "other half, as printed": fed.printed_row(halves.OTHER),
    }
    assert [entry["label"] for entry in interval["rows"]] == list(rows)
    for entry in interval["rows"]:
        assert entry["measured"] == find(record, rows[entry["label"]], halves.POOLED)["measured"]


def test_a_half_that_transfers_less_is_found_to() -> None:
    """Only nets of the same half share the pixel that is changed: same 1, other 0, noise 0."""
    needs = needs_by_hand()
    needs |= {"A/0/net": threshold(0, 0.6), "B/0/net": threshold(0, 0.6), "A'/0/net": threshold(5, 0.6)}
    needs |= {"A/0/attack": attacked({0: 0.2}), "B/0/attack": attacked({0: 0.2}), "A'/0/attack": attacked({5: 0.2})}
    record = halves.table_4(inputs(needs, by_hand()), nets=NETS, repeats=1, seed=0, stds=[0.01, 0.02], distortion=0.06)
    same, other = find(record, halves.SAME, halves.POOLED), find(record, halves.OTHER, halves.POOLED)
    assert (same["measured"], same["control"]["measured"], other["measured"]) == (1, 0, 0)
    assert same["p"] < 0.001
    assert other["p"] == 1
    assert find(record, halves.SAME_ALIKE, halves.POOLED)["p"] < 0.001


# -- from training to tables --------------------------------------------------------------------------------

SMALL = (
    {"name": "FC100-100-10", "net": "FC100-100-10", "half": "P1"},
    {"name": "FC123-456-10", "net": "FC123-456-10", "half": "P1"},
    {"name": "FC100-100-10'", "net": "FC100-100-10", "half": "P2"},
)


@cache
def digits() -> dict[str, Set]:
    data = load_digits()
    images = torch.from_numpy(data.images).float()[:, None] / 16
    labels = torch.from_numpy(data.target).long()
    parts = cut(labels[:800], torch.Generator().manual_seed(0))
    return {
        "test": Set(images[800:1000], labels[800:1000]),
        **{half: Set(images[ids], labels[ids]) for half, ids in zip(halves.HALVES, parts, strict=True)},
    }


@cache
def learnt(net: str, half: str, seed: int) -> tuple[Record, Record]:
    """Return a net trained on a half, and the attack on it."""
    found = train(inputs({}, digits()), net=net, seed=seed, learn=half, epochs=40, steps=200)
    return found, halves.attack(inputs({"net": found}, digits()), net=net, images=48, seed=0)


def small_needs(repeats: int = 1) -> dict[str, Record]:
    needs = {}
    for net in SMALL:
        for i in range(repeats):
            key = f"{net['name']}/{i}"
            needs[f"{key}/net"], needs[f"{key}/attack"] = learnt(net["net"], net["half"], i)
    return needs


def test_the_attack_is_of_test_images() -> None:
    record = small_needs()["FC100-100-10/0/attack"]
    test = digits()["test"]
    ids = torch.tensor(record.rows["image"])
    assert torch.equal(record.tensors["original"], test.images[ids])
    assert record.rows["label"] == test.labels[ids].tolist()
    # More images than there are mean all of them.
    needs = {"net": small_needs()["FC100-100-10/0/net"]}
    few = {"test": Set(test.images[:7], test.labels[:7])}
    assert halves.attack(inputs(needs, few), net="FC100-100-10", images=48, seed=0).values["images"] == 7


@pytest.mark.parametrize("repeats", [1, 2])
def test_small_tables_3_and_4(repeats: int) -> None:
    settings: dict[str, Any] = {"nets": SMALL, "repeats": repeats, "seed": 0}
    third = halves.table_3(inputs(small_needs(repeats), digits()), **settings)
    check_cells(third)
    for net in SMALL:
        (unseen,) = set(halves.HALVES) - {net["half"]}
        own = find(third, net["name"], halves.error_on(net["half"]))
        assert own["measured"] <= 0.01
        assert find(third, net["name"], halves.error_on(unseen))["measured"] > own["measured"]
        assert own["n"] == 400 * repeats
    settings |= {"stds": [0.06, 0.1], "distortion": 0.2}
    fourth = halves.table_4(inputs(small_needs(repeats), digits()), **settings)
    check_cells(fourth)
    names = [net["name"] for net in SMALL]
    for name in names:
        assert find(fourth, name, name)["measured"] == 1.0, "the diagonal is the attack itself"
        others = [find(fourth, name, other)["measured"] for other in names if other != name]
        assert find(fourth, name, halves.POOLED)["measured"] == pytest.approx(sum(others) / 2)
    across = [(s, r) for s in names for r in names if s.endswith("'") != r.endswith("'")]
    other = find(fourth, halves.OTHER, halves.POOLED)
    assert other["measured"] == pytest.approx(sum(find(fourth, *pair)["measured"] for pair in across) / 4)
    assert other["measured"] > other["control"]["measured"]
    assert other["p"] < 0.01
    loud = find(fourth, fed.amplified_row(halves.OTHER, 0.2), halves.RATIO)
    assert loud["measured"] > 1.5
    assert loud["low"] < loud["measured"] < loud["high"]
    if repeats == 1:
        again = halves.table_4(inputs(small_needs(), digits()), **settings)
        assert again.values == fourth.values

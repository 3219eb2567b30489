"""Table 1, Table 2 and Figure 7: numbers worked out by hand, and a small run from training to tables."""

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

from intriguing.errors import InputError
from intriguing.experiments import distortion, gallery, transfer
from intriguing.experiments.cells import attacked_images
from intriguing.records import Inputs, Record
from intriguing.training.recipes import train

CLASSES = 10


@dataclass(frozen=True)
class Set:
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...] = tuple("0123456789")
    hash: str = "0" * 64


@cache
def digits() -> dict[str, Set]:
    data = load_digits()
    images = torch.from_numpy(data.images).float()[:, None] / 16
    labels = torch.from_numpy(data.target).long()
    return {"train": Set(images[:400], labels[:400]), "test": Set(images[400:600], labels[400:600])}


def inputs(needs: Mapping[str, Record] | None = None, data: Mapping[str, Set] | None = None) -> Inputs:
    return Inputs(data=(data or digits()).__getitem__, needs=needs or {})


def find(record: Record, row: str, column: str) -> Mapping[str, Any]:
    (cell,) = [c for c in record.values["cells"] if (c["row"], c["column"]) == (row, column)]
    return cell


def check_cells(record: Record) -> None:
    """Hold every cell against what the results promise."""
    cells = record.values["cells"]
    places = [(cell["row"], cell["column"]) for cell in cells]
    assert len(set(places)) == len(places)
    for cell in cells:
        assert cell["kind"] == "sampled"
        assert isinstance(cell["row"], str)
        assert isinstance(cell["column"], str)
        assert isinstance(cell["n"], int)
        assert cell["n"] > 0
        # The bootstrap's ends are sums in another order.
        assert cell["low"] - 1e-12 <= cell["measured"] <= cell["high"] + 1e-12
        module, _, name = cell["code"].partition(":")
        assert callable(getattr(importlib.import_module(module), name))
        assert cell["control"]["label"]
        assert math.isfinite(cell["control"]["measured"])
    for finding in record.values["findings"]:
        assert finding.endswith(".")
        assert "nan" not in finding
    json.dumps(record.values, allow_nan=False)
    for figure in record.values["figures"]:
        assert {"kind", "id", "title", "caption"} <= set(figure)
    for table in record.values.get("tables", ()):
        assert all(len(row) == len(table["columns"]) for row in table["rows"])


# -- made by hand -------------------------------------------------------------------------------------------


def by_hand() -> dict[str, Set]:
    """Return ten images of 4 x 4 pixels, image k of class k."""
    images = torch.full((10, 1, 4, 4), 0.5)
    return {"train": Set(images, torch.arange(10)), "test": Set(images, torch.tensor([0] * 7 + [1] * 3))}


def always(answer: int, train_error: float = 0.9, test_error: float = 0.5) -> Record:
    """Return a net FC10 on 4 x 4 pixels that answers one class, whatever it sees."""
    weight = torch.zeros(CLASSES, 16)
    weight[answer] = 1.0
    values = {"train_error": train_error, "test_error": test_error, "n_train": 10, "n_test": 10}
    return Record(values=values, tensors={"output.weight": weight})


def attacked(
    distances: Mapping[int, float],
    *,
    by_target: Tensor | None = None,
    noisy: tuple[int, ...] = (),
    adversarial: float = 0.1,
) -> Record:
    """Return an attack on ten images that found examples for the keys of `distances`; the rest was wrong before."""
    data = by_hand()["train"]
    status = ["found" if i in distances else "already_wrong" for i in range(10)]
    moved = data.images.clone()
    for i in distances:
        moved[i] += adversarial
    rows = {
        "image": list(range(10)),
        "label": list(range(10)),
        "status": status,
        "distance_search": [distances.get(i, 0.0) for i in range(10)],
        "distance": [distances.get(i, 0.0) for i in range(10)],
        "fooled_by_noise": [i in noisy for i in range(10)],
    }
    values = {
        "images": 10,
        "attacked": len(distances),
        "found": len(distances),
        "passes_mean": 100.0,
        "passes_max": 150.0,
    }
    tensors = {"original": data.images, "adversarial": moved}
    if by_target is not None:
        tensors["by_target"] = by_target
    return Record(values=values, tensors=tensors, rows=rows)


def distances_to_all(found: Mapping[int, tuple[float, float]]) -> Tensor:
    """Return by_target with the given nearest and farthest target, and 2.0 for one in between."""
    by_target = torch.full((10, CLASSES), torch.inf, dtype=torch.float64)
    for image, (near, far) in found.items():
        others = [c for c in range(CLASSES) if c != image]
        by_target[image, others[0]], by_target[image, others[4]], by_target[image, others[8]] = far, 2.0, near
    for image in range(10):
        if image not in found:
            by_target[image, 9 - image] = 0.0  # already wrong
    return by_target


def table_1_by_hand() -> Record:
    every = distances_to_all({0: (1.0, 4.0), 1: (2.0, 3.0)})
    needs = {
        "A/0/net": always(0, 0.2, 0.4),
        "A/0/random": attacked({0: 2.0, 1: 4.0}, noisy=(1,)),
        "A/0/all": attacked({0: 1.0, 1: 2.0}, by_target=every),
        "B/0/net": always(0, 0.0, 0.1),
        "B/0/random": attacked({2: 1.0}),
        "B/0/all": attacked({2: 1.0}, by_target=distances_to_all({2: (1.0, 2.0)})),
        "B/1/net": always(0, 0.1, 0.3),
        "B/1/random": attacked({3: 3.0, 4: 3.0, 5: 3.0}),
        "B/1/all": attacked({3: 2.0}, by_target=distances_to_all({3: (2.0, 4.0)})),
        "V/far/net": always(1),
        "V/far/random": attacked({0: 8.0}),
        "V/near/net": always(1),
        "V/near/random": attacked({0: 2.4}),
    }
    rows = [{"name": "A", "keys": ["A/0"]}, {"name": "B", "keys": ["B/0", "B/1"]}]
    variants = [
        {"name": "far", "keys": ["V/far"], "printed": 0.5},
        {"name": "near", "keys": ["V/near"], "printed": 0.5},
    ]
    return distortion.table_1(inputs(needs, by_hand()), rows=rows, variants=variants, seed=0)


def test_table_1_is_what_its_records_say() -> None:
    record = table_1_by_hand()
    check_cells(record)
    # Ten pixels squared would be wrong: an image has 16, so distortion is a quarter of the distance.
    expected = {
        ("A", "train error"): (0.2, 10),
        ("A", "test error"): (0.4, 10),
        ("A", distortion.RANDOM): ((2.0 + 4.0) / 2 / 4, 2),
        ("A", distortion.NEAREST): ((1.0 + 2.0) / 2 / 4, 2),
        ("A", distortion.FARTHEST): ((4.0 + 3.0) / 2 / 4, 2),
        ("A", "found"): (1.0, 2),
        ("B", "train error"): (0.05, 20),
        ("B", "test error"): (0.2, 20),
        # The mean over nets of the means over images.
        ("B", distortion.RANDOM): ((1.0 + 3.0) / 2 / 4, 4),
        ("B", distortion.NEAREST): ((1.0 + 2.0) / 2 / 4, 2),
        ("B", distortion.FARTHEST): ((2.0 + 4.0) / 2 / 4, 2),
        ("B", "found"): (1.0, 4),
    }
    assert {(c["row"], c["column"]) for c in record.values["cells"]} == set(expected)
    for (row, column), (value, n) in expected.items():
        cell = find(record, row, column)
        assert (cell["measured"], cell["n"]) == (pytest.approx(value), n), (row, column)
    # Controls: the most frequent class is right on 1 of 10 training and 7 of 10 test images; noise fooled 1 of 2.
    assert find(record, "A", "train error")["control"]["measured"] == pytest.approx(0.9)
    assert find(record, "A", "test error")["control"]["measured"] == pytest.approx(0.3)
    assert find(record, "A", distortion.RANDOM)["control"]["measured"] == 0.5
    assert find(record, "B", distortion.RANDOM)["control"]["measured"] == 0.0
    (figure,) = record.values["figures"]
    assert [series["values"] for series in figure["series"]] == [[0.5, 1.0], [0.25, 0.75, 0.75, 0.75]]
    assert record.values["findings"][0].startswith("6 of 6 ")


def test_the_variants_are_sorted_by_their_distance_from_the_print() -> None:
    tables = {table["id"]: table for table in table_1_by_hand().values["tables"]}
    # 2.4 / 4 = 0.6 is nearer to 0.5 than 8 / 4 = 2.
    assert [row[0] for row in tables["autoencoder-variants"]["rows"]] == ["near", "far"]
    assert tables["autoencoder-variants"]["rows"][0][3].startswith("0.600")
    assert len(tables["effort"]["rows"]) == 4
    assert ["A", "random", "2", "8", "100", "150"] in tables["effort"]["rows"]


def test_a_net_that_gets_no_image_right_leaves_a_gap_in_table_1_not_an_exception() -> None:
    """With few images an over-regularised net may err on all of them: nothing is attacked."""
    needs = {
        "A/0/net": always(0),
        "A/0/random": attacked({0: 2.0}),
        "A/0/all": attacked({0: 1.0}, by_target=distances_to_all({0: (1.0, 4.0)})),
        "B/0/net": always(0),
        "B/0/random": attacked({}),
        "B/0/all": attacked({}, by_target=distances_to_all({})),
    }
    rows = [{"name": name, "keys": [f"{name}/0"]} for name in "AB"]
    record = distortion.table_1(inputs(needs, by_hand()), rows=rows, variants=[], seed=0)
    cell = find(record, "B", "found")
    assert cell["n"] == 0
    assert math.isnan(cell["measured"])
    assert find(record, "A", "found")["measured"] == 1.0
    assert not any("nan" in finding for finding in record.values["findings"])


def table_2_by_hand(records: Mapping[str, Record] | None = None) -> Record:
    """Two nets: FC10(1e-4) always answers 3 and FC10(1) always 7, both attacked on images 0 to 4."""
    needs = dict(
        records or {"FC10(1e-4)": attacked(dict.fromkeys(range(5), 0.4)), "FC10(1)": attacked({7: 0.4, 3: 0.4})}
    )
    needs = {f"{name}/random": record for name, record in needs.items()}
    needs |= {"FC10(1e-4)/net": always(3), "FC10(1)/net": always(7)}
    return transfer.table_2(
        inputs(needs, by_hand()), nets=["FC10(1e-4)", "FC10(1)"], images=10, seed=0, stds=[0.1, 0.3], distortion=0.2
    )


def test_table_2_counts_who_errs_on_what() -> None:
    record = table_2_by_hand()
    check_cells(record)
    # Examples of classes 0 to 4 and of 3 and 7, fed to nets that always answer 3 and 7.
    expected = {
        ("FC10(1e-4)", "FC10(1e-4)"): (4 / 5, 5),
        ("FC10(1e-4)", "FC10(1)"): (1.0, 5),
        ("FC10(1)", "FC10(1e-4)"): (1 / 2, 2),
        ("FC10(1)", "FC10(1)"): (1 / 2, 2),
        ("Gaussian noise, std 0.1", "FC10(1)"): (0.9, 10),
        ("Gaussian noise, std 0.3", "FC10(1e-4)"): (0.9, 10),
    }
    for place, (value, n) in expected.items():
        cell = find(record, *place)
        assert (cell["measured"], cell["n"]) == (pytest.approx(value), n), place
        # A constant answer errs on the changed images as on the same ones unchanged.
        assert cell["control"]["measured"] == pytest.approx(value)
    assert find(record, "FC10(1)", transfer.DISTORTION)["measured"] == pytest.approx(0.1, rel=1e-6)
    # The rows at equal distortion are stretched from 0.1 to 0.2.
    for name in ("FC10(1e-4)", "FC10(1)"):
        row = transfer.equal_row(name, 0.2)
        assert find(record, row, transfer.DISTORTION)["measured"] == pytest.approx(0.2, rel=1e-6)
        assert find(record, row, "FC10(1)")["measured"] == find(record, name, "FC10(1)")["measured"]
    pooled = find(record, "FC10(1e-4)", transfer.POOLED)
    # Without the net itself; noise does as much as the examples, so there is no evidence.
    assert (pooled["measured"], pooled["control"]["measured"], pooled["p"]) == (1.0, 1.0, 1.0)
    excess = {row[0]: row[1:] for row in record.values["tables"][0]["rows"]}
    assert excess["FC10(1)"] == ["+0.0", "+0.0"]


def test_transfer_above_noise_is_significant_where_only_examples_fool() -> None:
    """Every image is of class 3; the nets leave 3 for 7 only where the first pixel is brighter than the rest."""
    data = by_hand()["train"]
    data = {"train": Set(data.images, torch.full((10,), 3))}
    weight = torch.zeros(CLASSES, 16)
    weight[3] = 1.0
    weight[7, 0] = 16 * 0.9  # z_7 = 7.2 < 8 = z_3 on a grey image; 11.5 > 8.3 with its first pixel at 0.8
    net = Record(tensors={"output.weight": weight})
    moved = data["train"].images.clone()
    moved[:, 0, 0, 0] = 0.8
    source = attacked(dict.fromkeys(range(10), 0.3))
    source = Record(source.values, {**source.tensors, "adversarial": moved}, source.rows)
    names = ("FC10(1)", "FC10(1e-2)")
    needs = {f"{name}/net": net for name in names} | {f"{name}/random": source for name in names}
    record = transfer.table_2(inputs(needs, data), nets=names, images=10, seed=0, stds=[0.1], distortion=0.1)
    pooled = find(record, "FC10(1)", transfer.POOLED)
    assert find(record, "FC10(1)", "FC10(1e-2)")["measured"] == 1.0
    assert find(record, "FC10(1)", "FC10(1e-2)")["control"]["measured"] == 0.0
    assert pooled["control"]["measured"] < 0.5
    assert pooled["p"] < 0.01


def test_a_source_without_examples_leaves_a_gap_in_table_2_not_an_exception() -> None:
    record = table_2_by_hand({"FC10(1e-4)": attacked({}), "FC10(1)": attacked({0: 0.4})})
    assert find(record, "FC10(1e-4)", "FC10(1)")["n"] == 0
    assert find(record, "FC10(1)", "FC10(1)")["n"] == 1
    assert not any("nan" in finding for finding in record.values["findings"])


def test_which_images_are_attacked_depends_on_the_seed_alone() -> None:
    data = digits()["train"]
    ids = attacked_images(data, 50, 3)
    assert torch.equal(ids, attacked_images(data, 50, 3))
    assert not torch.equal(ids, attacked_images(data, 50, 4))
    assert torch.equal(ids, ids.unique())
    assert len(ids) == 50
    assert torch.equal(attacked_images(data, 400, 0), torch.arange(400))
    for count in (0, 401, -1):
        with pytest.raises(InputError, match="1 to 400"):
            attacked_images(data, count, 0)


# -- from training to tables --------------------------------------------------------------------------------

NETS = ("FC10(1e-2)", "FC100-100-10")
IMAGES = 24


@cache
def trained(net: str) -> Record:
    cheap = {"max_evaluations": 60} if net.startswith("FC10(") else {"epochs": 30, "steps": 60}
    return train(inputs(), net=net, seed=0, **cheap)


@cache
def attack(net: str, target: str) -> Record:
    return distortion.attack(inputs({"net": trained(net)}), net=net, images=IMAGES, seed=0, target=target)


def pool() -> dict[str, Record]:
    needs = {}
    for net in NETS:
        needs[f"{net}/net"], needs[f"{net}/random"] = trained(net), attack(net, "random")
    return needs


@pytest.mark.parametrize("net", NETS)
def test_an_attack_is_recorded_image_by_image(net: str) -> None:
    record = attack(net, "random")
    data = digits()["train"]
    assert {len(column) for column in record.rows.values()} == {IMAGES}
    ids = torch.tensor(record.rows["image"])
    assert torch.equal(record.tensors["original"], data.images[ids])
    assert record.rows["label"] == data.labels[ids].tolist()
    found = torch.tensor([status == "found" for status in record.rows["status"]])
    assert found.sum() == record.values["found"] > 15
    assert record.values["images"] == IMAGES
    assert record.values["attacked"] == IMAGES - record.rows["status"].count("already_wrong")
    model = distortion.model_of(trained(net), net, data, torch.device("cpu"))
    answers = model.predict(record.tensors["adversarial"])
    assert torch.equal(answers[found], torch.tensor(record.rows["target"])[found])
    exact = (record.tensors["adversarial"].double() - data.images[ids].double()).flatten(1).norm(dim=1)
    torch.testing.assert_close(torch.tensor(record.rows["distance"]).double()[found], exact[found])
    passes = torch.tensor(record.rows["forwards"]) + torch.tensor(record.rows["backwards"])
    assert record.values["passes_max"] == passes.max()
    assert not any(noisy for noisy, hit in zip(record.rows["fooled_by_noise"], found.tolist(), strict=True) if not hit)
    json.dumps({**record.values, **record.rows})


def test_small_table_1() -> None:
    needs = {}
    for net in NETS:
        needs[f"{net}/0/net"], needs[f"{net}/0/random"] = trained(net), attack(net, "random")
        needs[f"{net}/0/all"] = attack(net, "all")
    rows = [{"name": net, "keys": [f"{net}/0"]} for net in NETS]
    record = distortion.table_1(inputs(needs), rows=rows, variants=[], seed=0)
    check_cells(record)
    for net in NETS:
        near, middle, far = (
            find(record, net, column)["measured"]
            for column in (distortion.NEAREST, distortion.RANDOM, distortion.FARTHEST)
        )
        assert near < middle < far
        assert find(record, net, "train error")["measured"] == pytest.approx(trained(net).values["train_error"])
        assert find(record, net, "test error")["n"] == 200
        assert find(record, net, "found")["measured"] == 1.0
    again = distortion.table_1(inputs(needs), rows=rows, variants=[], seed=0)
    assert again.values == record.values


def test_small_table_2() -> None:
    settings = {"nets": list(NETS), "images": IMAGES, "seed": 0, "stds": [0.1, 0.3], "distortion": 0.1}
    record = transfer.table_2(inputs(pool()), **settings)
    check_cells(record)
    for net in NETS:
        assert find(record, net, net)["measured"] == 1.0, "the diagonal is the attack itself"
        sizes = attack(net, "random")
        found = [i for i, status in enumerate(sizes.rows["status"]) if status == "found"]
        mean = sum(sizes.rows["distortion"][i] for i in found) / len(found)
        assert find(record, net, transfer.DISTORTION)["measured"] == pytest.approx(mean, rel=1e-6)
        equal = find(record, transfer.equal_row(net, 0.1), transfer.DISTORTION)
        assert equal["measured"] == pytest.approx(0.1, rel=1e-5)
        assert 0 < find(record, net, transfer.POOLED)["p"] <= 1
    (figure,) = record.values["figures"]
    assert len(figure["values"]) == len(figure["rows"]) == 4
    for row, values in zip(figure["rows"], figure["values"], strict=True):
        assert values == [find(record, row, column)["measured"] for column in figure["columns"]]
    # The noise rows have the size that they are named after, clipped ones less.
    for std in (0.1, 0.3):
        whole = find(record, transfer.noise_row(std), transfer.DISTORTION)["measured"]
        clipped = find(record, transfer.noise_row(std, clipped=True), transfer.DISTORTION)["measured"]
        assert whole == pytest.approx(std, rel=0.1)
        assert clipped < 0.9 * whole
    assert transfer.table_2(inputs(pool()), **settings).values == record.values


def test_small_figure_7() -> None:
    settings = {"nets": list(NETS), "images": IMAGES, "seed": 0, "std": 1.0, "magnify": 3.0, "shown": 6}
    record = gallery.figure_7(inputs(pool()), **settings)
    check_cells(record)
    (figure,) = record.values["figures"]
    for place, (net, group) in enumerate(zip(NETS, figure["groups"], strict=True)):
        row = find(record, gallery.adversarial_row(net), gallery.ACCURACY)
        assert row["measured"] == 0.0
        assert row["control"]["measured"] > 0.5
        assert find(record, gallery.noise_row(net, 1.0), gallery.ACCURACY)["n"] == IMAGES
        assert len(group["rows"]) == 6
        for tiles in group["rows"]:
            assert len(tiles["images"]) == len(group["columns"]) == 5
            for tile in tiles["images"]:
                image = record.tensors[tile["tensor"]][tile["index"]]
                assert image.shape == (1, 8, 8)
                assert ((image >= 0) & (image <= 1)).all()
        names = ("original", "perturbation", "adversarial", "quiet", "loud")
        original, shown, moved, quiet, _ = (record.tensors[f"net{place}_{name}"] for name in names)
        torch.testing.assert_close(shown, (0.5 + 3.0 * (moved - original)).clamp(0, 1))
        # Two changes of exactly the same size: one was aimed.
        sizes = [(changed - original).flatten(1).double().norm(dim=1) for changed in (moved, quiet)]
        torch.testing.assert_close(sizes[0], sizes[1], rtol=1e-5, atol=1e-6)
        # One picture per class as far as they go.
        classes = [tiles["label"].split(" read as ")[0] for tiles in group["rows"]]
        assert len(set(classes)) == 6
        assert all(
            tiles["label"].split(" read as ")[0] != tiles["label"].split(" read as ")[1] for tiles in group["rows"]
        )

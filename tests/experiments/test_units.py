"""Units against directions on digits: from trained nets to cells, with the same numbers by hand."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from intriguing.errors import ModelError
from intriguing.experiments import unit_exhibits, unit_patches, units
from intriguing.experiments.unit_exhibits import CLASS, DRIVES, LOGITS
from intriguing.nets.load import Model
from intriguing.records import Inputs, Record
from intriguing.rng import generator
from intriguing.semantics.activations import activations
from intriguing.training import convolutional, recipes


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
    return {"train": Set(images[:800], labels[:800]), "test": Set(images[800:1200], labels[800:1200])}


def inputs(**needs: Record) -> Inputs:
    return Inputs(data=digits().__getitem__, needs=needs)


@cache
def trained(net: str) -> Record:
    if net == "ConvNet":
        return convolutional.train(inputs(), net=net, seed=0, steps=300)
    return recipes.train(inputs(), net=net, seed=0, steps=300, epochs=1)


PLACES = (("ConvNet", "last hidden"), ("ConvNet", "last convolution"), ("FC100-100-10", "last hidden"))


@cache
def measured(net: str, layer: str = "last hidden") -> Record:
    return units.measure(inputs(net=trained(net)), net=net, layer=layer, count=40, permutations=200)


def test_both_kinds_of_nets_come_back_from_their_records() -> None:
    test = digits()["test"]
    for net in ("FC100-100-10", "ConvNet"):
        record = trained(net)
        model = units.model_from(record, test, torch.device("cpu"))
        error = float((model.predict(test.images) != test.labels).float().mean())
        assert error == pytest.approx(record.values["test_error"])
        assert error < 0.3  # so that its units have learnt something


def test_layers_are_named_by_what_they_are() -> None:
    test = digits()["test"]
    conv, dense = (units.model_from(trained(net), test, torch.device("cpu")) for net in ("ConvNet", "FC100-100-10"))
    assert units.layer_of(conv, "last hidden", test.images) == "relu3"
    assert units.layer_of(conv, "last convolution", test.images) == "relu2"
    assert units.layer_of(dense, "last convolution", test.images) == "sigmoid2"
    assert units.layer_of(dense, "sigmoid1", test.images) == "sigmoid1"


def test_the_purity_of_units_is_that_of_sorting_by_hand() -> None:
    record, test = measured("FC100-100-10"), digits()["test"]
    model = units.model_from(trained("FC100-100-10"), test, torch.device("cpu"))
    values = activations(model, test.images, "sigmoid2").values
    shares = []
    for place, unit in enumerate(record.values["chosen"]):
        order = sorted(range(len(values)), key=lambda i, u=unit: -float(values[i, u]))[:8]
        found = record.tensors[f"sets/{units.NATURAL}"][place].tolist()
        assert [float(values[i, unit]) for i in found] == [float(values[i, unit]) for i in order]
        shares.append(max(Counter(test.labels[found].tolist()).values()) / 8)
    entry = record.values["bases"][units.NATURAL]
    assert record.tensors[f"class/{units.NATURAL}"].tolist() == pytest.approx(shares)
    assert entry["class"]["measured"] == pytest.approx(sum(shares) / len(shares))
    assert entry["class"]["n"] == len(shares) == 40


@pytest.mark.parametrize("net", ["FC100-100-10", "ConvNet"])
def test_top_images_of_units_and_of_directions_are_purer_than_random_sets(net: str) -> None:
    values = measured(net).values
    for basis in (units.NATURAL, units.RANDOM, units.ROTATED):
        entry = values["bases"][basis]
        assert entry["class_p"] < 0.01
        assert entry["cosine_p"] < 0.01
        assert entry["class"]["low"] > values["control"]["class"]["high"]
    assert set(values["bases"]) == set(units.BASES)
    assert values["differences"]["class"]["control"]["low"] < values["differences"]["class"]["control"]["high"]


def test_random_sets_are_as_pure_as_chance_has_it() -> None:
    record = measured("FC100-100-10")
    labels = digits()["test"].labels
    draw = generator("by hand", 0)
    shares = [
        max(Counter(labels[torch.randperm(len(labels), generator=draw)[:8]].tolist()).values()) / 8 for _ in range(2000)
    ]
    expected, error = sum(shares) / 2000, 0.1 / math.sqrt(2000)
    assert record.values["control"]["class"]["measured"] == pytest.approx(expected, abs=6 * error)


def test_the_rotated_net_has_the_same_function_and_other_units() -> None:
    facts = measured("FC100-100-10").values["rotation"]
    assert facts["off"] < 1e-5
    assert facts["off_single"] < 1e-4
    assert facts["not_undone"] > 1
    assert (facts["layer"], facts["undone"]) == ("sigmoid2.rotation", "output")


def test_a_convolutions_channels_are_measured_over_their_positions() -> None:
    record = measured("ConvNet", "last convolution")
    assert record.values["layer"] == "relu2"
    assert record.values["grid"] == [4, 4]
    assert record.values["rotation"] is None  # pooling follows
    assert units.ROTATED not in record.values["bases"]
    model = units.model_from(trained("ConvNet"), digits()["test"], torch.device("cpu"))
    maps = activations(model, digits()["test"].images, "relu2").values
    first = record.values["chosen"][0]
    best = int(record.tensors[f"sets/{units.NATURAL}"][0, 0])
    assert float(maps[best, first]) == float(maps[:, first].max())


def test_a_layer_that_is_silent_is_refused() -> None:
    silent = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        silent[1].weight.zero_()
        silent[1].bias.fill_(-1.0)
    with pytest.raises(ModelError, match="400 images"):
        units.live_units(activations(Model(silent), digits()["test"].images, "2"))


def check(record: Record, exact: int) -> None:
    """Hold an exhibit against what every exhibit promises."""
    cells = record.values["cells"]
    places = [(cell["row"], cell["column"]) for cell in cells]
    assert len(set(places)) == len(places)
    assert sum(cell["kind"] == "exact" for cell in cells) == exact
    for cell in cells:
        assert cell["n"] >= 1
        assert cell["low"] - 1e-9 <= cell["measured"] <= cell["high"] + 1e-9
        assert cell["control"]["label"]
        assert math.isfinite(cell["control"]["measured"])
    for figure in record.values["figures"]:
        assert {"kind", "id", "title", "caption"} <= set(figure)
        groups = [row for group in figure.get("groups", ()) for row in group["rows"]]
        for row in [*groups, *figure.get("cards", ())]:
            for reference in row["images"]:
                stack = record.tensors[reference["tensor"]]
                assert 0 <= reference["index"] < len(stack)
                assert stack.shape[1] in (1, 3)
                assert 0 <= float(stack.min()) <= float(stack.max()) <= 1
    for table in record.values.get("tables", ()):
        assert all(len(row) == len(table["columns"]) for row in table["rows"])
    assert record.values["findings"]
    assert all(finding.endswith(".") and "nan" not in finding for finding in record.values["findings"])
    json.dumps(record.values, allow_nan=False)


@pytest.mark.parametrize("basis", [units.NATURAL, units.RANDOM])
def test_a_figure_shows_the_images_that_were_measured(basis: str) -> None:
    source = measured("ConvNet")
    given = Inputs(data=digits().__getitem__, needs={"ConvNet/purity": source})
    record = unit_exhibits.figure(given, net="ConvNet", basis=basis, shown=6, controls=3)
    check(record, exact=0)
    rows = record.values["figures"][0]["groups"][0]["rows"]
    assert len(rows) == 6
    assert len(rows[0]["images"]) == 8
    (cell,) = [c for c in record.values["cells"] if (c["row"], c["column"]) == (f"ConvNet: {basis}", CLASS)]
    assert cell["measured"] == source.values["bases"][basis]["class"]["measured"]
    assert cell["p"] == source.values["bases"][basis]["class_p"]
    number = int(rows[0]["label"].split()[-1])
    index = source.values["chosen"].index(number) if basis == units.NATURAL else number
    ids = source.tensors[f"sets/{basis}"][index]
    shown = record.tensors[rows[0]["images"][0]["tensor"]][:8]
    torch.testing.assert_close(shown, digits()["test"].images[ids])
    count = max(Counter(digits()["test"].labels[ids].tolist()).values())
    assert rows[0]["note"].startswith(f"{count} of 8")


def test_the_cards_count_the_units_that_their_patches_drive() -> None:
    given = inputs(net=trained("ConvNet"))
    tried = unit_patches.patches(given, net="ConvNet", layer="last convolution", units=10, cards=3)
    n = len(tried.rows["unit"])
    assert n == len(set(tried.rows["unit"])) == 10
    for place in range(n):
        assert tried.rows["drives_near"][place] <= tried.rows["drives"][place]
        assert tried.rows["drop"][place] <= tried.rows["largest_drop"][place] + 1e-6
    places = [{"net": "ConvNet", "layer": "last convolution"}]
    record = unit_exhibits.cards(Inputs(given.data, {"ConvNet, last convolution/patches": tried}), layers=places)
    check(record, exact=0)
    cells = {(cell["row"], cell["column"]): cell for cell in record.values["cells"]}
    share = cells["ConvNet, last convolution", DRIVES]
    assert share["measured"] == pytest.approx(sum(tried.rows["drives"]) / n)
    assert share["control"]["measured"] == pytest.approx(sum(tried.rows["random_drives"]) / n)
    (figure,) = record.values["figures"]
    assert len(figure["cards"]) == 3
    for card, unit in zip(figure["cards"], tried.rows["unit"], strict=False):
        assert card["title"] == f"relu2, unit {unit}"
        assert sum(card["histogram"]["counts"]) == 400
        assert len(card["histogram"]["edges"]) == len(card["histogram"]["counts"]) + 1


def test_on_photographs_sized_images_the_patch_is_where_the_position_looks() -> None:
    # 28 x 28 images, on which a position of the second convolution sees 14 x 14 pixels.
    test = digits()["test"]
    images = nn.functional.interpolate(test.images, size=(28, 28))
    large = {split: Set(images[:300], test.labels[:300]) for split in ("train", "test")}
    record = convolutional.train(Inputs(large.__getitem__), net="ConvNet", seed=0, steps=100)
    given = Inputs(large.__getitem__, {"net": record})
    tried = unit_patches.patches(given, net="ConvNet", layer="last convolution", units=6, cards=1)
    assert set(tried.rows["found_by"]) == {unit_patches.BY_POSITION}
    assert set(tried.rows["height"]) == {10}  # 0.35 of 28
    model = units.model_from(record, large["test"], torch.device("cpu"))
    found = activations(model, large["test"].images, "relu2")
    for unit, image, top, left in zip(*(tried.rows[name] for name in ("unit", "image", "top", "left")), strict=True):
        row, column = divmod(int(found.places[image, unit]), 14)
        # Position i of the 14 is made of pixels around 2 i.
        assert abs(top + 5 - min(max(2 * row + 1, 5), 23)) <= 4
        assert abs(left + 5 - min(max(2 * column + 1, 5), 23)) <= 4


def test_the_tables_of_all_bases_and_of_the_rotated_nets() -> None:
    needs = {f"{units.name_of(*place)}/purity": measured(*place) for place in PLACES}
    given = Inputs(data=digits().__getitem__, needs=needs)
    layers = [{"net": net, "layer": layer} for net, layer in PLACES]
    record = unit_exhibits.table(given, layers=layers)
    check(record, exact=0)
    cells = {(cell["row"], cell["column"]): cell for cell in record.values["cells"]}
    values = measured("ConvNet").values["bases"]
    difference = cells["ConvNet: mean pixel cosine", unit_exhibits.MINUS]
    expected = values[units.NATURAL]["cosine"]["measured"] - values[units.RANDOM]["cosine"]["measured"]
    assert difference["measured"] == pytest.approx(expected, abs=1e-6)
    assert cells["ConvNet: share of one class", units.NATURAL]["control"]["measured"] == pytest.approx(
        measured("ConvNet").values["control"]["class"]["measured"]
    )
    assert len(cells) == 2 * (9 + 8 + 9)  # eight bases and a difference; the convolution has no rotated basis
    turned = unit_exhibits.rotation(given, layers=[layers[0], layers[2]])
    check(turned, exact=2)
    logits = {cell["row"]: cell for cell in turned.values["cells"] if cell["column"] == LOGITS}
    assert logits["FC100-100-10"]["measured"] < 1e-5 < 1 < logits["FC100-100-10"]["control"]["measured"]


def test_the_measure_repeats_and_depends_on_its_seed() -> None:
    again = units.measure(inputs(net=trained("ConvNet")), net="ConvNet", count=40, permutations=200)
    assert again.values == measured("ConvNet").values
    other = units.measure(inputs(net=trained("ConvNet")), net="ConvNet", count=40, permutations=5, seed=1)
    assert other.values["bases"][units.RANDOM] != again.values["bases"][units.RANDOM]

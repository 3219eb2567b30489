"""Table 5, the MNIST nets' bounds and gains, and errata E7 to E11: against matrices, by hand, and on small runs."""

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
from torch import Tensor, nn

from intriguing.bounds.network import layer_bounds, product
from intriguing.errors import ModelError
from intriguing.experiments import spectral, spectral_errata
from intriguing.experiments.distortion import attack
from intriguing.nets.load import Model
from intriguing.records import Inputs, Record
from intriguing.training import convolutional
from intriguing.training.recipes import restore, train

NETS = ("FC10(1e-4)", "FC100-100-10")


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


@cache
def photographs() -> dict[str, Set]:
    draw = torch.Generator().manual_seed(0)
    images, labels = torch.rand(6, 3, 64, 64, generator=draw), torch.arange(6) % 3
    return {f"photographs/{split}": Set(images, labels, tuple("abc")) for split in ("train", "test")}


def inputs(data: Mapping[str, Set], needs: Mapping[str, Record] | None = None) -> Inputs:
    return Inputs(data=data.__getitem__, needs=needs or {})


@cache
def needs() -> dict[str, Record]:
    found = {}
    for net in NETS:
        found[f"{net}/net"] = train(inputs(digits()), net=net, seed=0)
        given = inputs(digits(), {"net": found[f"{net}/net"]})
        found[f"{net}/all"] = attack(given, net=net, images=30, seed=0, target="all")
    return found


@cache
def instability() -> Record:
    return spectral.instability(inputs(digits(), needs()), nets=NETS, images=30, steps=15, draws=10, seed=0)


@cache
def alexnet() -> Record:
    return convolutional.train(
        inputs(photographs()), net="AlexNet", seed=1, data="photographs/", width=1 / 16, dense=1 / 32, steps=0
    )


@cache
def table_5() -> Record:
    given = inputs(photographs(), {"net": alexnet()})
    return spectral.table_5(given, images=4, steps=6, seed=0, data="photographs/")


def find(record: Record, row: str, column: str) -> Mapping[str, Any]:
    (cell,) = [c for c in record.values["cells"] if (c["row"], c["column"]) == (row, column)]
    return cell


def value(record: Record, row: str, column: str) -> float:
    return float(find(record, row, column)["measured"])


def check(record: Record) -> None:
    """Hold a record against what every exhibit promises."""
    cells = record.values["cells"]
    places = [(cell["row"], cell["column"]) for cell in cells]
    assert len(set(places)) == len(places)
    for cell in cells:
        assert cell["low"] <= cell["measured"] <= cell["high"], cell
        assert math.isfinite(cell["measured"]), cell
        module, _, name = cell["code"].partition(":")
        assert callable(getattr(importlib.import_module(module), name))
        if cell["kind"] == "sampled":
            assert cell["n"] > 1
            assert cell["control"]["label"]
            assert math.isfinite(cell["control"]["measured"])
    assert record.values["findings"]
    for finding in record.values["findings"]:
        assert finding.endswith(".")
        assert "nan" not in finding
        assert "inf" not in finding
    json.dumps(record.values, allow_nan=False)
    for figure in record.values.get("figures", ()):
        assert {"kind", "id", "title", "caption"} <= set(figure)
    for table in record.values.get("tables", ()):
        assert all(len(row) == len(table["columns"]) for row in table["rows"])


# -- the MNIST nets ---------------------------------------------------------------------------------------------


def test_every_cell_of_instability_keeps_its_promises() -> None:
    check(instability())


@pytest.mark.parametrize("net", NETS)
def test_the_bound_is_the_product_and_no_gain_passes_it(net: str) -> None:
    module = restore(needs()[f"{net}/net"], net, (1, 8, 8), 10)
    record = instability()
    bound = value(record, net, spectral.BOUND)
    assert bound == product(layer_bounds(module, (1, 8, 8)))
    assert value(record, net, spectral.LARGEST) <= bound
    assert value(record, net, spectral.GAIN) <= value(record, net, spectral.LARGEST)
    assert find(record, net, spectral.GAIN)["control"]["measured"] < value(record, net, spectral.GAIN)
    assert value(record, net, spectral.TIGHTNESS) == pytest.approx(bound / value(record, net, spectral.LARGEST))
    assert value(record, net, spectral.RATIO) == pytest.approx(bound / value(record, net, spectral.GAIN))


def test_layers_multiply_to_the_net_and_a_linear_net_is_tight() -> None:
    record = instability()
    layers = [
        value(record, spectral.layer_row("FC100-100-10", layer), spectral.BOUND)
        for layer in ("hidden1", "hidden2", "output")
    ]
    assert math.prod(layers) == pytest.approx(value(record, "FC100-100-10", spectral.BOUND))
    assert value(record, "FC10(1e-4)", spectral.TIGHTNESS) == pytest.approx(1, abs=0.01)
    assert value(record, "FC100-100-10", spectral.TIGHTNESS) > 1.2


@pytest.mark.parametrize("net", NETS)
def test_the_guaranteed_radius_holds_no_example(net: str) -> None:
    record = instability()
    share = find(record, net, spectral.SHARE)
    assert share["control"]["measured"] == 0
    assert 0 < share["measured"] < 1
    radius = find(record, net, spectral.RADIUS)
    assert radius["measured"] < radius["control"]["measured"]


def test_the_radius_is_the_one_of_the_formula() -> None:
    net = "FC10(1e-4)"
    module = restore(needs()[f"{net}/net"], net, (1, 8, 8), 10)
    found = needs()[f"{net}/all"]
    kept = [place for place, status in enumerate(found.rows["status"]) if status == "found"]
    bound = product(layer_bounds(module, (1, 8, 8)))
    radii = []
    for place in kept:
        logits = Model(module).logits(found.tensors["original"][place : place + 1])[0].tolist()
        own = logits.pop(found.rows["label"][place])
        radii.append((own - max(logits)) / (math.sqrt(2) * bound))
    assert value(instability(), net, spectral.RADIUS) == pytest.approx(sum(radii) / len(radii), rel=1e-5)


@pytest.mark.parametrize("net", NETS)
def test_the_heuristic_predicts_the_random_gain_within_a_tenth(net: str) -> None:
    ratio = find(instability(), net, spectral.PREDICTED)
    assert 0.9 < ratio["measured"] < 1.1
    assert "not a bound" in find(instability(), net, spectral.RANDOM_GAIN)["control"]["label"]


def test_without_an_attack_there_is_no_radius() -> None:
    alone = {"FC10(1e-4)/net": needs()["FC10(1e-4)/net"]}
    record = spectral.instability(inputs(digits(), alone), nets=["FC10(1e-4)"], images=500, steps=5, draws=4, seed=0)
    check(record)
    assert spectral.RADIUS not in {cell["column"] for cell in record.values["cells"]}
    assert find(record, "FC10(1e-4)", spectral.GAIN)["n"] == 200  # all there are


# -- Table 5 ----------------------------------------------------------------------------------------------------


def test_every_cell_of_table_5_keeps_its_promises() -> None:
    check(table_5())


def test_the_rows_of_table_5_are_the_printed_ones() -> None:
    rows = list(dict.fromkeys(cell["row"] for cell in table_5().values["cells"]))
    layers = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc1", "fc2", "fc3"]
    assert rows == [*layers, spectral.EIGHT, spectral.WHOLE]
    bounds = [value(table_5(), layer, spectral.BOUND) for layer in layers]
    assert math.prod(bounds) == pytest.approx(value(table_5(), spectral.EIGHT, spectral.BOUND))
    # Three overlapping poolings, two of them with overlap at 64 pixels; two normalisations, 0.7676 each.
    module = convolutional.restore(alexnet())
    assert value(table_5(), spectral.WHOLE, spectral.BOUND) == pytest.approx(product(layer_bounds(module, (3, 64, 64))))


def test_the_printed_factor_changes_the_strided_layer_alone() -> None:
    for layer in ("conv1", "conv2", "conv5", "fc1"):
        ratio = value(table_5(), layer, spectral.BOUND) / value(table_5(), layer, spectral.PRINTED_FACTOR)
        assert ratio == pytest.approx(4 if layer == "conv1" else 1)


def test_dense_bounds_of_table_5_are_singular_values() -> None:
    weight = alexnet().tensors["fc2.weight"].double()
    truth = float(torch.linalg.matrix_norm(weight, 2))
    assert value(table_5(), "fc2", spectral.BOUND) == pytest.approx(truth, rel=1e-7)


def test_gains_of_table_5_stay_below_and_above_what_they_should() -> None:
    for row in dict.fromkeys(cell["row"] for cell in table_5().values["cells"]):
        if row != spectral.EIGHT:
            assert value(table_5(), row, spectral.LARGEST) <= value(table_5(), row, spectral.BOUND)
            gain = find(table_5(), row, spectral.GAIN)
            assert gain["control"]["measured"] < gain["measured"]


def test_a_net_that_is_no_sequence_is_refused() -> None:
    with pytest.raises(ModelError, match="layers in a row"):
        spectral._sequential(nn.Bilinear(2, 2, 2))


# -- errata -----------------------------------------------------------------------------------------------------


def test_e7() -> None:
    record = spectral_errata.erratum_7(inputs({}), seed=3)
    check(record)
    for stride in (1, 2, 4):
        row = spectral_errata.stride_row(stride)
        truth = value(record, row, spectral_errata.EXPLICIT)
        assert value(record, row, spectral_errata.CORRECTED) == pytest.approx(truth, rel=1e-12)
        assert value(record, row, spectral_errata.PRINTED) == pytest.approx(truth / stride, rel=1e-12)


def test_e8() -> None:
    record = spectral_errata.erratum_8(inputs({}), seed=3)
    check(record)
    for stride in (1, 2, 4):
        row = spectral_errata.stride_row(stride)
        truth = value(record, row, spectral_errata.EXPLICIT)
        assert value(record, row, spectral_errata.CORRECTED) == pytest.approx(truth, rel=1e-12)
        assert value(record, row, spectral_errata.PRINTED) != pytest.approx(truth, rel=1e-3)


def test_e9() -> None:
    record = spectral_errata.erratum_9(inputs({}), seed=3)
    check(record)
    for side in (8, 9, 16):
        row = spectral_errata.grid_row(side)
        truth = value(record, row, spectral_errata.EXPLICIT)
        assert value(record, row, spectral_errata.CORRECTED) == pytest.approx(truth, rel=1e-12)
        assert value(record, row, spectral_errata.EVERY_FREQUENCY) >= truth * (1 - 1e-3)
        padded = find(record, row, spectral_errata.PADDED)
        assert padded["measured"] <= padded["control"]["measured"]
        assert value(record, row, spectral_errata.PRINTED) < truth


def test_the_explicit_matrix_is_the_convolution() -> None:
    kernel = torch.randn(3, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    image = torch.randn(1, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    padded = nn.functional.conv2d(image, kernel, padding=1).flatten()
    assert torch.allclose(spectral_errata._padded_matrix(kernel, 8) @ image.flatten(), padded)
    tiled = nn.functional.conv2d(image.repeat(1, 1, 2, 2), kernel, stride=2)[:, :, :4, :4].flatten()
    assert torch.allclose(spectral_errata._circular_matrix(kernel, 8, 2) @ image.flatten(), tiled)


def test_e10() -> None:
    record = spectral_errata.erratum_10(inputs({}))
    check(record)
    for pooling, expected in (((2, 2), 1), ((3, 2), 2), ((3, 1), 3)):
        row = spectral_errata.pooling_row(*pooling)
        assert value(record, row, spectral_errata.REACHED) == expected
        assert value(record, row, spectral_errata.BOUND_CORRECTED) == pytest.approx(expected)
        assert value(record, row, spectral_errata.BOUND_PRINTED) == 1


def test_e11() -> None:
    record = spectral_errata.erratum_11(inputs({}), seed=3, steps=30)
    check(record)
    for gamma in (0.25, 0.5, 0.75, 1.0, 1.5):
        row = spectral_errata.gamma_row(gamma)
        assert value(record, row, spectral_errata.REACHED) == pytest.approx(0.3**-gamma, rel=1e-12)
        assert value(record, row, spectral_errata.BOUND_PRINTED) == pytest.approx(0.3**-gamma, rel=1e-12)
    row = spectral_errata.CHANNELS
    assert value(record, row, spectral_errata.REACHED) <= value(record, row, spectral_errata.BOUND_CORRECTED)
    assert value(record, row, spectral_errata.BOUND_CORRECTED) > value(record, row, spectral_errata.BOUND_PRINTED)

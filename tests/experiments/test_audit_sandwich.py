"""Both ends of an audit: curves, quantiles, ratios and layers that are known, and what contradicts itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from intriguing.experiments import audit_sandwich
from intriguing.experiments.audit_summary import Gathered
from intriguing.nets.load import Model
from intriguing.records import Record
from intriguing.rng import generator

FOUND = [0.0, 0.4, 1.0, 2.0, math.inf]
CERTIFIED = [0.0, 0.2, 0.25, 1.0, 1.5]
PRODUCT = [0.0, 0.1, 0.1, 0.2, 0.3]


def gathered(
    found: Sequence[float] = FOUND,
    certified: Sequence[float] = CERTIFIED,
    product: Sequence[float | None] = tuple(PRODUCT),
    tensors: dict[str, torch.Tensor] | None = None,
) -> Gathered:
    n = len(found)
    status = ["already_wrong" if d == 0 else "found" if math.isfinite(d) else "not_found" for d in found]
    one: dict[str, list[Any]] = {
        "label": [0] * n,
        "target": [1] * n,
        "status": status,
        "distance": list(found),
        "distance_l1": [3 * d for d in found],
        "distance_linf": [d / 2 for d in found],
        "distance_8bit": list(found),
        "survives_8bit": [True] * n,
        "forwards": [1] * n,
        "backwards": [1] * n,
        "fooled_by_noise": [False] * n,
        "certified": list(certified),
        "certified_product": list(product),
    }
    rows = {name: [*values, *values] for name, values in one.items()}
    rows["attack"] = ["lbfgs"] * n + ["worst of"] * n
    fragile = [{"place": place, "before": [], "after": []} for place in range(len((tensors or {}).get("original", ())))]
    rows_of = Gathered(2.0)
    rows_of.add(Record({"images": n, "fragile": fragile}, tensors or {}, rows), list(range(100, 100 + n)))
    return rows_of


def test_figures_hold_both_ends_the_control_and_the_images_that_count() -> None:
    found = audit_sandwich.figures(gathered(), generator("test", 0), norm=2.0, eps=0.3)
    certified, tightness = found["certified_l2"], found["tightness_l2"]
    assert (certified["value"], certified["n"]) == (1.0, 4), "the upper of two middles, as every median here"
    assert certified["control"]["value"] == 0.2
    assert (tightness["value"], tightness["n"]) == (0.5, 3), "only images with an example have a ratio"
    assert tightness["control"]["value"] == pytest.approx(0.1)
    assert tightness["low"] <= tightness["value"] <= tightness["high"]
    assert (found["certified"]["value"], found["certified"]["n"]) == (1.0, 4)
    assert (found["certified_accuracy_l2@0.3"]["value"], found["certified_accuracy_l2@0.25"]["value"]) == (0.4, 0.6)
    assert found["certified_accuracy_l2@0.3"]["control"]["value"] == 0.8, "what no attack broke"
    assert found["certified_accuracy_l2@0.25"]["n"] == 5, "of all images"
    in_linf = audit_sandwich.figures(gathered(certified=[0, 0.1, 0.1, 0.5, 0.5]), generator("test", 0), norm=math.inf)
    assert in_linf["certified_linf"]["value"] == 0.5
    assert in_linf["tightness_linf"]["value"] == 0.5
    assert "certified_accuracy_linf@8/255" in in_linf


def test_without_the_product_of_norms_there_is_no_control() -> None:
    found = audit_sandwich.figures(gathered(product=[None] * 5), generator("test", 0), norm=2.0)
    assert found["certified_l2"]["control"] is found["tightness_l2"]["control"] is found["certified"]["control"] is None


def test_curves_stand_where_either_end_falls() -> None:
    ends = audit_sandwich.ends(gathered(), 2.0)
    assert ends["radii"] == [0.0, 0.2, 0.25, 0.4, 1.0, 1.5, 2.0]
    assert ends["certified_accuracy"] == pytest.approx([0.8, 0.8, 0.6, 0.4, 0.4, 0.2, 0.0])
    assert ends["robust_accuracy"] == pytest.approx([0.8, 0.8, 0.8, 0.6, 0.4, 0.4, 0.2])
    assert ends["quantiles"]["shares"] == [0.05, 0.25, 0.5, 0.75, 0.95]
    assert ends["quantiles"]["found"][2:] == [2.0, math.inf, math.inf]
    assert ends["quantiles"]["ratio"] == [0.5, 0.5, 0.5, 0.5, 0.5]
    many = torch.rand(1000, generator=torch.Generator().manual_seed(0)).double() + 0.5
    ends = audit_sandwich.ends(gathered(many.tolist(), (many / 2).tolist(), [0.1] * 1000), 2.0)
    assert len(ends["radii"]) == 161
    assert all(low <= high for low, high in zip(ends["certified_accuracy"], ends["robust_accuracy"], strict=True))


def test_a_certificate_beyond_an_example_is_red_and_names_the_image() -> None:
    places = list(range(100, 105))
    fine = audit_sandwich.contradictions({"net": gathered()}, places, 2.0)
    assert (fine["state"], fine["value"], fine["n"]) == ("green", 0.0, 5)
    wrong = gathered(certified=[0.0, 0.2, 1.25, 1.0, 1.5])
    check = audit_sandwich.contradictions({"net": gathered(), "other": wrong}, places, 2.0)
    assert (check["state"], check["value"], check["n"]) == ("red", 1.0, 10)
    assert "other, image 102, lbfgs: certified 1.25, found 1" in check["sentence"]
    assert "one of the two is wrong" in check["sentence"]
    between = gathered(certified=[0.0, 0.3, 0.25, 1.0, 1.5])  # the second lies between its sizes in both norms
    values = [audit_sandwich.contradictions({"net": between}, places, norm)["value"] for norm in (2.0, math.inf)]
    assert values == [0.0, 1.0], "in the norm they are in"
    nowhere = audit_sandwich.contradictions({"net": gathered(certified=[9.0] * 5)}, places, 2.0)
    assert nowhere["value"] == 4.0, "nothing was found for the last"
    assert "and 1 more" in nowhere["sentence"]


def test_methods_are_held_against_what_was_found_on_their_images() -> None:
    entries = [
        {"method": "product", "seconds": 0.1, "note": "", "radius": [0.04, 0.1]},
        {"method": "crown", "seconds": None, "note": "left out", "radius": None},
    ]
    found = audit_sandwich.methods(entries, gathered(), torch.tensor([1, 2]), 2.0, generator("test", 0))
    assert (found[0]["ratio"], found[0]["n"], found[0]["seconds"]) == (pytest.approx(0.1), 2, 0.1)
    assert found[1] == {"method": "crown", "seconds": None, "note": "left out"}


def test_shares_of_the_looseness_are_those_of_the_closed_form_and_add_up() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
    net[1].weight.data.copy_(torch.diag(torch.tensor([4.0, 1.0])))
    net[3].weight.data.copy_(torch.diag(torch.tensor([3.0, 1.0])))
    x = torch.full((1, 1, 1, 2), 0.5)
    # Along the second pixel the first dense layer stretches 1 of at most 4 times, the second 1 of at most 3.
    tensors = {"original": x, "adversarial": x + torch.tensor([0.0, 0.25])}
    layers, note = audit_sandwich.losses(Model(net), gathered(tensors=tensors), (1, 1, 2))
    assert note == ""
    assert [layer["gain"] for layer in layers] == pytest.approx([1, 1, 1, 1])
    whole = math.log(12)
    assert [layer["share"] for layer in layers] == pytest.approx([0, math.log(4) / whole, 0, math.log(3) / whole])
    layers, note = audit_sandwich.losses(Model(net), gathered(), (1, 1, 2))
    assert (layers, note.startswith("The layers' gains are measured along")) == ([], True)

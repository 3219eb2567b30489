"""Certificates of an audit: the closed form of linear nets, what is refused, and what every method makes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from intriguing.errors import InputError, ModelError, UnknownNameError
from intriguing.experiments import audit_certify
from intriguing.nets.load import Model

TOLERANCE = 2e-3  # relative width at which the search for a radius stops


def linear(weight: list[list[float]], bias: list[float], dtype: torch.dtype = torch.float32) -> Model:
    layer = nn.Linear(len(weight[0]), len(weight)).to(dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))
    return Model(nn.Sequential(nn.Flatten(), layer))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", [2.0, math.inf])
def test_a_linear_net_has_its_margin_over_the_norm_and_more_where_the_box_is_in_the_way(
    norm: float, dtype: torch.dtype
) -> None:
    model = linear([[0.0, 0.0], [1.0, 1.0]], [1.4, 0.0], dtype)
    x = torch.tensor([[0.5, 0.4], [0.9, 0.1]]).reshape(2, 1, 1, 2)
    y = torch.tensor([0, 0])
    # Margins 0.5 and 0.4. The second image cannot move 0.2 and 0.2: the first pixel ends at 1, the second makes up.
    expected = [0.5 / math.sqrt(2), math.hypot(0.1, 0.3)] if norm == 2 else [0.25, 0.3]
    rows = audit_certify.certify_shard(model, x, y, method="crown", norm=norm).rows
    assert rows["certified"] == pytest.approx(expected, rel=TOLERANCE)
    assert all(found <= best * (1 + 1e-6) for found, best in zip(rows["certified"], expected, strict=True))
    if norm == 2:
        # It knows of no box, and of two logits it bounds sqrt(2) times too much where one of them does not move.
        assert rows["certified_product"] == pytest.approx([0.5 / 2, 0.4 / 2], rel=1e-5)
    else:
        assert rows["certified_product"] == [None, None]


def test_an_image_the_net_gets_wrong_is_certified_nowhere() -> None:
    model = linear([[0.0, 0.0], [1.0, 1.0]], [1.4, 0.0])
    rows = audit_certify.certify_shard(
        model, torch.full((1, 1, 1, 2), 0.5), torch.tensor([1]), method="crown", norm=2
    ).rows
    assert rows["certified"] == [0.0]


class _Sorting(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sort(1).values


class _Raising(nn.Module):
    """Raises something of its own where it is given what is no tensor."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if type(x) is not torch.Tensor:
            raise ValueError("tensors only")
        return x.flatten(1)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Model(nn.Sequential(nn.Flatten(), nn.Sequential(_Sorting()))), [r"1\.0", "sort"]),
        (Model(_Raising()), ["tensors only"]),
        (Model(lambda x: x.flatten(1)), ["is a function, whose operations cannot be seen"]),
        (Model(nn.Flatten(), gradients=False), ["gives no gradients"]),
        (Model(nn.Sequential(nn.Flatten(), nn.Softmax(1)), answers="probabilities"), ["answers probabilities"]),
        (Model(nn.Flatten(), size=4), ["resizes images to 4 x 4"]),
        (Model(nn.Flatten(), bgr=True), ["reorders the channels"]),
        (Model(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).half()), ["float16"]),
    ],
)
def test_a_net_that_cannot_be_certified_is_refused_with_the_path_and_the_way_out(
    model: Model, words: list[str]
) -> None:
    with pytest.raises(ModelError, match=r"^certify: .*Leave --certify out") as refused:
        audit_certify.check(model, torch.rand(1, 1, 2, 2), method="crown", norm=2)
    for word in words:
        refused.match(word)


def test_the_product_is_refused_where_a_layer_has_no_norm_and_is_no_control_there() -> None:
    class Twice(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + x

    torch.manual_seed(0)
    model = Model(nn.Sequential(nn.Flatten(), Twice(), nn.Linear(4, 2)))
    x = torch.rand(3, 1, 2, 2)
    audit_certify.check(model, x, method="crown", norm=2)
    with pytest.raises(ModelError, match=r"no certificate by product: layer 1: no rule bounds a Twice"):
        audit_certify.check(model, x, method="product", norm=2)
    rows = audit_certify.certify_shard(model, x, model.predict(x), method="crown", norm=2).rows
    assert rows["certified_product"] == [None] * 3
    assert min(rows["certified"]) > 0


def test_methods_that_cannot_be_used_are_named() -> None:
    assert audit_certify.checked_method("crown", math.inf) == "crown"
    with pytest.raises(UnknownNameError, match="Did you mean 'crown'"):
        audit_certify.checked_method("crwon", 2)
    with pytest.raises(InputError, match="certify: product bounds L2 alone"):
        audit_certify.checked_method("product", math.inf)


def test_every_method_is_timed_and_one_that_takes_too_long_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = Model(nn.Sequential(nn.Flatten(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 3)))
    x = torch.rand(4, 1, 3, 3)
    y = model.predict(x)
    steps: list[tuple[float, float]] = []
    found = audit_certify.certify_methods(
        model, x, y, norm=2, progress=lambda done, total: steps.append((done, total))
    ).values["methods"]
    assert [entry["method"] for entry in found] == ["product", "interval", "crown", "crown-optimised", "curvature"]
    assert steps == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    crown, optimised = (torch.tensor(entry["radius"]) for entry in found[2:4])
    assert bool((optimised >= crown).all())
    assert all(entry["seconds"] > 0 for entry in found[:4])
    assert found[4]["radius"] is None
    assert found[4]["note"].startswith("2: a ReLU")
    in_linf = audit_certify.certify_methods(model, x, y, norm=math.inf).values["methods"]
    assert [entry["method"] for entry in in_linf] == ["interval", "crown", "crown-optimised"]
    monkeypatch.setattr(audit_certify, "_PATIENCE", 0.0)
    found = audit_certify.certify_methods(model, x, y, norm=2).values["methods"]
    assert [entry["radius"] is None for entry in found] == [False, True, True, True, True]
    assert found[3]["note"].startswith("left out: product alone took more than 0 s")


def test_images_are_spread_over_the_whole_set() -> None:
    assert audit_certify.compared(3).tolist() == [0, 1, 2]
    assert audit_certify.compared(200).tolist() == list(range(0, 200, 10))

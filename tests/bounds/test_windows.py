"""Windows of convolutions give what whole images of coefficients give, and are taken only where they are smaller."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from intriguing import bounds
from intriguing.bounds import operations, optimised, windows
from intriguing.bounds.crown import bounds_over
from intriguing.bounds.operations import Window
from intriguing.bounds.region import ball
from intriguing.bounds.relaxation import Activation
from intriguing.bounds.tracing import trace
from intriguing.nets.load import as_model


class Residual(nn.Module):
    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.branches[0](x) + self.branches[1](x)


class AsImage(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(-1, 1, 8, 8)


def _net(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(3)
    layers: tuple[nn.Module, ...]
    if name == "strides and padding":
        shape = (1, 12, 11)
        layers = (nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU())
    elif name == "dilation, groups, normalisation":
        shape = (2, 20, 20)
        norm = nn.BatchNorm2d(4)
        norm.running_mean, norm.running_var = torch.randn(4), torch.rand(4) + 0.5
        first = nn.Conv2d(2, 4, (4, 3), stride=(3, 2), padding=(2, 0), dilation=(1, 2), groups=2)
        layers = (first, norm, nn.Sigmoid(), nn.Conv2d(4, 4, 3, padding="same"), nn.Tanh())
    elif name == "convolutions without activation between":
        shape = (1, 12, 12)
        layers = (nn.Conv2d(1, 3, 3), nn.Conv2d(3, 3, 3, padding=1), nn.Sigmoid())
    elif name == "residual":
        shape = (1, 12, 12)
        inner = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Sigmoid(), nn.Conv2d(3, 3, 3, padding=1))
        layers = (nn.Conv2d(1, 3, 3, padding=1), nn.Sigmoid(), Residual(inner, nn.Conv2d(3, 3, 1)), nn.Sigmoid())
    else:
        shape = (1, 26, 26)
        pool = nn.MaxPool2d(2) if name == "maximum" else nn.AvgPool2d(2)
        layers = (nn.Conv2d(1, 3, 3), nn.ReLU(), pool, nn.Conv2d(3, 3, 3), nn.ReLU())
    body = nn.Sequential(*layers, nn.Flatten())
    features = body.eval()(torch.zeros(1, *shape)).shape[1]
    return nn.Sequential(body, nn.Linear(features, 4)).eval().requires_grad_(False), shape


NETS = (
    "strides and padding",
    "dilation, groups, normalisation",
    "convolutions without activation between",
    "residual",
    "maximum",
    "average",
)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("norm", [2, math.inf])
@pytest.mark.parametrize("touching", [False, True])
def test_windows_give_the_intervals_of_whole_images(monkeypatch, name, norm, touching):
    net, shape = _net(name)
    graph = trace(as_model(net.double()), shape, torch.device("cpu"))  # next to no rounding of the net's
    x = torch.rand(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    eps = torch.tensor([0.02, 0.2, 0.7], dtype=torch.float64) / (1 if norm == 2 else 2)
    region = ball(x, eps, norm, (0.0, 1.0))
    plans = []
    real = windows.plan
    monkeypatch.setattr(windows, "plan", lambda *given: plans.append(real(*given)) or plans[-1])
    seen = bounds_over(graph, region, touching=touching)
    assert sum(found is not None for found in plans) >= 2 - (name == "convolutions without activation between")
    monkeypatch.setattr(windows, "plan", lambda *given: None)
    whole = bounds_over(graph, region, touching=touching)
    interval = bounds_over(graph, region, refine=False)
    # In L2 the multiplier is searched in single precision.
    tolerance = {"rtol": 1e-9, "atol": 1e-9} if norm == math.inf else {"rtol": 1e-3, "atol": 1e-4}
    narrower = 0
    for place in sorted({node.inputs[0] for node in graph.nodes if isinstance(node.operation, Activation)}):
        # Of a ReLU that is on or off already, windows may narrow more than was asked for.
        unsure = (whole.low[place] < 0) & (whole.high[place] > 0)
        torch.testing.assert_close(seen.low[place][unsure], whole.low[place][unsure], **tolerance)
        torch.testing.assert_close(seen.high[place][unsure], whole.high[place][unsure], **tolerance)
        narrower += int((seen.high[place] < interval.high[place] - 1e-3).sum())
    assert narrower > 20


def test_windows_take_the_rounding_of_every_layer(monkeypatch):
    net, shape = _net("dilation, groups, normalisation")
    graph = trace(as_model(net), shape, torch.device("cpu"))
    assert graph.dtype == torch.float32
    x = torch.rand(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    region = ball(x, torch.full((2,), 0.2, dtype=torch.float64), math.inf, (0.0, 1.0))
    last = max(node.inputs[0] for node in graph.nodes if isinstance(node.operation, Activation))

    def lost() -> torch.Tensor:
        exactly, rounded = (bounds_over(replace(graph, dtype=dtype), region) for dtype in (torch.float64, graph.dtype))
        return exactly.low[last] - rounded.low[last]

    seen = lost()
    monkeypatch.setattr(windows, "plan", lambda *given: None)
    whole = lost()
    assert float(whole.min()) > 1e-7
    torch.testing.assert_close(seen, whole, rtol=0.1, atol=0)


@pytest.mark.parametrize("name", ["strides and padding", "maximum"])
def test_what_an_image_gets_does_not_depend_on_the_others(name):
    net, shape = _net(name)
    graph = trace(as_model(net), shape, torch.device("cpu"))
    x = torch.rand(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    eps = torch.tensor([0.001, 0.02, 0.3], dtype=torch.float64)
    together = bounds_over(graph, ball(x, eps, math.inf, (0.0, 1.0)))
    enter = sorted({node.inputs[0] for node in graph.nodes if isinstance(node.operation, Activation)})
    for i in range(3):
        alone = bounds_over(graph, ball(x[i : i + 1], eps[i : i + 1], math.inf, (0.0, 1.0)))
        for place in enter[:2]:  # both are seen through windows
            torch.testing.assert_close(together.low[place][i], alone.low[place][0], rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(together.high[place][i], alone.high[place][0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["dilation, groups, normalisation", "residual"])
def test_windows_whose_matrix_would_be_large_do_without_it(monkeypatch, name):
    net, shape = _net(name)
    x = torch.rand(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    region = ball(x, torch.full((2,), 0.1, dtype=torch.float64), math.inf, (0.0, 1.0))
    found = []
    for largest in (operations._MATRIX, 0):
        monkeypatch.setattr(operations, "_MATRIX", largest)
        graph = trace(as_model(net.double()), shape, torch.device("cpu"))
        found.append(bounds_over(graph, region))
        kept = [node.operation._matrices for node in graph.nodes if isinstance(node.operation, operations.Convolution)]
        assert any(kept) == (largest > 0)
    for low, same in zip(found[0].low, found[1].low, strict=True):
        torch.testing.assert_close(low, same, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["residual", "strides and padding"])
def test_radii_do_not_depend_on_windows(monkeypatch, name):
    net, shape = _net(name)
    x = torch.rand(4, *shape, generator=torch.Generator().manual_seed(1))
    net[1].bias -= net(x).mean(0)  # answers that differ
    y = net(x).argmax(1)
    monkeypatch.setattr(optimised, "_ROWS", 0)  # lines that all rows share, as for large images
    methods = ("crown", "crown-optimised")
    seen = [bounds.certify(net, x, y, method=method, steps=5).radius for method in methods]
    monkeypatch.setattr(windows, "plan", lambda *given: None)
    for method, radius in zip(methods, seen, strict=True):
        whole = bounds.certify(net, x, y, method=method, steps=5).radius
        torch.testing.assert_close(radius, whole, rtol=8e-3, atol=0)  # some times the search's tolerance
    assert (seen[1] > seen[0]).any()


def test_a_plan_says_which_pixels_a_place_sees():
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 2, (1, 2)), nn.ReLU(),
        nn.Flatten(), nn.Linear(98, 3),
    )  # fmt: skip
    graph = trace(as_model(net), (1, 28, 32), torch.device("cpu"))
    last = max(place for place, node in enumerate(graph.nodes) if len(node.shape) == 3) - 1
    found = windows.plan(graph, last)
    assert found is not None
    # One row of two pooled places: 2 x 4 of the first layer, which sees 3 + 2 rows and 3 + 3 * 2 columns, from -1 on.
    assert found[0] == Window(step=(4, 4), start=(-1, -1), size=(5, 9))


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (nn.Sequential(nn.Conv2d(1, 2, 15, padding=7), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)), (1, 8, 8)),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 64), AsImage(), nn.Conv2d(1, 2, 3), nn.ReLU(),
                       nn.Flatten(), nn.Linear(72, 3)), (1, 8, 8)),
        (nn.Sequential(nn.MaxPool2d(3, 2, padding=1), nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(),
                       nn.Linear(8, 3)), (1, 8, 8)),
    ],
    ids=["windows as large as the image", "a dense layer before", "pooling over the edge"],
)  # fmt: skip
def test_where_windows_would_not_help_whole_images_are_taken(net, shape):
    graph = trace(as_model(net), shape, torch.device("cpu"))
    places = [
        node.inputs[0] for node in graph.nodes if len(node.shape) == 3 and type(node.operation).__name__ == "ReLU"
    ]
    assert windows.plan(graph, places[-1]) is None


def test_windows_that_move_apart_have_no_union():
    one = Window((1, 1), (0, 0), (3, 3))
    assert one.union(Window((2, 1), (0, 0), (3, 3))) is None
    assert one.union(Window((1, 1), (-1, 2), (2, 2))) == Window((1, 1), (-1, 0), (4, 4))

from __future__ import annotations

import pytest
import torch
from soundness import Block, drawn, seeded, small_nets
from torch import nn

from intriguing.bounds.crown import bounds_over
from intriguing.bounds.network import Residual
from intriguing.bounds.operations import Affine
from intriguing.bounds.region import ball
from intriguing.bounds.tracing import trace
from intriguing.errors import InputError, ModelError
from intriguing.nets.convolutional import convnet
from intriguing.nets.load import Model

CPU = torch.device("cpu")


class Styles(nn.Module):
    """Many ways of writing the same few things."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(12, 6), nn.Linear(6, 6)
        self.register_buffer("shift", torch.arange(6.0))

    def forward(self, x):
        h = torch.sigmoid(self.a(torch.flatten(x, 1)))
        h += self.b(h).tanh()
        h = 2 * h - self.shift / 3 + 1
        h = (1 - h.reshape(h.shape[0], 2, 3).flatten(1)) / 4
        return nn.functional.relu(h) - nn.functional.tanh(self.b(h)).contiguous()


NETS = {
    **{name: (model, (1, 8, 8)) for name, model in small_nets().items()},
    "convnet": (Model(drawn(convnet((1, 8, 8), 10, channels=(2, 3), hidden=8))), (1, 8, 8)),
    "styles": (Model(drawn(Styles())), (3, 2, 2)),
    "odd": (
        Model(
            drawn(
                nn.Sequential(
                    nn.Conv2d(2, 4, (4, 3), stride=(3, 2), padding=(2, 0), dilation=(1, 2), groups=2, bias=False),
                    Residual(nn.Identity(), nn.Conv2d(4, 4, 3, padding="same"), nn.Sequential()),
                    nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, ceil_mode=True),
                    nn.AdaptiveAvgPool2d(2), nn.Dropout(0.5), nn.Flatten(),
                    nn.Linear(16, 8), nn.BatchNorm1d(8, affine=False), nn.Identity(),
                    nn.Linear(8, 3),
                )
            ),
            mean=(0.1, 0.4), std=(0.5, 0.25),
        ),
        (2, 9, 10),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_the_graph_computes_what_the_net_does(name):
    model, shape = NETS[name]
    x = torch.rand(3, *shape, generator=seeded())
    graph = trace(model, shape, CPU)
    torch.testing.assert_close(graph(x.double()), model.logits(x).double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NETS)
def test_transposes_and_absolute_weights(name):
    model, shape = NETS[name]
    for node in (graph := trace(model, shape, CPU)).nodes:
        if not isinstance(node.operation, Affine):
            continue
        inside = graph.nodes[node.inputs[0]].shape
        h = torch.randn(2, *inside, generator=seeded(1), dtype=torch.float64)
        A = torch.randn(2, *node.shape, generator=seeded(2), dtype=torch.float64)
        forward = (node.operation.linear(h) * A).flatten(1).sum(1)
        backward = (node.operation.transpose(A) * h).flatten(1).sum(1)
        torch.testing.assert_close(forward, backward, rtol=1e-9, atol=1e-9)
        assert (node.operation.absolute(h.abs()) >= node.operation.linear(h).abs() - 1e-9).all()


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("norm", [2, float("inf")])
def test_every_value_stays_in_its_interval(name, norm):
    """At random points of the ball, and at its most extreme ones; the net in its own dtype, rounding and all."""
    model, shape = NETS[name]
    x = torch.rand(2, *shape, generator=seeded(5))
    graph = trace(model, shape, CPU)
    for eps in (0.0, 0.05, 0.8):
        region = ball(x.double(), torch.full((2,), eps, dtype=torch.float64), norm, model.box)
        bounds = bounds_over(graph, region)
        for seed in range(8):
            r = torch.randn(x.shape, generator=seeded(seed), dtype=torch.float64)
            r = eps * (r / r.flatten(1).norm(dim=1).view(-1, 1, 1, 1) if norm == 2 else r.sign())
            point = (x + r).clamp(*model.box)
            for node, low, high, value in zip(graph.nodes, bounds.low, bounds.high, graph.values(point), strict=True):
                assert ((value >= low) & (value <= high)).all(), node.path
            logits = model.logits(point.float()).double()
            assert (logits >= bounds.low[-1]).all()
            assert (logits <= bounds.high[-1]).all()


def test_an_operation_without_a_rule_is_named_by_its_path():
    class Inner(nn.Module):
        def forward(self, x):
            return torch.exp(x)

    net = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(4, 3), Inner()))
    with pytest.raises(ModelError, match=r"1\.1.*exp"):
        trace(Model(net), (1, 2, 2), CPU)
    with pytest.raises(ModelError, match="1: no rule certifies a Softplus"):
        trace(Model(nn.Sequential(nn.Flatten(), nn.Softplus())), (4,), CPU)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4, track_running_stats=False)), "keeps no moments"),
        (nn.Conv2d(1, 1, 2), "no tensor of logits"),
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"), "circular"),
        (nn.Linear(2, 2), "flatten them first"),
        (nn.Flatten(0), "across the batch"),
        (nn.MaxPool2d(2, return_indices=True), "indices"),
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).half(), "half|float16"),
        (torch.sin, "is a function"),
    ],
)
def test_what_cannot_be_certified_is_said(net, message):
    with pytest.raises(ModelError, match=message):
        trace(Model(net), (1, 2, 2), CPU)


@pytest.mark.parametrize("pool", [{"ceil_mode": True}, {"padding": 1}])
def test_dilated_maxima_over_an_edge_are_refused_as_they_skip_the_pixel_there(pool):
    def net(**more) -> nn.Sequential:
        return nn.Sequential(nn.MaxPool2d(2, stride=2, dilation=2, **more), nn.Flatten())

    x = torch.rand(8, 1, 8, 8, generator=seeded(0), dtype=torch.float64)
    with pytest.raises(ModelError, match="windows reach over an edge"):
        trace(Model(net(**pool)), (1, 8, 8), CPU)
    torch.testing.assert_close(trace(Model(net()), (1, 8, 8), CPU)(x), net()(x))


def test_a_mean_over_windows_of_what_has_no_channels_is_followed():
    class Pooled(nn.Module):
        def forward(self, x):
            return nn.functional.avg_pool2d(x.view(-1, 4, 6), 2).flatten(1)

    x = torch.rand(8, 24, generator=seeded(0), dtype=torch.float64)
    torch.testing.assert_close(trace(Model(Pooled()), (24,), CPU)(x), Pooled()(x))


class Wrapped(nn.Module):
    """A function of images as a module."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x.flatten(1))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda h: nn.functional.dropout(h), "dropout that stays active"),
        (lambda h: h + torch.ones(3, 4), "widens"),
        (lambda h: h * torch.ones(2, 4), "widens"),
        (lambda h: h * h, "both depend"),
        (lambda h: 1 / h, "both depend"),
        (lambda h: h.sum(1), "sum over entries"),
        (lambda h: h.mean(1), "mean over"),
        (lambda h: h.view(-1), "batch axis"),
        (lambda h: h.dtype, "reading .dtype"),
        (lambda h: torch.add(h, h, alpha=2), "alpha"),
    ],
)
def test_what_an_operation_cannot_mean_is_said(function, message):
    with pytest.raises(ModelError, match=message):
        trace(Model(Wrapped(function)), (1, 2, 2), CPU)


def test_a_forward_with_branches_on_values_is_refused():
    class Branching(nn.Module):
        def forward(self, x):
            return x.flatten(1) if x.sum() > 0 else -x.flatten(1)

    with pytest.raises(ModelError, match="cannot be followed"):
        trace(Model(Branching()), (1, 2, 2), CPU)


def test_a_shape_the_net_cannot_take_is_refused():
    with pytest.raises(InputError, match="1: cannot take inputs"):
        trace(Model(nn.Sequential(nn.Flatten(), nn.Linear(5, 2))), (1, 2, 2), CPU)


def test_hooks_and_modes_are_not_touched():
    seen = []
    net = Block().train()
    net.conv.register_forward_hook(lambda *_: seen.append(1))
    trace(Model(net), (1, 8, 8), CPU)
    assert net.training
    assert not seen

"""Whole nets: what is folded, what is refused, and that no perturbation grows beyond the product."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from intriguing.bounds.network import RULES, Residual, layer_bounds, product, residual, rule
from intriguing.bounds.operators import LayerBound
from intriguing.errors import InputError, ModelError
from intriguing.nets.alexnet import alexnet
from intriguing.nets.load import Model
from intriguing.nets.zoo import NETS, build


def norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix.detach().double(), 2))


def trained_norm(channels: int, kind: type[nn.Module]) -> nn.Module:
    """Return a batch normalisation as if it had learned."""
    module, draw = kind(channels), torch.Generator().manual_seed(channels)
    module.running_var.copy_(torch.rand(channels, generator=draw) + 0.1)
    module.running_mean.copy_(torch.randn(channels, generator=draw))
    with torch.no_grad():
        module.weight.copy_(torch.randn(channels, generator=draw))
    return module.eval()


def small_net() -> nn.Sequential:
    draw = torch.Generator().manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3, stride=2, padding=1),
        trained_norm(6, nn.BatchNorm2d),
        nn.ReLU(),
        nn.LocalResponseNorm(3, alpha=3.0, beta=0.75, k=1.5),
        nn.MaxPool2d(3, 2, padding=1),
        Residual(nn.Identity(), nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, groups=2), nn.Tanh())),
        nn.AvgPool2d(2, 1),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(6 * 2 * 2, 5),
        nn.Sigmoid(),
        nn.Linear(5, 3, bias=False),
    )
    for parameter in net.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.5, generator=draw)
    return net.eval()


@torch.no_grad()
def test_no_perturbation_grows_beyond_the_product() -> None:
    net, draw = small_net(), torch.Generator().manual_seed(1)
    bounds = layer_bounds(net, (2, 12, 12))
    L = product(bounds)
    assert [bound.name for bound in bounds] == ["0+1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"]
    x = 3 * torch.randn(300, 2, 12, 12, generator=draw)
    for size in (1e-2, 1.0, 30.0):
        r = size * torch.randn(x.shape, generator=draw)
        grown = (net(x + r) - net(x)).norm(dim=1) / r.flatten(1).norm(dim=1)
        assert float(grown.max()) <= L
    # Every layer is bounded alone as well: bounds must not make up for each other.
    here, there = x, x + torch.randn(x.shape, generator=draw)
    for layers, bound in zip([net[:2], *net[2:]], bounds, strict=True):
        after = layers(here), layers(there)
        gain = (after[1] - after[0]).flatten(1).norm(dim=1) / (there - here).flatten(1).norm(dim=1)
        assert float(gain.nan_to_num().max()) <= bound.bound * (1 + 1e-5)
        here, there = after


def test_batch_normalisation_is_folded_exactly() -> None:
    linear, after = nn.Linear(7, 4), trained_norm(4, nn.BatchNorm1d)
    (bound,) = layer_bounds(nn.Sequential(linear, after), (7,))
    eye = torch.eye(7)
    matrix = (after(linear(eye)) - after(linear(torch.zeros(7, 7)))).T
    assert bound.name == "0+1"
    assert bound.bound == pytest.approx(norm(matrix), rel=1e-5)  # the matrix is measured in float32
    apart = layer_bounds(nn.Sequential(linear, nn.Identity(), after), (7,))
    assert product(apart) >= bound.bound
    # A convolution's, channel by channel.
    convolution, after = nn.Conv2d(2, 3, 1, bias=False), trained_norm(3, nn.BatchNorm2d)
    (bound,) = layer_bounds(nn.Sequential(convolution, after), (2, 4, 4))
    scale = after.weight.detach() / (after.running_var + after.eps).sqrt()
    assert bound.bound == pytest.approx(norm(scale[:, None] * convolution.weight.detach()[:, :, 0, 0]), rel=1e-5)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize(("padding", "stride"), [(1, 1), (2, 2), ("same", 1), ("valid", 2)])
def test_every_kind_of_padding_stays_below_its_bound(mode: str, padding: int | str, stride: int) -> None:
    layer = nn.Conv2d(2, 3, (5, 3), stride=stride, padding=padding, padding_mode=mode, bias=False)
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(3))
    layer.double()
    images = torch.eye(2 * 7 * 6, dtype=torch.float64).reshape(-1, 2, 7, 6)
    truth = norm(layer(images).detach().flatten(1))
    (bound,) = layer_bounds(layer, (2, 7, 6))
    assert truth <= bound.bound * (1 + 1e-12)
    assert bound.bound <= 3 * truth
    assert bound.grid is not None
    following = layer_bounds(nn.Sequential(layer, nn.Flatten(), nn.Linear(layer(images)[0].numel(), 1)), (2, 7, 6))
    assert len(following) == 3  # the shape handed on is the layer's own


def test_the_sum_of_branches() -> None:
    draw = torch.Generator().manual_seed(5)
    linear = nn.Linear(6, 6, bias=False)
    nn.init.normal_(linear.weight, generator=draw)
    block = Residual(nn.Identity(), linear)
    (bound,) = layer_bounds(block, (6,))
    assert bound.bound == pytest.approx(1 + norm(linear.weight.detach()), rel=1e-7)
    assert norm(block(torch.eye(6)).detach()) <= bound.bound
    # Equal branches reach the sum.
    (twice,) = layer_bounds(Residual(linear, linear), (6,))
    assert twice.bound == pytest.approx(norm(Residual(linear, linear)(torch.eye(6)).detach()), rel=1e-5)
    assert residual("block", [[], [LayerBound("a", "dense", 2.0), LayerBound("b", "dense", 3.0)]]).bound == 7
    with pytest.raises(InputError, match="outputs of one shape"):
        layer_bounds(Residual(nn.Identity(), nn.Linear(6, 5)), (6,))


@pytest.mark.parametrize("name", NETS)
def test_the_papers_nets(name: str) -> None:
    net = build(name, (1, 8, 8), 10)
    with torch.no_grad():
        net.get_submodule("output").weight.normal_(generator=torch.Generator().manual_seed(0))
    found = product(layer_bounds(net, (1, 8, 8)))
    expected = 1.0
    for layer in net:
        if isinstance(layer, nn.Linear):
            expected *= norm(layer.weight.detach())
        elif isinstance(layer, nn.Sigmoid):
            expected /= 4
    assert found == pytest.approx(expected, rel=1e-6)


def test_alexnet_has_a_bound_for_every_layer() -> None:
    net = alexnet((3, 64, 64), 5, width=1 / 16)
    bounds = {bound.name: bound for bound in layer_bounds(net, (3, 64, 64))}
    assert list(bounds) == [name for name, _ in net.named_children()]
    assert bounds["conv1"].grid == (68, 68)
    assert [bounds[f"pool{number}"].bound for number in (1, 2)] == [2, 2]
    assert bounds["norm1"].bound == pytest.approx(0.7676, abs=1e-4)


def test_preprocessing_comes_first() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    plain = product(layer_bounds(net, (3, 2, 2)))
    bounds = layer_bounds(Model(net, mean=0.5, std=(0.5, 0.2, 0.25)), (3, 2, 2))
    assert bounds[0].kind == "division by the standard deviation"
    assert product(bounds) == pytest.approx(5 * plain)
    assert layer_bounds(Model(net), (3, 2, 2)) == layer_bounds(net, (3, 2, 2))
    with pytest.raises(ModelError, match="a function"):
        layer_bounds(Model(lambda x: x), (3, 2, 2))


def test_the_users_net_stays_as_it_was() -> None:
    net = small_net().train()
    net[0].weight.requires_grad_(False)
    calls: list[int] = []
    net[4].register_forward_hook(lambda *_: calls.append(1))
    before = copy.deepcopy(net.state_dict())
    modes = [module.training for module in net.modules()]
    layer_bounds(net, (2, 12, 12))
    assert not calls
    assert [module.training for module in net.modules()] == modes
    assert not net[0].weight.requires_grad
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_modules_that_come_up_twice_count_twice() -> None:
    linear, relu = nn.Linear(3, 3), nn.ReLU()
    bounds = layer_bounds(nn.Sequential(linear, relu, linear, relu), (3,))
    assert product(bounds) == pytest.approx(norm(linear.weight.detach()) ** 2, rel=1e-6)


def test_errors_name_the_layer() -> None:
    class Steeper(nn.ReLU):
        def forward(self, x: Tensor) -> Tensor:
            return 3 * super().forward(x)

    for module in (nn.GRU(3, 3), Steeper()):
        net = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(4, 4), module))
        with pytest.raises(ModelError, match=f"^layer 1.1: no rule bounds a {type(module).__name__}; register one"):
            layer_bounds(net, (1, 2, 2))
    with pytest.raises(InputError, match=r"^layer 1.0: expected inputs of 3 numbers"):
        layer_bounds(nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(3, 3))), (1, 2, 2))
    with pytest.raises(InputError, match=r"^layer 0: expected images \(3, H, W\)"):
        layer_bounds(nn.Sequential(nn.Conv2d(3, 3, 1)), (1, 2, 2))
    with pytest.raises(ModelError, match=r"^layer 1: this batch normalisation keeps no moments"):
        layer_bounds(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False)), (2,))
    with pytest.raises(ModelError, match="return_indices"):
        layer_bounds(nn.MaxPool2d(2, return_indices=True), (1, 4, 4))
    with pytest.raises(InputError, match="MaxPool2d cannot take inputs"):
        layer_bounds(nn.MaxPool2d(2), (7,))


def test_a_rule_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Triple(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 3 * x

    monkeypatch.setitem(RULES, Triple, None)  # so that the registration below is undone

    @rule(Triple)
    def _triple(module: Triple, shape: tuple[int, ...], path: str) -> tuple[list[LayerBound], tuple[int, ...]]:
        return [LayerBound(path, "tripling", 3.0)], shape

    assert product(layer_bounds(nn.Sequential(Triple(), nn.Sequential(Triple())), (2,))) == 9

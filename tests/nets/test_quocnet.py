"""QuocNet: its layers against explicit matrices and closed forms, and the parameters of the published size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from intriguing.errors import InputError
from intriguing.nets.load import Model
from intriguing.nets.quocnet import ContrastNormalisation, L2Pooling, LocallyConnected, detector, quocnet


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def filled(channels: int = 2, maps: int = 3, side: int = 5, field: int = 3, stride: int = 1) -> LocallyConnected:
    layer = LocallyConnected(channels, maps, side, field, stride).double()
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=seeded(), dtype=torch.float64))
    return layer


@pytest.mark.parametrize(("side", "field", "stride"), [(5, 3, 1), (6, 2, 2), (7, 3, 3), (4, 4, 1)])
def test_every_place_has_filters_of_its_own(side: int, field: int, stride: int) -> None:
    layer = filled(side=side, field=field, stride=stride)
    x = torch.randn(4, 2, side, side, generator=seeded(1), dtype=torch.float64)
    z = layer(x)
    places = (side - field) // stride + 1
    assert z.shape == (4, 3, places, places)
    for row in range(places):
        for column in range(places):
            patch = x[:, :, row * stride : row * stride + field, column * stride : column * stride + field]
            expected = patch.flatten(1) @ layer.weight[row * places + column].T
            torch.testing.assert_close(z[:, :, row, column], expected)


def test_equal_weights_at_every_place_are_a_convolution() -> None:
    layer = filled()
    with torch.no_grad():
        layer.weight.copy_(layer.weight[:1].expand_as(layer.weight).clone())
    x = torch.randn(2, 2, 5, 5, generator=seeded(1), dtype=torch.float64)
    expected = nn.functional.conv2d(x, layer.weight[0].reshape(3, 2, 3, 3))
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_decoding_is_the_transpose_of_encoding(stride: int) -> None:
    layer = filled(stride=stride)
    pixels = torch.eye(50, dtype=torch.float64).reshape(50, 2, 5, 5)
    matrix = layer(pixels).flatten(1).T  # its columns are the answers to single pixels
    z = torch.randn(3, matrix.shape[0], generator=seeded(1), dtype=torch.float64)
    decoded = layer.decode(z.reshape(3, 3, layer.places, layer.places))
    torch.testing.assert_close(decoded.flatten(1), z @ matrix)


def test_pooling_is_the_root_of_the_sum_of_squares() -> None:
    x = torch.zeros(1, 2, 3, 3)
    x[0, 0, 0, 0], x[0, 0, 1, 1], x[0, 1, 2, 2] = 3.0, 4.0, -2.0
    pooled = L2Pooling(2)(x)
    expected = torch.tensor([[[5.0, 4.0], [4.0, 4.0]], [[0.0, 0.0], [0.0, 2.0]]])
    # The epsilon under the root: 1e-2 where nothing is active, less elsewhere.
    torch.testing.assert_close(pooled[0], expected, atol=0.011, rtol=0)
    assert (pooled > 0).all()


def test_normalisation_over_one_place_is_across_the_maps() -> None:
    x = torch.randn(5, 4, 3, 3, generator=seeded())
    h = x - x.mean(1, keepdim=True)
    expected = h / h.square().mean(1, keepdim=True).sqrt()
    torch.testing.assert_close(ContrastNormalisation(1)(x), expected)


@pytest.mark.parametrize("padded", [False, True])
def test_normalisation_forgets_brightness_and_contrast(padded: bool) -> None:
    normal = ContrastNormalisation(3, padded=padded)
    x = torch.randn(2, 3, 9, 9, generator=seeded())
    y = normal(x)
    assert y.shape == (2, 3, 9, 9) if padded else (2, 3, 5, 5)
    torch.testing.assert_close(normal(7.0 * x + 3.0), y, rtol=1e-4, atol=1e-4)
    # A flat image has no contrast; the least deviation keeps its rounding from being blown up.
    assert normal(torch.full((1, 3, 9, 9), 5.0)).abs().max() < 1e-3


def test_the_border_is_all_that_padding_changes() -> None:
    x = torch.randn(1, 3, 11, 11, generator=seeded())
    cut, kept = ContrastNormalisation(3)(x), ContrastNormalisation(3, padded=True)(x)
    torch.testing.assert_close(kept[..., 2:-2, 2:-2], cut)


def test_the_published_size_has_a_billion_parameters() -> None:
    with torch.device("meta"):
        net = quocnet()
        out = net(torch.empty(1, 3, 200, 200))
    count = sum(weight.numel() for weight in net.parameters())
    # Sides: 183 after the first filters, 179 pooled, 171 normalised; then 154, 150, 142; then 125, 121, 113.
    assert count == 8 * (3 * 18**2 * 183**2 + 8 * 18**2 * (154**2 + 125**2)) == 1_076_185_440
    assert abs(count / 1e9 - 1) < 0.1
    assert out.shape == (1, 8, 113, 113)
    assert all(weight.is_meta for weight in net.parameters())


def test_drawn_weights_reconstruct_at_the_right_scale() -> None:
    net = quocnet(1, 24, 3, field=6, pool=1, window=1, generator=seeded())
    layer = net.get_submodule("filter1")
    assert isinstance(layer, LocallyConnected)
    x = torch.randn(20, 3, 24, 24, generator=seeded(1))
    with torch.no_grad():
        ratio: Tensor = (layer(x).square().sum() / x.square().sum()).detach()
    # <x, W^T W x> = |W x|^2 is |x|^2 on average over the weights.
    assert 0.9 < ratio.item() < 1.1


def test_weights_come_from_the_generator_alone() -> None:
    state = torch.get_rng_state()
    sizes = {"stages": 2, "maps": 4, "field": 3, "pool": 2, "window": 3, "padded": True}
    first, again, other = (detector(12, 1, generator=seeded(seed), **sizes) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert not torch.equal(first.features.filter1.weight, other.features.filter1.weight)
    assert not first.head.weight.any()


def test_a_detector_is_a_model_of_two_classes() -> None:
    net = detector(12, 1, generator=seeded(), stages=2, maps=4, field=3, pool=2, window=3, padded=True)
    with torch.no_grad():
        net.head.bias.fill_(2.0)
    logits = Model(net, mean=0.5)(torch.rand(5, 1, 12, 12, generator=seeded(1)))
    torch.testing.assert_close(logits, torch.tensor([[0.0, 2.0]]).expand(5, 2))


def test_sizes_that_leave_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="stage 2 of 3"):
        quocnet(3, 12, 1, field=6, pool=3, window=3)
    with pytest.raises(InputError, match="odd"):
        quocnet(1, 12, 1, field=3, pool=1, window=4, padded=True)
    for name in ("stages", "maps", "pool"):
        with pytest.raises(InputError, match=name):
            quocnet(**{"side": 12, "field": 3, "window": 3, "padded": True, name: 0})
    with pytest.raises(InputError, match="field"):
        LocallyConnected(1, 1, 4, 5)

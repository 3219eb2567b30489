"""The paper's nets: shapes, parameters, starting weights, names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from intriguing import nets, rng
from intriguing.errors import InputError, UnknownNameError


@pytest.mark.parametrize("name", nets.NETS)
@pytest.mark.parametrize(("shape", "classes"), [((1, 28, 28), 10), ((1, 8, 8), 10), ((3, 5, 7), 3), ((4,), 2)])
def test_every_net_takes_every_shape(name: str, shape: tuple[int, ...], classes: int) -> None:
    net = nets.build(name, shape, classes)
    images = torch.rand(5, *shape)
    logits = net(images)
    assert logits.shape == (5, classes)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(net(images.flatten(1)), logits)
    assert nets.NETS[name].description


# Weights and biases of Table 1's architectures on 28 x 28 images and 10 classes.
SIZES = {
    "FC10(1e-4)": 784 * 10,
    "FC10(1e-2)": 784 * 10,
    "FC10(1)": 784 * 10,
    "FC100-100-10": 785 * 100 + 101 * 100 + 101 * 10,
    "FC123-456-10": 785 * 123 + 124 * 456 + 457 * 10,
    "FC200-200-10": 785 * 200 + 201 * 200 + 201 * 10,
    "AE400-10": 785 * 400 + 401 * 10,
}


def test_sizes_are_the_papers() -> None:
    assert set(SIZES) == set(nets.NETS)
    for name, size in SIZES.items():
        net = nets.build(name, (1, 28, 28), 10)
        assert sum(parameter.numel() for parameter in net.parameters()) == size


def test_softmax_nets_are_linear_without_bias() -> None:
    net = nets.build("FC10(1)", (1, 4, 4), 3)
    assert [name for name, _ in net.named_parameters()] == ["output.weight"]
    assert not net(torch.rand(2, 1, 4, 4)).any()


def test_hidden_units_are_sigmoids() -> None:
    net = nets.build("FC123-456-10", (1, 4, 4), 3)
    assert [type(module) for module in net] == [
        nn.Flatten,
        nn.Linear,
        nn.Sigmoid,
        nn.Linear,
        nn.Sigmoid,
        nn.Linear,
    ]


def test_starting_weights_come_from_the_generator_alone() -> None:
    before = torch.random.get_rng_state()
    first = nets.build("FC100-100-10", (1, 8, 8), 10, generator=rng.generator("a", 1))
    again = nets.build("FC100-100-10", (1, 8, 8), 10, generator=rng.generator("a", 1))
    other = nets.build("FC100-100-10", (1, 8, 8), 10, generator=rng.generator("a", 2))
    default = nets.build("FC100-100-10", (1, 8, 8), 10)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.state_dict()["hidden1.weight"], again.state_dict()["hidden1.weight"])
    assert not torch.equal(first.state_dict()["hidden1.weight"], other.state_dict()["hidden1.weight"])
    assert all(parameter.isfinite().all() for parameter in default.parameters())
    limit = (6 / (64 + 100)) ** 0.5
    weights = first.state_dict()["hidden1.weight"]
    assert 0.95 * limit < weights.abs().max() <= limit


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'FC100-100-10'"):
        nets.build("FC100-10-10", (1, 8, 8), 10)


@pytest.mark.parametrize(("shape", "classes"), [((), 10), ((1, 0, 8), 10), ((1, 8, 8), 1)])
def test_impossible_shapes_and_class_counts(shape: tuple[int, ...], classes: int) -> None:
    with pytest.raises(InputError):
        nets.build("FC10(1)", shape, classes)

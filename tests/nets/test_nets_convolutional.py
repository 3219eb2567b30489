"""The small convolutional net: shapes, names, starting weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from intriguing import rng
from intriguing.errors import InputError
from intriguing.nets.convolutional import convnet, drawn


@pytest.mark.parametrize(
    ("shape", "classes"), [((1, 28, 28), 10), ((1, 8, 8), 10), ((3, 32, 32), 3), ((3, 9, 6), 4), ((1, 4, 4), 2)]
)
def test_takes_every_shape(shape: tuple[int, ...], classes: int) -> None:
    net = convnet(shape, classes)
    logits = net(torch.rand(3, *shape))
    assert logits.shape == (3, classes)
    assert logits.dtype == torch.float32
    assert bool(logits.isfinite().all())


def test_layers_have_their_names_and_sizes() -> None:
    net = convnet((1, 28, 28), 10, channels=(6, 8), hidden=20)
    names = "conv1 relu1 pool1 conv2 relu2 pool2 flatten hidden1 relu3 output"
    assert [name for name, _ in net.named_children()] == names.split()
    # 5 x 5 kernels and biases; two poolings leave 7 x 7.
    size = (25 * 6 + 6) + (25 * 6 * 8 + 8) + (49 * 8 * 20 + 20) + (20 * 10 + 10)
    assert sum(parameter.numel() for parameter in net.parameters()) == size


def test_starting_weights_come_from_the_generator_alone() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (convnet((1, 8, 8), 10, generator=rng.generator("a", seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.hidden1.weight, again.hidden1.weight)
    assert not torch.equal(first.hidden1.weight, other.hidden1.weight)


def test_the_signal_keeps_its_size_through_many_layers() -> None:
    # He et al. 2015: with variance 2 / inputs the mean square of the pre-activations stays where it was. Twenty
    # layers of 400 units: a factor of 1.1 per layer would make it 7 times larger or smaller.
    with torch.device("meta"):
        net = nn.Sequential(*(layer for _ in range(20) for layer in (nn.Linear(400, 400), nn.ReLU())))
    drawn(net, rng.generator("deep", 0))
    signal = net[:-2](torch.randn(200, 400, generator=rng.generator("signal", 0)))
    assert 0.4 < float(signal.detach().square().mean()) < 2.5  # rectified halves: 2 / 400 * 400 * 1/2 = 1
    last = net[-2].weight
    assert float(last.detach().var()) == pytest.approx(1 / 400, rel=0.05)


@pytest.mark.parametrize(("shape", "classes"), [((784,), 10), ((1, 3, 28), 10), ((0, 8, 8), 10), ((1, 8, 8), 1)])
def test_impossible_shapes_and_class_counts(shape: tuple[int, ...], classes: int) -> None:
    with pytest.raises(InputError):
        convnet(shape, classes)

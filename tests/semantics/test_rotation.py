"""A rotated layer, turned back in the next: the same function to 1e-5, other units."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from intriguing import nets
from intriguing.errors import InputError, ModelError, UnknownNameError
from intriguing.nets.load import Model
from intriguing.rng import generator
from intriguing.semantics.activations import activations
from intriguing.semantics.directions import rotation
from intriguing.semantics.rotation import rotated


def draw() -> torch.Generator:
    return generator("test", 0)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(50, 1, 8, 8, generator=draw())


@pytest.mark.parametrize("layer", ["sigmoid1", "sigmoid2"])
@pytest.mark.parametrize("name", ["FC100-100-10", "FC200-200-10"])
def test_the_logits_stay_and_the_units_turn(images: Tensor, name: str, layer: str) -> None:
    model = Model(nets.build(name, (1, 8, 8), 10).eval())
    units = 100 if name.startswith("FC100") else 200
    q = rotation(units, generator=draw())
    turned = rotated(model, layer, q, images)
    assert float((turned.model.logits(images) - model.logits(images)).abs().max()) < 1e-5
    before = activations(model, images, layer).values
    after = activations(turned.model, images, turned.layer).values
    torch.testing.assert_close(after, before @ q.float().T, atol=1e-5, rtol=0)
    assert float((after - before).abs().max()) > 0.1
    assert turned.undone == ("hidden2" if layer == "sigmoid1" else "output")


def convolutional() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 6, 3, padding=1),
            relu1=nn.ReLU(inplace=True),
            conv2=nn.Conv2d(6, 5, 3, stride=2, padding=1),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            drop=nn.Dropout(),
            output=nn.Linear(5 * 4, 3),
        )
    )


@pytest.mark.parametrize(("layer", "units", "undone"), [("relu1", 6, "conv2"), ("pool2", 5, "output")])
def test_channels_turn_before_a_convolution_and_before_a_flattened_dense_layer(
    images: Tensor, layer: str, units: int, undone: str
) -> None:
    net = convolutional().train()
    model = Model(net, mean=0.3, std=0.5)
    turned = rotated(model, layer, rotation(units, generator=draw()), images)
    assert turned.undone == undone
    assert float((turned.model.logits(images) - model.logits(images)).abs().max()) < 1e-5
    assert net.training  # left as found
    assert isinstance(net.get_submodule(layer), nn.ReLU | nn.MaxPool2d)


def test_without_turning_back_the_function_is_another(images: Tensor) -> None:
    model = Model(nets.build("FC100-100-10", (1, 8, 8), 10).eval())
    turned = rotated(model, "sigmoid2", rotation(100, generator=draw()), images)
    net = turned.model.net
    assert isinstance(net, nn.Module)
    assert isinstance(model.net, nn.Module)
    net.get_submodule("output").load_state_dict(model.net.get_submodule("output").state_dict())
    assert float((turned.model.logits(images) - model.logits(images)).abs().max()) > 0.1


def test_a_rotation_does_not_pass_through_a_nonlinearity(images: Tensor) -> None:
    model = Model(nets.build("FC100-100-10", (1, 8, 8), 10).eval())
    with pytest.raises(ModelError, match=r"Sigmoid at 'sigmoid1' follows.*after it"):
        rotated(model, "hidden1", rotation(100, generator=draw()), images)
    with pytest.raises(ModelError, match="MaxPool2d at 'pool2'"):
        rotated(Model(convolutional()), "relu2", rotation(5, generator=draw()), images)


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.act = nn.Linear(64, 4), nn.Linear(4, 4), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        a = self.act(self.first(x.flatten(1)))
        return a + self.second(a)


def test_a_layer_that_is_used_elsewhere_is_refused(images: Tensor) -> None:
    torch.manual_seed(0)
    with pytest.raises(ModelError, match="used besides 'second'"):
        rotated(Model(Skip()), "act", rotation(4, generator=draw()), images)


def test_matrices_that_are_no_rotation_of_the_layer_are_refused(images: Tensor) -> None:
    model = Model(nets.build("FC100-100-10", (1, 8, 8), 10).eval())
    with pytest.raises(InputError, match="orthogonal"):
        rotated(model, "sigmoid2", torch.ones(100, 100), images)
    with pytest.raises(InputError, match="orthogonal"):
        rotated(model, "sigmoid2", torch.ones(100), images)
    with pytest.raises(InputError, match="got 7"):
        rotated(model, "sigmoid2", torch.eye(7), images)
    with pytest.raises(UnknownNameError, match="sigmoid2"):
        rotated(model, "sigmoid3", torch.eye(100), images)

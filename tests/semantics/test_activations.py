"""Activations by path: the numbers a net really computes, in batches, and a net left as found."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from intriguing.errors import InputError, ModelError, UnknownNameError
from intriguing.nets.load import Model
from intriguing.semantics.activations import activations, calls, last_convolution, last_hidden, outputs, watched


def net(*, inplace: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(2, 3, 3, padding=1),
            relu=nn.ReLU(inplace=inplace),
            pool=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            hidden=nn.Linear(12, 5),
            sigmoid=nn.Sigmoid(),
            drop=nn.Dropout(0.5),
            output=nn.Linear(5, 4),
        )
    )


@pytest.fixture
def images() -> Tensor:
    return torch.rand(7, 2, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_a_dense_layer_gives_one_value_per_unit(images: Tensor, batch: int) -> None:
    module = net()
    found = activations(Model(module), images, "sigmoid", batch=batch)
    torch.testing.assert_close(found.values, module[:6](images))
    assert found.grid == (1, 1)
    assert not found.places.any()


@pytest.mark.parametrize("batch", [2, 100])
def test_a_channel_is_its_largest_position_and_keeps_where_it_was(images: Tensor, batch: int) -> None:
    module = net()
    maps = module[0](images).detach()
    found = activations(Model(module), images, "conv", batch=batch)
    assert found.grid == (4, 4)
    for image in range(7):
        for channel in range(3):
            best = max((float(maps[image, channel, r, c]), r * 4 + c) for r in range(4) for c in range(4))
            assert float(found.values[image, channel]) == pytest.approx(best[0], abs=1e-6)
            assert int(found.places[image, channel]) == best[1]


def test_directions_of_a_channel_are_projected_before_the_maximum(images: Tensor) -> None:
    module = net()
    v = torch.randn(4, 3, generator=torch.Generator().manual_seed(2))
    expected = torch.einsum("nchw,dc->ndhw", module[0](images), v).amax((2, 3))
    torch.testing.assert_close(activations(Model(module), images, "conv", directions=v, batch=3).values, expected)
    with pytest.raises(InputError, match=r"\(D, 3\).*got shape \(4, 5\)"):
        activations(Model(module), images, "conv", directions=torch.zeros(4, 5))


def test_a_rectifier_in_place_does_not_write_over_what_was_seen(images: Tensor) -> None:
    module = net(inplace=True)
    maps = module[0](images)
    assert bool((maps < 0).any())
    (part, _), *_ = outputs(Model(module), images, "conv")
    torch.testing.assert_close(part.view_as(maps), maps)


def test_preprocessing_runs_first(images: Tensor) -> None:
    module = net()
    found = activations(Model(module, mean=0.5, std=0.25), images, "hidden")
    torch.testing.assert_close(found.values, module[:5]((images - 0.5) / 0.25))


def test_an_unknown_path_names_the_nearest(images: Tensor) -> None:
    with pytest.raises(UnknownNameError, match=r"'sigmoyd'.*mean 'sigmoid'.*conv"):
        activations(Model(net()), images, "sigmoyd")
    with pytest.raises(InputError, match="batch"):
        activations(Model(net()), images, "conv", batch=0)


class Breaks(nn.Module):
    """A net that fails after its first layer has run."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.first(x)
        raise RuntimeError("broken")


def test_hooks_and_modes_are_put_back_after_an_exception() -> None:
    module = Breaks().train()
    with pytest.raises(RuntimeError, match="broken"):
        activations(Model(module), torch.zeros(1, 4), "first")
    with pytest.raises(RuntimeError, match="broken"):
        calls(Model(module), torch.zeros(1, 4))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
    assert module.training
    assert module.first.training
    assert module.first.weight.requires_grad


def test_nothing_is_left_behind_after_success(images: Tensor) -> None:
    module = net().train()
    activations(Model(module), images, "relu")
    calls(Model(module), images)
    with watched(Model(module), "relu"):
        pass
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
    assert all(m.training for m in module.modules())


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.spare = nn.ReLU()
        self.tokens = nn.Identity()
        self.odd = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        self.tokens(x.view(len(x), 2, 2))
        self.odd(x.view(len(x), 2, 2, 1, 1))
        return self.relu(self.relu(x) - 0.5)


def test_layers_that_cannot_be_read_say_why() -> None:
    model, x = Model(Twice()), torch.rand(3, 4)
    with pytest.raises(ModelError, match="ran 2 times"):
        activations(model, x, "relu")
    with pytest.raises(ModelError, match="did not run"):
        activations(model, x, "spare")
    with pytest.raises(ModelError, match="expected"):
        activations(model, x, "odd")
    tokens = activations(model, x, "tokens")
    torch.testing.assert_close(tokens.values, x.view(3, 2, 2).amax(1))  # (B, T, U): units last
    assert tokens.grid == (1, 2)


def test_the_layers_that_matter_are_found_by_what_they_feed(images: Tensor) -> None:
    model = Model(net())
    assert last_hidden(model, images) == "sigmoid"  # not the dropout after it
    assert last_convolution(model, images) == "relu"
    dense = Model(nn.Sequential(nn.Flatten(), nn.Linear(32, 3)))
    assert last_convolution(dense, images) is None
    with pytest.raises(ModelError, match="no hidden layer"):
        last_hidden(Model(nn.Sequential(nn.Conv2d(2, 3, 4), nn.Flatten())), images)


def test_calls_keep_what_was_given_though_it_was_written_over(images: Tensor) -> None:
    module = net(inplace=True)
    made = {call.path: call for call in calls(Model(module), images)}
    assert list(made) == ["conv", "relu", "pool", "flatten", "hidden", "sigmoid", "drop", "output"]
    torch.testing.assert_close(made["relu"].given, module[0](images[:2]))
    assert bool((made["relu"].given < 0).any())
    assert not bool((made["relu"].returned < 0).any())

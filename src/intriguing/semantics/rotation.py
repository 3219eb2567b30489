"""The same function with other units: a rotated layer, undone by the linear layer that follows.

If a linear layer reads W a + b from the activations a, then W Q' reads the same from Q a, for any orthogonal Q:
"units" are a choice of coordinates that the function does not fix. A rotation does not pass through a rectifier
or a sigmoid, so it stands *after* the non-linearity, as a module of its own, and *before* the linear layer:

    a = sigmoid(V x + c)        unchanged
    u = Q a                     the new module, whose outputs are the new units
    z = (W Q') u + b            the next linear layer, with its weights turned back
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from intriguing.errors import InputError, ModelError
from intriguing.nets.load import Model
from intriguing.semantics.activations import calls, find, same_numbers

# Of the largest logit. A copy in float32 whose weights were rounded once more stays far below.
_TOLERANCE = 1e-4
_PROBES = 50  # images on which that is checked


class Rotation(nn.Module):
    """Multiplies the units of (B, U), or the channels of (B, U, H, W), by an orthogonal matrix Q (U, U)."""

    matrix: Tensor

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)

    def forward(self, values: Tensor) -> Tensor:
        """Return Q a at every position."""
        return torch.einsum("du,nu...->nd...", self.matrix, values)


@dataclass(frozen=True)
class Rotated:
    """A net with other units and the same function.

    Attributes:
        model: the net.
        layer: the path whose outputs are the new units.
        undone: the path of the linear layer whose weights were turned back.
    """

    model: Model
    layer: str
    undone: str


def rotated(model: Model, layer: str, matrix: Tensor, images: Tensor) -> Rotated:
    """Return a copy of a net in which a layer's units are rotated and the next linear layer turns them back.

    Args:
        model: the net; it stays as it is.
        layer: path of the layer whose outputs are rotated: the non-linearity, if the layer has one. The next
            linear layer, dense or convolution, must be given exactly its outputs, reshaped at most.
        matrix: (U, U) orthogonal, U the units or channels of the layer.
        images: (N, C, H, W) or (N, n) in the box; the first show which layer comes next, and that the logits stay.

    Raises:
        UnknownNameError: no such layer.
        InputError: a matrix that is not orthogonal or does not fit the layer.
        ModelError: no linear layer follows at once, or the layer is used elsewhere too, so that the function
            would change.

    Example:
        >>> model = Model(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
        >>> rotated(model, "1", torch.eye(3).flip(0), torch.rand(2, 4)).layer
        '1.rotation'
    """
    find(model, layer)
    q = matrix.double()
    units = q.shape[0]
    if q.shape != (units, units) or not torch.allclose(q @ q.T, torch.eye(units).double(), atol=1e-4):
        raise InputError(f"matrix must be orthogonal (U, U), U the units of {layer!r}, got shape {tuple(q.shape)}")
    undone = _successor(model, layer, units, images)
    net = copy.deepcopy(model.net)
    assert isinstance(net, nn.Module)
    _turn_back(net.get_submodule(undone), q)
    old = net.get_submodule(layer)
    example = next((p for p in net.parameters() if p.is_floating_point()), torch.zeros(()))
    pair = nn.Sequential(OrderedDict(layer=old, rotation=Rotation(q.to(example))))
    parent, _, name = layer.rpartition(".")
    setattr(net.get_submodule(parent), name, pair.train(old.training))
    result = Model(net, model.box, model.mean, model.std, model.name)
    before, after = model.logits(images[:_PROBES]), result.logits(images[:_PROBES])
    if float((before - after).abs().max()) > _TOLERANCE * max(1.0, float(before.abs().max())):
        raise ModelError(
            f"rotating {layer!r} changes the answers of {model.name}: its outputs are used besides {undone!r}, in a "
            "skip connection perhaps. Name a layer that only one linear layer reads."
        )
    return Rotated(result, f"{layer}.rotation", undone)


def _successor(model: Model, layer: str, units: int, images: Tensor) -> str:
    """Return the path of the linear layer that is given exactly what `layer` returns."""
    made = calls(model, images)
    places = [place for place, call in enumerate(made) if call.path == layer]
    if len(places) != 1:
        raise ModelError(f"layer {layer!r} must be a module without parts that runs once, but ran {len(places)} times")
    returned = made[places[0]].returned
    if returned.ndim not in (2, 4) or returned.shape[1] != units:
        raise InputError(
            f"matrix must be (U, U) with U the units of {layer!r}, which returned {tuple(returned.shape)}, got {units}"
        )
    for call in made[places[0] + 1 :]:
        plain = isinstance(call.module, nn.Linear) or (isinstance(call.module, nn.Conv2d) and call.module.groups == 1)
        if plain and same_numbers(call.given, returned):
            return call.path
    after = made[places[0] + 1] if places[0] + 1 < len(made) else None
    what = f"{type(after.module).__name__} at {after.path!r}" if after else "nothing"
    raise ModelError(
        f"no linear layer is given the outputs of {layer!r} as they are: {what} follows. A rotation passes through "
        "no non-linearity; name the layer after it, directly before a linear layer."
    )


@torch.no_grad()
def _turn_back(module: nn.Module, q: Tensor) -> None:
    """Replace W by W Q' over its input units, or channels, in place; computed in float64."""
    weight = module.get_parameter("weight")
    units = q.shape[0]
    # A dense layer after a flattened convolution reads (channel, position); a convolution (channel, row, column).
    by_unit = weight.double().reshape(weight.shape[0], units, -1)
    turned = torch.einsum("oup,du->odp", by_unit, q.to(weight.device))
    weight.copy_(turned.reshape(weight.shape).to(weight.dtype))

"""Activations of any layer of any `Model`, by the layer's path, and which layers follow which.

Szegedy et al. 2014, section 3: phi(x) is what some layer makes of the image x. A unit of a dense layer has one
value per image; a channel of a convolution has one per position, of which the largest stands for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from intriguing.errors import InputError, ModelError, UnknownNameError
from intriguing.nets.load import Model

_PROBES = 2  # images that show which layer feeds which


@dataclass(frozen=True)
class Activations:
    """What a layer made of N images.

    Attributes:
        layer: its path.
        values: (N, U) per unit, or per channel the largest over its positions.
        places: (N, U) int64, the position of that largest value, counted row by row; all 0 in a dense layer.
        grid: (rows, columns) of the positions; (1, 1) in a dense layer.
    """

    layer: str
    values: Tensor
    places: Tensor
    grid: tuple[int, int]


@dataclass(frozen=True)
class Call:
    """One use of a module without children during a forward pass: what it was given and what it returned."""

    path: str
    module: nn.Module
    given: Tensor
    returned: Tensor


def activations(
    model: Model,
    images: Tensor,
    layer: str,
    *,
    directions: Tensor | None = None,
    batch: int = 500,
) -> Activations:
    """Return the activations of a layer, in batches, frozen and without gradients.

    Args:
        model: the net; its modes and hooks are left as found, also after an exception.
        images: (N, C, H, W) or (N, n) in the box, on any device.
        layer: path of the layer, a key of ``model.layers()``.
        directions: (D, U); each position's value is then <phi(x), v> for every direction v in place of every
            unit, and the largest over the positions is taken afterwards.
        batch: how many images the net sees at once.

    Returns:
        Activations on the CPU, U replaced by D where directions are given.

    Raises:
        UnknownNameError: no such layer; the message names the nearest.
        ModelError: the layer did not run, ran more than once, or returned no activations per unit.
        InputError: directions that do not fit the layer, or a batch below 1.

    Example:
        >>> model = Model(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU()))
        >>> activations(model, torch.rand(5, 1, 2, 2), "2").values.shape
        torch.Size([5, 3])
    """
    values, places, grid = [], [], (1, 1)
    for maps, here in outputs(model, images, layer, batch=batch):
        grid = here
        if directions is not None:
            maps = torch.einsum("nup,du->ndp", maps, _fitting(directions, maps.shape[1], layer))
        largest, place = maps.max(dim=2)
        values.append(largest)
        places.append(place)
    return Activations(layer, torch.cat(values), torch.cat(places), grid)


@torch.no_grad()
def outputs(model: Model, images: Tensor, layer: str, *, batch: int = 500) -> Iterator[tuple[Tensor, tuple[int, int]]]:
    """Yield a layer's maps (B, U, P) batch by batch, on the CPU, with the grid (rows, columns) of the P positions.

    Raises:
        UnknownNameError: no such layer.
        ModelError: see `activations`.
        InputError: a batch below 1.
    """
    if batch < 1:
        raise InputError(f"batch must be at least 1, got {batch}")
    device, dtype = model.device, model.dtype
    for part in torch.split(images, batch):
        with model.frozen(), watched(model, layer) as seen:
            model(part.to(device=device, dtype=dtype))
        maps, grid = positions(seen, layer)
        yield maps.cpu(), grid


@contextmanager
def watched(model: Model, layer: str) -> Iterator[list[Any]]:
    """Collect what a layer returns while the block runs; the hook goes afterwards, also after an exception.

    What is collected is a copy, since a rectifier that works in place would write over it.

    Raises:
        UnknownNameError: no such layer; the message names the nearest.

    Example:
        >>> model = Model(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
        >>> with watched(model, "1") as seen:
        ...     _ = model(torch.rand(3, 1, 2, 2))
        >>> seen[0].shape
        torch.Size([3, 2])
    """
    module = find(model, layer)
    seen: list[Any] = []

    def keep(_: nn.Module, __: Any, returned: Any) -> None:
        seen.append(returned.clone() if isinstance(returned, Tensor) else returned)

    handle = module.register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


def find(model: Model, layer: str) -> nn.Module:
    """Return the layer at a path.

    Raises:
        UnknownNameError: no such layer; the message names the nearest.
    """
    layers = model.layers()
    if layer not in layers:
        raise UnknownNameError("layer", layer, layers)
    return layers[layer]


def positions(seen: list[Any], layer: str) -> tuple[Tensor, tuple[int, int]]:
    """Return what `watched` collected in one forward pass as (B, U, P), and the grid (rows, columns) of the P.

    A dense layer (B, U) has one position, a convolution (B, U, H, W) has H W, a layer of tokens (B, T, U) has T.

    Raises:
        ModelError: nothing or several outputs were collected, or they have another shape.
    """
    if len(seen) != 1:
        how = "did not run" if not seen else f"ran {len(seen)} times"
        raise ModelError(f"layer {layer!r} {how} in one forward pass; name a layer that runs once")
    (found,) = seen
    if isinstance(found, Tensor) and found.is_floating_point():
        if found.ndim == 2:
            return found[:, :, None], (1, 1)
        if found.ndim == 3:
            return found.transpose(1, 2), (1, found.shape[1])
        if found.ndim == 4:
            return found.flatten(2), (found.shape[2], found.shape[3])
    shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
    raise ModelError(
        f"layer {layer!r} returned {shape}; expected (B, units), (B, tokens, units) or (B, channels, H, W). "
        "Name a layer that returns one of these."
    )


@torch.no_grad()
def calls(model: Model, images: Tensor) -> list[Call]:
    """Return every use of a module without children in one forward pass of the first images, in order.

    Args:
        model: the net, left as found.
        images: (N, C, H, W) or (N, n) in the box; two of them are used.
    """
    made: list[Call] = []
    handles = []

    def keeper(path: str) -> Any:
        def keep(module: nn.Module, given: tuple[Any, ...], returned: Any) -> None:
            if given and isinstance(given[0], Tensor) and isinstance(returned, Tensor):
                # A layer that works in place has already written over what it was given.
                made.append(Call(path, module, before.pop(path), returned.clone()))

        return keep

    def noter(path: str) -> Any:
        def note(_: nn.Module, given: tuple[Any, ...]) -> None:
            if given and isinstance(given[0], Tensor):
                before[path] = given[0].clone()

        return note

    before: dict[str, Tensor] = {}
    try:
        for path, module in model.layers().items():
            if not any(True for _ in module.children()):
                handles += [
                    module.register_forward_pre_hook(noter(path)),
                    module.register_forward_hook(keeper(path)),
                ]
        with model.frozen():
            model(images[:_PROBES].to(device=model.device, dtype=model.dtype))
    finally:
        for handle in handles:
            handle.remove()
    return made


def last_hidden(model: Model, images: Tensor) -> str:
    """Return the path of the last hidden layer: the one whose output the last linear layer is given.

    Layers that only reshape, or drop units in training, are passed over: the layer that made the numbers counts.

    Args:
        model: the net.
        images: (N, C, H, W) or (N, n), of which two are used.

    Raises:
        ModelError: no linear layer, or none that follows a module.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Dropout(), nn.Linear(3, 2))
        >>> last_hidden(Model(net), torch.rand(2, 4))
        '1'
    """
    made = calls(model, images)
    last = max((place for place, call in enumerate(made) if isinstance(call.module, nn.Linear)), default=-1)
    feeding = [call.path for call in made[: max(last, 0)] if same_numbers(call.returned, made[last].given)]
    if not feeding:
        raise ModelError(
            f"{model.name} has no hidden layer that feeds its last linear layer as a module; name a layer: "
            + ", ".join(model.layers())
        )
    return feeding[0]


def last_convolution(model: Model, images: Tensor) -> str | None:
    """Return the path of the last convolution, or of its rectifier if that follows at once; None without one.

    Args:
        model: the net.
        images: (N, C, H, W), of which two are used.
    """
    made = calls(model, images)
    places = [place for place, call in enumerate(made) if isinstance(call.module, nn.Conv2d)]
    if not places:
        return None
    last = places[-1]
    after = made[last + 1] if last + 1 < len(made) else None
    follows = after is not None and same_numbers(made[last].returned, after.given)
    if after is not None and follows and isinstance(after.module, ELEMENTWISE):
        return after.path
    return made[last].path


ELEMENTWISE = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Softplus)


def same_numbers(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors hold the same numbers in the same order, whatever their shapes."""
    return one.numel() == other.numel() and bool(torch.equal(one.flatten(), other.flatten()))


def _fitting(directions: Tensor, units: int, layer: str) -> Tensor:
    """Return the directions (D, U) if they fit a layer of U units."""
    if directions.ndim != 2 or directions.shape[1] != units:
        raise InputError(
            f"directions must be (D, {units}), one entry per unit of layer {layer!r}, got shape "
            f"{tuple(directions.shape)}"
        )
    return directions

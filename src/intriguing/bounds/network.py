"""The bound of every layer of a net, and their product. Szegedy et al. 2014, section 4.3.

phi = phi_K o ... o phi_1 and ||phi_k(x) - phi_k(x + r)|| <= L_k ||r|| give ||phi(x) - phi(x + r)|| <= L ||r|| with
L = prod_k L_k. All is for the net in evaluation mode: dropout passes everything, batch normalisation uses the moments
it has learned. The module is read, never run and never changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from intriguing.bounds.nonlinear import (
    ACTIVATIONS,
    adaptive_average_pool,
    average_pool,
    averaging_norm,
    coverage,
    cross_channel_bound,
    pair,
    pooling_bound,
)
from intriguing.bounds.operators import LayerBound, Pair, circular_norm, dense_norm, safe_grid
from intriguing.errors import InputError, ModelError
from intriguing.nets.alexnet import ChannelNorm, Dropout
from intriguing.nets.load import Model

_LAYER = "layer "  # how a message that already names a layer begins
Shape = tuple[int, ...]
Bounded = tuple[list[LayerBound], Shape]
Rule = Callable[[Any, Shape, str], Bounded]
_Decorated = TypeVar("_Decorated", bound=Rule)

RULES: dict[type[nn.Module], Rule] = {}
"""Type of module -> (module, shape of its input, path) -> (its bounds in order, shape of its output)."""


def rule(*types: type[nn.Module]) -> Callable[[_Decorated], _Decorated]:
    """Register how modules of these types are bounded.

    Shapes are those of one example, (C, H, W) or (n,). A subclass with a `forward` of its own needs its own rule.

    Example:
        >>> class Double(nn.Module):
        ...     def forward(self, x):
        ...         return 2 * x
        >>> @rule(Double)
        ... def _double(module, shape, path):
        ...     return [LayerBound(path, "doubling", 2.0)], shape
        >>> product(layer_bounds(nn.Sequential(Double(), Double()), (3,)))
        4.0
    """

    def register(function: _Decorated) -> _Decorated:
        RULES.update(dict.fromkeys(types, function))
        return function

    return register


class Residual(nn.Module):
    """The sum of branches of one input; an empty `nn.Sequential` or `nn.Identity` is the skip connection.

    Example:
        >>> block = Residual(nn.Identity(), nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
        >>> block(torch.zeros(2, 4)).shape
        torch.Size([2, 4])
    """

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of what the branches make of x."""
        return torch.stack([branch(x) for branch in self.branches]).sum(0)


def residual(name: str, branches: Iterable[Iterable[LayerBound]]) -> LayerBound:
    """Return the bound of a sum of branches: the sum of their products. An empty branch is the identity.

    Example:
        >>> residual("block", [[], [LayerBound("linear", "dense", 3.0)]]).bound
        4.0
    """
    products = [product(branch) for branch in branches]
    note = "sum of its branches: " + " + ".join(f"{value:.4g}" for value in products)
    return LayerBound(name, "residual addition", sum(products), note=note)


def layer_bounds(net: Model | nn.Module, shape: Iterable[int]) -> list[LayerBound]:
    """Return a bound for each layer of a net, in the order of the signal.

    A batch normalisation right after a linear layer is folded into it: one entry, ``"conv1+bn1"``.

    Args:
        net: a module made of modules with a rule (see `rule`), or a `Model`, whose preprocessing comes first.
        shape: of one input, (C, H, W) or (n,).

    Returns:
        One `LayerBound` per layer; `product` gives the net's.

    Raises:
        ModelError: a layer without a rule, without weights, or that depends on the rest of its batch; with its path.
        InputError: a shape that the net cannot take.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Sigmoid())
        >>> [bound.kind for bound in layer_bounds(net, (1, 2, 2))]
        ['reshaping', 'dense', 'Sigmoid']
    """
    bounds: list[LayerBound] = []
    if isinstance(net, Model):
        if not isinstance(net.net, nn.Module):
            raise ModelError(f"{net.name} is a function, whose layers cannot be seen; give a torch module")
        if bool((net.std != 1).any()):
            least = float(net.std.min())
            bounds.append(LayerBound("preprocessing", "division by the standard deviation", 1 / least))
        net = net.net
    return bounds + _bounded(net, tuple(int(side) for side in shape), "")[0]


def product(bounds: Iterable[LayerBound]) -> float:
    """Return the whole net's bound L = prod_k L_k: a product, not a sum.

    Example:
        >>> product([LayerBound("a", "dense", 2.0), LayerBound("b", "ReLU", 1.0), LayerBound("c", "dense", 3.0)])
        6.0
    """
    return math.prod(bound.bound for bound in bounds)


def _bounded(module: nn.Module, shape: Shape, path: str) -> Bounded:
    """Apply the rule of a module."""
    for kind in type(module).__mro__:
        if kind in RULES and type(module).forward is kind.forward:
            with _named(path):
                return RULES[kind](module, shape, path)
    raise ModelError(
        f"{_LAYER}{path or '(the net itself)'}: no rule bounds a {type(module).__name__}; register one with "
        "intriguing.bounds.network.rule, or build the net from layers that have one: "
        + ", ".join(sorted({kind.__name__ for kind in RULES}))
    )


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Put the path of the innermost layer before the message of an error."""
    try:
        yield
    except (InputError, ModelError) as error:
        if str(error).startswith(_LAYER):
            raise
        raise type(error)(f"{_LAYER}{path or '(the net itself)'}: {error}") from error


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


@rule(nn.Sequential)
def _sequence(module: nn.Sequential, shape: Shape, path: str) -> Bounded:
    """Bound the children in turn, folding batch normalisations into the linear layers before them."""
    names = {child: name for name, child in module.named_children()}  # a child may come up more than once
    children = list(module)
    bounds: list[LayerBound] = []
    place = 0
    while place < len(children):
        child = children[place]
        after = children[place + 1] if place + 1 < len(children) else None
        name = _join(path, names[child])
        if isinstance(child, nn.Conv2d | nn.Linear) and isinstance(after, nn.BatchNorm1d | nn.BatchNorm2d):
            found, shape = _folded(child, after, shape, name, _join(path, names[after]))
            place += 2
        else:
            found, shape = _bounded(child, shape, name)
            place += 1
        bounds += found
    return bounds, shape


def _folded(linear: nn.Conv2d | nn.Linear, norm: nn.Module, shape: Shape, path: str, after: str) -> Bounded:
    with _named(after):
        scale = _batch_scale(norm)
    with _named(path):
        bound, shape = _linear(linear, shape, f"{path}+{after.rpartition('.')[2]}", scale)
    return [bound], shape


@rule(nn.Conv2d, nn.Linear)
def _weighted(module: nn.Conv2d | nn.Linear, shape: Shape, path: str) -> Bounded:
    bound, shape = _linear(module, shape, path, None)
    return [bound], shape


def _linear(module: nn.Conv2d | nn.Linear, shape: Shape, name: str, scale: Tensor | None) -> tuple[LayerBound, Shape]:
    """Bound a linear layer whose outputs are then multiplied by `scale`, channel by channel."""
    weight = module.weight.detach()
    if scale is not None:
        weight = weight.double() * scale.to(weight.device).reshape(-1, *([1] * (weight.ndim - 1)))
    note = "" if scale is None else "batch normalisation folded in"
    if isinstance(module, nn.Conv2d):
        return _convolution(module, weight, shape, name, note)
    if not shape or shape[-1] != module.in_features:
        raise InputError(f"expected inputs of {module.in_features} numbers, got shape {shape}")
    norm = dense_norm(weight)
    return LayerBound(name, "dense", norm.value, norm.residual, note=note), (*shape[:-1], module.out_features)


def _convolution(module: nn.Conv2d, weight: Tensor, shape: Shape, name: str, note: str) -> tuple[LayerBound, Shape]:
    if len(shape) != 3 or shape[0] != module.in_channels:
        raise InputError(f"expected images ({module.in_channels}, H, W), got shape {shape}")
    sides, kernel = (shape[1], shape[2]), pair(module.kernel_size)
    stride, dilation = pair(module.stride), pair(module.dilation)
    padding = _padding(module)
    notes = [note] if note else []
    repeated = 1.0
    if module.padding_mode != "zeros" and any(map(any, padding)):
        covers = [_repeats(side, pads, module.padding_mode) for side, pads in zip(sides, padding, strict=True)]
        repeated = math.sqrt(covers[0] * covers[1])
        sides = (sides[0] + sum(padding[0]), sides[1] + sum(padding[1]))
        padding = ((0, 0), (0, 0))
        notes.append(f"{module.padding_mode} padding repeats pixels: a factor {repeated:.4g}")
    grid = safe_grid(sides, kernel, stride=stride, padding=padding, dilation=dilation)
    norm = circular_norm(weight, grid, stride=stride, dilation=dilation, groups=module.groups)
    notes.append(f"on a circle of {grid[0]} x {grid[1]}, an upper bound of the padded layer")
    outputs = tuple(
        (side + sum(pads) - apart * (taps - 1) - 1) // step + 1
        for side, pads, apart, taps, step in zip(sides, padding, dilation, kernel, stride, strict=True)
    )
    value, spread = norm.value * repeated, norm.residual * repeated
    bound = LayerBound(name, "convolution", value, spread, grid, "; ".join(notes))
    return bound, (module.out_channels, *outputs)


def _padding(module: nn.Conv2d) -> tuple[Pair, Pair]:
    """Return how much is padded before and after, along height and width."""
    if module.padding == "same":
        totals = [apart * (taps - 1) for apart, taps in zip(module.dilation, module.kernel_size, strict=True)]
        rows, columns = ((total // 2, total - total // 2) for total in totals)
        return rows, columns
    if module.padding == "valid":
        return (0, 0), (0, 0)
    assert not isinstance(module.padding, str)
    high, wide = pair(module.padding)
    return (high, high), (wide, wide)


def _repeats(side: int, pads: Pair, mode: str) -> int:
    """Return how often padding that copies pixels uses the same one, along one axis."""
    pixels = torch.arange(side, dtype=torch.float32)[None, None]
    return int(torch.bincount(nn.functional.pad(pixels, pads, mode=mode).flatten().long()).max())


def _batch_scale(module: nn.Module) -> Tensor:
    """Return gamma / sqrt(variance + eps) of each channel, float64."""
    assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
    if module.running_var is None:
        raise ModelError(
            "this batch normalisation keeps no moments, so an output depends on the rest of its batch and no bound "
            "holds for an image alone; train it with track_running_stats=True"
        )
    scale: Tensor = (module.running_var.detach().double() + module.eps).rsqrt()
    return scale if module.weight is None else scale * module.weight.detach().double()


@rule(nn.BatchNorm1d, nn.BatchNorm2d)
def _batch_norm(module: nn.Module, shape: Shape, path: str) -> Bounded:
    return [LayerBound(path, "batch normalisation", float(_batch_scale(module).abs().max()))], shape


@rule(*ACTIVATIONS)
def _activation(module: nn.Module, shape: Shape, path: str) -> Bounded:
    kind = next(kind for kind in type(module).__mro__ if kind in ACTIVATIONS)
    return [LayerBound(path, kind.__name__, ACTIVATIONS[kind](module))], shape


@rule(nn.Identity, Dropout, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)
def _nothing(module: nn.Module, shape: Shape, path: str) -> Bounded:
    return [LayerBound(path, "passes everything in evaluation mode", 1.0)], shape


@rule(nn.Flatten, nn.Unflatten)
def _reshaping(module: nn.Module, shape: Shape, path: str) -> Bounded:
    return [LayerBound(path, "reshaping", 1.0)], _shape_after(module, shape)


@rule(nn.MaxPool2d)
def _max_pooling(module: nn.MaxPool2d, shape: Shape, path: str) -> Bounded:
    if module.return_indices:
        raise ModelError("a max-pooling that returns indices too has two outputs; set return_indices=False")
    return _windows(module, shape, path, "max-pooling", pair(module.padding), pair(module.dilation))


@rule(nn.LPPool2d)
def _power_pooling(module: nn.LPPool2d, shape: Shape, path: str) -> Bounded:
    if module.norm_type < 2:
        raise ModelError(f"the {module.norm_type}-norm is no contraction of a window; only norms from 2 up are bounded")
    return _windows(module, shape, path, f"L{module.norm_type:g} pooling", (0, 0), (1, 1))


def _windows(
    module: nn.MaxPool2d | nn.LPPool2d, shape: Shape, path: str, kind: str, padding: Pair, dilation: Pair
) -> Bounded:
    after = _shape_after(module, shape)
    kernel = pair(module.kernel_size)
    stride = kernel if module.stride is None else pair(module.stride)
    rows, columns = (
        coverage(side, out, window=window, stride=step, padding=pad, dilation=apart)
        for side, out, window, step, pad, apart in zip(
            shape[-2:], after[-2:], kernel, stride, padding, dilation, strict=True
        )
    )
    note = f"a pixel is in up to {rows * columns} windows (E10)"
    return [LayerBound(path, kind, pooling_bound((rows, columns)), note=note)], after


@rule(nn.AvgPool2d)
def _average(module: nn.AvgPool2d, shape: Shape, path: str) -> Bounded:
    after = _shape_after(module, shape)
    norm = averaging_norm(average_pool(module), (shape[-2], shape[-1]))
    return [LayerBound(path, "average pooling", norm.value, norm.residual)], after


@rule(nn.AdaptiveAvgPool2d)
def _adaptive_average(module: nn.AdaptiveAvgPool2d, shape: Shape, path: str) -> Bounded:
    after = _shape_after(module, shape)
    norm = averaging_norm(adaptive_average_pool(after[-2:]), (shape[-2], shape[-1]))
    return [LayerBound(path, "average pooling", norm.value, norm.residual)], after


@rule(nn.LocalResponseNorm, ChannelNorm)
def _cross_channel(module: nn.LocalResponseNorm, shape: Shape, path: str) -> Bounded:
    bound = cross_channel_bound(min(module.size, shape[0]), module.beta, module.k)
    least = module.k**-module.beta
    note = f"its gain at 0 is {least:.4g}; the bound holds at every input"
    return [LayerBound(path, "normalisation across channels", bound, bound - least, note=note)], shape


@rule(Residual)
def _residual(module: Residual, shape: Shape, path: str) -> Bounded:
    branches, after = [], []
    for number, branch in enumerate(module.branches):
        found, out = _bounded(branch, shape, _join(path, f"branches.{number}"))
        branches.append(found)
        after.append(out)
    if not branches or len(set(after)) != 1:
        raise InputError(f"expected branches with outputs of one shape, got {after}")
    return [residual(path, branches)], after[0]


def _shape_after(module: nn.Module, shape: Shape) -> Shape:
    """Return the shape of one output of a module without weights; nothing is computed, and no hook is called."""
    try:
        out = type(module).forward(module, torch.empty(1, *shape, device="meta"))
    except (RuntimeError, IndexError) as error:
        raise InputError(f"a {type(module).__name__} cannot take inputs of shape {shape}: {error}") from error
    return tuple(out.shape[1:])

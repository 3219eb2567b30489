"""What each module and each operation of a net becomes in a graph; a rule for each, and an error for the others.

Max-pooling is written with what there is, exactly: max(a, b) = a + max(b - a, 0), along one axis of the window and
then along the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own abbreviation)

from intriguing.bounds.graph import Graph, Node, Operation, Shape
from intriguing.bounds.nonlinear import pair
from intriguing.bounds.operations import Averaging, Convolution, Dense, Reshaping, Scaling, Selecting, Sum
from intriguing.bounds.relaxation import Activation, Logistic, ReLU
from intriguing.errors import InputError, ModelError
from intriguing.nets.alexnet import Dropout


@dataclass(frozen=True)
class Value:
    """A tensor that depends on the pixels: its place in the graph."""

    place: int


class Builder:
    """A graph in the making.

    Args:
        dtype: of the user's net.
        device: where the graph's tensors are.

    Attributes:
        path: of the step that is being added.
        like: a float64 number on the device.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype = dtype
        self.like = torch.zeros((), dtype=torch.float64, device=device)
        self.nodes: list[Node] = []
        self.path = ""

    def graph(self) -> Graph:
        """Return what was made."""
        return Graph(tuple(self.nodes), self.dtype)

    def shape(self, value: Value) -> Shape:
        """Return the shape of one example of a value."""
        return self.nodes[value.place].shape

    def add(self, operation: Operation, *inputs: Value) -> Value:
        """Append a node; its shape is found by computing it once, on zeros."""
        zeros = [self.like.new_zeros(1, *self.shape(value)) for value in inputs]
        try:
            shape = tuple(operation(*zeros).shape[1:])
        except RuntimeError as error:
            raise InputError(f"{self.path}: cannot take inputs of shape {self.shape(inputs[0])}: {error}") from error
        self.nodes.append(Node(operation, tuple(value.place for value in inputs), shape, self.path))
        return Value(len(self.nodes) - 1)

    def unknown(self, what: str) -> ModelError:
        """Return the error that says where there is no rule for `what`, and for what there is one."""
        return ModelError(
            f"{self.path}: no rule certifies {what}. There are rules for modules "
            f"{', '.join(sorted(kind.__name__ for kind in MODULES))} and for operations "
            f"{', '.join(sorted(FUNCTIONS))}."
        )


def depends(value: Any) -> bool:
    """Tell whether anything in nested arguments depends on the pixels."""
    if isinstance(value, Value):
        return True
    if isinstance(value, dict):
        return any(map(depends, value.values()))
    return isinstance(value, tuple | list) and any(map(depends, value))


Rule = Callable[..., Any]


def module_rule(module: nn.Module) -> Rule | None:
    """Return the rule of a module: that of the nearest class whose forward it has not replaced."""
    for kind in type(module).__mro__:
        if kind in MODULES and type(module).forward is kind.forward:
            return MODULES[kind]
    return None


# -- rules: what each step becomes ------------------------------------------------------------------------------


def _linear(at: Builder, module: nn.Linear, h: Value) -> Value:
    if len(at.shape(h)) != 1:
        raise ModelError(f"{at.path}: a linear layer over images of shape {at.shape(h)}; flatten them first")
    return at.add(Dense(module.weight, module.bias), h)


def _convolution(at: Builder, module: nn.Conv2d, h: Value) -> Value:
    if module.padding_mode != "zeros":
        raise at.unknown(f"a convolution with padding mode {module.padding_mode!r}")
    if module.padding == "same":
        totals = [apart * (taps - 1) for apart, taps in zip(module.dilation, module.kernel_size, strict=True)]
        (top, bottom), (left, right) = ((total // 2, total - total // 2) for total in totals)
    else:
        high, wide = (0, 0) if isinstance(module.padding, str) else pair(module.padding)
        left, right, top, bottom = wide, wide, high, high
    return at.add(
        Convolution(
            module.weight,
            module.bias,
            at.shape(h),
            stride=pair(module.stride),
            padding=(left, right, top, bottom),
            dilation=pair(module.dilation),
            groups=module.groups,
        ),
        h,
    )


def _batch_norm(at: Builder, module: nn.BatchNorm1d | nn.BatchNorm2d, h: Value) -> Value:
    if module.running_mean is None or module.running_var is None:
        raise ModelError(
            f"{at.path}: this batch normalisation keeps no moments, so an output depends on the rest of its batch; "
            "train it with track_running_stats=True"
        )
    ones = torch.ones_like(module.running_var)
    scale = (module.running_var + module.eps).rsqrt() * (ones if module.weight is None else module.weight)
    shift = 0 * ones if module.bias is None else module.bias
    moved = module.running_mean * scale
    shape = (-1, *([1] * (len(at.shape(h)) - 1)))
    offset = moved.abs() + shift.abs()
    return at.add(Scaling(scale.view(shape), (shift - moved).view(shape), offset.view(shape)), h)


def _activation(function: Activation) -> Rule:
    def rule(at: Builder, *arguments: Any, **_: Any) -> Value:
        # A module's rule is given the module first, a function's the value; the value is what is wanted.
        return at.add(function, next(value for value in arguments if isinstance(value, Value)))

    return rule


def _same(at: Builder, *arguments: Any, **_: Any) -> Value:
    value: Value = next(value for value in arguments if isinstance(value, Value))
    return value


def _dropout(at: Builder, h: Value, p: float = 0.5, training: bool = True, inplace: bool = False) -> Value:
    if training and p:
        raise at.unknown("dropout that stays active in evaluation mode (pass training=self.training)")
    return h


def _flatten(at: Builder, h: Value, start_dim: int = 0, end_dim: int = -1) -> Value:
    shape = at.shape(h)
    axes = len(shape) + 1
    first, last = start_dim % axes, end_dim % axes
    if first == 0:
        raise at.unknown("flattening across the batch axis (start_dim must be at least 1)")
    return _reshaped(at, h, (1, *torch.empty(1, *shape, device="meta").flatten(first, last).shape[1:]))


def _reshaped(at: Builder, h: Value, *sizes: Any) -> Value:
    wanted = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], tuple | list | torch.Size) else sizes
    shape = at.shape(h)
    # The batch axis is 1 here, see `_size`; a -1 in its place must come out as 1, too.
    after = torch.empty(1, *shape, device="meta").reshape(*wanted).shape
    if after[0] != 1:
        raise at.unknown(f"reshaping to {tuple(wanted)}, which changes the batch axis")
    return h if tuple(after[1:]) == shape else at.add(Reshaping(shape, tuple(after[1:]), at.like), h)


def _size(at: Builder, h: Value, axis: int | None = None) -> Any:
    shape = torch.Size((1, *at.shape(h)))
    return shape if axis is None else shape[axis]


def _attribute(at: Builder, h: Any, name: str, *_: Any) -> Any:
    if name != "shape":
        raise at.unknown(f"reading .{name} of a value")
    return _size(at, h)


def _sum(sign: float) -> Rule:
    def rule(at: Builder, first: Any, second: Any, *, alpha: float = 1) -> Value:
        if alpha != 1:
            raise at.unknown("a sum with alpha")
        if isinstance(first, Value) and isinstance(second, Value):
            if at.shape(first) != at.shape(second):
                raise at.unknown(f"a sum of shapes {at.shape(first)} and {at.shape(second)}")
            return at.add(Sum((1.0, sign)), first, second)
        value, constant = (first, second) if isinstance(first, Value) else (second, first)
        scale = 1.0 if isinstance(first, Value) else sign
        shift = _constant(at, constant, value) * (sign if isinstance(first, Value) else 1.0)
        return at.add(Scaling(torch.full_like(at.like, scale), shift), value)

    return rule


def _scaled(divide: bool) -> Rule:
    def rule(at: Builder, first: Any, second: Any) -> Value:
        if depends((first, second)) and not (isinstance(first, Value) and isinstance(second, Value)):
            value, constant = (first, second) if isinstance(first, Value) else (second, first)
            factor = _constant(at, constant, value)
            if not divide:
                return at.add(Scaling(factor, torch.zeros_like(at.like)), value)
            if value is first:
                return at.add(Scaling(1 / factor, torch.zeros_like(at.like)), value)
        raise at.unknown("a product of two values that both depend on the image, or a division by one")

    return rule


def _constant(at: Builder, constant: Any, value: Value) -> Tensor:
    """Return a number or a constant tensor as it meets one example of a value; its batch axis, if any, must be 1."""
    tensor = torch.as_tensor(constant).detach().to(at.like)
    shape = at.shape(value)
    if tensor.ndim == len(shape) + 1 and len(tensor) == 1:
        tensor = tensor[0]
    sides = zip(reversed(tensor.shape), reversed(shape), strict=False)  # from the last axis, as torch aligns them
    if tensor.ndim > len(shape) or any(side not in (1, whole) for side, whole in sides):
        raise at.unknown(f"a constant of shape {tuple(tensor.shape)} that widens a value of shape {shape}")
    return tensor


def _stack(at: Builder, values: Sequence[Value], dim: int = 0) -> tuple[str, Sequence[Value]]:
    if dim != 0:
        raise at.unknown("stacking along another axis than 0")
    return ("stack", values)


def _total(at: Builder, values: Any, dim: int | None = None) -> Value:
    """Add up what was stacked: how a sum of branches may be written."""
    if not (isinstance(values, tuple) and values[0] == "stack") or dim != 0:
        raise at.unknown("a sum over entries of a value")
    branches = values[1]
    return at.add(Sum((1.0,) * len(branches), terms=len(branches)), *branches)


def _max_pool(at: Builder, h: Value, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
              ceil_mode: bool = False, return_indices: bool = False) -> Value:  # fmt: skip
    if return_indices:
        raise at.unknown("max-pooling that returns indices")
    shape = at.shape(h)
    kernel, pads, apart = pair(kernel_size), pair(padding), pair(dilation)
    steps = kernel if stride is None or stride == [] else pair(stride)
    after = F.max_pool2d(torch.empty(1, *shape, device="meta"), kernel, steps, pads, apart, ceil_mode).shape
    for axis in (1, 2):
        taps, gap = kernel[axis - 1], apart[axis - 1]
        start = torch.arange(after[axis + 1], device=at.like.device) * steps[axis - 1] - pads[axis - 1]
        last = start + gap * (taps - 1)
        if gap > 1 and (int(start.min()) < 0 or int(last.max()) >= shape[axis]):
            raise at.unknown("max-pooling with dilation whose windows reach over an edge, by padding or ceil_mode")
        # A window reaches over an edge only if it holds the pixel at the edge, which may then be taken twice.
        pieces = [
            at.add(Selecting(axis, (start + gap * tap).clamp(0, shape[axis] - 1), shape[axis], at.like), h)
            for tap in range(taps)
        ]
        h = pieces[0]
        for piece in pieces[1:]:
            excess = at.add(ReLU(), at.add(Sum((1.0, -1.0), terms=0), piece, h))
            h = at.add(Sum((1.0, 1.0), terms=0), h, excess)
    return h


def _average_pool(at: Builder, h: Value, kernel_size: Any, stride: Any = None, padding: Any = 0,
                  ceil_mode: bool = False, count_include_pad: bool = True,
                  divisor_override: int | None = None) -> Value:  # fmt: skip
    kernel = pair(kernel_size)
    steps = kernel if stride is None or stride == [] else pair(stride)
    pads = pair(padding)
    shape = at.shape(h)
    if len(shape) == 3 and pads == (0, 0) and not ceil_mode and divisor_override is None:
        weight = at.like.new_full((shape[0], 1, *kernel), 1 / (kernel[0] * kernel[1]))
        mean = Convolution(weight, None, shape, stride=steps, padding=(0,) * 4, dilation=(1, 1), groups=shape[0])
        return at.add(mean, h)

    def pool(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, kernel, steps, pads, ceil_mode, count_include_pad, divisor_override)

    return at.add(Averaging(pool, shape, at.like, terms=kernel[0] * kernel[1] + 1), h)


def _adaptive_average(at: Builder, h: Value, output_size: Any) -> Value:
    shape = at.shape(h)

    def pool(x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, output_size)

    return at.add(Averaging(pool, shape, at.like, terms=shape[-1] * shape[-2] + 1), h)


def _mean(at: Builder, h: Value, dim: Any = None, keepdim: bool = False) -> Value:
    """Average over both sides of an image: how global pooling is often written."""
    axes = sorted(axis % 4 for axis in dim) if isinstance(dim, tuple | list) else []
    if len(at.shape(h)) != 3 or axes != [2, 3]:
        raise at.unknown("a mean over other axes than height and width")
    pooled = _adaptive_average(at, h, 1)
    return pooled if keepdim else _reshaped(at, pooled, (1, at.shape(pooled)[0]))


_RELU, _SIGMOID, _TANH = ReLU(), Logistic(), Logistic(2.0, 2.0, -1.0)

MODULES: dict[type[nn.Module], Rule] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.ReLU: _activation(_RELU),
    nn.Sigmoid: _activation(_SIGMOID),
    nn.Tanh: _activation(_TANH),
    nn.Identity: _same,
    nn.Dropout: _same,
    nn.Dropout1d: _same,
    nn.Dropout2d: _same,
    nn.AlphaDropout: _same,
    Dropout: _same,
    nn.Flatten: lambda at, m, h: _flatten(at, h, m.start_dim, m.end_dim),
    nn.MaxPool2d: lambda at, m, h: _max_pool(
        at, h, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices
    ),
    nn.AvgPool2d: lambda at, m, h: _average_pool(
        at, h, m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad, m.divisor_override
    ),
    nn.AdaptiveAvgPool2d: lambda at, m, h: _adaptive_average(at, h, m.output_size),
}

FUNCTIONS: dict[str, Rule] = {
    "relu": _activation(_RELU),
    "relu_": _activation(_RELU),
    "sigmoid": _activation(_SIGMOID),
    "tanh": _activation(_TANH),
    "dropout": _dropout,
    "contiguous": _same,
    "flatten": _flatten,
    "view": _reshaped,
    "reshape": _reshaped,
    "size": _size,
    "getattr": _attribute,
    "add": _sum(1.0),
    "iadd": _sum(1.0),
    "sub": _sum(-1.0),
    "mul": _scaled(False),
    "truediv": _scaled(True),
    "div": _scaled(True),
    "stack": _stack,
    "sum": _total,
    "mean": _mean,
    "max_pool2d": _max_pool,
    "avg_pool2d": _average_pool,
    "adaptive_avg_pool2d": _adaptive_average,
}

"""A net as a graph of few kinds of operation, for certificates: traced from the user's module, copied to float64.

The module is copied, never run and never changed: `torch.fx` follows what its `forward` does in evaluation mode, and
each step becomes one of `Affine`, `Sum` and `Activation`. Max-pooling becomes these too, exactly:
max(a, b) = a + max(b - a, 0), along one axis of the window and then along the other.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812 (torch's own abbreviation)

from intriguing.bounds.nonlinear import pair
from intriguing.bounds.operations import Affine, Averaging, Convolution, Dense, Reshaping, Scaling, Selecting, Sum
from intriguing.bounds.relaxation import Activation, Logistic, ReLU
from intriguing.errors import InputError, ModelError
from intriguing.nets.alexnet import Dropout
from intriguing.nets.load import Model

Shape = tuple[int, ...]
Operation = Affine | Sum | Activation


@dataclass(frozen=True)
class Node:
    """One value of the net.

    Attributes:
        operation: what makes it; None for the input.
        inputs: places of the values it is made of.
        shape: of one example.
        path: where it stands in the net.
    """

    operation: Operation | None
    inputs: tuple[int, ...]
    shape: Shape
    path: str


@dataclass(frozen=True)
class Graph:
    """A net, its values in the order of computation.

    Attributes:
        nodes: the first is the pixels, the last the logits (K,).
        dtype: of the user's net, whose rounding is bounded.
    """

    nodes: tuple[Node, ...]
    dtype: torch.dtype

    def values(self, x: Tensor) -> list[Tensor]:
        """Return every value (B, *shape) for inputs x (B, *shape of the input), float64."""
        values = [x]
        for node in self.nodes[1:]:
            assert node.operation is not None
            values.append(node.operation(*(values[place] for place in node.inputs)))
        return values

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits (B, K), float64."""
        return self.values(x)[-1]


def trace(model: Model, shape: Sequence[int], device: torch.device) -> Graph:
    """Return the graph of a model for images of one shape, preprocessing first, in float64 on a device.

    Raises:
        ModelError: a function instead of a module, an operation without a rule (with its path), a forward that
            `torch.fx` cannot follow, or a half-precision net.
        InputError: a shape that the net cannot take.

    Example:
        >>> net = Model(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU()))
        >>> [node.path for node in trace(net, (1, 2, 2), torch.device("cpu")).nodes]
        ['pixels', '0', '1', '2']
    """
    net = model.net
    if not isinstance(net, nn.Module):
        raise ModelError(f"{model.name} is a function, whose operations cannot be seen; give a torch module")
    if model.dtype not in (torch.float32, torch.float64):
        raise ModelError(
            f"{model.name} computes in {model.dtype}, whose rounding leaves no useful certificate; "
            "convert it first: net.float()"
        )
    with model.frozen(), torch.no_grad():
        try:
            twin = copy.deepcopy(net).to(device=device, dtype=torch.float64).eval().requires_grad_(False)
            # The tracer looks inside the outermost module, whatever it is.
            twin = nn.Sequential(twin) if _module_rule(twin) is not None else twin
            traced = fx.GraphModule(twin, _Tracer().trace(twin))
        except (fx.proxy.TraceError, TypeError, RuntimeError) as error:
            raise ModelError(
                f"{model.name}: its forward cannot be followed ({error}); certificates need one without branches "
                "on values, made of modules and tensor operations"
            ) from error
        builder = _Builder(traced, model.dtype, device)
        builder.preprocess(model, tuple(int(side) for side in shape))
        builder.run()
    return builder.graph()


class _Tracer(fx.Tracer):
    """Looks inside every module but torch's own and those with a rule."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _module_rule(m) is not None or super().is_leaf_module(m, module_qualified_name)


@dataclass(frozen=True)
class _Value:
    """A tensor that depends on the pixels: its place in the graph."""

    place: int


class _Builder:
    """Turns the traced steps into nodes. Numbers, shapes and constant tensors are computed as they are."""

    def __init__(self, traced: fx.GraphModule, dtype: torch.dtype, device: torch.device) -> None:
        self.traced, self.dtype = traced, dtype
        self.like = torch.zeros((), dtype=torch.float64, device=device)
        self.nodes: list[Node] = []
        self.path = ""

    def graph(self) -> Graph:
        return Graph(tuple(self.nodes), self.dtype)

    def shape(self, value: _Value) -> Shape:
        return self.nodes[value.place].shape

    def add(self, operation: Operation, *inputs: _Value) -> _Value:
        """Append a node; its shape is found by computing it once, on zeros."""
        zeros = [self.like.new_zeros(1, *self.shape(value)) for value in inputs]
        try:
            shape = tuple(operation(*zeros).shape[1:])
        except RuntimeError as error:
            raise InputError(f"{self.path}: cannot take inputs of shape {self.shape(inputs[0])}: {error}") from error
        self.nodes.append(Node(operation, tuple(value.place for value in inputs), shape, self.path))
        return _Value(len(self.nodes) - 1)

    def preprocess(self, model: Model, shape: Shape) -> None:
        """Start with the pixels, and (pixels - mean) / std where there is such a thing."""
        self.nodes.append(Node(None, (), shape, "pixels"))
        mean, std = (value.to(model.dtype).to(self.like) for value in (model.mean, model.std))
        if bool((mean == 0).all()) and bool((std == 1).all()):
            return
        if len(shape) == 3:
            mean, std = mean.reshape(-1, 1, 1), std.reshape(-1, 1, 1)
        self.path = "preprocessing"
        self.add(Scaling(1 / std, -mean / std), _Value(0))

    def run(self) -> None:
        """Follow the traced graph, step by step."""
        known: dict[fx.Node, Any] = {}
        for step in self.traced.graph.nodes:
            self.path = _path(step)
            if step.op == "placeholder":
                if known and not step.args:
                    raise ModelError(f"the net's forward needs {step.name!r} besides images; give one that does not")
                known[step] = step.args[0] if known else _Value(len(self.nodes) - 1)
                continue
            arguments = fx.node.map_arg(step.args, known.__getitem__)
            keywords = fx.node.map_arg(step.kwargs, known.__getitem__)
            if step.op == "output":
                self._finish(arguments[0])
            elif step.op == "get_attr":
                known[step] = operator.attrgetter(step.target)(self.traced)
            else:
                known[step] = self._step(step, arguments, keywords)

    def _step(self, step: fx.Node, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        if step.op == "call_module":
            module = self.traced.get_submodule(str(step.target))
            rule = _module_rule(module)
            if rule is None:
                raise self._unknown(f"a {type(module).__name__}")
            return rule(self, module, *arguments)
        name = step.target if isinstance(step.target, str) else getattr(step.target, "__name__", str(step.target))
        if not _depends((arguments, keywords)):
            return step.target(*arguments, **keywords) if callable(step.target) else None
        if name not in _FUNCTIONS:
            raise self._unknown(f"the operation {name}")
        try:
            return _FUNCTIONS[name](self, *arguments, **keywords)
        except TypeError as error:
            raise self._unknown(f"{name} with these arguments ({error})") from error

    def _finish(self, answer: Any) -> None:
        answer = answer[0] if isinstance(answer, tuple | list) and len(answer) == 1 else answer
        if not isinstance(answer, _Value) or len(self.shape(answer)) != 1:
            raise ModelError("the net's answer is no tensor of logits (B, K); certify a net that returns just that")
        self.path = "logits"
        place = answer.place
        if self.shape(answer) == (1,):  # one logit z means (0, z), see `Model`
            both = Dense(torch.tensor([[0.0], [1.0]]).to(self.like), None)
            both.terms = 0
            place = self.add(both, answer).place
        if place != len(self.nodes) - 1:
            self.add(Reshaping(self.nodes[place].shape, self.nodes[place].shape, self.like), _Value(place))

    def _unknown(self, what: str) -> ModelError:
        return ModelError(
            f"{self.path}: no rule certifies {what}. There are rules for modules "
            f"{', '.join(sorted(kind.__name__ for kind in _MODULES))} and for operations "
            f"{', '.join(sorted(_FUNCTIONS))}."
        )


def _path(step: fx.Node) -> str:
    """Return the path of a module, or that of the module which a function is called in, with the step's name."""
    if step.op == "call_module":
        return str(step.target)
    stack = list(step.meta.get("nn_module_stack", {}))
    return f"{stack[-1]}.{step.name}" if stack and stack[-1] else step.name


def _depends(value: Any) -> bool:
    """Tell whether anything in nested arguments depends on the pixels."""
    if isinstance(value, _Value):
        return True
    if isinstance(value, dict):
        return any(map(_depends, value.values()))
    return isinstance(value, tuple | list) and any(map(_depends, value))


_Rule = Callable[..., Any]


def _module_rule(module: nn.Module) -> _Rule | None:
    """Return the rule of a module: that of the nearest class whose forward it has not replaced."""
    for kind in type(module).__mro__:
        if kind in _MODULES and type(module).forward is kind.forward:
            return _MODULES[kind]
    return None


# -- rules: what each step becomes ------------------------------------------------------------------------------


def _linear(at: _Builder, module: nn.Linear, h: _Value) -> _Value:
    if len(at.shape(h)) != 1:
        raise ModelError(f"{at.path}: a linear layer over images of shape {at.shape(h)}; flatten them first")
    return at.add(Dense(module.weight, module.bias), h)


def _convolution(at: _Builder, module: nn.Conv2d, h: _Value) -> _Value:
    if module.padding_mode != "zeros":
        raise at._unknown(f"a convolution with padding mode {module.padding_mode!r}")
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


def _batch_norm(at: _Builder, module: nn.BatchNorm1d | nn.BatchNorm2d, h: _Value) -> _Value:
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


def _activation(function: Activation) -> _Rule:
    def rule(at: _Builder, *arguments: Any, **_: Any) -> _Value:
        # A module's rule is given the module first, a function's the value; the value is what is wanted.
        return at.add(function, next(value for value in arguments if isinstance(value, _Value)))

    return rule


def _same(at: _Builder, *arguments: Any, training: bool = False, **_: Any) -> _Value:
    if training or (not isinstance(arguments[0], nn.Module) and True in arguments[2:3]):
        raise at._unknown("dropout that stays active in evaluation mode")
    value: _Value = next(value for value in arguments if isinstance(value, _Value))
    return value


def _flatten(at: _Builder, h: _Value, start_dim: int = 0, end_dim: int = -1) -> _Value:
    shape = at.shape(h)
    axes = len(shape) + 1
    first, last = start_dim % axes, end_dim % axes
    if first == 0:
        raise at._unknown("flattening across the batch axis (start_dim must be at least 1)")
    return _reshaped(at, h, (1, *torch.empty(1, *shape, device="meta").flatten(first, last).shape[1:]))


def _reshaped(at: _Builder, h: _Value, *sizes: Any) -> _Value:
    wanted = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], tuple | list | torch.Size) else sizes
    shape = at.shape(h)
    # The batch axis is 1 here, see `_size`; a -1 in its place must come out as 1, too.
    after = torch.empty(1, *shape, device="meta").reshape(*wanted).shape
    if after[0] != 1:
        raise at._unknown(f"reshaping to {tuple(wanted)}, which changes the batch axis")
    return h if tuple(after[1:]) == shape else at.add(Reshaping(shape, tuple(after[1:]), at.like), h)


def _size(at: _Builder, h: _Value, axis: int | None = None) -> Any:
    shape = torch.Size((1, *at.shape(h)))
    return shape if axis is None else shape[axis]


def _attribute(at: _Builder, h: Any, name: str, *_: Any) -> Any:
    if name != "shape":
        raise at._unknown(f"reading .{name} of a value")
    return _size(at, h)


def _sum(sign: float) -> _Rule:
    def rule(at: _Builder, first: Any, second: Any, *, alpha: float = 1) -> _Value:
        if alpha != 1:
            raise at._unknown("a sum with alpha")
        if isinstance(first, _Value) and isinstance(second, _Value):
            if at.shape(first) != at.shape(second):
                raise at._unknown(f"a sum of shapes {at.shape(first)} and {at.shape(second)}")
            return at.add(Sum((1.0, sign)), first, second)
        value, constant = (first, second) if isinstance(first, _Value) else (second, first)
        scale = 1.0 if isinstance(first, _Value) else sign
        shift = _constant(at, constant) * (sign if isinstance(first, _Value) else 1.0)
        return at.add(Scaling(torch.full_like(at.like, scale), shift), value)

    return rule


def _scaled(divide: bool) -> _Rule:
    def rule(at: _Builder, first: Any, second: Any) -> _Value:
        if _depends((first, second)) and not (isinstance(first, _Value) and isinstance(second, _Value)):
            value, constant = (first, second) if isinstance(first, _Value) else (second, first)
            factor = _constant(at, constant)
            if not divide:
                return at.add(Scaling(factor, torch.zeros_like(at.like)), value)
            if value is first:
                return at.add(Scaling(1 / factor, torch.zeros_like(at.like)), value)
        raise at._unknown("a product or quotient of two values that both depend on the image")

    return rule


def _constant(at: _Builder, value: Any) -> Tensor:
    """Return a number or a constant tensor; its batch axis, if it has one, must be 1."""
    tensor = torch.as_tensor(value).detach().to(at.like)
    if tensor.ndim and tensor.ndim > len(at.nodes[-1].shape):
        tensor = tensor[0]
    return tensor


def _stack(at: _Builder, values: Sequence[_Value], dim: int = 0) -> tuple[str, Sequence[_Value]]:
    if dim != 0:
        raise at._unknown("stacking along another axis than 0")
    return ("stack", values)


def _total(at: _Builder, values: Any, dim: int | None = None) -> _Value:
    """Add up what was stacked: how a sum of branches may be written."""
    if not (isinstance(values, tuple) and values[0] == "stack") or dim != 0:
        raise at._unknown("a sum over entries of a value")
    branches = values[1]
    return at.add(Sum((1.0,) * len(branches), terms=len(branches)), *branches)


def _max_pool(at: _Builder, h: _Value, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
              ceil_mode: bool = False, return_indices: bool = False) -> _Value:  # fmt: skip
    if return_indices:
        raise at._unknown("max-pooling that returns indices")
    shape = at.shape(h)
    kernel, pads, apart = pair(kernel_size), pair(padding), pair(dilation)
    steps = kernel if stride is None or stride == [] else pair(stride)
    after = F.max_pool2d(torch.empty(1, *shape, device="meta"), kernel, steps, pads, apart, ceil_mode).shape
    for axis in (1, 2):
        taps, gap = kernel[axis - 1], apart[axis - 1]
        start = torch.arange(after[axis + 1], device=at.like.device) * steps[axis - 1] - pads[axis - 1]
        if gap > 1 and int(start.min()) < 0:
            raise at._unknown("max-pooling with both padding and dilation")
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


def _average_pool(at: _Builder, h: _Value, kernel_size: Any, stride: Any = None, padding: Any = 0,
                  ceil_mode: bool = False, count_include_pad: bool = True,
                  divisor_override: int | None = None) -> _Value:  # fmt: skip
    kernel = pair(kernel_size)
    steps = kernel if stride is None or stride == [] else pair(stride)
    pads = pair(padding)

    def pool(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, kernel, steps, pads, ceil_mode, count_include_pad, divisor_override)

    return at.add(Averaging(pool, at.shape(h), at.like, terms=kernel[0] * kernel[1] + 1), h)


def _adaptive_average(at: _Builder, h: _Value, output_size: Any) -> _Value:
    shape = at.shape(h)

    def pool(x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, output_size)

    return at.add(Averaging(pool, shape, at.like, terms=shape[-1] * shape[-2] + 1), h)


def _mean(at: _Builder, h: _Value, dim: Any = None, keepdim: bool = False) -> _Value:
    """Average over both sides of an image: how global pooling is often written."""
    axes = sorted(axis % 4 for axis in dim) if isinstance(dim, tuple | list) else []
    if len(at.shape(h)) != 3 or axes != [2, 3]:
        raise at._unknown("a mean over other axes than height and width")
    pooled = _adaptive_average(at, h, 1)
    return pooled if keepdim else _reshaped(at, pooled, (1, at.shape(pooled)[0]))


_RELU, _SIGMOID, _TANH = ReLU(), Logistic(), Logistic(2.0, 2.0, -1.0)

_MODULES: dict[type[nn.Module], _Rule] = {
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

_FUNCTIONS: dict[str, _Rule] = {
    "relu": _activation(_RELU),
    "relu_": _activation(_RELU),
    "sigmoid": _activation(_SIGMOID),
    "tanh": _activation(_TANH),
    "dropout": _same,
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
    "boolean_dispatch": _max_pool,
    "avg_pool2d": _average_pool,
    "adaptive_avg_pool2d": _adaptive_average,
}

"""From a user's module to a graph, in float64. The module is copied, never run and never changed.

`torch.fx` follows what `forward` does in evaluation mode; `rules` says what each step becomes.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn

from intriguing.bounds.graph import Graph, Node, Shape
from intriguing.bounds.operations import Dense, Reshaping, Scaling
from intriguing.bounds.rules import FUNCTIONS, Builder, Value, depends, module_rule
from intriguing.errors import ModelError
from intriguing.nets.load import Model


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
            twin = nn.Sequential(twin) if module_rule(twin) is not None else twin
            traced = fx.GraphModule(twin, _Tracer().trace(twin))
        except Exception as error:  # the forward is the user's, and runs here on what is no tensor
            raise ModelError(
                f"{model.name}: its forward cannot be followed ({error}); certificates need one without branches "
                "on values, made of modules and tensor operations"
            ) from error
        builder = _Follower(traced, model.dtype, device)
        builder.preprocess(model, tuple(int(side) for side in shape))
        builder.run()
    return builder.graph()


class _Tracer(fx.Tracer):
    """Looks inside every module but torch's own and those with a rule."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_rule(m) is not None or super().is_leaf_module(m, module_qualified_name)


class _Follower(Builder):
    """Turns traced steps into nodes. Numbers, shapes and constant tensors are computed as they are."""

    def __init__(self, traced: fx.GraphModule, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(dtype, device)
        self.traced = traced

    def preprocess(self, model: Model, shape: Shape) -> None:
        """Start with the pixels, and (pixels - mean) / std where there is such a thing."""
        self.nodes.append(Node(None, (), shape, "pixels"))
        mean, std = (value.to(model.dtype).to(self.like) for value in (model.mean, model.std))
        if bool((mean == 0).all()) and bool((std == 1).all()):
            return
        if len(shape) == 3:
            mean, std = mean.reshape(-1, 1, 1), std.reshape(-1, 1, 1)
        self.path = "preprocessing"
        self.add(Scaling(1 / std, -mean / std), Value(0))

    def run(self) -> None:
        """Follow the traced graph, step by step."""
        known: dict[fx.Node, Any] = {}
        for step in self.traced.graph.nodes:
            self.path = _path(step)
            if step.op == "placeholder":
                if known and not step.args:
                    raise ModelError(f"the net's forward needs {step.name!r} besides images; give one that does not")
                known[step] = step.args[0] if known else Value(len(self.nodes) - 1)
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
            rule = module_rule(module)
            if rule is None:
                raise self.unknown(f"a {type(module).__name__}")
            return rule(self, module, *arguments)
        name = step.target if isinstance(step.target, str) else getattr(step.target, "__name__", str(step.target))
        if not depends((arguments, keywords)):
            return step.target(*arguments, **keywords) if callable(step.target) else None
        if name not in FUNCTIONS:
            raise self.unknown(f"the operation {name}")
        try:
            return FUNCTIONS[name](self, *arguments, **keywords)
        except TypeError as error:
            raise self.unknown(f"{name} with these arguments ({error})") from error

    def _finish(self, answer: Any) -> None:
        answer = answer[0] if isinstance(answer, tuple | list) and len(answer) == 1 else answer
        if not isinstance(answer, Value) or len(self.shape(answer)) != 1:
            raise ModelError("the net's answer is no tensor of logits (B, K); certify a net that returns just that")
        self.path = "logits"
        place = answer.place
        if self.shape(answer) == (1,):  # one logit z means (0, z), see `Model`
            both = Dense(torch.tensor([[0.0], [1.0]]).to(self.like), None)
            both.terms = 0
            place = self.add(both, answer).place
        if place != len(self.nodes) - 1:
            self.add(Reshaping(self.nodes[place].shape, self.nodes[place].shape, self.like), Value(place))


def _path(step: fx.Node) -> str:
    """Return the path of a module, or that of the module which a function is called in, with the step's name."""
    if step.op == "call_module":
        return str(step.target)
    stack = list(step.meta.get("nn_module_stack", {}))
    return f"{stack[-1]}.{step.name}" if stack and stack[-1] else step.name

"""Which model is this? A hash of everything its answers depend on, so that no result of one is taken for another's."""

from __future__ import annotations

import hashlib
import inspect
import json
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from intriguing.nets.load import Model

_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def model_hash(model: Model, source: str = "") -> str:
    """Return 32 hex digits that change with weights, layers, code, preprocessing, box and dtype.

    Part of it are: the state dict (names, shapes, dtypes, bytes), the layers as they print themselves, plain
    attributes of every module, the source text of every class and function that is not torch's own, and of a
    function's closure and defaults the tensors, modules and plain values. A net that keeps what it depends on in
    another place (a file, a global) is not told apart by it.

    Args:
        model: the net and its preprocessing.
        source: where it came from, as the user named it.

    Example:
        >>> len(model_hash(Model(nn.Linear(2, 2))))
        32
    """
    digest = hashlib.sha256()
    facts = {
        "source": source,
        "box": list(model.box),
        "mean": model.mean.tolist(),
        "std": model.std.tolist(),
        "dtype": str(model.dtype),
    }
    digest.update(json.dumps(facts, sort_keys=True).encode())
    for part in _parts(model.net, {}):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:32]


def content_hash(value: Any) -> str:
    """Return 32 hex digits of a value: tensors, plain values, collections, and records of these, with their code.

    Example:
        >>> content_hash(LBFGS(budget=10)) == content_hash(LBFGS(budget=11))
        False
    """
    digest = hashlib.sha256()
    for part in _parts(value, {}):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:32]


def parameters(model: Model) -> int:
    """Return how many numbers the net learned; 0 for a function."""
    return sum(p.numel() for p in model.net.parameters()) if isinstance(model.net, nn.Module) else 0


def _parts(value: Any, seen: dict[int, Any]) -> Iterator[bytes]:
    """Yield what a value consists of, in an order that does not depend on where it lies in memory.

    `seen` holds the objects themselves: the address of one that is gone may be that of the next.
    """
    if id(value) in seen:
        return
    if isinstance(value, torch.Tensor):
        yield from _tensor(value)
    elif isinstance(value, nn.Module):
        seen[id(value)] = value
        yield from _module(value, seen)
    elif isinstance(value, types.FunctionType | types.MethodType):
        seen[id(value)] = value
        yield from _function(value, seen)
    elif isinstance(value, _PLAIN):
        yield repr(value).encode()
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _parts(item, seen)
    elif isinstance(value, set | frozenset):
        yield from (repr(item).encode() for item in sorted(value, key=repr))
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype} {value.shape}".encode() + np.ascontiguousarray(value).tobytes()
    elif isinstance(value, dict):
        for name in sorted(value, key=repr):
            yield repr(name).encode()
            yield from _parts(value[name], seen)
    else:
        seen[id(value)] = value
        yield _text(type(value)).encode()
        text = repr(value)
        if " at 0x" not in text:  # where it lies in memory is no part of what it is
            yield text.encode()
        yield from _parts(getattr(value, "__dict__", {}), seen)


def _module(net: nn.Module, seen: dict[int, Any]) -> Iterator[bytes]:
    yield repr(net).encode()
    for name, tensor in sorted(net.state_dict().items()):
        yield name.encode()
        if isinstance(tensor, torch.Tensor):
            yield from _tensor(tensor)
    texts = set()
    for path, module in net.named_modules():
        texts.add(_text(type(module)))
        for name, value in sorted(vars(module).items()):
            # The mode is put right before every call, and names with an underscore are torch's own.
            if not name.startswith("_") and name != "training" and not isinstance(value, nn.Module):
                yield f"{path}.{name}".encode()
                yield from _parts(value, seen)
    for text in sorted(texts):
        yield text.encode()


def _function(function: types.FunctionType | types.MethodType, seen: dict[int, Any]) -> Iterator[bytes]:
    yield _text(function).encode()
    if isinstance(function, types.MethodType):
        yield from _parts(function.__self__, seen)
        return
    # Two lambdas on one line have one source text.
    code = function.__code__
    yield code.co_code + repr((code.co_names, [c for c in code.co_consts if isinstance(c, _PLAIN)])).encode()
    for cell in function.__closure__ or ():
        yield from _parts(cell.cell_contents, seen)
    yield from _parts(function.__defaults__, seen)


def _tensor(tensor: torch.Tensor) -> Iterator[bytes]:
    yield f"{tensor.dtype} {tuple(tensor.shape)}".encode()
    flat = tensor.detach().cpu().contiguous().flatten()
    yield flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def _text(thing: Any) -> str:
    """Return the name of a class or function, with its source text if that is not torch's."""
    name = f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', '')}"
    if name.startswith("torch."):
        return name
    try:
        return f"{name}\n{inspect.getsource(thing)}"
    except (OSError, TypeError):  # typed into an interpreter, or compiled
        return name

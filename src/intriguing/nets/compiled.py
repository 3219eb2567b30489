"""Nets from torch.compile, taken as they were before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def uncompiled(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Have what `torch.compile` and `net.compile()` made of modules run as it was before."""
    parts = [module for module in modules if type(module).__name__ == "OptimizedModule"]
    compiled = [module for module in modules if module.__dict__.get("_compiled_call_impl") is not None]
    places = [(module, "forward") for module in parts] + [(module, "_compiled_call_impl") for module in compiled]
    before = [module.__dict__[name] for module, name in places]
    try:
        for module, name in places:
            module.__dict__[name] = module.get_submodule("_orig_mod").__call__ if name == "forward" else None
        yield
    finally:
        for (module, name), value in zip(places, before, strict=True):
            module.__dict__[name] = value


def not_compiled(net: nn.Module | Callable[[Tensor], Any]) -> nn.Module | Callable[[Tensor], Any]:
    """Return the module or function that `torch.compile` was given, or the net itself if it was not."""
    given = getattr(net, "_orig_mod", None) if isinstance(net, nn.Module) else None
    given = getattr(net, "_torchdynamo_orig_callable", None) if given is None else given
    return given if callable(given) else net

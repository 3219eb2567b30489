"""How many arithmetic operations a computation makes: every product, sum, comparison and exponential counts one.

`torch.utils.flop_counter` counts matrix products as they run; here it is taught the other operations that the proofs
of `compact` use. Moving numbers, and the integers that say where they are, count nothing. The count depends on shapes
alone, so it is the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

_aten = torch.ops.aten
Shape = torch.Size | tuple[int, ...]


def counter() -> FlopCounterMode:
    """Return a context manager; after its block, ``get_total_flops()`` is the number of operations made in it.

    Example:
        >>> with counter() as count:
        ...     total = (torch.ones(2, 3) @ torch.ones(3, 4)).exp().sum()
        >>> count.get_total_flops()  # 2 * 24 for the product, 8 exponentials, 8 for the sum
        64
    """
    return FlopCounterMode(display=False, custom_mapping=dict(_COSTS))


def _each_result(*_: Any, out_shape: Any, **__: Any) -> int:
    """One operation per entry of the result."""
    return math.prod(out_shape)


def _each_input(given: Shape, *_: Any, **__: Any) -> int:
    """One operation per entry of the first argument."""
    return math.prod(given)


def _softmax(given: Shape, *_: Any, **__: Any) -> int:
    """Per entry: the maximum, a difference, an exponential, a sum, a division."""
    return 5 * math.prod(given)


def _norm(given: Shape, *_: Any, **__: Any) -> int:
    """Per entry a square and a sum."""
    return 2 * math.prod(given)


def _top(given: Shape, count: int, *_: Any, **__: Any) -> int:
    """As many comparisons per entry as numbers are kept."""
    return count * math.prod(given)


_COSTS: Mapping[Any, Callable[..., int]] = {
    **dict.fromkeys(
        (
            _aten.add, _aten.sub, _aten.rsub, _aten.mul, _aten.div, _aten.neg, _aten.exp, _aten.sqrt, _aten.abs,
            _aten.minimum, _aten.maximum, _aten.gt, _aten.lt, _aten.ge, _aten.le,
        ),
        _each_result,
    ),
    **dict.fromkeys(
        (_aten.sum, _aten.mean, _aten.amin, _aten.amax, _aten.min, _aten.max, _aten.cummin, _aten.cummax), _each_input
    ),
    _aten._softmax: _softmax,
    _aten.linalg_vector_norm: _norm,
    _aten.topk: _top,
}  # fmt: skip

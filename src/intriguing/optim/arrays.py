"""Small arrays, a few numbers per row: NumPy's on the CPU, where torch takes longer to start an operation than for it.

A tick of the solver is some 30 operations on vectors and 200 on a few numbers of every row. Started by torch the latter
took most of the time of a small batch. `step` and `lbfgsb` write them once, in what NumPy and torch have in common; a
`Namespace` does what the two do differently. Arrays of NumPy share the memory of the tensors they come from.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = Any
"""A NumPy array on the CPU, a tensor elsewhere."""


@dataclass(frozen=True)
class Namespace:
    """Functions of small arrays.

    Attributes:
        of: the array that shares a tensor's memory.
        tensor: the tensor that shares an array's memory.
        where: of a mask and two arrays or numbers.
        isfinite: mask.
        isnan: mask.
        clip: array, least or None, largest or None.
        sqrt: square root.
        arange: as torch's, on the right device.
        places: indices (k,) int64 at which a mask (L,) is true.
        concatenate: a list of (L, i), (L, j), ... side by side.
        matvec: matrices (L, i, j) times vectors (L, j).
        quiet: a context in which infinities and NaN come without a warning.
    """

    of: Callable[[Tensor], Array]
    tensor: Callable[[Array], Tensor]
    where: Callable[[Array, Array | float, Array | float], Array]
    isfinite: Callable[[Array], Array]
    isnan: Callable[[Array], Array]
    clip: Callable[[Array, float | None, float | None], Array]
    sqrt: Callable[[Array], Array]
    arange: Callable[..., Array]
    places: Callable[[Array], Array]
    concatenate: Callable[[list[Array]], Array]
    matvec: Callable[[Array, Array], Array]
    quiet: Callable[[], AbstractContextManager[Any]]


def of_device(device: torch.device) -> Namespace:
    """Return the namespace for what is computed on a device."""
    return of_numpy() if device.type == "cpu" else of_torch(device)


def of_numpy() -> Namespace:
    """Return the namespace whose arrays are NumPy's."""
    return Namespace(
        of=lambda tensor: tensor.detach().numpy(),
        tensor=torch.from_numpy,
        where=np.where,
        isfinite=np.isfinite,
        isnan=np.isnan,
        clip=_clipped,
        sqrt=np.sqrt,
        arange=np.arange,
        places=np.flatnonzero,
        concatenate=partial(np.concatenate, axis=1),
        matvec=partial(np.einsum, "lij,lj->li"),
        quiet=partial(np.errstate, all="ignore"),
    )


def of_torch(device: torch.device) -> Namespace:
    """Return the namespace whose arrays are tensors on a device."""
    return Namespace(
        of=torch.Tensor.detach,
        tensor=lambda array: array,
        where=torch.where,
        isfinite=torch.isfinite,
        isnan=torch.isnan,
        clip=torch.clip,
        sqrt=torch.sqrt,
        arange=partial(torch.arange, device=device),
        places=lambda mask: mask.nonzero().squeeze(1),
        concatenate=partial(torch.cat, dim=1),
        matvec=lambda matrix, vector: torch.bmm(matrix, vector[:, :, None]).squeeze(2),
        quiet=nullcontext,
    )


def _clipped(array: Array, least: float | None, largest: float | None) -> Array:
    """Return NumPy's clip, which takes three times as long as the two functions it is made of."""
    array = array if least is None else np.maximum(array, least)
    return array if largest is None else np.minimum(array, largest)

"""A net as a graph of few kinds of operation, in the order of computation: what certificates are computed on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from intriguing.bounds.operations import Affine, Sum
from intriguing.bounds.relaxation import Activation

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

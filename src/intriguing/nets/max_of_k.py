"""The transformer of Gross et al. 2024: one layer of attention that names the largest of K tokens.

arXiv:2406.11779, section 3. One head, no layer norm, no biases, learned positions, logits read at the last position:

    x_i = E[t_i] + P[i],   a = softmax_i(x_K W_Q W_K^T x_i^T / sqrt(d)),   logits = (x_K + sum_i a_i x_i W_V W_O) W_U
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from intriguing.errors import InputError


class MaxOfK(nn.Module):
    """A one-layer, one-head, attention-only transformer from K tokens to logits over the vocabulary.

    Args:
        vocabulary: V, how many tokens there are, at least 2.
        length: K, how many tokens a sequence has, at least 2.
        width: d, of the residual stream and of the head.
        generator: draws the weights, normal with variance 1 / d.

    Raises:
        InputError: a size out of range.

    Example:
        >>> MaxOfK(8, 3, generator=torch.Generator())(torch.tensor([[1, 7, 2]])).shape
        torch.Size([1, 8])
    """

    def __init__(self, vocabulary: int, length: int, *, width: int = 32, generator: torch.Generator) -> None:
        super().__init__()
        for name, size, least in (("vocabulary", vocabulary, 2), ("length", length, 2), ("width", width, 1)):
            if size < least:
                raise InputError(f"{name}: expected at least {least}, got {size}")

        def drawn(rows: int, columns: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(rows, columns, generator=generator) / math.sqrt(width))

        self.embed, self.place = drawn(vocabulary, width), drawn(length, width)
        self.query, self.key = drawn(width, width), drawn(width, width)
        self.value, self.output = drawn(width, width), drawn(width, width)
        self.unembed = drawn(width, vocabulary)

    @property
    def vocabulary(self) -> int:
        """V."""
        return self.embed.shape[0]

    @property
    def length(self) -> int:
        """K."""
        return self.place.shape[0]

    @property
    def width(self) -> int:
        """d."""
        return self.embed.shape[1]

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (B, V) of tokens (B, K) int64."""
        x = self.embed[tokens] + self.place
        last = x[:, -1]
        # W_K^T and W_V W_O after the sums over positions: the same function, in half the operations.
        query = last @ self.query @ self.key.T / math.sqrt(self.width)
        attention = (x * query[:, None]).sum(2).softmax(1)
        mixed = (x * attention[:, :, None]).sum(1)
        logits: Tensor = (last + mixed @ self.value @ self.output) @ self.unembed
        return logits

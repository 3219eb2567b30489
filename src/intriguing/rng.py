"""Random numbers: generators by name and seed, streams of an image's own, resamples; nothing else derives a seed."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def generator(name: str, seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator whose stream depends on `name` and `seed` alone.

    Args:
        name: what the numbers are for, for example ``"targets/FC10(1)"``; two names never share a stream.
        seed: any integer, the run's `--seed`.
        device: where the numbers are drawn. A generator on another device draws other numbers.

    Example:
        >>> g = generator("targets", 0)
        >>> torch.rand(1, generator=g).shape
        torch.Size([1])
    """
    digest = hashlib.sha256(f"{seed}\x00{name}".encode()).digest()
    # Torch accepts seeds in [-2^63, 2^64); 63 bits keep the number printable as a signed integer.
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def numpy_generator(generator: torch.Generator) -> np.random.Generator:
    """Return a generator of NumPy's, whose seed is one draw of torch's.

    Example:
        >>> numpy_generator(generator("resamples", 0)).random() < 1
        True
    """
    return np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))


def resamples(draw: np.random.Generator, n: int, count: int) -> NDArray[np.float64]:
    """Return how often each of n things is in each of `count` resamples with replacement, (count, n).

    Sums over all resamples are then one matrix product. Counting drawn places takes a third of the time of drawing
    the counts themselves, which are multinomial.

    Example:
        >>> resamples(np.random.default_rng(0), 3, 2).sum(1)
        array([3., 3.])
    """
    places = draw.integers(n, size=(count, n)) + n * np.arange(count)[:, None]
    return np.bincount(places.ravel(), minlength=count * n).reshape(count, n).astype(np.float64)


class Streams:
    """Random numbers for each image that depend on the image and on one draw, never on its place or its company.

    A generator deals its numbers out in order, so the numbers of an image change with the images before it. Here they
    are hashes of (one draw of the generator, the pixels, which draw it is, position): the same for an image alone, in
    any batch or shard, after others have dropped out, and on any device. Equal images get equal numbers.

    The hash is the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), in wrapping int64 arithmetic.

    Args:
        generator: one number is drawn from it.
        images: (N, ...) floating point; their float32 values tell them apart.

    Example:
        >>> streams = Streams(generator("attack", 0), torch.rand(3, 4))
        >>> streams.uniform(torch.tensor([2, 0]), 5, draw=1).shape
        torch.Size([2, 5])
    """

    def __init__(self, generator: torch.Generator, images: Tensor) -> None:
        draw = torch.randint(2**62, (1,), generator=generator, device=generator.device).to(images.device)
        bits = images.detach().flatten(1).to(torch.float32).contiguous().view(torch.int32).long()
        place = _mixed(torch.arange(1, bits.shape[1] + 1, device=images.device) * _GAMMA) | 1
        self._keys = _mixed((bits * place).sum(1) ^ draw)

    def uniform(self, image: Tensor, count: int, draw: int) -> Tensor:
        """Return numbers (k, count) in (0, 1), float64, for the images of index `image` (k,).

        Args:
            image: (k,) int64, indices of the images given at the start.
            count: how many for each.
            draw: at least 0; another draw, other numbers.
        """
        key = _mixed(self._keys[image] + _mixed(torch.full_like(image, draw + 1) * _GAMMA))
        place = torch.arange(1, count + 1, device=key.device) * _GAMMA
        # The upper 52 bits; half a step more, which a double still holds exactly, keeps 0 and 1 out.
        return ((_mixed(key[:, None] + place) >> 12 & (1 << 52) - 1).double() + 0.5) * 2.0**-52

    def normal(self, image: Tensor, count: int, draw: int) -> Tensor:
        """Return standard normal numbers (k, count), float64; see `uniform`."""
        numbers: Tensor = torch.special.ndtri(self.uniform(image, count, draw))
        return numbers

    def signs(self, image: Tensor, count: int, draw: int) -> Tensor:
        """Return -1 or 1 (k, count), float64; see `uniform`."""
        return torch.where(self.uniform(image, count, draw) < 0.5, -1.0, 1.0).double()


_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)  # the odd number nearest 2^64 over the golden ratio, as a signed integer
_MIX = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))


def _mixed(z: Tensor) -> Tensor:
    """Return SplitMix64's finaliser of int64 numbers; shifts are made logical by masks."""
    z = (z ^ (z >> 30 & (1 << 34) - 1)) * _MIX[0]
    z = (z ^ (z >> 27 & (1 << 37) - 1)) * _MIX[1]
    return z ^ (z >> 31 & (1 << 33) - 1)

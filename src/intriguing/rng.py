"""Random generators by name and seed; nothing else in the library derives a seed."""

from __future__ import annotations

import hashlib

import torch


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

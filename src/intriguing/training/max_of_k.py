"""Training the Max-of-K transformer of Gross et al. 2024 on random sequences: cross-entropy of the largest token."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812 (torch's own abbreviation)

from intriguing import rng
from intriguing.errors import InputError
from intriguing.nets.max_of_k import MaxOfK
from intriguing.records import Inputs, Record

_WARM = 0.1  # share of the steps over which the rate rises, before it falls as a cosine
_PROGRESS = 100  # steps between reports


def train(
    inputs: Inputs,
    *,
    vocabulary: int,
    length: int,
    seed: int,
    width: int = 32,
    steps: int = 2000,
    batch: int = 256,
    rate: float = 0.01,
    decay: float = 0.1,
) -> Record:
    """Train a Max-of-K transformer by AdamW on sequences drawn uniformly; a cell function.

    DEVIATION: steps, batch, rate and decay are ours; the net reaches the paper's accuracy in seconds.

    Args:
        inputs: no data is read.
        vocabulary: V.
        length: K.
        seed: decides the initial weights and the sequences.
        width: d.
        steps: of the optimiser; 0 leaves the net as it was born.
        batch: sequences per step.
        rate: the highest learning rate.
        decay: of the weights, AdamW's.

    Returns:
        A record with the state dict as tensors, and the values ``vocabulary``, ``length``, ``width``, ``loss`` (of the
        last step; NaN without steps) and ``seconds``.

    Raises:
        InputError: a setting out of range.

    Example:
        >>> from intriguing.records import Inputs
        >>> record = train(Inputs(data=lambda split: None), vocabulary=4, length=2, seed=0, steps=1)
        >>> restore(record)(torch.tensor([[1, 3]])).shape
        torch.Size([1, 4])
    """
    for name, value, least in (("steps", steps, 0), ("batch", batch, 1), ("rate", rate, 0), ("decay", decay, 0)):
        if not value >= least:
            raise InputError(f"{name}: expected at least {least}, got {value!r}")
    draw = rng.generator(f"max of {length}/{vocabulary}", seed)
    net = MaxOfK(vocabulary, length, width=width, generator=draw)
    began, loss = time.perf_counter(), torch.tensor(math.nan)
    if steps:
        adam = torch.optim.AdamW(net.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(adam, rate, total_steps=steps, pct_start=_WARM)
        for step in range(steps):
            tokens = torch.randint(vocabulary, (batch, length), generator=draw)
            loss = F.cross_entropy(net(tokens), tokens.amax(1))
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
            schedule.step()
            if step % _PROGRESS == 0:
                inputs.progress(step, steps)
    values: dict[str, Any] = {"vocabulary": vocabulary, "length": length, "width": width, "loss": loss.item()}
    values["seconds"] = time.perf_counter() - began
    return Record(values=values, tensors={name: part.detach() for name, part in net.state_dict().items()})


def restore(record: Record) -> MaxOfK:
    """Return the net of a record of `train`."""
    sizes = record.values
    net = MaxOfK(sizes["vocabulary"], sizes["length"], width=sizes["width"], generator=torch.Generator())
    net.load_state_dict(dict(record.tensors))
    return net.eval()

"""One unit of the comparison: an attack at a budget on one part of a net's images; and the cache of finished ones.

A unit's key holds what it depends on: the net's weights, the images, the budget, the seed, and the source of the
attack. A stopped run is resumed by running it again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import nets
import ours
import peers
from counting import Count, CountingNet, SpentError, Stopwatch
from intriguing import rng
from intriguing.studies.spec import code_hash

CACHE = Path(__file__).parent / ".cache" / "units"
STARTS = 10_000  # training images that an attack may start from
PROTOCOL = 1  # raised when counting or judging changes its meaning

_warm: set[str] = set()


@dataclass(frozen=True)
class Unit:
    """An attack at a budget on the images first .. last - 1 of a net's sample.

    Attributes:
        net: name.
        attack: name, in `peers.PEERS` or `ours.names()`.
        forwards: the budget is as many forwards and as many backwards per image.
        first: of the part.
        last: one past its end.
        seed: of the sample and of whatever the attack draws.
    """

    net: str
    attack: str
    forwards: int
    first: int
    last: int
    seed: int


@dataclass(frozen=True)
class Measured:
    """What a unit, or all of an attack's units, found and cost.

    Attributes:
        distance: (N,) float64, of the nearest adversarial point, judged once more; inf where there is none.
        forwards: (N,) int64.
        backwards: (N,) int64.
        seconds: wall time of the attack alone.
        cpu: CPU seconds of the attack alone, with one thread.
    """

    distance: Tensor
    forwards: Tensor
    backwards: Tensor
    seconds: float
    cpu: float


def norm_of(attack: str) -> float:
    """Return the norm that an attack, ours or a peer's, minimises."""
    return peers.PEERS[attack].norm if attack in peers.PEERS else ours.names()[attack].norm


def joined(parts: list[Measured]) -> Measured:
    """Return the parts of one attack as one."""
    return Measured(
        torch.cat([p.distance for p in parts]),
        torch.cat([p.forwards for p in parts]),
        torch.cat([p.backwards for p in parts]),
        sum(p.seconds for p in parts),
        sum(p.cpu for p in parts),
    )


def cached(unit: Unit, folder: Path = CACHE) -> Measured | None:
    """Return a unit's result if it is there."""
    path = _path(unit, folder)
    if not path.is_file():
        return None
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in ("distance", "forwards", "backwards")}
        costs = {name: float(value) for name, value in file.metadata().items() if name in ("seconds", "cpu")}
    return Measured(**tensors, **costs)


def run(unit: Unit, net: nn.Module, images: Tensor, labels: Tensor, folder: Path = CACHE) -> Measured:
    """Run a unit on the net's whole sample of images, or return what it found before."""
    found = cached(unit, folder)
    if found is not None:
        return found
    images, labels = images[unit.first : unit.last], labels[unit.first : unit.last]
    _warm_up(unit, net, images, labels)
    _seed(unit)
    found = _measure(unit, net, images, labels)
    path = _path(unit, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"distance": found.distance, "forwards": found.forwards, "backwards": found.backwards}
    part = path.with_suffix(".part")
    save_file(
        tensors, part, {"seconds": repr(found.seconds), "cpu": repr(found.cpu), "unit": json.dumps(unit.__dict__)}
    )
    os.replace(part, path)
    return found


def _measure(unit: Unit, net: nn.Module, images: Tensor, labels: Tensor) -> Measured:
    if unit.attack in peers.PEERS:
        count, watch = _peer(peers.PEERS[unit.attack], unit, net, images, labels)
    else:
        count, watch = ours.attack(unit.attack, net, images, labels, 2 * unit.forwards, unit.seed, _starts(unit.net))
    distance = _judged(net, images, labels, count, norm_of(unit.attack))
    return Measured(distance, count.forwards, count.backwards, watch.seconds, watch.cpu)


@functools.cache
def _starts(net: str) -> tuple[Tensor, Tensor]:
    """Return training images of a net and their labels."""
    images, labels = nets.images_of(net, "train")
    return images[:STARTS], labels[:STARTS]


def _peer(peer: peers.Peer, unit: Unit, net: nn.Module, images: Tensor, labels: Tensor) -> tuple[Count, Stopwatch]:
    counter = CountingNet(net, images, labels, 2 * unit.forwards, peer.norm).eval()
    watch = Stopwatch()
    with contextlib.suppress(SpentError):
        peer.run(counter, images.clone(), labels.clone(), unit.forwards, nets.NETS[unit.net].largest(peer.norm))
    return counter.count(), watch.stop(counter.bookkeeping)


def _judged(net: nn.Module, images: Tensor, labels: Tensor, count: Count, norm: float) -> Tensor:
    """Return the distances (N,) of the nearest points that the net itself, asked once more, gets wrong."""
    x = count.nearest.clamp(0, 1)
    wrong = nets.answers(net, x) != labels
    distance = torch.linalg.vector_norm((x.double() - images.double()).flatten(1), ord=norm, dim=1)
    return torch.where(count.distance.isfinite() & wrong, distance, torch.inf)


def _warm_up(unit: Unit, net: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Run the attack for a moment before the clock starts: imports, compilations and first calls are not its time."""
    if unit.attack not in _warm:
        _seed(unit)
        brief = dataclasses.replace(unit, forwards=20)
        _measure(brief, net, images[:10], labels[:10])
        _warm.add(unit.attack)


def _seed(unit: Unit) -> None:
    """Set the global random states, from which the peers draw."""
    seed = int(rng.generator(f"peers/{unit.net}/{unit.attack}/{unit.first}", unit.seed).initial_seed()) % 2**32
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 -- the peers draw from it
    random.seed(seed)


def _path(unit: Unit, folder: Path) -> Path:
    facts = {
        "protocol": PROTOCOL,
        "weights": hashlib.sha256((nets.CACHE / f"{unit.net}.safetensors").read_bytes()).hexdigest(),
        "seed": unit.seed,
        "attack": source(unit.attack),
        "plan": repr(ours.plan(unit.attack, 2 * unit.forwards)) if unit.attack in ours.names() else "",
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    return folder / unit.net / unit.attack / str(unit.forwards) / f"{unit.first}-{unit.last}-{key}.safetensors"


@functools.cache
def source(attack: str) -> str:
    """Return what an attack's result depends on: our modules' hash, or a peer's version and the code that calls it."""
    if attack not in peers.PEERS:
        kind = ours.names()[attack].kind
        return code_hash(f"{kind.__module__}:{kind.__name__}")
    peer = peers.PEERS[attack]
    seen: dict[str, object] = {}
    run = peer.run
    if isinstance(run, functools.partial):
        seen, run = dict(run.keywords), run.func
    waiting: list[Callable[..., Any]] = [run]
    while waiting:
        function = waiting.pop()
        seen[function.__name__] = inspect.getsource(function)
        called = (getattr(peers, name, None) for name in function.__code__.co_names)
        waiting += [f for f in called if inspect.isfunction(f) and f.__name__ not in seen]
    return peer.library + json.dumps(seen, sort_keys=True)

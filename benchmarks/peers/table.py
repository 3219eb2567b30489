"""The comparison in words and numbers: one table per net, the place of our attack, and how fast it gets there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import ours
import peers
from nets import NETS
from optimality import area, best_of, interval, optimality
from units import Measured, norm_of

Results = Mapping[tuple[str, int], Measured]  # (attack, forwards) -> what it found on one net

# Descents that start at the clean image and never elsewhere: where its gradient misleads, they end far off.
_FROM_CLEAN = ("advlib-cw", "advlib-ddn", "advlib-alma")
_FAR = 1.5

_HEAD = (
    "| attack | library | budget | found | mean {norm} | median {norm} | mean, failures as D | forwards | backwards "
    "| optimality | seconds | CPU s |\n"
    "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
)


@dataclass(frozen=True)
class Place:
    """Our attack against the best peer held to the same budget.

    Attributes:
        forwards: the budget.
        peer: the peer's name.
        difference: ours less the peer's mean distance, failures counted as D.
        low: end of its paired 95% bootstrap interval.
        high: the other end.
        optimality: ours.
        peer_optimality: the largest of any peer.
    """

    forwards: int
    peer: str
    difference: float
    low: float
    high: float
    optimality: float
    peer_optimality: float

    @property
    def verdict(self) -> str:
        """Return ``first``, ``tied`` (0 inside the interval) or ``behind``."""
        if self.low <= 0 <= self.high:
            return "tied"
        return "first" if self.difference < 0 else "behind"


def title(attack: str) -> tuple[str, str]:
    """Return an attack's method and library."""
    if attack in peers.PEERS:
        return peers.PEERS[attack].method, peers.PEERS[attack].library
    return ours.TITLES[ours.names()[attack].name], ours.LIBRARY


def distances(results: Results) -> list[Tensor]:
    """Return the pool: the distances of every attack of the run."""
    return [measured.distance for measured in results.values()]


def norm_name(results: Results) -> str:
    """Return the norm that the attacks of a run minimise, ``L1``, ``L2`` or ``Linf``."""
    norm = norm_of(next(iter(results))[0])
    return next(name for name, value in ours.NORMS.items() if value == norm)


def main(results: Results) -> str:
    """Return that of our attacks whose place is told."""
    return ours.MAIN[ours.NORMS[norm_name(results)]]


def place(results: Results, forwards: int) -> Place | None:
    """Return how our attack stands at a budget; None where it or every peer has not been run."""
    pool = distances(results)
    _, D = best_of(pool)
    held = {name: m for (name, budget), m in results.items() if budget == forwards and name in peers.PEERS}
    mine = results.get((main(results), forwards))
    if mine is None or not held:
        return None
    peer = min(held, key=lambda name: area(held[name].distance, D))
    difference, low, high = interval(mine.distance, held[peer].distance, D)
    return Place(
        forwards,
        peer,
        difference,
        low,
        high,
        optimality(mine.distance, pool),
        max(optimality(m.distance, pool) for m in held.values()),
    )


def race(results: Results) -> tuple[str, float, int, float] | None:
    """Return the best peer at the largest budget, its CPU seconds, and our least budget as near, with its CPU seconds.

    None where no peer was run, or ours never gets as near.
    """
    _, D = best_of(distances(results))
    held = {key: m for key, m in results.items() if key[0] in peers.PEERS}
    if not held:
        return None
    most = max(budget for _, budget in held)
    name = min((n for n, budget in held if budget == most), key=lambda n: area(held[n, most].distance, D))
    goal = area(held[name, most].distance, D)
    mine = sorted(b for n, b in results if n == main(results) and area(results[n, b].distance, D) <= goal)
    if not mine:
        return None
    return name, held[name, most].cpu, mine[0], results[main(results), mine[0]].cpu


def section(net: str, facts: Mapping[str, Any], results: Results, budgets: Sequence[int]) -> str:
    """Return one net's part of the record, in Markdown."""
    pool = distances(results)
    best, D = best_of(pool)
    lines = [f"## {NETS[net].title}\n", f"{_about(facts, len(best), D)}{_misled(results, best)}\n"]
    for forwards in budgets:
        found = place(results, forwards)
        if found is not None:
            lines.append(_sentence(found))
    raced = race(results)
    if raced is not None:
        name, seconds, forwards, mine = raced
        method, library = title(name)
        lines.append(
            f"- Time: {method} ({library}) takes {seconds:.1f} CPU s to its mean; ours is as near with {forwards} "
            f"forwards and as many backwards, in {mine:.1f} CPU s, {mine / seconds:.2f} of it."
        )
    order = sorted(results, key=lambda key: (-key[1], area(results[key].distance, D)))
    lines.append(
        "\n"
        + _HEAD.format(norm=norm_name(results))
        + "\n".join(_row(key, results[key], pool, D) for key in order)
        + "\n"
    )
    return "\n".join(lines)


def _about(facts: Mapping[str, Any], images: int, D: float) -> str:
    robust = ""
    if "pgd_20_accuracy" in facts:
        recipe = facts["recipe"]
        norm = "L2" if recipe["norm"] == 2 else "Linf"
        robust = f", {facts['pgd_20_accuracy']:.1%} under 20 steps of PGD at {norm} {recipe['eps']:g}"
    return (
        f"Accuracy {facts['accuracy']:.1%}{robust}; trained in {facts['seconds']:.0f} CPU s. "
        f"{images} images that it gets right; D = {D:.4f}."
    )


def _misled(results: Results, best: Tensor) -> str:
    """Return on how many images a descent from the clean image ends far from the best of the pool."""
    told = []
    for name in _FROM_CLEAN:
        budgets = [forwards for attack, forwards in results if attack == name]
        if budgets:
            far = (results[name, max(budgets)].distance > _FAR * best).double().mean()
            told.append(f"{title(name)[0]} ({max(budgets)}) {float(far):.1%}")
    if not told:
        return ""
    return (
        f" Images on which a descent from the clean image ends over {_FAR} times as far as the best: {', '.join(told)}."
    )


def _sentence(found: Place) -> str:
    method, library = title(found.peer)
    return (
        f"- At {found.forwards}: ours {found.verdict}. Optimality {found.optimality:.3f}, best peer "
        f"{found.peer_optimality:.3f}. Mean distance less that of {method} ({library}): {found.difference:+.4f} "
        f"[{found.low:+.4f}, {found.high:+.4f}]."
    )


def _row(key: tuple[str, int], measured: Measured, pool: Sequence[Tensor], D: float) -> str:
    name, forwards = key
    method, library = title(name)
    distance = measured.distance
    solved = distance[distance.isfinite()]
    mean = float(solved.mean()) if len(solved) else float("inf")
    median = float(torch.quantile(distance, 0.5, interpolation="higher"))
    cells = [
        method,
        f"**{library}**" if name not in peers.PEERS else library,
        str(forwards),
        f"{len(solved) / len(distance):.1%}",
        f"{mean:.4f}",
        f"{median:.4f}",
        f"{area(distance, D):.4f}",
        f"{measured.forwards.double().mean():.0f}",
        f"{measured.backwards.double().mean():.0f}",
        f"{optimality(distance, pool):.3f}",
        f"{measured.seconds:.1f}",
        f"{measured.cpu:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def notes(norm: float) -> str:
    """Return the settings' deviations of the peers that minimise a norm, one line per peer that has one."""
    told = [f"- {p.method}, {p.library}: {p.note}." for p in peers.PEERS.values() if p.note and p.norm == norm]
    return "\n".join(told) or "- none."

"""The words a study is written in: cells to compute, exhibits to show, values a paper printed.

A study is data. It computes nothing at import; `run` executes its cells and `report` shows its exhibits.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from intriguing.errors import InputError

Verdict = Literal["agrees", "same direction", "differs", "not printed"]


@dataclass(frozen=True)
class Cell:
    """One computation: a pure function, its settings, and the cells and data it depends on.

    Attributes:
        function: where the code is, ``"package.module:name"``; called as ``name(inputs, **settings)``.
        settings: JSON-able keyword arguments.
        needs: cells whose records the function reads, by name.
        data: which splits it reads: ``"train"``, ``"test"``, their halves ``"P1"`` and ``"P2"`` of the training
            set, ``"photographs/train"``, ``"photographs/test"``.
        label: what a progress line calls it; not part of the key.
    """

    function: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    needs: Mapping[str, Cell] = field(default_factory=dict)
    data: tuple[str, ...] = ()
    label: str = ""

    def key(self, data_hashes: Mapping[str, str]) -> str:
        """Return the content key: 32 hex digits of the SHA-256 of everything the result depends on."""
        return self._key(data_hashes, {})

    def _key(self, data_hashes: Mapping[str, str], known: dict[int, str]) -> str:
        """Return the key; `known` holds those of cells met before, since many share what they need."""
        if id(self) in known:
            return known[id(self)]
        spec = {
            "code": code_hash(self.function),
            "function": self.function,
            "settings": dict(self.settings),
            "needs": {name: cell._key(data_hashes, known) for name, cell in sorted(self.needs.items())},
            "data": {split: data_hashes[split] for split in self.data},
        }
        text = json.dumps(spec, sort_keys=True, separators=(",", ":"), allow_nan=False)
        known[id(self)] = hashlib.sha256(text.encode()).hexdigest()[:32]
        return known[id(self)]


@dataclass(frozen=True)
class Printed:
    """A number as the paper printed it, in our units.

    Attributes:
        value: errors as fractions in [0, 1], distortions as root mean square pixel change.
        mark: ``"v"`` checked against the running text, ``"s"`` second-hand, ``"m"`` from memory.
        digit: one unit in the last printed digit, in the same units as `value`.
    """

    value: float
    mark: str
    digit: float


@dataclass(frozen=True)
class Settings:
    """What a user chooses for a whole run of a study.

    Attributes:
        data: name of the set of images.
        images: how many of them are attacked.
        seed: of everything random.
        nets: nets trained per recipe that depends on a seed.
        size: side in pixels, for images of unequal size.
        photographs: name of the colour photographs for the large nets; None: the set `data` stands in for them.
        photo_size: their side in pixels.
        full: every arm of every comparison, at least five seeds each, where the default takes a few.
        examples: how many training images the set has; the run fills it in.
    """

    data: str = "digits"
    images: int = 256
    seed: int = 0
    nets: int = 5
    size: int | None = None
    photographs: str | None = None
    photo_size: int = 112
    full: bool = False
    examples: int | None = None


@dataclass(frozen=True)
class Exhibit:
    """A table or a figure of a paper, and the cell whose record holds our version of it.

    The record of `cell` carries ``values["cells"]``: a list of ``{"row", "column", "kind", "measured", "n",
    "low", "high"}`` (plus ``"code"``), and ``values["figures"]``: a list of pictures for the report.

    Attributes:
        name: as the paper calls it, ``"table-1"``; the page's section id.
        title: the heading.
        claim: what the paper says, in one or two sentences.
        reading: how to read ours: what to see and why it matters.
        source: section and table of the paper.
        cell: settings -> the cell that computes it.
        part: the part of the page it stands in.
        printed: (row, column) -> the printed value.
        orderings: lists of (row, column) whose measured values the study expects to rise strictly.
    """

    name: str
    title: str
    claim: str
    reading: str
    source: str
    cell: Callable[[Settings], Cell]
    part: str = ""
    printed: Mapping[tuple[str, str], Printed] = field(default_factory=dict)
    orderings: tuple[tuple[tuple[str, str], ...], ...] = ()


@dataclass(frozen=True)
class Study:
    """A paper as exhibits, in the paper's order.

    Attributes:
        parts: the parts of the page and a sentence on each, in order; an exhibit names the one it stands in.
        kicker: the line above the page's title.
    """

    name: str
    title: str
    citation: str
    summary: str
    exhibits: tuple[Exhibit, ...]
    parts: Mapping[str, str] = field(default_factory=dict)
    kicker: str = "The paper, measured again"

    def exhibit(self, name: str) -> Exhibit:
        """Return the exhibit called `name`."""
        for exhibit in self.exhibits:
            if exhibit.name == name:
                return exhibit
        raise InputError(f"study {self.name!r} has no exhibit {name!r}")


@functools.cache
def code_hash(function: str) -> str:
    """Return the SHA-256 of the source of every module of ours that a cell's function can reach by imports.

    A changed line in the solver makes new keys for every attack, and none for a net that was trained without it:
    no result of older code is taken for one of newer code, and nothing else is computed again.

    Args:
        function: ``"package.module:name"``. One that is not ours, or not there, has the hash of nothing.
    """
    reached: dict[str, bytes] = {}
    waiting = [function.partition(":")[0]]
    while waiting:
        module = waiting.pop()
        path = _source(module)
        if path is None or module in reached:
            continue
        reached[module] = path.read_bytes()
        waiting += _imports(reached[module])
    digest = hashlib.sha256()
    for module in sorted(reached):
        digest.update(module.encode() + b"\0" + reached[module] + b"\0")
    return digest.hexdigest()


def _source(module: str) -> Path | None:
    """Return the file of a module of this package, or None."""
    root = Path(__file__).parents[1]
    top, *rest = module.split(".")
    if top != root.name:
        return None
    place = root.joinpath(*rest)
    return next((path for path in (place / "__init__.py", place.with_suffix(".py")) if path.is_file()), None)


@functools.cache
def _imports(source: bytes) -> list[str]:
    """Return the modules that a module imports anywhere in it; those of other packages are left to `_source`."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # A name may be a module of its own; if it is not, it comes from the module named.
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [name if _source(name) else node.module for name in inner]
    return found


def verdict(measured: float, low: float, high: float, printed: Printed | None, *, ordered: bool) -> Verdict:
    """Compare a measured value with the printed one.

    ``agrees`` if the printed value, give or take half its last digit, lies in the interval [low, high] or
    within 10% of the measured value; ``same direction`` if the orderings the study states for this cell
    hold; else ``differs``.

    Args:
        measured: our value.
        low: lower end of its interval.
        high: upper end of its interval.
        printed: the paper's value, or None.
        ordered: whether the cell takes part in a stated ordering and every one of those holds.
    """
    if printed is None:
        return "not printed"
    half = printed.digit / 2
    if printed.value + half >= low and printed.value - half <= high:
        return "agrees"
    if abs(measured - printed.value) - half <= 0.1 * abs(measured):
        return "agrees"
    return "same direction" if ordered else "differs"

"""Where a number comes from, as Python references a reader can open: study, exhibit, function, cell key."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from intriguing.studies.spec import Cell, Exhibit, Settings, Study


@dataclass(frozen=True)
class Provenance:
    """The origin of an exhibit.

    Attributes:
        study: ``package.module:OBJECT``.
        exhibit: the expression that yields the exhibit.
        builder: the function that states its cell.
        cell: the function of its cell, which made its figures.
        functions: the functions that computed its numbers, the cell's among them.
        needed: the functions of the cells it rests on: training, attacks.
        source: section and table of the paper.
        key: content key of the cell in the run's store; empty if the results do not state it.
    """

    study: str
    exhibit: str
    builder: str
    cell: str
    functions: tuple[str, ...]
    needed: tuple[str, ...]
    source: str
    key: str

    @property
    def everything(self) -> tuple[str, ...]:
        """All functions the exhibit rests on, its own first."""
        return tuple(dict.fromkeys([*self.functions, *self.needed]))


def provenance(
    study: Study, exhibit: Exhibit, run: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]
) -> Provenance:
    """Return where an exhibit comes from.

    Args:
        study: the study it belongs to.
        exhibit: the exhibit.
        run: the ``run`` part of results.json; its ``hashes.cells`` may name the exhibit's cell key.
        cells: the exhibit's cells; their ``code`` names the computing functions.
    """
    reference = _study(study, exhibit)
    module, name = (getattr(exhibit.cell, a, "") for a in ("__module__", "__qualname__"))
    cell = exhibit.cell(_settings(run.get("settings")))
    functions = dict.fromkeys([*(str(c["code"]) for c in cells if c.get("code")), cell.function])
    hashes = run.get("hashes")
    keys = hashes.get("cells") if isinstance(hashes, Mapping) else None
    return Provenance(
        study=reference,
        exhibit=f"{reference.partition(':')[2] or 'study'}.exhibit({exhibit.name!r})",
        builder=f"{module}:{name}" if module and name and "<" not in name else "",
        cell=cell.function,
        functions=tuple(functions),
        needed=tuple(f for f in _needed(cell) if f not in functions),
        source=exhibit.source,
        key=str(keys.get(exhibit.name, "")) if isinstance(keys, Mapping) else "",
    )


def _needed(cell: Cell) -> list[str]:
    """Return the functions of all cells that a cell rests on, the nearest first."""
    found: dict[str, None] = {}
    seen: set[int] = set()
    waiting = list(cell.needs.values())
    while waiting:
        needed = waiting.pop(0)
        if id(needed) not in seen:
            seen.add(id(needed))
            found.setdefault(needed.function)
            waiting += needed.needs.values()
    return list(found)


def _study(study: Study, exhibit: Exhibit) -> str:
    """Return the study object as ``module:NAME``, found in the module that states the exhibit's cell or above it."""
    module = getattr(exhibit.cell, "__module__", None) or ""
    while module:
        for name, value in vars(sys.modules[module]).items() if module in sys.modules else ():
            if value is study:
                return f"{module}:{name}"
        module = module.rpartition(".")[0]
    return f"intriguing.studies.{study.name}"


def _settings(chosen: object) -> Settings:
    """Return the run's settings as the study reads them; anything it does not know stays out."""
    known = {f.name for f in fields(Settings)}
    return Settings(**{k: v for k, v in chosen.items() if k in known}) if isinstance(chosen, Mapping) else Settings()

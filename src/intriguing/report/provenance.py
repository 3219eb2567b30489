"""Where a number comes from, as Python references a reader can open: study, exhibit, function, cell key."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from intriguing.studies.spec import Exhibit, Settings, Study


@dataclass(frozen=True)
class Provenance:
    """The origin of an exhibit.

    Attributes:
        study: ``package.module:OBJECT``.
        exhibit: the expression that yields the exhibit.
        builder: the function that states its cell.
        functions: the functions that computed its numbers.
        source: section and table of the paper.
        key: content key of the cell in the run's store; empty if the results do not state it.
    """

    study: str
    exhibit: str
    builder: str
    functions: tuple[str, ...]
    source: str
    key: str


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
    settings = run.get("settings")
    functions = dict.fromkeys(str(c["code"]) for c in cells if c.get("code"))
    if not functions:
        functions = dict.fromkeys([exhibit.cell(_settings(settings)).function])
    hashes = run.get("hashes")
    keys = hashes.get("cells") if isinstance(hashes, Mapping) else None
    return Provenance(
        study=reference,
        exhibit=f"{reference.partition(':')[2] or 'study'}.exhibit({exhibit.name!r})",
        builder=f"{module}:{name}" if module and name and "<" not in name else "",
        functions=tuple(functions),
        source=exhibit.source,
        key=str(keys.get(exhibit.name, "")) if isinstance(keys, Mapping) else "",
    )


def _study(study: Study, exhibit: Exhibit) -> str:
    """Return the study object as ``module:NAME``, found in the module that states the exhibit's cell."""
    module = sys.modules.get(getattr(exhibit.cell, "__module__", None) or "")
    for name, value in vars(module).items() if module else ():
        if value is study:
            return f"{vars(module)['__name__']}:{name}"
    return f"intriguing.studies.{study.name}"


def _settings(chosen: object) -> Settings:
    """Return the run's settings as the study reads them; anything it does not know stays out."""
    known = {f.name for f in fields(Settings)}
    return Settings(**{k: v for k, v in chosen.items() if k in known}) if isinstance(chosen, Mapping) else Settings()

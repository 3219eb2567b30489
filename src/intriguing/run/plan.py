"""Cells as an ordered list of tasks: every distinct key once, after what it needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from intriguing.errors import InputError
from intriguing.studies.spec import Cell


@dataclass(frozen=True)
class Task:
    """A cell with its dependencies replaced by keys, so that it can travel to another process.

    Attributes:
        key: the cell's content key.
        function: ``"package.module:name"``.
        settings: keyword arguments of the function.
        needs: name -> key of the record the function reads by that name.
        data: split -> content hash of the images it reads.
        label: what to call it.
    """

    key: str
    function: str
    settings: dict[str, Any]
    needs: dict[str, str]
    data: dict[str, str]
    label: str


def plan(cells: Sequence[Cell], data_hashes: Mapping[str, str]) -> dict[str, Task]:
    """Return key -> task for the cells and all they need, each after its own needs.

    Args:
        cells: what is asked for.
        data_hashes: split -> content hash, for every split a cell reads.

    Raises:
        InputError: if a cell reads a split without a hash.

    Example:
        >>> base = Cell("m:f", label="base")
        >>> [task.label for task in plan([Cell("m:g", needs={"a": base}, label="top")], {}).values()]
        ['base', 'top']
    """
    tasks: dict[str, Task] = {}
    visited: dict[int, str] = {}

    def visit(cell: Cell) -> str:
        if id(cell) in visited:
            return visited[id(cell)]
        label = cell.label or cell.function
        for split in cell.data:
            if split not in data_hashes:
                raise InputError(f"cell {label!r} reads the split {split!r}; data_hashes has {sorted(data_hashes)}")
        needs = {name: visit(need) for name, need in cell.needs.items()}
        key = cell.key(data_hashes)
        if key not in tasks:
            data = {split: data_hashes[split] for split in cell.data}
            tasks[key] = Task(key, cell.function, dict(cell.settings), needs, data, label)
        visited[id(cell)] = key
        return key

    for cell in cells:
        visit(cell)
    return tasks


def width(tasks: Mapping[str, Task]) -> int:
    """Return how many tasks can run side by side: the most at one depth of the graph.

    Args:
        tasks: what is still to compute, in order; needs that are not among them count as there.
    """
    depth: dict[str, int] = {}
    for key, task in tasks.items():
        depth[key] = 1 + max((depth.get(need, 0) for need in task.needs.values()), default=0)
    return max(Counter(depth.values()).values(), default=0)

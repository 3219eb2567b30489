"""The source of the functions that computed a page's numbers, read as text: nothing is imported to show it."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from intriguing.report import format as fmt
from intriguing.report.provenance import Provenance

_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Source:
    """A function's text.

    Attributes:
        file: path below the package's folder, with ``/``.
        line: its first line there, decorators included.
        text: the function, then the functions, classes and constants of its module that it uses.
        summary: the first line of its docstring.
    """

    file: str
    line: int
    text: str
    summary: str

    @property
    def lines(self) -> int:
        """How many lines are shown."""
        return self.text.count("\n") + 1


@dataclass(frozen=True)
class Entry:
    """One function in the page's appendix.

    Attributes:
        ident: anchor in the page.
        reference: ``package.module:name``.
        source: its text; None if it does not belong to the installed package.
        uses: (anchor, heading, study and exhibit as Python references) of every section that rests on it, at least one.
    """

    ident: str
    reference: str
    source: Source | None
    uses: tuple[tuple[str, str, str], ...]


def anchors(origins: Sequence[Provenance]) -> dict[str, str]:
    """Return reference -> anchor for every function the sections name, in order; anchors are unique."""
    found: dict[str, str] = {}
    for origin in origins:
        for reference in origin.everything:
            stem = "code-" + (re.sub(r"[^A-Za-z0-9_.]+", "-", reference).strip("-") or "function")
            taken = set(found.values())
            candidates = (stem if k == 1 else f"{stem}-{k}" for k in range(1, len(taken) + 2))
            found.setdefault(reference, next(c for c in candidates if c not in taken))
    return found


def entries(sections: Mapping[str, tuple[str, Provenance]], idents: Mapping[str, str]) -> list[Entry]:
    """Return the appendix: every function once, with the sections that rest on it.

    Args:
        sections: anchor -> (heading, where its numbers come from).
        idents: what `anchors` returned.
    """
    return [
        Entry(
            ident=ident,
            reference=fmt.clean(reference),
            source=source(reference),
            uses=tuple(
                (anchor, heading, f"{origin.study}, {origin.exhibit}")
                for anchor, (heading, origin) in sections.items()
                if reference in origin.everything
            ),
        )
        for reference, ident in idents.items()
    ]


def source(reference: str) -> Source | None:
    """Return the text of a function of this package.

    Args:
        reference: ``package.module:name``.

    Returns:
        None if the package has no such module, or the module no such function.

    Example:
        >>> source("intriguing.report.code:source").file
        'report/code.py'
    """
    module, _, name = reference.partition(":")
    path = _file(module)
    if path is None:
        return None
    text, parts = _parts(path)
    own = parts.get(name.partition(".")[0])
    if not isinstance(own, ast.FunctionDef | ast.ClassDef):
        return None
    shown = [own, *sorted(_reached(own, parts)[1:], key=_first)]
    lines = text.splitlines()
    return Source(
        file=path.relative_to(_ROOT).as_posix(),
        line=_first(own),
        text="\n\n\n".join("\n".join(lines[_first(node) - 1 : node.end_lineno]) for node in shown),
        summary=(ast.get_docstring(own) or "").partition("\n")[0].replace("`", ""),
    )


def _file(module: str) -> Path | None:
    """Return the file of a module of this package, found by its dotted name, or None."""
    top, *rest = module.split(".")
    if top != _ROOT.name or not all(part.isidentifier() for part in rest):
        return None
    place = _ROOT.joinpath(*rest)
    return next((p for p in (place.with_suffix(".py"), place / "__init__.py") if p.is_file()), None)


@functools.cache
def _parts(path: Path) -> tuple[str, dict[str, ast.stmt]]:
    """Return a module's text, and its functions, classes and constants by name."""
    text = path.read_text(encoding="utf-8")
    return text, {name: node for node in ast.parse(text).body for name in _names(node)}


def _names(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id


def _reached(own: ast.stmt, parts: Mapping[str, ast.stmt]) -> list[ast.stmt]:
    """Return what a statement uses of its own module, and what that uses in turn."""
    found, waiting = [own], [own]
    while waiting:
        nodes = list(ast.walk(waiting.pop()))
        names = [n for n in nodes if isinstance(n, ast.Name)]
        # A name that is bound inside hides the module's own.
        bound = {n.arg for n in nodes if isinstance(n, ast.arg)}
        bound |= {n.id for n in names if isinstance(n.ctx, ast.Store)}
        used = {n.id for n in names} - bound
        fresh = [parts[name] for name in sorted(used & parts.keys()) if parts[name] not in found]
        found += fresh
        waiting += fresh
    return found


def _first(node: ast.stmt) -> int:
    """Return a statement's first line, its decorators included."""
    decorators = node.decorator_list if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
    return min([node.lineno, *(d.lineno for d in decorators)])

"""Pages that need not be drawn again: a page says on its last line what it was made of."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

_LIBRARIES = ("jinja2", "matplotlib", "pillow")  # they draw the page
_LINE = "<!-- made of {key}, {digest} -->"


def key(parts: Mapping[str, Any]) -> str:
    """Return 64 hex digits that stand for a page: for what goes into it, and for all code that could write it.

    Args:
        parts: what strict JSON can hold: the results, the checksums of the records, the command.
    """
    text = json.dumps([_code(), {name: version(name) for name in _LIBRARIES}, parts], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(html: str, key: str) -> str:
    """Return a page with the line at its end that `is_kept` looks for."""
    return f"{html}{_line(html, key)}\n"


def is_kept(path: Path, key: str) -> bool:
    """Return whether a file is a page made of just that, and no byte of it has changed since.

    Example:
        >>> is_kept(Path("no/such/page.html"), "0" * 64)
        False
    """
    try:
        html = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError):
        return False
    body = html[: -len(_line("", key)) - 1]
    return html == sealed(body, key)


def _line(html: str, key: str) -> str:
    return _LINE.format(key=key, digest=hashlib.sha256(html.encode()).hexdigest())


@functools.cache
def _code() -> str:
    """Return the SHA-256 of all files of this package: texts of studies, templates, styles and code."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()

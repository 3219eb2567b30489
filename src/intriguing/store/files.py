"""Files that are written whole or not at all, and JSON documents that carry their own checksum."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SEAL = "sha256"


def sha256(content: bytes) -> str:
    """Return the SHA-256 of `content` as 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file and wait until the disk has it.

    Raises:
        OSError: if the disk is full or the folder cannot be written; a half-written file may remain.
    """
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the disk has the names in a folder; a no-op where folders cannot be opened (Windows)."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that does not sync folders
            raise
    finally:
        os.close(descriptor)


def write_atomic(path: str | Path, content: bytes) -> None:
    """Replace the file at `path` in one step: a reader, or a crash, sees the old content or the new.

    Args:
        path: where to; its folder must exist.
        content: all of the file.

    Raises:
        OSError: if it cannot be written; the old file is untouched and nothing is left beside it.

    Example:
        >>> write_atomic("results.json", b"{}")  # doctest: +SKIP
    """
    path = Path(path)
    # In the same folder, since a rename is atomic only within one file system.
    temporary = path.with_name(temporary_name(path.name))
    try:
        write_synced(temporary, content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def temporary_name(name: str, process: str | int | None = None) -> str:
    """Return what `write_atomic` calls the file `name` while it writes it (a glob with `process` ``"*"``)."""
    return f".{name}.{os.getpid() if process is None else process}.tmp"


def seal(document: Mapping[str, Any]) -> bytes:
    """Return `document` as readable JSON with its own checksum in it.

    Args:
        document: what strict JSON can hold, with no key ``"sha256"``.

    Example:
        >>> unseal(seal({"format": 1}))
        {'format': 1}
    """
    assert _SEAL not in document
    # As it will be read: with lists for tuples and text for every key.
    document = json.loads(json.dumps(document, allow_nan=False))
    sealed = {**document, _SEAL: _digest(document)}
    return (json.dumps(sealed, indent=1, allow_nan=False) + "\n").encode()


def unseal(content: bytes) -> dict[str, Any]:
    """Return the document that `seal` wrote.

    Raises:
        ValueError: saying how it is damaged.
    """
    try:
        document = json.loads(content)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError("it is not JSON") from error
    if not isinstance(document, dict) or _SEAL not in document:
        raise ValueError("its checksum is missing")
    digest = document.pop(_SEAL)
    if digest != _digest(document):
        raise ValueError("its content does not match its checksum")
    return document


def _digest(document: Mapping[str, Any]) -> str:
    return sha256(json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())

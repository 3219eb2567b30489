"""The run folder: records put and got by key, checked on every read. The layout is in `store`'s docstring."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from intriguing.errors import InputError, StoreError
from intriguing.records import Record
from intriguing.store import codec
from intriguing.store.files import (
    seal,
    sha256,
    sync_folder,
    temporary_name,
    unseal,
    write_atomic,
    write_synced,
)
from intriguing.store.lock import Lock

_log = logging.getLogger(__name__)

_FORMAT = 1
_RUN, _CELLS, _DAMAGED, _TMP, _LOCK, _MANIFEST = (
    "run.json",
    "cells",
    "damaged",
    "tmp",
    ".lock",
    "manifest.json",
)
_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")  # a file name on every system, and never hidden


_ELSEWHERE = {
    "write": "name a new or empty folder with --out",
    "join": "name a new or empty folder with --out",
    "read": "name the folder of a run, as its --out did",
}


@dataclass(frozen=True)
class Damage:
    """A file that is not what was written.

    Attributes:
        key: the cell's key, or ``"run.json"``.
        reason: what is wrong with it, as the end of a sentence.
        moved_to: where it was set aside for inspection; None if it stayed (a reader moves nothing).
    """

    key: str
    reason: str
    moved_to: Path | None

    def __str__(self) -> str:
        place = f" It was set aside in {self.moved_to}." if self.moved_to else ""
        return f"{self.key} is damaged: {self.reason}.{place}"


def _log_damage(damage: Damage) -> None:
    _log.warning("%s", damage)


class Store:
    """A run folder, opened to write it, to read it, or to join its writer.

    Args:
        path: the folder. A writer makes it if it is missing; an empty folder becomes a run.
        mode: ``"write"`` takes the lock and clears what a killed run left half-written; ``"read"`` needs a
            run that exists and changes nothing; ``"join"`` writes without the lock, for worker processes of
            the process that holds it.
        on_damage: called with each damaged file found; by default it is logged as a warning.

    Raises:
        StoreError: if the folder is not a run, is in use, cannot be written, or was made by a newer version.

    Example:
        >>> with Store("runs/t1") as store:  # doctest: +SKIP
        ...     store.put("a1b2", Record({"error": 0.25}), {"seconds": 1.5})
        ...     store.get("a1b2").values["error"]
        0.25
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        mode: Literal["write", "read", "join"] = "write",
        on_damage: Callable[[Damage], None] | None = None,
    ) -> None:
        """Open the folder; see the class."""
        self.path = Path(path)
        self.mode = mode
        self._on_damage = on_damage or _log_damage
        self._lock: Lock | None = None
        self._run: dict[str, Any] = {}
        try:
            self._open()
        except OSError as error:
            self.close()
            raise StoreError(
                f"the run folder {self.path} cannot be opened: {_cause(error)}; "
                "choose a folder you may write with --out"
            ) from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the lock go; the store must not be written afterwards."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    # -- the run ---------------------------------------------------------------------------------------

    @property
    def run(self) -> dict[str, Any]:
        """What ``run.json`` says: ``format``, ``created``, and what `describe` was given."""
        return dict(self._run)

    def describe(self, run: Mapping[str, Any]) -> None:
        """Write what the run is into ``run.json``, in one step, over what was there.

        Args:
            run: strict JSON (settings, environment, seeds, hashes); ``format`` and ``created`` are the
                store's and stay.

        Raises:
            StoreError: if it cannot be written.
        """
        kept = {name: self._run[name] for name in ("format", "created")}
        document = {**kept, **{name: item for name, item in run.items() if name not in kept}}
        with self.writing("run.json"):
            write_atomic(self.path / _RUN, seal(document))
        self._run = document

    # -- cells -----------------------------------------------------------------------------------------

    def finished(self) -> list[str]:
        """Return the keys of the cells that are there, sorted, without checking them."""
        folder = self.path / _CELLS
        return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []

    def get(self, key: str) -> Record | None:
        """Return a cell's record, or None if there is none or it is damaged.

        Every file is compared with its checksum. A damaged cell is reported and, by a writer, set aside, so
        that it is absent from then on.

        Raises:
            StoreError: if the files may not be read.
        """
        checked = self._checked(key)
        if checked is None:
            return None
        try:
            return codec.decode(checked[1])
        except Exception as error:  # whatever the three formats raise: the cell is of no use
            self._damaged(key, f"it cannot be read ({type(error).__name__}: {error})")
            return None

    def meta(self, key: str) -> dict[str, Any] | None:
        """Return a cell's manifest (``key``, ``created``, ``files`` and what `put` was given), or None.

        The cell's files are checked as in `get`, but not decoded.
        """
        checked = self._checked(key)
        return None if checked is None else checked[0]

    def put(self, key: str, record: Record, meta: Mapping[str, Any]) -> dict[str, Any]:
        """Store a record whole or not at all; a cell that is there is replaced. Returns its manifest.

        Args:
            key: letters, digits, ``.``, ``_`` and ``-``, at most 100.
            record: see `Record`.
            meta: strict JSON about the cell: seconds, package version, machine, ...

        Raises:
            InputError: if the record holds something that cannot be stored.
            StoreError: if it cannot be written (no space left, say); every finished cell is kept.
        """
        target = self._cell(key)
        files = codec.encode(record)
        manifest = {
            "format": _FORMAT,
            "key": key,
            "created": _now(),
            **{name: item for name, item in meta.items() if name not in ("format", "key", "created", "files")},
            "files": {name: {"sha256": sha256(content), "bytes": len(content)} for name, content in files.items()},
        }
        with self.writing(f"cell {key}"):
            folder = self.scratch()
            try:
                for name, content in files.items():
                    write_synced(folder / name, content)
                write_synced(folder / _MANIFEST, seal(manifest))
                sync_folder(folder)
                self._place(folder, target)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
        return manifest

    def scratch(self) -> Path:
        """Return a new empty folder under ``tmp/``; the caller removes it, or the next writer will."""
        self._refuse_reader()
        with self.writing("a temporary folder"):
            (self.path / _TMP).mkdir(exist_ok=True)
            folder = self.path / _TMP / uuid.uuid4().hex
            folder.mkdir()
        return folder

    # -- opening ---------------------------------------------------------------------------------------

    def _open(self) -> None:
        if self.mode == "write":
            self._refuse_foreign()
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = Lock(self.path / _LOCK)
            self._read_run()
            (self.path / _CELLS).mkdir(exist_ok=True)
            if (self.path / _TMP).is_dir():
                shutil.rmtree(self.path / _TMP)
            for file in self.path.glob(temporary_name(_RUN, "*")):
                file.unlink()
        else:
            if not self.path.is_dir():
                raise StoreError(f"there is no run folder at {self.path}; `intriguing reproduce` makes one")
            self._refuse_foreign()
            self._read_run()

    def _refuse_foreign(self) -> None:
        """Raise if this is somebody's folder of other things: nothing of it must be touched."""
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise StoreError(f"{self.path} is a file, not a run folder; {_ELSEWHERE[self.mode]}")
        if (self.path / _RUN).exists() or (self.path / _CELLS).is_dir():
            return
        # A run killed in its first moments has left these at most.
        names = {entry.name for entry in self.path.iterdir()} - {_LOCK, _TMP, _DAMAGED}
        others = sorted(name for name in names if not fnmatch(name, temporary_name(_RUN, "*")))
        if others:
            raise StoreError(
                f"{self.path} is not a run folder: it has no {_RUN} and holds {', '.join(others[:3])}"
                f"{', ...' if len(others) > 3 else ''}; {_ELSEWHERE[self.mode]}"
            )

    def _read_run(self) -> None:
        """Read ``run.json``; a writer replaces one that is missing or damaged, for the cells stand alone."""
        file = self.path / _RUN
        try:
            document = unseal(file.read_bytes())
        except FileNotFoundError:
            reason = ""
        except ValueError as error:
            reason = str(error)
        else:
            if document.get("format") != _FORMAT:
                raise StoreError(
                    f"the run folder {self.path} has format {document.get('format')!r}; this version reads "
                    f"format {_FORMAT}: use the version that made it, or another folder with --out"
                )
            self._run = document
            return
        if reason and not (self.path / _CELLS).is_dir():
            raise StoreError(
                f"{file} is damaged ({reason}) and there are no cells beside it, so {self.path} may not be a "
                "run folder; remove the file, or name another folder with --out"
            )
        if self.mode != "write":
            raise StoreError(
                f"the run folder {self.path} is incomplete, its {_RUN} {'damaged' if reason else 'missing'}; "
                "run `intriguing reproduce` on it again with the options it was made with: "
                "finished cells are kept"
            )
        if reason:
            self._on_damage(Damage(_RUN, reason, self._set_aside(file)))
        document = {"format": _FORMAT, "created": _now()}
        write_atomic(file, seal(document))
        self._run = document

    # -- reading ---------------------------------------------------------------------------------------

    def _cell(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise InputError(f"key {key!r} must be 1 to 100 letters, digits, '.', '_' or '-'")
        return self.path / _CELLS / key

    def _checked(self, key: str) -> tuple[dict[str, Any], dict[str, bytes]] | None:
        """Return a whole cell's manifest and files, or None if it is absent or has just been set aside."""
        folder = self._cell(key)
        if not folder.is_dir():
            return None
        try:
            manifest = _manifest(folder, key)
            return manifest, _verified(folder, manifest)
        except PermissionError as error:
            raise StoreError(
                f"cell {key} of {self.path} cannot be read: {_cause(error)}; mend its permissions"
            ) from error
        except OSError as error:
            reason = f"{Path(error.filename or key).name} cannot be read ({_cause(error)})"
        except ValueError as error:
            reason = str(error)
        self._damaged(key, reason)
        return None

    def _damaged(self, key: str, reason: str) -> None:
        # A reader may meet a cell in the moment its writer replaces it, so it moves nothing.
        moved = None if self.mode == "read" else self._set_aside(self._cell(key))
        self._on_damage(Damage(f"cell {key}", reason, moved))

    def _set_aside(self, path: Path) -> Path:
        with self.writing(f"{_DAMAGED}/{path.name}"):
            (self.path / _DAMAGED).mkdir(exist_ok=True)
            # A folder of its own: the same cell may be damaged twice.
            home = self.path / _DAMAGED / f"{path.name}-{uuid.uuid4().hex[:8]}"
            home.mkdir()
            return path.rename(home / path.name)

    # -- writing ---------------------------------------------------------------------------------------

    def _place(self, folder: Path, target: Path) -> None:
        """Rename a finished cell to its place; a cell that is there goes away first."""
        try:
            folder.rename(target)
        except OSError:
            if not target.exists():
                raise
            # A folder cannot be renamed over one with content. A crash between the two renames leaves no
            # cell, never a mixed one.
            old = self.scratch()
            target.rename(old / "replaced")
            folder.rename(target)
            shutil.rmtree(old, ignore_errors=True)
        sync_folder(target.parent)

    def _refuse_reader(self) -> None:
        if self.mode == "read":
            raise StoreError(f"the run folder {self.path} was opened to be read; nothing is written to it")

    @contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Turn an OSError of the body into a StoreError that says what is safe and what to do."""
        self._refuse_reader()
        try:
            yield
        except OSError as error:
            cells = 0
            with suppress(OSError):
                cells = len(self.finished())
            full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
            advice = "free some space" if full else "make the folder writable"
            raise StoreError(
                f"{what} could not be written to {self.path}: {_cause(error)}. The {cells} finished cells "
                f"there are kept; {advice} and run the same command again: it goes on from them"
            ) from error


def _manifest(folder: Path, key: str) -> dict[str, Any]:
    """Return the cell's manifest; ValueError says what is wrong with it."""
    try:
        manifest = unseal((folder / _MANIFEST).read_bytes())
    except ValueError as error:
        raise ValueError(f"{_MANIFEST} cannot be used, {error}") from error
    if manifest.get("key") != key or manifest.get("format") != _FORMAT:
        raise ValueError(f"{_MANIFEST} is that of cell {manifest.get('key')} in another place or format")
    return manifest


def _verified(folder: Path, manifest: dict[str, Any]) -> dict[str, bytes]:
    """Return the cell's files; ValueError says which of them is not what the manifest promises."""
    files = {}
    for name, expected in manifest["files"].items():
        content = (folder / name).read_bytes()
        if sha256(content) != expected["sha256"]:
            raise ValueError(f"{name} does not match its checksum")
        files[name] = content
    return files


def _cause(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")

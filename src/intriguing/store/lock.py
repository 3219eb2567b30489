"""One writer per run folder: a lock the operating system lets go when its holder dies."""

from __future__ import annotations

import logging
import os
from importlib.util import find_spec
from pathlib import Path

from intriguing.errors import StoreError

_log = logging.getLogger(__name__)

# Windows has none; two writers of one run are then the user's to avoid.
_HAS_LOCKS = find_spec("fcntl") is not None


class Lock:
    """An exclusive lock on a file, held until `release` or the end of the process, however it ends.

    Where the platform or the file system knows no such lock, there is none, and the log says so.

    Example:
        >>> lock = Lock(Path("runs/t1/.lock"))  # doctest: +SKIP
    """

    def __init__(self, path: Path) -> None:
        """Take the lock at once.

        Raises:
            StoreError: if another process, or another `Store` of this one, holds it.
            OSError: if the file cannot be made.
        """
        # No O_TRUNC: the file's text names the holder, and only the holder may rewrite it.
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._take(path)
        except BaseException:
            os.close(self._descriptor)
            raise

    def release(self) -> None:
        """Let the lock go; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _take(self, path: Path) -> None:
        if not _HAS_LOCKS:
            _log.info("no file locks on this platform: %s is not guarded against a second writer", path.parent)
            return
        import fcntl  # here, since it is not there on every platform

        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._descriptor, 32).decode(errors="replace").strip()
            raise StoreError(
                f"the run folder {path.parent} is in use by another process"
                f"{f' (process {holder})' if holder else ''}; "
                "wait until it ends, or give this run a folder of its own with --out"
            ) from None
        except OSError as error:  # some network file systems
            _log.info("%s is not guarded against a second writer: %s", path.parent, error)
            return
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

"""Decoded images kept on disk, so that a set is decoded once per machine.

An entry is one safetensors file named after what it depends on. It is written beside its place and then
renamed, and used only if what it holds still has the content hash it was written with. A cache that is
damaged, full or unwritable costs time and nothing else: it is logged, and the set is decoded again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from intriguing.data.images import Pixels

_LOG = logging.getLogger(__name__)
_FORMAT = 1  # raised when the meaning of an entry changes


@dataclass(frozen=True)
class Entry:
    """A decoded set: (N, H, W[, C]) pixels, (N,) int64 labels, and JSON-able facts (hash, classes, ...)."""

    pixels: Pixels
    labels: Pixels
    facts: Mapping[str, Any]


def folder(cache_dir: str | os.PathLike[str] | None) -> Path | None:
    """Return where entries live, None where the user has no home folder and named none.

    Args:
        cache_dir: the user's choice; None means `$XDG_CACHE_HOME/intriguing`, or `~/.cache/intriguing`.
    """
    if cache_dir is not None:
        return Path(cache_dir).expanduser() / "images"
    # A relative XDG_CACHE_HOME is to be ignored: XDG Base Directory Specification, "Basics".
    base = Path(os.environ.get("XDG_CACHE_HOME") or "")
    if not base.is_absolute():
        try:
            base = Path.home() / ".cache"
        except RuntimeError:
            return None
    return base / "intriguing" / "images"


def key(**depends_on: Any) -> str:
    """Return the name of the entry for JSON-able facts: 32 hex digits."""
    text = json.dumps({"format": _FORMAT, **depends_on}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read(place: Path | None, name: str) -> Entry | None:
    """Return an entry, None if there is none or it cannot be read. The caller compares the content hash."""
    if place is None:
        return None
    file = place / f"{name}.safetensors"
    try:
        with safe_open(file, framework="numpy") as stored:
            metadata = stored.metadata()
            if hashlib.sha256(metadata["facts"].encode()).hexdigest() != metadata["check"]:
                raise ValueError("its facts do not match their checksum")
            return Entry(stored.get_tensor("pixels"), stored.get_tensor("labels"), json.loads(metadata["facts"]))
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        damaged(place, name, str(error))
        return None


def damaged(place: Path | None, name: str, reason: str) -> None:
    """Log that an entry cannot be used; it will be decoded and written again."""
    _LOG.warning("cached images %s cannot be used (%s); decoding them again", name, reason)


def write(place: Path | None, name: str, entry: Entry) -> None:
    """Store an entry, or log why that was not possible."""
    if place is None:
        return
    facts = json.dumps(dict(entry.facts))
    metadata = {"facts": facts, "check": hashlib.sha256(facts.encode()).hexdigest()}
    tensors = {"pixels": np.ascontiguousarray(entry.pixels), "labels": np.ascontiguousarray(entry.labels)}
    try:
        place.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=name, suffix=".part", dir=place)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(save(tensors, metadata))
            os.replace(temporary, place / f"{name}.safetensors")
        except BaseException:
            # Also on Ctrl-C: no half file stays behind.
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        _LOG.info("images are not cached in %s (%s)", place, error)

"""Sets of the Hugging Face hub, through `datasets`: first its cache on this machine, then the network."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from intriguing.data import columns
from intriguing.data.rows import Rows
from intriguing.data.sets import shorten
from intriguing.errors import DataError, InputError

# Names of ours for sets of the hub.
KNOWN = {"mnist": "ylecun/mnist", "cifar10": "uoft-cs/cifar10"}
PREFIX = "hub:"
# Where sets are that many call by their name alone.
_USUAL = {**KNOWN, "imagenet-1k": "ILSVRC/imagenet-1k", "cifar100": "uoft-cs/cifar100",
          "fashion_mnist": "zalando-datasets/fashion_mnist"}  # fmt: skip
_EXAMPLE = "ILSVRC/imagenet-1k"

_OFFLINE = threading.Lock()


def address(name: str) -> str | None:
    """Return the hub's ``owner/name`` for a name of ours or ``hub:owner/name``; None for any other name.

    Raises:
        InputError: what follows ``hub:`` is not ``owner/name``.
    """
    if not name.startswith(PREFIX):
        return KNOWN.get(name)
    found = name.removeprefix(PREFIX)
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", found, re.ASCII):
        usual = _USUAL.get(found)
        hint = f"; did you mean {PREFIX}{usual}?" if usual else f", for example {PREFIX}{_EXAMPLE}"
        raise InputError(f"a set of the hub is named hub:owner/name with its owner, got {shorten(name)}{hint}")
    return found


@dataclass(frozen=True)
class Hub:
    """One split of a set of the hub.

    Attributes:
        address: ``owner/name``.
        split: a split of that set.
        elsewhere: what an error says about the places already searched in vain.
    """

    address: str
    split: str
    elsewhere: str = ""

    def fingerprint(self) -> dict[str, Any]:
        """Return the address: decoded images, once cached, are used without asking the hub again."""
        return {"hub": self.address, "split": self.split}

    def open(self) -> Rows:
        """Fetch the split and open its table."""
        found = self._fetch()
        features = found.features.to_dict()
        where = f"split {self.split!r} of {self.address}"
        table = found.with_format("arrow")[:]
        chosen = columns.choose(table.schema.remove_metadata(), features, where)
        rows = columns.read(table.select([chosen.image, chosen.label]), chosen, where, follow_paths=True)
        source = f"the Hugging Face hub, {self.address}"
        return Rows(rows.labels, rows.classes, rows.pictures, {"source": source, **rows.notes})

    def _fetch(self) -> Any:
        """Return the `datasets.Dataset`, from the library's cache if it is there."""
        import datasets

        try:
            with _offline(datasets.config):
                return datasets.load_dataset(self.address, split=self.split)
        except Exception as error:
            # The library has no one error for "not in the cache"; whatever it is, the hub decides.
            cached = error
        if datasets.config.HF_HUB_OFFLINE:
            raise DataError(self._missing("not asked, as the environment forbids it")) from cached
        if not _reachable(datasets.config.HF_ENDPOINT):
            raise DataError(self._missing("cannot be reached from this machine")) from cached
        try:
            return datasets.load_dataset(self.address, split=self.split)
        except Exception as error:
            reason = shorten(f"{type(error).__name__}: {error}")
            raise DataError(self._missing(f"did not give it ({reason})")) from error

    def _missing(self, hub: str) -> str:
        return (
            f"split {self.split!r} of {self.address} was found in none of three places: {self.elsewhere}"
            f"the cache: nothing in that of Hugging Face datasets nor in our own; the hub: {hub}. "
            "Name the folder that holds the set with --data-dir or INTRIGUING_DATA, or go online once"
        )


def _reachable(endpoint: str) -> bool:
    """Tell whether the hub's name resolves: the library itself tries for half a minute before it gives up."""
    if getproxies():
        return True  # a proxy resolves names that this machine cannot
    try:
        socket.getaddrinfo(urlsplit(endpoint).hostname, None)
    except OSError:
        return False
    return True


@contextmanager
def _offline(config: Any) -> Iterator[None]:
    """Keep `datasets` off the network for the length of a block; the environment is not touched."""
    with _OFFLINE:
        before = config.HF_HUB_OFFLINE
        config.HF_HUB_OFFLINE = True
        try:
            yield
        finally:
            config.HF_HUB_OFFLINE = before

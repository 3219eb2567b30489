"""``rows.parquet``: one row per image and attack, written shard by shard and put in its place when it is whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from intriguing.errors import StoreError

_TYPES = {
    "image_hash": pa.string(),
    "index": pa.int64(),
    "label": pa.int64(),
    "predicted": pa.int64(),
    "attack": pa.string(),
    "target": pa.int64(),
    "status": pa.string(),
    "distance": pa.float64(),
    "distance_l1": pa.float64(),
    "distance_linf": pa.float64(),
    "distortion": pa.float64(),
    "forwards": pa.int64(),
    "backwards": pa.int64(),
    "first_success": pa.int64(),
    "phase": pa.string(),
    "survives_8bit": pa.bool_(),
    "distance_8bit": pa.float64(),
    "confidence": pa.float64(),
    "model": pa.string(),
    "fooled_by_noise": pa.bool_(),
    "certified": pa.float64(),
    "certified_product": pa.float64(),
}


class Writer(Protocol):
    """Takes the rows of one shard."""

    def __call__(self, rows: Mapping[str, Sequence[Any]], positions: Sequence[int], model: str) -> None:
        """Write them; `positions` say where in the set the shard's images stand."""


@contextmanager
def writing(path: Path, receivers: Sequence[str], *, scratch: Path) -> Iterator[Writer]:
    """Yield a function that takes rows; the file is in its place when the block has ended well.

    Args:
        path: of the file.
        receivers: names of the models that the examples are fed to.
        scratch: a folder on the same disk for the file while it grows; removed.

    Raises:
        StoreError: it cannot be written; the old file is kept.
    """
    types = dict(_TYPES)
    for name in receivers:
        types |= {f"fools/{name}": pa.bool_(), f"noise_fools/{name}": pa.bool_()}
    schema = pa.schema(types)
    temporary = scratch / path.name
    try:
        with pq.ParquetWriter(temporary, schema) as file:

            def write(rows: Mapping[str, Sequence[Any]], positions: Sequence[int], model: str) -> None:
                count = len(rows["attack"])
                # The attacks of a shard stand one after another, each with all images in order.
                columns = {**rows, "index": list(positions) * (count // len(positions)), "model": [model] * count}
                nothing = [None] * count  # certificates that were not asked for
                file.write_table(pa.table({name: columns.get(name, nothing) for name in types}, schema=schema))

            yield write
        os.replace(temporary, path)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise StoreError(f"{path} could not be written: {reason}; finished shards are kept") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def read(path: str | os.PathLike[str]) -> dict[str, list[Any]]:
    """Return the columns of a rows file.

    Raises:
        StoreError: there is none, or it is damaged.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(
            f"{os.fspath(path)} cannot be read ({str(error).splitlines()[0]}); run the same `intriguing audit` again: "
            "it is written anew from the finished shards"
        ) from error
    return {name: table.column(name).to_pylist() for name in table.column_names}

"""Small sets made on the spot: encoded images, Parquet files, image folders."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def pixels(seed: int, height: int = 6, width: int = 6, colour: bool = False) -> np.ndarray:
    shape = (height, width, 3) if colour else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(array: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(file, kind, **options)
    return file.getvalue()


def parquet(
    path: Path, images: list[Any], labels: list[Any], names: Any = ("a", "b"), kind: Any = None, **more: Any
) -> Path:
    """Write images (bytes become the usual struct, anything else a column as it is) and labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind is None and images and isinstance(images[0], bytes):
        images = [{"bytes": data, "path": None} for data in images]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(images, kind), "label": pa.array(labels), **more})
    if names is not None:
        text = names if isinstance(names, str) else json.dumps(list(names))
        table = table.replace_schema_metadata({"class_names": text})
    pq.write_table(table, path)
    return path


def image_folder(root: Path, split: str, files: dict[str, bytes]) -> None:
    """Write files by "class/name"."""
    for name, data in files.items():
        path = root / split / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

"""Run folders as an audit leaves them, small and made up, for the tests of the gate."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from intriguing import documents

N = 400
RED = {"name": "zero gradients", "state": "red", "value": 0.97, "n": 64, "sentence": "62 of 64 gradients are zero."}
GREEN = {"name": "zero gradients", "state": "green", "value": 0.0, "n": 64, "sentence": "No gradient is zero."}
SETTINGS = {"attacks": ["lbfgs"], "parameters": {"lbfgs": "LBFGS(budget=1000)"}, "norm": None, "target": None}


def figure(value: float, **more: Any) -> dict[str, Any]:
    """Return a figure of the document."""
    entry = {"value": value, "n": N, "low": value * 0.9, "high": value * 1.1, "unit": "pixel units, L2"}
    return {**entry, "better": "higher", "meaning": "Half of the images have one nearer.", "control": None, **more}


def figures() -> dict[str, Any]:
    """Return the figures that most tests ask for."""
    return {
        "clean_accuracy": figure(0.95, unit="share"),
        "median_l2": figure(0.41),
        "median_linf": figure(0.06, unit="pixel units, largest change"),
        "robust_accuracy_linf@8/255": figure(0.31, unit="share"),
        "transfer": figure(0.24, unit="share", better="lower"),
        "far": figure(math.inf, low=0.4, high=math.inf),
        "nothing": figure(math.nan, low=math.nan, high=math.nan, n=0),
    }


def distances(seed: int = 0, *, factor: float = 1.0, n: int = N) -> list[float]:
    """Return distances that are 0 for one image in twenty, which is already wrong."""
    rng = np.random.default_rng(seed)
    return [0.0 if i % 20 == 0 else float(d) for i, d in enumerate(factor * rng.gamma(6, 0.07, n))]


def folder(
    path: Path,
    *,
    values: Mapping[str, Any] | None = None,
    sizes: Sequence[float] | None = None,
    trust: Sequence[Mapping[str, Any]] = (GREEN,),
    hashes: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    certified: Sequence[float | None] | None = None,
) -> Path:
    """Write a run folder and return it.

    Args:
        path: where to.
        values: the figures.
        sizes: L2 distance of every image; 0 is already wrong.
        trust: the checks; a red one makes it untrustworthy.
        hashes: of the images.
        settings: of the run.
        certified: radius of every image, in an audit with certificates.
    """
    path.mkdir(parents=True)
    sizes = distances() if sizes is None else sizes
    hashes = [f"{i:032x}" for i in range(len(sizes))] if hashes is None else hashes
    reasons = [f"{c['name']}: {c['sentence']}" for c in trust if c["state"] == "red"]
    document = {
        "schema": 1,
        "kind": "audit",
        "run": {"settings": SETTINGS if settings is None else settings, "models": [{"name": "net"}]},
        "verdict": {"state": "untrustworthy" if reasons else "trustworthy", "reasons": reasons},
        "trust": list(trust),
        "figures": figures() if values is None else values,
    }
    (path / "results.json").write_text(json.dumps(documents.strict(document), allow_nan=False))
    status = ["already_wrong" if d == 0 else "found" if math.isfinite(d) else "not_found" for d in sizes]
    columns: dict[str, Sequence[Any]] = {
        "image_hash": hashes,
        "attack": ["worst of"] * len(sizes),
        "model": ["net"] * len(sizes),
        "status": status,
        "distance": sizes,
        "distance_l1": [4 * d for d in sizes],
        "distance_linf": [d / 6 for d in sizes],
        "distance_8bit": sizes,
        "survives_8bit": [s == "found" for s in status],
        "forwards": [100] * len(sizes),
        "backwards": [100] * len(sizes),
    }
    if certified is not None:
        columns["certified"] = certified
    one = {name: [*values, *values] for name, values in columns.items()}
    # The rows of a single attack stand beside those of the worst of all; only the latter count.
    one["attack"] = ["lbfgs"] * len(sizes) + ["worst of"] * len(sizes)
    one["distance"] = [9.0] * len(sizes) + list(sizes)
    pyarrow.parquet.write_table(pyarrow.table(one), path / "rows.parquet")
    return path

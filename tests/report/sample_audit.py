"""An audit that looks like a real one, for the page's tests and for looking at the page.

The numbers are made up; the images are scikit-learn's digits with a smooth change.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits

from intriguing.records import Record

ATTACKS = ("worst of", "lbfgs", "ddn", "fmn", "gaussian")
CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COMMAND = "intriguing audit --model digits_net.py:build --weights w.safetensors --data digits --out runs/v1"
N = 500


def _figure(value: float, low: float, high: float, meaning: str, **more: Any) -> dict[str, Any]:
    entry = {"value": value, "n": N, "low": low, "high": high, "unit": "pixel units, L2", "better": "higher"}
    return {**entry, "meaning": meaning, "control": None, **more}


def figures() -> dict[str, dict[str, Any]]:
    """Return the figures of the sample, by the names that a gate uses."""
    share = {"unit": "share"}
    noise = {"label": "noise of the same size", "value": 0.021}
    return {
        "clean_accuracy": _figure(0.962, 0.942, 0.976, "Share of the images that the model answers rightly.", **share),
        "median_l2": _figure(0.412, 0.38, 0.441, "Half of the images it gets right have an example nearer than this."),
        "p05_l2": _figure(0.118, 0.09, 0.13, "One image in twenty has an example nearer than this."),
        "mean_l2": _figure(0.433, 0.41, 0.457, "Mean distance over the images with an example."),
        "median_linf": _figure(0.061, 0.055, 0.067, "The same, largest change of a pixel.", unit="pixel units, Linf"),
        "median_l2_8bit": _figure("inf", 0.44, "inf", "The median once examples are rounded to 8 bits."),
        "found": _figure(
            0.998, 0.988, 0.9996, "Share of the attacked images with an example.", better="lower", **share
        ),
        "survives_8bit": _figure(0.871, 0.839, 0.898, "Share of examples that survive it.", better="lower", **share),
        "robust_accuracy_l2@0.5": _figure(0.318, 0.279, 0.36, "Accuracy under any change of L2 norm 0.5.", **share),
        "transfer": _figure(
            0.243, 0.21, 0.28, "Share of examples that mislead another model.", better="lower", **share, control=noise
        ),
        "noise_transfer": _figure(0.021, 0.01, 0.04, "The same for noise of equal norm.", better="lower", **share),
        "queries_mean": _figure(402.6, 390.1, 415.2, "Forwards plus backwards per image.", unit="queries", n=481),
        "lipschitz_product": _figure(
            81.4, 81.4, 81.4, "Product of the layers’ bounds.", unit="ratio", better="lower", n=1
        ),
    }


def trust(red: bool) -> list[dict[str, Any]]:
    """Return the checks of the sample; with `red` two of them show masked gradients."""

    def check(name: str, state: str, value: float | None, n: int, sentence: str) -> dict[str, Any]:
        return {"name": name, "state": state, "value": value, "n": n, "sentence": sentence}

    zero = check("zero gradients", "green", 0.0, 64, "None of 64 images has a gradient of exactly zero.")
    blind = check("black-box attack wins", "green", 0.0, 64, "Square never came nearer than the white-box attack.")
    if red:
        zero = check("zero gradients", "red", 0.97, 64, "On 62 of 64 images the gradient is exactly zero.")
        blind = check("black-box attack wins", "red", 0.42, 64, "Square came nearer on 27 of 64 images.")
    return [
        zero,
        check("finite differences", "green", 0.9993, 64, "Gradient and finite differences agree: cosine 0.9993."),
        blind,
        check("larger budget", "amber", 0.031, 64, "Four times the budget brings the median 3.1% nearer."),
        check("batch dependence", "green", 0.0, 64, "The answers are the same one by one and in a batch of 64."),
        check("randomness", "did not run", None, 0, "Needs a model that may be called twice."),
    ]


def _curves() -> list[dict[str, Any]]:
    radii = [0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0]
    found = []
    for attack, middle in zip(ATTACKS, (0.41, 0.42, 0.44, 0.49, 3.2), strict=True):
        robust = [0.962 / (1 + (r / middle) ** 3.1) for r in radii]
        half = [1.96 * math.sqrt(p * (1 - p) / N) for p in robust]
        found.append(
            {
                "attack": attack,
                "norm": "2",
                "radii": radii,
                "robust_accuracy": robust,
                "low": [max(0.0, p - h) for p, h in zip(robust, half, strict=True)],
                "high": [min(1.0, p + h) for p, h in zip(robust, half, strict=True)],
                "n": N,
            }
        )
    linf = {**found[0], "norm": "inf", "radii": [r / 7 for r in radii]}
    return [*found, linf]


def _fragile(rng: np.random.Generator, count: int = 20) -> tuple[list[dict[str, Any]], Record]:
    digits = load_digits()
    images = torch.from_numpy(digits.images[:count] / 16).float()[:, None]
    noise = torch.from_numpy(rng.standard_normal((count, 1, 4, 4))).float()
    change = 0.03 * torch.nn.functional.interpolate(noise, size=(8, 8), mode="bicubic", align_corners=False)
    steps = torch.linspace(0.5, 2, count).reshape(-1, 1, 1, 1)
    adversarial = (images + change * steps).clamp(0, 1)
    r = (adversarial - images).double().flatten(1)
    entries = []
    for i, label in enumerate(int(t) for t in digits.target[:count]):
        target, third = (label * 3 + 5) % 10, (label + 4) % 10
        entries.append(
            {
                "image_hash": f"{i:032x}",
                "index": 37 * i + 5,
                "label": CLASSES[label],
                "target": CLASSES[target],
                "distance": float(r[i].norm()),
                "distance_linf": float(r[i].abs().max()),
                "survives_8bit": i % 4 != 1,
                "top_before": [[CLASSES[label], 0.93], [CLASSES[target], 0.052], [CLASSES[third], 0.011]],
                "top_after": [[CLASSES[target], 0.498], [CLASSES[label], 0.487], [CLASSES[third], 0.009]],
                "queries": 240 + 7 * i,
                "phase": "polish",
            }
        )
    return entries, Record(tensors={"fragile/original": images, "fragile/adversarial": adversarial})


def _transfer() -> dict[str, Any]:
    names = ["digits_net", "other seed", "wider"]

    def entry(value: float) -> dict[str, Any]:
        half = 1.96 * math.sqrt(value * (1 - value) / 480)
        return _figure(value, max(0.0, value - half), min(1.0, value + half), "", unit="share", n=480)

    rates = [[1.0, 0.31, 0.24], [0.28, 1.0, 0.22], [0.19, 0.2, 1.0]]
    return {
        "sources": names,
        "receivers": names,
        "rate": [[entry(v) for v in row] for row in rates],
        "noise": [[entry(0.02 + 0.003 * i + 0.004 * j) for j in range(3)] for i in range(3)],
    }


def certificates(names: tuple[str, ...] = ("digits_net",)) -> dict[str, Any]:
    """Return the certificates of the sample, for one model or several of which each next one is proved farther."""

    def model(name: str, k: int) -> dict[str, Any]:
        radii = [0.0, *(0.02 * step for step in range(1, 60))]
        lengths = [0.05, 0.25, 0.5, 0.75, 0.95]
        methods = [
            {"method": "product", "seconds": 0.002, "note": "", "ratio": 0.1 + 0.1 * k},
            {"method": "interval", "seconds": 0.004, "note": "", "ratio": 0.08 + 0.08 * k},
            {"method": "crown", "seconds": 0.03, "note": "", "ratio": 0.4 + 0.1 * k},
            {"method": "crown-optimised", "seconds": None, "note": "left out: crown alone took more than 60 s"},
        ]
        return {
            "name": name,
            "n": N,
            "radii": radii,
            "certified_accuracy": [0.962 / (1 + (r / (0.2 + 0.1 * k)) ** 4) for r in radii],
            "robust_accuracy": [0.962 / (1 + (r / (0.45 + 0.1 * k)) ** 4) for r in radii],
            "quantiles": {
                "shares": lengths,
                "certified": [0.1, 0.15, 0.2, 0.25, 0.3],
                "found": [0.2, 0.3, 0.41, 0.5, "inf"],
                "ratio": [0.3, 0.4, 0.5, 0.6, 0.7],
            },
            "methods": [
                {**m, "low": m["ratio"] - 0.05, "high": m["ratio"] + 0.05, "n": 19} if "ratio" in m else m
                for m in methods
            ],
            "layers": [
                {"name": "features.0", "kind": "convolution", "bound": 4.31, "gain": 2.1, "share": 0.55},
                {"name": "head", "kind": "dense", "bound": 6.25, "gain": 3.5, "share": 0.45},
            ],
            "layers_note": "",
        }

    return {"method": "crown", "norm": "2", "models": [model(name, k) for k, name in enumerate(names)]}


def certified_figures(prefix: str = "") -> dict[str, dict[str, Any]]:
    """Return the figures that certificates add, for the first model or, with its name in front, another one."""
    control = {"label": "the median by the product of the layers' norms", "value": 0.051}
    return {
        f"{prefix}certified_l2": _figure(0.203, 0.19, 0.22, "No change this small alters the answer.", control=control),
        f"{prefix}tightness_l2": _figure(
            0.52, 0.49, 0.55, "Certified over found.", unit="times", control={"label": "the same", "value": 0.124}
        ),
        f"{prefix}certified": _figure(0.994, 0.981, 0.998, "Certified at all.", unit="share"),
        f"{prefix}certified_accuracy_l2@0.25": _figure(0.31, 0.27, 0.35, "Provably right within it.", unit="share"),
    }


def certified(*names: str, red: bool = False) -> tuple[dict[str, Any], dict[str, Record], dict[str, list[float]]]:
    """Return the sample with certificates of its model and of others by name."""
    document, records, distances = sample(red=red)
    document["certificates"] = certificates(("digits_net", *names))
    document["layers"] = document["certificates"]["models"][0]["layers"]
    document["figures"] |= certified_figures()
    for name in names:
        document["figures"] |= certified_figures(f"{name}/")
        document["figures"][f"{name}/median_l2"] = document["figures"]["median_l2"]
        document["run"]["models"].append({**document["run"]["models"][0], "name": name})
    for entry in document["fragile"]:
        entry["certified"] = entry["distance"] / 2
    return document, records, distances


def sample(*, red: bool = False) -> tuple[dict[str, Any], dict[str, Record], dict[str, list[float]]]:
    """Return an audit's document, its records by cell, and the distances per attack."""
    rng = np.random.default_rng(0)
    fragile, record = _fragile(rng)
    counts = rng.poisson(6, (10, 10)) * (1 - np.eye(10, dtype=int))
    reasons = [c["sentence"] for c in trust(red) if c["state"] == "red"]
    document = {
        "schema": 1,
        "kind": "audit",
        "run": {
            "settings": {"attacks": ["lbfgs", "ddn", "fmn", "gaussian"], "budget": 1000, "images": N, "seed": 0},
            "environment": {"intriguing": "0.1.0", "torch": "2.13.0", "python": "3.11.9", "platform": "Linux x86_64"},
            "seeds": {"run": 0},
            "hashes": {"data": "3f1c9b0e5a7d42c8b6e1f0a9d8c7b6a5", "model": "9a0b1c2d3e4f50617283940a1b2c3d4e"},
            "command": COMMAND,
            "models": [
                {
                    "name": "digits_net",
                    "source": "digits_net.py:build",
                    "hash": "9a0b1c2d3e4f50617283940a1b2c3d4e",
                    "parameters": 8970,
                    "device": "cpu",
                    "dtype": "float32",
                    "box": [0.0, 1.0],
                    "mean": [0.3],
                    "std": [0.38],
                },
            ],
            "data": {"name": "digits", "split": "test", "n": N, "classes": list(CLASSES)},
            "time": {"seconds": 214.3},
        },
        "verdict": {"state": "untrustworthy" if red else "trustworthy", "reasons": reasons},
        "trust": trust(red),
        "figures": figures(),
        "curves": _curves(),
        "confusion": {"classes": list(CLASSES), "counts": counts.tolist()},
        "classes": [
            {"class": name, "n": 48 + i, "median_l2": 0.3 + 0.03 * i, "low": 0.27 + 0.028 * i, "high": 0.35 + 0.031 * i}
            for i, name in enumerate(CLASSES[:9])
        ]
        + [{"class": "nine", "n": 41, "median_l2": "inf", "low": 0.9, "high": "inf"}],
        "fragile": fragile,
        "transfer": _transfer(),
        "layers": [
            {"name": "features.0", "kind": "convolution", "bound": 4.31},
            {"name": "features.3", "kind": "convolution", "bound": 3.02},
            {"name": "head", "kind": "linear", "bound": 6.25},
        ],
    }
    distances = {"worst of": [*rng.gamma(4, 0.11, 479).tolist(), math.inf, math.inf]}
    return document, {"fragile": record}, distances

"""The library's certified radii beside a second implementation of CROWN, and beside the truth on tiny nets.

    python benchmarks/second_opinion/compare.py --out benchmarks/results/second_opinion

The second opinion is `numpy_crown`, written from the paper without the library's code. Wanted: at least 0.98 of its
radius for every image, and no radius beyond the truth. Small nets look at scikit-learn's digits; MNIST is read from
the folder INTRIGUING_DATA. The nets are trained here for a moment. The library is used as its users do.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import linear_program
import numpy as np
import numpy_crown
import scipy
import torch
from numpy_crown import Array, Net, Region
from torch import Tensor, nn

import intriguing as iq

WANTED, LARGER = 0.98, 1.02
QUANTILES = {"min": 0.0, "5%": 0.05, "25%": 0.25, "median": 0.5, "75%": 0.75, "95%": 0.95, "max": 1.0}
SETTINGS = [(norm, box) for norm in (2.0, math.inf) for box in (True, False)]
MODULES: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}
HIDDEN = [(20, 20), (16, 16, 16), (24, 24), (12, 20, 12), (30, 20)]
# Random sigmoid nets of smaller weights give all of the box one label.
GAINS = {"relu": 2.0, "sigmoid": 6.0, "tanh": 2.0}
LEGEND = [
    "Better: the least ratio over the larger of two radii, by the paper's tangents and by those at the middle.",
    "Below: images under 0.98 of it. Looser: those where the second opinion still has a proof at the library's radius",
    "over 0.98; at the others it has none there, and has one again farther out: CROWN's bounds are not monotone.",
    "Proved by: what, apart from the library, shows the label over radii beyond 1.02 of the second opinion's.",
    "Wrong: images with a wrong label within the library's radius, by 100 steps of projected gradient.",
    "Seconds: of the library and of the second opinion.",
]
PEER = (
    "auto_LiRPA was not compared: the releases of the package index (the last is 0.3, of 2022) import parts of "
    "torch.onnx that this torch no longer has."
)
# HiGHS keeps constraints and optima to 1e-7 and 1e-6 in these programs' units.
PROGRAM = 1e-5

Row = dict[str, Any]
Case = tuple[str, str, nn.Sequential, Tensor, Tensor]  # activation, kind, net, images, labels


# ------------------------------------------------------------------------------------------ nets and data


def build(sizes: Sequence[int], activation: str, seed: int, gain: float = 1.0) -> nn.Sequential:
    """Return a fully connected net in float32 with torch's initial weights times `gain`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts: list[nn.Module] = [nn.Flatten()]
        for k, (before, after) in enumerate(itertools.pairwise(sizes)):
            parts += [MODULES[activation]()] if k else []
            parts.append(nn.Linear(before, after))
    net = nn.Sequential(*parts)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(gain)
    return net


def train(net: nn.Module, images: Tensor, labels: Tensor, *, steps: int, batch: int, seed: int, rate: float) -> None:
    """Minimise the cross-entropy by Adam."""
    draws = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(net.parameters(), rate)
    for _ in range(steps):
        rows = torch.randint(len(images), (batch,), generator=draws)
        optimiser.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(net(images[rows]), labels[rows]))
        optimiser.step()


def arrays_of(net: nn.Sequential, activation: str) -> Net:
    """Return the net's weights in float64 for the second opinion."""
    layers = [part for part in net if isinstance(part, nn.Linear)]
    weights = tuple(part.weight.detach().double().numpy() for part in layers)
    return Net(weights, tuple(part.bias.detach().double().numpy() for part in layers), activation)


def small_nets(per_kind: int) -> Iterator[Case]:
    """Yield random and trained nets on 8 x 8 digits, in float64, with six images each that they get right."""
    images, labels = (getattr(iq.data.load("digits", "train"), name) for name in ("images", "labels"))
    test = iq.data.load("digits", "test").images
    for activation in MODULES:
        for kind in ("random", "trained"):
            for seed in range(per_kind):
                net = build(
                    (64, *HIDDEN[seed % len(HIDDEN)], 10),
                    activation,
                    seed,
                    GAINS[activation] if kind == "random" else 1.0,
                )
                if kind == "trained":
                    train(net, images, labels, steps=400, batch=100, seed=seed, rate=0.01)
                net = net.double()
                x = test[6 * seed : 6 * seed + 6].double()
                yield activation, kind, net, x, net(x).argmax(1)


def few_inputs(seeds: int) -> Iterator[Case]:
    """Yield random nets with two to six inputs, where the box cuts much of a ball, with twelve points each."""
    for activation in MODULES:
        for sizes in ((2, 8, 8, 3), (3, 5, 5, 3), (6, 8, 8, 3)):
            for seed in range(seeds):
                net = build(sizes, activation, seed, 2.0).double()
                draws = torch.Generator().manual_seed(seed)
                x = torch.rand(12, sizes[0], generator=draws, dtype=torch.float64)
                yield activation, f"{sizes[0]} inputs", net, x, net(x).argmax(1)


# ------------------------------------------------------------------------------------------ what is compared


def library(net: nn.Module, x: Tensor, y: Tensor, norm: float, box: bool) -> tuple[Array, float]:
    """Return the library's radii and the seconds they took."""
    found = iq.bounds.certify(net, x, y, norm=norm, method="crown", box=box)
    return found.radius.numpy(), found.seconds


def second(net: Net, x: Tensor, y: Tensor, norm: float, box: bool) -> tuple[Array, float]:
    """Return the second opinion's radii and the seconds they took."""
    began = time.perf_counter()
    rows = x.flatten(1).double().numpy()
    found = [numpy_crown.radius(net, row, label, norm, box=box) for row, label in zip(rows, y.tolist(), strict=True)]
    return np.array(found), time.perf_counter() - began


def attacked(net: nn.Module, x: Tensor, y: Tensor, radii: Array, norm: float, box: bool) -> Array:
    """Say which images have a wrong label within the radius that 100 steps of projected gradient find."""
    within = torch.from_numpy(np.minimum(radii, 1e3)).to(x.dtype).reshape(-1, *[1] * (x.dim() - 1))
    other = nn.functional.one_hot(y, net(x).shape[1]).bool()
    point, wrong = x.clone(), torch.zeros(len(x), dtype=torch.bool)
    for step in range(100):
        point = point.detach().requires_grad_()
        z = net(point)
        margin = z[other] - z.masked_fill(other, -math.inf).amax(1)
        wrong |= margin <= 0
        (slope,) = torch.autograd.grad(margin.sum(), point)
        length = within * (0.5 * (1 - step / 100) + 0.01)
        if norm == math.inf:
            moved = (point - length * slope.sign() - x).clamp(-within, within)
        else:
            moved = point - length * slope / _norms(slope).clamp(min=1e-30) - x
            moved = moved * (within / _norms(moved).clamp(min=1e-30)).clamp(max=1)
        point = (x + moved).clamp(0, 1) if box else x + moved
    return (wrong & torch.from_numpy((radii > 0) & np.isfinite(radii))).numpy()


def _norms(values: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1)
    return norms.reshape(-1, *[1] * (values.dim() - 1))


def proof(net: Net, x: Array, y: int, radius: float, norm: float, box: bool) -> str:
    """Name the first method that proves the label over the ball of that radius."""
    region = Region(x, radius, norm, box)
    if numpy_crown.margins(net, region, y).min() > 0:
        return "CROWN there"  # beyond a gap of radii without a proof
    if numpy_crown.margins(replace(net, middle=True), region, y).min() > 0:
        return "middle tangents"
    if net.activation == "relu" and norm == math.inf:
        if linear_program.margins(net, region, y).min() > 0:
            return "LP"
        return "MILP" if linear_program.proves(net, region, y) else "REFUTED"
    return "open"


def compared(name: str, net: nn.Sequential, activation: str, x: Tensor, y: Tensor, norm: float, box: bool) -> Row:
    """Return one case: the radii of both, who proves what exceeds the second opinion, and what an attack finds."""
    arrays = arrays_of(net, activation)
    ours, our_seconds = library(net, x, y, norm, box)
    theirs, their_seconds = second(arrays, x, y, norm, box)
    # Where a choice of tangents that mostly beats the paper's exists, the larger radius is the harder demand.
    best = (
        theirs if activation == "relu" else np.maximum(theirs, second(replace(arrays, middle=True), x, y, norm, box)[0])
    )
    rows = x.flatten(1).double().numpy()
    proofs = [
        {"image": i, "ratio": float(ours[i] / theirs[i]) if theirs[i] else math.inf, "by": by}
        for i in np.flatnonzero((ours > LARGER * theirs) & np.isfinite(ours)).tolist()
        for by in [proof(arrays, rows[i], int(y[i]), float(ours[i]), norm, box)]
    ]
    # CROWN's bounds are not monotone: a search that meets the first radius without a proof, and stops, is not looser.
    looser = [
        any(
            numpy_crown.margins(variant, Region(rows[i], float(ours[i]) / WANTED, norm, box), int(y[i])).min() > 0
            for variant in (arrays, replace(arrays, middle=True))
        )
        for i in np.flatnonzero((ours < WANTED * best) & np.isfinite(best)).tolist()
    ]
    return {
        "name": name,
        "norm": norm,
        "box": box,
        "looser": looser,
        "library": ours.tolist(),
        "second": theirs.tolist(),
        "best": best.tolist(),
        "proofs": proofs,
        "attacked": int(attacked(net, x, y, ours, norm, box).sum()),
        "seconds": [our_seconds, their_seconds],
    }


def merged(rows: list[Row]) -> Row:
    """Return one row of the table for the cases of several nets."""
    ours, theirs, best = (np.concatenate([row[key] for row in rows]) for key in ("library", "second", "best"))
    held = (theirs > 0) & np.isfinite(theirs) & np.isfinite(best)
    ratio = ours[held] / theirs[held]
    proofs = [p for row in rows for p in row["proofs"]]
    return {
        "name": rows[0]["name"],
        "norm": str(rows[0]["norm"]),
        "box": rows[0]["box"],
        "nets": len(rows),
        "images": len(ours),
        # Without a radius to divide by: an image that is wrong, or a box that is all of one label.
        "zero in both": int(((ours == 0) & (theirs == 0)).sum()),
        "inf in both": int((np.isinf(ours) & np.isinf(theirs)).sum()),
        "zero or inf in one": int(((ours == 0) ^ (theirs == 0)).sum() + (np.isinf(ours) ^ np.isinf(theirs)).sum()),
        "ratio": {key: float(np.quantile(ratio, q)) if held.any() else 1.0 for key, q in QUANTILES.items()},
        "n": int(held.sum()),
        "share of at least 0.98": float((ratio >= WANTED).mean()) if held.any() else 1.0,
        "least over the better tangents": float((ours[held] / best[held]).min()) if held.any() else 1.0,
        "below 0.98 of the better tangents": sum(len(row["looser"]) for row in rows),
        "of these not by the search": sum(sum(row["looser"]) for row in rows),
        "larger by over 2%": len(proofs),
        "of these proved by": {by: sum(p["by"] == by for p in proofs) for by in sorted({p["by"] for p in proofs})},
        "wrong within the radius": sum(row["attacked"] for row in rows),
        "seconds": [sum(row["seconds"][k] for row in rows) for k in (0, 1)],
    }


def small(nets: Iterator[Case], say: Callable[[str], None]) -> list[Row]:
    """Compare on small nets, those of one activation and kind together."""
    cases: dict[tuple[str, float, bool], list[Row]] = {}
    for activation, kind, net, x, y in nets:
        for norm, box in SETTINGS:
            name = f"{activation}, {kind}"
            cases.setdefault((name, norm, box), []).append(compared(name, net, activation, x, y, norm, box))
        say(name)
    return [merged(rows) for rows in cases.values()]


def mnist(count: int, say: Callable[[str], None]) -> list[Row]:
    """Compare on two nets trained on MNIST, in float64, and in float32, whose rounding the library's radii hold."""
    training, test = iq.data.load("mnist", "train"), iq.data.load("mnist", "test")
    rows = []
    for name, sizes, activation in (
        ("784-100-100-10 sigmoid, MNIST", (784, 100, 100, 10), "sigmoid"),
        ("784-20-20-10 ReLU, MNIST", (784, 20, 20, 10), "relu"),
    ):
        net = build(sizes, activation, 0)
        train(net, training.images, training.labels, steps=2000, batch=100, seed=0, rate=0.003)
        error = float((net(test.images).argmax(1) != test.labels).double().mean())
        say(f"{name}: test error {error:.4f}")
        for dtype in (torch.float64, torch.float32):
            kind = name if dtype == torch.float64 else f"{name}, float32"
            used = copy.deepcopy(net).to(dtype)
            for norm, box in SETTINGS:
                x, y = test.images[:count].to(dtype), test.labels[:count]
                rows.append({**merged([compared(kind, used, activation, x, y, norm, box)]), "test error": error})
                say(f"{kind}, {norm}, {box}")
    return rows


# ------------------------------------------------------------------------------------------ the truth on tiny nets


def exact(nets: int, points: int) -> list[Row]:
    """Compare CROWN, the linear program, the exact minimum and the library on nets 3-5-5-3, norm inf."""
    rows = []
    for box in (True, False):
        radii: dict[str, list[float]] = {"CROWN": [], "LP": [], "library": [], "truth": [], "lower": [], "upper": []}
        steps = {"LP - CROWN": math.inf, "exact - LP": math.inf, "value - exact": -math.inf}
        for seed in range(nets):
            net = build((3, 5, 5, 3), "relu", seed, 2.0).double()
            arrays = arrays_of(net, "relu")
            x = torch.rand(points, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            y = net(x).argmax(1)
            radii["library"] += library(net, x, y, math.inf, box)[0].tolist()
            if box:
                distance = iq.bounds.exact_distance(net, x, y, norm=math.inf)
                radii["lower"] += distance.lower.tolist()
                radii["upper"] += distance.upper.tolist()
            for row, label in zip(x.numpy(), y.tolist(), strict=True):
                radii["CROWN"].append(numpy_crown.radius(arrays, row, label, math.inf, box=box))
                radii["LP"].append(linear_program.relaxed_radius(arrays, row, label, box=box))
                radii["truth"].append(linear_program.exact_radius(arrays, row, label, box=box))
                region = Region(row, min(radii["truth"][-1], 0.5), math.inf, box)
                least = linear_program.exact_margins(arrays, region, label)
                true, value = np.array([m.lower for m in least]), np.array([m.value for m in least])
                relaxed, crown = (part.margins(arrays, region, label) for part in (linear_program, numpy_crown))
                steps["LP - CROWN"] = min(steps["LP - CROWN"], float((relaxed - crown).min()))
                steps["exact - LP"] = min(steps["exact - LP"], float((true - relaxed).min()))
                steps["value - exact"] = max(steps["value - exact"], float(np.abs(value - true).max()))
        rows.append(_against_truth({key: np.array(value) for key, value in radii.items()}, steps, box))
    return rows


def _against_truth(radii: dict[str, Array], steps: dict[str, float], box: bool) -> Row:
    """Return one row of the table of truths; the truth is from below, to 1e-4 of itself."""
    above = radii["truth"] * (1 + 2e-4)
    finite = np.isfinite(radii["truth"])
    row: Row = {
        "box": box,
        "images": len(above),
        "one label only": int((~finite).sum()),
        "margins": steps,
        "beyond the truth": {key: int((radii[key] > above).sum()) for key in ("CROWN", "LP", "library")},
        "over the truth": {
            key: {
                name: float(np.quantile(radii[key][finite] / radii["truth"][finite], q))
                for name, q in QUANTILES.items()
            }
            for key in ("CROWN", "LP", "library")
        },
    }
    if box:
        # `exact_distance` ends with lower >= 0.999 upper, and both must hold the truth between them.
        row["exact_distance wrong"] = int(((radii["lower"] > above) | (radii["truth"] > radii["upper"])).sum())
    return row


def grids(nets: int, points: int, side: int = 401) -> list[Row]:
    """Look at every point of a grid in the library's balls of nets with two inputs, for wrong labels."""
    rows = []
    for activation in MODULES:
        for norm, box in SETTINGS:
            wrong, looked, largest = 0, 0, []
            for seed in range(nets):
                net = build((2, 8, 8, 3), activation, seed, 4.0).double()
                arrays = arrays_of(net, activation)
                x = torch.rand(points, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
                y = net(x).argmax(1)
                for centre, label, r in zip(x.numpy(), y.tolist(), library(net, x, y, norm, box)[0], strict=True):
                    axis = np.linspace(-1, 1, side) * min(r, 1.0 if box else 10.0)  # pixels of the box are within 1
                    step = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
                    within = np.linalg.norm(step, norm, axis=1) <= r
                    grid = centre + step[within]
                    grid = grid[((grid >= 0) & (grid <= 1)).all(1)] if box else grid
                    z = arrays.logits(grid)
                    margin = z[:, label] - np.delete(z, label, axis=1).max(1)
                    wrong += int((margin <= 0).any())
                    looked += len(grid)
                    # How near the smallest margin comes to 0, of the centre's: what the radius leaves unused.
                    z = arrays.logits(centre[None])[0]
                    largest.append(float(margin.min() / (z[label] - np.delete(z, label).max())))
            rows.append(
                {
                    "activation": activation,
                    "norm": str(norm),
                    "box": box,
                    "images": nets * points,
                    "grid points": looked,
                    "balls with a wrong label": wrong,
                    "least margin left": min(largest),
                }
            )
    return rows


# ------------------------------------------------------------------------------------------ command line


def machine() -> str:
    """Name the machine by what anyone may know of it."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = named[0].split(":", 1)[1].strip() if named else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = f"torch {torch.__version__}, NumPy {np.__version__}, SciPy {scipy.__version__}"
    return f"{model}, {cores} core(s); Python {platform.python_version()}, {versions}"


def text_of(results: Row) -> str:
    """Return the tables for a reader."""
    lines = ["The library's certified radii (method crown) beside a second CROWN, in NumPy from the paper"]
    lines += [results["machine"], "", "Ratio: the library's radius over the second opinion's. Wanted: at least 0.98."]
    lines += LEGEND
    for part in ("small nets", "few inputs", "MNIST"):
        if part not in results:
            continue
        lines += ["", part, f"{'net':<40}{'norm':>5}{'box':>5}{'n':>5}" + "".join(f"{q:>8}" for q in QUANTILES)]
        lines[-1] += (
            f"{'>=0.98':>8}{'better':>8}{'below':>7}{'looser':>7}{'>1.02':>7}  {'proved by':<34}"
            + f"{'wrong':>6}{'seconds':>16}"
        )
        for row in results[part]:
            by = ", ".join(f"{count} {name}" for name, count in row["of these proved by"].items()) or "-"
            lines.append(
                f"{row['name']:<40}{row['norm']:>5}{'yes' if row['box'] else 'no':>5}{row['n']:>5}"
                + "".join(f"{value:>8.4f}" for value in row["ratio"].values())
                + f"{row['share of at least 0.98']:>8.1%}{row['least over the better tangents']:>8.4f}"
                + f"{row['below 0.98 of the better tangents']:>7}{row['of these not by the search']:>7}"
                + f"{row['larger by over 2%']:>7}  {by:<34}"
                + f"{row['wrong within the radius']:>6}{row['seconds'][0]:>8.1f}{row['seconds'][1]:>8.1f}"
            )
        zero, whole, one = (
            sum(row[k] for row in results[part]) for k in ("zero in both", "inf in both", "zero or inf in one")
        )
        lines.append(f"beside these, radii that are 0 in both: {zero}, inf in both: {whole}, 0 or inf in one: {one}")
    if "exact" in results:
        lines += ["", "Tiny ReLU nets 3-5-5-3, norm inf: over the exact radius of a mixed-integer program"]
        lines.append(
            f"{'':<10}{'box':>5}{'n':>5}" + "".join(f"{q:>8}" for q in QUANTILES) + f"{'beyond the truth':>18}"
        )
        for row in results["exact"]:
            for key, quantiles in row["over the truth"].items():
                values = "".join(f"{value:>8.4f}" for value in quantiles.values())
                box, n = "yes" if row["box"] else "no", row["images"] - row["one label only"]
                lines.append(f"{key:<10}{box:>5}{n:>5}{values}{row['beyond the truth'][key]:>18}")
            steps = ", ".join(f"{key} {value:.1e}" for key, value in row["margins"].items())
            lines.append(
                f"  margins at the exact radius, extremes (the first two wanted: at least -{PROGRAM:g}): {steps}"
            )
            if "exact_distance wrong" in row:
                lines.append(f"  exact_distance whose bounds do not hold the truth: {row['exact_distance wrong']}")
    if "grids" in results:
        lines += ["", "Nets 2-8-8-3, every point of a grid in the library's ball"]
        lines.append(
            f"{'':<10}{'norm':>5}{'box':>5}{'balls':>7}{'points':>11}{'wrong balls':>13}{'least margin left':>19}"
        )
        for row in results["grids"]:
            lines.append(
                f"{row['activation']:<10}{row['norm']:>5}{'yes' if row['box'] else 'no':>5}{row['images']:>7}"
                f"{row['grid points']:>11}{row['balls with a wrong label']:>13}{row['least margin left']:>19.2e}"
            )
    return "\n".join([*lines, "", *results["notes"]]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--what", nargs="+", choices=["small", "mnist", "tiny"], default=["small", "mnist", "tiny"])
    parser.add_argument("--per-kind", type=int, default=5, help="small nets of each activation, random and trained")
    parser.add_argument("--images", type=int, default=60, help="MNIST test images")
    parser.add_argument("--out", type=Path, help="write .json and .txt there, beside the parts of earlier runs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()

    def say(what: str) -> None:
        print(f"{time.perf_counter() - began:7.1f} s  {what}", file=sys.stderr, flush=True)

    results: Row = {}
    if arguments.out and arguments.out.with_suffix(".json").exists():
        results = json.loads(arguments.out.with_suffix(".json").read_text())
    parts: dict[str, dict[str, Callable[[], list[Row]]]] = {
        "small": {
            "small nets": lambda: small(small_nets(arguments.per_kind), say),
            "few inputs": lambda: small(few_inputs(4), say),
        },
        "mnist": {"MNIST": lambda: mnist(arguments.images, say)},
        "tiny": {"exact": lambda: exact(nets=8, points=6), "grids": lambda: grids(nets=4, points=5)},
    }
    results |= {"machine": machine(), "notes": [PEER]}
    for what in arguments.what:
        for name, part in parts[what].items():
            began = time.perf_counter()
            results[name] = part()
            results.setdefault("seconds", {})[name] = time.perf_counter() - began
            say(name)
            if arguments.out:
                arguments.out.parent.mkdir(parents=True, exist_ok=True)
                arguments.out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
                arguments.out.with_suffix(".txt").write_text(text_of(results))
    print(text_of(results))


if __name__ == "__main__":
    main()

"""How tight, how exact, how sound and how fast certificates are; one JSON file for each question.

python benchmarks/certify.py tightness --net FC100-100-10 --count 1000
python benchmarks/certify.py tightness --net FC100-100-10-brief --count 1000
python benchmarks/certify.py tightness --net FC100-100-10-adam --count 1000
python benchmarks/certify.py tightness --net FC100-100-10-adam --count 1000 --device cuda
python benchmarks/certify.py tightness --net penalised --count 1000 --methods product crown curvature
python benchmarks/certify.py exactness --net 784-20-20-10 --count 100
python benchmarks/certify.py constants --net 784-20-20-10
python benchmarks/certify.py soundness --count 10000
python benchmarks/certify.py soundness --count 2000 --method curvature

The nets are trained here from fixed seeds on MNIST; images are the first test images that a net gets right.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

import torch
from torch import nn

from intriguing import attacks, bounds, data, memory
from intriguing.nets.load import Model
from intriguing.records import Inputs
from intriguing.run.environment import environment
from intriguing.training import recipes
from intriguing.training.lipschitz import train_penalised

NETS = ("FC100-100-10", "FC100-100-10-brief", "FC100-100-10-adam", "784-20-20-10", "penalised")
RESULTS = Path(__file__).parent / "results"
TESTS = Path(__file__).parents[1] / "tests"


def _machine(device: torch.device) -> str:
    found = environment(device)
    card = "" if device.type == "cpu" else f"{found['device']}, "
    return card + f"{found['cpu']}, {found['cpus']} cores, torch {found['torch']}"


def _quantiles(values: torch.Tensor) -> dict[str, float]:
    return {f"q{q}": float(values.quantile(q / 100)) for q in (0, 5, 50, 95, 100)}


def _trained(name: str, sets: dict[str, data.ImageSet]) -> nn.Module:
    """Return a net of `NETS`, trained from a fixed seed."""
    inputs, test = Inputs(data=sets.__getitem__), sets["test"]
    if name == "784-20-20-10":
        return _adam(sets["train"], nn.ReLU(), 20, rate=2e-3, epochs=5, batch=200)
    if name == "FC100-100-10-brief":
        return _adam(sets["train"], nn.Sigmoid(), 100, rate=3e-3, epochs=5, batch=200)
    if name == "FC100-100-10-adam":  # until no training image is answered wrongly
        return _adam(sets["train"], nn.Sigmoid(), 100, rate=1e-3, epochs=40, batch=100)
    if name == "FC100-100-10":
        record = recipes.train(inputs, net="FC100-100-10", seed=0)
    else:
        record = train_penalised(inputs, seed=0, strength=0.02, decay=[0.001] * 3)
    return recipes.restore(record, "FC100-100-10", tuple(test.images.shape[1:]), 10)


def _adam(
    train: data.ImageSet, activation: nn.Module, width: int, *, rate: float, epochs: int, batch: int
) -> nn.Module:
    """Return a plain net of two hidden layers after some epochs of Adam."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(784, width), activation, nn.Linear(width, width), activation, nn.Linear(width, 10)
    )
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    for _ in range(epochs):
        for ids in torch.randperm(len(train.labels)).split(batch):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(train.images[ids]), train.labels[ids]).backward()
            optimiser.step()
    return net.requires_grad_(False).eval()


def _correct(net: nn.Module, test: data.ImageSet, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    right = (Model(net).predict(test.images) == test.labels).nonzero().squeeze(1)[:count]
    return test.images[right], test.labels[right]


def tightness(
    net: nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int, methods: list[str] | None
) -> dict[str, object]:
    """Certified over found, L2, found over all targets; by all methods, or by some."""
    found = attacks.Nearest(budget=2000)(net, x, y).distance
    rows: dict[str, object] = {"images": len(x), "found": _quantiles(found)}
    radii: dict[str, torch.Tensor] = {}
    settings: dict[str, dict[str, object]] = {
        "product": {"method": "product"},
        "interval": {"method": "interval"},
        "crown without the box": {"box": False},
        "crown": {},
        "crown-optimised": {"method": "crown-optimised", "steps": steps},
    }
    if any(isinstance(part, nn.Sigmoid) for part in net.modules()):
        settings["curvature"] = {"method": "curvature"}
    if methods:
        settings = {name: setting for name, setting in settings.items() if name in methods}
    for name, setting in settings.items():
        began = time.process_time()
        c = bounds.certify(net, x, y, 2, **setting)
        radii[name] = c.radius
        rows[name] = {
            "ratio": _quantiles(c.radius / found),
            "above found": int((c.radius > found).sum()),
            "seconds": c.seconds,
            "processor seconds": time.process_time() - began,
            "rounding": _quantiles(c.rounding),
        }
    for better in ("crown-optimised", "curvature"):
        if better in radii and "crown" in radii:
            rows[f"images on which {better} is below crown"] = int((radii[better] < radii["crown"]).sum())
    return {"steps of crown-optimised": steps, **rows}


def exactness(net: nn.Module, x: torch.Tensor, y: torch.Tensor, seconds: float) -> dict[str, object]:
    """Branch and bound to the end, and what the attack makes of it."""
    exact = bounds.exact_distance(net, x, y, 2, seconds=seconds)
    found = attacks.Nearest(budget=4000)(net, x, y).distance
    radius = bounds.certify(net, x, y).radius
    ratio = found / exact.upper
    return {
        "images": len(x),
        "finished": float(exact.finished.double().mean()),
        "lower over witness": _quantiles(exact.lower / exact.upper),
        "share at 0.999": float((exact.lower >= 0.999 * exact.upper).double().mean()),
        "found over exact": _quantiles(ratio),
        "within 1%": float((ratio <= 1.01).double().mean()),
        "crown over exact": _quantiles(radius / exact.upper),
        "branches": _quantiles(exact.branches.double()),
        "seconds": _quantiles(exact.seconds),
    }


def constants(net: nn.Module, x: torch.Tensor) -> dict[str, object]:
    """Every bound of the Lipschitz constant, with its cost; those that need cvxpy where it is installed."""
    rows: dict[str, object] = {}
    for method in ("ascent", "lipsdp", "lipsdp-layer", "pairs", "product"):
        try:
            found = bounds.lipschitz(net, method, shape=x.shape[1:])
        except ValueError as error:
            rows[method] = str(error)
            continue
        rows[method] = {"value": found.value, "side": found.side, "seconds": found.seconds}
    return rows


def soundness(count: int, method: str) -> dict[str, object]:
    """Search for adversarial examples inside certified radii of random and trained nets, in every norm of a method."""
    sys.path.insert(0, str(TESTS / "bounds"))
    import soundness as search  # the tests' own search and nets

    triples = {"untrained": 0, "trained": 0}
    caught = {"random points and gradient ascent": 0, "attacks of the library": 0}
    closest, round_ = 0.0, 0
    x, truth = search.digits(50)
    while sum(triples.values()) < count:
        for kind in triples:
            for name, model in (search.smooth_nets if method == "curvature" else search.small_nets)(round_).items():
                if kind == "trained":
                    if name == "binary":  # ten classes are learnt
                        continue
                    model = Model(search.trained(model.net, seed=round_), mean=model.mean, std=model.std)
                y = truth if kind == "trained" else model.predict(x)
                for norm in (2.0,) if method == "curvature" else (2.0, math.inf):
                    radius = bounds.certify(model, x, y, norm, tolerance=0.02, method=method).radius
                    inside = search.violations(model, x, y, radius, norm, steps=60, seed=round_)
                    caught["random points and gradient ascent"] += int(inside.sum())
                    attack = attacks.Nearest(budget=180) if norm == 2 else attacks.FMN(norm=math.inf, budget=180)
                    draw = torch.Generator().manual_seed(round_)
                    found = attack(model, x, y, generator=draw).size_in(norm)
                    certified = radius > 0
                    caught["attacks of the library"] += int((found < radius)[certified].sum())
                    triples[kind] += int(certified.sum())
                    ratio = (radius / found)[certified & torch.isfinite(radius)]
                    closest = max(closest, float(ratio.max()) if len(ratio) else 0.0)
        round_ += 1
    return {
        "triples": triples,
        "adversarial examples inside": caught,
        "evaluations of each search": 180,
        "largest radius over distance found": closest,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=("tightness", "exactness", "constants", "soundness"))
    parser.add_argument("--net", choices=NETS, default=NETS[0])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--steps", type=int, default=15, help="of crown-optimised")
    parser.add_argument("--methods", nargs="+", help="of tightness; all by default")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each image of exactness")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu or cuda")
    parser.add_argument("--method", choices=("crown", "curvature"), default="crown", help="of soundness")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    memory.keep_freed()
    if given.question == "soundness":
        rows = {"method": given.method, **soundness(given.count, given.method)}
    else:
        sets = {split: data.load("mnist", split) for split in ("train", "test")}
        net = _trained(given.net, sets)
        x, y = (found.to(given.device) for found in _correct(net, sets["test"], given.count))
        net.to(given.device)
        if given.question == "tightness":
            rows = tightness(net, x, y, given.steps, given.methods)
        elif given.question == "exactness":
            rows = exactness(net, x, y, given.seconds)
        else:
            rows = constants(net, x)
    RESULTS.mkdir(exist_ok=True)
    rows = {"machine": _machine(given.device), "threads": given.threads, **rows}
    of = given.net if given.question != "soundness" else given.method
    name = given.question if of == "crown" else f"{given.question}_{of}"
    name += "" if given.device.type == "cpu" else f"_{given.device.type}"
    (RESULTS / f"certify_{name}.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

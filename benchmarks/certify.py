"""How tight, how exact, how sound and how fast certificates are; one JSON file for each question.

python benchmarks/certify.py tightness net.pt images.pt --count 1000
python benchmarks/certify.py exactness net.pt images.pt --count 100
python benchmarks/certify.py constants net.pt images.pt
python benchmarks/certify.py soundness --count 10000

`net.pt` is a module saved by `torch.save`, `images.pt` a pair (images (N, C, H, W) in [0, 1], labels (N,)).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from intriguing import attacks, bounds
from intriguing.nets.load import Model

RESULTS = Path(__file__).parent / "results"
TESTS = Path(__file__).parents[1] / "tests"


def _quantiles(values: torch.Tensor) -> dict[str, float]:
    return {f"q{q}": float(values.quantile(q / 100)) for q in (0, 5, 50, 95, 100)}


def _correct(net: torch.nn.Module, images: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = torch.load(images, weights_only=True)
    right = (Model(net).predict(x) == y).nonzero().squeeze(1)[:count]
    return x[right], y[right]


def tightness(net: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int) -> dict[str, object]:
    """Certified over found, L2, found over all targets."""
    found = attacks.LBFGS(target="all")(net, x, y).distance
    rows: dict[str, object] = {"images": len(x), "found": _quantiles(found)}
    settings = {
        "product": {"method": "product"},
        "interval": {"method": "interval"},
        "crown without the box": {"box": False},
        "crown": {},
        f"crown-optimised, {steps} steps": {"method": "crown-optimised", "steps": steps},
    }
    for name, setting in settings.items():
        began = time.process_time()
        c = bounds.certify(net, x, y, 2, **setting)
        rows[name] = {
            "ratio": _quantiles(c.radius / found),
            "above found": int((c.radius > found).sum()),
            "seconds": c.seconds,
            "processor seconds": time.process_time() - began,
            "rounding": _quantiles(c.rounding),
        }
    return rows


def exactness(net: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, seconds: float) -> dict[str, object]:
    """Branch and bound to the end, and what the attack makes of it."""
    exact = bounds.exact_distance(net, x, y, 2, seconds=seconds)
    found = attacks.LBFGS(target="all")(net, x, y).distance
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


def constants(net: torch.nn.Module, x: torch.Tensor) -> dict[str, object]:
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


def soundness(count: int) -> dict[str, object]:
    """Search for adversarial examples inside certified radii of random nets, in both norms."""
    sys.path.insert(0, str(TESTS / "bounds"))
    import soundness as search  # the tests' own search and nets

    triples = caught = round_ = 0
    x, _ = search.digits(50)
    while triples < count:
        for model in search.small_nets(round_).values():
            y = model.predict(x)
            for norm in (2, float("inf")):
                radius = bounds.certify(model, x, y, norm, tolerance=0.02).radius
                caught += int(search.violations(model, x, y, radius, norm, steps=60, seed=round_).sum())
                triples += int((radius > 0).sum())
        round_ += 1
    return {"triples": triples, "adversarial examples inside": caught, "evaluations each": 3 * 60}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=("tightness", "exactness", "constants", "soundness"))
    parser.add_argument("net", nargs="?")
    parser.add_argument("images", nargs="?")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--steps", type=int, default=40, help="of crown-optimised")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each image of exactness")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.question == "soundness":
        rows = soundness(given.count)
    else:
        net = torch.load(given.net, weights_only=False).eval()
        x, y = _correct(net, given.images, given.count)
        if given.question == "tightness":
            rows = tightness(net, x, y, given.steps)
        elif given.question == "exactness":
            rows = exactness(net, x, y, given.seconds)
        else:
            rows = constants(net, x)
    RESULTS.mkdir(exist_ok=True)
    name = given.question if given.net is None else f"{given.question}_{Path(given.net).stem}"
    (RESULTS / f"certify_{name}.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

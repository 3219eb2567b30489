"""How near the nearest attack comes to the optimum on ReLU nets whose pieces can be enumerated.

    python benchmarks/enumerated.py --seeds 300 400 --out benchmarks/results/enumerated.txt

Each seed is a net of 6 inputs, 6 units and 3 classes and 10 images of its box, all of weights and pixels drawn at
random; the optimum of each image comes from 64 quadratic programs (`tests/truth.py`), which takes most of the time.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch

from intriguing.experiments.statistics import proportion

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from enumerated import over_optimal

CLOSE = 1.001  # found over optimal
IMAGES = 10  # of each net


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs=2, type=int, default=(300, 400), metavar=("FIRST", "END"))
    parser.add_argument("--passes", type=int, default=2000, help="forwards plus backwards per image")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    began, missed = time.perf_counter(), []
    first, end = arguments.seeds
    for seed in range(first, end):
        for place, ratio in enumerate(over_optimal(seed, IMAGES, arguments.passes)):
            if ratio < 1 - 1e-9:
                raise SystemExit(f"seed {seed}, image {place}: {ratio} of the optimum, which is thus none")
            if ratio > CLOSE:
                missed.append((seed, place, ratio))
        print(f"seed {seed}: {len(missed)} missed so far", file=sys.stderr, flush=True)
    n = IMAGES * (end - first)
    share = proportion(n - len(missed), n)
    lines = [
        f"Found over optimal on enumerated ReLU nets, {arguments.passes} passes per image, seeds {first} to {end - 1}",
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}; {platform.machine()}, torch {torch.__version__}, "
        f"NumPy {np.__version__}; {time.perf_counter() - began:.0f} s",
        "",
        f"at most {CLOSE}: {n - len(missed)} of {n} images, {share.measured:.4f} [{share.low:.4f}, {share.high:.4f}]"
        "   (wanted: 0.99)",
        *(f"seed {seed}, image {place}: {ratio:.4f}" for seed, place, ratio in missed),
    ]
    print("\n".join(lines))
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

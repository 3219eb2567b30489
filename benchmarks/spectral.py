"""How long the exact operator norms of AlexNet's five convolutions take at full width and 224 pixels.

    python benchmarks/spectral.py --out benchmarks/results/spectral.txt

Weights are drawn at random; the time does not depend on them. Peak memory is that of a process that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from intriguing.bounds.operators import circular_norm, safe_grid
from intriguing.nets.alexnet import alexnet
from intriguing.rng import generator

SIDES = {"conv1": 224, "conv2": 27, "conv3": 13, "conv4": 13, "conv5": 13}
LIMIT_SECONDS, LIMIT_BYTES = 60, 2 * 2**30


def timed(work: Callable[[], object]) -> float:
    """Return the wall time of a call in seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def peak_memory() -> int:
    """Return the most bytes this process ever held."""
    status = Path("/proc/self/status")
    if status.exists():
        # The kernel's count for this program alone; getrusage also remembers the parent that started it.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def layers(seed: int) -> dict[str, nn.Conv2d]:
    """Return the five convolutions, with weights."""
    # The dense layers are not looked at; a hundredth of their units leaves memory to what is measured.
    net = alexnet((3, 224, 224), 10, dense=0.01, generator=generator("benchmark/spectral", seed))
    return {name: net.get_submodule(name) for name in SIDES}


def grid_of(name: str, layer: nn.Conv2d) -> tuple[int, int]:
    """Return the circle on which a layer is bounded."""
    side, padding = SIDES[name], tuple((pad, pad) for pad in layer.padding)
    return safe_grid((side, side), layer.kernel_size, stride=layer.stride, padding=padding, dilation=layer.dilation)


def child(seed: int, repeats: int) -> None:
    """Take all five norms in this process alone and print times, norms and peak memory."""
    rows = []
    before = peak_memory()
    for name, layer in layers(seed).items():
        grid = grid_of(name, layer)
        norm = circular_norm(layer.weight, grid, stride=layer.stride)
        seconds = statistics.median(
            timed(lambda: circular_norm(layer.weight, grid, stride=layer.stride))  # noqa: B023 -- called at once
            for _ in range(repeats)
        )
        rows.append({"name": name, "grid": grid, "norm": norm.value, "residual": norm.residual, "seconds": seconds})
    print(json.dumps({"rows": rows, "peak": peak_memory(), "before": before}))


def machine() -> str:
    """Name the machine by what anyone may know of it."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = named[0].split(":", 1)[1].strip() if named else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cores} core(s); Python {platform.python_version()}, torch {torch.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="more than one is slower where cores are shared")
    parser.add_argument("--repeats", type=int, default=3, help="timings of each layer, of which the median counts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the table there too")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.child:
        child(arguments.seed, arguments.repeats)
        return
    command = [sys.executable, __file__, "--child", "--threads", str(arguments.threads)]
    command += ["--repeats", str(arguments.repeats), "--seed", str(arguments.seed)]
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    convolutions = layers(arguments.seed)
    lines = ["Exact norms of AlexNet's convolutions, full width, images of 224 pixels", machine()]
    lines += [f"{arguments.threads} thread(s), random weights, median of {arguments.repeats}", ""]
    lines.append(
        f"{'layer':<8}{'weights':>18}{'stride':>8}{'circle':>12}{'norm':>12}{'give or take':>14}{'seconds':>10}"
    )
    for row in result["rows"]:
        layer = convolutions[row["name"]]
        shape, circle = "x".join(map(str, layer.weight.shape)), "x".join(map(str, row["grid"]))
        lines.append(
            f"{row['name']:<8}{shape:>18}{layer.stride[0]:>8}{circle:>12}{row['norm']:>12.6f}{row['residual']:>14.0e}"
            f"{row['seconds']:>10.2f}"
        )
    total = sum(row["seconds"] for row in result["rows"])
    lines += [
        "",
        f"all five: {total:.1f} s   (wanted: at most {LIMIT_SECONDS} s on 2 cores)",
        f"peak memory: {result['peak'] / 2**20:,.0f} MiB, of which {result['before'] / 2**20:,.0f} MiB before the first"
        f"   (wanted: at most {LIMIT_BYTES / 2**20:,.0f} MiB)",
    ]
    print("\n".join(lines))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

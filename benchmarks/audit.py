"""What an audit of many images costs: peak memory against their number, and a run that is killed and resumed.

    python benchmarks/audit.py --images 500 10000 --kill --out benchmarks/results/audit.txt

The images are MNIST's test set, read from the folder INTRIGUING_DATA; the net is 784-100-10, trained here for a moment
from a fixed seed. Every audit runs in a process of its own, whose peak of resident memory the system tells. With
`--kill` the largest one is run again, killed twice by SIGKILL and resumed; its rows must equal those of the
uninterrupted run.
"""

from __future__ import annotations

import argparse
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import pyarrow.parquet
import torch
from torch import nn

from intriguing import auditing, data


def build() -> nn.Module:
    """Return the net; `intriguing audit --model benchmarks/audit.py:build` finds it."""
    draw = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=draw))
    train = data.load("mnist", "train", limit=5000)
    for start in [*range(0, 5000, 100)] * 4:
        images, labels = train.images[start : start + 100], train.labels[start : start + 100]
        loss = nn.functional.cross_entropy(net(images), labels)
        gradients = torch.autograd.grad(loss, list(net.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(net.parameters(), gradients, strict=True):
                parameter.sub_(0.3 * gradient)
    return net


def work(out: Path, images: int, attack: str, budget: int) -> None:
    """Run one audit here, printing each step, and the peak of memory at the end."""
    torch.set_num_threads(1)
    before = _peak()
    start = time.perf_counter()

    def told(event: object) -> None:
        sys.stdout.write(f"{event.kind}\n")  # type: ignore[attr-defined]
        sys.stdout.flush()

    outcome = auditing.audit(
        f"{__file__}:build", "mnist", images=images, attacks=[attack], budget=budget, out=out, workers=1, progress=told
    )
    seconds = time.perf_counter() - start
    accuracy, median = (outcome.figures[name]["value"] for name in ("clean_accuracy", "median_l2"))
    sys.stdout.write(f"{before:.0f} {_peak():.0f} {seconds:.1f} {accuracy:.4f} {median:.4f}\n")


def run(out: Path, images: int, attack: str, budget: int, *, kill_after: int | None = None) -> list[str]:
    """Run one audit in a process of its own; return the last line it printed, split."""
    command = [sys.executable, __file__, "--work", str(out), "--images", str(images), "--attack", attack]
    process = subprocess.Popen([*command, "--budget", str(budget)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    finished, line = 0, ""
    for line in process.stdout:
        finished += line.startswith("finished")
        if kill_after is not None and finished == kill_after:
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    if kill_after is None and process.returncode:
        raise SystemExit(f"an audit ended with exit code {process.returncode}")
    return line.split()


def report(counts: Sequence[int], attack: str, budget: int, *, kill: bool) -> list[str]:
    """Return the lines of the report."""
    lines = [
        f"{date.today().isoformat()}, {platform.machine()}, torch {torch.__version__}, one thread",
        f"MNIST test images, net 784-100-10, attack {attack}, budget {budget}",
        "images  MB at start  MB at peak  seconds  clean accuracy  median L2",
    ]
    with tempfile.TemporaryDirectory() as home:
        peaks = []
        for count in counts:
            before, peak, seconds, accuracy, median = run(Path(home) / f"run-{count}", count, attack, budget)
            peaks.append(float(peak))
            lines.append(f"{count:6}  {before:>11}  {peak:>10}  {seconds:>7}  {accuracy:>14}  {median:>9}")
        lines.append(f"peak of the largest above that of the smallest: {peaks[-1] - peaks[0]:.0f} MB")
        if kill:
            out = Path(home) / "killed"
            for after in (5, 10):
                run(out, counts[-1], attack, budget, kill_after=after)
            run(out, counts[-1], attack, budget)
            tables = [
                pyarrow.parquet.read_table(place / "rows.parquet") for place in (out, out.parent / f"run-{counts[-1]}")
            ]
            same = tables[0].equals(tables[1])
            lines.append(f"killed twice and resumed: {tables[0].num_rows} rows, {'identical' if same else 'DIFFERENT'}")
    return lines


def _peak() -> float:
    """Return the largest resident memory so far, in MB; Linux tells it in units of 1,024 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[500, 10_000])
    parser.add_argument("--attack", default="lbfgs")
    parser.add_argument("--budget", type=int, default=60)
    parser.add_argument("--kill", action="store_true", help="run the largest again, killed twice and resumed")
    parser.add_argument("--out", type=Path, help="write the report there too")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.work is not None:
        work(chosen.work, chosen.images[0], chosen.attack, chosen.budget)
        return
    text = "\n".join(report(chosen.images, chosen.attack, chosen.budget, kill=chosen.kill)) + "\n"
    sys.stdout.write(text)
    if chosen.out is not None:
        chosen.out.write_text(text)


if __name__ == "__main__":
    main()

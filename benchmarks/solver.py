"""How fast the batched solver is: against SciPy row by row, against bare gradients, and as rows grow.

    python benchmarks/solver.py --what scipy overhead scale --out benchmarks/results/solver.txt
    python benchmarks/solver.py --device cuda --slots 10000 --what scipy overhead scale

The objective is the attack's, c |x - x0|^2 + cross-entropy of a random wrong class, in the box [0, 1], on the net
FC100-100-10 trained here for a moment. MNIST is read from the folder INTRIGUING_DATA; `--data digits` takes
scikit-learn's embedded scans instead. Every ratio compares timings of one run, taken in turns.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import scipy
import scipy.optimize
import torch
from torch import nn
from torch.nn import functional

from intriguing import optim

C = 0.1  # near the largest c at which the minimiser reaches its target on MNIST, where an attack spends its time
MEMORY = 8
TOLERANCE = 1e-5

Objective = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


# ------------------------------------------------------------------------------------------ nets and data


def load(name: str) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int]]:
    """Return images (N, n) in [0, 1], labels (N,) and the side lengths of an image."""
    if name == "digits":
        from sklearn.datasets import load_digits

        data = load_digits()
        return torch.from_numpy(data.data).float() / 16, torch.from_numpy(data.target).long(), (8, 8)
    import pyarrow.parquet
    from PIL import Image

    table = pyarrow.parquet.read_table(Path(os.environ["INTRIGUING_DATA"]) / "mnist" / "train.parquet")
    files = table.column("image").to_pylist()
    pictures = np.stack([np.asarray(Image.open(io.BytesIO(f["bytes"]))).reshape(-1) for f in files])
    return torch.from_numpy(pictures).float() / 255, torch.tensor(table.column("label").to_pylist()), (28, 28)


def train_fc(images: torch.Tensor, labels: torch.Tensor, steps: int = 3_000) -> nn.Sequential:
    """Return FC100-100-10 (sigmoid) after a moment of Adam."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(images.shape[1], 100), nn.Sigmoid(), nn.Linear(100, 100), nn.Sigmoid(), nn.Linear(100, 10)
    )
    net.to(images.device)
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(steps):
        batch = torch.randint(len(images), (128,))
        optimiser.zero_grad()
        functional.cross_entropy(net(images[batch]), labels[batch]).backward()
        optimiser.step()
    return net.requires_grad_(False)


def convolutional(side: tuple[int, int], channels: int) -> nn.Sequential:
    """Return an untrained convolutional net; only its cost matters."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (1, *side)),
        nn.Conv2d(1, channels, 5, padding=2),
        nn.ReLU(),
        nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(2 * channels, 2 * channels, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(10),
    )


def bare(net: nn.Module, x: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One forward and one backward pass: cross-entropy per row and its gradient."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        loss = functional.cross_entropy(net(x), targets, reduction="none")
        (gradient,) = torch.autograd.grad(loss.sum(), x)
    return loss.detach(), gradient


def attack(net: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> Objective:
    """Return the attack's objective over rows of `images`."""
    memory = images[:0]

    def fun(x: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal memory
        loss, gradient = bare(net, x, targets[rows])
        if len(memory) < len(x):  # fresh memory at every call costs more than what is done in it
            memory = torch.empty_like(x)
        r = torch.index_select(images, 0, rows, out=memory[: len(x)])
        torch.sub(x, r, out=r)
        return loss + C * torch.linalg.vector_norm(r, dim=1).square(), gradient.add_(r, alpha=2 * C)

    return fun


def wrong_targets(labels: torch.Tensor) -> torch.Tensor:
    """Return a uniform wrong class per label."""
    return (labels + torch.randint(1, 10, labels.shape, generator=torch.Generator().manual_seed(1)).to(labels)) % 10


def rows_of(images: torch.Tensor, labels: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `count` rows in a random order; a set that is too small is repeated."""
    order = torch.cat([torch.randperm(len(images), generator=torch.Generator().manual_seed(s)) for s in range(64)])
    return images[order[:count]], labels[order[:count]]


def solve(fun: Objective, images: torch.Tensor, **options: object) -> optim.Solution:
    """Minimise from the images themselves, in the box of pixels."""
    chosen = {"memory": MEMORY, "tolerance": TOLERANCE, "max_evaluations": 1_000} | options
    return optim.minimize(fun, images, lower=0.0, upper=1.0, **chosen)


def now() -> float:
    """Return the time at which all that was begun is done, in seconds."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(work: Callable[[], object]) -> float:
    """Return the wall time of a call in seconds."""
    began = now()
    work()
    return now() - began


# ------------------------------------------------------------------------------------------ three questions


def against_scipy(images: torch.Tensor, labels: torch.Tensor, rows: int, scipy_rows: int) -> list[str]:
    """Rows per second of both, each with its faster thread count, and how far their objectives are apart."""
    net = train_fc(images, labels)
    x0, y = rows_of(images, labels, rows)
    targets = wrong_targets(y)
    fun = attack(net, x0, targets)
    on_cpu = attack(train_copy(net).float(), x0.cpu(), targets.cpu())
    solve(fun, x0[:64])  # warms up
    ours = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        ours[threads] = statistics.median(timed(lambda: solve(fun, x0)) for _ in range(3)) / rows
    solution = solve(fun, x0)

    def by_scipy(row: int) -> scipy.optimize.OptimizeResult:
        index = torch.tensor([row])

        def one(x: np.ndarray) -> tuple[float, np.ndarray]:
            f, g = on_cpu(torch.from_numpy(x.astype(np.float32))[None], index)
            return f.item(), g[0].double().numpy()

        return scipy.optimize.minimize(
            one,
            x0[row].double().cpu().numpy(),
            jac=True,
            method="L-BFGS-B",
            bounds=scipy.optimize.Bounds(0.0, 1.0),
            options={"maxcor": MEMORY, "gtol": TOLERANCE, "maxfun": 1_000, "maxiter": 1_000},
        )

    by_scipy(0)
    theirs = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        began = time.perf_counter()
        found = [by_scipy(row) for row in range(scipy_rows)]
        theirs[threads] = (time.perf_counter() - began) / scipy_rows
    index = torch.arange(scipy_rows)
    judge = attack(train_copy(net), x0.double().cpu(), targets.cpu())
    mine = judge(solution.x[:scipy_rows].double().cpu(), index)[0]
    other = judge(torch.from_numpy(np.stack([f.x for f in found])).clamp(0, 1), index)[0]
    apart = (mine - other) / other.abs()
    best, worst = min(ours.values()), min(theirs.values())
    lines = ["SciPy's L-BFGS-B once per row against all rows at once (FC100-100-10, attack objective)", ""]
    lines += [f"{'':34}{'batched':>12}{'SciPy':>12}", f"{'rows timed':34}{rows:>12}{scipy_rows:>12}"]
    for threads in (1, 2):
        lines.append(
            f"{f'rows per second, {threads} thread(s)':34}{1 / ours[threads]:>12.1f}{1 / theirs[threads]:>12.1f}"
        )
    evaluations = statistics.fmean(f.nfev for f in found)
    lines.append(f"{'evaluations per row':34}{solution.evaluations.double().mean().item():>12.1f}{evaluations:>12.1f}")
    lines.append(f"{'mean final objective, same rows':34}{mine.mean().item():>12.5f}{other.mean().item():>12.5f}")
    lines += [
        "",
        f"rows per second, faster over faster: {worst / best:.1f} times   (wanted: at least 20)",
        f"median relative difference of final objectives: {apart.abs().median().item():.1e}"
        f"   (wanted: at most 1e-3; signed {apart.median().item():+.1e})",
        f"how the rows ended: {ended(solution)}",
    ]
    return lines


def train_copy(net: nn.Sequential) -> nn.Sequential:
    """Return a copy of the net in float64 on the CPU."""
    copy = train_fc(torch.zeros(1, net[0].in_features), torch.zeros(1, dtype=torch.int64), steps=0)
    copy.load_state_dict(net.state_dict())
    return copy.double()


def ended(solution: optim.Solution) -> str:
    """Count the rows of every status."""
    codes, counts = solution.status.unique(return_counts=True)
    return ", ".join(
        f"{n} {optim.Status(c).name.lower()}" for c, n in zip(codes.tolist(), counts.tolist(), strict=True)
    )


def two_loop(sizes: Sequence[int], like: torch.Tensor) -> float:
    """Time of a plain two-loop recursion over MEMORY pairs at these batch sizes (Nocedal 1980)."""
    largest, n = max(sizes), like.shape[1]

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=like.device)

    S, Y, rho, g = (random(MEMORY, largest, n), random(MEMORY, largest, n), random(MEMORY, largest, 1),
                    random(largest, n))  # fmt: skip

    def once(b: int) -> None:
        q, alphas = g[:b].clone(), []
        for i in reversed(range(MEMORY)):
            alphas.append(rho[i, :b] * (S[i, :b] * q).sum(1, keepdim=True))
            q.sub_(alphas[-1] * Y[i, :b])
        for i in range(MEMORY):
            q.add_(S[i, :b] * (alphas[-1 - i] - rho[i, :b] * (Y[i, :b] * q).sum(1, keepdim=True)))

    once(largest)
    return timed(lambda: [once(b) for b in sizes])


class _Drained(Exception):  # noqa: N818 -- an end, not an error
    """No row waits any more, so batches begin to shrink."""


def overhead_of(net: nn.Module, x0: torch.Tensor, targets: torch.Tensor, slots: int, repeats: int, limit: int):
    """Return seconds of the solver, the objective inside it, bare passes and a two-loop, and the batch sizes.

    Only batches of `slots` live rows count: rows wait behind them, and the run ends when the last has started.
    """
    fun = attack(net, x0, targets)
    sizes: list[int] = []
    inside = 0.0

    def watched(x: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal inside
        if len(x) < slots:
            raise _Drained
        began = now()
        answer = fun(x, rows)
        inside += now() - began
        sizes.append(len(x))
        return answer

    def run() -> None:
        with contextlib.suppress(_Drained):
            solve(watched, x0, slots=slots, max_evaluations=limit)

    turns = []
    for turn in range(repeats + 1):
        sizes.clear()
        inside = 0.0
        whole = timed(run)
        passes = timed(lambda: [bare(net, x0[:b], targets[:b]) for b in sizes])
        if turn:  # the first warms up
            turns.append((whole, inside, passes, two_loop(sizes, x0)))
    # The turn of the median ratio, so that its four parts belong together.
    return sorted(turns, key=lambda t: t[0] / t[2])[len(turns) // 2], list(sizes)


def overhead(images: torch.Tensor, labels: torch.Tensor, side: tuple[int, int], slots: int) -> list[str]:
    """Wall time of the solver over bare passes at the same batch sizes, and where the rest goes."""
    cases = []
    x0, y = rows_of(images, labels, 4 * slots)
    cases.append(("FC100-100-10", train_fc(images, labels), x0, 4.0, 9, 1_000))
    for channels in (4, 8, 16, 32, 64, 128, 256):
        net = convolutional(side, channels).to(x0.device)
        sample, targets = x0[:slots], wrong_targets(y[:slots])
        bare(net, sample, targets)
        net.requires_grad_(False)
        # The fastest of three, so that a cold first pass does not pass for a slow net.
        fastest = min(timed(lambda: bare(net, sample, targets)) for _ in range(3))  # noqa: B023 -- called at once
        if fastest / slots >= 220e-6:
            break
    cases.append((f"convolutional, {channels} channels", net, x0[: 2 * slots], 1.25, 9, 25))
    lines = [
        f"Overhead: solver over the same number of bare forward and backward passes ({MEMORY} pairs, {slots} slots)"
    ]
    for name, case, start, wanted, repeats, limit in cases:
        targets = wrong_targets(y[: len(start)])
        (whole, inside, passes, loops), sizes = overhead_of(case, start, targets, slots, repeats, limit)
        total = sum(sizes)
        lines += [
            "",
            f"{name}: {len(sizes)} batches of {slots} live rows, {len(start)} rows in all, "
            f"{torch.get_num_threads()} thread(s)",
            f"  bare passes             {1e6 * passes / total:9.2f} us a row",
            f"  solver, all of it       {1e6 * whole / total:9.2f} us a row",
            f"  solver over bare passes {whole / passes:9.2f}   (wanted: at most {wanted})",
            f"  share of the objective  {inside / whole:9.1%}   (its passes, and the distance term)",
            f"  share of the solver     {1 - inside / whole:9.1%}   of which a plain two-loop alone would be "
            f"{loops / whole:.1%}, the rest {max(1 - (inside + loops) / whole, 0):.1%}",
        ]
    return lines


def peak_memory() -> int:
    """Return the most bytes this process ever held, on the CUDA device if it uses one."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():
        # The kernel's count for this program alone; getrusage also remembers the parent that started it.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def scale_child(folder: Path, count: int, slots: int, device: str) -> None:
    """Solve `count` rows in this process alone and print time, peak memory and the size of the data."""
    state = torch.load(folder / "net.pt", weights_only=True, map_location="cpu")
    net = train_fc(torch.zeros(1, state["0.weight"].shape[1]), torch.zeros(1, dtype=torch.int64), steps=0)
    net.load_state_dict(state)
    net.to(device)
    images = torch.from_numpy(np.load(folder / f"{count}.npy")).to(device)
    targets = torch.from_numpy(np.load(folder / f"{count}-targets.npy")).to(device)
    fun = attack(net, images, targets)
    times = []
    for _ in range(5 if count <= 5_000 else 1):
        began = now()
        solution = solve(fun, images, slots=slots)
        times.append(now() - began)
        mean = solution.evaluations.double().mean().item()
        kept = [getattr(solution, name) for name in optim.Solution.__dataclass_fields__]
    data = sum(t.numel() * t.element_size() for t in [images, targets, *kept] if isinstance(t, torch.Tensor))
    print(json.dumps({"seconds": statistics.median(times), "peak": peak_memory(), "data": data, "evaluations": mean}))


def scale(images: torch.Tensor, labels: torch.Tensor, large: int, slots: int) -> list[str]:
    """Time and peak memory of many rows against a thousand, each in a process of its own."""
    small, net = 1_000, train_fc(images, labels)
    results = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save(net.state_dict(), folder / "net.pt")
        for count in (small, large):
            x0, y = rows_of(images, labels, count)
            np.save(folder / f"{count}.npy", x0.cpu().numpy())
            np.save(folder / f"{count}-targets.npy", wrong_targets(y).cpu().numpy())
        # The small run before and after the large one, so that a machine that slows down shows in both.
        times: list[float] = []
        for count in (small, large, small):
            command = [sys.executable, __file__, "--child", name, str(count), "--slots", str(slots)]
            command += ["--threads", str(torch.get_num_threads()), "--device", images.device.type]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            results[count] = json.loads(done.stdout)
            if count == small:
                times.append(results[small]["seconds"])
        results[small]["seconds"] = statistics.fmean(times)
    lines = [f"{large:,} rows against {small:,} ({slots} slots, FC100-100-10)", ""]
    lines.append(
        f"{'rows':>8}{'seconds':>10}{'us a row':>10}{'evaluations':>13}{'peak MB':>9}{'data MB':>9}{'apart MB':>10}"
    )
    for count, r in results.items():
        peak, data = r["peak"] / 1e6, r["data"] / 1e6
        lines.append(
            f"{count:>8}{r['seconds']:>10.2f}{1e6 * r['seconds'] / count:>10.1f}{r['evaluations']:>13.1f}"
            f"{peak:>9.0f}{data:>9.0f}{peak - data:>10.0f}"
        )
    one, many = results[small], results[large]
    linear = many["seconds"] / one["seconds"] / (large / small)
    grown = ((many["peak"] - many["data"]) - (one["peak"] - one["data"])) / 1e6
    lines += [
        "",
        f"time over {large // small} times the time of {small:,}: {linear:.3f}   (wanted: at most 1.10)",
        f"peak memory apart from data, grown by: {grown:+.0f} MB   (wanted: at most 100)",
    ]
    return lines


# ------------------------------------------------------------------------------------------ command line


def machine() -> str:
    """Name the machine by what anyone may know of it."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = named[0].split(":", 1)[1].strip() if named else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    card = f"{torch.cuda.get_device_name()}; " if torch.cuda.is_initialized() else ""
    return (
        f"{card}{model}, {cores} core(s); Python {platform.python_version()}, torch {torch.__version__}, "
        f"SciPy {scipy.__version__}, NumPy {np.__version__}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--what", nargs="+", default=["scipy", "overhead", "scale"])
    parser.add_argument("--data", choices=["mnist", "digits"], default="mnist")
    parser.add_argument("--rows", type=int, default=1_000, help="rows against SciPy")
    parser.add_argument("--scipy-rows", type=int, default=100, help="rows on which SciPy is timed")
    parser.add_argument("--large", type=int, default=60_000, help="rows of the large run of `scale`")
    parser.add_argument("--slots", type=int, default=1_000)
    parser.add_argument("--threads", type=int, default=1, help="for overhead and scale")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; SciPy runs on the CPU in any case")
    parser.add_argument("--out", type=Path, help="write the tables there too")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    unknown = set(arguments.what) - {"scipy", "overhead", "scale"}
    if unknown:
        parser.error(f"--what knows scipy, overhead and scale, not {', '.join(sorted(unknown))}")
    torch.set_num_threads(arguments.threads)
    if arguments.child:
        scale_child(Path(arguments.child[0]), int(arguments.child[1]), arguments.slots, arguments.device)
        return
    images, labels, side = load(arguments.data)
    images, labels = images.to(arguments.device), labels.to(arguments.device)
    sections = [[f"Solver benchmarks on {arguments.data}", machine()]]
    print("\n".join(sections[0]), flush=True)
    for what in arguments.what:
        torch.set_num_threads(arguments.threads)
        if what == "scipy":
            sections.append(against_scipy(images, labels, arguments.rows, arguments.scipy_rows))
        elif what == "overhead":
            sections.append(overhead(images, labels, side, arguments.slots))
        else:
            sections.append(scale(images, labels, arguments.large, arguments.slots))
        print("\n" + "\n".join(sections[-1]), flush=True)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text("\n\n".join("\n".join(s) for s in sections) + "\n")


if __name__ == "__main__":
    main()

"""Every attack of a norm on every net at every budget, side by side: the record of the comparison.

    python benchmarks/peers/run.py --images 200 --seed 0 --budgets 1000 200 50 --out benchmarks/results/peers

writes OUT.md (tables) and OUT.svg (the Pareto picture). A budget of 1000 is 1,000 forwards and as many backwards per
image. Finished units are kept: a run that was stopped, by `--seconds` or otherwise, goes on when called again, and
`--report` writes the record of what is there. Run it in the environment that `make bench` builds.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import stand_ins

STAND_INS = stand_ins.install()

import torch  # noqa: E402

import nets  # noqa: E402 -- the stand-ins come before whatever may import the modules they stand for
import ours  # noqa: E402
import peers  # noqa: E402
import picture  # noqa: E402
import table  # noqa: E402
import units  # noqa: E402
from intriguing import memory  # noqa: E402

_PREAMBLE = """# Minimal {norm} attacks side by side

{date}. {images} images per net, seed {seed}; {machine}, one thread, torch {torch}. A budget of B is B forwards and B
backwards per image, counted from outside, everything included; past it an attack learns nothing more. Distances are of
the nearest adversarial point an attack asked about, judged once more. Optimality is AttackBench's; the pool is every
attack of this record, ours with {largest} forwards included; D is the largest distance in the pool's best, and failures
count as D where it says so. Intervals are paired bootstrap intervals over images (95%). Time is that of the attack
alone; counting is taken off.

Stand-ins for modules that peers import and do not use here: {stand_ins}. Settings: `benchmarks/peers/peers.py`;
deviations from them:

{notes}
"""


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    memory.keep_freed()  # every attack's passes are faster for it
    warnings.simplefilter("ignore")  # the peers' own, of which there are many
    end = time.monotonic() + arguments.seconds
    results = {}
    for net in arguments.nets:
        found = _net(net, arguments, end)
        if found:
            results[net] = found
    if not results:
        print("nothing has been computed yet")
        return
    date = datetime.date.today().isoformat()
    out = Path(arguments.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    sections = [table.section(net, nets.facts(net), found, arguments.budgets) for net, found in results.items()]
    out.with_suffix(".md").write_text("\n".join([_preamble(arguments, date), *sections]))
    picture.draw(results, out.with_suffix(".svg"), date)
    print(f"written: {out}.md, {out}.svg")


def _net(name: str, arguments: argparse.Namespace, end: float) -> dict[tuple[str, int], units.Measured]:
    """Run what is missing of one net, and return what is whole."""
    if not arguments.report and not nets.train(name, end - time.monotonic()):
        print(f"{name}: time is up while it was trained; call again")
        return {}
    if not (nets.CACHE / f"{name}.json").is_file():
        return {}
    net = nets.load(name)
    images, labels, _ = nets.sample(name, net, arguments.images, arguments.seed)
    found = {}
    for attack, forwards in _planned(arguments):
        parts = []
        for unit in _units(name, attack, forwards, arguments):
            part = units.cached(unit)
            if part is None and not arguments.report and time.monotonic() < end:
                part = _run(unit, net, images, labels)
            parts.append(part)
        if all(part is not None for part in parts):
            found[attack, forwards] = units.joined([part for part in parts if part is not None])
    return found


def _run(unit: units.Unit, net: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> units.Measured | None:
    """Run a unit and say so. A peer that fails is told and left out, as the others can still be compared."""
    where = f"{unit.net} {unit.attack} {unit.forwards} [{unit.first}:{unit.last}]"
    try:
        part = units.run(unit, net, images, labels)
    except Exception as error:
        if unit.attack not in peers.PEERS:
            raise
        print(f"{where} failed and is left out: {type(error).__name__}: {error}", flush=True)
        return None
    mean = float(part.distance[part.distance.isfinite()].mean())
    print(f"{where} {mean:.4f} {part.cpu:.1f} s", flush=True)
    return part


def _planned(arguments: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """Give every attack and budget of the run, ours first, as it fixes the pool."""
    for attack in arguments.attacks:
        budgets: Sequence[int] = arguments.budgets
        if attack in ours.MAIN.values():
            budgets = sorted({*arguments.budgets, *arguments.ours, arguments.largest}, reverse=True)
        for forwards in budgets:
            yield attack, forwards


def _units(net: str, attack: str, forwards: int, arguments: argparse.Namespace) -> Iterator[units.Unit]:
    batch = nets.NETS[net].batch
    for first in range(0, arguments.images, batch):
        last = min(first + batch, arguments.images)
        yield units.Unit(net, attack, forwards, first, last, arguments.seed)


def _preamble(arguments: argparse.Namespace, date: str) -> str:
    return _PREAMBLE.format(
        norm=arguments.norm,
        date=date,
        images=arguments.images,
        seed=arguments.seed,
        machine=platform.processor() or platform.machine(),
        torch=torch.__version__,
        largest=arguments.largest,
        stand_ins=", ".join(STAND_INS) or "none",
        notes=table.notes(ours.NORMS[arguments.norm]),
    )


def _arguments() -> argparse.Namespace:
    known = [*ours.names(), *peers.PEERS]
    parser = argparse.ArgumentParser(description="Compare minimal L2 attacks; go on where the last call stopped.")
    parser.add_argument("--nets", nargs="+", default=list(nets.NETS), choices=list(nets.NETS), metavar="NET")
    parser.add_argument("--norm", default="L2", choices=list(ours.NORMS), help="what is kept small; default L2")
    parser.add_argument("--attacks", nargs="+", choices=known, metavar="ATTACK", help="default: all of the norm")
    parser.add_argument("--images", type=int, default=200, help="per net, all of which it gets right")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budgets", type=int, nargs="+", default=[1000, 200, 50], help="forwards; as many backwards")
    parser.add_argument(
        "--ours", type=int, nargs="*", default=[500, 300, 250, 175, 150, 100, 25], help="further budgets of our attack"
    )
    parser.add_argument("--largest", type=int, default=4000, help="our attack's largest budget, which joins the pool")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no unit after this long")
    parser.add_argument("--report", action="store_true", help="compute nothing; write the record of what is there")
    parser.add_argument("--out", default="benchmarks/results/peers", help="without suffix")
    arguments = parser.parse_args()
    of_norm = [name for name in known if units.norm_of(name) == ours.NORMS[arguments.norm]]
    arguments.attacks = arguments.attacks or of_norm
    if others := sorted(set(arguments.attacks) - set(of_norm)):
        parser.error(f"--attacks: {', '.join(others)} minimise another norm than {arguments.norm}")
    return arguments


if __name__ == "__main__":
    main()

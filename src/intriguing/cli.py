"""The command line: parses, calls one function, prints."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from intriguing import __version__, memory
from intriguing.errors import InputError, IntriguingError, UnknownNameError

if TYPE_CHECKING:
    from intriguing.gate import Known
    from intriguing.report.audit_numbers import NumberView

app = typer.Typer(
    name="intriguing",
    help="The blind spots of image classifiers, measured.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_errors = Console(stderr=True, soft_wrap=True, highlight=False)
_out = Console(soft_wrap=True, highlight=False)

_USAGE = 2
_STATES = {"passed": "green", "failed": "red", "untrustworthy": "red", "not judged": "yellow"}
_UNTRUSTWORTHY = 3  # nothing measured on this model can be believed
_UNWRAPPED = 1 << 16  # columns: no line of a list is as long
_INTERRUPTED = 130  # 128 + SIGINT, as shells count

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder of image sets, looked up first (else INTRIGUING_DATA).", show_default=False)
]

ModelName = Annotated[
    str,
    typer.Option(
        "--model", help="my_model.py:build, package.module:build, net.pt2, timm:NAME, transformers:NAME or onnx:FILE."
    ),
]
Weights = Annotated[
    Path | None, typer.Option(help="Its weights: a state dict or safetensors; never a pickle.", show_default=False)
]
Box = Annotated[str | None, typer.Option(help="Lowest and highest pixel, by default 0,1.", show_default=False)]
Mean = Annotated[
    str | None, typer.Option(help="Subtracted from the pixels: one number or one per channel.", show_default=False)
]
Split = Annotated[str, typer.Option(help="Which of the set's images.")]
Size = Annotated[int | None, typer.Option(help="Side in pixels, for images of unequal size.", show_default=False)]
Side = Annotated[
    int | None,
    typer.Option(
        help="Side in pixels, for images of unequal size (by default the model's own, if it says one).",
        show_default=False,
    ),
]
Eps = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBER", help="Radius in pixel units, 0.03 or 8/255, for attacks that have one.", show_default=False
    ),
]
Norm = Annotated[str | None, typer.Option(help="1, 2 or inf, for attacks that know several.", show_default=False)]
Target = Annotated[
    str | None, typer.Option(help="Wrong class to reach: nearest, random, all or top-K.", show_default=False)
]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes (by default one per core).", show_default=False)]
Std = Annotated[str | None, typer.Option(help="Divides them afterwards, likewise.", show_default=False)]


Certify = Annotated[bool, typer.Option("--certify", help="Prove a radius within which no change of an image counts.")]
CertifyMethod = Annotated[
    str | None, typer.Option(help="crown (default), crown-optimised, curvature, product, interval.", show_default=False)
]
Fresh = Annotated[bool, typer.Option("--fresh/--resume", help="Compute everything again, or reuse what is finished.")]


def _version(wanted: bool) -> None:
    if wanted:
        _out.print(f"intriguing {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """The blind spots of image classifiers, measured."""


@app.command()
def reproduce(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[STUDY/]TABLE", help="A table, for example table-1, or a study; none: the paper."),
    ] = None,
    data: Annotated[str, typer.Option(help="Images: digits (embedded), mnist, a set's or folder's name.")] = "digits",
    images: Annotated[int, typer.Option(help="Training images to attack.")] = 256,
    nets: Annotated[int, typer.Option(help="Sigmoid nets trained per recipe, each from its own seed.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    size: Size = None,
    photographs: Annotated[
        str | None,
        typer.Option(help="Colour photographs for the large nets (by default grocery, if found).", show_default=False),
    ] = None,
    photo_size: Annotated[int, typer.Option(help="Their side in pixels.")] = 112,
    full: Annotated[bool, typer.Option("--full", help="Every arm of every comparison, at least five seeds.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Run folder (by default runs/STUDY-DATA).", show_default=False)
    ] = None,
    data_dir: DataDir = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    workers: Workers = None,
    fresh: Fresh = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    debug: Debug = False,
) -> None:
    """Compute a paper's tables and figures and write the report."""
    from intriguing import workflow  # torch takes seconds to import; --help should not
    from intriguing.progress import shown
    from intriguing.studies.spec import Settings

    settings = Settings(
        data=data,
        images=images,
        seed=seed,
        nets=nets,
        size=size,
        photographs=photographs,
        photo_size=photo_size,
        full=full,
    )
    with shown(_errors, quiet=quiet) as progress:
        outcome = workflow.reproduce(
            names or (),
            settings,
            out=out,
            data_dir=data_dir,
            device=device,
            workers=workers,
            fresh=fresh,
            progress=progress,
            on_damage=lambda damage: _errors.print(f"Computed again: {escape(str(damage))}"),
        )
    _summary(outcome)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A run folder, as --out named it.")],
    markdown: Annotated[
        Path | None, typer.Option(help="Write every number into this text file too.", show_default=False)
    ] = None,
    debug: Debug = False,
) -> None:
    """Write a run's report again from what is stored."""
    from intriguing import auditing, workflow

    if auditing.is_audit(folder):
        _audited(auditing.report(folder))
    else:
        _summary(workflow.report(folder, markdown=markdown))


@app.command()
def doctor(
    model: ModelName,
    data: Annotated[str, typer.Option(help="Images it should know: a set's name, a folder, or hub:owner/name.")],
    weights: Weights = None,
    split: Annotated[str, typer.Option(help="Which of them.")] = "test",
    box: Box = None,
    mean: Mean = None,
    std: Std = None,
    size: Side = None,
    expect_accuracy: Annotated[
        float | None, typer.Option(help="The share you believe it gets right, 0 to 1.", show_default=False)
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Images to look at.")] = 256,
    data_dir: DataDir = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Check a model before any claim is made about it; exit code 3 if a check is red."""
    import json

    from intriguing import data as sets
    from intriguing.auditing.subjects import side
    from intriguing.nets import sources
    from intriguing.nets.doctor import doctor as examine

    wrapped = sources.load(
        model,
        weights=weights,
        box=sources.pair(box, "box"),
        mean=sources.numbers(mean, "mean"),
        std=sources.numbers(std, "std"),
        device=device,
    )
    found = sets.load(data, split, data_dir=data_dir, size=size, limit=images, otherwise=side(wrapped))
    diagnosis = examine(wrapped, found, expect_accuracy=expect_accuracy, limit=images)
    if as_json:
        _out.print(json.dumps(diagnosis.document(), indent=1), markup=False)
    else:
        _checks(diagnosis)
    if diagnosis.state == "red":
        raise typer.Exit(_UNTRUSTWORTHY)


@app.command("list")
def list_names(data_dir: DataDir = None, debug: Debug = False) -> None:
    """List studies, data, nets and attacks, each with one line."""
    from intriguing import attacks
    from intriguing import data as sources
    from intriguing.nets import NETS
    from intriguing.studies import DEFAULT_STUDY, STUDIES

    sets = sources.names(data_dir)  # first, since it may refuse
    studies = {}
    for study in STUDIES.values():
        studies[study.name] = study.title
        prefix = "" if study.name == DEFAULT_STUDY else f"{study.name}/"  # as `reproduce` takes it
        studies |= {f"  {prefix}{exhibit.name}": exhibit.title for exhibit in study.exhibits}
    _lines("Studies", studies)
    _lines("Data", sets)
    _lines("Nets", {name: spec.description for name, spec in NETS.items()})
    _lines("Attacks", {name: attack.description for name, attack in attacks.ATTACKS.items()})


@app.command()
def audit(
    model: Annotated[
        list[str],
        typer.Option(
            help="my_model.py:build, package.module:build, net.pt2, timm:NAME, transformers:NAME or onnx:FILE; "
            "given several times, the examples made for each are fed to all."
        ),
    ],
    data: Annotated[str, typer.Option(help="Images it should know: a set's name, a folder, or hub:owner/name.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Run folder (by default runs/audit-DATA); an audit that was stopped goes on there.", show_default=False
        ),
    ] = None,
    weights: Annotated[
        list[Path] | None,
        typer.Option(help="A state dict or safetensors for each model, in their order.", show_default=False),
    ] = None,
    split: Split = "test",
    images: Annotated[
        int | None,
        typer.Option(help="How many, in proportion to the classes (by default all).", show_default=False),
    ] = None,
    attack: Annotated[
        list[str], typer.Option(help="Given several times, the nearest example counts; `intriguing list` names them.")
    ] = ["nearest"],  # noqa: B006 -- the parser shows it, and nobody writes to it
    budget: Annotated[int, typer.Option(help="Forward and backward passes per image and attack.")] = 2000,
    eps: Eps = None,
    norm: Norm = None,
    target: Target = None,
    certify: Certify = False,
    certify_method: CertifyMethod = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    size: Side = None,
    box: Box = None,
    mean: Mean = None,
    std: Std = None,
    data_dir: DataDir = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    workers: Workers = None,
    fresh: Fresh = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    debug: Debug = False,
) -> None:
    """Attack a model's images and write a page with a verdict; exit code 3 if its numbers cannot be trusted."""
    from intriguing import auditing
    from intriguing.auditing.options import radius
    from intriguing.nets import sources
    from intriguing.progress import shown

    with shown(_errors, quiet=quiet) as progress:
        outcome = auditing.audit(
            model,
            data,
            attacks=attack,
            split=split,
            images=images,
            budget=budget,
            eps=radius(eps),
            norm=_norm(norm),
            target=target,
            seed=seed,
            size=size,
            weights=weights or (),
            box=sources.pair(box, "box"),
            mean=sources.numbers(mean, "mean"),
            std=sources.numbers(std, "std"),
            device=device,
            out=out,
            data_dir=data_dir,
            workers=workers,
            certify=certify_method or certify,
            fresh=fresh,
            progress=progress,
            on_damage=lambda damage: _errors.print(f"Computed again: {escape(str(damage))}"),
            on_replaced=lambda sentence: _errors.print(escape(sentence)),
        )
    _audited(outcome)


@app.command()
def attack(
    model: ModelName,
    data: Annotated[str, typer.Option(help="Images it should know: a set's name, a folder, or hub:owner/name.")],
    attack: Annotated[str, typer.Option(help="`intriguing list` names them.")] = "lbfgs",
    weights: Weights = None,
    split: Split = "test",
    images: Annotated[int, typer.Option(min=1, help="How many, in proportion to the classes.")] = 256,
    budget: Annotated[
        int | None, typer.Option(help="Forward and backward passes per image (by default the attack's own).")
    ] = None,
    eps: Eps = None,
    norm: Norm = None,
    target: Target = None,
    save: Annotated[
        Path | None,
        typer.Option(help="File for the examples, NAME.safetensors; rows go to NAME.parquet.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    size: Side = None,
    box: Box = None,
    mean: Mean = None,
    std: Std = None,
    data_dir: DataDir = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    debug: Debug = False,
) -> None:
    """Attack a model's images once and keep the examples."""
    from intriguing import auditing
    from intriguing.auditing.options import radius
    from intriguing.nets import sources

    found = auditing.attack(
        model,
        data,
        attack=attack,
        split=split,
        images=images,
        budget=budget,
        eps=radius(eps),
        norm=_norm(norm),
        target=target,
        seed=seed,
        size=size,
        weights=weights,
        box=sources.pair(box, "box"),
        mean=sources.numbers(mean, "mean"),
        std=sources.numbers(std, "std"),
        device=device,
        data_dir=data_dir,
        save=save,
    )
    result = found.result
    right, hits = int(result.attacked.sum()), int(result.found.sum())
    _out.print(f"images   {len(result.status)}, of which the model gets {right} right")
    own = {1: "L1", math.inf: "Linf"}.get(result.norm)
    in_it = f"{result.median_size:.4g} ({own}) and " if own else ""
    _out.print(f"found    {hits} of {right}; median distance {in_it}{result.median:.4g} (L2, pixel units)")
    for path in found.saved:
        _out.print(f"saved    {escape(str(path))}")


@app.command()
def gate(
    run: Annotated[
        Path | None, typer.Argument(help="The folder of an audit, as --out named it.", show_default=False)
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME OP NUMBER", help="A condition, for example 'median_l2 >= 0.40'; repeatable."),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(help="An earlier audit of the same images: a significant drop fails.", show_default=False),
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML into this file.", show_default=False)] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write JSON into this file.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap against the baseline.")] = 0,
    list_figures: Annotated[
        bool, typer.Option("--list", help="List the figures that a condition may name: those of RUN, or all.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Judge an audit: exit code 0 passed, 1 failed, 2 usage error, 3 untrustworthy."""
    from intriguing import gate as gates

    if run is None:
        if not list_figures:
            raise InputError(
                "run: expected the folder of an audit, got none; name it as --out did, or see with --list what a "
                "condition may name"
            )
        _known(gates.known())
        for note in gates.NOTES:
            typer.echo(note)
        return
    if list_figures:
        _figures(gates.figures(run))
        for reason in gates.gate(run).reasons:
            _errors.print(f"[bold red]untrustworthy:[/] {escape(reason)}")
        return
    outcome = gates.gate(run, require=require or (), baseline=baseline, seed=seed)
    gates.write(outcome, junit_file=junit, json_file=json_file)
    for check in outcome.checks:
        _out.print(
            f"{check.state.value:<13}  {escape(check.name)}: {escape(check.sentence)}", style=_STATES[check.state]
        )
    if not require and baseline is None:
        _out.print("No condition was given (--require, --baseline): only whether the audit can be trusted was judged.")
    _out.print(f"{outcome.state.value.upper()}  {escape(str(run))}", style=f"bold {_STATES[outcome.state]}")
    raise typer.Exit(outcome.code)


def main() -> None:
    """Run the command line; every foreseen error is one sentence and exit code 2."""
    debug = "--debug" in sys.argv
    memory.keep_freed()
    try:
        code = app(standalone_mode=False)
        if code == _INTERRUPTED:  # recent versions of the parser turn Ctrl-C into this code
            raise KeyboardInterrupt
    except IntriguingError as error:
        if debug:
            _errors.print_exception()
        else:
            _errors.print(f"[bold red]Error:[/] {escape(str(error))}")
        sys.exit(_USAGE)
    except (KeyboardInterrupt, typer.Abort):
        if debug:
            _errors.print_exception()
        _errors.print("Stopped. What is finished is kept; the same command goes on from there.")
        sys.exit(_INTERRUPTED)
    except typer.Exit as leaving:
        sys.exit(leaving.exit_code)
    except Exception as error:
        # The parser's errors say themselves what is wrong; anything else is our mistake and keeps its traceback.
        if not hasattr(error, "format_message"):
            raise
        message = error.format_message()
        if message.startswith("Usage:"):  # no command at all: the help is the answer
            _errors.print(escape(message))
        else:
            _errors.print(f"[bold red]Error:[/] {escape(message)} (see intriguing --help)")
        sys.exit(_USAGE)
    sys.exit(code or 0)


def _norm(text: str | None) -> float | None:
    if text is None:
        return None
    known = {"1": 1.0, "2": 2.0, "inf": float("inf")}
    if text not in known:
        raise UnknownNameError("norm", text, known)
    return known[text]


def _audited(outcome: object) -> None:
    from intriguing.auditing import Outcome

    assert isinstance(outcome, Outcome)
    certified = ("certified_l2", "tightness_l2", "certified_linf", "tightness_linf")  # in one norm, if at all
    known = [n for n in ("clean_accuracy", "found", "median_l2", "median_l2_8bit", *certified) if n in outcome.figures]
    for name, entry in ((name, outcome.figures[name]) for name in known):
        interval = f"{entry['value']:.4g} [{entry['low']:.4g}, {entry['high']:.4g}]"
        _out.print(f"{name:15} {interval} ({entry['unit']}, n = {entry['n']})", markup=False)
    _out.print(f"report   {escape(str(outcome.report))}")
    _out.print(f"results  {escape(str(outcome.results))}")
    _out.print(f"rows     {escape(str(outcome.rows))}")
    if not outcome.trustworthy:
        _errors.print("[bold red]Untrustworthy:[/] " + escape(" ".join(outcome.document["verdict"]["reasons"])))
        raise typer.Exit(_UNTRUSTWORTHY)


def _summary(outcome: object) -> None:
    from intriguing.report.record import tally
    from intriguing.workflow import Outcome

    assert isinstance(outcome, Outcome)
    if counted := tally(outcome.document["cells"]):
        _out.print(counted)
    _out.print(f"report   {escape(str(outcome.report))}")
    _out.print(f"results  {escape(str(outcome.results))}")


def _figures(views: Sequence[NumberView]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("name", "value", "95% interval", "n", "meaning"):
        table.add_column(name, no_wrap=name != "meaning", justify="right" if name == "value" else "left")
    for view in views:
        meaning = f"{view.meaning} ({view.unit})" if view.unit else view.meaning
        table.add_row(*map(escape, (view.name, view.value, view.interval, view.size.removeprefix("n "), meaning)))
    _shown(table)


def _known(figures: Sequence[Known]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("name", no_wrap=True)
    table.add_column("meaning")
    for figure in figures:
        takes = f" Takes {figure.needs}." if figure.needs else ""
        table.add_row(escape(figure.name), escape(f"{figure.meaning} ({figure.unit}){takes}"))
    _shown(table)


def _shown(table: Table) -> None:
    """Print a table: wrapped into columns for a reader, a line per entry, however long, for a program such as grep."""
    if sys.stdout.isatty():
        Console(highlight=False).print(table)
        return
    console = Console(highlight=False, width=_UNWRAPPED)
    with console.capture() as text:
        console.print(table)
    for line in text.get().splitlines():
        typer.echo(line.rstrip())


def _checks(diagnosis: object) -> None:
    from intriguing.nets.doctor import Diagnosis

    assert isinstance(diagnosis, Diagnosis)
    colours = {"green": "green", "amber": "yellow", "red": "bold red", "did not run": "dim"}
    _out.print(f"[bold]{escape(diagnosis.model)}[/]: [{colours[diagnosis.state]}]{diagnosis.state}[/]")
    for check in diagnosis.checks:
        mark = f"[{colours[check.state]}]{check.state:<11}[/]"
        _out.print(f"  {mark}  {check.name}: {escape(check.sentence)}")


def _lines(title: str, lines: dict[str, str]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, line in lines.items():
        table.add_row(escape(name), escape(line))
    _out.print(f"[bold]{title}[/]")
    _shown(table)
    _out.print()

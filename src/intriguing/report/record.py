"""A run as plain text: every number beside its print, to be kept where a page cannot be."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from intriguing.report import format as fmt
from intriguing.studies.spec import Exhibit, Printed, Study

_COLUMNS = ("row", "column", "printed", "measured", "95% interval", "n", "control", "verdict")


def tally(cells: Sequence[Mapping[str, Any]]) -> str:
    """Return how many printed values agree, and how many do not; nothing where none was printed.

    Example:
        >>> tally([{"verdict": "agrees"}, {"verdict": "not printed"}])
        '1 agrees, 0 same direction, 0 differs (of the printed values)'
    """
    verdicts = [cell["verdict"] for cell in cells]
    counts = {word: verdicts.count(word) for word in ("agrees", "same direction", "differs")}
    words = ", ".join(f"{count} {word}" for word, count in counts.items()) + " (of the printed values)"
    return words if any(counts.values()) else ""


def build(study: Study, document: Mapping[str, Any], *, command: str, seconds: Mapping[str, float]) -> str:
    """Return the run as Markdown: one table per exhibit, in the paper's order.

    Args:
        study: the paper.
        document: what `run.results.compose` returned.
        command: the command line that makes the run again.
        seconds: label of a cell -> seconds it took, for the table at the end; empty for none.
    """
    run = document["run"]
    cells = [cell for cell in document["cells"] if cell["study"] == study.name]
    where = run.get("environment", {})
    lines = [f"# {study.title}: measured", "", study.citation, "", f"    {command}", ""]
    machine = [f"{name} {_text(where[name])}" for name in ("cpu", "cpus", "python", "torch", "device") if name in where]
    lines += ["; ".join(machine) + ".", ""] if machine else []
    counted = tally(cells)
    lines += [f"{counted}.", ""] if counted else []
    lines += [
        "Errors, accuracies and shares are fractions. Marks of printed values: v checked against the running text, "
        "s second-hand, m from memory.",
        "",
    ]
    for exhibit in study.exhibits:
        mine = [cell for cell in cells if cell["table"] == exhibit.name]
        if mine:
            lines += _section(exhibit, mine)
    if seconds:
        lines += ["## Seconds of computation", "", "| cell | seconds |", "| --- | ---: |"]
        lines += [f"| {_text(label)} | {taken:.1f} |" for label, taken in sorted(seconds.items())]
        lines += [f"| all | {sum(seconds.values()):.0f} |", ""]
    return "\n".join(lines)


def _section(exhibit: Exhibit, cells: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [f"## {fmt.heading(exhibit.name)}: {_text(exhibit.title)}", "", _text(exhibit.claim), ""]
    lines += ["| " + " | ".join(_COLUMNS) + " |", "|" + " --- |" * len(_COLUMNS)]
    for cell in cells:
        interval = ""
        if cell["low"] != cell["high"]:
            interval = f"{_number(cell['low'])} to {_number(cell['high'])}"
        control = cell.get("control")
        against = f"{_number(control['measured'])} ({_text(control['label'])})" if control else ""
        printed = exhibit.printed.get((cell["row"], cell["column"]))
        entries = (
            _text(cell["row"]), _text(cell["column"]), _print(printed), _number(cell["measured"]), interval,
            str(cell["n"]) if cell["kind"] == "sampled" else "exact", against,
            cell["verdict"] if printed else "",
        )  # fmt: skip
        lines.append("| " + " | ".join(entries) + " |")
    return [*lines, ""]


def _print(printed: Printed | None) -> str:
    return f"{_number(printed.value)} ({printed.mark})" if printed else ""


def _number(value: object) -> str:
    """Return at most four significant digits; a number JSON cannot hold is a dash."""
    x = fmt.finite(value)
    return fmt.MISSING if x is None else f"{x:.4g}"


def _text(value: object) -> str:
    """Return text that a table of Markdown can hold: names of classes and files are not ours."""
    return re.sub(r"([\\|<>`*_\[\]])", r"\\\1", " ".join(fmt.clean(value).split()))

"""A gate for a model: conditions on the figures of an audit, and no significant drop against an earlier one.

An audit that shows signs of masked gradients never passes, whatever its numbers are: they are upper bounds that an
attack led astray, and a condition they meet is not judged.
"""

from __future__ import annotations

import difflib
import math
import operator
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intriguing import documents
from intriguing.errors import InputError, StoreError, UnknownNameError
from intriguing.gate import catalogue
from intriguing.report import audit_numbers

if TYPE_CHECKING:
    from intriguing.experiments.audit_compare import Difference

ROWS = "rows.parquet"
# Longer operators first: ">=" begins with ">".
_RELATIONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
}  # fmt: skip
# A name may hold spaces: with several models it begins with the model's.
_CONDITION = re.compile(r"\s*(\S.*?)\s*(>=|<=|>|<)\s*(\S+)\s*")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)(?:/\d+)?|[+-]?inf")
# What a baseline guards; where the attacks minimise the largest change, that is the distance which counts.
_GUARDED = {False: ("clean_accuracy", "median_l2"), True: ("clean_accuracy", "median_linf")}
# Settings that must be alike in two runs that are compared.
_ALIKE = ("parameters", "norm", "target", "size", "starts")


class State(StrEnum):
    """How a check, or the whole gate, ended."""

    PASSED = "passed"
    FAILED = "failed"
    UNTRUSTWORTHY = "untrustworthy"
    NOT_JUDGED = "not judged"


CODES = {State.PASSED: 0, State.FAILED: 1, State.UNTRUSTWORTHY: 3}
"""Exit codes; 2 is a usage error."""


@dataclass(frozen=True)
class Condition:
    """A bound on a figure.

    Attributes:
        figure: its name.
        relation: one of ``>=``, ``>``, ``<=``, ``<``.
        bound: the number on the right.
        text: as it was given, for messages.
    """

    figure: str
    relation: str
    bound: float
    text: str

    def holds(self, value: float) -> bool:
        """Whether a value meets it. What is no number meets nothing; an infinite median lies above every bound.

        Example:
            >>> condition("median_l2 >= 0.4", ["median_l2"]).holds(float("inf"))
            True
        """
        return _RELATIONS[self.relation](value, self.bound)


@dataclass(frozen=True)
class Check:
    """One thing the gate looked at.

    Attributes:
        name: the condition as it was given, or what was compared.
        state: passed, failed, untrustworthy (trust itself), or not judged: met, but by a number nobody can trust.
        sentence: what was found, with the numbers.
        numbers: the same for a program: ``value``, ``low``, ``high``, ``n`` and ``bound``; of a comparison
            ``baseline``, ``difference`` and its interval.
    """

    name: str
    state: State
    sentence: str
    numbers: Mapping[str, float | int | None]


@dataclass(frozen=True)
class Outcome:
    """What the gate decided, and on what grounds.

    Attributes:
        run: the audit's folder.
        baseline: the earlier audit's folder, or None.
        state: passed, failed or untrustworthy.
        checks: trust first, then the conditions, then the comparison.
        reasons: why the audit is untrustworthy; empty if it is not.
    """

    run: Path
    baseline: Path | None
    state: State
    checks: tuple[Check, ...]
    reasons: tuple[str, ...]

    @property
    def code(self) -> int:
        """The exit code: 0 passed, 1 failed, 3 untrustworthy."""
        return CODES[self.state]


def condition(text: str, known: Iterable[str]) -> Condition:
    """Return a condition from ``NAME OP NUMBER``.

    Args:
        text: for example ``"median_l2 >= 0.40"``; a number may be a fraction, ``8/255``, or ``inf``.
        known: the names of the audit's figures.

    Raises:
        UnknownNameError: no figure of that name.
        InputError: not of that form, or a figure of audits that were asked for more.

    Example:
        >>> condition("median_linf > 8/255", ["median_linf"]).bound
        0.03137254901960784
    """
    parts = _CONDITION.fullmatch(text)
    if parts is None or not _NUMBER.fullmatch(parts[3]):
        raise InputError(
            f"require: expected NAME OP NUMBER with >=, >, <= or <, for example 'median_l2 >= 0.40', got {text!r}"
        )
    name, relation, right = parts.groups()
    names = list(known)
    if name not in names:
        if name.endswith("=") and relation in (">", "<"):
            raise InputError(f"require: there is no operator ={relation} in {text!r}; write {relation}=")
        raise _unknown(name, names)
    return Condition(name, relation, _bound(right, text), " ".join(text.split()))


def gate(
    run: str | os.PathLike[str],
    *,
    require: Sequence[str] = (),
    baseline: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> Outcome:
    """Judge an audit by conditions and by an earlier audit of the same images.

    Args:
        run: the folder of a finished audit.
        require: conditions, see `condition`; all must hold.
        baseline: the folder of an earlier audit with the same attacks on the same images. A drop of the clean
            accuracy, of the median distance or, where both have certificates, of the median certified radius fails if
            its paired 95% bootstrap interval excludes 0.
        seed: of the bootstrap.

    Raises:
        InputError: a condition that cannot be read, or a baseline of other images, other attacks, or without trust.
        StoreError: a folder that holds no finished audit.

    Example:
        >>> gate("runs/v2", require=["median_l2 >= 0.40"], baseline="runs/v1").code  # doctest: +SKIP
        0
    """
    document = documents.load_audit(run)
    figures = _figures(document)
    # Everything that can be misused is read before anything is judged: a usage error wins over all.
    conditions = [condition(text, figures) for text in require]
    compared = [] if baseline is None else _compared(Path(run), document, Path(baseline), seed)
    reasons = tuple(documents.doubts(document))
    checks = [_judged(c, figures[c.figure]) for c in conditions] + compared
    if reasons:
        checks = [_doubted(check) for check in checks]
        state = State.UNTRUSTWORTHY
    else:
        state = State.FAILED if any(check.state is State.FAILED for check in checks) else State.PASSED
    return Outcome(
        run=Path(run),
        baseline=None if baseline is None else Path(baseline),
        state=state,
        checks=(_trust(document, reasons), *checks),
        reasons=reasons,
    )


def figures(run: str | os.PathLike[str]) -> list[audit_numbers.NumberView]:
    """Return every figure of an audit that a condition may name, with its value, interval and meaning as text.

    Raises:
        StoreError: a folder that holds no finished audit.
    """
    return audit_numbers.views(_figures(documents.load_audit(run)))


def _figures(document: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    given = document.get("figures")
    entries = given.items() if isinstance(given, Mapping) else ()
    return {name: figure for name, figure in entries if isinstance(figure, Mapping)}


def _unknown(name: str, names: Sequence[str]) -> InputError:
    """Return the error for a figure the audit has not: what would have it, or the nearest name."""
    takes = catalogue.needs(name)
    if takes:
        return InputError(f"require: this audit has no figure {name!r}, which takes {takes}")
    error = UnknownNameError("figure", name, names)
    alike = {known.lower(): known for known in names}
    near = difflib.get_close_matches(name.lower(), alike, n=1, cutoff=0.5)
    if near and "Did you mean" not in str(error):
        # Names are compared letter by letter there, and capitals lead far from all of them.
        error.args = (str(error).replace(". Known:", f". Did you mean {alike[near[0]]!r}? Known:", 1),)
    return error


def _bound(text: str, whole: str) -> float:
    number, _, over = text.partition("/")
    below = float(over) if over else 1.0
    if below == 0:
        raise InputError(f"require: expected a number on the right, got a division by 0 in {whole!r}")
    return float(number) / below


def _trust(document: Mapping[str, Any], reasons: Sequence[str]) -> Check:
    states = [str(check.get("state")) for check in document.get("trust") or ()]
    counts = {state: states.count(state) for state in ("red", "amber", "green", "did not run")}
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "no check ran"
    if reasons:
        return Check("trust", State.UNTRUSTWORTHY, f"{said}: {' '.join(reasons)}", counts)
    return Check("trust", State.PASSED, said, counts)


def _judged(wanted: Condition, figure: Mapping[str, Any]) -> Check:
    value, low, high = (documents.number(figure, name) for name in ("value", "low", "high"))
    found = math.nan if value is None else value
    n = figure.get("n")
    said = f"{wanted.figure} is {_text(found)}"
    if low is not None and high is not None and low != high:
        said += f", 95% interval {_text(low)} to {_text(high)}"
    if isinstance(n, int) and n > 1:
        said += f", n {n}"
    if math.isnan(found):
        said += "; what is not a number meets no condition"
    numbers = {"value": value, "low": low, "high": high, "n": n, "bound": wanted.bound}
    return Check(wanted.text, State.PASSED if wanted.holds(found) else State.FAILED, said, numbers)


def _doubted(check: Check) -> Check:
    """Return a check of an audit nobody can trust: what failed stays so, what is met is not judged."""
    if check.state is not State.PASSED:
        return check
    return Check(check.name, State.NOT_JUDGED, f"{check.sentence}; not judged, it cannot be trusted", check.numbers)


def _compared(run: Path, document: Mapping[str, Any], baseline: Path, seed: int) -> list[Check]:
    from intriguing import rng  # these take seconds to import, and only a baseline needs them
    from intriguing.experiments import audit_compare

    before = documents.load_audit(baseline)
    doubts = documents.doubts(before)
    if doubts:
        raise InputError(
            f"baseline: {baseline} is untrustworthy ({' '.join(doubts)}); its numbers are upper bounds that nothing "
            "can be held against, so name an audit that can be trusted"
        )
    settings_a, settings_b = (_part(_part(d, "run"), "settings") for d in (before, document))
    for name in _ALIKE:
        if settings_a.get(name) != settings_b.get(name):
            raise InputError(
                f"baseline: {baseline} was not measured as {run} was: {name} {settings_a.get(name)!r} against "
                f"{settings_b.get(name)!r}; audit both with the same attacks and options, and the same version"
            )
    rows_a, rows_b = (_worst(folder, d) for folder, d in ((baseline, before), (run, document)))
    try:
        found = audit_compare.compare(rows_a, rows_b, rng.generator("gate/baseline", seed))
    except InputError as error:
        raise InputError(f"baseline: {baseline} and {run} cannot be compared: {error}") from error
    largest = str(settings_b.get("norm")) == "inf"
    checks = [_drop(name, found.figures[name]) for name in _GUARDED[largest] if name in found.figures]
    if audit_compare.CERTIFIED in found.figures:
        methods = [settings.get("certify") for settings in (settings_a, settings_b)]
        if methods[0] != methods[1]:
            raise InputError(
                f"baseline: {baseline} is certified by {methods[0]} and {run} by {methods[1]}, whose radii differ on "
                "the same model; audit both with the same --certify-method"
            )
        name = f"certified_{'linf' if largest else 'l2'}"
        checks.append(_drop(name, found.figures[audit_compare.CERTIFIED]))
    return checks


def _drop(name: str, found: Difference) -> Check:
    fell = found.high < 0
    said = (
        f"{name} went from {_text(found.value_a)} to {_text(found.value_b)}, difference {_text(found.difference)}, "
        f"paired 95% interval {_text(found.low)} to {_text(found.high)}, n {found.n}: "
        + ("a significant drop" if fell else "no significant drop")
    )
    numbers = {
        "baseline": found.value_a, "value": found.value_b, "difference": found.difference,
        "low": found.low, "high": found.high, "n": found.n,
    }  # fmt: skip
    # A difference that is no number says nothing in favour of the model.
    fine = not fell and not math.isnan(found.difference) and not math.isnan(found.high)
    return Check(f"{name} against the baseline", State.PASSED if fine else State.FAILED, said, numbers)


def _worst(folder: Path, document: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the rows of the nearest example of all attacks, for the first model of an audit."""
    import pyarrow
    import pyarrow.parquet

    from intriguing.experiments import audit_compare
    from intriguing.experiments.audit_figures import WORST

    path = folder / ROWS
    try:
        rows = pyarrow.parquet.read_table(path, filters=[("attack", "==", WORST)]).to_pydict()
    except FileNotFoundError as error:
        raise StoreError(f"{path} is not there; run `intriguing audit --out {folder}` to the end") from error
    except (OSError, pyarrow.ArrowException) as error:
        raise StoreError(f"{path} cannot be read ({error}); run `intriguing audit --out {folder}` again") from error
    models = [model.get("name") for model in _part(document, "run").get("models") or () if isinstance(model, Mapping)]
    return audit_compare.worst(rows, model=str(models[0]) if models else None)


def _part(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name)
    return found if isinstance(found, Mapping) else {}


def _text(value: float) -> str:
    """Write a number with four significant digits, infinities and what is not a number by name."""
    return f"{value:.4g}"

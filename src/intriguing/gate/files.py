"""What a gate decided, for programs: JUnit XML for a build server, JSON for everything else."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from intriguing import __version__, documents
from intriguing.errors import StoreError
from intriguing.gate.judge import Outcome, State
from intriguing.store.files import write_atomic

SCHEMA = 1
# Characters that XML 1.0 cannot hold, not even escaped (section 2.2, Char).
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(outcome: Outcome) -> str:
    """Return the outcome as JUnit XML: one test case per check.

    Trust and what failed are failures with the numbers; what was not judged is skipped, so that no reader takes it
    for a success.

    Example:
        >>> junit(gate("runs/v1"))  # doctest: +SKIP
    """
    failed = [c for c in outcome.checks if c.state in (State.FAILED, State.UNTRUSTWORTHY)]
    skipped = [c for c in outcome.checks if c.state is State.NOT_JUDGED]
    counts = {"tests": len(outcome.checks), "failures": len(failed), "errors": 0, "skipped": len(skipped)}
    totals = {name: str(count) for name, count in counts.items()}
    root = ElementTree.Element("testsuites", totals)
    suite = ElementTree.SubElement(root, "testsuite", {"name": "intriguing gate", **totals})
    properties = ElementTree.SubElement(suite, "properties")
    stated = {"run": outcome.run, "baseline": outcome.baseline, "state": outcome.state.value, "version": __version__}
    for name, value in stated.items():
        if value is not None:
            ElementTree.SubElement(properties, "property", {"name": name, "value": _clean(value)})
    for check in outcome.checks:
        case = ElementTree.SubElement(suite, "testcase", {"classname": "intriguing.gate", "name": _clean(check.name)})
        sentence = _clean(check.sentence)
        if check in failed:
            kind = "failure"
        elif check in skipped:
            kind = "skipped"
        else:
            ElementTree.SubElement(case, "system-out").text = sentence
            continue
        told = {"message": sentence} | ({"type": check.state.value} if kind == "failure" else {})
        ElementTree.SubElement(case, kind, told).text = sentence
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def document(outcome: Outcome) -> dict[str, Any]:
    """Return the outcome as a document for JSON: its state, its exit code and every check with its numbers."""
    return documents.strict(
        {
            "schema": SCHEMA,
            "kind": "gate",
            "run": str(outcome.run),
            "baseline": None if outcome.baseline is None else str(outcome.baseline),
            "state": outcome.state.value,
            "code": outcome.code,
            "reasons": list(outcome.reasons),
            "checks": [
                {"name": c.name, "state": c.state.value, "sentence": c.sentence, **c.numbers} for c in outcome.checks
            ],
        }
    )


def write(
    outcome: Outcome,
    *,
    junit_file: str | os.PathLike[str] | None = None,
    json_file: str | os.PathLike[str] | None = None,
) -> None:
    """Write the outcome into the files that are named.

    Raises:
        StoreError: a file cannot be written.
    """
    if junit_file is not None:
        _write(Path(junit_file), junit(outcome))
    if json_file is not None:
        _write(Path(json_file), json.dumps(document(outcome), indent=1, allow_nan=False) + "\n")


def _write(path: Path, text: str) -> None:
    """Write a file in one step, and the folders it lies in where they are missing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text.encode("utf-8", "replace"))
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise StoreError(f"{path} could not be written: {reason}; name another file") from error


def _clean(text: object) -> str:
    """Return text that XML can hold; what it cannot stands as the replacement character."""
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", str(text))

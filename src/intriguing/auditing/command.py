"""The command line that makes an audit again."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from intriguing.auditing.certificates import DEFAULT as CERTIFY
from intriguing.auditing.shards import DataSource
from intriguing.auditing.subjects import Subject
from intriguing.data.stream import Stream

DEFAULT_BUDGET = 2000  # passes per image and attack: what the nearest examples of most nets take


def command(
    given: Sequence[Subject],
    source: DataSource | None,
    stream: Stream,
    settings: Mapping[str, Any],
    device: str | None,
    data_dir: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
) -> str:
    """Return the command line that makes the run again, defaults left out; empty for what has none."""
    if source is None or any(subject.source is None for subject in given):
        return ""
    words = ["intriguing", "audit"]
    for subject in given:
        assert subject.source is not None
        words += ["--model", subject.source.spec]
        words += ["--weights", subject.source.weights] if subject.source.weights else []
    first = given[0].source
    assert first is not None
    for name, value in (("box", first.box), ("mean", first.mean), ("std", first.std)):
        if value is not None:
            words += [f"--{name}", ",".join(f"{v:g}" for v in value) if isinstance(value, Sequence) else f"{value:g}"]
    words += ["--data", stream.name, "--split", stream.split]
    words += [] if source.images is None else ["--images", str(source.images)]
    for attack in settings["attacks"]:
        words += ["--attack", attack]
    for name in ("budget", "eps", "norm", "target", "size"):
        value = settings[name]
        if value is not None and (name, value) != ("budget", DEFAULT_BUDGET):
            words += [f"--{name}", str(value)]
    if settings.get("certify"):
        words += ["--certify"] if settings["certify"] == CERTIFY else ["--certify-method", settings["certify"]]
    words += ["--seed", str(settings["seed"])] if settings["seed"] else []
    words += ["--data-dir", os.fspath(data_dir)] if data_dir is not None else []
    words += ["--device", device] if device not in (None, "cpu") else []
    return shlex.join([*words, "--out", os.fspath(out)])

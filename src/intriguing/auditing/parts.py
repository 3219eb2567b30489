"""What the shards of an audit come to: the document without its `run`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from intriguing.attacks.base import Attack
from intriguing.auditing.shards import Task, in_box
from intriguing.data.stream import Stream
from intriguing.experiments import audit_certify
from intriguing.experiments import audit_sandwich as sandwich
from intriguing.experiments import audit_summary as summary
from intriguing.experiments.audit_summary import Gathered
from intriguing.records import Record
from intriguing.rng import generator


def parts(
    task: Task,
    gathered: Mapping[str, Gathered],
    checks: list[dict[str, Any]],
    stream: Stream,
    attacks: Mapping[str, Attack],
    eps: float | None,
    norm: float | None,
    sampled: Mapping[str, Record],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the document without `run`, and the tensors of the fragile images.

    Args:
        task: what was done.
        gathered: the rows of every model.
        checks: of the trust panel.
        stream: the images.
        attacks: by name.
        eps: a radius at which accuracies are wanted.
        norm: that the attacks were asked for.
        sampled: what every method of certifying makes of a few images, by model; empty where nothing is certified.
    """
    (subject, first), *others = gathered.items()
    model = task.models[subject]
    low, high = model.box
    K = model.logits(in_box(stream.piece(0, 1), model.box)).shape[1]
    classes = [*stream.classes, *(f"class {label}" for label in range(len(stream.classes), K))]
    extra = None if eps is None else (eps, math.inf if norm == math.inf else 2.0)

    def figures(name: str, rows: Gathered) -> dict[str, dict[str, Any]]:
        draw = generator(f"audit/bootstrap/{name}", task.seed)
        found = summary.figures(rows, draw, extra=extra, width=high - low)
        if task.certify:
            draw = generator(f"audit/bootstrap/certificates/{name}", task.seed)
            found |= sandwich.figures(rows, draw, norm=task.norm, eps=eps, width=high - low)
        return found

    found = figures("subject", first) | summary.pooled_transfer(gathered)
    bounds, product, note = summary.layers(model, stream.shape)
    found |= product
    for name, rows in others:
        found |= {f"{name}/{figure}": entry for figure, entry in figures(name, rows).items()}
    nearest, tensors = summary.fragile(first, classes)
    if task.certify:
        checks = [*checks, sandwich.contradictions(gathered, stream.positions.tolist(), task.norm)]
    norms = {name: float(getattr(attack, "norm", 2)) for name, attack in attacks.items()}
    accuracy = {name: summary.accuracy(rows) for name, rows in gathered.items()}
    document: dict[str, Any] = {
        "verdict": summary.verdict(checks, accuracy, K),
        "trust": checks,
        "figures": found,
        "curves": summary.curves(first, norms),
        "confusion": summary.confusion(first, classes),
        "classes": summary.by_class(first, classes, generator("audit/bootstrap/classes", task.seed)),
        "fragile": nearest,
        "transfer": summary.transfer(gathered),
        "layers": bounds,
        "layers_note": note,
    }
    if task.certify:
        certificates = _certificates(task, gathered, stream, sampled)
        document |= {"certificates": certificates, "layers": certificates["models"][0]["layers"] or bounds}
    return document, tensors


def _certificates(
    task: Task, gathered: Mapping[str, Gathered], stream: Stream, sampled: Mapping[str, Record]
) -> dict[str, Any]:
    """Return both ends of the distance for every model, what each method makes of them, and where layers lose."""
    places = audit_certify.compared(len(stream))
    models = []
    for name, rows in gathered.items():
        layers, note = sandwich.losses(task.models[name], rows, stream.shape)
        draw = generator(f"audit/bootstrap/methods/{name}", task.seed)
        methods = sandwich.methods(sampled[name].values["methods"], rows, places, task.norm, draw)
        ends = sandwich.ends(rows, task.norm)
        models.append({"name": name, **ends, "methods": methods, "layers": layers, "layers_note": note})
    return {"method": task.certify, "norm": "inf" if task.norm == math.inf else "2", "models": models}

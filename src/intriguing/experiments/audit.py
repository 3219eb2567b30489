"""One shard of an audit: a few images attacked, one row per image and attack, with the controls beside them.

A row of the attack "worst of" holds, per image, the nearest example of all attacks: the point-wise worst case. Its
`forwards` and `backwards` are those of all attacks together, since that is what the worst case has cost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from intriguing.attacks.base import Attack
from intriguing.attacks.noise import gaussian_of_norm
from intriguing.attacks.result import AttackResult, AttackStatus
from intriguing.nets.load import Model
from intriguing.records import Record
from intriguing.rng import generator

WORST = "worst of"  # the attack column of the rows that hold the nearest example of all attacks
_TOP = 3  # classes told of a fragile image, before and after

Progress = Callable[[float, float], None]


def image_hashes(images: Tensor, labels: Tensor) -> list[str]:
    """Return 32 hex digits per image that change with any pixel, the shape or the label.

    Args:
        images: (N, ...) float32, on the CPU.
        labels: (N,) int64, on the CPU.

    Example:
        >>> len(image_hashes(torch.zeros(1, 1, 2, 2), torch.tensor([3]))[0])
        32
    """
    head = str(tuple(images.shape[1:])).encode()
    # "<f4": the same bytes on a machine of the other byte order.
    pixels = images.contiguous().numpy().astype("<f4", copy=False)
    return [
        hashlib.sha256(head + b"\0%d\0" % label + row.tobytes()).hexdigest()[:32]
        for row, label in zip(pixels, labels.tolist(), strict=True)
    ]


def attack_shard(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    attacks: Mapping[str, Attack],
    norm: float,
    seed: int,
    receivers: Mapping[str, Model] | None = None,
    keep: int = 20,
    progress: Progress | None = None,
) -> Record:
    """Attack images with every attack and return one row per image and attack.

    Args:
        model: the net.
        images: (N, C, H, W) float32 in the model's box.
        labels: (N,) int64.
        attacks: by name, at least one.
        norm: 2 or inf, in which "worst of" is the nearest.
        seed: draws whatever is random, together with the content of the images: where a shard stands in the set
            changes nothing.
        receivers: models to which the nearest examples, and noise of the same L2 norm, are fed too.
        keep: how many of the nearest examples are kept as tensors.
        progress: called with (done, all).

    Returns:
        Rows as in ``rows.parquet``, without `index` and `model`, the attacks one after another and "worst of" last;
        tensors ``original`` and ``adversarial`` (k, C, H, W), k at most `keep`, nearest first; values ``fragile``,
        for each of those its place in the shard and the likeliest classes before and after.

    Raises:
        InputError, DataError, ModelError: as the attacks do.

    Example:
        >>> shard = attack_shard(model, x, y, attacks={"lbfgs": LBFGS(target="nearest")}, norm=2, seed=0)
        >>> shard.rows["distance"][-len(x):]
    """
    hashes = image_hashes(images, labels)
    content = hashlib.sha256("".join(hashes).encode()).hexdigest()[:32]

    def draw(name: str) -> torch.Generator:
        return generator(f"audit/{name}/{content}", seed)

    results: dict[str, AttackResult] = {}
    for place, (name, attack) in enumerate(attacks.items()):
        told = _part(progress, place, len(attacks))
        results[name] = attack(model, images, labels, generator=draw(name), progress=told)
    logits = model.logits(images).double()
    confidence = logits.softmax(1).gather(1, labels[:, None]).squeeze(1)
    common = {"image_hash": hashes, "label": labels.tolist(), "confidence": confidence.tolist()}
    tables = [{**common, **_rows(name, result)} for name, result in results.items()]
    worst, adversarial = _worst(tables, list(results.values()), norm)
    worst |= _controls(model, images, labels, adversarial, worst, receivers or {}, draw("noise"))
    tables.append(worst)
    rows = {name: [v for table in tables for v in table.get(name, [None] * len(labels))] for name in worst}
    nearest = _nearest(worst, norm, keep)
    after = model.logits(adversarial[nearest]).double() if len(nearest) else logits[:0]
    fragile = [
        {"place": place, "before": _likeliest(logits[place]), "after": _likeliest(after[at])}
        for at, place in enumerate(nearest)
    ]
    tensors = {"original": images[nearest], "adversarial": adversarial[nearest]} if nearest else {}
    return Record(values={"images": len(labels), "fragile": fragile}, tensors=tensors, rows=rows)


def _part(progress: Progress | None, place: int, parts: int) -> Progress | None:
    """Return the progress of one of several equal parts of a whole."""
    if progress is None:
        return None
    report = progress
    return lambda done, total: report(place + (done / total if total else 0.0), parts)


def _rows(name: str, result: AttackResult) -> dict[str, list[Any]]:
    rounded = result.quantized(256)
    columns = {column: values for column, values in result.rows().items() if column not in ("image", "label")}
    wrong = ~result.attacked
    return {
        "attack": [name] * len(result.status),
        "predicted": torch.where(wrong, result.target, result.labels).tolist(),
        **columns,
        "survives_8bit": rounded.found.tolist(),
        "distance_8bit": rounded.distance.tolist(),
    }


def _worst(
    tables: Sequence[Mapping[str, list[Any]]], results: Sequence[AttackResult], norm: float
) -> tuple[dict[str, list[Any]], Tensor]:
    """Return the rows of the nearest example of each image, and the images (N, ...)."""
    N = len(results[0].status)
    winner = torch.stack([result.size_in(norm) for result in results]).argmin(0).tolist()
    rows = {column: [tables[winner[i]][column][i] for i in range(N)] for column in tables[0]}
    rows["attack"] = [WORST] * N
    for column in ("forwards", "backwards"):
        rows[column] = [sum(table[column][i] for table in tables) for i in range(N)]
    adversarial = torch.stack([results[winner[i]].adversarial[i] for i in range(N)])
    return rows, adversarial.to(results[0].images.dtype)


def _controls(
    model: Model,
    images: Tensor,
    labels: Tensor,
    adversarial: Tensor,
    worst: Mapping[str, list[Any]],
    receivers: Mapping[str, Model],
    draw: torch.Generator,
) -> dict[str, list[Any]]:
    """Return who else is misled: by the examples, and by noise of the same L2 norm on the same images."""
    found = torch.tensor([status == AttackStatus.FOUND.name.lower() for status in worst["status"]])
    distance = torch.tensor(worst["distance"], dtype=torch.float64)
    noisy = gaussian_of_norm(images[found], distance[found], generator=draw, box=model.box)

    def misled(net: Model, fed: Tensor, counted: Tensor) -> list[bool | None]:
        answers = torch.zeros(len(labels), dtype=torch.bool)
        if len(fed):
            answers[found] = net.predict(fed) != labels[found]
        return [answer if known else None for answer, known in zip(answers.tolist(), counted.tolist(), strict=True)]

    columns: dict[str, list[Any]] = {"fooled_by_noise": misled(model, noisy, found)}
    for name, receiver in receivers.items():
        counted = found & (receiver.predict(images) == labels)
        columns[f"fools/{name}"] = misled(receiver, adversarial[found], counted)
        columns[f"noise_fools/{name}"] = misled(receiver, noisy, counted)
    return columns


def _nearest(worst: Mapping[str, list[Any]], norm: float, keep: int) -> list[int]:
    """Return the places of the `keep` nearest examples that were found, nearest first."""
    sizes = worst["distance" if norm == 2 else "distance_linf"]
    found = [i for i, status in enumerate(worst["status"]) if status == AttackStatus.FOUND.name.lower()]
    return sorted(found, key=lambda i: (sizes[i], i))[:keep]


def _likeliest(logits: Tensor) -> list[list[Any]]:
    """Return the likeliest classes with their probabilities, [class, probability], the largest first."""
    top = logits.softmax(0).topk(min(_TOP, len(logits)))
    return [[int(label), float(p)] for label, p in zip(top.indices, top.values, strict=True)]

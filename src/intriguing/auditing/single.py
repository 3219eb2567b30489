"""One attack on images of a set, its examples kept in a file: what `intriguing attack` does."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch

from intriguing.attacks.base import Attack
from intriguing.attacks.result import AttackResult
from intriguing.auditing.options import attacks_of
from intriguing.auditing.shards import in_box, with_starts
from intriguing.auditing.subjects import Given, Values, side, subjects
from intriguing.data import ImageSet
from intriguing.data.stream import Stream, of, stream
from intriguing.errors import InputError, StoreError
from intriguing.rng import generator
from intriguing.store.files import write_atomic


@dataclass(frozen=True)
class Attacked:
    """What an attack came to.

    Attributes:
        result: one entry per image.
        positions: where in the set each image stands.
        saved: the files written: examples, and rows beside them; none if none were asked for.
    """

    result: AttackResult
    positions: tuple[int, ...]
    saved: tuple[Path, ...]


def attack(
    model: Given,
    data: str | ImageSet,
    *,
    attack: str | Attack = "lbfgs",
    split: str = "test",
    images: int | None = 256,
    budget: int | None = None,
    eps: float | None = None,
    norm: float | None = None,
    target: str | None = None,
    seed: int = 0,
    size: int | None = None,
    weights: str | os.PathLike[str] | None = None,
    box: tuple[float, float] | None = None,
    mean: Values | None = None,
    std: Values | None = None,
    device: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    save: str | os.PathLike[str] | None = None,
    progress: Callable[[float, float], None] | None = None,
) -> Attacked:
    """Attack images of a set with one attack.

    All images are in memory at once; `audit` reads any number in pieces.

    Args:
        model: as ``"my_model.py:build"``, or in memory.
        data: the name of a set, or a set in memory.
        attack: a name of `attacks.ATTACKS`, or an attack.
        split: of the set.
        images: how many, drawn in proportion to the classes; None: all.
        budget: the largest number of forwards plus backwards on one image; None: the attack's own.
        eps: radius, of an attack with one.
        norm: 1, 2 or inf, of an attack that knows several.
        target: which wrong class; None: the attack's own default.
        seed: of everything random.
        size: side in pixels, for images of unequal size; None: the model's own, if it says one.
        weights: file of the model's weights.
        box: of a model given by name; images in [0, 1] are put on its scale.
        mean: likewise, subtracted.
        std: likewise, divides.
        device: likewise.
        data_dir: where sets of images are looked up first.
        save: a ``.safetensors`` file for ``original`` and ``adversarial`` (N, C, H, W), ``labels``, ``target``,
            ``status`` and ``index`` (N,); rows go beside it, with the suffix ``.parquet``. A folder that is missing
            is made.
        progress: called with (done, all).

    Raises:
        InputError: a file of another kind, or options the attack does not have.
        IntriguingError: models or images that cannot be used.
        StoreError: the files cannot be written.

    Example:
        >>> attack("my_model.py:build", "digits", target="all", save="adv.safetensors").result.median
    """
    place = _checked(save)
    (name, search), *_ = attacks_of([attack], budget=budget, eps=eps, norm=norm, target=target, nearest=False).items()
    (subject,) = subjects(
        [model], weights=[] if weights is None else [weights], box=box, mean=mean, std=std, device=device
    )

    def opened(count: int | None, size: int | None, otherwise: int | None = None) -> Stream:
        if isinstance(data, str):
            return stream(data, split, images=count, seed=seed, size=size, otherwise=otherwise, data_dir=data_dir)
        return of(data, count=count, seed=seed)

    found = opened(images, size, side(subject.model))
    (search,) = with_starts({name: search}, lambda: opened(None, found.size), subject.model.box).values()
    pixels = in_box(found.piece(0, len(found)), subject.model.box)
    draw = generator(f"attack/{name}", seed)
    result = search(subject.model, pixels, found.labels, generator=draw, progress=progress)
    positions = found.positions.tolist()
    return Attacked(result, tuple(positions), () if place is None else _save(place, result, positions))


def _checked(save: str | os.PathLike[str] | None) -> Path | None:
    """Refuse a file of another kind before anything is computed."""
    if save is None:
        return None
    place = Path(save)
    if place.suffix != ".safetensors":
        raise InputError(f"save: expected a file that ends in .safetensors, got {os.fspath(save)!r}")
    folder = next(above for above in place.absolute().parents if above.exists())
    if not folder.is_dir():
        raise InputError(f"save: {os.fspath(folder)!r} is a file, not a folder; name another file")
    return place


def _save(place: Path, result: AttackResult, positions: Sequence[int]) -> tuple[Path, ...]:
    tensors = {
        "original": result.images,
        "adversarial": result.adversarial,
        "labels": result.labels,
        "target": result.target,
        "status": result.status,
        "index": torch.tensor(positions, dtype=torch.int64),
    }
    content = safetensors.torch.save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(place, content)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise StoreError(f"{place} could not be written: {reason}; name another file with --save") from error
    rows = place.with_suffix(".parquet")
    result.to_parquet(rows)
    return place, rows

"""The images nearest to a mistake: original, change, adversarial, and what the model answered to each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from intriguing import documents
from intriguing.records import Record
from intriguing.report import format as fmt
from intriguing.report import images

ORIGINAL, ADVERSARIAL = "fragile/original", "fragile/adversarial"
# Factors by which a change is shown, so that its largest pixel nearly reaches black or white.
_FACTORS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_TOP = 3


def rows(records: Mapping[str, Record], count: int, box: tuple[float, float]) -> list[list[torch.Tensor | None]]:
    """Return per fragile image the original, its change and the adversarial image, each (C, H, W) in [0, 1].

    Args:
        records: by cell; the first that holds both stacks of images is taken.
        count: how many images the document lists.
        box: the range of pixels that the model takes.
    """
    held = next((r.tensors for r in records.values() if ORIGINAL in r.tensors and ADVERSARIAL in r.tensors), {})
    shown: list[list[torch.Tensor | None]] = []
    for i in range(count):
        original, adversarial = (images.pick(held, {"tensor": name, "index": i}) for name in (ORIGINAL, ADVERSARIAL))
        if original is None or adversarial is None or original.shape != adversarial.shape:
            shown.append([None, None, None])
            continue
        low, high = box
        first, last = (
            (image.detach().to("cpu", torch.float64) - low) / (high - low) for image in (original, adversarial)
        )
        shown.append([first, 0.5 + factor(last - first) * (last - first), last])
    return shown


def factor(change: torch.Tensor) -> int:
    """Return the factor at which a change is shown.

    Example:
        >>> factor(torch.tensor([0.012, -0.03]))
        10
    """
    largest = float(change.abs().max())
    return max((f for f in _FACTORS if f * largest <= 0.5), default=1) if largest > 0 else 1


def specimens(
    given: Sequence[Mapping[str, Any]], shown: Sequence[Sequence[torch.Tensor | None]], album: images.Album
) -> list[dict[str, Any]]:
    """Return what the template shows of each fragile image.

    Args:
        given: the document's ``fragile``, the nearest first.
        shown: what `rows` returned.
        album: encodes the images.
    """
    return [_specimen(i, entry, plain, album) for i, (entry, plain) in enumerate(zip(given, shown, strict=True))]


def _specimen(
    i: int, entry: Mapping[str, Any], plain: Sequence[torch.Tensor | None], album: images.Album
) -> dict[str, Any]:
    original, change, adversarial = plain
    names = ["original", "change", "adversarial"]
    if original is not None and adversarial is not None:
        names[1] = f"change ×{factor(adversarial - original)}"
    survives = entry.get("survives_8bit")
    return {
        "ident": f"fragile-{i + 1}",
        "label": fmt.clean(entry.get("label", "")),
        "target": fmt.clean(entry.get("target", "")),
        "index": fmt.count(entry.get("index")),
        "shots": list(zip(names, album.add([original, change, adversarial]), strict=True)),
        "before": _answers(entry.get("top_before")),
        "after": _answers(entry.get("top_after")),
        "facts": [
            ("L2", _length(documents.number(entry, "distance"))),
            ("Linf", _length(documents.number(entry, "distance_linf"))),
            *([("proved", _length(documents.number(entry, "certified")))] if "certified" in entry else []),
            ("queries", fmt.count(entry.get("queries"))),
            ("8 bits", fmt.MISSING if survives is None else "survives" if survives else "dies"),
        ],
    }


def _length(value: float | None) -> str:
    """Write a distance with three digits."""
    return fmt.number(value, places=fmt.own_decimals(value))


def _answers(given: object) -> list[tuple[str, str, str]]:
    """Return the likeliest classes: name, probability as text, and as the width of a bar."""
    found = []
    for pair in given if isinstance(given, list | tuple) else ():
        if isinstance(pair, list | tuple) and len(pair) == 2:
            p = fmt.finite(documents.value(pair[1]))
            found.append(
                (fmt.clean(pair[0]), fmt.number(p, "percent", 1), f"{100 * min(1.0, max(0.0, p or 0.0)):.1f}%")
            )
    return found[:_TOP]

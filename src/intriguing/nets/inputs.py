"""What a net may be given: images that lie in the box, labels that name its classes.

The checks read every value, so they stand at the entrances of the library and not in each call. A message names the
images by their ids, the range found, and what has probably happened to them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from intriguing.errors import DataError, InputError

# Published normalisations (mean, standard deviation), named in a message when pixels fit one of them.
_NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "MNIST": ((0.1307,), (0.3081,)),
    "Fashion-MNIST": ((0.2860,), (0.3530,)),
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR-10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "CIFAR-100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "half": ((0.5,), (0.5,)),
}

# What to do about the tensors that `odd_layout` names.
CURES = {
    "nested": "Pad its parts to one shape: torch.nested.to_padded_tensor.",
    "meta": "It has a shape but no values: make it on a real device.",
    "sparse": "Give its to_dense().",
}


def odd_layout(tensor: Tensor) -> str:
    """Return the word for a tensor whose values do not lie side by side, or "" for an ordinary one.

    Example:
        >>> odd_layout(torch.eye(2).to_sparse())
        'sparse'
    """
    if tensor.is_nested:
        return "nested"
    if tensor.is_meta:
        return "meta"
    return "" if tensor.layout == torch.strided else "sparse"


def check_images(images: Tensor, box: tuple[float, float]) -> Tensor:
    """Return the images if they can be attacked.

    Args:
        images: (B, C, H, W) or (B, n), a floating dtype, every pixel finite and in the box.
        box: lowest and highest pixel.

    Raises:
        InputError: something that is no tensor.
        DataError: anything else. The message names the images, the range found, and the normalisation or scale the
            pixels seem to have.

    Example:
        >>> check_images(torch.zeros(1, 1, 2, 2), (0, 1)).shape
        torch.Size([1, 1, 2, 2])
    """
    low, high = box
    if not isinstance(images, Tensor):
        raise InputError(f"images must be a torch tensor (B, C, H, W) or (B, n), got {type(images).__name__}")
    if odd := odd_layout(images):
        raise DataError(f"images must be an ordinary tensor, got a {odd} one. {CURES[odd]}")
    if not images.is_floating_point():
        raise DataError(
            f"images must be floating point in [{low:g}, {high:g}], got {images.dtype}. For bytes "
            "0..255 pass images.float() / 255."
        )
    if images.ndim not in (2, 4) or not images.numel():
        raise DataError(
            f"images must be (B, C, H, W) or (B, n) with at least one image and one pixel, got shape "
            f"{tuple(images.shape)}"
        )
    rows = images.detach().flatten(1)
    finite = rows.isfinite().all(dim=1)
    if not bool(finite.all()):
        bad = some((~finite).nonzero().flatten().tolist())
        raise DataError(f"NaN or infinite pixels in images {bad}. Repair these images or leave them out.")
    least, most = rows.amin(dim=1), rows.amax(dim=1)
    outside = (least < low) | (most > high)
    if bool(outside.any()):
        raise DataError(
            f"pixels must lie in the box [{low:g}, {high:g}], but go from {least.min().item():.4g} to "
            f"{most.max().item():.4g} (images {some(outside.nonzero().flatten().tolist())}). "
            + _advice(images.detach(), box)
        )
    return images


def check_labels(labels: Tensor, count: int, classes: int) -> None:
    """Refuse labels that are not `count` class indices below `classes`.

    Raises:
        InputError: another shape or dtype; several labels per image are refused in words, since a distance to the
            nearest wrong class needs one right class.
        DataError: a label outside 0 ... classes - 1, with the ids of the images.

    Example:
        >>> check_labels(torch.tensor([0, 2]), 2, 3)
    """
    if isinstance(labels, Tensor) and (odd := odd_layout(labels)):
        raise InputError(f"labels: expected an ordinary int64 tensor ({count},), got a {odd} one. {CURES[odd]}")
    if not isinstance(labels, Tensor) or labels.dim() != 1 or len(labels) != count or labels.dtype != torch.int64:
        got = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        several = isinstance(labels, Tensor) and labels.dim() == 2 and labels.shape[1] > 1
        raise InputError(
            f"labels: expected int64 of shape ({count},), one per image, got {got}"
            + ("; nets with several labels per image are not served: ask for one label at a time" if several else "")
        )
    bad = ((labels < 0) | (labels >= classes)).nonzero().squeeze(1)
    if len(bad):
        raise DataError(
            f"labels: expected 0 to {classes - 1} for a net with {classes} classes, got "
            f"{labels[bad[:5]].tolist()} at images {bad[:5].tolist()} ({len(bad)} in all); "
            "check that the net and the data have the same classes"
        )


def some(rows: list[int]) -> str:
    """Return the first few row numbers, and how many more there are."""
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    return ", ".join(str(row) for row in rows[:5]) + more


def _advice(images: Tensor, box: tuple[float, float]) -> str:
    """Say what scale or normalisation pixels outside the box seem to have, and what to do about it."""
    least, most = images.min().item(), images.max().item()
    if box == (0.0, 1.0) and least >= 0 and 2 < most <= 255:
        return "They look like bytes 0..255: pass images / 255."
    found = _likely_normalisation(images) if box == (0.0, 1.0) else None
    if found:
        mean, std = _NORMALISATIONS[found]
        values = f"mean {mean}, std {std}" if len(mean) > 1 else f"mean {mean[0]}, std {std[0]}"
        return (
            f"They look normalised as for {found} ({values}): pass images in [0, 1] and give these numbers "
            "to Model(net, mean=..., std=...)."
        )
    return "Scale the images, or name their range: Model(net, box=(lowest, highest))."


def _likely_normalisation(images: Tensor) -> str | None:
    """Return the published normalisation whose inverse fills [0, 1] best, or None if none comes close.

    Images nearly always hold almost black and almost white pixels, so undoing the right normalisation gives
    pixels from about 0 to about 1; a wrong one leaves the box or fills little of it.
    """
    best, best_gap = None, 0.35  # of the unit range left unfilled; more is no evidence
    for name, (mean, std) in _NORMALISATIONS.items():
        if len(mean) > 1 and (images.ndim != 4 or images.shape[1] != len(mean)):
            continue
        # A single-channel normalisation of colour images is unusual, except for the neutral one.
        if len(mean) == 1 and name != "half" and images.ndim == 4 and images.shape[1] != 1:
            continue
        shape = (1, -1, 1, 1) if images.ndim == 4 else (1, -1)
        m, s = (torch.tensor(values, dtype=images.dtype).to(images).view(shape) for values in (mean, std))
        pixels = images * s + m
        low, high = pixels.min().item(), pixels.max().item()
        gap = abs(low) + abs(1 - high)
        # Published means are rounded to 3 or 4 digits, so the inverse may leave the box by as much.
        if low > -1e-3 and high < 1 + 1e-3 and gap < best_gap:
            best, best_gap = name, gap
    return best

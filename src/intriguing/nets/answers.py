"""What a net may answer, and how it becomes logits (B, K).

A tensor, an object with ``.logits``, a mapping with ``"logits"``, or a tuple or list of one tensor. A single column
counts as two classes. Probabilities and bare labels are served where `Model` is told so: nothing is guessed here,
since logits that look like probabilities exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from intriguing.errors import ModelError
from intriguing.nets.inputs import CURES, odd_layout

ANSWERS = {
    "logits": "one score per class and image, the largest wins; log-softmax is as good",
    "probabilities": "softmax or sigmoid applied; their logarithm is used",
    "labels": "the class alone, as an integer",
}


def unwrap(answer: Any) -> tuple[Tensor, str]:
    """Return the tensor inside a net's answer, and where it was in words.

    Raises:
        ModelError: no tensor, or no way to tell which one is meant.

    Example:
        >>> unwrap({"logits": torch.zeros(1, 2)})[1]
        '"logits" of a dict'
    """
    if isinstance(answer, Tensor):
        return answer, "the tensor itself"
    kind = type(answer).__name__
    inner, where = getattr(answer, "logits", None), f".logits of a {kind}"
    if inner is None and isinstance(answer, Mapping):
        inner, where = answer.get("logits"), f'"logits" of a {kind}'
    if inner is None and isinstance(answer, tuple | list) and len(answer) == 1:
        inner, where = answer[0], f"the one entry of a {kind}"
    if isinstance(inner, Tensor):
        return inner, where
    raise ModelError(
        f"the net returned {kind}; expected a tensor of logits, an object with .logits, a "
        'mapping with "logits", or a tuple of one tensor. Wrap the net so that it returns one of these.'
    )


def to_logits(answer: Any, rows: int, kind: str = "logits", classes: int | None = None) -> Tensor:
    """Return the logits (rows, K) inside any answer a net may give, or say what is wrong with it.

    Args:
        answer: what the net returned.
        rows: images it was given.
        kind: of `ANSWERS`.
        classes: K, where the answer is labels.

    Returns:
        The logits; for a single column z, or the probability p of class 1, the two of (0, z) or (log(1 - p), log p).
        For labels, 1 at the label and 0 elsewhere.

    Raises:
        ModelError: an answer that is not one row per image, or not of the kind it is said to be.

    Example:
        >>> to_logits(torch.tensor([2.0]), 1).tolist()
        [[0.0, 2.0]]
    """
    tensor, _ = unwrap(answer)
    if odd := odd_layout(tensor):
        raise ModelError(f"the net returned a {odd} tensor; expected an ordinary one of {kind}. {CURES[odd]}")
    if kind == "labels":
        return _from_labels(tensor, rows, classes or 0)
    if not tensor.is_floating_point():
        raise ModelError(
            f"the net returned {tensor.dtype}, not {kind}; return the scores before any argmax, or, where there are "
            'none, say so: Model(net, answers="labels", classes=K).'
        )
    # A squeezed single logit is (B,), and () where there is but one image.
    if tensor.ndim <= 1 and tensor.numel() == rows:
        tensor = tensor.reshape(rows, 1)
    if tensor.ndim != 2 or tensor.shape[1] == 0 or tensor.shape[0] != rows:
        raise ModelError(
            f"the net returned shape {tuple(tensor.shape)} for {rows} images; expected {kind} "
            f"({rows}, classes), one row per image. Flatten spatial outputs and keep the batch axis."
        )
    if kind == "probabilities":
        return _from_probabilities(tensor)
    if tensor.shape[1] == 1:
        return torch.cat((torch.zeros_like(tensor), tensor), dim=1)
    return tensor


def _from_probabilities(p: Tensor) -> Tensor:
    """Return log p; of a single column, the logarithms of both classes."""
    single = p.shape[1] == 1
    sums = p.detach().sum(1)
    # Half precision has three digits; the sum of a float32 softmax over a thousand classes is good to five.
    slack = max(1e-4, 10 * torch.finfo(p.dtype).eps)
    inside = (p.detach() >= 0).all(1) & (p.detach() <= 1 + slack).all(1)
    good = inside if single else inside & ((sums - 1).abs() <= slack)
    if not bool(good.all()):
        row = int((~good).nonzero()[0])
        raise ModelError(
            f'Model(answers="probabilities") got a row that is none: image {row} of the batch has entries from '
            f"{p[row].min().item():.4g} to {p[row].max().item():.4g} with sum {sums[row].item():.4g}. For logits leave "
            "answers out; sigmoids of several labels are not served."
        )
    return torch.cat((torch.log1p(-p), p.log()), dim=1) if single else p.log()


def _from_labels(labels: Tensor, rows: int, classes: int) -> Tensor:
    """Return (rows, classes) with 1 at the label."""
    whole = labels if not labels.is_floating_point() else labels.detach().round()
    if labels.numel() != rows or labels.is_complex() or not bool((whole == labels.detach()).all()):
        raise ModelError(
            f'Model(answers="labels") expects one whole number per image, got {labels.dtype} of shape '
            f"{tuple(labels.shape)} for {rows} images"
        )
    whole = whole.reshape(rows).to(torch.int64)
    if rows and not 0 <= int(whole.min()) <= int(whole.max()) < classes:
        raise ModelError(
            f"the net returned labels from {int(whole.min())} to {int(whole.max())}; expected 0 to {classes - 1}, "
            f"since Model(classes={classes})"
        )
    return torch.nn.functional.one_hot(whole, classes).to(torch.get_default_dtype())

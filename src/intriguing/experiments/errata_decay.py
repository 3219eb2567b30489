"""Erratum E15: which form of weight decay gives the errors of Table 1's softmax nets?

Szegedy et al. 2014, section 2, prints lambda * sum_i w_i^2 / k, with k the number of units of the layer. The softmax
nets are convex, so each reading of that line has one answer whatever the optimiser, and the printed errors tell the
readings apart. Symbols: w the weights, lambda the decay, K classes, n pixels; all beside the *mean* cross-entropy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from intriguing.errors import UnknownNameError
from intriguing.experiments.cells import cell, exact
from intriguing.experiments.statistics import proportion
from intriguing.floating import denormals_flushed
from intriguing.records import Images, Inputs, Record
from intriguing.training.loops import softmax_regression

FORMS = {
    "half": "(lambda / 2) sum w^2",
    "half, free bias": "(lambda / 2) sum w^2, with a bias that is not decayed",
    "half, decayed bias": "(lambda / 2) sum w^2, with a bias that is decayed",
    "half by classes": "(lambda / 2) sum w^2 / k, k = number of classes",
    "classes": "lambda sum w^2 / k, k = number of classes",
    "pixels": "lambda sum w^2 / k, k = number of pixels",
}
"""The readings by key; the first is the one that the nets here are trained with."""

TRAIN, TEST = "train error", "test error"
GAP = "mean gap to the printed errors"


def row(form: str, decay: str) -> str:
    """Return the name of a row: a decay as the paper writes it, and a key of `FORMS`."""
    return f"lambda {decay}: {FORMS[form]}"


def softmax_form(inputs: Inputs, *, form: str, decay: float, tolerance: float) -> Record:
    """Train a softmax net with one reading of the weight decay.

    Args:
        inputs: data ``"train"`` is learnt, ``"test"`` only measured.
        form: a key of `FORMS`.
        decay: lambda.
        tolerance: of the gradient's largest entry.

    Returns:
        ``values``: ``train_error``, ``test_error``, ``n_train``, ``n_test``, ``gradient_norm``.

    Raises:
        UnknownNameError: no such form.
    """
    if form not in FORMS:
        raise UnknownNameError("form of weight decay", form, FORMS)
    train, test = inputs.data("train"), inputs.data("test")
    classes, pixels = len(train.classes), train.images[0].numel()
    # `softmax_regression` adds (rate / 2) sum w^2.
    rates = {"half by classes": decay / classes, "classes": 2 * decay / classes, "pixels": 2 * decay / pixels}
    always_one = form == "half, decayed bias"  # a pixel that is always 1 is a bias with the weights' decay
    with denormals_flushed():
        fit = softmax_regression(
            _features(train, always_one).to(inputs.device),
            train.labels.to(inputs.device),
            classes,
            decay=rates.get(form, decay),
            bias=form == "half, free bias",
            tolerance=tolerance,
            progress=lambda share: inputs.progress(share, 1.0),
        )
    weight, bias = fit.weight.cpu(), 0.0 if fit.bias is None else fit.bias.cpu()

    def error(images: Images) -> float:
        answers = (_features(images, always_one) @ weight.T + bias).argmax(1)
        return float((answers != images.labels).double().mean())

    return Record(
        values={
            "train_error": error(train),
            "test_error": error(test),
            "n_train": len(train.labels),
            "n_test": len(test.labels),
            "gradient_norm": fit.gradient_norm,
        },
        tensors={"weight": weight},
    )


def erratum_e15(
    inputs: Inputs, *, forms: Sequence[str], decays: Mapping[str, float], printed: Mapping[str, Sequence[float]]
) -> Record:
    """Put the errors of every reading beside the printed ones.

    Args:
        inputs: needs ``"<form>/<decay>"`` for every form and decay: a record of `softmax_form`, or of the trainer of
            the softmax nets for the form they are trained with; data ``"train"`` and ``"test"`` (labels alone).
        forms: keys of `FORMS`.
        decays: lambda by the text that names it.
        printed: by the same text, the printed training and test error.
    """
    columns = {TRAIN: "train", TEST: "test"}
    guess = {
        split: 1 - float(torch.bincount(inputs.data(split).labels).max()) / len(inputs.data(split).labels)
        for split in columns.values()
    }
    cells: list[dict[str, Any]] = []
    gaps: dict[str, float] = {}
    for form in forms:
        misses: list[float] = []
        for decay in decays:
            values = inputs.needs[f"{form}/{decay}"].values
            for (column, split), print_ in zip(columns.items(), printed[decay], strict=True):
                n, error = values[f"n_{split}"], values[f"{split}_error"]
                control = {"label": "always the most frequent class", "measured": guess[split]}
                estimate = proportion(round(error * n), n)
                cells.append(cell(row(form, decay), column, estimate, erratum_e15, control))
                misses.append(abs(error - print_))
        gaps[form] = sum(misses) / len(misses)
    first = forms[0]
    for form in forms:
        control = {"label": f"gap of {FORMS[first]}", "measured": gaps[first]}
        cells.append(exact(FORMS[form], GAP, gaps[form], erratum_e15, control=control))
    nearest, farthest = min(gaps, key=gaps.__getitem__), max(gaps, key=gaps.__getitem__)
    return Record(
        values={
            "cells": cells,
            "figures": [],
            "tables": [
                {
                    "id": "decay-forms",
                    "title": "Train / test error by reading",
                    "caption": "One row per reading of the decay, one column per lambda; the last row is the print. On "
                    "MNIST the print is meant to be met; other images have other errors.",
                    "columns": ["reading", *(f"lambda {decay}" for decay in decays)],
                    "rows": [
                        *([FORMS[form], *(_both(inputs, form, decay) for decay in decays)] for form in forms),
                        ["printed", *(_percents(printed[decay]) for decay in decays)],
                    ],
                }
            ],
            "findings": [
                f"The reading {FORMS[nearest]} comes nearest to the printed errors, {100 * gaps[nearest]:.2f} points "
                f"off on average; {FORMS[farthest]} is {100 * gaps[farthest]:.2f} points off.",
                "The print is of MNIST: on other images only the order of the readings says something.",
            ],
        }
    )


def _features(images: Images, always_one: bool) -> torch.Tensor:
    """Return (N, n) pixels, with a last one that is always 1 if asked for."""
    x = images.images.flatten(1).float()
    return torch.cat((x, torch.ones_like(x[:, :1])), dim=1) if always_one else x


def _both(inputs: Inputs, form: str, decay: str) -> str:
    values = inputs.needs[f"{form}/{decay}"].values
    return _percents((values["train_error"], values["test_error"]))


def _percents(errors: Sequence[float]) -> str:
    return " / ".join(f"{100 * error:.2f}" for error in errors)

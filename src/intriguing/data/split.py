"""Stratified samples and halves of a labelled set, drawn by systematic sampling.

The indices are shuffled, sorted by class (so that every class is one run, in random order), and picked at
even steps along that line. A class of n_k out of N then gets floor or ceil of n_k * count / N of `count`
picks: as close to its share as whole numbers allow, without a correction step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from intriguing.data.sets import ImageSet, assemble
from intriguing.errors import InputError

HALVES = ("P1", "P2")


def halves(labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Cut a set into two disjoint stratified halves, the paper's P1 and P2.

    Source: Szegedy et al. 2014, section 4.2 (the halves of MNIST that Tables 3 and 4 train on); stratified
    random halves are our reading, the paper does not say how it cut.

    Args:
        labels: (N,) integers, N at least 2.
        generator: source of the draw; the same state gives the same halves.

    Returns:
        Two int64 index tensors in increasing order, of lengths ceil(N / 2) and floor(N / 2). Together they
        hold every index once; the counts of a class in the two differ by at most 1.

    Raises:
        InputError: labels are not a vector of at least two integers.

    Example:
        >>> first, second = halves(torch.tensor([0, 0, 1, 1]), torch.Generator().manual_seed(0))
        >>> len(first), len(second)
        (2, 2)
    """
    _check(labels, 2)
    line = _by_class(labels, generator)
    return line[0::2].sort().values, line[1::2].sort().values


def subset(images: ImageSet, ids: Tensor, split: str) -> ImageSet:
    """Return the images `ids` (N,) of a set, as the split of that name, with a hash of their own."""
    notes = {**images.notes, "part": f"{len(ids):,} of the {len(images):,} images of {images.split}"}
    return assemble(images.name, split, images.images[ids], images.labels[ids], images.classes, recipe="", notes=notes)


def sample(labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` indices in proportion to the classes.

    Args:
        labels: (N,) integers.
        count: how many, from 1 to N.
        generator: source of the draw.

    Returns:
        (count,) int64, increasing. A class of n_k images gets floor or ceil of n_k * count / N of them.

    Raises:
        InputError: labels are not a vector of integers, or count lies outside 1..N.

    Example:
        >>> len(sample(torch.tensor([0, 0, 1, 1]), 2, torch.Generator().manual_seed(0)))
        2
    """
    _check(labels, 1)
    total = labels.shape[0]
    if not 1 <= count <= total:
        raise InputError(f"count must lie between 1 and the {total} images there are, got {count}")
    steps = torch.arange(count) * total // count
    return _by_class(labels, generator)[steps].sort().values


def _check(labels: Tensor, least: int) -> None:
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if labels.ndim != 1 or not whole or labels.shape[0] < least:
        raise InputError(
            f"labels must be a vector of at least {least} integers, got {labels.dtype} {tuple(labels.shape)}"
        )


def _by_class(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Return all indices, class after class, in random order within each class."""
    shuffled = torch.randperm(labels.shape[0], generator=generator, device=generator.device).cpu()
    order = labels.cpu()[shuffled].sort(stable=True).indices
    return shuffled[order]

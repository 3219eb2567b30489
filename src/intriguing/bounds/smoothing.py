"""Randomised smoothing: a radius for the smoothed classifier, true with a chosen confidence. Cohen et al. 2019.

g(x) = the class that the net gives most often to x + sigma * normal noise. If that is class c with a probability of at
least p > 1/2, then g gives c to every input within sigma Phi^-1(p) of x in L2 (theorem 1). p is bounded from below by
counting (Clopper and Pearson 1934), so that the radius is wrong with a probability of at most 1 - confidence.

This is a statement about g, not about the net, and a probable one: it is never mixed with `certify`. The noise is not
held inside the pixel box, as the theorem asks for the whole normal distribution.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import scipy
import torch
from torch import Tensor, nn

from intriguing.errors import InputError
from intriguing.nets.load import Model, as_model

LABEL = "probabilistic, of the smoothed classifier"


@dataclass(frozen=True)
class Smoothed:
    """What `smoothed` estimated, one entry per image, on the images' device.

    Attributes:
        radius: (B,) float64: g is constant within it, with the confidence given, for each image on its own; 0 where
            nothing could be said.
        prediction: (B,) int64, the class of g; -1 where nothing could be said.
        share: (B,) float64, the lower bound of the class's probability.
        sigma: standard deviation of the noise, in pixel units.
        samples: noisy copies counted for each image.
        confidence: of each radius.
        seconds: of the whole call.
        label: what every table must print beside these numbers.
    """

    radius: Tensor
    prediction: Tensor
    share: Tensor
    sigma: float
    samples: int
    confidence: float
    seconds: float
    label: str = LABEL


def smoothed(
    model: Model | nn.Module,
    x: Tensor,
    *,
    sigma: float,
    generator: torch.Generator,
    samples: int = 1000,
    selection: int = 100,
    confidence: float = 0.999,
    batch: int = 1000,
) -> Smoothed:
    """Estimate, for each image, a radius within which the smoothed classifier is constant.

    Args:
        model: a module or a `Model`.
        x: (B, C, H, W) or (B, n) images in the box.
        sigma: of the noise, positive, in pixel units.
        generator: draws the noise.
        samples: noisy copies that are counted, n in the paper; radii end at sigma Phi^-1((1 - confidence)^(1/n)).
        selection: noisy copies that choose the class, others than those counted; n_0 in the paper.
        confidence: of each image's radius, in (0, 1).
        batch: noisy copies seen by the net at once.

    Raises:
        InputError: a setting out of range.
        DataError, ModelError: images or a net that cannot be used.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> found = smoothed(net, torch.rand(3, 1, 2, 2), sigma=0.25, generator=torch.Generator(), samples=50)
        >>> found.radius.shape, found.label
        (torch.Size([3]), 'probabilistic, of the smoothed classifier')
    """
    began = time.perf_counter()
    model = as_model(model)
    if not sigma > 0 or not 0 < confidence < 1:
        raise InputError(f"sigma, confidence: expected sigma > 0 and 0 < confidence < 1, got {sigma}, {confidence}")
    if min(samples, selection, batch) < 1:
        raise InputError(f"samples, selection, batch: expected at least 1, got {samples}, {selection} and {batch}")
    model.check_inputs(x)
    rows = []
    with model.frozen(), torch.no_grad():
        for image in x:
            leader = int(_counts(model, image, sigma, selection, batch, generator).argmax())
            hits = int(_counts(model, image, sigma, samples, batch, generator)[leader])
            rows.append((leader, clopper_pearson(hits, samples, confidence)))
    share = torch.tensor([bound for _, bound in rows], dtype=torch.float64, device=x.device)
    choice = torch.tensor([leader for leader, _ in rows], dtype=torch.int64, device=x.device)
    radius = (sigma * torch.special.ndtri(share)).clamp_min(0)
    return Smoothed(
        torch.where(share > 0.5, radius, 0.0),
        torch.where(share > 0.5, choice, -1),
        share,
        sigma,
        samples,
        confidence,
        time.perf_counter() - began,
    )


def clopper_pearson(hits: int, samples: int, confidence: float) -> float:
    """Return the lower bound of a probability of which `hits` of `samples` trials were seen.

    Example:
        >>> round(clopper_pearson(10, 10, 0.999), 4)  # 0.001^(1/10)
        0.5012
    """
    return float(scipy.stats.beta.ppf(1 - confidence, hits, samples - hits + 1)) if hits else 0.0


def _counts(model: Model, image: Tensor, sigma: float, samples: int, batch: int, generator: torch.Generator) -> Tensor:
    """Return how often the net gives each class to noisy copies of one image, (K,)."""
    counts: Tensor | None = None
    for start in range(0, samples, batch):
        size = (min(batch, samples - start), *image.shape)
        noise = torch.randn(size, generator=generator, device=generator.device).to(image)
        logits = model.check(model((image + sigma * noise).to(model.device, model.dtype)))
        found = torch.bincount(logits.argmax(1), minlength=logits.shape[1])
        counts = found if counts is None else counts + found
    assert counts is not None
    return counts

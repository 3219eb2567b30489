"""Both ends of the distance nobody knows: the certified radius below it, the example found above, image by image.

    certified radius <= distance of the nearest adversarial example <= distance of the example found

Where a certificate reaches as far as an example, one of the two is wrong, and the audit says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from intriguing.bounds.layer_gains import layer_gains
from intriguing.bounds.network import layer_bounds
from intriguing.errors import InputError, ModelError
from intriguing.experiments import audit_figures, resampling
from intriguing.experiments.audit_figures import WORST
from intriguing.experiments.audit_summary import Gathered, figure_entry
from intriguing.experiments.resampling import Array, Statistic
from intriguing.nets.checks import Check
from intriguing.nets.load import Model

_PRODUCT = "by the product of the layers' norms"
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_POINTS = 160  # steps of a curve, of which no more can be seen
_REACH = 0.98  # as for the curves of each attack
_NAMED = 3  # images that a message names


def _size(norm: float) -> str:
    return "distance" if norm == 2 else "distance_linf"


def _in_norm(norm: float) -> tuple[str, str]:
    """Return how names and readers call a norm."""
    return ("l2", "L2") if norm == 2 else ("linf", "Linf")


def contradictions(gathered: Mapping[str, Gathered], positions: Sequence[int], norm: float) -> dict[str, Any]:
    """Return the check that no certificate reaches an example: red where one does, for then one of the two is wrong.

    Args:
        gathered: by model, with certificates.
        positions: where in the set each image stands.
        norm: 2 or inf, that of the certificates.

    Returns:
        A check as those of the trust panel: its value is how many images of how many contradict themselves.
    """
    words: list[str] = []
    images = wrong = 0
    for name, rows_of in gathered.items():
        by_image = np.zeros(0, dtype=bool)
        for attack in rows_of.attacks:
            rows = rows_of.rows(attack)
            beyond = rows["certified"] > rows[_size(norm)]
            by_image = beyond if not len(by_image) else by_image | beyond
            if attack != WORST:
                words += [
                    f"{name}, image {positions[place]}, {attack}: certified {rows['certified'][place]:.6g}, found "
                    f"{rows[_size(norm)][place]:.6g}"
                    for place in beyond.nonzero()[0][: max(0, _NAMED - len(words))]
                ]
        images, wrong = images + len(by_image), wrong + int(by_image.sum())
    if wrong:
        more = f" and {wrong - len(words)} more" if wrong > len(words) else ""
        sentence = (
            f"For {wrong} of {images} images a certificate reaches beyond an example that was found "
            f"({'; '.join(words)}{more}): one of the two is wrong, and neither may be quoted. Please report it with "
            "this folder."
        )
        return _check("red", float(wrong), images, sentence)
    sentence = f"No certificate reaches beyond an example that was found, for any of {images} images."
    return _check("green", 0.0, images, sentence)


def _check(state: str, value: float, n: int, sentence: str) -> dict[str, Any]:
    check = Check("certificates and examples", state, value, n, sentence)
    return {name: getattr(check, name) for name in ("name", "state", "value", "n", "sentence")}


def figures(
    gathered: Gathered,
    generator: torch.Generator,
    *,
    norm: float,
    eps: float | None = None,
    width: float = 1.0,
) -> dict[str, dict[str, Any]]:
    """Return the figures of the certificates, with n, interval and control, as `audit_summary.figures` does.

    Args:
        gathered: of one model, with certificates.
        generator: draws the resamples.
        norm: 2 or inf, that of the certificates.
        eps: a radius at which certified accuracy is wanted besides the usual ones.
        width: of the box.
    """
    rows = gathered.rows()
    short, long = _in_norm(norm)
    right, found = rows["status"] != "already_wrong", rows["status"] == "found"
    radius, size = rows["certified"], rows[_size(norm)]
    control = _product(rows)
    medians = {
        f"certified_{short}": Statistic(radius, right, 0.5),
        f"tightness_{short}": Statistic(_ratio(radius, size), found, 0.5),
    }
    beside: dict[str, tuple[str, float] | None] = dict.fromkeys(medians)
    if control is not None:
        beside = {
            f"certified_{short}": (f"the median {_PRODUCT}", Statistic(control, right, 0.5).value),
            f"tightness_{short}": (f"the same {_PRODUCT}", Statistic(_ratio(control, size), found, 0.5).value),
        }
    meanings = {
        f"certified_{short}": (
            f"pixel units, {long}",
            f"The median certified {long} radius, over the images the net gets right: no change this small alters "
            "the answer.",
        ),
        f"tightness_{short}": (
            "times",
            "The median, over the images with an example, of the certified radius over the distance found: at 1 "
            "nothing is left to find or to prove.",
        ),
    }
    intervals = resampling.estimates(medians, generator)
    entries = {
        name: figure_entry(intervals[name], unit, "higher", meaning, beside[name])
        for name, (unit, meaning) in meanings.items()
    }
    shares = None if control is None else (f"the share {_PRODUCT}", resampling.share(control > 0, right).measured)
    entries["certified"] = figure_entry(
        resampling.share(radius > 0, right), "share", "higher",
        "The share of the images the net gets right for which any radius at all is certified.",
        shares,
    )  # fmt: skip
    radii = [share * width for share in audit_figures.RADII[norm]]
    if eps is not None and eps not in radii:
        radii.append(eps)
    for at in radii:
        robust = audit_figures.robust_name(at, norm)
        ends = resampling.share(right & (radius >= at) & (radius > 0), np.ones_like(right))
        entries[robust.replace("robust", "certified")] = figure_entry(
            ends, "share", "higher",
            f"The share of all images that the net gets right and provably so within {long} "
            f"{robust.partition('@')[2]}: a lower bound of what is true.",
            ("the upper bound, what no attack broke", float((right & (size > at)).mean())),
        )  # fmt: skip
    return entries


def _product(rows: Mapping[str, Array]) -> Array | None:
    """Return the control's radii; None where there is none."""
    control = rows.get("certified_product")
    return None if control is None or bool((control < 0).any()) else control


def _ratio(radius: Array, size: Array) -> Array:
    """Return certified over found; where nothing was found, or already wrong, what does not count."""
    usable = np.isfinite(size) & (size > 0)
    return np.divide(radius, size, out=np.zeros(len(size)), where=usable)


def ends(gathered: Gathered, norm: float) -> dict[str, Any]:
    """Return both accuracies along the radius, and quantiles of both distances and of their ratio.

    Args:
        gathered: of one model, with certificates.
        norm: 2 or inf, that of the certificates.

    Returns:
        ``radii`` with ``certified_accuracy`` (holds from the radius before to this one) and ``robust_accuracy`` (holds
        from this radius to the next), shares of all ``n`` images; ``quantiles`` with ``certified``, ``found`` (over
        the images the net gets right) and ``ratio`` (over those with an example).
    """
    rows = gathered.rows()
    right, found = rows["status"] != "already_wrong", rows["status"] == "found"
    radius, size = rows["certified"], rows[_size(norm)]
    known = np.sort(size[right & np.isfinite(size)])
    end = float(known[math.ceil(_REACH * (len(known) - 1))]) if len(known) else 1.0
    falls = np.unique(np.concatenate((radius[right & (radius > 0)], size[right])))
    falls = falls[falls <= end]
    if len(falls) > _POINTS:
        falls = falls[np.linspace(0, len(falls) - 1, _POINTS).round().astype(int)]
    radii = [0.0, *falls.tolist()]
    quantiles = {
        "certified": [Statistic(radius, right, share).value for share in _QUANTILES],
        "found": [Statistic(size, right, share).value for share in _QUANTILES],
        "ratio": [Statistic(_ratio(radius, size), found, share).value for share in _QUANTILES],
    }
    return {
        "n": len(right),
        "radii": radii,
        "certified_accuracy": [float((right & (radius >= at) & (radius > 0)).mean()) for at in radii],
        "robust_accuracy": [float((right & (size > at)).mean()) for at in radii],
        "quantiles": {"shares": list(_QUANTILES), **quantiles},
    }


def methods(
    entries: Sequence[Mapping[str, Any]], gathered: Gathered, places: torch.Tensor, norm: float, draw: torch.Generator
) -> list[dict[str, Any]]:
    """Return what each method makes of a few images: seconds of each, and the median of certified over found.

    Args:
        entries: ``methods`` of `audit_certify.certify_methods`.
        gathered: of the same model.
        places: (n,) which of its images those are.
        norm: 2 or inf.
        draw: draws the resamples.
    """
    rows = gathered.rows()
    size, found = rows[_size(norm)][places.numpy()], (rows["status"] == "found")[places.numpy()]
    ratios = {
        entry["method"]: Statistic(_ratio(np.asarray(entry["radius"], dtype=np.float64), size), found, 0.5)
        for entry in entries
        if entry["radius"] is not None
    }
    known = resampling.estimates(ratios, draw)
    listed = []
    for entry in entries:
        shown: dict[str, Any] = {name: entry[name] for name in ("method", "seconds", "note")}
        if entry["method"] in known:
            estimate = known[entry["method"]]
            shown |= {"ratio": estimate.measured, "low": estimate.low, "high": estimate.high, "n": estimate.n}
        listed.append(shown)
    return listed


def losses(model: Model, gathered: Gathered, shape: Sequence[int]) -> tuple[list[dict[str, Any]], str]:
    """Return each layer with its bound, its gain on the nearest examples found, and its share of what that loses.

    The gain is the geometric mean over the images nearest to a mistake, each changed as the example found changes it.
    The bounds multiply to the net's and the gains to the net's gain, so the logarithms of bound over gain add up to
    the looseness of the product, and the shares to 1.

    Args:
        model: the net.
        gathered: of it; the images nearest to a mistake are taken.
        shape: (C, H, W) of one image.

    Returns:
        ``name``, ``kind``, ``bound``, ``gain`` and ``share`` of each layer, and why there are none where there are
        none.
    """
    try:
        bounds = layer_bounds(model, shape)
    except (InputError, ModelError) as error:
        return [], f"The layers are not bounded: {error}"
    if not gathered.fragile:
        return [], "The layers' gains are measured along the examples found, and none was found."
    x, adversarial = (torch.stack([kept[at] for kept in gathered.fragile]) for at in (1, 2))  # type: ignore[misc]
    gains = torch.stack(layer_gains(model, bounds, x, adversarial.double() - x.double()))
    alive = (torch.isfinite(gains) & (gains > 0)).all(0)
    if not bool(alive.any()):
        return [], "No example found changes what every layer answers, so that no gain can be given."
    log_gains = gains[:, alive].log().mean(1)
    slack = torch.tensor([bound.bound for bound in bounds], dtype=torch.float64).log() - log_gains
    total = float(slack.sum())
    return [
        {
            "name": bound.name,
            "kind": bound.kind,
            "bound": bound.bound,
            "gain": float(gain.exp()),
            "share": float(lost) / total if total > 0 else 0.0,
        }
        for bound, gain, lost in zip(bounds, log_gains, slack, strict=True)
    ], ""

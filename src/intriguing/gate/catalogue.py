"""Every figure that an audit can hold, before any audit was made: its name, its meaning, and what asks for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_SEVERAL = "an audit of several --model"
_CERTIFY = {"l2": "an audit with --certify", "linf": "an audit with --certify and --norm inf"}
_NORMS = {"l2": "L2", "linf": "Linf"}

NOTES = (
    "Radii are those of pixels in [0, 1]; --eps of the audit adds the accuracies at its own, and another box scales "
    "them with its width.",
    "With several models, the figures of those after the first bear the model's name in front: MODEL/median_l2.",
)
"""What a list of the figures cannot say figure by figure."""


@dataclass(frozen=True)
class Known:
    """A figure that a condition may name.

    Attributes:
        name: what a condition calls it.
        meaning: one sentence, that of the audit's document.
        unit: in words.
        needs: what the audit must be for it, to be read after "takes"; nothing where every audit has it.
    """

    name: str
    meaning: str
    unit: str
    needs: str = ""


def known() -> list[Known]:
    """Return every figure, in the order of an audit's document.

    Example:
        >>> known()[0].name
        'clean_accuracy'
    """
    from intriguing.experiments import audit_figures  # torch takes seconds to import, and only a list needs it

    of_rows = [Known(name, figure.meaning, figure.unit) for name, figure in audit_figures.figures().items()]
    return [*of_rows, *_others(), *_certificates(audit_figures.figures())]


def needs(name: str) -> str:
    """Return what an audit must be to hold a figure; nothing for a name of no figure, or of one that all hold.

    Example:
        >>> needs("transfer")
        'an audit of several --model'
    """
    return next((figure.needs for figure in known() if figure.name == name), "")


def _others() -> Iterator[Known]:
    yield Known(
        "fooled_by_noise",
        "The share of examples whose own L2 norm, as Gaussian noise, changes the answer too.",
        "share",
    )
    yield Known(
        "transfer",
        "The share of examples made for one model that mislead another which is right on the clean image.",
        "share",
        _SEVERAL,
    )
    yield Known("noise_transfer", "The same for Gaussian noise of the examples' L2 norms.", "share", _SEVERAL)
    yield Known(
        "lipschitz_product",
        "The product of the layers' bounds: no change of the logits is longer than this times the change of the image.",
        "ratio",
        "a net whose layers can be bounded",
    )


def _certificates(names: Iterable[str]) -> Iterator[Known]:
    robust = list(names)
    for short, long in _NORMS.items():
        yield Known(
            f"certified_{short}",
            f"The median certified {long} radius, over the images the net gets right: no change this small alters the "
            "answer.",
            f"pixel units, {long}",
            _CERTIFY[short],
        )
        yield Known(
            f"tightness_{short}",
            "The median, over the images with an example, of the certified radius over the distance found: at 1 "
            "nothing is left to find or to prove.",
            "times",
            _CERTIFY[short],
        )
        for name in robust:
            if name.startswith(f"robust_accuracy_{short}@"):
                yield Known(
                    name.replace("robust", "certified"),
                    f"The share of all images that the net gets right and provably so within {long} "
                    f"{name.partition('@')[2]}: a lower bound of what is true.",
                    "share",
                    _CERTIFY[short],
                )
    yield Known(
        "certified",
        "The share of the images the net gets right for which any radius at all is certified.",
        "share",
        _CERTIFY["l2"],
    )

"""A check of a model: one number, one state, one sentence. The doctor and the trust panel write them alike."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

STATES = ("green", "did not run", "amber", "red")  # from best to worst


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        name: of the check, in plain words.
        state: ``"green"``; ``"amber"``, worth knowing; ``"red"``, numbers from this model cannot be trusted; or
            ``"did not run"``, which is no green.
        value: the number it rests on; NaN where there is none.
        n: of images, or whatever was counted.
        sentence: what was found and, unless green, what to do.
    """

    name: str
    state: str
    value: float
    n: int
    sentence: str

    def __post_init__(self) -> None:
        """Hold the state to the known ones: a slip would pass for a green."""
        if self.state not in STATES:
            raise ValueError(f"state: expected one of {', '.join(STATES)}, got {self.state!r}")

    def row(self) -> dict[str, Any]:
        """Return the fields by name, for JSON: a number that is not finite becomes its name."""
        fields = asdict(self)
        if not math.isfinite(self.value):
            fields["value"] = str(float(self.value))
        return fields


def did_not_run(name: str, sentence: str) -> Check:
    """Return the check that had nothing to work on.

    Example:
        >>> did_not_run("gradients", "The net gives none.").state
        'did not run'
    """
    return Check(name, "did not run", math.nan, 0, sentence)


def worst(checks: Iterable[Check]) -> str:
    """Return the worst state among the checks, green if there are none.

    Example:
        >>> worst([did_not_run("a", "."), Check("b", "amber", 0.1, 4, ".")])
        'amber'
    """
    return max((check.state for check in checks), key=STATES.index, default="green")


def graded(value: float, amber: float, red: float) -> str:
    """Return the state of a number that should be small: red from `red` on, amber from `amber` on.

    A NaN is red: a number that could not be computed is no good sign.

    Example:
        >>> graded(0.2, amber=0.1, red=0.5)
        'amber'
    """
    if math.isnan(value) or value >= red:
        return "red"
    return "amber" if value >= amber else "green"

"""Segments from images to points where the net errs, cut near the boundary.

The lead of the other classes changes its sign along such a segment. Each cut is one forward pass where the line
through the leads at both ends is 0 (regula falsi), so that a few come near; all open segments are cut together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from intriguing.attacks.base import Trial
from intriguing.attacks.result import Phase

_CUTS, _LEAST = 3, 0.1  # cuts of a segment, each at least this share of it from either end
_FLAT = 0.95  # share of the lead that is left where a cut has not shortened it
PASSES = 1 + _CUTS  # forwards that a segment costs: its far end first


class Segments:
    """One segment for each of P rows, open or not.

    Attributes:
        open: (P,) bool, whether there are cuts to come.
    """

    def __init__(self, trial: Trial, image: Tensor) -> None:
        self.trial, self.image = trial, image
        self.open = torch.zeros_like(image, dtype=torch.bool)
        self._passes = torch.zeros_like(image)
        # Shares of the segment where the net is known to be right, and to err, and the leads there.
        self._low, self._high, self._low_lead, self._high_lead = (
            torch.zeros(len(image), dtype=trial.clean.dtype, device=image.device) for _ in range(4)
        )
        self._erred, self._flat = torch.zeros_like(self.open), torch.zeros_like(self.open)

    def begin(self, rows: Tensor) -> None:
        """Open the segments of `rows` (k,), to wherever `cut` will be told."""
        image = self.image[rows]
        self._passes[rows], self._low[rows], self._high[rows] = 0, 0.0, 1.0
        self._low_lead[rows] = self.trial.lead(self.trial.z[image], image)
        self._erred[rows], self._flat[rows], self.open[rows] = False, False, True

    def cut(self, rows: Tensor, far: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cut the open segments of `rows` (k,) to points `far` (k, n) once, one pass each.

        Returns:
            Rows (r,) whose far end is no success, which are closed; rows (s,) whose last cut this was, closed too; and
            (s, n) the nearest success on these.
        """
        trial, image = self.trial, self.image[rows]
        passes, before = self._passes[rows], self._erred[rows]
        low, high, low_lead, high_lead = (v[rows] for v in (self._low, self._high, self._low_lead, self._high_lead))
        share = (low_lead / (low_lead - high_lead)).clamp(_LEAST, 1 - _LEAST).nan_to_num(0.5)
        middle = torch.lerp(low, high, share.masked_fill(self._flat[rows], 0.5)).masked_fill(passes == 0, 1.0)
        clean = trial.clean.index_select(0, image)
        x = torch.lerp(clean, far, middle[:, None])
        z = trial.logits(x, image)
        erred, lead = trial.keep(x, image, z, Phase.START), trial.lead(z, image)
        # Where the margin bends, one end alone moves: the lead at the other then counts half (the Illinois rule).
        # Where it is flat, as beside an image that the net is sure of, no line tells where it ends: halve.
        again = (erred == before) & (passes > 1)
        self._flat[rows] = ~erred & (lead <= _FLAT * low_lead)
        self._low_lead[rows] = torch.where(erred, torch.where(again, low_lead / 2, low_lead), lead)
        self._high_lead[rows] = torch.where(erred, lead, torch.where(again, high_lead / 2, high_lead))
        self._low[rows], self._high[rows] = torch.where(erred, low, middle), torch.where(erred, middle, high)
        self._erred[rows], self._passes[rows] = erred, passes + 1
        right, last = (passes == 0) & ~erred, passes + 1 == PASSES
        self.open[rows[right | last]] = False
        at = self._high[rows[last]]
        return rows[right], rows[last], torch.lerp(clean[last], far[last], at[:, None])

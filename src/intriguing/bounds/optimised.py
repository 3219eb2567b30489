"""Slopes of the relaxation's lines, learned for each image while its radius grows.

Xu et al. 2021 (alpha-CROWN). Every slope is sound (`relaxation`), so they are free parameters: gradient ascent on the
worst logit difference's bound, through the intervals of all layers. Each step is also a try of a radius: where the
bound is positive, the radius is certified and the next try is a larger one, by the bound's own fall along the radius.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from intriguing.bounds.ascent import Ascent
from intriguing.bounds.crown import bounds_over, lower_bound, slope_ranges
from intriguing.bounds.graph import Graph
from intriguing.bounds.region import ball
from intriguing.bounds.relaxation import Activation, Share

_RATE = 0.1  # of the first steps, in shares of the range of useful slopes
_ROWS = 2**18  # slopes per image up to which every row of an interval has slopes of its own
_SOFT = 0.05  # of the margin: differences this near the worst are raised together


class Learner:
    """Learns the slopes of some images at once; images do not influence each other.

    Args:
        graph: see `tracing.trace`.
        x: (B, ...) float64 images.
        forms: (B, S, K) logit differences, see `certificates.differences`.
        norm: 2 or inf.
        box: smallest and largest pixel.
    """

    def __init__(self, graph: Graph, x: Tensor, forms: Tensor, norm: float, box: tuple[float, float]) -> None:
        self.graph, self.x, self.forms, self.norm, self.box = graph, x, forms, norm, box

    def run(self, radius: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Return radii (B,) at least as large as those given, certified, and what rounding took there, else -1."""
        best, lost = radius.clone(), torch.full_like(radius, -1.0)
        shares = self._start(radius)
        if not shares:  # an affine net, for which nothing is relaxed
            return best, lost
        ascent = Ascent([part for share in shares.values() for part in (share.lower, share.upper)], 0.0, 1.0)
        eps, growth = radius * 1.01, torch.full_like(radius, 0.02)
        last = len(self.graph.nodes) - 1
        for step in range(steps):
            rate = _RATE * 0.5 * (1 + math.cos(math.pi * step / steps)) + _RATE / 50
            region = ball(self.x, eps, self.norm, self.box)
            bounds = bounds_over(self.graph, region, shares=shares)
            with torch.enable_grad():
                found = lower_bound(self.graph, last, self.forms, region, bounds, shares=shares)
                worst = found.detach().amin(1)
                # The worst difference changes from step to step; those near it count too.
                scale = _SOFT * (found.detach().abs().amin(1, keepdim=True) + 1e-3)
                goal = torch.softmax(-(found.detach() - worst[:, None]) / scale, dim=1) * found
            ascent.step(goal.sum(), rate)
            with torch.no_grad():
                proved = worst > 0
                assert bounds.lost is not None
                lost = torch.where(proved & (eps > best), bounds.lost.amax(1), lost)
                best = torch.where(proved, torch.maximum(best, eps), best)
                # Steps of the radius grow while tries succeed and shrink where they fail.
                growth = torch.where(proved, growth * 1.2, growth / 2).clamp(5e-4, 0.1)
                eps = best * (1 + growth)
        return best, lost

    @torch.no_grad()
    def _start(self, radius: Tensor) -> dict[tuple[int, int], Share]:
        """Return the default lines, ready to be learned."""
        nodes = self.graph.nodes
        region = ball(self.x, radius, self.norm, self.box)
        bounds = bounds_over(self.graph, region)
        activations = [place for place, node in enumerate(nodes) if isinstance(node.operation, Activation)]
        starts = sorted({source for place in activations for source in nodes[place].inputs})
        last = len(nodes) - 1
        shares = {}
        for start in [*starts, last]:
            rows = self.forms.shape[1] if start == last else 2 * torch.Size(nodes[start].shape).numel()
            for place in activations:
                if place >= start or not self._on_the_way(start, place):
                    continue
                operation, source = nodes[place].operation, nodes[place].inputs[0]
                assert isinstance(operation, Activation)
                share = slope_ranges(operation, bounds.low[source], bounds.high[source])
                count = torch.Size(nodes[place].shape).numel()
                own = rows if start == last or rows * count <= _ROWS else 1
                parts = [
                    part.clamp(0, 1).expand(-1, own, *nodes[place].shape).clone().requires_grad_()
                    for part in (share.lower, share.upper)
                ]
                shares[start, place] = Share(*parts)
        return shares

    def _on_the_way(self, start: int, place: int) -> bool:
        """Tell whether the value at `start` depends on the one at `place`."""
        seen, todo = set(), [start]
        while todo:
            at = todo.pop()
            if at == place:
                return True
            if at not in seen and at >= place:
                seen.add(at)
                todo += self.graph.nodes[at].inputs
        return False

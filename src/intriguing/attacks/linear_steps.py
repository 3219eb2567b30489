"""Steps of sequential linear programming towards the nearest example in L1 and Linf, in rows.

Symbols: x0 an image, r = x - x0, g(x) = z_t - z_y the margin of a class over the label (z_t - max over j != t of z_j
where the class is named), a its gradient. With g linearised at x, the nearest point to x0

    minimise |x' - x0|   subject to   g + <a, x' - x> >= omega |a|_q |r|,   |x' - x|_inf <= delta,   x' in the box  (1)

has a closed form in both norms (`nearest_in_reach`) and costs no pass. Its optima are corners, where such steps are as
fast as Newton's. On a linear net the first step is the answer. omega aims beyond the boundary, halves after a success
and doubles after a failure; delta halves where steps are in vain and the row returns to its nearest success.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from intriguing.attacks.base import Trial
from intriguing.attacks.result import Phase
from intriguing.norms import project_box_hyperplane

DUAL = {1.0: math.inf, math.inf: 1.0}
OVERSHOOT, FAR_OVERSHOOT = 0.1, 0.3  # omega at first, of rows from the clean image and from afar
LEAST_OVERSHOOT, _MOST_OVERSHOOT = 3e-4, 0.3
FAR_REACH = 0.2  # delta at first of rows from afar, as a share of the box
NEARER = 3e-4  # share of the distance that counts as nearer
_PATIENCE = 2  # steps in vain before a return
_RETURNS = 4  # in a row with nothing gained between, that end a walk
_LEAST_STEPS = 4  # of a row before it can be given up, and before delta falls without a success
# How far a row may be behind its image's nearest example: h 2^(-steps / s), and a little.
_BEHIND, _BEHIND_STEPS = 0.5, 6.0
_FAR_BEHIND, _FAR_BEHIND_STEPS = 20.0, 8.0  # those from afar begin ten times as far
_ALWAYS_BEHIND = 0.02


def nearest_in_reach(
    x0: Tensor, x: Tensor, a: Tensor, b: Tensor, reach: Tensor, box: tuple[float, float], norm: float
) -> Tensor:
    """Return the point of {y : <a, y> >= b} in the box, with |y - x|_inf <= reach, that is nearest to x0 in L1 or Linf.

    A linear program with one constraint besides bounds: as in a fractional knapsack, pixels are used in the order of
    |a_i| in L1, and all alike in Linf.

    Args:
        x0: (k, n), in the box.
        x: (k, n), in the box.
        a: (k, n) normals.
        b: (k,) offsets.
        reach: (k,), inf for none.
        box: smallest and largest value.
        norm: 1 or inf.

    Returns:
        (k, n); where the half-space cannot be reached, the point that comes nearest to it.

    Example:
        >>> x0, a, far = torch.zeros(1, 2), torch.tensor([[2.0, 1.0]]), torch.tensor([math.inf])
        >>> nearest_in_reach(x0, x0, a, torch.tensor([2.5]), far, (0.0, 1.0), 1).tolist()
        [[1.0, 0.5]]
    """
    low, high = (x - reach[:, None]).clamp(*box), (x + reach[:, None]).clamp(*box)
    near = torch.clamp(x0, low, high)
    start = near
    if norm == math.inf:
        # The pixels that cannot come back to x0 set the least size; up to it all others are free.
        least = (near - x0).abs().amax(1, keepdim=True)
        start = torch.clamp(x0 + a.sign() * least, low, high)
    before, after = (a * near).sum(1), (a * start).sum(1)
    share = torch.where(after > before, (b - before) / (after - before), 0.0).clamp(0, 1)
    beyond = project_box_hyperplane(start, a, b, low, high, norm=norm)
    return torch.where((after < b)[:, None], beyond, torch.lerp(near, start, share[:, None]))


class Rows:
    """R rows for each of M images, in the order of the images; rows of other images never influence a row.

    Attributes:
        image: (P,) int64, each row's image.
        far: (P,) bool, rows that begin elsewhere than at the clean image.
        target: (P,) int64, the class it is led to; where none is named, the one entered last.
        x: (P, n) where each row is, with its margin g (P,) and gradient a (P, n).
        best: (P,) size of its nearest success, inf where there is none; best_x, best_g, best_a belong to it.
        expected: (P,) what the linearisation at the clean image promises.
        omega: (P,) and delta (P,), see the module.
        done: (P,) bool, rows that have ended for good.
    """

    def __init__(self, trial: Trial, image: Tensor, far: Tensor) -> None:
        self.trial, self.image, self.far = trial, image, far
        self.norm, self.box = float(trial.norm), trial.model.box
        self.width = self.box[1] - self.box[0]
        self.clean = trial.clean[image]
        self.named = trial.wanted[image] >= 0
        P, like = len(image), self.clean

        def full(value: float) -> Tensor:
            return torch.full((P,), value, dtype=like.dtype, device=like.device)

        def count() -> Tensor:
            return torch.zeros(P, dtype=torch.int64, device=like.device)

        self.target = count()
        self.x, self.g, self.a = like.clone(), full(0.0), torch.zeros_like(like)
        self.best, self.best_x, self.best_g, self.best_a = full(torch.inf), like.clone(), full(0.0), self.a.clone()
        self.expected = full(torch.inf)
        self.omega, self.delta = full(OVERSHOOT), full(torch.inf)
        self._in_vain, self._returns, self._steps = count(), count(), count()
        self.done = torch.ones(P, dtype=torch.bool, device=like.device)

    def linearised(self, rows: Tensor, g: Tensor, a: Tensor, expected: Tensor) -> None:
        """Begin `rows` (k,) at the clean image, where the margins of their targets are g (k,), with gradients a (k, n).

        Args:
            rows: which.
            g: margins.
            a: gradients.
            expected: (k,) how far the linearised boundary is.
        """
        self.g[rows], self.a[rows], self.expected[rows] = g, a, expected
        self.best_a[rows] = a
        self.done[rows] = ~useful(g, a)

    def begin(self, rows: Tensor, x: Tensor) -> None:
        """Begin `rows` (k,) at points x (k, n) near the boundary, far from their images."""
        self.best[rows] = torch.inf
        self.omega[rows], self.delta[rows] = FAR_OVERSHOOT, FAR_REACH * self.width
        self._in_vain[rows], self._returns[rows], self._steps[rows] = 0, 0, 0
        self.done[rows] = False
        rows, x = self._paid(rows, x)
        self._evaluate(rows, x, self.delta[rows])

    def resume(self, rows: Tensor, x: Tensor) -> None:
        """Go on with `rows` (k,) from points x (k, n) where a solve has ended."""
        self._in_vain[rows] = 0
        self.omega[rows] = LEAST_OVERSHOOT
        moved = (x - self.best_x[rows]).abs().amax(1)
        self.delta[rows] = torch.where(self.best[rows] < torch.inf, moved.clamp_min(1e-3 * self.width), torch.inf)
        rows, x = self._paid(rows, x)
        self._evaluate(rows, x, (x - self.best_x[rows]).abs().amax(1))

    def walk(self, steps: int) -> None:
        """Take at most so many steps of each row that has not ended, fewer of those that return in vain."""
        self._returns[:] = 0
        for _ in range(steps):
            self._give_up()
            rows = (~self.done & (self._returns < _RETURNS)).nonzero().squeeze(1)
            rows = rows[self.payable(rows)]
            if not len(rows):
                return
            x, a = self.x[rows], self.a[rows]
            size = self.size(x, rows)
            size = torch.minimum(torch.where(size > 0, size, self.expected[rows]), self.best[rows])
            beyond = self.omega[rows] * torch.linalg.vector_norm(a, ord=DUAL[self.norm], dim=1) * size
            b = (a * x).sum(1) - self.g[rows] + beyond
            new = nearest_in_reach(self.clean[rows], x, a, b, self.delta[rows], self.box, self.norm)
            self._evaluate(rows, new, (new - x).abs().amax(1))

    def _give_up(self) -> None:
        """End rows that are too far behind the nearest example of their image, the later the less that is."""
        steps = self._steps.double()
        late = torch.where(
            self.far,
            _FAR_BEHIND * torch.exp2(-steps / _FAR_BEHIND_STEPS),
            _BEHIND * torch.exp2(-steps / _BEHIND_STEPS),
        )
        known = torch.where(self.best < torch.inf, self.best, self.expected).double()
        behind = known > self.trial.best[self.image] * (1 + _ALWAYS_BEHIND + late)
        self.done |= behind & (self._steps >= _LEAST_STEPS)

    def size(self, x: Tensor, rows: Tensor) -> Tensor:
        """Return how far points x (k, n) are from the images of `rows` (k,)."""
        return self.trial.size(x, self.image[rows]).to(x.dtype)

    def payable(self, rows: Tensor) -> Tensor:
        """Tell which of `rows` (k,), each once, the images can pay one more evaluation of; the first ones go first."""
        trial = self.trial
        if trial.budget is None:
            return torch.ones_like(rows, dtype=torch.bool)
        image = self.image[rows]
        left = trial.budget - trial.reserved - trial.forwards[image] - trial.backwards[image]
        order = torch.argsort(rows)  # rows are in the order of their images
        rank = torch.empty_like(order)
        first = torch.searchsorted(image[order], image[order])
        rank[order] = torch.arange(len(order), device=order.device) - first
        enough = rank < left // 2
        trial.spent[image[~enough]] = True
        self.done[rows[~enough]] = True
        return enough

    def _paid(self, rows: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        enough = self.payable(rows)
        return rows[enough], x[enough]

    def _evaluate(self, rows: Tensor, x: Tensor, moved: Tensor) -> None:
        """Evaluate the margin at x (k, n), keep what succeeds, and set up the next steps."""
        if not len(rows):
            return
        trial, image, named = self.trial, self.image[rows], self.named[rows]
        label = trial.labels[image]

        def margin(z: Tensor) -> Tensor:
            answer = z.detach().argmax(1)
            # Any class but the label is a success: the one that is entered takes the place of the target.
            t = torch.where(named | (answer == label), self.target[rows], answer)
            rival = torch.where(named, z.detach().scatter(1, t[:, None], -torch.inf).argmax(1), label)
            difference: Tensor = z.gather(1, t[:, None]) - z.gather(1, rival[:, None])
            return difference.squeeze(1)

        z, g, a = trial.gradient(x, image, margin)
        slope = useful(g, a)
        success = trial.keep(x, image, z, Phase.POLISH) & slope
        size, best = self.size(x, rows), self.best[rows]
        nearer = success & (size < best)
        clearly = nearer & (size < best * (1 - NEARER))
        at = rows[nearer]
        self.best[at], self.best_x[at], self.best_g[at], self.best_a[at] = size[nearer], x[nearer], g[nearer], a[nearer]
        self.target[at] = torch.where(named, self.target[rows], z.argmax(1))[nearer]
        self.x[rows], self.g[rows], self.a[rows] = x, g, a
        self._steps[rows] += 1
        self._adapt(rows, success, clearly, clearly & best.isinf(), slope, moved)

    def _adapt(
        self, rows: Tensor, success: Tensor, clearly: Tensor, first: Tensor, slope: Tensor, moved: Tensor
    ) -> None:
        """Choose omega and delta of the next steps; return rows that strayed to their nearest success."""
        have = self.best[rows] < torch.inf
        factor = torch.where(success, 0.5, torch.where(have, 2.0, 1.2))
        self.omega[rows] = (self.omega[rows] * factor).clamp(LEAST_OVERSHOOT, _MOST_OVERSHOOT)
        in_vain = torch.where(clearly, 0, self._in_vain[rows] + 1)
        back = have & ((in_vain > _PATIENCE) | ~slope)
        self._returns[rows] = torch.where(clearly, 0, self._returns[rows] + back)
        delta = self.delta[rows]
        delta = torch.where(clearly & ~first, 1.5 * delta, delta)
        shorter = back | (~have & (self._steps[rows] >= _LEAST_STEPS))
        self.delta[rows] = torch.where(shorter, torch.minimum(delta, moved) / 2, delta).clamp_min(1e-4 * self.width)
        self._in_vain[rows] = torch.where(back, 0, in_vain)
        at = rows[back]
        self.x[at], self.g[at], self.a[at] = self.best_x[at], self.best_g[at], self.best_a[at]
        self.done[rows] |= ~have & ~slope


def useful(g: Tensor, a: Tensor) -> Tensor:
    """Tell which linearisations can be used: finite, with a gradient that is not zero."""
    size = a.abs().amax(1)
    return g.isfinite() & size.isfinite() & (size > 0)

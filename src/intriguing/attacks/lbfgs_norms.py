"""The paper's search by box-constrained L-BFGS for the nearest example in L1 and Linf.

Symbols: x0 an image, r = x - x0, y its label, t a target, g(x) = z_t - z_y the margin (z_t - max over j != t of z_j
where the class is named), a its gradient. Every pair (image, target) is a row.

Both norms have a form without kinks whose constraints are a box, so that the solver of L2 serves (Szegedy et al. 2014,
section 4.1, leave the norm open):

- Linf: the ball of radius eps cut by the pixels' box is a box itself. A solve maximises the margin in it,

    minimise loss(x)   over   max(x0 - eps, low) <= x <= min(x0 + eps, high),                                (1)

  and ends at the first success. eps is searched from above: a share less than the nearest success; half that share
  after each failure.
- L1: r = p - q with 0 <= p <= high - x0 and 0 <= q <= x0 - low makes the norm linear,

    minimise sum(p + q) + T log(1 + exp(-g(x0 + p - q) / T)) / c.                                            (2)

  The paper seeks the largest c that still succeeds. At the nearest point 1/c is what the constraint costs: the |a_i|
  of the cheapest pixel that is changed. c is a share of it, larger after a success, smaller after a failure.

Between two solves a row takes steps of sequential linear programming: with g linearised at x, the nearest point to x0

    minimise |x' - x0|   subject to   g + <a, x' - x> >= omega |a|_q |r|,   |x' - x|_inf <= delta,   x' in the box  (3)

has a closed form in both norms (`nearest_in_reach`) and costs no pass. Its optima are corners, where such steps are as
fast as Newton's; what is no corner the solver finds. On a linear net the first step is the answer. omega aims beyond
the boundary, halves after a success and doubles after a failure; delta halves where steps are in vain and the row
returns to its nearest success.

Rows of an image are dropped once they are behind its nearest example by more than another round is expected to gain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own abbreviation)

from intriguing.attacks.base import Trial
from intriguing.attacks.problem import Pairs
from intriguing.attacks.result import Phase
from intriguing.norms import project_box_hyperplane
from intriguing.optim import Solver

_DUAL = {1.0: math.inf, math.inf: 1.0}
_OVERSHOOT, _LEAST_OVERSHOOT, _MOST_OVERSHOOT = 0.1, 3e-4, 0.3  # omega: at first, and its ends
_NEARER = 3e-4  # share of the distance that counts as nearer
_PATIENCE = 2  # steps in vain before a return
_FIRST_STEPS, _STEPS = 12, 10  # of (3), before the first solve and after each
_EVALUATIONS = 25  # of one solve; the next goes on from its end
_TEMPERATURE = 0.02  # T, as a share of the clean image's gap of logits
_SHARE, _LARGEST_SHARE = 0.6, 0.9  # c as a share of what the constraint costs: at first, and at most
_SHRINK, _LEAST_SHRINK = 0.05, 1e-3  # by which eps is below the nearest success: at first, and where a row ends
_STEP = 0.1  # change of a typical pixel along the gradient in the units of (1)
_GROW = 1.4  # of eps, before the first success
_BEHIND, _LEAST_BEHIND = 0.5, 0.02  # by which a row may be behind: after the first round, halved by each; at least
_IN_VAIN = 4  # rounds without a gain that end a row
_PASSES_PER_CLASS = 16  # of the budget, so that a small one is not spent on gradients of classes that cannot win
_ROWS = 12  # of one image, those the linearisation finds nearest
_TRIMS = (0.998, 0.9995)  # the last tries to shorten the perturbation as it is
_BYTES = 2**28  # of memory for the rows that are solved at once


@dataclass(frozen=True)
class Limits:
    """What the solves may take; see `lbfgs.LBFGS`."""

    tolerance: float
    evaluations: int
    solves: int
    memory: int
    slots: int


def search(trial: Trial, pairs: Pairs, limits: Limits) -> None:
    """Look for the nearest example of each image in the trial's norm, 1 or inf.

    Args:
        trial: where `wanted` is set, that class must be reached; elsewhere any but the label is a success.
        pairs: the classes that are aimed at, as many for each image.
        limits: of the solves.
    """
    if not len(pairs):
        return
    images = trial.attacked.nonzero().squeeze(1)
    targets = pairs.target.view(len(images), -1)
    if trial.budget is not None:
        targets = targets[:, : max(1, trial.budget // _PASSES_PER_CLASS)]
    trial.reserved = 1 + len(_TRIMS)
    rows = min(_ROWS, targets.shape[1])
    row = 2 * (2 * limits.memory + 10) * trial.clean[0].nbytes
    at_once = max(1, min(limits.slots // rows, _BYTES // (rows * row)))
    for part in torch.split(torch.arange(len(images), device=images.device), at_once):
        _Search(trial, images[part], targets[part], limits).run()
        trial.tell(int(part[-1]) + 1, len(images))


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


class _Search:
    """The rows of some images, R of each; rows of other images never influence a row."""

    def __init__(self, trial: Trial, images: Tensor, targets: Tensor, limits: Limits) -> None:
        self.trial, self.limits, self.norm, self.box = trial, limits, float(trial.norm), trial.model.box
        self.width = self.box[1] - self.box[0]
        enough = trial.affords(images, 2 + targets.shape[1])
        self.images = images = images[enough]
        self.M, self.R = len(images), min(_ROWS, targets.shape[1])
        self.image = images.repeat_interleave(self.R)
        self.clean = trial.clean[self.image]
        self._linearise(targets[enough])

        P, like = len(self.image), self.clean
        self.named = trial.wanted[self.image] >= 0

        def full(value: float) -> Tensor:
            return torch.full((P,), value, dtype=like.dtype, device=like.device)

        def count() -> Tensor:
            return torch.zeros(P, dtype=torch.int64, device=like.device)

        self.best, self.best_x, self.best_g, self.best_a = full(torch.inf), like.clone(), full(0.0), self.a.clone()
        self.omega, self.delta = full(_OVERSHOOT), full(torch.inf)
        self.in_vain, self.steps, self.rounds_in_vain = count(), count(), count()
        self.share = full(_SHARE if self.norm == 1 else _SHRINK)
        self.done = ~_useful(self.g, self.a)

    def _linearise(self, targets: Tensor) -> None:
        """Linearise at the clean images, one forward pass and a backward one per class; keep the nearest classes."""
        trial, images, (M, C) = self.trial, self.images, targets.shape
        x0 = trial.clean[images]
        rival = trial.labels[images]
        if bool((trial.wanted[images] >= 0).any()):  # a class of one's own choice must beat the likeliest of the others
            rival = trial.z[images].scatter(1, targets, -torch.inf).argmax(1)
        z, J = trial.jacobian(x0, images, targets, rival) if M else (trial.z[images], x0.new_zeros(0, C, x0.shape[1]))
        g = z.gather(1, targets) - z.gather(1, rival[:, None])
        flat, a = x0.repeat_interleave(C, 0), J.flatten(0, 1)
        far = torch.full((M * C,), torch.inf, dtype=x0.dtype, device=x0.device)
        near = nearest_in_reach(flat, flat, a, (a * flat).sum(1) - g.flatten(), far, self.box, self.norm)
        expected = torch.linalg.vector_norm(near - flat, ord=self.norm, dim=1).view(M, C)
        order = expected.nan_to_num(torch.inf).argsort(dim=1, stable=True)[:, : self.R]
        self.target, self.expected = targets.gather(1, order).flatten(), expected.gather(1, order).flatten()
        self.g, self.gap = g.gather(1, order).flatten(), (-g).gather(1, order).flatten()
        self.a = J[torch.arange(M, device=order.device)[:, None], order].flatten(0, 1)
        self.x = x0.repeat_interleave(self.R, 0)

    def run(self) -> None:
        """Take turns of steps and solves until all rows have ended or the budget is spent, and trim."""
        self._walk(_FIRST_STEPS)
        for round in range(self.limits.solves):
            self._drop(round)
            rows = (~self.done).nonzero().squeeze(1)
            if not len(rows):
                break
            before = self.best[rows].clone()
            x = self._solve_box(rows) if self.norm == math.inf else self._solve_split(rows)
            self._start(rows, x)
            self._walk(_STEPS)
            gained = self.best[rows] < before * (1 - _NEARER)
            self.rounds_in_vain[rows] = torch.where(gained, 0, self.rounds_in_vain[rows] + 1)
            self.done[rows] |= self.rounds_in_vain[rows] >= _IN_VAIN
        self._trim()

    def _drop(self, round: int) -> None:
        """End rows that are too far behind the nearest example of their image."""
        behind = max(_BEHIND * 0.5**round, _LEAST_BEHIND)
        known = torch.where(self.best < torch.inf, self.best, self.expected).double()
        self.done |= known > self.trial.best[self.image] * (1 + behind)

    # -- passes -----------------------------------------------------------------------------------------------

    def _payable(self, rows: Tensor) -> Tensor:
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

    def _temperature(self, rows: Tensor) -> Tensor:
        """Return T (k,), which falls with the rounds that gain nothing."""
        return _TEMPERATURE * torch.exp2(-self.rounds_in_vain[rows].to(self.x)) * self.gap[rows].clamp_min(1e-6)

    def _excess(self, rows: Tensor, z: Tensor, T: Tensor) -> Tensor:
        """Return the label's lead over the targets (k,), or that of all others, smoothed, where a class is named."""
        target, label = self.target[rows], self.trial.labels[self.image[rows]]
        others = T * torch.logsumexp(z.scatter(1, target[:, None], -torch.inf) / T[:, None], 1)
        lead = torch.where(self.named[rows], others, z.gather(1, label[:, None]).squeeze(1))
        return lead - z.gather(1, target[:, None]).squeeze(1)

    def _ascent(self, rows: Tensor, T: Tensor, scale: Tensor, z: Tensor) -> Tensor:
        """Return the loss of (1), (k,)."""
        return self._excess(rows, z, T) / scale

    def _hinge(self, rows: Tensor, T: Tensor, c: Tensor, z: Tensor) -> Tensor:
        """Return the loss of (2), (k,)."""
        return T * F.softplus(self._excess(rows, z, T) / T) / c

    # -- steps of sequential linear programming -----------------------------------------------------------------

    def _start(self, rows: Tensor, x: Tensor) -> None:
        """Go on from points x (k, n), the ends of solves."""
        self.in_vain[rows] = 0
        self.omega[rows] = _LEAST_OVERSHOOT
        moved = (x - self.best_x[rows]).abs().amax(1)
        self.delta[rows] = torch.where(self.best[rows] < torch.inf, moved.clamp_min(1e-3 * self.width), torch.inf)
        enough = self._payable(rows)
        self._evaluate(rows[enough], x[enough], moved[enough])

    def _walk(self, steps: int) -> None:
        for _ in range(steps):
            rows = (~self.done).nonzero().squeeze(1)
            rows = rows[self._payable(rows)]
            if not len(rows):
                return
            x, a = self.x[rows], self.a[rows]
            size = self._size(x, rows)
            size = torch.minimum(torch.where(size > 0, size, self.expected[rows]), self.best[rows])
            beyond = self.omega[rows] * torch.linalg.vector_norm(a, ord=_DUAL[self.norm], dim=1) * size
            b = (a * x).sum(1) - self.g[rows] + beyond
            new = nearest_in_reach(self.clean[rows], x, a, b, self.delta[rows], self.box, self.norm)
            self._evaluate(rows, new, (new - x).abs().amax(1))

    def _size(self, x: Tensor, rows: Tensor) -> Tensor:
        return self.trial.size(x, self.image[rows]).to(x.dtype)

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
        useful = _useful(g, a)
        success = trial.keep(x, image, z, Phase.POLISH) & useful
        size, best = self._size(x, rows), self.best[rows]
        nearer = success & (size < best)
        clearly = nearer & (size < best * (1 - _NEARER))
        at = rows[nearer]
        self.best[at], self.best_x[at], self.best_g[at], self.best_a[at] = size[nearer], x[nearer], g[nearer], a[nearer]
        self.target[at] = torch.where(named, self.target[rows], z.argmax(1))[nearer]
        self.x[rows], self.g[rows], self.a[rows] = x, g, a
        self.steps[rows] += 1
        self._adapt(rows, success, clearly, clearly & best.isinf(), useful, moved)

    def _adapt(
        self, rows: Tensor, success: Tensor, clearly: Tensor, first: Tensor, useful: Tensor, moved: Tensor
    ) -> None:
        """Choose omega and delta of the next steps; return rows that strayed to their nearest success."""
        have = self.best[rows] < torch.inf
        factor = torch.where(success, 0.5, torch.where(have, 2.0, 1.2))
        self.omega[rows] = (self.omega[rows] * factor).clamp(_LEAST_OVERSHOOT, _MOST_OVERSHOOT)
        in_vain = torch.where(clearly, 0, self.in_vain[rows] + 1)
        back = have & ((in_vain > _PATIENCE) | ~useful)
        delta = self.delta[rows]
        delta = torch.where(clearly & ~first, 1.5 * delta, delta)
        shorter = back | (~have & (self.steps[rows] >= 4))
        self.delta[rows] = torch.where(shorter, torch.minimum(delta, moved) / 2, delta).clamp_min(1e-4 * self.width)
        self.in_vain[rows] = torch.where(back, 0, in_vain)
        at = rows[back]
        self.x[at], self.g[at], self.a[at] = self.best_x[at], self.best_g[at], self.best_a[at]
        self.done[rows] |= ~have & ~useful

    # -- solves -------------------------------------------------------------------------------------------------

    def _solver(self, rows: Tensor, n: int) -> Solver:
        return Solver(
            len(rows), n, bounds_by_row=True, memory=self.limits.memory, tolerance=self.limits.tolerance,
            max_evaluations=min(_EVALUATIONS, self.limits.evaluations), dtype=self.x.dtype, device=self.x.device,
        )  # fmt: skip

    def _solve_box(self, rows: Tensor) -> Tensor:
        """Solve (1) for `rows`, each until its first success; return where they end (k, n)."""
        best, x0 = self.best[rows], self.clean[rows]
        have = best < torch.inf
        eps = torch.where(have, best * (1 - self.share[rows]), self.expected[rows])
        start = torch.where(have[:, None], self.best_x[rows], self.x[rows])
        a = torch.where(have[:, None], self.best_a[rows], self.a[rows])
        # In units in which a step along the gradient is of use: only the sign of the loss has a meaning.
        scale = a.abs().mean(1).clamp_min(torch.finfo(a.dtype).tiny) / (_STEP * self.width)
        T = self._temperature(rows)
        solver = self._solver(rows, x0.shape[1])
        solver.insert(
            start,
            tags=torch.arange(len(rows), device=rows.device),
            lower=(x0 - eps[:, None]).clamp(*self.box),
            upper=(x0 + eps[:, None]).clamp(*self.box),
        )
        end, found = start.clone(), torch.zeros_like(have)
        while solver.live:
            x, at = self._ask(solver, rows)
            if not len(at):
                break
            image = self.image[rows[at]]
            z, f, g = self.trial.gradient(x, image, partial(self._ascent, rows[at], T[at], scale[at]))
            success = self.trial.keep(x, image, z, Phase.REFINE)
            end[at[success]], found[at[success]] = x[success], True
            finished = solver.tell(f, g)
            end[finished.tag] = torch.where(found[finished.tag, None], end[finished.tag], finished.x)
            solver.stop(at[success])
        share = self.share[rows]
        self.share[rows] = torch.where(found | ~have, share, share / 2)
        self.done[rows] |= self.share[rows] < _LEAST_SHRINK
        self.expected[rows] = torch.where(have | found, self.expected[rows], self.expected[rows] * _GROW)
        return end

    def _solve_split(self, rows: Tensor) -> Tensor:
        """Solve (2) for `rows`; return their nearest successes, or where they end (k, n)."""
        x0, n = self.clean[rows], self.clean.shape[1]
        have = self.best[rows] < torch.inf
        start = torch.where(have[:, None], self.best_x[rows], self.x[rows])
        a = torch.where(have[:, None], self.best_a[rows], self.a[rows]).abs()
        changed = (start - x0).abs() > 1e-6 * self.width
        cost = torch.where(changed.any(1), torch.where(changed, a, torch.inf).amin(1), a.amax(1))
        c = self.share[rows] * cost.clamp_min(1e-12)
        T = self._temperature(rows)
        solver = self._solver(rows, 2 * n)
        r = start - x0
        solver.insert(
            torch.cat([r.clamp_min(0), (-r).clamp_min(0)], 1),
            tags=torch.arange(len(rows), device=rows.device),
            lower=torch.zeros_like(x0).repeat(1, 2),
            upper=torch.cat([self.box[1] - x0, x0 - self.box[0]], 1),
        )
        end, nearest = start.clone(), self.best[rows].clone()
        succeeded = torch.zeros_like(have)
        while solver.live:
            v, at = self._ask(solver, rows)
            if not len(at):
                break
            image, p, q = self.image[rows[at]], v[:, :n], v[:, n:]
            x = (x0[at] + p - q).clamp(*self.box)
            z, f, g = self.trial.gradient(x, image, partial(self._hinge, rows[at], T[at], c[at]))
            success = self.trial.keep(x, image, z, Phase.REFINE)
            size = self.trial.size(x, image).to(x.dtype)
            nearer = success & (size < nearest[at])
            end[at[nearer]], nearest[at[nearer]], succeeded[at[nearer]] = x[nearer], size[nearer], True
            finished = solver.tell(v.sum(1) + f, torch.cat([1 + g, 1 - g], 1))
            last = (x0[finished.tag] + finished.x[:, :n] - finished.x[:, n:]).clamp(*self.box)
            end[finished.tag] = torch.where(succeeded[finished.tag, None], end[finished.tag], last)
        share = self.share[rows]
        self.share[rows] = torch.where(succeeded, (share * 1.2).clamp_max(_LARGEST_SHARE), share * 0.7)
        return end

    def _ask(self, solver: Solver, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the points to evaluate and the places of their rows, after stopping those that cannot be paid."""
        _, at = solver.ask()
        enough = self._payable(rows[at])
        if not bool(enough.all()):
            solver.stop(at[~enough])
        x, at = solver.ask()
        return x.clone(), at.clone()

    def _trim(self) -> None:
        """Try a little less of each image's perturbation: steps end a little beyond the boundary."""
        trial = self.trial
        found = self.images[torch.isfinite(trial.best[self.images])]
        for share in _TRIMS if len(found) else ():
            x = torch.lerp(trial.clean[found], trial.best_x[found], share)
            trial.keep(x, found, trial.logits(x, found), Phase.BISECT)


def _useful(g: Tensor, a: Tensor) -> Tensor:
    """Tell which linearisations can be used: finite, with a gradient that is not zero."""
    size = a.abs().amax(1)
    return g.isfinite() & size.isfinite() & (size > 0)

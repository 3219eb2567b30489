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

Before the first solve and after each, rows take steps of sequential linear programming (`linear_steps`), which find the
corners that most optima are; what is no corner the solver finds.

A few rows of each image begin on the other side, where the net already errs (`starts`): their segments to the image are
cut near the boundary (`segments`), and steps lead along it. Where the gradient at the clean image misleads, as on nets
trained against Linf, they come nearer by far. With a budget, what is left of it after a few rounds of solves pays for
more such rows, each from a point halfway in direction between a start and the nearest example.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own abbreviation)

from intriguing.attacks import starts
from intriguing.attacks.base import Trial
from intriguing.attacks.linear_steps import NEARER, Rows, nearest_in_reach
from intriguing.attacks.problem import Pairs
from intriguing.attacks.result import Phase
from intriguing.attacks.segments import PASSES, Segments
from intriguing.optim import Solver

_CLEAN_STEPS, _FIRST_STEPS, _STEPS = 8, 60, 10  # from clean images alone, of all before the first solve, after each
_SOLVES = 2  # rounds of solves, where a budget has better uses
_FAR_PASSES = PASSES + 80  # that a row from afar should be able to spend
_TOWARD = 0.5  # share of the nearest example's direction in where a later row begins
_EVALUATIONS = 25  # of one solve; the next goes on from its end
_TEMPERATURE = 0.02  # T, as a share of the clean image's gap of logits
_SHARE, _LARGEST_SHARE = 0.6, 0.9  # c as a share of what the constraint costs: at first, and at most
_SHRINK, _LEAST_SHRINK = 0.05, 1e-3  # by which eps is below the nearest success: at first, and where a row ends
_STEP = 0.1  # change of a typical pixel along the gradient in the units of (1)
_GROW = 1.4  # of eps, before the first success
_IN_VAIN = 4  # rounds without a gain that end a row
_PASSES_PER_CLASS = 16  # of the budget, so that a small one is not spent on gradients of classes that cannot win
_CLASSES = 12  # that get a row of an image: those the linearisation finds nearest
_FAR = starts.AT_FIRST  # rows from afar of each image
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


def search(trial: Trial, pairs: Pairs, limits: Limits, given: tuple[Tensor, Tensor] | None = None) -> None:
    """Look for the nearest example of each image in the trial's norm, 1 or inf.

    Args:
        trial: where `wanted` is set, that class must be reached; elsewhere any but the label is a success.
        pairs: the classes that are aimed at, as many for each image.
        limits: of the solves.
        given: images (P, ...) and labels (P,) to start from, see `starts`; None: noise.
    """
    if not len(pairs):
        return
    images = trial.attacked.nonzero().squeeze(1)
    targets = pairs.target.view(len(images), -1)
    if trial.budget is not None:
        targets = targets[:, : max(1, trial.budget // _PASSES_PER_CLASS)]
    pool = starts.pool(given, trial)
    trial.reserved = 1 + len(_TRIMS)
    rows = min(_CLASSES, targets.shape[1]) + _FAR
    row = 2 * (2 * limits.memory + 10) * trial.clean[0].nbytes
    at_once = max(1, min(limits.slots // rows, _BYTES // (rows * row)))
    for part in torch.split(torch.arange(len(images), device=images.device), at_once):
        _Search(trial, images[part], targets[part], limits, pool).run()
        trial.tell(int(part[-1]) + 1, len(images))


class _Search:
    """The rows of M images: C of each from the clean image, one for a class, then those from afar."""

    def __init__(self, trial: Trial, images: Tensor, targets: Tensor, limits: Limits, pool: starts.Pool) -> None:
        self.trial, self.limits, self.norm, self.box = trial, limits, float(trial.norm), trial.model.box
        self.width = self.box[1] - self.box[0]
        enough = trial.affords(images, 2 + targets.shape[1])
        self.images = images = images[enough]
        self.M, self.C = len(images), min(_CLASSES, targets.shape[1])
        R = self.C + _FAR
        far = torch.arange(R, device=images.device).repeat(self.M) >= self.C
        self.rows = Rows(trial, images.repeat_interleave(R), far)
        self.image = self.rows.image
        self.gap = torch.ones_like(self.rows.g)
        self._linearise(targets[enough])
        self.rounds_in_vain = torch.zeros_like(self.image)
        self.share = torch.full_like(self.rows.g, _SHARE if self.norm == 1 else _SHRINK)
        self.starts = starts.choose(trial, images, pool) if self.M else None
        self.segments = Segments(trial, self.image)
        self.begun = 0  # starts so far, of each image

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
        order = expected.nan_to_num(torch.inf).argsort(dim=1, stable=True)[:, : self.C]
        first = torch.cat([order, order[:, :1].expand(-1, _FAR)], dim=1)  # those from afar aim at the nearest class
        self.rows.target[:], self.gap[:] = targets.gather(1, first).flatten(), (-g).gather(1, first).flatten()
        at = torch.arange(M, device=order.device)[:, None]
        self.rows.linearised(
            (~self.rows.far).nonzero().squeeze(1),
            g.gather(1, order).flatten(),
            J[at, order].flatten(0, 1),
            expected.gather(1, order).flatten(),
        )

    def run(self) -> None:
        """Take turns of steps and solves, begin anew from afar while the budget lasts, and trim."""
        rows = self.rows
        # A step knows one constraint, where a class of one's own choice has as many as there are others.
        named = bool(rows.named.any())
        rows.walk(_CLEAN_STEPS)
        self._enter()
        rows.walk(_STEPS if named else _FIRST_STEPS)
        few = self.trial.budget is not None and not named
        for _ in range(min(_SOLVES, self.limits.solves) if few else self.limits.solves):
            live = (~rows.done).nonzero().squeeze(1)
            if not len(live):
                break
            before = rows.best[live].clone()
            rows.resume(live, self._solve_box(live) if self.norm == math.inf else self._solve_split(live))
            rows.walk(_STEPS)
            gained = rows.best[live] < before * (1 - NEARER)
            self.rounds_in_vain[live] = torch.where(gained, 0, self.rounds_in_vain[live] + 1)
            rows.done[live] |= self.rounds_in_vain[live] >= _IN_VAIN
        if self.trial.budget is not None:
            rows.done[:] = True
            while self._enter():
                rows.walk(_FIRST_STEPS)
        self._trim()

    def _enter(self) -> bool:
        """Begin the rows from afar at the next starts of the images that can pay for them; tell whether any can."""
        trial, rows = self.trial, self.rows
        if self.starts is None:
            return False
        which = self.starts.order[:, self.begun : self.begun + _FAR]
        row = rows.far.nonzero().squeeze(1).view(self.M, _FAR)[:, : which.shape[1]]
        use = which >= 0
        if trial.budget is not None:
            spent = trial.forwards[self.images] + trial.backwards[self.images] + trial.reserved
            use &= (trial.budget - spent)[:, None] >= _FAR_PASSES * torch.arange(
                1, which.shape[1] + 1, device=row.device
            )
        row, which = row[use], which[use]
        far = self.starts.at(which)
        image = self.image[row]
        if self.begun:
            far = torch.where(trial.best[image].isfinite()[:, None], self._between(far, image), far)
        self.begun += _FAR
        self.segments.begin(row)
        while len(row):
            _, ends, x = self.segments.cut(row, far)
            if len(ends):
                rows.begin(ends, x)
            still = self.segments.open[row]
            row, far = row[still], far[still]
        return bool(use.any())

    def _between(self, far: Tensor, image: Tensor) -> Tensor:
        """Return points as far as `far` (k, n), in a direction halfway to the nearest examples of `image` (k,)."""
        clean = self.trial.clean[image]
        away, near = far - clean, self.trial.best_x[image] - clean
        length = torch.linalg.vector_norm(away, dim=1, keepdim=True)
        near = near / torch.linalg.vector_norm(near, dim=1, keepdim=True).clamp_min(torch.finfo(near.dtype).tiny)
        return (clean + torch.lerp(away, length * near, _TOWARD)).clamp(*self.box)

    def _temperature(self, rows: Tensor) -> Tensor:
        """Return T (k,), which falls with the rounds that gain nothing."""
        return _TEMPERATURE * torch.exp2(-self.rounds_in_vain[rows].to(self.gap)) * self.gap[rows].clamp_min(1e-6)

    def _excess(self, rows: Tensor, z: Tensor, T: Tensor) -> Tensor:
        """Return the label's lead over the targets (k,), or that of all others, smoothed, where a class is named."""
        target, label = self.rows.target[rows], self.trial.labels[self.image[rows]]
        others = T * torch.logsumexp(z.scatter(1, target[:, None], -torch.inf) / T[:, None], 1)
        lead = torch.where(self.rows.named[rows], others, z.gather(1, label[:, None]).squeeze(1))
        return lead - z.gather(1, target[:, None]).squeeze(1)

    def _ascent(self, rows: Tensor, T: Tensor, scale: Tensor, z: Tensor) -> Tensor:
        """Return the loss of (1), (k,)."""
        return self._excess(rows, z, T) / scale

    def _hinge(self, rows: Tensor, T: Tensor, c: Tensor, z: Tensor) -> Tensor:
        """Return the loss of (2), (k,)."""
        return T * F.softplus(self._excess(rows, z, T) / T) / c

    # -- solves -------------------------------------------------------------------------------------------------

    def _solver(self, rows: Tensor, n: int) -> Solver:
        return Solver(
            len(rows), n, bounds_by_row=True, memory=self.limits.memory, tolerance=self.limits.tolerance,
            max_evaluations=min(_EVALUATIONS, self.limits.evaluations), dtype=self.gap.dtype, device=self.gap.device,
        )  # fmt: skip

    def _solve_box(self, rows: Tensor) -> Tensor:
        """Solve (1) for `rows`, each until its first success; return where they end (k, n)."""
        best, x0 = self.rows.best[rows], self.rows.clean[rows]
        have = best < torch.inf
        eps = torch.where(have, best * (1 - self.share[rows]), self.rows.expected[rows])
        start = torch.where(have[:, None], self.rows.best_x[rows], self.rows.x[rows])
        a = torch.where(have[:, None], self.rows.best_a[rows], self.rows.a[rows])
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
        self.rows.done[rows] |= self.share[rows] < _LEAST_SHRINK
        self.rows.expected[rows] = torch.where(have | found, self.rows.expected[rows], self.rows.expected[rows] * _GROW)
        return end

    def _solve_split(self, rows: Tensor) -> Tensor:
        """Solve (2) for `rows`; return their nearest successes, or where they end (k, n)."""
        x0, n = self.rows.clean[rows], self.rows.clean.shape[1]
        have = self.rows.best[rows] < torch.inf
        start = torch.where(have[:, None], self.rows.best_x[rows], self.rows.x[rows])
        a = torch.where(have[:, None], self.rows.best_a[rows], self.rows.a[rows]).abs()
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
        end, nearest = start.clone(), self.rows.best[rows].clone()
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
        enough = self.rows.payable(rows[at])
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

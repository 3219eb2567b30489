"""Walks along the boundary: the nearest point of a net's linearised boundary, again and again.

A walk belongs to an image x0 with label y and leads to a class t. It minimises the distance under one constraint,

    minimise |x - x0|^2   subject to   g(x) = z_t(x) - z_y(x) >= 0,   x in the box,                          (1)

by sequential quadratic programming. With a the gradient of g at the current point x, one step is

    x' = the nearest point to x + alpha (x0 - x) of {x' : g + <a, x' - x> >= omega |a| d} cut with the box,    (2)

a projection that costs no pass of the net, and then one forward and one backward pass at x'. alpha = 1 is the full
step, the solution of (1) linearised; smaller ones stay nearer to x (a proximal term |x' - x|^2 (1 - alpha) / alpha).
d is the walk's distance from x0, so that omega is a share of it.

- omega aims beyond the boundary. It is what makes the walk work on nets trained against Linf: the gradient right at
  the boundary is of one linear piece, that a few percent inside of the region that is entered is of the whole. omega
  halves after each success and doubles after each failure, so that it vanishes where the linearisation is good.
- Before the first success alpha falls after a few full steps, which ends in DeepFool's steps (Moosavi-Dezfooli,
  Fawzi and Frossard 2016, algorithm 2): full steps from x0 may circle for ever.
- After it the walk is non-monotone with a watchdog (Chamberlain, Powell, Lemarechal and Pedersen, Math. Program.
  Study 16, 1982): it goes on from where it is, and after a few steps in vain returns to its nearest success, whose
  linearisation is kept, with alpha halved.
- While omega is no larger than at first, steps minimise the distance with the curvature of the boundary that earlier
  ones have shown (`secants.Secants`), of which (2) knows nothing: where it bends much, (2) circles around the solution
  unless alpha is small, and then it creeps. A walk that had to return goes on by (2), until it comes nearer: at a kink
  no pair of gradients tells what bends.
- Where the boundary is of so few planes that a walk meets one twice, it steps to their corner (`planes.Planes`), goes
  back to its nearest success at once where that fails, and ends where the corner is no nearer. Before the first
  success it steps to the nearest point within all of them, so that a step fails only where it meets a new one.
- Any class but the label is a success, so a walk that enters another class than its own takes that for its target.

Projections of x0 onto linearised boundaries are also the steps of FAB (Croce and Hein 2020), which mixes them at a
fixed rate and has neither omega nor a return.
"""

from __future__ import annotations

import torch
from torch import Tensor

from intriguing import norms
from intriguing.attacks.base import Trial
from intriguing.attacks.planes import Planes
from intriguing.attacks.result import Phase
from intriguing.attacks.secants import Secants

_OVERSHOOT, _OVERSHOOT_LEAST, _OVERSHOOT_MOST = 0.2, 3e-4, 0.3  # omega: at first, and its ends
_BEFORE_SUCCESS = 1.2  # growth of omega with each step that fails before the first success
_FULL_STEPS = 4  # steps with alpha = 1 before it falls, as long as there is no success
_FAR_ALPHA = 0.35  # of a walk that starts on the boundary, far from the image
_SHORTEN, _LENGTHEN = 0.5, 1.5  # alpha after a return, and after a step that came nearer
_PATIENCE = 1  # steps in vain before a return
_NEARER, _NEARER_IN_HASTE = 5e-3, 0.01  # share of the distance that counts as nearer
_HASTE = 100  # passes left of the budget that leave no time for small gains
_RETURNS, _RETURNS_OF_LEADER = 4, 6  # returns in a row that end a walk, and one that is nearest to its image
_LEADER = 1.001  # a walk is that up to this factor
PAIRS = 5  # of the boundary's curvature, kept of each walk
_SETTLED = 0.2  # omega from which down the curvature is used
_PLANES, _PLANES_ENTRIES = 5, 1024  # planes kept of each walk, and the most entries of images whose planes recur
_CORNER_BEYOND, _CORNER_ROUNDING = 1e-5, 1000  # inside of the planes: a share of the distance, and of what rounds off
_CORNER_NEARER = 2e-4  # share of the distance that a corner must promise
_WITHIN = 1e-4  # the share before the first success
_FAILURES = 30  # steps without any success that end it


class Walks:
    """Rows of walks, each with its own state; rows never influence each other.

    Attributes:
        trial: counts the passes and keeps the nearest success of every image.
        image: (P,) int64, the image each walk belongs to.
        target: (P,) int64, the class each leads to.
        x: (P, n) current points.
        g: (P,) values of the constraint there.
        a: (P, n) its gradients.
        best: (P,) distance of the nearest success of the walk, inf before the first.
        expected: (P,) where there is no success yet, the distance the linearisation promises.
        steps: (P,) int64, evaluations so far.
        returns: (P,) int64, returns in a row to the nearest success, with nothing nearer between.
        done: (P,) bool.
        begun: (P,) bool, which stand at a start that has not been evaluated.
    """

    def __init__(self, trial: Trial, image: Tensor, target: Tensor) -> None:
        self.trial, self.image, self.target = trial, image, target.clone()
        P, device, dtype = len(image), trial.clean.device, trial.clean.dtype

        def full(value: float) -> Tensor:
            return torch.full((P,), value, dtype=dtype, device=device)

        def count() -> Tensor:
            return torch.zeros(P, dtype=torch.int64, device=device)

        self.x = trial.clean[image]
        self.g, self.a = full(0.0), torch.zeros_like(self.x)
        self.best, self.expected = full(torch.inf), full(torch.inf)
        self.steps = count()
        self.done, self.begun = (torch.zeros(P, dtype=torch.bool, device=device) for _ in range(2))
        # The nearest success and its linearisation, to return to.
        self._best_x, self._best_g, self._best_a = self.x.clone(), full(0.0), torch.zeros_like(self.x)
        self._alpha, self._omega = full(1.0), full(_OVERSHOOT)
        self._in_vain, self.returns = count(), count()
        # Which have gone on without the planes that barred them, and gained nothing since.
        self._unbarred = torch.zeros_like(self.done)
        n = self.x.shape[1]
        self._secants = Secants(P, n, PAIRS, self.x)
        self._planes = Planes(P, n, _PLANES if n <= _PLANES_ENTRIES else 0, self.x)

    @property
    def met_again(self) -> Tensor:
        """(P,) bool, the walks that have met a plane of the boundary twice, which is thus of few of them."""
        return self._planes.again

    def linearise(self, rows: Tensor, g: Tensor, a: Tensor) -> None:
        """Set value g (k,) and gradient a (k, n) of the constraint at the clean images, the first points of `rows`."""
        self.g[rows], self.a[rows] = g, a
        x = self.x[rows]
        nearest = norms.project_half_space_in_box(x, a, (a * x).sum(1) - g, *self.trial.model.box)
        self.expected[rows] = torch.linalg.vector_norm(nearest - x, dim=1)
        self.done[rows] |= ~_useful(g, a)

    def begin(self, rows: Tensor, x: Tensor) -> None:
        """Begin the walks of `rows` anew at points x (k, n) away from the images; their first step evaluates there."""
        self._alpha[rows], self._omega[rows] = _FAR_ALPHA, _OVERSHOOT
        self.best[rows], self.expected[rows] = torch.inf, 0.0  # what it will come to is not known
        self.steps[rows], self._in_vain[rows], self.returns[rows] = 0, 0, 0
        self.done[rows], self.begun[rows], self._unbarred[rows] = False, True, False
        self._secants.forget(rows)
        self._planes.forget(rows)
        self.x[rows] = x

    def step(self, rows: Tensor) -> None:
        """Take one step of each of `rows` (k,), no two of one image's budget more than it affords."""
        begun = self.begun[rows]
        starts, rows = rows[begun], rows[~begun]
        at = self.x.index_select(0, starts)
        self.begun[starts] = False
        rows, y, x, a = self._next(rows) if len(rows) else (rows, at[:0], at[:0], at[:0])
        if len(starts):
            rows, y, x = torch.cat([rows, starts]), torch.cat([y, at]), torch.cat([x, at])
            a = torch.cat([a, torch.zeros_like(at)])
        if len(rows):
            self._evaluate(rows, y, (x, a), torch.arange(len(rows), device=rows.device) < len(rows) - len(starts))

    def _next(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return those of `rows` (k,) that go on, to where (k, n), and the points and gradients they come from."""
        # Rows are taken by `index_select`, which on a CPU is many times as fast as brackets.
        x, a = self.x.index_select(0, rows), self.a.index_select(0, rows)
        x0 = self.trial.clean.index_select(0, self.image[rows])
        d = torch.linalg.vector_norm(x - x0, dim=1)
        d = torch.minimum(torch.where(d > 0, d, self.expected[rows]), self.best[rows])
        beyond = self._omega[rows] * torch.linalg.vector_norm(a, dim=1) * d
        b = torch.linalg.vecdot(a, x) - self.g[rows] + beyond
        low, high = self.trial.model.box
        p = torch.lerp(x, x0, self._alpha[rows][:, None])
        smooth = (self._omega[rows] <= _SETTLED) & (self.returns[rows] == 0)
        curved = (smooth & (self._secants.count[rows] > 0)).nonzero().squeeze(1)
        if len(curved):
            at, point, normal = rows[curved], x.index_select(0, curved), a.index_select(0, curved)
            r = point - x0.index_select(0, curved)
            free = norms.free(point, _multiplier(r, normal)[:, None] * normal - r, low, high)
            missing = beyond[curved] - self.g[at]
            p[curved] = (point + self._secants.step(at, r, normal, free, self._alpha[at], missing)).clamp(low, high)
        y = norms.project_half_space_in_box(p, a, b, low, high)
        again, have = self._planes.again[rows], self.best[rows] < torch.inf
        within = (again & ~have).nonzero().squeeze(1)
        if len(within):
            y[within] = self._within(rows[within], x[within], p[within], d[within], y[within])
        corner = (again & have).nonzero().squeeze(1)
        if len(corner):
            y[corner] = self._to_corner(rows[corner], x[corner], a[corner], x0[corner])
            if bool(self.done[rows].any()):
                going = ~self.done[rows]
                rows, x, a, y = rows[going], x[going], a[going], y[going]
        return rows, y, x, a

    def _to_corner(self, rows: Tensor, x: Tensor, a: Tensor, x0: Tensor) -> Tensor:
        """Return the corners (k, n) to step to from nearest successes x (k, n), or end walks that gain nothing there.

        What bars the way may be planes of other parts of the boundary: a walk that would end goes on without them.
        """
        g, known, box = self.g[rows], self.best[rows], self.trial.model.box
        beyond = max(_CORNER_BEYOND, _CORNER_ROUNDING * torch.finfo(x.dtype).eps) * known
        y = self._planes.corner(rows, x, a, g, x0, beyond, box)
        barred = torch.linalg.vector_norm(y - x0, dim=1) >= known * (1 - _CORNER_NEARER)
        self.done[rows] |= barred & self._unbarred[rows]
        self._unbarred[rows] |= barred
        self._planes.forget(rows[barred], again=True)
        b = (a * x).sum(1) - g + beyond * torch.linalg.vector_norm(a, dim=1)
        y[barred] = norms.project_half_space_in_box(x0[barred], a[barred], b[barred], *box)
        return y

    def _within(self, rows: Tensor, x: Tensor, p: Tensor, d: Tensor, y: Tensor) -> Tensor:
        """Return the points (k, n) nearest to p within all planes met, y (k, n) where there are none such."""
        within, met = self._planes.within(rows, x, self.a[rows], self.g[rows], p, _WITHIN * d, self.trial.model.box)
        self._planes.forget(rows[~met], again=True)
        return torch.where(met[:, None], within, y)

    def _evaluate(self, rows: Tensor, x: Tensor, before: tuple[Tensor, Tensor], stepped: Tensor) -> None:
        """Evaluate the constraint at x (k, n), keep what succeeds, and set up the next steps.

        Args:
            rows: (k,).
            x: (k, n).
            before: the points and gradients that steps came from.
            stepped: (k,) bool, where there was a step; False at the start of a walk.
        """
        trial, image = self.trial, self.image[rows]
        label, target = trial.labels[image], self.target[rows]
        named = trial.wanted[image] >= 0

        def constraint(z: Tensor) -> Tensor:
            answer = z.detach().argmax(1)
            # A named class must beat all others; else the class that is entered takes the place of the target.
            t = torch.where(named | (answer == label), target, answer)
            rival = torch.where(named, z.detach().scatter(1, t[:, None], -torch.inf).argmax(1), label)
            difference: Tensor = z.gather(1, t[:, None]) - z.gather(1, rival[:, None])
            return difference.squeeze(1)

        z, g, a = trial.gradient(x, image, constraint)
        success = trial.keep(x, image, z, Phase.POLISH)
        answer = z.argmax(1)
        distance = trial.size(x, image).to(x.dtype)
        useful = _useful(g, a)
        nearer = success & useful & (distance < self.best[rows])
        clearly = nearer & (distance < self.best[rows] * (1 - self._least_gain(image)))
        first = clearly & (self.best[rows] == torch.inf)
        came = nearer.nonzero().squeeze(1)
        at = rows[came]
        self.best[at], self._best_g[at] = distance[came], g[came]
        self._best_x[at], self._best_a[at] = x.index_select(0, came), a.index_select(0, came)
        self.target[at] = torch.where(named, target, answer)[came]
        same = named | (answer == label) | (answer == target)  # the gradients are of one difference of logits
        self._planes.forget(rows[nearer & ~same])
        if self._planes.kept:  # copies nothing of large images
            plane = (useful & (nearer | same)).nonzero().squeeze(1)
            self._planes.add(rows[plane], x.index_select(0, plane), a.index_select(0, plane), g[plane])
        self._remember(rows, x, a, before, same & useful & stepped)
        # A success without a slope lies beyond a kink: from where the step began, less far next time.
        flat = success & ~useful & stepped & (self.best[rows] == torch.inf) & (self._omega[rows] > _OVERSHOOT_LEAST)
        if bool(flat.any()):
            x, a = torch.where(flat[:, None], before[0], x), torch.where(flat[:, None], before[1], a)
            g, useful = torch.where(flat, self.g[rows], g), useful | flat
        self.x[rows], self.g[rows], self.a[rows] = x, g, a
        self.expected[rows] = distance + (-g / torch.linalg.vector_norm(a, dim=1).clamp_min(1e-30)).clamp_min(0)
        self.steps[rows] += 1
        self._adapt(rows, success, clearly, first, useful)

    def _least_gain(self, image: Tensor) -> Tensor | float:
        """Return the share of the distance (k,) that counts as nearer."""
        trial = self.trial
        if trial.budget is None:
            return _NEARER
        left = trial.budget - trial.forwards[image] - trial.backwards[image]
        return torch.where(left < _HASTE, _NEARER_IN_HASTE, _NEARER)

    def _remember(self, rows: Tensor, x: Tensor, a: Tensor, before: tuple[Tensor, Tensor], same: Tensor) -> None:
        """Learn the boundary's curvature from steps to x (k, n), where the gradient is a (k, n).

        Nothing is learned, and what was known is dropped, where the two gradients are not of the `same` constraint.
        """
        self._secants.forget(rows[~same])
        r = x - self.trial.clean.index_select(0, self.image[rows])
        s = x - before[0]
        y = s - _multiplier(r, a)[:, None] * (a - before[1])
        if not bool(same.all()):
            rows, s, y = rows[same], s[same], y[same]
        self._secants.add(rows, s, y)

    def _adapt(self, rows: Tensor, success: Tensor, clearly: Tensor, first: Tensor, useful: Tensor) -> None:
        """Choose alpha and omega of the next steps, return walks that strayed, end those that earn nothing."""
        have = self.best[rows] < torch.inf
        factor = torch.where(success, 0.5, torch.where(have, 2.0, _BEFORE_SUCCESS))
        self._omega[rows] = (self._omega[rows] * factor).clamp(_OVERSHOOT_LEAST, _OVERSHOOT_MOST)
        in_vain = torch.where(clearly, 0, self._in_vain[rows] + 1)
        back = have & ((in_vain > torch.where(self._planes.again[rows], 0, _PATIENCE)) | ~useful)
        shorter = back | (~have & (self.steps[rows] >= _FULL_STEPS))
        self._unbarred[rows[clearly]] = False
        alpha = self._alpha[rows]
        alpha = torch.where(clearly & ~first, (alpha * _LENGTHEN).clamp(max=1.0), alpha)
        self._alpha[rows] = torch.where(shorter, alpha * _SHORTEN, alpha)
        self._in_vain[rows] = torch.where(back, 0, in_vain)
        self.returns[rows] = torch.where(clearly, 0, self.returns[rows] + back)
        at = rows[back]
        self.x[at], self.a[at] = self._best_x.index_select(0, at), self._best_a.index_select(0, at)
        self.g[at] = self._best_g[at]
        lost = ~have & (~useful | (self.steps[rows] >= _FAILURES))
        leads = self.best[rows] <= self.trial.best[self.image[rows]] * _LEADER
        self.done[rows] |= lost | (self.returns[rows] >= torch.where(leads, _RETURNS_OF_LEADER, _RETURNS))


def _multiplier(r: Tensor, a: Tensor) -> Tensor:
    """Return the lambda >= 0 (k,) with which lambda a comes nearest to r; both (k, n)."""
    along, square = torch.linalg.vecdot(r, a), torch.linalg.vecdot(a, a)
    multiplier: Tensor = (along / square.clamp_min(torch.finfo(a.dtype).tiny)).clamp_min(0)
    return multiplier


def _useful(g: Tensor, a: Tensor) -> Tensor:
    """Tell which linearisations can be used: finite, with a gradient that is not zero."""
    size = a.abs().amax(1)
    return g.isfinite() & size.isfinite() & (size > 0)

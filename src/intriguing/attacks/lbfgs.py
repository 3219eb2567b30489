"""The attack of the paper: minimise c |r|^2 + loss(x + r, l) in the box, for the largest c that still succeeds.

Szegedy et al. 2014, section 4.1. Symbols: x the image, l the target, r the perturbation, z the logits, T a
temperature; P pairs (image, target), each a row of its own in the solver.

    minimise over x + r in the box      |r|_2^2 + loss_T(x + r, l) / c                               (1)
    loss_T(x, l) = T log(1 + sum over j != l of exp((z_j - z_l) / T))                                (2)

- (1) is the paper's problem divided by c: the minimisers are the same, and the projected gradient is then in
  pixel units whatever c is, so that one tolerance serves all.
- (2) with T = 1 is the cross-entropy, the paper's loss. As T falls it becomes the logit hinge
  max(0, max_j z_j - z_l), for which the penalty is exact for any number of classes; for cross-entropy it is so
  only for two (a target's decision region is a level set of the loss only then). ``objective="hinge"`` lowers T
  in stages, each started from the last.
- The paper prints that the smallest c with success is sought. With c on the distance it is the LARGEST: as c
  falls to 0 the distance term vanishes and success is trivial. c is bracketed by factors of ten, then found as
  the root of the margin m(log c) = z_l - max_{j != l} z_j of the minimiser, which falls as c grows.
- DEVIATION: squared norm. The paper leaves the norm open, and the unsquared one is not smooth at r = 0, where
  the search starts.
- Every evaluated point that the net gives to l is a candidate; the closest is kept, whatever the solver does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from intriguing import norms
from intriguing.attacks import lbfgs_norms
from intriguing.attacks import starts as far
from intriguing.attacks.base import COUNT, POSITIVE, Attack, Progress, Range, Trial
from intriguing.attacks.nearest import Nearest
from intriguing.attacks.problem import Pairs, choose_targets, margin
from intriguing.attacks.result import AttackResult, Phase, check_norm
from intriguing.errors import InputError, UnknownNameError
from intriguing.nets.load import Model
from intriguing.optim import Solver, Status

OBJECTIVES = {
    "cross-entropy": "the paper's loss; the penalty is exact for two classes",
    "hinge": "the logit hinge as the limit of a falling temperature; exact for any number of classes",
}

_BISECTIONS = 10  # halvings of the last segment, which then ends within 0.1% of its length from the crossing
_STAGE_TEMPERATURES = (0.1, 0.01, 0.002)  # of the hinge, as shares of the clean image's logit gap
_SAFEGUARD = 0.1  # a root finder's step stays this far, as a share of the bracket, from both of its ends


@dataclass(frozen=True)
class LBFGS(Attack):
    """Parameters of the attack; call it as ``LBFGS(...)(model, images, labels, generator=g)``.

    Args:
        target: ``"random"``, ``"nearest"``, ``"all"``, ``"top-k"`` (for example ``"top-3"``), or (N,) int64.
        objective: ``"cross-entropy"`` (the paper's) or ``"hinge"``.
        budget: the largest number of forwards plus backwards on one image, over all targets, the clean pass,
            the last bisection and the final judgement included; never exceeded. None: no limit.
        first: the first c. This and the next two are of logits that lie 1 apart and more; where those of an image lie
            closer, all three shrink with what lies between its largest and its least, as the slope of the loss does.
        lowest: c is not searched below this; an image whose minimiser there fails is `not_found`.
        highest: c is not searched above this.
        width: c is found to this relative width.
        tolerance: of each solve: largest entry of the projected gradient of (1), in pixel units.
        evaluations: the most evaluations of one solve.
        solves: the most solves of one pair and temperature.
        memory: pairs of the limited-memory matrix.
        slots: (image, target) pairs solved at once.
        norm: 2, or 1 or inf, which are searched as `lbfgs_norms` says: over c too in L1, over the size of the box in
            Linf. There `"all"` and `"nearest"` are one, the loss is always a hinge, and the settings from `objective`
            to `width`, but for the budget, have no part.
        starts: in L1 and Linf alone: images of other classes with their labels, see `Nearest`. None: noise.
    """

    description: ClassVar[str] = "the paper's: box-constrained L-BFGS, the largest c that still succeeds; L1, L2, Linf"
    ranges: ClassVar[Mapping[str, Range]] = {
        "width": POSITIVE, "tolerance": POSITIVE,
        "evaluations": COUNT, "solves": COUNT, "memory": COUNT, "slots": COUNT,
    }  # fmt: skip

    target: str | Tensor = "random"
    objective: str = "cross-entropy"
    budget: int | None = None
    first: float = 1.0
    lowest: float = 1e-6
    highest: float = 1e6
    width: float = 0.05
    tolerance: float = 1e-3
    evaluations: int = 100
    solves: int = 20
    memory: int = 8
    slots: int = 1024
    norm: float = 2.0
    starts: tuple[Tensor, Tensor] | None = field(default=None, repr=False)

    def _check(self) -> None:
        if check_norm(self.norm) == 2 and self.starts is not None:
            raise InputError("starts: for norm=1 and norm=inf alone; in L2 it is `Nearest` that can use them")
        far.check(self.starts)
        if self.objective not in OBJECTIVES:
            raise UnknownNameError("objective", self.objective, OBJECTIVES)
        if not 0 < self.lowest <= self.first <= self.highest:
            raise InputError(
                "lowest, first, highest: expected 0 < lowest <= first <= highest, "
                f"got {self.lowest}, {self.first}, {self.highest}"
            )

    def _search(self, trial: Trial, generator: torch.Generator | None) -> None:
        if trial.norm == 2:
            _Search(self, trial, generator).run()
            return
        pairs = choose_targets(self.target, trial.z, trial.labels, trial.attacked, generator)
        if isinstance(self.target, Tensor) or self.target == "random":
            trial.wanted[pairs.image] = pairs.target
        limits = lbfgs_norms.Limits(self.tolerance, self.evaluations, self.solves, self.memory, self.slots)
        lbfgs_norms.search(trial, pairs, limits, self.starts)


def lbfgs(
    model: Model | torch.nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    target: str | Tensor = "random",
    norm: float = 2.0,
    objective: str | None = None,
    budget: int | None = None,
    starts: tuple[Tensor, Tensor] | None = None,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> AttackResult:
    """Find the nearest adversarial examples: of one class by the paper's attack, of any class by the best there is.

    Where one class is asked for (``"random"``, or a tensor), or an objective is named, this is the paper's search over
    c by box-constrained L-BFGS (Szegedy et al. 2014, section 4.1), `LBFGS`. Where any wrong class will do
    (``"nearest"``, ``"all"``, ``"top-3"``) it is `Nearest`, which walks along the boundary and gets nearer with far
    fewer passes. ``LBFGS(target="all")`` is the paper's search for every class.

    Args:
        model: a `Model`, or a plain net whose inputs lie in [0, 1].
        images: (N, ...) in the model's box; images the model gets wrong are not attacked.
        labels: (N,) int64 true classes.
        target: which wrong class to reach: ``"random"`` (the paper's, most likely), ``"nearest"``, ``"all"``,
            ``"top-3"``, or (N,) int64 classes.
        norm: 1, 2 or inf, what is kept small. In 1 and inf it is `LBFGS` whatever the target.
        objective: ``"cross-entropy"`` (the paper's) or ``"hinge"``; None: as above. In L2 alone.
        budget: the largest number of forwards plus backwards on one image; None for no limit.
        starts: images of other classes with their labels, see `Nearest`; they help against nets trained in Linf.
        generator: draws the random targets.
        progress: called with (done, all) now and then.

    Returns:
        An `AttackResult`. Not finding anything is a status, not an exception.

    Raises:
        InputError, DataError, ModelError: arguments that cannot be used; the message says what to do.

    Example:
        >>> result = lbfgs(model, images, labels, target="all", budget=400)
        >>> result.median
    """
    attack: Attack
    if check_norm(norm) != 2:
        if objective is not None:
            raise InputError(f"objective: for norm=2 alone, got norm={norm:g}; leave one of them out")
        attack = LBFGS(target=target, budget=budget, norm=norm, starts=starts)
    elif objective is None and isinstance(target, str) and target != "random":
        attack = Nearest(target=target, budget=budget, starts=starts)
    elif starts is not None:
        raise InputError(
            "starts: the paper's search begins at the clean image; leave starts out, or leave the objective out and "
            'ask for target="all"'
        )
    else:
        attack = LBFGS(target=target, objective=objective or "cross-entropy", budget=budget)
    return attack(model, images, labels, generator=generator, progress=progress)


class _Search:
    """The state of one attack: every (image, target) pair is a row of the solver, with its own bracket of c."""

    def __init__(self, attack: LBFGS, trial: Trial, generator: torch.Generator | None) -> None:
        self.attack, self.trial, self.clean = attack, trial, trial.clean
        trial.reserved = _BISECTIONS + 1
        device, logits = self.clean.device, trial.z
        self.pairs: Pairs = choose_targets(attack.target, logits, trial.labels, trial.attacked, generator)
        P = len(self.pairs)

        def full(value: float) -> Tensor:
            return torch.full((P,), value, dtype=torch.float64, device=device)

        # Distance of the closest candidate of each pair, the point itself, and the phase that met it.
        self.best = full(torch.inf)
        self.best_x = self.clean[self.pairs.image].clone()
        self.best_phase = torch.zeros(P, dtype=torch.int64, device=device)
        self.numeric = torch.zeros(P, dtype=torch.bool, device=device)
        # The bracket: u = log c, u_low the largest success, u_high the smallest failure, with their margins.
        image = self.pairs.image
        self.unit = (logits.amax(1) - logits.amin(1)).double().clamp(torch.finfo(torch.float32).tiny, 1)[image]
        self.u = math.log(attack.first) + self.unit.log()
        self.u_low, self.m_low = full(-torch.inf), full(torch.nan)
        self.u_high, self.m_high = full(torch.inf), full(torch.nan)
        self.last_side = torch.zeros(P, dtype=torch.int64, device=device)
        self.solves = torch.zeros(P, dtype=torch.int64, device=device)
        self.stage = torch.zeros(P, dtype=torch.int64, device=device)
        self.current_margin = full(torch.nan)
        self.floor = full(0.0)  # the largest |r| of a minimiser that failed
        gap = logits.gather(1, trial.labels[:, None]).squeeze(1)[image] - logits[image, self.pairs.target]
        self.gap = gap.double().maximum(1e-6 * self.unit)
        self.least_margin = trial.least_margin.double()[image]

    # -- evaluation -----------------------------------------------------------------------------------------

    def _temperature(self, pair: Tensor) -> Tensor:
        if self.attack.objective == "cross-entropy":
            return torch.ones_like(self.gap[pair])
        shares = torch.tensor(_STAGE_TEMPERATURES, dtype=torch.float64, device=self.gap.device)
        return shares[self.stage[pair]] * self.gap[pair]

    def _evaluate(self, x: Tensor, pair: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return value and gradient of (1) and the margins at x (k, n); keep every candidate."""
        image, target = self.pairs.image[pair], self.pairs.target[pair]
        T = self._temperature(pair)
        c = self.u[pair].exp()

        def loss_of(z: Tensor) -> Tensor:
            z = z.double()  # the loss of logits that all but agree is log K, and the last digits are what is sought
            others = z.scatter(1, target[:, None], -torch.inf)
            excess = torch.logsumexp(others / T[:, None], 1) - z.gather(1, target[:, None]).squeeze(1) / T
            return T * torch.nn.functional.softplus(excess)

        z, loss, gradient = self.trial.gradient(x, image, loss_of)
        m = margin(z, target).double()
        self.numeric[pair] |= ~torch.isfinite(m)
        r = x - self.clean.index_select(0, image)
        squared = torch.linalg.vecdot(r, r)
        value = squared.double() + loss.double() / c
        gradient = (gradient / c[:, None].to(x.dtype)).add_(r, alpha=2.0)
        self._keep(x, pair, m, squared)
        return value, gradient, m

    def _keep(self, x: Tensor, pair: Tensor, m: Tensor, squared: Tensor) -> None:
        distance = squared.double().sqrt()
        better = ((m > self.least_margin[pair]) & (distance < self.best[pair])).nonzero().squeeze(1)
        if len(better):
            rows = pair[better]
            images, trial = self.pairs.image[rows], self.trial
            new = images[trial.first_success[images] < 0]
            trial.first_success[new] = (trial.forwards + trial.backwards)[new]
            self.best[rows] = distance[better]
            self.best_x[rows] = x[better]
            bracketed = torch.isfinite(self.u_low[rows]) & torch.isfinite(self.u_high[rows])
            phase = torch.where(bracketed, int(Phase.REFINE), int(Phase.BRACKET))
            self.best_phase[rows] = torch.where(self.stage[rows] > 0, int(Phase.SHARPEN), phase)

    # -- the search over c ----------------------------------------------------------------------------------

    def run(self) -> None:
        attack = self.attack
        P = len(self.pairs)
        if P:
            solver = Solver(
                min(attack.slots, P),
                self.clean.shape[1],
                lower=self.trial.model.box[0],
                upper=self.trial.model.box[1],
                memory=attack.memory,
                tolerance=attack.tolerance,
                max_evaluations=attack.evaluations,
                dtype=self.clean.dtype,
                device=self.clean.device,
            )
            self._drive(solver, P)
        self._finish()

    def _drive(self, solver: Solver, P: int) -> None:
        queued = 0
        done = 0
        while queued < P or solver.live:
            take = self._fitting(queued, min(solver.free, P - queued), waiting=solver.live > 0)
            if take:
                rows = torch.arange(queued, queued + take, device=self.clean.device)
                solver.insert(self.clean[self.pairs.image[rows]], tags=rows)
                queued += take
            done += self._stop_spent(solver)
            x, pair = solver.ask()
            if not len(pair):
                continue
            pair = pair.clone()
            value, gradient, m = self._evaluate(x, pair)
            finished = solver.tell(value, gradient)
            accepted = solver.accepted
            self.current_margin[pair[accepted]] = m[accepted]
            if len(finished.tag):
                again = self._next(finished.tag, finished.x, finished.status)
                rows = finished.tag[again]
                if len(rows):
                    solver.insert(finished.x[again], tags=rows)
                done += len(finished.tag) - len(rows)
                self.trial.tell(done, P)

    def _fitting(self, start: int, most: int, *, waiting: bool) -> int:
        """Return how many pairs from `start` on to insert: whole images, which share their budget tick by tick.

        An image with more pairs than there are slots is taken in parts, once nothing else is live.
        """
        end = start + most
        if self.attack.budget is None or end == len(self.pairs) or not most:
            return most
        image = self.pairs.image[start : end + 1]
        whole = int((image[:-1] != image[-1]).sum())  # pairs are in the order of their images
        return whole if whole or waiting else most

    def _stop_spent(self, solver: Solver) -> int:
        """Stop rows whose images cannot pay for another evaluation; return how many."""
        if self.attack.budget is None:
            return 0
        _, pair = solver.ask()
        image, trial = self.pairs.image[pair], self.trial
        left = self.attack.budget - trial.reserved - trial.forwards - trial.backwards
        affordable = left[image] // 2
        # By the pairs' own order, not that of the slots: what other images leave free must not matter.
        order = torch.argsort(pair)
        first = torch.searchsorted(image[order], image[order])
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=order.device) - first
        over = rank >= affordable
        if not bool(over.any()):
            return 0
        solver.stop(pair[over])
        return int(over.sum())

    def _next(self, pair: Tensor, x: Tensor, status: Tensor) -> Tensor:
        """Move the brackets of pairs whose solves ended at x; return which go on (k,) with a new c in self.u."""
        attack = self.attack
        length = norms.l2(x - self.clean[self.pairs.image[pair]])
        u, m = self.u[pair], self.current_margin[pair]
        failed = (status == int(Status.NUMERIC_FAILURE)) | ~torch.isfinite(m)
        self.numeric[pair] |= failed
        self.solves[pair] += 1
        success = m > self.least_margin[pair]
        self.floor[pair] = torch.where(success, self.floor[pair], torch.maximum(self.floor[pair], length))
        low, high = self.u_low[pair], self.u_high[pair]
        m_low, m_high = self.m_low[pair], self.m_high[pair]
        # Illinois rule: an end that stays twice in a row has its margin halved, so that it moves next time.
        side = torch.where(success, 1, -1)
        twice = self.last_side[pair] == side
        m_high = torch.where(success & twice, m_high / 2, m_high)
        m_low = torch.where(~success & twice, m_low / 2, m_low)
        low, m_low = torch.where(success, u, low), torch.where(success, m, m_low)
        high, m_high = torch.where(success, high, u), torch.where(success, m_high, m)
        bracketed = torch.isfinite(low) & torch.isfinite(high)

        share = (m_low / (m_low - m_high)).nan_to_num(0.5).clamp(_SAFEGUARD, 1 - _SAFEGUARD)
        step = torch.where(self.stage[pair] == 0, math.log(10.0), math.log(2.0))
        inside = low + share * (high - low)
        u_next = torch.where(bracketed, inside, torch.where(success, u + step, u - step))
        closed = bracketed & (high - low <= math.log1p(attack.width))
        # Leaving the range of c ends the search on that side.
        above = u_next - self.unit[pair].log()
        outside = ~bracketed & ((above > math.log(attack.highest) + 1e-9) | (above < math.log(attack.lowest) - 1e-9))
        over = closed | outside | (self.solves[pair] >= attack.solves)

        self.u_low[pair], self.m_low[pair] = low, m_low
        self.u_high[pair], self.m_high[pair] = high, m_high
        self.last_side[pair] = side
        if attack.objective == "hinge":
            # The next temperature starts where this one succeeded last, with a bracket of its own.
            sharpen = over & ~failed & torch.isfinite(low) & (self.stage[pair] < len(_STAGE_TEMPERATURES) - 1)
            rows = pair[sharpen]
            self.stage[rows] += 1
            self.u_low[rows], self.u_high[rows] = -torch.inf, torch.inf
            self.last_side[rows] = 0
            self.solves[rows] = 0
            u_next = torch.where(sharpen, low, u_next)
            over = over & ~sharpen
        self.u[pair] = u_next
        if attack.target == "nearest":
            over = over | self._hopeless(pair, success)
        return ~over & ~failed

    def _hopeless(self, pair: Tensor, success: Tensor) -> Tensor:
        """Which pairs cannot hold the closest example of their image any more.

        A minimiser of (1) that fails lies nearer than the nearest success: with r* any success,
        |r|^2 + loss(r)/c <= |r*|^2 + loss(r*)/c and loss(r) >= loss(r*) give |r| <= |r*|. Exact for the hinge
        and for global minimisers, a rule of thumb otherwise.
        """
        N = len(self.clean)
        closest = torch.full((N,), torch.inf, dtype=torch.float64, device=self.best.device)
        closest.scatter_reduce_(0, self.pairs.image, self.best, "amin")
        return ~success & (self.floor[pair] > closest[self.pairs.image[pair]])

    # -- the end --------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Pick each image's nearest target, bisect to its boundary, and hand the points to the trial."""
        trial, (N, K) = self.trial, self.trial.by_target.shape
        device = self.clean.device
        trial.by_target[self.pairs.image, self.pairs.target] = self.best
        pair_of = torch.full((N, K), -1, dtype=torch.int64, device=device)
        pair_of[self.pairs.image, self.pairs.target] = torch.arange(len(self.pairs), device=device)
        closest, target = trial.by_target.min(1)
        found = torch.isfinite(closest).nonzero().squeeze(1)
        rows = pair_of[found, target[found]]
        x = self.best_x[rows]
        bisected = self._bisect(found, rows)
        before, after = trial.size(x, found), trial.size(bisected, found)
        moved = after < before
        trial.best_x[found] = torch.where(moved[:, None], bisected, x)
        trial.best[found] = torch.where(moved, after, before)
        trial.phase[found] = torch.where(moved, int(Phase.BISECT), self.best_phase[rows])
        trial.wanted[found] = self.pairs.target[rows]
        trial.search = torch.full_like(trial.best, torch.inf)
        trial.search[found] = before
        trial.numeric[self.pairs.image[self.numeric]] = True
        if self.attack.budget is not None:
            trial.spent |= trial.forwards + trial.backwards + 2 + _BISECTIONS + 1 > self.attack.budget

    def _bisect(self, image: Tensor, pair: Tensor) -> Tensor:
        """Bisect the segments from clean images to their examples; return the nearest success on each."""
        clean, far = self.clean[image], self.best_x[pair]
        target = self.pairs.target[pair]
        low = torch.zeros(len(image), dtype=clean.dtype, device=clean.device)
        high = torch.ones_like(low)
        best = far.clone()
        for _ in range(_BISECTIONS if len(image) else 0):
            middle = (low + high) / 2
            x = torch.lerp(clean, far, middle[:, None])
            success = (
                margin(self.trial.logits(x, image, slots=self.attack.slots), target).double() > self.least_margin[pair]
            )
            best = torch.where(success[:, None], x, best)
            low, high = torch.where(success, low, middle), torch.where(success, middle, high)
        return best

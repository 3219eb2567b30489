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
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from intriguing import norms
from intriguing.attacks.problem import Pairs, check_labels, choose_targets, margin
from intriguing.attacks.result import AttackResult, AttackStatus, Phase
from intriguing.errors import InputError, ModelError, UnknownNameError
from intriguing.floating import denormals_flushed
from intriguing.nets.load import Model, as_model
from intriguing.optim import Solver, Status

OBJECTIVES = {
    "cross-entropy": "the paper's loss; the penalty is exact for two classes",
    "hinge": "the logit hinge as the limit of a falling temperature; exact for any number of classes",
}

_BISECTIONS = 10  # halvings of the last segment, which then ends within 0.1% of its length from the crossing
_STAGE_TEMPERATURES = (0.1, 0.01, 0.002)  # of the hinge, as shares of the clean image's logit gap
_SAFEGUARD = 0.1  # a root finder's step stays this far, as a share of the bracket, from both of its ends


@dataclass(frozen=True)
class LBFGS:
    """Parameters of the attack; call it as ``LBFGS(...)(model, images, labels, generator=g)``.

    Args:
        target: ``"random"``, ``"nearest"``, ``"all"``, ``"top-k"`` (for example ``"top-3"``), or (N,) int64.
        objective: ``"cross-entropy"`` (the paper's) or ``"hinge"``.
        budget: the largest number of forwards plus backwards on one image, over all targets, the clean pass,
            the last bisection and the final judgement included; never exceeded. None: no limit.
        first: the first c.
        lowest: c is not searched below this; an image whose minimiser there fails is `not_found`.
        highest: c is not searched above this.
        width: c is found to this relative width.
        tolerance: of each solve: largest entry of the projected gradient of (1), in pixel units.
        evaluations: the most evaluations of one solve.
        solves: the most solves of one pair and temperature.
        memory: pairs of the limited-memory matrix.
        slots: (image, target) pairs solved at once.
    """

    description: ClassVar[str] = "the paper's: box-constrained L-BFGS, the largest c that still succeeds; minimal L2"

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

    def __call__(
        self,
        model: Model | torch.nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        generator: torch.Generator | None = None,
        progress: Callable[[float, float], None] | None = None,
    ) -> AttackResult:
        """Attack `images`; see `lbfgs`."""
        if self.objective not in OBJECTIVES:
            raise UnknownNameError("objective", self.objective, OBJECTIVES)
        self._check()
        model = as_model(model)
        model.check_inputs(images)
        with model.frozen(), denormals_flushed():
            return _Search(self, model, images, labels, generator, progress).run()

    def _check(self) -> None:
        if self.budget is not None and self.budget < 1:
            raise InputError(f"budget: expected at least 1 pass per image, got {self.budget}")
        if not 0 < self.lowest <= self.first <= self.highest:
            raise InputError(
                "lowest, first, highest: expected 0 < lowest <= first <= highest, "
                f"got {self.lowest}, {self.first}, {self.highest}"
            )
        for name, value in (("width", self.width), ("tolerance", self.tolerance)):
            if not value > 0:
                raise InputError(f"{name}: expected a positive number, got {value}")
        counts = {"evaluations": self.evaluations, "solves": self.solves, "memory": self.memory, "slots": self.slots}
        for name, count in counts.items():
            if count < 1:
                raise InputError(f"{name}: expected at least 1, got {count}")


def lbfgs(
    model: Model | torch.nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    target: str | Tensor = "random",
    objective: str = "cross-entropy",
    budget: int | None = None,
    generator: torch.Generator | None = None,
    progress: Callable[[float, float], None] | None = None,
) -> AttackResult:
    """Find the nearest adversarial examples by box-constrained L-BFGS (Szegedy et al. 2014, section 4.1).

    Args:
        model: a `Model`, or a plain net whose inputs lie in [0, 1].
        images: (N, ...) in the model's box; images the model gets wrong are not attacked.
        labels: (N,) int64 true classes.
        target: which wrong class to reach: ``"random"`` (the paper's, most likely), ``"nearest"``, ``"all"``,
            ``"top-3"``, or (N,) int64 classes.
        objective: ``"cross-entropy"`` (the paper's) or ``"hinge"``.
        budget: the largest number of forwards plus backwards on one image; None for no limit.
        generator: draws the random targets.
        progress: called with (pairs of image and target done, all pairs) now and then.

    Returns:
        An `AttackResult`. Not finding anything is a status, not an exception.

    Raises:
        InputError, DataError, ModelError: arguments that cannot be used; the message says what to do.

    Example:
        >>> result = lbfgs(model, images, labels, target="random", generator=rng.generator("targets", 0))
        >>> result.distortion[result.found].mean()
    """
    attack = LBFGS(target=target, objective=objective, budget=budget)
    return attack(model, images, labels, generator=generator, progress=progress)


class _Search:
    """The state of one attack: every (image, target) pair is a row of the solver, with its own bracket of c."""

    def __init__(
        self,
        attack: LBFGS,
        model: Model,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator | None,
        progress: Callable[[float, float], None] | None,
    ) -> None:
        self.attack, self.model, self.progress = attack, model, progress
        self.original = images.detach()
        self.shape = images.shape[1:]
        device = model.device
        self.clean = images.detach().to(device=device, dtype=model.dtype).flatten(1)
        N = len(images)
        self.forwards = torch.zeros(N, dtype=torch.int64, device=device)
        self.backwards = torch.zeros(N, dtype=torch.int64, device=device)
        logits = self._logits(self.clean, torch.arange(N, device=device))
        model.check(logits)
        check_labels(labels, N, logits.shape[1])
        self.labels = labels.to(device)
        self.classes = logits.shape[1]
        predicted = logits.argmax(1)
        self.attacked = predicted == self.labels
        self.predicted = predicted
        self.pairs: Pairs = choose_targets(attack.target, logits, self.labels, self.attacked, generator)
        P = len(self.pairs)

        def full(value: float) -> Tensor:
            return torch.full((P,), value, dtype=torch.float64, device=device)

        # Distance of the closest candidate of each pair, the point itself, and the phase that met it.
        self.best = full(torch.inf)
        self.best_x = self.clean[self.pairs.image].clone()
        self.best_phase = torch.zeros(P, dtype=torch.int64, device=device)
        self.numeric = torch.zeros(P, dtype=torch.bool, device=device)
        # The bracket: u = log c, u_low the largest success, u_high the smallest failure, with their margins.
        self.u = full(math.log(attack.first))
        self.u_low, self.m_low = full(-torch.inf), full(torch.nan)
        self.u_high, self.m_high = full(torch.inf), full(torch.nan)
        self.last_side = torch.zeros(P, dtype=torch.int64, device=device)
        self.solves = torch.zeros(P, dtype=torch.int64, device=device)
        self.stage = torch.zeros(P, dtype=torch.int64, device=device)
        self.current_margin = full(torch.nan)
        self.floor = full(0.0)  # the largest |r| of a minimiser that failed
        gap = (
            logits.gather(1, self.labels[:, None]).squeeze(1)[self.pairs.image]
            - logits[self.pairs.image, self.pairs.target]
        )
        self.gap = gap.double().clamp(min=1e-6)
        # A margin below the rounding of the logits is not a success: the judge may see them in another batch.
        self.least_margin = 32 * torch.finfo(model.dtype).eps * logits.abs().amax(1).double()[self.pairs.image]

    # -- evaluation -----------------------------------------------------------------------------------------

    def _logits(self, x: Tensor, image: Tensor) -> Tensor:
        """Forward passes for flat points x (k, n) of the images `image` (k,), counted."""
        with torch.no_grad():
            pieces = [self.model(part.reshape(-1, *self.shape)) for part in torch.split(x, self.attack.slots)]
        self.forwards.index_add_(0, image, torch.ones_like(image))
        return torch.cat(pieces) if pieces else x.new_zeros(0, 1)

    def _temperature(self, pair: Tensor) -> Tensor:
        if self.attack.objective == "cross-entropy":
            return torch.ones_like(self.gap[pair])
        shares = torch.tensor(_STAGE_TEMPERATURES, dtype=torch.float64, device=self.gap.device)
        return shares[self.stage[pair]] * self.gap[pair]

    def _evaluate(self, x: Tensor, pair: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return value and gradient of (1) and the margins at x (k, n); keep every candidate."""
        image, target = self.pairs.image[pair], self.pairs.target[pair]
        T = self._temperature(pair).to(x.dtype)
        c = self.u[pair].exp()
        point = x.detach().requires_grad_(True)
        with torch.enable_grad():
            z = self.model(point.reshape(-1, *self.shape))
            others = z.scatter(1, target[:, None], -torch.inf)
            z_target = z.gather(1, target[:, None]).squeeze(1)
            excess = torch.logsumexp(others / T[:, None], 1) - z_target / T
            loss = T * torch.nn.functional.softplus(excess)
            gradient = torch.autograd.grad(loss.sum(), point, allow_unused=True)[0] if loss.requires_grad else None
        if gradient is None:
            raise ModelError(
                f"{self.model.name} passes no gradient to its images, which this attack needs; "
                "take it out of torch.no_grad, and keep tensors from being detached or rounded on the way"
            )
        ones = torch.ones_like(image)
        self.forwards.index_add_(0, image, ones)
        self.backwards.index_add_(0, image, ones)
        m = (z_target - others.amax(1)).detach().double()
        self.numeric[pair] |= ~torch.isfinite(m)
        r = x - self.clean.index_select(0, image)
        squared = torch.linalg.vecdot(r, r)
        value = squared.double() + loss.detach().double() / c
        gradient = (gradient / c[:, None].to(x.dtype)).add_(r, alpha=2.0)
        self._keep(x, pair, m, squared)
        return value, gradient, m

    def _keep(self, x: Tensor, pair: Tensor, m: Tensor, squared: Tensor) -> None:
        distance = squared.double().sqrt()
        better = ((m > self.least_margin[pair]) & (distance < self.best[pair])).nonzero().squeeze(1)
        if len(better):
            rows = pair[better]
            self.best[rows] = distance[better]
            self.best_x[rows] = x[better]
            bracketed = torch.isfinite(self.u_low[rows]) & torch.isfinite(self.u_high[rows])
            phase = torch.where(bracketed, int(Phase.REFINE), int(Phase.BRACKET))
            self.best_phase[rows] = torch.where(self.stage[rows] > 0, int(Phase.SHARPEN), phase)

    # -- the search over c ----------------------------------------------------------------------------------

    def run(self) -> AttackResult:
        attack = self.attack
        P = len(self.pairs)
        if P:
            solver = Solver(
                min(attack.slots, P),
                self.clean.shape[1],
                lower=self.model.box[0],
                upper=self.model.box[1],
                memory=attack.memory,
                tolerance=attack.tolerance,
                max_evaluations=attack.evaluations,
                dtype=self.clean.dtype,
                device=self.clean.device,
            )
            self._drive(solver, P)
        return self._finish()

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
                if self.progress is not None:
                    self.progress(done, P)

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
        image = self.pairs.image[pair]
        # What the end needs: the bisection and the judgement.
        left = self.attack.budget - _BISECTIONS - 1 - self.forwards - self.backwards
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
        outside = ~bracketed & ((u_next > math.log(attack.highest) + 1e-9) | (u_next < math.log(attack.lowest) - 1e-9))
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

    def _finish(self) -> AttackResult:
        N, K = len(self.clean), self.classes
        device = self.clean.device
        by_target = torch.full((N, K), torch.inf, dtype=torch.float64, device=device)
        by_target[self.pairs.image, self.pairs.target] = self.best
        wrong = (~self.attacked).nonzero().squeeze(1)
        by_target[wrong, self.predicted[wrong]] = 0.0
        _, target = by_target.min(1)
        pair_of = torch.full((N, K), -1, dtype=torch.int64, device=device)
        pair_of[self.pairs.image, self.pairs.target] = torch.arange(len(self.pairs), device=device)
        winner = pair_of.gather(1, target[:, None]).squeeze(1)
        found = (self.attacked & torch.isfinite(by_target.amin(1))).nonzero().squeeze(1)
        rows = winner[found]

        adversarial = self.clean.clone()
        phase = torch.zeros(N, dtype=torch.int64, device=device)
        adversarial[found] = self.best_x[rows]
        phase[found] = self.best_phase[rows]
        searched = adversarial.clone()
        bisected = self._bisect(found, rows)
        moved = norms.l2(bisected - self.clean[found]) < norms.l2(adversarial[found] - self.clean[found])
        adversarial[found] = torch.where(moved[:, None], bisected, adversarial[found])
        phase[found] = torch.where(moved, int(Phase.BISECT), phase[found])

        # Half precision would round examples back over the boundary; and a wide dtype may hold pixels that the model's
        # put just outside the box.
        dtype = torch.promote_types(self.original.dtype, torch.float32)
        returned = adversarial.reshape(-1, *self.shape).to(dtype).clamp(*self.model.box)
        judged = torch.zeros(N, dtype=torch.bool, device=device)
        # The judge: the returned tensor itself, in the model's dtype, against the target.
        again = returned[found].to(self.clean.dtype).flatten(1)
        judged[found] = self._logits(again, found).argmax(1) == self.pairs.target[rows]
        status = self._status(judged)
        keep = judged | ~self.attacked
        adversarial = torch.where(judged[:, None], returned.flatten(1), self.original.flatten(1).to(device, dtype))
        nothing = torch.where(self.attacked, torch.inf, 0.0).double()
        originals = self.original.flatten(1).to(device)
        distance = torch.where(judged, norms.l2(adversarial.double() - originals.double()), nothing)
        search = torch.where(judged, norms.l2(searched.double() - self.clean.double()), nothing)
        home = self.original.device
        return AttackResult(
            adversarial=adversarial.reshape(-1, *self.shape).to(home),
            target=torch.where(keep, torch.where(self.attacked, target, self.predicted), -1).to(home),
            status=status.to(home),
            distance=distance.to(home),
            distortion=(distance / math.sqrt(self.clean.shape[1])).to(home),
            forwards=self.forwards.to(home),
            backwards=self.backwards.to(home),
            phase=torch.where(judged, phase, int(Phase.NONE)).to(home),
            distance_search=search.to(home),
            by_target=by_target.to(home),
        )

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
            success = margin(self._logits(x, image), target).double() > self.least_margin[pair]
            best = torch.where(success[:, None], x, best)
            low, high = torch.where(success, low, middle), torch.where(success, middle, high)
        return best

    def _status(self, judged: Tensor) -> Tensor:
        N = len(self.clean)
        status = torch.full((N,), int(AttackStatus.NOT_FOUND), dtype=torch.int64, device=judged.device)
        if self.attack.budget is not None:
            spent = self.forwards + self.backwards + 2 + _BISECTIONS + 1 > self.attack.budget
            status[spent] = int(AttackStatus.BUDGET_SPENT)
        status[self.pairs.image[self.numeric]] = int(AttackStatus.NUMERIC_FAILURE)
        status[judged] = int(AttackStatus.FOUND)
        status[~self.attacked] = int(AttackStatus.ALREADY_WRONG)
        return status

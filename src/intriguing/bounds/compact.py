"""Compact proofs: lower bounds on the accuracy of a Max-of-K transformer over all inputs, at different costs.

Gross et al. 2024, arXiv:2406.11779. A proof is a computation whose result cannot exceed the accuracy; the fewer
operations it takes, the less it can know of the net. Letters: V tokens, K positions, d the width; q the last token, m
the largest, v another output, t any other token. The net (`nets.max_of_k`) is cut into paths (their section 4):

    S[q,t] + B[q,i]    attention score of token t at place i, seen from q             (QK)
    F[t,v] + G[i,v]    what it adds to the logit of v if it gets all the attention     (OV)
    D[q,v]             the direct path

The answer is m against v if sum_i a_i h_i > 0, with h_i = D[q,m] - D[q,v] + F[t_i,m] - F[t_i,v] + G[i,m] - G[i,v].
DEVIATION: the paper bounds the attention a first, then the logits. The sum of a softmax is positive, so that it may be
left out: the answer is right if and only if the *weighted gap*

    sum_i w_i h_i > 0,   w_i = exp(S[q,t_i] - S[q,m] + B[q,i])                                                    (1)

for all v, a sum over places of terms that each know one token. Its least value over any box of tokens is a sum of least
terms, and no convexity argument is needed.

Sequences fall into cases (q, m, c, k): m stands at c of the places before the last, the largest of the other tokens
there is k. A case counts if the bound of (1) is positive; the counts are binomials times powers, and sum to V^K.

=============  ==========  ==========================================================================================
brute force    V^K d^2     every sequence is run
exact cases    V^4 K       (1) minimised exactly in each case
cubic          V^3 K       the head copies: only t = v does harm, and only that is bounded for each v
without copy.  V^3 K       "cubic without copying": the same, but every token does the harm of its worst rival
quadratic      V^2 d       attention and harm of the tokens up to k are bounded apart; the largest k is searched
low rank       V^2 + V d^2 the scores are those of the mean query, plus one direction, plus what Cauchy and Schwarz
                           leave; the direct path likewise. Only F, and nothing else, is multiplied out
=============  ==========  ==========================================================================================

The statement is about the net in real arithmetic, its weights taken as they are. Proofs compute in float64 and lower
every h by `slack`, which covers the rounding of (1) whatever its order: a term w h is off by at most
w (e_h + e_w |h|), and least values and sums are monotone in each term.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from intriguing.bounds.operations import gamma
from intriguing.bounds.tally import counter
from intriguing.errors import ModelError, UnknownNameError
from intriguing.nets.max_of_k import MaxOfK

_BATCH = 4096  # sequences at once: their vectors stay in a cache
_FARTHEST = 150.0  # largest exponent of a weight: no product overflows; tokens that far above m hide its case anyway
_LOST = 1e-200  # a weighted gap must exceed what underflow of its terms can have taken


@dataclass(frozen=True)
class Proof:
    """What a proof shows.

    Attributes:
        certified: how many sequences are proved to be answered rightly.
        sequences: V^K.
        operations: arithmetic operations it took (`tally`).
        seconds: it took here.
    """

    certified: int
    sequences: int
    operations: int
    seconds: float

    @property
    def accuracy(self) -> float:
        """The lower bound of the accuracy over all sequences."""
        return self.certified / self.sequences


@torch.inference_mode()
def prove(name: str, net: MaxOfK) -> Proof:
    """Return a lower bound of the net's accuracy over all V^K sequences; for ``"brute force"``, the accuracy itself.

    Args:
        name: a key of `PROOFS`.
        net: left as it is.

    Raises:
        UnknownNameError: no such proof.
        ModelError: weights that are not finite.

    Example:
        >>> net = MaxOfK(8, 3, generator=torch.Generator().manual_seed(0))
        >>> prove("cubic", net).accuracy <= prove("brute force", net).accuracy
        True
    """
    if name not in PROOFS:
        raise UnknownNameError("proof", name, PROOFS)
    if not all(bool(weight.isfinite().all()) for weight in net.parameters()):
        raise ModelError("the net's weights are not finite; no bound holds for them. Check how they were trained")
    began = time.perf_counter()
    with counter() as count:
        certified = PROOFS[name](net)
    seconds = time.perf_counter() - began
    return Proof(certified, net.vocabulary**net.length, count.get_total_flops(), seconds)


# -- paths and rounding ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Weights:
    """The net's weights in float64 and the products of its matrices; `last` is E + P at the last place, (V, d)."""

    embed: Tensor
    place: Tensor
    last: Tensor
    qk: Tensor
    ov: Tensor
    unembed: Tensor
    slack: float


@dataclass(frozen=True)
class _Paths:
    """The tables of the module's text: S (V, V), B (V, K), F (V, V), G (K, V), D (V, V), and the slack of every h."""

    S: Tensor
    B: Tensor
    F: Tensor
    G: Tensor
    D: Tensor
    slack: float


def _weights(net: MaxOfK) -> _Weights:
    E, P, Q, K, W, out, U = (
        part.detach().to("cpu", torch.float64)
        for part in (net.embed, net.place, net.query, net.key, net.value, net.output, net.unembed)
    )  # fmt: skip
    # Cauchy and Schwarz bound the sums of absolute products of every path, however it is multiplied out.
    x = float(E.norm(dim=1).max() + P.norm(dim=1).max())
    scores = x * x * float(Q.norm() * K.norm()) / math.sqrt(net.width)
    values = x * float(U.norm(dim=0).max()) * (1 + float(W.norm() * out.norm()))
    slack = _slack(torch.finfo(torch.float64).eps / 2, net, scores, values)
    return _Weights(E, P, E + P[-1], Q @ K.T / math.sqrt(net.width), W @ out, U, slack)


def _paths(net: MaxOfK) -> _Paths:
    w = _weights(net)
    query, value = w.last @ w.qk, w.ov @ w.unembed
    return _Paths(query @ w.embed.T, query @ w.place.T, w.embed @ value, w.place @ value, w.last @ w.unembed, w.slack)


def _slack(unit: float, net: MaxOfK, scores: float, values: float) -> float:
    """Return by how much h must be lowered, see the module's text.

    Args:
        unit: roundoff of the arithmetic.
        net: for the number of terms.
        scores: at least the sum of absolute products in any score.
        values: at least that in any logit; half of it in any h.
    """
    lost = gamma(4 * net.width + 2 * net.length + 32, unit)
    # A weight is the exponential of a few scores' differences, itself right to some units; 8 leaves room for both.
    lost_score = 8 * lost * scores
    e_w = math.expm1(lost_score) + 64 * unit if lost_score < 1 else math.inf  # then nothing is certified
    e_h = 4 * lost * values
    return e_h + e_w * (2 * values + e_h)


def _weight(score: Tensor) -> Tensor:
    """Return exp(score), or NaN beyond `_FARTHEST`, which no case survives: a NaN is not positive."""
    return score.masked_fill(score > _FARTHEST, torch.nan).exp()


def _least_rival(table: Tensor) -> Tensor:
    """Return, for a table (n, V), entry [., m] minus the largest of the others in its row: (n, V)."""
    top = table.topk(2, 1)
    leads = top.indices[:, :1] == torch.arange(table.shape[1])
    return table - torch.where(leads, top.values[:, 1:], top.values[:, :1])


# -- brute force ----------------------------------------------------------------------------------------------------


def brute_force(net: MaxOfK) -> int:
    """Return how many of all V^K sequences the net answers rightly, by running it on each in float64.

    A gap of two logits that could be rounding, of some 1e-7, counts as wrong; no net met so far has had one.
    """
    V, K = net.vocabulary, net.length
    twin = MaxOfK(V, K, width=net.width, generator=torch.Generator())
    twin.load_state_dict(net.state_dict())
    twin.to("cpu", torch.float64)
    # The attention is a weight over the sum of weights: twice the errors of one.
    doubt = 2 * _weights(net).slack
    prefixes = torch.cartesian_prod(*[torch.arange(V)] * (K - 1)).reshape(-1, K - 1)
    right = 0
    for q in range(V):
        for part in torch.split(prefixes, _BATCH):
            right += int((_gap(twin, torch.cat((part, torch.full_like(part[:, :1], q)), 1)) > doubt).sum())
    return right


def _gap(net: MaxOfK, tokens: Tensor) -> Tensor:
    """Return the logit of the largest token minus the largest other one, (B,)."""
    logits = net(tokens)
    largest = tokens.amax(1, keepdim=True)
    answer = logits.gather(1, largest)[:, 0]
    gap: Tensor = answer - logits.scatter(1, largest, -torch.inf).amax(1)
    return gap


# -- proofs by cases ------------------------------------------------------------------------------------------------


def exact_cases(net: MaxOfK) -> list[Tensor]:
    """Return the least weighted gap (1) of every case, less the slack.

    Returns:
        For c = 0 .. K - 2 a tensor (V, V, V), float64, by q, m and k; for c = K - 1 one (V, V), by q and m. Only
        m >= q and k < m are cases, and for c = 0 only q = m; the rest is undefined.
    """
    p, V, r = _paths(net), net.vocabulary, net.length - 1
    bounds = [torch.full((V,) * (3 if c < r else 2), -torch.inf, dtype=torch.float64) for c in range(r + 1)]
    for q in range(V):
        m = torch.arange(q, V)
        row = m - q
        weight = _weight(p.S[q] - p.S[q, m][:, None])[:, :, None]  # (M, t, 1)
        place = _weight(p.B[q])
        direct = p.D[q, m][:, None] - p.D[q] - p.slack  # (M, v)
        h = (direct[:, None] + p.F[:, m].T[:, :, None]) - p.F  # (M, t, v)
        shift = p.G[:, m][:, :, None] - p.G[:, None]  # (K, M, v)
        own = weight[:, q] * place[r] * (h[:, q] + shift[r])
        own[row, m] = torch.inf  # m is no rival of itself
        terms = [weight * place[i] * (h + shift[i][:, None]) for i in range(r)]
        least = [term.cummin(1).values for term in terms]
        for c in range(r + 1):
            for chosen in itertools.combinations(range(r), c):
                rest = [i for i in range(r) if i not in chosen]
                fixed = own + sum(terms[i][row, m] for i in chosen)
                if not rest:
                    bounds[c][q, m] = fixed.amin(1)
                for at in rest:  # the place of k
                    found = fixed[:, None] + terms[at] + sum(least[i] for i in rest if i != at)
                    first = chosen == tuple(range(c)) and at == rest[0]
                    found = found.amin(2)
                    bounds[c][q, m] = found if first else torch.minimum(bounds[c][q, m], found)
    return bounds


def cubic_cases(net: MaxOfK, *, copying: bool = True) -> list[Tensor]:
    """Return a lower bound of the weighted gap (1) of every case in V^3 K operations.

    The direct path and the tokens m are taken exactly for each rival v. Of the others, a token t = v is taken
    exactly too; t != v does at most the harm of its worst rival apart from t itself, which needs no v. A sum of places
    that hold one or the other is least where all hold the same, since each place is bounded by the worst place.

    Args:
        net: the net.
        copying: False: also t = v is bounded with the others, as if nothing were known of what the head copies.

    Returns:
        As `exact_cases`.
    """
    p, V, r = _paths(net), net.vocabulary, net.length - 1
    every = torch.arange(V)
    same = torch.eye(V, dtype=torch.bool)  # m = v
    place = _weight(p.B)[:, :, None, None]  # (q, K, 1, 1)
    weight = _weight(p.S[:, None] - p.S[:, :, None])  # (q, m, t)
    direct = p.D[:, :, None] - p.D[:, None] - p.slack  # (q, m, v)
    h = p.F[:, :, None] - p.F[:, None]  # (t, m, v)
    shift = p.G[:, :, None] - p.G[:, None]  # (K, m, v)

    def worst_place(harm: Tensor, moved: Tensor) -> Tensor:
        """Return the least of place * (harm + shift) over the places before the last, (q, m, .)."""
        found = place[:, 0] * (harm + moved[0])
        for i in range(1, r):
            found = torch.minimum(found, place[:, i] * (harm + moved[i]))
        return found

    def rival(table: Tensor) -> Tensor:
        return table.masked_fill(same, torch.inf)

    own = weight[every, :, every][:, :, None] * place[:, r] * (direct + h + shift[r])
    top = worst_place(direct + h[every, every], shift)
    harm = rival(h)  # (t, m, v)
    if copying:
        harm[every, :, every] = torch.inf  # t = v
    others = rival(direct).amin(2)[:, :, None] + harm.amin(2).T
    other = weight * worst_place(others, rival(shift).amin(2)[:, :, None])  # (q, m, t)
    least = other.cummin(2).values
    # t = v: F[v,m] - F[v,v]
    copied = weight * worst_place(direct + h[every, :, every].T, shift) if copying else None
    bounds = []
    for c in range(r + 1):
        rest = r - c - 1  # other tokens besides the one that is k
        known = rival(own + c * top)
        if rest < 0:
            bounds.append(known.amin(2))
            continue
        found = known.amin(2, keepdim=True) + other
        found = found + rest * least if rest else found  # with two tokens, `least` may be infinite
        if copied is not None:
            # k = v, and the rest is v too or not; then, k is not v, and the rest is v < k.
            found = torch.minimum(found, known + copied + rest * torch.minimum(copied, least))
            if rest:
                below = (known + rest * copied).cummin(2).values
                found[:, :, 1:] = torch.minimum(found[:, :, 1:], below[:, :, :-1] + other[:, :, 1:])
        bounds.append(found)
    return bounds


def _count(bounds: list[Tensor]) -> int:
    """Return how many sequences lie in cases whose bound is positive.

    Of the r - c other places before the last, (k + 1)^(r - c) - k^(r - c) fillings have k as their largest token.
    """
    r, V = len(bounds) - 1, bounds[0].shape[0]
    every = torch.arange(V)
    total = 0
    for c, bound in enumerate(bounds):
        shown = (bound > _LOST) & _pairs(V, c).reshape(V, V, *[1] * (bound.ndim - 2))
        if c == r:
            total += int(shown.sum())
            continue
        shown &= every < every[:, None]  # k < m
        fillings = (every + 1) ** (r - c) - every ** (r - c)
        total += math.comb(r, c) * int((shown * fillings).sum())
    return total


def _pairs(V: int, c: int) -> Tensor:
    """Return which (q, m) can occur, (V, V): q <= m, and q = m where no other place holds m."""
    return torch.ones(V, V, dtype=torch.bool).triu() if c else torch.eye(V, dtype=torch.bool)


# -- proofs by search -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Knowledge:
    """What a proof by search knows.

    Attributes:
        low, high: (V, V), bounds of S[q, t], up to something that depends on q alone.
        places: B (V, K).
        direct: (V, V), at most D[q,m] - D[q,v] - slack for every v != m.
        values: (V, V) by t and m, at most F[t,m] - F[t,v]; `shift` (K, V) likewise of G.
    """

    low: Tensor
    high: Tensor
    places: Tensor
    direct: Tensor
    values: Tensor
    shift: Tensor


def quadratic(net: MaxOfK) -> int:
    """Return how many sequences are proved right once the tables are multiplied out; no loop over three tokens.

    For every (q, m, c) the largest k is searched up to which the bound is positive: it falls as k grows.
    """
    p = _paths(net)
    direct = _least_rival(p.D) - p.slack
    return _search(_Knowledge(p.S, p.S, p.B, direct, _least_rival(p.F), _least_rival(p.G)))


def low_rank(net: MaxOfK) -> int:
    """Return how many sequences are proved right from the structure of the scores, without multiplying them out.

    With a_q the query's vector of keys and mean a, e_t the embedding less its mean, and a unit vector p,

        S[q,t] = a e_t + (a_q - a) p e_t p + rest,   |rest| <= |a_q - a| |e_t| without their parts along p,

    up to a term in q alone. p is the direction of size, along which the mean query sorts the tokens; any p is sound.
    The direct path is that of the mean token, and of each token's difference from it by Cauchy and Schwarz.
    """
    w = _weights(net)
    query, value = w.last @ w.qk, w.ov @ w.unembed
    mean = query.mean(0)
    a, e = query - mean, w.embed - w.embed.mean(0)
    sorts = e @ mean
    size = sorts @ e
    size = size / size.norm()
    a_p, e_p = a @ size, e @ size
    middle = sorts + a_p[:, None] * e_p
    rest = (a - a_p[:, None] * size).norm(dim=1)[:, None] * (e - e_p[:, None] * size).norm(dim=1)
    token = w.last.mean(0)
    outputs = (w.unembed - w.unembed.mean(1, keepdim=True)).norm(dim=0)
    spread = (w.last - token).norm(dim=1)[:, None] * (outputs + outputs.max())
    direct = _least_rival((token @ w.unembed)[None]) - spread - w.slack
    values, shift = _least_rival(w.embed @ value), _least_rival(w.place @ value)
    return _search(_Knowledge(middle - rest, middle + rest, query @ w.place.T, direct, values, shift))


def _search(known: _Knowledge) -> int:
    """Return how many sequences are proved right by the largest k of every (q, m, c).

    Of the tokens up to k, the harm is that of the worst, the attention that of the most attended if it does harm, and
    of the least attended if it helps; so the bound falls as k grows.
    """
    V, r = known.low.shape[0], known.places.shape[1] - 1
    place = _weight(known.places)
    before = place[:, :r]
    widest, narrowest = before.amax(1), before.amin(1)
    highest, lowest = known.high.cummax(1).values, known.low.cummin(1).values
    worst = known.values.cummin(0).values + known.shift[:r].amin(0)
    total = 0
    for c in range(r + 1):
        q, m = _pairs(V, c).nonzero().T
        direct, low, high = known.direct[q, m], known.low[q, m], known.high[q, m]
        last = direct + known.values[q, m] + known.shift[r, m]
        score = torch.where(last < 0, known.high[q, q] - low, known.low[q, q] - high)
        own = _weight(torch.where(q == m, 0.0, score)) * place[q, r] * last
        if c:
            top = (direct + known.values[m, m])[:, None] + known.shift[:r, m].T
            own = own + c * (before[q] * top).amin(1)
        if c == r:
            total += int((own > _LOST).sum())
            continue

        def positive(k: Tensor, c: int = c, q: Tensor = q, m: Tensor = m, own: Tensor = own) -> Tensor:
            harm = known.direct[q, m] + worst[k, m]
            loses = harm < 0
            score = torch.where(loses, highest[q, k] - known.low[q, m], lowest[q, k] - known.high[q, m])
            return own + (r - c) * (_weight(score) * torch.where(loses, widest[q], narrowest[q]) * harm) > _LOST

        # Between `shown` tokens, up to which the bound is positive, and `open_`, up to which it may yet be.
        shown, open_ = torch.zeros_like(m), m.clone()
        while bool((shown < open_).any()):
            middle = (shown + open_ + 1) // 2
            holds = positive((middle - 1).clamp_min(0))
            # Where the search has ended, `middle` is `shown`, and nothing changes.
            shown, open_ = torch.where(holds, middle, shown), torch.where(holds, open_, middle - 1).maximum(shown)
        total += math.comb(r, c) * int((shown ** (r - c)).sum())
    return total


PROOFS: dict[str, Callable[[MaxOfK], int]] = {
    "brute force": brute_force,
    "exact cases": lambda net: _count(exact_cases(net)),
    "cubic": lambda net: _count(cubic_cases(net)),
    "cubic without copying": lambda net: _count(cubic_cases(net, copying=False)),
    "quadratic": quadratic,
    "low rank": low_rank,
}
"""Name -> how many sequences the proof shows to be answered rightly; in the order of falling cost."""

"""Compact proofs against brute force over every sequence: counts, every single case, and what a wrong sign would do."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from intriguing.bounds import compact
from intriguing.bounds.compact import PROOFS, cubic_cases, exact_cases, prove
from intriguing.errors import ModelError, UnknownNameError
from intriguing.nets.max_of_k import MaxOfK
from intriguing.records import Inputs
from intriguing.training.max_of_k import restore, train

law = settings(max_examples=5, deadline=None, derandomize=True)
Case = tuple[int, ...]


def born(vocabulary: int, length: int, seed: int = 0, scale: float = 1.0, width: int = 5) -> MaxOfK:
    net = MaxOfK(vocabulary, length, width=width, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for weight in net.parameters():
            weight *= scale
    return net


def by_hand(vocabulary: int, length: int, *, slope: float, noise: float, seed: int) -> MaxOfK:
    """A net that attends to large tokens and copies, with noise on every weight: mostly right, never for certain."""
    width = vocabulary + 1  # one coordinate for size, one for each token
    net = born(vocabulary, length, seed, noise, width)
    with torch.no_grad():
        net.embed += torch.cat((torch.arange(1, vocabulary + 1)[:, None] / vocabulary, torch.eye(vocabulary)), 1)
        net.query[0, 0] += slope
        net.key[0, 0] += 1
        net.value += torch.eye(width)
        net.output += 2 * torch.eye(width)  # what is attended to counts more than the last token
        net.unembed[1:] += 3 * torch.eye(vocabulary)
    return net


def trained(vocabulary: int, length: int, steps: int, seed: int) -> MaxOfK:
    def nothing(split: str) -> None:
        raise AssertionError(split)

    return restore(
        train(
            Inputs(data=nothing),  # type: ignore[arg-type]  # a net that reads no images
            vocabulary=vocabulary,
            length=length,
            width=8,
            steps=steps,
            batch=64,
            seed=seed,
        )
    )


SIZES = [(2, 2), (5, 3), (4, 4)]
NETS = {
    **{f"born {V}^{K}": born(V, K) for V, K in SIZES},
    **{f"large {V}^{K}": born(V, K, seed=1, scale=3.0) for V, K in SIZES},
    **{f"by hand {V}^{K}": by_hand(V, K, slope=40.0, noise=0.05, seed=2) for V, K in SIZES},
    **{f"noisy {V}^{K}": by_hand(V, K, slope=12.0, noise=0.3, seed=3) for V, K in SIZES},
    **{f"trained {V}^{K}": trained(V, K, 120, seed=4) for V, K in SIZES},
}


def sequences(net: MaxOfK) -> Tensor:
    return torch.cartesian_prod(*[torch.arange(net.vocabulary)] * net.length).reshape(-1, net.length)


def logits(net: MaxOfK, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The logits and the scores of each place, by the paper's formulas, one sequence at a time."""
    E, P, Q, K, W, R, U = (part.detach().double() for part in net.parameters())
    answers, scores = [], []
    for row in tokens.tolist():
        x = [E[token] + P[i] for i, token in enumerate(row)]
        score = torch.stack([(x[-1] @ Q) @ (y @ K) for y in x]) / math.sqrt(net.width)
        attention = score.softmax(0)
        answers.append((x[-1] + sum(a * (y @ W @ R) for a, y in zip(attention, x, strict=True))) @ U)
        scores.append(score)
    return torch.stack(answers), torch.stack(scores)


def gaps(net: MaxOfK, tokens: Tensor) -> Tensor:
    out, _ = logits(net, tokens)
    largest = tokens.amax(1)
    rows = torch.arange(len(tokens))
    rivals = out.clone()
    rivals[rows, largest] = -torch.inf
    return out[rows, largest] - rivals.amax(1)


def weighted(net: MaxOfK, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The gap times the sum of exponentials, the score of the largest token (without its place) being zero; the sum."""
    _, score = logits(net, tokens)
    E, P, Q, K = (part.detach().double() for part in list(net.parameters())[:4])
    origin = ((E[tokens[:, -1]] + P[-1]) @ Q * (E[tokens.amax(1)] @ K)).sum(1) / math.sqrt(net.width)
    total = (score - origin[:, None]).exp().sum(1)
    return gaps(net, tokens) * total, total


def case_of(row: list[int]) -> Case:
    """(copies before the last place, last, largest[, largest of the other tokens before the last])."""
    *before, last = row
    largest = max(row)
    others = [token for token in before if token != largest]
    return (before.count(largest), last, largest, *([max(others)] if others else []))


def least_by_case(net: MaxOfK) -> dict[Case, float]:
    tokens = sequences(net)
    found: dict[Case, float] = defaultdict(lambda: math.inf)
    for row, gap in zip(tokens.tolist(), weighted(net, tokens)[0].tolist(), strict=True):
        found[case_of(row)] = min(found[case_of(row)], gap)
    return dict(found)


def unsound(net: MaxOfK, bounds: list[Tensor]) -> list[Case]:
    """The cases whose bound exceeds the least weighted gap of their sequences."""
    wrong = []
    for case, least in least_by_case(net).items():
        copies, *place = case
        # The slack of every h is far below this: the bound may not use it up.
        if not float(bounds[copies][tuple(place)]) <= least + 1e-12 * abs(least):
            wrong.append(case)
    return wrong


@pytest.fixture(params=NETS.values(), ids=NETS)
def net(request: pytest.FixtureRequest) -> MaxOfK:
    found: MaxOfK = request.param
    return found


def test_brute_force_is_the_truth(net: MaxOfK) -> None:
    tokens = sequences(net)
    right = int((gaps(net, tokens) > 0).sum())
    assert prove("brute force", net).certified == right
    assert right == int((net.double()(tokens).argmax(1) == tokens.amax(1)).sum())
    net.float()


@pytest.mark.parametrize("name", PROOFS)
def test_no_proof_claims_more_than_is_true(name: str, net: MaxOfK) -> None:
    proof, truth = prove(name, net), prove("brute force", net)
    assert 0 <= proof.certified <= truth.certified
    assert proof.sequences == net.vocabulary**net.length


def test_the_exact_cases_are_exact(net: MaxOfK) -> None:
    bounds, tokens = exact_cases(net), sequences(net)
    # Every h is lowered by the slack, so the weighted gap is by as much times the sum of weights.
    slack = compact._weights(net).slack
    assert slack < 1e-4
    room: dict[Case, float] = defaultdict(float)
    for row, total in zip(tokens.tolist(), weighted(net, tokens)[1].tolist(), strict=True):
        room[case_of(row)] = max(room[case_of(row)], 1.01 * slack * total)
    for (copies, *place), least in least_by_case(net).items():
        bound = float(bounds[copies][tuple(place)])
        assert least - room[(copies, *place)] <= bound <= least


def test_every_bound_of_the_cubic_proofs_is_below_every_sequence_of_its_case(net: MaxOfK) -> None:
    assert not unsound(net, cubic_cases(net))
    assert not unsound(net, cubic_cases(net, copying=False))


@law
@given(
    size=st.sampled_from([(4, 2), (4, 3)]),
    seed=st.integers(0, 10_000),
    scale=st.floats(0.2, 3.0),
    slope=st.floats(-20, 60),
    noise=st.floats(0.0, 0.5),
    made=st.booleans(),
)
def test_soundness_on_any_weights(
    size: tuple[int, int], seed: int, scale: float, slope: float, noise: float, made: bool
) -> None:
    net = by_hand(*size, slope=slope, noise=noise, seed=seed) if made else born(*size, seed=seed, scale=scale)
    truth = prove("brute force", net).certified
    for name in PROOFS:
        assert prove(name, net).certified <= truth, name
    assert not unsound(net, cubic_cases(net))


def test_on_a_net_that_copies_the_bounds_are_not_empty() -> None:
    net = by_hand(6, 3, slope=400.0, noise=0.01, seed=5)
    found = {name: prove(name, net).certified for name in PROOFS}
    assert found["brute force"] == 6**3
    assert found["exact cases"] == 6**3
    assert found["low rank"] > 0
    assert found["cubic"] >= found["cubic without copying"] >= found["quadratic"] >= found["low rank"]


@pytest.mark.parametrize(("vocabulary", "length"), SIZES)
def test_the_cases_hold_every_sequence_once(vocabulary: int, length: int) -> None:
    shape = (vocabulary,) * 3
    bounds = [torch.ones(shape) for _ in range(length - 1)] + [torch.ones(shape[:2])]
    assert compact._count(bounds) == vocabulary**length
    counts: dict[Case, int] = defaultdict(int)
    for row in itertools.product(range(vocabulary), repeat=length):
        counts[case_of(list(row))] += 1
    for (copies, *place), count in counts.items():
        alone = [torch.zeros_like(bound) for bound in bounds]
        alone[copies][tuple(place)] = 1
        assert compact._count(alone) == count


def mutated(net: MaxOfK, monkeypatch: pytest.MonkeyPatch, **tables: float) -> None:
    """Change the sign or size of tables that the proofs read."""
    honest = compact._paths

    def wrong(given: MaxOfK) -> compact._Paths:
        p = honest(given)
        return compact._Paths(
            *(getattr(p, name) * tables.get(name, 1.0) for name in ("S", "B", "F", "G", "D")), p.slack
        )

    monkeypatch.setattr(compact, "_paths", wrong)


@pytest.mark.parametrize("table", ["S", "B", "F", "G", "D"])
def test_a_wrong_sign_is_noticed(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = NETS["noisy 5^3"]
    mutated(net, monkeypatch, **{table: -1.0})
    assert unsound(net, exact_cases(net)), "this test would not notice a wrong sign"
    assert unsound(net, cubic_cases(net))


def test_a_search_that_trusts_the_wrong_end_of_the_attention_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    net = by_hand(6, 3, slope=12.0, noise=0.0, seed=0)
    truth = prove("brute force", net).certified
    assert prove("quadratic", net).certified <= truth
    honest = compact._search

    def swapped(known: compact._Knowledge) -> int:
        return honest(compact._Knowledge(-known.low, -known.high, *list(vars(known).values())[2:]))

    monkeypatch.setattr(compact, "_search", swapped)
    monkeypatch.setattr(compact, "_least_rival", lambda table: compact._largest_rival(table))
    monkeypatch.setattr(compact, "_largest_rival", lambda table: table - table.amin(1, keepdim=True), raising=False)
    assert prove("quadratic", net).certified > truth


def test_scores_that_overflow_certify_nothing_false() -> None:
    for scale in (30.0, 1e6):
        net = born(4, 3, seed=7, scale=scale)
        truth = prove("brute force", net).certified
        for name in PROOFS:
            assert prove(name, net).certified <= truth


def test_a_tie_is_not_certified() -> None:
    net = born(4, 3)
    with torch.no_grad():
        net.unembed[:] = net.unembed[:, :1]  # every token has the same logit
    assert [prove(name, net).certified for name in PROOFS] == [0] * len(PROOFS)


def test_the_cost_is_counted_and_does_not_depend_on_the_weights() -> None:
    first, second = born(8, 3, seed=0), born(8, 3, seed=1)
    for name in ("brute force", "exact cases", "cubic", "cubic without copying"):
        assert prove(name, first).operations == prove(name, second).operations
    d, V, K = 5, 8, 3
    # Per sequence: four products with (d, d), one with (d, V); sums and products over places and the softmax.
    products = 4 * 2 * d * d + 2 * d * V
    places = K * d * (1 + 2 + 2) + 5 * K + d + d
    least = V**K * (products + places)
    assert least <= prove("brute force", first).operations <= 1.2 * least + 10_000


def test_cheaper_proofs_cost_less_at_size() -> None:
    net = by_hand(12, 4, slope=60.0, noise=0.02, seed=0)
    costs = [prove(name, net).operations for name in PROOFS]
    assert costs == sorted(costs, reverse=True)


def test_unknown_proofs_and_broken_weights_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="cubic"):
        prove("cubicle", born(4, 2))
    net = born(4, 2)
    with torch.no_grad():
        net.embed[0, 0] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        prove("cubic", net)

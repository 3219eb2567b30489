"""The paper's search in L1 and Linf: linear programs in closed form, linear nets, passes and words."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.optimize
import torch
from linear_optima import any_wrong, box_moved, case, grey, ratios
from small_nets import Counting, digits, seeded, sigmoid_net
from torch import nn

from intriguing import attacks
from intriguing.attacks import FMN, LBFGS
from intriguing.attacks.lbfgs_norms import nearest_in_reach
from intriguing.errors import InputError
from intriguing.nets.load import Model

NORMS = [1, math.inf]


def linear_program(
    norm: float, x0: np.ndarray, low: np.ndarray, high: np.ndarray, a: np.ndarray, b: float
) -> float | None:
    """Return the least |y - x0| with <a, y> >= b and low <= y <= high, or None where there is no such y (HiGHS)."""
    n = len(x0)
    # Variables y and s: |y - x0| <= s, one s for each pixel or one for all.
    spread = np.eye(n) if norm == 1 else np.ones((n, 1))
    sides = np.vstack([np.hstack([np.eye(n), -spread]), np.hstack([-np.eye(n), -spread])])
    S = spread.shape[1]
    found = scipy.optimize.linprog(
        np.concatenate([np.zeros(n), np.ones(S)]),
        A_ub=np.vstack([sides, np.concatenate([-a, np.zeros(S)])]),
        b_ub=np.concatenate([x0, -x0, [-b]]),
        bounds=[*zip(low, high, strict=True), *[(0, None)] * S],
        method="highs",
    )
    return float(found.fun) if found.status == 0 else None


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", range(8))
def test_a_step_is_the_linear_program(norm: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    n = 7
    x0, x = draw.random(n).round(1), draw.random(n).round(1)
    a = draw.standard_normal(n) * (draw.random(n) > 0.2)
    reach = math.inf if seed % 3 == 0 else draw.random() * 0.6
    b = a @ x + draw.standard_normal() * 0.4
    low, high = np.clip(x - reach, 0, 1), np.clip(x + reach, 0, 1)
    rows = (torch.from_numpy(np.asarray(value))[None] for value in (x0, x, a, b, np.float64(reach)))
    y = nearest_in_reach(*rows, (0.0, 1.0), norm)[0].numpy()
    assert (y >= low - 1e-12).all()
    assert (y <= high + 1e-12).all()
    best = linear_program(norm, x0, low, high, a, b)
    if best is None:
        assert a @ y == pytest.approx(np.where(a > 0, high, low) @ a)
        return
    assert a @ y >= b - 1e-9
    assert np.linalg.norm(y - x0, ord=norm) == pytest.approx(best, abs=1e-7)  # the solver's own accuracy


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("problem", [case(10), case(3), grey()], ids=["ten", "three", "grey"])
def test_linear_nets_give_the_optimum_of_the_linear_program(norm: float, problem: object) -> None:
    result, ratio = ratios(LBFGS(norm=norm, target="all", budget=200), problem)
    assert ratio.max() <= 1.01
    assert result.norm == norm


@pytest.mark.parametrize("norm", NORMS)
def test_a_named_class_is_reached_where_others_stand_in_the_way(norm: float) -> None:
    problem = case(10)
    targets = any_wrong(problem)
    result, ratio = ratios(LBFGS(norm=norm, target=targets, budget=500), problem, targets)
    assert torch.equal(result.target, targets)
    # Several constraints meet there, of which a step knows one: what the solver's smooth loss leaves.
    assert np.median(ratio) <= 1.01
    assert ratio.max() <= 1.05


@pytest.mark.parametrize("norm", NORMS)
def test_it_is_nearer_than_descent_with_as_many_passes(norm: float) -> None:
    images, _ = digits()
    net = sigmoid_net()
    images = images[:10]
    labels = net(images).argmax(1)
    ours = LBFGS(norm=norm, target="all", budget=200)(net, images, labels)
    theirs = FMN(norm=norm, budget=200)(net, images, labels)
    assert ours.found.all()
    assert ours.size.mean() <= theirs.size.mean()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("budget", [None, 1, 8, 30, 111])
def test_passes_are_what_the_net_saw(norm: float, budget: int | None) -> None:
    images, _ = digits()
    net = Counting(sigmoid_net())
    labels = net.net(images[:3]).argmax(1)
    result = LBFGS(norm=norm, target="all", budget=budget, solves=3)(Model(net), images[:3], labels)
    assert int(result.forwards.sum()) == net.forwards
    assert int(result.backwards.sum()) == net.backwards
    if budget is not None:
        assert (result.forwards + result.backwards <= budget).all()


@pytest.mark.parametrize("norm", NORMS)
def test_another_box_is_attacked_alike(norm: float) -> None:
    box_moved(LBFGS(norm=norm, target="all", budget=200), case(3))


@pytest.mark.parametrize("norm", NORMS)
def test_slots_do_not_change_the_result(norm: float) -> None:
    images, _ = digits()
    net = sigmoid_net(torch.float64)
    images = images[:6].double()
    labels = net(images).argmax(1)
    whole, parts = (
        LBFGS(norm=norm, target="all", budget=150, slots=slots)(net, images, labels) for slots in (1024, 18)
    )
    # Products of another size round differently.
    torch.testing.assert_close(whole.size, parts.size, rtol=1e-6, atol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_flat_nets_are_told_and_not_raised(norm: float) -> None:
    class Flat(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return 0 * images.flatten(1)[:, :3] + torch.tensor([1.0, 0.0, 0.0])

    images = digits()[0][:2]
    result = LBFGS(norm=norm, target="all")(Flat(), images)
    assert not result.found.any()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("target", ["random", "nearest", "all", "top-2"])
def test_the_function_is_the_attack(norm: float, target: str) -> None:
    images, _ = digits()
    net = sigmoid_net()
    images = images[:3]
    labels = net(images).argmax(1)
    short = attacks.lbfgs(net, images, labels, target=target, norm=norm, budget=60, generator=seeded())
    record = LBFGS(target=target, norm=norm, budget=60)(net, images, labels, generator=seeded())
    assert torch.equal(short.adversarial, record.adversarial)
    assert short.norm == norm


def test_norm_2_is_the_default_and_what_it_was() -> None:
    images, _ = digits()
    net = sigmoid_net()
    images = images[:1]
    labels = net(images).argmax(1)
    first = attacks.lbfgs(net, images, labels, generator=seeded())
    second = attacks.lbfgs(net, images, labels, norm=2, generator=seeded())
    assert torch.equal(first.adversarial, second.adversarial)
    assert first.norm == 2


@pytest.mark.parametrize("norm", [0, 3, -math.inf, math.nan, "inf"])
def test_other_norms_are_refused(norm: float) -> None:
    images = digits()[0][:1]
    with pytest.raises(InputError, match=r"norm: expected 1, 2 or inf"):
        attacks.lbfgs(sigmoid_net(), images, torch.tensor([0]), target="all", norm=norm)
    with pytest.raises(InputError, match=r"norm: expected 1, 2 or inf"):
        LBFGS(norm=norm).check()


def test_an_objective_is_for_norm_2_alone() -> None:
    images = digits()[0][:1]
    with pytest.raises(InputError, match=r"objective: .*norm=inf"):
        attacks.lbfgs(sigmoid_net(), images, torch.tensor([0]), target="all", norm=math.inf, objective="hinge")


def test_the_search_over_c_in_norm_2_takes_no_starts() -> None:
    starts = torch.rand(2, 4), torch.tensor([0, 1])
    with pytest.raises(InputError, match=r"starts: for norm=1 and norm=inf alone.*Nearest"):
        LBFGS(starts=starts).check()
    LBFGS(starts=starts, norm=1).check()
    with pytest.raises(InputError, match=r"starts: expected images .* got \(2, 4\) and torch.float32 \(2,\)"):
        LBFGS(starts=(starts[0], torch.rand(2)), norm=1).check()


class Threshold(nn.Module):
    """Class 1 where the weighted pixels sum to 4, and where some pass a threshold, before which they have no slope."""

    def __init__(self, pixels: slice, threshold: float) -> None:
        super().__init__()
        self.pixels, self.threshold = pixels, threshold
        self.register_buffer("weights", torch.linspace(1.2, 1, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        strong = 10 * torch.relu(x[:, self.pixels].sum(1) - self.threshold) - 2
        return torch.stack([torch.zeros(len(x)), torch.maximum(x @ self.weights / 4 - 1, strong)], dim=1)


@pytest.mark.parametrize("budget", [None, 400])
@pytest.mark.parametrize("norm", NORMS)
def test_starts_reach_what_the_gradient_at_the_clean_image_hides(norm: float, budget: int | None) -> None:
    net, images = Threshold(slice(5, 6), 0.1), torch.zeros(2, 8)
    labels = torch.zeros(2, dtype=torch.int64)
    start = torch.zeros(1, 8)
    start[:, 5] = 1
    # From the clean image the sum alone has a slope: 3.4 in L1, 0.45 in Linf. Pixel 5 need only come to 0.3.
    result = attacks.lbfgs(
        net, images, labels, target="all", norm=norm, budget=budget, starts=(start, torch.tensor([1]))
    )
    assert result.size.tolist() == pytest.approx([0.3, 0.3], rel=2e-3)


def test_what_a_budget_leaves_pays_for_later_starts() -> None:
    net, images = Threshold(slice(5, 8), 1.2), torch.zeros(1, 8)
    labels = torch.zeros(1, dtype=torch.int64)
    # Averages, and the single images nearest in L2, lead to the sum's 3.44; the last image, the eighth start, to 1.4.
    starts = torch.tensor([0.55, 0.55, 0.55, 0.55, 0.55, 0.3, 0.3, 0.3]).repeat(6, 1)
    starts[5] = torch.tensor([0.0, 0, 0, 0, 0, 1, 1, 1])
    pool = starts, torch.ones(6, dtype=torch.int64)
    few, more = (LBFGS(norm=1, target="all", budget=b, starts=pool)(net, images, labels) for b in (300, 2000))
    assert float(few.size) == pytest.approx(3.44, rel=1e-2)
    assert float(more.size) == pytest.approx(1.4, rel=1e-2)


def test_without_images_noise_is_where_it_starts() -> None:
    net, images = Threshold(slice(5, 6), 0.1), torch.zeros(1, 8)
    labels = torch.zeros(1, dtype=torch.int64)
    result = LBFGS(norm=1, target="all", budget=400)(net, images, labels)
    assert float(result.size) == pytest.approx(0.3, rel=2e-3)

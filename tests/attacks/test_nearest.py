"""The attack along the boundary against known optima, and its starts from afar."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from small_nets import Counting
from torch import Tensor, nn
from torch.nn import functional

import truth
from enumerated import over_optimal, two_layers
from intriguing import Model
from intriguing.attacks import LBFGS, AttackResult, AttackStatus, Nearest, Phase, walk
from intriguing.attacks import starts as starts_module
from intriguing.attacks.base import Trial
from intriguing.attacks.nearest import _memory, _Search
from intriguing.attacks.planes import Planes
from intriguing.errors import InputError

CLOSE = 1.001  # found over optimal: the walks end three parts in ten thousand beyond the boundary


class Steps(nn.Module):
    """Class 1 where more than half of the pixels are above 0.5: piecewise constant, but with gradients (of zero)."""

    def forward(self, images: Tensor) -> Tensor:
        count = ((images.flatten(1) > 0.5).to(images) + 0 * images.flatten(1)).mean(1)
        return torch.stack([torch.full_like(count, 0.5), count], dim=1)


class DeadZone(nn.Module):
    """Class 1 where the pixels' parts above 0.6 add up to 0.5: no gradient at all from dark images."""

    def forward(self, images: Tensor) -> Tensor:
        score = (images.flatten(1) - 0.6).clamp(min=0).sum(1)
        return torch.stack([torch.full_like(score, 0.5), score], dim=1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_found_over_optimal_on_a_linear_net_of_digits(dtype: torch.dtype) -> None:
    data = load_digits()
    fit = LogisticRegression(C=0.1, max_iter=2000).fit(data.data / 16, data.target)
    net = nn.Linear(64, 10).to(dtype)
    with torch.no_grad():
        net.weight.copy_(torch.from_numpy(fit.coef_))
        net.bias.copy_(torch.from_numpy(fit.intercept_))
    images = torch.from_numpy(data.data[:25] / 16).to(dtype)
    labels = net(images).argmax(1)
    result = Nearest(budget=400)(net, images, labels)
    ratios = []
    for x, y, distance in zip(images.numpy(), labels.tolist(), result.distance.tolist(), strict=True):
        # The label loses as soon as any one class ties with it: two classes at a time.
        optima = [
            truth.nearest_linear(x, fit.coef_[[t, y]], fit.intercept_[[t, y]], 0).distance for t in range(10) if t != y
        ]
        ratios.append(distance / min(optima))
    assert min(ratios) >= 1 - (1e-9 if dtype == torch.float64 else 1e-5)
    assert np.mean(np.array(ratios) <= CLOSE) >= 0.99


def test_found_over_optimal_on_nets_whose_pieces_are_enumerated() -> None:
    """Of 1,000 gradient evaluations: planes that meet are followed to their corner, restarts find the best of many."""
    ratios = [ratio for seed in range(2) for ratio in over_optimal(seed, 8, 2000)]
    assert min(ratios) >= 1 - 1e-9
    assert np.mean(np.array(ratios) <= CLOSE) >= 0.99


def test_restarts_reach_other_classes_and_other_parts_of_the_boundary() -> None:
    """Nets with two small wrong regions each, of which the nearer is as a rule not the one that walks find first."""
    ratios = np.array([ratio for seed in (20, 22, 34) for ratio in over_optimal(seed, 8, 1000)])
    assert ratios.min() >= 1 - 1e-9
    assert (ratios <= CLOSE).sum() >= len(ratios) - 1


def test_in_a_corner_the_planes_that_meet_are_followed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A net with an adversarial share of 0.07% of its box, in slivers along kinks."""
    together = np.array(over_optimal(18, 8, 600))
    monkeypatch.setattr(walk, "_PLANES", 0)
    alone = np.array(over_optimal(18, 8, 600))
    assert together.min() >= 1 - 1e-9
    assert (together <= CLOSE).sum() >= 6
    assert (alone <= CLOSE).sum() <= 3


def test_before_a_success_the_planes_that_failed_are_kept_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A net wrong on less than a ten-millionth of its box: one plane at a time, walks circle between three corners."""
    together = np.array(over_optimal(91, 5, 1000))
    assert together.min() >= 1 - 1e-9
    assert (together <= CLOSE).all()

    def never(self: Planes, rows: Tensor, x: Tensor, *others: object) -> tuple[Tensor, Tensor]:
        return x, torch.zeros_like(rows, dtype=torch.bool)

    monkeypatch.setattr(Planes, "within", never)
    assert np.isinf(over_optimal(91, 5, 1000)).all()


def test_restarts_aim_at_every_class_though_all_walks_have_left_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Walks that enter another class take it for their own; restarts keep to the classes that were asked for."""
    aims: list[int] = []
    begin = walk.Walks.begin

    def recorded(self: walk.Walks, rows: Tensor, x: Tensor) -> None:
        aims.extend(self.target[rows].tolist())
        begin(self, rows, x)

    monkeypatch.setattr(walk.Walks, "begin", recorded)
    net, *_ = two_layers(2)
    image = torch.from_numpy(np.random.default_rng(102).uniform(0, 1, (1, 6)))
    label = net(image).argmax(1)
    result = Nearest(budget=400)(net, image, label)
    assert label.tolist() == [1]
    assert result.target.tolist() == [0]  # which both walks from the image end in
    assert 2 in aims


def test_a_success_without_slope_is_approached_from_where_it_was_seen() -> None:
    """Beyond a kink the net is constant, and wrong by a thousandth: the first step lands there."""
    ratios = over_optimal(5, 8, 1000)[6:]
    assert max(ratios) <= CLOSE


class Balls(nn.Module):
    """Class k in a ball about the k-th centre, and flat everywhere else: nothing leads there from outside."""

    def __init__(self, centres: Tensor, radii: Tensor) -> None:
        super().__init__()
        self.centres, self.radii = (nn.Parameter(t, requires_grad=False) for t in (centres, radii))

    def forward(self, images: Tensor) -> Tensor:
        inside = (self.radii - torch.cdist(images, self.centres)).clamp(min=0)
        return torch.cat([torch.full_like(inside[:, :1], 1e-6), inside], dim=1)


def test_where_far_starts_lead_restarts_begin_at_images_of_the_other_classes() -> None:
    """The nearest region is that of the farthest class of the pool: the fifth, of which three are tried at first."""
    n = 20
    away = torch.tensor([0.60, 0.65, 0.70, 0.75, 0.80], dtype=torch.float64)
    centres = torch.full((5, n), 0.1, dtype=torch.float64)
    centres[torch.arange(5), torch.arange(5)] += away
    net = Balls(centres, torch.tensor([0.05, 0.05, 0.05, 0.05, 0.55], dtype=torch.float64))
    image, label = torch.full((1, n), 0.1, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    result = Nearest(budget=250, starts=(centres, torch.arange(1, 6)))(net, image, label)
    assert result.target.tolist() == [5]
    assert float(result.distance) <= 1.001 * (0.80 - 0.55)
    without = Nearest(budget=250, starts=(centres[:4], torch.arange(1, 5)))(net, image, label)
    assert float(without.distance) >= 0.5


class Ellipsoids(nn.Module):
    """Class 1 inside of an ellipsoid with axes (weights w)^(-1/2) about a centre: a boundary that bends."""

    def __init__(self, weights: Tensor, centre: Tensor) -> None:
        super().__init__()
        self.weights, self.centre = (nn.Parameter(t, requires_grad=False) for t in (weights, centre))

    def forward(self, images: Tensor) -> Tensor:
        inside = 1 - (self.weights * (images - self.centre) ** 2).sum(1)
        return torch.stack([torch.zeros_like(inside), inside], dim=1)

    def distance(self, x: Tensor) -> float:
        """Return that of x to the ellipsoid: its nearest point is (x + t w c) / (1 + t w) for the t that lies on it."""
        low, high = 0.0, 1e6
        for _ in range(200):
            t = (low + high) / 2
            point = (x + t * self.weights * self.centre) / (1 + t * self.weights)
            outside = (self.weights * (point - self.centre) ** 2).sum() > 1
            low, high = (t, high) if outside else (low, t)
        return float(torch.linalg.vector_norm(point - x))


def to_an_ellipsoid(weights: Tensor, budget: int) -> Tensor:
    """Return found over optimal of the images outside of an ellipsoid."""
    n = len(weights)
    net = Ellipsoids(weights, torch.full((n,), 0.5, dtype=torch.float64))
    images = torch.from_numpy(np.random.default_rng(0).uniform(0, 1, (40, n)))
    images = images[net(images).argmax(1) == 0]
    assert len(images) >= 30
    result = Nearest(budget=budget)(net, images, torch.zeros(len(images), dtype=torch.int64))
    assert result.found.all()
    ratio = result.distance / torch.tensor([net.distance(x) for x in images], dtype=torch.float64)
    assert ratio.min() >= 1 - 1e-9
    return ratio


def test_where_the_boundary_bends_walks_end_at_its_nearest_point() -> None:
    assert (to_an_ellipsoid(torch.logspace(0.5, 1.5, 8, dtype=torch.float64), 60) <= CLOSE).all()
    assert (to_an_ellipsoid(torch.logspace(-2, 0.7, 60, dtype=torch.float64), 60) <= CLOSE).all()


def test_where_the_boundary_bends_the_learned_curvature_ends_the_circling(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torch.logspace(-2, 0.7, 60, dtype=torch.float64)
    learned = (to_an_ellipsoid(weights, 40) <= CLOSE).double().mean()
    monkeypatch.setattr(walk.Secants, "add", lambda *_: None)
    plain = (to_an_ellipsoid(weights, 40) <= CLOSE).double().mean()
    assert learned >= 0.85
    assert plain <= learned - 0.15


def test_where_nothing_is_found_random_points_of_the_box_are_tried() -> None:
    """A net with an adversarial share of 0.2% of its box: walks from the images and from three points all miss it."""
    net, *_ = two_layers(8)
    images = torch.from_numpy(np.random.default_rng(108).uniform(0, 1, (10, 6)))
    result = Nearest(budget=1000)(net, images, net(images).argmax(1))
    assert result.found.all()
    assert ((result.forwards + result.backwards) <= 1000).all()


class Island(nn.Module):
    """Class 1 where every pixel is within 0.2 of 0.3, and flat everywhere: nothing leads there."""

    def forward(self, images: Tensor) -> Tensor:
        inside = ((images - 0.3).abs().amax(1) < 0.2).to(images) + 0 * images.sum(1)
        return torch.stack([torch.full_like(inside, 0.5), inside], dim=1)


def test_on_a_net_without_slope_random_points_are_tried_until_the_budget_ends() -> None:
    """An island of 0.4^4 = 2.6% of the box, that one random point in forty meets, and no corner of the box."""
    image, label = torch.full((1, 4), 0.05), torch.zeros(1, dtype=torch.int64)
    assert not Nearest(budget=30)(Island(), image, label).found.any()
    alone = Nearest(budget=600)(Island(), image, label)
    assert alone.found.all()
    assert int(alone.forwards + alone.backwards) <= 600
    others = torch.tensor([[0.05] * 4, [0.3] * 4, [0.95] * 4])
    among = Nearest(budget=600)(Island(), others, torch.tensor([0, 1, 0]))
    assert torch.equal(alone.adversarial[0], among.adversarial[0])


def test_a_pool_of_no_class_of_the_net_starts_nothing() -> None:
    net, *_ = two_layers(0)
    images = torch.from_numpy(np.random.default_rng(0).uniform(0, 1, (4, 6)))
    points = torch.rand(3, 6, dtype=torch.float64)
    labels = net(images).argmax(1)
    result = Nearest(budget=200, starts=(points, torch.full((3,), 7)))(net, images, labels)
    assert result.found.any()


def test_it_is_nearer_than_the_papers_search_with_a_fraction_of_the_passes() -> None:
    net, *_ = two_layers(0, n=30, units=40, classes=5)
    images = torch.from_numpy(np.random.default_rng(1).uniform(0, 1, (5, 30)))
    labels = net(images).argmax(1)
    ours = Nearest(budget=100)(net, images, labels)
    paper = LBFGS(target="all")(net, images, labels)
    assert ours.found.all()
    assert ours.distance.mean() <= 1.02 * paper.distance.mean()
    assert (ours.forwards + ours.backwards).max() <= 100
    assert (paper.forwards + paper.backwards).double().mean() > 400


def test_more_budget_is_spent_on_restarts_and_never_loses_an_example() -> None:
    net, *_ = two_layers(5)
    images = torch.from_numpy(np.random.default_rng(5).uniform(0, 1, (10, 6)))
    labels = net(images).argmax(1)
    little, much = (Nearest(budget=budget)(net, images, labels) for budget in (200, 500))
    assert ((much.forwards + much.backwards) > 500 - 31 - 3)[much.found].all()
    # Two trims at the end of either may differ by what they cut off.
    assert (much.distance <= little.distance * 1.003).all()


def test_a_named_class_is_reached() -> None:
    net, *_ = two_layers(0, n=30, units=40, classes=5)
    images = torch.from_numpy(np.random.default_rng(1).uniform(0, 1, (5, 30)))
    labels = net(images).argmax(1)
    target = (labels + 1) % 5
    result = Nearest(target=target, budget=400)(net, images, labels)
    assert result.found.double().mean() >= 0.9
    assert torch.equal(result.target[result.found], target[result.found])
    reference = LBFGS(target=target, objective="hinge")(net, images, labels)
    both = result.found & reference.found
    assert result.distance[both].mean() <= 1.03 * reference.distance[both].mean()


def pool() -> tuple[Tensor, Tensor]:
    return torch.cat([torch.full((1, 4), 0.1), torch.full((2, 4), 0.95)]), torch.tensor([0, 1, 1])


def attack_dark(net: nn.Module, starts: tuple[Tensor, Tensor] | None) -> AttackResult:
    images = torch.rand(6, 4, generator=torch.Generator().manual_seed(0)) * 0.3
    return Nearest(budget=300, starts=starts)(net, images, torch.zeros(6, dtype=torch.int64))


def test_starts_from_afar_reach_where_the_clean_gradient_is_zero() -> None:
    result = attack_dark(DeadZone(), pool())
    assert result.found.all()
    # The nearest point raises the brightest pixels until their parts above 0.6 sum to 0.5.
    assert (result.distance < torch.linalg.vector_norm(pool()[0][1] - result.images, dim=1)).all()


def test_a_net_without_any_slope_still_gets_the_bisected_starts() -> None:
    result = attack_dark(Steps(), pool())
    assert result.found.all()
    assert (result.phase == int(Phase.START)).all() | (result.phase == int(Phase.BISECT)).any()


class BrightSquare(nn.Module):
    """Class 1 where a square of 7 x 7 pixels is brighter than 0.8 on average; no slope below 0.75."""

    def forward(self, images: Tensor) -> Tensor:
        brightest = functional.avg_pool2d(images, 7, stride=1).flatten(1).amax(1)
        return torch.stack([torch.full_like(brightest, 0.05), (brightest - 0.75).clamp(min=0)], dim=1)


def test_without_a_pool_coarse_noise_finds_what_fine_noise_hides() -> None:
    draw = torch.Generator().manual_seed(1)
    images = 0.2 * torch.rand(6, 1, 28, 28, generator=draw, dtype=torch.float64)
    result = Nearest(budget=200)(BrightSquare(), images, torch.zeros(6, dtype=torch.int64))
    # Raised by the same amount, the brightest square needs the least; where that leaves no pixel above 1, exactly so.
    least = 7 * (0.8 - functional.avg_pool2d(images, 7, stride=1).flatten(1).amax(1))
    assert (result.distance >= least * (1 - 1e-9)).all()
    assert (result.distance <= 1.05 * least).all()
    fine = torch.rand(6, 1, 28, 28, generator=draw, dtype=torch.float64)
    assert (BrightSquare()(fine).argmax(1) == 0).all()


def test_without_a_pool_and_without_slope_noise_is_tried() -> None:
    result = attack_dark(Steps(), None)
    assert set(result.status.tolist()) <= {AttackStatus.FOUND, AttackStatus.NOT_FOUND}


def test_starts_that_the_net_does_not_give_another_class_cost_one_pass_and_no_more() -> None:
    wrong = torch.full((3, 4), 0.1), torch.tensor([1, 1, 1])  # dark, whatever their labels say
    images = torch.rand(6, 4, generator=torch.Generator().manual_seed(0)) * 0.3
    labels = torch.zeros(6, dtype=torch.int64)
    result = Nearest(budget=30, starts=wrong)(DeadZone(), images, labels)  # too few passes for a new walk elsewhere
    assert not result.found.any()
    assert (result.forwards <= 4).all()


class Asymptote(nn.Module):
    """Class 1 inside of a ball; elsewhere the boundary seems near, a slope away, and is never reached."""

    def forward(self, images: Tensor) -> Tensor:
        inside = 0.3 - torch.linalg.vector_norm(images - 0.8, dim=1)
        ahead = -torch.exp(100 * (images[:, 0] - 1))
        return torch.stack([torch.zeros_like(inside), torch.where(inside > 0, inside, ahead)], dim=1)


def test_an_image_without_an_example_keeps_the_passes_for_one_far_start(monkeypatch: pytest.MonkeyPatch) -> None:
    image, label = torch.full((1, 12), 0.3, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    starts = torch.full((1, 12), 0.8, dtype=torch.float64), torch.ones(1, dtype=torch.int64)
    result = Nearest(budget=40, starts=starts)(Asymptote(), image, label)
    assert result.found.all()
    assert result.forwards + result.backwards <= 40
    monkeypatch.setattr(_Search, "_last_chance", lambda search: torch.zeros(1, dtype=torch.bool))
    assert not Nearest(budget=40, starts=starts)(Asymptote(), image, label).found.any()


def begun(*, budget: int) -> _Search:
    """Return a search that has looked at nothing yet: two images of ten entries, four classes, a pool of thirty."""
    net, *_ = two_layers(2, n=10, units=12, classes=4)
    draw = np.random.default_rng(3)
    images, more = (torch.from_numpy(draw.uniform(0, 1, (k, 10))) for k in (2, 30))
    trial = Trial(Model(net), images, None, norm=2, budget=budget)
    given = starts_module.pool((more, net(more).argmax(1)), trial)
    targets = trial.z.scatter(1, trial.labels[:, None], -torch.inf).topk(3, dim=1).indices
    return _Search(trial, torch.arange(2), targets, given)


def test_clean_walks_that_promise_far_less_than_a_far_one_has_found_are_given_up() -> None:
    search = begun(budget=1000)
    trial = search.trial
    best, expected = (t.view(2, search.R) for t in (search.walks.best, search.walks.expected))
    expected[:, :3] = torch.tensor([1.0, 3.0, 5.0])  # a clean walk may still gain 0.3 of that
    best[0, 3], trial.best[0] = 1.0, 1.0  # the first image has an example from afar, the second has none
    promise = search._promise()
    assert promise[0, :3].isfinite().tolist() == [True, True, False]
    assert promise[1, :3].isfinite().all()
    best[0, 0] = 0.9  # where a clean walk leads, none has misled
    search.walks.done[2] = False
    assert search._promise()[0, :3].isfinite().all()


@pytest.mark.parametrize(("bend", "most"), [(1.0, 0.21), (1.5, 0.28), (0.5, 0.21)])
def test_a_segment_to_a_far_start_is_cut_near_the_boundary(bend: float, most: float) -> None:
    """Along the segment the margin is t^bend - 0.2^bend: three cuts come near, whichever way it bends."""

    class Power(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            margin = images[:, 0].clamp(min=0) ** bend - 0.2**bend
            return torch.stack([torch.zeros_like(margin), margin], dim=1)

    clean, far = torch.zeros(1, 4, dtype=torch.float64), torch.ones(1, 4, dtype=torch.float64)
    trial = Trial(Model(Power()), clean, torch.zeros(1, dtype=torch.int64), norm=2, budget=None)
    search = _Search(trial, torch.arange(1), torch.tensor([[1]]), starts_module.pool((far, torch.tensor([1])), trial))
    row = torch.tensor([1])
    search._enter(row)
    while search._entering()[row]:
        search._advance(row)
    at = float(search.walks.x[1, 0])
    assert 0.2 < at <= most
    assert int(trial.forwards) == 1 + 1 + 3 + 1


def test_later_far_starts_are_turned_towards_the_nearest_example() -> None:
    """With the image in the corner at 0, an example along one axis and starts along another, angles are known."""

    class Sides(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.stack([torch.full_like(images[:, 0], 0.1), images[:, 0], images[:, 1]], dim=1)

    far = torch.tensor([[0.0, 0.9, 0.0], [0.0, 0.8, 0.0], [0.0, 0.7, 0.0]], dtype=torch.float64)
    trial = Trial(Model(Sides()), torch.zeros(2, 3, dtype=torch.float64), None, norm=2, budget=None)
    given = starts_module.pool((far, torch.full((3,), 2)), trial)
    search = _Search(trial, torch.arange(2), torch.tensor([[1], [1]]), given)
    trial.best[0], trial.best_x[0] = 0.2, torch.tensor([0.2, 0.0, 0.0])  # the second image has none
    x = search._blended(torch.arange(2), torch.zeros(2, dtype=torch.int64))
    angle = math.atan2(0.7, 0.3)
    expected = 0.9 * torch.tensor([math.cos(angle), math.sin(angle), 0.0])
    torch.testing.assert_close(x[0], expected)
    torch.testing.assert_close(x[1], far[0].float())


def test_what_follows_the_first_walks_starts_at_the_pool_and_only_then_at_random() -> None:
    search = begun(budget=100_000)
    known = int((search.later >= 0).sum(1).min())
    assert known > 3
    last = search.R - 1
    for k in range(known + 1):
        search.walks.done[:] = True
        assert search._restart()
        assert bool(search.restarted.view(2, -1)[:, last].all()) == (k >= search.later.shape[1]), k


def test_one_image_with_the_pool_is_as_it_is_among_others() -> None:
    net, *_ = two_layers(2, n=10, units=12, classes=4)
    draw = np.random.default_rng(3)
    images, more = (torch.from_numpy(draw.uniform(0, 1, (k, 10))) for k in (6, 30))
    labels, starts = net(images).argmax(1), (more, net(more).argmax(1))
    whole = Nearest(budget=300, starts=starts)(net, images, labels)
    for i in (0, 3):
        alone = Nearest(budget=300, starts=starts)(net, images[i : i + 1], labels[i : i + 1])
        torch.testing.assert_close(alone.distance[0], whole.distance[i], rtol=1e-6, atol=0)


def test_images_that_are_in_different_places_share_their_batches() -> None:
    net, *_ = two_layers(2, n=10, units=12, classes=4)
    draw = np.random.default_rng(3)
    images, more = (torch.from_numpy(draw.uniform(0, 1, (k, 10))) for k in (40, 30))
    batches: list[int] = []
    net.register_forward_hook(lambda _, args, __: batches.append(len(args[0])))
    result = Nearest(budget=300, starts=(more, net(more).argmax(1)))(net, images, net(images).argmax(1))
    # In one round the images that cut a segment ask the net together, and those that step or begin.
    assert len(batches) <= 2.5 * int(result.forwards.max())


@pytest.mark.parametrize(("total", "expected"), [(2**30, 2**29), (2**36, 2**32)])
def test_a_cuda_device_with_much_memory_holds_more_images_at_once(
    monkeypatch: pytest.MonkeyPatch, total: int, expected: int
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=total))
    assert _memory(torch.device("cuda")) == expected
    assert _memory(torch.device("cpu")) == 2**29


def test_every_pass_is_counted_with_a_pool() -> None:
    net, *_ = two_layers(2, n=10, units=12, classes=4)
    counting = Counting(net)
    draw = np.random.default_rng(3)
    images, more = (torch.from_numpy(draw.uniform(0, 1, (k, 10))) for k in (1, 30))
    starts = more, net(more).argmax(1)
    result = Nearest(budget=150, starts=starts)(counting, images, net(images).argmax(1))
    assert (counting.forwards, counting.backwards) == (result.forwards.item(), result.backwards.item())
    assert counting.forwards + counting.backwards <= 150


@pytest.mark.parametrize(
    "starts",
    [
        (torch.zeros(3, 4), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(3, 4), torch.zeros(3)),
        (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)),
        (torch.zeros(3, 5), torch.zeros(3, dtype=torch.int64)),
    ],
)
def test_starts_that_cannot_be_used_are_refused(starts: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(InputError, match="starts"):
        attack_dark(DeadZone(), starts)

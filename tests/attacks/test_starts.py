"""Where walks from afar start: the averages and images, their order, and that no image changes another's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from intriguing import Model
from intriguing.attacks import starts
from intriguing.attacks.base import Trial
from intriguing.attacks.nearest import _Search

CLASSES = 6


def case() -> tuple[Trial, Tensor, Tensor]:
    """Return five images under attack and a pool: 200 of classes 0 to 2, 5 of 3, one of 5, some of none."""
    draw = torch.Generator().manual_seed(0)
    images, points = torch.rand(5, 30, generator=draw), torch.rand(216, 30, generator=draw)
    labels = torch.cat([torch.arange(200) % 3, torch.full((5,), 3), torch.full((1,), 5), torch.full((10,), 9)])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Linear(30, CLASSES)
    return Trial(Model(net), images, torch.tensor([0, 1, 2, 3, 4]), norm=2, budget=None), points, labels


def expected(trial: Trial, points: Tensor, labels: Tensor, i: int, wanted: int = -1) -> list[tuple[Tensor, int]]:
    """Return the starts of one image with their classes by brute force, in the order they should have."""
    clean = trial.clean[i].double()
    likeliest = (
        trial.z[i].masked_fill(torch.arange(CLASSES) == trial.labels[i], -torch.inf).argsort(descending=True)[:4]
    )
    found: list[tuple[bool, int, float, Tensor, int]] = []

    def add(tier: int, x: Tensor, c: int) -> None:
        found.append((c not in likeliest.tolist(), tier, float((x - clean).norm()), x, c))

    for c in range(CLASSES):
        if c == int(trial.labels[i]) or (wanted >= 0 and c != wanted):
            continue
        of = points[labels == c].double()
        of = of[(of - clean).norm(dim=1).argsort()]
        count = max(3, len(of) // 16)
        if len(of) > 1:
            if count < len(of):
                add(0, of[:count].mean(0), c)
            add(1, of.mean(0), c)
        for rank, x in enumerate(of[:6]):
            add(2 + rank, x, c)
    return [(x, c) for *_, x, c in sorted(found, key=lambda entry: entry[:3])]


def check(trial: Trial, points: Tensor, labels: Tensor, wanted: int = -1) -> None:
    chosen = starts.choose(trial, torch.arange(5), starts.pool((points, labels), trial))
    for i in range(5):
        want = expected(trial, points, labels, i, wanted)
        order = chosen.order[i][chosen.order[i] >= 0]
        assert len(order) == len(want)
        assert chosen.lengths[i, len(want) :].isinf().all()
        assert (chosen.order[i, len(want) :] == -1).all()
        x = chosen.at(order)
        torch.testing.assert_close(x.double(), torch.stack([x for x, _ in want]), rtol=0, atol=1e-6)
        assert chosen.labels[order].tolist() == [c for _, c in want]
        torch.testing.assert_close(chosen.lengths[i, : len(want)], (x - trial.clean[i]).norm(dim=1), rtol=1e-5, atol=0)


def test_averages_come_first_and_likely_classes_before_the_others() -> None:
    check(*case())


def test_a_class_that_must_be_reached_is_the_only_one_to_start_from() -> None:
    trial, points, labels = case()
    trial.wanted[:] = torch.tensor([1, 2, 1, 1, 1])
    for c in (1, 2):
        trial.wanted[:] = c
        trial.labels[:] = (c + 1) % 3
        check(trial, points, labels, wanted=c)


def test_no_image_changes_where_another_starts() -> None:
    trial, points, labels = case()
    pool = starts.pool((points, labels), trial)
    whole = starts.choose(trial, torch.arange(5), pool)
    for i in range(5):
        alone = starts.choose(trial, torch.tensor([i]), pool)
        used = int((alone.order[0] >= 0).sum())
        assert torch.equal(alone.lengths[0, :used], whole.lengths[i, :used])
        assert torch.equal(alone.at(alone.order[0, :used]), whole.at(whole.order[i, :used]))


def test_noise_for_pictures_is_coarse() -> None:
    """Squares of a seventh of the side and more: what a pixel is, its neighbours nearly are."""
    trial = Trial(Model(nn.Flatten(), box=(-1, 1)), torch.zeros(1, 2, 28, 28), None, norm=2, budget=None)
    points = starts.pool(None, trial).points.view(-1, 2, 28, 28)
    assert len(points) > starts.AT_FIRST
    assert points.min() >= -1
    assert points.max() <= 1
    assert (points.abs() == 1).double().mean() > 0.1  # black and white
    for along in (2, 3):
        assert points.diff(dim=along).abs().mean() < 0.2  # of pixels without their neighbours it would be 0.67
    assert (points[:, 0] - points[:, 1]).abs().mean() > 0.5, "channels are drawn apart"


def test_coarse_noise_follows_the_first_averages_of_pictures() -> None:
    draw = torch.Generator().manual_seed(0)
    points, labels = torch.rand(60, 1, 8, 8, generator=draw), torch.arange(60) % 4
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    trial = Trial(Model(net), torch.rand(3, 1, 8, 8, generator=draw), None, norm=2, budget=None)
    chosen = starts.choose(trial, torch.arange(3), starts.pool((points, labels), trial))
    noise = starts.pool(None, trial).points[:16]
    for order, lengths, clean in zip(chosen.order, chosen.lengths, trial.clean, strict=True):
        order, lengths = order[order >= 0], lengths[order >= 0]
        known = chosen.labels[order] >= 0
        assert known.tolist() == [True] * 3 + [False] * 16 + [True] * (len(order) - 19)
        assert torch.equal(chosen.at(order[3:19]), noise)
        torch.testing.assert_close(lengths, (chosen.at(order) - clean).norm(dim=1))
    two = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    trial = Trial(Model(two), torch.rand(3, 1, 8, 8, generator=draw), None, norm=2, budget=None)
    chosen = starts.choose(trial, torch.arange(3), starts.pool((points, labels), trial))
    assert chosen.first == 1
    assert (chosen.labels[chosen.order[:, :18]] >= 0).tolist() == [[True] + [False] * 16 + [True]] * 3


def test_images_of_classes_that_the_net_does_not_know_leave_noise() -> None:
    trial, points, _ = case()
    chosen = starts.choose(trial, torch.arange(5), starts.pool((points, torch.full((216,), 7)), trial))
    alone = starts.choose(trial, torch.arange(5), starts.pool(None, trial))
    assert torch.equal(chosen.at(chosen.order[0]), alone.at(alone.order[0]))
    assert (chosen.labels == -1).all()


def test_a_start_of_no_known_class_leads_to_the_class_that_was_asked_for() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    trial = Trial(Model(net), images, None, norm=2, budget=None)
    targets = trial.labels[:, None].add(torch.tensor([[2, 1]])) % 4
    search = _Search(trial, torch.arange(3), targets, starts.pool(None, trial))
    assert search.walks.target.view(3, -1).tolist() == [[t, u, t, t, t] for t, u in targets.tolist()]
    assert search._class_of(search.later[:, 0], torch.arange(3)).tolist() == targets[:, 0].tolist()


def test_without_images_there_is_noise_in_the_box() -> None:
    trial, *_ = case()
    chosen = starts.choose(trial, torch.arange(5), starts.pool(None, trial))
    x = chosen.at(chosen.order[0])
    assert x.shape == (starts.AT_FIRST, 30)
    assert ((x >= 0) & (x <= 1)).all()
    assert (chosen.labels[chosen.order] == -1).all()
    torch.testing.assert_close(chosen.lengths[0], (x - trial.clean[0]).norm(dim=1))

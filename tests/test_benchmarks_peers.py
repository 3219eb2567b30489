"""The comparison with the peers: known optimalities, exact counts and matches, and nets that train and resume alike.

Only what needs none of the peers is here, so that it runs in the project's own environment.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from intriguing import attacks

FOLDER = Path(__file__).parents[1] / "benchmarks" / "peers"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.fixture(scope="module", autouse=True)
def _forgotten_afterwards():
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and Path(sys.modules[name].__file__).parent == FOLDER:
            del sys.modules[name]


# ------------------------------------------------------------------------------------------------ optimality


def distances(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_best_of_every_image_has_optimality_one():
    a, b = distances(1, 4, 2), distances(2, 3, 2)
    assert module("optimality").optimality(torch.minimum(a, b), [a, b, torch.minimum(a, b)]) == 1


def test_finding_nothing_has_optimality_zero():
    nothing = distances(torch.inf, torch.inf)
    assert module("optimality").optimality(nothing, [nothing, distances(1, 2)]) == 0


def test_optimality_by_hand():
    # D = 4, A_best = (1 + 4) / 2, A_attack = (2 + 4) / 2 with the 9 cut at D: 1 - 0.5 / 1.5.
    best, attack = distances(1, 4), distances(2, 9)
    assert module("optimality").optimality(attack, [best, attack]) == pytest.approx(2 / 3)


def test_images_already_wrong_count_for_nobody():
    # The same attack among images that the net gets right, and with one it does not: clean accuracy takes it out.
    best, attack = distances(1, 4), distances(2, 9)
    wrong = distances(0)
    more = [torch.cat((best, wrong)), torch.cat((attack, wrong))]
    assert module("optimality").optimality(more[1], more) == pytest.approx(2 / 3)


def test_the_area_is_the_trapezoid_rule_on_a_fine_grid():
    found = distances(0, 0.3, 0.3, 1.1, 7, torch.inf)
    grid = torch.linspace(0, 2, 200_001, dtype=torch.float64)
    accuracy = (found[:, None] > grid).double().mean(0)
    assert module("optimality").area(found, 2.0) == pytest.approx(float(torch.trapezoid(accuracy, grid)), abs=1e-5)


def test_an_attack_outside_its_pool_is_refused():
    with pytest.raises(ValueError, match="pool"):
        module("optimality").optimality(distances(1), [distances(2)])
    with pytest.raises(ValueError, match="pool"):
        module("optimality").optimality(distances(torch.inf), [distances(torch.inf)])


def test_the_interval_holds_a_constant_difference_exactly_and_covers_a_known_one():
    interval = module("optimality").interval
    x = torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert interval(x - 0.25, x, 10.0) == pytest.approx((-0.25, -0.25, -0.25))
    noise = torch.randn(200, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mean, low, high = interval(x + noise, x, 10.0)
    # The normal interval of the mean of 200 draws, which the bootstrap meets within a tenth of its width.
    half = 1.96 * float(noise.std()) / 200**0.5
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.1 * half)


# -------------------------------------------------------------------------------------------------- counting


class Linear(nn.Module):
    """Two classes: z = (1 - s, s) with s the mean pixel, so that an image is of class 1 beyond a mean of 1/2."""

    def forward(self, x: Tensor) -> Tensor:
        s = x.flatten(1).mean(1, keepdim=True)
        return torch.cat((1 - s, s), 1)


def counted(images: Tensor, passes: int = 100):
    return module("counting").CountingNet(Linear(), images, torch.zeros(len(images), dtype=torch.int64), passes)


def test_forwards_and_backwards_are_counted_for_the_rows_that_took_part():
    images = torch.linspace(0, 0.4, 3)[:, None, None, None].expand(3, 1, 2, 2).clone()
    net = counted(images)
    x = images.clone().requires_grad_(True)
    z = net(x)
    for k in range(2):
        torch.autograd.grad(z[:, k].sum(), x, retain_graph=True)
    # Both rows lie nearest to the last image; in order they can only be the last two.
    part = torch.full_like(images[1:], 0.31).requires_grad_(True)
    net(part).sum().backward()
    net(images)
    assert net.count().forwards.tolist() == [2, 3, 3]
    assert net.count().backwards.tolist() == [2, 3, 3]


def test_past_the_budget_logits_say_the_label_and_gradients_vanish():
    images = torch.stack((torch.full((1, 2, 2), 0.1), torch.full((1, 2, 2), 0.4)))
    net = counted(images, passes=3)
    x = (images + 0.5).requires_grad_(True)
    z = net(x)
    assert (z.argmax(1) == 1).all()
    assert torch.autograd.grad(z.sum(0)[1], x, retain_graph=True)[0].abs().sum() > 0
    net(images[:1])
    # The first image has nothing left, the second one forward.
    gradient = torch.autograd.grad(z.sum(0)[1], x, retain_graph=True)[0]
    assert gradient[0].abs().sum() == 0
    assert gradient[1].abs().sum() > 0
    with pytest.raises(module("counting").SpentError):
        net(x)
    assert (net.count().forwards + net.count().backwards).tolist() == [3, 3]


def test_a_spent_image_among_others_is_unfooled_while_they_go_on():
    images = torch.stack((torch.full((1, 2, 2), 0.1), torch.full((1, 2, 2), 0.4)))
    net = counted(images, passes=2)
    for _ in range(2):
        net(images[:1])
    x = torch.full_like(images, 0.9).requires_grad_(True)
    z = net(x)
    assert z.argmax(1).tolist() == [0, 1]
    gradient = torch.autograd.grad(z[:, 1].sum(), x)[0]
    assert [bool(g.any()) for g in gradient] == [False, True]


def test_the_nearest_adversarial_point_asked_about_is_kept_inside_the_box_alone():
    images = torch.full((1, 1, 2, 2), 0.4)
    net = counted(images)
    net(torch.tensor([[[[0.4, 0.4], [0.4, 1.02]]]]))
    assert torch.isinf(net.count().distance).all()
    for mean in (0.45, 0.8, 0.6, 0.7):
        net(torch.full_like(images, mean))
    assert float(net.count().distance) == pytest.approx(0.4, rel=1e-6)
    assert torch.equal(net.count().nearest, torch.full_like(images, 0.6))


def test_rows_of_a_call_with_fewer_are_matched_in_order():
    generator = torch.Generator().manual_seed(0)
    originals = torch.rand(40, 30, generator=generator)
    kept = torch.rand(40, generator=generator) < 0.6
    # Noise as long as the images are apart: nearest neighbours alone would give rows to wrong images.
    noise = torch.randn(40, 30, generator=generator) * 0.3
    x = (originals + noise)[kept]
    nearest = torch.cdist(x, originals).argmin(1)
    assert nearest.tolist() != kept.nonzero().squeeze(1).tolist()
    matched = module("counting").ordered_match(x, originals)
    assert matched.tolist() == kept.nonzero().squeeze(1).tolist()


def test_the_match_is_the_least_sum_over_all_increasing_selections():
    from itertools import combinations

    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        originals, x = torch.rand(6, 2, generator=generator), torch.rand(3, 2, generator=generator)
        D = torch.cdist(x.double(), originals.double()).square()
        best = min(combinations(range(6), 3), key=lambda rows: float(sum(D[i, j] for i, j in enumerate(rows))))
        assert module("counting").ordered_match(x, originals).tolist() == list(best)


@pytest.mark.parametrize(("norm", "nearest"), [(1.0, 0), (2.0, 1), (torch.inf, 1)])
def test_the_nearest_point_is_that_of_the_norm(norm: float, nearest: int):
    images, labels = torch.full((1, 1, 2, 2), 0.3), torch.zeros(1, dtype=torch.int64)
    # Both are class 1: one pixel by 0.9, which is less in L1, and all four by 0.3, which is less in L2 and Linf.
    one, all_four = images.clone(), images + 0.3
    one[..., 0, 0] = 1.0
    one[..., 0, 1] = 0.8
    net = module("counting").CountingNet(Linear(), images, labels, 10, norm).eval()
    for x in (one, all_four):
        net(x)
    assert torch.equal(net.count().nearest, (one, all_four)[nearest])


def test_every_attack_says_what_it_minimises():
    units, ours, peers, table = module("units"), module("ours"), module("peers"), module("table")
    assert [units.norm_of(ours.MAIN[norm]) for norm in (1.0, 2.0, torch.inf)] == [1.0, 2.0, torch.inf]
    assert units.norm_of("advlib-fab-t-linf") == torch.inf
    assert units.norm_of("foolbox-ead-l1") == 1
    assert "intriguing-l1-adam" not in ours.names()
    # The same code with another norm is another attack.
    assert units.source("advlib-fab-l1") != units.source("advlib-fab-linf") != units.source("advlib-fab")
    assert ours.plan("intriguing-fab-linf", 400) == {"budget": 400, "norm": torch.inf}
    assert ours.plan("intriguing-fab", 400) == {"budget": 400}
    results = {("intriguing-lbfgs-linf", 50): measured(1, 2, 3), ("advlib-fab-linf", 50): measured(2, 3, 3)}
    text = table.section("mnist-fc", {"accuracy": 0.97, "seconds": 10}, results, [50])
    assert "| mean Linf | median Linf |" in text
    assert "| L-BFGS | **intriguing** |" in text
    assert "trust region per image" in table.notes(1.0)
    assert "levels" not in table.notes(1.0)
    assert {peer.norm for peer in peers.PEERS.values()} == {1.0, 2.0, torch.inf}


def test_more_rows_than_images_are_refused():
    with pytest.raises(ValueError, match="one row per image"):
        counted(torch.zeros(1, 1, 2, 2))(torch.zeros(2, 1, 2, 2))


# ------------------------------------------------------------------------------------------------------ ours


def test_our_counts_are_those_seen_from_outside():
    images = torch.full((3, 1, 2, 2), 0.3)
    images[1] = 0.4
    labels = torch.zeros(3, dtype=torch.int64)
    starts = torch.full((2, 1, 2, 2), 0.9), torch.ones(2, dtype=torch.int64)
    for name in module("ours").names():
        count, watch = module("ours").attack(name, Linear().eval(), images, labels, 60, 0, starts)
        # The nearest point of mean 1/2 is 2 (1/2 - mean) away, with 4 pixels of equal weight.
        optimal = torch.tensor([0.4, 0.2, 0.4], dtype=torch.float64)
        assert (count.distance >= optimal).all(), name
        if name == module("ours").MAIN[2]:
            assert count.distance.tolist() == pytest.approx(optimal.tolist(), rel=0.05)
        assert (count.forwards + count.backwards <= 60).all()
        assert watch.cpu > 0


def test_a_count_that_differs_from_outside_is_an_error(monkeypatch: pytest.MonkeyPatch):
    ours = module("ours")
    monkeypatch.setattr(attacks.base.Trial, "logits", _uncounted)
    with pytest.raises(RuntimeError, match="the net saw"):
        ours.attack(
            ours.MAIN[2], Linear().eval(), torch.full((1, 1, 2, 2), 0.3), torch.zeros(1, dtype=torch.int64), 60, 0
        )


def _uncounted(self, x: Tensor, image: Tensor, *, slots: int = 1024) -> Tensor:
    with torch.no_grad():
        return self.model(x.reshape(-1, *self.shape))


# ------------------------------------------------------------------------------------------------------ nets


def test_training_resumed_equals_training_in_one_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    nets = module("nets")
    recipe = nets.Recipe(
        "digits",
        "digits",
        lambda g: nets.strided((1, 8, 8), 10, channels=(2,), generator=g),
        epochs=2,
        rate=3e-3,
        norm=2.0,
        eps=0.5,
        steps=1,
    )
    monkeypatch.setitem(nets.NETS, "digits", recipe)
    threads = torch.get_num_threads()
    try:
        assert nets.train("digits", folder=tmp_path / "whole")
        calls = 0
        while not nets.train("digits", seconds=0, folder=tmp_path / "parts"):
            calls += 1
    finally:
        torch.set_num_threads(threads)
    assert calls == 1
    whole, parts = (nets.load("digits", tmp_path / name).state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    measured = nets.facts("digits", tmp_path / "whole")
    assert measured["pgd_20_accuracy"] <= measured["accuracy"]


def test_an_untrained_net_names_the_command(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"nets\.py --nets mnist-fc"):
        module("nets").load("mnist-fc", tmp_path)


@pytest.mark.parametrize("norm", [2.0, torch.inf])
def test_training_examples_stay_in_the_ball_and_the_box(norm: float):
    nets = module("nets")
    images = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    generator = torch.Generator().manual_seed(1)
    x = nets.pgd(
        net, images, torch.zeros(5, dtype=torch.int64), norm=norm, eps=0.3, steps=3, step=0.2, generator=generator
    )
    assert (torch.linalg.vector_norm((x - images).flatten(1), norm, dim=1) <= 0.3 * (1 + 1e-5)).all()
    assert x.min() >= 0
    assert x.max() <= 1


# ----------------------------------------------------------------------------------------------------- record


def measured(*values: float, cpu: float = 1.0):
    found = distances(*values)
    ones = torch.ones(len(found), dtype=torch.int64)
    return module("units").Measured(found, 10 * ones, 9 * ones, cpu, cpu)


def test_the_record_states_our_place_against_the_best_peer_at_the_same_budget():
    table, ours = module("table"), module("ours")
    generator = torch.Generator().manual_seed(0)
    base = (1 + torch.rand(100, generator=generator)).tolist()
    further = [x + 0.1 for x in base]
    results = {
        (ours.MAIN[2], 50): measured(*base, cpu=1.0),
        ("advlib-ddn", 50): measured(*further, cpu=4.0),
        ("advlib-alma", 50): measured(*[x + 0.2 for x in base]),
        ("foolbox-ddn", 20): measured(*further),
    }
    place = table.place(results, 50)
    assert (place.peer, place.verdict) == ("advlib-ddn", "first")
    assert place.difference == pytest.approx(-0.1, abs=0.01)  # a few of the peer's are cut at D
    assert place.optimality == 1
    assert table.race(results) == ("advlib-ddn", 4.0, 50, 1.0)
    text = table.section("mnist-fc", {"accuracy": 0.97, "seconds": 10}, results, [50])
    assert "At 50: ours first" in text
    assert "0.25 of it" in text
    assert table.place(results, 20) is None


def test_the_record_tells_where_the_clean_image_misleads():
    table, ours = module("table"), module("ours")
    results = {(ours.MAIN[2], 50): measured(1, 1, 1, 1), ("advlib-ddn", 50): measured(1, 1.4, 1.6, torch.inf)}
    text = table.section("mnist-fc", {"accuracy": 0.97, "seconds": 10}, results, [50])
    assert "over 1.5 times as far as the best: DDN (50) 50.0%" in text


def test_an_equal_peer_is_tied_and_a_nearer_one_first():
    table, ours = module("table"), module("ours")
    base = torch.linspace(1, 2, 50)
    zigzag = torch.where(torch.arange(50) % 2 == 0, 0.01, -0.01)
    results = {(ours.MAIN[2], 50): measured(*base.tolist()), ("advlib-ddn", 50): measured(*(base + zigzag).tolist())}
    assert table.place(results, 50).verdict == "tied"
    results[ours.MAIN[2], 50] = measured(*(base + 0.3).tolist())
    assert table.place(results, 50).verdict == "behind"


def test_the_picture_draws_every_attack(tmp_path: Path):
    picture, ours = module("picture"), module("ours")
    results = {
        (ours.MAIN[2], 50): measured(1, 2),
        ("advlib-ddn", 50): measured(1.2, 2),
        ("advlib-ddn", 20): measured(2, 2),
    }
    picture.draw({"mnist-fc": results, "cifar": results}, tmp_path / "out.svg", "2026-11-26")
    text = (tmp_path / "out.svg").read_text()
    assert all(f"<!-- {label} -->" in text for label in ("Nearest (intriguing)", "DDN", "adv-lib", "ART"))


def test_a_finished_unit_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    units, ours, nets = module("units"), module("ours"), module("nets")
    monkeypatch.setattr(nets, "CACHE", tmp_path)
    starts = torch.full((2, 1, 2, 2), 0.9), torch.ones(2, dtype=torch.int64)
    monkeypatch.setattr(nets, "images_of", lambda name, split: starts)
    (tmp_path / "mnist-fc.safetensors").write_bytes(b"weights")
    images, labels = torch.full((3, 1, 2, 2), 0.3), torch.zeros(3, dtype=torch.int64)
    unit = units.Unit("mnist-fc", ours.MAIN[2], 40, 1, 3, 0)
    first = units.run(unit, Linear().eval(), images, labels, tmp_path)
    monkeypatch.setattr(ours, "attack", None)
    again = units.run(unit, Linear().eval(), images, labels, tmp_path)
    assert torch.equal(first.distance, again.distance)
    assert len(again.distance) == 2
    assert again.cpu == first.cpu
    (tmp_path / "mnist-fc.safetensors").write_bytes(b"other weights")
    assert units.cached(unit, tmp_path) is None
    both = units.joined([first, again])
    assert len(both.distance) == 4
    assert both.cpu == 2 * first.cpu

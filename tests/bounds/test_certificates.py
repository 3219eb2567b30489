from __future__ import annotations

import math

import pytest
import torch
from soundness import Block, digits, drawn, seeded, small_nets, trained, violations
from torch import nn

from intriguing import attacks
from intriguing.bounds import certificates, crown, relaxation
from intriguing.bounds.certificates import METHODS, certify, largest_radius
from intriguing.errors import DataError, InputError, ModelError
from intriguing.nets.load import Model
from truth import nearest_linear, nearest_relu

NETS = small_nets()
SOUND = ("interval", "crown", "crown-optimised")


def _linear(seed: int, classes: int = 4, pixels: int = 12) -> tuple[nn.Sequential, torch.Tensor, torch.Tensor]:
    net = nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes)).double()
    drawn(net, seed)
    x = torch.rand(6, pixels, generator=seeded(seed), dtype=torch.float64)
    x[:, ::3] = 0  # at a bound of the box, where it matters
    return net, x, net(x).argmax(1)


@pytest.mark.parametrize("seed", range(3))
def test_a_linear_net_gets_the_exact_radius_in_the_box(seed):
    net, x, y = _linear(seed)
    radius = certify(net, x, y, 2, tolerance=1e-5).radius
    W, b = net[1].weight.detach().numpy(), net[1].bias.detach().numpy()
    for i, label in enumerate(y.tolist()):
        pairs = [[label, j] for j in range(len(b)) if j != label]
        exact = min(nearest_linear(x[i].numpy(), W[p], b[p], 1).distance for p in pairs)
        if math.isinf(exact):
            assert math.isinf(radius[i])
        else:
            # tolerance 1e-5 of the search; that of the multiplier stops early, where much of the box is reached
            assert exact * (1 - 2e-3) <= radius[i] <= exact * (1 + 1e-9)


def _three_pixels():
    """A net whose balls of interest reach far beyond the box."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    draw = seeded(2)
    with torch.no_grad():
        for layer in (net[1], net[3]):
            for tensor in (layer.weight, layer.bias):
                tensor.copy_(2 * (2 * torch.rand(tensor.shape, generator=draw) - 1) / math.sqrt(layer.in_features))
    x = (torch.rand(10, 3, generator=seeded(2), dtype=torch.float64) * 1.6 - 0.3).clamp(0, 1)
    return net, x, net(x).argmax(1)


def test_of_few_pixels_no_l2_radius_is_below_the_linf_radius():
    # The L2 ball lies in the Linf ball. Where pixels are few, its part beyond the box is most of it.
    net, x, y = _three_pixels()
    two, inf = (certify(net, x, y, norm).radius for norm in (2, "inf"))
    assert bool(torch.isfinite(inf).any())
    assert bool((two >= inf * (1 - 5e-3)).all()), (two, inf)


@pytest.mark.parametrize(("norm", "farthest"), [(2, math.sqrt(3)), (math.inf, 1.0)])
def test_a_learned_radius_that_holds_all_of_the_box_is_infinite(norm, farthest):
    net, x, y = _three_pixels()
    radius = certify(net, x, y, norm, method="crown-optimised", steps=80).radius
    assert bool((torch.isinf(radius) | (radius < farthest)).all()), radius
    assert bool(torch.isinf(radius).any()), radius


@pytest.mark.parametrize(("norm", "dual"), [(2, 2.0), ("inf", 1.0), (math.inf, 1.0)])
def test_a_linear_net_without_the_box_has_the_margin_over_the_dual_norm(norm, dual):
    net, x, y = _linear(7)
    z, W = net(x), net[1].weight
    exact = torch.stack(
        [
            min((z[i, k] - z[i, j]) / torch.linalg.vector_norm(W[k] - W[j], ord=dual) for j in range(4) if j != k)
            for i, k in enumerate(y.tolist())
        ]
    ).detach()
    for method in SOUND:
        if norm == 2 and method == "interval":
            continue
        radius = certify(net, x, y, norm, method=method, box=False, tolerance=1e-4, steps=5).radius
        assert (radius <= exact * (1 + 1e-9)).all()
        assert (radius >= exact * (1 - 2e-4)).all()


@pytest.mark.parametrize("norm", [2, math.inf])
def test_no_method_exceeds_the_exact_minimum_of_a_tiny_relu_net(norm):
    net = nn.Sequential(nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 3)).double()
    ratios = []
    for seed in range(3):
        drawn(net, seed, 1.5)
        x = torch.rand(2, 5, generator=seeded(seed), dtype=torch.float64)
        y = net(x).argmax(1)
        layers = [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in net if isinstance(m, nn.Linear)]
        exact = torch.tensor([nearest_relu(x[i].numpy(), layers, int(y[i]), norm=norm) for i in range(2)])
        for method in SOUND:
            radius = certify(net, x, y, norm, method=method, steps=20).radius
            assert (radius <= exact * (1 + 1e-9)).all(), method
        ratios += [1.0 if e == r else float(r / e) for r, e in zip(radius, exact, strict=True) if math.isfinite(e)]
    # Small enough that the relaxation is nearly exact: a bound that is merely sound would pass the rest.
    assert sorted(ratios)[len(ratios) // 2] > 0.75


def _audit(norms=(2, math.inf), nets=NETS, count=12) -> int:
    """Return how many of the triples (net, image, radius) have an adversarial example inside."""
    caught = 0
    for model in nets.values():
        x, _ = digits(count)
        y = model.predict(x)
        for norm in norms:
            radius = certify(model, x, y, norm, tolerance=0.03).radius
            caught += int(violations(model, x, y, radius, norm, steps=20).sum())
    return caught


def test_no_search_finds_an_example_inside_a_certified_radius():
    pooled = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 10)
    )  # fmt: skip
    learned = {
        "sigmoid": Model(trained(nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.Sigmoid(), nn.Linear(24, 10)))),
        "pooled": Model(trained(pooled)),
        "residual": Model(trained(Block(), 40)),
    }
    # 5 nets x 2 norms x 18 images and 3 x 2 x 20: 300 triples.
    assert _audit(count=18) + _audit(nets=learned, count=20) == 0


def _lines_through_the_low_end(self, slope, low, high, better):
    return self(low) - slope * low


@pytest.mark.parametrize("mutation", ["offset of lines", "slope", "bias", "lines swapped"])
def test_an_unsound_rule_is_caught(monkeypatch, mutation):
    if mutation == "offset of lines":
        monkeypatch.setattr(relaxation.Activation, "_extreme", _lines_through_the_low_end)
    elif mutation == "lines swapped":
        below, above = relaxation.Activation.below, relaxation.Activation.above
        monkeypatch.setattr(relaxation.Activation, "below", above)
        monkeypatch.setattr(relaxation.Activation, "above", below)
    elif mutation == "slope":
        honest = crown._relaxed

        def wrong(activation, A, *rest):
            back, offset = honest(activation, A, *rest)
            return back / 2, offset

        monkeypatch.setattr(crown, "_relaxed", wrong)
    else:
        honest = crown._against
        monkeypatch.setattr(crown, "_against", lambda A, v, *, own=False: honest(A, v, own=own) * (1.0 if own else -1))
    nets = {name: NETS[name] for name in ("dense", "sigmoid")}
    assert _audit(norms=(2,), nets=nets) > 0


def test_the_library_finds_nothing_inside_a_certified_radius():
    x, _ = digits(12)
    for name in ("dense", "sigmoid"):
        y = NETS[name].predict(x)
        c = certify(NETS[name], x, y, 2)
        found = attacks.LBFGS(target="all", budget=200)(NETS[name], x, y)
        assert (c.radius <= found.distance).all()
        assert (c.radius > 0).all()


def test_the_other_lines_of_steep_sigmoids_enlarge_a_radius_and_none_shrinks(monkeypatch):
    """Where the tangent through the far end is the better line; with it left out, some radii are smaller."""
    layers = (nn.Flatten(), nn.Linear(3, 8), nn.Sigmoid(), nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 3))
    net = drawn(nn.Sequential(*layers), 3, 6.0)
    x = torch.rand(20, 1, 1, 3, generator=seeded(5))
    model = Model(net)
    y = model.predict(x)
    monkeypatch.setattr(certificates, "_FEW", 1)  # or the lines would be tried farther out too
    both = certify(model, x, y, box=False).radius
    monkeypatch.setattr(certificates._Search, "_touch", lambda search: None)
    middle = certify(model, x, y, box=False).radius
    assert (both >= middle).all()
    assert (both > 1.1 * middle).any()
    assert not violations(Model(net, box=(-99.0, 99.0)), x, y, both, 2).any()


@pytest.mark.parametrize("norm", [2, math.inf])
def test_of_few_pixels_a_proof_farther_out_is_found(monkeypatch, norm):
    """Where a bound falls below 0 and rises again; with one more pixel than few, some radii are smaller."""
    gained = []
    for seed in range(4):
        layers = (nn.Flatten(), nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
        model = Model(drawn(nn.Sequential(*layers), seed, 4.0), box=(-99.0, 99.0))
        x = torch.rand(12, 1, 1, 2, generator=seeded(seed))
        y = model.predict(x)
        far = certify(model, x, y, norm, box=False).radius
        with monkeypatch.context() as patch:
            patch.setattr(certificates, "_FEW", 1)
            first = certify(model, x, y, norm, box=False).radius
        assert (far >= first).all()
        gained += (far / first).tolist()
        assert not violations(model, x, y, far.clamp_max(50), norm).any()
    assert max(gained) > 1.1


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("norm", [2, math.inf])
def test_better_methods_are_no_looser(name, norm):
    x, _ = digits(1 if name == "pooled" else 2)
    y = NETS[name].predict(x)
    radius = {m: certify(NETS[name], x, y, norm, method=m, steps=4).radius for m in SOUND}
    assert (radius["crown"] >= radius["interval"] * 0.99).all()  # both searches stop within 0.2%
    assert (radius["crown-optimised"] >= radius["crown"]).all()
    if name == "sigmoid":  # elsewhere the default lines may be as good as any
        assert (radius["crown-optimised"] > radius["crown"] * 1.02).any()
    without = certify(NETS[name], x, y, norm, box=False).radius
    assert (without <= radius["crown"] * 1.01).all()


def test_an_image_gets_the_same_radius_alone_and_in_any_batch():
    x, _ = digits(7)
    y = NETS["residual"].predict(x)
    together = certify(NETS["residual"], x, y).radius
    by_three = certify(NETS["residual"], x, y, batch=3).radius
    alone = certify(NETS["residual"], x[5:6], y[5:6]).radius
    # The multipliers are searched in single precision, where sums in another order differ by 1e-7.
    torch.testing.assert_close(by_three, together, rtol=1e-5, atol=0)
    torch.testing.assert_close(alone, together[5:6], rtol=1e-5, atol=0)


def test_images_are_searched_together_by_the_rows_of_activations_not_of_pixels():
    flat = [nn.Flatten(), nn.Linear(784, 100), nn.Sigmoid(), nn.Linear(100, 100), nn.Sigmoid(), nn.Linear(100, 10)]
    net, x, seen = drawn(nn.Sequential(*flat), 0), torch.rand(40, 1, 28, 28, generator=seeded(0)), []
    # 2 x 100 rows of 784 pixels, 8 bytes each: 32 MiB hold those of 26 images.
    certify(Model(net, mean=0.1, std=0.3), x, torch.zeros(40, dtype=torch.int64), progress=lambda *d: seen.append(d))
    assert seen == [(26, 40), (40, 40)]


def test_wrong_images_get_zero_and_a_constant_net_everything():
    x, _ = digits(3)
    model = NETS["dense"]
    y = model.predict(x)
    assert certify(model, x, (y + 1) % 10).radius.tolist() == [0.0, 0.0, 0.0]
    constant = drawn(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)))
    with torch.no_grad():
        constant[1].weight.zero_()
        constant[1].bias.copy_(torch.tensor([0.0, 1.0]))
    for norm in (2, math.inf):
        assert torch.isinf(certify(constant, x, torch.ones(3, dtype=torch.int64), norm).radius).all()


def test_rounding_of_the_net_is_part_of_the_radius():
    """Differences of huge weights: in single precision the computed answer is wrong where the exact one is right."""
    draw = seeded(3)
    single = nn.Sequential(nn.Linear(40, 2, bias=False))
    x = torch.rand(200, 40, generator=draw)
    with torch.no_grad():
        w = 3e4 * torch.randn(40, generator=draw)
        single[0].weight.copy_(torch.stack((w, w + 0.05 * torch.randn(40, generator=draw))))
    double = nn.Sequential(nn.Linear(40, 2, bias=False)).double()
    with torch.no_grad():
        double[0].weight.copy_(single[0].weight)
    y = double(x.double()).argmax(1)
    exact, rounded = certify(double, x.double(), y), certify(single, x, y)
    wrong = single(x).argmax(1) != y
    assert (exact.radius > 0).all()
    assert wrong.any()
    assert (rounded.radius[wrong] == 0).all()
    assert (rounded.radius < exact.radius).all()
    assert (certify(single, x, y, method="product").radius[wrong] == 0).all()


def test_the_margin_lost_to_rounding_is_reported_and_small_for_an_ordinary_net():
    x, _ = digits(4)
    y = NETS["dense"].predict(x)
    lost = certify(NETS["dense"], x, y).rounding
    double = Model(drawn(nn.Sequential(*[m for m in NETS["dense"].net]).double(), 1, 2.0))
    assert ((lost > 0) & (lost < 1e-2)).all()
    assert (certify(double, x.double(), y).rounding < 1e-9).all()


def test_the_users_net_is_left_as_it_was():
    net = Block().train()
    net.norm.eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    x, y = digits(2)
    certify(net, x, y)
    assert net.training
    assert not net.norm.training
    assert net.conv.training
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert net.conv.weight.dtype == torch.float32


def test_the_product_needs_no_box():
    x, _ = digits(3)
    y = NETS["dense"].predict(x)
    inside = certify(NETS["dense"], x, y, method="product").radius
    torch.testing.assert_close(
        certify(NETS["dense"], x, y, method="product", box=False).radius, inside, rtol=1e-3, atol=0
    )
    assert (inside <= certify(NETS["dense"], x, y).radius).all()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_reports_its_cost(method):
    x, _ = digits(2)
    model = NETS["sigmoid"]  # which all methods serve
    y = model.predict(x)
    seen = []
    c = certify(model, x, y, method=method, steps=3, batch=1, progress=lambda *done: seen.append(done))
    assert c.method == method
    assert c.seconds > 0
    assert (c.evaluations > 0).all()
    assert seen == [(1, 2), (2, 2)]
    assert c.accuracy(torch.tensor([0.0, 1e9])).tolist() == [1.0, 0.0]


def test_mistakes_are_named():
    x, y = digits(2)
    model = NETS["dense"]
    with pytest.raises(InputError, match="norm"):
        certify(model, x, y, 1)
    with pytest.raises(InputError, match=r"crown-optimised.*Known|Did you mean"):
        certify(model, x, y, method="crown-optimized")
    with pytest.raises(InputError, match="inf"):
        certify(model, x, y, math.inf, method="product")
    with pytest.raises(DataError, match="box"):
        certify(model, x + 1, y)
    with pytest.raises(DataError, match="labels"):
        certify(model, x, y + 10)
    with pytest.raises(InputError, match="batch"):
        certify(model, x, y, batch=0)
    with pytest.raises(InputError, match="tolerance"):
        certify(model, x, y, tolerance=0)
    with pytest.raises(ModelError, match=r"2: no rule certifies a GELU"):
        certify(nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.GELU(), nn.Linear(5, 10)), x, y)


def test_the_root_search_finds_where_margins_end():
    root = torch.tensor([0.3, 2.0, 50.0, math.inf, 1.0], dtype=torch.float64)
    cap = torch.full_like(root, 100.0)
    start = torch.tensor([1.0, 1.0, 1.0, 1.0, -1.0], dtype=torch.float64)
    calls = []

    def margin(eps, rows):
        calls.append(len(rows))
        r = root[rows]
        return torch.where(torch.isinf(r), 1.0, (1 - eps / r) * (1 + eps / r))

    found = largest_radius(margin, start, torch.ones_like(root), cap, tolerance=1e-3)
    assert (found[:3] <= root[:3]).all()
    assert (found[:3] >= 0.999 * root[:3]).all()
    assert math.isinf(found[3])
    assert found[4] == 0
    assert len(calls) < 20


def test_a_net_that_is_not_what_it_seems_is_refused():
    x, y = digits(2)
    hooked = drawn(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    hooked[1].register_forward_hook(lambda module, inputs, output: output.flip(1))
    with pytest.raises(ModelError, match="does not compute what its operations say"):
        certify(hooked, x, y)

    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(64, 10)

        def forward(self, x):
            h = self.first(x.flatten(1))
            return torch.relu_(h) + h  # h itself is changed by the first term

    with pytest.raises(ModelError, match="in place"):
        certify(drawn(InPlace()), x, y)

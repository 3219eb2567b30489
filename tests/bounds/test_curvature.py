"""Certificates of second order: below the net at every point tried, no looser than lines, and loose where made so."""

from __future__ import annotations

import math

import pytest
import torch
from soundness import dense, digits, drawn, into_region, seeded, smooth_nets, trained, violations
from torch import Tensor, nn

from intriguing import bounds
from intriguing.bounds import curvature
from intriguing.bounds.certificates import differences
from intriguing.bounds.relaxation import Logistic
from intriguing.bounds.tracing import trace
from intriguing.errors import InputError, ModelError
from intriguing.nets.load import Model

WIDE = (-10.0, 10.0)  # farther than any ball of these tests reaches


def lowest(model: Model, form: Tensor, x: Tensor, eps: float, box: tuple[float, float]) -> Tensor:
    """Return the least difference (B, S) found in ball and box by descent from the image and from random points."""
    twin = Model(model.net, mean=model.mean, std=model.std, box=box)
    radius = torch.full((len(x),), eps, dtype=torch.float64)
    least = torch.full(form.shape[:2], math.inf, dtype=torch.float64)
    with twin.frozen():
        for row in range(form.shape[1]):
            for start in range(2):
                noise = torch.randn(x.shape, generator=seeded(row + 10 * start), dtype=torch.float64) * (start > 0)
                points = into_region(x, x + eps * noise / 4, radius, 2, box)
                for step in range(20):
                    points.requires_grad_()
                    value = (form[:, row] * twin(points)).sum(1)
                    (slope,) = torch.autograd.grad(value.sum(), points)
                    least[:, row] = torch.minimum(least[:, row], value.detach())
                    size = slope.flatten(1).norm(dim=1).clamp_min(1e-30).reshape(-1, 1, 1, 1)
                    length = 2 * eps / (1 + step / 3)
                    points = into_region(x, points.detach() - length * slope / size, radius, 2, box)
    return least


def worst_gap(box: tuple[float, float], nets: dict[str, Model], count: int = 6) -> float:
    """Return how far any bound lies above a value that was found, at radii small and large; negative if none does."""
    x, _ = digits(count)
    x = x.double()
    gap = -math.inf
    for model in nets.values():
        model.net.double()
        graph = trace(model, (1, 8, 8), torch.device("cpu"))
        y = model.predict(x)
        form = differences(y, 10)
        solver = curvature.Curvature(graph, x, form, box)
        for eps in (0.1, 1.0):
            bound, _ = solver.margin(torch.full((count,), eps, dtype=torch.float64), torch.arange(count))
            gap = max(gap, float((bound - lowest(model, form, x, eps, box).amin(1)).max()))
    return gap


@pytest.mark.parametrize("box", [(0.0, 1.0), WIDE])
def test_no_point_of_ball_and_box_is_below_the_bound(box):
    """Over nets of one to three layers, convolutions, preprocessing, a skip, more units than pixels."""
    assert worst_gap(box, smooth_nets()) <= 0


MUTATIONS = {
    "no remainder": ("_remainders", lambda old: lambda *a: tuple(0 * side for side in old(*a))),
    "eigenvalues halved": ("_smallest", lambda old: lambda *a: tuple(side / 2 for side in old(*a))),
    "no constant": ("_quadratic", lambda old: lambda *a: (old(*a)[0], 0 * old(*a)[1])),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_an_unsound_bound_of_curvature_is_caught(monkeypatch, mutation):
    """On nets steep enough for the mutated part to matter."""
    name, wrong = MUTATIONS[mutation]
    monkeypatch.setattr(curvature.Curvature, name, wrong(getattr(curvature.Curvature, name)))
    steep = {
        "wide": Model(drawn(dense(nn.Sigmoid(), nn.Sigmoid()), 2, 4.0)),
        "narrow": Model(drawn(dense(nn.Tanh(), nn.Tanh(), width=2), 9, 3.0)),
        "single": Model(drawn(dense(nn.Tanh(), width=1), 4, 3.0)),
    }
    assert worst_gap(WIDE, steep, count=20) > 1e-6


def test_what_is_kept_of_a_smaller_ball_is_never_used_for_a_larger_one():
    """A bound does not depend on smaller radii tried before, and a kept one of a larger ball can only be lower."""
    x, _ = digits(6)
    model = smooth_nets()["three layers"]
    form, rows = differences(model.predict(x), 10), torch.arange(6)
    graph = trace(model, (1, 8, 8), torch.device("cpu"))

    def bound(*radii: float) -> Tensor:
        solver = curvature.Curvature(graph, x.double(), form, model.box)
        return [solver.margin(torch.full((6,), eps, dtype=torch.float64), rows)[0] for eps in radii][-1]

    fresh = bound(0.5)
    torch.testing.assert_close(bound(0.1, 0.5), fresh, rtol=1e-12, atol=1e-12)
    kept = bound(0.53, 0.5)
    assert bool((kept <= fresh + 1e-12).all())
    assert bool((kept < fresh - 1e-6).any())
    torch.testing.assert_close(bound(0.6, 0.5), fresh, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("activation", [Logistic(), Logistic(2.0, 2.0, -1.0)])
def test_second_differences_are_enclosed_and_tightly(activation):
    """Against values of the difference at 4,001 points of intervals narrow and wide, anywhere."""
    draw = seeded(3)
    centre = torch.randn(300, generator=draw, dtype=torch.float64) * 4
    reach = torch.rand(2, 300, generator=draw, dtype=torch.float64) ** 3 * 8
    low, high = centre - reach[0], centre + reach[1]
    found = activation.second_difference(centre, low, high)
    z = low[:, None] + (high - low)[:, None] * torch.linspace(0, 1, 4001, dtype=torch.float64)
    d = z - centre[:, None]
    slope = activation.derivative(centre)[:, None]
    q = 2 * (activation(z) - activation(centre)[:, None] - slope * d) / d.square()
    q = torch.where(d.abs() > 1e-4, q, q.median(1, keepdim=True).values)  # the rest drowns in rounding
    assert bool((found[0] <= q.amin(1) + 1e-9).all())
    assert bool((found[1] >= q.amax(1) - 1e-9).all())
    steps = (reach.sum(0) / 32).square()
    assert bool((q.amin(1) - found[0] <= 0.03 * steps * activation.height * activation.rate**4 + 1e-5).all())
    assert bool((found[1] - q.amax(1) <= 0.03 * steps * activation.height * activation.rate**4 + 1e-5).all())


def test_one_unit_gets_its_exact_radius():
    """tanh(z) > tanh(1/2) from z = 1 on: the second difference is least where z is, so that nothing is lost."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 1), nn.Tanh(), nn.Linear(1, 2)).double()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[0.6, 0.8]]))
        net[1].bias.fill_(1.0)
        net[3].weight.copy_(torch.tensor([[1.0], [0.0]]))
        net[3].bias.copy_(torch.tensor([0.0, math.tanh(0.5)]))
    x = torch.zeros(1, 1, 1, 2, dtype=torch.float64)
    model = Model(net, box=(-4.0, 4.0))
    radius = bounds.certify(model, x, torch.tensor([0]), method="curvature", tolerance=1e-4).radius.item()
    assert 0.499 <= radius <= 0.5


def test_curvature_is_nowhere_looser_than_lines_and_tighter_where_units_are_many():
    x, y = digits(40)
    model = Model(trained(dense(nn.Sigmoid(), nn.Sigmoid(), width=30), steps=200, seed=11))
    lines = bounds.certify(model, x, y).radius
    bent = bounds.certify(model, x, y, method="curvature")
    assert bool((bent.radius >= lines).all())
    live = lines > 0
    assert (bent.radius[live] / lines[live]).median() > 1.1
    assert not violations(model, x, y, bent.radius, 2).any()


def test_an_image_gets_the_same_radius_by_curvature_alone_and_in_any_batch():
    x, y = digits(7)
    model = smooth_nets()["learned"]
    whole = bounds.certify(model, x, y, method="curvature").radius
    apart = torch.cat([bounds.certify(model, x[i : i + 1], y[i : i + 1], method="curvature").radius for i in range(7)])
    parts = bounds.certify(model, x, y, method="curvature", batch=3).radius
    assert torch.allclose(whole, apart, rtol=1e-6)
    assert torch.allclose(whole, parts, rtol=1e-6)


def test_what_curvature_does_not_serve_is_named():
    x, y = digits(3)
    with pytest.raises(ModelError, match=r"2: a ReLU.*no curvature.*crown"):
        bounds.certify(dense(nn.ReLU()), x, y, method="curvature")
    with pytest.raises(InputError, match="L2 norm alone"):
        bounds.certify(dense(nn.Tanh()), x, y, math.inf, method="curvature")
    with pytest.raises(ModelError, match="4: 1025 units"):
        bounds.certify(dense(nn.Tanh(), nn.Tanh(), width=1025), x, y, method="curvature")


def test_an_affine_net_needs_no_curvature():
    x, y = digits(5)
    net = drawn(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), 1)
    assert torch.equal(bounds.certify(net, x, y, method="curvature").radius, bounds.certify(net, x, y).radius)

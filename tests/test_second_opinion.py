"""The second CROWN is itself held to closed forms, sampled points and exact minima; then the library's radii to it."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

import intriguing as iq

FOLDER = Path(__file__).parents[1] / "benchmarks" / "second_opinion"
ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}
SETTINGS = [(norm, box) for norm in (2.0, math.inf) for box in (True, False)]


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.fixture(scope="module", autouse=True)
def _forgotten_afterwards():
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and Path(sys.modules[name].__file__).parent == FOLDER:
            del sys.modules[name]


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


def draws(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def random_net(sizes, activation, seed, gain=2.0):
    rng = draws(seed)
    shapes = list(zip(sizes[1:], sizes[:-1], strict=True))
    weights = tuple(gain * rng.standard_normal(shape) / math.sqrt(shape[1]) for shape in shapes)
    return module("numpy_crown").Net(weights, tuple(0.3 * rng.standard_normal(m) for m, _ in shapes), activation)


def torch_net(net):
    parts = [nn.Flatten()]
    for k, (W, b) in enumerate(zip(net.weights, net.biases, strict=True)):
        parts += [ACTIVATIONS[net.activation]()] if k else []
        layer = nn.Linear(*W.shape[::-1], dtype=torch.float64)
        layer.weight.data, layer.bias.data = torch.from_numpy(W), torch.from_numpy(b)
        parts.append(layer)
    return nn.Sequential(*parts)


def points_of(region, count, rng):
    """Draw points of a region, most of them near its border."""
    step = rng.standard_normal((count, len(region.centre)))
    if region.norm == math.inf:
        step = np.sign(step) * rng.uniform(0.5, 1, step.shape)
    else:
        step /= np.linalg.norm(step, axis=1, keepdims=True)
    points = region.centre + region.radius * step * rng.uniform(0.7, 1, (count, 1))
    return np.clip(points, 0, 1) if region.box else points  # towards the centre: it stays in the ball


# ------------------------------------------------------------------------------------------------ regions and lines


@pytest.mark.parametrize(("norm", "box"), SETTINGS)
def test_the_minimum_over_a_region_is_below_all_its_points_and_reached(norm, box):
    crown, rng = module("numpy_crown"), draws(0)
    for radius in (0.1, 0.4, 1.0, 3.0):
        region = crown.Region(rng.uniform(0, 1, 3), radius, norm, box)
        A = rng.standard_normal((4, 3))
        found = crown.Region.minimum(region, A)
        near = (points_of(region, 20_000, rng) @ A.T).min(0)
        assert (found <= near + 1e-12).all()
        # 20 000 points in three dimensions come this near to the border's best.
        assert (near - found).max() < 0.1 * radius * np.linalg.norm(A, axis=1).max()


def test_a_ball_cut_by_the_box_by_hand():
    # From (0.9, 0.5) along (1, 1): the first pixel may gain 0.1, the second sqrt(0.5^2 - 0.1^2) of the ball of 0.5.
    region = module("numpy_crown").Region(np.array([0.9, 0.5]), 0.5, 2.0, True)
    expected = -(0.9 + 0.5) - 0.1 - math.sqrt(0.25 - 0.01)
    assert region.minimum(np.array([[-1.0, -1.0]])) == pytest.approx([expected], abs=1e-12)


@pytest.mark.parametrize("middle", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_lines_hold_the_activation_between_them(activation, middle):
    crown, rng = module("numpy_crown"), draws(1)
    ends = np.sort(rng.normal(0, 4, (500, 2)), axis=1)
    ends[:20, 1] = ends[:20, 0] + 1e-9  # hardly an interval
    net = crown.Net((np.eye(1),), (np.zeros(1),), activation, middle)
    lines = net.lines(ends[:, 0], ends[:, 1])
    z = ends[:, :1] + np.linspace(0, 1, 101) * (ends[:, 1:] - ends[:, :1])
    value = crown.ACTIVATIONS[activation](z)
    assert (lines.lower_slope[:, None] * z + lines.lower_offset[:, None] <= value + 1e-9).all()
    assert (lines.upper_slope[:, None] * z + lines.upper_offset[:, None] >= value - 1e-9).all()


# ------------------------------------------------------------------------------------------------ bounds and radii


@pytest.mark.parametrize("norm", [2.0, math.inf])
def test_the_radius_of_a_linear_net_is_its_distance(norm):
    crown, rng = module("numpy_crown"), draws(2)
    net = crown.Net((rng.standard_normal((4, 30)),), (rng.standard_normal(4),), "relu")
    x = rng.uniform(0, 1, 30)
    y = int(net.logits(x[None]).argmax())
    A, c = net.differences(y)
    dual = 2 if norm == 2 else 1
    true = ((A @ x + c) / np.linalg.norm(A, dual, axis=1)).min()
    found = crown.radius(net, x, y, norm, box=False)
    assert 0.999 * true <= found <= true


@pytest.mark.parametrize(("norm", "box"), SETTINGS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_bounds_hold_at_points_of_the_region(activation, norm, box):
    crown = module("numpy_crown")
    for seed in range(3):
        rng, net = draws(seed), random_net((5, 8, 7, 3), activation, seed)
        region = crown.Region(rng.uniform(0, 1, 5), 0.3, norm, box)
        h = points_of(region, 3000, rng)
        for (l, u), W, b in zip(crown.layer_bounds(net, region), net.weights, net.biases, strict=False):  # noqa: E741
            z = h @ W.T + b
            assert (z >= l - 1e-12).all()
            assert (z <= u + 1e-12).all()
            h = crown.ACTIVATIONS[activation](z)
        A, c = net.differences(1)
        assert (h @ A.T + c >= crown.margins(net, region, 1) - 1e-12).all()


@pytest.mark.parametrize("box", [True, False])
def test_crown_is_below_the_linear_program_and_that_below_the_exact_minimum(box):
    crown, programs = module("numpy_crown"), module("linear_program")
    tolerance = 1e-6  # HiGHS keeps constraints to 1e-7, and sums of weights are about ten
    for seed in range(2):
        net = random_net((3, 5, 4, 3), "relu", seed)
        region = crown.Region(draws(seed).uniform(0, 1, 3), 0.4, math.inf, box)
        least = programs.exact_margins(net, region, 0)
        exact = np.array([m.lower for m in least])
        tight = programs.margins(net, region, 0, programs.layer_bounds(net, region))
        relaxed = programs.margins(net, region, 0)
        assert (crown.margins(net, region, 0) <= relaxed + tolerance).all()
        assert (relaxed <= tight + tolerance).all()
        assert (tight <= exact + tolerance).all()
        # The net's own margin at the minimiser is the minimum: the program is the net.
        np.testing.assert_allclose([m.value for m in least], exact, atol=1e-5)
        sampled = net.logits(points_of(region, 3000, draws(seed)))
        assert (np.delete(sampled[:, :1] - sampled, 0, axis=1).min(0) >= exact - tolerance).all()


def test_the_exact_radius_ends_at_a_wrong_point():
    crown, programs = module("numpy_crown"), module("linear_program")
    net = random_net((3, 6, 6, 3), "relu", 3)
    x = draws(3).uniform(0, 1, 3)
    y = int(net.logits(x[None]).argmax())
    true = programs.exact_radius(net, x, y, tolerance=1e-3)
    assert crown.radius(net, x, y, math.inf) <= programs.relaxed_radius(net, x, y) * 1.001 <= true * 1.002
    beyond = programs.exact_margins(net, crown.Region(x, true * 1.002, math.inf, True), y)
    worst = min(beyond, key=lambda m: m.value)
    assert net.logits(worst.point[None])[0].argmax() != y
    assert np.abs(worst.point - x).max() <= true * 1.002 + 1e-12  # rounding of the region's ends


# ------------------------------------------------------------------------------------------------ the library


@pytest.mark.parametrize(("norm", "box"), SETTINGS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_library_certifies_at_least_098_of_the_second_radius(activation, norm, box):
    crown = module("numpy_crown")
    net = random_net((12, 10, 8, 4), activation, 3)
    x = draws(3).uniform(0, 1, (2, 12))
    y = net.logits(x).argmax(1)
    found = iq.bounds.certify(torch_net(net), torch.from_numpy(x), torch.from_numpy(y), norm=norm, box=box).radius
    second = [
        crown.radius(net, row, int(label), norm, box=box, tolerance=2e-3) for row, label in zip(x, y, strict=True)
    ]
    assert (found.numpy() >= 0.98 * np.array(second)).all()


@pytest.mark.parametrize("box", [True, False])
def test_the_library_stays_within_the_exact_radius(box):
    programs = module("linear_program")
    net = random_net((3, 5, 5, 3), "relu", 4)
    x = draws(4).uniform(0, 1, (1, 3))
    y = net.logits(x).argmax(1)
    found = iq.bounds.certify(torch_net(net), torch.from_numpy(x), torch.from_numpy(y), norm=math.inf, box=box).radius
    true = [
        programs.exact_radius(net, row, int(label), box=box, tolerance=1e-3) for row, label in zip(x, y, strict=True)
    ]
    assert (found.numpy() <= np.array(true) * (1 + 2e-3)).all()  # the truth is from below, to 1e-3 of itself

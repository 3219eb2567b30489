"""Attacks of fixed size on nets whose best attack is known, and what every result of theirs must keep to.

For two classes and logits W x + b the margin falls fastest along w = w_other - w_label. With d_i the room of pixel i in
the box in the direction of w_i, the most it can change by is sum |w_i| min(eps, d_i) in Linf, a greedy sum in L1, and
in L2 the maximum of w.r over |r| <= eps and the box, which SciPy finds on its dual.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_nets import Counting, digits, linear, random_linear, seeded, sigmoid_net
from torch import Tensor, nn

import truth
from intriguing import attacks
from intriguing.attacks import APGD, FGSM, LBFGS, PGD, L1Adam, Square, TargetedAPGD, UniformNoise, WorstOf, worst_of
from intriguing.attacks.apgd import checkpoints
from intriguing.attacks.ball import Ball
from intriguing.attacks.base import Attack
from intriguing.attacks.losses import LOSSES, loss_of, targeted_dlr
from intriguing.errors import InputError, ModelError, UnknownNameError
from intriguing.nets.load import Model
from intriguing.rng import Streams

NORMS = [math.inf, 2, 1]


def two_classes(seed: int = 0, count: int = 60) -> tuple[nn.Sequential, Tensor, Tensor]:
    """Return a linear net of two classes in float64, digits, and the answers of the net."""
    images = digits()[0][seed :: len(digits()[0]) // count][:count].double()
    draw = seeded(seed)
    w = torch.randn(64, generator=draw, dtype=torch.float64)
    b = -(images.flatten(1) @ w).median()
    net = linear(torch.stack((0 * w, w)), torch.stack((0 * b, b)))
    return net, images, net(images).argmax(1)


def most(net: nn.Sequential, images: Tensor, labels: Tensor, eps: float, norm: float) -> np.ndarray:
    """Return by how much the margin towards the other class can grow in the ball and the box, (N,)."""
    weight = net[1].weight.detach().double().numpy()
    gains = []
    for x, label in zip(images.flatten(1).double().numpy(), labels.tolist(), strict=True):
        w = weight[1 - label] - weight[label]
        room = np.where(w > 0, 1 - x, x)
        if norm == math.inf:
            gains.append(np.abs(w) @ np.minimum(eps, room))
        elif norm == 1:
            order = np.argsort(-np.abs(w))
            before = np.cumsum(room[order]) - room[order]
            gains.append(np.abs(w)[order] @ np.clip(eps - before, 0, room[order]))
        else:
            # max a.r - m (|r|^2 - eps^2) / 2 over 0 <= r <= room: r = min(a / m, room), minimised over m > 0.
            a = np.abs(w)

            def dual(log_m: float, a: np.ndarray = a, room: np.ndarray = room) -> float:
                m = math.exp(log_m)
                r = np.minimum(a / m, room)
                return float(a @ r - m * (r @ r - eps**2) / 2)

            gains.append(scipy.optimize.minimize_scalar(dual, bounds=(-12, 8), options={"xatol": 1e-10}).fun)
    return np.array(gains)


class Watching(nn.Module):
    """A net of two classes that notes the largest lead of the class that is not the label, image by image."""

    def __init__(self, net: nn.Module, labels: Tensor) -> None:
        super().__init__()
        self.net, self.labels = net, labels
        self.best = np.full(len(labels), -np.inf)

    def lead(self, z: Tensor) -> np.ndarray:
        rows = torch.arange(len(z))
        return (z[rows, 1 - self.labels] - z[rows, self.labels]).detach().numpy()

    def forward(self, images: Tensor) -> Tensor:
        z = self.net(images)
        if len(z):  # all images or none: none of them is ever broken
            self.best = np.maximum(self.best, self.lead(z))
        return z


def reached(attack: Attack, norm: float, eps: float) -> np.ndarray:
    """Return the share of the largest gain that an attack comes to, on images that hold against all of them."""
    net, images, labels = two_classes()
    start, gain = Watching(net, labels).lead(net(images)), most(net, images, labels, eps, norm)
    held = torch.from_numpy(start + gain < 0)
    assert held.sum() >= 10
    net = Watching(net, labels[held])
    result = attack(net, images[held], labels[held], generator=seeded(1))
    assert not result.found.any()
    return (net.best - start[held.numpy()]) / gain[held.numpy()]


EPS = {math.inf: 0.01, 2: 0.05, 1: 0.12}
WHITE = {
    "fgsm": lambda eps, norm: FGSM(eps, norm),
    "pgd": lambda eps, norm: PGD(eps, norm, steps=60, step=eps / 2),
    "pgd, margin": lambda eps, norm: PGD(eps, norm, steps=60, step=eps, loss="margin", schedule="cosine"),
    "apgd": lambda eps, norm: APGD(eps, norm, steps=60),
    "apgd-t": lambda eps, norm: TargetedAPGD(eps, norm, steps=60),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", WHITE)
def test_the_optimum_of_a_linear_net_is_reached(name: str, norm: float) -> None:
    share = reached(WHITE[name](EPS[norm], norm), norm, EPS[norm])
    assert (share <= 1 + 1e-9).all()
    if norm == math.inf:
        assert (share >= 1 - 1e-9).all()
    elif name == "fgsm":
        # One step along the L2 gradient: what the box takes away is lost to it, and in L1 it is no steepest one.
        assert share.mean() >= (0.8 if norm == 2 else 0.4), share
    else:
        assert (share >= 0.999).all(), share.min()


@pytest.mark.parametrize("norm", [math.inf, 2])
def test_square_attack_comes_close_to_the_optimum_and_never_passes_it(norm: float) -> None:
    share = reached(Square(EPS[norm], norm, steps=600), norm, EPS[norm])
    assert (share <= 1 + 1e-9).all()
    # The weights are independent from pixel to pixel, which suits squares worst: each pixel's sign must be found.
    assert np.median(share) >= (0.9 if norm == math.inf else 0.6)
    noise = reached(UniformNoise(EPS[norm], norm, draws=200), norm, EPS[norm])
    assert (share > noise).all()


@pytest.mark.parametrize("seed", range(2))
def test_robust_accuracy_of_a_linear_net_is_exact(seed: int) -> None:
    """In L2 against the quadratic program of ten classes; a margin of 0.1% on both sides is left out."""
    images = digits()[0][seed::100]
    net = random_linear(seed=seed, scale=0.5)
    labels = net(images).argmax(1)
    weight, bias = (tensor.detach().double().numpy() for tensor in (net[1].weight, net[1].bias))
    exact = np.array(
        [
            min(truth.nearest_linear(x, weight, bias, t).distance for t in range(10) if t != label)
            for x, label in zip(images.flatten(1).double().numpy(), labels.tolist(), strict=True)
        ]
    )
    eps = float(np.median(exact))
    result = TargetedAPGD(eps, 2, steps=50)(Model(net), images, labels, generator=seeded())
    clear = np.abs(exact / eps - 1) > 1e-3
    assert clear.sum() >= 0.9 * len(images)
    np.testing.assert_array_equal(result.found.numpy()[clear], (exact < eps)[clear])
    assert result.at(eps).robust_accuracy[0] == pytest.approx(np.mean(exact >= eps), abs=2 / len(images))


def test_fgsm_is_its_formula() -> None:
    images, labels = (tensor[1000:1100] for tensor in digits())
    net = sigmoid_net()
    result = attacks.fgsm(net, images, labels, eps=0.2)
    x = images.clone().requires_grad_()
    nn.functional.cross_entropy(net(x), labels, reduction="sum").backward()
    by_hand = (images + 0.2 * x.grad.sign()).clamp(0, 1)
    right = net(images).argmax(1) == labels
    assert torch.equal(result.found, right & (net(by_hand).argmax(1) != labels))
    torch.testing.assert_close(result.adversarial[result.found], by_hand[result.found], rtol=0, atol=1e-6)
    assert (result.forwards + result.backwards <= 5).all()


def test_a_targeted_attack_reaches_its_class_alone() -> None:
    images, labels = (tensor[1000:1060] for tensor in digits())
    target = (labels + 1) % 10
    for attack in (
        FGSM(0.5, target=target),
        PGD(0.5, target=target),
        APGD(0.5, target=target),
        TargetedAPGD(0.5, target=target),
    ):
        result = attack(Model(sigmoid_net()), images, labels, generator=seeded())
        assert torch.equal(result.target[result.found], target[result.found])
        assert isinstance(attack, FGSM) or result.found.sum() >= 50, attack


@pytest.mark.parametrize("name", ["fgsm", "pgd", "apgd", "apgd-t", "square", "gaussian-noise", "uniform-noise"])
@settings(max_examples=8, deadline=None)
@given(
    norm=st.sampled_from(NORMS),
    dtypes=st.sampled_from([("float32", "float32"), ("float64", "float32"), ("float32", "float64")]),
    eps=st.floats(1e-4, 1.5),
    seed=st.integers(0, 99),
    box=st.sampled_from([(0.0, 1.0), (-3.0, 2.0)]),
)
def test_no_example_is_larger_than_eps(
    name: str, norm: float, dtypes: tuple[str, str], eps: float, seed: int, box: tuple[float, float]
) -> None:
    """For images in one dtype and a net in another, so steep that nearly any change is a success."""
    if name == "square" and norm == 1:
        return
    given_in, works_in = (getattr(torch, dtype) for dtype in dtypes)
    low, high = box
    images = low + (high - low) * torch.rand(8, 2, 3, 3, generator=seeded(seed), dtype=torch.float64).to(given_in)
    images = (images * 2 - (low + high) / 2).clamp(low, high)  # many pixels at their bounds
    layer = nn.Linear(18, 3, dtype=works_in)
    with torch.no_grad():
        layer.weight.copy_(200 * torch.randn(3, 18, generator=seeded(seed + 1)))
        layer.bias.zero_()
    extra: dict[str, Any] = {"steps": 3} if name in ("pgd", "apgd", "apgd-t", "square") else {}
    extra |= {"draws": 5} if "noise" in name else {}
    attack = attacks.ATTACKS[name](eps=eps, norm=norm, **extra)
    result = attack(Model(nn.Sequential(nn.Flatten(), layer), box=box), images, generator=seeded(seed))
    r = (result.adversarial.double() - images.double()).flatten(1)
    assert (torch.linalg.vector_norm(r, ord=norm, dim=1) <= eps * (1 + 1e-12)).all()
    assert (result.adversarial >= low).all()
    assert (result.adversarial <= high).all()
    # What is found at the very edge is not lost to rounding either: it is never refused at the end.
    assert result.found.sum() == (result.first_success >= 0).sum()


@pytest.mark.parametrize("norm", NORMS)
def test_random_points_fill_the_ball(norm: float) -> None:
    """Their size over eps has the distribution of u^(1/n), and its mean n / (n + 1); their mean is the image."""
    centre = torch.full((4000, 3), 0.5, dtype=torch.float64)
    centre[:, 0] += torch.linspace(0, 1e-3, 4000)  # equal images would get equal numbers
    ball = Ball(centre, 0.1, norm, (0.0, 1.0), torch.float64)
    r = ball.random(Streams(seeded(), centre), torch.arange(4000), 0) - centre
    size = torch.linalg.vector_norm(r, ord=norm, dim=1)
    assert size.max() <= 0.1
    share = (size / 0.1) ** 3
    assert abs(share.mean() - 0.5) < 0.02  # 4 standard errors of a uniform mean
    assert (r.mean(0).abs() < 0.004).all()


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
@pytest.mark.parametrize("name", [*LOSSES, "targeted"])
def test_losses_grow_towards_success_and_pass_a_gradient(classes: int, name: str) -> None:
    z = torch.randn(50, classes, generator=seeded(classes), dtype=torch.float64).requires_grad_()
    label = z.argmax(1)
    target = (label + 1) % classes
    for wanted in (torch.full_like(label, -1), target):
        loss = targeted_dlr(label, target) if name == "targeted" else loss_of(name, label, wanted)
        value = loss(z)
        (gradient,) = torch.autograd.grad(value.sum(), z)
        assert value.shape == (50,)
        assert gradient.abs().amax(1).min() > 0
        # A step along the gradient brings a mistake nearer: the label falls against the best other class, or the
        # wanted class rises.
        after = loss(z + 1e-6 * gradient)
        assert (after > value).all()
    if name in ("dlr", "targeted"):
        torch.testing.assert_close(loss(7 * z), loss(z) if classes > 2 else 7 * loss(z))


def test_dlr_is_the_papers() -> None:
    """Equations 6 and 7 of Croce and Hein 2020 by hand, with the sign of a loss that is climbed."""
    z = torch.tensor([[5.0, 1.0, 3.0, 2.0, 0.0]])
    label, target = torch.tensor([0]), torch.tensor([3])
    assert loss_of("dlr", label, torch.tensor([-1]))(z).item() == pytest.approx(-(5 - 3) / (5 - 2))
    assert targeted_dlr(label, target)(z).item() == pytest.approx(-(5 - 2) / (5 - (2 + 1) / 2))
    tied = torch.ones(1, 5, requires_grad=True)
    assert targeted_dlr(label, target)(tied).isfinite().all()


def test_checkpoints_are_the_papers() -> None:
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1) == []
    for steps in range(1, 60):
        found = checkpoints(steps)
        assert found == sorted(set(found))
        assert all(0 < w < steps for w in found)


def test_apgd_halves_its_steps_and_goes_back_to_the_best_point() -> None:
    """On a ridge that steps of 2 eps jump across, PGD with such steps stays off the top and Auto-PGD climbs it."""

    def ridge(x: Tensor) -> Tensor:
        flat = x.flatten(1)
        height = -((flat[:, 0] - 0.53).abs() + (flat[:, 1] - 0.47).abs())
        return torch.stack((torch.ones_like(height), height), 1)

    images = torch.full((1, 1, 1, 4), 0.5, dtype=torch.float64)

    def top(attack: Attack) -> float:
        best = -math.inf

        def watching(x: Tensor) -> Tensor:
            nonlocal best
            best = max([best, *ridge(x)[:, 1].tolist()])
            return ridge(x)

        attack(Model(watching), images, generator=seeded())
        return best

    assert top(PGD(0.1, steps=100, step=0.2)) < -0.03
    assert top(APGD(0.1, steps=100)) > -0.003


@pytest.mark.parametrize("norm", [math.inf, 2])
def test_square_attack_takes_nets_without_gradients_and_vectors(norm: float) -> None:
    images, labels = (tensor[1000:1040] for tensor in digits())
    net = sigmoid_net()

    def steps_only(x: Tensor) -> Tensor:
        return net((x * 16).round() / 16).detach()

    eps = {math.inf: 0.25, 2: 1.5}[norm]
    with pytest.raises(ModelError, match="gradient"):
        attacks.pgd(Model(steps_only), images, labels, eps=eps, generator=seeded())
    for x in (images, images.flatten(1)):
        result = attacks.square(Model(steps_only), x, labels, eps=eps, norm=norm, steps=300, generator=seeded())
        assert result.found.sum() >= 30
        assert not result.backwards.any()


def test_restarts_only_add() -> None:
    images, labels = (tensor[1000:1100] for tensor in digits())
    net = sigmoid_net()
    few = PGD(0.08, steps=10)(Model(net), images, labels, generator=seeded())
    many = PGD(0.08, steps=10, restarts=5)(Model(net), images, labels, generator=seeded())
    assert torch.equal(few.found & many.found, few.found)
    assert (many.forwards >= few.forwards).all()
    torch.testing.assert_close(many.adversarial[few.found], few.adversarial[few.found])


def test_the_worst_of_attacks_is_the_worst_of_each() -> None:
    images, labels = (tensor[1000:1120] for tensor in digits())
    eps = 0.09
    parts = (FGSM(eps), Square(eps, steps=100), APGD(eps, steps=20))
    model = Model(sigmoid_net())
    whole = worst_of(parts, eps=eps)(model, images, labels, generator=seeded())
    alone = [part(model, images, labels, generator=seeded()) for part in parts]
    # The noise of a part differs with what was drawn before it, so the first two alone must agree exactly.
    fgsm, squares = alone[0].found, alone[1].found
    assert torch.equal(whole.found & (fgsm | squares), fgsm | squares)
    assert torch.equal(whole.forwards[fgsm], alone[0].forwards[fgsm])  # left out of the others
    later = squares & ~fgsm
    paid = (alone[0].forwards + alone[1].forwards - 1)[later]  # one clean pass; FGSM judged nothing here
    assert torch.equal(whole.forwards[later], paid)
    assert whole.norm == math.inf


def test_the_worst_of_attacks_without_a_radius_is_the_nearest_of_all() -> None:
    images, labels = (tensor[1000:1040] for tensor in digits())
    model = Model(sigmoid_net())
    parts = (LBFGS(target="nearest"), PGD(1.5, 2, steps=20))
    whole = worst_of(parts)(model, images, labels, generator=seeded())
    alone = [part(model, images, labels, generator=seeded()) for part in parts]
    torch.testing.assert_close(whole.distance, torch.minimum(*(part.distance for part in alone)), rtol=1e-6, atol=0)
    assert torch.equal(whole.forwards - alone[0].forwards, (alone[1].forwards - 2) * whole.found)


def test_the_worst_of_attacks_draws_its_targets_once() -> None:
    images, labels = (tensor[1000:1020] for tensor in digits())
    model = Model(sigmoid_net())
    result = worst_of([FGSM(0.3), PGD(0.5, steps=10)], target="random")(model, images, labels, generator=seeded(3))
    wanted = attacks.PGD(0.5, target="random", steps=10)(model, images, labels, generator=seeded(3))
    both = result.found & wanted.found
    assert both.sum() >= 5
    assert torch.equal(result.target[both], wanted.target[both])


@pytest.mark.parametrize("budget", [1, 4, 9, 60, 400])
def test_the_worst_of_attacks_keeps_to_one_budget(budget: int) -> None:
    images, labels = (tensor[1000:1010] for tensor in digits())
    counting = Counting(sigmoid_net())
    attack = WorstOf((FGSM(0.5, 2), LBFGS(target="top-2"), L1Adam(steps=40), APGD(0.5, 2)), budget=budget)
    result = attack(counting, images, labels, generator=seeded())
    assert (counting.forwards, counting.backwards) == (result.forwards.sum(), result.backwards.sum())
    assert (result.forwards + result.backwards <= budget).all()


def test_the_ensemble_is_never_weaker_than_pgd() -> None:
    """Auto-PGD, its targeted form and Square Attack against PGD of 100 steps, image by image counted as a whole."""
    images, labels = (tensor[1000:1030] for tensor in digits())
    model = Model(sigmoid_net())
    for eps, norm in ((0.08, math.inf), (0.5, 2)):
        ensemble = worst_of([APGD(eps, norm), TargetedAPGD(eps, norm), Square(eps, norm, steps=20)], eps=eps)
        strong = ensemble(model, images, labels, generator=seeded()).at(eps).robust_accuracy[0]
        plain = PGD(eps, norm, steps=100)(model, images, labels, generator=seeded()).at(eps).robust_accuracy[0]
        assert 0 < strong <= plain


def test_bad_parameters_are_named() -> None:
    images, labels = (tensor[:4] for tensor in digits())
    model = Model(sigmoid_net())
    cases: list[tuple[type[Exception], str, Any]] = [
        (InputError, "eps", lambda: PGD(-1.0)),
        (InputError, "steps", lambda: APGD(0.1, steps=0)),
        (InputError, "norm", lambda: Square(0.1, 1)),
        (InputError, "norm", lambda: PGD(0.1, 3)),
        (UnknownNameError, "cross-entropy", lambda: PGD(0.1, loss="cross")),
        (UnknownNameError, "cosine", lambda: PGD(0.1, schedule="cos")),
        (InputError, "target", lambda: PGD(0.1, target="all")),
        (InputError, "attacks", lambda: WorstOf(())),
        (InputError, "one norm", lambda: worst_of([PGD(0.1), PGD(0.1, 2)])),
        (InputError, "eps", lambda: worst_of([PGD(0.1)], eps=0.2)),
        (InputError, "budget", lambda: worst_of([PGD(0.1, budget=9)])),
        (InputError, "steps", lambda: worst_of([PGD(0.1, steps=-1)])),
    ]
    for error, words, make in cases:
        with pytest.raises(error, match=words):
            make()(model, images, labels, generator=seeded())
    for attack in (PGD(0.1), FGSM(0.1, random_start=True), worst_of([Square(0.1)])):
        with pytest.raises(InputError, match="generator"):
            attack(model, images, labels)

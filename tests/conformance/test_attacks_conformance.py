"""What every registered attack must do, whatever its method: a new attack is covered by being registered."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from intriguing.attacks import ATTACKS, FGSM, LBFGS, PGD, AttackResult, AttackStatus, WorstOf
from intriguing.attacks.caller import Caller
from intriguing.errors import DataError, InputError, IntriguingError, ModelError, NetFailedError
from intriguing.nets.load import Model

N, K = 12, 4

# Parameters by name, of attacks that need some: large enough to find something on the net below, few enough steps to
# be quick.
QUICK: dict[str, dict[str, Any]] = {
    "fgsm": {"eps": 0.8},
    "pgd": {"eps": 0.6, "steps": 50},
    "square": {"eps": 0.8, "steps": 400},
    "apgd": {"eps": 0.6, "steps": 50},
    "apgd-t": {"eps": 0.6, "steps": 50},
    "gaussian-noise": {"eps": 3.0},
    "uniform-noise": {"eps": 1.0},
    "lbfgs-l1": {"solves": 3},
    "lbfgs-linf": {"solves": 3},
    "worst-of": {"attacks": (FGSM(1.5, 2), LBFGS(), PGD(1.5, 2, steps=50)), "eps": 1.5},
}


@dataclasses.dataclass(frozen=True)
class LBFGSInL1(LBFGS):
    norm: float = 1.0


@dataclasses.dataclass(frozen=True)
class LBFGSInLinf(LBFGS):
    norm: float = math.inf


KINDS = {**ATTACKS, "worst-of": WorstOf, "lbfgs-l1": LBFGSInL1, "lbfgs-linf": LBFGSInLinf}
GIVEN = {KINDS[name]: parameters for name, parameters in QUICK.items()}

attack_types = pytest.mark.parametrize("kind", [pytest.param(kind, id=name) for name, kind in KINDS.items()])


# Fewer steps than by default, where the default is for real nets; with a budget the steps follow from it.
_FEWER: dict[str, dict[str, Any]] = {
    "ddn": {"steps": 60},
    "fmn": {"steps": 60},
    "fab": {"steps": 20},
    "alma": {"steps": 60},
    "pdgd": {"steps": 60},
    "carlini-wagner": {"steps": 25, "searches": 4, "rate": 0.05, "first": 0.1},
}
FEWER = {ATTACKS[name]: parameters for name, parameters in _FEWER.items()}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_net(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Return a net of 2 x 3 x 3 colours with a convolution, fixed weights and every class in reach."""
    with torch.device("meta"):
        net = nn.Sequential(nn.Conv2d(2, 6, 2), nn.Tanh(), nn.Flatten(), nn.Linear(24, K))
    net = net.to_empty(device="cpu")
    draw = seeded(3)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.7)
        net[3].bias.zero_()
    return net.to(dtype)


def case(dtype: torch.dtype = torch.float32) -> tuple[Model, Tensor, Tensor]:
    images = torch.rand(N, 2, 3, 3, generator=seeded(1)).to(dtype)
    model = Model(small_net(dtype))
    labels = model.predict(images)
    labels[0] = (labels[0] + 1) % K
    return model, images, labels


def run(kind: Any, model: Any, images: Tensor, labels: Tensor, **parameters: Any) -> AttackResult:
    fewer = {} if "budget" in parameters else FEWER.get(kind, {})
    result = kind(**{**GIVEN.get(kind, {}), **fewer, **parameters})(model, images, labels, generator=seeded(2))
    assert isinstance(result, AttackResult)
    return result


def columns(result: AttackResult) -> dict[str, Tensor]:
    """Return everything the result says of each image."""
    return {name: field for name, field in vars(result).items() if isinstance(field, Tensor)}


@attack_types
def test_it_describes_itself_and_is_frozen(kind: Any) -> None:
    assert isinstance(kind.description, str)
    assert kind.description
    assert "\n" not in kind.description
    assert dataclasses.is_dataclass(kind)
    attack = kind(**GIVEN.get(kind, {}))
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(attack, dataclasses.fields(kind)[0].name, None)
    assert kind(**GIVEN.get(kind, {})) == attack


@attack_types
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_its_success_is_true(kind: Any, dtype: torch.dtype) -> None:
    model, images, labels = case(dtype)
    result = run(kind, model, images, labels)
    assert result.adversarial.shape == images.shape
    assert result.adversarial.dtype == dtype
    assert ((result.adversarial >= 0) & (result.adversarial <= 1)).all()
    assert result.status[0] == int(AttackStatus.ALREADY_WRONG)
    assert result.distance[0] == 0
    assert torch.equal(result.adversarial[0], images[0])
    found = result.found
    assert found.sum() >= N // 2
    answers = model.predict(result.adversarial)
    assert (answers[found] != labels[found]).all()
    assert torch.equal(answers[found], result.target[found])
    exact = (result.adversarial.double() - images.double()).flatten(1).norm(dim=1)
    torch.testing.assert_close(result.distance[found], exact[found], rtol=1e-9, atol=0)
    torch.testing.assert_close(result.distortion, result.distance / 18**0.5, rtol=1e-9, atol=0)
    changed = (result.adversarial.double() - images.double()).flatten(1).abs()
    torch.testing.assert_close(result.distance_l1[found], changed.sum(1)[found], rtol=1e-9, atol=0)
    torch.testing.assert_close(result.distance_linf[found], changed.amax(1)[found], rtol=1e-9, atol=0)
    assert torch.equal(result.first_success >= 0, found)
    assert (result.first_success <= result.forwards + result.backwards).all()
    assert torch.equal(result.images, images)
    assert torch.equal(result.labels, labels)
    assert (result.distance_search >= result.distance * (1 - 1e-6)).all()
    for name, field in columns(result).items():
        assert len(field) == N, name
        assert not field.requires_grad, name


@attack_types
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("coarse", [True, False])
def test_a_net_of_half_precision_is_searched_in_float32(kind: Any, dtype: torch.dtype, coarse: bool) -> None:
    model, images, labels = case(dtype)
    images = images if coarse else images.float()
    result = run(kind, model, images, labels)
    assert result.adversarial.dtype == torch.float32
    found = result.found
    # Those that stop right at the boundary meet its rounding there: a hundredth of the logits in bfloat16.
    assert found.sum() >= N // 3
    assert (model.predict(result.adversarial)[found] != labels[found]).all()
    exact = (result.adversarial.double() - images.double()).flatten(1).norm(dim=1)
    torch.testing.assert_close(result.distance[found], exact[found], rtol=1e-9, atol=0)
    if kind is ATTACKS["nearest"]:  # only the rounding is lost
        wide = run(kind, *case()).distance
        assert (result.distance[found] <= wide[found] + 4 * torch.finfo(dtype).eps).all()


@attack_types
def test_a_net_may_answer_in_more_digits_than_it_computes_in(kind: Any) -> None:
    model, images, labels = case()
    result = run(kind, Model(lambda x: model(x).double()), images, labels, budget=60)
    for name, field in columns(run(kind, model, images, labels, budget=60)).items():
        assert torch.equal(field, getattr(result, name)), name


class _Cramped(nn.Module):
    """A net with memory for `most` rows at a time, of both passes or of the backward pass alone; row by row."""

    def __init__(self, net: nn.Module, most: int, *, backward: bool = False) -> None:
        super().__init__()
        self.net, self.most, self.backward = net, most, backward

    def forward(self, x: Tensor) -> Tensor:
        if self.backward and x.requires_grad:
            x.register_hook(self._fit)
        if not self.backward:
            self._fit(x)
        # Products of another number of rows would round differently.
        return torch.cat([self.net(row[None]) for row in x])

    def _fit(self, x: Tensor) -> None:
        if len(x) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")


@attack_types
@pytest.mark.parametrize("backward", [False, True])
def test_memory_that_runs_out_makes_its_batches_smaller_and_changes_nothing(kind: Any, backward: bool) -> None:
    model, images, labels = case()
    enough = run(kind, _Cramped(model.net, 10**6), images, labels, budget=40)
    result = run(kind, _Cramped(model.net, 5, backward=backward), images, labels, budget=40)
    for name, field in columns(enough).items():
        assert torch.equal(field, getattr(result, name)), name


@attack_types
def test_an_image_too_large_for_the_memory_is_told_by_name(kind: Any) -> None:
    model, images, labels = case()
    with pytest.raises(NetFailedError, match=r"ran out of memory on cpu with a single image of shape \(2, 3, 3\)"):
        run(kind, _Cramped(model.net, 0), images, labels, budget=40)


@attack_types
def test_it_repeats_itself(kind: Any) -> None:
    model, images, labels = case()
    first, second = run(kind, model, images, labels), run(kind, model, images, labels)
    for name, field in columns(first).items():
        assert torch.equal(field, getattr(second, name)), name


@attack_types
def test_it_leaves_net_images_and_randomness_alone(kind: Any) -> None:
    model, images, labels = case()
    net = model.net
    net.train()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    before, randomness = images.clone(), torch.get_rng_state()
    run(kind, net, images, labels)
    assert net.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), randomness)


@attack_types
@pytest.mark.parametrize("budget", [1, 3, 20, 75])
def test_it_keeps_to_its_budget(kind: Any, budget: int) -> None:
    model, images, labels = case()
    forwards = backwards = 0

    def counting(x: Tensor) -> Tensor:
        nonlocal forwards
        forwards += len(x)
        if x.requires_grad:
            x = x.clone()
            x.register_hook(count)
        return model(x)

    def count(gradient: Tensor) -> None:
        nonlocal backwards
        backwards += len(gradient)

    result = run(kind, Model(counting), images, labels, budget=budget)
    assert forwards == result.forwards.sum()
    assert backwards == result.backwards.sum()
    assert (result.forwards + result.backwards <= budget).all()
    lost = ~result.found & result.attacked
    assert (result.status[lost] == int(AttackStatus.BUDGET_SPENT)).all()


class _NeverEmpty(nn.Module):
    """A net whose reshape has no answer for a batch of none, as many have; sure of class 0 everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.view(x.shape[0], -1)
        return torch.stack([100 + flat.sum(1), flat[:, 0], -flat[:, 1], flat.square().sum(1)], 1)


@attack_types
@pytest.mark.parametrize("right", [True, False])
def test_a_net_is_never_asked_about_no_image_at_all(kind: Any, right: bool) -> None:
    x = torch.rand(3, 2, 3, 3, generator=seeded())
    labels = torch.full((3,), 0 if right else 1)
    result = run(kind, Model(_NeverEmpty()), x, labels)
    assert not bool(result.found.any())
    assert bool((result.attacked == right).all())
    assert not bool(result.quantized(256).found.any())


@attack_types
def test_one_image_never_changes_the_fate_of_another(kind: Any) -> None:
    model, images, labels = case()
    target = (labels + 1) % K
    target[0] = (labels[0] + 1) % K
    whole = run(kind, model, images, labels, target=target)
    for i in range(0, N, 3):
        one = slice(i, i + 1)
        alone = run(kind, model, images[one], labels[one], target=target[one])
        assert alone.status.item() == whole.status[i].item()
        # Products of another size round differently; the search over c may end one step of 5% apart.
        torch.testing.assert_close(alone.distance, whole.distance[one], rtol=0.01, atol=0)


@attack_types
def test_the_default_dtype_of_the_caller_changes_nothing(kind: Any) -> None:
    model, images, labels = case()
    given: list[torch.dtype] = []

    def watched(x: Tensor) -> Tensor:
        given.append(torch.get_default_dtype())
        return model(x)

    plain = run(kind, Model(watched), images, labels, budget=60)
    assert set(given) == {torch.float32}
    given.clear()
    torch.set_default_dtype(torch.float64)
    try:
        result = run(kind, Model(watched), images, labels, budget=60)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert set(given) == {torch.float64}
    for name, field in columns(plain).items():
        assert torch.equal(field, getattr(result, name)), name


@attack_types
def test_the_autocast_of_the_caller_is_that_of_the_net_alone(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images, labels = case()

    def narrow(x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(x)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = run(kind, model, images, labels, budget=60)
        assert torch.is_autocast_enabled("cpu")
    found = result.found
    assert (Model(narrow).predict(result.adversarial)[found] != labels[found]).all()
    # The coarse logits count only beyond their rounding, which no attack can know of a net that narrows by itself.
    monkeypatch.setattr(Caller, "eps", lambda self, dtype: torch.finfo(dtype).eps)
    inside = run(kind, Model(narrow), images, labels, budget=60)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        around = run(kind, model, images, labels, budget=60)
    for name, field in columns(inside).items():
        assert torch.equal(field, getattr(around, name)), name


@attack_types
def test_inference_mode_is_told_apart_from_a_net_without_gradients(kind: Any) -> None:
    model, images, labels = case()
    with torch.inference_mode():
        inside, classes = images.clone(), labels.clone()
        if kind.needs_gradients:
            with pytest.raises(InputError, match=r"torch.inference_mode is on.*torch\.inference_mode\(False\)"):
                run(kind, model, images, labels, budget=60)
        else:
            assert run(kind, model, images, labels, budget=60).found.any()
        with torch.inference_mode(False):
            result = run(kind, model, inside, classes, budget=60)
    for name, field in columns(run(kind, model, images, labels, budget=60)).items():
        assert torch.equal(field, getattr(result, name)), name


@attack_types
@pytest.mark.parametrize("budget", [0, -1, 1.5, 1e9, math.inf, math.nan, True, "x", 2**63])
def test_a_budget_that_is_no_count_is_refused(kind: Any, budget: Any) -> None:
    attack = kind(**{**GIVEN.get(kind, {}), "budget": budget})
    with pytest.raises(InputError, match="budget: expected a whole number of at least 1, got"):
        attack.check()


@attack_types
def test_it_refuses_what_it_cannot_use(kind: Any) -> None:
    model, images, labels = case()
    broken = images.clone()
    broken[1, 0, 0, 0] = torch.nan
    outside = images.clone()
    outside[1, 0, 0, 0] = 1.5
    cases: list[tuple[type[IntriguingError], Any, Tensor, Tensor]] = [
        (DataError, model, broken, labels),
        (DataError, model, outside, labels),
        (DataError, model, (images * 255).to(torch.uint8), labels),
        (DataError, model, images[:0], labels[:0]),
        (DataError, model, images, labels + K),
        (InputError, model, images, labels[:-1]),
        (InputError, model, images, labels.float()),
        (ModelError, Model(lambda x: torch.full((len(x), K), torch.nan)), images, labels),
        (ModelError, Model(lambda x: torch.zeros(len(x) + 1, K)), images, labels),
        (InputError, "a net", images, labels),
    ]
    for error, net, x, y in cases:
        with pytest.raises(error) as raised:
            run(kind, net, x, y)
        assert len(str(raised.value)) > 20

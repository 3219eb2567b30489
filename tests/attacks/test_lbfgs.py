"""The attack as a whole: what it may spend, what it returns, and what it leaves behind.

Its distances against the exact optimum of linear nets are in `test_linear_truth.py`.
"""

from __future__ import annotations

import copy
import math
import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from small_nets import (
    Counting,
    Failing,
    NaNOffGrid,
    Recording,
    digits,
    linear,
    random_linear,
    seeded,
    sigmoid_net,
)
from torch import Tensor, nn

from intriguing.attacks import LBFGS, AttackResult, AttackStatus, Nearest, Phase, lbfgs
from intriguing.attacks.problem import margin
from intriguing.errors import DataError, InputError, ModelError, UnknownNameError
from intriguing.nets.load import Model
from intriguing.optim import minimize

RULES = ("random", "nearest", "top-3", "all")
OBJECTIVES = ("cross-entropy", "hinge")
BUDGETS = (1, 2, 5, 12, 13, 14, 25, 60, 200)
# Matrix products of another size round differently. That may turn the sign of a margin that is nearly zero, and
# then c moves by its relative width, 5%; the distance moves by less, and 0.006% was the most seen.
ROUNDING = 0.01


def search(
    model: Model | nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator | None = None,
    progress: object = None,
    **how: object,
) -> AttackResult:
    """Run the paper's search, whatever the rule for the targets."""
    return LBFGS(**how)(model, images, labels, generator=generator, progress=progress)  # type: ignore[arg-type]


def attack_one(net: nn.Module, image: int, **how: object) -> AttackResult:
    images, labels = digits()
    return search(net, images[image : image + 1], labels[image : image + 1], **how)  # type: ignore[arg-type]


def right(net: nn.Module, count: int, skip: int = 0) -> tuple[Tensor, Tensor]:
    """Return the first digits that the net gets right."""
    images, labels = digits()
    with torch.no_grad():
        ids = (net(images).argmax(1) == labels).nonzero().flatten()[skip : skip + count]
    return images[ids], labels[ids]


def judge(model: Model, images: Tensor, labels: Tensor, result: AttackResult) -> None:
    """Hold every field of a result against the images returned and the net alone."""
    N = len(images)
    low, high = model.box
    adversarial, found = result.adversarial, result.found
    assert adversarial.shape == images.shape
    assert adversarial.dtype == torch.promote_types(images.dtype, torch.float32)
    assert not adversarial.requires_grad
    assert ((adversarial >= low) & (adversarial <= high)).all()
    for field in (result.target, result.status, result.forwards, result.backwards, result.phase):
        assert field.shape == (N,)
        assert field.dtype == torch.int64
    for field in (result.distance, result.distortion, result.distance_search):
        assert field.shape == (N,)
        assert field.dtype == torch.float64
    with torch.no_grad():
        # One image at a time: how the net rounds must not depend on the batch the attack judged in.
        answers = torch.tensor([int(model(x[None].to(model.dtype)).argmax()) for x in adversarial])
    wrong = result.status == int(AttackStatus.ALREADY_WRONG)
    assert torch.equal(answers[found], result.target[found])
    assert (result.target[found] != labels[found]).all()
    assert torch.equal(answers[wrong], result.target[wrong])
    assert (answers[wrong] != labels[wrong]).all()
    assert torch.equal(adversarial[~found], images[~found])
    exact = (adversarial.double() - images.double()).flatten(1).norm(dim=1)
    torch.testing.assert_close(result.distance[found], exact[found], rtol=1e-12, atol=0)
    assert (result.distance[found] > 0).all()
    assert (result.distance[wrong] == 0).all()
    lost = ~found & ~wrong
    assert (result.distance[lost] == torch.inf).all()
    assert (result.target[lost] == -1).all()
    torch.testing.assert_close(result.distortion, result.distance / math.sqrt(images[0].numel()), rtol=1e-12, atol=0)
    # Before and after the last bisection; the search rounds to the net's dtype, what it returns to the images'.
    blur = max(torch.finfo(images.dtype).eps, torch.finfo(model.dtype).eps) * math.sqrt(images[0].numel())
    assert (result.distance_search >= result.distance - blur).all()
    assert torch.equal(result.phase == int(Phase.NONE), ~found)
    assert torch.equal(result.attacked, ~wrong)
    # By target: the smallest is what was found, nothing is there for the label, and 0 only where it was wrong.
    smallest = result.by_target.amin(1)
    torch.testing.assert_close(smallest[found], result.distance_search[found], rtol=1e-5, atol=1e-9)  # float32 sums
    assert torch.equal(result.by_target[found].argmin(1), result.target[found])
    assert (result.by_target[torch.arange(N), labels] == torch.inf).all()
    assert (result.by_target[wrong].gather(1, result.target[wrong][:, None]) == 0).all()
    assert torch.isinf(result.by_target[wrong]).sum() == wrong.sum() * (result.by_target.shape[1] - 1)
    assert (smallest[lost] == torch.inf).all()


# -- the budget ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("target", RULES)
def test_no_image_costs_more_than_its_budget_counted_by_the_net(target: str, objective: str) -> None:
    for budget in BUDGETS:
        for image in (0, 8):
            net = Counting(sigmoid_net())
            result = attack_one(net, image, target=target, objective=objective, budget=budget, generator=seeded(3))
            assert net.forwards == result.forwards.item()
            assert net.backwards == result.backwards.item()
            assert 1 <= net.forwards + net.backwards <= budget


@pytest.mark.parametrize("budget", [None, 14, 60, 200])
@pytest.mark.parametrize("target", RULES)
def test_passes_of_a_batch_are_what_the_net_saw(target: str, budget: int | None) -> None:
    net = Counting(sigmoid_net())
    images, labels = digits()
    result = search(net, images[:30], labels[:30], target=target, budget=budget, generator=seeded())
    assert net.forwards == result.forwards.sum()
    assert net.backwards == result.backwards.sum()
    if budget is not None:
        assert (result.forwards + result.backwards <= budget).all()
    judge(Model(net), images[:30], labels[:30], result)


def test_a_budget_that_binds_is_spent_to_within_one_evaluation() -> None:
    images, labels = right(sigmoid_net(), 10)
    for budget in (25, 26, 61):
        result = search(sigmoid_net(), images, labels, target="all", budget=budget)
        assert (result.forwards + result.backwards >= budget - 1 - 11 * ~result.found).all()


def test_fourteen_passes_are_the_first_that_pay_for_a_look() -> None:
    """One clean pass, ten of the last bisection and the judgement are kept back; an evaluation costs two."""
    for budget, backwards in ((13, 0), (14, 1), (15, 1), (16, 2)):
        result = attack_one(sigmoid_net(), 0, target="random", budget=budget, generator=seeded())
        assert result.backwards.item() == backwards
        assert result.status.item() in (AttackStatus.BUDGET_SPENT, AttackStatus.FOUND)


def test_more_budget_never_finds_a_farther_example_of_one_target() -> None:
    images, labels = right(sigmoid_net(), 6)
    target = (labels + 1) % 10
    before = torch.full((6,), torch.inf, dtype=torch.float64)
    for budget in (14, 20, 30, 45, 70, 110, 200, 10_000):
        result = search(sigmoid_net(), images, labels, target=target, budget=budget)
        # The path is the same, only longer; the bisection at its end starts elsewhere, so compare before it.
        assert (result.distance_search <= before).all()
        before = result.distance_search
    unlimited = search(sigmoid_net(), images, labels, target=target)
    assert torch.equal(unlimited.adversarial, result.adversarial)
    assert torch.equal(unlimited.forwards, result.forwards)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_budget_over_many_targets_is_split_alike_alone_and_in_a_batch(objective: str) -> None:
    """Which targets are dropped when the budget runs short must not depend on slots that other images vacate."""
    net = sigmoid_net()
    images, labels = right(net, 30)
    how = {"target": "all", "objective": objective, "budget": 400}
    batch = search(net, images, labels, **how)  # type: ignore[arg-type]
    alone = [search(net, x[None], y[None], **how) for x, y in zip(images, labels, strict=True)]  # type: ignore[arg-type]
    assert torch.equal(torch.cat([one.target for one in alone]), batch.target)
    distance = torch.cat([one.distance for one in alone])
    torch.testing.assert_close(distance, batch.distance, rtol=ROUNDING, atol=0)
    # As many passes for each target, but for a search that rounding ends one step earlier.
    spent = torch.cat([one.backwards for one in alone])
    assert ((spent - batch.backwards).abs() <= 3).all()


# -- what comes back ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("target", RULES)
def test_success_holds_for_the_images_returned(target: str, objective: str) -> None:
    net = sigmoid_net()
    images, labels = digits()
    images, labels = images[:40], labels[:40].clone()
    labels[:5] = (labels[:5] + 1) % 10  # already wrong
    result = search(net, images, labels, target=target, objective=objective, generator=seeded())
    judge(Model(net), images, labels, result)
    assert (result.status[:5] == int(AttackStatus.ALREADY_WRONG)).all()
    assert result.found[5:].sum() >= 34


def test_an_image_already_wrong_costs_one_look_and_is_returned_as_it_is() -> None:
    images, labels = right(sigmoid_net(), 4)
    wrong = (labels + 3) % 10
    result = search(sigmoid_net(), images, wrong, target="random", generator=seeded())
    assert torch.equal(result.adversarial, images)
    assert result.status.tolist() == [int(AttackStatus.ALREADY_WRONG)] * 4
    assert torch.equal(result.target, labels)
    assert result.distance.tolist() == result.distortion.tolist() == result.distance_search.tolist() == [0.0] * 4
    assert result.forwards.tolist() == [1] * 4
    assert result.backwards.tolist() == [0] * 4
    assert not result.attacked.any()
    assert math.isnan(result.median)
    judge(Model(sigmoid_net()), images, wrong, result)


def unreachable(target: int) -> nn.Sequential:
    """Return the sigmoid net with one class that no image of the box is given."""
    net = sigmoid_net()
    with torch.no_grad():
        net[3].bias[target] = -1e3
    return net


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_class_that_no_image_has_is_not_found(objective: str) -> None:
    net = unreachable(4)
    images, labels = right(net, 6)
    target = torch.full_like(labels, 4)
    result = search(net, images, labels, target=target, objective=objective)
    assert (result.status == int(AttackStatus.NOT_FOUND)).all()
    assert torch.isinf(result.by_target).all()
    judge(Model(net), images, labels, result)
    assert result.median == torch.inf
    spent = search(net, images, labels, target=target, objective=objective, budget=25)
    assert (spent.status == int(AttackStatus.BUDGET_SPENT)).all()


def test_other_classes_are_found_beside_one_that_no_image_has() -> None:
    net = unreachable(4)
    images, labels = right(net, 6)
    result = search(net, images, labels, target="all")
    judge(Model(net), images, labels, result)
    assert result.found.all()
    assert torch.isinf(result.by_target[:, 4]).all()
    assert (torch.isfinite(result.by_target).sum(1) >= 7).all()


@pytest.mark.parametrize("slack", [0.0, 1e-4])
@pytest.mark.parametrize("target", RULES)
def test_a_net_that_is_nan_off_the_clean_images_is_a_numeric_failure(target: str, slack: float) -> None:
    """With some slack the search can step a little, and stalls; that NaN stopped it must still be told."""
    net = NaNOffGrid(sigmoid_net(), slack=slack)
    images, labels = right(net, 5)
    result = search(net, images, labels, target=target, generator=seeded())
    assert (result.status == int(AttackStatus.NUMERIC_FAILURE)).all()
    judge(Model(net), images, labels, result)


def test_one_image_at_which_the_net_is_nan_does_not_touch_the_others() -> None:
    net = NaNOffGrid(sigmoid_net(), marked=True)
    images, labels = right(net, 9)
    target = (labels + 1) % 10
    clean = search(net, images, labels, target=target)
    marked = images.clone()
    marked[4, 0, 0, 0] = 1.0
    result = search(net, marked, labels, target=target)
    assert result.status[4] == int(AttackStatus.NUMERIC_FAILURE)
    others = torch.arange(9) != 4
    assert clean.found.all()
    assert result.found[others].all()
    torch.testing.assert_close(result.distance[others], clean.distance[others], rtol=ROUNDING, atol=0)


def test_a_net_that_is_nan_far_away_is_still_attacked_near_by() -> None:
    images, labels = right(sigmoid_net(), 1)
    inner, target = sigmoid_net(), (labels + 1) % 10
    free = search(inner, images, labels, target=target)

    def net(x: Tensor) -> Tensor:
        far = (x - images).flatten(1).norm(dim=1) > 1.5 * free.distance
        return torch.where(far[:, None], torch.nan, inner(x))

    result = search(Model(net), images, labels, target=target)
    assert result.found.all()
    # The same local minimum: the wall only shortens steps on the way there.
    torch.testing.assert_close(result.distance, free.distance, rtol=0.05, atol=0)


# -- dtypes, shapes, boxes ----------------------------------------------------------------------------------


def test_float64_nets_are_attacked_in_float64() -> None:
    images, labels = right(sigmoid_net(), 8)
    target = (labels + 1) % 10
    single = search(sigmoid_net(), images, labels, target=target)
    net = sigmoid_net(torch.float64)
    double = search(net, images.double(), labels, target=target)
    judge(Model(net), images.double(), labels, double)
    torch.testing.assert_close(double.distance, single.distance, rtol=ROUNDING, atol=0)
    # Float32 images come back as float32, and are judged as such by the float64 net.
    mixed = search(net, images, labels, target=target)
    judge(Model(net), images, labels, mixed)
    torch.testing.assert_close(mixed.distance, double.distance, rtol=ROUNDING, atol=0)


def test_float64_images_keep_every_digit_where_nothing_is_changed() -> None:
    images, labels = right(sigmoid_net(), 6)
    images = (images.double() + 1e-12).clamp(0, 1)
    labels[:3] = (labels[:3] + 1) % 10
    result = search(sigmoid_net(), images, labels, target="random", generator=seeded())
    judge(Model(sigmoid_net()), images, labels, result)
    assert torch.equal(result.adversarial[:3], images[:3])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_images_of_half_precision_are_not_lost_to_rounding(dtype: torch.dtype) -> None:
    images, labels = right(sigmoid_net(), 40)
    images = images.to(dtype)  # multiples of 1/16: exact
    result = search(sigmoid_net(), images, labels, target=(labels + 1) % 10)
    judge(Model(sigmoid_net()), images, labels, result)
    assert result.found.all()


def test_no_pixel_leaves_a_box_whose_ends_float32_cannot_hold() -> None:
    """0.3 is 0.30000001 in float32: an example found by a float32 net must not come back as float64 outside."""
    inner = sigmoid_net()
    images, labels = right(inner, 20)
    small = (images.double() * 0.3).clamp(0, 0.3)
    model = Model(lambda x: inner(x / 0.3), box=(0, 0.3))
    result = search(model, small, labels, target=(labels + 1) % 10)
    assert (result.adversarial <= 0.3).all()
    judge(model, small, labels, result)


def test_flat_images_are_attacked_as_square_ones() -> None:
    images, labels = right(sigmoid_net(), 6)
    square = search(sigmoid_net(), images, labels, target="random", generator=seeded())
    flat = search(sigmoid_net(), images.flatten(1), labels, target="random", generator=seeded())
    judge(Model(sigmoid_net()), images.flatten(1), labels, flat)
    assert torch.equal(flat.adversarial, square.adversarial.flatten(1))
    assert torch.equal(flat.distance, square.distance)


def test_another_box_and_preprocessing_only_change_the_unit() -> None:
    """The hinge's minimum does not depend on the unit of the pixels; the path to it may."""
    net = random_linear(seed=5)
    images, _ = digits()
    images = images[:20]
    labels = net(images).argmax(1)
    target = (labels + 4) % 10
    plain = search(net, images, labels, target=target, objective="hinge")
    model = Model(net, box=(-1, 1), mean=-1.0, std=2.0)
    wide = search(model, 2 * images - 1, labels, target=target, objective="hinge")
    judge(model, 2 * images - 1, labels, wide)
    assert wide.adversarial.min() < 0
    torch.testing.assert_close(wide.distance, 2 * plain.distance, rtol=0.005, atol=0)


def test_images_that_ask_for_a_gradient_get_none() -> None:
    images, labels = right(sigmoid_net(), 3)
    images.requires_grad_(True)
    result = search(sigmoid_net(), images, labels, target="random", generator=seeded())
    assert images.grad is None
    assert not result.adversarial.requires_grad
    assert not result.distance.requires_grad


def test_the_images_given_are_not_changed() -> None:
    images, labels = right(sigmoid_net(), 5)
    before, labels_before = images.clone(), labels.clone()
    search(sigmoid_net(), images, labels, target="all", objective="hinge")
    assert torch.equal(images, before)
    assert torch.equal(labels, labels_before)


def test_a_net_with_one_logit_is_attacked_like_its_two_logit_twin() -> None:
    images, labels = digits()
    keep = labels < 2
    images, labels = images[keep][:20], labels[keep][:20]
    weight = torch.randn(1, 64, generator=seeded(2))
    weight -= (images.flatten(1) @ weight.T).mean() / 64
    single = linear(weight, torch.zeros(1))
    twin = linear(torch.cat([torch.zeros_like(weight), weight]), torch.zeros(2))
    labels = twin(images).argmax(1)
    one = search(single, images, labels, target="random", generator=seeded())
    two = search(twin, images, labels, target="random", generator=seeded())
    judge(Model(single), images, labels, one)
    assert torch.equal(one.found, two.found)
    assert one.found.any()
    torch.testing.assert_close(one.distance, two.distance, rtol=ROUNDING, atol=0)


# -- independence and repetition ----------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("target", ["given", "nearest", "top-3"])
def test_an_image_alone_equals_itself_in_a_batch(target: str, objective: str) -> None:
    net = sigmoid_net()
    images, labels = digits()
    images, labels = images[:25], labels[:25].clone()
    given = (labels + 1) % 10
    batch = search(net, images, labels, target=given if target == "given" else target, objective=objective)
    for i in range(0, 25, 6):
        one = slice(i, i + 1)
        alone = search(
            net, images[one], labels[one], target=given[one] if target == "given" else target, objective=objective
        )
        assert alone.status.item() == batch.status[i].item()
        if alone.found:
            assert alone.target.item() == batch.target[i].item()
        torch.testing.assert_close(alone.distance, batch.distance[one], rtol=ROUNDING, atol=0)


@pytest.mark.parametrize("slots", [2, 7])
def test_few_slots_find_what_many_find(slots: int) -> None:
    net = sigmoid_net()
    images, labels = right(net, 2)
    few = LBFGS(target="all", slots=slots)(net, images, labels)
    many = LBFGS(target="all")(net, images, labels)
    judge(Model(net), images, labels, few)
    finite = torch.isfinite(many.by_target)
    assert torch.equal(torch.isfinite(few.by_target), finite)
    torch.testing.assert_close(few.by_target[finite], many.by_target[finite], rtol=ROUNDING, atol=0)


def test_a_budget_is_shared_alike_whether_an_image_fits_the_slots_at_once_or_waits() -> None:
    """13 slots hold one image with its nine targets; the second must not be started in part."""
    net = sigmoid_net()
    images, labels = right(net, 6)
    few = LBFGS(target="all", slots=13, budget=400)(net, images, labels)
    many = LBFGS(target="all", budget=400)(net, images, labels)
    torch.testing.assert_close(few.distance, many.distance, rtol=ROUNDING, atol=0)
    assert (few.forwards + few.backwards <= 400).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [("first", 0.0), ("lowest", 2.0), ("width", 0.0), ("tolerance", -1.0), ("slots", 0), ("solves", 0), ("memory", 0)],
)
def test_parameters_out_of_range_are_refused_by_name(name: str, value: float) -> None:
    images, labels = right(sigmoid_net(), 2)
    with pytest.raises(InputError, match=name):
        LBFGS(target="all", **{name: value})(sigmoid_net(), images, labels)  # type: ignore[arg-type]


def test_the_order_of_images_does_not_matter() -> None:
    net = sigmoid_net()
    images, labels = right(net, 15)
    order = torch.randperm(15, generator=seeded(2))
    straight = search(net, images, labels, target=(labels + 1) % 10)
    mixed = search(net, images[order], labels[order], target=(labels[order] + 1) % 10)
    torch.testing.assert_close(mixed.distance, straight.distance[order], rtol=ROUNDING, atol=0)


def test_a_seed_repeats_the_attack_exactly() -> None:
    images, labels = right(sigmoid_net(), 12)
    runs = [search(sigmoid_net(), images, labels, target="random", generator=seeded(s)) for s in (4, 4, 5)]
    assert torch.equal(runs[0].adversarial, runs[1].adversarial)
    assert torch.equal(runs[0].distance, runs[1].distance)
    assert torch.equal(runs[0].forwards, runs[1].forwards)
    assert not torch.equal(runs[0].target, runs[2].target)


# -- the user's net is left as found ------------------------------------------------------------------------


def busy_net() -> nn.Sequential:
    """Return a net in which much could be changed: normalisation, dropout, mixed modes, gradients and hooks."""
    torch_state = torch.get_rng_state()
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(0.5), nn.Linear(64, 10), nn.BatchNorm1d(10))
    torch.set_rng_state(torch_state)
    with torch.no_grad():
        net[3].weight.copy_(torch.randn(10, 64, generator=seeded(1)))
    net.train()
    net[2].eval()
    net[3].bias.requires_grad_(False)
    net[3].weight.grad = torch.ones_like(net[3].weight)
    net[3].register_forward_hook(lambda module, inputs, output: None)
    return net


def fingerprint(net: nn.Module) -> tuple[object, ...]:
    return (
        [module.training for module in net.modules()],
        [(name, p.requires_grad, None if p.grad is None else p.grad.clone()) for name, p in net.named_parameters()],
        [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in net.modules()],
    )


def same(a: object, b: object) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(same, a, b))
    return a == b


def check_untouched(net: nn.Module, attack: object) -> None:
    before, state = fingerprint(net), copy.deepcopy(net.state_dict())
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    grads, threads = torch.is_grad_enabled(), torch.get_num_threads()
    attack()  # type: ignore[operator]
    assert same(fingerprint(net), before)
    after = net.state_dict()
    assert all(torch.equal(after[name], value) for name, value in state.items())
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), numpy_state, strict=True))  # noqa: NPY002
    assert random.getstate() == python_state
    assert torch.is_grad_enabled() == grads
    assert torch.get_num_threads() == threads
    assert (torch.tensor([1e-38]) * 0.01).item() > 0, "denormal numbers are still flushed"


def test_the_net_and_all_global_state_are_left_as_found() -> None:
    net = busy_net()
    images, _ = digits()
    images = images[:12]
    labels = Model(net).predict(images)
    check_untouched(net, lambda: search(net, images, labels, target="random", generator=seeded()))
    with torch.no_grad():
        check_untouched(net, lambda: search(net, images, labels, target="nearest", objective="hinge", budget=100))


@pytest.mark.parametrize("call", [1, 2, 9])
def test_the_net_and_all_global_state_are_left_as_found_by_an_exception(call: int) -> None:
    net = busy_net()
    images, _ = digits()
    images = images[:12]
    labels = Model(net).predict(images)

    def attack() -> None:
        with pytest.raises(RuntimeError, match="the net broke"):
            search(Failing(net, call), images, labels, target="random", generator=seeded())

    check_untouched(net, attack)


# -- the search over c --------------------------------------------------------------------------------------


def two_classes(scale: float = 1.0) -> tuple[nn.Sequential, Tensor, Tensor, Tensor]:
    """Return a linear net of two classes, images in mid box, their labels, and the exact distances."""
    draw = seeded(7)
    weight = torch.randn(2, 64, generator=draw)
    images = 0.5 + 0.2 * (torch.rand(300, 64, generator=draw) - 0.5)
    middle = ((weight[1] - weight[0]) @ torch.full((64,), 0.5)).item()
    net = linear(scale * weight, torch.tensor([scale * middle, 0.0]))
    w, b = net[1].weight.detach().double(), net[1].bias.detach().double()
    z = images.double() @ w.T + b
    distance = (z[:, 0] - z[:, 1]).abs() / (w[0] - w[1]).norm()
    # Far enough that the tolerance of a solve, 1e-3 in pixel units, is small beside it.
    keep = distance > 0.05
    assert keep.sum() >= 60
    return net, images[keep], z[keep].argmax(1), distance[keep]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_two_linear_classes_are_as_far_as_the_formula_says(objective: str) -> None:
    net, images, labels, exact = two_classes()
    result = search(net, images, labels, target=1 - labels, objective=objective)
    judge(Model(net), images, labels, result)
    assert result.found.all()
    ratio = result.distance / exact
    # The last bisection stops within 2^-10 of the example it starts from, which is a few percent too far.
    assert ratio.max() <= 1.0011
    assert ratio.min() >= 1 - 1e-5  # float32 logits
    assert (result.adversarial > 0).all(), "the box must not be active here"
    # What the search over c alone reaches: c within 5%, and the distance is at most inverse to c.
    assert (result.distance_search / exact).median() <= 1.05


@pytest.mark.parametrize("scale", [1e-9, 1e-7, 1e-4, 1e-2, 1e2, 1e4])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_search_finds_its_c_over_many_powers_of_ten(objective: str, scale: float) -> None:
    """The nearest example of a linear net does not depend on the scale of its logits; the right c does."""
    net, images, labels, exact = two_classes(scale)
    result = search(net, images, labels, target=1 - labels, objective=objective)
    assert result.found.all()
    assert (result.distance_search / exact).median() <= 1.05
    assert (result.distance / exact).max() <= 1.005


@pytest.mark.parametrize("scale", [1e-9, 1e-7, 1e-4, 1e-2, 1e2, 1e4])
def test_the_hinge_does_not_depend_on_the_scale_of_ten_logits(scale: float) -> None:
    images, _ = digits()
    images = images[:30]
    net = random_linear(seed=2)
    labels = net(images).argmax(1)
    target = (labels + 3) % 10
    plain = search(net, images, labels, target=target, objective="hinge")
    scaled = search(random_linear(seed=2, scale=scale), images, labels, target=target, objective="hinge")
    assert plain.found.all()
    torch.testing.assert_close(scaled.distance, plain.distance, rtol=0.002, atol=0)


@pytest.mark.parametrize("classes", [2, 10])
def test_the_minimiser_gets_no_longer_as_c_grows_so_the_largest_success_is_the_shortest(classes: int) -> None:
    """The paper prints "minimum c > 0"; with c on the distance it must be the largest (E1)."""
    images, _ = digits()
    images = images[:5].double()
    net = random_linear(classes, seed=3).double()
    clean = images.flatten(1)
    labels = net(images).argmax(1)
    target = (labels + 1) % classes
    lengths, margins = [], []
    cs = [10.0 ** (k / 2) for k in range(-3, 5)]
    for c in cs:

        def objective(x: Tensor, rows: Tensor, c: float = c) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                value = (x - clean[rows]).square().sum(1)
                value = value + nn.functional.cross_entropy(net(x), target[rows], reduction="none") / c
                (gradient,) = torch.autograd.grad(value.sum(), x)
            return value.detach(), gradient

        solution = minimize(objective, clean, lower=0, upper=1, tolerance=1e-6)
        lengths.append((solution.x - clean).norm(dim=1))
        margins.append(margin(net(solution.x).detach(), target))
    length, m = torch.stack(lengths), torch.stack(margins)
    assert (length[1:] <= length[:-1] + 1e-6).all()
    success = m > 0
    assert success[0].all(), "trivial at the smallest c"
    assert not success[-1].any(), "impossible at the largest"
    # Once lost, success does not come back: there is one root of the margin, and it is what the search seeks.
    assert (success[1:] <= success[:-1]).all()
    shortest = torch.where(success, length, torch.inf).amin(0)
    largest = success.long().cumsum(0).argmax(0)
    torch.testing.assert_close(length.gather(0, largest[None]).squeeze(0), shortest, rtol=1e-6, atol=1e-9)
    # The attack lies between the neighbours of the root on this grid.
    result = search(net, images, labels, target=target)
    after = length.gather(0, (largest + 1)[None]).squeeze(0)
    assert (result.distance_search <= shortest * (1 + 1e-3)).all()
    assert (result.distance_search >= after * (1 - 1e-3)).all()


def test_the_hinge_is_at_least_as_near_as_cross_entropy_on_linear_nets() -> None:
    """With ten classes a target's region is no level set of the cross-entropy, so its penalty is not exact (E2)."""
    images, _ = digits()
    images = images[:60]
    for seed in range(2):
        net = random_linear(seed=seed)
        labels = net(images).argmax(1)
        target = (labels + 1 + seed) % 10
        faithful = search(net, images, labels, target=target)
        sharp = search(net, images, labels, target=target, objective="hinge")
        assert faithful.found.all()
        assert sharp.found.all()
        ratio = sharp.distance / faithful.distance
        assert (ratio <= 1.002).all()  # c's and the temperature's last step
        assert ratio.median() < 0.999


def test_the_hinge_ends_at_its_last_temperature() -> None:
    """The example of a net with ten classes comes from a sharpened stage, or from the bisection after it."""
    images, _ = digits()
    net = random_linear(seed=1)
    labels = net(images[:30]).argmax(1)
    result = search(net, images[:30], labels, target=(labels + 1) % 10, objective="hinge")
    assert set(result.phase.tolist()) <= {int(Phase.SHARPEN), int(Phase.BISECT)}
    assert (result.distance_search / result.distance).median() < 1.001
    faithful = search(net, images[:30], labels, target=(labels + 1) % 10)
    assert int(Phase.SHARPEN) not in faithful.phase.tolist()


def solves(points: list[Tensor]) -> int:
    """Count the solves of one pair from outside: each starts where the one before ended."""
    return 1 + sum(torch.equal(a, b) for a, b in pairwise(points))


def test_each_solve_starts_where_the_last_one_ended() -> None:
    images, labels = right(sigmoid_net(), 5)
    for x, y in zip(images, labels, strict=True):
        net = Recording(sigmoid_net())
        search(net, x[None], y[None], target=(y[None] + 1) % 10)
        assert solves(net.points) > 3
        assert sum(torch.equal(point, x.flatten(1)) for point in net.points) == 1


def test_the_root_finder_needs_no_more_solves_than_halving_would() -> None:
    images, labels = right(sigmoid_net(), 12)
    # A bracket of one factor of ten, halved on log c to 5%.
    halvings = math.ceil(math.log2(math.log(10) / math.log1p(0.05)))
    counts = []
    for x, y in zip(images, labels, strict=True):
        net = Recording(sigmoid_net())
        search(net, x[None], y[None], target=(y[None] + 1) % 10)
        counts.append(solves(net.points))
    # And two, at the least, to find the bracket.
    assert np.mean(counts) <= 2 + halvings


# -- targets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_nearest_is_the_minimum_over_all_and_cheaper(objective: str) -> None:
    net = sigmoid_net()
    images, labels = right(net, 40)
    every = search(net, images, labels, target="all", objective=objective)
    nearest = search(net, images, labels, target="nearest", objective=objective)
    judge(Model(net), images, labels, nearest)
    torch.testing.assert_close(nearest.distance, every.distance, rtol=0.01, atol=0)
    torch.testing.assert_close(every.distance_search, every.by_target.amin(1), rtol=1e-5, atol=0)
    # What was dropped early was dropped for a reason: nothing nearer is missed for any target.
    assert (nearest.by_target.amin(1) <= 1.01 * every.by_target.amin(1)).all()
    passes = [(r.forwards + r.backwards).sum().item() for r in (nearest, every)]
    assert passes[0] < 0.8 * passes[1]


def test_all_gives_every_target_the_distance_it_has_alone() -> None:
    net = sigmoid_net()
    images, labels = right(net, 6)
    every = search(net, images, labels, target="all")
    for shift in (1, 4, 9):
        target = (labels + shift) % 10
        alone = search(net, images, labels, target=target)
        theirs = every.by_target.gather(1, target[:, None]).squeeze(1)
        torch.testing.assert_close(alone.distance_search, theirs, rtol=ROUNDING, atol=0)
        assert torch.isfinite(alone.by_target).sum() == alone.found.sum()


def test_top_k_tries_the_likeliest_classes_and_no_others() -> None:
    net = sigmoid_net()
    images, labels = right(net, 10)
    result = search(net, images, labels, target="top-2")
    with torch.no_grad():
        order = net(images).scatter(1, labels[:, None], -torch.inf).argsort(1, descending=True)
    tried = torch.isfinite(result.by_target)
    assert (tried.sum(1) <= 2).all()
    for image, classes in enumerate(order[:, :2].tolist()):
        assert set(tried[image].nonzero().flatten().tolist()) <= set(classes)


def test_the_random_targets_of_already_wrong_images_are_drawn_and_thrown_away() -> None:
    images, labels = right(sigmoid_net(), 8)
    plain = search(sigmoid_net(), images, labels, target="random", generator=seeded(6))
    spoiled = labels.clone()
    spoiled[2] = (labels[2] + 1) % 10
    other = search(sigmoid_net(), images, spoiled, target="random", generator=seeded(6))
    keep = torch.arange(8) != 2
    assert torch.equal(plain.target[keep], other.target[keep])


# -- arguments that cannot be used --------------------------------------------------------------------------


def test_bad_arguments_are_refused_in_one_sentence() -> None:
    net = sigmoid_net()
    images, labels = right(net, 3)
    with pytest.raises(UnknownNameError, match="Did you mean 'hinge'"):
        search(net, images, labels, target="all", objective="hing")
    with pytest.raises(UnknownNameError, match="Did you mean 'nearest'"):
        search(net, images, labels, target="nearst")
    with pytest.raises(InputError, match="generator"):
        search(net, images, labels)
    with pytest.raises(InputError, match="budget"):
        search(net, images, labels, target="all", budget=0)
    with pytest.raises(InputError, match="labels"):
        search(net, images, labels[:2], target="all")
    with pytest.raises(InputError, match="labels"):
        search(net, images, labels.float(), target="all")
    with pytest.raises(DataError, match=r"at images \[1\]"):
        search(net, images, torch.tensor([0, 10, 1]), target="all")
    with pytest.raises(InputError, match=r"equal to the label at images \[0, 1, 2\]"):
        search(net, images, labels, target=labels)
    with pytest.raises(DataError, match="box"):
        search(net, images * 255, labels, target="all")
    with pytest.raises(DataError, match="NaN"):
        search(net, images * torch.nan, labels, target="all")
    with pytest.raises(DataError, match="shape"):
        search(net, images[:0], labels[:0], target="all")


def test_a_target_that_is_neither_a_rule_nor_classes_is_refused() -> None:
    images, labels = right(sigmoid_net(), 2)
    for target in (3, [1, 2], None):
        with pytest.raises(InputError, match="target"):
            search(sigmoid_net(), images, labels, target=target)  # type: ignore[arg-type]


def test_a_net_whose_answers_cannot_be_used_is_refused() -> None:
    images, labels = right(sigmoid_net(), 3)
    for answer in (
        lambda x: torch.full((len(x), 10), torch.nan),
        lambda x: torch.zeros(len(x) - 1, 10),
        lambda x: torch.zeros(len(x), 10, dtype=torch.int64),
        lambda x: "a digit",
    ):
        with pytest.raises(ModelError):
            search(Model(answer), images, labels, target="all")


def test_a_net_that_passes_no_gradient_is_refused_in_words() -> None:
    """A net under no_grad, or one that does not look at its image, gives torch nothing to differentiate."""
    images, labels = right(sigmoid_net(), 3)
    inner = sigmoid_net()
    with pytest.raises(ModelError, match="gradient"):
        search(Model(torch.no_grad()(inner.forward)), images, labels, target="all")
    with pytest.raises(ModelError, match="gradient"):
        search(Model(lambda x: torch.eye(10)[labels[:1]].expand(len(x), 10)), images[:1], labels[:1], target="all")


def test_progress_never_runs_backwards_and_ends() -> None:
    images, labels = right(sigmoid_net(), 10)
    seen: list[tuple[float, float]] = []
    search(sigmoid_net(), images, labels, target="all", progress=lambda done, total: seen.append((done, total)))
    done = [d for d, _ in seen]
    assert done == sorted(done)
    assert len({total for _, total in seen}) == 1
    assert seen[-1][0] == seen[-1][1] > 0


# -- the function -------------------------------------------------------------------------------------------


def test_the_function_runs_the_papers_search_for_one_class_and_for_a_named_objective() -> None:
    images, labels = right(sigmoid_net(), 4)
    net = sigmoid_net()
    target = (labels + 1) % 10
    for how in ({"target": target}, {"target": "all", "objective": "cross-entropy"}):
        by_function, by_record = lbfgs(net, images, labels, **how), LBFGS(**how)(net, images, labels)  # type: ignore[arg-type]
        assert torch.equal(by_function.adversarial, by_record.adversarial)


def test_the_function_walks_where_any_class_will_do() -> None:
    images, labels = right(sigmoid_net(), 4)
    result = lbfgs(sigmoid_net(), images, labels, target="all", budget=100)
    assert torch.equal(result.adversarial, Nearest(budget=100)(sigmoid_net(), images, labels).adversarial)


def test_far_starts_are_refused_by_the_papers_search() -> None:
    images, labels = right(sigmoid_net(), 4)
    with pytest.raises(InputError, match="starts"):
        lbfgs(sigmoid_net(), images, labels, target=(labels + 1) % 10, starts=(images, labels))

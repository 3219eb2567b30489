"""Targets: which wrong classes an image is sent to; and the margin that says whether it got there."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from small_nets import seeded

from intriguing.attacks.problem import TARGETS, check_labels, choose_targets, margin
from intriguing.errors import DataError, InputError, UnknownNameError

RULES = ("random", "nearest", "all", "top-1", "top-3", "top-99")


def case(images: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits and labels; the labels need not be the net's answers."""
    logits = torch.randn(images, classes, generator=seeded(seed))
    return logits, torch.randint(classes, (images,), generator=seeded(seed + 1))


def everything(labels: torch.Tensor) -> torch.Tensor:
    return torch.ones(len(labels), dtype=torch.bool)


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("rule", RULES)
def test_no_rule_ever_gives_the_label(rule: str, classes: int) -> None:
    logits, labels = case(500, classes)
    # The likeliest class is the label here, which a careless rule would pick.
    logits[torch.arange(500), labels] += 100
    pairs = choose_targets(rule, logits, labels, everything(labels), seeded())
    assert (pairs.target != labels[pairs.image]).all()
    assert ((pairs.target >= 0) & (pairs.target < classes)).all()
    assert len({(i, t) for i, t in zip(pairs.image.tolist(), pairs.target.tolist(), strict=True)}) == len(pairs)


def test_random_is_uniform_over_the_wrong_classes_of_every_label() -> None:
    classes, each = 6, 4_000
    labels = torch.arange(classes).repeat_interleave(each)
    logits = torch.zeros(len(labels), classes)
    target = choose_targets("random", logits, labels, everything(labels), seeded(11)).target
    for label in range(classes):
        counts = torch.bincount(target[labels == label], minlength=classes)
        assert counts[label] == 0
        wrong = torch.cat([counts[:label], counts[label + 1 :]])
        # One fixed draw; a uniform one falls below this p-value once in ten thousand.
        assert stats.chisquare(wrong.numpy()).pvalue > 1e-4


def test_random_does_not_look_at_the_logits() -> None:
    logits, labels = case(200, 10)
    first = choose_targets("random", logits, labels, everything(labels), seeded(3))
    second = choose_targets("random", -5 * logits, labels, everything(labels), seeded(3))
    assert torch.equal(first.target, second.target)


def test_the_random_target_of_an_image_depends_on_its_position_alone() -> None:
    logits, labels = case(60, 10)
    whole = choose_targets("random", logits, labels, everything(labels), seeded(5))
    some = torch.zeros(60, dtype=torch.bool)
    some[[1, 4, 5, 17, 59]] = True
    part = choose_targets("random", logits, labels, some, seeded(5))
    assert part.image.tolist() == [1, 4, 5, 17, 59]
    assert torch.equal(part.target, whole.target[some])
    ahead = choose_targets("random", logits[:20], labels[:20], everything(labels[:20]), seeded(5))
    assert torch.equal(ahead.target, whole.target[:20])


def test_random_is_what_its_generator_says() -> None:
    logits, labels = case(100, 10)
    draws = [choose_targets("random", logits, labels, everything(labels), seeded(s)).target for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_random_needs_a_generator() -> None:
    logits, labels = case(3, 4)
    with pytest.raises(InputError, match="generator"):
        choose_targets("random", logits, labels, everything(labels), None)


@pytest.mark.parametrize("rule", ["all", "nearest"])
def test_all_and_nearest_start_with_every_wrong_class(rule: str) -> None:
    logits, labels = case(20, 5)
    some = torch.arange(20) % 3 == 0
    pairs = choose_targets(rule, logits, labels, some, None)
    assert len(pairs) == 4 * int(some.sum())
    assert set(pairs.image.tolist()) == set(some.nonzero().flatten().tolist())
    for image in some.nonzero().flatten().tolist():
        wrong = set(range(5)) - {int(labels[image])}
        assert set(pairs.target[pairs.image == image].tolist()) == wrong


@pytest.mark.parametrize("k", [1, 2, 4])
def test_top_k_takes_the_likeliest_wrong_classes_in_order(k: int) -> None:
    logits, labels = case(50, 6, seed=7)
    pairs = choose_targets(f"top-{k}", logits, labels, everything(labels), None)
    for image in range(50):
        order = [c for c in logits[image].argsort(descending=True).tolist() if c != int(labels[image])]
        assert pairs.target[pairs.image == image].tolist() == order[:k]


def test_top_k_beyond_the_classes_is_all() -> None:
    logits, labels = case(9, 4)
    top = choose_targets("top-50", logits, labels, everything(labels), None)
    every = choose_targets("all", logits, labels, everything(labels), None)
    assert torch.equal(top.target, every.target)
    assert torch.equal(top.image, every.image)


def test_given_targets_are_taken_as_they_are() -> None:
    logits, labels = case(12, 5)
    target = (labels + 2) % 5
    some = torch.arange(12) % 2 == 1
    pairs = choose_targets(target, logits, labels, some, None)
    assert torch.equal(pairs.image, some.nonzero().flatten())
    assert torch.equal(pairs.target, target[some])


def test_a_target_equal_to_its_label_is_refused_with_the_images() -> None:
    logits, labels = case(12, 5)
    target = (labels + 1) % 5
    target[[3, 7]] = labels[[3, 7]]
    with pytest.raises(InputError, match=r"\[3, 7\] \(2 in all\)"):
        choose_targets(target, logits, labels, everything(labels), None)


@pytest.mark.parametrize(
    "target",
    [
        torch.tensor([1, 1, 1]),
        torch.tensor([[1, 1]]),
        torch.tensor([1.0, 1.0]),
        torch.tensor([1, 1], dtype=torch.int32),
        torch.tensor([1, 9]),
        torch.tensor([1, -1]),
    ],
    ids=["too many", "two axes", "float", "int32", "too large", "negative"],
)
def test_given_targets_that_cannot_be_used_are_refused(target: torch.Tensor) -> None:
    with pytest.raises(InputError, match="target"):
        choose_targets(target, torch.zeros(2, 4), torch.tensor([0, 2]), torch.ones(2, dtype=torch.bool), None)


@pytest.mark.parametrize(
    ("given", "meant"), [("ramdom", "random"), ("neares", "nearest"), ("top-0", "top-k"), ("top-", "top-k")]
)
def test_an_unknown_rule_suggests_the_nearest(given: str, meant: str) -> None:
    logits, labels = case(2, 4)
    with pytest.raises(UnknownNameError, match=f"Did you mean '{meant}'"):
        choose_targets(given, logits, labels, everything(labels), seeded())


def test_every_rule_has_a_line_for_a_person() -> None:
    assert all(line and "\n" not in line for line in TARGETS.values())


def test_labels_of_another_shape_or_dtype_are_refused() -> None:
    for labels in (torch.zeros(3), torch.zeros(3, dtype=torch.int32), torch.zeros(2, dtype=torch.int64)):
        with pytest.raises(InputError, match=r"labels: expected int64 of shape \(3,\)"):
            check_labels(labels, 3, 4)
    with pytest.raises(InputError, match="labels"):
        check_labels(torch.zeros(3, 1, dtype=torch.int64), 3, 4)
    check_labels(torch.tensor([0, 3, 1]), 3, 4)


@pytest.mark.parametrize("bad", [-1, 4, 255])
def test_labels_out_of_range_are_refused_with_the_images(bad: int) -> None:
    labels = torch.zeros(9, dtype=torch.int64)
    labels[[2, 8]] = bad
    with pytest.raises(DataError, match=r"0 to 3 .* \[2, 8\] \(2 in all\)"):
        check_labels(labels, 9, 4)


# Multiples of 1/8 are exact in float32 and so are their differences: the laws hold without a tolerance.
rows = st.lists(st.integers(-800, 800).map(lambda i: i / 8), min_size=2, max_size=7)
law = settings(max_examples=60, deadline=None, derandomize=True)


@law
@given(logits=rows, data=st.data())
def test_margin_is_positive_exactly_where_the_target_wins_alone(logits: list[float], data: st.DataObject) -> None:
    target = data.draw(st.integers(0, len(logits) - 1))
    m = margin(torch.tensor([logits]), torch.tensor([target])).item()
    others = [z for index, z in enumerate(logits) if index != target]
    assert m == logits[target] - max(others)
    assert (m > 0) == all(logits[target] > z for z in others)


@law
@given(logits=rows, shift=st.integers(-100, 100), data=st.data())
def test_margin_ignores_a_common_shift(logits: list[float], shift: int, data: st.DataObject) -> None:
    target = torch.tensor([data.draw(st.integers(0, len(logits) - 1))])
    z = torch.tensor([logits])
    assert torch.equal(margin(z + shift, target), margin(z, target))


@law
@given(a=st.integers(-800, 800), b=st.integers(-800, 800))
def test_margins_of_two_classes_are_opposite(a: int, b: int) -> None:
    z = torch.tensor([[a / 8, b / 8]])
    assert margin(z, torch.tensor([0])).item() == -margin(z, torch.tensor([1])).item()


def test_margin_does_not_change_its_logits() -> None:
    z = torch.randn(4, 3, generator=seeded())
    before = z.clone()
    margin(z, torch.tensor([0, 1, 2, 0]))
    assert torch.equal(z, before)

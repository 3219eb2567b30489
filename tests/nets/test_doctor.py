"""The doctor: every ailment is named with its number, a healthy net is green, and nothing is left changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier
from torch import Tensor, nn

import intriguing as iq
from intriguing.errors import InputError
from intriguing.nets.checks import Check, did_not_run, graded, worst
from intriguing.nets.doctor import doctor
from intriguing.nets.estimators import convert
from intriguing.nets.load import Model

_DATA = load_digits()
IMAGES = torch.from_numpy(_DATA.images).float()[:, None] / 16
LABELS = torch.from_numpy(_DATA.target).long()
_RIDGE = RidgeClassifier().fit(_DATA.data[:1000] / 16, _DATA.target[:1000])


class Around(nn.Module):
    """A healthy net of the digits with something done before or after it."""

    def __init__(self, after: Callable[[Tensor], Any] = lambda z: z, before: Callable[[Tensor], Tensor] = lambda x: x):
        super().__init__()
        self.net, self.after, self.before = convert(_RIDGE).float(), after, before

    def forward(self, x: Tensor) -> Any:
        return self.after(self.net(self.before(x)))


def test_a_healthy_net_is_green_throughout() -> None:
    record = doctor(Around(), IMAGES[1000:], LABELS[1000:])
    assert record.state == "green", str(record)
    assert [check.name for check in record.checks] == [
        "inputs in the box", "answer", "accuracy", "logits", "batch independence", "repeatability", "zero gradients",
        "training mode", "device and dtype",
    ]  # fmt: skip
    assert record["accuracy"].n == 256
    assert record["accuracy"].value > 0.85
    assert record.document()["checks"][2]["value"] == record["accuracy"].value
    assert "green" in str(record)
    assert iq.doctor is doctor


def test_an_image_set_and_a_loader_serve_alike() -> None:
    digits = iq.data.load("digits", "test")
    assert doctor(Around(), digits)["accuracy"].n == 256
    read: list[int] = []

    def loader() -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, 1000, 50):
            read.append(start)
            yield IMAGES[start : start + 50], LABELS[start : start + 50]

    assert doctor(Around(), loader(), limit=120)["accuracy"].n == 120
    assert read == [0, 50, 100]
    assert doctor(Around(), iter([IMAGES[:8]]))["accuracy"].state == "did not run"


def test_images_sorted_by_class_are_seen_of_every_class() -> None:
    order = LABELS.argsort(stable=True)
    assert doctor(Around(), IMAGES[order], LABELS[order], limit=100)["accuracy"].value > 0.8


@pytest.mark.parametrize(
    ("expected", "state"), [(0.92, "green"), (0.99, "red"), (0.5, "amber"), (0.05, "amber"), (None, "green")]
)
def test_the_accuracy_is_held_against_the_one_expected(expected: float | None, state: str) -> None:
    check = doctor(Around(), IMAGES, LABELS, expect_accuracy=expected)["accuracy"]
    assert check.state == state
    assert "99% interval" in check.sentence


def test_an_accuracy_near_guessing_is_red_unless_it_is_the_one_expected() -> None:
    wrong = (LABELS + 1) % 10
    assert doctor(Around(), IMAGES, wrong)["accuracy"].state == "red"
    value = doctor(Around(), IMAGES, wrong)["accuracy"].value
    assert doctor(Around(), IMAGES, wrong, expect_accuracy=value)["accuracy"].state == "green"


@pytest.mark.parametrize(
    ("after", "state", "words"),
    [
        (lambda z: z.softmax(1), "amber", "probabilities"),
        (lambda z: (200 * z).softmax(1), "red", "exactly 0 or 1"),
        (lambda z: z.log_softmax(1), "green", "Log-softmax"),
        (lambda z: z.sigmoid(), "amber", "several labels"),
        (lambda z: z[:, :1].sigmoid(), "red", "a sigmoid was left on"),
        (lambda z: z, "green", "Logits from"),
    ],
)
def test_probabilities_are_told_from_logits(after: Any, state: str, words: str) -> None:
    check = doctor(Around(after), IMAGES, LABELS)["logits"]
    assert check.state == state
    assert words in check.sentence


def test_probabilities_are_served_where_the_model_is_told() -> None:
    record = doctor(Model(Around(lambda z: z.softmax(1)), answers="probabilities"), IMAGES, LABELS)
    assert record["logits"].state == "green"
    saturated = doctor(Model(Around(lambda z: (500 * z).softmax(1)), answers="probabilities"), IMAGES, LABELS)
    assert "exactly 0 or 1" in saturated["answer"].sentence
    assert saturated.state == "red"


def test_neighbours_in_the_batch_that_change_an_answer_are_red() -> None:
    net = Around(before=nn.BatchNorm2d(1, track_running_stats=False))
    record = doctor(net, IMAGES, LABELS)
    assert record["batch independence"].state == "red"
    assert record["batch independence"].value > 0.01
    assert record["repeatability"].state == "green"
    assert record["training mode"].state == "red"


def test_answers_drawn_by_lot_are_red() -> None:
    before = torch.get_rng_state()
    record = doctor(Around(before=lambda x: nn.functional.dropout(x, 0.2)), IMAGES, LABELS)
    assert record["repeatability"].state == "red"
    assert torch.equal(torch.get_rng_state(), before)


def test_pixels_outside_the_box_are_red_and_the_rest_still_runs() -> None:
    record = doctor(Around(), 2 * IMAGES - 1, LABELS)
    check = record["inputs in the box"]
    assert check.state == "red"
    assert "normalised as for half" in check.sentence
    assert record["accuracy"].state != "did not run"
    assert doctor(Model(Around(), box=(0, 255)), IMAGES, LABELS)["inputs in the box"].state == "amber"


@pytest.mark.parametrize("images", [IMAGES.mul(255).byte(), IMAGES[:, 0], IMAGES * torch.nan, IMAGES[:, :, :0]])
def test_images_no_net_can_take_stop_the_other_checks(images: Tensor) -> None:
    record = doctor(Around(), images, LABELS)
    assert record["inputs in the box"].state == "red"
    assert {record[name].state for name in ("answer", "accuracy", "zero gradients")} == {"did not run"}


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (lambda x: (x * 4).round() / 4, lambda z: z, "saturated or rounded"),
        (lambda x: x, lambda z: 5000 * z, "cross-entropy has no gradient"),
        (lambda x: x.detach(), lambda z: z.detach(), "No gradient comes back"),
    ],
    ids=["rounded", "large", "detached"],
)
def test_gradients_of_no_use_are_red(before: Any, after: Any, words: str) -> None:
    check = doctor(Around(after, before), IMAGES, LABELS)["zero gradients"]
    assert check.state == "red"
    assert check.value > 0.5
    assert words in check.sentence


def test_a_model_without_gradients_is_served_by_what_it_can_do() -> None:
    record = doctor(Model(Around(lambda z: z.detach()), gradients=False), IMAGES, LABELS)
    assert record["zero gradients"].state == "did not run"
    assert record.state == "did not run"
    labels = doctor(Model(Around(lambda z: z.argmax(1)), answers="labels", classes=10), IMAGES, LABELS)
    assert labels["logits"].state == "did not run"
    assert labels["accuracy"].state == "green"


def test_what_training_left_on_is_named_and_left_as_it_is() -> None:
    class Normed(Around):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.drop = nn.BatchNorm2d(1), nn.Dropout(0.1)
            self.before = lambda x: self.drop(self.norm(x))

    net = Normed()
    net.norm.running_mean.fill_(0.01)
    check = doctor(net, IMAGES, LABELS)["training mode"]
    assert (check.state, check.value) == ("amber", 2)
    assert net.training
    assert net.norm.training
    assert doctor(net.eval(), IMAGES, LABELS)["training mode"].state == "green"
    net.norm.running_mean.zero_()
    assert "were its weights loaded" in doctor(net, IMAGES, LABELS)["training mode"].sentence


def test_numbers_of_several_kinds_or_half_precision_are_named() -> None:
    mixed = Around()
    mixed.register_buffer("table", torch.zeros(2, dtype=torch.float64))
    assert doctor(mixed, IMAGES, LABELS)["device and dtype"].state == "amber"
    half = doctor(Around().bfloat16(), IMAGES, LABELS)
    assert "half precision" in half["device and dtype"].sentence
    assert half["batch independence"].state == "green"
    assert "A function" in doctor(lambda x: x.flatten(1)[:, :10], IMAGES, LABELS)["device and dtype"].sentence


def test_a_net_that_fails_is_a_red_check_with_its_own_words() -> None:
    record = doctor(Around(), IMAGES[:, :, 1:], LABELS)
    assert record["answer"].state == "red"
    assert "shape (64, 1, 7, 8)" in record["answer"].sentence
    assert record["accuracy"].state == "did not run"
    answer = doctor(Around(lambda z: SimpleNamespace(logits=z)), IMAGES, LABELS)["answer"]
    assert ".logits of a SimpleNamespace; 10 classes" in answer.sentence


@pytest.mark.parametrize("labels", [LABELS + 5, LABELS - 1, LABELS.float(), nn.functional.one_hot(LABELS)])
def test_labels_that_do_not_fit_are_a_red_accuracy(labels: Tensor) -> None:
    check = doctor(Around(), IMAGES, labels)["accuracy"]
    assert check.state == "red"
    assert check.sentence.startswith("labels: expected")


@pytest.mark.parametrize(
    "arguments",
    [
        (IMAGES, LABELS[:5]),
        (IMAGES[:0], LABELS[:0]),
        (3,),
        ([],),
        ([(1, 2)],),
        ([(IMAGES[:4], LABELS[:3])],),
        ([(IMAGES[:4], LABELS[:4]), (IMAGES[:4, :, :5], LABELS[:4])],),
        (iter([IMAGES[:4]]), LABELS[:4]),
        (IMAGES, [1, 2]),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(arguments: Any) -> None:
    with pytest.raises(InputError):
        doctor(Around(), *arguments)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="expect_accuracy"):
        doctor(Around(), IMAGES, LABELS, expect_accuracy=76)
    with pytest.raises(InputError, match="limit"):
        doctor(Around(), IMAGES, LABELS, limit=0)


def test_states_have_an_order_and_a_slip_is_no_green() -> None:
    red, amber = Check("a", "red", 1.0, 1, "."), Check("b", "amber", 1.0, 1, ".")
    assert worst([amber, red, did_not_run("c", ".")]) == "red"
    assert worst([]) == "green"
    assert graded(float("nan"), 0.1, 0.2) == "red"
    assert did_not_run("c", ".").row()["value"] == "nan"
    with pytest.raises(ValueError, match="state"):
        Check("a", "grean", 1.0, 1, ".")


@pytest.mark.parametrize("labels", [None, LABELS[:4]])
def test_images_that_are_an_array_are_to_be_a_tensor(labels: Tensor | None) -> None:
    with pytest.raises(InputError, match=r"images: expected a torch tensor, .* got ndarray; .*torch\.as_tensor"):
        doctor(Around(), IMAGES[:4].numpy(), labels)
    with pytest.raises(InputError, match="images"):
        doctor(Around(), list(IMAGES[:4].numpy()), labels)


def test_gradients_are_not_asked_for_in_inference_mode() -> None:
    with torch.inference_mode():
        check = doctor(Around(), IMAGES[:64], LABELS[:64])["zero gradients"]
    assert check.state == "did not run"
    assert "torch.inference_mode" in check.sentence

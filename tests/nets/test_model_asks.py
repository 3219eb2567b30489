"""What users of attack libraries reported as gone wrong, one test each: the mistake cannot be made here.

Groups: preprocessing and bounds, wrong or misleading numbers, speed and memory, the calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from intriguing import attacks, norms
from intriguing.attacks import ATTACKS, AttackStatus
from intriguing.attacks.base import SLACK, Attack, Trial
from intriguing.bounds.network import layer_bounds
from intriguing.errors import DataError, InputError, ModelError, NetFailedError
from intriguing.nets.doctor import doctor
from intriguing.nets.load import Model

_DATA = load_digits()
IMAGES = torch.from_numpy(_DATA.images[:40]).float()[:, None] / 16
LABELS = torch.from_numpy(_DATA.target[:40]).long()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(classes: int = 10, pixels: int = 64, seed: int = 0) -> nn.Sequential:
    layer = nn.utils.skip_init(nn.Linear, pixels, classes)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(classes, pixels, generator=seeded(seed)) / 4)
        layer.bias.zero_()
    return nn.Sequential(nn.Flatten(), layer)


def nearest(
    model: Model | nn.Module,
    images: Tensor = IMAGES[:8],
    labels: Tensor | None = None,
    *,
    target: str = "top-1",
) -> attacks.AttackResult:
    """Attack images by L-BFGS, by default of the classes the net gives them."""
    return attacks.LBFGS(target=target)(model, images, labels, generator=seeded())


# -- preprocessing and bounds -------------------------------------------------------------------------------------


def test_distances_are_in_pixel_units_whatever_the_normalisation() -> None:
    net = linear()
    scaled = linear()
    with torch.no_grad():
        # (x - 0.5) / 0.25 into weights W / 4 with bias W . 0.5 is W x: the same function of the pixels.
        scaled[1].weight.mul_(0.25)
        scaled[1].bias.copy_(0.5 * net[1].weight.sum(1))
    plain, wrapped = nearest(Model(net)), nearest(Model(scaled, mean=0.5, std=0.25))
    assert plain.found.all()
    torch.testing.assert_close(plain.distance, wrapped.distance, rtol=1e-3, atol=0)
    assert plain.box == wrapped.box == (0.0, 1.0)


def test_pixels_outside_the_box_are_named_with_ids_and_likely_normalisation() -> None:
    images = IMAGES[:4].clone()
    images[2] = images[2] * 2 - 1
    with pytest.raises(DataError) as error:
        nearest(linear(), images, LABELS[:4])
    for words in ("go from -1 to 1", "images 2", "normalised as for half (mean 0.5, std 0.5)", "mean=..., std=..."):
        assert words in str(error.value)


class _InPlace(nn.Module):
    """A net that normalises its input where it lies, as much published code does."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        x.sub_(0.3).div_(0.4)
        return self.net(x)


@pytest.mark.parametrize(
    "attack",
    [attacks.DDN(steps=20), attacks.Nearest(budget=40), attacks.PGD(0.1, steps=5), attacks.Square(0.5, steps=30)],
    ids=lambda attack: type(attack).__name__,
)
@pytest.mark.parametrize("preprocesses", [False, True])
def test_a_net_that_changes_its_input_in_place_changes_no_image(attack: Attack, preprocesses: bool) -> None:
    net, images = linear(), IMAGES[:8].clone()
    options = {"mean": 0.1} if preprocesses else {}
    same = attack(Model(lambda x: net((x.flatten(1) - 0.3) / 0.4), **options), images, generator=seeded())
    result = attack(Model(_InPlace(net), **options), images, generator=seeded())
    assert torch.equal(images, IMAGES[:8])
    assert result.found.any()
    for name, column in vars(same).items():
        if isinstance(column, Tensor):
            assert torch.equal(column, getattr(result, name)), name
    assert result.adversarial.min() >= 0
    assert result.adversarial.max() <= 1


def test_the_doctor_sees_a_net_that_changes_its_input_as_any_other() -> None:
    net, images = linear(), IMAGES.clone()
    labels = Model(_InPlace(net)).predict(images)
    seen = doctor(Model(_InPlace(net), name="net"), images, labels, expect_accuracy=1.0)
    same = doctor(Model(lambda x: net((x.flatten(1) - 0.3) / 0.4), name="net"), images, labels, expect_accuracy=1.0)
    assert torch.equal(images, IMAGES)
    assert seen.checks[:-1] == same.checks[:-1]  # the last counts weights, and a function has none
    assert seen.state == "green"


def test_an_accuracy_that_is_not_the_users_is_red_before_any_claim() -> None:
    net = linear()
    right = Model(net).predict(IMAGES)
    assert doctor(Model(net), IMAGES, right, expect_accuracy=1.0)["accuracy"].state == "green"
    check = doctor(Model(net, mean=(3.0,)), IMAGES, (right + 1) % 10, expect_accuracy=1.0)["accuracy"]
    assert check.state == "red"
    assert "compare box, mean, std" in check.sentence


def test_channel_values_cannot_land_on_another_axis() -> None:
    model = Model(nn.Flatten(), mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0))
    assert model(torch.zeros(1, 3, 3, 3))[0, ::9].tolist() == pytest.approx([-0.1, -0.2, -0.3])
    # After a good call too: one channel would be stretched to three, channels last be taken for rows.
    for shape in ((1, 1, 3, 3), (1, 4, 4, 3), (1, 27)):
        with pytest.raises(InputError, match="one per channel"):
            model(torch.zeros(shape))


def test_nets_of_other_sizes_and_channel_orders_share_one_pixel_space() -> None:
    images = torch.rand(3, 3, 8, 8, generator=seeded())
    reference = linear(5, 3 * 16)
    swapped = linear(5, 3 * 16)
    with torch.no_grad():
        swapped[1].weight.copy_(reference[1].weight.view(5, 3, 16).flip(1).flatten(1))
    rgb, bgr = Model(reference, size=4), Model(swapped, size=(4, 4), bgr=True)
    torch.testing.assert_close(rgb(images), bgr(images))
    point = images.clone().requires_grad_()
    rgb(point).sum().backward()
    assert point.grad.shape == images.shape
    with pytest.raises(InputError, match=r"images \(B, 3, H, W\)"):
        bgr(IMAGES)


def test_an_example_is_judged_again_after_rounding_to_8_bits() -> None:
    model = Model(linear())
    result = nearest(model)
    rounded = result.quantized(256)
    alive = rounded.found
    levels = rounded.adversarial[alive] * 255
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)
    assert (model.predict(rounded.adversarial)[alive] != result.labels[alive]).all()
    assert (rounded.status[result.found & ~alive] == int(AttackStatus.NOT_FOUND)).all()


# -- wrong or misleading numbers ----------------------------------------------------------------------------------


def test_training_mode_is_off_while_measured_and_comes_back_even_after_an_error() -> None:
    net = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))
    net[0].eval()  # frozen on purpose, and to stay so
    before = [module.training for module in net.modules()]
    statistics = net[0].running_mean.clone()
    model = Model(net)
    assert torch.equal(model.logits(IMAGES), model.logits(IMAGES))
    nearest(model)
    with pytest.raises(ModelError):
        nearest(model, torch.rand(2, 1, 3, 3), LABELS[:2])
    assert [module.training for module in net.modules()] == before
    assert torch.equal(net[0].running_mean, statistics)


def test_logits_that_depend_on_the_batch_are_found_by_1_against_64() -> None:
    images = torch.from_numpy(_DATA.images[:64]).float()[:, None] / 16
    net = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), *linear())
    check = doctor(net, images)["batch independence"]
    assert (check.state, check.n) == ("red", 64)
    assert doctor(linear(), images)["batch independence"].state == "green"


def test_probabilities_given_for_logits_are_told_by_range_and_row_sum() -> None:
    soft = nn.Sequential(*linear(), nn.Softmax(1))
    assert doctor(soft, IMAGES)["logits"].state == "amber"
    served = Model(soft, answers="probabilities")
    torch.testing.assert_close(served(IMAGES).softmax(1), soft(IMAGES))
    assert doctor(nn.Sequential(*linear(), nn.LogSoftmax(1)), IMAGES)["logits"].state == "green"
    sharp = linear()
    with torch.no_grad():
        sharp[1].weight.mul_(1e4)
    saturated = nn.Sequential(*sharp, nn.Softmax(1))
    assert doctor(saturated, IMAGES)["logits"].state == "red"
    with pytest.raises(ModelError, match="saturated"):
        nearest(Model(saturated, answers="probabilities"), labels=LABELS[:8])


def test_already_wrong_images_are_no_success_and_success_is_judged_apart() -> None:
    model = Model(linear())
    labels = model.predict(IMAGES[:8])
    labels[0] = (labels[0] + 1) % 10
    result = nearest(model, labels=labels)
    assert result.status[0] == int(AttackStatus.ALREADY_WRONG)
    assert not result.found[0]
    assert result.distance[0] == 0
    assert len({int(status) for status in AttackStatus}) == 5
    again = model.predict(result.adversarial)
    assert (again[result.found] != labels[result.found]).all()
    assert result.adversarial.dtype == IMAGES.dtype


def test_norms_are_those_of_the_returned_images_in_float64() -> None:
    result = nearest(Model(linear()))
    r = (result.adversarial.double() - IMAGES[:8].double())[result.found]
    for norm, kept in ((norms.l1, result.distance_l1), (norms.l2, result.distance), (norms.linf, result.distance_linf)):
        torch.testing.assert_close(kept[result.found], norm(r), rtol=1e-12, atol=0)
        assert kept.dtype == torch.float64


@dataclass(frozen=True)
class Reaching(Attack):
    """An attack that keeps points at `share` of its eps, and beyond."""

    description: ClassVar[str] = "test"
    eps: float = 0.5
    share: float = 1.0
    norm: float = 2
    target: Any = None
    budget: int | None = None

    def _search(self, trial: Trial, generator: torch.Generator | None) -> None:
        image = torch.arange(len(trial.clean))
        step = torch.zeros_like(trial.clean)
        step[:, 0] = self.eps * self.share
        trial.keep(trial.clean + step, image, trial.logits(trial.clean + step, image))


def test_the_tolerance_on_a_norm_is_one_number_and_the_excess_is_reported() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
        net[1].bias.copy_(torch.tensor([0.0, -0.25]))
    images, labels = torch.zeros(1, 2, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    inside = Reaching(share=1 + SLACK / 2)(net.double(), images, labels)
    assert inside.found.all()
    assert 0 < float(inside.size[0] / 0.5 - 1) <= SLACK
    assert not Reaching(share=1 + 3 * SLACK)(net, images, labels).found.any()


@pytest.mark.parametrize("classes", [1, 2, 3])
@pytest.mark.parametrize("target", ["nearest", "all", "top-9", "random"])
def test_few_classes_are_enough_for_every_rule_of_targets(classes: int, target: str) -> None:
    model = Model(linear(classes))
    result = nearest(model, target=target)
    assert result.by_target.shape[1] == max(2, classes)
    assert result.found.any()


# -- speed and memory ---------------------------------------------------------------------------------------------


def test_images_are_attacked_together_and_finished_ones_leave_the_batch() -> None:
    seen: list[int] = []
    net = linear()

    def watched(x: Tensor) -> Tensor:
        if x.requires_grad:
            seen.append(len(x))
        return net(x)

    result = nearest(Model(watched), IMAGES, Model(net).predict(IMAGES))
    assert seen[0] == len(IMAGES)
    assert seen[-1] < len(IMAGES)
    assert len(seen) < int(result.backwards.sum()) / 8


def test_memory_that_runs_out_makes_batches_smaller_and_changes_nothing() -> None:
    net, sizes = linear().double(), []

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            sizes.append(len(x))
            if len(x) > 7:
                raise torch.cuda.OutOfMemoryError("out of memory")
            return self.net(x)

    model = Model(Small())
    torch.testing.assert_close(model.logits(IMAGES), net(IMAGES.double()), rtol=1e-12, atol=1e-12)
    assert sizes == [40, 20, 10, 5, 5, 5, 5, 5, 5, 5, 5]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        RuntimeError("MPS backend out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_image_for_which_memory_is_not_enough_is_an_error_with_the_way_out(error: Exception) -> None:
    def net(x: Tensor) -> Tensor:
        raise error

    with pytest.raises(NetFailedError, match="ran out of memory on cpu with a single image") as raised:
        Model(net, name="huge").predict(IMAGES)
    assert raised.value.__cause__ is error
    assert "huge" in str(raised.value)


def test_a_size_that_fitted_is_remembered_for_each_direction() -> None:
    net, seen = linear(), []

    def small(x: Tensor) -> Tensor:
        seen.append((len(x), x.requires_grad))
        if len(x) > (3 if x.requires_grad else 12):
            raise MemoryError
        return net(x)

    attacks.PGD(0.01, steps=3)(Model(small), IMAGES, generator=seeded())
    assert [size for size, gradient in seen if gradient and size > 3] == [40, 20, 10, 5]
    assert [size for size, gradient in seen if not gradient and size > 12] == [40, 20]


def test_only_the_live_batch_goes_to_the_net_and_a_loader_is_streamed() -> None:
    sizes: list[int] = []

    def watched(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return x.flatten(1)

    Model(watched).predict(IMAGES, batch=16)
    assert sizes == [16, 16, 8]
    endless = ((IMAGES[:8], LABELS[:8]) for _ in iter(int, 1))
    assert doctor(linear(), endless, limit=20)["accuracy"].n == 20


def test_device_and_dtype_come_from_the_model_which_is_never_moved() -> None:
    net = linear().double()
    pointers = [parameter.data_ptr() for parameter in net.parameters()]
    model = Model(net)
    assert model.predict(IMAGES).shape == (40,)
    assert nearest(model).adversarial.dtype == torch.float32
    assert [parameter.data_ptr() for parameter in net.parameters()] == pointers
    assert model.dtype == torch.float64
    with pytest.raises(ModelError) as error:
        model(IMAGES)
    assert "torch.float32 on cpu; its weights are torch.float64 on cpu" in str(error.value)


# -- the calls ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [lambda z: z, lambda z: z[:, 0], lambda z: z.squeeze()])
def test_one_output_is_two_classes(wrap: Any) -> None:
    net = linear(1)
    model = Model(lambda x: wrap(net(x)))
    z = net(IMAGES)[:, 0]
    assert model(IMAGES).shape == (40, 2)
    assert torch.equal(model.predict(IMAGES), (z > 0).long())
    torch.testing.assert_close(model(IMAGES).softmax(1)[:, 1], z.sigmoid())
    served = Model(lambda x: wrap(net(x)).sigmoid(), answers="probabilities")
    torch.testing.assert_close(served(IMAGES).softmax(1)[:, 1], z.sigmoid())
    assert torch.equal(served.predict(IMAGES), model.predict(IMAGES))


def test_several_labels_per_image_are_refused_in_words() -> None:
    several = nn.functional.one_hot(LABELS[:8], 10)
    with pytest.raises(InputError, match="several labels per image are not served"):
        nearest(Model(linear()), labels=several)
    assert "not served" in doctor(linear(), IMAGES[:8], several)["accuracy"].sentence
    assert "several labels" in doctor(nn.Sequential(*linear(), nn.Sigmoid()), IMAGES)["logits"].sentence
    assert "several labels" in str(Model.__doc__)


@pytest.mark.parametrize(
    ("wrap", "where"),
    [
        (lambda z: SimpleNamespace(logits=z), ".logits of a SimpleNamespace"),
        (lambda z: {"logits": z}, '"logits" of a dict'),
        (lambda z: (z,), "the one entry of a tuple"),
        (lambda z: z, "the tensor itself"),
    ],
)
def test_an_answer_that_is_an_object_is_unwrapped_and_it_is_said_where(wrap: Any, where: str) -> None:
    net = linear()
    model = Model(lambda x: wrap(net(x)))
    torch.testing.assert_close(model(IMAGES), net(IMAGES))
    assert where in doctor(model, IMAGES)["answer"].sentence


@pytest.mark.parametrize("name", ATTACKS)
def test_models_without_gradients_are_served_by_attacks_that_need_none_and_refused_in_words_by_the_rest(
    name: str,
) -> None:
    kind = ATTACKS[name]
    net = linear()
    model = Model(lambda x: net(x).detach(), gradients=False, name="black box")
    options: dict[str, Any] = {"eps": 0.5} if "eps" in kind.__dataclass_fields__ else {}
    options |= {"std": 0.5} if "std" in kind.__dataclass_fields__ else {}
    attack = kind(**options, budget=40)
    if kind.needs_gradients:
        with pytest.raises(ModelError, match="black box gives labels and logits but no gradients, which the"):
            attack(model, IMAGES[:4], generator=seeded())
    else:
        result = attack(model, IMAGES[:4], generator=seeded())
        assert (result.backwards == 0).all()
        assert (result.forwards > 1).any()


@pytest.mark.parametrize("trained", [False, True])  # whose answers have a gradient, but for its weights alone
@pytest.mark.parametrize("name", ATTACKS)
def test_a_net_that_detaches_its_images_is_refused_in_the_same_words_by_every_attack(name: str, trained: bool) -> None:
    kind = ATTACKS[name]
    net = linear().requires_grad_(trained)
    options: dict[str, Any] = {"eps": 0.5} if "eps" in kind.__dataclass_fields__ else {}
    attack = kind(**options, budget=40)
    if not kind.needs_gradients:
        return
    with pytest.raises(ModelError, match=r"passes no gradient to its images.* keep tensors from being detached"):
        attack(Model(lambda x: net(x.detach())), IMAGES[:4], generator=seeded())


def test_a_net_whose_backward_pass_fails_is_told_by_name() -> None:
    net = linear()

    def spoiled(x: Tensor) -> Tensor:
        h = net(x).exp()
        square = h * h
        h.add_(1)  # what the square keeps for its gradient
        return square

    with pytest.raises(NetFailedError, match=r"spoiled failed in its backward pass.*inplace operation") as raised:
        attacks.DDN(steps=2)(Model(spoiled), IMAGES[:4])
    assert "dtype" not in str(raised.value)


def test_a_model_of_bare_labels_says_what_it_lacks() -> None:
    model = Model(lambda x: linear()(x).argmax(1), answers="labels", classes=10)
    assert model.capabilities == ("labels",)
    assert torch.equal(model.predict(IMAGES), linear()(IMAGES).argmax(1))
    with pytest.raises(ModelError, match="gives labels but no logits, which the margin needs"):
        model.require("logits", "the margin")
    with pytest.raises(InputError, match="classes"):
        Model(lambda x: x, answers="labels")


def test_an_attack_leads_away_from_the_true_class_or_from_the_one_predicted() -> None:
    model = Model(linear())
    wrong = (model.predict(IMAGES[:8]) + 1) % 10
    attack = attacks.LBFGS(target="top-1")
    assert (attack(model, IMAGES[:8], wrong).status == int(AttackStatus.ALREADY_WRONG)).all()
    result = attack(model, IMAGES[:8])
    assert result.found.all()
    assert torch.equal(result.labels, model.predict(IMAGES[:8]))


def test_an_operation_without_a_bound_is_an_error_with_its_name_and_path() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x**2

    net = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(64, 8), Odd()), nn.Linear(8, 10))
    with pytest.raises(ModelError, match=r"1\.1.*Odd"):
        layer_bounds(Model(net), (1, 8, 8))

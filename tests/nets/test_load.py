"""Model: the box, preprocessing, modes, devices, and every way a net may answer."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from intriguing import nets
from intriguing.attacks import FGSM, Nearest
from intriguing.errors import DataError, InputError, ModelError, NetFailedError
from intriguing.nets.doctor import doctor
from intriguing.nets.load import Model, as_model


@pytest.fixture
def images() -> Tensor:
    return torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))


class Answer(nn.Module):
    """A net that passes its logits through a function."""

    def __init__(self, wrap: Any, classes: int = 3) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(48, classes)
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.linear(self.flatten(x)))


def test_preprocessing_is_inside_and_differentiable(images: Tensor) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    model = Model(net, mean=mean, std=std)
    shape = (1, 3, 1, 1)
    expected = net((images - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape))
    torch.testing.assert_close(model(images), expected)
    x = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x)[:, 0].sum(), x)
    torch.testing.assert_close(
        gradient, (net[1].weight[0].view(1, 3, 4, 4) / torch.tensor(std).view(shape)).expand_as(x)
    )


def test_scalar_preprocessing_takes_flat_images() -> None:
    model = Model(nn.Identity(), mean=0.5, std=0.5)
    assert model(torch.tensor([[0.0, 0.5, 1.0]])).tolist() == [[-1.0, 0.0, 1.0]]


def test_channel_values_need_that_many_channels(images: Tensor) -> None:
    model = Model(nn.Flatten(), mean=(0.1, 0.2), std=(1.0, 1.0))
    with pytest.raises(InputError, match="one per channel"):
        model(images)
    with pytest.raises(InputError, match="one per channel"):
        Model(nn.Flatten(), mean=(0.1, 0.2, 0.3))(images.flatten(1))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda z: SimpleNamespace(logits=z),
        lambda z: {"logits": z, "loss": None},
        lambda z: (z,),
        lambda z: [z],
    ],
    ids=["attribute", "mapping", "tuple", "list"],
)
def test_logits_are_found_inside_the_answer(images: Tensor, wrap: Any) -> None:
    net = Answer(wrap)
    torch.testing.assert_close(Model(net)(images), net.linear(images.flatten(1)))


@pytest.mark.parametrize("wrap", [lambda z: z, lambda z: z[:, 0], lambda z: z.squeeze()])
@pytest.mark.parametrize("count", [1, 6])
def test_a_single_logit_becomes_two(images: Tensor, wrap: Any, count: int) -> None:
    net = Answer(wrap, classes=1)
    x = images[:count]
    logits = Model(net)(x)
    z = net.linear(x.flatten(1))
    torch.testing.assert_close(logits, torch.cat((torch.zeros_like(z), z), dim=1))
    torch.testing.assert_close(logits.softmax(1)[:, 1:], z.sigmoid())
    logits.sum().backward()
    assert net.linear.weight.grad is not None


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda z: z[:-1], "one row per image"),
        (lambda z: z[:, :0], "expected logits"),
        (lambda z: z[:, :, None, None], "Flatten"),
        (lambda z: z.flatten(), "one row per image"),
        (lambda z: z.argmax(1), "argmax"),
        (lambda z: (z, z), "tuple"),
        (lambda z: {"scores": z}, "logits"),
        (lambda z: None, "NoneType"),
    ],
)
def test_unusable_answers_say_what_to_do(images: Tensor, wrap: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Model(Answer(wrap))(images)


def test_check_names_the_rows_with_nan(images: Tensor) -> None:
    def spoil(z: Tensor) -> Tensor:
        z = z.clone()
        z[2, 0] = float("nan")
        z[4, 1] = float("inf")
        return z

    model = Model(Answer(spoil))
    assert model(images).shape == (6, 3)
    with pytest.raises(ModelError, match="images 2, 4"):
        model.check(model(images))
    with pytest.raises(ModelError, match="NaN"):
        model.predict(images)


def test_check_compares_classes_with_labels(images: Tensor) -> None:
    model = Model(Answer(lambda z: z, classes=1))
    with pytest.raises(ModelError, match="single column counts as two classes"):
        model.check(model(images), torch.tensor([0, 7]))
    assert model.check(model(images), torch.tensor([0, 1])).shape == (6, 2)


def _mixed_net() -> nn.Module:
    """Return a net with mixed modes and flags: a frozen batch norm inside a net in training mode."""
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(48), nn.Linear(48, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    net[1].eval()
    net[2].weight.requires_grad_(False)
    net[4].weight.grad = torch.ones(3, 8)
    return net


def _state(net: nn.Module) -> tuple[list[bool], list[bool]]:
    return [module.training for module in net.modules()], [p.requires_grad for p in net.parameters()]


def test_frozen_restores_every_mode_and_flag(images: Tensor) -> None:
    net = _mixed_net()
    before, grad = _state(net), net[4].weight.grad
    statistics = net[1].running_mean.clone()
    model = Model(net)
    with model.frozen() as same:
        assert same is model
        assert not any(_state(net)[0])
        assert not any(_state(net)[1])
        x = images.clone().requires_grad_()
        logits = model(x)
        logits.sum().backward()
        assert x.grad is not None
        with model.frozen():
            pass
        assert not any(_state(net)[0])
    assert _state(net) == before
    assert net[4].weight.grad is grad
    assert torch.equal(grad, torch.ones(3, 8))
    assert torch.equal(net[1].running_mean, statistics)


def test_frozen_restores_after_an_exception() -> None:
    net = _mixed_net()
    before = _state(net)
    with pytest.raises(ZeroDivisionError), Model(net).frozen():
        raise ZeroDivisionError
    assert _state(net) == before


def test_frozen_leaves_overridden_eval_alone() -> None:
    class Merging(nn.Linear):
        merged = False

        def train(self, mode: bool = True) -> Merging:
            self.merged = not mode
            return super().train(mode)

    net = Merging(2, 3)
    with Model(net).frozen():
        assert not net.training
        assert not net.merged
    assert net.training


def test_frozen_makes_answers_independent_of_the_batch(images: Tensor) -> None:
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(48), nn.Dropout(0.5), nn.Linear(48, 3))
    net(images)
    model = Model(net)
    whole = model.logits(images)
    single = torch.cat([model.logits(image[None]) for image in images])
    # Another batch size may add the same products in another order.
    torch.testing.assert_close(whole, single, atol=1e-6, rtol=1e-5)


def test_predict_streams_and_agrees_with_the_logits(images: Tensor) -> None:
    model = Model(Answer(lambda z: z).double(), mean=0.1)
    assert model.dtype == torch.float64
    whole = model.predict(images)
    assert whole.dtype == torch.int64
    assert torch.equal(model.predict(images, batch=4), whole)
    assert not model.logits(images).requires_grad
    with pytest.raises(InputError, match="batch"):
        model.predict(images, batch=0)


def test_device_and_dtype_come_from_the_net() -> None:
    assert Model(nn.Identity()).dtype == torch.float32
    assert Model(nn.Identity()).device == torch.device("cpu")
    net = nn.Linear(2, 2, dtype=torch.bfloat16)
    model = Model(net)
    assert model.dtype == torch.bfloat16
    net.to("meta")
    assert model.device == torch.device("meta")
    assert Model(lambda x: x).dtype == torch.float32
    with torch.device("meta"):
        buffers = nn.BatchNorm1d(3, affine=False)
    assert Model(buffers).device == torch.device("meta")


def test_layers_by_path() -> None:
    model = Model(nets.build("FC100-100-10", (1, 8, 8), 10))
    assert list(model.layers()) == ["flatten", "hidden1", "sigmoid1", "hidden2", "sigmoid2", "output"]
    assert Model(lambda x: x).layers() == {}


def test_as_model_wraps_once() -> None:
    net = nn.Linear(2, 2)
    model = as_model(net)
    assert model.net is net
    assert as_model(model) is model
    assert model.name == "Linear"
    with pytest.raises(InputError, match="net"):
        as_model(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings",
    [{"box": (1.0, 0.0)}, {"box": (0.0, float("nan"))}, {"std": 0.0}, {"mean": ()}, {"mean": float("nan")}],
)
def test_impossible_settings(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Model(nn.Identity(), **settings)


def test_mean_and_std_of_different_lengths_are_refused_at_once() -> None:
    with pytest.raises(InputError, match="one per channel, got 2 of mean and 3 of std"):
        Model(nn.Identity(), mean=(0.1, 0.2), std=(1, 1, 1))
    assert Model(nn.Flatten(), mean=0.5, std=(1, 2, 4))(torch.zeros(1, 3, 1, 1)).tolist() == [[-0.5, -0.25, -0.125]]


@pytest.mark.parametrize("size", [2.5, 8.0, True, "8", 0, (8,), (8, 8.0), (8, 8, 8), float("inf")])
def test_a_size_that_is_no_whole_number_of_pixels_is_refused(size: Any) -> None:
    with pytest.raises(InputError, match="size: expected a side or"):
        Model(nn.Identity(), size=size)


def test_weights_that_are_not_made_yet_are_told_by_name(images: Tensor) -> None:
    net = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    for use in (lambda: Model(net).predict(images), lambda: FGSM(0.1)(net, images)):
        with pytest.raises(ModelError, match=r"not made yet \(LazyLinear\): call it once on a batch of images"):
            use()
    checks = doctor(net, images)
    assert checks["answer"].state == "red"
    assert "not made yet (LazyLinear)" in checks["answer"].sentence
    net(images)
    assert Model(net).predict(images).shape == (6,)


def test_weights_without_values_are_told_by_name(images: Tensor) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 3, device="meta"))
    with pytest.raises(ModelError, match=r"on the meta device \(Linear\)"):
        Model(net).predict(images)
    with pytest.raises(ModelError, match=r"on the meta device \(Linear\)"):
        FGSM(0.1)(net, images)
    assert "on the meta device" in doctor(net, images)["answer"].sentence


@pytest.mark.parametrize("how", ["whole", "part", "in place", "function"])
def test_a_compiled_net_is_attacked_as_it_was_before(images: Tensor, how: str) -> None:
    net = Answer(lambda z: z)
    plain = Nearest(budget=40)(net, images)
    graphs = []

    def backend(graph: Any, example: Any) -> Any:
        graphs.append(graph)
        return graph

    given: Any = net
    if how == "whole":
        given = torch.compile(net, backend=backend)
    elif how == "part":
        given = nn.Sequential(nn.Identity(), torch.compile(net, backend=backend))
    elif how == "in place":
        net.compile(backend=backend)
    else:
        given = torch.compile(lambda x: net(x), backend=backend)
    model = Model(given)
    result = Nearest(budget=40)(model, images)
    assert torch.equal(result.adversarial, plain.adversarial)
    assert torch.equal(result.forwards, plain.forwards)
    assert not graphs
    given(images)
    assert graphs  # it is as it was


# What a user's loader gives when the normalisation was left in it.
@pytest.mark.parametrize(
    ("name", "channels", "mean", "std"),
    [
        ("MNIST", 1, (0.1307,), (0.3081,)),
        ("ImageNet", 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("CIFAR-10", 3, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        ("half", 3, (0.5,), (0.5,)),
    ],
)
def test_check_inputs_names_the_likely_normalisation(
    name: str, channels: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    pixels = torch.rand(8, channels, 16, 16, generator=torch.Generator().manual_seed(1))
    shape = (1, -1, 1, 1)
    normalised = (pixels - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    model = Model(nn.Flatten())
    with pytest.raises(DataError, match=f"normalised as for {name} ") as error:
        model.check_inputs(normalised)
    assert "mean=" in str(error.value)
    assert f"{normalised.min().item():.4g}" in str(error.value)
    assert model.check_inputs(pixels) is pixels


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), "images.float"),
        (torch.zeros(2, 2, 2), "shape"),
        (torch.zeros(0, 1, 2, 2), "at least one image"),
        (torch.tensor([[0.0, 1.0], [float("nan"), 0.5], [float("inf"), 0.5]]), "images 1, 2"),
        (torch.tensor([[0.0, 1.0], [0.5, 200.0]]), "255"),
        (torch.tensor([[0.0, 1.0], [0.5, 1.01]]), "from 0 to 1.01 .images 1."),
        (torch.full((9, 2), -0.5), "0, 1, 2, 3, 4 and 4 more"),
    ],
)
def test_check_inputs_refuses(images: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Model(nn.Flatten()).check_inputs(images)


def test_another_box_is_respected() -> None:
    model = Model(nn.Flatten(), box=(-1.0, 1.0))
    model.check_inputs(torch.tensor([[-1.0, 1.0]]))
    with pytest.raises(DataError, match="box"):
        model.check_inputs(torch.tensor([[-1.0, 1.5]]))


def test_a_call_costs_next_to_nothing() -> None:
    # A forward and backward of FC100-100-10 at 1,000 rows takes 2 ms; 20 microseconds would be 1% of it. The
    # best of several rounds, so that a busy machine does not decide.
    logits = torch.zeros(4, 3)
    model = Model(lambda x: logits)
    images = torch.zeros(4, 2)
    rounds = []
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(200):
            model(images)
        rounds.append((time.perf_counter() - start) / 200)
    assert min(rounds) < 20e-6


def _odd(tensor: Tensor, kind: str) -> Tensor:
    if kind == "meta":
        return tensor.to("meta")
    return tensor.to_sparse() if kind == "sparse" else torch.nested.nested_tensor(list(tensor))


odd_kinds = pytest.mark.parametrize("kind", ["sparse", "meta", "nested"])


@odd_kinds
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("answers", ["logits", "probabilities", "labels"])
def test_answers_that_are_no_ordinary_tensors_are_told_by_name(images: Tensor, kind: str, answers: str) -> None:
    model = Model(lambda x: _odd(x.flatten(1), kind), answers=answers, classes=48)
    for use in (model, model.predict, lambda x: FGSM(0.1)(model, x)):
        with pytest.raises(ModelError, match=f"returned a {kind} tensor|gives labels"):
            use(images)


@odd_kinds
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_images_and_labels_that_are_no_ordinary_tensors_are_told_by_name(images: Tensor, kind: str) -> None:
    model, flat = Model(Answer(lambda z: z)), images.flatten(1)
    odd, labels = _odd(flat, kind), torch.zeros(6, dtype=torch.int64)
    for use in (model.predict, model.check_inputs, lambda x: FGSM(0.1)(model, x), lambda x: doctor(model, x)):
        with pytest.raises((DataError, InputError), match=f"got a {kind} one"):
            use(odd)
    if kind != "nested":  # a nested tensor has two axes at least
        with pytest.raises(InputError, match=f"labels: expected an ordinary int64 tensor .6,., got a {kind} one"):
            FGSM(0.1)(model, flat, _odd(labels, kind))
        assert f"got a {kind} one" in doctor(model, flat, _odd(labels, kind))["accuracy"].sentence


def test_an_in_place_operation_that_torch_refuses_is_told_as_such(images: Tensor) -> None:
    leaf = torch.zeros(6, 48, requires_grad=True)
    with pytest.raises(NetFailedError, match=r"in-place operation.*Have the net make a new tensor") as raised:
        Model(lambda x: leaf.add_(x.flatten(1)))(images)
    assert "dtype and on" not in str(raised.value)

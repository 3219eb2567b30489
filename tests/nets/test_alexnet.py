"""AlexNet: its published shapes, its normalisation by the printed formula, weights from files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from intriguing import rng
from intriguing.errors import InputError, ModelError, UnknownNameError
from intriguing.nets.alexnet import VARIANTS, ChannelNorm, Dropout, alexnet, load_published, shapes

TORCHVISION = [*(f"features.{n}" for n in (0, 3, 6, 8, 10)), *(f"classifier.{n}" for n in (1, 4, 6))]
CAFFE = [*(f"conv{n}" for n in range(1, 6)), *(f"fc{n}" for n in (6, 7, 8))]
OWN = [*(f"conv{n}" for n in range(1, 6)), *(f"fc{n}" for n in (1, 2, 3))]

# Parameters of the nets at their own resolution: 60,965,224 is Caffe's, 61,100,840 torchvision's documented count.
SIZES = {"published": 60_965_224, "ungrouped": 62_378_344, "caffe": 60_965_224, "torchvision": 61_100_840}


@pytest.mark.parametrize("variant", VARIANTS)
def test_sizes_are_the_published_ones(variant: str) -> None:
    side = 227 if variant == "caffe" else 224
    net = shapes((3, side, side), 1000, variant=variant)
    assert sum(parameter.numel() for parameter in net.parameters()) == SIZES[variant]
    assert net.fc1.weight.shape == (4096, 9216)


def test_weights_of_table_5() -> None:
    net = shapes()
    wanted = {"conv1": (96, 3, 11, 11), "conv2": (256, 96, 5, 5), "conv3": (384, 256, 3, 3), "conv4": (384, 384, 3, 3)}
    wanted |= {"conv5": (256, 384, 3, 3), "fc1": (4096, 9216), "fc2": (4096, 4096), "fc3": (1000, 4096)}
    found = {name: tuple(p.shape) for name, p in net.named_parameters() if name.endswith("weight")}
    assert found == {f"{name}.weight": shape for name, shape in wanted.items()}
    names = (
        "conv1 relu1 norm1 pool1 conv2 relu2 norm2 pool2 conv3 relu3 conv4 relu4 conv5 relu5 pool5 flatten "
        "fc1 relu6 drop1 fc2 relu7 drop2 fc3"
    )
    assert [name for name, _ in net.named_children()] == names.split()
    assert (net.conv1.stride, net.pool1.kernel_size, net.pool1.stride) == ((4, 4), 3, 2)


@pytest.mark.parametrize(("shape", "classes"), [((3, 112, 112), 20), ((1, 64, 64), 10), ((3, 63, 70), 2)])
@pytest.mark.parametrize("variant", ["ungrouped", "published", "torchvision"])
def test_takes_every_shape_at_reduced_width(shape: tuple[int, ...], classes: int, variant: str) -> None:
    net = alexnet(shape, classes, width=0.1, variant=variant).eval()
    logits = net(torch.rand(2, *shape))
    assert logits.shape == (2, classes)
    assert bool(logits.isfinite().all())
    assert float(logits.detach().std()) > 0


def test_starting_weights_come_from_the_generator_alone() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (alexnet((1, 64, 64), 3, width=0.1, generator=rng.generator("a", s)) for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.conv5.weight, again.conv5.weight)
    assert not torch.equal(first.conv5.weight, other.conv5.weight)


def test_the_normalisation_is_the_printed_formula() -> None:
    # Section 3.3, written out: b_i = a_i / (2 + 1e-4 sum_{j = i-2}^{i+2} a_j^2)^0.75, over channels alone.
    a = 100 * torch.randn(2, 7, 3, 2, generator=rng.generator("a", 0), dtype=torch.float64)
    wanted = torch.zeros_like(a)
    for i in range(7):
        around = sum(a[:, j] ** 2 for j in range(max(0, i - 2), min(6, i + 2) + 1))
        wanted[:, i] = a[:, i] / (2 + 1e-4 * around) ** 0.75
    norm = alexnet((3, 64, 64), 2, width=0.1).norm1
    torch.testing.assert_close(norm(a), wanted)


@pytest.mark.parametrize("beta", [0.6, 0.75])
@pytest.mark.parametrize("size", [3, 4, 5])
def test_the_normalisation_is_torchs(size: int, beta: float) -> None:
    a = (10 * torch.randn(2, 9, 4, 5, generator=rng.generator("a", 0), dtype=torch.float64)).requires_grad_()
    ours, theirs = (kind(size, alpha=0.3, beta=beta, k=1.5) for kind in (ChannelNorm, nn.LocalResponseNorm))
    torch.testing.assert_close(ours(a), theirs(a))
    gradients = [torch.autograd.grad(norm(a).square().sum(), a)[0] for norm in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_dropout_draws_from_its_generator() -> None:
    drop, x = Dropout(0.25), torch.ones(200, 200)
    drop.generator = rng.generator("drop", 0)
    before = torch.random.get_rng_state()
    dropped = drop(x)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert float(dropped.mean()) == pytest.approx(1, abs=0.015)  # 5 standard errors: sqrt(1/3 / 40,000) each
    assert torch.equal(drop.eval()(x), x)


Saved = Callable[..., Path]


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Saved:
    """Return a function that saves an AlexNet's weights under other names, with 4 instead of 4,096 dense units."""
    monkeypatch.setattr("intriguing.nets.alexnet.DENSE", 4)

    def save(variant: str, names: list[str], file: str, *, prefix: str = "", wrap: bool = False) -> Path:
        side = 227 if variant == "caffe" else 224
        net = alexnet((3, side, side), 3, variant=variant, generator=rng.generator(variant, 0))
        state = {}
        for own, name in zip(OWN, names, strict=True):
            for part in ("weight", "bias"):
                state[f"{prefix}{name}.{part}"] = net.state_dict()[f"{own}.{part}"].clone()
        path = tmp_path / file
        if path.suffix == ".safetensors":
            save_file(state, path)
        else:
            torch.save({"state_dict": state, "epoch": 90} if wrap else state, path)
        return path

    return save


@pytest.mark.parametrize(
    ("variant", "names", "file", "options"),
    [
        ("torchvision", TORCHVISION, "alexnet.pth", {}),
        ("torchvision", TORCHVISION, "alexnet.safetensors", {}),
        ("published", OWN, "alexnet.pt", {"prefix": "module.", "wrap": True}),
        ("ungrouped", OWN, "alexnet.safetensors", {}),
    ],
)
def test_published_weights_come_back(
    saved: Saved, variant: str, names: list[str], file: str, options: dict[str, object]
) -> None:
    path = saved(variant, names, file, **options)
    net = load_published(path)
    assert not net.training
    twin = alexnet((3, 224, 224), 3, variant=variant, generator=rng.generator(variant, 0)).eval()
    x = torch.rand(1, 3, 224, 224, generator=rng.generator("x", 0))
    torch.testing.assert_close(net(x), twin(x))
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_weights_of_caffe_take_red_green_blue(saved: Saved) -> None:
    net = load_published(saved("caffe", CAFFE, "caffe.safetensors"))
    twin = alexnet((3, 227, 227), 3, variant="caffe", generator=rng.generator("caffe", 0)).eval()
    assert (net.norm1.k, net.norm1.alpha, net.conv1.padding) == (1.0, 1e-4, (0, 0))
    x = torch.rand(1, 3, 227, 227, generator=rng.generator("x", 0))
    torch.testing.assert_close(net(x), twin(x.flip(1)))


def test_the_variant_asked_for_must_fit(saved: Saved) -> None:
    path = saved("torchvision", TORCHVISION, "alexnet.pth")
    with pytest.raises(ModelError, match=r"features\.0 has weights \(64, 3, 11, 11\).*conv1 of the 'published'"):
        load_published(path, variant="published")
    with pytest.raises(UnknownNameError, match="variant of AlexNet"):
        load_published(path, variant="torch-vision")


def _weights(count: int, dimensions: int) -> dict[str, Tensor]:
    return {f"a{n}.{part}": torch.zeros([2] * (dimensions if part == "weight" else 1)) for n in range(count)
            for part in ("weight", "bias")}  # fmt: skip


def test_files_that_hold_no_alexnet(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no file"):
        load_published(tmp_path / "none.pth")
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"no weights")
    with pytest.raises(InputError, match="cannot be read as weights"):
        load_published(broken)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no weights")
    with pytest.raises(InputError, match="cannot be read as weights"):
        load_published(broken)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match="holds list"):
        load_published(tmp_path / "list.pth")
    torch.save(_weights(3, 4), tmp_path / "three.pth")
    with pytest.raises(ModelError, match="got 3 convolutions and 0 dense layers among 6 tensors"):
        load_published(tmp_path / "three.pth")
    torch.save({"conv1.weight": torch.zeros(2, 2, 1, 1)}, tmp_path / "bare.pth")
    with pytest.raises(ModelError, match="weights but no biases"):
        load_published(tmp_path / "bare.pth")


def test_code_in_a_torch_file_is_not_run(tmp_path: Path) -> None:
    torch.save(nn.Linear(1, 1), tmp_path / "module.pth")  # a pickled class, which weights_only refuses
    with pytest.raises(InputError, match="tensors alone"):
        load_published(tmp_path / "module.pth")


@pytest.mark.parametrize(
    ("shape", "settings"),
    [((3, 62, 64), {}), ((3, 64, 64), {"width": 0.0}), ((3, 64, 64), {"variant": "caffe"}), ((64, 64), {})],
)
def test_impossible_shapes_and_widths(shape: tuple[int, ...], settings: dict[str, object]) -> None:
    with pytest.raises(InputError):
        alexnet(shape, 10, **{"width": 0.1, **settings})

"""Models by name: files and their factories, exported programs, extras by stand-ins; every failure a sentence."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from intriguing.errors import InputError, IntriguingError, ModelError, UnknownNameError
from intriguing.nets.load import Model
from intriguing.nets.sources import load

FILE = """
import torch
from torch import nn
from sklearn.linear_model import RidgeClassifier
import numpy as np
from intriguing import Model
import neighbour

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, neighbour.CLASSES))

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(4, 3))

ready = build()

def wrapped():
    return Model(build(), box=(-1, 1), name="mine")

def estimator():
    return RidgeClassifier().fit(np.arange(24.0).reshape(6, 4) % 5, np.arange(6) % 3)

def function():
    return lambda images: images.flatten(1)

def nothing():
    return None

def argument(x):
    return x

def leave():
    raise SystemExit(3)

def broken():
    import absent_package_of_nobody

number = 3
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_model.py").write_text(FILE)
    (tmp_path / "neighbour.py").write_text("CLASSES = 5\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("my_model", "neighbour"):
        sys.modules.pop(name, None)


IMAGES = torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("spec", "classes"),
    [
        ("my_model.py:build", 5),
        ("my_model.py:Net", 3),
        ("my_model.py:ready", 5),
        ("./my_model.py:build", 5),
        ("my_model:build", 5),
        ("my_model.py:wrapped", 5),
        ("my_model.py:function", 4),
    ],
)
def test_a_factory_in_a_file_or_module_gives_the_model(spec: str, classes: int) -> None:
    before = list(sys.path)
    model = load(spec)
    assert isinstance(model, Model)
    assert model(IMAGES).shape == (3, classes)
    assert model.name == ("mine" if "wrapped" in spec else spec)
    assert sys.path == before


def test_an_estimator_is_converted() -> None:
    model = load("my_model.py:estimator", box=(0, 4))
    assert model.dtype == torch.float64
    points = np.arange(24.0).reshape(6, 4) % 5
    assert model.predict(torch.from_numpy(points)).shape == (6,)
    assert model.box == (0, 4)


def test_settings_reach_the_model_and_do_not_contradict_one() -> None:
    model = load("my_model.py:function", box=(0, 2), mean=0.5, std=[0.25])
    torch.testing.assert_close(model(IMAGES), ((IMAGES - 0.5) / 0.25).flatten(1))
    assert model.box == (0, 2)
    with pytest.raises(InputError, match="returns a Model"):
        load("my_model.py:wrapped", mean=0.5)


def test_weights_fill_the_net(place: Path) -> None:
    state = {"1.weight": torch.rand(5, 4), "1.bias": torch.rand(5)}
    save_file(state, place / "w.safetensors")
    model = load("my_model.py:build", weights=place / "w.safetensors", device="cpu")
    torch.testing.assert_close(model(IMAGES), IMAGES.flatten(1) @ state["1.weight"].T + state["1.bias"])
    with pytest.raises(ModelError, match=r"'1.weight' has shape \(5, 4\), the net wants \(3, 4\)"):
        load("my_model.py:Net", weights="w.safetensors")
    with pytest.raises(InputError, match="is a function"):
        load("my_model.py:function", weights="w.safetensors")


@pytest.mark.parametrize(
    ("spec", "kind", "words"),
    [
        ("", InputError, "expected my_model.py:build"),
        ("my_model.py", InputError, "expected my_model.py:build"),
        ("my_model.py:", InputError, "expected my_model.py:build"),
        ("my_model.py:bild", UnknownNameError, "Did you mean 'build'"),
        ("my_model.py:nothing", ModelError, "returned a NoneType"),
        ("my_model.py:number", ModelError, "is a int, not a function"),
        ("my_model.py:argument", ModelError, "called without arguments"),
        ("my_model.py:leave", ModelError, "raised SystemExit: 3"),
        ("my_model.py:broken", ModelError, "absent_package_of_nobody"),
        ("absent_module:build", ModelError, "No module named 'absent_module'"),
        ("absent.py:build", ModelError, "there is no file 'absent.py'"),
        ("model.pkl", ModelError, "runs whatever code"),
        ("model.joblib:model", ModelError, "runs whatever code"),
        ("w.pth", InputError, "--weights w.pth"),
        ("w.safetensors", InputError, "holds weights, not a net"),
        ("net.pt2", ModelError, "there is no file 'net.pt2'"),
        ("timm:", InputError, "expected a name after timm:"),
        ("timm:resnet50", ModelError, "pip install timm"),
        ("transformers:vit", ModelError, "pip install transformers"),
        ("onnx:net.onnx", ModelError, "pip install onnxruntime"),
        ("net.onnx", ModelError, "pip install onnxruntime"),
    ],
)
def test_every_failure_is_a_sentence(
    spec: str, kind: type[IntriguingError], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("timm", "transformers", "onnxruntime"):  # as if it were not installed, wherever this runs
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(kind) as error:
        load(spec)
    assert words in str(error.value)


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match="device: abacus"):
        load("my_model.py:build", device="abacus")


def test_an_exported_program_runs_as_the_net_does(place: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    program = torch.export.export(net, (IMAGES,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, place / "net.pt2")
    model = load("net.pt2")
    image = torch.rand(5, 1, 2, 2, requires_grad=True)
    torch.testing.assert_close(model(image), net(image))
    with model.frozen():
        model(image).sum().backward()
    assert image.grad is not None
    torch.export.save(torch.export.export(net, (IMAGES,)), place / "fixed.pt2")
    with pytest.raises(ModelError, match="batches of exactly 3 images"):
        load("fixed.pt2")


@pytest.mark.parametrize("content", [b"", b"abc" * 100, b"PK\x03\x04" + b"0" * 100])
def test_a_damaged_program_is_named(place: Path, content: bytes) -> None:
    (place / "net.pt2").write_bytes(content)
    with pytest.raises(ModelError, match=r"net\.pt2 is no program"):
        load("net.pt2")


def standin(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> None:
    module = ModuleType(name)
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, name, module)


class Sized(nn.Module):
    """A net for 4x4 colour images that answers as transformers' nets do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(48, 7)
        self.pretrained_cfg = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.2, 0.2), "input_size": (3, 4, 4)}
        self.config = SimpleNamespace(problem_type=None)

    def forward(self, images: torch.Tensor) -> Any:
        assert images.shape[1:] == (3, 4, 4)
        return SimpleNamespace(logits=self.linear(images.flatten(1)))


def test_timm_by_a_standin_brings_its_normalisation_and_size(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    asked: list[tuple[str, bool]] = []

    def create_model(name: str, pretrained: bool) -> nn.Module:
        asked.append((name, pretrained))
        if name == "resnet5o":
            raise RuntimeError("Unknown model (resnet5o)")
        return Sized()

    standin(monkeypatch, "timm", create_model=create_model)
    model = load("timm:resnet50")
    assert model.size == (4, 4)
    assert model.mean.tolist() == [0.4, 0.5, 0.6]
    assert model(torch.rand(2, 3, 9, 9)).shape == (2, 7)
    save_file(Sized().state_dict(), place / "w.safetensors")
    load("timm:resnet50", weights="w.safetensors")
    assert asked == [("resnet50", True), ("resnet50", False)]
    with pytest.raises(ModelError, match="Unknown model"):
        load("timm:resnet5o")


@pytest.mark.parametrize("size", [{"height": 4, "width": 4}, {"shortest_edge": 4}, 4])
def test_transformers_by_a_standin_brings_its_processor(monkeypatch: pytest.MonkeyPatch, size: Any) -> None:
    processor = SimpleNamespace(image_mean=[0.5] * 3, image_std=[0.25] * 3, size=size, do_normalize=True)
    net = Sized()
    standin(
        monkeypatch,
        "transformers",
        AutoModelForImageClassification=SimpleNamespace(from_pretrained=lambda name: net),
        AutoImageProcessor=SimpleNamespace(from_pretrained=lambda name: processor),
    )
    model = load("transformers:google/vit")
    images = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(model(images), net((images - 0.5) / 0.25).logits)
    net.config.problem_type = "multi_label_classification"
    with pytest.raises(ModelError, match="several labels"):
        load("transformers:google/vit")


class Session:
    """A stand-in for onnxruntime's session: a linear net, for one batch size or any."""

    inputs: tuple[Any, ...] = (SimpleNamespace(name="pixels", type="tensor(float)", shape=["N", 1, 2, 2]),)
    outputs: tuple[Any, ...] = (SimpleNamespace(name="scores"),)

    def __init__(self, path: str, providers: list[str]) -> None:
        if b"damaged" in Path(path).read_bytes():
            raise ValueError("INVALID_PROTOBUF")
        self.weight = np.arange(12, dtype=np.float32).reshape(4, 3)

    def get_inputs(self) -> Any:
        return self.inputs

    def get_outputs(self) -> Any:
        return self.outputs

    def run(self, names: list[str], feed: dict[str, Any]) -> list[Any]:
        images = feed["pixels"]
        assert images.dtype == np.float32
        if isinstance(self.inputs[0].shape[0], int):
            assert len(images) == self.inputs[0].shape[0]
        return [images.reshape(len(images), -1) @ self.weight]


def test_onnx_by_a_standin_is_a_model_without_gradients(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    from intriguing import attacks

    standin(monkeypatch, "onnxruntime", InferenceSession=Session)
    (place / "net.onnx").write_bytes(b"fine")
    (place / "bad.onnx").write_bytes(b"damaged")
    model = load("onnx:net.onnx")
    assert model.capabilities == ("labels", "logits")
    expected = IMAGES.flatten(1) @ torch.arange(12.0).reshape(4, 3)
    torch.testing.assert_close(model(IMAGES), expected)
    assert model(IMAGES.double()).dtype == torch.float64
    with pytest.raises(ModelError, match=r"gives labels and logits but no gradients, which the \w+ attack needs"):
        attacks.lbfgs(model, IMAGES, model.predict(IMAGES), target="nearest")
    with pytest.raises(ModelError, match=r"bad\.onnx is no ONNX file"):
        load("bad.onnx")
    with pytest.raises(ModelError, match="there is no file"):
        load("onnx:absent.onnx")


def test_onnx_of_one_batch_size_takes_any_number_of_images(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    fixed = SimpleNamespace(name="pixels", type="tensor(float)", shape=[2, 1, 2, 2])
    monkeypatch.setattr(Session, "inputs", (fixed,))
    standin(monkeypatch, "onnxruntime", InferenceSession=Session)
    (place / "net.onnx").write_bytes(b"fine")
    torch.testing.assert_close(load("net.onnx")(IMAGES), IMAGES.flatten(1) @ torch.arange(12.0).reshape(4, 3))
    monkeypatch.setattr(Session, "outputs", (SimpleNamespace(name="label"), SimpleNamespace(name="map")))
    with pytest.raises(ModelError, match="one output, or one named logits; it has label, map"):
        load("net.onnx")
    monkeypatch.setattr(Session, "inputs", (fixed, fixed))
    with pytest.raises(ModelError, match="one input of floats"):
        load("net.onnx")


def test_a_null_in_the_name_is_refused() -> None:
    with pytest.raises(InputError):
        load(f"a{os.sep}\0.py:build")

"""Weights from files: tensors alone, every mismatch named, nothing executed."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from intriguing.errors import InputError, ModelError
from intriguing.nets import sources
from intriguing.nets.weights import fill, read


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


@pytest.fixture
def state() -> dict[str, Tensor]:
    return {key: torch.rand(value.shape).to(value.dtype) for key, value in net().state_dict().items()}


@pytest.mark.parametrize("kind", ["safetensors", "state dict", "checkpoint", "parallel", "trainer"])
def test_every_way_weights_are_kept_fills_the_net(state: dict[str, Tensor], tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    if kind == "safetensors":
        save_file(state, path)
    else:
        prefix = {"parallel": "module.", "trainer": "model.net."}.get(kind, "")
        kept: Any = {prefix + key: value for key, value in state.items()}
        torch.save({"state_dict": kept, "epoch": 3} if kind in ("checkpoint", "trainer") else kept, path)
    filled = net()
    fill(filled, read(path), str(path))
    for key, value in filled.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_mismatches_are_named_with_the_nearest_name(state: dict[str, Tensor]) -> None:
    state["0.wieght"] = state.pop("0.weight")
    state["2.weight"] = torch.rand(5, 3)
    state["2.bias"][1] = torch.nan
    state["1.bias"] = state["1.bias"].long()
    filled = net()
    before = {key: value.clone() for key, value in filled.state_dict().items()}
    with pytest.raises(ModelError) as error:
        fill(filled, state, "w.pt")
    for words in (
        "w.pt does not fit Sequential",
        "'0.weight' is missing (nearest: '0.wieght')",
        "'0.wieght' has no place in the net (nearest: '0.weight')",
        "'2.weight' has shape (5, 3), the net wants (2, 3)",
        "'2.bias' holds NaN or infinity",
        "'1.bias' is torch.int64",
    ):
        assert words in str(error.value)
    assert all(torch.equal(value, before[key]) for key, value in filled.state_dict().items())


class Evil:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_whole_net_is_called_what_it_is_and_not_opened(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "net.pt")
    torch.save({"model": nn.Linear(2, 2), "epoch": 3}, tmp_path / "checkpoint.pth")
    for name, kept in (("net.pt", "Sequential"), ("checkpoint.pth", "Linear")):
        path = str(tmp_path / name)
        for opened in (read, sources.load):
            with pytest.raises(ModelError, match=rf"torch\.save\(net\) writes, here torch\S*{kept}.*state_dict"):
                opened(path)


def test_a_torchscript_program_is_called_what_it_is_and_works_as_advised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls it old, and its users have files of it all the same
        torch.jit.save(torch.jit.trace(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.rand(1, 1, 2, 2)), "net.pt")
        for opened in (read, sources.load):
            with pytest.raises(ModelError, match=r"is a TorchScript program: return torch\.jit\.load\('net\.pt'\)"):
                opened("net.pt")
        Path("advised.py").write_text("import torch\n\n\ndef build():\n    return torch.jit.load('net.pt')\n")
        assert sources.load("advised.py:build")(torch.rand(5, 1, 2, 2)).shape == (5, 3)


def test_a_file_of_weights_given_as_a_model_is_still_called_that(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "w.pt")
    torch.save(dict(nn.Linear(2, 2).named_parameters()), tmp_path / "p.pt")
    for name in ("w.pt", "p.pt"):
        with pytest.raises(InputError, match="holds weights, not a net"):
            sources.load(str(tmp_path / name))


def test_code_in_a_pickle_is_never_run(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    torch.save({"weight": Evil(trap)}, tmp_path / "w.pt")
    (tmp_path / "w.pth").write_bytes(pickle.dumps(Evil(trap)))
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(Evil(trap)))
    for name, words in (("w.pt", "state_dict"), ("w.pth", "state_dict"), ("w.pkl", "runs whatever code it holds")):
        with pytest.raises(ModelError, match=words):
            read(tmp_path / name)
    assert not trap.exists()


def test_a_whole_net_saved_by_torch_is_refused_in_words(tmp_path: Path) -> None:
    torch.save(net(), tmp_path / "net.pt")
    with pytest.raises(ModelError, match=r"save net.state_dict\(\)"):
        read(tmp_path / "net.pt")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.zeros(1)], "holds a list"),
        (torch.zeros(1), "holds a Tensor"),
        ({}, "it holds nothing"),
        ({"epoch": 3, "weight": torch.zeros(1)}, "no tensors: 'epoch'"),
    ],
)
def test_what_is_no_state_dict_is_said(tmp_path: Path, content: Any, words: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=words):
        read(tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"abc" * 100, b"PK\x03\x04" + b"0" * 100, b"\xff" * 64])
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=name):
        read(tmp_path / name)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(ModelError, match="there is no file"):
            read(path)

"""The command `doctor`: what it prints, and how it leaves."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from intriguing import cli

Call = Callable[..., tuple[int, str, str]]

FILE = """
import torch
from torch import nn
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier

def good():
    digits = load_digits()
    return RidgeClassifier().fit(digits.data / 16, digits.target)

def probabilities():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softmax(1))
"""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    (tmp_path / "my_model.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INTRIGUING_DATA", raising=False)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["intriguing", "doctor", *arguments])
        with pytest.raises(SystemExit) as leaving:
            cli.main()
        shown = capsys.readouterr()
        return int(leaving.value.code or 0), shown.out, shown.err

    return call


def test_a_healthy_model_leaves_with_0(run: Call) -> None:
    code, out, err = run("--model", "my_model.py:good", "--data", "digits", "--expect-accuracy", "0.93")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "my_model.py:good: green"
    assert len(lines) == 10
    assert any("accuracy: " in line and "as expected (93.0%)" in line for line in lines)


def test_a_red_check_leaves_with_3_in_json_too(run: Call) -> None:
    code, out, _ = run("--model", "my_model.py:probabilities", "--data", "digits", "--json", "--images", "64")
    assert code == 3
    document = json.loads(out)
    assert document["state"] == "red"
    states = {check["name"]: check["state"] for check in document["checks"]}
    assert states["accuracy"] == "red"
    assert states["logits"] == "amber"
    assert document["checks"][2]["n"] == 64


def test_a_wrong_box_is_found(run: Call) -> None:
    code, out, _ = run("--model", "my_model.py:good", "--data", "digits", "--box", "0,0.5")
    assert code == 3
    assert "pixels must lie in the box [0, 0.5]" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "my_model.py:god", "--data", "digits"], "Did you mean 'good'"),
        (["--model", "my_model.py:good", "--data", "digts"], "Did you mean 'digits'"),
        (["--model", "my_model.py:good", "--data", "digits", "--box", "1"], "box: expected two numbers"),
        (["--model", "my_model.py:good", "--data", "digits", "--mean", "a"], "mean: expected numbers"),
        (["--model", "my_model.py:good", "--data", "digits", "--expect-accuracy", "93"], "share from 0 to 1"),
        (["--model", "my_model.py:good", "--data", "digits", "--device", "abacus"], "device: abacus"),
        (["--model", "my_model.py:good", "--data", "digits", "--weights", "w.pkl"], "is a pickle"),
        (["--data", "digits"], "--model"),
    ],
)
def test_what_cannot_be_used_leaves_with_2_and_one_line(run: Call, arguments: list[str], words: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1

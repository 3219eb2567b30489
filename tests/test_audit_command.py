"""`intriguing audit` and `intriguing attack`: what they accept, say and leave, and how they leave."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import small_audit
from intriguing import cli, data
from intriguing.auditing import rows

Call = Callable[..., tuple[int, str, str]]
SMALL = ("--data", "digits", "--images", "20", "--budget", "40", "--workers", "1")


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(small_audit.net(tmp_path_factory.mktemp("nets")))


@pytest.fixture
def unequal(tmp_path: Path) -> str:
    """Return a folder of digits, every other one drawn larger."""
    digits = data.load("digits", "test")
    for i in range(40):
        pixels = (digits.images[i, 0] * 255).round().to(torch.uint8).numpy()
        file = tmp_path / "unequal" / "test" / str(int(digits.labels[i])) / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((8 + 4 * (i % 2),) * 2).save(file)
    return str(tmp_path / "unequal")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """Return a function that calls the command line in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INTRIGUING_DATA", raising=False)

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["intriguing", *map(str, arguments)])
        with pytest.raises(SystemExit) as leaving:
            cli.main()
        shown = capsys.readouterr()
        return int(leaving.value.code or 0), shown.out, shown.err

    return call


def test_an_audit_tells_its_figures_and_files_and_is_resumed_and_shown_again(run: Call, net: str) -> None:
    command = ("audit", "--model", f"{net}:build", *SMALL, "--out", "run")
    code, out, err = run(*command)
    assert code == 0
    assert out.startswith("clean_accuracy ")
    for word in ("median_l2 ", "n = 20", "run/report.html", "run/results.json", "run/rows.parquet"):
        assert word in out
    assert "[1/2] net.py:build, images 1 to 20" in err
    again = run(*command)
    assert again[:2] == (0, out)
    assert "images" not in again[2], "nothing is attacked twice"
    assert run("report", "run")[:2] == (0, out)
    assert len(rows.read("run/rows.parquet")["index"]) == 40
    assert f"intriguing audit --model {net}:build" in Path("run/report.html").read_text()


def test_the_default_folder_is_named_after_the_data(run: Call, net: str) -> None:
    code, out, _ = run("audit", "--model", f"{net}:build", *SMALL, "--quiet")
    assert code == 0
    assert "report   runs/audit-digits/report.html" in out
    assert "--out runs/audit-digits" in Path("runs/audit-digits/report.html").read_text()


def test_a_folder_of_another_audit_says_what_is_written_over(run: Call, net: str, unequal: str) -> None:
    def audit(factory: str, *more: str) -> str:
        return run("audit", "--model", f"{net}:{factory}", *SMALL, "--out", "run", "--quiet", *more)[2]

    assert audit("build") == ""
    assert audit("build", "--images", "30", "--seed", "1") == "", "the same audit, of more images"
    over = "its results, rows and page will be written over (--out names another folder)\n"
    assert "images differ in size" in audit("build", "--data", unequal), "and what was begun and failed lost nothing"
    assert audit("sized") == f"run holds an audit of {net}:build on digits test; {over}"
    assert audit("sized") == ""
    assert audit("sized", "--data", unequal) == f"run holds an audit of {net}:sized on digits test; {over}"
    weights = Path("other.py")
    weights.write_text(Path(net).read_text())
    assert "written over" in run("audit", "--model", "other.py:build", *SMALL, "--out", "run", "--quiet")[2]
    weights.write_text(Path(net).read_text().replace("build(seed=0", "build(seed=2"))
    again = run("audit", "--model", "other.py:build", *SMALL, "--out", "run", "--quiet")[2]
    assert again == f"run holds an audit of other.py:build as it was before on digits test; {over}"


def test_an_untrustworthy_audit_leaves_with_3_and_says_why(run: Call, net: str) -> None:
    code, out, err = run("audit", "--model", f"{net}:untrained", *SMALL, "--out", "run", "--quiet")
    assert code == 3
    assert "run/report.html" in out
    assert err.startswith("Untrustworthy: ")
    assert "hardly more than chance" in err
    assert run("report", "run")[0] == 3, "also when it is shown again"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--attack", "lbgfs"], ["unknown attack 'lbgfs'", "Did you mean 'lbfgs'?"]),
        (["--norm", "3"], ["unknown norm '3'", "1, 2, inf"]),
        (["--eps", "0.1"], ["eps: 0.1 was given, but nearest has no such setting", "pgd"]),
        (["--eps", "8/0"], ["eps: expected a number such as 0.03 or a fraction such as 8/255, got '8/0'"]),
        (["--eps", "small"], ["eps: expected a number", "'small'"]),
        (["--eps", "nan"], ["eps: expected a number", "'nan'"]),
        (["--images", "0"], ["images: expected 1 to 500", "got 0"]),
        (["--budget", "0"], ["budget: expected a whole number of at least 1", "got 0"]),
        (["--data", "digts"], ["Did you mean 'digits'?"]),
        (["--split", "validation"], ["'validation'"]),
        (["--weights", "a", "--weights", "b"], ["one file per model, 1, got 2"]),
        (["--model", "nowhere.py:build"], ["no file 'nowhere.py'"]),
        (["--box", "0"], ["box: expected two numbers"]),
        (["--device", "abacus"], ["abacus"]),
    ],
)
def test_a_wrong_option_is_one_line_with_exit_code_2(
    run: Call, net: str, arguments: list[str], words: list[str]
) -> None:
    model = [] if "--model" in arguments else ["--model", f"{net}:build"]
    code, out, err = run("audit", *model, "--data", "digits", "--quiet", *arguments, "--out", "run")
    assert (code, out) == (2, ""), err
    assert err.startswith("Error: ")
    assert len(err.splitlines()) == 1, err
    for word in words:
        assert word in err


def test_a_run_that_is_no_audit_is_refused(run: Call, net: str) -> None:
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years of work")
    code, _, err = run("audit", "--model", f"{net}:build", *SMALL, "--out", "mine")
    assert code == 2
    assert "mine" in err
    assert Path("mine/thesis.txt").read_text() == "years of work"


def test_an_attack_in_another_norm_is_summed_up_in_it(run: Call, net: str) -> None:
    command = ("attack", "--model", f"{net}:build", "--data", "digits", "--images", "10", "--attack", "lbfgs")
    medians = {}
    for norm, name in (("1", "L1"), ("inf", "Linf")):
        code, out, _ = run(*command, "--target", "nearest", "--budget", "100", "--norm", norm)
        assert code == 0
        own, l2 = re.search(rf"distance (\S+) \({name}\) and (\S+) \(L2,", out).groups()
        medians[norm] = float(own), float(l2)
    # |r|_inf <= |r|_2 <= |r|_1 for every r, and so for the medians.
    assert medians["1"][0] > medians["1"][1]
    assert medians["inf"][0] < medians["inf"][1]


def test_an_attack_is_summed_up_and_saved(run: Call, net: str) -> None:
    code, out, _ = run(
        "attack", "--model", f"{net}:build", "--data", "digits", "--images", "10", "--attack", "lbfgs",
        "--target", "nearest", "--budget", "60", "--save", "adv.safetensors",
    )  # fmt: skip
    assert code == 0
    assert out.startswith("images   10, of which the model gets ")
    assert "median distance " in out
    assert "saved    adv.safetensors" in out
    assert load_file("adv.safetensors")["adversarial"].shape == (10, 1, 8, 8)
    assert Path("adv.parquet").exists()
    code, _, err = run("attack", "--model", f"{net}:build", "--data", "digits", "--save", "adv.npz")
    assert code == 2
    assert ".safetensors" in err


def test_a_radius_may_be_a_fraction_of_the_256_levels(run: Call, net: str) -> None:
    steps = ("--attack", "pgd", "--norm", "inf", "--eps", "9/255")
    code, _, _ = run("audit", "--model", f"{net}:build", *SMALL, *steps, "--out", "run", "--quiet")
    assert code in (0, 3)
    text = Path("run/results.json").read_text()
    assert '"robust_accuracy_linf@9/255"' in text
    assert f"--eps {9 / 255}" in text, "the command of the page makes the same run"
    assert run("attack", "--model", f"{net}:build", "--data", "digits", "--images", "10", *steps)[0] == 0
    code, _, err = run("attack", "--model", f"{net}:build", "--data", "digits", "--attack", "pgd", "--eps", "9/x")
    assert (code, err.startswith("Error: eps: expected a number")) == (2, True)


def test_images_of_unequal_size_take_that_of_a_model_which_says_its_own(run: Call, net: str, unequal: str) -> None:
    few = ("--data", unequal, "--images", "20")
    for command in (
        ("audit", *few, "--budget", "40", "--workers", "1", "--out", "run", "--quiet"),
        ("attack", *few, "--attack", "nearest", "--budget", "40"),
        ("doctor", *few),
    ):
        code, _, err = run(*command, "--model", f"{net}:build")
        assert (code, "images differ in size" in err) == (2, True), command
        code, _, err = run(*command, "--model", f"{net}:sized")
        assert code in (0, 3), err
    assert json.loads(Path("run/results.json").read_text())["run"]["settings"]["size"] == 8
    assert "--size 8" in Path("run/report.html").read_text()


def test_images_of_one_size_stay_as_they_are_whatever_the_model_wants(run: Call, net: str) -> None:
    assert run("audit", "--model", f"{net}:sized", *SMALL, "--out", "run", "--quiet")[0] == 0
    assert json.loads(Path("run/results.json").read_text())["run"]["settings"]["size"] is None


def test_several_attacks_with_a_radius_give_a_figure_there(run: Call, net: str) -> None:
    code, _, _ = run(
        "audit", "--model", f"{net}:build", *SMALL, "--attack", "fgsm", "--attack", "pgd", "--eps", "0.35",
        "--norm", "inf", "--out", "run", "--quiet",
    )  # fmt: skip
    assert code in (0, 3)
    assert '"robust_accuracy_linf@0.35"' in Path("run/results.json").read_text()

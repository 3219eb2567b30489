"""An audit with certificates from end to end: both ends in every row, stored apart from the attacks, resumable."""

from __future__ import annotations

import math
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import small_audit
from intriguing import auditing, bounds, cli, data
from intriguing.auditing import rows
from intriguing.errors import ModelError
from intriguing.experiments import audit_certify
from intriguing.gate import figures, gate
from intriguing.nets.load import Model
from test_audit_run import start, table, until_finished

SHARDS = 5


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the file of the nets."""
    folder = tmp_path_factory.mktemp("certified")
    small_audit.net(folder)
    return folder


@pytest.fixture(scope="module")
def plain(home: Path) -> auditing.Outcome:
    """Return the audit without certificates; no test may write to it."""
    return small_audit.audit(home / "plain", f"{home / 'net.py'}:build")


@pytest.fixture(scope="module")
def whole(home: Path, plain: auditing.Outcome) -> tuple[auditing.Outcome, list[tuple[str, str]]]:
    """Return the same audit certified afterwards, in a copy of its folder, and the steps that took."""
    steps: list[tuple[str, str]] = []
    shutil.copytree(plain.folder, home / "whole")
    outcome = small_audit.audit(
        home / "whole", f"{home / 'net.py'}:build", certify=True, progress=lambda e: steps.append((e.kind, e.label))
    )
    return outcome, steps


@pytest.fixture
def pageless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the page, which takes longer than a small audit."""
    monkeypatch.setattr("intriguing.report.audit_page.build", lambda *parts, **more: "<!doctype html>")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Return a function that calls the command line in this process."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["intriguing", *map(str, arguments)])
        with pytest.raises(SystemExit) as leaving:
            cli.main()
        shown = capsys.readouterr()
        return int(leaving.value.code or 0), shown.out, shown.err

    return call


def test_asked_for_afterwards_certificates_attack_nothing_again(
    plain: auditing.Outcome, whole: tuple[auditing.Outcome, list[tuple[str, str]]]
) -> None:
    outcome, steps = whole
    made = [label for kind, label in steps if kind == "finished"]
    assert len(made) == SHARDS + 1
    assert all("certificates" in label for label in made)
    assert sum(kind == "reused" for kind, _ in steps) == SHARDS + 1, "the attacks, and the trust panel"
    assert any(kind == "advanced" for kind, _ in steps)
    before, after = table(plain), table(outcome)
    assert set(before["certified"]) == set(before["certified_product"]) == {None}
    apart = ("certified", "certified_product")
    assert {n: v for n, v in before.items() if n not in apart} == {n: v for n, v in after.items() if n not in apart}
    assert "certify" not in plain.document["run"]["settings"]
    assert "certificates" not in plain.document
    assert not any(name.startswith(("certified", "tightness")) for name in plain.figures)


def test_every_row_holds_both_ends_and_none_contradicts_the_other(
    whole: tuple[auditing.Outcome, list[tuple[str, str]]],
) -> None:
    columns = table(whole[0])
    pairs = list(zip(columns["certified"], columns["distance"], strict=True))
    assert len(pairs) == 80
    assert all(certified <= distance for certified, distance in pairs)
    for certified, product, status in zip(
        columns["certified"], columns["certified_product"], columns["status"], strict=True
    ):
        assert (certified == 0) == (status == "already_wrong")
        assert product <= certified, "crown is never below the product on this net"
    assert columns["certified"][:8] == columns["certified"][8:16], "the same beside every attack"
    check = whole[0].document["trust"][-1]
    assert (check["name"], check["state"], check["n"]) == ("certificates and examples", "green", 40)


def test_the_document_says_what_lies_between(whole: tuple[auditing.Outcome, list[tuple[str, str]]]) -> None:
    document = whole[0].document
    assert document["run"]["settings"]["certify"] == "crown"
    assert document["run"]["command"].split()[-3:] == ["--certify", "--out", str(whole[0].folder)]
    found = document["certificates"]
    assert (found["method"], found["norm"]) == ("crown", "2")
    (model,) = found["models"]
    assert [entry["method"] for entry in model["methods"]] == [
        "product",
        "interval",
        "crown",
        "crown-optimised",
        "curvature",
    ]
    ratios = {entry["method"]: entry["ratio"] for entry in model["methods"]}
    assert ratios["product"] < ratios["crown"] <= ratios["crown-optimised"] <= 1
    assert ratios["crown"] <= ratios["curvature"] <= 1
    assert sum(layer["share"] for layer in model["layers"]) == pytest.approx(1)
    assert document["layers"] == model["layers"]
    assert all(layer["gain"] <= layer["bound"] for layer in model["layers"])
    assert all("certified" in entry for entry in document["fragile"])


def test_it_can_be_required(whole: tuple[auditing.Outcome, list[tuple[str, str]]], run: Callable[..., Any]) -> None:
    folder = whole[0].folder
    names = {view.name for view in figures(folder)}
    assert {"certified_l2", "certified", "tightness_l2", "certified_accuracy_l2@0.25"} <= names
    assert gate(folder, require=["certified_l2 >= 0.1", "tightness_l2 > 0.5"]).code == 0
    assert gate(folder, require=["certified_l2 >= 9"]).code == 1
    code, out, _ = run("gate", folder, "--list")
    assert code == 0
    assert "tightness_l2" in out
    code, out, _ = run("gate", folder, "--require", "certified_l2 >= 0.1")
    assert (code, out.splitlines()[-1].split()[0]) == (0, "PASSED")


def test_killed_and_resumed_it_ends_with_the_rows_of_an_uninterrupted_run(
    home: Path, whole: tuple[auditing.Outcome, list[tuple[str, str]]], pageless: None
) -> None:
    out = home / "killed"
    process = start(out, 2, "crown")
    steps = until_finished(process, SHARDS + 2)  # at least two shards of certificates are there
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert any("certificates of images" in step for step in steps if step.startswith("finished"))
    again: list[str] = []
    small_audit.audit(out, f"{home / 'net.py'}:build", certify="crown", progress=lambda e: again.append(e.kind))
    assert again.count("reused") >= SHARDS + 2
    assert table(out) == table(whole[0])


def test_what_cannot_be_certified_is_refused_before_any_attack(home: Path, run: Callable[..., Any]) -> None:
    file, out = home / "net.py", home / "refused"
    steps: list[Any] = []
    with pytest.raises(ModelError, match=r"certify: .*1\.\w*sort.*Leave --certify out"):
        small_audit.audit(out, [f"{file}:build", f"{file}:unbounded"], certify=True, progress=steps.append)
    assert not steps
    assert not out.exists()
    code, printed, err = run(
        "audit", "--model", f"{file}:unbounded", "--data", "digits", "--images", "8", "--certify", "--out", out
    )
    assert (code, printed) == (2, "")
    assert len(err.splitlines()) == 1, err
    assert "sort" in err
    assert "Leave --certify out" in err
    code, _, err = run(
        "audit", "--model", f"{file}:build", "--data", "digits", "--certify-method", "crwon", "--out", out
    )
    assert code == 2
    assert "Did you mean 'crown'?" in err
    code, _, err = run(
        "audit", "--model", f"{file}:build", "--data", "digits", "--attack", "pgd", "--eps", "0.1", "--norm", "inf",
        "--certify-method", "product", "--out", out,
    )  # fmt: skip
    assert code == 2
    assert "certify: product bounds L2 alone" in err
    assert not out.exists()


def test_a_certificate_that_reaches_too_far_is_told_loudly(
    home: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, pageless: None
) -> None:
    true = bounds.certify

    def planted(*given: Any, **settings: Any) -> bounds.Certificate:
        found = true(*given, **settings)
        found.radius.mul_(3)
        return found

    monkeypatch.setattr(audit_certify, "certify", planted)
    out = home / "planted"
    code, _, err = run(
        "audit", "--model", f"{home / 'net.py'}:build", "--data", "digits", "--images", "8", "--budget", "60",
        "--attack", "lbfgs", "--certify", "--workers", "1", "--out", out, "--quiet",
    )  # fmt: skip
    assert code == 3
    assert "certificates and examples: For" in err
    assert "one of the two is wrong" in err
    assert gate(out, require=["certified_l2 >= 0"]).code == 3


def test_in_linf_and_of_a_net_in_double_precision_and_another_box(home: Path, pageless: None) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)).double()
    model = Model(net, box=(0, 2))
    digits = data.load("digits", "test")
    outcome = auditing.audit(
        model, digits, attacks=["pgd"], eps=0.25, norm=math.inf, images=8, certify="interval", out=home / "linf"
    )
    columns = rows.read(outcome.rows)
    assert all(a <= b for a, b in zip(columns["certified"], columns["distance_linf"], strict=True))
    assert set(columns["certified_product"]) == {None}
    assert outcome.document["certificates"]["norm"] == "inf"
    assert {"certified_linf", "certified_accuracy_linf@0.25", "tightness_linf"} <= outcome.figures.keys()
    assert outcome.figures["certified_linf"]["control"] is None


def test_several_models_each_have_their_ends(home: Path, pageless: None) -> None:
    file = home / "net.py"
    outcome = small_audit.audit(
        home / "two",
        {"plain": Model(subject(file, "build")), "other": Model(subject(file, "other"))},
        images=8,
        certify=True,
    )
    assert [model["name"] for model in outcome.document["certificates"]["models"]] == ["plain", "other"]
    assert "other/certified_l2" in outcome.figures
    columns = table(outcome)
    assert len(set(columns["certified"])) > 8


def subject(file: Path, name: str) -> nn.Module:
    from intriguing.nets import sources

    net = sources.load(f"{file}:{name}").net
    assert isinstance(net, nn.Module)
    return net


def test_every_column_and_key_is_documented(whole: tuple[auditing.Outcome, list[tuple[str, str]]]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "results-json.md").read_text()
    document = whole[0].document
    (model,) = document["certificates"]["models"]
    names = [*table(whole[0]), *document["certificates"], *model, *model["quantiles"], *model["layers"][0]]
    names += [*model["methods"][0], *(name for name in whole[0].figures if "certified" in name and "@" not in name)]
    assert [name for name in names if f"`{name}`" not in page] == []

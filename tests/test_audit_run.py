"""An audit from end to end: what it leaves behind, killed and resumed, damaged and mended."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from torch import nn

import small_audit
from intriguing import auditing, data
from intriguing.attacks import LBFGS, Nearest
from intriguing.auditing import options, rows
from intriguing.auditing.shards import with_starts
from intriguing.auditing.subjects import subjects
from intriguing.data.stream import Stream, of
from intriguing.errors import DataError, InputError, ModelError, StoreError, UnknownNameError
from intriguing.experiments.audit_compare import compare, worst
from intriguing.nets.identity import content_hash, model_hash
from intriguing.nets.load import Model
from intriguing.rng import generator
from intriguing.store import Damage, Store

SHARDS = 5  # of eight images each


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the file of the nets."""
    folder = tmp_path_factory.mktemp("audit")
    small_audit.net(folder)
    return folder


@pytest.fixture(scope="module")
def whole(home: Path) -> auditing.Outcome:
    """Return the uninterrupted audit; no test may write to it."""
    return small_audit.audit(home / "whole", f"{home / 'net.py'}:build")


@pytest.fixture
def pageless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the page, which takes longer than a small audit."""
    monkeypatch.setattr("intriguing.report.audit_page.build", lambda *parts, **more: "<!doctype html>")


def start(out: Path, workers: int = 1, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, small_audit.__file__, str(out), str(workers), *more]
    # One thread as here: the net trains itself when it is built, to other bits on two.
    one = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=one)


def until_finished(process: subprocess.Popen[str], count: int) -> list[str]:
    """Read steps until so many shards are finished, or the run ends."""
    assert process.stdout is not None
    steps: list[str] = []
    while sum(step.startswith("finished") for step in steps) < count:
        line = process.stdout.readline()
        if not line:
            break
        steps.append(line.strip())
    return steps


def table(outcome: auditing.Outcome | Path) -> dict[str, list[Any]]:
    return rows.read((outcome if isinstance(outcome, Path) else outcome.folder) / "rows.parquet")


def test_killed_twice_and_resumed_it_ends_with_the_rows_of_an_uninterrupted_run(
    home: Path, whole: auditing.Outcome
) -> None:
    out = home / "killed"
    for workers in (1, 2):
        process = start(out, workers)
        steps = until_finished(process, 1)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not _writers_of(out), "no worker outlives its parent"
        assert not (out / "rows.parquet").exists(), "nothing that looks finished"
        assert sum(step.startswith("finished") for step in steps) == 1
    steps = []
    small_audit.audit(out, f"{home / 'net.py'}:build", progress=lambda event: steps.append(event.kind))
    assert 2 <= steps.count("reused") <= SHARDS
    assert table(out) == table(whole)
    assert not list(out.glob(".*.tmp")) + list((out / "tmp").iterdir()), "what was half written is cleared away"


def _writers_of(out: Path) -> list[str]:
    """Return the processes that still hold a file of a run open, after a grace period."""
    for _ in range(50):
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                files = [os.readlink(link) for link in (entry / "fd").iterdir()]
            except OSError:
                continue
            if any(str(out) in file for file in files):
                found.append(entry.name)
        if not found:
            return []
        time.sleep(0.1)
    return found


def test_a_damaged_shard_is_noticed_and_made_anew(home: Path, whole: auditing.Outcome, pageless: None) -> None:
    import shutil

    out = home / "damaged"
    shutil.copytree(whole.folder, out)
    shard = sorted(entry for entry in (out / "cells").iterdir() if (entry / "rows.parquet").exists())[2]
    content = bytearray((shard / "rows.parquet").read_bytes())
    content[len(content) // 2] ^= 1
    (shard / "rows.parquet").write_bytes(content)
    found: list[Damage] = []
    steps: list[str] = []
    outcome = small_audit.audit(
        out, f"{home / 'net.py'}:build", on_damage=found.append, progress=lambda event: steps.append(event.kind)
    )
    assert [damage.key for damage in found] == [f"cell {shard.name}"]
    assert steps.count("finished") == 1
    assert table(outcome) == table(whole)


def test_what_an_audit_leaves_behind_is_what_its_readers_expect(whole: auditing.Outcome) -> None:
    document = json.loads(whole.results.read_text())
    assert (document["schema"], document["kind"]) == (1, "audit")
    assert document["run"]["data"] == {
        "name": "digits", "split": "test", "n": 40, "classes": [str(digit) for digit in range(10)],
    }  # fmt: skip
    (model,) = document["run"]["models"]
    assert (model["name"], model["parameters"], model["dtype"]) == ("net.py:build", 64 * 16 + 16 + 160 + 10, "float32")
    assert document["run"]["command"].startswith("intriguing audit --model ")
    assert document["run"]["time"]["seconds"] > 0
    columns = table(whole)
    assert len(columns["attack"]) == 80
    assert set(columns["attack"]) == {"lbfgs", "worst of"}
    at = {attack: [i for i, name in enumerate(columns["attack"]) if name == attack] for attack in columns["attack"]}
    for column in ("image_hash", "index", "distance", "status", "target", "distance_8bit"):
        assert [columns[column][i] for i in at["lbfgs"]] == [columns[column][i] for i in at["worst of"]]
    digits = data.load("digits", "test")
    assert [columns["label"][i] for i in at["lbfgs"]] == [int(digits.labels[columns["index"][i]]) for i in at["lbfgs"]]
    figure = document["figures"]["median_l2"]
    right = sorted(d for d, s in zip(columns["distance"], columns["status"], strict=True) if s != "already_wrong")
    assert figure["value"] == right[::2][len(right) // 4]
    assert figure["low"] <= figure["value"] <= figure["high"]
    assert figure["control"]["label"].startswith("answers changed by noise")
    nearest = [entry["distance"] for entry in document["fragile"]]
    assert nearest == sorted(nearest)
    with Store(whole.folder, mode="read") as store:
        record = store.get(store.run["cells"]["audit"])
    assert record is not None
    assert record.tensors["fragile/adversarial"].shape == (len(nearest), 1, 8, 8)
    length = torch.linalg.vector_norm(record.tensors["fragile/adversarial"] - record.tensors["fragile/original"])
    assert length > 0
    assert whole.report.read_text().startswith("<!")
    assert [layer["kind"] for layer in document["layers"]] == ["reshaping", "dense", "Tanh", "dense"]


def test_the_page_is_written_again_from_what_is_stored(home: Path, whole: auditing.Outcome) -> None:
    from intriguing.auditing.run import report

    before = (whole.report.read_text(), whole.results.read_text())
    again = report(whole.folder)
    assert (again.report.read_text(), again.results.read_text()) == before
    with pytest.raises(StoreError, match="no run folder"):
        report(home / "nowhere")


def test_several_models_are_fed_each_others_examples(home: Path, pageless: None) -> None:
    file = home / "net.py"
    outcome = small_audit.audit(home / "two", [f"{file}:build", f"{file}:other"], images=16, attacks=["lbfgs"], seed=2)
    document = outcome.document
    assert document["transfer"]["sources"] == ["net.py:build", "net.py:other"]
    assert document["figures"]["transfer"]["n"] == sum(document["transfer"]["rate"][s][1 - s]["n"] for s in range(2))
    assert "net.py:other/median_l2" in document["figures"]
    columns = table(outcome)
    assert set(columns["model"]) == {"net.py:build", "net.py:other"}
    first, second = worst(columns), worst(columns, model="net.py:other")
    assert first["image_hash"] == second["image_hash"]
    found = compare(first, second, generator("test", 0)).figures["clean_accuracy"]
    assert found.value_b == document["figures"]["net.py:other/clean_accuracy"]["value"]


def test_a_net_that_guesses_is_untrustworthy_and_says_why(home: Path, pageless: None) -> None:
    outcome = small_audit.audit(home / "untrained", f"{home / 'net.py'}:untrained", images=40)
    assert not outcome.trustworthy
    assert any("hardly more than chance" in reason for reason in outcome.document["verdict"]["reasons"])


def test_a_set_and_a_model_in_memory_and_a_box_of_its_own(home: Path, pageless: None) -> None:
    plain = subjects(f"{home / 'net.py'}:build")[0].model

    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = plain.net

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x / 2)

    digits = data.load("digits", "test")
    settings: dict[str, Any] = {"attacks": [LBFGS(target="nearest", budget=400)], "images": 8}
    unit = auditing.audit(plain, digits, out=home / "unit", **settings)
    wide = auditing.audit(Model(Half(), box=(0, 2)), digits, out=home / "wide", **settings)
    assert unit.document["run"]["models"][0]["source"] == "in memory"
    assert wide.document["figures"]["clean_accuracy"]["value"] == unit.document["figures"]["clean_accuracy"]["value"]
    narrow, broad = (outcome.document["figures"]["median_l2"]["value"] for outcome in (unit, wide))
    assert broad == pytest.approx(2 * narrow, rel=0.02), "the search ends within 1% of the nearest"
    assert "robust_accuracy_l2@6" in wide.document["figures"]
    assert table(unit)["image_hash"] != table(wide)["image_hash"]


def test_a_run_of_another_kind_is_not_written_over(home: Path) -> None:
    with Store(home / "paper") as store:
        store.describe({"study": "szegedy2014"})
    with pytest.raises(StoreError, match="holds a run of `intriguing reproduce`"):
        small_audit.audit(home / "paper", f"{home / 'net.py'}:build")


def test_options_go_to_the_attacks_that_have_them_and_no_further() -> None:
    made = options.attacks_of(["lbfgs"], budget=7)
    assert made["lbfgs"] == LBFGS(target="nearest", budget=7)
    assert options.attacks_of(["lbfgs"], target="top-2")["lbfgs"] == LBFGS(target="top-2")
    assert options.attacks_of(["lbfgs"], nearest=False)["lbfgs"] == LBFGS()
    given = LBFGS(evaluations=3)
    assert options.attacks_of([given])["lbfgs"] is given
    with pytest.raises(UnknownNameError, match="Did you mean 'lbfgs'"):
        options.attacks_of(["lbgfs"])
    with pytest.raises(InputError, match=r"eps: 0\.1 was given, but l1-adam has no such setting"):
        options.attacks_of(["l1-adam"], eps=0.1)
    with pytest.raises(InputError, match="eps: fgsm cannot do without it; pass --eps"):
        options.attacks_of(["fgsm"])
    with pytest.raises(InputError, match="named twice"):
        options.attacks_of(["lbfgs", "lbfgs"])
    with pytest.raises(InputError, match="at least one"):
        options.attacks_of([])
    with pytest.raises(InputError, match="image by image"):
        options.attacks_of([LBFGS(target=torch.zeros(3, dtype=torch.int64))])


def test_the_usual_budget_is_no_demand_on_attacks_without_one() -> None:
    from intriguing.auditing.run import DEFAULT_BUDGET, _budget

    given = LBFGS(budget=3)
    assert _budget([given], DEFAULT_BUDGET) is None
    assert _budget([given, "lbfgs"], DEFAULT_BUDGET) == DEFAULT_BUDGET
    assert _budget([given], 7) == 7, "which is then refused, as it was asked for"


def test_wrong_models_are_refused_before_anything_is_written(home: Path) -> None:
    file = home / "net.py"
    out = home / "refused"
    with pytest.raises(InputError, match="one file per model, 1, got 2"):
        small_audit.audit(out, f"{file}:build", weights=["a", "b"])
    with pytest.raises(InputError, match="at least one, got none"):
        small_audit.audit(out, [])
    with pytest.raises(ModelError, match="no file"):
        small_audit.audit(out, "nowhere.py:build")
    with pytest.raises(InputError, match="all with one box"):
        small_audit.audit(out, [Model(nn.Flatten()), Model(nn.Flatten(), box=(0, 2))])
    with pytest.raises(InputError, match="2 processes need models and data given by name"):
        small_audit.audit(out, Model(nn.Flatten()), workers=2)
    with pytest.raises(InputError, match="expected 1 to 500"):
        small_audit.audit(out, f"{file}:build", images=501)
    assert not out.exists()


def test_a_model_is_known_by_weights_code_preprocessing_and_layers() -> None:
    def made(seed: int = 0, **settings: Any) -> Model:
        torch.manual_seed(seed)
        return Model(nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)), **settings)

    base = model_hash(made())
    assert model_hash(made()) == base
    trained = made()
    trained.net.eval()
    assert model_hash(trained) == base, "the mode is put right before every call"
    others = [made(1), made(std=0.5), made(mean=0.1), made(box=(0, 2))]
    others.append(Model(nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.4))))
    others[-1].net.load_state_dict(made().net.state_dict())
    hashes = [model_hash(other) for other in others] + [model_hash(made(), "elsewhere")]
    assert len({base, *hashes}) == len(hashes) + 1
    weight, table = torch.ones(3, 2), np.ones(3)
    assert model_hash(Model(_closed(table))) != model_hash(Model(_closed(2 * table)))
    assert model_hash(Model(_closed({"a"}))) != model_hash(Model(_closed({"b"})))
    assert model_hash(Model(lambda x: x @ weight)) != model_hash(Model(lambda x: x @ weight + 0))
    before = model_hash(Model(_closed(weight)))
    assert model_hash(Model(_closed(torch.ones(3, 2)))) == before
    assert model_hash(Model(_closed(2 * weight))) != before


def test_a_record_is_known_by_its_values_tensors_included() -> None:
    starts = (torch.rand(2000, 1, 2, 2), torch.zeros(2000, dtype=torch.int64))
    moved = (starts[0].clone(), starts[1])
    moved[0][1000] += 1e-3
    known = [LBFGS(), LBFGS(budget=3), LBFGS(target="top-3"), Nearest(), Nearest(starts=starts), Nearest(starts=moved)]
    assert repr(known[4]) == repr(known[5]), "what prints the same need not be the same"
    assert len({content_hash(attack) for attack in known}) == len(known)
    assert content_hash(LBFGS()) == content_hash(LBFGS())


def _closed(weight: Any) -> Any:
    return lambda x: x @ weight


def test_an_attack_saves_its_examples_and_rows(home: Path) -> None:
    from safetensors.torch import load_file

    place = home / "adv.safetensors"
    found = auditing.attack(
        f"{home / 'net.py'}:build", "digits", attack="lbfgs", target="nearest", images=12, budget=60, save=place
    )
    saved = load_file(place)
    digits = data.load("digits", "test")
    assert torch.equal(saved["original"], digits.images[saved["index"]])
    assert torch.equal(saved["labels"], digits.labels[saved["index"]])
    assert torch.equal(saved["adversarial"], found.result.adversarial)
    columns = pyarrow.parquet.read_table(home / "adv.parquet").to_pydict()
    assert columns["distance"] == found.result.distance.tolist()
    model = subjects(f"{home / 'net.py'}:build")[0].model
    hit = found.result.found
    assert torch.equal(model.predict(saved["adversarial"][hit]), saved["target"][hit])
    assert math.isfinite(found.result.median)
    with pytest.raises(InputError, match=r"ends in \.safetensors"):
        auditing.attack(f"{home / 'net.py'}:build", "digits", save=home / "adv.npz")
    (home / "taken").write_text("")
    with pytest.raises(InputError, match="taken' is a file, not a folder"):
        auditing.attack(f"{home / 'net.py'}:build", "digits", save=home / "taken" / "new" / "adv.safetensors")


def test_the_folder_of_the_examples_of_an_attack_is_made(home: Path) -> None:
    place = home / "new" / "sub" / "adv.safetensors"
    found = auditing.attack(f"{home / 'net.py'}:build", "digits", attack="fgsm", eps=0.1, images=4, save=place)
    assert found.saved == (place, place.with_suffix(".parquet"))
    assert all(file.is_file() for file in found.saved)


class Dark(nn.Module):
    """Class 1 where the pixels' parts above 0.6 add up to 0.5: no slope at dark images."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        score = (images.flatten(1) - 0.6).clamp(min=0).sum(1)
        return torch.stack([torch.full_like(score, 0.5), score], dim=1)


def dark_and_bright() -> data.ImageSet:
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 2
    images = 0.3 * torch.rand(40, 1, 2, 2, generator=draw) + 0.7 * labels[:, None, None, None]
    return data.from_tensors(images, labels, ["dark", "bright"])


def test_searches_start_from_images_of_the_other_classes_of_the_set(tmp_path: Path, pageless: None) -> None:
    """Where the clean image has no slope, images of the other class show the way; without them noise must do."""
    images = dark_and_bright()
    outcome = auditing.audit(Dark(), images, out=tmp_path / "run", budget=200, shard_images=8)
    assert outcome.document["run"]["settings"]["starts"] == 40
    every = table(outcome)
    found = [d for d, attack in zip(every["distance"], every["attack"], strict=True) if attack == "nearest"]
    for x, label, distance in zip(images.images, images.labels, found, strict=True):
        if label == 0:  # where k pixels' parts above 0.6 sum to 0.5 is a plane; the least of four is a lower bound
            brightest = [x.flatten().topk(k).values.double() for k in range(1, 5)]
            least = min(float(0.6 * len(x) + 0.5 - x.sum()) / len(x) ** 0.5 for x in brightest)
            assert least * (1 - 1e-6) <= distance <= 1.2 * least
    single = auditing.attack(Dark(), images, attack="nearest", images=None, budget=200)
    torch.testing.assert_close(single.result.distance, torch.tensor(found, dtype=torch.float64), rtol=1e-6, atol=0)


def test_every_search_that_can_start_from_images_gets_some() -> None:
    whole = of(dark_and_bright())
    searches = {
        "far": LBFGS(norm=math.inf),
        "paper": LBFGS(),
        "own": Nearest(starts=(torch.rand(1, 1, 8, 8), torch.tensor([0]))),
    }
    found = with_starts(searches, lambda: whole, (0.0, 1.0))
    assert len(found["far"].starts[1]) == 40
    # The paper's search over c begins at the image, and who brings images keeps them.
    assert found["paper"] == searches["paper"]
    assert found["own"] is searches["own"]


def test_an_image_that_cannot_be_read_is_no_start() -> None:
    whole = of(dark_and_bright())

    def broken(*unreadable: int) -> Stream:
        def read(ids: torch.Tensor) -> torch.Tensor:
            if set(unreadable) & set(ids.tolist()):
                raise DataError(f"images {ids.tolist()} cannot be read")
            return whole.read(ids)

        return dataclasses.replace(whole, read=read)

    (search,) = with_starts({"nearest": Nearest()}, lambda: broken(3, 17), (0.0, 1.0)).values()
    assert isinstance(search, Nearest)
    assert search.starts is not None
    kept = [i for i in range(40) if i not in (3, 17)]
    torch.testing.assert_close(search.starts[0], whole.read(torch.tensor(kept)))
    assert search.starts[1].tolist() == whole.labels[kept].tolist()
    (none,) = with_starts({"nearest": Nearest()}, lambda: broken(*range(40)), (0.0, 1.0)).values()
    assert none == Nearest()


def test_how_many_images_are_audited_changes_no_images_result(tmp_path: Path, pageless: None) -> None:
    images, kinds = dark_and_bright(), []
    few = auditing.audit(Dark(), images, out=tmp_path / "few", images=16, budget=60)
    more = auditing.audit(Dark(), images, out=tmp_path / "more", budget=60)
    by_hash = dict(zip(table(more)["image_hash"], table(more)["distance"], strict=True))
    assert table(few)["distance"] == [by_hash[key] for key in table(few)["image_hash"]]
    assert few.document["run"]["settings"]["starts"] == more.document["run"]["settings"]["starts"]
    auditing.audit(Dark(), images, out=tmp_path / "more", budget=60, progress=lambda event: kinds.append(event.kind))
    assert set(kinds) >= {"reused"}
    assert "finished" not in kinds

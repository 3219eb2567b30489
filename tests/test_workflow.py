"""Runs in one process: what is chosen, reused, computed again, mended and refused."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
import torch

import small_run
from intriguing import data, workflow
from intriguing.errors import DataError, InputError, StoreError, UnknownNameError
from intriguing.report import page
from intriguing.store.files import seal, unseal
from intriguing.store.folder import Store
from intriguing.studies.spec import Settings
from small_run import SETTINGS

FIGURE = "figure-7"


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run.finished(tmp_path_factory)


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return small_run.copied(finished, tmp_path / "run")


def image_folder(root: Path, classes: dict[str, int], *, side: int = 8, images: int = 12) -> Path:
    """Write digits as an image folder, each class under a name of its own."""
    from PIL import Image

    digits = data.load("digits", "train")
    for name, digit in classes.items():
        ids = (digits.labels == digit).nonzero().flatten()[: 2 * images]
        for number, index in enumerate(ids.tolist()):
            folder = root / ("train" if number < images else "test") / name
            folder.mkdir(parents=True, exist_ok=True)
            pixels = (digits.images[index, 0] * 255).to(torch.uint8).numpy()
            Image.fromarray(pixels).resize((side, side)).save(folder / f"{number}.png")
    return root


# -- choosing -----------------------------------------------------------------------------------------------


def test_no_name_chooses_the_whole_study_and_names_come_in_its_order() -> None:
    study, exhibits = workflow.choose([])
    assert study.name == "szegedy2014"
    assert exhibits == list(study.exhibits)
    assert workflow.choose(["szegedy2014"]) == (study, exhibits)
    assert [exhibit.name for exhibit in workflow.choose(["sandwich"])[1]] == ["training"]
    chosen = workflow.choose(["figure-7", "szegedy2014/table-1", "figure-7"])[1]
    assert [e.name for e in chosen] == ["table-1", "figure-7"]


@pytest.mark.parametrize("name", ["table-9", "szegedy2014/", "", "szegedy2014/table-1/x", "nobody1999/table-1"])
def test_an_unknown_name_is_refused_with_what_is_known(name: str) -> None:
    with pytest.raises(UnknownNameError, match=r"table-1|szegedy2014"):
        workflow.choose([name])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (Settings(images=0), "images.*at least 1.*0"),
        (Settings(nets=-1), "nets.*at least 1.*-1"),
        (Settings(images=1298), "1298.*1297 training images"),
        (Settings(size=0), "size.*1 to 4096.*0"),
        (Settings(data="digts"), "Did you mean 'digits'"),
    ],
)
def test_a_bad_setting_is_refused_before_anything_is_written(tmp_path: Path, settings: Settings, words: str) -> None:
    with pytest.raises(InputError, match=words):
        workflow.reproduce([FIGURE], settings, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# -- reusing ------------------------------------------------------------------------------------------------


def test_a_second_run_computes_nothing_and_writes_the_same(run: Path, finished: Path) -> None:
    outcome, computed, found = small_run.reproduce(run)
    assert computed == []
    assert found == []
    assert outcome.document["cells"] == json.loads((finished / "results.json").read_text())["cells"]
    assert small_run.created(run) == small_run.created(finished)


def test_part_of_a_run_takes_its_cells_from_the_whole(run: Path) -> None:
    outcome, computed, _ = small_run.reproduce(run, FIGURE)
    assert computed == []
    assert {cell["table"] for cell in outcome.document["cells"]} == {FIGURE}


def test_other_settings_in_the_same_folder_keep_the_old_cells(run: Path) -> None:
    before = small_run.created(run)
    outcome, computed, _ = small_run.reproduce(run, FIGURE, settings=replace(SETTINGS, images=5))
    assert "figure 7" in computed
    assert not any(label.startswith("train") for label in computed)  # training does not depend on `images`
    assert outcome.document["run"]["settings"]["images"] == 5
    after = small_run.created(run)
    assert before.items() <= after.items()
    assert len(after) == len(before) + len(computed)
    assert small_run.reproduce(run, FIGURE)[1] == []  # and back again


def test_another_seed_trains_other_sigmoid_nets_and_the_same_convex_ones(run: Path) -> None:
    outcome, computed, _ = small_run.reproduce(run, FIGURE, settings=replace(SETTINGS, seed=1))
    assert [label for label in computed if label.startswith("train")] == ["train FC200-200-10, seed 1"]
    assert outcome.document["run"]["seeds"] == {"run": 1, "nets": [1]}


def test_fresh_computes_the_same_numbers_again(run: Path) -> None:
    before, times = small_run.records(run), small_run.created(run)
    _, computed, _ = small_run.reproduce(run, FIGURE, fresh=True)
    assert len(computed) == 5
    for key, record in small_run.records(run).items():
        assert (small_run.created(run)[key] == times[key]) == (small_run.labels(run)[key] not in computed)
        for name, tensor in record.tensors.items():
            torch.testing.assert_close(tensor, before[key].tensors[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("change", ["nothing", "an edited page", "no page", "another command", "a record", "report"])
def test_the_page_is_drawn_again_only_if_it_would_be_another(
    run: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    small_run.reproduce(run, FIGURE)  # a copy's command names another folder
    before = (run / "report.html").read_bytes()
    drawn = []
    build = page.build
    monkeypatch.setattr(page, "build", lambda *parts, **more: drawn.append(1) or build(*parts, **more))
    if change == "an edited page":
        (run / "report.html").write_bytes(before.replace(b"Figure 7", b"Figure 8", 1))
    elif change == "no page":
        (run / "report.html").unlink()
    elif change == "another command":
        monkeypatch.setattr(workflow, "_command", lambda *parts: "intriguing reproduce figure-7 --data-dir elsewhere")
    elif change == "a record":
        key = small_run.key_of(run, "figure 7")
        with Store(run) as store:
            record, meta = store.get(key), store.meta(key)
            assert record is not None
            assert meta is not None
            store.put(key, replace(record, values={**record.values, "notes": ["told later"]}), meta)
    if change == "report":
        workflow.report(run)
    else:
        assert small_run.reproduce(run, FIGURE)[1] == []
    assert drawn == [1] * (change != "nothing")
    after = (run / "report.html").read_bytes()
    assert (after == before) == (change not in ("another command", "a record"))
    assert (b"told later" in after) == (change == "a record")


def test_what_is_slow_to_import_waits_until_it_is_used() -> None:
    """A run with nothing left to compute is over in a few seconds, most of which are torch's import."""
    slow = ("sklearn", "pandas", "scipy.stats", "scipy.optimize", "matplotlib", "pyarrow.dataset", "datasets")
    code = f"import intriguing.workflow, sys; print([name for name in {slow} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- damage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["values.json", "tensors.safetensors", "rows.parquet", "manifest.json"])
@pytest.mark.parametrize("harm", ["flipped", "empty", "gone"])
def test_a_damaged_cell_is_set_aside_and_computed_again_alone(run: Path, finished: Path, file: str, harm: str) -> None:
    label = "attack FC10(1e-4), random target"
    key = small_run.key_of(run, label)
    victim = run / "cells" / key / file
    if harm == "flipped":
        small_run.flip(victim)
    elif harm == "empty":
        victim.write_bytes(b"")
    else:
        victim.unlink()
    times = small_run.created(finished)
    outcome, computed, found = small_run.reproduce(run, FIGURE)
    assert computed == [label]
    assert [damage.key for damage in found] == [f"cell {key}"]
    assert file in found[0].reason
    assert found[0].moved_to is not None
    assert found[0].moved_to.is_dir()
    again = small_run.created(run)
    assert {k: t for k, t in again.items() if k != key} == {k: t for k, t in times.items() if k != key}
    expected = [c for c in json.loads((finished / "results.json").read_text())["cells"] if c["table"] == FIGURE]
    assert outcome.document["cells"] == expected


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", None])
def test_a_damaged_or_missing_run_json_costs_no_cell(run: Path, content: bytes | None) -> None:
    if content is None:
        (run / "run.json").unlink()
    else:
        (run / "run.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"run\.json.*run `intriguing reproduce`"):
        workflow.report(run)
    _, computed, found = small_run.reproduce(run)
    assert computed == []
    assert len(found) == (content is not None)
    assert unseal((run / "run.json").read_bytes())["settings"]["images"] == SETTINGS.images


@pytest.mark.parametrize("name", ["results.json", "report.html"])
def test_damaged_output_is_written_again(run: Path, finished: Path, name: str) -> None:
    expected = (finished / name).read_bytes()
    small_run.flip(run / name)
    workflow.report(run)
    assert (run / name).read_bytes() == expected


def test_what_a_killed_run_left_half_written_goes_away(run: Path) -> None:
    (run / "tmp" / "half").mkdir(parents=True)
    (run / "tmp" / "half" / "tensors.safetensors").write_bytes(b"half")
    (run / f".run.json.{2**22}.tmp").write_bytes(b"{")
    assert small_run.reproduce(run)[1] == []
    left = {path.name for path in run.iterdir()} - {"tmp", ".lock"}
    assert left == {"cells", "run.json", "results.json", "report.html"}
    assert list((run / "tmp").glob("*")) == []


# -- the report alone ---------------------------------------------------------------------------------------


def test_report_writes_the_same_bytes_and_changes_no_cell(run: Path, finished: Path) -> None:
    for name in ("report.html", "results.json"):
        (run / name).unlink()
    outcome = workflow.report(run)
    assert (outcome.report, outcome.results) == (run / "report.html", run / "results.json")
    for name in ("report.html", "results.json", "run.json"):
        assert (run / name).read_bytes() == (finished / name).read_bytes()
    assert small_run.created(run) == small_run.created(finished)


def test_report_of_an_unfinished_run_says_which_command_ends_it(finished: Path, tmp_path: Path) -> None:
    folder = small_run.copied(finished, tmp_path / "run", without="figure 7")
    command = "intriguing reproduce table-1 table-2 figure-7 --images 8 --nets 1 "
    with pytest.raises(StoreError, match=f"figure-7 is not finished .*`{command}"):
        workflow.report(folder)


def test_report_of_a_damaged_cell_changes_nothing(run: Path) -> None:
    key = small_run.key_of(run, "table 2")
    small_run.flip(run / "cells" / key / "values.json")
    with pytest.raises(StoreError, match="table-2"):
        workflow.report(run)
    assert (run / "cells" / key).is_dir()


def test_report_of_what_is_no_run_is_refused(tmp_path: Path) -> None:
    for name in ("absent", "empty", "foreign", "file"):
        place = tmp_path / name
        if name in ("empty", "foreign"):
            place.mkdir()
        if name == "foreign":
            (place / "thesis.tex").write_text("x")
        if name == "file":
            place.write_text("x")
        with pytest.raises(StoreError, match=name):
            workflow.report(place)
        assert not (place / "results.json").exists()


def test_report_of_a_run_that_was_never_described_is_refused(run: Path) -> None:
    (run / "run.json").write_bytes(seal({"format": 1, "created": "2030-01-01"}))
    with pytest.raises(StoreError, match="holds no finished run"):
        workflow.report(run)


# -- the command that makes it again ------------------------------------------------------------------------


def test_the_command_is_quoted_for_the_shell_and_for_the_page(finished: Path, tmp_path: Path) -> None:
    name = "a b; $(touch x) `id` 'q' \"d\" & <b>é名"
    folder = small_run.copied(finished, tmp_path / name)
    small_run.reproduce(folder, FIGURE)
    words = ["intriguing", "reproduce", FIGURE, "--images", "8", "--nets", "1", "--out", str(folder)]
    assert shlex.split(unseal((folder / "run.json").read_bytes())["command"]) == words
    page = (folder / "report.html").read_text()
    shown = page.partition('<pre class="command"><code>')[2].partition("</code>")[0]
    assert "<" not in shown
    assert shlex.split(unescape(shown)) == words


def test_the_command_says_where_the_images_came_from(tmp_path: Path) -> None:
    image_folder(tmp_path / "sets" / "mine", {"a": 0, "b": 1})
    folder = tmp_path / "run"
    small_run.reproduce(folder, FIGURE, settings=Settings(data="mine", images=4, nets=1), data_dir=tmp_path / "sets")
    assert str(tmp_path / "sets") in unseal((folder / "run.json").read_bytes())["command"]


# -- images of the user -------------------------------------------------------------------------------------


def test_names_of_classes_reach_the_page_as_text(tmp_path: Path) -> None:
    evil = {"<script>alert(1)<": 0, '" onmouseover="x': 1, "{{ 7 * 7 }}'`": 2}
    image_folder(tmp_path / "<i>set", evil)
    folder = tmp_path / "run"
    settings = Settings(data=str(tmp_path / "<i>set"), images=6, nets=1)
    small_run.reproduce(folder, FIGURE, settings=settings)
    page = (folder / "report.html").read_text()
    for name in evil:
        assert name in unescape(page)
    assert "<script>alert" not in page
    assert "<i>set" not in page
    assert '" onmouseover="' not in page
    assert "{{ 7 * 7 }}" in unescape(page)


def test_images_of_unequal_size_need_a_size(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "set", {"a": 0})
    image_folder(root, {"b": 1}, side=10)
    settings = Settings(data=str(root), images=4, nets=1)
    with pytest.raises(DataError, match="--size"):
        workflow.reproduce([FIGURE], settings, out=tmp_path / "run")
    outcome, _, _ = small_run.reproduce(tmp_path / "run", FIGURE, settings=replace(settings, size=6))
    assert outcome.document["run"]["settings"]["size"] == 6


def test_training_and_test_images_must_be_alike(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "set", {"a": 0, "b": 1})
    from PIL import Image

    for file in (root / "test").rglob("*.png"):
        Image.open(file).resize((9, 9)).save(file)
    with pytest.raises(DataError, match="9"):
        workflow.reproduce([FIGURE], Settings(data=str(root), images=4, nets=1), out=tmp_path / "run", workers=1)


def test_a_folder_without_splits_is_refused_for_training(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "set", {"a": 0, "b": 1}) / "train"  # its classes alone
    with pytest.raises(DataError, match="training and test images are the same"):
        workflow.reproduce([FIGURE], Settings(data=str(root), images=4, nets=1), out=tmp_path / "run", workers=1)


def test_one_class_is_refused_by_the_name_of_the_set(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "alone", {"a": 0})
    with pytest.raises((DataError, InputError), match="alone"):
        workflow.reproduce([FIGURE], Settings(data=str(root), images=4, nets=1), out=tmp_path / "run", workers=1)


def test_a_single_image_is_enough(run: Path) -> None:
    outcome, _, _ = small_run.reproduce(run, "table-2", settings=replace(SETTINGS, images=1))
    assert len(outcome.document["cells"]) == small_run.TABLES["table-2"]


# -- the device ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["abacus", "", "mps", "cpu cpu"])
def test_an_unknown_device_is_refused(tmp_path: Path, device: str) -> None:
    with pytest.raises(InputError, match="use cpu or cuda"):
        workflow.reproduce([FIGURE], SETTINGS, out=tmp_path / "run", device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_missing_cuda_device_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--device cpu"):
        workflow.reproduce([FIGURE], SETTINGS, out=tmp_path / "run", device="cuda")

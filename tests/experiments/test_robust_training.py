"""Adversarial training measured: on nets whose answers are known, and on a small run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch.nn import functional as F  # noqa: N812 (torch's own abbreviation)

from intriguing.attacks import Nearest
from intriguing.errors import InputError
from intriguing.experiments import robust_training
from intriguing.records import Inputs, Record
from intriguing.training import convolutional, recipes
from robust_nets import EPS, digits, trained


def inputs(**needs: Record) -> Inputs:
    return Inputs(data=digits().__getitem__, needs=needs)


def check_cells(record: Record, n: int) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Return the cells by row and column, after checking that each is a claim: a share, an interval, a control."""
    json.dumps(record.values)
    cells = {(cell["row"], cell["column"]): cell for cell in record.values["cells"]}
    assert len(cells) == len(record.values["cells"])
    for cell in cells.values():
        assert 0 <= cell["low"] <= cell["measured"] <= cell["high"] <= 1
        assert cell["n"] == n
        assert cell["code"].startswith("intriguing.experiments.robust_training:")
        assert cell["control"]["label"]
        assert 0 <= cell["control"]["measured"] <= 1
    return cells


def test_fgsm_on_a_softmax_layer_is_its_formula_and_far_worse_than_random_signs() -> None:
    name = "FC10(1e-4)"
    softmax = recipes.train(Inputs(data=digits().__getitem__), net=name, seed=0)
    record = robust_training.fgsm_on_linear(inputs(net=softmax), net=name, eps=EPS, images=10_000, seed=0)
    test = digits()["test"]
    cells = check_cells(record, len(test.labels))
    module = recipes.restore(softmax, name, (1, 8, 8), 10)
    x = test.images.clone().requires_grad_()
    F.cross_entropy(module(x), test.labels, reduction="sum").backward()
    moved = (test.images + EPS * x.grad.sign()).clamp(0, 1)
    wrong = (module(moved).argmax(1) != test.labels) | (module(test.images).argmax(1) != test.labels)
    cell = cells[name, f"error under FGSM, eps {EPS:g}"]
    assert cell["measured"] == pytest.approx(wrong.double().mean().item(), abs=1e-12)
    assert cell["control"]["measured"] < cell["measured"] / 2
    assert cells[name, "clean error"]["measured"] < cell["control"]["measured"] + 1e-9


def test_fgsm_training_pays_against_fgsm_and_pgd_still_breaks_it() -> None:
    record = robust_training.fgsm_training(
        inputs(none=trained("none"), trained=trained("fgsm-mixture")), images=150, seed=0, steps=15
    )
    cells = check_cells(record, 150)
    errors = {row: [c["measured"] for (r, _), c in cells.items() if r == row] for row, _ in cells}
    (before, after) = errors.values()
    for clean, fgsm, pgd in (before, after):
        assert clean <= fgsm <= pgd + 0.02  # PGD of few steps may miss an image that FGSM finds
    assert record.values["falls"] == pytest.approx(before[1] / after[1])
    assert record.values["falls"] > 1.2
    assert record.values["gap"] == pytest.approx(100 * (after[2] - after[1]))
    assert record.values["clean_change"] == pytest.approx(100 * (after[0] - before[0]))
    assert f"{after[2]:.1%}" in record.values["findings"][0]


def test_pgd_training_is_set_beside_the_net_without_a_defence() -> None:
    record = robust_training.pgd_training(
        inputs(none=trained("none"), trained=trained("pgd")), images=150, seed=0, steps=10, restarts=2
    )
    robust, clean = check_cells(record, 150).values()
    assert robust["measured"] > robust["control"]["measured"] + 0.1
    assert clean["measured"] >= robust["measured"]
    assert clean["control"]["measured"] > 0.8


def test_a_net_too_narrow_shows_in_the_sweep() -> None:
    """Whose answer is one class for all images: it is right on a tenth of them, attacked or not."""
    dumb = trained("pgd")
    silent = {name: torch.zeros_like(tensor) for name, tensor in dumb.tensors.items()}
    silent["output.bias"] = torch.arange(10.0)
    needs = {
        "pgd/1": Record(values=dumb.values, tensors=silent),
        "none/1": trained("none"),
        "pgd/6": dumb,
        "none/6": trained("none"),
    }
    record = robust_training.capacity(inputs(**needs), widths=[1, 6], images=150, seed=0, steps=5)
    narrow_clean, narrow_pgd, wide_clean, wide_pgd = check_cells(record, 150).values()
    assert narrow_clean["measured"] == narrow_pgd["measured"] == pytest.approx(0.1, abs=0.05)
    assert narrow_clean["measured"] < wide_pgd["measured"] <= wide_clean["measured"]
    (finding,) = record.values["findings"]
    assert f"a net of 1 channel keeps {narrow_pgd['measured']:.1%} of 150 images right" in finding
    assert finding.endswith(f"one of 6 keeps {wide_pgd['measured']:.1%}.")
    (figure,) = record.values["figures"]
    assert [[point["x"] for point in series["points"]] for series in figure["series"]] == [[1, 6], [1, 6]]
    with pytest.raises(InputError, match="widths"):
        robust_training.capacity(inputs(**needs), widths=[6, 1], images=150, seed=0)


def test_what_pgd_hides_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    net = trained("pgd")
    options: list[dict[str, Any]] = []
    monkeypatch.setattr(robust_training, "Nearest", lambda **given: options.append(given) or Nearest(**given))
    record = robust_training.hidden_weakness(
        inputs(trained=net), images=60, seed=0, steps=10, restarts=2, squares=30, budget=120
    )
    images, labels = options[0]["starts"]
    assert len(images) == len(labels) == 500  # of the training images
    cells = check_cells(record, 60)
    share = {column: cell["measured"] for (_, column), cell in cells.items()}
    once, restarted, squares, worst, far, _ = share.values()
    assert worst <= min(once, restarted, squares)
    assert record.values["lowered"] == pytest.approx(100 * (once - worst))
    (finding,) = record.values["findings"]
    assert f"PGD-10 leaves {once:.1%} of 60 images right" in finding
    assert f"with 2 starts and Square Attack beside it {worst:.1%}, and at eps 0.5 {far:.1%}" in finding
    assert far <= 0.05  # at eps 0.5 all images of 0 and 1 can meet in the middle
    nearest = next(cell for (_, column), cell in cells.items() if column == "accuracy under Nearest in L2, radius 0.3")
    by_pgd = nearest["control"]["measured"]
    assert nearest["measured"] <= by_pgd
    assert finding.endswith(
        f"it leaves {by_pgd:.1%} within 0.3, the search for the nearest example {nearest['measured']:.1%}."
    )
    values = {**net.values, "norm": 2.0}
    with pytest.raises(InputError, match="Linf"):
        robust_training.hidden_weakness(inputs(trained=Record(values=values, tensors=net.tensors)), images=5, seed=0)


def test_a_bench_sees_random_signs_of_the_size_asked_for() -> None:
    test = digits()["test"]
    bench = robust_training._Bench(
        convolutional.model(trained("none")), test.images[:50], test.labels[:50], 0.0, math.inf, 0
    )
    assert torch.equal(bench.noisy(), bench.clean())
    assert not torch.equal(bench.noisy(0.5), bench.clean())

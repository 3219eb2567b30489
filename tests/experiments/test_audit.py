"""An audit's shard and its summary against nets whose nearest examples, answers and transfers are known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from intriguing.attacks.base import Attack, Trial
from intriguing.attacks.lbfgs import LBFGS
from intriguing.attacks.noise import gaussian_of_norm
from intriguing.experiments import audit_figures, audit_summary, resampling
from intriguing.experiments.audit import attack_shard, image_hashes
from intriguing.experiments.audit_summary import Gathered
from intriguing.nets.load import Model
from intriguing.records import Record
from intriguing.rng import generator

N, PIXELS = 24, 16


@dataclass(frozen=True)
class Step(Attack):
    """One step onto the nearest linearised boundary and a ten-thousandth beyond: exact where logits are linear."""

    description: ClassVar[str] = "one exact step"

    def _search(self, trial: Trial, generator: torch.Generator | None) -> None:
        image = trial.attacked.nonzero().squeeze(1)
        if not len(image):
            return
        x = trial.clean[image]
        everyone = torch.arange(trial.classes).expand(len(image), -1)
        z, J = trial.jacobian(x, image, everyone)
        label = trial.labels[image]
        rows = torch.arange(len(image))
        gap = (z[rows, label][:, None] - z).double()
        w = (J - J[rows, label][:, None]).double()
        distance = (gap / w.norm(dim=2)).nan_to_num(torch.inf)
        distance[rows, label] = torch.inf
        nearest = distance.argmin(1)
        w, gap = w[rows, nearest], gap[rows, nearest]
        moved = x + (1.0001 * gap[:, None] * w / w.square().sum(1, keepdim=True)).to(x)
        trial.keep(moved, image, trial.logits(moved, image))


EXACT = Step()


def linear(seed: int = 0, classes: int = 2) -> Model:
    """Return logits W x + b whose boundary passes close to the middle of the box."""
    draw = torch.Generator().manual_seed(seed)
    layer = nn.Linear(PIXELS, classes)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(classes, PIXELS, generator=draw))
        layer.bias.copy_(-layer.weight @ torch.full((PIXELS,), 0.5))
    return Model(nn.Sequential(nn.Flatten(), layer), name=f"linear {seed}")


def images(seed: int = 0, count: int = N) -> Tensor:
    """Return (N, 1, 4, 4) images so far inside the box that no nearest example meets its sides."""
    return 0.4 + 0.2 * torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


def closed_form(model: Model, x: Tensor) -> np.ndarray:
    """Return |z_1 - z_0| / |w_1 - w_0| of a linear net of two classes."""
    layer = model.net[1]
    w = (layer.weight[1] - layer.weight[0]).double()
    gap = x.flatten(1).double() @ w + (layer.bias[1] - layer.bias[0]).double()
    return (gap.abs() / w.norm()).detach().numpy()


def shard(model: Model, x: Tensor, labels: Tensor | None = None, **options: Any) -> Record:
    labels = model.predict(x) if labels is None else labels
    settings: dict[str, Any] = {"attacks": {"lbfgs": EXACT}, "norm": 2.0, "seed": 0, **options}
    return attack_shard(model, x, labels, **settings)


def gathered(record: Record, count: int = N) -> Gathered:
    found = Gathered(2.0)
    found.add(record, list(range(100, 100 + count)))
    return found


def worst(record: Record, column: str, count: int = N) -> list[Any]:
    return record.rows[column][-count:]


def test_distances_and_their_median_are_those_of_the_closed_form() -> None:
    model, x = linear(), images()
    truth = closed_form(model, x)
    record = shard(model, x)
    assert worst(record, "distance") == pytest.approx(truth, rel=2e-4)
    assert (np.asarray(worst(record, "distance")) >= truth * (1 - 1e-6)).all()
    figures = audit_summary.figures(gathered(record), generator("test", 0))
    assert figures["median_l2"]["value"] == pytest.approx(np.sort(truth)[N // 2], rel=2e-4)
    assert figures["p05_l2"]["value"] == pytest.approx(np.sort(truth)[2], rel=2e-4)
    assert figures["mean_l2"]["value"] == pytest.approx(truth.mean(), rel=2e-4)
    assert figures["found"]["value"] == figures["clean_accuracy"]["value"] == 1.0
    curve = audit_summary._curve("worst of", gathered(record).rows(), 2.0)
    share = [float((truth > radius).mean()) for radius in curve["radii"]]
    assert curve["robust_accuracy"] == pytest.approx(share, abs=1.01 / N)


def test_images_the_net_gets_wrong_count_in_accuracy_alone() -> None:
    model, x = linear(), images()
    labels = model.predict(x)
    labels[:6] = 1 - labels[:6]
    record = shard(model, x, labels)
    assert worst(record, "status")[:6] == ["already_wrong"] * 6
    assert worst(record, "predicted") == model.predict(x).tolist()
    figures = audit_summary.figures(gathered(record), generator("test", 0))
    assert figures["clean_accuracy"]["value"] == pytest.approx(18 / N)
    assert (figures["median_l2"]["n"], figures["found"]["n"]) == (18, 18)
    assert figures["median_l2"]["value"] == pytest.approx(np.sort(closed_form(model, x)[6:])[9], rel=2e-4)
    low, high = figures["clean_accuracy"]["low"], figures["clean_accuracy"]["high"]
    wilson = stats.binomtest(18, N).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((wilson.low, wilson.high))


def test_an_attack_that_gives_up_early_leaves_infinite_distances_which_the_median_counts() -> None:
    record = shard(linear(), images(), attacks={"lbfgs": LBFGS(target="nearest", budget=1)})
    assert set(worst(record, "status")) == {"budget_spent"}
    figures = audit_summary.figures(gathered(record), generator("test", 0))
    assert figures["median_l2"]["value"] == figures["median_l2"]["low"] == math.inf
    assert figures["found"]["value"] == 0
    assert math.isnan(figures["mean_l2"]["value"])
    assert gathered(record).fragile == []
    assert audit_summary.fragile(gathered(record), ["a", "b"]) == ([], {})


def test_worst_of_is_point_wise_the_nearest_and_costs_what_all_attacks_cost() -> None:
    model, x = linear(classes=4), images()
    attacks = {"short": LBFGS(target="random", budget=40), "exact": EXACT, "early": LBFGS(target="nearest", budget=1)}
    record = shard(model, x, attacks=attacks)
    size = np.asarray(record.rows["distance"]).reshape(4, N)
    assert record.rows["attack"] == [name for name in (*attacks, "worst of") for _ in range(N)]
    assert (size[3] == size[:3].min(0)).all()
    passes = np.asarray(record.rows["forwards"]).reshape(4, N)
    assert (passes[3] == passes[:3].sum(0)).all()
    linf = shard(model, x, attacks=attacks, norm=math.inf)
    largest = np.asarray(linf.rows["distance_linf"]).reshape(4, N)
    assert (largest[3] == largest[:3].min(0)).all()


def test_rows_depend_on_the_images_and_the_seed_and_not_on_their_place_in_the_set() -> None:
    model, x = linear(classes=5), images()
    random = {"lbfgs": LBFGS(target="random")}
    first, again = (shard(model, x, attacks=random) for _ in range(2))
    other = shard(model, x, attacks=random, seed=1)
    assert first.rows == again.rows
    assert first.rows["target"] != other.rows["target"]


def test_hashes_change_with_a_pixel_and_a_label_and_with_nothing_else() -> None:
    x, labels = images(count=3), torch.tensor([0, 1, 2])
    hashes = image_hashes(x, labels)
    assert len(set(hashes)) == 3
    assert image_hashes(x[1:], labels[1:]) == hashes[1:]
    moved = x.clone()
    moved[0, 0, 0, 0] += 1e-6
    assert image_hashes(moved, labels)[0] != hashes[0]
    assert image_hashes(x, labels + 1)[1] != hashes[1]
    assert image_hashes(x.reshape(3, 1, 2, 8), labels)[2] != hashes[2]


def test_the_kept_examples_are_the_nearest_ones_with_their_classes_before_and_after() -> None:
    model, x = linear(), images()
    truth = closed_form(model, x)
    record = shard(model, x, keep=5)
    order = np.argsort(truth)[:5]
    assert [entry["place"] for entry in record.values["fragile"]] == order.tolist()
    assert torch.equal(record.tensors["original"], x[order])
    assert (model.predict(record.tensors["adversarial"]) != model.predict(x[order])).all()
    found = gathered(record)
    entries, tensors = audit_summary.fragile(found, ["zero", "one"])
    assert [entry["index"] for entry in entries] == (100 + order).tolist()
    assert tensors["fragile/original"].shape == (5, 1, 4, 4)
    softmax = model.logits(x[order[:1]])[0].softmax(0)
    assert entries[0]["top_before"][0][1] == pytest.approx(float(softmax.max()), abs=1e-6)
    assert entries[0]["top_after"][0][0] == entries[0]["target"] != entries[0]["label"]


def test_the_most_fragile_of_several_shards_are_those_of_all_together() -> None:
    model, x = linear(), images()
    whole, parts = Gathered(2.0, keep=7), Gathered(2.0, keep=7)
    whole.add(shard(model, x, keep=7), list(range(N)))
    for at in range(0, N, 10):
        parts.add(shard(model, x[at : at + 10], keep=7), list(range(at, min(at + 10, N))))
    assert [row["index"] for row, _, _ in whole.fragile] == [row["index"] for row, _, _ in parts.fragile]
    for a, b in zip(whole.fragile, parts.fragile, strict=True):
        torch.testing.assert_close(a[2], b[2], rtol=0, atol=1e-5)  # a batch of another size rounds otherwise
    assert whole.rows()["distance"] == pytest.approx(parts.rows()["distance"], rel=1e-3)


def test_transfer_counts_what_each_receiver_gets_right_and_noise_of_the_same_norm_beside_it() -> None:
    model, x = linear(), images()
    labels = model.predict(x)
    flipped = Model(nn.Sequential(model.net, nn.Linear(2, 2, bias=False)), name="flipped")
    with torch.no_grad():
        flipped.net[1].weight.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    models = {"same": model, "flipped": flipped, "other": linear(7)}
    records = {name: shard(net, x, labels, receivers=models) for name, net in models.items()}
    rows = records["same"].rows
    assert worst(records["same"], "fools/same") == [True] * N, "whatever fools a net fools the same net"
    assert worst(records["same"], "fools/flipped") == [None] * N, "it is wrong on every clean image"
    assert rows["fools/same"][:N] == [None] * N, "only the nearest of all attacks is fed on"
    found = {name: gathered(record) for name, record in records.items()}
    table = audit_summary.transfer(found)
    assert table is not None
    right = models["other"].predict(x) == labels
    assert table["rate"][0][2]["n"] == int(right.sum())
    assert table["rate"][0][0]["value"] == 1.0
    distance = torch.tensor(worst(records["same"], "distance"))
    draw = generator(f"audit/noise/{_content(x, labels)}", 0)
    noisy = gaussian_of_norm(x, distance, generator=draw)
    fooled = (models["other"].predict(noisy) != labels) & right
    assert table["noise"][0][2]["value"] == pytest.approx(int(fooled.sum()) / int(right.sum()))
    pooled = audit_summary.pooled_transfer(found)["transfer"]
    off = [table["rate"][s][r] for s in range(3) for r in range(3) if s != r]
    hits = sum(entry["value"] * entry["n"] for entry in off if entry["n"])
    assert pooled["value"] == pytest.approx(hits / sum(entry["n"] for entry in off))
    assert audit_summary.transfer({"same": found["same"]}) is None


def _content(x: Tensor, labels: Tensor) -> str:
    import hashlib

    return hashlib.sha256("".join(image_hashes(x, labels)).encode()).hexdigest()[:32]


def test_confusion_and_classes_count_the_nearest_examples() -> None:
    model, x = linear(classes=3), images()
    labels = model.predict(x)
    record = shard(model, x)
    table = np.asarray(audit_summary.confusion(gathered(record), ["a", "b", "c"])["counts"])
    found = np.asarray(worst(record, "status")) == "found"
    assert found.sum() >= N - 1, "one step may end within rounding of the boundary"
    pairs = list(zip(labels[found].tolist(), np.asarray(worst(record, "target"))[found].tolist(), strict=True))
    assert table.tolist() == [[pairs.count((row, column)) for column in range(3)] for row in range(3)]
    assert (np.diag(table) == 0).all()
    classes = audit_summary.by_class(gathered(record), ["a", "b", "c"], generator("test", 0))
    assert sum(entry["n"] for entry in classes) == N
    distance = np.asarray(worst(record, "distance"))
    for entry in classes:
        mine = np.sort(distance[labels.numpy() == "abc".index(entry["class"])])
        assert entry["median_l2"] == mine[len(mine) // 2]


def test_layer_bounds_stand_beside_what_was_found_and_never_contradict_it() -> None:
    model, x = linear(), images()
    bounds, figure, note = audit_summary.layers(model, (1, 4, 4))
    assert note == ""
    assert [entry["kind"] for entry in bounds] == ["reshaping", "dense"]
    product = figure["lipschitz_product"]["value"]
    z = model.logits(x)
    gap = (z[:, 0] - z[:, 1]).abs().double().numpy()
    # To swap two logits a change must move their difference by the gap, which sqrt(2) L |r| bounds.
    assert (closed_form(model, x) >= gap / (math.sqrt(2) * product) - 1e-9).all()

    class Strange(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :2] ** 2

    none, nothing, reason = audit_summary.layers(Model(Strange()), (1, 4, 4))
    assert (none, nothing) == ([], {})
    assert "no rule bounds a Strange" in reason


def test_a_net_no_better_than_chance_and_a_red_sign_are_untrustworthy() -> None:
    def judged(right: int, checks: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        accuracy = {"net": audit_summary.statistics.proportion(right, 100)}
        return audit_summary.verdict(checks or [], accuracy, 10)

    assert judged(95)["state"] == "trustworthy"
    assert judged(14)["state"] == "untrustworthy"
    assert "14.0% of 100 images" in judged(14)["reasons"][0]
    red = {"name": "zero gradients", "state": "red", "sentence": "All are zero."}
    assert judged(95, [red]) == {"state": "untrustworthy", "reasons": ["zero gradients: All are zero."]}
    assert judged(95, [{**red, "state": "amber"}])["state"] == "trustworthy"


def test_the_bootstrap_interval_of_a_median_covers_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    covered = 0
    for number in range(100):
        values = draw.exponential(size=60)
        statistic = resampling.Statistic(values, np.ones(60, bool), 0.5)
        found = resampling.estimates({"median": statistic}, generator("coverage", number))["median"]
        covered += found.low <= math.log(2) <= found.high
    # Of 100 intervals of 95%, between 88 and 100 hold the truth (four standard deviations below 95).
    assert 88 <= covered <= 100


def test_a_weighted_quantile_is_that_of_the_resample_written_out() -> None:
    draw = np.random.default_rng(1)
    values = np.where(draw.random(9) < 0.2, np.inf, draw.random(9))
    counted = draw.random(9) < 0.8
    for share in (0.05, 0.5, 0.9):
        statistic = resampling.Statistic(values, counted, share)
        for _ in range(20):
            times = draw.integers(0, 4, 9)
            drawn = np.sort(np.repeat(values[counted], times[counted]))
            expected = drawn[math.ceil((len(drawn) - 1) * share)] if len(drawn) else math.nan
            assert statistic.of(times[None].astype(float))[0] == pytest.approx(expected, nan_ok=True)


def test_every_figure_says_what_it_means() -> None:
    for name, figure in audit_figures.figures((0.7, math.inf)).items():
        assert figure.better in ("higher", "lower")
        assert figure.meaning.endswith(".")
        assert figure.unit, name
    assert "robust_accuracy_linf@0.7" in audit_figures.figures((0.7, math.inf))
    assert "robust_accuracy_linf@8/255" in audit_figures.figures()
    assert "robust_accuracy_l2@127.5" in audit_figures.figures(width=255)

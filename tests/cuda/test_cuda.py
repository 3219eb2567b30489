"""On a CUDA device everything is computed there, and gives what it gives on the CPU."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import intriguing as iq
from intriguing import bounds, cli, optim
from intriguing.attacks import ATTACKS, planes
from intriguing.nets.load import Model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

CUDA = "cuda"
B, K = 24, 5
PARAMETERS: dict[str, dict[str, Any]] = {
    "fgsm": {"eps": 0.8},
    "pgd": {"eps": 0.6, "steps": 40},
    "square": {"eps": 0.8, "steps": 300},
    "apgd": {"eps": 0.6, "steps": 40},
    "apgd-t": {"eps": 0.6, "steps": 40},
    "gaussian-noise": {"eps": 8.0},
    "uniform-noise": {"eps": 3.0},
    "carlini-wagner": {"steps": 60, "searches": 4, "rate": 0.05, "first": 0.1},
}


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weighted(net: nn.Module) -> nn.Module:
    draw = torch.Generator().manual_seed(3)
    for parameter in net.parameters():
        fan = parameter[0].numel() if parameter.dim() > 1 else 16
        parameter.data = torch.randn(parameter.shape, generator=draw, dtype=torch.float64) * 3 / math.sqrt(fan)
    return net.double().eval().requires_grad_(False)


def convolutional() -> nn.Module:
    first = (nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    return weighted(nn.Sequential(*first, nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, K)))


def connected(activation: type[nn.Module] = nn.Sigmoid) -> nn.Module:
    return weighted(nn.Sequential(nn.Flatten(), nn.Linear(64, 12), activation(), nn.Linear(12, K)))


def case(net: nn.Module, device: str) -> tuple[Model, Tensor, Tensor]:
    """Return a model on a device, images it answers as labelled, and the labels, the first of them wrong."""
    images = drawn(B, 1, 8, 8, seed=1)
    model = Model(net)
    labels = model.predict(images)
    labels[0] = (labels[0] + 1) % K
    return Model(net.to(device)), images.to(device), labels.to(device)


def test_the_solver_ends_where_it_does_on_the_cpu() -> None:
    A = drawn(300, 12, 12, seed=5) - 0.5
    H, wanted = A @ A.mT + 0.1 * torch.eye(12, dtype=torch.float64), 3 * drawn(300, 12, seed=6) - 1

    def solved(device: str) -> optim.Solution:
        curvature, centre = H.to(device), wanted.to(device)

        def fun(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            r = x - centre[rows]
            g = torch.einsum("bij,bj->bi", curvature[rows], r)
            return (g * r).sum(1) / 2, g

        x0 = torch.full((300, 12), 0.5, dtype=torch.float64, device=device)
        return optim.minimize(fun, x0, lower=0.0, upper=1.0, tolerance=1e-9, slots=64)

    there, here = solved(CUDA), solved("cpu")
    for field in dataclasses.fields(there):
        assert getattr(there, field.name).device.type == CUDA, field.name
    assert (there.status == int(optim.Status.CONVERGED)).all()
    assert ((there.x >= 0) & (there.x <= 1)).all()
    torch.testing.assert_close(there.x.cpu(), here.x, rtol=0, atol=1e-7)
    torch.testing.assert_close(there.fun.cpu(), here.fun, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_an_attack_stays_on_the_device_and_finds_what_it_finds_on_the_cpu(name: str) -> None:
    def attacked(device: str) -> Any:
        attack = ATTACKS[name](**PARAMETERS.get(name, {}))
        return attack(*case(connected(), device), generator=torch.Generator().manual_seed(2))

    there, here = attacked(CUDA), attacked("cpu")
    model, images, labels = case(connected(), CUDA)
    for field, value in vars(there).items():
        if isinstance(value, Tensor):
            assert value.device.type == CUDA, field
    assert ((there.adversarial >= 0) & (there.adversarial <= 1)).all()
    found = there.found
    assert (model.predict(there.adversarial)[found] != labels[found]).all()
    assert torch.equal(there.adversarial[0], images[0])
    assert abs(int(found.sum()) - int(here.found.sum())) <= 2
    both = found.cpu() & here.found & (here.distance > 0)
    ratio = there.distance.cpu()[both] / here.distance[both]
    # Paths part where a decision hangs on the last digit; where they end must not depend on it.
    assert ratio.median().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("pool", [False, True])
def test_walks_to_corners_and_restarts_from_a_pool_end_where_they_do_on_the_cpu(
    pool: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []
    for name in ("corner", "within"):
        whole = getattr(planes.Planes, name)

        def counted(self: planes.Planes, rows: Tensor, *a: Any, name: str = name, whole: Any = whole) -> Any:
            used.append(f"{name} {rows.device.type}")
            return whole(self, rows, *a)

        monkeypatch.setattr(planes.Planes, name, counted)
    net = weighted(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)))
    images, points = drawn(40, 6, seed=1), drawn(200, 6, seed=2)
    results = {}
    for device in ("cpu", CUDA):
        model = Model(net.to(device))
        x, more = images.to(device), points.to(device)
        starts = (more, model.predict(more)) if pool else None
        results[device] = iq.attacks.Nearest(budget=600, starts=starts)(model, x, model.predict(x))
    there, here = results[CUDA], results["cpu"]
    assert {f"{name} {device}" for name in ("corner", "within") for device in ("cpu", CUDA)} <= set(used)
    assert there.adversarial.device.type == CUDA
    found = there.found.cpu() & here.found
    assert found.sum() >= here.found.sum() - 1
    close = (there.distance.cpu() / here.distance)[found].sub(1).abs() < 1e-3
    assert close.double().mean() >= 0.9  # restarts may part where a decision hangs on the last digit


@pytest.mark.parametrize("norm", [1, 2, math.inf])
@pytest.mark.parametrize("target", ["all", "random", "nearest"])
def test_lbfgs_in_every_norm_and_at_every_target(norm: float, target: str) -> None:
    def attacked(device: str) -> Any:
        draw = torch.Generator().manual_seed(2)
        return iq.attacks.lbfgs(*case(convolutional(), device), norm=norm, target=target, budget=400, generator=draw)

    there, here = attacked(CUDA), attacked("cpu")
    assert there.adversarial.device.type == CUDA
    assert torch.equal(there.found.cpu(), here.found)
    found = here.found & (here.distance > 0)
    ratio = there.size_in(norm).cpu()[found] / here.size_in(norm)[found]
    assert ratio.median().item() == pytest.approx(1, abs=0.02)
    assert ratio.mean().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("method", ["product", "interval", "crown", "crown-optimised"])
@pytest.mark.parametrize("norm", [2, math.inf])
@pytest.mark.parametrize("net", [connected, convolutional])
def test_certificates_are_those_of_the_cpu(net: Any, norm: float, method: str) -> None:
    if method == "product" and norm == math.inf:
        pytest.skip("the product bounds the L2 norm alone")
    radius = {}
    for device in (CUDA, "cpu"):
        model, images, labels = case(net(), device)
        found = bounds.certify(model, images, labels, norm, method=method, steps=8)
        assert found.radius.device.type == device
        radius[device] = found.radius.cpu()
    assert (radius["cpu"][1:] > 0).any()
    torch.testing.assert_close(radius[CUDA], radius["cpu"], rtol=6e-3, atol=1e-12)  # the search's tolerance, thrice


def test_certificates_from_curvature_are_those_of_the_cpu() -> None:
    radius = [bounds.certify(*case(connected(), device), method="curvature").radius.cpu() for device in (CUDA, "cpu")]
    torch.testing.assert_close(*radius, rtol=6e-3, atol=1e-12)


@pytest.mark.parametrize("method", ["product", "pairs", "ascent"])
def test_lipschitz_constants_are_those_of_the_cpu(method: str) -> None:
    value = [bounds.lipschitz(Model(connected().to(device)), method, shape=(1, 8, 8)).value for device in (CUDA, "cpu")]
    assert value[0] == pytest.approx(value[1], rel=0.02 if method == "ascent" else 1e-6)


def test_exact_distances_are_those_of_the_cpu() -> None:
    model, images, labels = case(connected(nn.ReLU), CUDA)
    there = bounds.exact_distance(model, images[:4], labels[:4], 2, seconds=20)
    model, images, labels = case(connected(nn.ReLU), "cpu")
    here = bounds.exact_distance(model, images[:4], labels[:4], 2, seconds=20)
    torch.testing.assert_close(there.upper.cpu(), here.upper, rtol=1e-3, atol=1e-9)


def test_images_elsewhere_are_brought_along_and_the_result_comes_back_but_the_model_is_never_moved() -> None:
    model, images, labels = case(connected(), CUDA)
    result = iq.attacks.ddn(model, images.cpu(), labels.cpu(), budget=50)
    assert result.adversarial.device.type == result.distance.device.type == "cpu"
    assert model.device.type == CUDA


def test_the_doctor_sees_a_healthy_model() -> None:
    from intriguing import data

    digits = data.load("digits", "test")
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).to(CUDA)
    train = data.load("digits", "train")
    optimiser = torch.optim.Adam(net.parameters(), lr=0.05)
    for _ in range(200):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(train.images.to(CUDA)), train.labels.to(CUDA)).backward()
        optimiser.step()
    found = iq.doctor(Model(net.eval()), digits.images, digits.labels)
    assert found.state == "green", str(found)


NET = """
import torch
from torch import nn
from intriguing import data

def build():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 10))
    train = data.load("digits", "train")
    for _ in range(300):
        loss = nn.functional.cross_entropy(net(train.images), train.labels)
        with torch.no_grad():
            for parameter, slope in zip(net.parameters(), torch.autograd.grad(loss, net.parameters())):
                parameter -= slope
    return net
"""


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["intriguing", *arguments])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    return int(leaving.value.code or 0)


def test_an_audit_and_a_study_run_there_from_the_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    told = command(
        monkeypatch, "audit", "--model", "net.py:build", "--data", "digits", "--images", "48", "--budget", "200",
        "--certify", "--device", CUDA, "--out", "audit", "--quiet",
    )  # fmt: skip
    assert told in (0, 3)
    assert (tmp_path / "audit" / "report.html").exists()
    assert json.loads((tmp_path / "audit" / "results.json").read_text())["run"]
    assert command(monkeypatch, "reproduce", "table-1", "--images", "16", "--nets", "1", "--device", CUDA, "--out",
                   "study", "--quiet") == 0  # fmt: skip
    cells = json.loads((tmp_path / "study" / "results.json").read_text())["cells"]
    found = [cell for cell in cells if cell["column"] == "found"]
    assert found
    assert all(cell["measured"] == 1 for cell in found)

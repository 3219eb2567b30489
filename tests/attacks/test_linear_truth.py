"""The attack on linear nets, where the nearest adversarial example is known exactly.

The optimum comes from a quadratic program in float64 (`truth.nearest_linear`), independent of the solver. The
hinge objective's penalty method is exact there; cross-entropy is exact for two classes alone.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn

import truth
from intriguing import attacks
from intriguing.nets.load import Model

COUNT = 150


class LinearNet(nn.Module):
    """Logits W x + b of flattened images."""

    def __init__(self, weights: np.ndarray, bias: np.ndarray) -> None:
        super().__init__()
        self.linear = nn.Linear(weights.shape[1], weights.shape[0])
        with torch.no_grad():
            self.linear.weight.copy_(torch.from_numpy(weights))
            self.linear.bias.copy_(torch.from_numpy(bias))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(images.flatten(1))

    def exact(self) -> tuple[np.ndarray, np.ndarray]:
        """Return weights and bias as the net has them, in float64."""
        return self.linear.weight.detach().double().numpy(), self.linear.bias.detach().double().numpy()


def digits(classes: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (N, 1, 8, 8) scans in [0, 1] of the first classes, with labels."""
    data = load_digits()
    keep = data.target < classes
    images = torch.from_numpy(data.images[keep]).float()[:, None] / 16
    return images, torch.from_numpy(data.target[keep]).long()


def trained(images: torch.Tensor, labels: torch.Tensor, decay: float) -> LinearNet:
    """Return multinomial logistic regression, fitted by scikit-learn."""
    fit = LogisticRegression(C=1 / (decay * len(images)), max_iter=2_000)
    fit.fit(images.flatten(1).double().numpy(), labels.numpy())
    if len(fit.classes_) > 2:
        return LinearNet(fit.coef_, fit.intercept_)
    return LinearNet(np.concatenate([-fit.coef_, fit.coef_]) / 2, np.append(-fit.intercept_, fit.intercept_) / 2)


def random_net(seed: int, pixels: int, classes: int) -> LinearNet:
    rng = np.random.default_rng(seed)
    return LinearNet(rng.standard_normal((classes, pixels)), rng.standard_normal(classes))


def wrong_classes(labels: torch.Tensor, classes: int, seed: int) -> torch.Tensor:
    shift = torch.randint(1, classes, labels.shape, generator=torch.Generator().manual_seed(seed))
    return (labels + shift) % classes


def optima(net: LinearNet, images: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
    """Return the exact distance of every image to its target's region, after checking the certificates."""
    weights, bias = net.exact()
    distances = []
    for image, target in zip(images.flatten(1).double().numpy(), targets.tolist(), strict=True):
        found = truth.nearest_linear(image, weights, bias, target)
        if math.isfinite(found.distance):
            assert found.violation <= 1e-9
            assert found.distance == pytest.approx(found.bound, rel=1e-7, abs=1e-9)
        distances.append(found.distance)
    return np.array(distances)


def blur(net: LinearNet, images: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
    """Return by how much a point may seem nearer than the optimum because float32 logits are rounded.

    A margin of logits is wrong by at most a few units in the last place of the sum of |w x|; divided by
    the length of the difference of weights it is a distance.
    """
    weights, bias = net.exact()
    size = (np.abs(weights) @ images.flatten(1).double().numpy().T + np.abs(bias)[:, None]).max(0)
    lengths = np.linalg.norm(weights[:, None] - weights[None], axis=2)
    np.fill_diagonal(lengths, np.inf)
    return 4 * np.finfo(np.float32).eps * size / lengths[targets.numpy()].min(1)


def check_success(net: LinearNet, images: torch.Tensor, result: attacks.AttackResult) -> None:
    """Judge the images returned by the net alone, in the box, and measure their distances again."""
    found = torch.isfinite(result.distance) & (result.distance > 0)
    adversarial = result.adversarial[found]
    assert adversarial.dtype == torch.float32
    assert ((adversarial >= 0) & (adversarial <= 1)).all()
    assert (net(adversarial).argmax(1) == result.target[found]).all()
    distance = (adversarial.double() - images[found].double()).flatten(1).norm(dim=1)
    torch.testing.assert_close(result.distance[found], distance, rtol=1e-9, atol=1e-12)
    pixels = images[0].numel()
    torch.testing.assert_close(result.distortion[found], distance / pixels**0.5, rtol=1e-9, atol=1e-12)
    assert result.distance.dtype == torch.float64


def check_ratio(
    net: LinearNet,
    images: torch.Tensor,
    labels: torch.Tensor,
    targets: torch.Tensor,
    objective: str,
    least: float = 0.99,
) -> None:
    """Attack with these targets: found over optimal is at most 1.01 on 99% of images, and below 1 on none."""
    result = attacks.lbfgs(Model(net, box=(0, 1)), images, labels, target=targets, objective=objective)
    right = net(images).argmax(1) == labels
    assert right.any()
    assert (result.distance[~right] == 0).all()
    assert torch.equal(result.target[right], targets[right])
    check_success(net, images, result)
    rows = right.nonzero().flatten()
    exact = optima(net, images[rows], targets[rows])
    found = result.distance[rows].numpy()
    assert np.isinf(found[np.isinf(exact)]).all()
    reachable = np.isfinite(exact)
    assert np.isfinite(found[reachable]).all()
    ratio = found[reachable] / exact[reachable]
    below = exact * (1 - 1e-6) - blur(net, images[rows], targets[rows])
    assert (found >= below)[reachable].all()
    assert np.mean(ratio <= 1.01) >= least, f"worst {np.sort(ratio)[-5:]}"


@pytest.mark.parametrize("seed", range(3))
def test_hinge_is_optimal_on_random_nets(seed: int) -> None:
    images, _ = digits()
    images = images[seed::10][:COUNT]
    net = random_net(seed, 64, 10)
    labels = net(images).argmax(1)
    check_ratio(net, images, labels, wrong_classes(labels, 10, seed), "hinge")


@pytest.mark.parametrize("decay", [1e-4, 1e-2, 1.0])
def test_hinge_is_optimal_on_softmax_regression(decay: float) -> None:
    images, labels = digits()
    net = trained(images, labels, decay)
    images, labels = images[:COUNT], labels[:COUNT]
    check_ratio(net, images, labels, wrong_classes(labels, 10, 1), "hinge")


@pytest.mark.parametrize("objective", ["cross-entropy", "hinge"])
@pytest.mark.parametrize("decay", [1e-4, 1e-2])
def test_both_objectives_are_optimal_on_two_classes(objective: str, decay: float) -> None:
    images, labels = digits(2)
    net = trained(images, labels, decay)
    images, labels = images[:COUNT], labels[:COUNT]
    check_ratio(net, images, labels, 1 - labels, objective)


@pytest.mark.parametrize("objective", ["cross-entropy", "hinge"])
@pytest.mark.parametrize("seed", [0, 3])
def test_both_objectives_are_optimal_on_random_nets_of_two_classes(objective: str, seed: int) -> None:
    images, _ = digits()
    net = random_net(seed, 64, 2)
    labels = net(images[:COUNT]).argmax(1)
    check_ratio(net, images[:COUNT], labels, 1 - labels, objective)


def test_all_targets_give_the_nearest_of_all_classes() -> None:
    images, labels = digits()
    net = trained(images, labels, 1e-2)
    images, labels = images[:120], labels[:120]
    result = attacks.lbfgs(Model(net, box=(0, 1)), images, labels, target="all", objective="hinge")
    check_success(net, images, result)
    right = net(images).argmax(1) == labels
    exact = np.full(len(images), np.inf)
    for shift in range(1, 10):
        exact = np.minimum(exact, optima(net, images, (labels + shift) % 10))
    ratio = result.distance.numpy()[right] / exact[right]
    assert np.mean(ratio <= 1.01) >= 0.99
    assert (ratio >= 1 - 1e-5).all()


def test_cross_entropy_of_ten_classes_is_near_and_never_below() -> None:
    """Its penalty is not exact here, for the region of a class is no level set of the loss: up to 10% more."""
    images, labels = digits()
    net = trained(images, labels, 1e-2)
    images, labels = images[:COUNT], labels[:COUNT]
    targets = wrong_classes(labels, 10, 2)
    result = attacks.lbfgs(Model(net, box=(0, 1)), images, labels, target=targets)
    check_success(net, images, result)
    right = net(images).argmax(1) == labels
    exact = optima(net, images[right], targets[right])
    found = result.distance.numpy()[right]
    assert (found >= exact * (1 - 1e-6) - blur(net, images[right], targets[right])).all()
    assert np.median(found / exact) <= 1.1


class _CountRows(torch.autograd.Function):
    """Identity that tells how many rows pass forwards and backwards."""

    @staticmethod
    def forward(ctx: object, images: torch.Tensor, net: CountingNet) -> torch.Tensor:
        ctx.net, ctx.ids = net, net.ids(images)
        net.forwards.index_add_(0, ctx.ids, torch.ones_like(ctx.ids))
        return images.clone()

    @staticmethod
    def backward(ctx: object, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        ctx.net.backwards.index_add_(0, ctx.ids, torch.ones_like(ctx.ids))
        return gradient, None


class CountingNet(nn.Module):
    """A linear net blind to its first pixel, which names the image: no gradient ever moves that pixel."""

    def __init__(self, net: LinearNet, images: int) -> None:
        super().__init__()
        self.net, self.images = net, images
        with torch.no_grad():
            net.linear.weight[:, 0] = 0
        self.forwards = torch.zeros(images, dtype=torch.int64)
        self.backwards = torch.zeros(images, dtype=torch.int64)

    def ids(self, images: torch.Tensor) -> torch.Tensor:
        return (images.detach().flatten(1)[:, 0] * self.images).floor().long()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.net(_CountRows.apply(images, self))


@pytest.mark.parametrize("budget", [None, 4, 25, 120])
@pytest.mark.parametrize("target", ["random", "nearest", "top-3", "all"])
def test_passes_are_what_the_net_saw_and_never_above_the_budget(target: str, budget: int | None) -> None:
    images, labels = digits()
    net = trained(images, labels, 1e-2)
    images, labels = images[:40].clone(), labels[:40]
    images[:, 0, 0, 0] = (torch.arange(40) + 0.5) / 40
    counting = CountingNet(net, 40)
    result = attacks.lbfgs(
        Model(counting, box=(0, 1)),
        images,
        labels,
        target=target,
        objective="hinge",
        budget=budget,
        generator=torch.Generator().manual_seed(0),
    )
    assert torch.equal(result.forwards.cpu(), counting.forwards)
    assert torch.equal(result.backwards.cpu(), counting.backwards)
    if budget is not None:
        assert (counting.forwards + counting.backwards <= budget).all()
    check_success(net, images, result)


def mnist(folder: Path, split: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first `count` MNIST images (count, 1, 28, 28) in [0, 1], read without the library."""
    import io

    import pyarrow.parquet
    from PIL import Image

    rows = pyarrow.parquet.read_table(folder / "mnist" / f"{split}.parquet").slice(0, count).to_pylist()
    pictures = [np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))) for row in rows]
    images = torch.from_numpy(np.stack(pictures)).float()[:, None] / 255
    return images, torch.tensor([row["label"] for row in rows])


@pytest.mark.data
@pytest.mark.slow
def test_hinge_is_optimal_on_mnist(shared_data: Path) -> None:
    images, labels = mnist(shared_data, "train", 2_000)
    net = trained(images, labels, 1e-2)
    images, labels = images[:256], labels[:256]
    check_ratio(net, images, labels, wrong_classes(labels, 10, 3), "hinge")

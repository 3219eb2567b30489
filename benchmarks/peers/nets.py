"""The nets that the attacks are compared on, trained here from fixed seeds and kept in a cache.

    python benchmarks/peers/nets.py --nets mnist-standard mnist-linf --seconds 180

Training stops after `--seconds` and goes on from the last whole epoch when called again. An epoch draws its images
and starts from a generator of its own, so a net that was stopped and resumed equals one that was not. Data are read
from the folder INTRIGUING_DATA.

The robust nets are trained on the attack's own examples (Madry et al. 2018, equation 2.1):

- L2: projected gradient descent with a start drawn inside the ball;
- Linf: the fast gradient sign method from a random start (Wong, Rice and Kolter 2020, algorithm 3), their MNIST net,
  step 1.25 eps and one-cycle rate. DEVIATION: eps grows from 0 over the first steps.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from intriguing import data, rng
from intriguing.nets import zoo
from intriguing.nets.convolutional import convnet, drawn

CACHE = Path(__file__).parent / ".cache" / "nets"
BATCH = 100
_RAMP = 0.3  # of the steps, over which the radius of adversarial training grows; at once, small nets may give up


@dataclass(frozen=True)
class Recipe:
    """How one net is built and trained.

    Attributes:
        title: what a table calls it.
        data: the set's name.
        build: generator -> the fresh net.
        epochs: passes over the training images.
        rate: the peak of Adam's learning rate, which rises for two fifths of the steps and falls to 0.
        size: side in pixels that images are brought to; None leaves them.
        decay: weight decay.
        flip: half of the images are mirrored, and all moved by up to an eighth of their side.
        norm: of adversarial training, 2 or inf; None: clean images.
        eps: radius of adversarial training.
        steps: gradient steps of each training example.
        scale: the largest L2 distance that attacks which must be told one look at (the APGD authors' 5 for MNIST
            and 2.5 for CIFAR-10).
        batch: images attacked at once, so that an attack at the largest budget takes a few minutes at most.
    """

    title: str
    data: str
    build: Callable[[torch.Generator], nn.Module]
    epochs: int
    rate: float
    size: int | None = None
    decay: float = 0.0
    flip: bool = False
    norm: float | None = None
    eps: float = 0.0
    steps: int = 0
    scale: float = 5.0
    batch: int = 100

    def largest(self, norm: float) -> float:
        """Return `scale` in a norm, 1, 2 or inf: ten times as much in L1 and a fifth in Linf, beyond all examples."""
        return {1.0: 10.0, 2.0: 1.0, torch.inf: 0.2}[norm] * self.scale


def strided(shape: Sequence[int], classes: int, *, channels: Sequence[int], generator: torch.Generator) -> nn.Module:
    """Return convolutions of 4 x 4 with stride 2, then a hidden layer of 100 (the MNIST net of Wong et al. 2020)."""
    C, H, W = shape
    layers: list[nn.Module] = []
    with torch.device("meta"):
        for width in channels:
            layers += [nn.Conv2d(C, width, 4, stride=2, padding=1), nn.ReLU()]
            C, H, W = width, H // 2, W // 2
        layers += [nn.Flatten(), nn.Linear(C * H * W, 100), nn.ReLU(), nn.Linear(100, classes)]
        net = nn.Sequential(*layers)
    return drawn(net, generator)


_MNIST = (1, 28, 28)

NETS: dict[str, Recipe] = {
    "mnist-standard": Recipe(
        "MNIST, convolutional",
        "mnist",
        lambda g: convnet(_MNIST, 10, channels=(8, 16), hidden=100, generator=g),
        epochs=2,
        rate=3e-3,
    ),
    "mnist-linf": Recipe(
        "MNIST, convolutional, trained against Linf 0.3",
        "mnist",
        lambda g: strided(_MNIST, 10, channels=(16, 32), generator=g),
        epochs=8,
        rate=5e-3,
        norm=torch.inf,
        eps=0.3,
        steps=1,
    ),
    "mnist-l2": Recipe(
        "MNIST, convolutional, trained against L2 1.5",
        "mnist",
        lambda g: strided(_MNIST, 10, channels=(16, 32), generator=g),
        epochs=4,
        rate=3e-3,
        norm=2.0,
        eps=1.5,
        steps=3,
    ),
    "mnist-fc": Recipe(
        "MNIST, FC100-100-10",
        "mnist",
        lambda g: zoo.build("FC100-100-10", _MNIST, 10, generator=g),
        epochs=6,
        rate=3e-3,
        batch=200,
    ),
    "cifar": Recipe(
        "CIFAR-10 subset, convolutional",
        "cifar10_4k",
        lambda g: convnet((3, 32, 32), 10, channels=(16, 32), hidden=128, generator=g),
        epochs=30,
        rate=2e-3,
        decay=1e-3,
        flip=True,
        scale=2.5,
    ),
    "photographs": Recipe(
        "Photographs of groceries at 64 pixels, convolutional",
        "grocery",
        lambda g: strided((3, 64, 64), 20, channels=(16, 32, 48), generator=g),
        epochs=50,
        rate=2e-3,
        size=64,
        decay=1e-3,
        flip=True,
        scale=2.5,
    ),
}


# ------------------------------------------------------------------------------------------------ loading


def images_of(name: str, split: str) -> tuple[Tensor, Tensor]:
    """Return images (N, C, H, W) in [0, 1] and labels (N,) of one split of a net's data."""
    found = data.load(NETS[name].data, split, size=NETS[name].size)
    return found.images, found.labels


def fresh(name: str) -> nn.Module:
    """Return the net before training."""
    return NETS[name].build(rng.generator(f"peers/{name}/weights", 0))


def load(name: str, folder: Path = CACHE) -> nn.Module:
    """Return a trained net, frozen and in evaluation mode.

    Raises:
        FileNotFoundError: it has not been trained; the message names the command.
    """
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; train it with: python benchmarks/peers/nets.py --nets {name}")
    net = fresh(name)
    net.load_state_dict(load_file(path))
    return net.eval().requires_grad_(False)


def facts(name: str, folder: Path = CACHE) -> dict[str, Any]:
    """Return what was measured on a trained net: accuracy, also under attack, and CPU seconds of training."""
    return dict(json.loads((folder / f"{name}.json").read_text()))


def sample(name: str, net: nn.Module, count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return `count` test images that the net gets right, their labels and their rows in the test split.

    The order is drawn from the seed, so that the first 50 of 200 are the 50 of a shorter run.
    """
    images, labels = images_of(name, "test")
    order = torch.randperm(len(labels), generator=rng.generator(f"peers/{name}/sample", seed))
    right = order[answers(net, images[order]) == labels[order]][:count]
    if len(right) < count:
        raise ValueError(f"images: {name} gets only {len(right)} test images right, {count} were asked for")
    return images[right], labels[right], right


@torch.no_grad()
def answers(net: nn.Module, images: Tensor) -> Tensor:
    """Return the classes (N,) that a net gives."""
    return torch.cat([net(part).argmax(1) for part in images.split(500)])


# ----------------------------------------------------------------------------------------------- training


def pgd(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: float,
    eps: float,
    steps: int,
    step: float,
    generator: torch.Generator,
) -> Tensor:
    """Return examples (N, ...) by projected gradient ascent on the cross-entropy from a start drawn in the ball."""
    if norm == 2:
        r = torch.randn(images.shape, generator=generator)
        r *= eps * _per_image(torch.rand(len(images), generator=generator) / r.flatten(1).norm(dim=1), r)
    else:
        r = (2 * torch.rand(images.shape, generator=generator) - 1) * eps
    for _ in range(steps):
        # Not clamped, as in the code of Wong et al.: on digits half of the random start would be lost at black pixels.
        x = (images + r).requires_grad_(True)
        loss = functional.cross_entropy(net(x), labels, reduction="sum")
        gradient = torch.autograd.grad(loss, x)[0]
        if norm == 2:
            gradient /= _per_image(gradient.flatten(1).norm(dim=1).clamp(min=1e-12), gradient)
            r += step * gradient
            r *= _per_image((eps / r.flatten(1).norm(dim=1).clamp(min=1e-12)).clamp(max=1), r)
        else:
            r = (r + step * gradient.sign()).clamp(-eps, eps)
    return (images + r).clamp(0, 1)


def train(name: str, seconds: float = float("inf"), folder: Path = CACHE) -> bool:
    """Train a net for at most `seconds`, whole epochs; return whether it is done. What was done before counts."""
    recipe, done = NETS[name], folder / f"{name}.json"
    if done.is_file():
        return True
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    begun, begun_here = time.process_time(), time.monotonic()
    net, images, labels = fresh(name), *images_of(name, "train")
    optimiser = torch.optim.Adam(net.parameters(), lr=recipe.rate, weight_decay=recipe.decay)
    first, spent, checkpoint = 0, 0.0, folder / f"{name}.part"
    best: dict[str, Any] = {"robust": -1.0}
    if checkpoint.is_file():
        kept = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(kept["net"])
        optimiser.load_state_dict(kept["optimiser"])
        first, spent, best = kept["epoch"], kept["seconds"], kept["best"]
    for epoch in range(first, recipe.epochs):
        _epoch(name, recipe, epoch, net, optimiser, images, labels)
        robust = _robust(name, recipe, net, images[:500], labels[:500], steps=10) if recipe.norm is not None else 1.0
        # Single-step training may collapse within an epoch (Wong et al., section 5.4): the best epoch is kept. Without
        # an attack all count alike, and the last one is.
        if robust >= best["robust"]:
            best = {"robust": robust, "net": {key: value.clone() for key, value in net.state_dict().items()}}
        used = time.process_time() - begun
        kept = {"net": net.state_dict(), "optimiser": optimiser.state_dict(), "epoch": epoch + 1, "best": best}
        torch.save(kept | {"seconds": spent + used}, checkpoint)
        told = f", {robust:.1%} under PGD" if recipe.norm is not None else ""
        print(f"{name}: epoch {epoch + 1} of {recipe.epochs}, {spent + used:.0f} s{told}", flush=True)
        if (time.monotonic() - begun_here) * (1 + 1 / (epoch + 1 - first)) > seconds and epoch + 1 < recipe.epochs:
            return False
    net.load_state_dict(best["net"])
    save_file(net.state_dict(), folder / f"{name}.safetensors")
    measured = _measure(name, net.eval().requires_grad_(False))
    settings = {key: value for key, value in asdict(recipe).items() if key != "build"}
    measured = {**measured, "seconds": round(spent + time.process_time() - begun), "recipe": settings}
    done.write_text(json.dumps(measured, indent=1) + "\n")
    checkpoint.unlink(missing_ok=True)
    print(f"{name}: {json.dumps(measured)}", flush=True)
    return True


def _epoch(
    name: str,
    recipe: Recipe,
    epoch: int,
    net: nn.Module,
    optimiser: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
) -> None:
    generator = rng.generator(f"peers/{name}/epoch-{epoch}", 0)
    batches = torch.randperm(len(labels), generator=generator).split(BATCH)
    net.train()
    for number, rows in enumerate(batches):
        share = (epoch + number / len(batches)) / recipe.epochs
        optimiser.param_groups[0]["lr"] = recipe.rate * min(share / 0.4, (1 - share) / 0.6)
        x, y = images[rows], labels[rows]
        if recipe.flip:
            x = _moved(x, generator)
        if recipe.norm is not None:
            # 1.25 eps in one step (Wong et al. 2020); with several, enough to cross the ball twice over.
            eps = recipe.eps * min(1.0, (epoch * len(batches) + number + 1) / (_RAMP * recipe.epochs * len(batches)))
            step = 1.25 * eps if recipe.steps == 1 else 2 * eps / recipe.steps
            x = pgd(net, x, y, norm=recipe.norm, eps=eps, steps=recipe.steps, step=step, generator=generator)
        optimiser.zero_grad()
        functional.cross_entropy(net(x), y).backward()
        optimiser.step()


def _moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the images and move each by up to an eighth of its side, its edges repeated."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(_per_image(mirrored, images), images.flip(3), images)
    side = images.shape[2]
    most = side // 8
    padded = functional.pad(images, (most,) * 4, mode="replicate")
    corners = torch.randint(2 * most + 1, (len(images), 2), generator=generator).tolist()
    return torch.stack([p[:, i : i + side, j : j + side] for p, (i, j) in zip(padded, corners, strict=True)])


def _measure(name: str, net: nn.Module) -> Mapping[str, Any]:
    """Return accuracy on the test images, and for a robust net that under 20 steps of PGD, two random starts."""
    recipe = NETS[name]
    images, labels = images_of(name, "test")
    right = answers(net, images) == labels
    measured = {"accuracy": float(right.float().mean())}
    if recipe.norm is not None:
        measured["pgd_20_accuracy"] = _robust(name, recipe, net, images[:1000], labels[:1000], steps=20)
    return measured


def _robust(name: str, recipe: Recipe, net: nn.Module, images: Tensor, labels: Tensor, *, steps: int) -> float:
    """Return the accuracy under PGD at the recipe's radius, the worst of two random starts."""
    robust = torch.ones(len(labels), dtype=torch.bool)
    for start in range(2):
        generator = rng.generator(f"peers/{name}/pgd-{start}", 0)
        norm, eps = recipe.norm or torch.inf, recipe.eps
        x = pgd(net, images, labels, norm=norm, eps=eps, steps=steps, step=2.5 * eps / steps, generator=generator)
        robust &= answers(net, x) == labels
    return float(robust.float().mean())


def _per_image(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.dim() - 1))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the benchmark's nets, or go on with their training.")
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS), metavar="NET")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this long; call again to go on")
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    for name in arguments.nets:
        if not train(name, end - time.monotonic()):
            print(f"{name}: not done; call again to go on")
            break


if __name__ == "__main__":
    main()

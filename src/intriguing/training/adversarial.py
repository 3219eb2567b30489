"""Training on adversarial examples made afresh for every batch: FGSM and PGD, in L2 and Linf.

    minimise over the weights    a J(x, y) + (1 - a) J(x + r(x), y),   r within eps                      (1)

- `"fgsm-mixture"`: r is one step of size eps from the image, a = 1/2 (Goodfellow, Shlens and Szegedy, ICLR 2015,
  section 6). With ``clean=0`` it is FGSM training in the sense of Madry et al., which learns to defeat FGSM alone.
- `"fgsm"`: a = 0, one step of 1.25 eps from a random point of the ball (Wong, Rice and Kolter, ICLR 2020, algorithm 3).
- `"pgd"`: a = 0, several steps from a random point (Madry et al., ICLR 2018, section 2.1; they take 40 on MNIST).
- `"none"`: a = 1, the control.

J is the cross-entropy. The net is `nets.convolutional.convnet`, its weights moved by Adam.

DEVIATION: eps grows linearly from 0 over the first part of the steps (``ramp``). Without it small nets may answer one
class for all images at eps = 0.3 and never leave that.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own abbreviation)

from intriguing import rng
from intriguing.attacks.ball import Ball
from intriguing.attacks.problem import check_labels
from intriguing.attacks.result import check_norm
from intriguing.errors import DataError, InputError, UnknownNameError
from intriguing.floating import denormals_flushed
from intriguing.nets.convolutional import convnet
from intriguing.nets.load import Model
from intriguing.records import Images, Inputs, Record
from intriguing.training import loops, sigmoid
from intriguing.training.convolutional import RECIPES

NET = "ConvNet"

DEFENCES: dict[str, dict[str, Any]] = {
    "none": {"clean": 1.0, "attack_steps": 0, "reach": 0.0, "random_start": False},
    "fgsm-mixture": {"clean": 0.5, "attack_steps": 1, "reach": 1.0, "random_start": False},
    "fgsm": {"clean": 0.0, "attack_steps": 1, "reach": 1.25, "random_start": True},
    "pgd": {"clean": 0.0, "attack_steps": 7, "reach": 2.5, "random_start": True},
}
"""How examples are made. ``clean`` is a in (1), ``attack_steps`` how many steps r takes, ``reach`` the length of all of
them together in units of eps, and ``random_start`` whether they start at a random point of the ball."""

RECIPE: dict[str, Any] = {
    "channels": RECIPES[NET]["channels"],
    "hidden": RECIPES[NET]["hidden"],
    "epochs": 1,
    "steps": 600,
    "batch": 100,
    "rate": 3e-3,
    "decay": 0.0,
    "ramp": 0.3,
}
"""Default settings. ``epochs`` passes over the training images, more until at least ``steps`` steps are made; ``ramp``
is the share of the steps over which eps grows."""


def train(
    inputs: Inputs,
    *,
    defence: str,
    eps: float,
    norm: float | str = "inf",
    seed: int,
    data: str = "",
    learn: str = "train",
    **hyper: Any,
) -> Record:
    """Train a ConvNet on adversarial examples; a cell function.

    The result depends on the images and the settings alone; the global random state is neither read nor changed.

    Args:
        inputs: ``data(data + learn)`` is learnt, ``data(data + "test")`` only measured; both (N, C, H, W) in [0, 1].
        defence: a key of `DEFENCES`.
        eps: largest size of the changes, in pixel units; not used by ``"none"``.
        norm: inf (also as ``"inf"``, which a file of settings can hold) or 2.
        seed: decides the initial weights, the order of images and the random starts.
        data: prefix of the splits.
        learn: the split that is learnt.
        **hyper: replaces entries of `RECIPE` or of ``DEFENCES[defence]``.

    Returns:
        A record that `training.convolutional.restore` and `model` take. ``values`` holds ``train_error`` and
        ``test_error`` on clean images (fractions), ``loss`` (mean of (1) over the last tenth of the steps),
        ``defence``, ``eps``, ``norm``, ``steps``, ``epochs``, ``recipe`` (every setting used), ``seconds`` and what
        `restore` needs.

    Raises:
        UnknownNameError: no such defence.
        InputError: a setting that is unknown or out of range.
        DataError: labels that do not fit the images or the classes.

    Example:
        record = train(inputs, defence="fgsm", eps=0.3, seed=0)
        convolutional.model(record).predict(images)
    """
    started = time.perf_counter()
    recipe = _settings(defence, hyper)
    norm = check_norm(float(norm))
    if not eps > 0:
        raise InputError(f"eps: expected a number above 0, got {eps!r}")
    train_set, test_set = _checked(inputs.data(data + learn), learn), _checked(inputs.data(data + "test"), "test")
    shape, classes = tuple(train_set.images.shape[1:]), len(train_set.classes)
    generator = rng.generator(f"train/{NET}/adversarial", seed)
    first, second = recipe["channels"]
    module = convnet(shape, classes, channels=(first, second), hidden=recipe["hidden"], generator=generator)
    module.to(inputs.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs
    mean = train_set.images.mean(dim=(0, 2, 3), dtype=torch.float64)
    std = max(float(train_set.images.std()), 1e-6)  # images of one grey are left as they are
    whole = Model(module, mean=mean, std=std, name=NET)
    x, labels = train_set.images.to(inputs.device), train_set.labels.to(inputs.device)
    with denormals_flushed():
        epochs, loss = _learn(whole, x, labels, recipe, eps, norm, generator, inputs.progress)
    module.requires_grad_(False).eval()
    values = {
        "net": NET,
        "seed": seed,
        "defence": defence,
        "eps": eps,
        "norm": norm,
        "train_error": _error(whole, train_set),
        "test_error": _error(whole, test_set),
        "n_train": len(labels),
        "n_test": len(test_set.labels),
        "loss": loss,
        "steps": epochs * math.ceil(len(labels) / recipe["batch"]),
        "epochs": epochs,
        "mean": mean.tolist(),
        "std": std,
        "shape": list(shape),
        "classes": classes,
        "recipe": recipe,
        "seconds": time.perf_counter() - started,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    return Record(values=values, tensors=tensors)


def train_sigmoid(
    inputs: Inputs,
    *,
    net: str = "FC100-100-10",
    defence: str,
    eps: float,
    norm: float | str = 2,
    seed: int,
    learn: str = "train",
    **hyper: Any,
) -> Record:
    """Train a net of sigmoid layers by (1); a cell function.

    The initial weights and the order of images are those of `recipes.train` with the same seed.

    Args:
        inputs: ``data(learn)`` is learnt, ``data("test")`` only measured.
        net: a key of `nets.NETS` whose recipe is ``"sigmoid"``.
        defence: a key of `DEFENCES`.
        eps: largest size of the changes, in pixel units; not used by ``"none"``.
        norm: 2 or inf (also as ``"inf"``, which a file of settings can hold).
        seed: decides the initial weights, the order of images and the random starts.
        learn: the split that is learnt.
        **hyper: replaces entries of `RECIPE` or of ``DEFENCES[defence]``; those of a ConvNet's size have no effect.

    Returns:
        The record of `sigmoid.finish`, with ``defence``, ``eps``, ``norm``, ``loss``, ``epochs`` and ``recipe``.

    Raises:
        UnknownNameError: no such net or defence.
        InputError: a net without hidden layers of sigmoid units, or a setting that is unknown or out of range.

    Example:
        record = train_sigmoid(inputs, defence="pgd", eps=1.5, seed=0)
        record.values["test_error"]
    """
    recipe = _settings(defence, hyper)
    norm = check_norm(float(norm))
    if not eps > 0:
        raise InputError(f"eps: expected a number above 0, got {eps!r}")
    training = sigmoid.begin(inputs, net, seed, learn)
    whole = Model(training.module, name=net)
    with denormals_flushed():
        epochs, loss = _learn(
            whole, training.x, training.labels, recipe, eps, norm, training.generator, inputs.progress
        )
    values = {"defence": defence, "eps": eps, "norm": norm, "loss": loss, "epochs": epochs, "recipe": recipe}
    return sigmoid.finish(inputs, training, values)


def perturbed(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: float,
    steps: int,
    step: float,
    generator: torch.Generator | None,
) -> Tensor:
    """Return images after steps that raise the cross-entropy, whether or not the net is right about them.

    The inner maximisation of (1). Unlike the attacks it does not stop at the first mistake: the loss itself is wanted.

    Args:
        model: in whatever mode it is.
        images: (B, ...) in its box.
        labels: (B,) int64.
        eps: largest size of the change, in pixel units.
        norm: inf, 2 or 1.
        steps: how many.
        step: length of each, in pixel units.
        generator: draws random starts in the ball; None starts at the images.

    Returns:
        (B, ...) in the ball and the box, without a gradient.

    Example:
        >>> harder = perturbed(model, x, y, eps=0.3, norm=math.inf, steps=1, step=0.3, generator=None)
    """
    ball = Ball(images.flatten(1), eps, norm, model.box, images.dtype)
    every = torch.arange(len(images), device=images.device)
    clean = images.flatten(1)
    x = clean if generator is None else ball.random(rng.Streams(generator, images), every, draw=0)
    for _ in range(steps):
        point = x.detach().requires_grad_(True)
        loss = F.cross_entropy(model(point.view_as(images)), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, point)
        x = ball.project(x + step * ball.ascent(gradient), every)
    return x.detach().view_as(images)


def _learn(
    model: Model,
    x: Tensor,
    labels: Tensor,
    recipe: Mapping[str, Any],
    eps: float,
    norm: float,
    generator: torch.Generator,
    progress: Callable[[float, float], None],
) -> tuple[int, float]:
    """Train the net in place; return the passes over the images, and the mean loss at the end."""
    batch = recipe["batch"]
    per_epoch = math.ceil(len(x) / batch)
    epochs: int = max(recipe["epochs"], math.ceil(recipe["steps"] / per_epoch))
    total = epochs * per_epoch
    losses: list[float] = []

    def objective(indices: Tensor) -> Tensor:
        images, truth = x[indices], labels[indices]
        now = eps * min(1.0, (len(losses) + 1) / max(1.0, recipe["ramp"] * total))
        loss = x.new_zeros(())
        if recipe["clean"]:
            loss = recipe["clean"] * F.cross_entropy(model(images), truth)
        if recipe["clean"] < 1:
            moved = perturbed(
                model,
                images,
                truth,
                eps=now,
                norm=norm,
                steps=recipe["attack_steps"],
                step=recipe["reach"] * now / max(1, recipe["attack_steps"]),
                generator=generator if recipe["random_start"] else None,
            )
            loss = loss + (1 - recipe["clean"]) * F.cross_entropy(model(moved), truth)
        losses.append(loss.item())
        if len(losses) % 20 == 0:
            progress(len(losses), total)
        return loss

    assert isinstance(model.net, nn.Module)
    weights = [weight for weight in model.net.parameters() if weight.ndim > 1]
    others = [weight for weight in model.net.parameters() if weight.ndim <= 1]
    groups: list[dict[str, object]] = [
        {"params": weights, "weight_decay": recipe["decay"]},
        {"params": others, "weight_decay": 0.0},
    ]
    loops.descend(groups, objective, len(x), epochs=epochs, batch=batch, rate=recipe["rate"], generator=generator)
    last = losses[-max(1, total // 10) :]
    return epochs, sum(last) / len(last)


def _settings(defence: str, hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings with the caller's changes, checked."""
    if defence not in DEFENCES:
        raise UnknownNameError("defence", defence, DEFENCES)
    recipe = {**RECIPE, **DEFENCES[defence]}
    for name, value in hyper.items():
        if name not in recipe:
            raise InputError(f"{defence} has no setting {name!r}; its recipe knows {', '.join(sorted(recipe))}")
        recipe[name] = value
    for name in ("epochs", "batch", "rate", "hidden"):
        if not recipe[name] > 0:
            raise InputError(f"{name} must be positive, got {recipe[name]!r}")
    for name in ("steps", "decay", "attack_steps", "reach"):
        if not recipe[name] >= 0:
            raise InputError(f"{name} must be at least 0, got {recipe[name]!r}")
    for name in ("clean", "ramp"):
        if not 0 <= recipe[name] <= 1:
            raise InputError(f"{name} must be a share in [0, 1], got {recipe[name]!r}")
    if recipe["clean"] < 1 and not recipe["attack_steps"] and not recipe["random_start"]:
        raise InputError(f"{defence}: with neither steps nor a random start no image is changed; use 'none'")
    return recipe


def _checked(images: Images, split: str) -> Images:
    """Return the set if a net can be trained or measured on it."""
    if not len(images.images) or images.images.ndim != 4:
        raise DataError(f"the {split} set must hold images (N, C, H, W), got shape {tuple(images.images.shape)}")
    check_labels(images.labels, len(images.images), len(images.classes))
    return images


def _error(model: Model, images: Images) -> float:
    """Return the share of images whose largest logit is not their label."""
    device = model.device
    pairs = zip(torch.split(images.images, 1000), torch.split(images.labels, 1000), strict=True)
    wrong = sum(int((model.predict(x.to(device)).cpu() != y).sum()) for x, y in pairs)
    return wrong / len(images.labels)

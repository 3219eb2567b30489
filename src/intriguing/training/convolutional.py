"""Training the convolutional nets: the small ConvNet on digits, AlexNet at reduced width on photographs.

Both learn by Adam on varied images (moved, scaled and turned a little; mirrored and recoloured where they are in
colour), with a learning rate that rises over the first tenth of the steps and then falls as a cosine. Images stay
resident as tensors. AlexNet computes in bfloat16 where the processor has wide vectors: half the time, measured.
The weights stay in float32, and every number in a record is measured in float32.
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
from intriguing.errors import DataError, InputError, ModelError, UnknownNameError
from intriguing.floating import denormals_flushed
from intriguing.nets.alexnet import Dropout, alexnet
from intriguing.nets.convolutional import convnet
from intriguing.nets.load import Model
from intriguing.records import Images, Inputs, Record
from intriguing.training import loops

RECIPES: dict[str, dict[str, Any]] = {
    "ConvNet": {
        "channels": [16, 32],
        "hidden": 128,
        "epochs": 4,
        "steps": 600,
        "batch": 100,
        "rate": 3e-3,
        "decay": 0.0,
        "zoom": 0.9,
        "turn": 10.0,
        "shift": 0.07,
        "mirror": False,
        "colour": 0.0,
        "half": False,
    },
    "AlexNet": {
        "variant": "ungrouped",
        "width": 0.25,
        "dense": 0.25,
        "dropout": 0.5,
        "epochs": 1,
        "steps": None,
        "batch": 32,
        "rate": 1e-3,
        "decay": 1e-4,
        "zoom": 0.6,
        "turn": 15.0,
        "shift": 0.05,
        "mirror": None,
        "colour": None,
        "half": None,
    },
}
"""Default settings by net.

``epochs`` is raised until at least ``steps`` steps are made, for small sets; 0 steps leave the net untrained. ``zoom``
is the smallest share of an image's side that is shown, ``turn`` the largest angle in degrees, ``shift`` the largest
shift as a share of the side, ``mirror`` whether left and right are exchanged for half of the images, ``colour`` the
largest relative change of each channel's brightness and of the contrast. None: images of three channels are taken for
photographs, which are mirrored and recoloured (by 0.3) and learnt in 2,000 steps; others are not, and in 400 steps.
``half``: compute in bfloat16; None: where the processor has wide vectors.
"""
_OPEN: dict[str, tuple[Any, Any]] = {"steps": (2000, 400), "mirror": (True, False), "colour": (0.3, 0.0)}


def train(inputs: Inputs, *, net: str, seed: int, data: str = "", learn: str = "train", **hyper: Any) -> Record:
    """Train a convolutional net; the cell function of every one, and of its untrained twin (``steps=0``).

    The result depends on the images, `net`, `seed` and `hyper` alone; the global random state is neither read nor
    changed. On one thread it repeats bit for bit.

    Args:
        inputs: ``data(data + learn)`` is learnt, ``data(data + "test")`` only measured; both (N, C, H, W) in [0, 1].
        net: ``"ConvNet"`` or ``"AlexNet"``.
        seed: decides the initial weights, the order of images and how they are varied.
        data: prefix of the splits, ``""`` or ``"photographs/"``.
        learn: the split that is learnt: ``"train"``, or one of its halves ``"P1"`` and ``"P2"``.
        **hyper: replaces entries of ``RECIPES[net]``.

    Returns:
        A record, from which `restore` and `model` make the net again. ``tensors`` is its state dict. ``values``
        holds ``train_error`` and ``test_error`` (fractions), ``n_train``, ``n_test``, ``loss`` (mean cross-entropy
        on the training images), ``steps``, ``epochs`` (passes over the training images), ``mean`` (per channel) and
        ``std`` (one number) of the training pixels, which the net expects to be subtracted and divided by, ``shape``,
        ``classes``, ``recipe`` (every setting used) and ``seconds``.

    Raises:
        UnknownNameError: no such net.
        InputError: a setting that the net's recipe does not have, or out of range; images the net cannot take.
        DataError: labels that do not fit the classes, images that do not fit the labels, or no images.

    Example:
        record = train(inputs, net="AlexNet", seed=0, data="photographs/", width=0.25)
        model(record).predict(images)
    """
    started = time.perf_counter()
    train_set, test_set = _checked(inputs.data(data + learn), learn), _checked(inputs.data(data + "test"), "test")
    shape, classes = tuple(train_set.images.shape[1:]), len(train_set.classes)
    recipe = _settings(net, shape[0], hyper)
    generator = rng.generator(f"train/{net}", seed)
    module = _placed(_build(net, shape, classes, recipe, generator), inputs.device)
    mean, std = _statistics(train_set.images)
    x, labels = _normalised(train_set, mean, std, inputs.device)
    with denormals_flushed():
        epochs = _learn(module, x, labels, recipe, generator, inputs.progress) if recipe["steps"] else 0
        module.requires_grad_(False).eval()
        train_error, loss = _measured(module, x, labels)
        test_error, _ = _measured(module, *_normalised(test_set, mean, std, inputs.device))
    values = {
        "net": net,
        "seed": seed,
        "train_error": train_error,
        "test_error": test_error,
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


def restore(record: Record) -> nn.Sequential:
    """Return the net of a record, in evaluation mode, on the CPU; its inputs are (pixels - mean) / std.

    Args:
        record: what `train` returned; it alone is enough.

    Raises:
        ModelError: the record's weights do not fit the net it names.

    Example:
        module = restore(record)
    """
    values = record.values
    shape, recipe = tuple(values["shape"]), values["recipe"]
    module = _build(values["net"], shape, values["classes"], recipe, rng.generator("unused", 0))
    try:
        module.load_state_dict(dict(record.tensors))
    except RuntimeError as error:
        kept = {name: tuple(tensor.shape) for name, tensor in record.tensors.items()}
        raise ModelError(
            f"the stored weights {kept} do not fit {values['net']} for images {shape} and {values['classes']} "
            "classes; train the net again."
        ) from error
    return module.requires_grad_(False).eval()


def model(record: Record, device: torch.device | str = "cpu") -> Model:
    """Return the net of a record as a `Model` of pixels in [0, 1], its normalisation inside, on `device`.

    Example:
        answers = model(record).predict(images)
    """
    values = record.values
    return Model(_placed(restore(record), device), mean=values["mean"], std=values["std"], name=values["net"])


def _build(
    net: str, shape: tuple[int, ...], classes: int, recipe: Mapping[str, Any], generator: torch.Generator
) -> nn.Sequential:
    if net == "ConvNet":
        first, second = recipe["channels"]
        return convnet(shape, classes, channels=(first, second), hidden=recipe["hidden"], generator=generator)
    names = ("width", "dense", "variant", "dropout")
    return alexnet(shape, classes, generator=generator, **{name: recipe[name] for name in names})


def _placed(module: nn.Sequential, device: torch.device | str) -> nn.Sequential:
    """Return the net on `device`, with its kernels in the order of memory that convolutions like best."""
    return module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]  # stubs


def _learn(
    module: nn.Sequential,
    x: Tensor,
    labels: Tensor,
    recipe: Mapping[str, Any],
    generator: torch.Generator,
    progress: Callable[[float, float], None],
) -> int:
    """Train the net in place; return the passes over the images that were made."""
    batch = recipe["batch"]
    per_epoch = math.ceil(len(x) / batch)
    epochs: int = max(recipe["epochs"], math.ceil(recipe["steps"] / per_epoch))
    dropouts = [layer for layer in module.modules() if isinstance(layer, Dropout)]
    for layer in dropouts:
        layer.generator = generator
    step = 0

    def objective(indices: Tensor) -> Tensor:
        nonlocal step
        step += 1
        if step % 20 == 0:
            progress(step, epochs * per_epoch)
        images = varied(x[indices], recipe, generator)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=recipe["half"]):
            logits = module(images)
        return F.cross_entropy(logits.float(), labels[indices])

    weights = [weight for weight in module.parameters() if weight.ndim > 1]
    others = [weight for weight in module.parameters() if weight.ndim <= 1]
    groups: list[dict[str, object]] = [
        {"params": weights, "weight_decay": recipe["decay"]},
        {"params": others, "weight_decay": 0.0},
    ]
    loops.descend(groups, objective, len(x), epochs=epochs, batch=batch, rate=recipe["rate"], generator=generator)
    for layer in dropouts:
        layer.generator = None
    return epochs


def varied(images: Tensor, recipe: Mapping[str, Any], generator: torch.Generator) -> Tensor:
    """Return images seen from a little nearer, shifted, turned, mirrored and recoloured, each in its own way.

    Args:
        images: (B, C, H, W), of mean 0 and standard deviation 1.
        recipe: ``zoom``, ``turn``, ``shift``, ``mirror`` and ``colour``; see `RECIPES`.
        generator: on the CPU.
    """
    B, C = images.shape[:2]
    draw = torch.rand(B, 6 + C, generator=generator)
    signed = 2 * draw - 1
    zoom = recipe["zoom"] + (1 - recipe["zoom"]) * draw[:, 0]
    angle = signed[:, 1] * math.radians(recipe["turn"])
    flip = torch.where(draw[:, 2] < 0.5, -1.0, 1.0) if recipe["mirror"] else torch.ones(B)
    # Half an image is 1 in the grid's units. What the zoom leaves out may lie on any side.
    room = (1 - zoom) + 2 * recipe["shift"]
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    rows = [torch.stack((cos * flip, -sin, signed[:, 3] * room), 1)]
    rows.append(torch.stack((sin * flip, cos, signed[:, 4] * room), 1))
    theta = torch.stack(rows, 1).to(images)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    if recipe["colour"]:
        contrast = (1 + recipe["colour"] * signed[:, 5]).to(images).view(B, 1, 1, 1)
        moved = moved * contrast + (recipe["colour"] * signed[:, 6:]).to(images).view(B, C, 1, 1)
    return moved.contiguous(memory_format=torch.channels_last)


def _settings(net: str, channels: int, hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe's settings with the caller's changes, checked, nothing left open."""
    if net not in RECIPES:
        raise UnknownNameError("convolutional net", net, RECIPES)
    recipe = dict(RECIPES[net])
    for name, value in hyper.items():
        if name not in recipe:
            raise InputError(f"{net} has no setting {name!r}; its recipe knows {', '.join(sorted(recipe))}")
        recipe[name] = value
    for name, (photographs, others) in _OPEN.items():
        if recipe[name] is None:
            recipe[name] = photographs if channels == 3 else others
    if recipe["half"] is None:
        recipe["half"] = torch.backends.cpu.get_cpu_capability() == "AVX512"
    if not 0 < recipe["zoom"] <= 1:
        raise InputError(f"zoom must lie in (0, 1], got {recipe['zoom']!r}")
    for name in ("epochs", "batch", "rate"):
        if not recipe[name] > 0:
            raise InputError(f"{name} must be positive, got {recipe[name]!r}")
    for name in ("steps", "decay", "turn", "shift", "colour"):
        if not recipe[name] >= 0:
            raise InputError(f"{name} must be at least 0, got {recipe[name]!r}")
    return recipe


def _checked(images: Images, split: str) -> Images:
    """Return the set if a net can be trained or measured on it."""
    labels, classes = images.labels, len(images.classes)
    if not len(labels) or len(labels) != len(images.images) or images.images.ndim != 4:
        raise DataError(
            f"the {split} set must hold images (N, C, H, W), at least one, and a label for each, got images "
            f"{tuple(images.images.shape)} and {len(labels)} labels"
        )
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise DataError(
            f"labels of the {split} set must lie in 0..{classes - 1}, one per class name, but go from "
            f"{int(labels.min())} to {int(labels.max())}"
        )
    return images


def _statistics(images: Tensor) -> tuple[Tensor, float]:
    """Return the mean of each channel (C,) float64 and the one standard deviation of all pixels around these."""
    mean = images.mean(dim=(0, 2, 3), dtype=torch.float64)
    # In parts: whole in float64, a large set would take twice its memory.
    parts = (part.double() - mean.view(1, -1, 1, 1) for part in torch.split(images, 500))
    squares = sum(float(part.square().sum()) for part in parts)
    return mean, max(math.sqrt(squares / images.numel()), 1e-6)  # images of one grey are left as they are


def _normalised(images: Images, mean: Tensor, std: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return normalised images (N, C, H, W) float32 and labels (N,), resident on the device."""
    x = (images.images - mean.float().view(1, -1, 1, 1)) / std
    return x.to(device).contiguous(memory_format=torch.channels_last), images.labels.to(device)


@torch.no_grad()
def _measured(module: nn.Module, x: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the share of images whose largest logit is not their label, and the mean cross-entropy."""
    wrong, loss = 0, 0.0
    for part, target in zip(torch.split(x, 500), torch.split(labels, 500), strict=True):
        logits = module(part)
        wrong += int((logits.argmax(dim=1) != target).sum())
        loss += float(F.cross_entropy(logits, target, reduction="sum"))
    return wrong / len(labels), loss / len(labels)

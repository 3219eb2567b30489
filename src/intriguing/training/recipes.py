"""One recipe per kind of net of Szegedy et al. 2014, and `train`, the cell that runs them.

===========  ============================================================================================
convex       FC10(lambda): L-BFGS over all images to a gradient tolerance, from zero (D12). No seed enters.
sigmoid      FC100-100-10 and its like: Adam until no training image is wrong (D12), lambda by layer.
autoencoder  AE400-10: features by a sparse autoencoder without labels (D14), then frozen; a softmax on top.
===========  ============================================================================================

The paper names no optimiser. Ours were chosen on MNIST for speed and for the errors of Table 1.
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
from intriguing.nets.zoo import NETS, NetSpec, build
from intriguing.records import Images, Inputs, Record
from intriguing.training import loops, objectives, sigmoid

RECIPES: dict[str, dict[str, Any]] = {
    "convex": {"tolerance": 1e-6, "max_evaluations": 1000},
    "sigmoid": {"epochs": 20, "batch": 200, "rate": 0.01, "steps": 1000},
    "autoencoder": {
        "sparsity": "kl",
        "sparsity_weight": None,
        "target": 0.05,
        "feature_decay": 3e-3,
        "epochs": 10,
        "batch": 500,
        "rate": 0.01,
        "steps": 900,
        "tolerance": 2e-6,
        "max_evaluations": 300,
    },
}
"""Default settings by recipe. `epochs` is raised until at least `steps` steps are made, for small sets.

DEVIATION: `feature_decay` is the weight decay (lambda / 2) sum w^2 of the autoencoder's own two matrices, of which
the paper says nothing. Without it the features grow steep: measured on MNIST with the KL penalty, test error 3.9%
and mean minimal distortion 0.027; with it 2.9% and 0.083; printed 1.9% and 0.086.
"""

_SPARSITY_WEIGHTS = {"kl": 3.0, "l1": 0.1, "none": 0.0}  # kl: D14; l1: chosen on MNIST


def train(inputs: Inputs, *, net: str, seed: int, learn: str = "train", **hyper: Any) -> Record:
    """Train one of the paper's nets; the cell function of every trained net.

    The result depends on the images, `net`, `seed` and `hyper` alone; the global random state is neither read
    nor changed. On one thread it repeats bit for bit.

    Args:
        inputs: ``data(learn)`` is learnt, ``data("test")`` only measured; both (N, C, H, W) in [0, 1].
            ``progress`` is called after each epoch (or iteration, for the convex nets).
        net: a key of `nets.NETS`.
        seed: decides the initial weights and the order of images. The convex nets do not depend on it.
        learn: the split that is learnt: ``"train"``, or one of its halves ``"P1"`` and ``"P2"``.
        **hyper: replaces entries of ``RECIPES[recipe]``, or ``decay``, the lambdas by layer (E15).

    Returns:
        A record. ``tensors`` is the net's state dict. ``values`` holds ``train_error`` and ``test_error``
        (fractions), ``n_train``, ``n_test``, ``loss`` (the objective on all training images, decay included),
        ``gradient_norm`` (largest absolute entry of its gradient, by the weights that labels train),
        ``epochs`` (passes over the training images), ``seconds``, ``shape``, ``classes`` and ``recipe``
        (every setting used).

    Raises:
        UnknownNameError: no such net.
        InputError: a setting that the net's recipe does not have.
        DataError: labels that do not fit the classes, images that do not fit the labels, or no images.

    Example:
        record = train(inputs, net="FC10(1e-2)", seed=0)
        record.values["test_error"]
    """
    started = time.perf_counter()
    if net not in NETS:
        raise UnknownNameError("net", net, NETS)
    spec = NETS[net]
    recipe = _settings(net, spec, hyper)
    train_set, test_set = _checked(inputs.data(learn), learn), _checked(inputs.data("test"), "test")
    shape, classes = tuple(train_set.images.shape[1:]), len(train_set.classes)
    generator = rng.generator(f"train/{net}", seed)
    module = build(net, shape, classes, generator=generator).to(inputs.device)
    x, labels = _flat(train_set, inputs.device)
    with denormals_flushed():
        extra = _TRAINERS[spec.recipe](module, x, labels, recipe, generator, inputs.progress)
    module.requires_grad_(False).eval()
    values = {
        "net": net,
        "seed": seed,
        "train_error": _error(module, x, labels),
        "test_error": _error(module, *_flat(test_set, inputs.device)),
        "n_train": len(labels),
        "n_test": len(test_set.labels),
        **extra,
        "shape": list(shape),
        "classes": classes,
        "recipe": {"kind": spec.recipe, **recipe},
        "seconds": time.perf_counter() - started,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    return Record(values=values, tensors=tensors)


def restore(record: Record, net: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return a trained net from its record, in evaluation mode, on the CPU.

    Args:
        record: what `train` returned.
        net: the name it was trained under.
        shape: shape of one image, (C, H, W).
        classes: number of classes.

    Raises:
        UnknownNameError: no such net.
        ModelError: the record's weights do not fit this net, shape and number of classes.

    Example:
        module = restore(record, "FC10(1e-2)", (1, 28, 28), 10)
    """
    module = build(net, shape, classes)
    try:
        module.load_state_dict(dict(record.tensors))
    except RuntimeError as error:
        kept = {name: tuple(tensor.shape) for name, tensor in record.tensors.items()}
        raise ModelError(
            f"the stored weights {kept} do not fit {net} for images {tuple(shape)} and {classes} classes; "
            "use the net, shape and classes of training, or train again."
        ) from error
    return module.eval()


Progress = Callable[[float, float], None]


def _train_convex(
    module: nn.Module,
    x: Tensor,
    labels: Tensor,
    recipe: Mapping[str, Any],
    _: torch.Generator,
    progress: Progress,
) -> dict[str, Any]:
    """Set the softmax layer to the minimum of its convex objective (E15)."""
    return _solve_output(module, x, labels, recipe, lambda share: progress(share, 1.0))


def _train_sigmoid(
    module: nn.Module,
    x: Tensor,
    labels: Tensor,
    recipe: Mapping[str, Any],
    generator: torch.Generator,
    progress: Progress,
) -> dict[str, Any]:
    """Train all layers by Adam until no training image is wrong, or the schedule ends."""
    weights = objectives.weight_matrices(module)
    groups = sigmoid.decay_groups(module, recipe["decay"])
    wrong = torch.zeros((), dtype=torch.int64, device=x.device)
    epochs = sigmoid.epochs(recipe, len(x))

    def objective(indices: Tensor) -> Tensor:
        target = labels[indices]
        logits = module(x[indices])
        wrong.add_((logits.detach().argmax(dim=1) != target).sum())
        return F.cross_entropy(logits, target)

    def after_epoch(epoch: int) -> bool:
        # Errors counted while learning are a cheap hint; only then is the whole set looked at again.
        clean = int(wrong) == 0
        wrong.zero_()
        done = clean and _error(module, x, labels) == 0
        progress(epochs if done else epoch, epochs)
        return done

    run = loops.descend(
        groups,
        objective,
        len(x),
        epochs=epochs,
        batch=recipe["batch"],
        rate=recipe["rate"],
        generator=generator,
        after_epoch=after_epoch,
    )
    loss, gradient_norm = _whole_gradient(module, x, labels, weights, recipe["decay"])
    return {"loss": loss, "gradient_norm": gradient_norm, "epochs": run}


def _train_autoencoder(
    module: nn.Module,
    x: Tensor,
    labels: Tensor,
    recipe: Mapping[str, Any],
    generator: torch.Generator,
    progress: Progress,
) -> dict[str, Any]:
    """Learn the features without labels, freeze them, then solve the softmax on top (D14)."""
    encoder = module.get_submodule("hidden1")
    assert isinstance(encoder, nn.Linear)
    pixels, width = encoder.in_features, encoder.out_features
    limit = math.sqrt(6 / (pixels + width))
    decoder = torch.empty(pixels, width).uniform_(-limit, limit, generator=generator).to(x.device)
    decoder.requires_grad_()
    offset = torch.zeros(pixels, device=x.device, requires_grad=True)
    groups: list[dict[str, object]] = [
        {"params": [encoder.weight, decoder], "weight_decay": recipe["feature_decay"]},
        {"params": [encoder.bias, offset], "weight_decay": 0.0},
    ]
    epochs = sigmoid.epochs(recipe, len(x))
    total = 1.3 * epochs  # the softmax takes about a third of the time the features take

    def reconstruct(images: Tensor) -> tuple[Tensor, Tensor]:
        features = encoder(images).sigmoid()
        # A sigmoid output keeps reconstructed pixels in [0, 1].
        return features, F.linear(features, decoder, offset).sigmoid()

    def objective(indices: Tensor) -> Tensor:
        images = x[indices]
        features, reconstruction = reconstruct(images)
        return objectives.sparse_reconstruction(
            images,
            reconstruction,
            features,
            sparsity=recipe["sparsity"],
            weight=recipe["sparsity_weight"],
            target=recipe["target"],
        )

    def after_epoch(epoch: int) -> bool:
        progress(epoch, total)
        return False

    run = loops.descend(
        groups,
        objective,
        len(x),
        epochs=epochs,
        batch=recipe["batch"],
        rate=recipe["rate"],
        generator=generator,
        after_epoch=after_epoch,
    )
    encoder.requires_grad_(False)
    with torch.no_grad():
        features = encoder(x).sigmoid()
        error = sum((reconstruct(part)[1] - part).square().sum().item() for part in torch.split(x, 5000)) / len(x)
    solved = _solve_output(
        module, features, labels, recipe, lambda share: progress(epochs + share * (total - epochs), total)
    )
    return {
        **solved,
        "epochs": run + solved["epochs"],
        "feature_epochs": run,
        "reconstruction": error,
        "mean_activation": features.mean().item(),
    }


_TRAINERS = {"convex": _train_convex, "sigmoid": _train_sigmoid, "autoencoder": _train_autoencoder}


def _solve_output(
    module: nn.Module,
    features: Tensor,
    labels: Tensor,
    recipe: Mapping[str, Any],
    progress: Callable[[float], None],
) -> dict[str, Any]:
    """Put the convex minimum into the output layer of `module`."""
    output = module.get_submodule("output")
    assert isinstance(output, nn.Linear)
    fit = loops.softmax_regression(
        features,
        labels,
        output.out_features,
        decay=recipe["decay"][0],
        bias=output.bias is not None,
        tolerance=recipe["tolerance"],
        max_evaluations=recipe["max_evaluations"],
        progress=progress,
    )
    with torch.no_grad():
        output.weight.copy_(fit.weight)
        if fit.bias is not None:
            output.bias.copy_(fit.bias)
    return {
        "loss": fit.loss,
        "gradient_norm": fit.gradient_norm,
        "epochs": fit.evaluations,
        "converged": fit.gradient_norm <= recipe["tolerance"],
    }


def _settings(net: str, spec: NetSpec, hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe's settings with the caller's changes, checked."""
    recipe = {"decay": spec.decay, **RECIPES[spec.recipe]}
    for name, value in hyper.items():
        if name not in recipe:
            raise InputError(f"{net} has no setting {name!r}; its recipe knows {', '.join(sorted(recipe))}")
        recipe[name] = value
    recipe["decay"] = [float(rate) for rate in recipe["decay"]]
    if len(recipe["decay"]) != len(spec.decay) or min(recipe["decay"]) < 0:
        raise InputError(f"decay of {net} must be {len(spec.decay)} numbers of at least 0, got {recipe['decay']}")
    if recipe.get("sparsity", "kl") not in objectives.SPARSITIES:
        raise InputError(f"sparsity must be one of {', '.join(objectives.SPARSITIES)}, got {recipe['sparsity']!r}")
    if recipe.get("sparsity_weight", 0.0) is None:
        recipe["sparsity_weight"] = _SPARSITY_WEIGHTS[recipe["sparsity"]]
    for name in ("epochs", "batch", "rate", "tolerance", "max_evaluations"):
        if name in recipe and not recipe[name] > 0:
            raise InputError(f"{name} must be positive, got {recipe[name]!r}")
    return recipe


def _checked(images: Images, split: str) -> Images:
    """Return the set if a net can be trained or measured on it."""
    labels, classes = images.labels, len(images.classes)
    if not len(labels) or len(labels) != len(images.images):
        raise DataError(
            f"the {split} set must hold one label per image and at least one image, got "
            f"{len(images.images)} images and {len(labels)} labels"
        )
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise DataError(
            f"labels of the {split} set must lie in 0..{classes - 1}, one per class name, but go from "
            f"{int(labels.min())} to {int(labels.max())}"
        )
    return images


def _flat(images: Images, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return images (N, n) float32 and labels (N,), resident on the device."""
    return images.images.flatten(1).to(device=device, dtype=torch.float32), images.labels.to(device)


@torch.no_grad()
def _error(module: nn.Module, x: Tensor, labels: Tensor) -> float:
    """Return the share of images whose largest logit is not their label."""
    wrong = sum(
        int((module(part).argmax(dim=1) != target).sum())
        for part, target in zip(torch.split(x, 5000), torch.split(labels, 5000), strict=True)
    )
    return wrong / len(labels)


def _whole_gradient(
    module: nn.Module, x: Tensor, labels: Tensor, weights: list[nn.Parameter], decay: list[float]
) -> tuple[float, float]:
    """Return the objective on all images, and the largest absolute entry of its gradient."""
    module.zero_grad()
    objective = objectives.penalty(weights, decay)
    objective.backward()  # type: ignore[no-untyped-call]
    loss = objective.item()
    for part, target in zip(torch.split(x, 5000), torch.split(labels, 5000), strict=True):
        share = F.cross_entropy(module(part), target, reduction="sum") / len(x)
        share.backward()  # type: ignore[no-untyped-call]
        loss += share.item()
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    norm = max(gradient.abs().max().item() for gradient in gradients)
    module.zero_grad()
    return loss, norm

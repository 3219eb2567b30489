"""The checks of a net by itself: accuracy, kind of answer, neighbours, chance, gradients, modes, numbers.

Each returns a `Check`, with the threshold that decides beside the code and the reason for it. The doctor makes them
all; the panel of masked gradients shares three of them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from intriguing.errors import DataError, InputError
from intriguing.nets import probes
from intriguing.nets.checks import Check, did_not_run, graded
from intriguing.nets.inputs import check_labels
from intriguing.nets.load import Model

_BATCH = 64  # of the probe of batch dependence: large enough for batch statistics to differ from one image's
_ZERO_AMBER, _ZERO_RED = 0.01, 0.1  # of images without any gradient; an honest net has none but for dead units
_CONFIDENCE = 0.99  # of the interval an expected accuracy must lie in: one false alarm in a hundred
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def accuracy(logits: Tensor, labels: Tensor | None, expected: float | None = None) -> Check:
    """Compare the share of right answers with what the owner expects, or with guessing.

    Green: the expected accuracy lies in the exact binomial 99% interval. Without an expectation: at least 1.5 times
    what guessing gets; below it is red, for then something is wrong with pixels, labels or weights.

    Args:
        logits: (N, K).
        labels: (N,) int64.
        expected: a share, or None.

    Example:
        >>> accuracy(torch.eye(3), torch.arange(3)).value
        1.0
    """
    name = "accuracy"
    if labels is None:
        return did_not_run(name, "No labels were given.")
    n, classes = len(logits), logits.shape[1]
    try:
        check_labels(labels, n, classes)
    except (InputError, DataError) as error:
        return Check(name, "red", math.nan, n, str(error))
    from scipy import stats  # takes a second to import

    right = int((logits.argmax(1) == labels.to(logits.device)).sum())
    share = right / n
    ends = stats.binomtest(right, n).proportion_ci(confidence_level=_CONFIDENCE)
    low, high = float(ends.low), float(ends.high)
    found = f"{share:.1%} of {n} images are right (99% interval {low:.1%} to {high:.1%})"
    if expected is not None:
        if low <= expected <= high:
            return Check(name, "green", share, n, f"{found}, as expected ({expected:.1%}).")
        if share > expected:
            return Check(name, "amber", share, n, f"{found}, more than {expected:.1%}: are these training images?")
        advice = "compare box, mean, std, size and the order of the channels with those it was trained with"
        return Check(name, "red", share, n, f"{found}, fewer than the {expected:.1%} expected: {advice}.")
    if share < 1.5 / classes:
        advice = "check the normalisation, the order of the classes and the weights, or say what to expect"
        return Check(name, "red", share, n, f"{found}, less than 1.5 times guessing ({1 / classes:.1%}): {advice}.")
    return Check(name, "green", share, n, f"{found}; compare it with what you know of the model.")


def logit_scale(model: Model, logits: Tensor) -> Check:
    """Tell logits from probabilities by their range and row sums; log-softmax is as good as logits."""
    name, z, n = "logits", logits, len(logits)
    if model.answers == "labels":
        return did_not_run(name, "The net answers labels.")
    sums = z.sum(1)
    off = float((sums - 1).abs().max())
    if model.answers == "probabilities":
        return Check(name, "green", off, n, "Probabilities, as Model was told; their logarithm is used.")
    if float((z.logsumexp(1)).abs().max()) < 1e-3:
        return Check(name, "green", off, n, "Log-softmax, which serves as logits.")
    if not bool(((z >= 0) & (z <= 1)).all()):
        return Check(name, "green", off, n, f"Logits from {float(z.min()):.4g} to {float(z.max()):.4g}.")
    cure = 'return the logits, or say Model(net, answers="probabilities")'
    if single_column(z):
        return Check(name, "red", off, n, f"The one column is in [0, 1] for all images: a sigmoid was left on; {cure}.")
    if off > 1e-3:
        advice = "if these are sigmoids of several labels, ask for one label at a time"
        return Check(name, "amber", off, n, f"All answers lie in [0, 1] without summing to 1: {advice}.")
    saturated = float(((z == 0) | (z == 1)).any(1).double().mean())
    if saturated > 0:
        share = f"for {saturated:.1%} of images some are exactly 0 or 1, so that no gradient is left"
        return Check(name, "red", off, n, f"These are probabilities, and {share}; give the net without its softmax.")
    return Check(name, "amber", off, n, f"These are probabilities (in [0, 1], rows sum to 1); {cure}.")


def batch_independence(model: Model, images: Tensor) -> Check:
    """Feed images in a batch of 64 and alone: an answer must not depend on its neighbours."""
    name, images = "batch independence", images[:_BATCH]
    if len(images) < 2:
        return did_not_run(name, "It takes at least two images.")
    moved, floor = probes.batch_dependence(model, images), probes.noise_floor(model.dtype)
    value = float(moved.max())
    if value > floor:
        return Check(
            name, "red", value, len(images),
            f"Logits move by up to {value:.2g} of the largest when the batch of {len(images)} becomes one image: look "
            "for batch statistics or dropout that stay on in evaluation mode.",
        )  # fmt: skip
    return Check(name, "green", value, len(images), f"A batch of {len(images)} and one image agree to {value:.1g}.")


def repeatability(model: Model, images: Tensor) -> Check:
    """Feed the same batch three times: an answer must not be drawn by lot."""
    name, images = "repeatability", images[:_BATCH]
    moved, floor = probes.randomness(model, images), probes.noise_floor(model.dtype)
    value = float(moved.max())
    if value > floor:
        return Check(
            name, "red", value, len(images),
            f"Logits move by up to {value:.2g} of the largest between calls on the same images: the net draws random "
            "numbers. Fix them, or average over them inside the net.",
        )  # fmt: skip
    return Check(name, "green", value, len(images), f"Three calls agree to {value:.1g}.")


def zero_gradients(model: Model, images: Tensor, labels: Tensor) -> Check:
    """Count images whose gradient is exactly zero, of the margin and of the cross-entropy: 10% of either is red.

    An honest net has none but for units that are off, and its cross-entropy keeps a gradient up to margins of about
    100 in float32 (exp(-104) is the smallest number above 0); zeros beyond that come of saturation or rounding.
    """
    name, n = "zero gradients", len(images)
    if "gradients" not in model.capabilities:
        return did_not_run(name, f"{model.name} gives no gradients; attacks that need none can run.")
    if torch.is_inference_mode_enabled():
        return did_not_run(name, "torch.inference_mode is on, which forbids gradients; ask outside of it.")
    margins = probes.gradients(model, images, labels, probes.margin_loss)
    if margins is None:
        return Check(
            name, "red", 1.0, n,
            "No gradient comes back to the images: something on the way is detached, rounded to integers or run "
            "without gradients. If that is meant, say Model(net, gradients=False).",
        )  # fmt: skip
    entropies = probes.gradients(model, images, labels, probes.cross_entropy)
    margin, entropy = probes.zero_share(margins), 1.0 if entropies is None else probes.zero_share(entropies)
    value = max(margin, entropy)
    state = graded(value, _ZERO_AMBER, _ZERO_RED)
    if margin >= _ZERO_AMBER:
        sentence = f"The gradient of the margin is exactly zero for {margin:.1%} of images: saturated or rounded units."
    elif entropy >= _ZERO_AMBER:
        sentence = f"The cross-entropy has no gradient for {entropy:.1%} of images: logits too large; divide them."
    else:
        sentence = f"The gradient is not zero for {1 - value:.1%} of images."
    return Check(name, state, value, n, sentence)


def training_mode(model: Model) -> Check:
    """Look for what training leaves on: batch statistics, batch norms never trained, modes that are still training."""
    name, modules = "training mode", dict(model.layers())
    if isinstance(model.net, nn.Module):
        modules[""] = model.net
    norms = {path: module for path, module in modules.items() if isinstance(module, _NORMS)}
    drops = {path: module for path, module in modules.items() if isinstance(module, _DROPOUTS)}
    n = len(norms) + len(drops)
    without = [path for path, module in norms.items() if module.running_mean is None]
    if without:
        sentence = (
            f"Batch norm {without[0]!r} keeps no statistics of its own, so that every answer depends on its batch; "
            "build it with track_running_stats=True."
        )
        return Check(name, "red", float(len(without)), n, sentence)
    fresh = [path for path, module in norms.items() if _untouched(module)]
    if fresh:
        sentence = f"Batch norm {fresh[0]!r} has the statistics it was built with: were its weights loaded?"
        return Check(name, "amber", float(len(fresh)), n, sentence)
    on = [path for path, module in {**norms, **drops}.items() if module.training]
    if on:
        sentence = (
            f"{len(on)} of {n} batch norms and dropouts are in training mode. Everything here is measured in "
            "evaluation mode and their mode is put back; call net.eval() to see the same net elsewhere."
        )
        return Check(name, "amber", float(len(on)), n, sentence)
    return Check(name, "green", 0.0, n, f"{n} batch norms and dropouts, all in evaluation mode.")


def _untouched(norm: Any) -> bool:
    return bool((norm.running_mean == 0).all()) and bool((norm.running_var == 1).all())


def device_and_dtype(model: Model) -> Check:
    """Say where the net is and in what numbers; several of either, or half precision, is worth knowing."""
    name = "device and dtype"
    if not isinstance(model.net, nn.Module):
        return Check(name, "green", 0.0, 0, f"A function; it is given {model.dtype} on {model.device}.")
    tensors = [tensor for tensor in (*model.net.parameters(), *model.net.buffers()) if not is_lazy(tensor)]
    floats = [tensor for tensor in tensors if tensor.is_floating_point()]
    devices, dtypes = {str(tensor.device) for tensor in tensors}, {str(tensor.dtype) for tensor in floats}
    n = sum(tensor.numel() for tensor in model.net.parameters() if not is_lazy(tensor))
    kinds, places = ", ".join(sorted(dtypes)) or "no floats", ", ".join(sorted(devices)) or "no device"
    facts = f"{n:,} weights, {kinds} on {places}"
    if len(devices) > 1 or len(dtypes) > 1:
        sentence = f"{facts}: images are given in {model.dtype} on {model.device}, and the net must do the rest."
        return Check(name, "amber", float(n), len(tensors), sentence)
    if floats and torch.finfo(model.dtype).eps > torch.finfo(torch.float32).eps:
        sentence = f"{facts}: half precision makes distances and gradients coarse; measure net.float()."
        return Check(name, "amber", float(n), len(tensors), sentence)
    return Check(name, "green", float(n), len(tensors), f"{facts}.")


def single_column(logits: Tensor) -> bool:
    """Tell whether the net has but one column: `Model` puts a column of zeros before it."""
    return logits.shape[1] == 2 and bool((logits[:, 0] == 0).all())

"""scikit-learn's linear classifiers and multilayer perceptrons as torch nets, weight for weight.

The net computes, in float64, what the estimator's own decision function computes on flattened images: the same
products, so the logits agree to rounding. With two classes scikit-learn keeps one score, and so does the net; `Model`
makes two logits of it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from intriguing.errors import ModelError

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "logistic": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
}
SERVED = ("LogisticRegression", "RidgeClassifier", "LinearSVC", "SGDClassifier", "Perceptron", "MLPClassifier")


def is_estimator(value: object) -> bool:
    """Tell whether a value has the interface of a scikit-learn estimator."""
    return not isinstance(value, type) and all(
        callable(getattr(value, name, None)) for name in ("get_params", "fit", "predict")
    )


def convert(estimator: Any) -> nn.Sequential:
    """Return the net of a fitted estimator.

    Args:
        estimator: of `SERVED`, or any other linear classifier with ``coef_`` and ``intercept_`` whose
            largest score decides; fitted on flattened
            images in the units of the box, with the classes 0 to K - 1 (or with names, in sorted order).

    Returns:
        A float64 net from images (B, ...) to logits (B, K), or (B, 1) for two classes.

    Raises:
        ModelError: another kind of estimator, one that is not fitted, or one that gives an image several labels.

    Example:
        >>> net = convert(LogisticRegression().fit(images.flatten(1), labels))
    """
    name = type(estimator).__name__
    if not hasattr(estimator, "classes_"):
        raise ModelError(f"{name} is not fitted (it has no classes_); return the estimator after fit")
    if isinstance(estimator.classes_, list) or np.ndim(estimator.classes_) != 1:
        raise ModelError(f"{name} answers several questions at once, and nets with several labels are not served")
    net = _perceptron(estimator, name) if hasattr(estimator, "coefs_") else _linear(estimator, name)
    _compare(net, estimator, name)
    return net


def _linear(estimator: Any, name: str) -> nn.Sequential:
    """Return the net of a linear classifier."""
    if not hasattr(estimator, "coef_") or not hasattr(estimator, "intercept_"):
        raise ModelError(
            f"{name} cannot be converted exactly; served are {', '.join(SERVED)}. Return a function of images "
            "instead: Model(function, gradients=False) with logits, or answers='labels'."
        )
    weight = np.atleast_2d(np.asarray(estimator.coef_, dtype=np.float64))
    classes = _count(estimator.classes_, name)
    if len(weight) != (classes if classes > 2 else 1):
        raise ModelError(
            f"{name} has {len(weight)} rows of coefficients for {classes} classes; expected one per class (one in all "
            "for two classes)"
        )
    bias = np.broadcast_to(np.asarray(estimator.intercept_, dtype=np.float64), (len(weight),))
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), output=_layer(weight, bias)))


def _perceptron(estimator: Any, name: str) -> nn.Sequential:
    """Return the net of an MLPClassifier, without the softmax or sigmoid on top."""
    if estimator.out_activation_ == "logistic" and estimator.n_outputs_ > 1:
        raise ModelError(f"{name} gives several labels to an image, and such nets are not served")
    _count(estimator.classes_, name)
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    last = len(estimator.coefs_) - 1
    for i, (weight, bias) in enumerate(zip(estimator.coefs_, estimator.intercepts_, strict=True)):
        layer = _layer(np.asarray(weight, dtype=np.float64).T, np.asarray(bias, dtype=np.float64))
        layers["output" if i == last else f"hidden{i + 1}"] = layer
        if i < last:
            layers[f"{estimator.activation}{i + 1}"] = _ACTIVATIONS[estimator.activation]()
    return nn.Sequential(layers)


def _compare(net: nn.Sequential, estimator: Any, name: str) -> None:
    """Hold the net to the estimator's own answers on a few points: its kind alone does not promise them."""
    draw = np.random.default_rng(0)
    points = draw.normal(size=(16, net[1].in_features))
    with torch.no_grad():
        scores = net(torch.from_numpy(points)).numpy()
    answers = estimator.predict(points)
    columns = (scores[:, 0] > 0).astype(int) if scores.shape[1] == 1 else scores.argmax(1)
    if answers.ndim != 1:
        raise ModelError(f"{name} gives several labels to an image, and such nets are not served")
    if not np.array_equal(estimator.classes_[columns], answers):
        raise ModelError(
            f"{name} does not decide by the largest of its linear scores (a pairwise scheme, say), so it cannot be "
            f"converted exactly; served are {', '.join(SERVED)}"
        )


def _layer(weight: NDArray[np.float64], bias: NDArray[np.float64]) -> nn.Linear:
    # Without the usual random start, which would draw from the global random state.
    layer = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))
    return layer


def _count(classes: NDArray[Any], name: str) -> int:
    """Return the number of classes; column j must stand for label j, or for the j-th name."""
    if np.issubdtype(classes.dtype, np.number) and not np.array_equal(classes, np.arange(len(classes))):
        raise ModelError(
            f"{name} was fitted on the classes {classes[:5].tolist()}...; its columns would not be the labels "
            f"0 to {len(classes) - 1}. Fit it on labels counted from 0."
        )
    return len(classes)

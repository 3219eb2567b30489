"""scikit-learn's classifiers as nets: their own decision functions, to rounding."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Perceptron, RidgeClassifier, SGDClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC, LinearSVC

from intriguing.errors import ModelError
from intriguing.nets.estimators import convert, is_estimator
from intriguing.nets.load import Model

_TOLERANCE = 1e-12  # of the largest score: the same products, added in another order


def fitted(estimator: Any, classes: int) -> tuple[Any, torch.Tensor]:
    data = load_digits(n_class=classes)
    pixels = data.data / 16
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # how good the fit is does not matter here
        estimator.fit(pixels[:200], data.target[:200])
    return estimator, torch.from_numpy(pixels[200:300]).reshape(-1, 1, 8, 8)


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(max_iter=20),
        RidgeClassifier(),
        LinearSVC(max_iter=50),
        SGDClassifier(random_state=0),
        Perceptron(random_state=0),
        LogisticRegression(max_iter=20, fit_intercept=False),
    ],
    ids=lambda e: type(e).__name__,
)
def test_a_linear_classifier_is_its_decision_function(estimator: Any, classes: int) -> None:
    estimator, images = fitted(estimator, classes)
    before = torch.get_rng_state()
    model = Model(convert(estimator))
    assert torch.equal(torch.get_rng_state(), before)
    assert model.dtype == torch.float64
    scores = estimator.decision_function(images.flatten(1).numpy())
    logits = model(images).detach().numpy()
    if classes == 2:
        scores = np.stack((np.zeros_like(scores), scores), axis=1)
    np.testing.assert_allclose(logits, scores, rtol=0, atol=_TOLERANCE * np.abs(scores).max())
    assert model.predict(images).tolist() == estimator.predict(images.flatten(1).numpy()).tolist()


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("hidden", [(5,), (6, 4)])
def test_a_perceptron_is_its_probabilities(activation: str, classes: int, hidden: tuple[int, ...]) -> None:
    estimator = MLPClassifier(hidden, activation=activation, max_iter=15, random_state=0)
    estimator, images = fitted(estimator, classes)
    model = Model(convert(estimator))
    expected = estimator.predict_proba(images.flatten(1).numpy())
    np.testing.assert_allclose(model(images).softmax(1).detach().numpy(), expected, rtol=0, atol=_TOLERANCE)
    logs = estimator.predict_log_proba(images.flatten(1).numpy())
    np.testing.assert_allclose(model(images).log_softmax(1).detach().numpy(), logs, rtol=1e-9, atol=1e-9)
    image = images[:1].clone().requires_grad_()
    model(image)[0, 0].backward()
    assert image.grad is not None


@pytest.mark.parametrize(
    ("estimator", "words"),
    [
        (LogisticRegression(), "not fitted"),
        (RandomForestClassifier(n_estimators=1), "cannot be converted exactly"),
        (SVC(kernel="linear"), "pairwise scheme"),
        (OneVsRestClassifier(LogisticRegression(max_iter=5)), "cannot be converted exactly"),
    ],
    ids=["unfitted", "forest", "pairwise", "one against rest"],
)
def test_what_cannot_be_converted_exactly_is_refused_in_words(estimator: Any, words: str) -> None:
    if words != "not fitted":
        estimator, _ = fitted(estimator, 3)
    assert is_estimator(estimator)
    with pytest.raises(ModelError, match=words):
        convert(estimator)


def test_several_labels_per_image_are_refused_in_words() -> None:
    draw = np.random.default_rng(0)
    pixels, labels = draw.random((40, 4)), draw.integers(0, 2, (40, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        net = MLPClassifier((3,), max_iter=3).fit(pixels, labels)
    for estimator in (net, RidgeClassifier().fit(pixels, labels)):
        with pytest.raises(ModelError, match="several labels"):
            convert(estimator)


def test_columns_that_are_not_the_labels_are_refused() -> None:
    pixels = np.random.default_rng(0).random((30, 4))
    with pytest.raises(ModelError, match="labels counted from 0"):
        convert(RidgeClassifier().fit(pixels, np.arange(30) % 3 + 1))
    named = RidgeClassifier().fit(pixels, np.array(["cat", "dog", "eel"])[np.arange(30) % 3])
    assert Model(convert(named))(torch.rand(2, 4, dtype=torch.float64)).shape == (2, 3)

"""The convex solve against finite differences and scikit-learn; the minibatch loop by what it promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from intriguing.training import loops, objectives


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    x, y = load_digits(return_X_y=True)
    return torch.from_numpy(x).float() / 16, torch.from_numpy(y).long()


def _objective(w: Tensor, bias: Tensor | None, x: Tensor, y: Tensor, decay: float) -> Tensor:
    logits = x.to(w) @ w.T + (0 if bias is None else bias)
    return objectives.classification(logits, y, [w], [decay])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("decay", [1.0, 1e-2, 1e-4])
def test_softmax_regression_finds_scikit_learns_minimum(
    digits: tuple[Tensor, Tensor], decay: float, bias: bool
) -> None:
    x, y = digits
    fit = loops.softmax_regression(x, y, 10, decay=decay, bias=bias, tolerance=1e-8)
    assert fit.gradient_norm <= 1e-8
    assert (fit.bias is not None) == bias
    # scikit-learn minimises C * sum of cross-entropies + 1/2 sum w^2: ours with C = 1 / (lambda n).
    theirs = LogisticRegression(
        C=1 / (decay * len(x)), fit_intercept=bias, solver="newton-cg", tol=1e-9, max_iter=1000
    ).fit(x.double().numpy(), y.numpy())
    w = torch.from_numpy(theirs.coef_)
    b = torch.from_numpy(theirs.intercept_) if bias else None
    least = _objective(w, b, x, y, decay).item()
    ours = _objective(fit.weight.double(), None if fit.bias is None else fit.bias.double(), x, y, decay).item()
    assert fit.loss == pytest.approx(ours, rel=1e-6)  # the weights returned are float32
    # In a convex valley the loss at our gradient is within |g|^2 / (2 lambda) of the least.
    assert fit.loss == pytest.approx(least, rel=1e-7)
    # Their gradient tolerance over the smallest curvature, lambda, bounds the difference of weights.
    assert (fit.weight.double() - w).abs().max() < 1e-4


@pytest.mark.parametrize("bias", [False, True])
def test_the_gradient_is_the_derivative_of_the_objective(digits: tuple[Tensor, Tensor], bias: bool) -> None:
    x, y = digits[0][:200], digits[1][:200]
    # Stopped far from the minimum, so that there is a gradient to compare.
    fit = loops.softmax_regression(x, y, 10, decay=1e-2, bias=bias, tolerance=1e-3)
    step = 1e-5
    slopes = np.zeros((10, 64 + bias))
    parts = [fit.weight.double()] + ([fit.bias.double()] if fit.bias is not None else [])
    for row in range(10):
        for column in range(64 + bias):
            values = []
            for sign in (1, -1):
                w = torch.cat([p.reshape(10, -1) for p in parts], dim=1)
                w[row, column] += sign * step
                values.append(_objective(w[:, :64], w[:, 64] if bias else None, x, y, 1e-2).item())
            slopes[row, column] = (values[0] - values[1]) / (2 * step)
    assert 1e-5 < fit.gradient_norm <= 1e-3
    # Central differences are good to step^2, the stored weights to float32.
    assert np.abs(slopes).max() == pytest.approx(fit.gradient_norm, abs=1e-7)


def test_the_diagonal_scale_finds_the_same_minimum(
    digits: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = digits
    dense = loops.softmax_regression(x, y, 10, decay=1e-2)
    monkeypatch.setattr(loops, "_DENSE_FEATURES", 0)
    diagonal = loops.softmax_regression(x, y, 10, decay=1e-2)
    assert diagonal.loss == pytest.approx(dense.loss, rel=1e-8)
    assert dense.evaluations < diagonal.evaluations


def test_single_precision_finds_the_same_minimum(
    digits: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = digits
    double = loops.softmax_regression(x, y, 10, decay=1e-2)
    monkeypatch.setattr(loops, "_DOUBLE_ENTRIES", 0)
    single = loops.softmax_regression(x, y, 10, decay=1e-2)
    # Float32 logits of size 10 are good to 1e-6; over so few images the loss then stalls a little early.
    assert single.gradient_norm <= 1e-5
    assert single.loss == pytest.approx(double.loss, rel=1e-6)


def test_softmax_regression_stops_at_its_budget_and_reports_progress(digits: tuple[Tensor, Tensor]) -> None:
    x, y = digits
    seen: list[float] = []
    short = loops.softmax_regression(x, y, 10, decay=1e-4, max_evaluations=5, progress=seen.append)
    assert short.gradient_norm > 1e-6
    assert short.evaluations <= 10  # the line search in progress may finish
    long = loops.softmax_regression(x, y, 10, decay=1e-4, progress=seen.append)
    assert seen[-1] == 1.0
    assert all(0 <= share <= 1 for share in seen)
    assert long.loss < short.loss


def test_descend_learns_visits_everything_and_stops_when_told() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(50, 3, generator=g)
    y = (x[:, 0] > 0).long()
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    visits = torch.zeros(50, dtype=torch.int64)

    def objective(indices: Tensor) -> Tensor:
        visits[indices] += 1
        return F.cross_entropy(layer(x[indices]), y[indices])

    done = loops.descend(
        [{"params": list(layer.parameters()), "weight_decay": 0.0}],
        objective,
        50,
        epochs=40,
        batch=16,
        rate=0.1,
        generator=torch.Generator().manual_seed(1),
        after_epoch=lambda epoch: epoch == 30,
    )
    assert done == 30
    assert visits.tolist() == [30] * 50
    assert (layer(x).argmax(1) == y).float().mean() > 0.95


def test_past_the_rounding_of_single_precision_the_last_passes_are_in_double(
    digits: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = digits
    monkeypatch.setattr(loops, "_DOUBLE_ENTRIES", 0)  # as if the images were too many for double precision
    assert loops.softmax_regression(x, y, 10, decay=1e-2, tolerance=1e-8).gradient_norm <= 1e-8

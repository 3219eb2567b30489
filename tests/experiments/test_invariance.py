"""Same logits, another image: closed forms for linear nets, and a small run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from questions import LINEAR, SIGMOID, Set, check, find, inputs, trained
from scipy import optimize
from torch import Tensor, nn

from intriguing.errors import InputError
from intriguing.experiments import invariance
from intriguing.nets.load import Model
from intriguing.records import Record
from intriguing.rng import generator


def linear(classes: int, pixels: int, seed: int = 0) -> tuple[Model, Tensor]:
    weight = torch.randn(classes, pixels, generator=generator("weight", seed))
    layer = nn.Linear(pixels, classes, bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return Model(nn.Sequential(nn.Flatten(), layer)), weight.double()


def test_the_null_space_of_an_explicit_matrix() -> None:
    weight = torch.randn(5, 12, generator=generator("weight", 1), dtype=torch.float64)
    weight[4] = weight[0] + weight[1]  # rank 4
    a, b = torch.rand(2, 3, 12, generator=generator("images", 1), dtype=torch.float64)
    x = invariance.null_space(weight, a, b)
    torch.testing.assert_close((x - a) @ weight.T, torch.zeros(3, 5, dtype=torch.float64), atol=1e-12, rtol=0)
    # Nearest to B: what is left is a combination of the rows.
    onto = torch.linalg.pinv(weight) @ weight
    torch.testing.assert_close((b - x) @ onto, b - x, atol=1e-12, rtol=0)


def test_a_twin_of_a_linear_net_is_the_projection_where_the_box_is_far() -> None:
    model, weight = linear(4, 30)
    draw = generator("images", 2)
    a, b = (0.5 + 0.02 * torch.randn(2, 6, 1, 30, 1, generator=draw)).clamp(0.3, 0.7)
    found = invariance.twins(model, a, b)
    exact = invariance.null_space(weight, a.flatten(1), b.flatten(1))
    assert (found.change < 1e-5).all()
    torch.testing.assert_close(found.images.flatten(1).double(), exact, atol=1e-4, rtol=0)


def test_a_twin_in_the_box_is_that_of_a_quadratic_program() -> None:
    model, weight = linear(3, 16, seed=3)
    draw = generator("images", 3)
    a = torch.rand(5, 1, 4, 4, generator=draw).round(decimals=1)
    b = (torch.rand(5, 1, 4, 4, generator=draw) * 1.6 - 0.3).clamp(0, 1)
    found = invariance.twins(model, a, b)
    assert (found.change < 1e-4).all()
    assert ((found.images >= 0) & (found.images <= 1)).all()
    W, active = weight.numpy(), 0
    for i in range(5):
        start, aim = a[i].flatten().double().numpy(), b[i].flatten().double().numpy()
        exact = optimize.minimize(
            lambda x, aim=aim: ((x - aim) ** 2).sum(),
            start,
            jac=lambda x, aim=aim: 2 * (x - aim),
            bounds=[(0, 1)] * 16,
            constraints={"type": "eq", "fun": lambda x, start=start: W @ (x - start), "jac": lambda x: W},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        ours = float(((found.images[i].flatten().double().numpy() - aim) ** 2).sum())
        active += int(np.sum((exact.x < 1e-6) | (exact.x > 1 - 1e-6)))
        assert np.sqrt(ours) == pytest.approx(np.sqrt(exact.fun), rel=0.01)
    assert active >= 5, "without pixels on faces this would be the test above"


def test_a_twin_leaves_the_net_as_it_was() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(9, 5), nn.Sigmoid(), nn.Linear(5, 3))
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator("net", 0)))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    a, b = torch.rand(2, 4, 1, 3, 3, generator=generator("images", 4))
    found = invariance.twins(Model(net), a, b)
    assert (found.change < 1e-3).all()
    assert net.training
    assert all(weight.requires_grad and weight.grad is None for weight in net.parameters())
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
        assert value.dtype == torch.float32


def by_hand() -> tuple[dict[str, Set], dict[str, Record]]:
    """Two classes told by the first pixel; the net looks at that pixel, the judge at the second, which agrees."""
    images = torch.full((8, 1, 2, 2), 0.5)
    labels = torch.arange(8) % 2
    images[:, 0, 0, 0] = images[:, 0, 0, 1] = labels.float()
    data = {"test": Set(images, labels, ("dark", "light"))}
    weights = {}
    for net, pixel, grey in (("FC10(1)", 0, 3), ("FC10(1e-2)", 1, 2)):
        weight = torch.zeros(2, 4)
        weight[0, pixel], weight[1, pixel] = -1.0, 1.0
        weight[0, grey], weight[1, grey] = 1.0, -1.0  # half a unit each way: the threshold
        weights[f"{net}/net"] = Record(tensors={"output.weight": weight})
    return data, weights


def test_a_net_blind_to_what_the_judge_sees_has_twins_for_all() -> None:
    """Its logits fix a pixel or two; the judge's pixel is free, so every image can look like the other class."""
    data, needs = by_hand()
    settings = {"nets": ["FC10(1)"], "judge": "FC10(1e-2)", "images": 4, "tries": 2, "shown": 3, "seed": 0}
    record = invariance.invariance(inputs(needs, data), **settings)
    check(record)
    assert find(record, "FC10(1)", invariance.TWIN)["measured"] == 1.0
    assert find(record, "FC10(1)", invariance.REACHED)["measured"] == 1.0
    # From (a, a) to (b, b) with the first pixel and the last tied together: the second moves whole, the two a little.
    assert find(record, "FC10(1)", invariance.CHANGED)["measured"] < 1e-5
    assert find(record, "FC10(1)", invariance.NULL)["measured"] < 1e-12
    assert find(record, "judge: FC10(1e-2)", "test accuracy")["measured"] == 1.0
    same = invariance.invariance(inputs(needs, data), **{**settings, "judge": "FC10(1)"})
    # The net itself as the judge: same logits, same answer, no twin of another class can exist.
    assert find(same, "FC10(1)", invariance.TWIN)["measured"] == 0.0
    assert find(same, "FC10(1)", invariance.CHANGED)["measured"] < 1e-5
    assert same.values["figures"][0]["groups"][0]["rows"] == []


def test_a_small_run() -> None:
    needs = {f"{net}/net": trained(net) for net in (LINEAR, SIGMOID, "FC10(1e-4)")}
    settings = {"nets": [LINEAR, SIGMOID], "judge": "FC10(1e-4)", "images": 6, "tries": 3, "shown": 4, "seed": 0}
    record = invariance.invariance(inputs(needs), **settings)
    check(record)
    for net in (LINEAR, SIGMOID):
        change = find(record, net, invariance.CHANGED)
        assert change["measured"] < 1e-4
        assert change["control"]["measured"] > 0.5
        assert find(record, net, invariance.NULL)["measured"] < 1e-9
        assert 0.2 < find(record, net, invariance.MOVED)["measured"] < 1.2
    assert invariance.invariance(inputs(needs), **settings).values == record.values


def test_nets_that_know_one_class_are_refused() -> None:
    data, needs = by_hand()
    constant = torch.zeros(2, 4)
    constant[0, 3] = 1.0
    needs["FC10(1)/net"] = Record(tensors={"output.weight": constant})
    with pytest.raises(InputError, match="two classes"):
        invariance.invariance(
            inputs(needs, data), nets=["FC10(1)"], judge="FC10(1e-2)", images=4, tries=1, shown=1, seed=0
        )

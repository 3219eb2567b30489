from __future__ import annotations

import math

import pytest
import torch
from soundness import Block, digits, drawn, seeded, trained
from torch import nn

from intriguing.bounds.certificates import certify
from intriguing.bounds.exact import exact_distance
from intriguing.bounds.pieces import linear_piece, signs_at
from intriguing.bounds.tracing import trace
from intriguing.errors import InputError, ModelError
from intriguing.nets.load import Model
from truth import nearest_linear, nearest_relu


def _tiny(seed: int) -> nn.Sequential:
    net = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 3)).double()
    return drawn(net, seed, 2.0)


@pytest.mark.parametrize("norm", [2, math.inf])
def test_the_minimum_is_that_of_all_patterns(norm):
    for seed in range(3 if norm == 2 else 1):
        net = _tiny(seed)
        x = torch.rand(2, 5, generator=seeded(seed), dtype=torch.float64)
        y = net(x).argmax(1)
        layers = [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in net if isinstance(m, nn.Linear)]
        found = exact_distance(net, x, y, norm)
        assert found.finished.all()
        for i in range(2):
            exact = nearest_relu(x[i].numpy(), layers, int(y[i]), norm=norm)
            if math.isinf(exact):
                assert math.isinf(found.upper[i])
                continue
            assert exact * 0.999 <= found.lower[i] <= exact * (1 + 1e-7)
            assert exact * (1 - 1e-7) <= found.upper[i] <= exact * 1.001


def test_a_linear_net_needs_one_branch():
    net = drawn(nn.Sequential(nn.Flatten(), nn.Linear(6, 3)).double(), 3)
    x = torch.rand(3, 6, generator=seeded(1), dtype=torch.float64)
    y = net(x).argmax(1)
    found = exact_distance(net, x, y)
    W, b = net[1].weight.detach().numpy(), net[1].bias.detach().numpy()
    for i, label in enumerate(y.tolist()):
        exact = min(
            nearest_linear(x[i].numpy(), W[[label, j]], b[[label, j]], 1).distance for j in range(3) if j != label
        )
        assert exact * 0.999 <= found.lower[i] <= exact * (1 + 1e-6) <= found.upper[i] * (1 + 2e-6)
    assert (found.branches <= 1).all()


@pytest.mark.parametrize("norm", [2, math.inf])
def test_a_trained_net_between_certificate_and_witness(norm):
    net = trained(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 10))
    )
    x, y = digits(2)
    found = exact_distance(net, x, y, norm)
    right = net(x).argmax(1) == y
    assert found.finished.all()
    assert (found.lower >= 0.999 * found.upper).all()
    assert (certify(net, x, y, norm).radius <= found.upper).all()
    # The witness is one: in the box, as far as it says, and not strictly given its label.
    z = net.double()(found.witness)
    rest = z.scatter(1, y[:, None], -torch.inf).amax(1)
    assert (rest >= z.gather(1, y[:, None])[:, 0]).all()
    assert ((found.witness >= 0) & (found.witness <= 1)).all()
    distance = torch.linalg.vector_norm((found.witness - x).flatten(1), ord=norm, dim=1)
    torch.testing.assert_close(distance, found.upper)
    assert (found.upper[right] > 0).all()


def test_pooling_and_residuals_have_pieces_too():
    net = drawn(Block(2), 6, 2.0)
    x, _ = digits(2)
    with torch.no_grad():
        y = net(x).argmax(1)
    found = exact_distance(net, x, y, seconds=1)
    assert (certify(net, x, y).radius * (1 - 1e-3) <= found.lower).all()
    assert (found.lower <= found.upper).all()


def test_a_piece_is_the_net_where_its_signs_hold():
    net = _tiny(1)
    graph = trace(Model(net), (5,), torch.device("cpu"))
    enter = [1, 3]
    x = torch.rand(1, 5, generator=seeded(2), dtype=torch.float64)
    forms = torch.eye(3, dtype=torch.float64)
    piece = linear_piece(graph, enter, signs_at(graph, enter, x), forms)
    assert (piece.rows @ x[0] + piece.offsets >= 0).all()
    torch.testing.assert_close(piece.forms @ x[0] + piece.form_offsets, net(x)[0].detach())


def test_wrong_images_and_a_time_limit():
    net = _tiny(2)
    x = torch.rand(2, 5, generator=seeded(3), dtype=torch.float64)
    y = net(x).argmax(1)
    wrong = exact_distance(net, x, (y + 1) % 3)
    assert wrong.lower.tolist() == wrong.upper.tolist() == [0, 0]
    short = exact_distance(net, x, y, seconds=1e-9)
    assert not short.finished.any()
    assert (short.lower <= short.upper).all()
    torch.testing.assert_close(short.lower, torch.minimum(certify(net, x, y).radius, short.upper))


def test_mistakes_are_named():
    x = torch.rand(1, 4)
    with pytest.raises(ModelError, match="1: only nets of ReLU units"):
        exact_distance(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), x, torch.tensor([0]))
    with pytest.raises(InputError, match="seconds"):
        exact_distance(nn.Linear(4, 3), x, torch.tensor([0]), seconds=0)

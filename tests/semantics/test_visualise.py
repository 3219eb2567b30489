"""The patch that drives a unit: fields found by trying, projections by hand, and a unit whose patch is known."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from intriguing.errors import InputError, UnknownNameError
from intriguing.nets.load import Model
from intriguing.rng import generator
from intriguing.semantics.activations import activations
from intriguing.semantics.visualise import (
    Occlusion,
    Patch,
    back_projection,
    busiest_patch,
    centred_patch,
    drives,
    field_patch,
    occlusion,
    receptive_fields,
    relevance,
)


def rand(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=generator("test", 0))


@pytest.mark.parametrize(
    ("layers", "size", "step", "start"),
    [
        ((nn.Conv2d(1, 2, 5),), 5, 1, 0),
        ((nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.ReLU()), 3, 2, -1),
        ((nn.Conv2d(1, 2, 3, dilation=2),), 5, 1, 0),
        # Closed form of a chain: the size grows by (kernel - 1) times the steps so far.
        ((nn.Conv2d(1, 2, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 3, 5, padding=2)), 14, 2, -6),
    ],
)
def test_receptive_fields_are_those_of_the_closed_form(
    layers: tuple[nn.Module, ...], size: int, step: int, start: int
) -> None:
    side = 20
    model = Model(nn.Sequential(*layers, nn.Flatten()))
    rows, columns = receptive_fields(model, str(len(layers) - 1), rand(1, side, side))
    expected = [(max(0, start + step * i), min(side - 1, start + step * i + size - 1)) for i in range(len(rows))]
    assert rows == columns == expected
    place = len(columns) + 2  # second row, third column
    (top, bottom), (left, right) = expected[1], expected[2]
    patch = field_patch((rows, columns), place)
    assert patch == Patch(top, left, bottom - top + 1, right - left + 1)


def test_the_field_of_a_dense_unit_is_the_whole_image() -> None:
    model = Model(nn.Sequential(nn.Flatten(), nn.Linear(20, 3)))
    assert receptive_fields(model, "1", rand(1, 4, 5)) == ([(0, 3)], [(0, 4)])


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(64, 5),
        nn.ReLU(inplace=True),
        nn.Linear(5, 3),
    )


def test_a_projection_through_rectifiers_is_the_deconvolution_by_hand() -> None:
    net = small()
    images = rand(3, 2, 6, 6)
    found = back_projection(Model(net), images, "5", [0, 1, 2])
    for image, unit in enumerate((0, 1, 2)):
        # Zeiler and Fergus, section 2.1: each filter transposed, each rectifier applied to the signal coming down.
        signal = net[5].weight[unit].clamp_min(0)
        signal = (signal @ net[3].weight).view(1, 4, 4, 4).clamp_min(0)
        expected = nn.functional.conv_transpose2d(signal, net[0].weight)[0].detach()
        torch.testing.assert_close(found[image], expected, atol=1e-6, rtol=1e-5)
    assert [m.inplace for m in net if isinstance(m, nn.ReLU)] == [True, True]
    assert not any(m._forward_hooks or m._backward_hooks for m in net.modules())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_a_projection_through_sigmoids_is_the_gradient_of_each_images_own_unit() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.Sigmoid(), nn.Linear(4, 3))
    images = rand(2, 1, 4, 4)
    found = back_projection(Model(net, mean=0.5, std=0.5), images, "3", [2, 0])
    for image, unit in enumerate((2, 0)):
        x = images[image : image + 1].clone().requires_grad_()
        (expected,) = torch.autograd.grad(net((x - 0.5) / 0.5)[0, unit], x)
        torch.testing.assert_close(found[image], expected[0])


def test_a_channel_is_projected_from_its_largest_position() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 2, bias=False), nn.Flatten())
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2:4, 1:3] = 1.0
    with torch.no_grad():
        net[0].weight.fill_(0.25)
    expected = torch.zeros(1, 1, 5, 5)
    expected[0, 0, 2:4, 1:3] = 0.25
    assert torch.equal(back_projection(Model(net), image, "0", [0]), expected)


def test_projections_refuse_units_and_layers_that_are_not_there() -> None:
    model, images = Model(small()), rand(2, 2, 6, 6)
    with pytest.raises(InputError, match="one unit per image"):
        back_projection(model, images, "5", [0])
    with pytest.raises(InputError, match=r"0..2.*\[0, 3\]"):
        back_projection(model, images, "5", [0, 3])
    with pytest.raises(UnknownNameError):
        back_projection(model, images, "6", [0, 1])


def test_relevance_is_the_exact_drop_of_a_linear_unit() -> None:
    torch.manual_seed(0)
    model = Model(nn.Sequential(nn.Flatten(), nn.Linear(2 * 36, 1)))
    image, fill = rand(2, 6, 6), torch.tensor([0.3, 0.6])
    weight = relevance(back_projection(model, image[None], "1", [0])[0], image, fill)
    outcome = occlusion(model, image, "1", 0, Patch(1, 2, 3, 2), fill=fill)
    sums = nn.functional.avg_pool2d(weight[None, None], (3, 2), stride=1)[0, 0] * 6
    torch.testing.assert_close(outcome.drops, sums, atol=1e-5, rtol=0)
    assert outcome.shown == pytest.approx(float(sums[1, 2]), abs=1e-5)
    # So the patch it names is the one that occlusion finds by trying.
    best = busiest_patch(weight, 3, 2)
    assert float(outcome.drops[best.top, best.left]) == pytest.approx(float(outcome.drops.max()), abs=1e-6)


def test_occlusion_is_that_of_covering_by_hand() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten())
    model, image, fill = Model(net), rand(1, 7, 7), torch.tensor([0.5])
    outcome = occlusion(model, image, "1", 2, Patch(3, 0, 2, 3), fill=fill, stride=2, batch=2)
    assert (outcome.tops, outcome.lefts) == ((0, 2, 4), (0, 2, 4))
    before = activations(model, image[None], "1").values[0, 2]
    for row, top in enumerate(outcome.tops):
        for column, left in enumerate(outcome.lefts):
            covered = image.clone()
            covered[:, top : top + 2, left : left + 3] = 0.5
            after = activations(model, covered[None], "1").values[0, 2]
            assert float(outcome.drops[row, column]) == pytest.approx(float(before - after), abs=1e-6)
    covered = image.clone()
    covered[:, 3:5, 0:3] = 0.5  # between two steps, and tried all the same
    after = activations(model, covered[None], "1").values[0, 2]
    assert outcome.shown == pytest.approx(float(before - after), abs=1e-6)


def test_a_planted_patch_drives_its_unit_and_no_other_does() -> None:
    # The unit is the sum over one 3 x 3 square, so covering that square lowers it most.
    weight = torch.zeros(1, 1, 8, 8)
    weight[..., 4:7, 1:4] = 1.0
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 1, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(weight.flatten(1))
    model, image, fill = Model(net), torch.ones(1, 8, 8), torch.zeros(1)
    planted = Patch(4, 1, 3, 3)
    assert busiest_patch(relevance(back_projection(model, image[None], "1", [0])[0], image, fill), 3, 3) == planted
    outcome = occlusion(model, image, "1", 0, planted, fill=fill)
    assert outcome.shown == 9
    assert drives(planted, outcome)
    assert drives(planted, outcome, overlap=0.5)
    beside = Patch(4, 2, 3, 3)
    moved = dataclasses.replace(outcome, shown=6.0)
    assert drives(beside, moved)  # every patch apart from it covers less of the square
    assert not drives(beside, moved, overlap=0.7)  # but the planted one, of which it shares two thirds, covers more
    far = dataclasses.replace(outcome, shown=float(outcome.drops[0, 5]))
    assert not drives(Patch(0, 5, 3, 3), far)


def test_a_patch_without_an_elsewhere_shows_nothing() -> None:
    outcome = Occlusion(torch.ones(1, 1), (0,), (0,), 1.0)
    assert not drives(Patch(0, 0, 8, 8), outcome)


def test_patches_share_what_they_share() -> None:
    one = Patch(2, 3, 4, 5)
    for top in range(8):
        for left in range(8):
            other = Patch(top, left, 2, 3)
            board = torch.zeros(2, 16, 16)
            one.cut(board[0])[:] = 1
            other.cut(board[1])[:] = 1
            assert one.shared(other) == other.shared(one) == int(board.prod(0).sum())


def test_a_centred_patch_lies_in_the_image() -> None:
    assert centred_patch(Patch(4, 6, 5, 5), 3, 3, (20, 20)) == Patch(5, 7, 3, 3)
    assert centred_patch(Patch(0, 0, 3, 3), 7, 7, (20, 20)) == Patch(0, 0, 7, 7)
    assert centred_patch(Patch(17, 18, 3, 2), 7, 7, (20, 20)) == Patch(13, 13, 7, 7)

"""DDN against the exact optimum of linear nets, and by what its algorithm promises."""

from __future__ import annotations

import numpy as np
import torch
from linear_optima import any_wrong, box_moved, case, ratios
from small_nets import Recording, digits, seeded, sigmoid_net

from intriguing.attacks import DDN, ddn
from intriguing.nets.load import Model


def test_a_thousand_steps_end_within_two_percent_of_the_optimum() -> None:
    """With two classes the cross-entropy's gradient is the normal of the boundary, so the sphere alone is searched."""
    _, ratio = ratios(DDN(steps=1000), case(2))
    assert ratio.max() <= 1.02
    _, ratio = ratios(DDN(steps=100), case(2))
    assert ratio.max() <= 1.05


def test_a_target_is_reached_near_its_optimum() -> None:
    problem = case(3)
    result, ratio = ratios(DDN(steps=150, target=any_wrong(problem)), problem, any_wrong(problem))
    assert torch.equal(result.target, any_wrong(problem))
    # Towards a class of three the cross-entropy pulls at both others, whatever the nearest boundary is.
    assert np.median(ratio) <= 1.1


def test_points_lie_on_the_sphere_of_the_radius_unless_the_box_cuts_them_short() -> None:
    """Algorithm 1, lines 7 to 11, from the points alone: each radius is (1 - gamma) or (1 + gamma) times the last."""
    net = sigmoid_net(torch.float64)
    recording = Recording(net)
    images = 0.5 + 0 * digits()[0][:1].double()
    labels = net(images).argmax(1)
    DDN(steps=25, radius=0.2)(Model(recording), images, labels)
    points = torch.cat(recording.points)
    radii = (points - images.flatten(1)).norm(dim=1)[1:]
    adversarial = net(points.reshape(-1, 1, 8, 8)).argmax(1)[1:] != labels
    torch.testing.assert_close(radii[0].item(), 0.2 * 1.05)  # the image itself is not adversarial
    expected = torch.where(adversarial[:-1], 0.95, 1.05).double()
    torch.testing.assert_close(radii[1:] / radii[:-1], expected)


def test_levels_keep_every_point_on_the_grid() -> None:
    net, (images, labels) = sigmoid_net(), digits()
    images, labels = images[:12], labels[:12]
    result = ddn(Model(net), images, labels, steps=60, levels=17)  # these scans have 17 levels
    changed = result.adversarial[result.found] * 16
    assert result.found.any()
    torch.testing.assert_close(changed, changed.round(), atol=1e-4, rtol=0)
    assert torch.equal(result.quantized(17).found, result.found)
    free = ddn(Model(net), images, labels, steps=60)
    assert free.distance[result.found].mean() < result.distance[result.found].mean()


def test_another_box_is_attacked_alike() -> None:
    box_moved(DDN(steps=40), case(3))


def test_an_image_without_a_slope_is_led_on_by_noise() -> None:
    """A net flat around the image: noise leads out of the flat part, the same with every generator of one seed."""

    class Well(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            r = ((images - 0.5) ** 2).flatten(1).sum(1, keepdim=True)
            z = torch.where(r < 0.01, 0 * r, r - 0.01)
            return torch.cat((0.05 - 0 * z, z), 1)

    images, labels = torch.full((3, 1, 8, 8), 0.5), torch.zeros(3, dtype=torch.int64)
    first, again = (ddn(Model(Well()), images, labels, steps=60, generator=seeded(4)) for _ in range(2))
    assert first.found.all()
    assert torch.equal(first.adversarial, again.adversarial)
    assert torch.equal(first.adversarial[0], first.adversarial[2])
    torch.testing.assert_close(first.distance, torch.full((3,), 0.06**0.5, dtype=torch.float64), rtol=0.02, atol=0)

"""The signs of masked gradients: each net built to mask is flagged by the sign it should show, no honest net is."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from intriguing import attacks
from intriguing.errors import DataError, InputError
from intriguing.experiments.trust import panel, verdict
from intriguing.nets.checks import Check
from intriguing.nets.load import Model

_DATA = load_digits()
IMAGES = torch.from_numpy(_DATA.images).float()[:, None] / 16
LABELS = torch.from_numpy(_DATA.target).long()
SHOWN = slice(600, 640)  # no net has seen these
NAMES = ["zero gradients", "gradient and differences", "control and attack", "larger budget", "batch independence",
         "repeatability"]  # fmt: skip


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def signs(model: Model | nn.Module, **options: object) -> dict[str, Check]:
    """Return the panel by name, on few images and with a short control, for speed."""
    dtype = Model(model).dtype if isinstance(model, nn.Module) else model.dtype
    settings = {"limit": 8, "queries": 50, "budget": 200, **options}
    found = panel(model, IMAGES[SHOWN].to(dtype), LABELS[SHOWN], generator=seeded(), **settings)
    assert [check.name for check in found] == NAMES
    return {check.name: check for check in found}


def judged(found: dict[str, Check]) -> str:
    return verdict(tuple(found.values())).state


def _initialised(net: nn.Sequential) -> nn.Sequential:
    draw = seeded(1)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * (1.6 / parameter[0].numel()) ** 0.5)
    return net


def _trained(net: nn.Sequential, steps: int, eps: float = 0.0) -> nn.Sequential:
    """Train on 250 digits; with eps, on images moved by one signed gradient step from a random start."""
    draw, loss, images, labels = seeded(), nn.functional.cross_entropy, IMAGES[:250], LABELS[:250]
    adam = torch.optim.Adam(_initialised(net).train().parameters(), 0.02)
    for _ in range(steps):
        batch = images
        if eps:
            start = (images + eps * (2 * torch.rand(images.shape, generator=draw) - 1)).requires_grad_()
            (gradient,) = torch.autograd.grad(loss(net(start), labels), start)
            moved = start.detach() + 1.25 * eps * gradient.sign()
            batch = (images + (moved - images).clamp(-eps, eps)).clamp(0, 1)
        adam.zero_grad()
        loss(net(batch), labels).backward()
        adam.step()
    return net.eval()


def _convolutional(*, norm: bool = False) -> nn.Sequential:
    middle = [nn.BatchNorm2d(6)] if norm else []
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, stride=2, padding=1), *middle, nn.ReLU(),
        nn.Conv2d(6, 12, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 10),
    )  # fmt: skip


def _sigmoid() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.Sigmoid(), nn.Linear(24, 10))


HONEST: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: _trained(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), 60),
    "sigmoid": lambda: _trained(_sigmoid(), 80),
    "convolutional": lambda: _trained(_convolutional(), 60),
    "batch norm": lambda: _trained(_convolutional(norm=True), 40),
    "trained on attacks": lambda: _trained(_convolutional(), 100, eps=0.2),
    "long trained": lambda: _trained(_sigmoid(), 500),
    "double": lambda: _trained(_sigmoid(), 80).double(),
}


@cache
def honest(name: str) -> nn.Module:
    return HONEST[name]()


class Around(nn.Module):
    """The honest convolutional net with something before or after it."""

    def __init__(
        self, before: Callable[[Tensor], Tensor] = lambda x: x, after: Callable[[Tensor], Tensor] = lambda z: z
    ):
        super().__init__()
        self.net, self.before, self.after = honest("convolutional"), before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.net(self.before(x)))


def _saturated() -> nn.Module:
    net = _trained(_sigmoid(), 80)
    with torch.no_grad():
        net[1].weight.mul_(100)
        net[1].bias.mul_(100)
    return net


def _by_numpy(x: Tensor) -> Tensor:
    return torch.from_numpy((x.detach().numpy() * 6).round() / 6)


def _mirrored(x: Tensor) -> Tensor:
    """Pass the image on, and its gradient as if the image had been turned over."""
    flipped = x.flip(2, 3)
    return x.detach() + flipped - flipped.detach()


# A net built to mask, and the signs that must be red.
MASKING: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "temperature": (lambda: Around(after=lambda z: 1000 * z), ["zero gradients", "larger budget"]),
    "saturated units": (_saturated, ["gradient and differences"]),
    "rounded inputs": (
        lambda: Around(lambda x: (x * 4).round() / 4),
        ["zero gradients", "gradient and differences", "control and attack", "larger budget"],
    ),
    "rounded, with a trace of gradient": (
        lambda: Around(lambda x: (x * 4).round() / 4 + 1e-6 * x),
        ["gradient and differences"],
    ),
    "shattered": (
        lambda: Around(lambda x: x + 0.01 * torch.sin(3000 * x)),
        ["gradient and differences", "larger budget"],  # whether the control wins depends on the attack beside it
    ),
    "noise on the inputs": (lambda: Around(lambda x: x + 0.2 * torch.randn_like(x)), ["repeatability"]),
    "another library's preprocessing": (lambda: Around(_by_numpy), ["zero gradients"]),
    "a wrong gradient": (lambda: Around(_mirrored), ["gradient and differences", "control and attack"]),
    "steep thresholds": (
        lambda: Around(lambda x: torch.sigmoid(400 * (x - 0.5))),
        [],  # several signs, and which of them depends on how well the attack does all the same
    ),
    "batch statistics": (
        lambda: Around(nn.BatchNorm2d(1, affine=False, track_running_stats=False)),
        ["batch independence"],
    ),
}


@pytest.mark.parametrize("name", HONEST)
def test_no_honest_net_is_flagged(name: str) -> None:
    found = signs(honest(name))
    assert judged(found) == "trustworthy", found
    assert "did not run" not in {check.state for check in found.values()}


@pytest.mark.parametrize("name", MASKING)
def test_every_net_built_to_mask_is_flagged(name: str) -> None:
    build, expected = MASKING[name]
    found = signs(build())
    assert judged(found) == "untrustworthy"
    assert [sign for sign in expected if found[sign].state != "red"] == [], found


def test_a_result_of_the_users_attack_is_held_against_the_control() -> None:
    net, images = honest("linear"), IMAGES[SHOWN]
    good = attacks.lbfgs(net, images, LABELS[SHOWN], target="nearest")
    assert signs(net, result=good)["control and attack"].state == "green"
    # An attack cut short finds nothing; a longer one does, so it is the budget and not the gradient.
    short = attacks.lbfgs(net, images, LABELS[SHOWN], target="nearest", budget=4)
    check = signs(net, result=short)["control and attack"]
    assert check.state == "amber"
    assert "raise its budget" in check.sentence
    with pytest.raises(InputError, match="result: expected one of the 40 images"):
        signs(net, result=attacks.lbfgs(net, images[:5], LABELS[SHOWN][:5], target="nearest"))


def test_the_largest_change_of_a_pixel_is_compared_in_its_own_norm() -> None:
    result = attacks.PGD(eps=0.5)(honest("linear"), IMAGES[SHOWN], LABELS[SHOWN], generator=seeded())
    assert judged(signs(honest("linear"), result=result)) == "trustworthy"


def test_a_model_without_gradients_is_told_what_did_not_run() -> None:
    net = honest("linear")
    found = signs(Model(lambda x: net(x).detach(), gradients=False))
    states = {name: check.state for name, check in found.items()}
    assert states == dict.fromkeys(NAMES[:4], "did not run") | dict.fromkeys(NAMES[4:], "green")
    assert judged(found) == "trustworthy"


def test_a_net_that_is_never_right_leaves_nothing_to_look_at() -> None:
    net = honest("linear")
    labels = (Model(net).predict(IMAGES[:8]) + 1) % 10
    found = panel(net, IMAGES[:8], labels, generator=seeded())
    assert {check.state for check in found} == {"did not run"}
    assert panel(net, IMAGES[:8], generator=seeded(), queries=20)[0].n == 8


def test_the_panel_repeats_itself_and_leaves_the_net_alone() -> None:
    net = nn.Sequential(*honest("linear"), nn.Dropout(0.5)).train()
    state, modes = torch.get_rng_state(), [module.training for module in net.modules()]
    assert signs(net, limit=3) == signs(net, limit=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in net.modules()] == modes


def test_arguments_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(DataError, match="box"):
        panel(honest("linear"), 2 * IMAGES[:4], LABELS[:4], generator=seeded())
    with pytest.raises(InputError, match="limit"):
        panel(honest("linear"), IMAGES[:4], LABELS[:4], generator=seeded(), limit=0)
    with pytest.raises(InputError, match="labels"):
        panel(honest("linear"), IMAGES[:4], LABELS[:3], generator=seeded())


def test_one_red_sign_is_enough() -> None:
    green, red = Check("a", "green", 0.0, 1, "Fine."), Check("b", "red", 1.0, 1, "Bad.")
    assert verdict((green,)).state == "trustworthy"
    assert verdict((green, red)).reasons == ("Bad.",)

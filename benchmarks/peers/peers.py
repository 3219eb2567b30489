"""The minimal attacks of the peers, each with the best settings its authors document for a norm and a budget.

An attack is a function of (net, images, labels, forwards, scale) that returns adversarial images (N, ...). The net
counts and stops it (`counting.CountingNet`); the settings only plan for the budget of `forwards` and as many backwards.
`scale` is the largest distance to look at, for attacks that must be told one; `norm` is 2 where nothing else is said.

Where the settings come from:

- ALMA, APGD, FAB: the scripts that its authors published with ALMA (first step 0.1; smoothing 0.5 for hundreds of
  steps, 0.9 for a thousand; APGD up to 5 on MNIST and 2.5 on CIFAR-10).
- C&W: 4 values of c, the first 1, as the authors of DDN ran it (Rony et al. 2019, table 1); rate 0.1, and 0.01 for a
  thousand steps on photographs. The 9 values from 0.001 at rate 0.01 of its own authors want ten times the steps.
- ALMA in L1: its authors' first step 0.5. EAD as C&W, with two forwards a step.
- All others: their defaults, with the number of steps that the budget pays.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from counting import CountingNet

DIGITS = 5.0  # the scale of digits; that of photographs is smaller

Run = Callable[[CountingNet, Tensor, Tensor, int, float], Tensor]


@dataclass(frozen=True)
class Peer:
    """One attack of one library.

    Attributes:
        library: name and pinned version.
        method: what the paper calls it.
        run: see the module.
        note: what the settings deviate in, and why; empty if in nothing.
        norm: the one it minimises, 1, 2 or inf.
    """

    library: str
    method: str
    run: Run
    note: str = ""
    norm: float = 2.0


# ------------------------------------------------------------------------------------------------- Foolbox


def _foolbox(attack: Any, net: CountingNet, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
    import foolbox

    model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    adversarial, _, _ = attack(model, images, labels, epsilons=None, **options)
    return adversarial


def _foolbox_ddn(net: CountingNet, images: Tensor, labels: Tensor, forwards: int, scale: float) -> Tensor:
    from foolbox.attacks import DDNAttack

    return _foolbox(DDNAttack(steps=forwards), net, images, labels)


def _foolbox_fmn(
    net: CountingNet, images: Tensor, labels: Tensor, forwards: int, scale: float, norm: float = 2
) -> Tensor:
    from foolbox.attacks import L1FMNAttack, L2FMNAttack, LInfFMNAttack

    attack = {1: L1FMNAttack, 2: L2FMNAttack, math.inf: LInfFMNAttack}[norm]
    return _foolbox(attack(steps=forwards), net, images, labels)


def _foolbox_deepfool(
    net: CountingNet, images: Tensor, labels: Tensor, forwards: int, scale: float, norm: float = 2
) -> Tensor:
    from foolbox.attacks import L2DeepFoolAttack, LinfDeepFoolAttack

    return _foolbox({2: L2DeepFoolAttack, math.inf: LinfDeepFoolAttack}[norm](), net, images, labels)


def _foolbox_cw(net: CountingNet, images: Tensor, labels: Tensor, forwards: int, scale: float) -> Tensor:
    from foolbox.attacks import L2CarliniWagnerAttack

    values, steps, rate, first = _cw_plan(forwards, scale)
    attack = L2CarliniWagnerAttack(binary_search_steps=values, steps=steps, stepsize=rate, initial_const=first)
    return _foolbox(attack, net, images, labels)


def _foolbox_ead(net: CountingNet, images: Tensor, labels: Tensor, forwards: int, scale: float) -> Tensor:
    from foolbox.attacks import EADAttack

    values, steps, rate, first = _cw_plan(forwards, scale)
    attack = EADAttack(
        binary_search_steps=values,
        steps=max(steps // 2, 1),  # a step asks for the loss's gradient at one point and judges another
        initial_stepsize=rate,
        initial_const=first,
        decision_rule="L1",
    )
    return _foolbox(attack, net, images, labels)


def _foolbox_bb(
    net: CountingNet, images: Tensor, labels: Tensor, forwards: int, scale: float, norm: float = 2
) -> Tensor:
    from foolbox.attacks import L1BrendelBethgeAttack, L2BrendelBethgeAttack, LinfinityBrendelBethgeAttack

    attack = {1: L1BrendelBethgeAttack, 2: L2BrendelBethgeAttack, math.inf: LinfinityBrendelBethgeAttack}[norm]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it announces that its solver is being compiled
        # Its trust region is the rate times the number of pixels of the whole batch: per image, as documented.
        run = attack(steps=forwards - 12, lr=1e-3 / len(images))
    return _foolbox(run, net, images, labels, starting_points=_other_images(images, labels))


def _other_images(images: Tensor, labels: Tensor) -> Tensor:
    """Return for each image the nearest one of another class: the net gets all of them right, so it is adversarial."""
    distance = torch.cdist(images.flatten(1), images.flatten(1))
    distance[labels[:, None] == labels[None]] = torch.inf
    return images[distance.argmin(1)]


# ----------------------------------------------------------------------------------------- adversarial-library


def _advlib_ddn(net: CountingNet, images: Tensor, labels: Tensor, forwards: int, scale: float) -> Tensor:
    from adv_lib.attacks import ddn

    return ddn(net, images, labels, steps=forwards, levels=None)


def _advlib_alma(net: CountingNet, images: Tensor, labels: Tensor, forwards: int, scale: float) -> Tensor:
    from adv_lib.attacks import alma

    smoothing = 0.9 if forwards >= 500 else 0.5
    return alma(net, images, labels, num_steps=forwards, distance="l2", init_lr_distance=0.1, α=smoothing)


def _advlib_alma_l1(net: CountingNet, images: Tensor, labels: Tensor, forwards: int, scale: float) -> Tensor:
    from adv_lib.attacks import alma

    smoothing = 0.9 if forwards >= 500 else 0.5
    return alma(net, images, labels, num_steps=forwards, distance="l1", init_lr_distance=0.5, α=smoothing)


def _advlib_pdpgd(
    net: CountingNet, images: Tensor, labels: Tensor, forwards: int, scale: float, norm: float = 2
) -> Tensor:
    from adv_lib.attacks import pdpgd

    return pdpgd(net, images, labels, norm=norm, num_steps=forwards)


def _advlib_pdgd(net: CountingNet, images: Tensor, labels: Tensor, forwards: int, scale: float) -> Tensor:
    from adv_lib.attacks import pdgd

    return pdgd(net, images, labels, num_steps=forwards)


def _advlib_fmn(
    net: CountingNet, images: Tensor, labels: Tensor, forwards: int, scale: float, norm: float = 2
) -> Tensor:
    from adv_lib.attacks import fmn

    return fmn(net, images, labels, norm=norm, steps=forwards)


def _advlib_apgd(
    net: CountingNet, images: Tensor, labels: Tensor, forwards: int, scale: float, norm: float = 2
) -> Tensor:
    from adv_lib.attacks.auto_pgd import minimal_apgd

    searches = _searches(forwards)
    # A run of n steps asks n + 1 times, and its result is judged once.
    steps = max(forwards // searches - 2, 1)
    return minimal_apgd(net, images, labels, norm=norm, max_eps=scale, binary_search_steps=searches, n_iter=steps)


def _advlib_apgd_t(
    net: CountingNet, images: Tensor, labels: Tensor, forwards: int, scale: float, norm: float = 2
) -> Tensor:
    from adv_lib.attacks.auto_pgd import minimal_apgd

    searches, targets = _searches(forwards), 3 if forwards >= 500 else 2
    # Half of the searches fail and try all targets, the others end at the first or second.
    steps = max(2 * forwards // (searches * (targets + 1)) - 2, 1)
    return minimal_apgd(
        net,
        images,
        labels,
        norm=norm,
        max_eps=scale,
        binary_search_steps=searches,
        n_iter=steps,
        targeted_version=True,
        num_targets=targets,
    )


def _searches(forwards: int) -> int:
    """Return how many radii a search over eps tries: the authors' 13 with a thousand forwards, fewer with fewer."""
    return 13 if forwards >= 500 else 8 if forwards >= 150 else 5


def _advlib_fab(
    net: CountingNet, images: Tensor, labels: Tensor, forwards: int, scale: float, norm: float = 2
) -> Tensor:
    from adv_lib.attacks import fab

    steps = max((2 * forwards - 2) // (net.classes + 1), 1)  # of two forwards and a backward per wrong class
    return fab(net, images, labels, norm=norm, n_iter=steps)


def _advlib_fab_t(
    net: CountingNet, images: Tensor, labels: Tensor, forwards: int, scale: float, norm: float = 2
) -> Tensor:
    from adv_lib.attacks import fab

    targets = 9 if forwards >= 500 else 3
    steps = max((2 * forwards - 2) // (3 * targets), 1)  # of two forwards and a backward
    return fab(net, images, labels, norm=norm, n_iter=steps, targeted_restarts=True, restarts=targets)


def _advlib_deepfool(
    net: CountingNet, images: Tensor, labels: Tensor, forwards: int, scale: float, norm: float = 2
) -> Tensor:
    from adv_lib.attacks import df

    return df(net, images, labels, norm=norm)


def _advlib_superdeepfool(net: CountingNet, images: Tensor, labels: Tensor, forwards: int, scale: float) -> Tensor:
    from adv_lib.attacks import sdf

    return sdf(net, images, labels)


def _advlib_cw(net: CountingNet, images: Tensor, labels: Tensor, forwards: int, scale: float) -> Tensor:
    from adv_lib.attacks import carlini_wagner_l2

    values, steps, rate, first = _cw_plan(forwards, scale)
    return carlini_wagner_l2(
        net,
        images,
        labels,
        binary_search_steps=values,
        max_iterations=steps,
        learning_rate=rate,
        initial_const=first,
    )


def _cw_plan(forwards: int, scale: float) -> tuple[int, int, float, float]:
    """Return how many values of c, steps of each, rate, and the first c."""
    if forwards >= 500:
        # Measured on 60 images of each net: nine values of 111 steps at 0.01, the first 0.001, find 18% to 75% of the
        # digits' examples, these all of them, and nearer ones.
        return 4, forwards // 4, 0.1 if scale >= DIGITS else 0.01, 1.0
    # Of the few values none may be lost on constants a thousand times too small.
    return (4, forwards // 4, 0.1, 1.0) if forwards >= 100 else (1, forwards, 0.1, 1.0)


# --------------------------------------------------------------------------------------- torchattacks, ART, SecML


def _torchattacks_cw(net: CountingNet, images: Tensor, labels: Tensor, forwards: int, scale: float) -> Tensor:
    import torchattacks

    attack = torchattacks.CW(net, c=1, steps=forwards, lr=0.01 if forwards >= 500 else 0.1)
    result: Tensor = attack(images, labels)
    return result


def _art(net: CountingNet, images: Tensor) -> Any:
    from art.estimators.classification import PyTorchClassifier

    return PyTorchClassifier(
        net,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(images.shape[1:]),
        nb_classes=net.classes,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )


def _art_cw(net: CountingNet, images: Tensor, labels: Tensor, forwards: int, scale: float) -> Tensor:
    from art.attacks.evasion import CarliniL2Method

    # The classes met in the batch make a step so dear that no budget lasts beyond the first values of c: these must not
    # be a thousand times too small. 60 images of the standard net at 1,000: 35% found from c = 1, none from 0.001; from
    # 10 97%, but more than twice as far as the others' examples.
    values = 4 if forwards >= 100 else 1
    attack = CarliniL2Method(
        _art(net, images),
        binary_search_steps=values,
        # A step is a gradient of two logits and up to ten tries of a step length.
        max_iter=max(forwards // values // 2, 1),
        learning_rate=0.1,
        initial_const=1.0,
        batch_size=len(images),
        verbose=False,
    )
    return torch.from_numpy(attack.generate(images.numpy(), labels.numpy()))


def _secml_fmn(
    net: CountingNet, images: Tensor, labels: Tensor, forwards: int, scale: float, norm: float = 2
) -> Tensor:
    from secmlt.adv.evasion.fmn import FMN
    from secmlt.adv.evasion.perturbation_models import LpPerturbationModels

    kind = {1: LpPerturbationModels.L1, 2: LpPerturbationModels.L2, math.inf: LpPerturbationModels.LINF}[norm]
    attack = FMN(kind, num_steps=forwards, step_size=1.0)
    return _secml(attack, net, images, labels)


def _secml_ddn(net: CountingNet, images: Tensor, labels: Tensor, forwards: int, scale: float) -> Tensor:
    from secmlt.adv.evasion.ddn import DDN

    # Its first radius, 8/255, grows by a twentieth a step and would not reach a digit's boundary in 50.
    return _secml(DDN(num_steps=forwards, eps_init=1.0), net, images, labels)


def _secml(attack: Any, net: CountingNet, images: Tensor, labels: Tensor) -> Tensor:
    from secmlt.models.pytorch.base_pytorch_nn import BasePyTorchClassifier
    from torch.utils.data import DataLoader, TensorDataset

    loader = DataLoader(TensorDataset(images, labels), batch_size=len(images))
    batches = list(attack(BasePyTorchClassifier(net), loader))
    return torch.cat([batch[0] for batch in batches])


FOOLBOX, ADVLIB, TORCHATTACKS = "Foolbox 3.3.4", "adv-lib 0.2.8", "torchattacks 3.5.1"
ART, SECML = "ART 1.20.1", "SecML-Torch 1.5"

PEERS: dict[str, Peer] = {
    "foolbox-ddn": Peer(FOOLBOX, "DDN", _foolbox_ddn),
    "foolbox-fmn": Peer(FOOLBOX, "FMN", _foolbox_fmn),
    "foolbox-deepfool": Peer(FOOLBOX, "DeepFool", _foolbox_deepfool),
    "foolbox-cw": Peer(FOOLBOX, "C&W", _foolbox_cw),
    "foolbox-bb": Peer(
        FOOLBOX, "BB", _foolbox_bb, "starts from the nearest image of another class; trust region per image"
    ),
    "advlib-ddn": Peer(ADVLIB, "DDN", _advlib_ddn, "without rounding to 256 levels, which costs distance"),
    "advlib-alma": Peer(ADVLIB, "ALMA", _advlib_alma),
    "advlib-pdgd": Peer(ADVLIB, "PDGD", _advlib_pdgd),
    "advlib-fmn": Peer(ADVLIB, "FMN", _advlib_fmn),
    "advlib-apgd": Peer(ADVLIB, "APGD, search over eps", _advlib_apgd),
    "advlib-apgd-t": Peer(ADVLIB, "APGD-T, search over eps", _advlib_apgd_t),
    "advlib-fab": Peer(ADVLIB, "FAB", _advlib_fab),
    "advlib-fab-t": Peer(ADVLIB, "FAB-T", _advlib_fab_t),
    "advlib-deepfool": Peer(ADVLIB, "DeepFool", _advlib_deepfool),
    "advlib-superdeepfool": Peer(ADVLIB, "SuperDeepFool", _advlib_superdeepfool),
    "advlib-cw": Peer(ADVLIB, "C&W", _advlib_cw),
    "torchattacks-cw": Peer(TORCHATTACKS, "C&W", _torchattacks_cw, "searches no c"),
    "art-cw": Peer(ART, "C&W", _art_cw, "in one batch, where each gradient costs a backward per class met in it"),
    "secml-fmn": Peer(SECML, "FMN", _secml_fmn),
    "secml-ddn": Peer(SECML, "DDN", _secml_ddn, "first radius 1"),
}
for _end, _norm in (("l1", 1.0), ("linf", math.inf)):
    PEERS |= {
        f"foolbox-fmn-{_end}": Peer(FOOLBOX, "FMN", partial(_foolbox_fmn, norm=_norm), norm=_norm),
        f"foolbox-bb-{_end}": Peer(
            FOOLBOX,
            "BB",
            partial(_foolbox_bb, norm=_norm),
            "starts from the nearest image of another class; trust region per image",
            _norm,
        ),
        f"advlib-pdpgd-{_end}": Peer(ADVLIB, "PDPGD", partial(_advlib_pdpgd, norm=_norm), norm=_norm),
        f"advlib-fmn-{_end}": Peer(ADVLIB, "FMN", partial(_advlib_fmn, norm=_norm), norm=_norm),
        f"advlib-apgd-{_end}": Peer(ADVLIB, "APGD, search over eps", partial(_advlib_apgd, norm=_norm), norm=_norm),
        f"advlib-apgd-t-{_end}": Peer(
            ADVLIB, "APGD-T, search over eps", partial(_advlib_apgd_t, norm=_norm), norm=_norm
        ),
        f"advlib-fab-{_end}": Peer(ADVLIB, "FAB", partial(_advlib_fab, norm=_norm), norm=_norm),
        f"advlib-fab-t-{_end}": Peer(ADVLIB, "FAB-T", partial(_advlib_fab_t, norm=_norm), norm=_norm),
        f"secml-fmn-{_end}": Peer(SECML, "FMN", partial(_secml_fmn, norm=_norm), norm=_norm),
    }
PEERS |= {
    "foolbox-ead-l1": Peer(FOOLBOX, "EAD", _foolbox_ead, norm=1.0),
    "advlib-alma-l1": Peer(ADVLIB, "ALMA", _advlib_alma_l1, norm=1.0),
    "foolbox-deepfool-linf": Peer(FOOLBOX, "DeepFool", partial(_foolbox_deepfool, norm=math.inf), norm=math.inf),
    "advlib-deepfool-linf": Peer(ADVLIB, "DeepFool", partial(_advlib_deepfool, norm=math.inf), norm=math.inf),
}

"""Section 4.3: how far a perturbation can grow from layer to layer. Table 5, and what small bounds are good for."""

from __future__ import annotations

from typing import Any

from intriguing.experiments import lipschitz, spectral
from intriguing.studies.spec import Cell, Exhibit, Printed, Settings
from intriguing.studies.szegedy2014.cells import AUTOENCODER, SIGMOID, SMALL_SET, alexnet, attack, sparsity_of, train

INSTABILITY_NETS = ("FC10(1e-4)", *SIGMOID, AUTOENCODER)
PENALISED = "FC100-100-10"


def _table_5(settings: Settings) -> Cell:
    chosen = {"images": 32, "steps": 20, "seed": settings.seed, "data": "photographs/", "full_width": settings.full}
    return Cell(
        "intriguing.experiments.spectral:table_5",
        chosen,
        needs={"net": alexnet(settings)},
        data=("photographs/test",),
        label="table 5",
    )


def _instability(settings: Settings) -> Cell:
    needs: dict[str, Cell] = {}
    for net in INSTABILITY_NETS:
        trained = train(net, settings, sparsity=sparsity_of(net))
        needs |= {f"{net}/net": trained, f"{net}/all": attack(net, settings, trained, "all")}
    chosen = {
        "nets": list(INSTABILITY_NETS),
        "images": settings.images,
        "steps": 20,
        "draws": 16,
        "seed": settings.seed,
    }
    return Cell(
        "intriguing.experiments.spectral:instability", chosen, needs=needs, data=("test",), label="layer by layer"
    )


def _penalty(settings: Settings) -> Cell:
    small = (settings.examples or 0) < SMALL_SET
    strengths = [0.0, 0.01, 0.02] if small else [0.0, 0.001, 0.002, 0.005]
    decays = [0.003] if small else [0.0003, 0.001]
    seeds = [settings.seed + index for index in range(max(5, settings.nets) if settings.full else 1)]
    needs: dict[str, Cell] = {}
    rows: list[tuple[str, dict[str, Any]]] = [
        (lipschitz.penalty_row(strength), {"strength": strength}) for strength in strengths
    ]
    rows += [(lipschitz.decay_row(decay), {"strength": 0.0, "decay": [decay] * 3}) for decay in decays]
    for row, hyper in rows:
        for seed in seeds:
            trained = Cell(
                "intriguing.training.lipschitz:train_penalised",
                {"net": PENALISED, "seed": seed, **hyper},
                data=("train", "test"),
                label=f"train {PENALISED}, {row}, seed {seed}",
            )
            needs |= {
                f"{row}/{seed}/net": trained,
                f"{row}/{seed}/random": attack(PENALISED, settings, trained, "random"),
            }
    chosen = {"net": PENALISED, "strengths": strengths, "decays": decays, "seeds": seeds, "seed": settings.seed}
    return Cell(
        "intriguing.experiments.lipschitz:lipschitz_penalty",
        chosen,
        needs=needs,
        data=("test",),
        label="penalty on layer bounds",
    )


_BOUNDS = {
    "conv1": Printed(2.75, "s", 0.01),
    "conv2": Printed(10.0, "s", 1.0),
    "conv3": Printed(7.0, "s", 1.0),
    "conv4": Printed(7.5, "s", 0.1),
    "conv5": Printed(11.0, "s", 1.0),
    "fc1": Printed(3.12, "s", 0.01),
    "fc2": Printed(4.0, "s", 1.0),
    "fc3": Printed(4.0, "s", 1.0),
}

TABLE_5 = Exhibit(
    name="table-5",
    title="How much can a layer magnify?",
    claim="The largest singular value of every layer of AlexNet is well above 1, so a small perturbation can grow "
    "from layer to layer: their product bounds the instability of the whole net.",
    reading="The print is of weights trained on ImageNet, which are not part of this run; ours is the same "
    "architecture at reduced width, trained here, so the numbers need not agree, and an untrained net stands "
    "beside each. The second column is what the printed formula for strided convolutions gives: for the first layer "
    "a quarter of the true norm. The gains say how far perturbations of real inputs really grow: far less than the "
    "bounds allow.",
    source="section 4.3, Table 5",
    cell=_table_5,
    # Both factors of the strided convolution stand beside its print: erratum E7.
    printed={(layer, spectral.BOUND): value for layer, value in _BOUNDS.items()}
    | {("conv1", spectral.PRINTED_FACTOR): _BOUNDS["conv1"]},
)

INSTABILITY = Exhibit(
    name="instability",
    title="How loose is the bound?",
    claim="The product of layer norms bounds how far a perturbation can grow. Large bounds do not imply adversarial "
    "examples, but small ones exclude them.",
    reading="For each net: the product of its layers' bounds, the largest growth that gradient ascent finds from test "
    "images, and their ratio, which says how loose the bound is. Then the radius inside which the bound excludes any "
    "adversarial example, as a share of the distance at which the attack finds one. The predicted gain of a random "
    "direction is a heuristic estimate, not a bound: it supposes that the slopes of different layers are unrelated. "
    "The control supposes, in addition, that units are uncorrelated, and on sigmoid nets it misses by several times.",
    source="section 4.3",
    cell=_instability,
    orderings=tuple(((net, spectral.GAIN), (net, spectral.BOUND)) for net in INSTABILITY_NETS[1:]),
)

LIPSCHITZ_PENALTY = Exhibit(
    name="lipschitz-penalty",
    title="What does it cost to keep every layer's bound small?",
    claim="Large bounds do not imply adversarial examples, but small ones exclude them near an image; the paper "
    "suggests penalising every layer's bound in training and reports no experiment.",
    reading="Read down the rows: how many times smaller the product of the layers' bounds becomes, what that "
    "costs in test error, and how far the nearest examples move away. The control is plain weight decay "
    "with about the same product. The slope 1/4 of sigmoid units is counted in every product.",
    source="section 4.3, last paragraph",
    cell=_penalty,
)

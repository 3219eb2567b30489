"""What the paper leaves open, measured: sections 4.2, 4.3 and 6, and its readers' questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from intriguing.studies.spec import Cell, Exhibit, Settings
from intriguing.studies.szegedy2014.cells import AUTOENCODER, SMALL_SET, sparsity_of, train

LINEAR, SIGMOID = "FC10(1e-4)", "FC100-100-10"
JUDGE = AUTOENCODER
RATIO = 1.5  # radius of the balls over the distance of the nearest example


def _small(settings: Settings) -> bool:
    return (settings.examples or 0) < SMALL_SET


def _nearest(net: str, settings: Settings) -> Cell:
    return Cell(
        "intriguing.experiments.smoothness:nearest",
        {"net": net, "images": max(400, settings.images), "seed": settings.seed},
        needs={"net": train(net, settings)},
        data=("test",),
        label=f"nearest examples of test images, {net}",
    )


# -- too little data, or the architecture? --------------------------------------------------------------------------


def _data_or_architecture(settings: Settings) -> Cell:
    small = _small(settings)
    seeds = [settings.seed + index for index in range(max(5, settings.nets) if settings.full else 2)]
    base = 0.75 if small else 1 / 6  # share of the training set that the other arms learn
    shares = [0.08, 0.25, 0.75] if small else [1 / 60, 1 / 20, 1 / 6, 1 / 2, 1.0]
    widths = [25, 100, 400] if small else [25, 50, 100, 200, 400]
    depths = [1, 2, 3]
    if settings.full:
        shares = [0.04, 0.08, 0.16, 0.25, 0.5, 0.75, 1.0] if small else [1 / 200, *shares]
        widths, depths = [12, 25, 50, 100, 200, 400, 800], [1, 2, 3, 4]
    images = settings.images if settings.full else min(settings.images, 48 if small else 96)
    # On nets of ReLU a solve ends at a kink and seldom converges: half the evaluations find the same distances,
    # within 0.3% on each of 47 images of the digits and 0.01% in the mean.
    effort = {} if settings.full else {"evaluations": 50}
    needs: dict[str, Cell] = {}

    def point(label: str | None = None, x: float | None = None, **varied: Any) -> dict[str, Any]:
        """Return a point of an arm; without a label it is named by the number of images."""
        chosen = {"hidden": [100, 100], "activation": "sigmoid", "examples": base, "stop": True, **varied}
        chosen["steps"] = 600 if small else 3_000
        keys = []
        for seed in seeds:
            what = (
                f"{chosen['activation']} {'-'.join(map(str, chosen['hidden']))}, {chosen['examples']:.3g} of the data"
            )
            what += "" if chosen["stop"] else ", equal steps"
            what += f", seed {seed}"
            trained = Cell(
                "intriguing.training.sweep:train_fc",
                {**chosen, "seed": seed},
                data=("train", "test"),
                label=f"train {what}",
            )
            needs[what] = Cell(
                "intriguing.experiments.slopes:attack",
                {"images": images, "seed": settings.seed, **effort},
                needs={"net": trained},
                data=("test",),
                label=f"attack {what}",
            )
            keys.append(what)
        return {"label": label, "x": x, "keys": keys}

    def arm(name: str, unit: str, axis: str, scale: str, points: Sequence[dict[str, Any]]) -> dict[str, Any]:
        ident = name.replace(" ", "-").replace(",", "")
        return {"id": ident, "name": name, "unit": unit, "axis": axis, "scale": scale, "points": points}

    images_axis, steps_axis = "training images", "training images, equal steps"
    arms = [
        arm(images_axis, "decade of images", images_axis, "decade", [point(examples=share) for share in shares]),
        arm(
            "width", "doubling", "units in each of two hidden layers", "doubling",
            [point(str(width), width, hidden=[width, width]) for width in widths],
        ),
        arm(
            "depth", "added layer", "hidden layers of 100 units", "step",
            [point(str(depth), depth, hidden=[100] * depth) for depth in depths],
        ),
        arm("activation", "", "", "kind", [point(name, 0, activation=name) for name in ("sigmoid", "tanh", "relu")]),
    ]  # fmt: skip
    if settings.full or not small:
        steps = [point(examples=share, stop=False) for share in shares]
        arms.insert(3, arm(steps_axis, "decade of images", steps_axis, "decade", steps))
    return Cell(
        "intriguing.experiments.slopes:data_or_architecture",
        {"arms": arms, "seed": settings.seed},
        needs=needs,
        data=("test",),
        label="data or architecture",
    )


# -- improbable, yet next to every image ----------------------------------------------------------------------------


def _improbable(settings: Settings) -> Cell:
    moves = 20 if settings.full else 10
    trained, nearest = train(SIGMOID, settings), _nearest(SIGMOID, settings)
    both = {"net": trained, "nearest": nearest}
    seed = settings.seed
    needs = {
        "nearest": nearest,
        "volumes": Cell(
            "intriguing.experiments.rare:volumes",
            {
                "net": SIGMOID, "ratio": RATIO, "floor": -8.0, "particles": 50, "keep": 0.2, "moves": moves,
                "samples": 1_000, "seed": seed,
            },
            needs=both,
            data=("test",),
            label="volumes of errors",
        ),
        "depths": Cell(
            "intriguing.experiments.rare:depths",
            {
                "net": SIGMOID, "points": 64 if settings.full else 16, "repeats": 5 if settings.full else 3,
                "particles": 100, "keep": 0.5, "moves": moves, "samples": 100_000 if settings.full else 20_000,
                "seed": seed,
            },
            needs=both,
            data=("test",),
            label="volumes of errors, to their depth",
        ),
        "closed-form": Cell(
            "intriguing.experiments.rare:closed_form",
            {
                "net": LINEAR, "decades": [-4, -12, -30], "repeats": 8, "particles": 100,
                "keep": 0.5, "moves": moves, "seed": seed,
            },
            needs={"net": train(LINEAR, settings)},
            data=("test",),
            label="volumes known in closed form",
        ),
    }  # fmt: skip
    chosen = {"net": SIGMOID, "ratio": RATIO, "shown": 6, "seed": seed}
    return Cell("intriguing.experiments.improbable:improbable", chosen, needs=needs, data=("test",), label="improbable")


# -- smoothness, invariance -----------------------------------------------------------------------------------------


def _smoothness(settings: Settings) -> Cell:
    nets = (LINEAR, SIGMOID)
    needs = {f"{net}/net": train(net, settings) for net in nets}
    needs |= {f"{net}/nearest": _nearest(net, settings) for net in nets}
    chosen = {"nets": list(nets), "images": 10_000 if settings.full else 2_000, "accuracy": 0.95, "seed": settings.seed}
    return Cell("intriguing.experiments.smoothness:smoothness", chosen, needs=needs, data=("test",), label="smoothness")


def _invariance(settings: Settings) -> Cell:
    nets = (LINEAR, SIGMOID)
    chosen = {
        "nets": list(nets),
        "judge": JUDGE,
        "images": settings.images if settings.full else min(settings.images, 64),
        "tries": 8,
        "shown": 6,
        "seed": settings.seed,
    }
    needs = {f"{net}/net": train(net, settings, sparsity=sparsity_of(net)) for net in (*nets, JUDGE)}
    return Cell("intriguing.experiments.invariance:invariance", chosen, needs=needs, data=("test",), label="invariance")


DATA_OR_ARCHITECTURE = Exhibit(
    name="data-or-architecture",
    title="Too little data, or the wrong architecture?",
    claim="The paper does not say why smoothness fails: whether more data would mend it, or another architecture.",
    reading="One thing is varied at a time. Each slope says by what share the nearest example's distance changes "
    "per tenfold data, doubled width or added layer, on images that all nets of the comparison get right. "
    "The control deals the values out to the nets at random.",
    source="section 6, a reader's question",
    cell=_data_or_architecture,
)

IMPROBABLE = Exhibit(
    name="improbable",
    title="Almost impossible, and next to every image",
    claim="Adversarial examples have so low a probability that a test set hardly ever shows one, yet one lies near "
    "every test case. How often they occur is left open.",
    reading="A ball around each test image, half as wide again as the distance of its nearest adversarial example. "
    "First: how often the example is in it, and how often less than a millionth of it is "
    "wrong. Then: how deep the share goes as the ball grows, how far repeats agree, and the estimate "
    "beside plain Monte Carlo and beside a linear net whose share is known exactly. An estimate, not a "
    "bound.",
    source="section 6",
    cell=_improbable,
)

SMOOTHNESS = Exhibit(
    name="smoothness",
    title="Is the neighbourhood of an image all one class?",
    claim="Kernel methods assume that an image close enough to another has its label. Deep nets break the assumption.",
    reading="The radius is the norm of random noise that leaves 95% of the right answers. Beside it: the share of "
    "images that have an adversarial example nearer than that. The same size of change does next to "
    "nothing without aim.",
    source="section 4",
    cell=_smoothness,
)

INVARIANCE = Exhibit(
    name="invariance",
    title="The reverse: another image, the same answer to the last logit",
    claim="The paper changes the answer without a visible change of the image. Can the image change visibly "
    "without a change of the answer?",
    reading="For each image A: is there one that an independent net reads as another class, with every logit "
    "within 0.001 of A's? A random move of the same norm is the control. In the null space of the first "
    "layer the same holds in closed form, the box left aside.",
    source="a reader's question on section 4",
    cell=_invariance,
)

"""What the paper leaves open, measured: sections 4.2, 4.3 and 6, and its readers' questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from intriguing.studies.spec import Cell, Exhibit, Settings
from intriguing.studies.szegedy2014.cells import train

LINEAR, SIGMOID = "FC10(1e-4)", "FC100-100-10"
JUDGE = "FC200-200-10"
RATIO = 1.5  # radius of the balls over the distance of the nearest example

_SMALL_SET = 5_000  # training images below which a set gets fewer nets


def _small(settings: Settings) -> bool:
    return (settings.examples or 0) < _SMALL_SET


def _nearest(net: str, settings: Settings) -> Cell:
    return Cell(
        "intriguing.experiments.smoothness:nearest",
        {"net": net, "images": settings.images, "seed": settings.seed},
        needs={"net": train(net, settings)},
        data=("test",),
        label=f"nearest examples of test images, {net}",
    )


# -- too little data, or the architecture? --------------------------------------------------------------------------


def _data_or_architecture(settings: Settings) -> Cell:
    small = _small(settings)
    most = settings.examples or 1_000
    base = min(most, 10_000)
    seeds = [settings.seed + index for index in range(max(5, settings.nets) if settings.full else 2)]
    sizes = sorted({most // 16, most // 4, most} if small else {1_000, 3_000, 10_000, 30_000, most})
    if settings.full and small:
        sizes = sorted({*sizes, most // 8, most // 2})
    widths = [25, 50, 100, 200, 400] if settings.full else [25, 100, 400]
    depths = [1, 2, 3, 4] if settings.full else [1, 2, 3]
    images = settings.images if settings.full else min(settings.images, 32 if small else 64)
    needs: dict[str, Cell] = {}

    def point(label: str, x: float, **chosen: Any) -> dict[str, Any]:
        chosen = {"hidden": [100, 100], "activation": "sigmoid", "examples": base, **chosen}
        if small:
            chosen["steps"] = 600
        keys = []
        for seed in seeds:
            what = f"{chosen['hidden']}, {chosen['activation']}, {chosen['examples']} images, seed {seed}"
            if not chosen.get("stop", True):
                what += ", whole schedule"
            trained = Cell(
                "intriguing.training.sweep:train_fc",
                {**chosen, "seed": seed},
                data=("train", "test"),
                label=f"train {what}",
            )
            needs[what] = Cell(
                "intriguing.experiments.slopes:attack",
                {"images": images, "seed": settings.seed},
                needs={"net": trained},
                data=("test",),
                label=f"attack {what}",
            )
            keys.append(what)
        return {"label": label, "x": x, "keys": keys}

    def arm(name: str, unit: str, scale: str, points: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": name.replace(" ", "-"),
            "name": name,
            "unit": unit,
            "axis": name,
            "scale": scale,
            "points": points,
        }

    arms = [
        arm("training images", "decade of images", "decade", [point(f"{n:,}", n, examples=n) for n in sizes]),
        arm("width", "doubling", "doubling", [point(str(w), w, hidden=[w, w]) for w in widths]),
        arm("depth", "added layer", "step", [point(str(d), d, hidden=[100] * d) for d in depths]),
        arm("activation", "", "kind", [point(name, 0, activation=name) for name in ("sigmoid", "tanh", "relu")]),
    ]
    if settings.full:
        whole = [point(f"{n:,}", n, examples=n, stop=False) for n in sizes]
        arms.insert(1, arm("training images, whole schedule", "decade of images", "decade", whole))
    return Cell(
        "intriguing.experiments.slopes:data_or_architecture",
        {"arms": arms, "seed": settings.seed},
        needs=needs,
        data=("test",),
        label="data or architecture",
    )


# -- improbable, yet next to every image ----------------------------------------------------------------------------


def _improbable(settings: Settings) -> Cell:
    small = _small(settings)
    trained, nearest = train(SIGMOID, settings), _nearest(SIGMOID, settings)
    both = {"net": trained, "nearest": nearest}
    seed = settings.seed
    needs = {
        "nearest": nearest,
        "volumes": Cell(
            "intriguing.experiments.rare:volumes",
            {
                "net": SIGMOID, "ratio": RATIO, "floor": -8.0, "particles": 50, "keep": 0.2, "moves": 10,
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
                "particles": 100, "keep": 0.5, "moves": 10, "samples": 20_000, "seed": seed,
            },
            needs=both,
            data=("test",),
            label="volumes of errors, to their depth",
        ),
        "closed-form": Cell(
            "intriguing.experiments.rare:closed_form",
            {
                "net": LINEAR, "decades": [-4, -12] if small else [-4, -12, -30], "repeats": 8, "particles": 100,
                "keep": 0.5, "moves": 10, "seed": seed,
            },
            needs={"net": train(LINEAR, settings)},
            data=("test",),
            label="volumes known in closed form",
        ),
    }  # fmt: skip
    chosen = {"net": SIGMOID, "ratio": RATIO, "shown": 6, "seed": seed}
    return Cell("intriguing.experiments.rare:improbable", chosen, needs=needs, data=("test",), label="improbable")


# -- smoothness, invariance -----------------------------------------------------------------------------------------


def _smoothness(settings: Settings) -> Cell:
    nets = (LINEAR, SIGMOID)
    needs = {f"{net}/net": train(net, settings) for net in nets}
    needs |= {f"{net}/nearest": _nearest(net, settings) for net in nets}
    chosen = {"nets": list(nets), "images": 2_000, "accuracy": 0.95, "seed": settings.seed}
    return Cell("intriguing.experiments.smoothness:smoothness", chosen, needs=needs, data=("test",), label="smoothness")


def _invariance(settings: Settings) -> Cell:
    nets = (LINEAR, SIGMOID)
    chosen = {
        "nets": list(nets),
        "judge": JUDGE,
        "images": settings.images if settings.full else min(settings.images, 48 if not _small(settings) else 16),
        "tries": 8,
        "shown": 6,
        "seed": settings.seed,
    }
    needs = {f"{net}/net": train(net, settings) for net in (*nets, JUDGE)}
    return Cell("intriguing.experiments.invariance:invariance", chosen, needs=needs, data=("test",), label="invariance")


DATA_OR_ARCHITECTURE = Exhibit(
    name="data-or-architecture",
    title="Too little data, or the architecture?",
    claim="The paper shows that adversarial examples are there and does not say why: a net may have seen too little, "
    "or be built so that they cannot be avoided.",
    reading="Nets that differ in one thing, each attacked on the same test images. A slope above zero means that more "
    "of it pushes the nearest mistake away; its interval is over nets and images. Under each distance stands what "
    "noise of that size does, which is the control.",
    source="section 6, left open",
    cell=_data_or_architecture,
)

IMPROBABLE = Exhibit(
    name="improbable",
    title="How rare is what lies next to every image?",
    claim="Perhaps adversarial examples are of extremely low probability, so that a test set never shows one, and yet "
    "dense like the rational numbers, so that one lies next to every test image. How often they appear is left open.",
    reading="Around each test image a ball that reaches half as far again as its nearest adversarial example. The "
    "share of the ball that is misclassified is estimated by multi-level splitting: an estimate, not a bound. Plain "
    "sampling is the control, and a linear net, whose share is known exactly, the check.",
    source="section 6",
    cell=_improbable,
)

SMOOTHNESS = Exhibit(
    name="smoothness",
    title="Is the neighbourhood of an image one class?",
    claim="Smoothness in the small, the assumption behind kernel methods, says that an image close enough to a "
    "training image has its label. For deep nets it does not hold.",
    reading="The radius of random noise under which a net keeps 95% of its right answers, and the share of test images "
    "that have an adversarial example inside that same radius. The curves say the same: at one distance noise does "
    "nothing and the nearest example everything.",
    source="section 4",
    cell=_smoothness,
)

INVARIANCE = Exhibit(
    name="invariance",
    title="The reverse: another digit, the same answer",
    claim="Readers of the paper asked for the reverse of an adversarial example: a large change that any person sees "
    "and the net does not.",
    reading="An image is turned into one of another class, as an independent net judges it, without changing any logit "
    "by more than a thousandth. Noise of the same norm, which changes the logits a lot, is the control.",
    source="a reader's question to section 4",
    cell=_invariance,
)

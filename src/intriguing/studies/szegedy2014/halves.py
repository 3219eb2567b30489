"""Section 4.2: nets that learnt disjoint halves of the training set. Tables 3 and 4."""

from __future__ import annotations

from intriguing.experiments import fed, halves
from intriguing.experiments.transfer import DISTORTION, noise_row
from intriguing.studies.spec import Cell, Exhibit, Printed, Settings
from intriguing.studies.szegedy2014.cells import percents

HALF_NETS: tuple[dict[str, str], ...] = (
    {"name": "FC100-100-10", "net": "FC100-100-10", "half": "P1"},
    {"name": "FC123-456-10", "net": "FC123-456-10", "half": "P1"},
    {"name": "FC100-100-10'", "net": "FC100-100-10", "half": "P2"},
)
HALF_NAMES = tuple(net["name"] for net in HALF_NETS)
HALF_STDS = (0.06, 0.1)
AMPLIFIED = 0.1


def _repeats(settings: Settings) -> int:
    return settings.nets if settings.full else 1


def half_needs(settings: Settings, repeats: int) -> dict[str, Cell]:
    """Return the nets of the halves and the attacks on their test images."""
    needs: dict[str, Cell] = {}
    for net in HALF_NETS:
        for index in range(repeats):
            seed = settings.seed + index
            trained = Cell(
                "intriguing.training.recipes:train",
                {"net": net["net"], "seed": seed, "learn": net["half"]},
                data=(net["half"], "test"),
                label=f"train {net['name']} on {net['half']}, seed {seed}",
            )
            needs[f"{net['name']}/{index}/net"] = trained
            needs[f"{net['name']}/{index}/attack"] = Cell(
                "intriguing.experiments.halves:attack",
                {"net": net["net"], "images": settings.images, "seed": settings.seed},
                needs={"net": trained},
                data=("test",),
                label=f"attack {net['name']}, seed {seed}, test images",
            )
    return needs


def _table_3(settings: Settings) -> Cell:
    repeats = _repeats(settings)
    chosen = {"nets": list(HALF_NETS), "repeats": repeats, "seed": settings.seed}
    needs = half_needs(settings, repeats)
    splits = ("P1", "P2", "test")
    return Cell("intriguing.experiments.halves:table_3", chosen, needs=needs, data=splits, label="table 3")


def _table_4(settings: Settings) -> Cell:
    repeats = _repeats(settings)
    chosen = {
        "nets": list(HALF_NETS),
        "repeats": repeats,
        "seed": settings.seed,
        "stds": list(HALF_STDS),
        "distortion": AMPLIFIED,
    }
    needs = half_needs(settings, repeats)
    return Cell("intriguing.experiments.halves:table_4", chosen, needs=needs, data=("test",), label="table 4")


_ERRORS_3 = {
    "FC100-100-10": "0m 2.4m 2m",
    "FC123-456-10": "0m 2.5m 2.1m",
    "FC100-100-10'": "2.3m 0m 2.1m",
}
_DISTORTION_3 = {
    "FC100-100-10": Printed(0.062, "m", 0.001),
    "FC123-456-10": Printed(0.059, "m", 0.001),
    "FC100-100-10'": Printed(0.058, "m", 0.001),
}
TRANSFER_4 = {
    "FC100-100-10": "100m 26.2s 5.9s",
    "FC123-456-10": "6.25m 100m 5.1m",
    "FC100-100-10'": "8.2m 8.2m 100m",
    noise_row(0.06): "2.2m 2.6m 2.4m",
    fed.amplified_row("FC100-100-10", AMPLIFIED): "100m 98s 43s",
    fed.amplified_row("FC123-456-10", AMPLIFIED): "96m 100m 22m",
    fed.amplified_row("FC100-100-10'", AMPLIFIED): "27m 50m 100m",
    noise_row(0.1): "2.6s 2.8s 2.7m",
}
_PRINTED_3 = {
    **percents(_ERRORS_3, (halves.error_on("P1"), halves.error_on("P2"), "test error")),
    **{(net, halves.MINIMAL): value for net, value in _DISTORTION_3.items()},
    **{(net, "found"): Printed(1.0, "v", 0.01) for net in HALF_NAMES},
}
_PRINTED_4 = {
    **percents(TRANSFER_4, HALF_NAMES),
    **{(net, DISTORTION): value for net, value in _DISTORTION_3.items()},
    **{(fed.amplified_row(net, AMPLIFIED), DISTORTION): Printed(0.1, "s", 0.01) for net in HALF_NAMES},
    (noise_row(0.06), DISTORTION): Printed(0.06, "m", 0.01),
    (noise_row(0.1), DISTORTION): Printed(0.1, "s", 0.01),
}


def _half_orderings() -> tuple[tuple[tuple[str, str], ...], ...]:
    """Return what Table 4 is about: noise below the other half below the same half; amplifying raises all of them."""
    chains = []
    for source in HALF_NETS:
        for receiver in HALF_NETS:
            if source is receiver:
                continue
            plain = (source["name"], receiver["name"])
            loud = (fed.amplified_row(source["name"], AMPLIFIED), receiver["name"])
            chains += [((noise_row(0.06), receiver["name"]), plain, loud), ((noise_row(0.1), receiver["name"]), loud)]
    # The same pair of architectures, within the half and across halves.
    a, b, other = HALF_NAMES
    chains += [((other, b), (a, b)), ((b, other), (b, a))]
    loud_row = fed.amplified_row
    chains += [((loud_row(other, AMPLIFIED), b), (loud_row(a, AMPLIFIED), b))]
    chains += [((loud_row(b, AMPLIFIED), other), (loud_row(b, AMPLIFIED), a))]
    chains += [((halves.OTHER, halves.POOLED), (halves.SAME, halves.POOLED))]
    chains += [((halves.OTHER, halves.POOLED), (loud_row(halves.OTHER, AMPLIFIED), halves.POOLED))]
    return tuple(chains)


TABLE_3 = Exhibit(
    name="table-3",
    title="Three nets, two halves of the data",
    claim="Nets that learnt one half of MNIST make no mistake on it and about 2.4% mistakes on the other half, and "
    "their nearest adversarial examples are as near as those of nets that saw everything.",
    reading="P1 and P2 are disjoint random halves of the training set, with equal shares of every class. Two nets "
    "learnt P1, the one with the prime P2. The last columns are the attack on test images, which no net has seen.",
    source="section 4.2, Table 3",
    cell=_table_3,
    printed=_PRINTED_3,
    orderings=(
        *(((net, halves.error_on("P1")), (net, "test error")) for net in HALF_NAMES[:2]),
        *(((net, halves.error_on("P1")), (net, halves.error_on("P2"))) for net in HALF_NAMES[:2]),
        ((HALF_NAMES[2], halves.error_on("P2")), (HALF_NAMES[2], halves.error_on("P1"))),
        ((HALF_NAMES[2], halves.error_on("P2")), (HALF_NAMES[2], "test error")),
    ),
)

TABLE_4 = Exhibit(
    name="table-4",
    title="Do mistakes travel between nets that share no data?",
    claim="Examples made for a net also fool nets that learnt disjoint data, less often than nets of the same data, "
    "and much more often once the same change is amplified; noise of that size does almost nothing.",
    reading="Read along a row: who is fooled by examples made for one net. Then compare the rows: noise, the other "
    "half, the same half, and the same examples amplified. Small print gives the receiver's error on the same images "
    "unchanged. The rows folded below the table pool the nets and carry the tests; they also show the same clipped to "
    "the pixel range, and what the printed formula does, which shrinks instead of amplifying (erratum E5). An image "
    "whose nearest mistake lies beyond distortion 0.1 is shrunk on the way there, so the diagonal of those rows need "
    "not be 100%: on small digits half of the images are, and the rows lengthened by two thirds show the effect.",
    source="section 4.2, Table 4",
    cell=_table_4,
    printed=_PRINTED_4,
    orderings=_half_orderings(),
)

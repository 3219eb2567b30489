"""Where the print is wrong, misleading or incomplete, each shown by a measurement."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from intriguing.experiments import errata, errata_decay, errata_search
from intriguing.studies.spec import Cell, Exhibit, Printed, Settings
from intriguing.studies.szegedy2014.blind_spots import TRANSFER_2
from intriguing.studies.szegedy2014.cells import AUTOENCODER, NETS, SIGMOID, SOFTMAX, pool, train
from intriguing.studies.szegedy2014.halves import AMPLIFIED, HALF_NETS, TRANSFER_4, half_needs

_SEARCHED = ("FC10(1e-4)", "FC100-100-10")


def _nets(names: tuple[str, ...], settings: Settings) -> dict[str, Cell]:
    return {f"{net}/net": train(net, settings) for net in names}


def _few(settings: Settings) -> int:
    return settings.images if settings.full else min(settings.images, 64)


def _e1(settings: Settings) -> Cell:
    chosen: dict[str, Any] = {"nets": list(_SEARCHED), "images": _few(settings), "seed": settings.seed}
    chosen |= {"smallest": 1e-4, "largest": 1e2, "per_decade": 4}
    needs = _nets(_SEARCHED, settings)
    return Cell(
        "intriguing.experiments.errata_search:erratum_e1", chosen, needs=needs, data=("train",), label="erratum E1"
    )


def _e2(settings: Settings) -> Cell:
    chosen = {"classes": [2, 3, 10], "pixels": 20, "problems": 200 if settings.full else 30, "seed": settings.seed}
    return Cell("intriguing.experiments.errata_search:erratum_e2", chosen, label="erratum E2")


def _e3(settings: Settings) -> Cell:
    chosen = {"nets": list(_SEARCHED), "images": _few(settings), "seed": settings.seed}
    needs = _nets(_SEARCHED, settings)
    return Cell(
        "intriguing.experiments.errata_search:erratum_e3", chosen, needs=needs, data=("train",), label="erratum E3"
    )


def _e4(settings: Settings) -> Cell:
    net = "FC10(1e-4)"
    found = pool((net,), settings)
    return Cell(
        "intriguing.experiments.errata_search:erratum_e4",
        {"net": net, "images": _few(settings), "seed": settings.seed},
        needs={"net": found[f"{net}/net"], "random": found[f"{net}/random"]},
        data=("train",),
        label="erratum E4",
    )


def _e5(settings: Settings) -> Cell:
    chosen = {"nets": list(HALF_NETS), "seed": settings.seed, "distortion": AMPLIFIED}
    needs = half_needs(settings, 1)
    return Cell("intriguing.experiments.errata:erratum_e5", chosen, needs=needs, data=("test",), label="erratum E5")


def _e6(settings: Settings) -> Cell:
    chosen = {"nets": list(HALF_NETS), "seed": settings.seed, "small": 0.06, "large": AMPLIFIED, "said": 1.4}
    needs = half_needs(settings, 1)
    return Cell("intriguing.experiments.errata:erratum_e6", chosen, needs=needs, data=("test",), label="erratum E6")


def _e12(settings: Settings) -> Cell:
    printed = [
        {"text": word[:-1], "mark": word[-1], "table": table, "noise": row.startswith("Gaussian noise")}
        for table, lines in (("table 2", TRANSFER_2), ("table 4", TRANSFER_4))
        for row, line in lines.items()
        for word in line.split()
    ]
    chosen = {"printed": printed, "smallest": 60, "largest": 1000, "draws": 2000, "seed": settings.seed}
    return Cell("intriguing.experiments.errata_counts:erratum_e12", chosen, label="erratum E12")


def _e13(settings: Settings) -> Cell:
    chosen = {"nets": list(NETS), "images": settings.images, "seed": settings.seed, "stds": [0.1, 0.3]}
    needs = pool(NETS, settings)
    return Cell("intriguing.experiments.errata:erratum_e13", chosen, needs=needs, data=("train",), label="erratum E13")


def _e14(settings: Settings) -> Cell:
    chosen = {
        "sources": list(SOFTMAX),
        "receivers": [*SIGMOID, AUTOENCODER],
        "seed": settings.seed,
        "distortion": 0.1,
    }
    needs = pool(NETS, settings)
    return Cell("intriguing.experiments.errata:erratum_e14", chosen, needs=needs, data=("train",), label="erratum E14")


_DECAYS = {"1": 1.0, "1e-2": 1e-2, "1e-4": 1e-4}
_DECAY_ERRORS = {"1": (0.212, 0.2), "1e-2": (0.1, 0.094), "1e-4": (0.067, 0.074)}


def _e15(settings: Settings) -> Cell:
    needs = {
        f"{form}/{decay}": train(f"FC10({decay})", settings)
        if form == "half"
        else Cell(
            "intriguing.experiments.errata_decay:softmax_form",
            {"form": form, "decay": value, "tolerance": 1e-6 if settings.full else 1e-5},
            data=("train", "test"),
            label=f"train softmax, {form}, lambda {decay}",
        )
        for form in errata_decay.FORMS
        for decay, value in _DECAYS.items()
    }
    chosen = {"forms": list(errata_decay.FORMS), "decays": _DECAYS, "printed": _DECAY_ERRORS}
    splits = ("train", "test")
    return Cell(
        "intriguing.experiments.errata_decay:erratum_e15", chosen, needs=needs, data=splits, label="erratum E15"
    )


_DIGITS_15 = {"1": (0.001, 0.01), "1e-2": (0.01, 0.001), "1e-4": (0.001, 0.001)}
# Only for the reading the nets are trained with: the others are there to differ, and would spoil the tally.
_PRINTED_15 = {
    (errata_decay.row("half", decay), column): Printed(value, "s", digit)
    for decay in _DECAYS
    for column, value, digit in zip(
        (errata_decay.TRAIN, errata_decay.TEST), _DECAY_ERRORS[decay], _DIGITS_15[decay], strict=True
    )
}

ERRATUM_E1 = Exhibit(
    name="erratum-E1",
    title="The largest constant, not the smallest",
    claim="To find the nearest example, search the minimum c > 0 for which the minimiser of c|r| + loss(x + r, l) has "
    "the target class.",
    reading="It must be the maximum. c is the price of distance: the smaller it is, the further the minimiser goes, "
    "and the easier it succeeds. The first two columns are the two ends of the same search on the same images, the "
    "last counts the steps in c at which the distance grew; theory says none.",
    source="section 4.1, step 3 of the search",
    cell=_e1,
    orderings=tuple(((net, errata_search.LARGEST), (net, errata_search.SMALLEST)) for net in _SEARCHED),
)
ERRATUM_E2 = Exhibit(
    name="erratum-E2",
    title="Exact for two classes, and for the hinge",
    claim="For convex losses the penalty method finds the exact nearest example.",
    reading="It does if the target's region is a sublevel set of the loss: always for two classes, with the hinge for "
    "any number. With cross-entropy and more classes it stops a few per cent too far. Random linear classifiers in 20 "
    "dimensions, each against a quadratic program that knows nothing of losses.",
    source="section 4.1",
    cell=_e2,
)
ERRATUM_E3 = Exhibit(
    name="erratum-E3",
    title="Which norm is |r|?",
    claim="The objective is c|r| + loss; the norm is not named.",
    reading="The ideal problem minimises the Euclidean norm, and so does the attack here, squared, because the norm "
    "itself has no gradient at r = 0 where the search starts. The same images and targets under three readings, each "
    "at its own largest constant: what each finds in L2, and in the sum of absolute values.",
    source="section 4.1",
    cell=_e3,
    orderings=tuple(
        (
            (f"{net}, {errata_search.PENALTIES['squared']}", errata_search.EUCLIDEAN),
            (f"{net}, {errata_search.PENALTIES['l1']}", errata_search.EUCLIDEAN),
        )
        for net in _SEARCHED
    ),
)
ERRATUM_E4 = Exhibit(
    name="erratum-E4",
    title="The nearest image of its own class is the image",
    claim="D(x, f(x)) = f(x), where D(x, l) is the image of class l nearest to x.",
    reading="D(x, f(x)) = x: an image, not a class, at distance 0. An attack told to reach the class an image already "
    "has is asked for nothing; here it is refused with a message.",
    source="section 4.1",
    cell=_e4,
)
ERRATUM_E5 = Exhibit(
    name="erratum-E5",
    title="The printed amplification shrinks",
    claim="Table 4's amplified examples are x + 0.1 (x' - x) / |x' - x|_2.",
    reading="That vector has an L2 norm of 0.1; the distortion of 0.1 that the table names needs the root of the "
    "number of pixels as a factor, 28 on MNIST. As printed, the examples no longer fool even the net they were made "
    "for; corrected, they fool the others as the table says.",
    source="section 4.2, Table 4",
    cell=_e5,
)
ERRATUM_E6 = Exhibit(
    name="erratum-E6",
    title="40% or 67%?",
    claim="The examples are amplified by 40%, from std 0.06 to 0.1.",
    reading="From 0.06 to 0.1 is 67% more; 0.06 is 40% less than 0.1. And since every image starts at another "
    "distance, every image is multiplied by a factor of its own to arrive at 0.1: the table gives the mean and the "
    "range, the last rows what each amount of amplification does to the other nets.",
    source="section 4.2, Table 4",
    cell=_e6,
)
ERRATUM_E12 = Exhibit(
    name="erratum-E12",
    title="How many images behind a cell?",
    claim="Tables 2 and 4 give percentages without the number of images.",
    reading="A share of N images can only take N + 1 values. Of all N from 60 to 1000, 256 fits the printed values "
    "best, far better than chance allows even after so many tries, and it also fits the values that were not used to "
    "find it. An inference from the print, not a statement of the paper.",
    source="section 4.2, Tables 2 and 4",
    cell=_e12,
)
ERRATUM_E13 = Exhibit(
    name="erratum-E13",
    title="Raw error, and what was added",
    claim="The noise rows and the cells off the diagonal of Tables 2 and 4 show the errors of the nets.",
    reading="A net with strong decay errs on a fifth of clean images, so a fifth of anything fools it. The excess "
    "columns take the receiver's error on the same images unchanged away; what is left is due to the noise or to the "
    "examples.",
    source="section 4.2, Tables 1, 2 and 4",
    cell=_e13,
)
ERRATUM_E14 = Exhibit(
    name="erratum-E14",
    title="More decay, or only a larger step?",
    claim="Examples made for nets with more weight decay fool more of the other nets.",
    reading="Their perturbations are also larger, so Table 2 cannot tell which of the two travels. The second column "
    "brings all examples to one distortion; the rows of differences compare the sources image by image.",
    source="section 4.2, Table 2",
    cell=_e14,
    orderings=(tuple((net, errata.SIZE) for net in SOFTMAX),),
)
ERRATUM_E15 = Exhibit(
    name="erratum-E15",
    title="Which weight decay gives the printed errors?",
    claim="Weight decay is lambda * sum w^2 / k, k the number of units of the layer.",
    reading="Softmax regression is convex: each reading of the line has one answer. On MNIST (lambda / 2) sum w^2 "
    "beside the mean cross-entropy, without a bias, gives all six printed errors; dividing by k does not. On other "
    "images the print is no measure.",
    source="section 2 and Table 1",
    cell=_e15,
    printed=_PRINTED_15,
)


def _spectral(number: int) -> Callable[[Settings], Cell]:
    def cell(settings: Settings) -> Cell:
        chosen = {} if number == 10 else {"seed": settings.seed}
        return Cell(f"intriguing.experiments.spectral_errata:erratum_{number}", chosen, label=f"erratum E{number}")

    return cell


ERRATUM_E7 = Exhibit(
    name="erratum-E7",
    title="The factor of a strided convolution",
    claim="The transformed kernel of a convolution of stride Delta is multiplied by Delta^-2.",
    reading="By Delta^-1, for an unnormalised transform. The explicit matrix of small convolutions decides: at stride "
    "2 the printed factor gives half the true norm, at stride 4 a quarter. If Table 5 was computed as printed, its "
    "first layer has the norm 11, not 2.75.",
    source="section 4.3",
    cell=_spectral(7),
)
ERRATUM_E8 = Exhibit(
    name="erratum-E8",
    title="The exponent of the transform",
    claim="The Fourier transform of the kernel has the exponent -2 pi i (u . xi) / N^2.",
    reading="It is divided by N, as in every discrete Fourier transform; the explicit matrix decides.",
    source="section 4.3",
    cell=_spectral(8),
)
ERRATUM_E9 = Exhibit(
    name="erratum-E9",
    title="N is the side of the image",
    claim="N, over which the frequencies run, is the support of the kernel.",
    reading="It is the side of the (padded) image: a kernel does not know on how many frequencies it will act. The "
    "boundary is then circular; zero padding gives a slightly smaller norm, so the circular value on a large enough "
    "grid is an upper bound, and the grid has to be stated with it.",
    source="section 4.3",
    cell=_spectral(9),
)
ERRATUM_E10 = Exhibit(
    name="erratum-E10",
    title="Overlapping pooling is not contractive",
    claim="Max-pooling has the bound 1, since its Jacobian selects inputs.",
    reading="Only where its windows do not overlap. A pixel that is the largest of four windows is copied four times: "
    "the 3 x 3 windows with stride 2 of AlexNet double a difference, which one input shows.",
    source="section 4.3",
    cell=_spectral(10),
)
ERRATUM_E11 = Exhibit(
    name="erratum-E11",
    title="Contrast normalisation, and the one AlexNet has",
    claim="x / (eps + |x|^2)^gamma with gamma in [0.5, 1] has the bound eps^-gamma.",
    reading="Right, and for more exponents than printed: the largest singular value of its Jacobian is there, at "
    "x = 0. But AlexNet normalises each channel by its neighbours, which is another function with a bound of its own.",
    source="section 4.3",
    cell=_spectral(11),
)

ERRATA = (
    ERRATUM_E1, ERRATUM_E2, ERRATUM_E3, ERRATUM_E4, ERRATUM_E5, ERRATUM_E6, ERRATUM_E7, ERRATUM_E8, ERRATUM_E9,
    ERRATUM_E10, ERRATUM_E11, ERRATUM_E12, ERRATUM_E13, ERRATUM_E14, ERRATUM_E15,
)  # fmt: skip

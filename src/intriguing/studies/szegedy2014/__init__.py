"""Szegedy, Zaremba, Sutskever, Bruna, Erhan, Goodfellow, Fergus: Intriguing properties of neural networks.

arXiv:1312.6199, ICLR 2014. One module per part of the paper, in its order.
"""

from dataclasses import replace

from intriguing.studies.spec import Exhibit, Study
from intriguing.studies.szegedy2014.blind_spots import FIGURE_7, TABLE_1, TABLE_2
from intriguing.studies.szegedy2014.errata import ERRATA
from intriguing.studies.szegedy2014.halves import TABLE_3, TABLE_4
from intriguing.studies.szegedy2014.large_nets import FIGURE_5, FIGURE_6
from intriguing.studies.szegedy2014.learning import FEEDING, HARD_NEGATIVES
from intriguing.studies.szegedy2014.questions import DATA_OR_ARCHITECTURE, IMPROBABLE, INVARIANCE, SMOOTHNESS
from intriguing.studies.szegedy2014.spectral import INSTABILITY, LIPSCHITZ_PENALTY, TABLE_5
from intriguing.studies.szegedy2014.units import CARDS, FIGURE_1, FIGURE_2, FIGURE_3, FIGURE_4, ROTATION, UNITS
from intriguing.studies.szegedy2014.variants import L1_ADAM

_PARTS: dict[str, tuple[str, tuple[Exhibit, ...]]] = {
    "Units and directions": (
        "Section 3: people look at what drives a single unit and read a meaning into it. Random directions do as well. "
        "ConvNet is a small convolutional net, AlexNet the photograph net of 2012 at reduced width; FC100-100-10 has "
        "two hidden layers of 100 sigmoid units each and ten outputs.",
        (FIGURE_1, FIGURE_2, FIGURE_3, FIGURE_4, UNITS, ROTATION, CARDS),
    ),
    "Blind spots": (
        "Sections 4.1 and 4.2: for nearly every image there is a change too small to see that makes a net answer "
        "wrongly, and the same change fools other nets, even those that learnt other data. FC10 is a linear "
        "classifier, its weight decay in brackets; FC100-100-10 and FC200-200-10 have two hidden layers of so "
        "many sigmoid units; AE400-10 classifies by the features of an autoencoder with 400.",
        (TABLE_1, TABLE_2, FIGURE_7, TABLE_3, TABLE_4, FIGURE_5, FIGURE_6, L1_ADAM),
    ),
    "Learning from mistakes": (
        "Section 4.2: if a net is shown its own adversarial examples while it learns, does it get better?",
        (FEEDING, HARD_NEGATIVES),
    ),
    "Instability, layer by layer": (
        "Section 4.3: how far a small change can grow on its way through a net, and how far it does.",
        (TABLE_5, INSTABILITY, LIPSCHITZ_PENALTY),
    ),
    "Open questions": (
        "What the paper leaves to others: why adversarial examples are there, how rare they are, what it means for a "
        "neighbourhood to be smooth, and whether there is a reverse.",
        (DATA_OR_ARCHITECTURE, IMPROBABLE, SMOOTHNESS, INVARIANCE),
    ),
    "Errata": (
        "Where the print is wrong, misleading or incomplete: what it says, what is so, and a measurement of it.",
        ERRATA,
    ),
}

SZEGEDY_2014 = Study(
    name="szegedy2014",
    title="Intriguing properties of neural networks",
    citation="C. Szegedy, W. Zaremba, I. Sutskever, J. Bruna, D. Erhan, I. Goodfellow, R. Fergus. "
    "Intriguing properties of neural networks. ICLR 2014, arXiv:1312.6199.",
    summary="In 2014 a paper showed that for nearly every image a change too small to see, but not random, makes a "
    "neural network answer wrongly, and that the same change fools other networks. This page measures those claims "
    "again. The printed numbers are of MNIST and, for the large nets, of photographs.",
    exhibits=tuple(replace(exhibit, part=part) for part, (_, exhibits) in _PARTS.items() for exhibit in exhibits),
    parts={part: sentence for part, (sentence, _) in _PARTS.items()},
)

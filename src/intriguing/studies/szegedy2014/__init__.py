"""Szegedy, Zaremba, Sutskever, Bruna, Erhan, Goodfellow, Fergus: Intriguing properties of neural networks.

arXiv:1312.6199, ICLR 2014. One module per part of the paper, in its order.
"""

from intriguing.studies.spec import Study
from intriguing.studies.szegedy2014.blind_spots import FIGURE_7, TABLE_1, TABLE_2

SZEGEDY_2014 = Study(
    name="szegedy2014",
    title="Intriguing properties of neural networks",
    citation="C. Szegedy, W. Zaremba, I. Sutskever, J. Bruna, D. Erhan, I. Goodfellow, R. Fergus. "
    "Intriguing properties of neural networks. ICLR 2014, arXiv:1312.6199.",
    summary="In 2014 a paper showed that for nearly every image a change too small to see, but not random, makes a "
    "neural network answer wrongly, and that the same change fools other networks. This page measures those claims "
    "again.",
    exhibits=(TABLE_1, TABLE_2, FIGURE_7),
)

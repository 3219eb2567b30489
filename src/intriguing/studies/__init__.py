"""One module per paper or question: its tables and figures as data, each pointing at the code that computes it."""

from intriguing.studies.gross2024 import GROSS_2024
from intriguing.studies.sandwich import SANDWICH
from intriguing.studies.szegedy2014 import SZEGEDY_2014

STUDIES = {study.name: study for study in (SZEGEDY_2014, SANDWICH, GROSS_2024)}

__all__ = ["STUDIES"]

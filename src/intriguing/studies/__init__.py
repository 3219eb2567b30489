"""One module per paper or question: its tables and figures as data, each pointing at the code that computes it."""

from intriguing.studies.goodfellow2015 import GOODFELLOW_2015
from intriguing.studies.gross2024 import GROSS_2024
from intriguing.studies.madry2018 import MADRY_2018
from intriguing.studies.sandwich import SANDWICH
from intriguing.studies.szegedy2014 import SZEGEDY_2014

STUDIES = {study.name: study for study in (SZEGEDY_2014, GOODFELLOW_2015, MADRY_2018, SANDWICH, GROSS_2024)}
DEFAULT_STUDY = "szegedy2014"
"""Whose exhibits are meant where no study is named."""

__all__ = ["DEFAULT_STUDY", "STUDIES"]

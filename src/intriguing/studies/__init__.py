"""One module per paper or question: its tables and figures as data, each pointing at the code that computes it."""

from intriguing.studies.sandwich import SANDWICH
from intriguing.studies.szegedy2014 import SZEGEDY_2014

STUDIES = {study.name: study for study in (SZEGEDY_2014, SANDWICH)}

__all__ = ["STUDIES"]

"""One module per paper: its tables and figures as data, each pointing at the code that computes it."""

from intriguing.studies.szegedy2014 import SZEGEDY_2014

STUDIES = {SZEGEDY_2014.name: SZEGEDY_2014}

__all__ = ["STUDIES"]

"""The blind spots of image classifiers, measured.

What a user may rely on: the modules below and the names in their ``__all__``.
"""

from intriguing import attacks, data, errors, nets, norms, optim, rng
from intriguing.nets.load import Model

__version__ = "0.1.0"

__all__ = ["Model", "attacks", "data", "errors", "nets", "norms", "optim", "rng"]

"""Batched box-constrained quasi-Newton minimisation. Knows nothing of images or nets; imports torch and NumPy alone."""

from intriguing.optim.lbfgsb import Finished, Solver
from intriguing.optim.minimize import Solution, minimize
from intriguing.optim.status import Status

__all__ = ["Finished", "Solution", "Solver", "Status", "minimize"]

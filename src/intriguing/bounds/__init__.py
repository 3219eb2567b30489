"""How much a net can stretch a perturbation, and how near its decision can be to change: bounds that are proved.

Operator norms, Lipschitz constants and measured gains; certified radii and exact distances of single images; and, kept
apart, the probable radii of randomised smoothing.
"""

from intriguing.bounds.certificates import Certificate, certify
from intriguing.bounds.constants import Constant, lipschitz
from intriguing.bounds.exact import Exact, exact_distance
from intriguing.bounds.network import layer_bounds, product
from intriguing.bounds.operators import LayerBound
from intriguing.bounds.smoothing import Smoothed, smoothed

__all__ = [
    "Certificate", "Constant", "Exact", "LayerBound", "Smoothed", "certify", "exact_distance", "layer_bounds",
    "lipschitz", "product", "smoothed",
]  # fmt: skip

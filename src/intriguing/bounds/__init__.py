"""How much a net can stretch a perturbation, and how near its decision can be to change: bounds that are proved.

Operator norms, Lipschitz constants and measured gains; certified radii of single images.
"""

from intriguing.bounds.certificates import Certificate, certify
from intriguing.bounds.constants import Constant, lipschitz
from intriguing.bounds.network import layer_bounds, product
from intriguing.bounds.operators import LayerBound

__all__ = ["Certificate", "Constant", "LayerBound", "certify", "layer_bounds", "lipschitz", "product"]

"""How much a layer, and a whole net, can stretch a perturbation: operator norms, Lipschitz bounds, measured gains."""

from intriguing.bounds.network import layer_bounds, product
from intriguing.bounds.operators import LayerBound

__all__ = ["LayerBound", "layer_bounds", "product"]

"""The paper's nets by name, and `Model`, the wrapper every part of the library takes."""

from intriguing.nets.load import Model, as_model
from intriguing.nets.zoo import NETS, NetSpec, build

__all__ = ["NETS", "Model", "NetSpec", "as_model", "build"]

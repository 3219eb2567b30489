"""Sources of labelled images: the embedded digits, a user's folder, sets of the hub, tensors in memory.

Every set arrives as an `ImageSet`: float32 pixels in [0, 1], labels, class names, and a hash of its content.
"""

from intriguing.data.sets import ImageSet, from_tensors
from intriguing.data.sources import load, names
from intriguing.data.split import halves

__all__ = ["ImageSet", "from_tensors", "halves", "load", "names"]

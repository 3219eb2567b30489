"""The embedded set: 1,797 scans of 8 x 8 that come with scikit-learn, in a fixed split of our own."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from intriguing.data.images import Picture
from intriguing.data.rows import Rows
from intriguing.data.split import sample
from intriguing.rng import generator

SPLITS = ("train", "test")
TEST = 500  # images kept for testing; the other 1,297 are for training


@dataclass(frozen=True)
class Digits:
    """One split of the digits.

    The test images are drawn in proportion to the classes by the generator ``"data/digits/split"`` with seed
    0; both splits keep the order of the source. Pixels are the values 0 to 16, over 16.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (its test part), UCI Machine
    Learning Repository, 1998.
    """

    split: str

    def fingerprint(self) -> dict[str, Any]:
        """Return the version of the package that carries the images."""
        return {"embedded": "digits", "scikit-learn": version("scikit-learn"), "split": self.split}

    def open(self) -> Rows:
        """Take the images from scikit-learn, imported here because it is slow to import."""
        from sklearn.datasets import load_digits

        scans = load_digits()
        labels = torch.from_numpy(scans.target).to(torch.int64)
        testing = torch.zeros(len(labels), dtype=torch.bool)
        testing[sample(labels, TEST, generator("data/digits/split", 0))] = True
        chosen = (testing if self.split == "test" else ~testing).nonzero().flatten()
        pixels = (scans.images[chosen.numpy()] / 16).astype(np.float32)

        def pictures(wanted: Tensor) -> list[Picture]:
            return [Picture(pixels[i], f"row {i} of the digits") for i in wanted.tolist()]

        source = "scikit-learn's load_digits, value / 16, cut into 1,297 images for training and 500 for testing"
        return Rows(labels[chosen], tuple(str(digit) for digit in range(10)), pictures, {"source": source})

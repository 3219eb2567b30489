"""AlexNet: Krizhevsky, Sutskever and Hinton 2012, sections 3 and 4, the photograph net of Szegedy et al. 2014.

Five convolutions and three dense layers with ReLU; after the first two convolutions a normalisation across
channels (3.3), after these and the last one overlapping 3 x 3 max-pooling with stride 2 (3.4); dropout on the
first two dense layers (4.2). Public versions differ, and so do their weights (D19): see `VARIANTS`.
"""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own abbreviation)

from intriguing import rng
from intriguing.errors import InputError, ModelError, UnknownNameError
from intriguing.nets.convolutional import checked_shape, drawn

LEAST_SIDE = 63  # of an image: the three poolings leave one pixel of it
DENSE = 4096  # units of each of the two hidden dense layers


class ChannelNorm(nn.LocalResponseNorm):
    """`nn.LocalResponseNorm` of images (B, C, H, W), several times faster on a CPU: the sum is a 1 x 1 convolution."""

    def forward(self, input: Tensor) -> Tensor:
        """Return b_c = a_c / (k + (alpha / n) sum over n channels around c of a^2)^beta (section 3.3)."""
        C, n = input.shape[1], self.size
        around = torch.ones(C, C, dtype=input.dtype, device=input.device).triu_(-(n // 2)).tril_((n - 1) // 2)
        sums = F.conv2d(input.square(), around.mul_(self.alpha / n)[:, :, None, None], input.new_full((C,), self.k))
        # A general power costs as much as a convolution; the published exponent is two square roots.
        return input * ((sums * sums.sqrt()).rsqrt() if self.beta == 0.75 else sums.pow(-self.beta))


class Dropout(nn.Dropout):
    """`nn.Dropout` that draws from a generator where one is set, not from the global random state."""

    generator: torch.Generator | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Return the input; in training with a share p of its entries set to 0 and the rest over 1 - p."""
        if not self.training or self.generator is None:
            return super().forward(input)
        kept = torch.rand(input.shape, generator=self.generator, device=self.generator.device) >= self.p
        return input * kept.to(input) / (1 - self.p)


@dataclass(frozen=True)
class Variant:
    """What tells public versions of AlexNet apart.

    Attributes:
        description: one line for a person.
        channels: of the five convolutions.
        groups: of the second, fourth and fifth convolution; 2 where the net was split over two processors.
        padding: of the first convolution.
        norm: (alpha, k) of the normalisation across channels in torch's form, whose alpha is divided by the number
            of channels summed over; None where there is none.
        bgr: whether its weights take blue before red.
    """

    description: str
    channels: tuple[int, int, int, int, int]
    groups: int
    padding: int
    norm: tuple[float, float] | None
    bgr: bool = False


VARIANTS = {
    # Section 3.3: b = a / (k + alpha sum a^2)^beta over n = 5 channels, k = 2, alpha = 1e-4, beta = 0.75. Torch
    # divides its alpha by n. Padding 2 makes the 55 x 55 outputs of the paper from its 224 x 224 inputs.
    "published": Variant("Krizhevsky et al. 2012 as printed", (96, 256, 384, 384, 256), 2, 2, (5e-4, 2.0)),
    "ungrouped": Variant("as printed, on one processor", (96, 256, 384, 384, 256), 1, 2, (5e-4, 2.0)),
    "caffe": Variant("Caffe's weights, for 227 x 227 inputs", (96, 256, 384, 384, 256), 2, 0, (1e-4, 1.0), bgr=True),
    "torchvision": Variant(
        "torchvision's: fewer channels, no normalisation (Krizhevsky 2014)", (64, 192, 384, 256, 256), 1, 2, None
    ),
}
"""Public versions by name. Table 5 of Szegedy et al. 2014 prints the shapes of ``"ungrouped"``."""


def alexnet(
    shape: Sequence[int],
    classes: int,
    *,
    width: float = 1.0,
    dense: float | None = None,
    variant: str = "ungrouped",
    dropout: float = 0.5,
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """Return a fresh AlexNet, in float32 on the CPU.

    Its layers are ``conv1 relu1 norm1 pool1 conv2 relu2 norm2 pool2 conv3 relu3 conv4 relu4 conv5 relu5 pool5 flatten
    fc1 relu6 drop1 fc2 relu7 drop2 fc3``; without the norms for ``"torchvision"``. ``fc3`` gives the logits.

    Args:
        shape: shape of one image, (C, H, W), with sides of at least 63; the published one is (3, 224, 224).
        classes: number of classes K, at least 2.
        width: factor of all numbers of channels, rounded to multiples of 8 (of 4 below 16).
        dense: the same for the hidden dense layers; by default `width`.
        variant: a key of `VARIANTS`.
        dropout: share of the hidden dense units that is dropped in training.
        generator: where the weights come from; by default one of its own.

    Returns:
        A module from (B, C, H, W) to logits (B, K), in training mode.

    Raises:
        InputError: a shape, a width or a number of classes that the net cannot have.
        UnknownNameError: no such variant.

    Example:
        >>> alexnet((3, 64, 64), 20, width=0.125)(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 20])
    """
    with torch.device("meta"):  # torch would draw the weights from the global random state
        net = _layers(shape, classes, width, width if dense is None else dense, variant, dropout)
    return drawn(net, generator or rng.generator("net/AlexNet", 0))


def shapes(
    shape: Sequence[int] = (3, 224, 224), classes: int = 1000, *, width: float = 1.0, variant: str = "ungrouped"
) -> nn.Sequential:
    """Return an AlexNet on the meta device: all shapes and strides, no memory, no weights.

    Example:
        >>> shapes().fc1.weight.shape
        torch.Size([4096, 9216])
    """
    with torch.device("meta"):
        return _layers(shape, classes, width, width, variant, 0.5)


def _layers(
    shape: Sequence[int], classes: int, width: float, dense: float, variant: str, dropout: float
) -> nn.Sequential:
    C, H, W = checked_shape(shape, classes, LEAST_SIDE)
    if variant not in VARIANTS:
        raise UnknownNameError("variant of AlexNet", variant, VARIANTS)
    chosen = VARIANTS[variant]
    for name, value, most in (("width", width, 64.0), ("dense", dense, 64.0), ("dropout", dropout, 0.99)):
        if not (0 <= value <= most and (value > 0 or name == "dropout")):
            raise InputError(f"{name}: expected a number above 0 and at most {most:g}, got {value}")
    c1, c2, c3, c4, c5 = (_scaled(count, width) for count in chosen.channels)
    units = _scaled(DENSE, dense)
    g, padding = chosen.groups, chosen.padding
    layers: OrderedDict[str, nn.Module] = OrderedDict()

    def norm_and_pool(number: int) -> None:
        if chosen.norm is not None:
            alpha, k = chosen.norm
            layers[f"norm{number}"] = ChannelNorm(5, alpha=alpha, beta=0.75, k=k)
        layers[f"pool{number}"] = nn.MaxPool2d(3, stride=2)

    layers["conv1"] = nn.Conv2d(C, c1, 11, stride=4, padding=padding)
    layers["relu1"] = nn.ReLU()
    norm_and_pool(1)
    layers["conv2"] = nn.Conv2d(c1, c2, 5, padding=2, groups=g)
    layers["relu2"] = nn.ReLU()
    norm_and_pool(2)
    layers["conv3"] = nn.Conv2d(c2, c3, 3, padding=1)
    layers["relu3"] = nn.ReLU()
    layers["conv4"] = nn.Conv2d(c3, c4, 3, padding=1, groups=g)
    layers["relu4"] = nn.ReLU()
    layers["conv5"] = nn.Conv2d(c4, c5, 3, padding=1, groups=g)
    layers["relu5"] = nn.ReLU()
    layers["pool5"] = nn.MaxPool2d(3, stride=2)
    layers["flatten"] = nn.Flatten()
    layers["fc1"] = nn.Linear(c5 * _side(H, padding) * _side(W, padding), units)
    layers["relu6"] = nn.ReLU()
    layers["drop1"] = Dropout(dropout)
    layers["fc2"] = nn.Linear(units, units)
    layers["relu7"] = nn.ReLU()
    layers["drop2"] = Dropout(dropout)
    layers["fc3"] = nn.Linear(units, classes)
    return nn.Sequential(layers)


def _scaled(count: int, width: float) -> int:
    """Return a reduced number of channels that fits groups and vector registers."""
    step = 8 if count * width >= 16 else 4
    return max(step, round(count * width / step) * step)


def _side(side: int, padding: int) -> int:
    """Return the side of the last pooling's output for images of `side` pixels."""
    side = (side + 2 * padding - 11) // 4 + 1
    for _ in range(3):
        side = (side - 3) // 2 + 1
    if side < 1:
        raise InputError(f"images are too small for AlexNet with padding {padding}; give at least 67 pixels a side")
    return side


def load_published(path: str | Path, *, variant: str | None = None) -> nn.Sequential:
    """Return an AlexNet with weights from a file the user has, in evaluation mode, on the CPU.

    The layers of the file are matched by their order: the names may be ``conv1 ... fc3``, Caffe's ``conv1 ... fc8`` or
    torchvision's ``features.N``/``classifier.N``, with or without ``module.`` before them. What the numbers mean to
    the net is up to the file: torchvision's weights expect ``Model(net, mean=(0.485, 0.456, 0.406), std=(0.229,
    0.224, 0.225))``; Caffe's ``mean=(0.482, 0.459, 0.408), std=1 / 255``, and its blue-green-red order is turned
    round here, so that images stay red-green-blue.

    Args:
        path: a ``.safetensors`` file, or a torch file of tensors (read with ``weights_only=True``).
        variant: a key of `VARIANTS`; by default told from the names and shapes of the weights.

    Raises:
        InputError: no such file, or not one of weights.
        ModelError: the weights are not those of an AlexNet, or of another variant than asked for.
        UnknownNameError: no such variant.

    Example:
        net = load_published("alexnet-owt-7be5be79.pth")
        model = Model(net, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    """
    if variant is not None and variant not in VARIANTS:
        raise UnknownNameError("variant of AlexNet", variant, VARIANTS)
    layers = _ordered(_read(Path(path)), path)
    names = [name for name, _, _ in layers]
    found = variant or _recognised(names, layers, path)
    classes = layers[-1][1].shape[0]
    side = 227 if VARIANTS[found].padding == 0 else 224
    net = shapes((3, side, side), classes, variant=found)
    state: dict[str, Tensor] = {}
    for (own, wanted), (name, weight, bias) in zip(_weighted(net), layers, strict=True):
        if weight.shape != wanted or bias.shape != wanted[:1]:
            raise ModelError(
                f"{path}: {name} has weights {tuple(weight.shape)} and biases {tuple(bias.shape)}, but {own} of the "
                f"{found!r} AlexNet has {tuple(wanted)} and {tuple(wanted[:1])}; name another variant "
                f"({', '.join(VARIANTS)}) or give another file"
            )
        state |= {f"{own}.weight": weight.float(), f"{own}.bias": bias.float()}
    if VARIANTS[found].bgr:
        state["conv1.weight"] = state["conv1.weight"].flip(1)
    net.load_state_dict(state, assign=True)
    return net.requires_grad_(False).eval()


def _weighted(net: nn.Module) -> list[tuple[str, torch.Size]]:
    """Return the names of the layers that have weights, and the shapes of these."""
    layers = [(name, layer) for name, layer in net.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    return [(name, layer.weight.shape) for name, layer in layers]


def _read(path: Path) -> Mapping[str, Tensor]:
    """Return the named tensors of a file of weights."""
    if not path.is_file():
        raise InputError(f"path: {path} is no file; give the file that holds AlexNet's weights")
    try:
        found: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise InputError(
            f"path: {path} cannot be read as weights ({str(error).splitlines()[0][:200]}); give a .safetensors file, "
            "or a torch file that holds tensors alone"
        ) from error
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise InputError(f"path: {path} holds {type(found).__name__}, not named tensors; give a file of a state dict")
    return found


def _ordered(tensors: Mapping[str, Tensor], path: str | Path) -> list[tuple[str, Tensor, Tensor]]:
    """Return (name, weights, biases) of the eight layers, in the order of the signal."""
    layers = []
    for key, weight in tensors.items():
        name = key.removesuffix(".weight")
        if name == key or weight.ndim not in (2, 4):
            continue
        if f"{name}.bias" not in tensors:
            raise ModelError(f"{path}: {name} has weights but no biases; AlexNet's layers have both")
        layers.append((name, weight, tensors[f"{name}.bias"]))
    # Convolutions first; within each kind by the numbers in the names, since 10 comes after 6.
    layers.sort(key=lambda layer: (-layer[1].ndim, [int(digits) for digits in re.findall(r"\d+", layer[0])]))
    kinds = [weight.ndim for _, weight, _ in layers]
    if kinds != [4] * 5 + [2] * 3 or len(tensors) != 16:
        raise ModelError(
            f"{path}: expected the weights and biases of five convolutions and three dense layers, got "
            f"{kinds.count(4)} convolutions and {kinds.count(2)} dense layers among {len(tensors)} tensors; "
            "give the weights of an AlexNet without batch normalisation"
        )
    return layers


def _recognised(names: Sequence[str], layers: Sequence[tuple[str, Tensor, Tensor]], path: str | Path) -> str:
    """Return the variant that the shapes, and where these leave it open the names, belong to."""
    channels = tuple(weight.shape[0] for _, weight, _ in layers[:5])
    groups = channels[0] // max(1, layers[1][1].shape[1])
    fitting = [key for key, one in VARIANTS.items() if (one.channels, one.groups) == (channels, groups)]
    if not fitting:
        raise ModelError(
            f"{path}: convolutions of {', '.join(map(str, channels))} channels, {groups} groups in the second, are no "
            f"AlexNet known here; known are {', '.join(f'{k} {v.channels}' for k, v in VARIANTS.items())}"
        )
    caffe = names[-1].endswith("fc8")
    return "caffe" if caffe and "caffe" in fitting else fitting[0]

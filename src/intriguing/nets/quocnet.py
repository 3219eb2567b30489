"""QuocNet: locally connected filters with untied weights, L2 pooling and local contrast normalisation.

Le, Ranzato, Monga, Devin, Chen, Corrado, Dean and Ng, "Building high-level features using large scale unsupervised
learning", ICML 2012 (arXiv:1112.6209): the unsupervised net of Figure 6 of Szegedy et al. 2014. One stage is

    z_l = W_l x_l                                   at every place l, filters of its own
    p   = sqrt(eps + sum of z^2 over a window)      map by map, fixed weights of 1
    h   = p - sum of G p,  y = h / max(c, sqrt(sum of G h^2))     over a window and all maps, G Gaussian, c = 0.01

and three of them stand on each other. Nothing but the W_l is learned, by reconstruction (`training.reconstruction`).

The published size, as far as it is printed: images of 200 x 200 x 3, receptive fields of 18 x 18, 8 maps, pooling and
normalisation over 5 x 5, 3 stages, "1 billion" parameters. Strides and borders are not printed. With stride 1 and no
padding anywhere, the subtractive and the divisive window of the normalisation included, the encoder has 1.076e9
weights (with padded normalisation it would have 1.217e9): this is the default here.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own abbreviation)

from intriguing.errors import InputError

_EPS = 1e-4  # under the root of the pooling; the paper's epsilon, whose value it does not print
_LEAST_DEVIATION = 0.01  # c of the divisive normalisation, as printed


class LocallyConnected(nn.Module):
    """Filters with weights of their own at every place: a convolution that shares nothing, without bias.

    Args:
        channels: C of the images.
        maps: M, filters per place.
        side: S, height and width of the images.
        field: F, height and width of a receptive field, at most S.
        stride: from one place to the next.

    Attributes:
        weight: (L, M, C F F), L the number of places, row by row; unset until drawn or loaded.
    """

    def __init__(self, channels: int, maps: int, side: int, field: int, stride: int = 1) -> None:
        super().__init__()
        if not 1 <= field <= side:
            raise InputError(f"field: expected 1 to {side}, the side of what it looks at, got {field}")
        self.side, self.field, self.stride = side, field, stride
        self.places = (side - field) // stride + 1
        self.weight = nn.Parameter(torch.empty(self.places**2, maps, channels * field**2))

    def patches(self, images: Tensor) -> Tensor:
        """Return what each place sees: (B, C, S, S) -> (L, C F F, B)."""
        return F.unfold(images, self.field, stride=self.stride).permute(2, 1, 0)

    def forward(self, images: Tensor) -> Tensor:
        """Return W x: (B, C, S, S) -> (B, M, P, P), P the places along one side."""
        z = torch.bmm(self.weight, self.patches(images))
        return z.permute(2, 1, 0).reshape(images.shape[0], -1, self.places, self.places)

    def decode(self, features: Tensor) -> Tensor:
        """Return W^T z, the sum of all places' filters: (B, M, P, P) -> (B, C, S, S)."""
        z = features.flatten(2).permute(2, 1, 0)
        patches = torch.bmm(self.weight.transpose(1, 2), z)
        return F.fold(patches.permute(2, 1, 0), (self.side, self.side), self.field, stride=self.stride)


class L2Pooling(nn.Module):
    """sqrt(eps + the sum of squares) over a window of each map, as in `sizes`; (B, M, S, S) -> (B, M, P, P)."""

    def __init__(self, window: int, stride: int = 1) -> None:
        super().__init__()
        self.window, self.stride = window, stride

    def forward(self, features: Tensor) -> Tensor:
        """Return the pooled features."""
        squares = F.avg_pool2d(features.square(), self.window, self.stride) * self.window**2
        return (_EPS + squares).sqrt()


class ContrastNormalisation(nn.Module):
    """Subtract the local mean over all maps, then divide by the local deviation (Jarrett et al. 2009).

    Args:
        window: odd side of the Gaussian window, whose standard deviation is a quarter of it.
        padded: keep the side by repeating the border. Otherwise each of the two windows costs ``window - 1``.
    """

    gaussian: Tensor

    def __init__(self, window: int, *, padded: bool = False) -> None:
        super().__init__()
        if window < 1 or window % 2 == 0:
            raise InputError(f"window of the contrast normalisation: expected an odd number, got {window}")
        self.window, self.padded = window, padded
        offsets = torch.arange(window) - window // 2
        bell = torch.exp(-0.5 * (4 * offsets / window) ** 2)
        kernel = bell[:, None] * bell
        self.register_buffer("gaussian", (kernel / kernel.sum())[None, None], persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, M, S, S), or S less ``2 (window - 1)`` where nothing is padded."""
        h = self._inner(features) - self._local(features)
        deviation = self._local(h.square()).sqrt()
        return self._inner(h) / deviation.clamp_min(_LEAST_DEVIATION)

    def _local(self, features: Tensor) -> Tensor:
        """Return the weighted mean over the window and all maps, (B, 1, ., .)."""
        mean = features.mean(1, keepdim=True)
        if self.padded:
            mean = F.pad(mean, [self.window // 2] * 4, mode="replicate")
        return F.conv2d(mean, self.gaussian)

    def _inner(self, features: Tensor) -> Tensor:
        """Return what the windows are centred on."""
        edge = 0 if self.padded else self.window // 2
        return features[..., edge : features.shape[-2] - edge, edge : features.shape[-1] - edge]


def quocnet(
    stages: int = 3,
    side: int = 200,
    channels: int = 3,
    *,
    maps: int = 8,
    field: int = 18,
    stride: int = 1,
    pool: int = 5,
    window: int = 5,
    padded: bool = False,
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """Return the feature extractor, by default of the published size: do not build that outside the meta device.

    Weights are normal with a variance that makes W^T W the identity on average, one over the filters that look at
    a pixel: a net that reconstructs nothing in particular, of the right scale.

    Args:
        stages: how often filtering, pooling and normalisation are repeated.
        side: of the images, in pixels.
        channels: of the images.
        maps: filters per place, in every stage.
        field: side of a receptive field, in every stage.
        stride: between receptive fields.
        pool: side of the pooling window; its stride is 1.
        window: side of the contrast normalisation's window, odd.
        padded: whether the normalisation keeps the side; small nets have no border to give away.
        generator: draws the weights. None leaves them unset, for weights that are loaded or never needed.

    Returns:
        A module from (B, channels, side, side) to (B, maps, P, P); its parts are called ``filter1``, ``pool1``,
        ``normal1``, ``filter2``, ...

    Raises:
        InputError: a size below 1, or an image that the stages use up; the message says at which stage.

    Example:
        >>> with torch.device("meta"):
        ...     published = quocnet()
        >>> round(sum(weight.numel() for weight in published.parameters()) / 1e9, 3)
        1.076
    """
    counts = {"stages": stages, "side": side, "channels": channels, "maps": maps, "stride": stride, "pool": pool}
    for name, count in counts.items():
        if count < 1:
            raise InputError(f"{name}: expected at least 1, got {count}")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for stage in range(1, stages + 1):
        left = (side - field) // stride + 1 - (pool - 1) - (0 if padded else 2 * (window - 1))
        if side < field or left < 1:
            raise InputError(
                f"stage {stage} of {stages} is given {side} x {side} places and leaves none: its field of {field}, "
                f"pooling of {pool} and normalisation of {window} need more; take larger images or smaller windows"
            )
        layers[f"filter{stage}"] = LocallyConnected(channels, maps, side, field, stride)
        layers[f"pool{stage}"] = L2Pooling(pool)
        layers[f"normal{stage}"] = ContrastNormalisation(window, padded=padded)
        side, channels = left, maps
    net = nn.Sequential(layers)
    if generator is not None:
        _draw(net, generator)
    return net


@torch.no_grad()
def _draw(net: nn.Sequential, generator: torch.Generator) -> None:
    """Set every weight in place."""
    for layer in net.modules():
        if isinstance(layer, LocallyConnected):
            lookers = layer.weight.shape[0] * layer.weight.shape[1] * layer.field**2 / layer.side**2
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) / lookers**0.5)


def detector(side: int, channels: int, *, generator: torch.Generator | None = None, **sizes: Any) -> nn.Sequential:
    """Return the features with a head of one logit on all of them, which starts at zero; see `quocnet`.

    Args:
        side: of the images.
        channels: of the images.
        generator: draws the features' weights; None leaves them unset.
        **sizes: ``stages``, ``maps``, ``field``, ``stride``, ``pool``, ``window`` and ``padded`` of `quocnet`.

    Returns:
        A module from (B, channels, side, side) to (B, 1), with the parts ``features``, ``flatten`` and ``head``. As a
        `Model` it has two classes: 1 where the logit is positive, else 0.

    Raises:
        InputError: see `quocnet`.

    Example:
        >>> detector(8, 1, stages=2, maps=4, field=3, pool=1, window=3, padded=True).get_submodule("head")
        Linear(in_features=64, out_features=1, bias=True)
    """
    features = quocnet(side=side, channels=channels, generator=generator, **sizes)
    with torch.device("meta"):
        width = quocnet(side=side, channels=channels, **sizes)(torch.empty(1, channels, side, side)).numel()
        head = nn.Linear(width, 1)  # on a device with memory it would draw from the global random state
    head = head.to_empty(device="cpu")
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
    return nn.Sequential(OrderedDict(features=features, flatten=nn.Flatten(), head=head))

"""How far each layer of a net really stretches a change: what is measured beside the bounds of `network`.

gain of layer k = ||h_k(x + r) - h_k(x)|| / ||h_(k-1)(x + r) - h_(k-1)(x)||, h_k what the net holds after layer k.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from intriguing import norms
from intriguing.bounds.operators import LayerBound
from intriguing.nets.load import Model


@torch.no_grad()
def layer_gains(model: Model, layers: Sequence[LayerBound], x: Tensor, r: Tensor) -> list[Tensor]:
    """Return how far each layer stretches what a change of the image has become before it, in float64.

    Where layers follow each other the gains multiply to that of the whole net, as their bounds do: the logarithm of
    bound over gain says how much of the whole bound's looseness on this change is the layer's.

    Args:
        model: left as it is.
        layers: of `network.layer_bounds`.
        x: (B, ...) images.
        r: (B, ...) changes, none of them zero.

    Returns:
        (B,) float64 per layer; 0 / 0, where nothing is left of the change, is NaN.

    Example:
        >>> model = Model(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
        >>> x = torch.rand(2, 1, 2, 2)
        >>> [gain.shape for gain in layer_gains(model, layer_bounds(model, (1, 2, 2)), x, x)]  # doctest: +SKIP
        [torch.Size([2]), torch.Size([2])]
    """
    double, B = copy.deepcopy(model), len(x)
    entered: dict[str, list[Tensor]] = {}
    left: dict[str, list[Tensor]] = {}

    def change(h: Tensor) -> Tensor:
        return norms.l2(h[B:] - h[:B])

    def watch(path: str, module: nn.Module) -> None:
        def before(module: nn.Module, given: tuple[Any, ...]) -> None:
            entered.setdefault(path, []).append(change(given[0]))  # now: an operation in place may change it

        def after(module: nn.Module, given: tuple[Any, ...], answer: Any) -> None:
            if isinstance(answer, Tensor):
                left.setdefault(path, []).append(change(answer))

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)

    with double.frozen():
        assert isinstance(double.net, nn.Module)  # it has layers
        double.net.double()
        for path, module in double.net.named_modules():
            watch(path, module)
        images = x.detach().to(double.device, torch.float64)
        double(torch.cat((images, images + r.to(images))))
    found: list[Tensor] = []
    times: dict[str, int] = {}
    for layer in layers:
        k = times[layer.name] = times.get(layer.name, -1) + 1  # a module may stand in a net more than once
        if layer.name == "preprocessing":
            found.append(entered[""][0] / norms.l2(r.double()).to(double.device))
            continue
        first, _, folded = layer.name.partition("+")
        parent = first.rpartition(".")[0]
        last = (f"{parent}.{folded}" if parent else folded) if folded else first
        found.append(left[last][k] / entered[first][k])
    return [gain.cpu() for gain in found]

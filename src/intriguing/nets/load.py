"""`Model`: one honest wrapper around a user's net, and the rules every part of the library relies on.

The wrapper's inputs are pixels in a stated box; preprocessing happens inside. Its outputs are logits (B, K).
It never moves the net, never changes it for good, and adds next to nothing to the time of a call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from intriguing.errors import DataError, InputError, ModelError

# Published normalisations (mean, standard deviation), named in a message when pixels fit one of them.
_NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "MNIST": ((0.1307,), (0.3081,)),
    "Fashion-MNIST": ((0.2860,), (0.3530,)),
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR-10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "CIFAR-100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "half": ((0.5,), (0.5,)),
}


class Model:
    """A net with its box, its preprocessing and its rules.

    Calling it with images (B, C, H, W) or (B, n) in the box returns logits (B, K), differentiable with
    respect to the images. A net's answer may also be an object with ``.logits``, a mapping with ``"logits"``,
    or a tuple or list of one tensor. A single logit z per image, (B,) or (B, 1), becomes the two logits
    (0, z), so that class 1 has probability sigmoid(z).

    The net stays where it is and as it is: device and dtype are read from its parameters, and `frozen` puts
    back whatever it changes.

    Args:
        net: a module, or any function from images to logits.
        box: smallest and largest pixel, in the units of the images; attacks stay inside.
        mean: subtracted from the pixels, a number or one per channel (axis 1).
        std: divides them afterwards, a number or one per channel, positive.
        name: what reports call it; by default the class name.

    Raises:
        InputError: something that is no net, an empty box, or a standard deviation that is not positive.

    Example:
        >>> model = Model(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), mean=0.5, std=0.25)
        >>> model(torch.rand(2, 1, 2, 2)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        net: nn.Module | Callable[[Tensor], Any],
        box: tuple[float, float] = (0.0, 1.0),
        mean: float | Sequence[float] | Tensor | None = None,
        std: float | Sequence[float] | Tensor | None = None,
        name: str | None = None,
    ) -> None:
        if not callable(net):
            raise InputError(f"net must be a torch module or a function from images to logits, got {net!r}")
        low, high = (float(side) for side in box)
        if not low < high:
            raise InputError(f"box must be (lowest, highest) pixel with lowest < highest, got {box}")
        self.net = net
        self.box = (low, high)
        self.mean = _channel_values("mean", mean)
        self.std = _channel_values("std", std)
        if not bool((self.std > 0).all()) or not bool(self.mean.isfinite().all()):
            raise InputError(f"std must be positive and mean finite, got std={std}, mean={mean}")
        self.name = name or (type(net).__name__ if isinstance(net, nn.Module) else _function_name(net))
        self._preprocesses = mean is not None or std is not None
        self._constants: dict[tuple[torch.device, torch.dtype, int], tuple[Tensor, Tensor]] = {}

    def __repr__(self) -> str:
        return f"Model({self.name}, box={self.box})"

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of images (B, C, H, W) or (B, n) in the box.

        Raises:
            ModelError: an answer that is not one row of logits per image. Values are not looked at: see
                `check`.
        """
        answer = self.net(self._preprocess(images) if self._preprocesses else images)
        # The hot path: an ordinary net passes these comparisons and nothing else.
        if type(answer) is Tensor and answer.ndim == 2 and answer.is_floating_point():
            rows, columns = answer.shape
            if columns > 1 and rows == images.shape[0]:
                return answer
        return _logits(answer, images.shape[0])

    @property
    def device(self) -> torch.device:
        """Where the net's parameters are now; the CPU if it has none."""
        found = self._example()
        return torch.device("cpu") if found is None else found.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the net's floating-point parameters; float32 if it has none."""
        found = self._example()
        return torch.float32 if found is None else found.dtype

    @contextmanager
    def frozen(self) -> Iterator[Model]:
        """Put every submodule in evaluation mode, let no parameter ask for a gradient, and restore both.

        Each submodule's own mode and each parameter's own `requires_grad` come back, also after an exception;
        gradients stored in ``.grad`` are not touched. The flags are set directly: `eval()` may be overridden
        to do more (merge adapters, say) than the way back would undo.

        Example:
            >>> net = nn.Linear(2, 3)
            >>> with Model(net).frozen():
            ...     net.training, net.weight.requires_grad
            (False, False)
            >>> net.training, net.weight.requires_grad
            (True, True)
        """
        modules, parameters = self._modules(), self._parameters()
        modes = [module.training for module in modules]
        flags = [parameter.requires_grad for parameter in parameters]
        try:
            for module in modules:
                module.training = False
            for parameter in parameters:
                parameter.requires_grad_(False)
            yield self
        finally:
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode
            for parameter, flag in zip(parameters, flags, strict=True):
                parameter.requires_grad_(flag)

    def check(self, logits: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the logits if they can be used. For entry points, not for every call: it reads the values.

        Args:
            logits: (B, K), what the model returned.
            labels: the images' labels (B,), if they should fit the classes.

        Raises:
            ModelError: NaN or infinite logits (with the rows), or fewer classes than the labels need.

        Example:
            >>> Model(nn.Identity()).check(torch.tensor([[0.0, 1.0]])).shape
            torch.Size([1, 2])
        """
        finite = logits.detach().isfinite().all(dim=1)
        if not bool(finite.all()):
            rows = _some((~finite).nonzero().flatten().tolist())
            raise ModelError(
                f"{self.name} returns NaN or infinite logits for images {rows}. Check its weights, and "
                f"that its images belong in the box {self.box}."
            )
        if labels is not None and labels.numel() and int(labels.max()) >= logits.shape[1]:
            raise ModelError(
                f"{self.name} returns {logits.shape[1]} classes but the labels go up to {int(labels.max())}. "
                "Give a net with one logit per class (a net with a single column counts as two classes)."
            )
        return logits

    def check_inputs(self, images: Tensor) -> Tensor:
        """Return the images if they can be attacked.

        Args:
            images: (B, C, H, W) or (B, n), a floating dtype, every pixel finite and in the box.

        Raises:
            DataError: anything else. The message names the images, the range found, and the normalisation or
                scale the pixels seem to have.

        Example:
            >>> Model(nn.Flatten()).check_inputs(torch.zeros(1, 1, 2, 2)).shape
            torch.Size([1, 1, 2, 2])
        """
        low, high = self.box
        if not images.is_floating_point():
            raise DataError(
                f"images must be floating point in [{low:g}, {high:g}], got {images.dtype}. For bytes "
                "0..255 pass images.float() / 255."
            )
        if images.ndim not in (2, 4) or not images.numel():
            raise DataError(
                f"images must be (B, C, H, W) or (B, n) with at least one image and one pixel, got shape "
                f"{tuple(images.shape)}"
            )
        rows = images.detach().flatten(1)
        finite = rows.isfinite().all(dim=1)
        if not bool(finite.all()):
            bad = _some((~finite).nonzero().flatten().tolist())
            raise DataError(f"NaN or infinite pixels in images {bad}. Repair these images or leave them out.")
        least, most = rows.amin(dim=1), rows.amax(dim=1)
        outside = (least < low) | (most > high)
        if bool(outside.any()):
            raise DataError(
                f"pixels must lie in the box [{low:g}, {high:g}], but go from {least.min().item():.4g} to "
                f"{most.max().item():.4g} (images {_some(outside.nonzero().flatten().tolist())}). "
                + _advice(images.detach(), self.box)
            )
        return images

    @torch.no_grad()
    def logits(self, images: Tensor, batch: int = 1000) -> Tensor:
        """Return the logits (B, K) of any number of images, frozen, without gradients, checked.

        Only `batch` images at a time go to the net's device and dtype; the answer is on the images' device.

        Raises:
            ModelError: see `__call__` and `check`.
        """
        if batch < 1:
            raise InputError(f"batch must be at least 1, got {batch}")
        device, dtype = self.device, self.dtype
        with self.frozen():
            parts = [
                self.check(self(part.to(device=device, dtype=dtype))).to(images.device)
                for part in torch.split(images, batch)
            ]
        return torch.cat(parts)

    def predict(self, images: Tensor, batch: int = 1000) -> Tensor:
        """Return the class of the largest logit, (B,) int64, on the images' device.

        Args:
            images: (B, C, H, W) or (B, n) in the box, on any device.
            batch: how many images the net sees at once.

        Raises:
            ModelError: see `__call__` and `check`.

        Example:
            >>> Model(nn.Identity()).predict(torch.tensor([[0.1, 0.9]])).tolist()
            [1]
        """
        return self.logits(images, batch).argmax(dim=1)

    def layers(self) -> dict[str, nn.Module]:
        """Return every submodule by its path, in the order of definition; the net itself is left out.

        Example:
            >>> list(Model(nn.Sequential(nn.Flatten(), nn.Linear(4, 2))).layers())
            ['0', '1']
        """
        if not isinstance(self.net, nn.Module):
            return {}
        return {path: module for path, module in self.net.named_modules() if path}

    def _modules(self) -> list[nn.Module]:
        return list(self.net.modules()) if isinstance(self.net, nn.Module) else []

    def _parameters(self) -> list[nn.Parameter]:
        return list(self.net.parameters()) if isinstance(self.net, nn.Module) else []

    def _example(self) -> Tensor | None:
        """Return the first floating-point parameter, else buffer, else None."""
        if not isinstance(self.net, nn.Module):
            return None
        for tensors in (self.net.parameters(), self.net.buffers()):
            for tensor in tensors:
                if tensor.is_floating_point():
                    return tensor
        return None

    def _preprocess(self, images: Tensor) -> Tensor:
        """Return (images - mean) / std, channel by channel on axis 1."""
        key = (images.device, images.dtype, images.ndim)
        if key not in self._constants:
            channels = max(self.mean.numel(), self.std.numel())
            if channels > 1 and (images.ndim != 4 or images.shape[1] != channels):
                raise InputError(
                    f"mean and std have {channels} values, one per channel, so images must be "
                    f"(B, {channels}, H, W), got shape {tuple(images.shape)}"
                )
            shape = (1, -1, 1, 1) if images.ndim == 4 else (1, -1)
            self._constants[key] = (self.mean.to(images).view(shape), self.std.to(images).view(shape))
        mean, std = self._constants[key]
        return (images - mean) / std


def as_model(net: Model | nn.Module | Callable[[Tensor], Any]) -> Model:
    """Return a Model as it is, and anything else wrapped in one with the box [0, 1] and no preprocessing.

    Raises:
        InputError: something that is no net.

    Example:
        >>> as_model(nn.Identity()).box
        (0.0, 1.0)
    """
    return net if isinstance(net, Model) else Model(net)


def _logits(answer: Any, rows: int) -> Tensor:
    """Return the logits (B, K) inside any answer a net may give, or say what is wrong with it."""
    logits = _unwrap(answer)
    if not logits.is_floating_point():
        raise ModelError(f"the net returned {logits.dtype}, not logits; return the scores before any argmax")
    # A squeezed single logit is (B,), and () where there is but one image.
    if logits.ndim <= 1 and logits.numel() == rows:
        logits = logits.reshape(rows, 1)
    if logits.ndim != 2 or logits.shape[1] == 0 or logits.shape[0] != rows:
        raise ModelError(
            f"the net returned shape {tuple(logits.shape)} for {rows} images; expected logits "
            f"({rows}, classes), one row per image. Flatten spatial outputs and keep the batch axis."
        )
    if logits.shape[1] == 1:
        return torch.cat((torch.zeros_like(logits), logits), dim=1)
    return logits


def _unwrap(answer: Any) -> Tensor:
    """Return the tensor of logits in a tensor, an object, a mapping or a tuple of one."""
    if isinstance(answer, Tensor):
        return answer
    inner = getattr(answer, "logits", None)
    if inner is None and isinstance(answer, Mapping):
        inner = answer.get("logits")
    if inner is None and isinstance(answer, tuple | list) and len(answer) == 1:
        inner = answer[0]
    if isinstance(inner, Tensor):
        return inner
    raise ModelError(
        f"the net returned {type(answer).__name__}; expected a tensor of logits, an object with .logits, a "
        'mapping with "logits", or a tuple of one tensor. Wrap the net so that it returns one of these.'
    )


def _channel_values(name: str, value: float | Sequence[float] | Tensor | None) -> Tensor:
    """Return mean or std as a float64 vector, one value or one per channel."""
    neutral = 0.0 if name == "mean" else 1.0
    vector = torch.as_tensor(neutral if value is None else value, dtype=torch.float64, device="cpu").flatten()
    if not vector.numel():
        raise InputError(f"{name} must be a number or one number per channel, got nothing")
    return vector


def _function_name(net: object) -> str:
    return str(getattr(net, "__name__", type(net).__name__))


def _some(rows: list[int]) -> str:
    """Return the first few row numbers, and how many more there are."""
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    return ", ".join(str(row) for row in rows[:5]) + more


def _advice(images: Tensor, box: tuple[float, float]) -> str:
    """Say what scale or normalisation pixels outside the box seem to have, and what to do about it."""
    least, most = images.min().item(), images.max().item()
    if box == (0.0, 1.0) and least >= 0 and 2 < most <= 255:
        return "They look like bytes 0..255: pass images / 255."
    found = _likely_normalisation(images) if box == (0.0, 1.0) else None
    if found:
        mean, std = _NORMALISATIONS[found]
        values = f"mean {mean}, std {std}" if len(mean) > 1 else f"mean {mean[0]}, std {std[0]}"
        return (
            f"They look normalised as for {found} ({values}): pass images in [0, 1] and give these numbers "
            "to Model(net, mean=..., std=...)."
        )
    return "Scale the images, or name their range: Model(net, box=(lowest, highest))."


def _likely_normalisation(images: Tensor) -> str | None:
    """Return the published normalisation whose inverse fills [0, 1] best, or None if none comes close.

    Images nearly always hold almost black and almost white pixels, so undoing the right normalisation gives
    pixels from about 0 to about 1; a wrong one leaves the box or fills little of it.
    """
    best, best_gap = None, 0.35  # of the unit range left unfilled; more is no evidence
    for name, (mean, std) in _NORMALISATIONS.items():
        if len(mean) > 1 and (images.ndim != 4 or images.shape[1] != len(mean)):
            continue
        # A single-channel normalisation of colour images is unusual, except for the neutral one.
        if len(mean) == 1 and name != "half" and images.ndim == 4 and images.shape[1] != 1:
            continue
        shape = (1, -1, 1, 1) if images.ndim == 4 else (1, -1)
        m, s = (torch.tensor(values, dtype=images.dtype).to(images).view(shape) for values in (mean, std))
        pixels = images * s + m
        low, high = pixels.min().item(), pixels.max().item()
        gap = abs(low) + abs(1 - high)
        # Published means are rounded to 3 or 4 digits, so the inverse may leave the box by as much.
        if low > -1e-3 and high < 1 + 1e-3 and gap < best_gap:
            best, best_gap = name, gap
    return best

"""`Model`: one honest wrapper around a user's net, and the rules every part of the library relies on.

The wrapper's inputs are pixels in a stated box; preprocessing happens inside. Its outputs are logits (B, K).
It never moves the net, never changes it for good, and adds next to nothing to the time of a call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from intriguing.errors import InputError, IntriguingError, ModelError, NetFailedError, UnknownNameError
from intriguing.nets.answers import ANSWERS, to_logits, unwrap
from intriguing.nets.compiled import not_compiled, uncompiled
from intriguing.nets.inputs import CURES, check_images, odd_layout, some

CAPABILITIES = ("labels", "logits", "gradients")  # each includes those before it

# On CPUs (Linux, Windows), on Apple's GPUs and in older drivers, in cuBLAS and cuDNN.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "_ALLOC_FAILED")


class Model:
    """A net with its box, its preprocessing and its rules.

    Calling it with images (B, C, H, W) or (B, n) in the box returns logits (B, K), differentiable with
    respect to the images. A net's answer may also be an object with ``.logits``, a mapping with ``"logits"``,
    or a tuple or list of one tensor. A single logit z per image, (B,) or (B, 1), becomes the two logits
    (0, z), so that class 1 has probability sigmoid(z). Nets that give several labels to one image are not served:
    everything here is a distance to the nearest wrong class, which needs one right class.

    The net stays where it is and as it is: device and dtype are read from its parameters, and `frozen` puts
    back whatever it changes. So do the images: the net sees a copy, which it may change in place.

    A net from `torch.compile` is taken as it was before: a compiled graph would be compiled anew for every number of
    images still under attack, and passes back only once. One compiled in part, or by `net.compile()`, runs as it was
    while it is `frozen`.

    Args:
        net: a module, or any function from images to logits.
        box: smallest and largest pixel, in the units of the images; attacks stay inside.
        mean: subtracted from the pixels, a number or one per channel (axis 1).
        std: divides them afterwards, a number or one per channel, positive.
        name: what reports call it; by default the class name.
        answers: ``"logits"``; ``"probabilities"``, whose logarithm is taken; or ``"labels"``, (B,) integers.
        classes: how many there are, where the net answers labels.
        gradients: False for a net that passes none (another runtime, say), so that what needs them says so.
        size: height and width the net wants, or its side; images of other sizes are resized inside (bilinear,
            antialiased), so that nets of several sizes share one pixel space.
        bgr: the net wants blue first; images stay RGB, and mean and std are in the net's order.

    Attributes:
        capabilities: what the net gives, of ``("labels", "logits", "gradients")``.

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
        *,
        answers: str = "logits",
        classes: int | None = None,
        gradients: bool = True,
        size: int | tuple[int, int] | None = None,
        bgr: bool = False,
    ) -> None:
        if not callable(net):
            raise InputError(f"net must be a torch module or a function from images to logits, got {net!r}")
        low, high = _checked_box(box)
        self.net = net = not_compiled(net)
        self.box = (low, high)
        self.mean = _channel_values("mean", mean)
        self.std = _channel_values("std", std)
        lengths = (self.mean.numel(), self.std.numel())
        if min(lengths) > 1 and lengths[0] != lengths[1]:
            raise InputError(
                f"mean and std: expected as many values of each, one per channel, got {lengths[0]} of mean and "
                f"{lengths[1]} of std"
            )
        if not bool((self.std > 0).all()) or not bool((self.mean + self.std).isfinite().all()):
            raise InputError(f"std must be positive and mean finite, got std={std}, mean={mean}")
        if answers not in ANSWERS:
            raise UnknownNameError("kind of answer", answers, ANSWERS)
        if answers == "labels" and not (type(classes) is int and classes >= 2):
            raise InputError(
                f'classes: expected how many there are, at least 2, with answers="labels", got {classes!r}'
            )
        self.answers, self.classes = answers, classes
        given = 1 if answers == "labels" else 2 + bool(gradients)
        self.capabilities: tuple[str, ...] = CAPABILITIES[:given]
        self.size = None if size is None else _checked_size(size)
        self.bgr = bgr
        self.name = name or (type(net).__name__ if isinstance(net, nn.Module) else _function_name(net))
        self._preprocesses = mean is not None or std is not None or size is not None or bgr
        self._constants: dict[tuple[torch.device, torch.dtype, int, int], tuple[Tensor, Tensor]] = {}

    def __repr__(self) -> str:
        return f"Model({self.name}, box={self.box})"

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of images (B, C, H, W) or (B, n) in the box.

        Raises:
            ModelError: an answer that is not one row of logits per image. Values are not looked at: see
                `check`.
            NetFailedError: the net itself raised; its own error is the cause.
        """
        given = self._given(images)
        try:
            answer = self.net(given)
        except Exception as error:
            if isinstance(error, IntriguingError) or out_of_memory(error):
                raise
            raise self._failure(error, given) from error
        # The hot path: an ordinary net passes these comparisons and nothing else.
        if type(answer) is Tensor and answer.ndim == 2 and answer.is_floating_point() and self.answers == "logits":
            rows, columns = (0, 0) if odd_layout(answer) else answer.shape
            if columns > 1 and rows == images.shape[0]:
                return answer
        return to_logits(answer, images.shape[0], self.answers, self.classes)

    def require(self, capability: str, wanted_by: str) -> None:
        """Refuse in words what the net cannot serve.

        Args:
            capability: ``"labels"``, ``"logits"`` or ``"gradients"``.
            wanted_by: what needs it, as the message names it.

        Raises:
            ModelError: the net does not give it; the message says what does without.

        Example:
            >>> Model(nn.Identity()).require("gradients", "the L-BFGS attack")
        """
        if capability not in self.capabilities:
            has = " and ".join(self.capabilities)
            raise ModelError(
                f"{self.name} gives {has} but no {capability}, which {wanted_by} needs. Use an attack that asks for "
                f"{self.capabilities[-1]} alone (see intriguing list), or give the net as a torch module."
            )

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

        Raises:
            ModelError: weights that are not made yet, or have no values.
        """
        modules, parameters = self._modules(), self._parameters()
        self._check_made(modules)
        modes = [module.training for module in modules]
        flags = [parameter.requires_grad for parameter in parameters]
        try:
            for module in modules:
                module.training = False
            for parameter in parameters:
                parameter.requires_grad_(False)
            with uncompiled(modules):
                yield self
        finally:
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode
            for parameter, flag in zip(parameters, flags, strict=True):
                if parameter.requires_grad is not flag:
                    parameter.requires_grad_(flag)

    def _check_made(self, modules: Sequence[nn.Module]) -> None:
        """Refuse a net some of whose weights are not there.

        Raises:
            ModelError: names the modules, and says how to make the weights.
        """
        for module in modules:
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                if is_lazy(tensor):
                    raise ModelError(
                        f"{self.name} has weights that are not made yet ({type(module).__name__}): call it once on a "
                        "batch of images"
                    )
                if tensor.is_meta:
                    raise ModelError(
                        f"{self.name} has weights on the meta device ({type(module).__name__}), which have a shape "
                        'but no values: net.to_empty(device="cpu") and load them'
                    )

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
            rows = some((~finite).nonzero().flatten().tolist())
            if self.answers == "probabilities":
                raise ModelError(
                    f"{self.name} returns probabilities of exactly 0 or 1 for images {rows}: saturated, so that no "
                    "gradient is left in them. Give the net without its last softmax or sigmoid."
                )
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
        return check_images(images, self.box)

    @torch.no_grad()
    def logits(self, images: Tensor, batch: int = 1000) -> Tensor:
        """Return the logits (B, K) of any number of images, frozen, without gradients, checked.

        Only `batch` images at a time go to the net's device and dtype, fewer from the moment memory runs out; the
        answer is on the images' device.

        Raises:
            ModelError: see `__call__` and `check`.
            NetFailedError: a single image does not fit in memory.
        """
        if batch < 1:
            raise InputError(f"batch must be at least 1, got {batch}")
        if not isinstance(images, Tensor) or images.ndim < 2:
            got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise InputError(f"images: expected a tensor (B, C, H, W) or (B, n), got {got}")
        if odd := odd_layout(images):
            raise InputError(f"images: expected an ordinary tensor, got a {odd} one. {CURES[odd]}")
        device, dtype = self.device, self.dtype
        parts: list[Tensor] = []
        done = 0
        with self.frozen():
            while done < len(images) or not parts:  # no image at all is a batch too, of no rows
                part = images[done : done + batch]
                try:
                    z = self(part.to(device=device, dtype=dtype)).to(images.device)
                except Exception as error:
                    # Rows do not see each other, so fewer at a time change nothing but the memory.
                    if not out_of_memory(error):
                        raise
                    if len(part) <= 1:
                        raise self.too_large(part.shape[1:], error) from error
                    batch = len(part) // 2
                    continue
                parts.append(z)
                done += len(part)
        return self.check(torch.cat(parts))

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

    @torch.no_grad()
    def place_of_answer(self, images: Tensor) -> str:
        """Say where in the net's answer the logits are, in words.

        Raises:
            ModelError: see `__call__`.

        Example:
            >>> Model(lambda x: {"logits": x}).place_of_answer(torch.zeros(1, 2))
            '"logits" of a dict'
        """
        given = images.to(device=self.device, dtype=self.dtype)
        with self.frozen():
            return unwrap(self.net(self._given(given)))[1]

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

    def _given(self, images: Tensor) -> Tensor:
        """Return what the net sees of the images: a tensor of its own, which it may change in place.

        Preprocessing makes one anyway; a copy costs nothing beside a pass of any net. No leaf of the graph either: the
        gradient of the images goes around what the net does to its input.
        """
        return self._preprocess(images) if self._preprocesses else images.clone()

    def _preprocess(self, images: Tensor) -> Tensor:
        """Return (images - mean) / std, channel by channel on axis 1, after any resizing and reordering."""
        if self.size is not None or self.bgr:
            images = self._arrange(images)
        key = (images.device, images.dtype, images.ndim, images.shape[1])
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

    def _arrange(self, images: Tensor) -> Tensor:
        """Return images in the net's size and order of channels."""
        if images.ndim != 4 or (self.bgr and images.shape[1] != 3):
            want = "(B, 3, H, W)" if self.bgr else "(B, C, H, W)"
            raise InputError(f"a net with size or bgr set takes images {want}, got shape {tuple(images.shape)}")
        if self.size is not None and images.shape[2:] != self.size:
            images = nn.functional.interpolate(images, self.size, mode="bilinear", antialias=True)
        return images.flip(1) if self.bgr else images

    def _failure(self, error: Exception, given: Tensor) -> NetFailedError:
        """Say in words what the net was given when it raised."""
        found = self._example()
        want = "" if found is None else f"; its weights are {found.dtype} on {found.device}"
        lines = str(error).strip().splitlines()
        advice = (
            "Check the shape of the images, and give them in the dtype and on the device of the weights (the net is "
            "never moved)."
        )
        if "in-place" in str(error) or "inplace" in str(error):  # torch writes both
            advice = "Have the net make a new tensor there (x = x - 1, not x -= 1), or change a copy: x.clone()."
        return NetFailedError(
            f"{self.name} failed on images of shape {tuple(given.shape)}, {given.dtype} on {given.device}{want}. "
            f"{type(error).__name__}: {lines[0] if lines else 'no message'}. {advice}"
        )

    def too_large(self, shape: Sequence[int], error: BaseException) -> NetFailedError:
        """Return the error for a net that runs out of memory on one image of this shape."""
        lines = str(error).strip().splitlines()
        return NetFailedError(
            f"{self.name} ran out of memory on {self.device} with a single image of shape {tuple(shape)}. "
            f"{type(error).__name__}: {lines[0] if lines else 'no message'}. Free memory there, give smaller images, "
            "or move the net to a device with more."
        )


def as_model(net: Model | nn.Module | Callable[[Tensor], Any]) -> Model:
    """Return a Model as it is, and anything else wrapped in one with the box [0, 1] and no preprocessing.

    Raises:
        InputError: something that is no net.

    Example:
        >>> as_model(nn.Identity()).box
        (0.0, 1.0)
    """
    return net if isinstance(net, Model) else Model(net)


def _channel_values(name: str, value: float | Sequence[float] | Tensor | None) -> Tensor:
    """Return mean or std as a float64 vector, one value or one per channel."""
    neutral = 0.0 if name == "mean" else 1.0
    try:
        vector = torch.as_tensor(neutral if value is None else value, dtype=torch.float64, device="cpu").flatten()
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{name} must be a number or one number per channel, got {value!r}") from None
    if not vector.numel():
        raise InputError(f"{name} must be a number or one number per channel, got nothing")
    return vector


def _function_name(net: object) -> str:
    return str(getattr(net, "__name__", type(net).__name__))


def _checked_size(size: Any) -> tuple[int, int]:
    """Return (height, width) in pixels."""
    sides = tuple(size) if isinstance(size, tuple | list) else (size, size)
    if len(sides) != 2 or not all(type(side) is int and side >= 1 for side in sides):
        raise InputError(f"size: expected a side or (height, width) in pixels, whole numbers, got {size!r}")
    return sides[0], sides[1]


def _checked_box(box: tuple[float, float]) -> tuple[float, float]:
    """Return (lowest, highest) pixel."""
    try:
        low, high = (float(side) for side in box)
    except (TypeError, ValueError):
        raise InputError(f"box must be (lowest, highest) pixel, two numbers, got {box!r}") from None
    if not low < high or not math.isfinite(high - low):
        raise InputError(f"box must be (lowest, highest) pixel with lowest < highest, both finite, got {box}")
    return low, high


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out, on a GPU or on the CPU.

    Example:
        >>> out_of_memory(MemoryError())
        True
    """
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    # Other allocators raise a plain RuntimeError; its message is the only sign. `too_large` is past helping.
    plain = isinstance(error, RuntimeError) and not isinstance(error, IntriguingError)
    return plain and any(text in str(error) for text in _OUT_OF_MEMORY)

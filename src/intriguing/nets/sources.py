"""From the words on a command line to a `Model`: ``module_or_file.py:factory``, exported programs, and extras.

- ``my_model.py:build`` or ``package.module:build``: called without arguments; returns a torch module, a `Model`, a
  fitted scikit-learn estimator, or a function from images to logits. An instance stands for itself.
- ``net.pt2``: a program of `torch.export`.
- ``timm:NAME``, ``transformers:NAME``: image classifiers with the normalisation and size they were trained with.
- ``onnx:net.onnx``: by onnxruntime, without gradients.

The extras are tested against stand-ins and untested with real weights.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from intriguing.errors import InputError, IntriguingError, ModelError, UnknownNameError
from intriguing.nets import estimators
from intriguing.nets.load import Model
from intriguing.nets.onnx import OnnxNet, extra
from intriguing.nets.weights import fill, read, refuse_pickle, refuse_program

_FORMS = "my_model.py:build, package.module:build, net.pt2, timm:NAME, transformers:NAME or onnx:net.onnx"
_WEIGHT_FILES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".h5", ".npz")

Values = float | Sequence[float]


@dataclass(frozen=True)
class _Found:
    """A net and how it wants its images, None where that is the user's to say."""

    net: Any
    mean: Values | None = None
    std: Values | None = None
    size: tuple[int, int] | None = None
    gradients: bool = True


def load(
    spec: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    box: tuple[float, float] | None = None,
    mean: Values | None = None,
    std: Values | None = None,
    device: torch.device | str | None = None,
) -> Model:
    """Load a model by its name on the command line.

    Args:
        spec: one of the forms above.
        weights: a state dict or safetensors file for it; never a pickle.
        box: lowest and highest pixel of the images; by default (0, 1), or that of the `Model` a factory returns.
        mean: subtracted from the pixels; by default what the source says, else nothing.
        std: divides them.
        device: where to put it; by default it stays where it was made.

    Returns:
        The model, named after `spec`.

    Raises:
        InputError: a name of no known form, or settings that a factory's `Model` has of its own.
        UnknownNameError: a file without such a factory; the nearest is told.
        ModelError: whatever else fails, in words: a file that is missing or damaged, a factory that raises, an extra
            that is not installed, weights that do not fit.

    Example:
        >>> load("my_model.py:build", weights="w.safetensors", mean=0.5, std=0.25)
    """
    found = _find(spec, with_weights=weights is not None)
    if isinstance(found.net, Model):
        if any(value is not None for value in (box, mean, std)):
            raise InputError(f"{spec} returns a Model, which has its box, mean and std; set them there or return a net")
        model = found.net
    else:
        model = Model(
            found.net,
            box=(0.0, 1.0) if box is None else box,
            mean=found.mean if mean is None else mean,
            std=found.std if std is None else std,
            size=found.size,
            gradients=found.gradients,
            name=spec,
        )
    if weights is not None:
        _fill(model, spec, weights)
    if device is not None:
        _place(model, device)
    return model


def numbers(text: str | None, name: str) -> tuple[float, ...] | None:
    """Return the numbers of a text such as ``"0.485,0.456,0.406"``; None stays None.

    Args:
        text: numbers with commas between them.
        name: what a message calls it.

    Raises:
        InputError: something that is no number.

    Example:
        >>> numbers("0,1", "box")
        (0.0, 1.0)
    """
    if text is None:
        return None
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(map(math.isfinite, found)):
        raise InputError(f"{name}: expected numbers with commas between them, such as 0.5 or 0.4,0.5,0.6, got {text!r}")
    return found


def pair(text: str | None, name: str) -> tuple[float, float] | None:
    """Return the two numbers of a text such as ``"0,1"``; None stays None.

    Raises:
        InputError: something else.

    Example:
        >>> pair("-1,1", "box")
        (-1.0, 1.0)
    """
    found = numbers(text, name)
    if found is None:
        return None
    if len(found) != 2:
        raise InputError(f"{name}: expected two numbers, lowest,highest, got {text!r}")
    return found[0], found[1]


def _find(spec: str, *, with_weights: bool) -> _Found:
    """Return the net a name stands for."""
    if not isinstance(spec, str) or not spec or "\0" in spec:
        raise InputError(f"model: expected {_FORMS}, got {spec!r}")
    kind, _, rest = spec.partition(":")
    if kind in ("timm", "transformers", "onnx"):
        if not rest:
            raise InputError(f"model: expected a name after {kind}:, got {spec!r}")
        if kind == "onnx":
            return _Found(OnnxNet(rest), gradients=False)
        return _timm(rest, with_weights) if kind == "timm" else _transformers(rest, with_weights)
    suffix = Path(spec).suffix.lower()
    if suffix == ".onnx":
        return _Found(OnnxNet(spec), gradients=False)
    if suffix == ".pt2":
        return _Found(_exported(spec))
    place, colon, factory = spec.rpartition(":")
    if not colon or not place or not factory.isidentifier():
        refuse_pickle(spec)
        refuse_program(spec)
        if suffix in _WEIGHT_FILES:
            raise InputError(
                f"model: {spec} holds weights, not a net. Name the function that builds the net, and give the file "
                f"as weights: --model my_model.py:build --weights {spec}"
            )
        raise InputError(f"model: expected {_FORMS}, got {spec!r}")
    refuse_pickle(place)
    return _Found(_made(place, factory, spec))


def _made(place: str, factory: str, spec: str) -> Any:
    """Return what the factory of a file or module makes, as a net, a function or a Model."""
    with _user_code(spec), _importable(place):
        module = _module(place)
        if not hasattr(module, factory):
            known = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
            raise UnknownNameError(f"factory in {place}:", factory, known)
        value = getattr(module, factory)
        if not isinstance(value, nn.Module | Model) and not estimators.is_estimator(value):
            if not callable(value):
                raise ModelError(f"{spec} is a {type(value).__name__}, not a function that builds a net")
            value = value()
    if estimators.is_estimator(value):
        return estimators.convert(value)
    if not callable(value):
        raise ModelError(
            f"{spec} returned a {type(value).__name__}; expected a torch module, a Model, a fitted scikit-learn "
            "classifier, or a function from images to logits"
        )
    return value


def _module(place: str) -> Any:
    """Import a file by its path, or a module by its name."""
    if not place.endswith(".py") and os.sep not in place:
        return importlib.import_module(place)
    if not Path(place).is_file():
        raise ModelError(f"there is no file {place!r}")
    name = f"_intriguing_model_{Path(place).stem}"
    found = importlib.util.spec_from_file_location(name, place)
    if found is None or found.loader is None:
        raise ModelError(f"{place!r} is not a Python file; name one that ends in .py")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses and pickles of its classes look it up there
    found.loader.exec_module(module)
    return module


@contextmanager
def _importable(place: str) -> Iterator[None]:
    """Let a file import its neighbours, and a module be found in the working folder, as `python` itself does."""
    folder = str(Path(place).resolve().parent) if place.endswith(".py") else os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


@contextmanager
def _user_code(spec: str) -> Iterator[None]:
    """Turn whatever the user's code raises into our error, with the kind and the first line of its own."""
    try:
        yield
    except IntriguingError:
        raise
    except (Exception, SystemExit) as error:
        lines = str(error).strip().splitlines()
        raise ModelError(
            f"{spec} raised {type(error).__name__}: {lines[0] if lines else 'no message'}. It is imported and called "
            "without arguments, and should return the net (--debug shows where it failed)."
        ) from error


def _exported(path: str) -> nn.Module:
    """Return the program of a .pt2 file, if it takes batches of any size."""
    if not Path(path).is_file():
        raise ModelError(f"there is no file {path!r}")
    damaged = f"{path} is no program of torch.export, or a damaged one; write it again with torch.export.save"
    if not zipfile.is_zipfile(path):
        raise ModelError(damaged)
    try:
        program = torch.export.load(path)
        module: nn.Module = program.module()
    except Exception as error:  # a reader of untrusted bytes fails in any way it likes
        raise ModelError(f"{damaged} ({type(error).__name__})") from error
    inputs = [node.meta.get("val") for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    if len(inputs) != 1 or not isinstance(inputs[0], torch.Tensor):
        raise ModelError(f"{path} takes {len(inputs)} inputs; expected one, the images")
    if inputs[0].ndim and isinstance(inputs[0].shape[0], int):
        raise ModelError(
            f"{path} was exported for batches of exactly {inputs[0].shape[0]} images. Export it for any: "
            'torch.export.export(net, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},)).'
        )
    return module


def _timm(name: str, with_weights: bool) -> _Found:
    """Return a net of timm; its published weights unless others are given."""
    spec = f"timm:{name}"
    timm = extra("timm", spec)
    with _user_code(spec):
        net = timm.create_model(name, pretrained=not with_weights)
        settings = dict(getattr(net, "pretrained_cfg", None) or getattr(net, "default_cfg", None) or {})
        size = settings.get("input_size")
        return _Found(net, settings.get("mean"), settings.get("std"), tuple(size[1:]) if size else None)


def _transformers(name: str, with_weights: bool) -> _Found:
    """Return an image classifier of transformers, with the settings of its image processor."""
    spec = f"transformers:{name}"
    transformers = extra("transformers", spec)
    with _user_code(spec):
        if with_weights:
            config = transformers.AutoConfig.from_pretrained(name)
            net = transformers.AutoModelForImageClassification.from_config(config)
        else:
            net = transformers.AutoModelForImageClassification.from_pretrained(name)
        if getattr(net.config, "problem_type", None) == "multi_label_classification":
            raise ModelError(f"{spec} gives several labels to an image, and such nets are not served")
        processor = transformers.AutoImageProcessor.from_pretrained(name)
    normalised = getattr(processor, "do_normalize", True)
    mean = getattr(processor, "image_mean", None) if normalised else None
    std = getattr(processor, "image_std", None) if normalised else None
    return _Found(net, mean, std, _size(getattr(processor, "size", None)))


def _size(size: Any) -> tuple[int, int] | None:
    """Return (height, width) of a processor's size, in any of the forms it has had."""
    if isinstance(size, int):
        return size, size
    if not isinstance(size, Mapping) and not hasattr(size, "get"):
        return None
    height, width, edge = size.get("height"), size.get("width"), size.get("shortest_edge")
    if height and width:
        return int(height), int(width)
    return (int(edge), int(edge)) if edge else None


def _fill(model: Model, spec: str, path: str | os.PathLike[str]) -> None:
    if not isinstance(model.net, nn.Module):
        raise InputError(f"weights: {spec} is a function, which takes none; return a torch module")
    fill(model.net, read(path), os.fspath(path))


def _place(model: Model, device: torch.device | str) -> None:
    """Put the net where it is wanted, if that exists."""
    try:
        place = torch.device(device)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device: {device} cannot be used here ({str(error).splitlines()[0]}); use cpu") from error
    if isinstance(model.net, nn.Module):
        model.net.to(place)

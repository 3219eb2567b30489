"""Weights from a file into a net: tensors alone, every mismatch named.

Files of torch are opened with ``weights_only``: what a pickle would execute is refused, never run.
"""

from __future__ import annotations

import difflib
import os
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from intriguing.errors import ModelError

PICKLES = (".pkl", ".pickle", ".joblib", ".sav", ".dill")
# The modules that the pickle of a state dict names.
_OF_TENSORS = frozenset(
    ("collections", "torch", "torch._tensor", "torch._utils", "torch.nn.parameter", "torch.serialization",
     "torch.storage", "builtins", "__builtin__", "_codecs")
)  # fmt: skip
_NESTED = ("state_dict", "model_state_dict", "model")  # where training scripts keep the state dict


def refuse_pickle(path: str) -> None:
    """Refuse a pickle by the end of its name.

    Raises:
        ModelError: says what to do instead.
    """
    if path.lower().endswith(PICKLES):
        raise ModelError(
            f"{path} is a pickle, and opening one runs whatever code it holds. Write a function that returns the model "
            "in a file of your own and name it as my_model.py:build; weights go into safetensors or a state dict."
        )


def refuse_program(path: str) -> None:
    """Refuse a file that holds a net itself: a TorchScript program, or the pickle of a whole net.

    Nothing in the file is run; of a pickle only the names are read that opening it would import.

    Raises:
        ModelError: says what the file is, and what to do instead.
    """
    entries = _entries(path)
    if "constants.pkl" in entries:  # the mark by which `torch.load` itself tells TorchScript from other files
        raise ModelError(
            f"{path} is a TorchScript program: return torch.jit.load({path!r}) from a function in a file of your own "
            "and name that as --model my_model.py:build, without --weights"
        )
    kept = _class_in(path, entries.get("data.pkl"))
    if kept:
        raise ModelError(
            f"{path} is a pickle of Python objects such as torch.save(net) writes, here {kept}, and opening it would "
            "run code: save net.state_dict() instead, and give that file as --weights beside --model my_model.py:build"
        )


def read(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return the tensors of a file of weights, on the CPU.

    Args:
        path: a ``.safetensors`` file, or a state dict written by `torch.save`, alone or as the entry
            ``"state_dict"``, ``"model_state_dict"`` or ``"model"`` of a checkpoint.

    Raises:
        ModelError: no such file, a damaged one, a pickle, or one that holds something else.

    Example:
        >>> read("weights.safetensors").keys()
    """
    name = os.fspath(path)
    refuse_pickle(name)
    if not Path(name).is_file():
        raise ModelError(f"weights: there is no file {name!r}")
    found = _safetensors(name) if name.lower().endswith(".safetensors") else _torch(name)
    for key in _NESTED:
        if isinstance(found.get(key), Mapping):
            found = dict(found[key])
            break
    others = [str(key) for key, value in found.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if others or not found:
        what = f"entries that are no tensors: {', '.join(map(repr, others[:3]))}" if others else "nothing"
        raise ModelError(f"weights: {name} should hold a state dict, names and tensors; it holds {what}")
    return found


def fill(net: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Put the tensors into the net, all of them or none.

    A prefix that all names share and the net's do not (``module.`` of a parallel net, ``model.`` of a trainer) is taken
    away where exactly the net's own names remain.

    Raises:
        ModelError: a name that is missing or too many (the nearest one is told), another shape, another kind of
            number, or a weight that is NaN or infinite.

    Example:
        >>> fill(net, read("weights.safetensors"), "weights.safetensors")
    """
    own = net.state_dict()
    state = _without_prefix(state, own)
    faults = _faults(own, state)
    if faults:
        more = f"; and {len(faults) - 6} more" if len(faults) > 6 else ""
        raise ModelError(f"weights: {source} does not fit {type(net).__name__}: {'; '.join(faults[:6])}{more}")
    try:
        net.load_state_dict(dict(state))
    except RuntimeError as error:  # a tensor of a layout that cannot be copied, say
        raise ModelError(f"weights: {source} cannot be put into {type(net).__name__}: {error}") from error


def _without_prefix(state: Mapping[str, Tensor], own: Iterable[str]) -> Mapping[str, Tensor]:
    wanted = set(own)
    if set(state) == wanted or not state:
        return state
    first = next(iter(state))
    for dot in (i + 1 for i, letter in enumerate(first) if letter == "."):
        prefix = first[:dot]
        if all(key.startswith(prefix) for key in state) and {key[dot:] for key in state} == wanted:
            return {key[dot:]: value for key, value in state.items()}
    return state


def _faults(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """Return one sentence per mismatch."""
    missing, extra = [key for key in own if key not in state], [key for key in state if key not in own]
    faults = [f"{key!r} is missing{_nearest(key, extra)}" for key in missing]
    faults += [f"{key!r} has no place in the net{_nearest(key, missing)}" for key in extra]
    for key, mine in own.items():
        given = state.get(key)
        if given is None:
            continue
        if given.shape != mine.shape:
            faults.append(f"{key!r} has shape {tuple(given.shape)}, the net wants {tuple(mine.shape)}")
        elif given.is_floating_point() != mine.is_floating_point() or given.is_complex() != mine.is_complex():
            faults.append(f"{key!r} is {given.dtype}, the net wants {mine.dtype}")
        elif given.is_floating_point() and not given.is_sparse and not bool(given.isfinite().all()):
            faults.append(f"{key!r} holds NaN or infinity")
    return faults


def _nearest(key: str, among: list[str]) -> str:
    near = difflib.get_close_matches(key, among, n=1, cutoff=0.5)
    return f" (nearest: {near[0]!r})" if near else ""


def _safetensors(name: str) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(name))
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, OverflowError, MemoryError) as error:
        raise ModelError(
            f"weights: {name} is no safetensors file or a damaged one ({_line(error)}); write it again"
        ) from error


def _entries(path: str) -> dict[str, zipfile.ZipInfo]:
    """Return what stands in the one folder of an archive of torch, by name; nothing for any other file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {info.filename.partition("/")[2]: info for info in archive.infolist()}
    except (OSError, zipfile.BadZipFile, ValueError):
        return {}


def _class_in(path: str, entry: zipfile.ZipInfo | None) -> str:
    """Return the first name in a pickle that no dictionary of tensors needs, such as a net's class; or nothing."""
    if entry is None:
        return ""
    try:
        with zipfile.ZipFile(path) as archive:
            for operation, argument, _ in pickletools.genops(archive.read(entry)):
                if operation.name == "GLOBAL" and str(argument).partition(" ")[0] not in _OF_TENSORS:
                    return str(argument).replace(" ", ".")
    except Exception:  # a reader of untrusted bytes fails in any way it likes, and whoever opens the file says how
        return ""
    return ""


def _torch(name: str) -> dict[str, Any]:
    if "constants.pkl" in _entries(name):
        refuse_program(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about formats of old; what cannot be read is an error anyway
            found = torch.load(name, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refuse_program(name)
        raise ModelError(
            f"weights: {name} is damaged, or holds more than tensors, which only a pickle that may run code could "
            "restore. Save net.state_dict() and name the net by my_model.py:build."
        ) from error
    except Exception as error:  # a reader of untrusted bytes fails in any way it likes
        raise ModelError(
            f"weights: {name} is no file of torch.save or a damaged one ({type(error).__name__}: {_line(error)}); "
            "save net.state_dict() again"
        ) from error
    if not isinstance(found, Mapping):
        raise ModelError(
            f"weights: {name} holds a {type(found).__name__}, not a state dict of names and tensors; save "
            "net.state_dict()"
        )
    return dict(found)


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else "no message"

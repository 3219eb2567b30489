"""ONNX files through onnxruntime: logits without gradients, for attacks that need none.

Tested against a stand-in with the runtime's interface; untested with real weights where the runtime is not installed.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from intriguing.errors import ModelError

_DTYPES = {"tensor(float)": torch.float32, "tensor(double)": torch.float64, "tensor(float16)": torch.float16}


def extra(module: str, spec: str) -> Any:
    """Return an optional package, or say how to install it.

    Raises:
        ModelError: it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ModelError(f"{spec} needs {module} ({error}); install it: pip install {module}") from error


class OnnxNet:
    """A function from images to what an ONNX file answers.

    Args:
        path: the file, with one input, and one output or one that is named logits.

    Raises:
        ModelError: no such file, one the runtime refuses, or inputs and outputs that are not as said.

    Example:
        >>> Model(OnnxNet("net.onnx"), gradients=False)
    """

    def __init__(self, path: str) -> None:
        runtime = extra("onnxruntime", f"onnx:{path}")
        if not Path(path).is_file():
            raise ModelError(f"there is no file {path!r}")
        try:
            self._session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime has a family of errors of its own
            raise ModelError(f"{path} is no ONNX file that onnxruntime opens: {str(error)[:200]}") from error
        self.__name__ = Path(path).stem
        inputs, outputs = self._session.get_inputs(), [output.name for output in self._session.get_outputs()]
        if len(inputs) != 1 or inputs[0].type not in _DTYPES:
            found = ", ".join(f"{i.name} {i.type}" for i in inputs)
            raise ModelError(f"{path} must have one input of floats, the images; it has {found or 'none'}")
        self._input, self._dtype = inputs[0].name, _DTYPES[inputs[0].type]
        first = inputs[0].shape[0] if inputs[0].shape else None
        self._batch = first if isinstance(first, int) and first > 0 else None  # files may fix the size of a batch
        if len(outputs) != 1 and "logits" not in outputs:
            raise ModelError(f"{path} must have one output, or one named logits; it has {', '.join(outputs) or 'none'}")
        self._output = outputs[0] if len(outputs) == 1 else "logits"

    def __call__(self, images: Tensor) -> Tensor:
        """Return the answer (B, ...) in the dtype and on the device of the images."""
        given = images.detach().to(device="cpu", dtype=self._dtype)
        parts = torch.split(given, self._batch or max(1, len(given)))
        return torch.cat([self._run(part) for part in parts]).to(images)

    def _run(self, part: Tensor) -> Tensor:
        missing = (self._batch or len(part)) - len(part)
        full = torch.cat((part, part[-1:].expand(missing, *part.shape[1:]))) if missing else part
        answer = self._session.run([self._output], {self._input: full.contiguous().numpy()})[0]
        return torch.as_tensor(answer)[: len(part)]

"""What a caller of an attack has set for all of torch, which the net may rely on and the attack must not meet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch


class Caller:
    """Autocast and the dtype of new tensors, as set on this thread where this is made.

    The steps of an attack are below the rounding of bfloat16.

    Args:
        device: the model's.
    """

    def __init__(self, device: torch.device) -> None:
        self.dtype = torch.get_default_dtype()
        kinds = sorted({"cpu", device.type})
        kinds = [kind for kind in kinds if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)]
        self.autocast = {kind: torch.get_autocast_dtype(kind) for kind in kinds}
        self.ordinary = not self.autocast and self.dtype == torch.float32

    def eps(self, dtype: torch.dtype) -> float:
        """Return the precision of a net whose weights have this dtype."""
        return max(torch.finfo(each).eps for each in (dtype, *self.autocast.values()))

    def away(self) -> AbstractContextManager[None]:
        """Have none of it while the block runs."""
        return nullcontext() if self.ordinary else self._set(torch.float32, on=False)

    def back(self) -> AbstractContextManager[None]:
        """Have it as it was while the block runs."""
        return nullcontext() if self.ordinary else self._set(self.dtype, on=True)

    @contextmanager
    def _set(self, dtype: torch.dtype, *, on: bool) -> Iterator[None]:
        before = torch.get_default_dtype()
        with ExitStack() as stack:
            for kind, narrow in self.autocast.items():
                stack.enter_context(torch.autocast(kind, dtype=narrow, enabled=on))
            torch.set_default_dtype(dtype)
            try:
                yield
            finally:
                torch.set_default_dtype(before)

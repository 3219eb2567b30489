"""Memory that is freed and asked for again at every pass of a net."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # numbers of glibc's parameters, from malloc.h


def keep_freed() -> bool:
    """Have this process keep freed memory instead of giving it back to the system; return whether it can be had.

    The activations of a convolutional net are megabytes that every pass asks for anew. glibc gives such blocks back at
    once, and the system clears every page of the next: up to half of the time of a pass. The process then holds the
    most that it ever used. It is a setting of the whole process: for the command line and its workers, which are
    processes of their own. Other systems' allocators are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))

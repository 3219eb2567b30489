"""Freed memory is kept where a process asks for that, and given back where it does not."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
from intriguing import memory
kept = memory.keep_freed() if {keep} else False
def passes(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        torch.empty(16 * 2**20).fill_(1)  # 64 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
passes(40)  # until the heap has grown to what it needs
print(int(kept), passes(5))
"""


def faults(keep: bool) -> tuple[bool, int]:
    script = SCRIPT.format(keep=keep)
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    return output[0] == "1", int(output[1])


def test_memory_that_is_kept_is_not_cleared_again() -> None:
    kept, few = faults(keep=True)
    if not kept:
        pytest.skip("this system's allocator takes no such setting")
    _, many = faults(keep=False)
    assert few < 500
    assert many > 10 * few + 500

"""Which of a run's findings open the page: a few, from all over the study."""

from __future__ import annotations

import re
from collections.abc import Sequence

# More sentences than this are a wall.
_MOST = 7
# Two sentences that share more of their words say the same of other nets or numbers.
_ALIKE = 0.75
# Shorter sentences share words by chance.
_WORDS = 8


def strongest(sections: Sequence[tuple[str, str, Sequence[str]]], most: int = _MOST) -> list[tuple[str, str]]:
    """Return (section's anchor, sentence) of the findings to open with, in the order of the page.

    All, if they are few. Otherwise the parts take turns: each gives the first finding of its first section that has
    one, then that of the next section, and so on, until there are enough. A sentence that repeats an earlier one of
    its part, names and numbers apart, is passed over.

    Args:
        sections: (part, anchor, findings) in the order of the page.
        most: how many sentences there may be.

    Example:
        >>> strongest([("a", "t1", ["x", "y"]), ("b", "t2", ["z"])], most=2)
        [('t1', 'x'), ('t2', 'z')]
    """
    everything = [(anchor, text) for _, anchor, texts in sections for text in texts]
    if len(everything) <= most:
        return everything
    queues: dict[str, list[tuple[int, str, str]]] = {}
    for place, (part, anchor, texts) in enumerate(sections):
        queue = queues.setdefault(part, [])
        queue.extend((place, anchor, text) for text in texts[:1] if not any(_alike(text, said) for *_, said in queue))
    chosen: list[tuple[int, str, str]] = []
    while len(chosen) < most and any(queues.values()):
        chosen += [queue.pop(0) for queue in queues.values() if queue]
    return [(anchor, text) for _, anchor, text in sorted(chosen[:most])]


def _alike(one: str, other: str) -> bool:
    """Whether two sentences share most of their words, names and numbers apart."""
    first, second = (set(re.findall(r"\b[a-z]+\b", text)) for text in (one, other))
    return len(first | second) >= _WORDS and len(first & second) >= _ALIKE * len(first | second)

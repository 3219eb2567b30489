"""Which of a run's findings open the page: a few, from all over the study."""

from __future__ import annotations

from collections.abc import Sequence

# More sentences than this are a wall.
_MOST = 7


def strongest(sections: Sequence[tuple[str, str, Sequence[str]]], most: int = _MOST) -> list[tuple[str, str]]:
    """Return (section's anchor, sentence) of the findings to open with, in the order of the page.

    All, if they are few. Otherwise the parts take turns: each gives the first finding of its first section that has
    one, then that of the next section, and so on, until there are enough.

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
        queues.setdefault(part, []).extend((place, anchor, text) for text in texts[:1])
    chosen: list[tuple[int, str, str]] = []
    while len(chosen) < most and any(queues.values()):
        chosen += [queue.pop(0) for queue in queues.values() if queue]
    return [(anchor, text) for _, anchor, text in sorted(chosen[:most])]

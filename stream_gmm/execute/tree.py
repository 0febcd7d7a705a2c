"""The reduction tree: a function of the number of items alone.

Because the tree never depends on the workers or on the order in which they finish, neither do
the bits of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Generic, TypeVar

FAN_IN = 8

S = TypeVar("S")


def levels(n: int, fan_in: int = FAN_IN) -> list[list[range]]:
    """Return, for each level, the runs of the level below that are folded into one value."""
    out = []
    while n > 1:
        groups = [range(lo, min(lo + fan_in, n)) for lo in range(0, n, fan_in)]
        out.append(groups)
        n = len(groups)
    return out


def subtrees(n: int, wanted: int, fan_in: int = FAN_IN) -> list[range]:
    """Return whole subtrees, all of one depth: as few as there can be without being fewer than ``wanted``.

    One task can fold a subtree by itself, and the tree, with all its bits, stays what it was.
    """
    width = 1
    while width < n and -(-n // (width * fan_in)) >= wanted:
        width *= fan_in
    return [range(lo, min(lo + width, n)) for lo in range(0, n, width)]


def fold(merge: Callable[[S, S], S], values: Sequence[S]) -> S:
    """Merge values from left to right."""
    return reduce(merge, values)


class Folder(Generic[S]):
    """Folds values over the tree as they come, in any order, and keeps no more than it must."""

    def __init__(self, n: int, merge: Callable[[S, S], S], fan_in: int = FAN_IN) -> None:
        self._levels = levels(n, fan_in)
        self._waiting: list[dict[int, S]] = [{} for _ in range(len(self._levels) + 1)]
        self._merge = merge
        self._fan_in = fan_in

    def put(self, index: int, value: S, level: int = 0) -> None:
        """Take the value of item ``index``; complete groups are folded at once."""
        waiting = self._waiting[level]
        waiting[index] = value
        if level == len(self._levels):
            return
        group = self._levels[level][index // self._fan_in]
        if all(i in waiting for i in group):
            folded = fold(self._merge, [waiting.pop(i) for i in group])
            self.put(index // self._fan_in, folded, level + 1)

    def result(self) -> S:
        """Return the root, once every item was put."""
        return self._waiting[-1][0]

"""The reference executor: one item after the other, in this thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stream_gmm.execute.protocol import I, OnDone, R, S, attempt, require_items
from stream_gmm.execute.tree import Folder


class SerialExecutor:
    """Runs everything in the caller's thread; what all others are compared with."""

    n_workers = 1

    def map(
        self,
        fn: Callable[[I, Any], R],
        items: Sequence[I],
        *,
        shared: Any = None,
        label: str = "map",
        on_done: OnDone | None = None,
    ) -> list[R]:
        """See :class:`~stream_gmm.execute.protocol.Executor`."""
        require_items(items)
        out = []
        for index, item in enumerate(items):
            out.append(attempt(fn, item, shared))
            if on_done:
                on_done(index)
        return out

    def map_reduce(
        self,
        fn: Callable[[I, Any], S],
        merge: Callable[[S, S], S],
        items: Sequence[I],
        *,
        shared: Any = None,
        label: str = "map",
        on_done: OnDone | None = None,
    ) -> S:
        """See :class:`~stream_gmm.execute.protocol.Executor`."""
        require_items(items)
        folder = Folder(len(items), merge)
        for index, item in enumerate(items):
            folder.put(index, attempt(fn, item, shared))
            if on_done:
                on_done(index)
        return folder.result()

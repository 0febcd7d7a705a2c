"""The reference executor: one item after the other, in this thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stream_gmm.execute.protocol import (
    I,
    OnDone,
    R,
    S,
    Scratch,
    call_with_scratch,
    machine_memory,
    require_items,
    run_task,
)
from stream_gmm.execute.tree import Folder


class SerialExecutor:
    """Runs everything in the caller's thread; what all others are compared with."""

    n_workers = 1

    def __init__(self) -> None:
        self._scratch = Scratch()

    @property
    def memory_bytes(self) -> int:
        """Memory of this machine."""
        return machine_memory()

    def keep(
        self, fn: Callable[[I, Any, str], R], items: Sequence[I], *, shared: Any = None, label: str = "keep"
    ) -> Sequence[Any]:
        """See :class:`~stream_gmm.execute.protocol.Executor`."""
        scratch = self._scratch.path
        return self.map(call_with_scratch, [(fn, item, scratch) for item in items], shared=shared, label=label)

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
            out.append(run_task(fn, item, shared))
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
            folder.put(index, run_task(fn, item, shared))
            if on_done:
                on_done(index)
        return folder.result()

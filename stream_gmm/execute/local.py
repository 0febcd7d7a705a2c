"""What the executors of one process share: everything except the order in which tasks complete."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from stream_gmm.execute.protocol import (
    I,
    OnDone,
    R,
    S,
    Scratch,
    ScratchPath,
    call_with_scratch,
    machine_memory,
    require_items,
)
from stream_gmm.execute.tree import Folder


class LocalExecutor(ABC):
    """Runs tasks in this process. A subclass says only how tasks are completed."""

    def __init__(self, n_workers: int) -> None:
        self.n_workers = n_workers
        self._scratch = Scratch()

    @abstractmethod
    def complete_tasks(self, fn: Callable[[I, Any], R], items: Sequence[I], shared: Any) -> Iterator[tuple[int, R]]:
        """Yield the index and the result of every item, in any order; stop at the first error."""

    @property
    def memory_bytes(self) -> int:
        """Memory of this machine, in bytes."""
        return machine_memory()

    @property
    def place(self) -> str:
        """No other process than this one."""
        return "this process"

    def keep(
        self, fn: Callable[[I, Any, ScratchPath], R], items: Sequence[I], *, shared: Any = None, label: str = "keep"
    ) -> Sequence[Any]:
        """See :class:`~stream_gmm.execute.protocol.Executor`."""
        calls = [(fn, item, self._scratch) for item in items]
        return self.map(call_with_scratch, calls, shared=shared, label=label)

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
        results: dict[int, R] = {}
        for index, value in self.complete_tasks(fn, items, shared):
            results[index] = value
            if on_done:
                on_done(index)
        return [results[i] for i in range(len(items))]

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
        for index, value in self.complete_tasks(fn, items, shared):
            folder.put(index, value)
            if on_done:
                on_done(index)
        return folder.result()

"""Threads of this process: the kernels and the Parquet decoder release the GIL."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
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


def available_cores() -> int:
    """Return the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class ThreadsExecutor:
    """Runs tasks on a few threads; at most two tasks per thread are in flight."""

    def __init__(self, n_workers: int | None = None) -> None:
        self.n_workers = n_workers or available_cores()
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
        done = dict(self._completed(fn, items, shared, on_done))
        return [done[i] for i in range(len(items))]

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
        for index, value in self._completed(fn, items, shared, on_done):
            folder.put(index, value)
        return folder.result()

    def _completed(
        self, fn: Callable[[I, Any], R], items: Sequence[I], shared: Any, on_done: OnDone | None
    ) -> Iterator[tuple[int, R]]:
        waiting = list(enumerate(items))[::-1]
        running: dict[Future[R], int] = {}
        with ThreadPoolExecutor(self.n_workers, thread_name_prefix="stream-gmm") as pool:
            while waiting or running:
                while waiting and len(running) < 2 * self.n_workers:
                    index, item = waiting.pop()
                    running[pool.submit(run_task, fn, item, shared)] = index
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    index = running.pop(future)
                    try:
                        value = future.result()
                    except BaseException:
                        waiting.clear()
                        pool.shutdown(wait=True, cancel_futures=True)
                        raise
                    if on_done:
                        on_done(index)
                    yield index, value

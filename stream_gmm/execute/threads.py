"""Threads of this process: the kernels and the Parquet decoder release the GIL."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from stream_gmm.execute.local import LocalExecutor
from stream_gmm.execute.protocol import I, R, run_task


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class ThreadsExecutor(LocalExecutor):
    """Runs tasks on ``n_workers`` threads (None: one per core); at most two tasks per thread are in flight."""

    def __init__(self, n_workers: int | None = None) -> None:
        super().__init__(n_workers or available_cores())

    def complete_tasks(self, fn: Callable[[I, Any], R], items: Sequence[I], shared: Any) -> Iterator[tuple[int, R]]:
        """Yield results as the threads finish them; after an error the tasks that have not started are cancelled.

        What would occupy one thread alone runs in that of the caller: starting another costs a millisecond.
        """
        if min(self.n_workers, len(items)) == 1:
            for index, item in enumerate(items):
                yield index, run_task(fn, item, shared)
            return
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
                    yield index, value

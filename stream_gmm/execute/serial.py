"""The reference executor: one item after the other, in the caller's thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from stream_gmm.execute.local import LocalExecutor
from stream_gmm.execute.protocol import I, R, run_task


class SerialExecutor(LocalExecutor):
    """Runs everything in the caller's thread; the other executors are compared with it."""

    def __init__(self) -> None:
        super().__init__(n_workers=1)

    def complete_tasks(self, fn: Callable[[I, Any], R], items: Sequence[I], shared: Any) -> Iterator[tuple[int, R]]:
        """Run the items in their order."""
        for index, item in enumerate(items):
            yield index, run_task(fn, item, shared)

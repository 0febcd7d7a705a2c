"""Runs tasks on a Dask cluster; :mod:`.dask_cluster` opens it, :mod:`.dask_wait` waits, :mod:`.dask_workers` checks.

Plain futures, one task per item; results are merged on the workers along the fixed tree, so
that one small value travels to the caller.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "warning")  # read when distributed is imported

from distributed import Client, Future, get_worker
from distributed.client import FutureCancelledError, FuturesCancelledError
from distributed.scheduler import KilledWorker

from stream_gmm.errors import ClusterError, StreamGMMError, explain
from stream_gmm.execute.dask_wait import Deadlines, ask, describe_workers, fetch_results, name_span, wait_for_tasks
from stream_gmm.execute.dask_workers import WorkerCheck, examine_workers
from stream_gmm.execute.protocol import I, OnDone, R, S, machine_memory, require_items, run_task
from stream_gmm.execute.tree import Folder, fold, levels, subtrees

log = logging.getLogger(__name__)

T = TypeVar("T")

_LOST = (KilledWorker, FutureCancelledError, FuturesCancelledError)
_ATTEMPTS = 2
# The scheduler needs 2 to 3 ms for a task: no more of them than keep all workers evenly busy.
TASKS_PER_SLOT = 16


def _run_checked(check: WorkerCheck | None, fn: Callable[[I, Any], R], item: I, shared: Any) -> R:
    if check is not None:
        check.examine_this_worker()
    return run_task(fn, item, shared)


def _keep_on_worker(value: T) -> T:
    """Put a value on a worker as a task's result: unlike scattered data it can be made again."""
    return value


def _keep_on_worker_disk(fn: Callable[[I, Any, str], R], item: I, shared: Any) -> R:
    return fn(item, shared, get_worker().local_directory)


def _fold_subtree(fn: Callable[[I, Any], S], merge: Callable[[S, S], S], bunch: Sequence[I], shared: Any) -> S:
    """Fold a whole subtree in one task."""
    folder = Folder(len(bunch), merge)
    for index, item in enumerate(bunch):
        folder.put(index, fn(item, shared))
    return folder.result()


def _report_each(groups: Sequence[range], on_done: OnDone | None) -> OnDone | None:
    """Return what reports every item of a group that is done."""
    if on_done is None:
        return None

    def report(group: int) -> None:
        for index in groups[group]:
            on_done(index)

    return report


def _merge_group(merge: Callable[[S, S], S], values: Sequence[S]) -> S:
    return fold(merge, values)


class DaskExecutor:
    """Runs tasks on the workers of a client, which stays the caller's.

    A cluster that is of no use for longer than the ``deadlines`` is an error. With a ``check`` every worker is
    examined before its first task, whenever it joins.
    """

    def __init__(self, client: Client, deadlines: Deadlines | None = None, check: WorkerCheck | None = None) -> None:
        self.client = client
        self.deadlines = deadlines or Deadlines()
        self.check = check

    @property
    def n_workers(self) -> int:
        """Task slots of the cluster at this moment."""
        return max(1, sum(w["nthreads"] for w in describe_workers(self.client, self.deadlines.lost).values()))

    @property
    def memory_bytes(self) -> int:
        """Memory limits of the workers together; a worker without a limit counts as this machine."""
        workers = describe_workers(self.client, self.deadlines.lost).values()
        return sum(w["memory_limit"] or machine_memory() for w in workers)

    @property
    def place(self) -> str:
        """Address of the scheduler and of its dashboard, if it has one."""
        link = self.client.dashboard_link
        return f"Dask scheduler {self.client.scheduler.address}" + (f", dashboard {link}" if link else "")

    def examine_workers(self) -> None:
        """Examine the workers that are there, before they get work; without a check nothing is done.

        Raises
        ------
        ClusterError
            If one has other versions, or gives a wrong answer.
        """
        if self.check is not None:
            examine_workers(self.client, self.check, self.deadlines)

    def keep(
        self, fn: Callable[[I, Any, str], R], items: Sequence[I], *, shared: Any = None, label: str = "keep"
    ) -> Sequence[Any]:
        """See :class:`~stream_gmm.execute.protocol.Executor`."""
        require_items(items)
        return self._submit(partial(_keep_on_worker_disk, fn), items, shared, label)

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

        def once() -> list[R]:
            leaves = self._submit(fn, items, shared, label)
            wait_for_tasks(self.client, leaves, on_done, self.deadlines)
            return fetch_results(self.client, leaves)

        return _retry_lost_work(self.client, once)

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
        groups = self._groups(items)
        bunches = [[items[i] for i in g] for g in groups]
        whole = _report_each(groups, on_done)

        def once() -> S:
            leaves = self._submit(partial(_fold_subtree, fn, merge), bunches, shared, label)
            root = self._reduce(merge, leaves)
            wait_for_tasks(self.client, leaves, whole, self.deadlines)
            wait_for_tasks(self.client, [root], None, self.deadlines)
            out: S = fetch_results(self.client, [root])[0]
            return out

        return _retry_lost_work(self.client, once)

    def _submit(self, fn: Callable[[I, Any], R], items: Sequence[I], shared: Any, label: str) -> list[Future]:
        """Submit one task for each item, in one message; futures among the items stand for their values."""
        self._recompute_lost(items)
        n = len(items)
        with name_span():
            shared_future = self.client.submit(_keep_on_worker, shared, pure=False)
            prefix = f"{label}-{shared_future.key.rsplit('-', 1)[-1]}"
            # Positional, each: a keyword argument beyond 100 kB would become a task under its bare name.
            keys = [(prefix, i) for i in range(n)]
            out: list[Future] = self.client.map(
                _run_checked, [self.check] * n, [fn] * n, list(items), [shared_future] * n, key=keys
            )
        return out

    def _groups(self, items: Sequence[Any]) -> list[range]:
        """Return which items go into one task; kept values stay where they are, one to a task."""
        if any(isinstance(i, Future) for i in items):
            return subtrees(len(items), len(items))
        return subtrees(len(items), TASKS_PER_SLOT * self.n_workers)

    def _recompute_lost(self, items: Sequence[Any]) -> None:
        """Recompute kept values that were lost because workers died."""
        kept = [i for bunch in items for i in (bunch if isinstance(bunch, list) else [bunch])]
        failed = [i for i in kept if isinstance(i, Future) and i.status in ("error", "lost")]
        if failed:
            ask(self.client, partial(self.client.retry, asynchronous=True), futures=failed)

    def _reduce(self, merge: Callable[[S, S], S], futures: list[Future]) -> Future:
        prefix = f"merge-{futures[0].key[0]}"
        for depth, groups in enumerate(levels(len(futures))):
            together = [[futures[i] for i in group] for group in groups]
            keys = [(prefix, depth, i) for i in range(len(groups))]
            with name_span():
                futures = self.client.map(_merge_group, [merge] * len(groups), together, key=keys)
        return futures[0]


def _retry_lost_work(client: Client, run: Callable[[], T]) -> T:
    """Repeat once what was lost together with workers.

    Raises
    ------
    ClusterError
        If it is lost again: most likely a task needs more memory than a worker has. Or if the scheduler is gone.
    """
    cut = False
    for left in range(_ATTEMPTS - 1, -1, -1):
        try:
            return run()
        except _LOST as error:
            cut = cut or "connection-lost" in str(error)
            if not left:
                raise ClusterError(
                    explain(
                        f"the cluster lost the work twice: {error}",
                        why="the connection to the scheduler was lost, and with it what the workers kept"
                        if cut
                        else "workers died, most likely because they ran out of memory",
                        remedy="look at the network and at the scheduler's log"
                        if cut
                        else "raise cluster.memory_limit or use fewer threads per worker",
                    )
                ) from error
            what = "the connection was lost" if cut else "workers were lost"
            log.warning("%s, the pass starts again: %s", what, error)
        except StreamGMMError:
            raise
        except Exception as error:
            if client.status == "running":
                raise
            # Lost between two passes, the connection is only missed by what sends the next tasks.
            raise ClusterError(
                explain(
                    "the connection to the Dask scheduler was lost",
                    why=str(error) or type(error).__name__,
                    remedy="look at the scheduler's log, and start it again",
                )
            ) from error
    raise AssertionError("unreachable")  # pragma: no cover

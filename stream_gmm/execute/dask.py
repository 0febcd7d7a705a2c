"""A Dask cluster; :mod:`.dask_wait` waits for its tasks.

Plain futures, one task per item; results are merged on the workers along the fixed tree, so
that one small value travels to the caller.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "warning")  # read when distributed is imported

import dask
from dask.utils import parse_bytes
from distributed import Client, Future, LocalCluster, get_worker
from distributed.client import FutureCancelledError, FuturesCancelledError
from distributed.scheduler import KilledWorker

from stream_gmm.errors import ClusterError, ConfigError, StreamGMMError, explain
from stream_gmm.execute.dask_wait import wait_for_tasks
from stream_gmm.execute.interrupts import close_quietly, delay_signals
from stream_gmm.execute.protocol import I, OnDone, R, S, machine_memory, require_items, run_task
from stream_gmm.execute.threads import available_cores
from stream_gmm.execute.tree import Folder, fold, levels, subtrees

log = logging.getLogger(__name__)

T = TypeVar("T")

_LOST = (KilledWorker, FutureCancelledError, FuturesCancelledError)
_ATTEMPTS = 2
WORKER_SECONDS = 120
"""A worker of an embedded cluster that was silent for so long is given up, and its tasks go to others."""
# The scheduler needs 2 to 3 ms for a task: no more of them than keep all workers evenly busy.
TASKS_PER_SLOT = 16


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

    Without any worker, or without a scheduler, it waits for ``patience`` seconds.
    """

    def __init__(self, client: Client, patience: float = 60.0) -> None:
        self.client = client
        self.patience = patience

    @property
    def n_workers(self) -> int:
        """Task slots of the cluster at this moment."""
        return max(1, sum(self.client.nthreads().values()))

    @property
    def memory_bytes(self) -> int:
        """Memory limits of the workers together; a worker without a limit counts as this machine."""
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        return sum(w["memory_limit"] or machine_memory() for w in workers)

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
            wait_for_tasks(self.client, leaves, on_done, self.patience)
            out: list[R] = self.client.gather(leaves)
            return out

        return _retry_lost_work(once)

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
            wait_for_tasks(self.client, leaves, whole, self.patience)
            wait_for_tasks(self.client, [root], None, self.patience)
            out: S = root.result()
            return out

        return _retry_lost_work(once)

    def _submit(self, fn: Callable[[I, Any], R], items: Sequence[I], shared: Any, label: str) -> list[Future]:
        """Submit one task for each item, in one message; futures among the items stand for their values."""
        self._recompute_lost(items)
        n, shared_future = len(items), self.client.submit(_keep_on_worker, shared, pure=False)
        prefix = f"{label}-{shared_future.key.rsplit('-', 1)[-1]}"
        # Positional, each: a keyword argument beyond 100 kB would become a task under its bare name.
        out: list[Future] = self.client.map(
            run_task, [fn] * n, list(items), [shared_future] * n, key=[(prefix, i) for i in range(n)]
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
            self.client.retry(failed)

    def _reduce(self, merge: Callable[[S, S], S], futures: list[Future]) -> Future:
        prefix = f"merge-{futures[0].key[0]}"
        for depth, groups in enumerate(levels(len(futures))):
            together = [[futures[i] for i in group] for group in groups]
            keys = [(prefix, depth, i) for i in range(len(groups))]
            futures = self.client.map(_merge_group, [merge] * len(groups), together, key=keys)
        return futures[0]


def _retry_lost_work(run: Callable[[], T]) -> T:
    """Repeat once what was lost together with workers.

    Raises
    ------
    ClusterError
        If it is lost again: most likely a task needs more memory than a worker has.
    """
    for left in range(_ATTEMPTS - 1, -1, -1):
        try:
            return run()
        except _LOST as error:
            if not left:
                raise ClusterError(
                    explain(
                        f"the cluster lost the work twice: {error}",
                        why="workers died, most likely because they ran out of memory",
                        remedy="raise cluster.memory_limit or use fewer threads per worker",
                    )
                ) from error
            log.warning("workers were lost, the pass starts again: %s", error)
    raise AssertionError("unreachable")  # pragma: no cover


@dataclass(frozen=True)
class ClusterSpec:
    """Which cluster to use; the default is an embedded one on the loopback address."""

    address: str | None = None
    scheduler_file: str | None = None
    cluster_class: str | None = None
    cluster_options: Mapping[str, Any] = field(default_factory=dict)
    scale: int | None = None
    adapt: Mapping[str, int] | None = None
    n_workers: int | None = None
    threads_per_worker: int = 1
    memory_limit: str | None = None
    timeout_seconds: float = 30.0


def plan_slots(spec: ClusterSpec) -> tuple[int, int | None]:
    """Return task slots, and bytes of memory of each (None: not known), of a cluster that is not started yet.

    Raises
    ------
    ConfigError
        If the memory is not a size.
    """
    if spec.cluster_class:
        workers = spec.scale or (spec.adapt or {}).get("maximum", 1)
        slots = int(spec.cluster_options.get("cores", spec.cluster_options.get("threads_per_worker", 1)))
        given = spec.cluster_options.get("memory", spec.cluster_options.get("memory_limit"))
    else:
        workers, slots, given = spec.n_workers or available_cores(), spec.threads_per_worker, spec.memory_limit
    if given in (None, "auto"):
        return workers * slots, None if spec.cluster_class else machine_memory() // (workers * slots)
    try:
        return workers * slots, int(parse_bytes(given)) // slots
    except ValueError as error:
        raise ConfigError(f"{given!r} is not a size of memory: write it as '2GiB'.") from error


def _start_embedded(spec: ClusterSpec) -> Any:
    options: dict[str, Any] = {"memory_limit": spec.memory_limit} if spec.memory_limit else {}
    # A dashboard or a port on all interfaces lets anyone run code here.
    with delay_signals(), dask.config.set({"distributed.scheduler.worker-ttl": f"{WORKER_SECONDS} s"}):
        return LocalCluster(
            n_workers=spec.n_workers or available_cores(),
            threads_per_worker=spec.threads_per_worker,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            preload="stream_gmm.execute.interrupts",
            **options,
        )


def _start_by_class(spec: ClusterSpec) -> Any:
    path = spec.cluster_class or ""
    module, _, name = path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            explain(
                f"cluster.cluster_class {path!r} cannot be imported",
                why=str(error),
                remedy="give the dotted path of a Dask cluster class, such as dask_jobqueue.SLURMCluster",
            )
        ) from error
    return cls(**spec.cluster_options)


@contextmanager
def connect(spec: ClusterSpec) -> Iterator[Client]:
    """Connect to a cluster, or start one that ends with the ``with`` block.

    Raises
    ------
    ConfigError
        If its class or its options cannot be used.
    ClusterError
        If it cannot be reached or started, or no worker comes up in time.
    """
    with ExitStack() as stack:
        try:
            client = _open_client(spec, stack)
            client.wait_for_workers(1, timeout=spec.timeout_seconds)
        except (OSError, TimeoutError, RuntimeError) as error:
            where = spec.address or spec.scheduler_file or spec.cluster_class or "embedded cluster"
            raise ClusterError(
                explain(
                    f"no Dask worker at {where} within {spec.timeout_seconds:g} s",
                    why=str(error) or type(error).__name__,
                    remedy="check the address, that workers are up, and cluster.timeout_seconds",
                )
            ) from error
        except StreamGMMError:
            raise
        except (TypeError, ValueError, ImportError) as error:  # from the constructors of clusters and clients
            raise ConfigError(
                explain(
                    "the cluster section cannot be used",
                    why=f"{type(error).__name__}: {error}",
                    remedy="check cluster.address, cluster.cluster_class and cluster.cluster_options",
                )
            ) from error
        with close_quietly():
            yield client


def _open_client(spec: ClusterSpec, stack: ExitStack) -> Client:
    timeout = f"{spec.timeout_seconds}s"
    if spec.address:
        return stack.enter_context(Client(spec.address, timeout=timeout))
    if spec.scheduler_file:
        if not os.path.exists(spec.scheduler_file):
            raise ClusterError(f"there is no scheduler file {spec.scheduler_file}.")
        return stack.enter_context(Client(scheduler_file=spec.scheduler_file, timeout=timeout))
    make = _start_by_class if spec.cluster_class else _start_embedded
    cluster = stack.enter_context(make(spec))
    if spec.scale is not None:
        cluster.scale(spec.scale)
    if spec.adapt:
        cluster.adapt(**spec.adapt)
    return stack.enter_context(Client(cluster, timeout=timeout))

"""Waits for the tasks of a Dask cluster, and not for ever: a cluster without workers or scheduler ends the wait."""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence

from distributed import Client, Future

from stream_gmm.errors import ClusterError, explain
from stream_gmm.execute.protocol import OnDone

CHECK_SECONDS = 1.0
"""While no task ends, the cluster is asked so often how it is,"""
ANSWER_SECONDS = 5.0
"""and has so long to answer."""


def wait_for_tasks(client: Client, futures: Sequence[Future], on_done: OnDone | None, patience: float) -> None:
    """Return when all tasks are done, reporting each; stop at the first that fails.

    Raises
    ------
    ClusterError
        If for ``patience`` seconds together there was no worker, or no answer of the scheduler.
    """
    index = {f.key: i for i, f in enumerate(futures)}
    ended: queue.SimpleQueue[Future] = queue.SimpleQueue()
    for future in futures:
        future.add_done_callback(ended.put)
    left, lost_since = len(futures), 0.0
    while left:
        try:
            future = ended.get(timeout=CHECK_SECONDS)
        except queue.Empty:
            lost = _find_loss(client)
            lost_since = (lost_since or time.monotonic()) if lost else 0.0
            if lost and time.monotonic() - lost_since > patience:
                raise ClusterError(
                    explain(
                        f"{lost} for {patience:.0f} s, with {left} of {len(futures)} tasks to do",
                        why="workers or the scheduler have ended, or cannot be reached",
                        remedy="look at their logs, start them again (cluster.timeout_seconds is half of the wait)",
                    )
                ) from None
            continue
        left, lost_since = left - 1, 0.0
        if future.status != "finished":
            future.result()
        if on_done:
            on_done(index[future.key])


def _find_loss(client: Client) -> str:
    """Return what is missing of the cluster, or nothing."""
    if client.status != "running":
        return "the Dask scheduler was not connected"
    try:
        identity = client.sync(client.scheduler.identity, n_workers=-1, callback_timeout=ANSWER_SECONDS)
    except (OSError, TimeoutError):
        return "the Dask scheduler did not answer"
    return "" if identity["workers"] else "the Dask cluster had no worker"

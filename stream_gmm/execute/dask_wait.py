"""Waits for the tasks of a Dask cluster, and not for ever: a cluster that is of no use for too long ends the wait."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import dask
from distributed import Client, Future

from stream_gmm.errors import ClusterError, explain
from stream_gmm.execute.protocol import OnDone

CHECK_SECONDS = 1.0
"""While no task ends, the cluster is asked so often how it is,"""
ANSWER_SECONDS = 5.0
"""and has so long to answer."""
TRANSFER_SECONDS = 300.0
"""Results that are done have so long to arrive."""
BUSY_PERCENT = 10.0
"""Of a core: a worker that uses less is waiting, not working. On a slow machine an idle one takes five."""

SPAN = "stream-gmm"
"""Dask's name for all that is submitted; see :func:`name_span`."""


def name_span() -> AbstractContextManager[None]:
    """Return a block whose tasks belong to one span of Dask's metrics, unless the caller has given them one.

    Without it every pass, and every question to the workers, would be a span of its own, which scheduler and workers
    keep for ever: 12 kB each.
    """
    if "span" in dask.get_annotations():
        return nullcontext()
    named: AbstractContextManager[None] = dask.annotate(span={"name": (SPAN,), "ids": (SPAN,)})
    return named


@dataclass(frozen=True)
class Deadlines:
    """How long a cluster may be of no use, in seconds.

    Attributes
    ----------
    lost
        Without any worker, without an answer of the scheduler, or with a scheduler that no longer knows the tasks.
    stalled
        Without a worker that works: hung, stopped, or paused because its memory is full.
    """

    lost: float = 60.0
    stalled: float = 600.0


@dataclass(frozen=True)
class Trouble:
    """What is wrong with a cluster: in words, with its reason, what to do, and for how long it is borne."""

    what: str
    why: str
    remedy: str
    seconds: float


def ask(client: Client, call: Callable[..., Any], **arguments: Any) -> Any:
    """Return the scheduler's answer to a call.

    Raises
    ------
    ClusterError
        If it does not answer within 5 seconds.
    """
    try:
        return client.sync(call, **arguments, callback_timeout=ANSWER_SECONDS)
    except (OSError, TimeoutError) as error:
        raise ClusterError(
            explain(
                f"the Dask scheduler did not answer within {ANSWER_SECONDS:g} s",
                why=str(error) or type(error).__name__,
                remedy="look at its log, and start it again",
            )
        ) from error


def describe_workers(client: Client, patience: float) -> Mapping[str, Any]:
    """Return what the scheduler knows of every worker, by address.

    Raises
    ------
    ClusterError
        If it does not answer for ``patience`` seconds.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            return ask(client, client.scheduler.identity, n_workers=-1)["workers"]
        except ClusterError:
            if time.monotonic() > deadline:
                raise
            time.sleep(CHECK_SECONDS)


def wait_for_tasks(client: Client, futures: Sequence[Future], on_done: OnDone | None, deadlines: Deadlines) -> None:
    """Return when all tasks are done, reporting each; stop at the first that fails.

    Raises
    ------
    ClusterError
        If the cluster was of no use for longer than the deadlines allow.
    """
    index = {f.key: i for i, f in enumerate(futures)}
    ended: queue.SimpleQueue[Future] = queue.SimpleQueue()
    for future in futures:
        future.add_done_callback(ended.put)
    waiting = dict.fromkeys(index)
    heard: dict[str, float] = {}
    trouble, since = None, 0.0
    while waiting:
        try:
            future = ended.get(timeout=CHECK_SECONDS)
        except queue.Empty:
            found = _find_trouble(client, list(waiting), heard, deadlines)
            if found is None or trouble is None or found.seconds != trouble.seconds:
                since = time.monotonic()
            trouble = found
            if trouble is not None and time.monotonic() - since > trouble.seconds:
                left = f"with {len(waiting)} of {len(index)} tasks to do"
                what = f"{trouble.what} for {trouble.seconds:.0f} s, {left}"
                raise ClusterError(explain(what, why=trouble.why, remedy=trouble.remedy)) from None
            continue
        waiting.pop(future.key, None)
        trouble = None
        if future.status != "finished":
            future.result()
        if on_done:
            on_done(index[future.key])


def fetch_results(client: Client, futures: Sequence[Future]) -> list[Any]:
    """Return the values of tasks that are done.

    Raises
    ------
    ClusterError
        If they do not arrive within 300 seconds.
    """
    try:
        # As a coroutine, since the gather of a synchronous client has no deadline.
        out: list[Any] = client.sync(
            partial(client.gather, asynchronous=True), list(futures), callback_timeout=TRANSFER_SECONDS
        )
    except TimeoutError as error:
        raise ClusterError(
            explain(
                f"results of the workers did not arrive within {TRANSFER_SECONDS:g} s",
                why="the workers that had them have ended, or the network between them and this machine is too slow",
                remedy="look at the logs of the workers",
            )
        ) from error
    return out


def _find_trouble(client: Client, keys: list[Any], heard: dict[str, float], deadlines: Deadlines) -> Trouble | None:
    """Return what is wrong with a cluster that has these tasks to do; ``heard`` is kept from one call to the next."""
    gone = partial(
        Trouble,
        why="workers or the scheduler have ended, or cannot be reached",
        remedy="look at their logs, start them again (cluster.timeout_seconds is half of the wait)",
        seconds=deadlines.lost,
    )
    if client.status != "running":
        return gone("the Dask scheduler was not connected")
    try:
        workers = ask(client, client.scheduler.identity, n_workers=-1)["workers"]
        states = ask(client, client.scheduler.get_task_status, keys=keys)
        at_work = ask(client, client.scheduler.processing)
    except ClusterError:
        return gone("the Dask scheduler did not answer")
    if not workers:
        return gone("the Dask cluster had no worker")
    if not any(state in ("waiting", "queued", "no-worker", "processing") for state in states.values()):
        return Trouble(
            "the Dask scheduler had nothing to do and did not report the tasks as done",
            why="it was started again, or its messages were lost",
            remedy="the same command goes on with a new connection",
            seconds=deadlines.lost,
        )
    busy = [
        address
        for address, worker in workers.items()
        if worker["last_seen"] != heard.get(address) and worker["metrics"].get("cpu", 0.0) >= BUSY_PERCENT
    ]
    heard.update({address: worker["last_seen"] for address, worker in workers.items()})
    own = {address for address, tasks in at_work.items() if not states.keys().isdisjoint(map(_as_key, tasks))}
    if set(busy) & (own or set(workers)):
        return None
    paused = sum(worker["status"] == "paused" for worker in workers.values())
    return Trouble(
        "no worker of the Dask cluster was at work on the tasks",
        why=f"{paused} of {len(workers)} workers are paused, because their memory is nearly full"
        if paused
        else "they hang, wait for storage that does not answer, or are stopped",
        remedy="raise cluster.memory_limit or use fewer threads per worker"
        if paused
        else "look at their logs and at the storage; cluster.stall_seconds is how long that may last",
        seconds=deadlines.stalled,
    )


def _as_key(key: Any) -> Any:
    return tuple(key) if isinstance(key, list) else key

"""For a Dask scheduler that runs for months: ``dask scheduler --preload stream_gmm.execute.scheduler_upkeep``.

Dask's scheduler keeps for ever what it knows of groups of tasks that are done, 6 kB for every pass over the data,
what a client that was killed has left on the workers, and a log for every client that there was. With this module it
forgets all of them once a minute. It also keeps the last 1,000 messages to every worker, with the parameters that
they carry, and for an hour what clients did that are gone; here these are fewer messages, and minutes.
"""

from __future__ import annotations

from functools import partial

import dask
from dask.utils import key_split, parse_timedelta
from distributed import Scheduler
from tornado.ioloop import PeriodicCallback

from stream_gmm.execute.dask_workers import WARNINGS

EVERY_SECONDS = 60.0
MESSAGES = 100
"""That are kept of those to each worker that comes from now on, and in other logs that begin from now on."""
EVENTS_SECONDS = 300.0
"""For so long the scheduler keeps what a client did that is gone."""
_LENGTH, _DELAY = "distributed.admin.low-level-log-length", "distributed.scheduler.events-cleanup-delay"


def dask_setup(scheduler: Scheduler) -> None:
    """Begin; called by Dask."""
    dask.config.set({
        _LENGTH: min(MESSAGES, dask.config.get(_LENGTH)),
        _DELAY: min(EVENTS_SECONDS, parse_timedelta(dask.config.get(_DELAY))),
    })  # fmt: skip
    upkeep = PeriodicCallback(partial(forget, scheduler), EVERY_SECONDS * 1000.0)
    scheduler.periodic_callbacks["stream-gmm-upkeep"] = upkeep
    upkeep.start()


async def forget(scheduler: Scheduler) -> None:
    """Forget groups and names of tasks that are done, and logs and log handlers of clients that are gone."""
    getattr(key_split, "cache_clear", int)()  # of up to 100,000 names of tasks, each of which comes once
    if "spans" in scheduler.extensions:
        for span in scheduler.extensions["spans"].spans.values():
            span.groups.intersection_update(scheduler.task_groups.values())
    for name in list(scheduler.worker_plugins):
        if name.startswith(WARNINGS) and not _has_client(scheduler, name):
            await scheduler.unregister_worker_plugin(comm=None, name=name)
    topics = getattr(getattr(scheduler, "_broker", None), "_topics", {})  # private, but nothing else lists them
    for name in list(topics):
        is_ours = name.startswith(WARNINGS) and not _has_client(scheduler, name)
        if is_ours or (name.startswith("Client-") and name not in scheduler.clients and not topics[name].events):
            del topics[name]


def _has_client(scheduler: Scheduler, name: str) -> bool:
    """Return True if the client is there that a topic or plugin for warnings belongs to."""
    return any(name.startswith(WARNINGS + client) for client in scheduler.clients)

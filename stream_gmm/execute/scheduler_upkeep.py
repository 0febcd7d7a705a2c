"""For a Dask scheduler that runs for months: ``dask scheduler --preload stream_gmm.execute.scheduler_upkeep``.

Dask's scheduler keeps for ever what it knows of groups of tasks that are done, 6 kB for every pass over the data, and
what a client that was killed has left on the workers. With this module it forgets both once a minute.
"""

from __future__ import annotations

from functools import partial

from distributed import Scheduler
from tornado.ioloop import PeriodicCallback

from stream_gmm.execute.dask_workers import WARNINGS

EVERY_SECONDS = 60.0


def dask_setup(scheduler: Scheduler) -> None:
    """Begin; called by Dask."""
    upkeep = PeriodicCallback(partial(forget, scheduler), EVERY_SECONDS * 1000.0)
    scheduler.periodic_callbacks["stream-gmm-upkeep"] = upkeep
    upkeep.start()


async def forget(scheduler: Scheduler) -> None:
    """Forget the groups of tasks that are done, and the log handlers of clients that are gone."""
    if "spans" in scheduler.extensions:
        for span in scheduler.extensions["spans"].spans.values():
            span.groups.intersection_update(scheduler.task_groups.values())
    for name in list(scheduler.worker_plugins):
        if name.startswith(WARNINGS) and not any(name.startswith(WARNINGS + client) for client in scheduler.clients):
            await scheduler.unregister_worker_plugin(comm=None, name=name)

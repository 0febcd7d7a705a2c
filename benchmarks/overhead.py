"""What Dask and Prefect cost beside the work: tiny passes, a ten-second pass, and a simulated large cluster.

``python -m benchmarks.overhead [--short]``. Three tables (``--short``: the first two): seconds of a pass of tasks
that do nothing, and what went over the network; a cost model of the reduce, checked against real runs with 1, 2 and
4 worker processes, and its forecast for 10,000 parts on up to 1,000 workers; the same long pass on threads of one
process, and on Dask with progress in Prefect.
"""

from __future__ import annotations

import heapq
import logging
import pickle
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil

import stream_gmm as sg
from benchmarks.data import dataset
from benchmarks.harness import report
from benchmarks.pass_parquet import timed
from benchmarks.pass_speed import TYPES, mixture
from stream_gmm.execute.dask import TASKS_PER_SLOT, ClusterSpec, DaskExecutor, connect
from stream_gmm.execute.threads import ThreadsExecutor
from stream_gmm.execute.tree import FAN_IN, levels, subtrees
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.fit.steps import make_profile, open_tasks
from stream_gmm.pipeline.passes.full_pass import FullPass
from stream_gmm.pipeline.passes.progress import Listener, ignore_progress

VALUES = 131_072
"""Float64 values in a simulated statistic: 1 MiB."""
SLEEP = 0.05


def nothing(item: int, shared: Any) -> float:
    """Do nothing."""
    del shared
    return float(item)


def add(a: Any, b: Any) -> Any:
    """Merge."""
    return a + b


def sleeping(item: int, shared: Any) -> Any:
    """Stand for a leaf: take some time and no processor, and return a statistic of 1 MiB."""
    del shared
    time.sleep(SLEEP)
    return np.full(VALUES, float(item))


def tiny_passes(executor: DaskExecutor) -> list[tuple[Any, ...]]:
    """Return tasks, seconds and loopback traffic of passes that do nothing."""
    shared = {"parameters": np.zeros(12_500)}
    rows = []
    for n in (1, 16, 64, 256, 1000):
        items = list(range(n))

        def run(items: list[int] = items) -> Any:
            return executor.map_reduce(nothing, add, items, shared=shared, label="tiny")

        run()
        before = psutil.net_io_counters(pernic=True)["lo"].bytes_sent
        run()
        traffic = psutil.net_io_counters(pernic=True)["lo"].bytes_sent - before
        seconds = timed(run, 5)
        groups = len(subtrees(n, TASKS_PER_SLOT * executor.n_workers))
        tasks = 1 + groups + sum(len(level) for level in levels(groups))
        rows.append((n, tasks, seconds * 1e3, seconds * 1e3 / (60 + n), len(pickle.dumps(shared)), traffic))
    return rows


def long_pass(listener_for: Callable[[], Listener]) -> list[tuple[Any, ...]]:
    """Return the seconds of one pass on two threads, and on two Dask workers with Prefect told of it."""
    data = sg.open_dataset(dataset(5_000_000, 8, 8), columns=[f"x{j}" for j in range(8)])
    names = (n for _ in range(4) for n in TYPES)
    candidates = [mixture(np.random.default_rng(k), k, 8, name) for name in names for k in range(2, 11)]

    def seconds(executor: Any, listener: Listener) -> float:
        settings = Settings(cache="memory", cache_bytes=1 << 40, sample_rows=1000)
        reading = open_tasks(data, settings, executor)
        profile = make_profile(data, reading, settings, executor)
        full = FullPass(reading, executor, profile.scaling, profile.moments, listener=listener)
        full(candidates)
        return timed(lambda: full(candidates), 2)

    with connect(ClusterSpec(n_workers=1)) as client:
        one = seconds(DaskExecutor(client), ignore_progress)
    with connect(ClusterSpec(n_workers=2)) as client:
        client.wait_for_workers(2, timeout=60)
        plain = seconds(DaskExecutor(client), ignore_progress)
        told = seconds(DaskExecutor(client), listener_for())
    threads = seconds(ThreadsExecutor(2), ignore_progress)
    return [
        (f"{len(candidates)} candidates, 5 M rows, two threads of one process", threads, 1.0),
        ("one Dask worker", one, one / threads),
        ("two Dask workers", plain, plain / threads),
        ("two Dask workers, progress in Prefect", told, told / threads),
    ]


@dataclass(frozen=True)
class Costs:
    """A cost model of a pass on a cluster; seconds, and bytes a second."""

    start: float
    """Once a pass: parameters out, result back."""
    task: float
    """The scheduler's time for one task; it does one at a time."""
    fetch: float
    """One value fetched from another worker."""
    bandwidth: float
    leaf: float
    """The work of one leaf."""

    def simulate(self, n: int, workers: int, value_bytes: float) -> float:
        """Return the seconds of a map-reduce of n leaves, by simulation of scheduler and workers."""
        free = [(0.0, w) for w in range(workers)]
        done, scheduler = [], self.start
        for group in subtrees(n, TASKS_PER_SLOT * workers):
            scheduler += self.task
            at, w = heapq.heappop(free)
            end = max(at, scheduler) + self.leaf * len(group)
            heapq.heappush(free, (end, w))
            done.append(end)
        for level in levels(len(done)):
            done = [
                max(done[i] for i in g)
                + self.task
                + (len(g) - len(g) / workers) * (self.fetch + value_bytes / self.bandwidth)
                for g in level
            ]
        return done[0] + value_bytes / self.bandwidth


def fitted(tiny: list[tuple[Any, ...]]) -> Costs:
    """Return costs from the tiny passes; the network's are those of the loopback, measured."""
    tasks, seconds = np.array([r[1] for r in tiny], float), np.array([r[2] for r in tiny]) / 1e3
    slope, start = np.polyfit(tasks, seconds, 1)
    return Costs(max(float(start), 0.0), float(slope), 0.004, 1e9, SLEEP)


def real(n: int, workers: int) -> float:
    """Return the measured seconds of a map-reduce of sleeping leaves."""
    with connect(ClusterSpec(n_workers=workers)) as client:
        client.wait_for_workers(workers, timeout=60)
        executor = DaskExecutor(client)
        executor.map_reduce(sleeping, add, list(range(2 * workers)))
        return timed(lambda: executor.map_reduce(sleeping, add, list(range(n))))


def reduce_model(costs: Costs) -> list[tuple[Any, ...]]:
    """Return the model beside real runs, and what it says of large clusters."""
    size = 8.0 * VALUES
    rows: list[tuple[Any, ...]] = []
    for workers in (1, 2, 4):
        rows += [(n, workers, SLEEP, real(n, workers), costs.simulate(n, workers, size)) for n in (16, 64)]
    for leaf in (0.3, 10.0):
        remote = Costs(costs.start, costs.task, 0.01, 1e9, leaf)
        rows += [(10_000, w, leaf, "", remote.simulate(10_000, w, size)) for w in (16, 100, 1000)]
    return rows


def main() -> None:
    """Measure and print."""
    from prefect import flow, get_run_logger
    from prefect.testing.utilities import prefect_test_harness

    from flows.progress import PrefectProgress

    with connect(ClusterSpec(n_workers=2)) as client:
        client.wait_for_workers(2, timeout=60)
        tiny = tiny_passes(DaskExecutor(client))
    heads = ("leaves", "tasks", "pass, ms", "share of 60 ms + 1 ms a leaf", "parameters, bytes", "traffic, bytes")
    report("overhead_tiny", heads, tiny)
    costs = fitted(tiny)
    print(f"\nfan-in {FAN_IN}; {costs}\n")
    report("overhead_model", ("leaves", "workers", "leaf, s", "measured, s", "model, s"), reduce_model(costs))

    if "--short" in sys.argv:
        return

    @flow
    def measured() -> list[tuple[Any, ...]]:
        return long_pass(lambda: PrefectProgress("overhead", get_run_logger()))

    logging.getLogger("prefect").setLevel(logging.WARNING)
    with prefect_test_harness(server_startup_timeout=180):
        report("overhead_long", ("pass", "seconds", "ratio"), measured())


if __name__ == "__main__":
    main()

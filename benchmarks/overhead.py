"""Overhead of Dask and Prefect: tiny passes, a ten-second pass, and a simulated large cluster.

``python -m benchmarks.overhead [--short]`` prints three tables (with ``--short`` the first two). A leaf is what one
task reads.

1. Seconds and network traffic of passes whose tasks do nothing.
2. A cost model of the reduction, checked against real runs with 1, 2 and 4 worker processes, and its forecast for
   10,000 leaves on up to 1,000 workers.
3. The same long pass on threads of one process, and on Dask with progress in Prefect.
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
from benchmarks.data import prepare_dataset
from benchmarks.harness import time_calls, write_report
from benchmarks.pass_speed import COVARIANCE_TYPES, draw_mixture
from stream_gmm.execute.dask import TASKS_PER_SLOT, DaskExecutor
from stream_gmm.execute.dask_cluster import ClusterSpec, connect
from stream_gmm.execute.threads import ThreadsExecutor
from stream_gmm.execute.tree import FAN_IN, levels, subtrees
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.fit.steps import make_profile, open_tasks
from stream_gmm.pipeline.passes.full_pass import FullPass
from stream_gmm.pipeline.passes.progress import Listener, ignore_progress

STATISTIC_VALUES = 131_072
"""Float64 values in a simulated statistic: 1 MiB."""
LEAF_SECONDS = 0.05
"""Time that a simulated leaf takes."""


def do_nothing(item: int, shared: Any) -> float:
    """Return the item: a task without work."""
    del shared
    return float(item)


def add_values(a: Any, b: Any) -> Any:
    """Merge two results of tasks."""
    return a + b


def sleep_as_leaf(item: int, shared: Any) -> Any:
    """Simulate the task of a leaf: take time but no processor, and return a statistic of 1 MiB."""
    del shared
    time.sleep(LEAF_SECONDS)
    return np.full(STATISTIC_VALUES, float(item))


def measure_tiny_passes(executor: DaskExecutor) -> list[tuple[Any, ...]]:
    """Return the rows of the first table: tasks, time and loopback traffic of passes that do nothing."""
    shared = {"parameters": np.zeros(12_500)}
    rows = []
    for n in (1, 16, 64, 256, 1000):
        items = list(range(n))

        def run(items: list[int] = items) -> Any:
            return executor.map_reduce(do_nothing, add_values, items, shared=shared, label="tiny")

        run()
        before = psutil.net_io_counters(pernic=True)["lo"].bytes_sent
        run()
        traffic = psutil.net_io_counters(pernic=True)["lo"].bytes_sent - before
        seconds = time_calls(run, 5)
        groups = len(subtrees(n, TASKS_PER_SLOT * executor.n_workers))
        tasks = 1 + groups + sum(len(level) for level in levels(groups))
        rows.append((n, tasks, seconds * 1e3, seconds * 1e3 / (60 + n), len(pickle.dumps(shared)), traffic))
    return rows


def measure_long_pass(make_listener: Callable[[], Listener]) -> list[tuple[Any, ...]]:
    """Return the rows of the third table: one pass on threads, on Dask workers, and with progress in Prefect."""
    data = sg.open_dataset(prepare_dataset(5_000_000, 8, 8), columns=[f"x{j}" for j in range(8)])
    names = (n for _ in range(4) for n in COVARIANCE_TYPES)
    candidates = [draw_mixture(np.random.default_rng(k), k, 8, name) for name in names for k in range(2, 11)]

    def time_pass(executor: Any, listener: Listener) -> float:
        settings = Settings(cache="memory", cache_bytes=1 << 40, sample_rows=1000)
        reading = open_tasks(data, settings, executor)
        profile = make_profile(data, reading, settings, executor)
        full = FullPass(reading, executor, profile.scaling, profile.moments, listener=listener)
        full(candidates)
        return time_calls(lambda: full(candidates), 2)

    with connect(ClusterSpec(n_workers=1)) as client:
        one_worker = time_pass(DaskExecutor(client), ignore_progress)
    with connect(ClusterSpec(n_workers=2)) as client:
        client.wait_for_workers(2, timeout=60)
        two_workers = time_pass(DaskExecutor(client), ignore_progress)
        with_progress = time_pass(DaskExecutor(client), make_listener())
    threads = time_pass(ThreadsExecutor(2), ignore_progress)
    return [
        (f"{len(candidates)} candidates, 5 M rows, two threads of one process", threads, 1.0),
        ("one Dask worker", one_worker, one_worker / threads),
        ("two Dask workers", two_workers, two_workers / threads),
        ("two Dask workers, progress in Prefect", with_progress, with_progress / threads),
    ]


@dataclass(frozen=True)
class ReductionCosts:
    """A cost model of a pass on a cluster: seconds, and a bandwidth in bytes per second."""

    start: float
    """Once per pass: parameters to the workers, result back."""
    task: float
    """Time of the scheduler for one task; it handles one task at a time."""
    fetch: float
    """Latency of fetching one value from another worker."""
    bandwidth: float
    leaf: float
    """Time of the work on one leaf."""

    def simulate(self, n: int, workers: int, value_bytes: float) -> float:
        """Return the seconds of a map-reduce over n leaves, from a simulation of scheduler and workers."""
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


def fit_costs(tiny: list[tuple[Any, ...]]) -> ReductionCosts:
    """Fit the costs of pass and task to the tiny passes; those of the network are for the loopback interface."""
    tasks, seconds = np.array([r[1] for r in tiny], float), np.array([r[2] for r in tiny]) / 1e3
    slope, start = np.polyfit(tasks, seconds, 1)
    return ReductionCosts(max(float(start), 0.0), float(slope), 0.004, 1e9, LEAF_SECONDS)


def measure_reduction(n: int, workers: int) -> float:
    """Return the measured seconds of a map-reduce over n leaves that sleep."""
    with connect(ClusterSpec(n_workers=workers)) as client:
        client.wait_for_workers(workers, timeout=60)
        executor = DaskExecutor(client)
        executor.map_reduce(sleep_as_leaf, add_values, list(range(2 * workers)))
        return time_calls(lambda: executor.map_reduce(sleep_as_leaf, add_values, list(range(n))))


def compare_cost_model(costs: ReductionCosts) -> list[tuple[Any, ...]]:
    """Return the rows of the second table: model and real runs, and the forecast for large clusters."""
    size = 8.0 * STATISTIC_VALUES
    rows: list[tuple[Any, ...]] = []
    for workers in (1, 2, 4):
        rows += [
            (n, workers, LEAF_SECONDS, measure_reduction(n, workers), costs.simulate(n, workers, size))
            for n in (16, 64)
        ]
    for leaf in (0.3, 10.0):
        remote = ReductionCosts(costs.start, costs.task, 0.01, 1e9, leaf)
        rows += [(10_000, w, leaf, "", remote.simulate(10_000, w, size)) for w in (16, 100, 1000)]
    return rows


def main() -> None:
    """Measure, print and write the tables."""
    from prefect import flow, get_run_logger
    from prefect.testing.utilities import prefect_test_harness

    from stream_gmm.flows.progress import PrefectProgress

    with connect(ClusterSpec(n_workers=2)) as client:
        client.wait_for_workers(2, timeout=60)
        tiny = measure_tiny_passes(DaskExecutor(client))
    headings = (
        "leaves", "tasks", "pass, ms", "ratio to 60 ms + 1 ms per leaf", "parameters, bytes", "traffic, bytes",
    )  # fmt: skip
    write_report("overhead_tiny", headings, tiny)
    costs = fit_costs(tiny)
    print(f"\nfan-in {FAN_IN}; {costs}\n")
    write_report(
        "overhead_model", ("leaves", "workers", "leaf, s", "measured, s", "model, s"), compare_cost_model(costs)
    )

    if "--short" in sys.argv:
        return

    @flow
    def measured() -> list[tuple[Any, ...]]:
        return measure_long_pass(lambda: PrefectProgress("overhead", "overhead", get_run_logger()))

    logging.getLogger("prefect").setLevel(logging.WARNING)
    with prefect_test_harness(server_startup_timeout=180):
        write_report("overhead_long", ("pass", "seconds", "ratio"), measured())


if __name__ == "__main__":
    main()

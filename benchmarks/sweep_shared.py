"""Forty candidates in one shared pass, against forty passes of one candidate each.

``python -m benchmarks.sweep_shared``: four covariance structures x K = 1 ... 10, 8 columns, from Parquet on two
threads, without a cache and with decoded rows in memory.
"""

from __future__ import annotations

import numpy as np

import stream_gmm as sg
from benchmarks.data import prepare_dataset
from benchmarks.harness import time_alternately, write_report
from benchmarks.pass_speed import COVARIANCE_TYPES, draw_mixture
from stream_gmm.execute.threads import ThreadsExecutor
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.fit.steps import profile_source
from stream_gmm.pipeline.passes.full_pass import FullPass
from stream_gmm.pipeline.passes.tasks import CachePolicy, plan_tasks

COLUMNS, ROWS = 8, 1_000_000
HEADINGS = ("cache", "one pass of 40, s", "40 passes of one, s", "ratio")


def main() -> None:
    """Measure, print and write the tables."""
    data = sg.open_dataset(prepare_dataset(ROWS, COLUMNS, 5), columns=[f"x{j}" for j in range(COLUMNS)])
    candidates = [
        draw_mixture(np.random.default_rng(k), k, COLUMNS, name) for name in COVARIANCE_TYPES for k in range(1, 11)
    ]
    executor, table = ThreadsExecutor(2), []
    for cache in ("none", "memory"):
        profile = profile_source(data, Settings(cache="none", sample_rows=1000), executor)
        reading = plan_tasks(data, data.leaves(), executor, CachePolicy(cache))
        full = FullPass(reading, executor, profile.scaling, profile.moments)

        def together(full: FullPass = full) -> None:
            full(candidates)

        def one_by_one(full: FullPass = full) -> None:
            for candidate in candidates:
                full([candidate])

        times = time_alternately({"shared": together, "alone": one_by_one}, rounds=5)
        table.append((cache, times["shared"], times["alone"], times["shared"] / times["alone"]))
    write_report("sweep_shared", HEADINGS, table)


if __name__ == "__main__":
    main()

"""First and later passes from Parquet on two threads, beside an iteration of scikit-learn in memory.

``python -m benchmarks.pass_parquet [--rows N] [--compression CODEC] [--spark]``: 5 million rows x 8 columns, K = 8,
full covariances. ``--spark`` (needs Java and pyspark) adds Spark ML's GaussianMixture on ``local[2]`` with its data
cached.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

import stream_gmm as sg
from benchmarks.data import prepare_dataset, true_mixture
from benchmarks.harness import time_calls, write_report
from benchmarks.pass_speed import make_sklearn_iteration
from stream_gmm.execute.protocol import Executor
from stream_gmm.execute.threads import ThreadsExecutor
from stream_gmm.io.source.dataset import Dataset
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.fit.steps import profile_source
from stream_gmm.pipeline.passes.full_pass import FullPass
from stream_gmm.pipeline.passes.tasks import CachePolicy, plan_tasks

COLUMNS, COMPONENTS, ROUNDS = 8, 8, 3
HEADINGS = ("pass", "seconds", "M rows/s", "x scikit-learn", "x Spark ML")


def measure_passes(data: Dataset, executor: Executor, cache: str) -> tuple[float, float]:
    """Return the median seconds of a first E-step, which decodes the rows and may cache them, and of later ones."""
    params = true_mixture(COLUMNS, COMPONENTS)
    profile = profile_source(data, Settings(cache="none", sample_rows=1000), executor)
    firsts, laters = [], []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        reading = plan_tasks(data, data.leaves(), executor, CachePolicy(cache))
        full = FullPass(reading, executor, profile.scaling, profile.moments)
        full([params])
        firsts.append(time.perf_counter() - start)
        laters.append(time_calls(lambda full=full: full([params]), ROUNDS))  # type: ignore[misc]
    return statistics.median(firsts), statistics.median(laters)


def measure_spark_iteration(folder: Path) -> float:
    """Return the seconds of one iteration of Spark ML on ``local[2]``: the slope between 1 and 4 iterations."""
    from pyspark.ml.clustering import GaussianMixture
    from pyspark.ml.feature import VectorAssembler
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[2]").config("spark.driver.memory", "12g")
    spark = builder.config("spark.ui.enabled", "false").config("spark.driver.host", "127.0.0.1").getOrCreate()
    columns = [f"x{j}" for j in range(COLUMNS)]
    frame = VectorAssembler(inputCols=columns, outputCol="features").transform(
        spark.read.parquet(*[str(p) for p in sorted(folder.glob("*.parquet"))])
    )
    frame = frame.select("features").cache()
    frame.count()

    def time_fit(iterations: int) -> float:
        model = GaussianMixture(k=COMPONENTS, maxIter=iterations, tol=0.0, seed=1)
        start = time.perf_counter()
        model.fit(frame)
        return time.perf_counter() - start

    time_fit(1)
    out = (time_fit(4) - time_fit(1)) / 3
    spark.stop()
    return out


def main() -> None:
    """Measure, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--compression", default="snappy")
    parser.add_argument("--spark", action="store_true")
    options = parser.parse_args()
    folder = prepare_dataset(options.rows, COLUMNS, COMPONENTS, compression=options.compression)
    data = sg.open_dataset(folder, columns=[f"x{j}" for j in range(COLUMNS)])
    executor = ThreadsExecutor(2)
    spark = measure_spark_iteration(folder) if options.spark else float("nan")
    rows = np.concatenate([c.rows for leaf in data.leaves() for c in leaf.chunks()])
    theirs = time_calls(make_sklearn_iteration(true_mixture(COLUMNS, COMPONENTS), rows), 2)
    del rows
    table = [
        ("scikit-learn, in memory, default number of BLAS threads", theirs),
        ("Spark ML, local[2], cached", spark),
    ]
    for cache in ("none", "memory", "disk"):
        first, later = measure_passes(data, executor, cache)
        table.append((f"ours, first pass from Parquet, cache {cache}", first))
        table.append((f"ours, later passes, cache {cache}", later))
    write_report(
        f"pass_parquet_{options.compression}", HEADINGS,
        [(name, s, options.rows / s / 1e6, theirs / s, spark / s) for name, s in table if s == s],
    )  # fmt: skip


if __name__ == "__main__":
    main()

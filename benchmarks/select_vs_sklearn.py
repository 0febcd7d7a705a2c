"""Selecting one of 40 candidates, beside a loop over scikit-learn.

``python -m benchmarks.select_vs_sklearn [ROWS]``: 4 structures x K = 1 ... 10, n_init = 3, by default on 5 million
rows x 8: components far apart (where EM needs few iterations), and overlapping ones with heavy tails. The loop over
scikit-learn would take hours to days, so its time is estimated from two measurements. The seconds of an iteration and
of a k-means start are measured on 250,000 of the rows in memory and scaled to all rows. The iterations are counted
from scikit-learn's own starts on 200,000 rows, to its default tolerance (1e-3) and to 1e-5, at K = 1, 2, 4, 7 and 10,
and interpolated linearly in between.
"""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.mixture import GaussianMixture

import stream_gmm as sg
from benchmarks.data import DATA_FOLDER, prepare_dataset
from benchmarks.harness import write_report
from benchmarks.pass_sets import draw_mixture_rows
from stream_gmm.execute.dask import DaskExecutor
from stream_gmm.execute.dask_cluster import ClusterSpec, connect

STRUCTURES = ("spherical", "diag", "tied", "full")
ALL_K = range(1, 11)
MEASURED_K = (1, 2, 4, 7, 10)
N_INIT = 3
COLUMNS = [f"x{j}" for j in range(8)]
TIMED_ROWS, FITTED_ROWS = 250_000, 200_000
TOLERANCES = (1e-3, 1e-5)
HEADINGS = (
    "data", "rows", "candidates", "in full passes", "chosen", "reads", "first run, s", "second run, s",
    "scikit-learn, iterations to 1e-3, s", "to 1e-5, s", "scikit-learn starts, s", "ratio, 1e-3", "1e-5",
    "1e-3 with starts",
)  # fmt: skip


def prepare_overlapping(rows: int) -> Path:
    """Return a folder of Parquet files with six overlapping components with heavy tails, written if missing."""
    folder = DATA_FOLDER / f"{rows}x8-overlapping"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "part-7.parquet").exists():
        for i, part in enumerate(np.array_split(draw_mixture_rows(100, rows, 8, 6, 1.5, tails=6.0), 8)):
            table = pa.table({c: part[:, j] for j, c in enumerate(COLUMNS)})
            pq.write_table(table, folder / f"part-{i}.parquet", row_group_size=131_072)
    return folder


def count_iterations(rows: Any, name: str, k: int, tol: float) -> int:
    """Return the number of iterations of scikit-learn from one start."""
    gm = GaussianMixture(k, covariance_type=name, random_state=0, tol=tol, max_iter=300)
    return int(gm.fit(rows).n_iter_)


def time_sklearn(rows: Any, name: str, k: int) -> tuple[float, float]:
    """Return the seconds of an iteration (four minus one, divided by three), and of the k-means start."""
    times = []
    start = rows[np.random.default_rng(0).integers(len(rows), size=k)]
    for steps, init in ((1, "random"), (4, "random"), (1, "kmeans")):
        means = {"means_init": start} if init == "random" else {}
        gm = GaussianMixture(
            k, covariance_type=name, max_iter=steps, tol=0.0, init_params=init, random_state=0, **means
        )
        began = time.perf_counter()
        gm.fit(rows)
        times.append(time.perf_counter() - began)
    return (times[1] - times[0]) / 3.0, max(times[2] - times[0], 0.0)


def estimate_sklearn_loop(rows: Any, all_rows: int) -> tuple[float, ...]:
    """Estimate the seconds of the loop over scikit-learn: iterations to each tolerance, and starts."""
    total = np.zeros(3)
    for name in STRUCTURES:
        steps = [[count_iterations(rows[:FITTED_ROWS], name, k, tol) for k in MEASURED_K] for tol in TOLERANCES]
        scale = all_rows / TIMED_ROWS
        each = np.array([time_sklearn(rows[:TIMED_ROWS], name, k) for k in MEASURED_K]) * scale
        print(name, "iterations", steps, "seconds per iteration and per start", each.round(2).tolist(), flush=True)
        for k in ALL_K:
            starts = 1 if k == 1 else N_INIT
            one, start = (float(np.interp(k, MEASURED_K, each[:, i])) for i in range(2))
            total += starts * np.array([*(one * np.interp(k, MEASURED_K, s) for s in steps), start])
    return tuple(float(t) for t in total)


def measure_selection(name: str, folder: Path, n: int) -> tuple[Any, ...]:
    """Return one row of the table: our sweep, run twice, and the estimate for scikit-learn."""
    data = sg.open_dataset(folder, columns=COLUMNS)
    ours = []
    with connect(ClusterSpec(n_workers=2)) as client:
        client.wait_for_workers(2, timeout=60)
        for _ in range(2):
            began = time.perf_counter()
            result = sg.sweep(data, ALL_K, STRUCTURES, n_init=N_INIT, client=DaskExecutor(client))
            ours.append(time.perf_counter() - began)
            print(name, result.candidates[result.chosen].name, result.passes, ours[-1], flush=True)
    chunks: list[Any] = []
    for piece in data.small_leaves():
        chunks += [c.rows for c in piece.chunks()]
        if sum(map(len, chunks)) >= TIMED_ROWS:
            break
    coarse, fine, starts = estimate_sklearn_loop(np.ascontiguousarray(np.concatenate(chunks)), n)
    on_full_data, slowest = sum(c.on_full_data for c in result.candidates), max(ours)
    return (
        name, n, len(result.candidates), on_full_data, result.candidates[result.chosen].name, result.passes, *ours,
        coarse, fine, starts, coarse / slowest, fine / slowest, (coarse + starts) / slowest,
    )  # fmt: skip


def main() -> None:
    """Measure, print and write the tables."""
    warnings.simplefilter("ignore")
    n = int(float(sys.argv[1])) if len(sys.argv) > 1 else 5_000_000
    folders = {"far apart": prepare_dataset(n, 8, 6), "overlapping": prepare_overlapping(n)}
    write_report(
        "select_vs_sklearn", HEADINGS, [measure_selection(name, folder, n) for name, folder in folders.items()]
    )


if __name__ == "__main__":
    main()

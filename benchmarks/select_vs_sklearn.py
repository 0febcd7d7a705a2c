"""Selecting a model out of 40 candidates, beside a loop over scikit-learn.

``python -m benchmarks.select_vs_sklearn [ROWS]``: 4 structures x K = 1 ... 10, n_init = 3, by default on 5 million
rows x 8: components far apart (where EM needs few iterations), and overlapping ones with heavy tails. The loop over
scikit-learn would take hours to days, so it is put together: seconds of an iteration, and of its k-means start, on
250,000 of the rows in memory, taken to all rows in proportion; iterations from its own starts on 200,000 rows, to its
own default tolerance (1e-3) and to 1e-5, at K = 1, 2, 4, 7 and 10 and in proportion between.
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
from benchmarks.data import FOLDER, dataset
from benchmarks.harness import report
from benchmarks.pass_sets import mixture_rows
from stream_gmm.execute.dask import ClusterSpec, DaskExecutor, connect

NAMES = ("spherical", "diag", "tied", "full")
KS = range(1, 11)
MEASURED = (1, 2, 4, 7, 10)
N_INIT = 3
COLUMNS = [f"x{j}" for j in range(8)]
TIMED_ROWS, FITTED_ROWS = 250_000, 200_000
TOLERANCES = (1e-3, 1e-5)
HEADS = (
    "data", "rows", "candidates", "in full passes", "chosen", "reads", "first run, s", "second run, s",
    "scikit-learn, iterations to 1e-3, s", "to 1e-5, s", "its starts, s", "ratio, 1e-3", "1e-5", "1e-3 with starts",
)  # fmt: skip


def overlapping(rows: int) -> Path:
    """Return a folder of Parquet files: six overlapping components with heavy tails."""
    folder = FOLDER / f"{rows}x8-overlapping"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "part-7.parquet").exists():
        for i, part in enumerate(np.array_split(mixture_rows(100, rows, 8, 6, 1.5, tails=6.0), 8)):
            table = pa.table({c: part[:, j] for j, c in enumerate(COLUMNS)})
            pq.write_table(table, folder / f"part-{i}.parquet", row_group_size=131_072)
    return folder


def iterations(rows: Any, name: str, k: int, tol: float) -> int:
    """Return the iterations of one start of scikit-learn."""
    gm = GaussianMixture(k, covariance_type=name, random_state=0, tol=tol, max_iter=300)
    return int(gm.fit(rows).n_iter_)


def seconds(rows: Any, name: str, k: int) -> tuple[float, float]:
    """Return seconds of an iteration (four less one, by three), and of the k-means start."""
    times = []
    start = rows[np.random.default_rng(0).integers(len(rows), size=k)]
    for steps, init in ((1, "random"), (4, "random"), (1, "kmeans")):
        given = {"means_init": start} if init == "random" else {}
        gm = GaussianMixture(
            k, covariance_type=name, max_iter=steps, tol=0.0, init_params=init, random_state=0, **given
        )
        began = time.perf_counter()
        gm.fit(rows)
        times.append(time.perf_counter() - began)
    return (times[1] - times[0]) / 3.0, max(times[2] - times[0], 0.0)


def of_sklearn(rows: Any, all_rows: int) -> tuple[float, ...]:
    """Return the seconds that the loop would take: iterations to each tolerance, and starts."""
    total = np.zeros(3)
    for name in NAMES:
        steps = [[iterations(rows[:FITTED_ROWS], name, k, tol) for k in MEASURED] for tol in TOLERANCES]
        scale = all_rows / TIMED_ROWS
        each = np.array([seconds(rows[:TIMED_ROWS], name, k) for k in MEASURED]) * scale
        print(name, "iterations", steps, "seconds of one, of a start", each.round(2).tolist(), flush=True)
        for k in KS:
            starts = 1 if k == 1 else N_INIT
            one, start = (float(np.interp(k, MEASURED, each[:, i])) for i in range(2))
            total += starts * np.array([*(one * np.interp(k, MEASURED, s) for s in steps), start])
    return tuple(float(t) for t in total)


def measure(name: str, folder: Path, n: int) -> tuple[Any, ...]:
    """Return one row of the table."""
    data = sg.open_dataset(folder, columns=COLUMNS)
    ours = []
    with connect(ClusterSpec(n_workers=2)) as client:
        client.wait_for_workers(2, timeout=60)
        for _ in range(2):
            began = time.perf_counter()
            result = sg.sweep(data, KS, NAMES, n_init=N_INIT, client=DaskExecutor(client))
            ours.append(time.perf_counter() - began)
            print(name, result.candidates[result.chosen].name, result.passes, ours[-1], flush=True)
    some: list[Any] = []
    for piece in data.small_leaves():
        some += [c.rows for c in piece.chunks()]
        if sum(map(len, some)) >= TIMED_ROWS:
            break
    coarse, fine, starts = of_sklearn(np.ascontiguousarray(np.concatenate(some)), n)
    on_full_data, slowest = sum(c.on_full_data for c in result.candidates), max(ours)
    return (
        name, n, len(result.candidates), on_full_data, result.candidates[result.chosen].name, result.passes, *ours,
        coarse, fine, starts, coarse / slowest, fine / slowest, (coarse + starts) / slowest,
    )  # fmt: skip


def main() -> None:
    """Measure and print."""
    warnings.simplefilter("ignore")
    n = int(float(sys.argv[1])) if len(sys.argv) > 1 else 5_000_000
    folders = {"far apart": dataset(n, 8, 6), "overlapping": overlapping(n)}
    report("select_vs_sklearn", HEADS, [measure(name, folder, n) for name, folder in folders.items()])


if __name__ == "__main__":
    main()

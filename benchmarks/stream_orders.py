"""Streams of the same rows in three orders, beside a fit of all of them: nats per row that the order costs.

``python -m benchmarks.stream_orders FOLDER[:COLUMN,...]...``: each folder holds Parquet files, of which the given
columns are used, or all floating-point ones. Rows with nulls are left out. The fit is of all rows at once, with the
same prior. The orders: sorted by the first column, in blocks of the components that the fit gives the rows to, and
shuffled. The columns of the table are mean log-likelihoods of all rows, less that of the fit.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pyarrow.types as pt

import stream_gmm as sg
from benchmarks.harness import write_report
from stream_gmm.core.model.moments import Array

K, BATCH, MOST_ROWS = 4, 1_000, 100_000


def read_rows(given: str, most: int) -> Array:
    """Return the rows ``(n, D)`` of the columns asked for, or of all floating-point ones."""
    folder, _, columns = given.partition(":")
    table = ds.dataset(folder).to_table()
    names = columns.split(",") if columns else [f.name for f in table.schema if pt.is_floating(f.type)]
    rows = np.column_stack([table[n].to_numpy(zero_copy_only=False).astype(float) for n in names])
    rows = rows[np.isfinite(rows).all(axis=1)]
    rows = rows[:, rows.std(axis=0) > 0.0]
    if len(rows) > most:
        rows = rows[np.sort(np.random.default_rng(0).choice(len(rows), most, replace=False))]
    return np.ascontiguousarray(rows)


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--rows", type=int, default=MOST_ROWS)
    parser.add_argument("--reservoir-rows", type=int)
    parser.add_argument("--reservoir-share", type=float, help="of the rows, in place of --reservoir-rows")
    given = parser.parse_args()
    out = []
    for folder in given.folders:
        rows = read_rows(folder, given.rows)
        one = sg.OnlineGaussianMixture(K, warmup_rows=len(rows)).fit(rows)  # all rows at once, with the same prior
        labels, best = one.predict(rows), one.score(rows)
        orders = {
            "sorted": np.argsort(rows[:, 0], kind="stable"),
            "blocked": np.argsort(labels, kind="stable"),
            "shuffled": np.random.default_rng(1).permutation(len(rows)),
        }
        capacity = given.reservoir_rows if given.reservoir_share is None else int(given.reservoir_share * len(rows))
        line: list[object] = [Path(folder.partition(":")[0]).parent.name or folder, len(rows), rows.shape[1], best]
        for order in orders.values():
            started = time.perf_counter()
            gm = sg.OnlineGaussianMixture(K, reservoir_rows=capacity)
            for lo in range(0, len(rows), BATCH):
                gm.partial_fit(rows[order[lo : lo + BATCH]])
            line += [gm.score(rows) - best, gm._seen.reviews, time.perf_counter() - started]
        out.append(tuple(line))
        print(*line, flush=True)
    names = [f"{order}{what}" for order in ("sorted", "blocked", "shuffled") for what in ("", ", reviews", ", s")]
    write_report("stream_orders", ("data", "rows", "columns", "fit, nats per row", *names), out)


if __name__ == "__main__":
    main()

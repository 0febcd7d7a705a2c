"""Peak memory of the Dask workers on small and large data sets: it must not grow with the number of rows.

``python -m benchmarks.memory [ROWS ...]``: writes each data set with the demo generator, runs the profile pass,
three EM passes of a sweep and the scoring pass on an embedded cluster, without a cache and with the default one,
and reads the peak resident set of every worker (VmHWM) from ``/proc``.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import stream_gmm as sg
from benchmarks.data import prepare_dataset
from benchmarks.harness import write_report
from stream_gmm.execute.dask import DaskExecutor
from stream_gmm.execute.dask_cluster import ClusterSpec, connect

COLUMNS = 8
HEADINGS = ("rows", "cache", "bytes as float64", "largest worker peak, MB", "peak before any data, MB", "scored rows")


def read_peak_memory() -> float:
    """Return the peak resident set of this process, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return float("nan")


def measure_workers(rows: int, cache: str, data_folder: Path, folder: Path) -> tuple[Any, ...]:
    """Return one row of the table: a sweep and scoring on two workers."""
    data = sg.open_dataset(data_folder, columns=[f"x{j}" for j in range(COLUMNS)])
    with connect(ClusterSpec(n_workers=2)) as client:
        client.wait_for_workers(2, timeout=60)
        client.run(_import_task_modules)
        before = max(client.run(read_peak_memory).values())
        executor = DaskExecutor(client)
        result = sg.sweep(data, [3, 5], ["diag", "full"], max_passes=3, cache=cache, client=executor)
        scored = sg.score(result.best, data, folder / f"scored-{rows}", client=executor)
        peak = max(client.run(read_peak_memory).values())
    shutil.rmtree(folder / f"scored-{rows}")
    return rows, cache, f"{rows * COLUMNS * 8 / 1e9:.2f} GB", round(peak), round(before), scored.rows


def _import_task_modules() -> None:
    """Import what a task imports, so that the baseline is a worker that is ready for tasks."""
    import stream_gmm.io.sink.scores
    import stream_gmm.pipeline.passes.full_pass  # noqa: F401


def main() -> None:
    """Measure data sets of the sizes given on the command line."""
    counts = [int(float(a)) for a in sys.argv[1:]] or [1_000_000, 4_000_000, 40_000_000]
    rows = []
    for n in counts:
        data_folder = prepare_dataset(n, COLUMNS, 5)
        with tempfile.TemporaryDirectory(dir=data_folder.parent) as folder:
            rows += [measure_workers(n, cache, data_folder, Path(folder)) for cache in ("none", "auto")]
    write_report("memory", HEADINGS, rows)


if __name__ == "__main__":
    main()

"""A sweep of 14 structures x K = 1 ... 20 x n_init 5 through the command line, and a forecast for clusters.

``python -m benchmarks.scale [--short] [ROWS [WORKERS ...]]``: 20 million rows x 8, two workers by default. With
several numbers of workers the sweep is repeated on each, and the prediction from the first run is shown beside the
measured time. ``--short``: 4 structures, K = 1 ... 10. The seconds of every stage are read from the progress lines;
peak memory is that of each process (VmHWM). The forecast starts from the measured work of the passes and of the
sample, in core seconds.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.data import prepare_dataset
from benchmarks.harness import write_report
from stream_gmm.core.model.covariance import FAMILIES
from stream_gmm.io.store.tables import read_table
from stream_gmm.pipeline.job.run_folder import TABLE, read_record

STRUCTURES = ",".join(f.mclust for f in FAMILIES)
HEADINGS = (
    "rows", "workers", "candidates", "in full passes", "chosen", "reads", "profile, s", "sample, s", "passes, s",
    "total, s", "planned, s", "driver peak, MB", "largest worker peak, MB",
)  # fmt: skip


def record_peak_memory(process: psutil.Process, stop: threading.Event, out: dict[int, float]) -> None:
    """Record the peak resident set of a process and of its children in MB, by process id, until ``stop`` is set."""
    while not stop.wait(0.5):
        family = [process]
        try:
            family += process.children(recursive=True)
        except psutil.NoSuchProcess:
            return
        for p in family:
            try:
                text = Path(f"/proc/{p.pid}/status").read_text()
            except OSError:
                continue
            found = re.search(r"VmHWM:\s+(\d+)", text)
            if found:
                out[p.pid] = int(found.group(1)) / 1024


def read_stage_seconds(lines: list[tuple[float, str]]) -> dict[str, float]:
    """Return the seconds of each stage, from its progress lines to the first line of the next stage."""
    out: dict[str, float] = {}
    marks = [
        (t, m.group(1))
        for t, line in lines
        if (m := re.match(r"\d\d:\d\d:\d\d (profile|seed|race|explore|fit)", line))
    ]
    for (t, stage), (after, _) in zip(marks, [*marks[1:], (lines[-1][0], "")], strict=True):
        out[stage] = out.get(stage, 0.0) + after - t
    return out


def run_sweep(rows: int, workers: int, folder: Path, short: bool) -> tuple[Any, ...]:
    """Run the sweep through the command line, and return one row of the table."""
    structures, ks = ("VII,VVI,EEE,VVV", "1:10") if short else (STRUCTURES, "1:20")
    command = [
        sys.executable, "-m", "stream_gmm", "sweep", "--paths", str(prepare_dataset(rows, 8, 8)),
        "--columns", ",".join(f"x{j}" for j in range(8)), "--n-components", ks, "--covariance-type", structures,
        "--n-init", "5", "--n-workers", str(workers), "--folder", str(folder), "--fresh",
    ]  # fmt: skip
    lines: list[tuple[float, str]] = []
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        memory: dict[int, float] = {}
        stop = threading.Event()
        watch = threading.Thread(target=record_peak_memory, args=(psutil.Process(process.pid), stop, memory))
        watch.start()
        assert process.stdout is not None
        for line in process.stdout:
            lines.append((time.perf_counter() - began, line))
            print(line, end="", flush=True)
        stop.set()
        watch.join()
    seconds, record, table = read_stage_seconds(lines), read_record(folder), read_table(folder / TABLE).to_pylist()
    planned = next(line for _, line in lines if line.startswith("time:"))
    driver = memory.pop(process.pid)
    return (
        rows, workers, len(table), sum(r["bic"] is not None for r in table), record["chosen"], record["passes"],
        seconds["profile"], sum(seconds.get(s, 0.0) for s in ("seed", "race", "explore")), seconds.get("fit", 0.0),
        record["seconds"]["sweep"],
        planned.split(",")[0].removeprefix("time: ").removesuffix(" in all"), driver, max(memory.values()),
    )  # fmt: skip


def forecast_clusters(row: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Return predicted seconds on larger data and clusters.

    Passes scale with rows and workers, the sample with workers only.
    """
    rows, workers, reads = row[0], row[1], row[5]
    profile, sample, passes = (float(row[i]) * workers for i in (6, 7, 8))
    out = []
    for n in (10**9, 10**10):
        for w in (16, 100, 1000):
            reading = (profile + passes) * n / rows / w
            # The sample has one task for each of 280 candidates, and the longest of them sets a lower limit. Each
            # read adds 60 ms, and 1 ms per leaf (what one task reads).
            on_sample = max(sample / w, sample / 280 * 4)
            overhead = reads * (0.06 + 0.001 * min(16 * w, n * 64 // (64 << 20)))
            out.append((n, w, reading, on_sample, overhead, reading + on_sample + overhead))
    return out


def predict_seconds(first: tuple[Any, ...], workers: int) -> float:
    """Predict from the first run the seconds with another number of workers on this machine."""
    cores = psutil.cpu_count() or 1
    return float(sum(first[6:9])) * min(first[1], cores) / min(workers, cores)


def main() -> None:
    """Measure, print and write the tables."""
    short = "--short" in sys.argv
    arguments = [a for a in sys.argv[1:] if a != "--short"]
    rows = int(float(arguments[0])) if arguments else 20_000_000
    worker_counts = [int(a) for a in arguments[1:]] or [2]
    results = []
    for workers in worker_counts:
        with tempfile.TemporaryDirectory() as folder:
            results.append(run_sweep(rows, workers, Path(folder) / "run", short))
    table = [(*row, predict_seconds(results[0], row[1])) for row in results]
    write_report(f"scale_{rows}{'_short' if short else ''}", (*HEADINGS, "predicted from the first run, s"), table)
    if short:
        return
    headings = ("rows", "workers", "reads, s", "sample, s", "overhead, s", "total, s")
    write_report(f"scale_forecast_{rows}", headings, forecast_clusters(results[0]))


if __name__ == "__main__":
    main()

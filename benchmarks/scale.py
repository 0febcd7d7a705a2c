"""A sweep of 14 structures x K = 1 ... 20 x n_init 5 through the command line, and what a cluster would make of it.

``python -m benchmarks.scale [--short] [ROWS [WORKERS ...]]``: 20 million rows x 8, two workers by default; with
several numbers of workers, the same sweep on each, beside what the first run says of it (``--short``: 4 structures,
K = 1 ... 10). Seconds of every stage are read from the progress lines; peak memory is that of every process (VmHWM).
The forecast takes the measured work of the passes and of the sample in core seconds.
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

from benchmarks.data import dataset
from benchmarks.harness import report
from stream_gmm.core.model.covariance import FAMILIES
from stream_gmm.io.store.tables import read_table
from stream_gmm.pipeline.job.run_folder import TABLE, read_record

STRUCTURES = ",".join(f.mclust for f in FAMILIES)
HEADS = (
    "rows", "workers", "candidates", "in full passes", "chosen", "reads", "profile, s", "sample, s", "passes, s",
    "all, s", "planned, s", "driver peak, MB", "largest worker peak, MB",
)  # fmt: skip


def peaks(process: psutil.Process, stop: threading.Event, out: dict[int, float]) -> None:
    """Note the peak resident set of a process and of its children, by process, until told to stop."""
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


def stages(lines: list[tuple[float, str]]) -> dict[str, float]:
    """Return the seconds of each stage, from its first line to the first of the next."""
    out: dict[str, float] = {}
    marks = [
        (t, m.group(1))
        for t, line in lines
        if (m := re.match(r"\d\d:\d\d:\d\d (profile|seed|race|explore|fit)", line))
    ]
    for (t, stage), (after, _) in zip(marks, [*marks[1:], (lines[-1][0], "")], strict=True):
        out[stage] = out.get(stage, 0.0) + after - t
    return out


def run(rows: int, workers: int, folder: Path, short: bool) -> tuple[Any, ...]:
    """Return one row of the table."""
    structures, ks = ("VII,VVI,EEE,VVV", "1:10") if short else (STRUCTURES, "1:20")
    command = [
        sys.executable, "-m", "stream_gmm", "sweep", "--paths", str(dataset(rows, 8, 8)),
        "--columns", ",".join(f"x{j}" for j in range(8)), "--n-components", ks, "--covariance-type", structures,
        "--n-init", "5", "--n-workers", str(workers), "--folder", str(folder), "--fresh",
    ]  # fmt: skip
    lines: list[tuple[float, str]] = []
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        memory: dict[int, float] = {}
        stop = threading.Event()
        watch = threading.Thread(target=peaks, args=(psutil.Process(process.pid), stop, memory))
        watch.start()
        assert process.stdout is not None
        for line in process.stdout:
            lines.append((time.perf_counter() - began, line))
            print(line, end="", flush=True)
        stop.set()
        watch.join()
    seconds, record, table = stages(lines), read_record(folder), read_table(folder / TABLE).to_pylist()
    planned = next(line for _, line in lines if line.startswith("time:"))
    driver = memory.pop(process.pid)
    return (
        rows, workers, len(table), sum(r["bic"] is not None for r in table), record["chosen"], record["passes"],
        seconds["profile"], sum(seconds.get(s, 0.0) for s in ("seed", "race", "explore")), seconds.get("fit", 0.0),
        record["seconds"]["sweep"],
        planned.split(",")[0].removeprefix("time: ").removesuffix(" in all"), driver, max(memory.values()),
    )  # fmt: skip


def forecast(row: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Return seconds on larger data and clusters: passes by rows and workers, the sample by workers."""
    rows, workers, reads = row[0], row[1], row[5]
    profile, sample, passes = (float(row[i]) * workers for i in (6, 7, 8))
    out = []
    for n in (10**9, 10**10):
        for w in (16, 100, 1000):
            per_reads = (profile + passes) * n / rows / w
            # One task for each of 280 cells, the longest of them in the end; 60 ms and 1 ms a leaf for each read.
            on_sample = max(sample / w, sample / 280 * 4)
            overhead = reads * (0.06 + 0.001 * min(16 * w, n * 64 // (64 << 20)))
            out.append((n, w, per_reads, on_sample, overhead, per_reads + on_sample + overhead))
    return out


def said(first: tuple[Any, ...], workers: int) -> float:
    """Return the seconds that the first run says another number of workers takes on this machine."""
    cores = psutil.cpu_count() or 1
    return float(sum(first[6:9])) * min(first[1], cores) / min(workers, cores)


def main() -> None:
    """Measure and print."""
    short = "--short" in sys.argv
    numbers = [a for a in sys.argv[1:] if a != "--short"]
    rows = int(float(numbers[0])) if numbers else 20_000_000
    counts = [int(a) for a in numbers[1:]] or [2]
    out = []
    for workers in counts:
        with tempfile.TemporaryDirectory() as folder:
            out.append(run(rows, workers, Path(folder) / "run", short))
    table = [(*row, said(out[0], row[1])) for row in out]
    report(f"scale_{rows}{'_short' if short else ''}", (*HEADS, "by the first run, s"), table)
    if short:
        return
    heads = ("rows", "workers", "reads, s", "sample, s", "overhead, s", "all, s")
    report(f"scale_forecast_{rows}", heads, forecast(out[0]))


if __name__ == "__main__":
    main()

"""Faults in real processes: every cell is a job that is made to fail at a named place, and started again.

``python -m benchmarks.faults [--cells N] [--minutes M] [--executors threads,dask]``: prints one line a cell and a
table of counts. A cell is right if the command ends with the exit code that the fault has (0 where the job goes on by
itself), if nothing but whole results is visible then, and if the same command, started again, ends with exit code 0
and the same model and scores, bit for bit, as a job without faults. With ``--minutes`` cells are repeated for so
long: a soak.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.dataset as ds

from benchmarks.harness import write_report
from stream_gmm import demo
from stream_gmm.faults import SITES

ROOT = Path(__file__).parents[1]
CODES = {"kill": -9, "term": 143, "int": 130, "enospc": 6}
DRIVER_SITES = tuple(s for s in SITES if s != "task")
DEADLINE_SECONDS = 240.0
GOES_ON = 0


@dataclass(frozen=True)
class Cell:
    """One fault: where, what, at which visit, under which executor; and the exit code that it must end with."""

    site: str
    action: str
    visit: int
    executor: tuple[str, ...]
    code: int

    @property
    def fault(self) -> str:
        """The value of ``STREAM_GMM_FAULT``."""
        return f"{self.site}:{self.action}:{self.visit}"


def list_cells(executors: list[str]) -> Iterator[Cell]:
    """Yield the cells: all driver sites and actions; workers that are killed, for 1 to 3 workers and threads."""
    threads = ("--executor", "threads", "--n-workers", "2")
    if "threads" in executors:
        for site, action, visit in itertools.product(DRIVER_SITES, CODES, (1, 2)):
            yield Cell(site, action, visit, threads, CODES[action])
        for action, visit in itertools.product(CODES, (1, 3, 6, 10)):
            if action != "enospc":  # a task that runs into an OSError is tried again
                yield Cell("task", action, visit, threads, CODES[action])
        yield Cell("task", "enospc", 2, threads, GOES_ON)
    if "dask" in executors:
        for workers, per_worker, visit in itertools.product((1, 2, 3), (1, 2, 3), (1, 2, 4)):
            options = ("--executor", "dask", "--n-workers", str(workers), "--threads-per-worker", str(per_worker))
            yield Cell("task", "kill", visit, options, GOES_ON)


class Job:
    """A small job in a folder, as a command of its own process: a sweep, and scoring."""

    def __init__(self, data: Path, folder: Path, cell: Cell | None = None) -> None:
        self.folder, self.cell = folder, cell
        options = cell.executor if cell else ("--executor", "serial")
        common = [str(data), "--columns", "x0,x1", "--folder", str(folder), "--quiet", *options]
        grid = [
            "--n-components",
            "1:3",
            "--covariance-type",
            "full,diag",
            "--sample-rows",
            "1000",
            "--prune",
            "false",
        ]
        self.commands = [["sweep", *common, *grid, "--tol", "1e-7"], ["score", *common]]

    def run(self, fail: bool) -> tuple[int, str]:
        """Run the commands until one fails; return its exit code and what it said."""
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        if fail and self.cell:
            environment |= {
                "STREAM_GMM_FAULT": self.cell.fault,
                "STREAM_GMM_FAULT_MARK": str(self.folder) + ".mark",
            }
        said = ""
        for command in self.commands:
            done = subprocess.run(
                [sys.executable, "-m", "stream_gmm", *command], env=environment, capture_output=True, text=True,
                timeout=DEADLINE_SECONDS, check=False,
            )  # fmt: skip
            said += done.stderr
            if done.returncode:
                return done.returncode, said
        return 0, said

    def digest(self) -> str:
        """Return the digest of what is published; empty parts where something is not there yet."""
        model, scored = self.folder / "model.gmm", self.folder / "scored"
        sha = hashlib.sha256(model.read_bytes() if model.exists() else b"")
        if scored.exists():
            for column in ds.dataset(scored).to_table().columns:
                sha.update(str(column.to_pylist()).encode())
        return sha.hexdigest()[:12]

    def is_whole(self, expected: str) -> bool:
        """Return True if what is visible is nothing, a whole model, or all of the expected results."""
        if not (self.folder / "scored").exists():
            return True
        return self.digest() == expected


def check_cell(cell: Cell, data: Path, folder: Path, expected: str) -> tuple[object, ...]:
    """Run a cell; return its row of the table."""
    job, started = Job(data, folder, cell), time.perf_counter()
    try:
        code, said = job.run(fail=True)
    except subprocess.TimeoutExpired:
        return cell.fault, " ".join(cell.executor[1::2]), "no end", False, False, False, False, DEADLINE_SECONDS
    struck = Path(str(folder) + ".mark").exists()
    whole = job.is_whole(expected)
    again, _ = job.run(fail=False)
    same = again == 0 and job.digest() == expected
    documented = code == (cell.code if struck else 0) and "Traceback" not in said
    seconds = time.perf_counter() - started
    return cell.fault, " ".join(cell.executor[1::2]), code, struck, documented, whole, same, seconds


def main() -> None:
    """Run the cells, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, help="so many cells, evenly from all")
    parser.add_argument("--minutes", type=float, help="repeat the cells for so long")
    parser.add_argument("--executors", default="threads,dask")
    given = parser.parse_args()
    cells = list(list_cells(given.executors.split(",")))
    if given.cells:
        cells = cells[:: max(len(cells) // given.cells, 1)][: given.cells]
    until = time.monotonic() + 60.0 * given.minutes if given.minutes else None
    rows: list[tuple[object, ...]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        demo.write(folder / "data", rows=3_000, columns=2, files=3, components=3)
        whole = Job(folder / "data", folder / "whole")
        whole.run(fail=False)
        expected = whole.digest()
        for number, cell in enumerate(itertools.cycle(cells) if until else cells):
            if until and time.monotonic() > until:
                break
            rows.append(check_cell(cell, folder / "data", folder / f"run{number}", expected))
            print(*rows[-1], flush=True)
    names = ("fault", "executor", "exit code", "struck", "code as documented", "whole", "same after restart", "s")
    write_report("faults", names, rows)
    wrong = [r for r in rows if not all(r[4:7])]
    counts = Counter(str(r[0]).split(":")[1] for r in rows if r[3])
    print(f"{len(rows)} cells, {sum(bool(r[3]) for r in rows)} struck ({dict(counts)}), {len(wrong)} wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()

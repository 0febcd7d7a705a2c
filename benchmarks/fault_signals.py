"""Signals to whole commands, at any moment from their first import to the end of their shutdown.

``python -m benchmarks.fault_signals [--cells N] [--only TEXT]``: a line a cell, and a table of counts.

A command is started in a session of its own, with an embedded cluster or with threads, as a Prefect flow or not. It
gets its signal after so many of its own CPU seconds, so that a loaded machine makes no difference to where that is,
or at a named place of the job (:mod:`stream_gmm.faults`). A cell is right if the exit code is that of the signal (or
0: the job was done), all that is printed is one line with the command that resumes, within a minute, and no process
of the session, and with it no port, is left.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fault_processes import end, list_session, poll, send, spawn
from benchmarks.harness import write_report
from stream_gmm import demo

DEADLINE_SECONDS = 400.0
"""For a command that gets no signal, on a loaded machine."""
ENDING_SECONDS = 60.0
"""From the signal to the end: 15 s are promised, and a loaded machine needs more."""
LEFT_SECONDS = 30.0
TERM, INT, TWICE, HANGUP, KILL = "SIGTERM", "SIGINT", "SIGINT twice", "SIGHUP", "kill -9"
NUMBERS = {
    TERM: signal.SIGTERM, INT: signal.SIGINT, TWICE: signal.SIGINT, HANGUP: signal.SIGHUP, KILL: signal.SIGKILL,
}  # fmt: skip
CLUSTER, THREADS = ("--executor", "dask", "--n-workers", "2"), ("--executor", "threads")
MOMENTS = {"cpu": "start-up", "profile": "profile", "race": "search", "pass": "between passes", "choice": "choice",
           "results": "publish", "score": "scoring", "swap": "publish"}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A signal to a command: after CPU seconds (``cpu:0.5``) or at a named site (``pass:1``)."""

    command: str
    executor: tuple[str, ...]
    when: str
    fault: str

    def describe(self) -> str:
        """Return what the cell is, in words."""
        return f"{self.command} {' '.join(self.executor)}: {self.fault} at {self.when}"

    @property
    def moment(self) -> str:
        """When it happens, in words."""
        return MOMENTS[self.when.partition(":")[0]]


def list_cells() -> Iterator[Cell]:
    """Yield all cells."""
    faults = (TERM, INT, TWICE, HANGUP, KILL)
    for when, fault in itertools.product(("cpu:0.1", "cpu:0.4", "cpu:1.0", "cpu:2.0", "cpu:4.0"), faults):
        yield Cell("run", CLUSTER, when, fault)
    for when, fault in itertools.product(("profile:1", "pass:1", "choice:1", "score:1", "swap:1"), faults):
        yield Cell("run", CLUSTER, when, fault)
    for when, fault in itertools.product(("cpu:0.1", "cpu:0.7", "cpu:1.5", "cpu:3.0", "race:1", "results:1"), faults):
        yield Cell("sweep", CLUSTER, when, fault)
    for when, fault in itertools.product(("cpu:0.2", "cpu:1.0", "pass:1"), faults):
        yield Cell("sweep", THREADS, when, fault)


@dataclass(frozen=True)
class Verdict:
    """What became of a cell."""

    code: int | None
    documented: bool
    one_line: bool
    alone: bool
    seconds: float
    said: str

    @property
    def is_right(self) -> bool:
        """True if the cell is as it must be."""
        return self.documented and self.one_line and self.alone


def run_cell(folder: Path, number: int, cell: Cell) -> Verdict:
    """Start a command, let it get its signal, and look at its end."""
    log, run = folder / f"log{number}", folder / f"run{number}"
    grid = ["--n-components", "1:3", "--covariance-type", "full,diag", "--sample-rows", "1000", "--tol", "1e-7"]
    command = [cell.command, str(folder / "data"), "--columns", "x0,x1", "--folder", str(run), "--quiet", *grid,
               *cell.executor]  # fmt: skip
    kind, _, value = cell.when.partition(":")
    log.write_bytes(b"")
    pid = spawn(command, log, {} if kind == "cpu" else {"STREAM_GMM_FAULT": f"{kind}:stop:{value}"})
    struck = _strike(pid, cell.fault, float(value) if kind == "cpu" else None)
    code = _wait(pid, ENDING_SECONDS) if struck else _wait(pid, 0.0)
    seconds = time.monotonic() - struck
    left = list_session(pid, LEFT_SECONDS)
    if left:
        print([Path(f"/proc/{p}/cmdline").read_bytes().replace(b"\0", b" ")[-120:] for p in left], flush=True)
        for each in left:
            send(each, signal.SIGKILL)
    said = log.read_text()
    lines = [line for line in said.splitlines() if line.strip()]
    name, expected = NUMBERS[cell.fault].name, int(NUMBERS[cell.fault])
    # A signal that comes before Python has begun to load the command ends it as any program.
    silent = code == -expected and not lines and (cell.fault == KILL or cell.when == "cpu:0.1")
    told = len(lines) == 1 and lines[0].startswith(f"stopped by {name}.") and "to go on: stream-gmm" in lines[0]
    done = code == 0 and not lines
    return Verdict(code, silent or done or code == 128 + expected, silent or done or told, not left,
                   round(seconds, 1), said[-3000:])  # fmt: skip


def _strike(pid: int, fault: str, cpu_seconds: float | None) -> float:
    """Send the signal when the time has come; return when that was, 0 if never."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        if cpu_seconds is not None:
            if _read_cpu_seconds(pid) >= cpu_seconds:
                break
        elif poll(pid) == "stopped":
            break
        time.sleep(0.01)
    else:
        return 0.0
    number = NUMBERS[fault]
    if fault in (INT, TWICE):  # as a terminal does
        os.killpg(pid, number)
    else:
        send(pid, number)
    send(pid, signal.SIGCONT)
    if fault == TWICE:
        time.sleep(0.5)
        with_group = poll(pid)
        if not isinstance(with_group, int):
            os.killpg(pid, number)
        else:
            _ENDED[pid] = with_group
    return time.monotonic()


_ENDED: dict[int, int] = {}
"""Exit codes of commands that ended between two signals."""


def _read_cpu_seconds(pid: int) -> float:
    used = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, used)) / os.sysconf("SC_CLK_TCK")


def _wait(pid: int, seconds: float) -> int | None:
    if pid in _ENDED:
        return _ENDED.pop(pid)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        state = poll(pid)
        if isinstance(state, int):
            return state
        time.sleep(0.02)
    end([pid])
    return None


def tabulate(verdicts: Sequence[tuple[Cell, Verdict]]) -> str:
    """Return the table of signals by moments: cells that were right, of those that were run."""
    moments = [m for m in dict.fromkeys(MOMENTS.values()) if any(c.moment == m for c, _ in verdicts)]
    lines = ["| signal | " + " | ".join(moments) + " |", "| --- |" + " --- |" * len(moments)]
    for fault in NUMBERS:
        found = [[v.is_right for c, v in verdicts if (c.fault, c.moment) == (fault, m)] for m in moments]
        lines.append(f"| {fault} | " + " | ".join(f"{sum(f)} of {len(f)}" if f else "-" for f in found) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run the cells; print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, help="so many cells, drawn evenly from all")
    parser.add_argument("--only", default="", help="cells whose description this pattern is in")
    given = parser.parse_args()
    every = list(list_cells())
    cells = [c for c in every if re.search(given.only, c.describe())]
    if given.cells:
        count = min(given.cells, len(cells))
        cells = [cells[i * len(cells) // count] for i in range(count)]
    verdicts = []
    for ignored in (signal.SIGINT, signal.SIGHUP):  # as in the background of a shell, which commands would inherit
        signal.signal(ignored, signal.default_int_handler if ignored == signal.SIGINT else signal.SIG_DFL)
    with tempfile.TemporaryDirectory(prefix="signals-") as temporary:
        folder = Path(temporary)
        demo.write(folder / "data", rows=3_000, columns=2, files=3, components=3)
        os.environ.setdefault("PREFECT_HOME", str(folder / "prefect"))
        for number, cell in enumerate(cells):
            verdict = run_cell(folder, number, cell)
            verdicts.append((cell, verdict))
            print(number + 1, "ok   " if verdict.is_right else "WRONG", cell.describe(), verdict, flush=True)
    names = ("command", "executor", "signal", "moment", "at", "exit code", "documented", "one line", "no process",
             "s to the end")  # fmt: skip
    write_report("fault_signals" if len(cells) == len(every) else "fault_signals_part", names, [
        (c.command, c.executor[1], c.fault, c.moment, c.when, v.code, v.documented, v.one_line, v.alone, v.seconds)
        for c, v in verdicts
    ])  # fmt: skip
    print(tabulate(verdicts))
    wrong = sum(not v.is_right for _, v in verdicts)
    print(f"{len(verdicts)} cells, {wrong} wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()

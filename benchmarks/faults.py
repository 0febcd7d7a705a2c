"""Faults in real processes: every cell is a job that is made to fail at a named place, and goes on.

``python -m benchmarks.faults [--cells N] [--groups driver,update,cluster,embedded,server]``: prints a line a cell and
a table of counts. ``--minutes M`` is a soak: for so long, jobs on one cluster with a fault every few seconds, and the
memory and descriptors of the processes that live throughout.

A cell is right if the command ends with an exit code that the fault has (0 where the job goes on by itself) within a
deadline; if what is visible then are the results from before or the new ones, and no part; if no process of it is
left; and if ``stream-gmm resume`` ends with exit code 0 and model and scores of a job without faults, bit for bit.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.fault_processes import (  # isort: skip - sets the environment that numpy reads
    RUNNING,
    STOPPED,
    Cluster,
    Launch,
    end,
    find_port,
    fork,
    list_session,
    poll,
    send,
    spawn,
)
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from benchmarks.harness import write_report
from stream_gmm import demo

DEADLINE_SECONDS = 150.0
"""For one command: twice the patience of a cluster, and what a loaded machine needs."""
STOPPED_SECONDS = 3.0
SERVER_SECONDS = 40.0
"""A Prefect server that is stopped goes on after so long."""
TIMEOUT = ("--timeout-seconds", "4")
SERIAL, THREADS, CLUSTER = ("--executor", "serial"), ("--executor", "threads", "--n-workers", "2"), ("cluster",)
KILL, TERM, INT, TWICE, STOP, FULL = "kill -9", "SIGTERM", "SIGINT", "SIGINT twice", "SIGSTOP", "disk full"
WORKER, WORKERS, SCHEDULER = "kill -9 worker", "kill -9 all workers", "kill -9 scheduler"
STOP_WORKER, STOP_SCHEDULER, CUT = "SIGSTOP worker", "SIGSTOP scheduler", "connection lost"
STOP_WORKERS = "SIGSTOP all workers"
SERVER, STOP_SERVER, NO_SERVER = "kill -9 Prefect server", "SIGSTOP Prefect server", "no Prefect server"
CODES: dict[str, tuple[int, ...]] = {
    KILL: (-9,), TERM: (143,), INT: (130,), TWICE: (130, -2), STOP: (0,), FULL: (6,),
    WORKER: (0,), WORKERS: (0, 7), SCHEDULER: (0, 7), CUT: (0, 7), STOP_WORKER: (0,),
    STOP_WORKERS: (0, 7), STOP_SCHEDULER: (0, 7), SERVER: (0,), STOP_SERVER: (0,), NO_SERVER: (0,),
}  # fmt: skip
"""Exit codes that each fault may end with; -2 is 130, too, if the second signal comes as the interpreter ends."""
_ACTIONS = {KILL: "kill", TERM: "term", INT: "int", FULL: "enospc"}
MOMENTS = {
    "profile": "profile", "race": "search", "finalists": "search", "sample": "search", "task": "in a pass",
    "pass": "between passes", "ledger": "checkpoint", "choice": "choice", "results": "publish", "score": "scoring",
    "swap": "publish", "update": "update", "statistics": "update",
}  # fmt: skip
SWEEP, UPDATE, RESWEEP, RUN = "sweep, score", "update", "update with a sweep", "run"
UPDATES = (UPDATE, RESWEEP)


@dataclass(frozen=True)
class Cell:
    """One fault: in which job, where, at which visit, what, and under which executor."""

    job: str
    site: str
    visit: int
    fault: str
    executor: tuple[str, ...] = THREADS

    @property
    def codes(self) -> tuple[int, ...]:
        """Exit codes that the command may end with."""
        if self.fault == FULL and self.site in ("task", "swap"):
            return (0,)  # a task is tried again; what is published stays
        if self.fault == WORKER and self.group == "embedded" and self.executor[3] == "1":
            return CODES[WORKERS]  # on a loaded machine the only worker may be back too late
        return CODES[self.fault]

    @property
    def moment(self) -> str:
        """When it happens, in words."""
        return "update" if self.job in UPDATES else MOMENTS[self.site]

    @property
    def group(self) -> str:
        """What the cell needs."""
        if self.job == RUN:
            return "server"
        if "dask" in self.executor:
            return "embedded"
        return "cluster" if self.executor == CLUSTER else "update" if self.job in UPDATES else "driver"

    def describe(self) -> str:
        """Return what the cell is, in words."""
        return f"{self.job}: {self.fault} at {self.site}:{self.visit}, {' '.join(self.executor)}"


def list_cells() -> Iterator[Cell]:
    """Yield all cells."""
    driver = (KILL, TERM, INT, TWICE, STOP, FULL)
    visits = {"pass": (1, 2, 3, 4, 5), "ledger": (1, 2, 3, 4, 5, 7), "task": (1, 2, 3, 4, 6, 8, 12)}
    for executor in (THREADS, SERIAL):
        for site in ("profile", "race", "finalists", "sample", "task", "pass", "ledger", "choice", "results", "score",
                     "swap"):  # fmt: skip
            for visit, fault in itertools.product(visits.get(site, (1,)), driver):
                if not (executor == SERIAL and site == "task" and fault == FULL and visit > 1):
                    yield Cell(SWEEP, site, visit, fault, executor)
    sites = ("update", "results", "score", "swap", "statistics")
    for job, site, fault in itertools.product(UPDATES, sites, driver):
        yield Cell(job, site, 1, fault)
    for site, fault in itertools.product(("race", "pass", "choice"), driver):
        yield Cell(RESWEEP, site, 1, fault)
    for visit, fault in itertools.product((1, 2, 3, 4), driver):
        yield Cell(UPDATE, "task", visit, fault)
    outside = (WORKER, WORKERS, SCHEDULER, STOP_WORKER, STOP_WORKERS, STOP_SCHEDULER, CUT)
    for site, visit in (("profile", 1), ("race", 1), ("sample", 1), ("pass", 1), ("pass", 3), ("choice", 1),
                        ("score", 1), ("task", 1), ("task", 3), ("task", 5)):  # fmt: skip
        for fault in outside:
            yield Cell(SWEEP, site, visit, fault, CLUSTER)
    for (site, visit), fault in itertools.product((("task", 1), ("update", 1), ("score", 1)), outside):
        yield Cell(UPDATE, site, visit, fault, CLUSTER)
    for site, fault in itertools.product(("profile", "pass", "choice", "score"), (KILL, TERM, INT, STOP)):
        yield Cell(SWEEP, site, 1, fault, CLUSTER)
    for workers, per_worker, visit in itertools.product((1, 2, 3), (1, 2, 3), (1, 2, 4)):
        options = ("--executor", "dask", "--n-workers", str(workers), "--threads-per-worker", str(per_worker))
        yield Cell(SWEEP, "task", visit, WORKER, options)
    for site in ("profile", "race", "pass", "choice", "results", "score", "swap"):
        yield Cell(RUN, site, 1, SERVER)
    for site in ("profile", "pass", "score"):
        yield Cell(RUN, site, 1, STOP_SERVER)
    yield Cell(RUN, "profile", 1, NO_SERVER)


class Bench:
    """Data, the results of jobs without faults, and how commands are started."""

    def __init__(self, folder: Path, launch: Launch = fork) -> None:
        self.folder, self.launch = folder, launch
        self.expected: dict[str, tuple[str, str]] = {}
        self._number = itertools.count()
        demo.write(folder / "data", rows=3_000, columns=2, files=3, components=3)
        shutil.copytree(folder / "data", folder / "grown")
        shifted = pq.read_table(folder / "data" / "part-000.parquet").to_pandas()
        shifted[["x0", "x1"]] = shifted[["x0", "x1"]] * 1.3 + 0.5
        if launch is fork:  # what is forked later has it all in memory
            warm_up(folder / "data", folder / "warm")
        self.run_all(SWEEP, folder / "whole", SERIAL)
        self.expected[SWEEP] = self.expected[RUN] = read_digests(folder / "whole")
        self.run_all(SWEEP, folder / "base", SERIAL, "grown")
        pq.write_table(pa.Table.from_pandas(shifted), folder / "grown" / "part-009.parquet")
        self.before = read_digests(folder / "base")
        for job in UPDATES:
            updated = self.make_folder(job)
            self.run_all(job, updated, SERIAL)
            self.expected[job] = read_digests(updated)
        if len({self.before, *(self.expected[job] for job in UPDATES)}) < 3:
            raise AssertionError("the updates do not move the model")

    def make_folder(self, job: str) -> Path:
        """Return the output folder of a new job."""
        folder = self.folder / f"run{next(self._number)}"
        if job in UPDATES:
            shutil.copytree(self.folder / "base", folder, symlinks=True)
        return folder

    def list_commands(self, job: str, folder: Path, executor: Sequence[str], data: str = "data") -> list[list[str]]:
        """Return the commands of a job, in their order."""
        if job in UPDATES:
            sweep = "never" if job == UPDATE else "evidence"
            return [["update", "--folder", str(folder), "--quiet", "--new-sweep", sweep, *executor]]
        common = [str(self.folder / data), "--columns", "x0,x1", "--folder", str(folder), "--quiet", *executor]
        grid = ["--n-components", "1:3", "--covariance-type", "full,diag", "--sample-rows", "1000", "--tol", "1e-7",
                "--prune", "false"]  # fmt: skip
        return [["run", *common, *grid]] if job == RUN else [["sweep", *common, *grid], ["score", *common]]

    def run_all(self, job: str, folder: Path, executor: Sequence[str], data: str = "data") -> None:
        """Run a job without a fault."""
        for command in self.list_commands(job, folder, executor, data):
            pid = self.launch(command, self.folder / "clean.log", {})
            code = wait(pid, lambda: None)
            if code != 0:
                raise AssertionError(f"{command} ended with {code}: {(self.folder / 'clean.log').read_text()}")


def warm_up(data: Path, folder: Path) -> None:
    """Import and compile what a job needs, in this process."""
    import distributed  # noqa: F401

    import stream_gmm.cli.commands
    import stream_gmm.pipeline.job.bootstrap_stage  # noqa: F401
    from stream_gmm.execute.serial import SerialExecutor
    from stream_gmm.pipeline.job.config import RunConfig
    from stream_gmm.pipeline.job.stages import score_stage, sweep_stage
    from stream_gmm.pipeline.job.update.stage import update_stage

    config = RunConfig.model_validate({
        "data": {"paths": [str(data)], "columns": ["x0", "x1"]}, "output": {"folder": str(folder)},
        "sweep": {"n_components": [1, 2, 3], "covariance_type": ["full", "diag"], "prune": False},
        "em": {"sample_rows": 1000, "tol": 1e-7},
    })  # fmt: skip
    sweep_stage(config, SerialExecutor())
    score_stage(config, SerialExecutor())
    update_stage(config, SerialExecutor())


def read_digests(folder: Path) -> tuple[str, str]:
    """Return the digests of the model and of the scores that are visible; empty for what is not there."""
    model, scored, text = folder / "model.gmm", folder / "scored", ""
    if scored.exists():
        table = ds.dataset(scored).to_table()
        text = str([column.to_pylist() for column in table.columns])
    return tuple(hashlib.sha256(c).hexdigest()[:12] if c else "" for c in (
        model.read_bytes() if model.exists() else b"", text.encode()))  # type: ignore[return-value]  # fmt: skip


def wait(pid: int, on_stop: Callable[[], object], seconds: float = DEADLINE_SECONDS) -> int | None:
    """Wait for a command; return its exit code, or None (killed) if it has not ended in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        state = poll(pid)
        if isinstance(state, int):
            return state
        if state == STOPPED:
            on_stop()
        time.sleep(0.02)
    end([pid])
    return None


@dataclass(frozen=True)
class Verdict:
    """What became of a cell; it is right if all are true."""

    code: int | None
    struck: bool
    documented: bool
    whole: bool
    alone: bool
    same: bool
    seconds: float
    said: str = ""
    command_seconds: float = 0.0

    @property
    def is_right(self) -> bool:
        """True if the cell is as it must be."""
        return self.documented and self.whole and self.alone and self.same


class Trial:
    """One cell, run once."""

    stopped_seconds = STOPPED_SECONDS
    deadline_seconds = DEADLINE_SECONDS

    def __init__(self, bench: Bench, cell: Cell, cluster: Cluster | None = None, server: int = 0) -> None:
        self.bench, self.cell, self.cluster, self.server = bench, cell, cluster, server
        self.folder = bench.make_folder(cell.job)
        self.mark = Path(f"{self.folder}.mark")
        self.log = Path(f"{self.folder}.log")
        self._thawed: list[tuple[float, int]] = []

    def run(self) -> Verdict:
        """Run the cell."""
        started, bench, cell = time.monotonic(), self.bench, self.cell
        executor = cell.executor
        in_worker = cell.executor == CLUSTER and cell.site == "task"
        if self.cluster is not None:
            if in_worker:  # workers that have the fault in them
                end(self.cluster.workers)
                self.cluster.workers.clear()
            self.cluster.start(self._plan() if in_worker else None)
            executor = ("--executor", "dask", "--address", self.cluster.address, *TIMEOUT)
        code: int | None = 0
        alone, took = True, 0.0
        for command in bench.list_commands(cell.job, self.folder, executor):
            pid = bench.launch(command, self.log, {} if in_worker else self._plan())
            begun = time.monotonic()
            code = self._watch(pid, self.cluster.workers if self.cluster and in_worker else ())
            took = max(took, round(time.monotonic() - begun, 1))
            alone = alone and not list_session(pid, 20.0)
            if code != 0:
                break
        struck, said = self.mark.exists() or cell.fault == NO_SERVER, self.log.read_text()
        allowed = {bench.before if cell.job in UPDATES else ("", ""), bench.expected[cell.job]}
        seen = read_digests(self.folder)
        whole = all(digest in {pair[i] for pair in allowed} for i, digest in enumerate(seen))
        documented = code in (cell.codes if struck else (0,)) and "Traceback" not in said
        if self.cluster is not None:
            self.cluster.start()
        same = self._go_on(code, executor) and read_digests(self.folder) == bench.expected[cell.job]
        if same:
            shutil.rmtree(self.folder, ignore_errors=True)
        return Verdict(code, struck, documented, whole, alone, same, time.monotonic() - started, said[-2000:], took)

    def _plan(self) -> dict[str, str]:
        """Return the environment of the process that fails: a signal, or a stop at which others are made to fail."""
        # A worker of an embedded cluster is no child of this process: it kills itself.
        action = "kill" if self.cell.group == "embedded" else _ACTIONS.get(self.cell.fault, "stop")
        return {
            "STREAM_GMM_FAULT": f"{self.cell.site}:{action}:{self.cell.visit}",
            "STREAM_GMM_FAULT_MARK": str(self.mark),
        }

    def _watch(self, pid: int, workers: Sequence[int]) -> int | None:
        """Wait for a command, and strike when it, or a worker, has stopped at the site."""
        deadline = time.monotonic() + self.deadline_seconds
        while time.monotonic() < deadline:
            state = poll(pid)
            if isinstance(state, int):
                self._thaw(everything=True)
                return state
            if state == STOPPED:
                self._strike(pid, pid)
            for worker in list(workers):
                if poll_worker(worker) == STOPPED and worker not in {p for _, p in self._thawed}:
                    self._strike(pid, worker)
            self._thaw()
            time.sleep(0.02)
        end([pid])
        return None

    def _strike(self, driver: int, stopped: int) -> None:
        fault, cluster = self.cell.fault, self.cluster
        until = time.monotonic() + self.stopped_seconds
        if fault == TWICE:
            send(driver, signal.SIGINT)
            send(driver, signal.SIGCONT)
            time.sleep(0.05)
            send(driver, signal.SIGINT)
            return
        if fault == STOP:
            self._thawed.append((until, stopped))
            return
        if fault == SERVER:
            send(self.server, signal.SIGKILL)
        if fault == STOP_SERVER:
            send(self.server, signal.SIGSTOP)
            self._thawed.append((time.monotonic() + SERVER_SECONDS, self.server))
        if cluster is not None:
            match fault:
                case "kill -9 worker":
                    cluster.kill("worker", stopped if stopped in cluster.workers else 0)
                case "kill -9 all workers":
                    cluster.kill("workers")
                case "kill -9 scheduler":
                    cluster.kill("scheduler")
                case "SIGSTOP worker":
                    worker = stopped if stopped in cluster.workers else cluster.workers[0]
                    send(worker, signal.SIGSTOP)
                    self._thawed.append((until, worker))
                    if worker == stopped:
                        return
                case "SIGSTOP all workers":
                    for worker in cluster.workers:
                        send(worker, signal.SIGSTOP)
                        self._thawed.append((until, worker))
                    if stopped in cluster.workers:
                        return
                case "SIGSTOP scheduler":
                    send(cluster.scheduler, signal.SIGSTOP)
                    self._thawed.append((until, cluster.scheduler))
                case "connection lost":
                    cluster.cut()
        send(stopped, signal.SIGCONT)

    def _thaw(self, everything: bool = False) -> None:
        now = time.monotonic()
        for until, pid in list(self._thawed):
            if everything or now > until:
                send(pid, signal.SIGCONT)
                self._thawed.remove((until, pid))

    def _go_on(self, code: int | None, executor: Sequence[str]) -> bool:
        """Resume what was begun, then run what is left of the job; return whether all ends well."""
        bench, cell = self.bench, self.cell
        job = self.folder / "ledger" / "job.json"
        begun = job.exists() and not json.loads(job.read_bytes())["ended"]
        commands = [["resume", str(self.folder), "--quiet"]] if begun else []
        if (code != 0 and not begun) or cell.job == SWEEP:
            commands += bench.list_commands(cell.job, self.folder, executor)
        for command in commands:
            again = wait(bench.launch(command, self.log, {}), lambda: None)
            if again != 0:
                return False
        return True


def poll_worker(pid: int) -> int | str:
    """Return the state of a worker; one that has ended is no child any more."""
    with suppress(ChildProcessError):
        return poll(pid)
    return RUNNING


def run_cell(bench: Bench, cell: Cell, cluster: Cluster | None = None) -> Verdict:
    """Run a cell with what it needs."""
    if cell.job != RUN:
        return Trial(bench, cell, cluster if cell.executor == CLUSTER else None).run()
    from tests.servers import prefect_process

    if cell.fault == NO_SERVER:
        with served_by(f"http://127.0.0.1:{find_port()}/api"):
            return Trial(replace_launch(bench), cell).run()
    home = bench.folder / f"prefect{time.monotonic_ns()}"
    home.mkdir()
    with prefect_process(home) as (process, url), served_by(url):
        return Trial(replace_launch(bench), cell, server=process.pid).run()


@contextmanager
def served_by(url: str) -> Iterator[None]:
    """Let commands that are started inside the block report to a Prefect API."""
    os.environ["PREFECT_API_URL"] = url
    try:
        yield
    finally:
        del os.environ["PREFECT_API_URL"]


def replace_launch(bench: Bench) -> Bench:
    """Return the bench with commands that are started in an interpreter of their own: Prefect has threads."""
    out = object.__new__(Bench)
    out.__dict__ |= bench.__dict__ | {"launch": spawn}
    return out


def soak(bench: Bench, cluster: Cluster, minutes: float, pause: float = 20.0) -> list[tuple[object, ...]]:
    """Run jobs on one cluster, with a fault at least every ``pause`` seconds; return what each minute has seen."""
    rng, until = random.Random(1), time.monotonic() + 60.0 * minutes
    rows: list[tuple[object, ...]] = []
    cells = [
        c for c in list_cells()
        if c.job != RUN and "dask" not in c.executor and not (c.executor == CLUSTER and c.site == "task")
        and c.fault not in (SCHEDULER, WORKERS)
    ]  # fmt: skip
    cluster.size = 3
    cluster.start()
    lasting = {"scheduler": cluster.scheduler, "worker": cluster.workers[0], "harness": os.getpid()}
    counts: Counter[str] = Counter()
    minute, longest, last = 0, 0.0, time.monotonic()
    while time.monotonic() < until:
        # Half of the jobs on the cluster, which the figures are about.
        chosen = [c for c in cells if (c.executor == CLUSTER) == (rng.random() < 0.5)]
        cell = rng.choice(chosen or cells)
        if cell.executor != CLUSTER and rng.random() < 0.5 and cell.fault in (KILL, TERM, INT, TWICE, STOP):
            cell = replace(cell, executor=CLUSTER, site="pass" if cell.site == "task" else cell.site)
        verdict = run_cell(bench, cell, cluster)
        counts["faults"] += verdict.struck
        counts["wrong"] += not verdict.is_right
        if not verdict.is_right:
            print(cell.describe(), verdict, flush=True)
        if verdict.struck:
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        if time.monotonic() > until - 60.0 * minutes + 60.0 * minute:
            minute += 1
            rows.append((minute, counts["faults"], counts["wrong"], *itertools.chain(
                *(measure(pid) for pid in lasting.values()))))  # fmt: skip
            print(*rows[-1], flush=True)
    print(f"{counts['faults']} faults, {counts['wrong']} wrong, at most {longest:.0f} s between two")
    return rows


def measure(pid: int) -> tuple[float, int]:
    """Return the resident memory of a process in MB, and its descriptors."""
    status = Path(f"/proc/{pid}/status").read_text()
    kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    return round(kib / 1024.0, 1), len(list(Path(f"/proc/{pid}/fd").iterdir()))


def tabulate(verdicts: Sequence[tuple[Cell, Verdict]]) -> str:
    """Return the table of faults by moments: cells that were right, of those that struck."""
    moments = list(dict.fromkeys([*MOMENTS.values()]))
    lines = ["| fault | " + " | ".join(moments) + " |", "| --- |" + " --- |" * len(moments)]
    for fault in CODES:
        shown = []
        for moment in moments:
            found = [v for c, v in verdicts if (c.fault, c.moment) == (fault, moment) and v.struck]
            right = sum(v.is_right for v in found)
            shown.append(f"{right} of {len(found)}" if found else "-")
        if any(s != "-" for s in shown):
            lines.append(f"| {fault} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run the cells, or the soak; print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, help="so many cells, drawn evenly from all")
    parser.add_argument("--minutes", type=float, help="a soak of so long, instead")
    parser.add_argument("--stopped", type=float, default=STOPPED_SECONDS, help="seconds that SIGSTOP lasts")
    parser.add_argument("--groups", default="driver,update,cluster,embedded,server")
    parser.add_argument("--only", default="", help="cells whose description this pattern is in")
    given = parser.parse_args()
    every = list(list_cells())
    cells = [c for c in every if c.group in given.groups.split(",") and re.search(given.only, c.describe())]
    if given.cells:
        cells = [cells[i] for i in np.linspace(0, len(cells) - 1, min(given.cells, len(cells))).astype(int)]
    verdicts: list[tuple[Cell, Verdict]] = []
    Trial.stopped_seconds, Trial.deadline_seconds = given.stopped, DEADLINE_SECONDS + given.stopped
    with tempfile.TemporaryDirectory(prefix="faults-") as temporary:
        bench = Bench(Path(temporary))
        cluster = Cluster(Path(temporary) / "cluster")
        try:
            if given.minutes:
                rows = soak(bench, cluster, given.minutes)
                names = ("minute", "faults", "wrong", *(f"{p} {w}" for p in ("scheduler", "worker", "harness")
                                                        for w in ("MB", "descriptors")))  # fmt: skip
                write_report("soak", names, rows)
                sys.exit(1 if rows and rows[-1][2] else 0)
            for cell in cells:
                verdict = run_cell(bench, cell, cluster)
                verdicts.append((cell, verdict))
                print(len(verdicts), "ok   " if verdict.is_right else "WRONG", cell.describe(),
                      replace(verdict, said="" if verdict.is_right else verdict.said), flush=True)  # fmt: skip
        finally:
            cluster.stop()
    names = ("job", "fault", "moment", "site", "executor", "exit code", "struck", "code as documented", "whole",
             "no process left", "same after resume", "s", "s of the command")  # fmt: skip
    rows_out = [
        (c.job, c.fault, c.moment, f"{c.site}:{c.visit}", " ".join(c.executor[1::2]) or "cluster", v.code, v.struck,
         v.documented, v.whole, v.alone, v.same, round(v.seconds, 1), v.command_seconds) for c, v in verdicts
    ]  # fmt: skip
    write_report("faults" if len(cells) == len(every) else "faults_part", names, rows_out)
    print(tabulate(verdicts))
    wrong = [v for _, v in verdicts if not v.is_right]
    print(f"{len(verdicts)} cells, {sum(v.struck for _, v in verdicts)} struck, {len(wrong)} wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()

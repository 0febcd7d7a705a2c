"""Faults at every system call by which a job changes its files: the process is killed there, or the call fails.

``python -m benchmarks.system_calls [--jobs score,replace,sweep,update] [--faults KILL,ENOSPC,EIO] [--each N]``: a job
is run once under ``strace``, which lists the calls that open a file to write, write, flush, rename, link, make and
remove below its folder. Then it is run once more for every N-th of these calls, at which ``strace`` kills it, or lets
the call fail. A point is right if what is visible then are the results from before or the new ones, and no part;
if the command has ended with a documented exit code; if ``stream-gmm verify`` finds nothing wrong with what is
visible; and if the job, started again, ends with the bits of a job without a fault.

``--full`` fills a disk of its own, a small file system in memory (needs the right to mount): for every size from
nothing to what the job needs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fault_processes import fork_call, send  # isort: skip - sets the environment that numpy reads
import signal

from benchmarks.faults import SERIAL, UPDATE, Bench, read_digests, wait
from benchmarks.harness import write_report

KILL, ENOSPC, EIO = "KILL", "ENOSPC", "EIO"
CHANGES = (
    "openat", "write", "pwrite64", "writev", "fsync", "fdatasync", "ftruncate", "rename", "renameat2", "link",
    "linkat", "unlink", "unlinkat", "rmdir", "mkdir", "symlink", "symlinkat",
)  # fmt: skip
"""The calls that change files, or make what was written last."""
SCORE, REPLACE, RESUMED = "score", "score again", "sweep"
JOBS = (SCORE, REPLACE, RESUMED, UPDATE)
_CALL = re.compile(r"^(\d+) +(\w+)\((.*)$")
_CODES = {KILL: {-9}, ENOSPC: {0, 6}, EIO: {0, 6}}
"""Exit codes that each fault may end with; 0 where the call was not needed for the result."""
ATTACH_SECONDS = 60.0


@dataclass(frozen=True)
class Point:
    """A system call of a process: its name, and the number of the call among those of this name."""

    call: str
    number: int
    what: str = ""


def find_obstacle() -> str:
    """Return why faults cannot be put into system calls here; empty if they can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(
        ["strace", "-qq", "-o", os.devnull, "-e", "inject=getppid:error=EIO", sys.executable, "-c", "pass"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return "" if tried.returncode == 0 else f"strace cannot trace here: {tried.stderr.strip()[-200:]}"


def list_points(trace: str, pid: int, folder: Path) -> list[Point]:
    """Return the calls of a trace by which a process changes files below ``folder``."""
    numbers: Counter[str] = Counter()
    out = []
    for line in trace.splitlines():
        found = _CALL.match(line)
        if found is None or int(found[1]) != pid:
            continue
        call, rest = found[2], found[3]
        numbers[call] += 1
        reads = call == "openat" and not re.search(r"O_CREAT|O_WRONLY|O_RDWR", rest)
        if str(folder) in rest and not reads:
            out.append(Point(call, numbers[call], rest[:120]))
    return out


class Trials:
    """Jobs on prepared folders, each as it was before the job."""

    def __init__(self, folder: Path, jobs: Sequence[str] = JOBS) -> None:
        self.folder = folder
        self.bench = Bench(folder / "bench")
        self.states = folder / "states"
        self._prepare()
        self.expected = {job: self._run_whole(job) for job in jobs}

    def _prepare(self) -> None:
        """Make the folder of each job: with a model; with older scores; with a ledger alone; with a version."""
        bench = self.bench
        sweep, score = bench.list_commands("sweep", self.states / "score", SERIAL)
        for command in (sweep, score):
            _require(bench, command)
            if command is sweep:
                shutil.copytree(self.states / "score", self.states / "bare", symlinks=True)
        shutil.move(self.states / "score", self.states / "replaced")
        shutil.move(self.states / "bare", self.states / "score")
        command = bench.list_commands("sweep", self.states / "sweep", SERIAL)[0]
        wait(bench.launch(command, bench.folder / "clean.log", {"STREAM_GMM_FAULT": "results:kill"}), lambda: None)
        shutil.copytree(bench.folder / "base", self.states / "update", symlinks=True)

    def list_commands(self, job: str, folder: Path) -> list[list[str]]:
        """Return the command of a job; it is also the one that goes on."""
        if job == RESUMED:
            return self.bench.list_commands("sweep", folder, SERIAL)[:1]
        if job == UPDATE:
            return self.bench.list_commands(UPDATE, folder, SERIAL)
        score = self.bench.list_commands("sweep", folder, SERIAL)[1]
        return [[*score, "--entropy"] if job == REPLACE else score]

    def make_folder(self, job: str, place: Path | None = None) -> Path:
        """Return a folder as it is before the job: always the same path, as it is part of what is written."""
        state = {SCORE: "score", REPLACE: "replaced", RESUMED: "sweep", UPDATE: "update"}[job]
        folder = (place or self.folder) / "run"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.states / state, folder, symlinks=True)
        return folder

    def _run_whole(self, job: str) -> tuple[tuple[str, str], tuple[str, str]]:
        """Return the digests before and after a job without a fault."""
        folder = self.make_folder(job)
        before = read_digests(folder)
        for command in self.list_commands(job, folder):
            _require(self.bench, command)
        return before, read_digests(folder)

    def trace(self, job: str) -> list[Point]:
        """Return the points of a job."""
        folder, output = self.make_folder(job), self.folder / "trace"
        pid, code = self._run_traced(job, folder, ["-y", "-s", "0", "-o", str(output)])
        if code != 0:
            raise AssertionError(f"{job} ended with {code}: {self.log.read_text()[-2000:]}")
        return list_points(output.read_text(errors="replace"), pid, folder)

    @property
    def log(self) -> Path:
        """What the last command has printed."""
        return self.folder / "run.log"

    def _run_traced(self, job: str, folder: Path, options: Sequence[str]) -> tuple[int, int | None]:
        """Run a job under strace; return its process and its exit code."""
        self.log.unlink(missing_ok=True)
        (command,) = self.list_commands(job, folder)

        def run() -> None:
            os.kill(os.getpid(), signal.SIGSTOP)
            from stream_gmm.cli.commands import main

            sys.argv = ["stream-gmm", *command]
            main()

        pid = fork_call(run, self.log, {})
        os.waitpid(pid, os.WUNTRACED)
        traced = ["-f", "-qq", "-e", f"trace={','.join(CHANGES)}", "-e", "signal=none", *options]
        tracer = subprocess.Popen(["strace", *traced, "-p", str(pid)], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + ATTACH_SECONDS
        while "TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text():
            if time.monotonic() > deadline:
                raise AssertionError("strace has not attached")
            time.sleep(0.005)
        send(pid, signal.SIGCONT)
        code = wait(pid, lambda: send(pid, signal.SIGCONT))
        tracer.wait()
        return pid, code

    def strike(self, job: str, point: Point, fault: str) -> str:
        """Run a job with a fault at a point, and again without; return what is wrong, or nothing."""
        folder = self.make_folder(job)
        how = "signal=KILL" if fault == KILL else f"error={fault}"
        inject = ["-e", f"inject={point.call}:{how}:when={point.number}", "-o", os.devnull]
        _, code = self._run_traced(job, folder, inject)
        return self.judge(job, folder, code, _CODES[fault])

    def judge(self, job: str, folder: Path, code: int | None, codes: set[int]) -> str:
        """Return what is wrong after a job has ended, or nothing."""
        said = self.log.read_text()
        if code not in codes or "Traceback" in said:
            return f"exit code {code}: {said[-1500:]}"
        before, after = self.expected[job]
        seen = read_digests(folder)
        if any(digest not in {before[i], after[i]} for i, digest in enumerate(seen)):
            return f"a part is visible: {seen}, before {before}, after {after}"
        if any(seen):
            found = wait(self.bench.launch(["verify", str(folder)], self.log, {}), lambda: None)
            if found != 0:
                return f"verify ends with {found}: {self.log.read_text()[-1500:]}"
        for command in self.list_commands(job, folder):
            again = wait(self.bench.launch(command, self.log, {}), lambda: None)
            if again != 0:
                return f"started again, it ends with {again}: {self.log.read_text()[-1500:]}"
        if read_digests(folder) != after:
            return "other bits after it was started again"
        left = [p.name for p in folder.glob("._scored.*") if p.suffix in (".staging", ".previous")]
        return f"left behind: {left}" if left else ""

    def fill(self, job: str, free_kib: int) -> str:
        """Run a job on a disk with so much space left, and again with more; return what is wrong, or nothing."""
        with small_disk(self.folder / "disk", 64 << 10) as disk:
            folder = self.make_folder(job, disk)
            stat = os.statvfs(disk)
            with open(disk / "ballast", "wb") as ballast:
                ballast.write(bytes(max(stat.f_bavail * stat.f_frsize - (free_kib << 10), 0)))
            self.log.unlink(missing_ok=True)
            (command,) = self.list_commands(job, folder)
            code = wait(self.bench.launch(command, self.log, {}), lambda: None)
            (disk / "ballast").unlink()
            return self.judge(job, folder, code, {0, 6})


def _require(bench: Bench, command: Sequence[str]) -> None:
    log = bench.folder / "clean.log"
    code = wait(bench.launch(command, log, {}), lambda: None)
    if code != 0:
        raise AssertionError(f"{command} ended with {code}: {log.read_text()[-2000:]}")


@contextlib.contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[Path]:
    """Mount a small file system in memory for the ``with`` block.

    Raises
    ------
    PermissionError
        If this user may not mount.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
    made = subprocess.run(mount, capture_output=True, text=True, check=False)
    if made.returncode:
        raise PermissionError(made.stderr.strip())
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", default=",".join(JOBS))
    parser.add_argument("--faults", default=f"{KILL},{ENOSPC},{EIO}")
    parser.add_argument("--each", type=int, default=1, help="only every N-th call")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="for each job and fault")
    parser.add_argument("--full", action="store_true")
    given = parser.parse_args()
    if obstacle := find_obstacle():
        raise SystemExit(obstacle)
    rows: list[tuple[object, ...]] = []
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        trials = Trials(Path(name).resolve(), given.jobs.split(","))
        for job in given.jobs.split(","):
            points = trials.trace(job)
            print(job, len(points), Counter(p.call for p in points), flush=True)
            for fault in given.faults.split(",") if given.faults else ():
                started, tried, right = time.monotonic(), 0, 0
                for point in points[:: given.each]:
                    if time.monotonic() - started > 60.0 * given.minutes:
                        break
                    problem = trials.strike(job, point, fault)
                    tried, right = tried + 1, right + (not problem)
                    if problem:
                        wrong.append(f"{job}, {fault} at {point}: {problem}")
                        print(wrong[-1], flush=True)
                rows.append((job, fault, len(points), tried, right))
                print(rows[-1], flush=True)
            if given.full:
                sizes = [0, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256]
                problems = [f"{job}, {kib} KiB left: {p}" for kib in sizes if (p := trials.fill(job, kib))]
                wrong += problems
                rows.append((job, "disk full", "", len(sizes), len(sizes) - len(problems)))
                print(rows[-1], *problems, sep="\n", flush=True)
    write_report("system_calls", ("job", "fault", "calls", "tried", "right"), rows)
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()

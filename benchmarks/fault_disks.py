"""Disks that are really full: of the run folder, of the scored table, of Dask's temporary files. Needs root.

``python -m benchmarks.fault_disks [--only PATTERN]``: each disk is a file system in memory of so many kB, from less
than the first checkpoint to nearly all that the job writes. A cell is right if the command ends with exit code 6 (or
0: there was room), what is visible are the results from before or the new ones, and, with room made, ``stream-gmm
resume`` (or the same command, if nothing was begun) ends with exit code 0 in the bits of a job on a disk with room.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.fault_processes import list_session, spawn
from benchmarks.faults import SWEEP, THREADS, UPDATE, Bench, read_digests, wait
from benchmarks.harness import write_report

RUN_FOLDER, SCORED, TEMPORARY = "run folder", "scored table", "Dask's temporary files"
EMBEDDED = ("--executor", "dask", "--n-workers", "1")
SHARES = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97)


@contextmanager
def mounted(folder: Path, kilobytes: int) -> Iterator[None]:
    """Mount a file system of so many kB at a folder; what is in the folder is copied to it."""
    kept = folder.with_name(f"{folder.name}.kept")
    folder.mkdir(exist_ok=True)
    shutil.copytree(folder, kept, symlinks=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(folder)], check=True)
    try:
        shutil.copytree(kept, folder, symlinks=True, dirs_exist_ok=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        shutil.rmtree(kept)


def make_room(folder: Path) -> None:
    """Enlarge a file system that :func:`mounted` has made."""
    subprocess.run(["mount", "-o", "remount,size=256m", str(folder)], check=True)


def measure(folder: Path) -> int:
    """Return the kB that the files of a folder take, in pages."""
    return sum(-(-p.stat().st_size // 4096) * 4 for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def try_disk(bench: Bench, job: str, what: str, kilobytes: int) -> tuple[object, ...]:
    """Run a job with a full disk, then with room; return what became of it."""
    started = time.monotonic()
    folder = bench.make_folder(job)
    log = Path(f"{folder}.log")
    full = {RUN_FOLDER: folder, SCORED: folder.with_name(f"{folder.name}-scored"), TEMPORARY:
            folder.with_name(f"{folder.name}-temporary")}[what]  # fmt: skip
    options: Sequence[str] = ["--scored", str(full / "scored")] if what == SCORED else []
    environment = {"DASK_TEMPORARY_DIRECTORY": str(full)} if what == TEMPORARY else {}
    executor = EMBEDDED if what == TEMPORARY else THREADS
    launch = spawn if what == TEMPORARY else bench.launch  # Dask reads its environment when it is imported
    with mounted(full, kilobytes):
        commands = [[*c, *options] for c in bench.list_commands(job, folder, executor)]
        code: int | None = 0
        alone = True
        for command in commands:
            pid = launch(command, log, environment)
            code = wait(pid, lambda: None, 600.0)
            alone = alone and not list_session(pid, 20.0)
            if code:
                break
        said = log.read_text()
        expected = bench.expected[job]
        before = bench.before if job == UPDATE else ("", "")
        seen = _read(folder, full, what)
        whole = all(seen[i] in (before[i], expected[i]) for i in range(2))
        make_room(full)
        begun = (folder / "ledger" / "job.json").exists()
        again = [["resume", str(folder), "--quiet"], *commands] if code and begun else commands
        ends = [wait(launch(c, log, environment), lambda: None, 600.0) for c in again]
        same = not any(ends) and _read(folder, full, what) == expected
    right = code in (0, 6) and "Traceback" not in said and whole and alone and same
    row = (job, what, kilobytes, code, whole, alone, same, round(time.monotonic() - started, 1))
    print("ok   " if right else "WRONG", *row, "" if right else log.read_text()[-3000:], ends, flush=True)
    return (*row, right)


def _read(folder: Path, full: Path, what: str) -> tuple[str, str]:
    model, scored = read_digests(folder)
    if what != SCORED:
        return model, scored
    pointed = folder / "elsewhere"
    pointed.mkdir(exist_ok=True)
    (pointed / "scored").unlink(missing_ok=True)
    if (full / "scored").exists():
        (pointed / "scored").symlink_to(full / "scored")
    out = model, read_digests(pointed)[1]
    shutil.rmtree(pointed)
    return out


def main() -> None:
    """Run the cells; print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cells whose job and disk this pattern is in")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="disks-") as temporary:
        bench = Bench(Path(temporary))
        whole, base = measure(bench.folder / "whole"), measure(bench.folder / "base")
        scored = measure(bench.folder / "whole" / "scored")
        print("kB:", whole, base, scored, flush=True)
        cells = [(SWEEP, RUN_FOLDER, max(4, int(share * whole))) for share in SHARES]
        cells += [(SWEEP, SCORED, max(4, int(share * scored))) for share in SHARES[::2]]
        # On a full disk, with room for a part of what an update writes, and with room for all.
        cells += [(UPDATE, RUN_FOLDER, base + more) for more in (0, 8, 16, 24, 32, 48, 64, 96, 144)]
        cells += [(SWEEP, TEMPORARY, kilobytes) for kilobytes in (4, 100)]
        rows = [try_disk(bench, *cell) for cell in cells if re.search(given.only, f"{cell[0]}: {cell[1]}")]
    names = ("job", "disk", "kB", "exit code", "whole", "no process left", "same with room", "s", "right")
    write_report("fault_disks", names, rows)
    wrong = sum(not row[-1] for row in rows)
    print(f"{len(rows)} cells, {wrong} wrong; {sum(row[3] == 6 for row in rows)} ended with exit code 6")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()

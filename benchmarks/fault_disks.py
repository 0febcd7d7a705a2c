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
from stream_gmm.io.source.cache import RESERVE
from stream_gmm.io.store.models import load_model

RUN_FOLDER, SCORED = "run folder", "scored table"
CACHED, SPILLED, FOLDERS = "rows that workers cache on disk", "values that Dask spills", "folders of Dask's workers"
EMBEDDED = ("--executor", "dask", "--n-workers", "1")
TEMPORARY: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    CACHED: (("--cache", "disk"), {}),
    # Spilled is what exceeds these shares of a worker's memory, 1 GiB: nearly everything.
    SPILLED: (("--cache", "memory", "--memory-limit", "1GiB"), {
        f"DASK_DISTRIBUTED__WORKER__MEMORY__{name}": "1e-6" for name in ("TARGET", "SPILL")
    }),
    FOLDERS: ((), {}),
}  # fmt: skip
"""What lies in Dask's temporary folder: options and environment of the jobs that fill it."""
SHARES = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97)


@contextmanager
def mounted(folder: Path, kilobytes: int, files: int = 0) -> Iterator[None]:
    """Mount a file system of so many kB, and files (0: any number), at a folder; what is in it is copied there."""
    kept = folder.with_name(f"{folder.name}.kept")
    folder.mkdir(exist_ok=True)
    shutil.copytree(folder, kept, symlinks=True)
    limits = f"size={kilobytes}k,nr_inodes={files}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", limits, "none", str(folder)], check=True)
    try:
        shutil.copytree(kept, folder, symlinks=True, dirs_exist_ok=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        shutil.rmtree(kept)


def make_room(folder: Path) -> None:
    """Enlarge a file system that :func:`mounted` has made."""
    subprocess.run(["mount", "-o", "remount,size=256m,nr_inodes=0", str(folder)], check=True)


def measure(folder: Path) -> int:
    """Return the kB that the files of a folder take, in pages."""
    return sum(-(-p.stat().st_size // 4096) * 4 for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def try_disk(bench: Bench, job: str, what: str, kilobytes: int, files: int = 0) -> tuple[object, ...]:
    """Run a job with a full disk, then with room; return what became of it."""
    started = time.monotonic()
    folder = bench.make_folder(job)
    log = Path(f"{folder}.log")
    full = folder if what == RUN_FOLDER else folder.with_name(f"{folder.name}-full")
    options: Sequence[str] = ["--scored", str(full / "scored")] if what == SCORED else []
    environment: dict[str, str] = {}
    executor, launch = THREADS, bench.launch
    if what in TEMPORARY:
        options, environment = TEMPORARY[what]
        environment = environment | {"DASK_TEMPORARY_DIRECTORY": str(full)}
        executor, launch = EMBEDDED, spawn  # Dask reads its environment when it is imported
    with mounted(full, kilobytes, files):
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
        seen = _read(bench, folder, full, what)
        whole = all(seen[i] in (before[i], expected[i]) for i in range(2))
        make_room(full)
        begun = (folder / "ledger" / "job.json").exists()
        again = [["resume", str(folder), "--quiet"], *commands] if code and begun else commands
        ends = [wait(launch(c, log, environment), lambda: None, 600.0) for c in again]
        same = not any(ends) and _read(bench, folder, full, what) == expected
    right = code in (0, 6) and "Traceback" not in said and whole and alone and same
    row = (job, what, kilobytes, code, whole, alone, same, round(time.monotonic() - started, 1))
    print("ok   " if right else "WRONG", *row, "" if right else log.read_text()[-3000:], ends, flush=True)
    return (*row, right)


def _read(bench: Bench, folder: Path, full: Path, what: str) -> tuple[str, str]:
    model, scored = read_digests(folder)
    if what == CACHED and model:  # that rows were not cached is a warning of the model, and none of its numbers
        found, whole = (load_model(f / "model.gmm").digest for f in (folder, bench.folder / "whole"))
        return bench.expected[SWEEP][0] if found == whole else model, scored
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
        cells: list[tuple[str, str, int] | tuple[str, str, int, int]] = []
        cells += [(SWEEP, RUN_FOLDER, max(4, int(share * whole))) for share in SHARES]
        cells += [(SWEEP, SCORED, max(4, int(share * scored))) for share in SHARES[::2]]
        # On a full disk, with room for a part of what an update writes, and with room for all.
        cells += [(UPDATE, RUN_FOLDER, base + more) for more in (0, 8, 16, 24, 32, 48, 64, 96, 144)]
        cells += [(SWEEP, CACHED, kilobytes) for kilobytes in (4, 100, RESERVE // 1024 + 24)]
        cells += [(SWEEP, SPILLED, kilobytes) for kilobytes in (4, 16, 40)]
        cells += [(SWEEP, FOLDERS, 64, files) for files in (1, 3, 5)]
        rows = [try_disk(bench, *cell) for cell in cells if re.search(given.only, f"{cell[0]}: {cell[1]}")]
    names = ("job", "disk", "kB", "exit code", "whole", "no process left", "same with room", "s", "right")
    write_report("fault_disks", names, rows)
    wrong = sum(not row[-1] for row in rows)
    print(f"{len(rows)} cells, {wrong} wrong; {sum(row[3] == 6 for row in rows)} ended with exit code 6")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()

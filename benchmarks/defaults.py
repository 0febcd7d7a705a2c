"""Put data sets, or every Parquet file below a folder, through profile, sweep and score from defaults.

::

    python -m benchmarks.defaults FOLDER...            each folder or file is one data set
    python -m benchmarks.defaults --each FOLDER...     every Parquet file below the folders is a data set
    python -m benchmarks.defaults --keep OUT FOLDER... keeps run folders, and what the commands print

Each set is swept twice, with ``resolution: none`` (the default) and ``resolution: auto``, and then scored. If it is
refused because values are missing, it is tried once more with ``missing: marginalise``. A line for each set says
how many columns were fitted and how many set aside, how many of the candidates are admissible either way, what was
chosen, and how it ended. Each set is tried in a process of its own, forked after the libraries are loaded, so that a
crash or an endless loop ends that set alone. The exit code is 1 if a set ended with a traceback, a signal, or no
answer in time, or if no candidate was admissible with ``resolution: auto``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

TRACEBACK, CRASH, TIMEOUT = 90, 91, 92
"""Exit codes of this benchmark's own; those of the command line are smaller."""
WORDS = {
    0: "scored", 1: "error", 2: "configuration", 3: "input data", 6: "storage", 8: "no admissible model",
    TRACEBACK: "TRACEBACK", CRASH: "CRASH", TIMEOUT: "TIMEOUT",
}  # fmt: skip
BAD = (1, 8, TRACEBACK, CRASH, TIMEOUT)
NOT_ADMISSIBLE = ("DEGENERATE", "FAILED")
"""Outcomes of candidates that cannot be chosen; a pruned one could have been, if it had been better."""
HEADINGS = (
    "set", "outcome", "stage", "exit code", "rows", "missing", "fitted", "set aside", "constant", "candidates",
    "admissible, none", "admissible, auto", "chosen, none", "chosen, auto", "seconds", "CPU seconds", "profile",
    "sweep, none", "sweep, auto", "score, none", "score, auto", "message",
)  # fmt: skip


def run_command(*arguments: str) -> tuple[int, str]:
    """Return exit code and output of a command, run in this process."""
    from stream_gmm.cli.commands import main

    output = io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["stream-gmm", *arguments]),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
    ):
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
    return (TRACEBACK if "Traceback (most recent call last)" in output.getvalue() else code), output.getvalue()


def first_message(output: str) -> str:
    """Return the first line of an error message, or the last line of the output if there is none."""
    lines = [line for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error")]
    return (errors or lines[-1:] or [""])[0]


def run_stage(found: dict[str, Any], stage: str, *arguments: str) -> tuple[int, str]:
    """Run a command; its CPU seconds are noted under the name of the stage."""
    found["stage"] = stage
    before = time.process_time()
    code, output = run_command(*arguments)
    found[stage] = f"{time.process_time() - before:.1f}"
    return code, output


def try_set(path: str, options: Sequence[str], keep: Path | None = None, missing: str = "") -> dict[str, Any]:
    """Return what came of a set: how it ended, and the counts of its two sweeps."""
    found: dict[str, Any] = {"missing": missing or "error"}
    policy = ["--missing", missing] if missing else []
    with tempfile.TemporaryDirectory() as temporary:
        place = keep or Path(temporary)
        code, output = run_stage(found, "profile", "profile", path)
        printed = [output]
        for resolution in ("none", "auto") if not code else ():
            folder = place / resolution
            to = ["--executor", "serial", "--folder", str(folder), "--resolution", resolution, *policy, *options]
            code, output = run_stage(found, f"sweep, {resolution}", "sweep", path, *to)
            printed.append(output)
            found |= read_table(folder, resolution)
            if code not in (0, 8):
                break
            if not code:
                code, output = run_stage(found, f"score, {resolution}", "score", path, *to)
                printed.append(output)
                if code:
                    break
        if keep:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / "printed.txt").write_text("\n".join(printed))
    if code == 3 and not missing and "missing: marginalise" in output:
        return try_set(path, options, keep, "marginalise")
    return found | {"code": code, "message": first_message(output) if code else ""}


def read_table(folder: Path, resolution: str) -> dict[str, Any]:
    """Return the facts that a sweep has left in its folder."""
    import pyarrow.parquet as pq

    found: dict[str, Any] = {}
    if (folder / "sweep.parquet").exists():
        table = pq.read_table(folder / "sweep.parquet").to_pylist()
        found["candidates"] = len(table)
        found[f"admissible, {resolution}"] = sum(row["outcome"] not in NOT_ADMISSIBLE for row in table)
        found |= {f"chosen, {resolution}": row["candidate"] for row in table if row["chosen"]}
    if (folder / "run.json").exists():
        data = json.loads((folder / "run.json").read_text())["data"]
        found |= {"rows": data["used"], "fitted": len(data["columns"]), "constant": len(data.get("constants") or {})}
    return found


def count_set_aside(path: str) -> int:
    """Return how many numeric columns look like identifiers, row numbers, dates or labels."""
    import stream_gmm as sg
    from stream_gmm.errors import StreamGMMError

    try:
        every = sg.open_dataset(path, ["dtype:number"])
        return len(every.columns) - len(sg.open_dataset(path).columns)
    except StreamGMMError:
        return 0


def try_in_child(path: str, options: Sequence[str], seconds: float, keep: Path | None = None) -> dict[str, Any]:
    """Do the same in a forked process; a crash and a time-out are outcomes, too."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        warnings.simplefilter("ignore")
        try:
            answer = try_set(path, options, keep) | {"set aside": count_set_aside(path)}
        except BaseException as error:
            answer = {"stage": "?", "code": TRACEBACK, "message": f"{type(error).__name__}: {error}"}
        os.write(writer, json.dumps(answer).encode()[:60_000])
        os._exit(0)
    os.close(writer)
    os.set_blocking(reader, False)
    end, parts = time.monotonic() + seconds, b""
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(reader)
            return {"stage": "?", "code": TIMEOUT, "message": f"no answer in {seconds:.0f} s"}
        time.sleep(0.02)
    with contextlib.suppress(BlockingIOError):
        while part := os.read(reader, 1 << 16):
            parts += part
    os.close(reader)
    if not parts:
        return {"stage": "?", "code": CRASH, "message": "the process ended without an answer"}
    answer = json.loads(parts)
    return dict(answer)


def find_paths(folder: Path) -> Iterator[Path]:
    """Return the Parquet files below a folder."""
    yield from sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in (".parquet", ".parq", ".pq"))


def main() -> None:
    """Try all sets and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="+")
    parser.add_argument("--each", action="store_true", help="every Parquet file below a folder is a set")
    parser.add_argument("--seconds", type=float, default=600.0, help="time for each set")
    parser.add_argument("--match", default="", help="only sets with this in their path")
    parser.add_argument("--options", default="", help="options of sweep and score, such as '--n-components 1:4'")
    parser.add_argument("--keep", type=Path, help="folder for the runs, and for what was printed")
    given = parser.parse_args()
    import stream_gmm.pipeline.job.stages  # noqa: F401 - loaded before the forks

    sets = [(root, p) for root in given.folder for p in (find_paths(root) if given.each else [root])]
    counts: Counter[str] = Counter()
    bad = 0
    print("| " + " | ".join(HEADINGS) + " |\n|" + " --- |" * len(HEADINGS))
    for root, path in sets:
        if given.match not in str(path):
            continue
        start, before = time.monotonic(), os.times()
        name = str(path.relative_to(root)) if path != root else "/".join(path.parts[-2:])
        keep = given.keep / name.replace("/", "_") if given.keep else None
        found = try_in_child(str(path), given.options.split(), given.seconds, keep)
        after = os.times()
        code = found["code"]
        word = WORDS.get(code, f"exit {code}")
        counts[word] += 1
        bad += code in BAD
        seconds = (f"{time.monotonic() - start:.1f}", f"{after[2] + after[3] - before[2] - before[3]:.1f}")
        known = {"set": name, "outcome": word, "exit code": code, "seconds": seconds[0], "CPU seconds": seconds[1]}
        row = {**found, **known, "message": found["message"].replace("|", "/")[:160]}
        print("| " + " | ".join(str(row.get(heading, "")) for heading in HEADINGS) + " |", flush=True)
    print("\n" + ", ".join(f"{n} {word}" for word, n in counts.most_common()))
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()

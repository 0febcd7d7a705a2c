"""Put every Parquet file below a folder through profile, sweep and score from defaults.

``python -m benchmarks.odd_files FOLDER`` prints a line for each file: what came of it, the last stage, the exit code,
seconds. Each file is tried in a process of its own, forked after the libraries are loaded, so that a crash or an
endless loop ends that file alone. The last line counts the outcomes; the exit code is 1 if a file ended with a
traceback, a signal, or no answer in time.
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
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

TRACEBACK, CRASH, TIMEOUT = 90, 91, 92
"""Exit codes of this benchmark's own; those of the command line are smaller."""
WORDS = {
    0: "scored", 1: "error", 2: "configuration", 3: "input data", 6: "storage", 8: "no admissible model",
    TRACEBACK: "TRACEBACK", CRASH: "CRASH", TIMEOUT: "TIMEOUT",
}  # fmt: skip
BAD = (1, TRACEBACK, CRASH, TIMEOUT)
STAGES = ("profile", "sweep", "score")


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


def try_file(path: str, options: list[str]) -> tuple[str, int, str]:
    """Return the last stage that a file came to, its exit code, and the last line that it printed."""
    with tempfile.TemporaryDirectory() as folder:
        to = ["--executor", "serial", "--folder", folder, *options]
        stages = (["profile", path], ["sweep", path, *to], ["score", path, *to])
        for stage, arguments in zip(STAGES, stages, strict=True):
            code, output = run_command(*arguments)
            if code:
                lines = [line for line in output.splitlines() if line.strip()]
                return stage, code, lines[-1] if lines else ""
        record = json.loads((Path(folder) / "run.json").read_text())
        table = record["chosen"]
        return "score", 0, f"{table}, {record['data']['used']} rows x {len(record['data']['columns'])}"


def try_in_child(path: str, options: list[str], seconds: float) -> tuple[str, int, str]:
    """Do the same in a forked process; a crash and a time-out are outcomes, too."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        warnings.simplefilter("ignore")
        try:
            answer = try_file(path, options)
        except BaseException as error:
            answer = ("?", TRACEBACK, f"{type(error).__name__}: {error}")
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
            return "?", TIMEOUT, f"no answer in {seconds:.0f} s"
        time.sleep(0.02)
    with contextlib.suppress(BlockingIOError):
        while part := os.read(reader, 1 << 16):
            parts += part
    os.close(reader)
    if not parts:
        return "?", CRASH, "the process ended without an answer"
    stage, code, text = json.loads(parts)
    return stage, code, text


def find_paths(folder: Path) -> Iterator[Path]:
    """Return the Parquet files below a folder."""
    yield from sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in (".parquet", ".parq", ".pq"))


def main() -> None:
    """Try all files and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="+")
    parser.add_argument("--seconds", type=float, default=120.0, help="time for each file")
    parser.add_argument("--match", default="", help="only files with this in their path")
    parser.add_argument("--options", default="", help="options of sweep, such as '--resolution auto'")
    given = parser.parse_args()
    import stream_gmm.pipeline.job.stages  # noqa: F401 - loaded before the forks

    counts: Counter[str] = Counter()
    bad = []
    for root in given.folder:
        for path in find_paths(root):
            if given.match not in str(path):
                continue
            start = time.monotonic()
            stage, code, text = try_in_child(str(path), given.options.split(), given.seconds)
            word = WORDS.get(code, f"exit {code}")
            counts[word] += 1
            bad += [path] if code in BAD else []
            name = str(path.relative_to(root)) if path != root else path.name
            print(
                f"{name:<60} {word:<20} {stage:<8} {code:>3} {time.monotonic() - start:7.2f} s  {text[:160]}",
                flush=True,
            )
    print(", ".join(f"{n} {word}" for word, n in counts.most_common()))
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()

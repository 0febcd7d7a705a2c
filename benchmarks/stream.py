"""A long stream: rows per second beside the kernel of a pass, peak memory, and a kill in the middle.

``python -m benchmarks.stream [--rows N]``: 8 columns, K = 8, full covariances, record batches of 10,000 rows through
a pipe into ``stream-gmm stream``. The stream is run once without interruption, and once killed with signal 9 half-way
and replayed; the two state files are compared byte by byte.
"""

from __future__ import annotations

import argparse
import hashlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.data import true_mixture
from benchmarks.harness import time_alternately, write_report
from stream_gmm.core.estep.in_memory import InMemoryEStep
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.draw import draw_rows
from stream_gmm.core.model.moments import Array
from stream_gmm.core.online import OnlineState, feed_rows
from stream_gmm.core.online_rule import OnlineRule
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.io.store.states import load_state

COLUMNS, K, BATCH = 8, 8, 10_000


def measure_rates() -> tuple[float, float]:
    """Return rows per second of the kernel of a pass, and of a stream after its first steps."""
    rng, params = np.random.default_rng(0), true_mixture(COLUMNS, K)
    rows = rng.permutation(draw_rows(params, 2_000_000, rng)[0])
    rule = OnlineRule(K, family_named("full"))
    warm = OnlineState.start(COLUMNS)
    for _ in range(5):
        warm = feed_rows(warm, rows, rule)
    assert warm.params is not None
    full, fitted = InMemoryEStep(rows, Scaling.of_rows(rows)), warm.params

    def stream() -> None:
        state = warm
        for lo in range(0, len(rows), BATCH):
            state = feed_rows(state, rows[lo : lo + BATCH], rule)

    times = time_alternately({"pass": lambda: full.evaluate(fitted), "stream": stream}, rounds=5)
    return len(rows) / times["pass"], len(rows) / times["stream"]


def generate_batches(rows: int) -> Iterator[pa.RecordBatch]:
    """Yield record batches drawn from one mixture, the same in every run; a thousand different ones, repeated."""
    params, names = true_mixture(COLUMNS, K), [f"x{j}" for j in range(COLUMNS)]
    kept = []
    for i in range(min(1000, rows // BATCH)):
        rng = np.random.default_rng(i)
        values: Array = rng.permutation(draw_rows(params, BATCH, rng)[0])
        kept.append(pa.RecordBatch.from_arrays([pa.array(c) for c in values.T], names=names))
    for i in range(rows // BATCH):
        yield kept[i % len(kept)]


def send_stream(rows: int, state: Path, *options: str, kill_after: float | None = None) -> tuple[float, int]:
    """Send a stream to the command; return its seconds and its peak memory in MiB."""
    command = [sys.executable, "-m", "stream_gmm", "stream", "--state", str(state), "--n-components", str(K)]
    child = subprocess.Popen([*command, "--no-scores", *options], stdin=subprocess.PIPE)
    assert child.stdin is not None
    peak, start = 0, time.perf_counter()
    source = generate_batches(rows)
    first = next(source)
    try:
        with pa.ipc.new_stream(child.stdin, first.schema) as writer:
            writer.write_batch(first)
            for i, batch in enumerate(source, 1):
                writer.write_batch(batch)
                if i % 50 == 0:
                    peak = max(peak, _read_peak(child.pid))
                if kill_after is not None and i * BATCH >= kill_after:
                    child.send_signal(signal.SIGKILL)
                    break
        child.stdin.close()
    except BrokenPipeError:
        pass
    child.wait()
    return time.perf_counter() - start, peak


def _read_peak(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM")), 0)


def main() -> None:
    """Measure, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000_000)
    rows = parser.parse_args().rows
    kernel, stream = measure_rates()
    with tempfile.TemporaryDirectory() as folder:
        whole, killed, short = (Path(folder) / n for n in ("whole", "killed", "short"))
        _, short_peak = send_stream(rows // 10, short)
        seconds, peak = send_stream(rows, whole)
        send_stream(rows, killed, kill_after=rows / 2)
        rows_when_killed = load_state(killed).state.rows_seen
        send_stream(rows, killed, "--replay")
        same = hashlib.sha256(whole.read_bytes()).digest() == hashlib.sha256(killed.read_bytes()).digest()
    write_report(
        "stream",
        ("rows", "kernel, M rows/s", "partial_fit, M rows/s", "partial_fit / kernel", "command, M rows/s",
         "peak at a tenth, MiB", "peak, MiB", "rows when killed", "same bits"),
        [(rows, kernel / 1e6, stream / 1e6, stream / kernel, rows / seconds / 1e6,
          short_peak, peak, rows_when_killed, same)],
    )  # fmt: skip


if __name__ == "__main__":
    main()

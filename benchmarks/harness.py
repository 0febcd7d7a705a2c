"""Timings for the benchmarks: medians, rivals run alternately (A B A B); tables are written with the machine."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def time_alternately(rivals: Mapping[str, Callable[[], Any]], rounds: int = 5) -> dict[str, float]:
    """Return the median seconds of each rival, by name; each runs once to warm up, then they alternate."""
    for run in rivals.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, run in rivals.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def time_calls(run: Callable[[], Any], rounds: int = 3) -> float:
    """Return the median seconds of some calls."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def describe_machine() -> dict[str, Any]:
    """Return processor, load and package versions, to be stored with the figures."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _read_cpuinfo() if line.startswith("model name")),
        platform.machine(),
    )
    packages = ("numpy", "scipy", "numba", "pyarrow", "distributed", "scikit-learn", "stream-gmm")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "load_at_start": os.getloadavg()[0],
        "python": platform.python_version(),
        **{p: version(p) for p in packages},
    }


def _read_cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def write_report(name: str, headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a Markdown table and write it, with the machine, to ``results/NAME.json``."""
    machine = describe_machine()
    print(f"## {name}\n\n{machine}\n")
    print("| " + " | ".join(headings) + " |\n|" + " --- |" * len(headings))
    for row in rows:
        print("| " + " | ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row) + " |")
    RESULTS.mkdir(exist_ok=True)
    content = {"machine": machine, "rows": [dict(zip(headings, r, strict=True)) for r in rows]}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")

"""Honest timings: rivals in turn (A B A B), medians, on one BLAS thread, with the machine named."""

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


def in_turn(rivals: Mapping[str, Callable[[], Any]], rounds: int = 5) -> dict[str, float]:
    """Return the median seconds of each rival, run in turn after one warm-up each."""
    for run in rivals.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, run in rivals.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine()
    )
    packages = ("numpy", "scipy", "numba", "pyarrow", "distributed", "scikit-learn", "stream-gmm")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "load_at_start": os.getloadavg()[0],
        "python": platform.python_version(),
        **{p: version(p) for p in packages},
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def report(name: str, heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a Markdown table and write it, with the machine, to ``results/NAME.json``."""
    where = machine()
    print(f"## {name}\n\n{where}\n")
    print("| " + " | ".join(heads) + " |\n|" + " --- |" * len(heads))
    for row in rows:
        print("| " + " | ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row) + " |")
    RESULTS.mkdir(exist_ok=True)
    content = {"machine": where, "rows": [dict(zip(heads, r, strict=True)) for r in rows]}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")

"""An update with 5 % new files beside a full run: rows read, wall time, and nats per row from a full refit.

``python -m benchmarks.update [--rows N]``: 2 million rows by default, 6 columns, 5 components, in 20 files and one
new one, in which one column of one component has not shifted, and in a second measurement has. Measured are a full run (sweep over K and structure, scores) of all files, and an update of a folder that knows 20
of them. The refit is a fit of the same mixture to all rows until nothing is left to gain.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import stream_gmm as sg
from benchmarks.data import true_mixture
from benchmarks.harness import write_report
from stream_gmm.core.model.draw import draw_rows
from stream_gmm.core.model.moments import Array
from stream_gmm.execute.threads import ThreadsExecutor
from stream_gmm.pipeline.job.config import RunConfig, validate_config
from stream_gmm.pipeline.job.stages import score_stage, sweep_stage
from stream_gmm.pipeline.job.update.stage import update_stage

COLUMNS, K, FILES = 6, 5, 20


def write_file(path: Path, rows: Array) -> None:
    """Write rows with columns x0, x1 and so on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({f"x{j}": rows[:, j] for j in range(COLUMNS)}), path, row_group_size=65_536)


def draw(seed: int, count: int, shift: float = 0.0) -> Array:
    """Draw rows of the true mixture; the first column of component 0 is shifted."""
    rows, component = draw_rows(true_mixture(COLUMNS, K), count, np.random.default_rng(seed))
    rows[component == 0, 0] += shift
    return np.random.default_rng(seed + 1).permutation(rows)


def make_config(data: Path, folder: Path) -> RunConfig:
    """Return the configuration of both runs."""
    content = {
        "data": {"paths": [str(data)]},
        "sweep": {"n_components": list(range(2, 8)), "covariance_type": ["diag", "full"]},
        "cluster": {"executor": "threads"},
        "output": {"folder": str(folder)},
    }
    return validate_config(content, "the benchmark")


def measure(rows: int, shift: float) -> dict[str, Any]:
    """Return what an update and a full run of the same files read, take and end with."""
    with tempfile.TemporaryDirectory() as name:
        data, executor, per_file = Path(name) / "data", ThreadsExecutor(), rows // (FILES + 1)
        for i in range(FILES):
            write_file(data / f"f{i:02d}.parquet", draw(10 * i, per_file))
        folder = Path(name) / "updated"
        config = make_config(data, folder)
        sweep_stage(config, executor)
        score_stage(config, executor)
        write_file(data / f"f{FILES}.parquet", draw(10 * FILES, per_file, shift))

        start = time.perf_counter()
        full = make_config(data, Path(name) / "full")
        swept = sweep_stage(full, executor)
        scored = score_stage(full, executor)
        full_seconds = time.perf_counter() - start
        full_reads = swept.passes * scored.rows + scored.rows

        start = time.perf_counter()
        updated = update_stage(config, executor)
        seconds = time.perf_counter() - start
        start = time.perf_counter()
        again = update_stage(config, executor)
        idle_seconds = time.perf_counter() - start

        source = sg.open_dataset(data)
        refit = sg.fit(
            source, updated.model.n_components, updated.model.covariance_type, init=updated.model.params, tol=1e-9
        )
        fresh = np.concatenate([draw(7_000 + i, 20_000, shift if i == FILES else 0.0) for i in range(FILES + 1)])
        out = {
            "shift": shift,
            "decision": updated.decision,
            "rows_read": updated.rows_read,
            "rows_read_full": full_reads,
            "rows_ratio": updated.rows_read / full_reads,
            "seconds": seconds,
            "seconds_full": full_seconds,
            "wall_ratio": seconds / full_seconds,
            "loss_nats": float(refit.score(fresh) - updated.model.score(fresh)),
            "loss_nats_fitted_rows": float(refit.lower_bound_ - _score_all(updated.model, source)),
            "estimated_error": updated.error,
            "second_update": again.decision,
            "second_update_rows_read": again.rows_read,
            "second_update_seconds": idle_seconds,
        }
        shutil.rmtree(data)
        return out


def _score_all(model: sg.FitResult, source: sg.Dataset) -> float:
    chunks = [c.rows for leaf in source.leaves() for c in leaf.chunks()]
    return float(np.average([model.score(c) for c in chunks], weights=[len(c) for c in chunks]))


def main() -> None:
    """Measure both without and with a shift, and write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000_000)
    rows = parser.parse_args().rows
    results = [measure(rows, shift) for shift in (0.0, 0.5)]
    for r in results:
        print(
            f"shift {r['shift']}: {r['decision']}; rows read {100 * r['rows_ratio']:.2f} % of a full run, wall time "
            f"{100 * r['wall_ratio']:.1f} % ({r['seconds']:.1f} of {r['seconds_full']:.1f} s), {r['loss_nats']:.2e} "
            f"nats per row behind a full refit on new rows ({r['loss_nats_fitted_rows']:.2e} on those fitted); "
            f"again: {r['second_update']}, {r['second_update_rows_read']} rows read in "
            f"{r['second_update_seconds']:.2f} s"
        )
    write_report("update", ["rows", *results[0]], [[rows, *r.values()] for r in results])


if __name__ == "__main__":
    main()

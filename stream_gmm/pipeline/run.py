"""The stages of a run. Each reads its input from the run folder and leaves its results there.

``scored/``, ``model.gmm``, ``sweep.parquet``, ``sample.parquet``, ``run.json``, ``report.html``:
a stage can be run alone, and run again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stream_gmm.core.result import FitResult
from stream_gmm.errors import InputDataError, explain
from stream_gmm.execute.protocol import Executor
from stream_gmm.io.container import write_atomically
from stream_gmm.io.models import load_model, save_model
from stream_gmm.io.tables import write_rows, write_table
from stream_gmm.pipeline.config import RunConfig
from stream_gmm.pipeline.progress import Listener, silent
from stream_gmm.pipeline.score import ScoreResult, score
from stream_gmm.pipeline.selection import SweepResult
from stream_gmm.pipeline.settings import OnPass
from stream_gmm.pipeline.sweep import sweep

MODEL, TABLE, SAMPLE, RECORD, SCORED, REPORT, TRUTH = (
    "model.gmm", "sweep.parquet", "sample.parquet", "run.json", "scored", "report.html", "truth.gmm",
)  # fmt: skip


def sweep_stage(
    config: RunConfig, executor: Executor, listener: Listener = silent, on_pass: OnPass = lambda _: None
) -> SweepResult:
    """Sweep, choose, and leave the model and the tables in the run folder.

    Raises
    ------
    StreamGMMError
        As :func:`stream_gmm.pipeline.sweep.sweep`; and StorageError if the folder cannot be written.
    """
    started = time.perf_counter()
    truth = load_model(config.output.truth) if config.output.truth else None
    result = sweep(
        config.open(), config.sweep.n_components, config.sweep.covariance_type,
        config.settings(), executor,
        criterion=config.sweep.criterion, prune=config.sweep.prune, listener=listener, on_pass=on_pass,
    )  # fmt: skip
    _leave(result, config, truth, time.perf_counter() - started)
    return result


def _leave(result: SweepResult, config: RunConfig, truth: FitResult | None, seconds: float) -> None:
    folder = config.folder
    rows = result.profile.sample.rows[: config.output.report_rows]
    write_table(result.table, folder / TABLE)
    write_rows(rows, result.profile.columns, folder / SAMPLE)
    if truth is not None:
        save_model(truth, folder / TRUTH)
    write_record(folder, _record(result, config, seconds))
    save_model(result.best, folder / MODEL)


def _record(result: SweepResult, config: RunConfig, seconds: float) -> dict[str, Any]:
    found = result.profile
    return {
        "name": config.name,
        "config": config.model_dump(),
        "criterion": result.criterion,
        "chosen": result.candidates[result.chosen].name,
        "passes": result.passes,
        "warnings": list(result.warnings),
        "seconds": {"sweep": seconds},
        "histories": {c.name: list(c.result.history) for c in result.candidates if c.result is not None},
        "data": {
            "rows": found.rows,
            "used": result.best.provenance["rows_used"] if found.partial else found.used,
            "sample_rows": len(found.sample.rows),
            "columns": list(found.columns),
            "mean": found.mean.tolist(),
            "sd": (found.variances**0.5).tolist(),
            "low": found.low.tolist(),
            "high": found.high.tolist(),
            "bad": found.bad.tolist(),
        },
    }


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write run.json."""
    write_atomically(folder / RECORD, json.dumps(record, indent=1).encode())


def read_record(folder: Path) -> dict[str, Any]:
    """Read run.json.

    Raises
    ------
    InputDataError
        If the folder is not that of a run.
    """
    try:
        out: dict[str, Any] = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError) as error:
        raise InputDataError(
            explain(
                f"{folder} is not the folder of a run",
                why=f"{RECORD}: {error}",
                remedy="give the folder that 'stream-gmm run' or 'sweep' has written",
            )
        ) from error
    return out


def score_stage(
    config: RunConfig, executor: Executor, model: FitResult | None = None, listener: Listener = silent
) -> ScoreResult:
    """Score every row with the run's model (or another one) and publish.

    Raises
    ------
    StreamGMMError
        As :func:`stream_gmm.pipeline.score.score`.
    """
    started = time.perf_counter()
    folder = config.folder
    result = score(
        model or load_model(folder / MODEL), config.open(), folder / SCORED, executor,
        passthrough=config.score.passthrough, proba=config.score.proba, prefix=config.score.prefix,
        listener=listener,
    )  # fmt: skip
    if (folder / RECORD).exists():
        record = read_record(folder)
        record["seconds"]["score"] = time.perf_counter() - started
        record["scored"] = {k: v for k, v in result.manifest.items() if k != "parts"}
        write_record(folder, record)
    return result

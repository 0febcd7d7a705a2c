"""The stages of a run. Each reads its input from the run folder and leaves its results there.

``scored/``, ``model.gmm``, ``sweep.parquet``, ``candidates/``, ``sample.parquet``, ``run.json``, ``report.html``, and
``ledger/``, which a later sweep goes on from: a stage can be run alone, and run again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stream_gmm.core.result import FitResult
from stream_gmm.errors import InputDataError, explain
from stream_gmm.execute.protocol import Executor
from stream_gmm.execute.threads import available_cores
from stream_gmm.io.store.container import write_atomically
from stream_gmm.io.store.models import load_model, save_model
from stream_gmm.io.store.tables import write_rows, write_table
from stream_gmm.pipeline.fit.algorithms import OnPass
from stream_gmm.pipeline.fit.grid import parse_grid
from stream_gmm.pipeline.job.config import RunConfig
from stream_gmm.pipeline.job.plan import Plan, Workers, make_plan
from stream_gmm.pipeline.passes.progress import Listener, ignore_progress
from stream_gmm.pipeline.score import ScoreResult, score
from stream_gmm.pipeline.sweep.ledger import Ledger
from stream_gmm.pipeline.sweep.result import SweepResult
from stream_gmm.pipeline.sweep.sweep import sweep

MODEL, TABLE, SAMPLE, RECORD, SCORED, REPORT, TRUTH = (
    "model.gmm", "sweep.parquet", "sample.parquet", "run.json", "scored", "report.html", "truth.gmm",
)  # fmt: skip
CANDIDATES, LEDGER = "candidates", "ledger"
PREVIOUS = "previous"


def plan_stage(config: RunConfig, workers: Workers) -> Plan:
    """Return what the run will need.

    Raises
    ------
    ConfigError
        If it cannot fit.
    InputDataError
        If the data cannot be read.
    """
    grid = parse_grid(config.sweep.n_components, config.sweep.covariance_type)
    if config.cluster.local:
        workers = replace(workers, cores=available_cores())
    plan = make_plan(config.open(), grid, config.settings(), workers, config.sweep.prune)
    plan.refuse_if_too_large()
    return plan


def sweep_stage(
    config: RunConfig,
    executor: Executor,
    listener: Listener = ignore_progress,
    on_pass: OnPass = lambda _: None,
    on_plan: Callable[[Plan], None] = lambda _: None,
) -> SweepResult:
    """Plan, sweep, choose, and leave the model and the tables in the run folder. ``on_plan`` is told the plan.

    Raises
    ------
    StreamGMMError
        As :func:`plan_stage` and :func:`~stream_gmm.pipeline.sweep.sweep.sweep`; and StorageError if the
        folder cannot be written.
    """
    on_plan(plan_stage(config, Workers.of(executor)))
    started = time.perf_counter()
    truth = load_model(config.output.truth) if config.output.truth else None
    source, settings = config.open(), config.settings()
    result = sweep(
        source, config.sweep.n_components, config.sweep.covariance_type, settings, executor,
        choice=config.choice(), prune=config.sweep.prune,
        ledger=Ledger.open(config.folder / LEDGER, source, settings, config.sweep.fresh),
        match_to=_load_earlier_model(config), listener=listener, on_pass=on_pass,
    )  # fmt: skip
    _write_results(result, config, truth, time.perf_counter() - started)
    return result


def _load_earlier_model(config: RunConfig) -> FitResult | None:
    """Return the model whose numbers components are to keep; on the first night there is no previous one."""
    given = config.sweep.match_to
    if given == PREVIOUS:
        path = config.folder / MODEL
        return load_model(path) if path.exists() else None
    return load_model(given) if given else None


def _write_results(result: SweepResult, config: RunConfig, truth: FitResult | None, seconds: float) -> None:
    folder = config.folder
    rows = result.profile.sample.rows[: config.output.report_rows]
    write_table(result.table, folder / TABLE)
    write_rows(rows, result.profile.columns, folder / SAMPLE)
    if truth is not None:
        save_model(truth, folder / TRUTH)
    write_record(folder, _make_record(result, config, seconds))
    _write_candidates(result, folder / CANDIDATES)
    save_model(result.best, folder / MODEL)


def _write_candidates(result: SweepResult, folder: Path) -> None:
    """Leave the model of every candidate, and none of an earlier sweep."""
    names = {f"{c.name}.gmm": c.result for c in result.candidates if c.result is not None}
    for name, model in names.items():
        save_model(model, folder / name)
    for old in folder.glob("*.gmm"):
        if old.name not in names:
            old.unlink()


def _make_record(result: SweepResult, config: RunConfig, seconds: float) -> dict[str, Any]:
    found = result.profile
    return {
        "name": config.name,
        "config": config.model_dump(),
        "criterion": result.criterion,
        "chosen": result.candidates[result.chosen].name,
        "passes": result.passes,
        "reused": result.reused,
        "why": list(result.why),
        "alternatives": result.alternatives,
        "warnings": list(result.warnings),
        "seconds": {"sweep": seconds},
        "histories": {c.name: list(c.result.history) for c in result.candidates if c.result is not None},
        "data": {
            "rows": found.rows,
            "used": result.best.provenance["rows_used"] if found.is_partial else found.fit_rows,
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
    config: RunConfig, executor: Executor, model: FitResult | None = None, listener: Listener = ignore_progress
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

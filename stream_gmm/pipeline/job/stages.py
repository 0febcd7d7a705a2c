"""The stages of a run. Each reads its input from the run folder and leaves its results there.

A stage can be run alone, and run again. The files of the folder: :mod:`.run_folder`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from stream_gmm.core.result import FitResult
from stream_gmm.core.rows.sampling import Holdout
from stream_gmm.core.rows.transform_requests import describe_transforms
from stream_gmm.core.rows.transforms import restore_rows
from stream_gmm.execute.protocol import Executor, machine_memory
from stream_gmm.execute.threads import available_cores
from stream_gmm.io.source.dataset import Dataset
from stream_gmm.io.source.decode import MARGINALISE
from stream_gmm.io.store.generations import current_state
from stream_gmm.io.store.models import save_model
from stream_gmm.io.store.statistics import STATISTICS, save_statistics
from stream_gmm.io.store.tables import write_rows, write_table
from stream_gmm.io.store.versions import CHALLENGER
from stream_gmm.pipeline.fit.algorithms import OnPass
from stream_gmm.pipeline.fit.grid import parse_grid
from stream_gmm.pipeline.fit.size import refuse_oversize
from stream_gmm.pipeline.job.checks import check_job, check_output_folder, check_scoring
from stream_gmm.pipeline.job.config import RunConfig, apply_overrides, hold_output
from stream_gmm.pipeline.job.monitor_stage import refuse_drifted_rows
from stream_gmm.pipeline.job.plan import Plan, Workers, make_plan
from stream_gmm.pipeline.job.run_folder import (
    CANDIDATES,
    LEDGER,
    MODEL,
    PREVIOUS,
    RECORD,
    SAMPLE,
    TABLE,
    TRUTH,
    publish_results,
    read_files,
    read_run,
    update_record,
    write_files,
    write_record,
)
from stream_gmm.pipeline.model_files import load_model
from stream_gmm.pipeline.passes.progress import Listener, ignore_progress
from stream_gmm.pipeline.score import ScoreResult, score
from stream_gmm.pipeline.sweep.ledger import Ledger
from stream_gmm.pipeline.sweep.result import SweepResult
from stream_gmm.pipeline.sweep.sweep import sweep
from stream_gmm.pipeline.update.evidence import Verdict, judge_challenger
from stream_gmm.pipeline.update.heldout import read_heldout_rows
from stream_gmm.pipeline.update.rule import EVIDENCE
from stream_gmm.pipeline.update.statistics import identify_files, keep_scored_statistics, make_stats_rule


def plan_stage(config: RunConfig, workers: Workers) -> Plan:
    """Return what the run will need.

    Raises
    ------
    ConfigError
        If it cannot fit.
    InputDataError
        If the data cannot be read.
    """
    source = check_job(config, scoring=False)
    grid = parse_grid(config.sweep.n_components, config.sweep.covariance_type)
    if config.cluster.local:
        workers = replace(workers, cores=available_cores())
    settings, memory = config.settings(), workers.memory or machine_memory()
    refuse_oversize(grid, len(source.columns), source.num_rows, settings, memory)
    plan = make_plan(source, grid, settings, workers, config.sweep.prune)
    plan.refuse_if_too_large()
    return plan


@hold_output
def sweep_stage(
    config: RunConfig,
    executor: Executor,
    listener: Listener = ignore_progress,
    on_pass: OnPass = lambda _: None,
    on_plan: Callable[[Plan], None] = lambda _: None,
) -> SweepResult:
    """Plan, sweep, choose, and leave the model and the tables in the run folder; ``on_plan`` gets the plan.

    Raises
    ------
    StreamGMMError
        As :func:`~stream_gmm.pipeline.job.checks.check_job`, :func:`plan_stage` and
        :func:`~stream_gmm.pipeline.sweep.sweep.sweep`; and StorageError if the folder cannot be written.
    """
    workers = Workers.of(executor)
    on_plan(plan_stage(config, workers))
    started = time.perf_counter()
    source, settings = config.open(), config.settings()
    truth = load_model(config.output.truth) if config.output.truth else None
    result = sweep(
        source, config.sweep.n_components, config.sweep.covariance_type, settings, executor,
        choice=config.choice(), prune=config.sweep.prune,
        ledger=Ledger.open(config.folder / LEDGER, source, settings, config.sweep.fresh, config.open_checkpoints()),
        match_to=_load_earlier_model(config), listener=listener, on_pass=on_pass,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    verdict = _judge_by_new_rows(config, source, result.best, executor, listener)
    stays = config.output.publish_as == CHALLENGER or (verdict is not None and not verdict.wins)
    note = "" if verdict is None else verdict.describe()
    result = replace(result, why=(*result.why, *([note] if note else [])))
    publish_results(
        config.folder,
        lambda staged: _write_results(staged, result, config, truth, seconds, source, workers),
        keep=config.output.keep_versions,
        challenger=stays,
        note=note,
    )
    return result


def _judge_by_new_rows(
    config: RunConfig, source: Dataset, model: FitResult, executor: Executor, listener: Listener
) -> Verdict | None:
    """Compare a model with the champion, where evidence is asked for and there is one; reads only new files."""
    state = current_state(config.folder)
    if config.output.publish_as != EVIDENCE or not (state / MODEL).exists():
        return None
    champion, seen = load_model(state / MODEL), read_files(state)
    if seen is None or champion.columns != model.columns:
        return Verdict(False, None, config.update.z)
    holdout = Holdout(config.em.holdout, config.em.random_state)
    sample = read_heldout_rows(source.with_columns(model.columns), seen, holdout, executor, listener)
    old, now = (m.score_samples(sample.rows) for m in (champion, model))
    return judge_challenger(old, now, sample.weights, config.update.z)


def _load_earlier_model(config: RunConfig) -> FitResult | None:
    """Return the model whose component numbers are kept; in the first run there is no previous one."""
    given = config.sweep.match_to
    if given == PREVIOUS:
        path = current_state(config.folder) / MODEL
        return load_model(path) if path.exists() else None
    return load_model(given) if given else None


def _write_results(
    folder: Path, result: SweepResult, config: RunConfig, truth: FitResult | None, seconds: float, source: Dataset,
    workers: Workers,
) -> None:  # fmt: skip
    write_table(result.table, folder / TABLE)
    profile = result.profile
    sample = restore_rows(profile.sample.rows[: config.output.report_rows], profile.columns, profile.transforms)
    write_rows(sample, profile.columns, folder / SAMPLE)
    if truth is not None:
        save_model(truth, folder / TRUTH)
    for candidate in result.candidates:
        if candidate.result is not None:
            save_model(candidate.result, folder / CANDIDATES / f"{candidate.name}.gmm")
    save_model(result.best, folder / MODEL)
    write_files(folder, identify_files(source).values())
    record = _make_record(result, config, seconds)
    # Of a cluster that ends with the run, the addresses are of no use.
    stays = bool(config.cluster.address or config.cluster.scheduler_file)
    write_record(folder, record | {"workers": {"count": workers.count, "place": workers.place if stays else ""}})


def _make_record(result: SweepResult, config: RunConfig, seconds: float) -> dict[str, Any]:
    profile = result.profile
    return {
        "name": config.name,
        # Starting over says nothing about the results: a run that goes on makes the same version.
        "config": apply_overrides(config.model_dump(mode="json"), {"sweep.fresh": False}),
        "model_digest": result.best.digest,
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
            "rows": profile.rows,
            "used": result.best.provenance["rows_used"] if profile.is_partial else profile.fit_rows,
            "sample_rows": len(profile.sample.rows),
            "columns": list(profile.columns),
            "mean": profile.mean.tolist(),
            "sd": (profile.variances**0.5).tolist(),
            "low": profile.low.tolist(),
            "high": profile.high.tolist(),
            "bad": profile.bad.tolist(),
            "constants": {c.name: c.value for c in profile.constants},
            **{k: v for k, v in result.best.provenance.items() if k == "tables"},
            **({"transforms": describe_transforms(profile.transforms)} if profile.transforms else {}),
        },
    }


@hold_output
def score_stage(
    config: RunConfig, executor: Executor, model: FitResult | None = None, listener: Listener = ignore_progress
) -> ScoreResult:
    """Score every row with the run's model (or another one) and publish; the record of a run names only its own.

    Raises
    ------
    StreamGMMError
        As :func:`stream_gmm.pipeline.score.score`.
    """
    started = time.perf_counter()
    check_output_folder(config)
    fitted = model or load_model(current_state(config.folder) / MODEL)
    dataset = config.open(fitted)
    check_scoring(config, dataset, fitted.n_components, fitted.density.noisy, fitted)
    refuse_drifted_rows(config, fitted, dataset, executor)
    in_run = (current_state(config.folder) / RECORD).exists()
    own = in_run and read_run(config.folder)[2].digest == fitted.digest
    keep = own and config.update.keep_statistics and dataset.weight is None and dataset.missing != MARGINALISE
    stats_rule = make_stats_rule(dataset, config.settings(), config.update.apart) if keep else None
    result = score(
        fitted, dataset, config.scored, executor,
        table=config.score.options(), wait=config.output.wait, listener=listener, stats_rule=stats_rule,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    if stats_rule is not None and result.statistics:
        kept = keep_scored_statistics(dataset, fitted, result.statistics, stats_rule.share)
        if kept is not None:
            save_statistics(kept, config.folder / STATISTICS)

    if in_run:
        _, _, chosen = read_run(config.folder)

        def change(record: dict[str, Any]) -> None:
            record.pop("scored", None)
            if chosen.digest == fitted.digest:
                record["seconds"]["score"] = seconds
                record["scored"] = {k: v for k, v in result.manifest.items() if k != "parts"}

        update_record(config.folder, chosen.digest, change)
    return result

"""Compare new rows with the rows that a model was fitted to, file by file, and foretell what a refit would gain."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stream_gmm.core.drift import (
    RowSummary,
    compare_components,
    merge_summaries,
    predict_refit_gain,
)
from stream_gmm.core.result import FitResult
from stream_gmm.errors import ConfigError, InputDataError, explain
from stream_gmm.execute.protocol import Executor
from stream_gmm.io.sink.reports import report_from_json
from stream_gmm.io.sink.summaries import Item, SummaryJob, summarise_part
from stream_gmm.io.sink.targets import Target, open_target
from stream_gmm.io.source.dataset import Dataset
from stream_gmm.io.source.memory import require_complete_rows
from stream_gmm.pipeline.drift_rule import DRIFTED, DriftRule
from stream_gmm.pipeline.passes.progress import Listener, Meter, ignore_progress

log = logging.getLogger(__name__)

SAMPLE_ROWS = 20_000
"""Rows on which the gain of a refit is extrapolated."""
_LEAST_SAMPLE_ROWS = 1_000
ALL_FILES = "*"
_DEFAULT_RULE = DriftRule()


@dataclass(frozen=True)
class MonitorResult:
    """What the monitor has found: a row for each file and one, with the file ``*``, for all of them."""

    rows: tuple[Mapping[str, Any], ...]
    from_scores: bool
    """True if the published scores were read, and not the data."""

    @property
    def total(self) -> Mapping[str, Any]:
        """The row for all files together."""
        return self.rows[-1]

    @property
    def drifted(self) -> bool:
        """True if all files together, or one of them, are over the threshold."""
        return any(r["status"] == DRIFTED for r in self.rows)


def monitor(
    model: FitResult,
    dataset: Dataset,
    executor: Executor,
    rule: DriftRule = _DEFAULT_RULE,
    *,
    scored: str | Path | None = None,
    listener: Listener = ignore_progress,
) -> MonitorResult:
    """Compare the rows of a data set with a model: one pass, over published scores where they are of these rows.

    Parameters
    ----------
    scored
        Folder or URI of a scored table. It is read instead of the data if it was written by this model from these
        data, and holds the model's columns and the responsibilities.

    Raises
    ------
    ConfigError
        If the model was not fitted to rows.
    InputDataError
        If the data lacks columns of the model, cannot be read, or has no row that can be scored.
    """
    if not model.criteria.n_rows > 0.0:
        raise ConfigError(
            explain("the model was not fitted to rows, so that there is nothing to compare with", remedy="fit one")
        )
    require_complete_rows(dataset.missing, "the monitor")
    dataset = dataset.with_columns(model.columns)
    dataset.refuse_unusable(not_yet=[t.name for t in model.transforms])
    target = None if scored is None else open_target(scored)
    manifest = _find_scores(target, model, dataset)
    items: list[Item] = [(p, None) for p in dataset.parts]
    layout: dict[str, Any] = {}
    if target is not None and manifest is not None:
        reports = {r.index: r for r in map(report_from_json, manifest["parts"])}
        items = [(p, reports[p.index]) for p in dataset.parts]
        layout = {"scored": target.locate(), **{k: manifest["layout"][k] for k in ("proba", "prefix")}}
    if model.training is None:
        log.warning(
            "the model does not hold the log-densities that it was fitted to (it was written by an earlier release, "
            "or not fitted to a sample): psi and ks are missing. A new fit adds them."
        )
    edges = model.training.edges if model.training is not None else np.empty(0)
    job = SummaryJob(
        model.density, model.threshold, edges, model.criteria.loglik / model.criteria.n_rows, model.columns,
        dataset.weight, dataset.missing,
        max(_LEAST_SAMPLE_ROWS, SAMPLE_ROWS // max(len(items), 1)), dataset.row_filter, model.transforms,
        sentinels=dataset.sentinels, **layout,
    )  # fmt: skip
    meter = Meter(listener, "monitor", [p.rows for p, _ in items])
    summaries = executor.map(summarise_part, items, shared=job, label="monitor", on_done=meter)
    files: dict[str, list[RowSummary]] = {}
    for (part, _), summary in zip(items, summaries, strict=True):
        # A part sends few rows, so that many parts fit into memory; together they are the sample.
        sample = replace(summary.sample, capacity=SAMPLE_ROWS)
        files.setdefault(part.file.relative, []).append(replace(summary, sample=sample))
    merged = {name: merge_summaries(parts) for name, parts in files.items()}
    total = merge_summaries(list(merged.values()))
    if not total.stats.rows:
        raise InputDataError(
            explain("there is no row that the model can score", remedy="check data.paths and the columns' values")
        )
    rows = [make_monitor_row(name, summary, model, rule) for name, summary in merged.items() if summary.stats.rows]
    return MonitorResult((*rows, make_monitor_row(ALL_FILES, total, model, rule)), manifest is not None)


def _find_scores(target: Target | None, model: FitResult, dataset: Dataset) -> dict[str, Any] | None:
    """Return the manifest of a scored table that can be read instead of the data."""
    manifest = target.read_manifest() if target is not None else None
    if manifest is None or dataset.weight or dataset.row_filter or not manifest.get("parts"):
        return None
    layout = manifest["layout"]
    same = (manifest["model_digest"], manifest["data_fingerprint"]) == (model.digest, dataset.fingerprint)
    same = same and all(part.get("model") in (None, "", model.digest) for part in manifest["parts"])
    whole = layout["proba"] != "none" and not any(
        layout.get(name) for name in ("top_components", "partition_by", "rows_per_file")
    )
    holds_all = whole and set(model.columns) <= set(layout["passthrough"])
    return manifest if same and holds_all else None


def make_monitor_row(file: str, summary: RowSummary, model: FitResult, rule: DriftRule) -> dict[str, Any]:
    """Return the monitor's row for the rows of one file, or of all, summarised at the model's parameters."""
    stats, training = summary.stats, model.training
    n, expected = stats.rows, model.criteria.loglik / model.criteria.n_rows
    gain = predict_refit_gain(model.params, summary, model.criteria.n_rows)
    shift = compare_components(model.params, stats)
    psi = None if training is None else training.compute_psi(summary.counts)
    psi_excess = 0.0 if training is None or psi is None else psi - training.expected_psi(summary.effective_rows)
    numbers = {
        "mean_log_density": stats.mean_loglik,
        "standard_error": summary.standard_error,
        "training_log_density": expected,
        "difference": stats.mean_loglik - expected,
        "psi": psi,
        "ks": None if training is None else training.compute_ks(summary.counts),
        "outlier_rate": summary.outliers / n,
        "training_outlier_rate": model.outlier_quantile,
        "refit_gain": gain.total,
        "step_gain": gain.step,
        "chance_gain": gain.noise,
        "p_value": gain.p_value,
    }
    return {
        "file": file,
        "model_digest": model.digest,
        "rows": summary.rows_read,
        "rows_scored": float(n),
        "status": rule.judge(gain, psi_excess, summary.effective_rows / model.params.n_parameters),
        **{k: None if v is None or not math.isfinite(v) else float(v) for k, v in numbers.items()},
        "columns": list(model.columns),
        "bad_values": summary.bad.tolist(),
        "column_mean_shift": shift.column_means.tolist(),
        "column_sd_ratio": shift.column_deviations.tolist(),
        "weights": shift.weights.tolist(),
        "training_weights": model.weights_.tolist(),
        "mean_shift": shift.means.tolist(),
        "sd_ratio": shift.deviations.tolist(),
        "covariance_change": shift.covariances.tolist(),
    }

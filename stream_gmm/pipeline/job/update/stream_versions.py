"""Versions of a stream: with every period its model becomes a version of a run folder.

A period ends where the state of the stream is saved. Its rows are first compared with the version in use, which has
not seen them, as ``stream-gmm monitor`` compares those of files; then the model is published. A period that is
replayed after a kill ends in the same row of ``monitor.parquet`` and in the same version.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stream_gmm.core.drift import RowSummary, summarise_rows
from stream_gmm.core.estep.scores import score_transformed
from stream_gmm.core.online import make_online_result
from stream_gmm.core.result import FitResult
from stream_gmm.core.rows.histogram import LogDensityHistogram
from stream_gmm.core.rows.sampling import Sample, hash_rows
from stream_gmm.core.rows.transforms import transform_rows
from stream_gmm.errors import ConfigError, explain
from stream_gmm.io.source.chunks import Chunk
from stream_gmm.io.store.models import load_model, save_model
from stream_gmm.io.store.states import SavedStream
from stream_gmm.io.store.tables import append_rows, write_rows, write_table
from stream_gmm.pipeline.drift_rule import DriftRule
from stream_gmm.pipeline.job.config import RunConfig, validate_config
from stream_gmm.pipeline.job.monitor_stage import MONITOR, MonitorReport
from stream_gmm.pipeline.job.run_folder import (
    KEEP_VERSIONS,
    MODEL,
    SAMPLE,
    TABLE,
    locate_version,
    publish_results,
    read_catalog,
    write_record,
)
from stream_gmm.pipeline.monitor import ALL_FILES, SAMPLE_ROWS, MonitorResult, make_monitor_row
from stream_gmm.pipeline.sweep.result import make_single_table

FIRST_ROW = "first_row"
"""Key of a version's provenance: rows that the stream had seen where its last period began."""
STANDARD_INPUT = "-"
"""In place of the paths of the data."""
_NO_MODEL: FitResult | None = None
_DEFAULT_RULE = DriftRule()


@dataclass(frozen=True)
class StreamFolder:
    """Where the versions of a stream go, and when its rows count as drifted.

    Parameters
    ----------
    folder
        The run folder. Its champion may also come from a sweep over files with the same columns.
    rule
        When rows count as drifted.
    name
        Name of the run.
    challenger
        Publish versions as challenger: the champion stays in use until one is promoted.
    keep
        Versions that are kept.
    """

    folder: Path
    rule: DriftRule = _DEFAULT_RULE
    name: str = "stream"
    challenger: bool = False
    keep: int = KEEP_VERSIONS


class StreamVersions:
    """Follows a stream (:class:`stream_gmm.pipeline.stream.Follower`) and publishes what becomes of it.

    Parameters
    ----------
    target
        Where to.
    on_report
        Called with what was found about each period.
    """

    def __init__(self, target: StreamFolder, on_report: Callable[[MonitorReport], None] = lambda _: None) -> None:
        self.reports: list[MonitorReport] = []
        """What was found about the periods so far."""
        self._target, self._on_report = target, on_report
        self._first = self._rows = 0
        self._version, self._reference = "", _NO_MODEL
        self._summary: RowSummary | None = None
        self._sample: Sample | None = None
        self._bad: Any = 0

    def begin(self, saved: SavedStream) -> None:
        """Find the version that the rows of the next period are compared with.

        Raises
        ------
        ConfigError
            If it has other columns.
        """
        self._first, self._rows, self._summary, self._sample, self._bad = saved.state.rows_seen, 0, None, None, 0
        self._version, self._reference = "", _NO_MODEL
        catalog = read_catalog(self._target.folder)
        if catalog.champion is None:
            return
        version = catalog.find(catalog.champion)
        model = load_model(locate_version(self._target.folder, version) / MODEL)
        if model.columns != saved.columns or model.constants:
            raise ConfigError(
                explain(
                    f"{self._target.folder} holds a model of the columns {list(model.input_columns)}",
                    why=f"the stream has {list(saved.columns)}, so its rows cannot be compared with it",
                    remedy="give the stream a folder of its own, or these --columns",
                )
            )
        if model.provenance.get(FIRST_ROW) == self._first:  # this period was published, and is replayed after a kill
            if version.origin not in {v.name for v in catalog.versions}:
                return
            version = catalog.find(str(version.origin))
            model = load_model(locate_version(self._target.folder, version) / MODEL)
        self._version, self._reference = version.name, model

    def observe(self, chunk: Chunk) -> None:
        """Add a batch to the summary and the sample of the period."""
        numbers = self._first + self._rows + np.arange(len(chunk.rows))
        self._rows += len(chunk.rows)
        self._bad = self._bad + chunk.bad
        hashes, model = hash_rows(0, 0, numbers), self._reference
        sample = Sample.of(np.ascontiguousarray(chunk.rows), hashes, SAMPLE_ROWS)
        self._sample = sample if self._sample is None else self._sample.merge(sample)
        if model is None:
            return
        rows = transform_rows(np.array(chunk.rows), model.columns, model.transforms)
        summary = summarise_rows(
            rows, np.ones(len(rows)), score_transformed(model.density, rows, model.columns, model.transforms), hashes,
            rows_read=chunk.size, bad=chunk.bad.sum(axis=1),
            edges=model.training.edges if model.training is not None else np.empty(0), threshold=model.threshold,
            centre=model.criteria.loglik / model.criteria.n_rows, capacity=SAMPLE_ROWS,
        )  # fmt: skip
        self._summary = summary if self._summary is None else self._summary.merge(summary)

    def end(self, saved: SavedStream) -> None:
        """Add the period to ``monitor.parquet``, and publish the model as it is now; nothing before the first fit.

        Raises
        ------
        InputDataError, StorageError
            If the folder is damaged or cannot be written.
        """
        if not self._rows:
            return
        period = f"rows {self._first + 1} to {self._first + self._rows}"
        if self._summary is not None and self._reference is not None:
            row = {"period": period, "version": self._version}
            row |= make_monitor_row(ALL_FILES, self._summary, self._reference, self._target.rule)
            table = self._target.folder / MONITOR
            append_rows([row], table, keys=("period", "version", "file"))
            report = MonitorReport(period, self._version, MonitorResult((row,), False), table)
            self.reports.append(report)
            self._on_report(report)
        if saved.state.params is None:
            return
        model = self._make_model(saved)
        publish_results(
            self._target.folder, lambda staged: self._write_version(staged, model, saved), keep=self._target.keep,
            challenger=self._target.challenger, note=f"a stream, {period}",
        )  # fmt: skip

    def _make_model(self, saved: SavedStream) -> FitResult:
        model = make_online_result(saved.state, saved.rule, saved.columns)
        training = model.training
        if training is None and self._sample is not None:  # a stream that forgets keeps no rows of its own
            training = LogDensityHistogram.of(model.score_samples(self._sample.rows))
        fingerprint = f"a stream of {saved.state.rows_seen} rows"
        provenance = {**model.provenance, FIRST_ROW: self._first, "data_fingerprint": fingerprint}
        return replace(model, training=training, provenance=provenance)

    def _write_version(self, staged: Path, model: FitResult, saved: SavedStream) -> None:
        state, sample = saved.state, self._sample
        if state.reservoir is None:
            assert sample is not None
            kept = sample.rows
        else:
            kept = state.reservoir.take_uniform_rows()
        assert state.moments is not None
        config = self._make_config(saved)
        rows = kept[: config.output.report_rows]
        write_rows(rows, saved.columns, staged / SAMPLE)
        write_table(make_single_table(model), staged / TABLE)
        save_model(model, staged / MODEL)
        kind = f"{model.covariance_type}-{model.n_components}"
        data = {
            "rows": state.rows_seen,
            "used": round(state.effective_rows),
            "sample_rows": len(kept),
            "columns": list(saved.columns),
            "mean": state.moments.mean[0].tolist(),
            "sd": np.sqrt(np.diagonal(state.moments.scatter[0]) / state.moments.rows).tolist(),
            "low": kept.min(axis=0).tolist(),
            "high": kept.max(axis=0).tolist(),
            "bad": self._bad.tolist(),
            "constants": {},
        }
        why = f"{kind} was given, and learnt from a stream of {state.rows_seen:,} rows, each of which was seen once."
        record: dict[str, Any] = {
            "name": self._target.name, "config": config.model_dump(mode="json"), "model_digest": model.digest,
            "criterion": "bic", "chosen": kind, "passes": 1, "reused": 0, "why": [why], "alternatives": {},
            "warnings": list(model.warnings), "seconds": {}, "histories": {kind: list(model.history)}, "data": data,
        }  # fmt: skip
        write_record(staged, record)

    def _make_config(self, saved: SavedStream) -> RunConfig:
        """Return the options of the stream as a configuration, which the history of the folder can compare."""
        rule = saved.rule
        given: dict[str, Any] = {
            "name": self._target.name,
            "data": {"paths": [STANDARD_INPUT], "columns": list(saved.columns)},
            "sweep": {"n_components": str(rule.n_components), "covariance_type": [rule.family.name]},
            "em": {"n_init": rule.n_init, "random_state": rule.random_state, "reg_covar": rule.reg_covar},
            "score": {"outlier_quantile": rule.outlier_quantile},
            "output": {"folder": str(self._target.folder), "keep_versions": self._target.keep},
            "monitor": {
                "max_gain": self._target.rule.max_gain, "max_psi": self._target.rule.max_psi,
                "false_alarm_rate": self._target.rule.false_alarm_rate,
            },
        }  # fmt: skip
        return validate_config(given, "the stream")

"""The monitor as a stage: the rows of a night beside the model in use, in a table that grows from night to night."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stream_gmm.core.result import FitResult
from stream_gmm.errors import DriftError, explain
from stream_gmm.execute.protocol import Executor
from stream_gmm.io.source.dataset import Dataset
from stream_gmm.io.store.generations import current_state
from stream_gmm.io.store.statistics import STATISTICS, load_statistics
from stream_gmm.io.store.tables import append_rows
from stream_gmm.pipeline.drift_rule import DRIFTED
from stream_gmm.pipeline.job.config import RunConfig
from stream_gmm.pipeline.job.run_folder import read_catalog, read_files, read_run
from stream_gmm.pipeline.monitor import MonitorResult, monitor
from stream_gmm.pipeline.passes.progress import Listener, ignore_progress
from stream_gmm.pipeline.update.files import compare_files
from stream_gmm.pipeline.update.statistics import identify_files

MONITOR = "monitor.parquet"
NO_FILES = "no new files"
_ALERTED = (
    "rows", "status", "refit_gain", "chance_gain", "p_value", "difference", "standard_error", "psi", "ks",
    "outlier_rate",
)  # fmt: skip


@dataclass(frozen=True)
class MonitorReport:
    """What the monitor has found about a period, and the table that it was added to."""

    period: str
    version: str
    result: MonitorResult
    table: Path

    def alert(self, name: str) -> dict[str, Any]:
        """Return what a system for alerts needs, as JSON values: one line for a period."""
        head = {"event": "stream-gmm.monitor", "name": name, "period": self.period, "version": self.version}
        if not self.result.rows:
            nothing = {"rows": 0, "status": NO_FILES, "drifted": False, "drifted_files": []}
            return head | nothing | {"table": str(self.table)}
        total: Mapping[str, Any] = self.result.total
        column, shift = self._find_shifted_column()
        return {
            **head,
            **{key: total[key] for key in _ALERTED}, "drifted": self.result.drifted,
            "drifted_files": [r["file"] for r in self.result.rows[:-1] if r["status"] == DRIFTED],
            "most_shifted_column": column, "column_mean_shift": shift, "table": str(self.table),
        }  # fmt: skip

    def raise_if_drifted(self, max_gain: float, consequence: str) -> None:
        """Raise a DriftError with ``consequence`` in its message.

        Raises
        ------
        DriftError
            If the rows have drifted.
        """
        if not self.result.drifted:
            return
        total = self.result.total
        where = [r["file"] for r in self.result.rows[:-1] if r["status"] == DRIFTED]
        column, shift = self._find_shifted_column()
        files = f" (files over the threshold: {', '.join(where[:5])}{' ...' if len(where) > 5 else ''})"
        raise DriftError(
            explain(
                f"the rows of {self.period} have drifted from {self.version}: a refit would gain "
                f"{total['refit_gain']:.4g} nats per row over all files, {total['chance_gain']:.2g} of it by chance, "
                f"and the threshold is {max_gain:g}" + (files if where else ""),
                why=f"the mean of column '{column}' has moved most, by {shift:+.2f} of its standard deviations; "
                + consequence,
                remedy=f"look at {self.table}; with 'stream-gmm update' the model follows, and 'stream-gmm sweep' "
                "searches for a new one",
            )
        )

    def _find_shifted_column(self) -> tuple[str, float]:
        """Return the column whose mean has moved most, in the file that has drifted most or else in all rows."""
        drifted = [r for r in self.result.rows if r["status"] == DRIFTED]
        row = max(drifted, key=lambda r: r["refit_gain"] or 0.0) if drifted else self.result.total
        shifts = dict(zip(row["columns"], row["column_mean_shift"], strict=True))
        column = max(shifts, key=lambda name: abs(shifts[name]))
        return column, shifts[column]


def monitor_stage(
    config: RunConfig, executor: Executor, listener: Listener = ignore_progress, period: str | None = None
) -> MonitorReport:
    """Compare the configured data with the model in use, and add the result to ``monitor.parquet``.

    Parameters
    ----------
    period
        Name of the period that the data are of; None: today's date in UTC. The same period, version and file again
        replaces its row.

    Raises
    ------
    InputDataError, ModelFileError, StorageError
        If the folder is not that of a run, the data cannot be read, or the table cannot be written.
    """
    folder = config.folder
    _, _, model = read_run(folder)
    version = str(read_catalog(folder).champion)
    name = period or datetime.now(UTC).date().isoformat()
    dataset = config.open()
    if config.monitor.files == "new":
        dataset = _keep_new_files(dataset, folder)
        if not dataset.parts:
            return MonitorReport(name, version, MonitorResult((), False), folder / MONITOR)
    result = monitor(model, dataset, executor, config.drift_rule(), scored=config.scored, listener=listener)
    head = {"period": name, "version": version}
    with config.hold() if config.is_remote else contextlib.nullcontext():
        append_rows([head | dict(row) for row in result.rows], folder / MONITOR, keys=("period", "version", "file"))
    return MonitorReport(name, version, result, folder / MONITOR)


def _keep_new_files(dataset: Dataset, folder: Path) -> Dataset:
    """Return the files of a data set that are new or changed since the last run or update in a folder."""
    path = folder / STATISTICS
    before = load_statistics(path).files if path.exists() else read_files(current_state(folder)) or ()
    changes = compare_files(tuple(before), tuple(identify_files(dataset).values()))
    wanted = {*changes.new, *changes.changed}
    files = tuple(f for f in dataset.files if f.relative in wanted)
    return replace(dataset, files=files, parts=tuple(p for p in dataset.parts if p.file.relative in wanted))


def refuse_drifted_rows(config: RunConfig, model: FitResult, dataset: Dataset, executor: Executor) -> None:
    """Stop before rows are scored that have drifted from the model, if the policy is ``refuse``.

    The rows that the model was fitted to are not read again.

    Raises
    ------
    DriftError
        If they have drifted; and as :func:`monitor_stage`.
    """
    if config.monitor.policy != "refuse":
        return
    fingerprint = dataset.with_columns(model.columns).fingerprint
    if model.provenance.get("data_fingerprint") != fingerprint:
        report = monitor_stage(config, executor)
        report.raise_if_drifted(config.monitor.max_gain, "the policy is to refuse: they have not been scored")

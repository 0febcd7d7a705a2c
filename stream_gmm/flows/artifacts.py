"""What a run shows in the Prefect UI: sweep table, chosen model, criterion curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact

from stream_gmm.core.criteria import base_criterion, display_name, value_format
from stream_gmm.errors import redact_text
from stream_gmm.extras import is_installed
from stream_gmm.flows.names import make_key
from stream_gmm.flows.reporting import REPORTER
from stream_gmm.io.store.generations import current_state
from stream_gmm.io.store.tables import read_table
from stream_gmm.pipeline.job.config import RunConfig
from stream_gmm.pipeline.job.monitor_stage import MonitorReport
from stream_gmm.pipeline.job.run_folder import MODEL as MODEL_FILE
from stream_gmm.pipeline.job.run_folder import REPORT, locate_scores
from stream_gmm.pipeline.job.run_folder import TABLE as TABLE_FILE
from stream_gmm.pipeline.sweep.result import SweepResult
from stream_gmm.pipeline.update.result import UpdateResult

TABLE, MODEL, CURVE, UPDATE, DRIFT = "sweep-table", "chosen-model", "bic-curve", "update", "drift"
RESULTS = "results"
_SWEEP = {
    "candidate": "candidate", "chosen": "chosen", "n_parameters": "parameters", "mean_loglik": "log-lik / row",
    "bic": "BIC", "aic": "AIC", "icl": "ICL", "heldout": "held-out / row", "delta": "difference",
    "delta_se": "std. error", "gain": "gain over K - 1", "n_iter": "steps", "outcome": "outcome", "reason": "reason",
}  # fmt: skip
"""Columns of the sweep table that are shown, and their headings."""
_DRIFT = {
    "file": "file", "rows": "rows", "status": "status", "refit_gain": "gain of a refit, nats / row",
    "chance_gain": "of it by chance", "p_value": "p-value", "difference": "log-density, difference", "psi": "PSI",
    "ks": "KS", "outlier_rate": "outlier rate",
}  # fmt: skip
"""Columns of the monitor's table that are shown, and their headings."""


def _tabulate(rows: Sequence[Mapping[str, Any]], headings: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return rows for people: columns with a value in some row, under their headings."""
    shown = {k: heading for k, heading in headings.items() if any(row.get(k) is not None for row in rows)}
    return [{heading: _shorten(row.get(k)) for k, heading in shown.items()} for row in rows]


def _shorten(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else ""
    if not isinstance(value, float):
        return "" if value is None else value
    return round(value, 1) if abs(value) >= 1e4 else float(f"{value:.5g}")


def publish_sweep(job: str, result: SweepResult) -> None:
    """Publish the sweep table, best first."""
    rows = sorted(result.table.to_pylist(), key=lambda r: (r["delta"] is None, r["delta"] or 0.0))
    REPORTER.send(
        create_table_artifact,
        key=make_key(job, TABLE),
        table=_tabulate(rows, _SWEEP),
        description=f"{job}: candidates by {display_name(result.criterion)}",
    )


def publish_choice(job: str, result: SweepResult) -> None:
    """Publish the chosen model in words."""
    best, measured = result.best, base_criterion(result.criterion)
    head = "| component | weight | " + " | ".join(best.columns) + " |"
    rule = "|" + " --- |" * (2 + len(best.columns))
    rows = [
        f"| {k} | {best.weights_[k]:.4f} | " + " | ".join(f"{m:.5g}" for m in best.means_[k]) + " |"
        for k in range(best.n_components)
    ]
    text = (
        f"# {best.covariance_type}, K = {best.n_components}\n\n{best.outcome.value}, {best.n_iter_} steps, "
        f"{result.passes} reads of the data for the sweep. Log-likelihood {best.lower_bound_:.6f} per row, "
        f"{display_name(measured)} {value_format(measured).format(getattr(best.criteria, measured))}.\n\n"
        f"{' '.join(result.why)}\n\n"
    )
    warnings = "".join(f"\n> {w}\n" for w in result.warnings)
    REPORTER.send(
        create_markdown_artifact,
        key=make_key(job, MODEL),
        markdown=text + "\n".join([head, rule, *rows]) + "\n" + warnings,
        description=f"{job}: chosen model",
    )


def publish_update(job: str, result: UpdateResult) -> None:
    """Publish what an update has done, in words."""
    files, read = result.files, 100.0 * result.rows_read / max(result.rows, 1)
    text = (
        f"# {result.decision}\n\nFiles: {len(files.new)} new, {len(files.changed)} changed, {len(files.gone)} gone, "
        f"{len(files.unchanged)} unchanged. {result.rows_read:,} rows were read, {read:.1f} % of {result.rows:,}. "
        f"Version {result.version}, champion {result.champion}.\n\n"
    )
    REPORTER.send(
        create_markdown_artifact,
        key=make_key(job, UPDATE),
        markdown=text + "".join(f"- {sentence}\n" for sentence in (*result.why, *result.warnings)),
        description=f"{job}: update",
    )


def publish_drift(job: str, report: MonitorReport) -> None:
    """Publish what the monitor has found, a row a file and one for all of them; nothing of no files."""
    if not report.result.rows:
        return
    names = {"*": "all files"}
    rows = [{**row, "file": names.get(row["file"], row["file"])} for row in report.result.rows]
    REPORTER.send(
        create_table_artifact,
        key=make_key(job, DRIFT),
        table=_tabulate(rows, _DRIFT),
        description=f"{job}: {report.period} beside {report.version}: {report.result.total['status']}",
    )


def publish_results(job: str, config: RunConfig) -> None:
    """Publish where the results are."""
    where = config.output.folder if "://" in config.output.folder else str(config.folder.resolve())
    files = {"report": REPORT, "model": MODEL_FILE, "sweep table": TABLE_FILE}
    places = {"scored rows": locate_scores(config.folder)} | {k: f"{where}/{name}" for k, name in files.items()}
    lines = [f"| {what} | `{redact_text(place)}` |" for what, place in places.items()]
    REPORTER.send(
        create_markdown_artifact,
        key=make_key(job, RESULTS),
        markdown="\n".join(["| result | where |", "| --- | --- |", *lines]) + "\n",
        description=f"{job}: results",
    )


def publish_curves(job: str, folder: Path) -> None:
    """Publish the criterion curves as an image that needs no hosting; nothing without matplotlib."""
    if not is_installed("matplotlib"):
        return
    from stream_gmm import plot
    from stream_gmm.report.svg import encode_png, make_axes

    ax = plot.criteria(read_table(current_state(folder) / TABLE_FILE).to_pylist(), "bic", ax=make_axes())
    REPORTER.send(
        create_image_artifact,
        key=make_key(job, CURVE),
        image_url=encode_png(ax),
        description=f"{job}: BIC against K",
    )

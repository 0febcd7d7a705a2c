"""Standard input and output of ``stream-gmm stream`` and ``stream-gmm score -``."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.online import make_online_result
from stream_gmm.core.online_rule import OnlineRule
from stream_gmm.core.result import FitResult
from stream_gmm.errors import ConfigError
from stream_gmm.execute.protocol import one_blas_thread
from stream_gmm.io.sink.stream import StreamWriter, record_batches, score_record_batches
from stream_gmm.io.source.decode import MARGINALISE
from stream_gmm.io.store.models import save_model
from stream_gmm.pipeline.drift_rule import DriftRule
from stream_gmm.pipeline.job.config import RunConfig
from stream_gmm.pipeline.job.update.stream_versions import StreamFolder, StreamVersions
from stream_gmm.pipeline.stream import StreamOptions, StreamReport, run_stream
from stream_gmm.pipeline.table_layout import make_stream_layout


def stream_stdin(
    state: str, model: str | None, scores: bool, columns: tuple[str, ...] | None, given: dict[str, Any]
) -> None:
    """Run the stream on standard input; print a summary on standard error at the end.

    Raises
    ------
    DriftError
        At the end, if a period has drifted from the version in use before it.
    """
    rule = OnlineRule(
        given["n_components"], family_named(given["covariance_type"]), given["half_life"], n_init=given["n_init"],
        outlier_quantile=given["outlier_quantile"], random_state=given["random_state"],
        reservoir_rows=given["reservoir_rows"],
    )  # fmt: skip
    options = StreamOptions(
        columns, given["missing"], given["passthrough"], given["proba"], given["save_rows"], given["replay"]
    )
    drift = DriftRule(max_gain=given["max_gain"])
    versions = None
    for option, path in (("--state", state), ("--model", model)):
        if path and "://" in path:
            raise ConfigError(f"{option} of a stream cannot lie in an object store: give a file of this machine.")
    if given["folder"] and "://" in given["folder"]:
        raise ConfigError("the run folder of a stream cannot lie in an object store: give a folder of this machine.")
    if given["folder"]:
        target = StreamFolder(
            Path(given["folder"]),
            drift,
            Path(state).stem,
            given["publish_as"] == "challenger",
            given["keep_versions"],
        )
        versions = StreamVersions(target, lambda found: click.echo(json.dumps(found.alert(target.name)), err=True))
    with one_blas_thread, closing(StreamWriter(sys.stdout.buffer)) as write:
        report = run_stream(sys.stdin.buffer, state, rule, options, write if scores else None, versions)
    if model:
        with one_blas_thread:
            fitted = make_online_result(report.saved.state, report.saved.rule, report.saved.columns)
        save_model(fitted, model)
    click.echo(_summary(report), err=True)
    for found in versions.reports if versions is not None else ():
        found.raise_if_drifted(drift.max_gain, "the stream has learnt from them, and goes on")


def _summary(report: StreamReport) -> str:
    state = report.saved.state
    skipped = f", {report.skipped} batches skipped" if report.skipped else ""
    mean = f"{state.loglik / state.scored_rows:.6f}" if state.scored_rows else "not known yet"
    return (
        f"{report.rows:,} rows read ({report.dropped:,} dropped{skipped}); {state.rows_seen:,} in all, "
        f"{state.effective_rows:,.0f} effective behind the model, {state.step} steps, {state.reviews} reviews; "
        f"mean log-density of rows before they were learnt from: {mean}"
    )


def score_stdin(model: FitResult, config: RunConfig) -> None:
    """Score an Arrow IPC stream on standard input to standard output; print a summary on standard error.

    Missing values are treated as in the fit if that has marginalised them, unless the configuration says otherwise.

    Raises
    ------
    InputDataError
        If the input is not an Arrow IPC stream, or a value cannot be used.
    ConfigError
        If two columns would have one name, or an option is not for standard input.
    """
    settings, data = config.score, config.data
    if data.sentinel:
        raise ConfigError("data.sentinel is not for rows on standard input: score files, or leave it out.")
    layout, test = make_stream_layout(settings.options(), model)
    missing = MARGINALISE if model.marginalises and "missing" not in data.model_fields_set else data.missing
    rows = batches = 0
    with closing(StreamWriter(sys.stdout.buffer)) as write:
        for batch in score_record_batches(
            model, record_batches(sys.stdin.buffer, least=1), passthrough=settings.passthrough, layout=layout,
            test=test, missing=missing,
        ):  # fmt: skip
            write(batch)
            rows, batches = rows + batch.num_rows, batches + 1
    click.echo(f"{rows:,} rows in {batches:,} batches scored", err=True)

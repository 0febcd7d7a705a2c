"""The commands. Heavy imports wait until a command needs them, so that --help answers at once."""

from __future__ import annotations

import io
import logging
import math
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import click

from stream_gmm.cli.nights import COMMANDS, EPILOG
from stream_gmm.cli.options import collect_overrides, config_options
from stream_gmm.errors import ConfigError, StorageError, StreamGMMError, redact_error, redact_text
from stream_gmm.pipeline.job.config import RunConfig, load_config
from stream_gmm.pipeline.job.sections import MOST_COMPONENTS

CONFIG = click.argument("config", required=False, type=click.Path(dir_okay=False))
POSITIVE = click.IntRange(min=1)
NOT_NEGATIVE = click.IntRange(min=0)


class FiniteNumber(click.FloatRange):
    """A number of a range that is neither infinite nor NaN, which compares as being inside of every range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number of a text."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="stream-gmm")
def cli() -> None:
    """Gaussian mixtures for Parquet data that does not fit in memory."""


for _command in COMMANDS:
    cli.add_command(_command)


def main() -> None:
    """Run a command; an error becomes one message, without credentials, and the documented exit code."""
    handler = logging.StreamHandler()
    handler.setFormatter(_RedactingFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(file=shown)
        click.echo(redact_text(shown.getvalue()), err=True, nl=False)
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("stopped", err=True)
        sys.exit(130)
    except StreamGMMError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        click.echo(f"error: {redact_text(str(error))}", err=True)
        sys.exit(StorageError.exit_code)
    except Exception as error:
        redact_error(error)
        click.echo(redact_text("".join(traceback.format_exception(error))), err=True)
        sys.exit(1)


class _RedactingFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Return a line of the log, or several with a traceback, without credentials."""
        return redact_text(super().format(record))


def _load_settings(path: str | None, arguments: dict[str, Any]) -> RunConfig:
    return load_config(path, collect_overrides(arguments))


@cli.command(epilog=EPILOG)
@CONFIG
@config_options
def run(config: str | None, **arguments: Any) -> None:
    """Sweep, choose, score, publish and report: the whole job, as a Prefect flow.

    With PREFECT_API_URL set the run shows in that server; without, no server need be started.
    """
    from stream_gmm.pipeline.job.checks import check_job

    settings = _load_settings(config, arguments)
    check_job(settings, scoring=True)  # before Prefect starts, which takes seconds
    for name, value in _PREFECT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    from flows.run import forward_progress, gmm_run, hide_error_logs
    from stream_gmm.cli.display import progress_display, show_plan, show_run

    with progress_display() as listener, forward_progress(listener, show_plan), hide_error_logs():
        gmm_run(settings)
    show_run(settings.folder)


# Quiet, private and patient: Prefect's own API takes 13 to 30 s to start in a process.
_PREFECT_DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
}


@cli.command(epilog=EPILOG)
@CONFIG
@config_options
def sweep(config: str | None, **arguments: Any) -> None:
    """Fit every candidate and choose one; writes model and table to the output folder."""
    _run_sweep(_load_settings(config, arguments))


@cli.command(epilog=EPILOG)
@CONFIG
@config_options
def fit(config: str | None, **arguments: Any) -> None:
    """Fit one candidate: as 'sweep', with one K and one covariance structure."""
    settings = _load_settings(config, arguments)
    cells = len(set(settings.sweep.n_components)) * len(set(settings.sweep.covariance_type))
    if cells != 1:
        raise ConfigError(
            f"fit takes one candidate and the configuration has {cells}: give --n-components and "
            "--covariance-type, or use 'stream-gmm sweep'."
        )
    _run_sweep(settings)


def _run_sweep(settings: RunConfig) -> None:
    from stream_gmm.cli.display import progress_display, show_plan, show_run
    from stream_gmm.pipeline.job.checks import check_job
    from stream_gmm.pipeline.job.cluster import open_executor
    from stream_gmm.pipeline.job.stages import sweep_stage

    check_job(settings, scoring=False)  # before a cluster starts
    with progress_display() as listener, open_executor(settings.cluster) as executor:
        sweep_stage(settings, executor, listener, on_plan=show_plan)
    show_run(settings.folder)


@cli.command(epilog=EPILOG)
@CONFIG
@click.option("--replicates", default=100, type=POSITIVE, show_default=True, help="Replicates of the data")
@click.option(
    "--candidates", default=5, type=POSITIVE, show_default=True, help="Candidates that each replicate chooses among"
)
@click.option(
    "--ratio-replicates", default=99, type=NOT_NEGATIVE, show_default=True,
    help="Simulations of the tests of K; 0: no test",
)  # fmt: skip
@config_options
def bootstrap(config: str | None, replicates: int, candidates: int, ratio_replicates: int, **arguments: Any) -> None:
    """Show how certain the results of a run are: standard errors, what other data would choose, tests of K."""
    from stream_gmm.cli.display import progress_display, show_run
    from stream_gmm.pipeline.job.bootstrap_stage import bootstrap_stage
    from stream_gmm.pipeline.job.cluster import open_executor
    from stream_gmm.pipeline.job.run_folder import read_run

    settings = _load_settings(config, arguments)
    read_run(settings.folder)  # before a cluster starts
    with progress_display() as listener, open_executor(settings.cluster) as executor:
        bootstrap_stage(
            settings, executor,
            replicates=replicates, candidates=candidates, ratio_replicates=ratio_replicates, listener=listener,
        )  # fmt: skip
    show_run(settings.folder)


@cli.command(epilog=EPILOG)
@CONFIG
@config_options
def plan(config: str | None, **arguments: Any) -> None:
    """Show what a run will need: rows, tasks, reads, memory, time; refuse what cannot fit. Starts nothing."""
    from stream_gmm.cli.display import show_plan
    from stream_gmm.pipeline.job.cluster import planned_workers
    from stream_gmm.pipeline.job.stages import plan_stage

    settings = _load_settings(config, arguments)
    show_plan(plan_stage(settings, planned_workers(settings.cluster)))


@cli.command(epilog=EPILOG)
@CONFIG
@click.option("--model", type=click.Path(dir_okay=False), help="Model file [default: that of the output folder]")
@config_options
def score(config: str | None, model: str | None, **arguments: Any) -> None:
    """Score every row with a model and publish the scored Parquet."""
    from stream_gmm.cli.display import make_console, progress_display, show_model
    from stream_gmm.io.store.models import load_model
    from stream_gmm.pipeline.job.checks import check_output_folder, check_scoring
    from stream_gmm.pipeline.job.cluster import open_executor
    from stream_gmm.pipeline.job.run_folder import MODEL
    from stream_gmm.pipeline.job.stages import score_stage

    settings = _load_settings(config, arguments)
    check_output_folder(settings)
    fitted = load_model(model or settings.folder / MODEL)
    # Before a cluster starts.
    check_scoring(settings, settings.open(fitted), fitted.n_components, fitted.density.noisy)
    with progress_display() as listener, open_executor(settings.cluster) as executor:
        result = score_stage(settings, executor, fitted, listener)
    show_model(fitted, make_console(), result.manifest)
    click.echo(f"{'already published' if result.already_published else 'published'}: {result.path}")


@cli.command(epilog=EPILOG)
@click.argument("model", type=click.Path(dir_okay=False))
def inspect(model: str) -> None:
    """Show the content of a model file."""
    from stream_gmm.cli.display import make_console, show_model
    from stream_gmm.io.store.models import load_model

    console, fitted = make_console(), load_model(model)
    show_model(fitted, console)
    c = fitted.criteria
    console.print(
        f"BIC {c.bic:,.2f} · AIC {c.aic:,.2f} · ICL {c.icl:,.2f} · {c.n_parameters} parameters · {c.n_rows:,.0f} rows"
    )
    for name, value in fitted.provenance.items():
        console.print(f"{name:<18} {value}", soft_wrap=True)
    for kind, lines in (("warning", fitted.warnings), ("event", fitted.events)):
        for line in lines:
            console.print(f"{kind}: {line}", soft_wrap=True)
    console.print(f"{'digest':<18} {fitted.digest}", soft_wrap=True)


@cli.command(epilog=EPILOG)
@click.argument("run_folder", metavar="RUN", type=click.Path(file_okay=False))
def report(run_folder: str) -> None:
    """Write the HTML report of a run's folder again, and print its tables."""
    from stream_gmm.cli.display import show_run
    from stream_gmm.report.html import write_report

    write_report(Path(run_folder))
    show_run(Path(run_folder))


@cli.command(epilog=EPILOG)
@CONFIG
@click.option("--cron", help="Schedule, such as '0 2 * * *'")
@click.option("--timezone", default="UTC", show_default=True, help="Time zone of the schedule")
@click.option("--deployment", help="Name of the deployment [default: the name of the configuration]")
@config_options
def serve(config: str | None, cron: str | None, timezone: str, deployment: str | None, **arguments: Any) -> None:
    """Register the job as a Prefect deployment and serve its runs, on a schedule or on demand.

    Needs a Prefect server: set PREFECT_API_URL. Runs do not overlap. Ends with Ctrl-C or SIGTERM.
    """
    settings = _load_settings(config, arguments)
    for name in ("DO_NOT_TRACK", "PREFECT_SERVER_ANALYTICS_ENABLED"):
        os.environ.setdefault(name, _PREFECT_DEFAULTS[name])
    from flows.deploy import serve_run

    serve_run(settings, deployment or settings.name, cron, timezone)


@cli.command(epilog=EPILOG)
@click.argument("data", nargs=-1, required=True)
@click.option("--columns", help="Columns to look at, with commas between [default: all that look like measurements]")
@click.option("--exclude-columns", default="", help="Columns to leave out, with commas between")
@click.option("--filter", help="Only rows for which this is true")
@click.option("--missing", default="drop", show_default=True, type=click.Choice(["drop", "error"]), help="Bad rows")
@click.option("--sample-rows", default=50_000, type=POSITIVE, show_default=True, help="Rows of the uniform sample")
@click.option("--sample", is_flag=True, help="Read leaves drawn at random only, not everything")
def profile(data: tuple[str, ...], **given: Any) -> None:
    """Read a data set once and show counts, missing values, ranges, repeated values and dependent columns."""
    from stream_gmm.cli.display import make_console, progress_display, show_profile
    from stream_gmm.execute.threads import ThreadsExecutor
    from stream_gmm.io.source.dataset import open_dataset
    from stream_gmm.pipeline.fit.settings import Settings
    from stream_gmm.pipeline.fit.steps import profile_source

    chosen: dict[str, Any] = {n: given[n].split(",") for n in ("columns", "exclude_columns") if given[n]}
    dataset = open_dataset(data, missing=given["missing"], filter=given["filter"], **chosen)
    read = "sample" if given["sample"] else "full"
    settings = Settings(sample_rows=given["sample_rows"], profile=read, cache="none", constants="fit")
    with progress_display() as listener:
        profile = profile_source(dataset, settings, ThreadsExecutor(), listener)
    show_profile(profile, make_console())


@cli.command(epilog=EPILOG)
@click.option("--state", required=True, type=click.Path(dir_okay=False), help="State file: resumed from, and saved")
@click.option(
    "--n-components",
    default=5,
    type=click.IntRange(1, MOST_COMPONENTS),
    show_default=True,
    help="Number of components K",
)
@click.option("--covariance-type", default="full", show_default=True, help="Covariance structure")
@click.option(
    "--half-life",
    type=FiniteNumber(min=0.0, min_open=True),
    help="Rows after which a row counts half, for streams that drift",
)
@click.option("--columns", help="Columns to fit, with commas between [default: all numeric ones]")
@click.option("--missing", default="drop", show_default=True, type=click.Choice(["drop", "error"]), help="Bad rows")
@click.option("--n-init", default=3, type=POSITIVE, show_default=True, help="Restarts of the first fit")
@click.option("--random-state", default=0, type=NOT_NEGATIVE, show_default=True, help="Seed")
@click.option(
    "--outlier-quantile", default=0.01, type=FiniteNumber(0.0, 1.0, max_open=True), show_default=True,
    help="Share of rows below the outlier threshold",
)  # fmt: skip
@click.option("--passthrough/--no-passthrough", default=True, help="Carry the input's columns over [default: yes]")
@click.option("--proba", default="columns", show_default=True, type=click.Choice(["columns", "list", "none"]))
@click.option(
    "--save-rows", default=1_000_000, type=POSITIVE, show_default=True, help="Save the state after so many rows"
)
@click.option("--replay", is_flag=True, help="The input starts over: skip the batches that the state has taken in")
@click.option("--model", type=click.Path(dir_okay=False), help="Write the model here at the end")
@click.option("--no-scores", is_flag=True, help="Learn only; write nothing on standard output")
def stream(state: str, model: str | None, no_scores: bool, columns: str | None, **given: Any) -> None:
    """Learn from Arrow IPC record batches on standard input; write them, scored, to standard output.

    A batch is scored by the model as it was before, and then learnt from. Killed and started again with --replay,
    the state ends as if nothing had happened, bit for bit.
    """
    from stream_gmm.cli.streaming import stream_stdin

    stream_stdin(state, model, not no_scores, tuple(columns.split(",")) if columns else None, given)


@cli.command("demo-data", epilog=EPILOG)
@click.argument("folder", type=click.Path(file_okay=False))
@click.option("--rows", default=1_000_000, type=POSITIVE, show_default=True)
@click.option("--columns", default=6, type=POSITIVE, show_default=True)
@click.option("--files", default=8, type=POSITIVE, show_default=True)
@click.option("--components", default=5, type=click.IntRange(1, MOST_COMPONENTS), show_default=True)
@click.option("--seed", default=7, type=NOT_NEGATIVE, show_default=True)
@click.option(
    "--compression", default="zstd", type=click.Choice(["zstd", "snappy", "gzip", "brotli", "lz4", "none"]),
    show_default=True, help="Parquet codec",
)  # fmt: skip
def demo_data(folder: str, **options: Any) -> None:
    """Write Parquet files drawn from a known mixture, and that mixture as truth.gmm."""
    from stream_gmm.demo import write

    write(folder, **options)
    click.echo(f"{options['rows']:,} rows x {options['columns']} columns in {options['files']} files: {folder}")

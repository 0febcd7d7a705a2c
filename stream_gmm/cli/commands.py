"""The commands. Heavy imports wait until a command needs them, so that --help answers at once."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from stream_gmm.cli.data_commands import NOT_NEGATIVE, POSITIVE, FiniteNumber, demo_data, export, profile, stream
from stream_gmm.cli.endings import RedactingFormatter, end_on_errors
from stream_gmm.cli.help import EXIT_CODES, ConfiguredCommand, GroupedCommands
from stream_gmm.cli.nights import COMMANDS
from stream_gmm.cli.options import load_settings, load_settings_of_run
from stream_gmm.cli.output import Output, describe_model, describe_plan, describe_run, output_options
from stream_gmm.cli.setup import doctor, init, schema
from stream_gmm.errors import ConfigError, redact_text
from stream_gmm.extras import import_extra

if TYPE_CHECKING:
    from stream_gmm.flows.deploy import Deployment
    from stream_gmm.pipeline.job.config import RunConfig

F = TypeVar("F", bound=Callable[..., Any])
CONFIG = click.argument("given", nargs=-1, metavar="[CONFIG] [DATA]...")


@click.group(cls=GroupedCommands, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="stream-gmm")
def cli() -> None:
    """Gaussian mixtures for Parquet data that does not fit in memory.

    CONFIG is a file that ends in .yaml, .yml or .json; everything else is DATA: Parquet files, folders, patterns
    or s3:// URIs.
    """


for _command in COMMANDS:
    cli.add_command(_command)


def main() -> None:
    """Run a command; an error becomes one message, without credentials, and the documented exit code."""
    handler = logging.StreamHandler()
    handler.setFormatter(RedactingFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    with end_on_errors(sys.argv[1:]):
        cli(standalone_mode=False)


@cli.command(cls=ConfiguredCommand)
@CONFIG
@output_options
def run(given: tuple[str, ...], output: Output, **arguments: Any) -> None:
    """Sweep, choose, score, publish and report: the whole job, as a Prefect flow where Prefect is installed.

    With PREFECT_API_URL set the run shows in that server; without, no server need be started. A server that does not
    answer, or that is lost on the way, neither stops nor fails the job.
    """
    from stream_gmm.pipeline.job.checks import check_job

    settings = load_settings(given, arguments)
    check_job(settings, scoring=True)  # before Prefect starts, which takes seconds
    for name, value in _PREFECT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    logging.raiseExceptions = False  # Prefect's log handler prints whatever keeps it from its server
    with settings.hold(), output.progress() as listener:
        from stream_gmm.flows.start import run_job

        report = run_job(settings, listener, output.plan)
    for warning in report.warnings:
        click.echo(f"warning: {warning}", err=True)
    _show_run(settings.output.folder, output, settings.output.work_folder)


# Quiet, private and patient: Prefect's own API takes 13 to 30 s to start in a process.
_PREFECT_DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",  # every event that does not reach a lost server
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    # Its five retries of a request take two and a half minutes, after which the run would have failed.
    "PREFECT_CLIENT_MAX_RETRIES": "1",
    "PREFECT_API_REQUEST_TIMEOUT": "15",
}


@cli.command(cls=ConfiguredCommand)
@CONFIG
@output_options
def sweep(given: tuple[str, ...], output: Output, **arguments: Any) -> None:
    """Fit every candidate and choose one; writes model and table to the output folder."""
    _run_sweep("sweep", load_settings(given, arguments), output)


@cli.command(cls=ConfiguredCommand)
@CONFIG
@output_options
def fit(given: tuple[str, ...], output: Output, **arguments: Any) -> None:
    """Fit one candidate: as 'sweep', with one K and one covariance structure."""
    settings = load_settings(given, arguments)
    cells = len(set(settings.sweep.n_components)) * len(set(settings.sweep.covariance_type))
    if cells != 1:
        raise ConfigError(
            f"fit takes one candidate and the configuration has {cells}: give --n-components and "
            "--covariance-type, or use 'stream-gmm sweep'."
        )
    _run_sweep("fit", settings, output)


def _show_run(run_folder: str, output: Output, work: str | None = None) -> None:
    from stream_gmm.cli.display import show_run
    from stream_gmm.io.sink.objects.run_folders import locate_run_folder

    folder = locate_run_folder(run_folder, work)

    def show() -> None:
        show_run(folder)
        if "://" in run_folder:
            click.echo(
                f"run folder   {redact_text(run_folder)}, whose _latest.json names the files; these are copies"
            )

    output.result(lambda: describe_run(folder), show)


def _run_sweep(command: str, settings: RunConfig, output: Output) -> None:
    from stream_gmm.pipeline.job.checks import check_job
    from stream_gmm.pipeline.job.cluster import open_executor
    from stream_gmm.pipeline.job.stages import sweep_stage

    source = check_job(settings, scoring=False)  # before a cluster starts
    with (
        settings.begin(command, source),
        output.progress() as listener,
        open_executor(settings.cluster) as executor,
    ):
        sweep_stage(settings, executor, listener, on_plan=output.plan)
    _show_run(settings.output.folder, output, settings.output.work_folder)


@cli.command(cls=ConfiguredCommand)
@CONFIG
@click.option("--replicates", default=100, type=POSITIVE, show_default=True, help="Replicates of the data")
@click.option(
    "--candidates", default=5, type=POSITIVE, show_default=True, help="Candidates that each replicate chooses among"
)
@click.option(
    "--ratio-replicates", default=99, type=NOT_NEGATIVE, show_default=True,
    help="Simulations of the tests of K; 0: no test",
)  # fmt: skip
@output_options
def bootstrap(
    given: tuple[str, ...], replicates: int, candidates: int, ratio_replicates: int, output: Output, **arguments: Any
) -> None:
    """Show how certain the results of a run are: standard errors, what other data would choose, tests of K."""
    from stream_gmm.pipeline.job.bootstrap_stage import bootstrap_stage
    from stream_gmm.pipeline.job.cluster import open_executor
    from stream_gmm.pipeline.job.run_folder import read_run

    settings = load_settings(given, arguments)
    read_run(settings.folder)  # before a cluster starts
    own: dict[str, Any] = {
        "replicates": replicates, "candidates": candidates, "ratio_replicates": ratio_replicates,
    }  # fmt: skip
    with (
        settings.begin("bootstrap", **own),
        output.progress() as listener,
        open_executor(settings.cluster) as executor,
    ):
        bootstrap_stage(settings, executor, **own, listener=listener)
    _show_run(settings.output.folder, output, settings.output.work_folder)


@cli.command(cls=ConfiguredCommand)
@CONFIG
@output_options
def plan(given: tuple[str, ...], output: Output, **arguments: Any) -> None:
    """Show what a run will need: rows, tasks, reads, memory, time; refuse what cannot fit. Starts nothing."""
    from stream_gmm.cli.display import show_plan
    from stream_gmm.pipeline.job.cluster import planned_workers
    from stream_gmm.pipeline.job.stages import plan_stage

    settings = load_settings(given, arguments)
    found = plan_stage(settings, planned_workers(settings.cluster))
    output.result(lambda: describe_plan(found), lambda: show_plan(found))


@cli.command(cls=ConfiguredCommand)
@CONFIG
@click.option("--model", help="Model file or folder of a run, also as a URI [default: that of the output folder]")
@output_options
def score(given: tuple[str, ...], model: str | None, output: Output, **arguments: Any) -> None:
    """Score every row with a model and publish the scored Parquet.

    With --folder alone, the data and options of the run there are used again. With - for DATA, an Arrow IPC stream
    on standard input is scored to standard output.
    """
    from stream_gmm.cli.display import make_console, show_model
    from stream_gmm.pipeline.job.checks import check_output_folder, check_scoring
    from stream_gmm.pipeline.job.cluster import open_executor
    from stream_gmm.pipeline.job.run_folder import MODEL
    from stream_gmm.pipeline.job.stages import score_stage
    from stream_gmm.pipeline.model_files import load_model

    settings = load_settings_of_run(given, arguments)
    if settings.data.paths == ["-"]:
        from stream_gmm.cli.streaming import score_stdin

        score_stdin(load_model(model or settings.folder / MODEL), settings)
        return
    check_output_folder(settings)
    fitted = load_model(model or settings.folder / MODEL)
    # Before a cluster starts.
    source = settings.open(fitted)
    check_scoring(settings, source, fitted.n_components, fitted.density.noisy, fitted)
    with (
        settings.begin("score", source, model=model),
        output.progress() as listener,
        open_executor(settings.cluster) as executor,
    ):
        result = score_stage(settings, executor, fitted, listener)

    def show() -> None:
        show_model(fitted, make_console(), result.manifest)
        click.echo(f"{'already published' if result.already_published else 'published'}: {result.path}")

    output.result(
        lambda: {
            "path": result.path,
            "already_published": result.already_published,
            "scored": {k: v for k, v in result.manifest.items() if k != "parts"},
            "model": describe_model(fitted),
        },
        show,
    )


@cli.command()
@click.argument("model")
@output_options
def inspect(model: str, output: Output) -> None:
    """Show the content of a model: a file, or the folder of a run, whose champion is meant; also as a URI."""
    from stream_gmm.cli.display import show_model_file
    from stream_gmm.pipeline.model_files import load_model

    fitted = load_model(model)
    output.result(lambda: describe_model(fitted), lambda: show_model_file(fitted))


@cli.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(file_okay=False))
@click.option(
    "--live", is_flag=True, help="Follow a run that goes on, in a page that reloads by itself: RUN/live.html"
)
@click.option(
    "--every", default=5.0, type=FiniteNumber(min=1.0), show_default=True, help="Seconds between two pages of --live"
)
@output_options
def report(run_folder: str, live: bool, every: float, output: Output) -> None:
    """Write the HTML report of a run's folder again, and print its tables."""
    from stream_gmm.io.sink.objects.run_folders import hold_run_folder
    from stream_gmm.report.html import write_report
    from stream_gmm.report.live import follow_run

    if live and "://" in run_folder:
        raise ConfigError(
            "a run in an object store has no live page there: give the folder of its copy, where it runs."
        )
    if live:
        follow_run(
            Path(run_folder), every, lambda page: output.tell(f"open {page} in a browser; it ends with the run")
        )
    elif "://" in run_folder:
        with hold_run_folder(run_folder) as folder:
            write_report(folder)
    else:
        write_report(Path(run_folder))
    _show_run(run_folder, output)


def _deployment_options(function: F) -> F:
    """Add what a deployment is made of, beside its configuration."""
    options = (
        click.option("--cron", help="Schedule, such as '0 2 * * *'"),
        click.option("--timezone", default="UTC", show_default=True, help="Time zone of the schedule"),
        click.option("--deployment", help="Name of the deployment [default: the name of the configuration]"),
        click.option(
            "--job", default="run", show_default=True, type=click.Choice(["run", "update", "score", "monitor"]),
            help="run: search and score everything; update: follow new files; score: with the model in use; "
            "monitor: compare the data with it",
        ),
    )  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


def _open_deployment(command: str, settings: RunConfig, options: dict[str, Any]) -> Deployment:
    for name in ("DO_NOT_TRACK", "PREFECT_SERVER_ANALYTICS_ENABLED", "PREFECT_API_REQUEST_TIMEOUT"):
        os.environ.setdefault(name, _PREFECT_DEFAULTS[name])
    import_extra("prefect", f"stream-gmm {command}")
    from stream_gmm.flows.deploy import Deployment

    return Deployment(settings, options["job"], options["deployment"] or "", options["cron"], options["timezone"])


@cli.command(cls=ConfiguredCommand)
@CONFIG
@_deployment_options
def serve(given: tuple[str, ...], **arguments: Any) -> None:
    """Register the job as a Prefect deployment and serve its runs from this process.

    Needs a Prefect server: set PREFECT_API_URL. Runs do not overlap. Ends with Ctrl-C or SIGTERM.
    """
    _open_deployment("serve", load_settings(given, arguments), arguments).serve()


@cli.command(cls=ConfiguredCommand)
@CONFIG
@_deployment_options
@click.option("--pool", required=True, help="Work pool whose workers run the job; stream-gmm is installed there")
def deploy(given: tuple[str, ...], pool: str, **arguments: Any) -> None:
    """Register the job as a Prefect deployment for a work pool.

    Needs a Prefect server: set PREFECT_API_URL. In a pool of processes runs start in the present folder. The same
    name again replaces the deployment.
    """
    name = _open_deployment("deploy", load_settings(given, arguments), arguments).deploy(pool)
    click.echo(f"deployed: {name}. To run it now: prefect deployment run {name}")
    click.echo(f"Runs are made by workers of the pool: prefect worker start --pool {pool}")


for _command in (stream, profile, init, doctor, schema, demo_data, export):
    cli.add_command(_command)

"""The commands of every night: versions of a run folder, promotion and rollback, drift."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click

from stream_gmm.cli.help import GroupedCommand
from stream_gmm.cli.options import collect_overrides, config_options, load_settings
from stream_gmm.cli.output import Output, output_options

RUN = click.argument("run_folder", metavar="RUN", type=click.Path(file_okay=False))


@click.command(cls=GroupedCommand)
@RUN
def history(run_folder: str) -> None:
    """List the versions of a run folder: champion (in use), challenger, and earlier ones."""
    from stream_gmm.cli.display import make_console
    from stream_gmm.cli.display_versions import show_history
    from stream_gmm.pipeline.job.registry import open_registry

    show_history(open_registry(run_folder), make_console())


@click.command(cls=GroupedCommand)
@RUN
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
def diff(run_folder: str, first: str, second: str) -> None:
    """Show how version B differs from version A: components, criteria, data, configuration.

    A and B are names such as v3, or champion and challenger.
    """
    from stream_gmm.cli.display import make_console
    from stream_gmm.cli.display_versions import show_difference
    from stream_gmm.pipeline.job.registry import open_registry

    show_difference(open_registry(run_folder).diff(first, second), make_console())


@click.command(cls=GroupedCommand)
@RUN
@click.argument("version")
def promote(run_folder: str, version: str) -> None:
    """Make a version the champion: model.gmm, run.json and the other results of the folder become its own."""
    from stream_gmm.pipeline.job.registry import open_registry

    registry = open_registry(run_folder)
    before = registry.champion
    _report_champion(Path(run_folder), registry.promote(version).name, before.name if before else "none")


@click.command(cls=GroupedCommand)
@RUN
def rollback(run_folder: str) -> None:
    """Make the champion before the champion again."""
    from stream_gmm.pipeline.job.registry import open_registry

    registry = open_registry(run_folder)
    before = registry.champion
    _report_champion(Path(run_folder), registry.roll_back().name, before.name if before else "none")


def _report_champion(folder: Path, name: str, before: str) -> None:
    from stream_gmm.io.sink.publish import read_manifest
    from stream_gmm.io.store.generations import current_state
    from stream_gmm.io.store.models import load_model
    from stream_gmm.pipeline.job.run_folder import MODEL, SCORED

    click.echo(f"champion: {name} (was {before})")
    manifest = read_manifest(folder / SCORED)
    if manifest and manifest.get("model_digest") != load_model(current_state(folder) / MODEL).digest:
        click.echo(f"{folder / SCORED} holds the scores of another version: 'stream-gmm score' replaces them.")


@click.command(cls=GroupedCommand)
@click.argument("given", nargs=-1, metavar="[CONFIG] [DATA]...")
@click.option("--period", help="Name of the period that the data are of [default: today's date in UTC]")
@config_options
def monitor(given: tuple[str, ...], period: str | None, **arguments: Any) -> None:
    """Compare the data with the model in use: one JSON line on standard output, and a row a file in monitor.parquet.

    The scored table is read where it was written by this model from these data, else the data, once. Drift over the
    threshold (section monitor) is exit code 11; with the policy refit a sweep of these data follows instead.
    """
    from stream_gmm.cli.display import progress_display
    from stream_gmm.pipeline.job.cluster import open_executor
    from stream_gmm.pipeline.job.monitor_stage import monitor_stage
    from stream_gmm.pipeline.job.run_folder import read_run
    from stream_gmm.pipeline.job.stages import sweep_stage

    settings = load_settings(given, arguments)
    read_run(settings.folder)  # before a cluster starts
    with redirect_stdout(sys.stderr), progress_display() as listener, open_executor(settings.cluster) as executor:
        report = monitor_stage(settings, executor, listener, period)
        refit = report.result.drifted and settings.monitor.policy == "refit"
        if refit:
            sweep_stage(settings, executor, listener)
    click.echo(json.dumps(report.alert(settings.name) | {"fitted_again": refit}))
    if not refit:
        report.raise_if_drifted(settings.monitor.max_gain, "a refit describes them better than the model in use does")


@click.command(cls=GroupedCommand)
@click.argument("given", nargs=-1, metavar="[CONFIG] [DATA]...")
@output_options
@config_options
def update(given: tuple[str, ...], output: Output, **arguments: Any) -> None:
    """Bring a run folder up to date with its files: read and score the new ones, and move the model if that pays.

    With --folder alone, the configuration of the run is used again. Without new, changed or gone files nothing is
    read. Section update says how the model moves, and output.publish_as which model is in use afterwards.
    """
    from stream_gmm.cli.display import make_console
    from stream_gmm.cli.display_versions import show_update
    from stream_gmm.pipeline.job.cluster import open_executor
    from stream_gmm.pipeline.job.config import load_run_config
    from stream_gmm.pipeline.job.run_folder import read_run
    from stream_gmm.pipeline.job.update.stage import update_stage

    overrides = collect_overrides(arguments)
    if given or "data.paths" in overrides or "output.folder" not in overrides:
        settings = load_settings(given, arguments)
    else:
        settings = load_run_config(Path(overrides["output.folder"]), overrides)
    read_run(settings.folder)  # before a cluster starts
    with settings.hold(), output.progress() as listener, open_executor(settings.cluster) as executor:
        result = update_stage(settings, executor, listener)
    output.result(result.as_record, lambda: show_update(result, make_console()))


COMMANDS = (history, diff, promote, rollback, monitor, update)

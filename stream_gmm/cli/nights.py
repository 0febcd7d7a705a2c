"""The commands of every night: versions of a run folder, promotion and rollback, drift."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click

from stream_gmm.cli.help import GroupedCommand
from stream_gmm.cli.options import config_options, load_settings

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
    from stream_gmm.io.sink.targets import open_target
    from stream_gmm.io.store.generations import current_state
    from stream_gmm.io.store.models import load_model
    from stream_gmm.pipeline.job.run_folder import MODEL, locate_scores

    click.echo(f"champion: {name} (was {before})")
    target = open_target(locate_scores(folder))
    manifest = target.read_manifest()
    if manifest and manifest.get("model_digest") != load_model(current_state(folder) / MODEL).digest:
        click.echo(f"{target.shown} holds the scores of another version: 'stream-gmm score' replaces them.")


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


COMMANDS = (history, diff, promote, rollback, monitor)

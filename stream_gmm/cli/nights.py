"""The commands of every night: versions of a run folder, promotion and rollback."""

from __future__ import annotations

from pathlib import Path

import click

EPILOG = (
    "Exit codes: 0 done, 1 unexpected error, 2 configuration, 3 input data, 4 model file, "
    "6 storage, 7 cluster, 8 no admissible model."
)
RUN = click.argument("run_folder", metavar="RUN", type=click.Path(file_okay=False))


@click.command(epilog=EPILOG)
@RUN
def history(run_folder: str) -> None:
    """List the versions of a run folder: champion (in use), challenger, and earlier ones."""
    from stream_gmm.cli.display import make_console
    from stream_gmm.cli.display_versions import show_history
    from stream_gmm.pipeline.job.registry import open_registry

    show_history(open_registry(run_folder), make_console())


@click.command(epilog=EPILOG)
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


@click.command(epilog=EPILOG)
@RUN
@click.argument("version")
def promote(run_folder: str, version: str) -> None:
    """Make a version the champion: model.gmm, run.json and the other results of the folder become its own."""
    from stream_gmm.pipeline.job.registry import open_registry

    registry = open_registry(run_folder)
    before = registry.champion
    _report_champion(Path(run_folder), registry.promote(version).name, before.name if before else "none")


@click.command(epilog=EPILOG)
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


COMMANDS = (history, diff, promote, rollback)

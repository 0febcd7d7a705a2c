"""The commands of every night: versions of a run folder, promotion and rollback, drift, upkeep of results."""

from __future__ import annotations

import json
import os
import shlex
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from stream_gmm.cli.help import ConfiguredCommand, GroupedCommand
from stream_gmm.cli.options import RESUMED_CONFIG, collect_overrides, load_settings_of_run
from stream_gmm.cli.output import Output, output_options
from stream_gmm.errors import ConfigError, InputDataError, explain

if TYPE_CHECKING:
    from stream_gmm.pipeline.job.registry import Registry

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
    _report_champion(registry, registry.promote(version).name, before.name if before else "none")


@click.command(cls=GroupedCommand)
@RUN
def rollback(run_folder: str) -> None:
    """Make the champion before the champion again."""
    from stream_gmm.pipeline.job.registry import open_registry

    registry = open_registry(run_folder)
    before = registry.champion
    _report_champion(registry, registry.roll_back().name, before.name if before else "none")


def _report_champion(registry: Registry, name: str, before: str) -> None:
    from stream_gmm.io.sink.targets import open_target
    from stream_gmm.io.store.generations import current_state
    from stream_gmm.io.store.models import load_model
    from stream_gmm.pipeline.job.run_folder import MODEL, locate_scores

    click.echo(f"champion: {name} (was {before})")
    target = open_target(locate_scores(registry.folder))
    manifest = target.read_manifest()
    if manifest and manifest.get("model_digest") != load_model(current_state(registry.folder) / MODEL).digest:
        command = shlex.join(["stream-gmm", "score", "--folder", registry.uri or str(registry.folder)])
        click.echo(f"{target.shown} holds the scores of another version; to replace them: {command}")


@click.command(cls=ConfiguredCommand)
@click.argument("given", nargs=-1, metavar="[CONFIG] [DATA]...")
@click.option("--period", help="Name of the period that the data are of [default: today's date in UTC]")
def monitor(given: tuple[str, ...], period: str | None, **arguments: Any) -> None:
    """Compare the data with the model in use: one JSON line on standard output, and a row a file in monitor.parquet.

    With --folder and without a file, the configuration of the run is used, and DATA stands for its data. The scored
    table is read where it was written by this model from these data, else the data, once. Drift over the
    threshold (section monitor) is exit code 11; with the policy refit a sweep of these data follows instead.
    """
    from stream_gmm.cli.display import progress_display
    from stream_gmm.pipeline.job.cluster import open_executor
    from stream_gmm.pipeline.job.monitor_stage import monitor_stage
    from stream_gmm.pipeline.job.run_folder import read_run
    from stream_gmm.pipeline.job.stages import sweep_stage

    settings = load_settings_of_run(given, arguments, also_with_data=True)
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
@click.argument("out", metavar="OUT")
@output_options
def verify(out: str, output: Output) -> None:
    """Verify that published results are as they were written: checksums, counts, schemas, versions, pointers.

    OUT is the folder of a run, or the folder or URI of a scored table. Reads all of it. Exit code 4 if not.
    """
    from stream_gmm.pipeline.upkeep.verify import verify as verify_results

    found = verify_results(out)

    def show() -> None:
        scored = f"scored files: {found.files} with {found.rows:,} rows"
        click.echo(f"{found.folder}: versions of the run: {found.versions}; {scored}")
        for note in found.notes:
            click.echo(f"note: {note}")
        for problem in found.problems:
            click.echo(f"DAMAGED {problem.path}: {problem.what}")
        if not found.problems:
            click.echo("all as written")

    output.result(lambda: asdict(found) | {"intact": not found.problems}, show)
    found.raise_if_damaged()


@click.command(cls=GroupedCommand)
@click.argument("out", metavar="OUT")
@click.option("--yes", is_flag=True, help="Remove it; without, it is listed only")
@click.option("--wait", default=0.0, type=click.FloatRange(min=0.0), help="Seconds to wait for a run to end")
@output_options
def clean(out: str, yes: bool, wait: float, output: Output) -> None:
    """List what killed runs have left and what nothing refers to; with --yes remove it. Other files are not touched.

    OUT is the folder of a run, or the folder or URI of a scored table.
    """
    from stream_gmm.pipeline.upkeep.clean import clean as clean_results

    found = clean_results(out, remove=yes, wait=wait)

    def show() -> None:
        for leftover in found:
            click.echo(f"{leftover.path}  ({leftover.what}, {leftover.bytes:,} bytes)")
        things = "leftover" if len(found) == 1 else "leftovers"
        total = f"{len(found)} {things}, {sum(x.bytes for x in found):,} bytes"
        click.echo(f"removed: {total}" if yes else f"{total}; --yes removes them" if found else "nothing to remove")

    output.result(
        lambda: {"removed": yes, "leftovers": [{"path": x.path, "what": x.what, "bytes": x.bytes} for x in found]},
        show,
    )


@click.command(cls=ConfiguredCommand)
@click.argument("given", nargs=-1, metavar="[CONFIG] [DATA]...")
@output_options
def update(given: tuple[str, ...], output: Output, **arguments: Any) -> None:
    """Bring a run folder up to date with its files: read and score the new ones, and move the model if that pays.

    With --folder alone, the configuration of the run is used again. Without new, changed or gone files nothing is
    read. Section update says how the model moves, and output.publish_as which model is in use afterwards.
    """
    from stream_gmm.cli.display import make_console
    from stream_gmm.cli.display_versions import show_update
    from stream_gmm.pipeline.job.cluster import open_executor
    from stream_gmm.pipeline.job.run_folder import read_run
    from stream_gmm.pipeline.job.update.stage import update_stage

    settings = load_settings_of_run(given, arguments)
    read_run(settings.folder)  # before a cluster starts
    with settings.begin("update"), output.progress() as listener, open_executor(settings.cluster) as executor:
        result = update_stage(settings, executor, listener)
    output.result(result.as_record, lambda: show_update(result, make_console()))


@click.command(cls=ConfiguredCommand, keys=("cluster.", "output.wait"))
@click.argument("run", metavar="RUN")
@output_options
@click.pass_context
def resume(context: click.Context, /, run: str, output: Output, **arguments: Any) -> None:
    """Go on with a job that was cut off, from its checkpoints, with its own configuration, to the same bits.

    RUN is the folder of the run (output.folder), or the id that was printed when it was cut off. Another cluster than
    before may do the work.
    """
    from stream_gmm.pipeline.job.config import load_job
    from stream_gmm.pipeline.job.run_folder import MODEL
    from stream_gmm.pipeline.model_files import load_model

    folder, job, settings = load_job(run, collect_overrides(arguments))
    if job.ended:
        click.echo(f"nothing to resume: the {job.command} in {folder} ended well at {job.ended}.", err=True)
        return
    on_disk = [p for p in (*settings.data.paths, settings.output.folder, settings.scored) if "://" not in p]
    try:
        if on_disk or os.path.isdir(job.directory):  # else another machine goes on, which need not have that folder
            os.chdir(job.directory)
    except OSError as error:
        raise ConfigError(
            explain(
                f"the {job.command} in {folder} was begun in {job.directory}, which is not there",
                why=str(error),
                remedy="paths of its configuration are relative to that folder: start its command again elsewhere",
            )
        ) from error
    if job.fingerprint:
        scored = job.command == "score"
        model = load_model(job.options["model"] or settings.folder / MODEL) if scored else None
        if settings.open(model).fingerprint != job.fingerprint:
            raise InputDataError(
                explain(
                    f"the data are not those that the {job.command} in {folder} began with",
                    why="files came, went or were written again since then",
                    remedy="start its command again, which makes a new run of the files that are there now",
                )
            )
    output.tell(f"going on with the {job.command} that was begun at {job.begun} (run {job.id})")
    command = context.find_root().command.get_command(context, job.command)  # type: ignore[attr-defined]
    given = {"as_json": output.as_json, "quiet": output.quiet, **job.options}
    context.meta[RESUMED_CONFIG] = settings
    context.invoke(command, given=(), **{p.name: given[p.name] for p in command.params if p.name in given})


COMMANDS = (resume, verify, clean, history, diff, promote, rollback, monitor, update)

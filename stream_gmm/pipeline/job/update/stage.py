"""The update of a run folder: new files are read and scored, and the model follows them where that pays."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from stream_gmm.core.file_stats import KeptStats
from stream_gmm.core.result import FitResult
from stream_gmm.errors import ConfigError, ModelFileError, StreamGMMError, explain
from stream_gmm.execute.protocol import Executor
from stream_gmm.io.store.models import load_model
from stream_gmm.io.store.statistics import STATISTICS, load_statistics
from stream_gmm.pipeline.job.checks import check_output_folder, check_scoring
from stream_gmm.pipeline.job.config import RunConfig
from stream_gmm.pipeline.job.run_folder import (
    CANDIDATES,
    read_catalog,
    read_files,
    read_run,
)
from stream_gmm.pipeline.job.update.publisher import Publisher
from stream_gmm.pipeline.passes.progress import Listener, ignore_progress
from stream_gmm.pipeline.update.result import NOTHING, UpdateResult
from stream_gmm.pipeline.update.rule import EVIDENCE, NONE
from stream_gmm.pipeline.update.update import UpdateJob

log = logging.getLogger(__name__)


def update_stage(config: RunConfig, executor: Executor, listener: Listener = ignore_progress) -> UpdateResult:
    """Bring a run folder up to date with its files: model, scores, versions and statistics.

    Only new and changed files are read and scored, unless the model must be fitted in passes over all files, or be
    searched again; without any change nothing is read. Killed at any point, the folder holds the old results or the
    new ones, and a further update completes what is missing.

    Raises
    ------
    ConfigError, InputDataError, ModelFileError, StorageError
        If the folder is not that of a run, the files cannot be read, or the folder cannot be written.
    """
    check_output_folder(config)
    folder = config.folder
    state, _, champion = read_run(folder)
    dataset = config.open(champion)
    if config.update.rescore != NONE:
        if config.score.write != "replace":
            raise ConfigError(
                explain(
                    f"an update keeps the scores of all files in one table, which score.write: {config.score.write} "
                    "does not",
                    remedy="set score.write to replace: scores of unchanged files stay as they are",
                )
            )
        check_scoring(config, dataset, champion.n_components, champion.density.noisy, champion)
    seen = read_files(state)
    job = UpdateJob(
        dataset.with_columns(champion.columns), champion, read_statistics(folder), config.settings(),
        config.update.rule(), executor, config.output.publish_as == EVIDENCE, seen, _load_rivals(state, champion),
        listener,
    )  # fmt: skip
    publisher = Publisher(config, dataset, champion, state, executor, listener)
    if job.is_up_to_date and publisher.scores_are_complete:
        name = str(read_catalog(folder).champion)
        return UpdateResult(
            NOTHING, ("no file is new, changed or gone.",), job.find_changes(), champion, name, name, dataset.num_rows
        )
    finding, kept = job.run()
    if finding.rivals is not None and finding.rivals.crosses and config.update.new_sweep == EVIDENCE:
        return publisher.sweep_again(finding, kept)
    return publisher.publish(finding, kept)


def read_statistics(folder: Path) -> KeptStats | None:
    """Return the statistics kept in a run folder; None if there are none that can be read."""
    path = folder / STATISTICS
    if not path.exists():
        return None
    try:
        return load_statistics(path)
    except ModelFileError as error:
        log.warning("%s: all files are read again", error)
        return None


def _load_rivals(state: Path, champion: FitResult) -> dict[str, Any]:
    """Return the other candidates of the champion's sweep that can be compared with it."""
    out = {}
    for path in sorted((state / CANDIDATES).glob("*.gmm")):
        try:
            model = load_model(path)
        except StreamGMMError as error:
            log.warning("%s is not compared: %s", path.name, error)
            continue
        own = (model.n_components, model.params.family)
        same = (model.columns, model.transforms) == (champion.columns, champion.transforms)
        if same and own != (champion.n_components, champion.params.family):
            out[path.stem] = model.params
    return out

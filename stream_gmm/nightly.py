"""The public verb that keeps a run folder up to date with its files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stream_gmm.api import executor_for
from stream_gmm.errors import ConfigError, did_you_mean
from stream_gmm.execute.protocol import Executor
from stream_gmm.pipeline.fit.settings import document_fields
from stream_gmm.pipeline.job.config import load_run_config
from stream_gmm.pipeline.job.update.stage import update_stage
from stream_gmm.pipeline.passes.progress import Listener, ignore_progress
from stream_gmm.pipeline.update.result import UpdateResult
from stream_gmm.pipeline.update.rule import UPDATE_OPTIONS, UpdateRule

if TYPE_CHECKING:
    from distributed import Client


@document_fields(UpdateRule)
def update(
    folder: str | os.PathLike[str],
    data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    *,
    publish_as: str | None = None,
    client: Client | Executor | None = None,
    progress: Listener = ignore_progress,
    **options: Any,
) -> UpdateResult:
    """Bring a run folder up to date with its files: the model, the scores, the versions.

    The folder keeps the statistics of every file, so that only new and changed files are read. A predicted gain
    decides whether the parameters move; without any change nothing is read or written.

    Parameters
    ----------
    folder
        Folder of a run, which ``stream-gmm run`` or ``sweep`` has written; its configuration is used again.
    data
        Paths, folders or patterns of all files as they are now; None: those of the run.
    publish_as
        ``"champion"``, ``"challenger"`` or ``"evidence"``; None: as the run's configuration says.
    client
        A ``distributed.Client``; None: the threads of this process.
    progress
        Called with a :class:`~stream_gmm.pipeline.passes.progress.Progress` while files are read.
    {options}
        Options that are not given are those of the run's configuration.

    Returns
    -------
    UpdateResult
        ``decision`` and ``why`` in words, ``files`` (new, changed, gone), ``model``, ``version``, ``promoted``,
        ``rows_read``, ``gain``, ``error``.

    Raises
    ------
    ConfigError, InputDataError, ModelFileError, StorageError, FolderInUseError
        See their descriptions.
    """
    unknown = [name for name in options if name not in UPDATE_OPTIONS]
    if unknown:
        raise ConfigError(f"update has no option {unknown[0]!r}{did_you_mean(unknown[0], UPDATE_OPTIONS)}")
    overrides: dict[str, Any] = {f"update.{name}": value for name, value in options.items()}
    if data is not None:
        paths = [data] if isinstance(data, str | os.PathLike) else data
        overrides["data.paths"] = [os.fspath(p) for p in paths]
    if publish_as is not None:
        overrides["output.publish_as"] = publish_as
    config = load_run_config(os.fspath(folder), overrides)
    with config.hold():
        return update_stage(config, executor_for(client), progress)

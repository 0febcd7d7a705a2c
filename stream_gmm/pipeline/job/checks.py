"""What is checked before the first row is read: folders, names of columns, contradictory settings."""

from __future__ import annotations

import fnmatch
import os
import re
import tempfile
from pathlib import Path

from stream_gmm.core.criteria import HELDOUT, base_criterion
from stream_gmm.core.result import FitResult
from stream_gmm.errors import ConfigError, StorageError, explain
from stream_gmm.extras import import_extra
from stream_gmm.io.sink.columns import score_columns
from stream_gmm.io.sink.objects.run_folders import open_run_prefix
from stream_gmm.io.sink.targets import open_target
from stream_gmm.io.source.columns.names import Request, UnknownColumnError, describe_unknown, find_unknown
from stream_gmm.io.source.dataset import Dataset
from stream_gmm.io.source.files import is_uri, redact
from stream_gmm.pipeline.fit.grid import parse_grid
from stream_gmm.pipeline.job.config import RunConfig
from stream_gmm.pipeline.job.run_folder import PREVIOUS
from stream_gmm.pipeline.model_files import load_model
from stream_gmm.pipeline.score import with_model_columns
from stream_gmm.pipeline.table_layout import make_layout
from stream_gmm.pipeline.update.rule import EVIDENCE

_WILDCARD = re.compile(r"[*?\[]")


def check_job(config: RunConfig, *, scoring: bool) -> Dataset:
    """Check all of a job that can be checked without reading a row; return its data set. Nothing is created.

    Parameters
    ----------
    scoring
        Also check what the scored table needs: its folder and the names of its columns.

    Raises
    ------
    ConfigError
        If settings contradict each other, the output folder overlaps an input folder, or a package is missing.
    InputDataError, ModelFileError, StorageError
        If the data or a model file cannot be read, or the output folder cannot be written.
    """
    check_output_folder(config)
    if config.mlflow.tracking_uri and scoring:
        import_extra("mlflow", "the section mlflow")
    settings = config.settings()
    grid = parse_grid(config.sweep.n_components, config.sweep.covariance_type)
    settings.check_structures([name for _, name in grid])
    if base_criterion(config.choice().criterion) == HELDOUT and not settings.holdout:
        raise ConfigError(
            f"the criterion {config.sweep.criterion!r} needs rows held out: set em.holdout, such as 0.1."
        )
    if config.output.publish_as == EVIDENCE and not settings.holdout:
        raise ConfigError(
            explain(
                "output.publish_as: evidence compares models on rows that neither has used, and no rows are held out",
                remedy="set em.holdout, such as 0.1; 'stream-gmm update' sets rows of new files apart by itself",
            )
        )
    dataset = _open_and_check_names(config)
    requests = settings.check_columns(dataset.columns)
    dataset.refuse_unusable(not_yet=requests)
    dataset.refuse_empty()
    for key, path in (("output.truth", config.output.truth), ("sweep.match_to", config.sweep.match_to)):
        if path and not (key == "sweep.match_to" and path == PREVIOUS):
            _check_columns_of(load_model(path), dataset, f"{key} {path}")
    if scoring:
        check_scoring(config, dataset, max(k for k, _ in grid), settings.noise)
    return dataset


def _open_and_check_names(config: RunConfig) -> Dataset:
    """Open the data; settings that name columns which there are not are refused all at once."""
    em, score = config.em, config.score
    requests: list[Request] = [
        ("em.transforms", em.transforms if isinstance(em.transforms, dict) else ()),
        ("em.resolution", em.resolution if isinstance(em.resolution, dict) else ()),
        ("score.passthrough", score.passthrough if isinstance(score.passthrough, list) else ()),
        ("score.partition_by", score.partition_by),
    ]
    try:
        dataset = config.open()
    except UnknownColumnError as error:
        raise UnknownColumnError([*error.problems, *find_unknown(requests, error.names)], error.names) from error
    problems = find_unknown(requests, dataset.schema.names)
    if problems:
        raise ConfigError(describe_unknown(problems, dataset.schema.names))
    return dataset


def check_scoring(
    config: RunConfig, dataset: Dataset, n_components: int, noise: bool, model: FitResult | None = None
) -> None:
    """Check the folder of the scored table and its columns, for a model or up to ``n_components`` components.

    Raises
    ------
    ConfigError
        If a pass-through column does not exist, or has the name of a score column.
    StorageError
        If the folder holds something else.
    InputDataError
        If the data lack columns of the model, or the footers tell of values that cannot be scored.
    """
    options = config.score.options()
    if model is not None:
        with_model_columns(dataset, model).refuse_unusable()
    layout = make_layout(dataset, n_components, noise, options, dataset.columns)
    target = open_target(config.scored, options.sink, options.write)
    target.check([f.path for f in dataset.files])
    target.prepare(dataset, layout, None if model is None else score_columns(n_components, layout, noise))


def _check_columns_of(model: FitResult, dataset: Dataset, what: str) -> None:
    if dataset.columns not in (model.columns, model.input_columns):
        raise ConfigError(
            explain(
                f"{what} has the columns {list(model.input_columns)}, and the run uses {list(dataset.columns)}",
                remedy="set data.columns to the columns of that model, or leave the model out",
            )
        )


def check_output_folder(config: RunConfig) -> None:
    """Refuse an output folder that cannot be written, or that overlaps an input folder. Nothing is read or created.

    Raises
    ------
    ConfigError
        If the folder is an input folder, or is below or above one.
    StorageError
        If it is no folder or no prefix of a run, or cannot be written.
    """
    if is_uri(config.output.folder):
        _check_prefix(config)
        return
    folder = config.folder
    output = Path(os.path.abspath(os.path.expanduser(folder))).resolve()
    scored = [] if is_uri(config.scored) else [Path(os.path.abspath(os.path.expanduser(config.scored))).resolve()]
    for path in config.data.paths:
        for place in (output, *scored):
            if not is_uri(path):
                _refuse_overlap(place, path)
    existing = next(p for p in (output, *output.parents) if p.exists())
    if not existing.is_dir():
        raise StorageError(explain(f"cannot write to {folder}", why=f"{existing} is a file, not a folder"))
    try:
        os.rmdir(tempfile.mkdtemp(prefix="._stream-gmm-", dir=existing))
    except OSError as error:
        raise StorageError(explain(f"cannot write to {folder}", why=str(error), remedy="check its rights")) from error


def _check_prefix(config: RunConfig) -> None:
    prefix = open_run_prefix(config.output.folder, config.output.work_folder)
    for path in config.data.paths:
        if is_uri(path):
            places = [redact(p).rstrip("/") + "/" for p in (path, config.output.folder)]
            if places[0].startswith(places[1]) or places[1].startswith(places[0]):
                raise ConfigError(
                    explain(
                        f"the output folder {places[1]} and the input {places[0]} are inside of each other",
                        why="the next run would read its own results as data, or replace the data by them",
                        remedy="give output.folder a place beside the data",
                    )
                )
    prefix.check()


def _refuse_overlap(output: Path, path: str) -> None:
    pieces = Path(os.path.abspath(os.path.expanduser(path))).parts
    wild = next((i for i, piece in enumerate(pieces) if _WILDCARD.search(piece)), len(pieces))
    exists = os.path.exists(os.path.expanduser(path))
    source = Path(*(pieces if exists else pieces[:wild])).resolve()
    relation = ""
    if output == source:
        relation = "is"
    elif output in source.parents:
        relation = "holds"
    elif source in output.parents and (
        source.is_dir() if exists else _reaches(pieces[wild:], output.relative_to(source).parts)
    ):
        relation = "lies in"
    if relation:
        raise ConfigError(
            explain(
                f"the output folder {output} {relation} the input {path}",
                why="the next run would read its own results as data, or replace the data by them",
                remedy="give output.folder a place beside the data",
            )
        )


def _reaches(pattern: tuple[str, ...], folder: tuple[str, ...]) -> bool:
    """Return True if a pattern can match a file below a folder, both relative to the pattern's fixed part."""
    for i, name in enumerate(folder):
        if i >= len(pattern):
            return False
        if pattern[i] == "**":
            return True
        if not fnmatch.fnmatchcase(name, pattern[i]):
            return False
    return len(pattern) > len(folder)

"""Runs in MLflow: parameters, criteria, report, tables, and the model as one that MLflow loads and registers."""

from __future__ import annotations

import logging
import math
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stream_gmm.core.result import FitResult
from stream_gmm.errors import StorageError, explain, redact_text
from stream_gmm.export.batches import score_frame
from stream_gmm.extras import import_extra
from stream_gmm.io.store.models import load_model, save_model
from stream_gmm.io.store.tables import read_table
from stream_gmm.pipeline.job.config import RunConfig
from stream_gmm.pipeline.job.repeat import list_changes, make_command
from stream_gmm.pipeline.job.run_folder import MODEL, RECORD, REPORT, TABLE, read_catalog, read_run

log = logging.getLogger(__name__)

EXPERIMENT = "stream-gmm"
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "15"}
"""MLflow's own seven retries of a request take minutes."""
_LONGEST_VALUE, _MOST_PARAMETERS = 500, 100


def log_to_mlflow(
    folder: str | os.PathLike[str],
    tracking_uri: str | None = None,
    experiment: str = EXPERIMENT,
    register_as: str | None = None,
) -> str:
    """Log the champion of a run folder as a run of MLflow.

    Parameters are K, the covariance structure and the settings that differ from their defaults; metrics are the
    criteria, counts of rows and outliers, and the criterion of every candidate, by structure with K as the step.
    Artifacts are the report, the record, the sweep table, and ``model``: ``mlflow.pyfunc.load_model`` gives a model
    whose ``predict`` takes a data frame with the columns of the fit and returns its scores.

    Parameters
    ----------
    folder
        The folder of a run.
    tracking_uri
        Address of an MLflow server, or of a store such as ``"sqlite:///mlflow.db"``. None: as MLflow is configured
        (``MLFLOW_TRACKING_URI``).
    experiment
        Name of the experiment; it is created if there is none.
    register_as
        Name under which the model becomes a new version in MLflow's registry. None: it is not registered.

    Returns
    -------
    str
        The identifier of the MLflow run.

    Raises
    ------
    MissingPackageError
        If MLflow is not installed (extra ``mlflow``).
    InputDataError
        If the folder is not that of a run.
    StorageError
        If MLflow refuses, or does not answer.
    """
    import_extra("mlflow", "logging to MLflow")
    place = Path(folder)
    state, record, model = read_run(place)
    table = read_table(state / TABLE).to_pylist()
    for name, value in _IMPATIENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri=tracking_uri)
    try:
        found = client.get_experiment_by_name(experiment)
        number = client.create_experiment(experiment) if found is None else found.experiment_id
        tags = {
            "stream_gmm.model_digest": model.digest,
            "stream_gmm.version": read_catalog(place).champion or "",
            "stream_gmm.command": make_command("run" if "scored" in record else "sweep", record["config"]),
            "mlflow.note.content": " ".join(record["why"]),
        }
        run = client.create_run(number, run_name=record["name"], tags=tags).info.run_id
        try:
            now = client.get_run(run).info.start_time
            client.log_batch(
                run,
                metrics=[Metric(name, value, now, step) for name, value, step in _list_metrics(record, model, table)],
                params=[Param(k, v[:_LONGEST_VALUE]) for k, v in _list_parameters(record, model)][:_MOST_PARAMETERS],
            )
            for file in (place / REPORT, state / RECORD, state / TABLE):
                if file.exists():
                    client.log_artifact(run, str(file))
            with tempfile.TemporaryDirectory() as made:
                _save_model(model, Path(made, "model"))
                client.log_artifacts(run, str(Path(made, "model")), "model")
            if register_as:
                _register(client, register_as, run)
        except BaseException:
            client.set_terminated(run, "FAILED")
            raise
        client.set_terminated(run)
    except (MlflowException, OSError, ImportError) as error:
        raise StorageError(
            explain(
                f"the run in {folder} was not logged to MLflow: {redact_text(str(error))}",
                remedy="check the tracking address; stream_gmm.log_to_mlflow logs it later",
            )
        ) from error
    return str(run)


def log_job(config: RunConfig) -> str | None:
    """Log a job that has ended, if its configuration asks for it; return the identifier of the MLflow run.

    The job is complete without it: what goes wrong is a warning.
    """
    section = config.mlflow
    if section.tracking_uri is None:
        return None
    try:
        return log_to_mlflow(config.folder, section.tracking_uri, section.experiment, section.register_as)
    except StorageError as error:
        log.warning("%s", error)
        return None


def _register(client: Any, name: str, run: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    artifacts = client.get_run(run).info.artifact_uri
    client.create_model_version(name, source=f"{artifacts}/model", run_id=run)


def _list_parameters(record: Mapping[str, Any], model: FitResult) -> Iterator[tuple[str, str]]:
    yield "n_components", str(model.n_components)
    yield "covariance_type", model.covariance_type
    yield "columns", ",".join(model.columns)
    for key, value in list_changes(record["config"]):
        if key.partition(".")[0] != "mlflow":
            yield key, str(value)


def _list_metrics(
    record: Mapping[str, Any], model: FitResult, table: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, float, int]]:
    """Yield name, value and step of every number that is known."""
    c, scored = model.criteria, record.get("scored") or {}
    numbers: dict[str, Any] = {
        "bic": c.bic, "aic": c.aic, "icl": c.icl, "heldout": c.heldout, "parameters": c.n_parameters,
        "log_likelihood_per_row": model.lower_bound_, "rows": record["data"]["rows"], "passes": record["passes"],
        "outliers": scored.get("outliers"), "rows_scored": scored.get("rows_scored"),
        "rows_not_scored": scored.get("rows_not_scored"),
        **{f"seconds_{stage}": seconds for stage, seconds in record["seconds"].items()},
    }  # fmt: skip
    for name, value in numbers.items():
        if value is not None and math.isfinite(value):
            yield name, float(value), 0
    for row in table:
        if row["bic"] is not None and math.isfinite(row["bic"]):
            yield f"bic_{row['covariance_type']}", float(row["bic"]), int(row["n_components"])


def _save_model(model: FitResult, folder: Path) -> None:
    """Write a folder that MLflow knows as a model: the model file, its columns, and what loads it."""
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    columns = Schema([ColSpec("double", name) for name in model.input_columns])
    with tempfile.TemporaryDirectory() as made, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it asks for an example of the input
        file = save_model(model, Path(made, MODEL))
        mlflow.pyfunc.save_model(
            folder, loader_module=__name__, data_path=str(file), signature=ModelSignature(columns),
            pip_requirements=[f"stream-gmm[mlflow]=={version('stream-gmm')}"],
        )  # fmt: skip


class _ScoringModel:
    """What ``mlflow.pyfunc.load_model`` returns, inside."""

    def __init__(self, model: FitResult) -> None:
        self._model = model

    def predict(self, rows: Any, params: Any = None) -> Any:
        """Return the scores of a data frame, in its order; rows with missing values have null scores."""
        del params
        missing = "marginalise" if self._model.marginalises else "drop"
        return score_frame(rows[list(self._model.input_columns)], self._model, missing=missing)


def _load_pyfunc(path: str) -> _ScoringModel:
    """Load a model of MLflow: the name and the argument are MLflow's."""
    return _ScoringModel(load_model(path))

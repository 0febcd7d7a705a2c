"""Runs in MLflow: what is logged, the model that MLflow loads, and what happens when it does not answer."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import stream_gmm as sg
from stream_gmm.cli.commands import cli
from stream_gmm.errors import StorageError
from stream_gmm.flows.start import run_job
from stream_gmm.pipeline.job.config import validate_config

mlflow = pytest.importorskip("mlflow")
pytest.importorskip("alembic")  # for stores in SQLite


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """A job whose configuration names a store, made without Prefect; its folder, its data, the store."""
    home = tmp_path_factory.mktemp("mlflow")
    rng = np.random.default_rng(1)
    rows = np.concatenate([rng.normal(-4.0, 1.0, (300, 2)), rng.normal(4.0, 1.0, (300, 2))])
    pq.write_table(pa.table({"x": rows[:, 0], "y": rows[:, 1], "name": ["a"] * 600}), home / "in.parquet")
    store = f"sqlite:///{home / 'mlflow.db'}"
    config = validate_config(
        {
            "name": "two-blobs",
            "data": {"paths": [str(home / "in.parquet")], "columns": ["x", "y"]},
            "sweep": {"n_components": [1, 2], "covariance_type": ["spherical"]},
            "cluster": {"executor": "serial"},
            "output": {"folder": str(home / "run")},
            "mlflow": {"tracking_uri": store, "experiment": "nightly", "register_as": "blobs"},
        },
        "here",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)  # artifacts of a local store go below the working directory
        patch.setattr("stream_gmm.flows.start.is_installed", lambda _: False)
        run_job(config)
    return home / "run", rows, store


@pytest.fixture
def client(logged):
    return mlflow.MlflowClient(tracking_uri=logged[2])


@pytest.fixture
def run(client):
    (found,) = client.search_runs([client.get_experiment_by_name("nightly").experiment_id])
    return found


@pytest.mark.slow
def test_a_run_has_the_numbers_of_the_run_folder(logged, client, run):
    model = sg.load_model(logged[0] / "model.gmm")
    data = run.data

    assert run.info.status == "FINISHED"
    assert (run.info.run_name, data.params["n_components"], data.params["covariance_type"]) == (
        "two-blobs", "2", "spherical",
    )  # fmt: skip
    assert data.params["sweep.n_components"] == "[1, 2]"
    assert "em.tol" not in data.params  # it is the default
    assert data.metrics["bic"] == model.criteria.bic
    assert data.metrics["rows"] == data.metrics["rows_scored"] == 600
    assert [m.step for m in client.get_metric_history(run.info.run_id, "bic_spherical")] == [1, 2]
    assert data.tags["stream_gmm.model_digest"] == model.digest
    assert data.tags["stream_gmm.version"] == "v1"
    assert {f.path for f in client.list_artifacts(run.info.run_id)} >= {"report.html", "run.json", "sweep.parquet"}


@pytest.mark.slow
def test_mlflow_loads_the_model_and_its_scores_are_those_of_the_model(logged, run, monkeypatch):
    pd = pytest.importorskip("pandas")
    monkeypatch.chdir(logged[0].parent)
    mlflow.set_tracking_uri(logged[2])
    model = sg.load_model(logged[0] / "model.gmm")
    frame = pd.DataFrame(logged[1], columns=["x", "y"]).assign(other="kept out")[["other", "y", "x"]]
    for address in (f"runs:/{run.info.run_id}/model", "models:/blobs/1"):
        scores = mlflow.pyfunc.load_model(address).predict(frame)

        np.testing.assert_array_equal(scores["component"], model.predict(logged[1]))
        np.testing.assert_array_equal(scores["log_density"], model.score_samples(logged[1]))
    frame.loc[3, "x"] = np.nan
    scores = mlflow.pyfunc.load_model(address).predict(frame)
    assert scores["log_density"].isna().tolist() == [i == 3 for i in range(600)]


@pytest.mark.slow
def test_a_run_can_be_logged_later_and_again(logged, client, monkeypatch):
    monkeypatch.chdir(logged[0].parent)
    again = sg.log_to_mlflow(logged[0], logged[2], "later", register_as="blobs")

    assert client.get_run(again).data.tags["stream_gmm.version"] == "v1"
    assert max(int(v.version) for v in client.search_model_versions("name = 'blobs'")) >= 2


@pytest.mark.slow
def test_a_server_that_does_not_answer_costs_the_record_only(logged, monkeypatch, caplog):
    from stream_gmm.export.mlflow_runs import log_job

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    nowhere = "http://user:secret@127.0.0.1:9"
    with pytest.raises(StorageError, match="was not logged to MLflow.*log_to_mlflow logs it later") as caught:
        sg.log_to_mlflow(logged[0], nowhere)
    assert "secret" not in str(caught.value)
    content = {"data": {"paths": ["in"]}, "output": {"folder": str(logged[0])}}
    assert log_job(validate_config({**content, "mlflow": {"tracking_uri": nowhere}}, "here")) is None
    assert "was not logged to MLflow" in caplog.text
    assert "secret" not in caplog.text
    assert log_job(validate_config(content, "here")) is None


def test_the_sections_of_the_command_line_have_it():
    context = cli.make_context("stream-gmm", ["run"], resilient_parsing=True)
    names = {name for p in cli.commands["run"].get_params(context) for name in p.opts}

    assert {"--mlflow.tracking-uri", "--tracking-uri", "--experiment", "--register-as"} <= names

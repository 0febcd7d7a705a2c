"""Update, score and monitor as flows under a real Prefect server, and deployments for a work pool."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from prefect.flows import load_flow_from_entrypoint

from stream_gmm.errors import DriftError
from stream_gmm.execute.threads import ThreadsExecutor
from stream_gmm.pipeline.job.stages import score_stage, sweep_stage
from tests.cli.test_commands import run
from tests.flows.test_flow import _config, ask

pytestmark = pytest.mark.prefect


@pytest.mark.slow
def test_an_update_reads_the_new_file_and_says_so(prefect_api, demo_folder, tmp_path):
    from stream_gmm.flows.update import gmm_update

    shutil.copytree(demo_folder, tmp_path / "in")
    sweep = {"n_components": [3], "covariance_type": ["full"]}
    config = _config(tmp_path / "in", tmp_path / "run", name="nightly", sweep=sweep)
    sweep_stage(config, ThreadsExecutor())
    score_stage(config, ThreadsExecutor())
    shutil.copy(tmp_path / "in" / "part-000.parquet", tmp_path / "in" / "part-004.parquet")
    result = gmm_update(config)

    assert result["files"]["new"] == ["part-004.parquet"]
    assert result["scored"] == 1
    assert result["rows_read"] == 2 * 5_000
    assert gmm_update(config)["decision"] == "nothing to do"
    artifacts = {a["key"]: a for a in ask(prefect_api, "/artifacts/latest/filter")}
    assert "nothing to do" in artifacts["nightly-update"]["data"]
    assert any(t["name"] == "update-nightly" for t in ask(prefect_api, "/task_runs/filter"))


@pytest.fixture(scope="module")
def swept(prefect_api, demo_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("flows") / "run"
    sweep = {"n_components": [3], "covariance_type": ["full"]}
    config = _config(demo_folder, folder, name="each", sweep=sweep, cluster={"executor": "serial"})
    sweep_stage(config, ThreadsExecutor())
    return config


@pytest.mark.slow
def test_the_score_flow_scores_every_row_with_the_model_in_use(swept):
    from stream_gmm.flows.score import gmm_score

    assert gmm_score(swept)["rows_out"] == 20_000
    assert "nothing to resume: the score" in run("resume", swept.folder)


@pytest.mark.slow
def test_the_monitor_flow_fails_after_drift_and_shows_where(swept, prefect_api, tmp_path):
    from stream_gmm.flows.monitor import gmm_monitor

    assert gmm_monitor(swept, "2026-11-26")["status"] == "same"
    rows = pq.read_table(f"{swept.data.paths[0]}/part-000.parquet")
    shifted = rows.set_column(rows.column_names.index("x0"), "x0", pc.add(rows["x0"], 3.0))
    (tmp_path / "in").mkdir()
    pq.write_table(shifted, tmp_path / "in" / "night.parquet")
    drifted = swept.model_copy(update={"data": swept.data.model_copy(update={"paths": [str(tmp_path / "in")]})})
    with pytest.raises(DriftError, match="have drifted"):
        gmm_monitor(drifted, "2026-11-27")

    periods = pq.read_table(swept.folder / "monitor.parquet").column("period").to_pylist()
    assert set(periods) == {"2026-11-26", "2026-11-27"}
    (artifact,) = [a for a in ask(prefect_api, "/artifacts/latest/filter") if a["key"] == "each-drift"]
    assert json.loads(artifact["data"])[-1]["status"] == "drifted"
    states = {r["state_type"] for r in ask(prefect_api, "/flow_runs/filter") if r["name"].startswith("each: ")}
    assert {"COMPLETED", "FAILED"} <= states


@pytest.mark.slow
def test_a_deployment_for_a_pool_is_named_after_its_configuration(swept, prefect_api, tmp_path, monkeypatch):
    ask(prefect_api, "/work_pools/", {"name": "local", "type": "process"})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    (tmp_path / "each.yaml").write_text(json.dumps(swept.model_dump(exclude_unset=True)))
    for job, flow in (("run", "sweep-and-score"), ("update", "update"), ("score", "score"), ("monitor", "monitor")):
        said = run("deploy", "each.yaml", "--job", job, "--pool", "local", "--cron", "0 2 * * *")
        assert f"deployed: {flow}/each." in said
        assert f"deployed: {flow}/each." in run("deploy", "each.yaml", "--job", job, "--pool", "local"), "again"

    found = {d["entrypoint"]: d for d in ask(prefect_api, "/deployments/filter") if d["name"] == "each"}
    assert len(found) == 4
    for entrypoint, deployment in found.items():
        loaded: Any = load_flow_from_entrypoint(entrypoint)
        config = loaded.validate_parameters(deployment["parameters"])["config"]
        assert config.model_dump(exclude_unset=True) == swept.model_dump(exclude_unset=True)
        assert deployment["job_variables"]["working_dir"] == str(tmp_path)
        assert deployment["concurrency_limit"] == 1 or deployment["global_concurrency_limit"]["limit"] == 1
    assert "there is no work pool 'nowhere'" in run("deploy", "each.yaml", "--pool", "nowhere", code=2)

"""The update as a flow under a real Prefect server."""

from __future__ import annotations

import shutil

import pytest

from stream_gmm.execute.threads import ThreadsExecutor
from stream_gmm.pipeline.job.stages import score_stage, sweep_stage
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

"""The flow under a real Prefect server: runs, artifacts, retries, schedules."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cloudpickle
import psutil
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from prefect.flows import load_flow_from_entrypoint

from stream_gmm import demo
from stream_gmm.errors import InputDataError, StorageError
from stream_gmm.pipeline.job.config import RunConfig
from tests.documents import PAGES, Reader, needs_prefect, read_commands, run_in_shell, start, starts_servers, stop
from tests.servers import wait_for

pytestmark = pytest.mark.prefect
ROOT = Path(__file__).parents[2]


def ask(url: str, path: str, body: dict | None = None):
    """Ask the API of the Prefect server."""
    data = json.dumps(body or {}).encode()
    request = urllib.request.Request(f"{url}{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as reply:
        return json.load(reply)


def _config(demo_folder, folder, **changes) -> RunConfig:
    content = {
        "name": "test",
        "data": {"paths": [str(demo_folder)], "columns": ["x0", "x1", "x2"]},
        "sweep": {"n_components": [1, 2, 3, 4], "covariance_type": ["diag", "full"]},
        "em": {"n_init": 1, "sample_rows": 5000},
        "cluster": {"executor": "threads"},
        "output": {"folder": str(folder)},
    }
    return RunConfig.model_validate(content | changes)


@pytest.fixture(scope="module")
def finished(prefect_api, dask_cluster, demo_folder, tmp_path_factory):
    from stream_gmm.flows.run import gmm_run

    folder = tmp_path_factory.mktemp("flow") / "run"
    cluster = {"address": dask_cluster.scheduler_address}
    return gmm_run(_config(demo_folder, folder, cluster=cluster)), folder


def test_the_flow_does_the_whole_job(finished):
    result, folder = finished

    assert result["chosen"] == "full-3"
    assert result["scored"]["rows_out"] == 20_000
    assert ds.dataset(folder / "scored").count_rows() == 20_000
    assert (folder / "report.html").stat().st_size > 50_000


def test_table_model_curve_and_progress_are_artifacts(finished, prefect_api):
    artifacts = {a["key"]: a for a in ask(prefect_api, "/artifacts/latest/filter")}

    table = json.loads(artifacts["test-sweep-table"]["data"])
    assert len(table) == 8
    assert table[0]["candidate"] == "full-3"
    assert {"log-lik / row", "BIC", "difference", "std. error"} < set(table[0])
    assert "held-out / row" not in table[0], "no row has one"
    assert "full, K = 3" in artifacts["test-chosen-model"]["data"]
    assert f"| report | `{finished[1] / 'report.html'}` |" in artifacts["test-results"]["data"]
    assert artifacts["test-bic-curve"]["data"].startswith("data:image/png;base64,")
    assert {"test-sweep-progress", "test-score-progress"} <= set(artifacts)
    assert artifacts["test-sweep-progress"]["data"] == 100.0


def test_names_tell_jobs_data_and_dates_apart():
    from stream_gmm.flows.names import make_key, make_run_name

    day = datetime(2026, 11, 26, 23, 30, tzinfo=UTC)
    assert make_run_name("events", ["data/*.parquet", "b"], day) == "events: data/*.parquet and 1 more, 2026-11-26"
    assert "secret" not in make_run_name("events", ["s3://key:secret@bucket/x"], day)
    assert len(make_run_name("n", ["x" * 500], day)) < 80
    assert make_key("Événements / Nuit", "sweep-table") == "evenements-nuit-sweep-table"
    assert make_key("!", "chosen-model") == "stream-gmm-chosen-model"


def test_the_run_is_named_after_job_data_and_date(finished, prefect_api):
    names = [r["name"] for r in ask(prefect_api, "/flow_runs/filter")]

    assert any(n.startswith("test: ") and n.endswith(datetime.now(UTC).date().isoformat()) for n in names), names


def test_prefect_sees_a_task_for_each_stage_and_no_more(finished, prefect_api):
    names = sorted(t["name"] for t in ask(prefect_api, "/task_runs/filter"))

    assert {"sweep-test", "score-test", "report-test"} <= set(names)


def test_the_numbers_are_those_without_prefect(finished, demo_folder, tmp_path):
    from stream_gmm.execute.threads import ThreadsExecutor
    from stream_gmm.pipeline.job.stages import sweep_stage

    _, folder = finished
    sweep_stage(_config(demo_folder, tmp_path / "r"), ThreadsExecutor())

    assert (tmp_path / "r" / "model.gmm").read_bytes() == (folder / "model.gmm").read_bytes()


def test_bad_data_fails_at_once_and_a_storage_error_is_retried(prefect_api, demo_folder, tmp_path, monkeypatch):
    import stream_gmm.flows.run as flow_module

    tries = []

    def failing(config, *_, **__):
        tries.append(config.sweep.fresh)
        raise (StorageError("disk") if len(tries) < 3 else InputDataError("bad part"))

    monkeypatch.setattr(flow_module, "sweep_stage", failing)
    monkeypatch.setattr(flow_module, "sweep_task", flow_module.sweep_task.with_options(retry_delay_seconds=[0, 0]))
    with pytest.raises(InputDataError, match="bad part"):
        flow_module.gmm_run(_config(demo_folder, tmp_path / "r", sweep={"n_components": [1], "fresh": True}))

    assert tries == [True, False, False], "a retry goes on from the ledger"


def test_null_data_fails_the_flow_without_a_retry(prefect_api, tmp_path):
    from stream_gmm.flows.run import gmm_run

    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"x": [1.0, None]}), tmp_path / "in" / "a.parquet")
    config = _config(tmp_path / "in", tmp_path / "r", data={"paths": [str(tmp_path / "in")]})
    with pytest.raises(InputDataError, match="column 'x': 1 of 2 values .*row group 0"):
        gmm_run(config)


def _serve(prefect_api, demo_folder, folder, *arguments, **changes):
    config = folder / "c.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    config.write_text(json.dumps(_config(demo_folder, folder / "run", **changes).model_dump()))
    environment = os.environ | {
        "PREFECT_API_URL": prefect_api,
        "PREFECT_RUNNER_POLL_FREQUENCY": "2",
        "PREFECT_LOGGING_TO_API_ENABLED": "true",
    }
    command = [sys.executable, "-m", "stream_gmm", "serve", str(config), *arguments]
    log = open(folder / "serve.log", "wb")
    return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT), folder


@pytest.mark.parametrize(
    "entrypoint", ["run.py:gmm_run", "update.py:gmm_update", "score.py:gmm_score", "monitor.py:gmm_monitor"]
)
def test_a_flow_that_is_loaded_as_served_runs_load_it_can_be_sent_to_another_process(entrypoint):
    """Served runs load the flow by its file, and pickle it by value with all that it refers to."""
    loaded: Any = load_flow_from_entrypoint(f"{ROOT}/stream_gmm/flows/{entrypoint}")
    assert cloudpickle.loads(cloudpickle.dumps(loaded)).name == loaded.name


@pytest.mark.long
def test_a_cron_deployment_really_runs(prefect_api, demo_folder, tmp_path):
    """Every minute, so that the next scheduled run comes while the test waits."""
    process, folder = _serve(
        prefect_api, demo_folder, tmp_path / "served", "--cron", "* * * * *", "--deployment", "each-minute"
    )

    def runs(state: str):
        assert process.poll() is None, (folder / "serve.log").read_text()
        body = {
            "deployments": {"name": {"any_": ["each-minute"]}},
            "flow_runs": {"state": {"type": {"any_": [state]}}},
        }
        return [r for r in ask(prefect_api, "/flow_runs/filter", body) if r["auto_scheduled"]]

    try:
        wait_for(lambda: runs("SCHEDULED"), 90, "a scheduled run appears")
        (done, *_) = wait_for(lambda: runs("COMPLETED"), 200, "a scheduled run succeeds")
        assert done["name"].startswith("test: /")
        assert done["name"].endswith(done["expected_start_time"][:10])
        assert ds.dataset(folder / "run" / "scored").count_rows() == 20_000
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@pytest.mark.long
def test_cancelling_a_run_ends_its_cluster(prefect_api, tmp_path):
    """An embedded cluster of two workers, cancelled while it fits, as the button of the UI does it."""
    demo.write(tmp_path / "data", rows=60_000, columns=8, files=4, components=3)
    changes = {
        "data": {"paths": [str(tmp_path / "data")]},
        "sweep": {"n_components": list(range(1, 31)), "covariance_type": ["full"]},
        "em": {"n_init": 2, "sample_rows": 50_000},
        "cluster": {"n_workers": 2},
    }
    process, folder = _serve(prefect_api, None, tmp_path / "served", "--deployment", "to-cancel", **changes)

    def find_workers():
        tree = psutil.Process(process.pid).children(recursive=True)
        return [p for p in tree if "spawn_main" in " ".join(p.cmdline())]

    try:
        body = {"deployments": {"name": {"any_": ["to-cancel"]}}}
        (deployment,) = wait_for(lambda: ask(prefect_api, "/deployments/filter", body), 120, "the deployment")
        run = ask(prefect_api, f"/deployments/{deployment['id']}/create_flow_run")
        # The process of the run and two workers; then it reads and fits.
        wait_for(lambda: len(find_workers()) >= 3, 120, "the workers")
        wait_for(lambda: list((folder / "run" / "ledger").glob("*.profile")), 120, "the profile")
        started = find_workers()
        ask(prefect_api, f"/flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})
        wait_for(lambda: not any(p.is_running() and p.status() != "zombie" for p in started), 60, "no process")
        body = {"flow_runs": {"id": {"any_": [run["id"]]}}}
        wait_for(lambda: ask(prefect_api, "/flow_runs/filter", body)[0]["state_type"] == "CANCELLED", 60, "cancelled")
        assert process.poll() is None, "the next run can come"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _warn_there(item, shared):
    logging.getLogger("stream_gmm.test").warning("no room on the scratch disk of %s", item)
    return item


def test_warnings_of_workers_are_in_the_log_of_the_run_once(prefect_api, dask_cluster, monkeypatch):
    from prefect import flow, get_run_logger

    from stream_gmm.flows.reporting import collect_warnings
    from stream_gmm.pipeline.job.cluster import open_executor
    from stream_gmm.pipeline.job.config import ClusterConfig

    lines: list[str] = []

    @flow
    def work():
        run_logger = get_run_logger()
        monkeypatch.setattr(run_logger, "warning", lambda text, *values: lines.append(text % values))
        with collect_warnings(run_logger) as run_log:
            with open_executor(ClusterConfig(address=dask_cluster.scheduler_address)) as executor:
                executor.map(_warn_there, ["s3://key:secret@bucket"])
                wait_for(lambda: lines, 20, "the warning")
            run_log.tell("of the result")
            run_log.tell("of the result")

    work()
    assert len(lines) == 2
    assert lines[0].startswith("no room on the scratch disk of s3://***@bucket [worker")
    assert lines[1] == "of the result"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A folder that looks like a checkout, with small data."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("configs", "flows", "docs", "prefect.yaml"):
        (folder / name).symlink_to(ROOT / name)
    demo.write(folder / "demo" / "data", rows=5_000, columns=6, files=4, components=3)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if needs_prefect(p) and not starts_servers(p)])
def test_every_command_and_snippet_of_a_page_with_a_run_works(prefect_api, page, tmp_path, monkeypatch):
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    Reader(tmp_path, monkeypatch).follow(page)


SCHEDULE = "docs/how-to/schedule.md"


@pytest.mark.slow
def test_the_command_for_a_schedule_creates_runs(checkout, prefect_api):
    (serve,) = (c for c in read_commands(SCHEDULE) if c.startswith("stream-gmm serve"))
    process = start(serve, checkout, PREFECT_API_URL=prefect_api)
    body = {
        "deployments": {"name": {"any_": ["quickstart"]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
    }
    try:
        runs = wait_for(lambda: ask(prefect_api, "/flow_runs/filter", body), 120, "the cron schedule makes runs")
        assert runs[0]["auto_scheduled"]
    finally:
        stop(process)


@pytest.mark.long
def test_the_commands_for_a_work_pool_complete_a_run(checkout, prefect_api):
    """Create the pool, deploy, start a worker, and see a run of the deployment succeed."""
    variables = {"PREFECT_API_URL": prefect_api, "STREAM_GMM_HOME": str(checkout)}
    create, deploy, worker = (c for c in read_commands(SCHEDULE) if c.startswith("prefect ") and "server" not in c)
    (own,) = (c for c in read_commands(SCHEDULE) if c.startswith("stream-gmm deploy"))
    run_in_shell(create, checkout, **variables)
    run_in_shell(own, checkout, **variables)
    run_in_shell(deploy, checkout, **variables)
    process = start(worker, checkout, **variables, PREFECT_WORKER_QUERY_SECONDS="2")
    config = (
        '{"name": "pool", "data": {"paths": ["demo/data"], "columns": ["x0", "x1"]}, '
        '"sweep": {"n_components": [1, 2]}, "cluster": {"executor": "threads"}, "output": {"folder": "runs/pool"}}'
    )
    try:
        started = f"prefect deployment run sweep-and-score/nightly --param 'config={config}'"
        run_in_shell(started, checkout, **variables)
        body = {"flow_runs": {"name": {"like_": "pool: demo/data, "}}}

        def ended():
            runs = ask(prefect_api, "/flow_runs/filter", body)
            return runs and runs[0]["state_type"] in ("COMPLETED", "FAILED", "CRASHED") and runs[0]

        assert wait_for(ended, 180, "the run ends")["state_type"] == "COMPLETED"
        assert (checkout / "runs/pool/report.html").exists()
    finally:
        stop(process)


@pytest.mark.parametrize("job", ["run", "update", "score", "monitor"])
def test_the_page_of_a_deployment_describes_every_parameter_and_option(job):
    from stream_gmm.flows.deploy import JOBS

    flow, description = JOBS[job]
    schema = flow.parameters.model_dump()
    for name, field in schema["properties"].items():
        assert field.get("description"), name
    for section, content in schema["definitions"].items():
        assert content["description"], section
        for name, field in content["properties"].items():
            assert field.get("description") or "$ref" in field, f"{section}.{name}"
    assert len(description) > 30
    assert "Args" not in description

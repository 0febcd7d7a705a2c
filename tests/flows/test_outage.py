"""Outages of the Prefect server: the job is the data's, and ends as if there were no server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pyarrow.dataset as ds
import pytest

from stream_gmm.flows.reporting import Reporter, answers
from tests.flows.test_flow import ask
from tests.servers import free_port, prefect_environment, prefect_process, wait_for

pytestmark = pytest.mark.prefect
ROOT = Path(__file__).parents[2]
NAMED_D = {"deployments": {"name": {"any_": ["d"]}}}
"""Prefect's filter for the deployment of that name."""


def _start(demo_folder, folder: Path, home: Path, url: str) -> subprocess.Popen[str]:
    command = [
        sys.executable, "-m", "stream_gmm", "run", str(demo_folder), "--columns", "x0,x1,x2", "--n-components", "1:4",
        "--covariance-type", "full", "--sample-rows", "5000", "--executor", "threads", "--folder", str(folder),
        "--quiet",
    ]  # fmt: skip
    environment = prefect_environment(home, url) | {"PREFECT_LOGGING_TO_API_ENABLED": "true", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _check_complete(process: subprocess.Popen[str], folder: Path, seconds: float) -> str:
    _, said = process.communicate(timeout=seconds)
    assert process.returncode == 0, said
    assert ds.dataset(folder / "scored").count_rows() == 20_000
    assert (folder / "report.html").exists()
    assert "Traceback" not in said, said
    return said


@pytest.mark.slow
def test_without_a_server_at_the_start_the_job_is_done_and_a_line_says_so(demo_folder, tmp_path):
    said = _check_complete(
        _start(demo_folder, tmp_path / "run", tmp_path, f"http://127.0.0.1:{free_port()}/api"), tmp_path / "run", 120
    )

    assert said.count("does not answer within 2 s") == 1, said
    assert "is not recorded there" in said


@pytest.mark.long
@pytest.mark.parametrize("sign", ["ledger", "model.gmm"], ids=["a third", "two thirds"])
def test_a_server_that_is_killed_on_the_way_costs_its_record_and_nothing_else(demo_folder, tmp_path, sign):
    folder = tmp_path / "run"
    with prefect_process(tmp_path) as (server, url):
        process = _start(demo_folder, folder, tmp_path, url)
        wait_for(lambda: (folder / sign).exists() and list(folder.glob(f"{sign}*")), 120, sign)
        server.kill()
        server.wait()
        killed = time.monotonic()
        said = _check_complete(process, folder, 120)

    assert time.monotonic() - killed < 90.0
    assert "the results are complete" in said, said


@pytest.mark.long
def test_a_server_that_hangs_delays_nothing_for_long(demo_folder, tmp_path):
    folder = tmp_path / "run"
    with prefect_process(tmp_path) as (server, url):
        process = _start(demo_folder, folder, tmp_path, url)
        wait_for(lambda: (folder / "ledger").exists(), 120, "the profile is made")
        server.send_signal(signal.SIGSTOP)
        try:
            _check_complete(process, folder, 150)
        finally:
            server.send_signal(signal.SIGCONT)


def _prepare_serving(data, folder):
    """Return the command that serves a small job as deployment ``d``; its run folder is ``run``."""
    content = {
        "data": {"paths": [str(data)], "columns": ["x0"]},
        "sweep": {"n_components": [1], "covariance_type": ["full"]},
        "em": {"sample_rows": 1000},
        "cluster": {"executor": "threads"},
        "output": {"folder": str(folder / "run")},
    }
    (folder / "c.yaml").write_text(json.dumps(content))
    return [sys.executable, "-m", "stream_gmm", "serve", str(folder / "c.yaml"), "--deployment", "d"]


@pytest.mark.long
def test_serving_outlives_an_outage_of_the_server(demo_folder, tmp_path):
    """The server is killed until Prefect gives up, and started again: the next run is done."""
    command, port = _prepare_serving(demo_folder, tmp_path), free_port()
    with open(tmp_path / "serve.log", "w") as log, prefect_process(tmp_path, port) as (server, url):
        environment = prefect_environment(tmp_path, url) | {"PYTHONPATH": str(ROOT)}
        impatient = environment | {"PREFECT_CLIENT_MAX_RETRIES": "1"}
        process = subprocess.Popen(command, env=impatient, stdout=log, stderr=log)
        wait_for(lambda: ask(url, "/deployments/filter", NAMED_D), 120, "the deployment")
        server.kill()
        server.wait()
        wait_for(lambda: "serving goes on when it does" in (tmp_path / "serve.log").read_text(), 120, "the line")
    with prefect_process(tmp_path, port) as (_, url):
        try:
            (deployment,) = ask(url, "/deployments/filter", NAMED_D)
            ask(url, f"/deployments/{deployment['id']}/create_flow_run")
            wait_for((tmp_path / "run" / "report.html").exists, 180, "the run")
            assert process.poll() is None
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    assert "StreamReaderProtocol" not in (tmp_path / "serve.log").read_text(), "the run was ending at that moment"


@pytest.mark.long
def test_a_served_run_that_is_done_does_not_wait_for_minutes_for_a_server_that_is_gone(demo_folder, tmp_path):
    command, port = _prepare_serving(demo_folder, tmp_path), free_port()
    with open(tmp_path / "serve.log", "w") as log, prefect_process(tmp_path, port) as (server, url):
        environment = prefect_environment(tmp_path, url) | {
            "PYTHONPATH": str(ROOT), "STREAM_GMM_FAULT": "swap:stop:1",
        }  # fmt: skip
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            (deployment,) = wait_for(lambda: ask(url, "/deployments/filter", NAMED_D), 400, "the deployment")
            ask(url, f"/deployments/{deployment['id']}/create_flow_run")
            run = wait_for(lambda: _find_stopped(process.pid), 400, "the scores are published")
            server.kill()
            server.wait()
            started = time.monotonic()
            run.resume()
            run.wait(timeout=400)
            took = time.monotonic() - started
        finally:
            process.kill()
            process.wait()
    assert (tmp_path / "run" / "report.html").exists()
    assert took < 75.0, f"{took:.0f} s from the scores to the end of the run"


def _find_stopped(pid: int) -> psutil.Process | None:
    """Return the descendant of a process that is stopped."""
    stopped = [p for p in psutil.Process(pid).children(recursive=True) if p.status() == psutil.STATUS_STOPPED]
    return stopped[0] if stopped else None


@pytest.mark.slow
def test_serving_without_a_server_says_so(demo_folder, tmp_path):
    environment = prefect_environment(tmp_path, f"http://127.0.0.1:{free_port()}/api") | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "stream_gmm", "serve", str(demo_folder), "--folder", str(tmp_path / "run")]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert out.returncode == 2
    assert "does not answer within 20 s" in out.stderr


def test_a_reporter_never_makes_its_caller_wait_and_counts_what_was_lost():
    reporter, done = Reporter(), []
    reporter.send(lambda: done.append(1))
    assert reporter.flush(5.0)
    assert done == [1]

    def fail() -> None:
        raise ConnectionError("no server")

    reporter.send(fail)
    reporter.send(lambda: done.append(2))
    assert not reporter.flush(5.0)
    assert (done, reporter.lost) == ([1], 2), "after a failure the next ones are not tried for a while"

    reporter.start()
    reporter.send(lambda: time.sleep(3.0))
    started = time.monotonic()
    assert not reporter.flush(0.2)
    assert time.monotonic() - started < 1.0


def test_an_address_without_a_server_does_not_answer_and_one_with_any_server_does(s3_endpoint):
    assert not answers(f"http://127.0.0.1:{free_port()}/api")
    assert not answers("no address")
    assert answers(s3_endpoint)


@pytest.mark.slow
def test_a_busy_server_is_waited_for_where_nothing_can_be_done_without_one():
    from stream_gmm.flows.deploy import _require_answer

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(3.0)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/api"
    assert not answers(url)
    _require_answer(url)
    server.shutdown()
    server.server_close()

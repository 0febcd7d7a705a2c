"""Every command and snippet of the README runs."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stream_gmm.pipeline.job.config import ClusterConfig, validate_config
from tests.servers import free_port, wait_for

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def _commands() -> list[str]:
    """Return the commands; a fifth of the rows is enough to see them run."""
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]
    return [line.replace("--rows 100000", "--rows 20000") for line in lines]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder that looks like a checkout, with the small demo data of the README's own command."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("configs", "flows", "prefect.yaml"):
        (folder / name).symlink_to(ROOT / name)
    _run("stream-gmm demo-data demo/data --rows 20000", folder)
    return folder


def _environment(**more: str) -> dict[str, str]:
    return os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"} | more


def _run(command: str, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        shlex.split(command), cwd=folder, env=_environment(**environment), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def _start(command: str, folder: Path, **environment: str) -> subprocess.Popen[bytes]:
    log = open(folder / f"{abs(hash(command))}.log", "wb")
    return subprocess.Popen(
        shlex.split(command.rstrip(" &")), cwd=folder, env=_environment(**environment),
        stdout=log, stderr=subprocess.STDOUT,
    )  # fmt: skip


def _stop(*processes: subprocess.Popen[bytes]) -> None:
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def test_the_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = [c.split()[1] for c in _commands() if c.startswith("make ")]

    assert targets == ["demo", "test"]
    for target in targets:
        assert f"\n{target}:" in makefile


@pytest.mark.slow
def test_the_commands_for_own_data_run(here):
    for command in _commands():
        elsewhere = {"--address", "<", "&"} & set(command.split())
        if command.startswith("stream-gmm") and not elsewhere:
            _run(command, here)
    assert (here / "runs/mine/report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_every_python_snippet_runs(here, number, monkeypatch, capsys):
    monkeypatch.chdir(here)
    exec(compile(blocks("python")[number], f"README, snippet {number}", "exec"), {})


@pytest.mark.slow
def test_the_commands_for_a_stream_score_every_row(here, monkeypatch):
    monkeypatch.chdir(here)
    (snippet,) = (b for b in blocks("python") if "batches.arrows" in b)
    exec(compile(snippet, "README, stream", "exec"), {})
    (command,) = (c for c in _commands() if "batches.arrows" in c)
    _run(f"bash -c {shlex.quote(command)}", here)

    import pyarrow as pa

    assert pa.ipc.open_stream((here / "scored.arrows").read_bytes()).read_all().num_rows == 20_000
    assert (here / "online-model.gmm").exists()


def test_the_yaml_snippets_are_valid():
    whole, cluster = (block for block in blocks("yaml"))
    import yaml

    assert validate_config(yaml.safe_load(whole), "README").sweep.n_components == list(range(1, 13))
    assert ClusterConfig.model_validate(yaml.safe_load(cluster)["cluster"]).adapt


@pytest.mark.slow
def test_the_commands_for_a_cluster_run(here):
    port = str(free_port())
    scheduler, worker, sweep = (c.replace("8786", port) for c in _commands() if "8786" in c)
    started = [_start(scheduler, here)]
    time.sleep(2)
    started.append(_start(worker, here))
    try:
        assert "full" in _run(sweep, here)
    finally:
        _stop(*started[::-1])


@pytest.mark.slow
@pytest.mark.prefect
def test_the_command_for_a_schedule_creates_runs(here, prefect_api):
    from tests.flows.test_flow import ask

    (serve,) = (c for c in _commands() if c.startswith("stream-gmm serve"))
    process = _start(serve, here, PREFECT_API_URL=prefect_api)
    body = {"deployments": {"name": {"any_": ["nightly"]}}, "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    try:
        runs = wait_for(lambda: ask(prefect_api, "/flow_runs/filter", body), 120, "the cron schedule makes runs")
        assert runs[0]["auto_scheduled"]
    finally:
        _stop(process)


@pytest.mark.slow
@pytest.mark.prefect
def test_the_commands_for_a_work_pool_complete_a_run(here, prefect_api):
    """Create the pool, deploy, start a worker, and see a run of the deployment succeed."""
    from tests.flows.test_flow import ask

    environment = {"PREFECT_API_URL": prefect_api, "STREAM_GMM_HOME": str(here), "PYTHONPATH": str(ROOT)}
    create, deploy, worker = (c for c in _commands() if c.startswith("prefect ") and "server" not in c)
    _run(create, here, **environment)
    _run(deploy, here, **environment)
    process = _start(worker, here, **environment, PREFECT_WORKER_QUERY_SECONDS="2")
    config = (
        '{"name": "pool", "data": {"paths": ["demo/data"], "columns": ["x0", "x1"]}, '
        '"sweep": {"n_components": [1, 2]}, "cluster": {"executor": "threads"}, "output": {"folder": "runs/pool"}}'
    )
    try:
        _run(f"prefect deployment run stream-gmm/nightly --param 'config={config}'", here, **environment)
        body = {"flow_runs": {"name": {"any_": ["pool"]}}}

        def ended():
            runs = ask(prefect_api, "/flow_runs/filter", body)
            return runs and runs[0]["state_type"] in ("COMPLETED", "FAILED", "CRASHED") and runs[0]

        assert wait_for(ended, 180, "the run ends")["state_type"] == "COMPLETED"
        assert (here / "runs/pool/report.html").exists()
    finally:
        _stop(process)

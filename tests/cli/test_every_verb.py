"""Every command, at least once: no key in what it leaves, no pickle from a file, no port beyond loopback.

All processes, workers and served runs included, begin with a hook that writes down which addresses they bind and what
they unpickle, and who asked for it; ``ss`` lists the ports that are open meanwhile. Credentials are in the
environment and in a path.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stream_gmm.cli.commands import cli
from tests.cli.test_secrets import CANARY, assert_no_canary
from tests.flows.test_flow import ask
from tests.servers import wait_for

pytestmark = pytest.mark.skipif(shutil.which("ss") is None, reason="needs ss, of iproute2")
ROOT = Path(__file__).parents[2]
ENVIRONMENT_CANARY = "CANARY0OF0ENVIRONMENT"
HOOK = """
import os, sys

_PLACE = os.path.join(os.environ["STREAM_GMM_WATCH"], f"{os.getpid()}.log")
# Messages between the processes of a job, and a copy in memory of which Dask makes a hash. Numba's code lies beside
# the sources and is trusted as they are.
_FROM_NO_FILE = (
    "distributed.protocol.", "multiprocessing.", "concurrent.futures.process", "dask.tokenize", "numba.core.",
    "prefect.utilities.callables",
)

def _write(line):
    with open(_PLACE, "a") as log:
        log.write(line + "\\n")

def _hear(event, arguments):
    if event == "socket.bind":
        _write(f"bind {arguments[1]!r}")
    elif event == "pickle.find_class":
        frame, modules = sys._getframe(1), []
        while frame is not None:
            modules.append(frame.f_globals.get("__name__", ""))
            frame = frame.f_back
        if not modules[0].startswith(_FROM_NO_FILE):
            _write("pickle " + ".".join(map(str, arguments)) + " by " + " < ".join(modules[:6]))

_write("start")
sys.addaudithook(_hear)
"""


@dataclass
class Watch:
    """Where jobs run, and what they have said and done."""

    folder: Path
    environment: dict[str, str]
    said: dict[str, str] = field(default_factory=dict)
    ports: set[tuple[int, str]] = field(default_factory=set)

    def run(self, *arguments: object, code: int = 0, stdin: bytes = b"", **environment: str) -> None:
        """Run a command, and keep what it says."""
        command = [sys.executable, "-m", "stream_gmm", *map(str, arguments)]
        done = subprocess.run(
            command, env=self.environment | environment, cwd=self.folder, input=stdin, capture_output=True,
            check=False, timeout=300,
        )  # fmt: skip
        said = (done.stdout + done.stderr).decode(errors="replace")
        assert done.returncode == code, f"{arguments}: {said}"
        self.said[f"{len(self.said)} {arguments[0]}"] = said

    def heard(self, what: str) -> list[str]:
        """Return what processes have bound or unpickled."""
        lines = [line for log in (self.folder / "watch").glob("*.log") for line in log.read_text().splitlines()]
        return [line.removeprefix(f"{what} ") for line in lines if line.startswith(f"{what} ")]

    def open_ports(self) -> set[str]:
        """Return the addresses at which processes of this watch have listened."""
        pids = {int(log.stem) for log in (self.folder / "watch").glob("*.log")}
        return {address for pid, address in self.ports if pid in pids}


@contextmanager
def _list_ports(found: set[tuple[int, str]]) -> Iterator[None]:
    """Add to ``found`` the processes that listen and their addresses, twice a second."""
    end = threading.Event()

    def look() -> None:
        while not end.wait(0.5):
            done = subprocess.run(["ss", "-Hltunp"], capture_output=True, text=True, check=True)
            for line in done.stdout.splitlines():
                address = line.split()[4]
                found.update((int(pid), address) for pid in re.findall(r"pid=(\d+)", line))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def _batches(rows: np.ndarray) -> bytes:
    table = pa.table({f"x{i}": rows[:, i] for i in range(rows.shape[1])})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


@pytest.fixture(scope="module")
def watch(s3_endpoint, prefect_api, demo_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("verbs")
    for name in ("hook", "watch", "work", "work/prefect", "work/tmp"):
        (folder / name).mkdir()
    (folder / "hook" / "sitecustomize.py").write_text(HOOK)
    environment = os.environ | {
        "PYTHONPATH": f"{folder / 'hook'}{os.pathsep}{ROOT}", "STREAM_GMM_WATCH": str(folder / "watch"),
        "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": ENVIRONMENT_CANARY,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_endpoint, "AWS_EC2_METADATA_DISABLED": "true", "PREFECT_API_URL": prefect_api,
        "PREFECT_HOME": str(folder / "work" / "prefect"), "TMPDIR": str(folder / "work" / "tmp"),
        "PREFECT_LOGGING_TO_API_ENABLED": "true", "PREFECT_RUNNER_POLL_FREQUENCY": "2",
    }  # fmt: skip
    import pyarrow.fs as pafs

    store = pafs.S3FileSystem(
        endpoint_override=s3_endpoint, allow_bucket_creation=True, access_key="testing", secret_key="testing",
        region="us-east-1",
    )  # fmt: skip
    store.create_dir("verbs")
    parts = sorted(demo_folder.glob("*.parquet"))

    def upload(path: Path) -> None:
        with store.open_output_stream(f"verbs/in/{path.name}") as out:
            out.write(path.read_bytes())

    for path in parts[:3]:
        upload(path)
    played = Watch(folder, environment)
    with _list_ports(played.ports):
        _play(played, s3_endpoint, lambda: upload(parts[3]), pq.read_table(parts[0]))
    return played


def _play(watch: Watch, s3_endpoint: str, add_file, table: pa.Table) -> None:
    """Run every verb on an object store: with a key in the path, and once more with none there."""
    place = s3_endpoint.removeprefix("http://").replace(":", "%3A")
    given = f"s3://key:{CANARY}@verbs/in?scheme=http&endpoint_override={place}&region=us-east-1"
    job = ["--columns", "x0,x1,x2", "--n-components", "1:2", "--covariance-type", "full", "--sample-rows", 2000,
           "--name", "verbs"]  # fmt: skip
    keyed = ["--paths", given, *job, "--folder", "work/keyed"]
    watch.run("run", *keyed, "--n-workers", 1)
    watch.run("sweep", *keyed, "--executor", "threads", "--fresh")
    watch.run("score", *keyed, "--executor", "threads")
    add_file()
    watch.run("update", *keyed, "--executor", "threads")
    watch.run("monitor", *keyed, "--executor", "threads", "--period", "night")
    watch.run("sweep", *keyed, "--executor", "threads", "--fresh", code=6, STREAM_GMM_FAULT="choice:enospc")

    watch.run("init", given, "--output", "work/init.yaml")
    watch.run("profile", given)
    watch.run("plan", *keyed)
    watch.run("doctor", "--paths", given, "--n-workers", 1)
    watch.run("bootstrap", *keyed, "--replicates", 3, "--ratio-replicates", 0)
    watch.run("history", "work/keyed")
    watch.run("diff", "work/keyed", "v1", "champion")
    watch.run("promote", "work/keyed", "v1")
    watch.run("rollback", "work/keyed")
    watch.run("inspect", "work/keyed")
    watch.run("report", "work/keyed")
    watch.run("export", "work/keyed", "--format", "json", "--output", "work/model.json")
    watch.run("verify", "work/keyed")
    watch.run("clean", "work/keyed", "--yes")
    watch.run("schema")
    watch.run("demo-data", "work/demo", "--rows", 1000)

    plain = ["--paths", "s3://verbs/in", *job, "--folder", "work/plain"]
    watch.run("sweep", *plain, "--n-workers", 1, code=6, STREAM_GMM_FAULT="choice:enospc")
    watch.run("resume", "work/plain")
    watch.run(
        "fit", "--paths", given, *job[:2], "--n-components", 2, "--covariance-type", "diag", "--folder", "work/fit"
    )
    rows = np.column_stack([table[f"x{i}"].to_numpy() for i in range(3)])
    watch.run("stream", "--state", "work/s.gmm", "--n-components", 2, "--folder", "work/stream", "--no-scores",
              stdin=_batches(rows))  # fmt: skip
    config = {"name": "verbs", "data": {"paths": "s3://verbs/in", "columns": ["x0", "x1", "x2"]},
              "sweep": {"n_components": [1, 2], "covariance_type": ["full"]}, "cluster": {"n_workers": 1},
              "output": {"folder": "work/served"}}  # fmt: skip
    (watch.folder / "plain.yaml").write_text(json.dumps(config))
    secret = watch.folder / "hook" / "keyed.yaml"
    secret.write_text(json.dumps(config | {"data": {"paths": given}}))
    for verb in (["deploy", "--pool", "none"], ["serve"]):
        watch.run(verb[0], secret, *verb[1:], code=2)
    ask(watch.environment["PREFECT_API_URL"], "/work_pools/", {"name": "verbs", "type": "process"})
    watch.run("deploy", "plain.yaml", "--pool", "verbs", "--deployment", "deployed")
    _serve_one_run(watch)


def _runs_of(pid: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(pid).children() if any("spawn_main" in a for a in child.cmdline())]


def _serve_one_run(watch: Watch) -> None:
    api, command = watch.environment["PREFECT_API_URL"], [sys.executable, "-m", "stream_gmm", "serve", "plain.yaml"]
    with open(watch.folder / "work" / "serve.log", "wb") as log:
        process = subprocess.Popen(command, env=watch.environment, cwd=watch.folder, stdout=log, stderr=log)
        try:
            body = {"deployments": {"name": {"any_": ["verbs"]}}}
            (deployment,) = wait_for(lambda: ask(api, "/deployments/filter", body), 240, "the deployment")
            run = ask(api, f"/deployments/{deployment['id']}/create_flow_run")

            def ended() -> str:
                (found,) = ask(api, "/flow_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
                state = str(found["state_type"])
                return state if state in ("COMPLETED", "FAILED", "CRASHED") else ""

            state = wait_for(ended, 400, "the served run ends")
            # Python 3.11 logs a traceback for a connection that is open at the end; later releases do not.
            wait_for(lambda: not _runs_of(process.pid), 60, "the process of the run ends")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    assert state == "COMPLETED", (watch.folder / "work" / "serve.log").read_text()
    watch.said[f"{len(watch.said)} serve"] = (watch.folder / "work" / "serve.log").read_text()


@pytest.mark.long
@pytest.mark.prefect
def test_every_command_was_run(watch):
    assert {name.split()[1] for name in watch.said} == set(cli.commands)


@pytest.mark.long
@pytest.mark.prefect
def test_no_port_is_open_beyond_the_loopback_address(watch):
    bound = watch.heard("bind")

    assert len(bound) >= 8, "scheduler, dashboard, worker and nanny, four times"
    assert not [b for b in bound if not b.startswith(("('127.0.0.1'", "('::1'", "'", "b'"))]
    assert len(watch.open_ports()) >= 8
    assert {address.rpartition(":")[0] for address in watch.open_ports()} <= {"127.0.0.1", "[::1]"}


@pytest.mark.long
@pytest.mark.prefect
def test_no_file_is_unpickled(watch):
    assert len(list((watch.folder / "watch").glob("*.log"))) >= 40
    assert watch.heard("pickle") == []


@pytest.mark.long
@pytest.mark.prefect
def test_no_key_is_in_a_file_an_output_or_the_prefect_server(watch, prefect_api):
    for what, said in watch.said.items():
        assert CANARY not in said, what
        assert ENVIRONMENT_CANARY not in said, what
        assert "Traceback" not in said, what
        assert "never awaited" not in said, what
    assert assert_no_canary(watch.folder / "work") > 40
    for path in (p for p in watch.folder.rglob("*") if p.is_file()):
        assert ENVIRONMENT_CANARY.encode() not in path.read_bytes(), path
    from prefect.settings import PREFECT_HOME

    assert assert_no_canary(PREFECT_HOME.value()) > 0
    for what in ("flow_runs", "task_runs", "artifacts", "logs", "deployments", "block_documents"):
        stored = str(ask(prefect_api, f"/{what}/filter"))
        assert CANARY not in stored, what
        assert ENVIRONMENT_CANARY not in stored, what

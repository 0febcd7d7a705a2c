"""A cluster that is lost: the wait ends, with a message; signals end a command in one line."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stream_gmm.cli.endings import describe_resumption
from stream_gmm.errors import ClusterError
from tests.servers import wait_for

ROOT = Path(__file__).parents[2]


def _sleep(item, shared):
    del shared
    time.sleep(item)
    return item


@pytest.fixture
def own_cluster(tmp_path):
    """A scheduler and a worker in processes of their own."""
    file = tmp_path / "scheduler.json"
    options = ["--scheduler-file", str(file)]
    commands = [
        [sys.executable, "-m", "distributed.cli.dask_scheduler", *options, "--host", "127.0.0.1", "--port", "0",
         "--dashboard-address", "127.0.0.1:0"],
        [sys.executable, "-m", "distributed.cli.dask_worker", *options, "--no-nanny", "--no-dashboard"],
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(c, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for c in commands
    ]
    wait_for(file.exists, 60, "the scheduler file")
    yield file, processes
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize(("which", "said"), [(1, "had no worker"), (0, "was not connected|did not answer")])
def test_a_cluster_without_workers_or_scheduler_is_not_waited_for_for_ever(own_cluster, which, said):
    from distributed import Client

    from stream_gmm.execute.dask import DaskExecutor
    from stream_gmm.execute.dask_wait import Deadlines

    file, processes = own_cluster
    with Client(scheduler_file=str(file), timeout="30s") as client:
        client.wait_for_workers(1, timeout=60)
        executor = DaskExecutor(client, Deadlines(lost=3.0))
        assert executor.map(_sleep, [0.0, 0.01]) == [0.0, 0.01]
        processes[which].kill()
        started = time.monotonic()
        with pytest.raises(ClusterError, match=f"{said}|lost the work twice"):
            executor.map(_sleep, [0.5] * 8)
        assert time.monotonic() - started < 60.0


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_in_one_line_that_says_how_to_go_on(demo_folder, tmp_path, number):
    command = [
        sys.executable, "-m", "stream_gmm", "sweep", str(demo_folder), "--columns", "x0,x1,x2", "--n-components",
        "1:6", "--covariance-type", "full", "--folder", str(tmp_path / "run"), "--n-workers", "2", "--quiet",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    wait_for((tmp_path / "run" / "ledger").exists, 120, "the ledger")
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    _, said = process.communicate(timeout=40)

    assert process.returncode == 128 + number
    (line,) = [line for line in said.splitlines() if line.strip()]
    folder = re.escape(str(tmp_path / "run"))
    assert re.fullmatch(
        f"stopped by {number.name}. What was finished is kept; to go on: "
        f"stream-gmm resume {folder} \\(run [0-9a-f]{{8}}\\)",
        line,
    )
    wait_for(lambda: not _living(process.pid), 20, "no process of the run is left")


def _living(group: int) -> list[str]:
    out = subprocess.run(["ps", "-o", "stat=,cmd=", "-s", str(group)], capture_output=True, text=True, check=False)
    return [line for line in out.stdout.splitlines() if line.strip() and not line.startswith("Z")]


def test_the_command_that_goes_on_keeps_what_is_there_and_shows_no_secret():
    said = describe_resumption(["sweep", "s3://key:secret@bucket/x", "--fresh", "--folder", "a b"])

    assert said.endswith("stream-gmm sweep s3://***@bucket/x --folder 'a b'")
    assert describe_resumption(["stream", "--state", "s"]).endswith("--state s --replay")
    assert describe_resumption(["inspect", "m.gmm"]) == ""

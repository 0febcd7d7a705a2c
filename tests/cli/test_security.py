"""What a run opens and loads: no port beyond the loopback address, no pickle from a file, no key in its files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.servers import wait_for

ROOT = Path(__file__).parents[2]
WATCHED = """
import json, sys

found = set()

def hear(event, arguments):
    if event != "pickle.find_class":
        return
    frame, modules = sys._getframe(1), []
    while frame is not None:
        modules.append(frame.f_globals.get("__name__", ""))
        frame = frame.f_back
    # Numba's cache of compiled code lies beside the sources, as Python's own does, and is trusted as they are.
    if not any(module.startswith("numba.core.") for module in modules):
        found.add(".".join(map(str, arguments)) + " by " + " < ".join(modules[:4]))

sys.addaudithook(hear)
if sys.argv[1] == "provoke":
    import io, pickle
    pickle.load(io.BytesIO(pickle.dumps(json.JSONDecoder)))
else:
    import os
    from stream_gmm.cli.commands import cli
    for arguments in json.loads(sys.argv[1]):
        cli(arguments, standalone_mode=False)
print("FOUND", json.dumps(sorted(found)))
"""


def _find_pickles(arguments: str) -> list[str]:
    out = subprocess.run(
        [sys.executable, "-c", WATCHED, arguments], env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    (line,) = (x for x in out.stdout.splitlines() if x.startswith("FOUND "))
    return list(json.loads(line.removeprefix("FOUND ")))


def test_the_audit_hook_hears_a_pickle():
    assert "json.decoder.JSONDecoder by " in _find_pickles("provoke")[0]


@pytest.mark.long
def test_nothing_that_a_run_leaves_is_unpickled_when_it_is_read_again(demo_folder, tmp_path):
    """Fit, go on from the ledger, score, update, compare, verify, show: everything that reads files of a run."""
    run = ["--folder", str(tmp_path / "run")]
    job = [str(demo_folder), "--columns", "x0,x1", "--n-components", "1:2", "--covariance-type", "full",
           "--sample-rows", "2000", "--executor", "threads", "--quiet", *run]  # fmt: skip
    commands = [
        ["sweep", *job], ["sweep", *job], ["score", *job], ["update", *run, "--executor", "threads", "--quiet"],
        ["monitor", *job[:-3], *run], ["history", run[1]], ["inspect", f"{run[1]}/model.gmm", "--json"],
        ["report", run[1]], ["verify", run[1], "--quiet"], ["export", f"{run[1]}/model.gmm", "--format", "json"],
        ["clean", run[1]],
    ]  # fmt: skip
    assert _find_pickles(json.dumps(commands)) == []


@pytest.mark.long
def test_a_run_on_an_encrypted_embedded_cluster_opens_loopback_ports_only_and_leaves_no_key(demo_folder, tmp_path):
    command = [
        sys.executable, "-m", "stream_gmm", "sweep", str(demo_folder), "--columns", "x0,x1,x2", "--n-components",
        "1:4", "--covariance-type", "full", "--folder", str(tmp_path / "run"), "--n-workers", "2", "--encrypt",
    ]  # fmt: skip
    (tmp_path / "tmp").mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "tmp")}
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        keys = wait_for(lambda: list((tmp_path / "tmp").glob("stream-gmm-tls-*/tls_client_key")), 60, "certificates")
        secret = keys[0].read_text().splitlines()[1]
        seen: set[str] = set()
        while process.poll() is None:
            seen |= _find_ports(process.pid)
        assert process.returncode == 0, (tmp_path / "log").read_text()
    assert len(seen) >= 4, "scheduler, dashboard, two workers"
    assert {address.rpartition(":")[0] for address in seen} <= {"127.0.0.1", "::1"}, seen
    assert not keys[0].exists()
    leaked = [p for p in tmp_path.rglob("*") if p.is_file() and (secret.encode() in p.read_bytes())]
    assert not leaked
    assert b"stream-gmm-tls-" not in b"".join(p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file())


def _find_ports(pid: int) -> set[str]:
    try:
        this = psutil.Process(pid)
        processes = [this, *this.children(recursive=True)]
    except psutil.NoSuchProcess:
        return set()
    found: set[str] = set()
    for process in processes:
        try:
            connections = process.net_connections(kind="inet")
        except psutil.Error:
            continue
        found |= {f"{c.laddr.ip}:{c.laddr.port}" for c in connections if c.status == psutil.CONN_LISTEN}
    return found

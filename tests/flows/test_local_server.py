"""The server that Prefect starts for a run ends with it, however that ends."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from stream_gmm.flows.context import Outcome
from tests.servers import wait_for

ROOT = Path(__file__).parents[2]
BODY = """
import os, subprocess, sys, time
from stream_gmm.flows.local_server import tie
process = subprocess.Popen(["sleep", "100"])
tie(process.pid)
print(process.pid, flush=True)
{end}
"""


@pytest.mark.parametrize(("end", "survives"), [("time.sleep(100)", False), ("os._exit(3)", False), ("", True)],
                         ids=["killed", "at once", "as it should, and Prefect stops it"])  # fmt: skip
def test_a_process_that_is_tied_ends_with_the_one_that_started_it(end, survives):
    process = subprocess.Popen(
        [sys.executable, "-c", BODY.format(end=end)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    tied = int(process.stdout.readline())
    if "sleep" in end:
        process.kill()
    process.wait(60)
    if survives:
        os.kill(tied, signal.SIGKILL)
    else:
        wait_for(lambda: not Path(f"/proc/{tied}").exists() or " Z " in Path(f"/proc/{tied}/stat").read_text(), 20,
                 "the tied process has ended")  # fmt: skip


@pytest.mark.slow
def test_the_server_that_prefect_starts_gets_nothing_from_the_terminal(monkeypatch):
    from prefect.server.api.server import SubprocessASGIServer

    from stream_gmm.flows.local_server import tie_local_server

    def start(server: SubprocessASGIServer) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["sleep", "100"])

    monkeypatch.setattr(SubprocessASGIServer, "_run_uvicorn_command", start)
    with tie_local_server():
        process = SubprocessASGIServer()._run_uvicorn_command()
    assert SubprocessASGIServer._run_uvicorn_command is start
    status = Path(f"/proc/{process.pid}/status").read_text()
    blocked = int(next(line for line in status.splitlines() if line.startswith("SigBlk")).split()[1], 16)
    assert blocked >> (signal.SIGINT - 1) & 1
    assert blocked >> (signal.SIGHUP - 1) & 1
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {signal.SIGINT, signal.SIGHUP}, "only there"
    process.kill()
    process.wait()


@pytest.mark.slow
def test_events_that_wait_for_a_lost_server_are_dropped(monkeypatch):
    """By attributes that Prefect does not promise: a version without them fails here."""
    from prefect.events.clients import NullEventsClient
    from prefect.events.worker import EventsWorker

    from stream_gmm.flows.reporting import _drop_events

    make: Any = EventsWorker
    worker = make(NullEventsClient, ())
    assert isinstance(worker._queue, queue.Queue)
    worker._queue.put("event")
    monkeypatch.setattr(EventsWorker, "_instances", {1: worker})
    _drop_events()
    assert worker._queue.empty()


def test_within_a_flow_of_the_command_sigterm_does_what_it_did_before_prefect():
    def handler(number: int, frame: object) -> None:
        raise AssertionError

    before = signal.getsignal(signal.SIGTERM)
    try:
        Outcome().keep_signals()
        assert signal.getsignal(signal.SIGTERM) is before, "a served run keeps Prefect's"
        other = threading.Thread(target=Outcome(on_sigterm=handler).keep_signals)
        other.start()
        other.join()
        assert signal.getsignal(signal.SIGTERM) is before, "signals are the main thread's"
        Outcome(on_sigterm=handler).keep_signals()
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)

"""Signals to a command: one line, the documented exit code, and an end in time, whatever it is doing."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from stream_gmm.cli.endings import Interruption, _end
from stream_gmm.execute.interrupts import delay_signals

ROOT = Path(__file__).parents[2]
LINE = "stopped by SIGTERM. What was finished is kept; to go on: stream-gmm run data\n"
BEGIN = """
import atexit, logging, os, signal, sys, threading, time
from stream_gmm.cli import endings
from stream_gmm.cli.endings import end_on_errors
me, term = os.getpid(), signal.SIGTERM
"""


def _run(body: str, **options) -> subprocess.CompletedProcess[str]:
    script = BEGIN + textwrap.dedent(body)
    return subprocess.run(
        [sys.executable, "-c", script], text=True, check=False, timeout=60, cwd=ROOT,
        **{"stderr": subprocess.PIPE, **options},
    )  # fmt: skip


ENDINGS = {
    "in the open": """
        with end_on_errors(["run", "data"]):
            os.kill(me, term); time.sleep(30)
    """,
    "turned into another error": """
        with end_on_errors(["run", "data"]):
            try:
                os.kill(me, term); time.sleep(30)
            finally:
                raise RuntimeError("event loop is closed")
    """,
    "described by libraries": """
        with end_on_errors(["run", "data"]):
            try:
                os.kill(me, term); time.sleep(30)
            finally:
                logging.getLogger("prefect").error("Crash detected!")
                t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join()
                class Unraisable:
                    def __del__(self): raise ValueError
                Unraisable()
    """,
    "swallowed": """
        endings.PATIENCE_SECONDS = 0.2
        with end_on_errors(["run", "data"]):
            try:
                os.kill(me, term); time.sleep(30)
            except KeyboardInterrupt:
                time.sleep(30)
    """,
    "twice": """
        with end_on_errors(["run", "data"]):
            try:
                os.kill(me, term); time.sleep(30)
            except KeyboardInterrupt:
                os.kill(me, term); time.sleep(30)
    """,
    "received by Prefect": """
        class TerminationSignal(BaseException):
            signal = term
        with end_on_errors(["run", "data"]):
            raise TerminationSignal
    """,
    "while classes are made": """
        with end_on_errors(["run", "data"]):
            exec("os.kill(me, term); time.sleep(30)")
    """,
}


@pytest.mark.parametrize("body", ENDINGS.values(), ids=ENDINGS)
def test_a_signal_is_told_in_one_line_whatever_becomes_of_it(body):
    out = _run(body)
    assert (out.stderr, out.returncode) == (LINE, 143)


@pytest.mark.parametrize(("code", "ending"), [(0, "pass"), (6, "raise OSError('disk full')")])
def test_a_signal_after_the_end_of_a_command_changes_nothing(code, ending):
    out = _run(f"""
        atexit.register(lambda: os.kill(me, term))
        with end_on_errors(["run", "data"]):
            {ending}
    """)
    assert out.returncode == code
    assert "stopped" not in out.stderr


@pytest.mark.parametrize(("code", "ending"), [(0, "print('done')"), (6, "raise OSError('disk full')")])
def test_a_process_whose_shutdown_takes_too_long_ends_with_the_code_of_its_command(code, ending):
    """Prefect tries for minutes to report to a lost server, in a function that is called before the others."""
    started = time.monotonic()
    out = _run(f"""
        endings.PATIENCE_SECONDS = 0.2
        threading._register_atexit(time.sleep, 50)
        with endings.limit_shutdown(), end_on_errors(["run", "data"]):
            {ending}
    """, stdout=subprocess.PIPE)
    assert out.returncode == code
    assert time.monotonic() - started < 30.0
    assert out.stdout == ("done\n" if code == 0 else "")


def test_a_signal_that_is_ignored_stays_so():
    out = _run("""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with end_on_errors(["run", "data"]):
            os.kill(me, signal.SIGHUP)
    """)
    assert (out.stderr, out.returncode) == ("", 0)


def test_when_the_terminal_is_gone_the_exit_code_is_still_that_of_its_signal():
    reading, writing = os.pipe()
    os.close(reading)
    body = """
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        with end_on_errors(["run", "data"]):
            print("not flushed")
            os.kill(me, signal.SIGHUP); time.sleep(30)
    """
    out = _run(body, stdout=writing, stderr=writing, env=os.environ | {"PYTHONUNBUFFERED": ""})
    os.close(writing)
    assert out.returncode == 129


def test_a_command_that_is_still_being_imported_ends_in_one_line():
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "stream_gmm", "run", "data"], stderr=subprocess.PIPE, text=True,
        cwd=ROOT,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.rstrip().endswith(" click.types"):
            process.send_signal(signal.SIGTERM)
            break
    said = [line for line in process.stderr if not line.startswith("import time:")]
    assert (said, process.wait(60)) == ([LINE], 143)


def test_while_a_cluster_starts_the_first_signal_waits_and_the_second_does_not():
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        with delay_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            assert not received
        assert received == [signal.SIGTERM]
        with delay_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            assert received == [signal.SIGTERM] * 2
        assert received == [signal.SIGTERM] * 2
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_cluster_that_does_not_start_delays_a_signal_for_so_long_only(monkeypatch):
    monkeypatch.setattr("stream_gmm.execute.interrupts.START_SECONDS", 0.05)
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        with delay_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            deadline = time.monotonic() + 10.0
            while not received and time.monotonic() < deadline:
                time.sleep(0.01)
            assert received == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("place", [(), ("/data/run.json",)])
def test_a_disk_that_is_full_is_named_or_the_places_where_it_may_be(place, capsys):
    error = OSError(errno.ENOSPC, "No space left on device", *place)

    assert _end(error, Interruption(["doctor"]), ["doctor"]) == 6
    printed = capsys.readouterr().err
    assert ("/data/run.json" in printed, "DASK_TEMPORARY_DIRECTORY" in printed) == (bool(place), not place)

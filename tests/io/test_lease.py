"""One process at a time writes to a folder; a dead one does not keep it."""

from __future__ import annotations

import contextvars
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import pytest

from stream_gmm.errors import FolderInUseError
from stream_gmm.io.store import lease as leases
from stream_gmm.io.store.lease import LEASE, hold_folder, is_lease_held, read_owner

_HOLDER = """
import sys, time
from pathlib import Path
from stream_gmm.io.store.lease import hold_folder
with hold_folder(Path(sys.argv[1]), run="nightly"):
    print("held", flush=True)
    sys.stdin.readline()
"""


def _is_ours(path):
    owner = read_owner(path)
    return owner is not None and owner.pid == os.getpid()


def _refuse_lock(*_):
    raise OSError(38, "no locks")


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lease of ``tmp_path / 'run'`` until it gets a line."""
    command = [sys.executable, "-c", _HOLDER, str(tmp_path / "run")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()


def test_the_second_process_is_told_who_holds_the_folder(holder, tmp_path):
    message = rf"run is in use: run 'nightly' of .* \(process {holder.pid}\), since 20.*--wait"
    with pytest.raises(FolderInUseError, match=message) as caught, hold_folder(tmp_path / "run"):
        pass
    assert caught.value.exit_code == 5
    assert is_lease_held(tmp_path / "run" / LEASE)


@pytest.mark.slow
def test_the_second_process_waits(holder, tmp_path):
    threading.Timer(1.0, holder.stdin.close).start()
    start = time.monotonic()
    with hold_folder(tmp_path / "run", wait=30.0):
        assert 0.5 < time.monotonic() - start < 15.0


def test_a_killed_process_holds_nothing(holder, tmp_path, caplog):
    holder.kill()
    holder.wait()
    assert (tmp_path / "run" / LEASE).exists()
    assert not is_lease_held(tmp_path / "run" / LEASE)
    with hold_folder(tmp_path / "run"):
        assert _is_ours(tmp_path / "run" / LEASE)
    assert "which has ended without releasing it" in caplog.text
    assert not (tmp_path / "run" / LEASE).exists()


@pytest.mark.slow
def test_blocks_may_be_nested_and_other_threads_wait(tmp_path):
    refused = []

    def other():
        try:
            with hold_folder(tmp_path / "run"):
                pass
        except FolderInUseError as error:
            refused.append(str(error))

    with hold_folder(tmp_path / "run"), hold_folder(tmp_path / "run" / ".." / "run"):
        with pytest.raises(RuntimeError), hold_folder(tmp_path / "run"):
            raise RuntimeError
        (tmp_path / "link").symlink_to(tmp_path / "run")
        with hold_folder(tmp_path / "link"):
            assert (tmp_path / "run" / LEASE).exists()
        threads = [threading.Thread(target=f) for f in (other, lambda: contextvars.copy_context().run(other))]
        for thread in threads:
            thread.start()
            thread.join()
    assert len(refused) == 2
    assert not (tmp_path / "run").exists()  # nothing was written


def _leave_lease(folder, **changes):
    """Leave the lease of a process that is gone; returns its owner."""
    folder.mkdir()
    owner = replace(leases.make_owner("other"), **changes)
    (folder / LEASE).write_text(json.dumps(asdict(owner)))
    return owner


@pytest.mark.slow
@pytest.mark.parametrize("locks", [True, False])
def test_a_lease_of_another_machine_is_alive_while_it_is_touched(tmp_path, monkeypatch, locks):
    if not locks:
        monkeypatch.setattr(fcntl, "flock", _refuse_lock)
    _leave_lease(tmp_path / "run", machine="another:1", host="node7")
    with pytest.raises(FolderInUseError, match="on node7"), hold_folder(tmp_path / "run"):
        pass
    old = time.time() - leases.EXPIRY_SECONDS - 1.0
    os.utime(tmp_path / "run" / LEASE, (old, old))
    with hold_folder(tmp_path / "run"):
        assert _is_ours(tmp_path / "run" / LEASE)


def test_without_locks_a_living_process_of_this_machine_keeps_its_lease(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", _refuse_lock)
    _leave_lease(tmp_path / "run")
    with pytest.raises(FolderInUseError), hold_folder(tmp_path / "run"):
        pass
    _leave_lease(tmp_path / "other", started="1")  # the number of the process was used again
    with hold_folder(tmp_path / "other"):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null", '{"run": 1}'])
def test_a_damaged_lease_that_nobody_holds_is_taken(tmp_path, content):
    (tmp_path / LEASE).write_text(content)
    with hold_folder(tmp_path):
        assert _is_ours(tmp_path / LEASE)


def test_the_holder_touches_its_lease(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.02)
    with hold_folder(tmp_path):
        os.utime(tmp_path / LEASE, (0, 0))
        deadline = time.monotonic() + 5.0
        while (tmp_path / LEASE).stat().st_mtime == 0.0:
            assert time.monotonic() < deadline
            time.sleep(0.01)

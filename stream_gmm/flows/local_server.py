"""The server that Prefect starts for a run that has none: it ends with the run, however that ends."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stream_gmm.execute.interrupts import FROM_TERMINALS

_WATCH = 'read ended || kill "$1"'
"""Its input ends without a line when the process that has the other end is gone."""


@contextmanager
def tie_local_server() -> Iterator[None]:
    """Servers that Prefect starts inside the block end with this process, even if it is killed; Ctrl-C is not theirs.

    Prefect stops its server when the interpreter ends, which a process that is killed does not come to.
    """
    from prefect.server.api.server import SubprocessASGIServer

    start = SubprocessASGIServer._run_uvicorn_command

    def start_tied(server: SubprocessASGIServer) -> subprocess.Popen[Any]:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, FROM_TERMINALS)  # the new process inherits it
        try:
            process = start(server)
            tie(process.pid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return process

    SubprocessASGIServer._run_uvicorn_command = start_tied  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        SubprocessASGIServer._run_uvicorn_command = start  # type: ignore[method-assign]


def tie(pid: int) -> None:
    """Let a process end when this one has ended: a shell waits for that, unless this one ends as it should."""
    reading, writing = os.pipe()  # other programs that are started here do not inherit the end for writing
    command = ["/bin/sh", "-c", _WATCH, "watch", str(pid)]
    subprocess.Popen(command, stdin=reading, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(reading)
    atexit.register(os.write, writing, b"ended\n")  # after Prefect has stopped it, which registers later

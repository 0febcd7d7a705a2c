"""Processes for :mod:`benchmarks.faults`: commands, Dask schedulers and workers, a connection that can be cut.

Forked from one process that has imported and compiled everything, a command takes a fraction of a second instead of
several; what is forked is a process of its own all the same, with its own session, and is killed as any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import benchmarks.one_thread  # noqa: F401
from stream_gmm import faults

ROOT = Path(__file__).parents[1]
STOPPED, RUNNING = "stopped", "running"
Launch = Callable[[Sequence[str], Path, dict[str, str]], int]
"""Starts a command with a log and further variables of the environment; returns the number of its process."""


def spawn(arguments: Sequence[str], log: Path, environment: dict[str, str]) -> int:
    """Start a command in a new interpreter."""
    with open(log, "ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "stream_gmm", *arguments], stdout=file, stderr=file, start_new_session=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        ).pid  # fmt: skip


def fork(arguments: Sequence[str], log: Path, environment: dict[str, str]) -> int:
    """Start a command in a fork of this process."""

    def run() -> None:
        from stream_gmm.cli.commands import main

        sys.argv = ["stream-gmm", *arguments]
        main()

    return fork_call(run, log, environment)


def fork_call(call: Callable[[], object], log: Path, environment: dict[str, str]) -> int:
    """Call a function in a fork of this process, in a session of its own."""
    pid = os.fork()
    if pid:
        return pid
    code = 0
    try:
        os.setsid()
        file = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        logging.root.handlers.clear()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        os.environ.update(environment)
        faults._PLAN, faults._visits = environment.get("STREAM_GMM_FAULT", ""), 0
        call()
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 70
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def poll(pid: int) -> int | str:
    """Return the exit code of a child (negative: the signal that ended it), or whether it is stopped or running."""
    found, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
    if not found:
        return RUNNING
    return STOPPED if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status)


def send(pid: int, number: int) -> None:
    """Send a signal to a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def end(pids: Sequence[int]) -> None:
    """Kill children, and wait for them."""
    for pid in pids:
        send(pid, signal.SIGKILL)
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def list_session(leader: int, seconds: float) -> list[int]:
    """Return what is left of the processes of a session after so many seconds at most."""
    deadline = time.monotonic() + seconds
    while True:
        left = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
                if int(session) == leader and state != "Z":
                    left.append(int(path.parent.name))
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.1)


def find_port() -> int:
    """Return a free port of the loopback address."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@dataclass
class Cluster:
    """A Dask scheduler with workers, each a process of its own, and a connection to it that can be cut.

    Attributes
    ----------
    folder
        For logs.
    size
        Number of workers.
    forks
        Whether they are forks of this process.
    """

    folder: Path
    size: int = 2
    forks: bool = True
    scheduler: int = 0
    link: int = 0
    workers: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._port, self._link_port = find_port(), find_port()

    @property
    def address(self) -> str:
        """Address of the scheduler, through the connection that can be cut."""
        return f"tcp://127.0.0.1:{self._link_port}"

    def start(self, fault: dict[str, str] | None = None) -> None:
        """Start what is not running, and wait for it; ``fault`` is for new workers."""
        self.workers = [p for p in self.workers if is_running(p)]
        whole = bool(self.link and self.scheduler) and len(self.workers) == self.size
        if not self.link:
            self.link = self._begin("link", self._link_port, self._port)
        if not self.scheduler:
            end(self.workers)  # those of the scheduler before
            self.workers.clear()
            self.scheduler = self._begin("scheduler", self._port)
        while len(self.workers) < self.size:
            self.workers.append(self._begin("worker", self._port, environment=fault))
        if not whole:
            pid = self._begin("wait", self._port, self.size)
            if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
                raise RuntimeError((self.folder / "wait.log").read_text())

    def _begin(self, role: str, *numbers: int, environment: dict[str, str] | None = None) -> int:
        log = self.folder / f"{role}.log"
        if self.forks:
            return fork_call(lambda: ROLES[role](*numbers), log, environment or {})
        with open(log, "ab") as file:
            return subprocess.Popen(
                [sys.executable, "-m", "benchmarks.fault_processes", role, *map(str, numbers)],
                env=os.environ | {"PYTHONPATH": str(ROOT)} | (environment or {}), stdout=file, stderr=file,
            ).pid  # fmt: skip

    def kill(self, what: str, pid: int = 0) -> None:
        """Kill one worker (``pid``, or the newest), all workers, or the scheduler."""
        if what == "scheduler":
            end([self.scheduler])
            self.scheduler = 0
            return
        dead = [pid or self.workers[-1]] if what == "worker" else list(self.workers)
        end(dead)
        self.workers = [p for p in self.workers if p not in dead]

    def stop(self) -> None:
        """Kill all of it: workers whose scheduler is gone, too."""
        end([*self.workers, *filter(None, (self.scheduler, self.link))])
        self.workers, self.scheduler, self.link = [], 0, 0

    def cut(self) -> None:
        """Reset every connection to the scheduler that goes through the link; new ones are accepted."""
        send(self.link, signal.SIGUSR1)


def is_running(pid: int) -> bool:
    """Return True if a child has not ended."""
    try:
        return isinstance(poll(pid), str)
    except ChildProcessError:
        return False


def _wait_for_workers(port: int, number: int) -> None:
    from distributed import Client

    with Client(f"tcp://127.0.0.1:{port}", timeout="60s") as client:
        client.wait_for_workers(number, timeout=60)


def _run_scheduler(port: int) -> None:
    from distributed import Scheduler

    from stream_gmm.execute import scheduler_upkeep

    async def run() -> None:
        async with Scheduler(host="127.0.0.1", port=port, dashboard=False) as scheduler:
            scheduler_upkeep.dask_setup(scheduler)
            await scheduler.finished()

    asyncio.run(run())


def _run_worker(port: int) -> None:
    from distributed import Worker

    async def run() -> None:
        address = f"tcp://127.0.0.1:{port}"
        async with Worker(
            address, nthreads=1, host="127.0.0.1", memory_limit=0, dashboard=False, death_timeout=60
        ) as worker:
            await worker.finished()

    asyncio.run(run())


def _forward(port: int, target: int) -> None:
    """Forward connections to another port of the loopback address; SIGUSR1 resets all of them."""
    listener = socket.create_server(("127.0.0.1", port), backlog=64)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    partner: dict[socket.socket, socket.socket] = {}
    cut = False

    def reset(number: int, frame: object) -> None:
        nonlocal cut
        cut = True

    def close(one: socket.socket) -> None:
        for each in (one, partner.pop(one)):
            partner.pop(each, None)
            with contextlib.suppress(KeyError, ValueError):
                selector.unregister(each)
            # Closed with linger 0 a connection is reset.
            with contextlib.suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            each.close()

    signal.signal(signal.SIGUSR1, reset)
    while True:
        for key, _ in selector.select(0.05):
            if key.fileobj is listener:
                here, _ = listener.accept()
                try:
                    there = socket.create_connection(("127.0.0.1", target), timeout=5)
                except OSError:
                    here.close()
                    continue
                partner |= {here: there, there: here}
                for each in (here, there):
                    selector.register(each, selectors.EVENT_READ)
            elif (one := key.fileobj) in partner:
                assert isinstance(one, socket.socket)
                try:
                    content = one.recv(1 << 16)
                    if content:
                        partner[one].sendall(content)
                except OSError:
                    content = b""
                if not content:
                    close(one)
        if cut:
            cut = False
            for one in list(partner):
                if one in partner:
                    close(one)


ROLES: dict[str, Callable[..., None]] = {
    "link": _forward, "scheduler": _run_scheduler, "worker": _run_worker, "wait": _wait_for_workers,
}  # fmt: skip
"""The processes of a :class:`Cluster`."""


if __name__ == "__main__":
    ROLES[sys.argv[1]](*map(int, sys.argv[2:]))

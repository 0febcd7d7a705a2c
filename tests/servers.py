"""Real servers for tests: a Prefect API in a process of its own, an S3 server whose requests may fail."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def prefect_environment(home: Path, url: str) -> dict[str, str]:
    return os.environ | {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        # Scheduled runs should not make a test wait.
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
        "PREFECT_RUNNER_POLL_FREQUENCY": "2",
    }


def wait_for(check, seconds: float, what: str):
    """Return the first true value of a check, or fail."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = check()
        if value:
            return value
        time.sleep(0.5)
    raise TimeoutError(f"{what} within {seconds} s")


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def prefect_process(home: Path, port: int | None = None) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Start a Prefect server; yield its process and the URL of its API."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}/api"
    environment = prefect_environment(home, url)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    log = open(home / "server.log", "wb")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: _healthy(url), 400, "the Prefect server answers")
        yield process, url
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
        log.close()


@contextmanager
def prefect_server(home: Path) -> Iterator[str]:
    """Start a Prefect server; within the block the environment points at it."""
    with prefect_process(home) as (_, url):
        from prefect.settings import (
            PREFECT_API_URL,
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
            PREFECT_HOME,
            temporary_settings,
        )

        changes = {PREFECT_API_URL: url, PREFECT_HOME: home, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
        with temporary_settings(changes):
            yield url


@dataclass
class FaultyS3:
    """The S3 server of the session at another address, where requests may fail.

    Attributes
    ----------
    url
        Its address.
    faults
        What becomes of the next requests: ``(number, method, path) -> fault``, with the fault ``""`` (none), a status
        such as ``"503"`` (not done), ``"lost"`` (done, and the answer is 500), ``"last"`` (done, and the answer is
        403), ``"reset"`` (not done, connection closed), ``"stall"`` (done, and the answer comes late), ``"dead"``
        (not done, 403).
    requests
        Method and path of all requests so far.
    """

    url: str = ""
    faults: Callable[[int, str, str], str] = lambda *_: ""
    requests: list[str] = field(default_factory=list)
    stall_seconds: float = 6.0

    def wrap(self, app):
        lock = threading.Lock()

        def answer(environ, start_response):
            method, path = environ["REQUEST_METHOD"], environ.get("RAW_URI") or environ["PATH_INFO"]
            with lock:
                number = len(self.requests)
                self.requests.append(f"{method} {path}")
                fault = self.faults(number, method, path)
            if fault in ("last", "lost", "stall"):
                done = []
                body = b"".join(app(environ, lambda *given: done.append(given)))
                if fault == "last":
                    return self._refuse(start_response, "403 Forbidden", "AccessDenied")
                if fault == "lost":
                    return self._refuse(start_response, "500 Internal Server Error", "InternalError")
                time.sleep(self.stall_seconds)
                start_response(*done[0][:2])
                return [body]
            if fault:
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                if fault == "reset":
                    raise ConnectionError("closed on purpose")
                status, code = {
                    "500": ("500 Internal Server Error", "InternalError"),
                    "503": ("503 Slow Down", "SlowDown"),
                    "dead": ("403 Forbidden", "AccessDenied"),
                }[fault]
                return self._refuse(start_response, status, code)
            return app(environ, start_response)

        return answer

    @staticmethod
    def _refuse(start_response, status, code):
        body = f"<Error><Code>{code}</Code><Message>on purpose</Message></Error>".encode()
        start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]


@contextmanager
def faulty_s3() -> Iterator[FaultyS3]:
    """Start a server in this process that shares its objects with moto's other servers here."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    faulty = FaultyS3()
    server = make_server("127.0.0.1", 0, faulty.wrap(DomainDispatcherApplication(create_backend_app)), threaded=True)
    faulty.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield faulty
    finally:
        server.shutdown()
        thread.join()

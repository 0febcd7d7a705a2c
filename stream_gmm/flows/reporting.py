"""Reports to the Prefect server, from a thread of their own: a run never waits for the server, nor fails with it."""

from __future__ import annotations

import logging
import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from functools import partial
from typing import Any

from stream_gmm.errors import redact_text

log = logging.getLogger(__name__)

PAUSE_SECONDS = 20.0
"""After a report that failed, so long no other is tried."""
FLUSH_SECONDS = 10.0
"""At the end of a run, reports that are still waiting have so long."""
ANSWER_SECONDS = 2.0
LAST_RETRIES = 2
"""When the results are complete, Prefect's own reports are tried again so often, after 2 and 4 s."""


class Reporter:
    """Sends calls to the Prefect API one after the other; those that fail are counted and left out."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._waiting = 0
        self._idle = threading.Condition()
        self._thread: threading.Thread | None = None
        self._pause_until = 0.0
        self.lost = 0
        """Number of reports that did not reach the server since :meth:`start`."""

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process it is the one there: a served run pickles its flow with all that it refers to."""
        return find_reporter, ()

    def start(self) -> None:
        """Begin to count anew, for a new run."""
        self.lost, self._pause_until = 0, 0.0

    def send(self, call: Callable[..., Any], **arguments: Any) -> None:
        """Make a call soon, in the context of the caller, so that Prefect knows the run that it belongs to."""
        with self._idle:
            self._waiting += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="prefect-reports", daemon=True)
                self._thread.start()
        self._calls.put(partial(copy_context().run, self._try, partial(call, **arguments)))

    def flush(self, seconds: float = FLUSH_SECONDS) -> bool:
        """Wait until all reports are sent, at most so long; return whether they were."""
        with self._idle:
            done = self._idle.wait_for(lambda: not self._waiting, seconds)
            if not done:
                self.lost += self._waiting
        return done and not self.lost

    def _work(self) -> None:
        while True:
            self._calls.get()()
            with self._idle:
                self._waiting -= 1
                self._idle.notify_all()

    def _try(self, call: Callable[[], Any]) -> None:
        if time.monotonic() < self._pause_until:
            self.lost += 1
            return
        try:
            call()
        except Exception as error:
            self.lost += 1
            self._pause_until = time.monotonic() + PAUSE_SECONDS
            log.debug("a report did not reach the Prefect server: %s", error)


REPORTER = Reporter()
"""The one of this process."""


class RunLog(logging.Handler):
    """Writes warnings of the package, those of Dask workers included, to the log of a Prefect run, each once."""

    def __init__(self, run_logger: Any) -> None:
        super().__init__(logging.WARNING)
        self._run_logger = run_logger
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, without credentials."""
        self.tell(record.getMessage())

    def tell(self, text: str) -> None:
        """Write a warning, unless it was written before."""
        if text not in self._told:
            self._told.add(text)
            self._run_logger.warning("%s", redact_text(text))


@contextmanager
def collect_warnings(run_logger: Any) -> Iterator[RunLog]:
    """Inside the block, warnings that the package logs anywhere are in the log of the run, too."""
    handler = RunLog(run_logger)
    loggers = [logging.getLogger(name) for name in ("stream_gmm", "distributed.worker.memory")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield handler
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


def answers(url: str, seconds: float = ANSWER_SECONDS) -> bool:
    """Return True if something answers at the address of a Prefect API, in whatever way, within so many seconds."""
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=seconds):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False


@contextmanager
def end_in_time() -> Iterator[None]:
    """Around the body of a flow: what it reports is waited for at the end, but not for long.

    Prefect's own last reports, which follow, are tried less often where the process is the run's own: a job that is
    done should not wait minutes for a server that is gone.
    """
    REPORTER.start()
    try:
        yield
    finally:
        _shorten_retries()
    if not REPORTER.flush():
        log.warning("%d reports did not reach the Prefect server; the results are complete", REPORTER.lost)


def _shorten_retries() -> None:
    from prefect.context import FlowRunContext
    from prefect.settings import get_current_settings

    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow_run.deployment_id is None:
        return
    settings = get_current_settings()
    settings.client.max_retries = min(settings.client.max_retries, LAST_RETRIES)
    if settings.api.url and not answers(settings.api.url):
        _drop_events()


def _drop_events() -> None:
    """Give up Prefect's events that wait for a server: each would be tried for eight seconds before the end."""
    from prefect.events.worker import EventsWorker

    with suppress(Exception):  # Prefect has no other way to them than these attributes
        for worker in EventsWorker._instances.values():  # type: ignore[misc]
            worker._queue.queue.clear()


def find_reporter() -> Reporter:
    """Return the reporter of this process."""
    return REPORTER

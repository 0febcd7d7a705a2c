"""Signals around an embedded cluster: what a terminal sends to all processes is the driver's alone.

This module is also loaded by the workers of such a cluster (:func:`dask_setup`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any

FROM_TERMINALS = (signal.SIGINT, signal.SIGHUP)
"""Signals that a terminal sends to all processes of a command."""
START_SECONDS = 15.0
_QUIET = "ignore:resource_tracker"


@contextmanager
def delay_signals() -> Iterator[None]:
    """Let signals wait until the end of the block; processes that are started there get none from the terminal.

    A cluster that is half started cannot be closed. A second signal, or a start that goes on for
    :data:`START_SECONDS`, does not wait any longer.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    timers: list[threading.Timer] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)
        handler = before[number]
        if len(received) > 1 and callable(handler):
            received.clear()
            handler(number, frame)
        elif not timers:
            timers.append(threading.Timer(START_SECONDS, os.kill, (os.getpid(), number)))
            timers[0].daemon = True
            timers[0].start()

    before: dict[int, Any] = {n: signal.getsignal(n) for n in (*FROM_TERMINALS, signal.SIGTERM)}
    for number in before:
        signal.signal(number, receive)
    _start_tracker()  # started by a later thread, it would let SIGINT through there
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, FROM_TERMINALS)  # threads and processes inherit it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, found in before.items():
            signal.signal(number, found)
        for timer in timers:
            timer.cancel()
        if received:
            os.kill(os.getpid(), received[0])


def _start_tracker() -> None:
    """Start Python's process that cleans up after others; it does so in silence, also after one that was killed."""
    sys.warnoptions.append(_QUIET)
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.remove(_QUIET)


@contextmanager
def close_quietly() -> Iterator[None]:
    """Keep Dask from describing at length how it closes a cluster whose work was interrupted."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        raise


def is_no_cancellation(record: logging.LogRecord) -> bool:
    """Return False for an error in a log that is the end of a task which was cancelled, and no error.

    Streams of asyncio, and clients of Dask whose connection was lost, log it when their process closes them.
    """
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def shorten(record: logging.LogRecord) -> bool:
    """Put the error into the line of a log, in place of its traceback."""
    if record.exc_info and record.exc_info[1] is not None:
        record.msg, record.args = f"{record.getMessage()}: {record.exc_info[1]}", ()
        record.exc_info = None
    return True


def dask_setup(worker: Any) -> None:
    """Leave Ctrl-C, and errors, which reach the driver in any case, to the driver; warnings about memory stay."""
    del worker
    for number in FROM_TERMINALS:
        signal.signal(number, signal.SIG_IGN)
    logging.getLogger("distributed.worker").setLevel(logging.CRITICAL)
    logging.getLogger("distributed.worker.memory").setLevel(logging.WARNING)
    logging.getLogger("distributed.spill").addFilter(shorten)

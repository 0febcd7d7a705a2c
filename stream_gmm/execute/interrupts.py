"""Signals around an embedded cluster: Ctrl-C, which a terminal sends to all processes, is the driver's alone.

This module is also loaded by the workers of such a cluster (:func:`dask_setup`).
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any


@contextmanager
def delay_signals() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait until the end of the block; processes that are started there never get SIGINT.

    A cluster that is half started cannot be closed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(n, lambda number, _: received.append(number)) for n in numbers]
    resource_tracker.ensure_running()  # started by a later thread, it would let SIGINT through there
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # threads and processes inherit it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        if received:
            os.kill(os.getpid(), received[0])


@contextmanager
def close_quietly() -> Iterator[None]:
    """Keep Dask from describing at length how it closes a cluster whose work was interrupted."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        raise


def dask_setup(worker: Any) -> None:
    """Leave Ctrl-C, and errors, which reach the driver in any case, to the driver; warnings about memory stay."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("distributed.worker").setLevel(logging.CRITICAL)
    logging.getLogger("distributed.worker.memory").setLevel(logging.WARNING)

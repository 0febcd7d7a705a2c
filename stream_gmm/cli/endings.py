"""How a command ends: one message without credentials, the documented exit code, and the command that goes on."""

from __future__ import annotations

import io
import logging
import os
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import click

from stream_gmm.errors import ClusterError, StorageError, StreamGMMError, redact_error, redact_text

RESUMED = {"resume", "run", "sweep", "fit", "score", "bootstrap", "monitor", "update", "stream"}
"""Commands that, started again, go on where they were."""
PATIENCE_SECONDS = 15.0
"""After a signal a command has so long to close its cluster."""


@contextmanager
def end_on_errors(arguments: Sequence[str]) -> Iterator[None]:
    """Turn whatever ends a command inside the block into one message and the documented exit code."""
    received = _raise_on_signals()
    if jobs := sys.modules.get("stream_gmm.io.store.jobs"):
        jobs.forget_open_jobs()
    try:
        yield
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(file=shown)
        click.echo(redact_text(shown.getvalue()), err=True, nl=False)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        number = received[0] if received else signal.SIGINT
        click.echo(f"stopped by {signal.Signals(number).name}.{describe_resumption(arguments)}", err=True)
        sys.exit(128 + number)
    except StreamGMMError as error:
        hint = describe_resumption(arguments) if isinstance(error, ClusterError | StorageError) else ""
        click.echo(f"error: {error}{hint}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        click.echo(f"error: {redact_text(str(error))}{describe_resumption(arguments)}", err=True)
        sys.exit(StorageError.exit_code)
    except Exception as error:
        redact_error(error)
        click.echo(redact_text("".join(traceback.format_exception(error))), err=True)
        sys.exit(1)


def describe_resumption(arguments: Sequence[str]) -> str:
    """Return how to go on after a command was cut off, as the end of a message; empty if it only starts anew."""
    if not arguments or arguments[0] not in RESUMED:
        return ""
    jobs = sys.modules.get("stream_gmm.io.store.jobs")  # imported by whatever begins a job, and by nothing earlier
    if arguments[0] != "resume" and jobs and (unfinished := jobs.open_job()):
        folder, job = unfinished
        if job.is_complete:
            shown = os.path.relpath(folder) if folder.is_relative_to(os.getcwd()) else str(folder)
            return (
                f" What was finished is kept; to go on: {shlex.join(['stream-gmm', 'resume', shown])} (run {job.id})"
            )
    given = [a for a in arguments if a != "--fresh"]
    if given[0] == "stream" and "--replay" not in given:
        given.append("--replay")
    return f" What was finished is kept; to go on: {redact_text(shlex.join(['stream-gmm', *given]))}"


def _raise_on_signals() -> list[int]:
    """Make SIGINT and SIGTERM raise KeyboardInterrupt; return the list that will hold the number of the signal.

    A second signal, or a cluster that does not close in time, ends the process at once; Dask's workers notice.
    """
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        if received:
            os._exit(128 + number)
        received.append(number)
        timer = threading.Timer(PATIENCE_SECONDS, os._exit, [128 + number])
        timer.daemon = True
        timer.start()
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as of a job in the background of a shell
                signal.signal(number, stop)
    return received


class RedactingFormatter(logging.Formatter):
    """Lines of the log without credentials."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a line of the log, or several with a traceback, without credentials."""
        return redact_text(super().format(record))
